//! The `scim` source (S-9, section 7): what a client has provisioned, read from the database. Always whole (S-3). Never writes.
//!
//! Changes are known by a number in the database, so that they are seen whichever replica took the request. A burst of them is waited
//! out, a deactivation is not.

use async_trait::async_trait;

use super::{Bridge, Hint, Probe, SourceError};
use crate::clock;
use crate::config::ScimSource;
use crate::directory::{Completeness, GroupKind, RawGroup, Snapshot};
use crate::ids::{StableId, Timestamp};
use crate::store::scim::{Known, Resources, Revision, source_name};
use crate::store::{Store, StoreError};

/// Quiet after which a burst of changes is over, and the longest one is waited for.
const QUIET_MS: i64 = 2_000;
const LONGEST_BURST_MS: i64 = 15_000;
/// Accounts that were not made, and why, told of at most.
const MOST_REFUSALS: u32 = 20;

/// What a SCIM client has provisioned.
pub struct ScimBridge {
    client: String,
    url: String,
    resources: Option<Resources>,
    known: Known,
    /// As of the last read.
    read: Option<Revision>,
    /// Since when there is news that was not read.
    pending: Option<Timestamp>,
}

impl ScimBridge {
    /// The resources of the configured client; opens nothing yet.
    #[must_use]
    pub fn new(source: &ScimSource, database_url: &str) -> Self {
        Self {
            client: source.client_id.clone(),
            url: database_url.to_owned(),
            resources: None,
            known: Known::default(),
            read: None,
            pending: None,
        }
    }

    fn failed(&self, error: &StoreError) -> SourceError {
        SourceError {
            attempted: format!("read what SCIM client '{}' provisioned", self.client),
            cause: error.to_string(),
            retry: error.is_retryable(),
        }
    }

    /// `None`: no `run` has made the tables yet, so nobody can have sent anything.
    async fn resources(&mut self) -> Result<Option<Resources>, StoreError> {
        if self.resources.is_none() {
            let store = Store::look(&self.url).await?;
            self.resources = store.map(|store| Resources::new(store, &self.client));
        }
        Ok(self.resources.clone())
    }

    async fn read(&mut self) -> Result<Snapshot, StoreError> {
        let Some(resources) = self.resources().await? else {
            let mut snapshot = self.snapshot(Vec::new());
            snapshot.notices.push("no SCIM client has sent anything yet: `usher run` takes what it sends".to_owned());
            return Ok(snapshot);
        };
        // First the number: what comes in meanwhile is news at the next look.
        let revision = resources.revision().await?;
        let provisioned = resources.provisioned(&mut self.known).await?;
        let mut snapshot = self.snapshot(provisioned.users.iter().map(|user| user.id.clone()).collect());
        for (place, count) in &provisioned.dangling {
            let group = provisioned.groups.get(*place).map_or("", |group| group.name.as_str());
            snapshot
                .notices
                .push(format!("group '{group}' names {count} members that do not exist; the client should look"));
        }
        snapshot.users = provisioned.users;
        snapshot.groups.extend(provisioned.groups);
        snapshot.departed = provisioned.departed;
        snapshot.revision = Some(revision.number);
        for (localpart, cause) in resources.refused_registrations(MOST_REFUSALS).await? {
            snapshot.notices.push(format!("no account was made for '{localpart}': {cause}"));
        }
        for other in resources.others().await? {
            snapshot.notices.push(format!(
                "the database also holds users and groups of SCIM client '{other}', which is not configured: source.client.id is '{}'",
                self.client
            ));
        }
        self.read = Some(revision);
        self.pending = None;
        Ok(snapshot)
    }

    /// A source with one space for everybody, named after the client (S-15).
    fn snapshot(&self, everybody: Vec<StableId>) -> Snapshot {
        let root = RawGroup {
            id: StableId::from(format!("scim-client:{}", self.client)),
            kind: GroupKind::Root,
            name: self.client.clone(),
            aliases: Vec::new(),
            parent: None,
            members: everybody,
        };
        Snapshot {
            source: source_name(&self.client),
            organisation: Some(self.client.clone()),
            suggests_name: true,
            groups: vec![root],
            completeness: Completeness::Complete,
            ..Snapshot::default()
        }
    }

    async fn revision(&mut self) -> Option<Revision> {
        let resources = self.resources().await.ok().flatten()?;
        resources.revision().await.ok()
    }
}

#[async_trait]
impl Bridge for ScimBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        self.read().await.map_err(|error| self.failed(&error))
    }

    async fn changed(&mut self) -> bool {
        match (self.read, self.revision().await) {
            (Some(read), Some(now)) => read != now,
            _ => true,
        }
    }

    async fn hint(&mut self) -> Hint {
        let (Some(read), Some(revision)) = (self.read, self.revision().await) else { return Hint::Nothing };
        let now = clock::now();
        let hint = weigh(read, revision, self.pending, now);
        self.pending = if revision.number == read.number { None } else { self.pending.or(Some(now)) };
        hint
    }

    async fn probe(&mut self) -> Vec<Probe> {
        match self.read().await {
            Ok(snapshot) => {
                let groups = snapshot.groups.len().saturating_sub(1);
                let detail = format!("{} users, {groups} groups of client '{}'", snapshot.users.len(), self.client);
                vec![Probe { step: "database", ok: true, detail }]
            }
            Err(error) => vec![Probe { step: "database", ok: false, detail: error.to_string() }],
        }
    }
}

/// What the numbers say: `pending` is since when there was news at earlier looks.
fn weigh(read: Revision, revision: Revision, pending: Option<Timestamp>, now: Timestamp) -> Hint {
    if revision.number == read.number {
        return Hint::Nothing;
    }
    if revision.urgent > read.number {
        return Hint::Urgent;
    }
    let quiet = now.0.saturating_sub(revision.changed_at) >= QUIET_MS;
    let long = pending.is_some_and(|since| now.since_ms(since) >= LONGEST_BURST_MS);
    if quiet || long { Hint::Changed } else { Hint::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_change_and_a_deactivation_waits_for_nothing() {
        let revision = |number, urgent, changed_at| Revision { number, urgent, changed_at };
        let read = revision(5, 2, 0);
        let now = Timestamp(100_000);
        assert_eq!(weigh(read, read, None, now), Hint::Nothing);
        let fresh = revision(9, 2, now.0 - 500);
        assert_eq!(weigh(read, fresh, None, now), Hint::Nothing, "more may come");
        assert_eq!(weigh(read, revision(9, 2, now.0 - QUIET_MS), None, now), Hint::Changed);
        assert_eq!(weigh(read, fresh, Some(Timestamp(now.0 - LONGEST_BURST_MS)), now), Hint::Changed);
        assert_eq!(weigh(read, revision(9, 6, now.0), None, now), Hint::Urgent);
    }
}
