//! Files.
use async_trait::async_trait;

use super::{Bridge, Probe, SourceError};
use crate::config::FileSource;
use crate::directory::Snapshot;

pub struct FileBridge;

impl FileBridge {
    pub fn new(_source: &FileSource) -> Self {
        Self
    }
}

#[async_trait]
impl Bridge for FileBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        Ok(Snapshot::default())
    }

    async fn probe(&mut self) -> Vec<Probe> {
        Vec::new()
    }
}
