//! Reading: the source, the homeserver, and the little that a plan turns out to need beside.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::outside::Looks;
use super::{Dirty, PassError, PassResult, Reconciler};
use crate::bridge::Hint;
use crate::clock;
use crate::desired::Desired;
use crate::directory::{Directory, Snapshot};
use crate::http::ops::Heartbeat;
use crate::ids::{RoomId, UserId};
use crate::ledger::Witnessing;
use crate::matrix::{Batch, MatrixError};
use crate::observed::{Account, Presence};
use crate::plan::{self, Action, Plan, Scope, Step, Withheld};
use crate::store::StoreError;

/// A batch of the feed, and when it arrived.
#[derive(Debug)]
pub struct Arrival {
    pub batch: Batch,
    pub at: Instant,
}

/// What a batch changed.
#[derive(Debug, Default)]
pub struct News {
    pub dirty: Dirty,
    /// The feed has lost its place: everything must be read again.
    pub reread: bool,
    /// The bot is no longer in a room it was in, or is asked back into one, or a room was replaced: what that means for the tree only
    /// a whole plan tells.
    pub whole: bool,
}

/// When reads of the homeserver began. A room the bot is in that could not be read then is tried again by every poll
/// ([`Observed::unread`]).
///
/// [`Observed::unread`]: crate::observed::Observed::unread
#[derive(Debug, Default)]
pub(super) struct Readings {
    all: Option<Instant>,
    /// Rooms read again since.
    rooms: BTreeMap<RoomId, Instant>,
}

impl Readings {
    /// Whether the latest read of `room` began before `arrival`.
    fn precede(&self, room: &RoomId, arrival: &Arrival) -> bool {
        self.rooms.get(room).or(self.all.as_ref()).is_none_or(|began| arrival.at > *began)
    }
}

