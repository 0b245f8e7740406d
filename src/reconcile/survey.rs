//! Reading: the source, the homeserver, and the little that a plan turns out to need beside.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use super::{Dirty, PassError, Reconciler};
use crate::clock;
use crate::desired::Desired;
use crate::directory::{Directory, Snapshot};
use crate::http::ops::Heartbeat;
use crate::ids::{RoomId, UserId};
use crate::matrix::{Batch, MatrixError};
use crate::observed::{Account, Presence};
use crate::plan::{self, Action, Plan};

/// How often the pulse is shown while something slow is read.
const PULSE: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Reads the source. `counts`: the read may confirm absences (`run` and `apply`, S-24). A source that cannot be read leaves the last
    /// Directory in force (S-3).
    ///
    /// # Errors
    /// When nothing could be read.
    pub async fn read_source(&mut self, counts: bool) -> Result<(), PassError> {
        let snapshot = self.fetch().await?;
        self.take(snapshot, counts);
        Ok(())
    }

    /// The first half of [`Reconciler::read_source`]: what the source says, as it says it.
    ///
    /// # Errors
    /// When nothing could be read.
    pub async fn fetch(&mut self) -> Result<Snapshot, PassError> {
        let fetched = alive(&self.parts.heartbeat, self.parts.bridge.fetch()).await;
        Ok(fetched.inspect_err(|_| self.parts.metrics.source_failed())?)
    }

    /// The second half of [`Reconciler::read_source`].
    pub fn take(&mut self, snapshot: Snapshot, counts: bool) {
        let now = clock::now();
        let mut directory = tokio::task::block_in_place(|| Directory::flatten(snapshot));
        self.ledger.doubt(&mut directory);
        if counts {
            let interval = self.parts.config.source.check_interval_ms();
            self.ledger.witness(&directory, interval, now);
        }
        let (users, groups) = (directory.users.len() as u64, directory.groups.len() as u64);
        self.parts.metrics.source_read(users, groups, directory.is_complete(), now);
        self.directory = Some(directory);
        self.read_at = Some(now);
    }

    /// Whether the source must be read again: it may have changed, or an absence waits for its second look (S-7).
    pub async fn source_may_have_changed(&mut self) -> bool {
        let confirm = self.parts.config.safety.confirm_reads;
        let waits = self.ledger.absences.values().any(|absence| absence.reads < confirm);
        let read = self.directory.as_ref().is_some_and(Directory::is_complete);
        let changed = alive(&self.parts.heartbeat, self.parts.bridge.changed()).await;
        if !changed && read {
            // A clean "no" is as good as a read for how fresh the Directory is.
            self.read_at = Some(clock::now());
        }
        changed || waits || !read
    }

    /// Reads the whole homeserver. Rooms that cannot be read stay as they were (S-82).
    ///
    /// # Errors
    /// When it is away.
    pub async fn read_homeserver(&mut self) -> Result<(), PassError> {
        let before = self.observed.take();
        let reread = alive(&self.parts.heartbeat, self.parts.homeserver.reread(before.as_ref())).await;
        let reread = match reread {
            Ok(reread) => reread,
            Err(error) => {
                self.observed = before;
                return Err(error.into());
            }
        };
        for (room, error) in &reread.unread {
            tracing::warn!(%room, %error, "a room could not be read; it is left as it is");
        }
        let mut observed = reread.observed;
        if !observed.accounts.listed
            && let Some(before) = before
        {
            observed.accounts.people = before.accounts.people;
        }
        self.observed = Some(observed);
        self.looked_up.clear();
        self.mark_services();
        Ok(())
    }

    /// The cheap look at what the feed does not show: new accounts (S-33). One request.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn read_new_accounts(&mut self) -> Result<(), PassError> {
        self.read_unread().await;
        let Some(observed) = &mut self.observed else { return Ok(()) };
        if !observed.accounts.listed {
            // Without a list those who were missing are asked for again.
            observed.accounts.absent.clear();
            return Ok(());
        }
        if let Some(new) = self.parts.homeserver.accounts_since(&observed.accounts).await? {
            if new.gap {
                if let Some(accounts) = self.parts.homeserver.accounts().await? {
                    observed.accounts = accounts;
                }
            } else {
                observed.accounts.people.extend(new.people);
            }
            self.mark_services();
        }
        Ok(())
    }

    /// Another try at the rooms that could not be read so far.
    async fn read_unread(&mut self) {
        let unread = self.observed.as_ref().map(|observed| observed.unread.clone()).unwrap_or_default();
        for id in unread {
            if let Err(error) = self.reread_rooms(&BTreeSet::from([id])).await {
                tracing::debug!(%error, "a room still cannot be read");
            }
        }
    }

    /// Folds a batch of the feed; hands back the rooms it touched. `reread` of the whole is the caller's.
    ///
    /// # Errors
    /// When a room with a gap could not be read.
    pub async fn fold(&mut self, batch: &Batch) -> Result<Dirty, PassError> {
        let mut dirty = Dirty::new();
        if let Some(observed) = &mut self.observed {
            for (room, event) in &batch.events {
                if observed.fold(room, event) {
                    dirty.insert(room.clone());
                }
            }
            for room in &batch.left {
                observed.rooms.remove(room);
            }
        }
        for (room, inviter) in &batch.invited {
            tracing::info!(%room, %inviter, "the bot was invited; invitations are not taken up");
        }
        self.reread_rooms(&batch.gaps).await?;
        dirty.extend(batch.gaps.iter().cloned());
        Ok(dirty)
    }

    /// Reads single rooms again.
    pub(super) async fn reread_rooms(&mut self, rooms: &BTreeSet<RoomId>) -> Result<(), MatrixError> {
        for id in rooms {
            self.parts.heartbeat.tick();
            let room = self.parts.homeserver.room(id).await?;
            if let Some(observed) = &mut self.observed {
                observed.unread.remove(id);
                match room {
                    Some(room) => observed.rooms.insert(id.clone(), room),
                    None => observed.rooms.remove(id),
                };
            }
        }
        Ok(())
    }

    /// Where the aliases of missing rooms point, and, without a user list, who exists.
    pub(super) async fn complete(&mut self, desired: &Desired) -> Result<(), PassError> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let missing = plan::missing(desired, observed);
        let unseen: BTreeSet<_> = missing.difference(&self.looked_up).cloned().collect();
        if !unseen.is_empty() {
            let found = alive(&self.parts.heartbeat, self.parts.homeserver.aliases_for(&unseen)).await?;
            observed.aliases.extend(found);
            self.looked_up.extend(unseen);
        }
        if observed.accounts.listed {
            return Ok(());
        }
        let unknown: BTreeSet<UserId> = desired
            .rooms
            .iter()
            .flat_map(|room| room.rule.members.keys())
            .filter(|user| observed.accounts.presence(user) == Presence::Unknown)
            .cloned()
            .collect();
        if !unknown.is_empty() {
            let probed = alive(&self.parts.heartbeat, self.parts.homeserver.probe_accounts(&unknown)).await?;
            observed.accounts.people.extend(probed.exist.into_iter().map(|user| (user, Account::default())));
            observed.accounts.absent.extend(probed.absent);
        }
        Ok(())
    }

    /// Asks who owns the accounts the plan would remove, once each (S-102); `true` if that changes the plan.
    pub(super) async fn ask_owners(&mut self, plan: &Plan) -> Result<bool, PassError> {
        let listed = self.observed.as_ref().is_some_and(|observed| observed.accounts.listed);
        let candidates: BTreeSet<UserId> = plan
            .steps
            .iter()
            .filter(|step| listed && matches!(step.action, Action::Kick { .. } | Action::Lock { .. }))
            .filter_map(|step| step.action.user())
            .filter(|user| !self.services.contains_key(*user))
            .cloned()
            .collect();
        if candidates.is_empty() {
            return Ok(false);
        }
        let owned = alive(&self.parts.heartbeat, self.parts.homeserver.owned_by_services(&candidates)).await?;
        let any = !owned.is_empty();
        for user in candidates {
            let is_owned = owned.contains(&user);
            self.services.insert(user, is_owned);
        }
        self.mark_services();
        Ok(any)
    }

    fn mark_services(&mut self) {
        let Some(observed) = &mut self.observed else { return };
        for (user, _) in self.services.iter().filter(|(_, owned)| **owned) {
            if let Some(account) = observed.accounts.people.get_mut(user) {
                account.foreign_service = true;
            }
        }
    }
}

/// Waits for `work`, showing the pulse meanwhile: a slow read is no dead loop.
pub(crate) async fn alive<T>(heartbeat: &Heartbeat, work: impl Future<Output = T>) -> T {
    let mut pulse = tokio::time::interval(PULSE);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = pulse.tick() => heartbeat.tick(),
        }
    }
}
