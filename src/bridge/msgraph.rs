//! The `ms-graph-ad` source (S-8): people and groups of Microsoft Entra ID, read through Microsoft Graph.
//!
//! ```text
//! msgraph.rs   the bridge: what the configuration wants of Graph
//!   token      client credentials -> access token     trouble    what went wrong, and what to do
//!   wire       one request: its bounds and repeats    pages      a list, page by page
//!   read       organisation, people, groups -> Snapshot
//!   person     what a user object says of itself      members    direct members, twenty groups a request
//!   photos     who looks how, one at a time           diagnosis  `usher source test`
//! ```
//! Of a group only what the configuration can reach is read: groups that a space or a room names, and those nested in them. A tenant
//! has tens of thousands of groups (every team is one) and each costs a request. A group that was not read is not in the Snapshot at
//! all: without its members it would look empty. Where nothing names a group, as in mirror mode, whose one space is everybody's (S-15),
//! groups are not asked for.
//!
//! Never writes, and sends its token to no other host than the configured one.

mod diagnosis;
mod members;
mod pages;
mod person;
mod photos;
mod read;
mod token;
mod trouble;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::localpart::Mapping;
use super::{Bridge, Probe, Sighting, SourceError};
use crate::clock;
use crate::config::{Config, GroupGrant, MsGraphSource, Space};
use crate::directory::{Snapshot, Stamp};
use crate::ids::StableId;

use person::Interpretation;
use read::Reading;
use wire::Wire;

/// What the configuration wants of Graph.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Object ids or display names of groups.
    pub groups: BTreeSet<String>,
    pub photos: bool,
}

impl Wanted {
    /// The groups of all spaces and rooms, and whether photos are to become avatars.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut grants: Vec<&GroupGrant> = Vec::new();
        grants.extend(config.provisioner.default_rooms.iter().filter_map(|room| room.groups.as_ref()).flatten());
        let mut spaces: Vec<&Space> = config.spaces.iter().flatten().collect();
        while let Some(space) = spaces.pop() {
            grants.extend(&space.groups);
            grants.extend(space.rooms.iter().filter_map(|room| room.groups.as_ref()).flatten());
            spaces.extend(&space.subspaces);
        }
        let groups = grants.into_iter().map(|grant| grant.external_id.clone()).filter(|id| !id.is_empty());
        Self { groups: groups.collect(), photos: config.user_provisioner.avatar.is_some() }
    }

    /// Whether a group is meant: by its object id, in capital letters or small ones, or by its display name.
    fn names(&self, id: &StableId, name: &str) -> bool {
        self.groups.iter().any(|wanted| wanted.eq_ignore_ascii_case(id.as_str()) || wanted == name)
    }
}

/// A tenant, and what to remember between reads.
#[derive(Debug)]
pub struct GraphBridge {
    source: MsGraphSource,
    wanted: Wanted,
    how: Interpretation,
    wire: Wire,
    /// Groups that were wanted in an earlier read: one that is called otherwise by now is still read, so that it is followed (S-23).
    followed: BTreeSet<StableId>,
    /// Whose photos could not be seen, and on which day: they are asked for again on the next.
    unseen: BTreeMap<StableId, Stamp>,
}

impl GraphBridge {
    /// Checks the configuration; makes no request.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(source: &MsGraphSource, wanted: Wanted) -> Result<Self, SourceError> {
        let how = interpretation(source).map_err(unusable)?;
        let wire = Wire::new(source).map_err(unusable)?;
        let (followed, unseen) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { source: source.clone(), wanted, how, wire, followed, unseen })
    }

    fn reading(&self) -> Reading<'_> {
        let deadline = Instant::now() + Duration::from_millis(self.source.read_timeout_ms);
        Reading { wire: &self.wire, how: &self.how, wanted: &self.wanted, tenant: &self.source.tenant_id, deadline }
    }
}

#[async_trait]
impl Bridge for GraphBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        let mut followed = std::mem::take(&mut self.followed);
        let read = read::read(&self.reading(), &mut followed).await;
        self.followed = followed;
        let mut snapshot = read?;
        if self.wanted.photos {
            snapshot.stamps = photos::stamps(&snapshot.users, clock::now());
        }
        Ok(snapshot)
    }

    async fn photos(&mut self, people: &[StableId]) -> Result<Vec<Sighting>, SourceError> {
        if !self.wanted.photos {
            return Ok(Vec::new());
        }
        Ok(photos::look(&self.wire, people, clock::now(), &mut self.unseen).await?)
    }

    async fn probe(&mut self) -> Vec<Probe> {
        diagnosis::diagnose(&self.source, &self.reading()).await
    }
}

fn unusable(cause: String) -> SourceError {
    SourceError { attempted: "use the ms-graph-ad source as configured".to_owned(), cause, retry: false }
}

fn interpretation(source: &MsGraphSource) -> Result<Interpretation, String> {
    let names = &source.attributes;
    for name in [&names.uid, &names.name, &names.mail] {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(format!("attributes: `{name}` is no property of a Graph user"));
        }
    }
    let mapping = Mapping::new(source.localpart.as_deref(), &names.uid, source.strict_localparts)?;
    Ok(Interpretation::new(source, mapping))
}