/// People without an account who are looked up at one poll where usher may not list accounts: one request each.
const LOOKUPS_PER_POLL: usize = 100;
/// The link from a space to what hangs in it.
const CHILD: &str = "m.space.child";
/// What an upgrade leaves in the room it replaces.
const TOMBSTONE: &str = "m.room.tombstone";
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
        let began = clock::now();
        let fetched = alive(&self.parts.heartbeat, self.parts.bridge.fetch()).await;
        let mut snapshot = fetched.inspect_err(|_| self.parts.metrics.source_failed())?;
        self.match_external_ids(&mut snapshot).await?;
        self.asked_at = Some(began);
        Ok(snapshot)
    }

    /// The second half of [`Reconciler::read_source`].
    pub fn take(&mut self, snapshot: Snapshot, counts: bool) {
        let now = clock::now();
        let mut directory = tokio::task::block_in_place(|| Directory::flatten(snapshot));
        self.ledger.doubt(&mut directory);
        if counts {
            let interval = self.parts.config.source.check_interval_ms();
            let holds_accounts = self.parts.config.locks_leavers();
            self.ledger.witness_as(&directory, Witnessing { interval_ms: interval, holds_accounts }, now);
        } else if directory.is_complete() {
            // A look remembers nothing; what it shows depends on how fresh the read is.
            self.ledger.last_complete_read = Some(now);
        }
        let (users, groups) = (directory.users.len() as u64, directory.groups.len() as u64);
        self.parts.metrics.source_read(users, groups, directory.is_complete(), now);
        self.directory = Some(directory);
        self.read_at = Some(now);
    }

    /// Says that everything the source's latest state asks for is done, for those who wait for that. Nothing where it counts no states.
    ///
    /// # Errors
    /// When the database is away.
    pub(super) async fn tell_carried_out(&mut self, result: &PassResult) -> Result<(), StoreError> {
        let ended = !result.interrupted && !result.unfinished && result.fatal.is_none();
        let done = ended && result.failed + result.waiting == 0 && self.troubles.is_empty();
        let Some(directory) = self.directory.as_ref().filter(|_| done && !self.stop.is_cancelled()) else {
            return Ok(());
        };
        if let (Some(store), Some(revision)) = (&self.parts.store, directory.revision)
            && self.carried_out != Some(revision)
        {
            store.set_carried_out(&directory.source, revision).await?;
            self.carried_out = Some(revision);
        }
        Ok(())
    }

    /// How often the source is asked.
    pub(super) fn poll_interval(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.parts.config.source.check_interval_ms()).unwrap_or(60_000))
    }

    /// What the source says of itself.
    pub async fn source_hint(&mut self) -> Hint {
        self.parts.bridge.hint().await
    }

    /// Whether the source must be read again: it may have changed, or an absence waits for its second look (S-7).
    pub async fn source_may_have_changed(&mut self) -> bool {
        let confirm = self.parts.config.safety.confirm_reads;
        let waits = self.ledger.absences.values().any(|absence| absence.reads < confirm);
        let read = self.directory.as_ref().is_some_and(Directory::is_complete);
        let began = clock::now();
        let changed = alive(&self.parts.heartbeat, self.parts.bridge.changed()).await;
        if !changed && read {
            // A clean "no" is as good as a read for how fresh the Directory is.
            (self.asked_at, self.read_at) = (Some(began), Some(clock::now()));
        }
        changed || waits || !read
    }

    /// Reads the whole homeserver. Rooms that cannot be read stay as they were (S-82).
    ///
    /// # Errors
    /// When it is away.
    pub async fn read_homeserver(&mut self) -> Result<(), PassError> {
        let before = self.observed.take();
        let began = Instant::now();
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
        // In the middle of a first synchronisation the rooms are younger than the database (S-101).
        let bare = observed.unread.is_empty() && observed.rooms.values().all(|room| room.marker.is_none());
        self.ledger.began_bare |= bare && !self.ledger.settled;
        self.observed = Some(observed);
        self.recover_leavers();
        self.readings = Readings { all: Some(began), rooms: BTreeMap::new() };
        self.looked_up.clear();
        self.looked_at_heirs.clear();
        self.unseen.look_again();
        self.standing.look_again();
        self.mark_services();
        self.read_admins().await;
        self.look_at_exposure();
        self.look_outside(Looks::All).await?;
        Ok(())
    }

    /// The cheap look at what the feed does not show: new accounts, and who is a server admin (S-33). Two requests; without admin rights
    /// up to a hundred.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn read_new_accounts(&mut self) -> Result<(), PassError> {
        self.read_unread().await;
        self.look_at_missed().await?;
        self.look_outside(Looks::Some).await?;
        let Some(observed) = &mut self.observed else { return Ok(()) };
        if !observed.accounts.listed {
            // Without a list those who were missing are asked for again, some at each poll.
            let after = self.asked_after.take();
            let next = observed.accounts.absent.iter().filter(|user| after.as_ref().is_none_or(|after| *user > after));
            let next: Vec<UserId> = next.take(LOOKUPS_PER_POLL).cloned().collect();
            for user in &next {
                observed.accounts.absent.remove(user);
            }
            self.asked_after = next.into_iter().nth(LOOKUPS_PER_POLL - 1);
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
        }
        if let Some(admins) = self.parts.homeserver.admin_accounts().await? {
            observed.accounts.heed_admins(admins);
        }
        self.mark_services();
        self.read_admins().await;
        Ok(())
    }

    /// Another try at the rooms that could not be read so far.
    async fn read_unread(&mut self) {
        let unread = self.observed.as_ref().map(|observed| observed.unread.clone()).unwrap_or_default();
        for id in unread.into_iter().filter(|id| !self.unseen.is_missed(id)).collect::<Vec<_>>() {
            if let Err(error) = self.reread_rooms(&BTreeSet::from([id])).await {
                tracing::debug!(%error, "a room still cannot be read");
            }
        }
    }

    /// Folds a batch of the feed; says what it touched. What arrived before a room was read again is in that read already, and older
    /// than some of it.
    ///
    /// # Errors
    /// When a room with a gap could not be read.
    pub async fn fold(&mut self, arrival: &Arrival) -> Result<News, PassError> {
        let batch = &arrival.batch;
        let mut news = News {
            reread: batch.reread && self.readings.all.is_none_or(|began| arrival.at > began),
            ..News::default()
        };
        if let Some(observed) = &mut self.observed {
            for (room, event) in batch.events.iter().filter(|(room, _)| self.readings.precede(room, arrival)) {
                if observed.fold(room, event) {
                    news.dirty.insert(room.clone());
                    // Where a thing hangs is planned with the thing, not with what it hangs in.
                    if event.kind == CHILD {
                        news.dirty.insert(event.state_key.as_str().into());
                    }
                    news.whole |= event.kind == TOMBSTONE;
                }
            }
            for room in batch.left.iter().filter(|room| self.readings.precede(room, arrival)) {
                news.whole |= observed.rooms.remove(room).is_some();
            }
        }
        for (room, inviter) in &batch.invited {
            // It was let in by it already.
            if self.observed.as_ref().is_some_and(|observed| observed.rooms.contains_key(room)) {
                continue;
            }
            if self.standing.is_awaited(room) {
                tracing::info!(%room, %inviter, "the bot was invited back");
                self.standing.try_now(room);
                news.whole = true;
            } else if self.is_invited_to_adopt(room) {
                news.whole = true;
            } else {
                tracing::info!(%room, %inviter, "the bot was invited; invitations are not taken up");
            }
        }
        let gaps = batch.gaps.iter().filter(|room| self.readings.precede(room, arrival)).cloned().collect();
        let before = self.children(&gaps);
        self.reread_rooms(&gaps).await?;
        let after = self.children(&gaps);
        news.dirty.extend(before.symmetric_difference(&after).cloned());
        news.dirty.extend(gaps);
        news.dirty.extend(self.look_outside(Looks::New).await?);
        Ok(news)
    }

    /// What hangs in these rooms.
    fn children(&self, rooms: &BTreeSet<RoomId>) -> BTreeSet<RoomId> {
        let known = self.observed.iter().flat_map(|observed| rooms.iter().filter_map(|id| observed.rooms.get(id)));
        known.flat_map(|room| room.children.keys()).cloned().collect()
    }

    /// Reads single rooms again.
    pub(super) async fn reread_rooms(&mut self, rooms: &BTreeSet<RoomId>) -> Result<(), MatrixError> {
        for id in rooms {
            self.parts.heartbeat.tick();
            let began = Instant::now();
            let room = self.parts.homeserver.room(id).await?;
            // Only now: what the feed brings meanwhile is all there is where a room could not be read.
            self.readings.rooms.insert(id.clone(), began);
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
        self.look_at_heirs().await?;
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let missing = plan::missing(desired, observed);
        let unseen: BTreeSet<_> = missing.difference(&self.looked_up).cloned().collect();
        if !unseen.is_empty() {
            let found = alive(&self.parts.heartbeat, self.parts.homeserver.aliases_for(&unseen)).await?;
            observed.aliases.extend(found);
            self.find_adoptable(desired, &unseen).await?;
            self.looked_up.extend(unseen);
        }
        self.look_for_own_rooms(desired, &missing).await?;
        let Some(observed) = &mut self.observed else { return Ok(()) };
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

    /// Looks at the accounts the plan takes something from or acts as, once each (S-102); `true` if that changes the plan.
    pub(super) async fn ask_owners(&mut self, plan: &Plan, scope: &Scope) -> Result<bool, PassError> {
        let now = clock::now();
        let listed = self.observed.as_ref().is_some_and(|observed| observed.accounts.listed);
        let mut candidates: BTreeSet<UserId> = plan
            .steps
            .iter()
            // While clean-up is off nobody is removed for it, and those may be thousands.
            .filter(|step| listed && !matches!(step.withheld, Some(Withheld::GcOff | Withheld::Refused { .. })))
            .flat_map(|step| owners(&step.action))
            .filter(|user| !self.services.contains_key(*user))
            .cloned()
            .collect();
        if *scope == Scope::Everything {
            self.unasked.retain(|user| candidates.contains(user));
        }
        candidates.retain(|user| !self.unasked.holds(user, now));
        if candidates.is_empty() {
            return Ok(false);
        }
        let answers = alive(&self.parts.heartbeat, self.parts.homeserver.accounts_of(&candidates)).await?;
        let mut found = BTreeMap::new();
        for (user, answer) in answers {
            match answer {
                Ok(account) => {
                    self.unasked.succeeded(&user);
                    self.services.insert(user.clone(), account.as_ref().is_some_and(|account| account.foreign_service));
                    found.extend(account.map(|account| (user, account)));
                }
                Err(error) => {
                    tracing::warn!(%user, %error, "an account cannot be looked at: what concerns it waits");
                    self.unasked.failed(&user, error.to_string(), now);
                }
            }
        }
        for (user, account) in &mut found {
            account.admin |= self.admins.as_ref().is_some_and(|admins| admins.contains(user));
        }
        let Some(observed) = &mut self.observed else { return Ok(false) };
        let known = &mut observed.accounts.people;
        let changed = found.iter().any(|(user, account)| known.get(user) != Some(account));
        known.extend(found);
        Ok(changed)
    }

    /// Whether a step concerns somebody whose account could not be looked at.
    pub(super) fn waits_for_owner(&self, step: &Step) -> bool {
        !self.unasked.is_empty() && owners(&step.action).any(|user| self.unasked.fails(user))
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

/// Whose accounts must have been looked at before the action is sent.
fn owners(action: &Action) -> impl Iterator<Item = &UserId> {
    let takes = matches!(
        action,
        Action::Kick { .. } | Action::Account { .. } | Action::Puppet { .. } | Action::SetPowerLevels { .. }
    );
    let people = action.user().into_iter().chain(action.heir()).chain(lowered(action));
    people.filter(move |_| takes)
}

/// Whose levels the action lowers.
fn lowered(action: &Action) -> impl Iterator<Item = &UserId> {
    action.level_changes().iter().filter(|change| change.to < change.from).filter_map(|change| change.user.as_ref())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_before_a_room_was_read_again_is_no_news() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let arrival = |at| Arrival { batch: Batch::default(), at };
        let (again, other) = (RoomId::from("!again"), RoomId::from("!other"));
        let nothing = Readings::default();
        assert!(nothing.precede(&other, &arrival(start)));
        let readings = Readings { all: Some(after(10)), rooms: BTreeMap::from([(again.clone(), after(20))]) };
        assert!(!readings.precede(&other, &arrival(after(10))));
        assert!(readings.precede(&other, &arrival(after(11))));
        assert!(!readings.precede(&again, &arrival(after(15))));
        assert!(readings.precede(&again, &arrival(after(21))));
    }
}
