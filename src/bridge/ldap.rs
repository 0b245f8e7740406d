//! LDAP.
use async_trait::async_trait;

use super::{Bridge, Probe, SourceError};
use crate::config::LdapSource;
use crate::directory::Snapshot;

pub struct LdapBridge;

impl LdapBridge {
    /// # Errors
    /// Unreadable certificate files.
    pub fn new(_source: &LdapSource) -> Result<Self, SourceError> {
        Ok(Self)
    }
}

#[async_trait]
impl Bridge for LdapBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        Ok(Snapshot::default())
    }

    async fn probe(&mut self) -> Vec<Probe> {
        Vec::new()
    }
}
