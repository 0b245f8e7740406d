//! Sources (S-1 to S-11). A source is one file here plus one line in [`build`]; nothing downstream knows which one it was.

use std::fmt;

use async_trait::async_trait;

use crate::config::{Config, Source};
use crate::directory::{Snapshot, Stamp};
use crate::ids::StableId;

pub mod file;
pub mod ldap;
pub mod localpart;
pub mod msgraph;
mod remarks;
pub mod scim;
mod tally;

/// A source of people and groups.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// One whole read. A read that yields anything usable but was cut short is `Ok` with an incomplete [`Snapshot`] (S-3);
    /// `Err` only when nothing could be read.
    async fn fetch(&mut self) -> Result<Snapshot, SourceError>;

    /// Whether anything may have changed since the last [`Bridge::fetch`] (S-7). Only a clean "no" is `false`.
    async fn changed(&mut self) -> bool {
        true
    }

    /// Whether the source has said of itself that something changed. Cheap: asked every two seconds, and between the steps of a long
    /// pass.
    async fn hint(&mut self) -> Hint {
        Hint::Nothing
    }

    /// The photos of these people as far as they can be seen now, one small read each (S-50); whoever is left out was not seen. A source
    /// without photos shows nobody.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn photos(&mut self, _people: &[StableId]) -> Result<Vec<Sighting>, SourceError> {
        Ok(Vec::new())
    }

    /// For `usher source test`: each step on the way to a read, in order, the last one the first that failed.
    async fn probe(&mut self) -> Vec<Probe>;
}

/// What a source says of itself between two reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    Nothing,
    /// It changed, and what was going on has calmed down.
    Changed,
    /// Somebody was deactivated: that waits for nothing.
    Urgent,
}

/// Somebody's entry, looked at for its photo.
#[derive(Clone, PartialEq, Eq)]
pub struct Sighting {
    pub id: StableId,
    /// The entry's change stamp at that moment.
    pub stamp: Stamp,
    /// `None`: the entry has none.
    pub photo: Option<Vec<u8>>,
}

impl fmt::Debug for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.photo.as_ref().map(Vec::len);
        f.debug_struct("Sighting").field("id", &self.id).field("stamp", &self.stamp).field("size", &size).finish()
    }
}

/// A source that could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct SourceError {
    /// What was attempted on what, without secrets.
    pub attempted: String,
    /// What went wrong and, where we know it, what to do.
    pub cause: String,
    /// Whether trying again later can help.
    pub retry: bool,
}

/// One step of a source test.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `connect`, `tls`, `bind`, `base`, `users`, `groups`, `attributes`, …
    pub step: &'static str,
    pub ok: bool,
    /// What was seen, or what is wrong and how to mend it.
    pub detail: String,
}

/// The configured source.
///
/// # Errors
/// When the configuration names files that cannot be read, or settings that cannot work.
pub fn build(config: &Config) -> Result<Box<dyn Bridge>, SourceError> {
    let source: Box<dyn Bridge> = match &config.source {
        Source::Ldap(ldap) if config.user_provisioner.avatar.is_some() => {
            Box::new(ldap::LdapBridge::with_photos(ldap)?)
        }
        Source::Ldap(ldap) => Box::new(ldap::LdapBridge::new(ldap)?),
        Source::File(file) => Box::new(file::FileBridge::new(file)),
        Source::MsGraph(graph) => Box::new(msgraph::GraphBridge::new(graph, msgraph::Wanted::of(config))?),
        Source::Scim(scim) => Box::new(scim::ScimBridge::new(scim, &config.database_url)),
    };
    Ok(Box::new(remarks::Remarked::new(source)))
}
