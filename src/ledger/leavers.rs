//! Who left and what usher did about their accounts (S-51 to S-53): which locks are ours, when grace began, what an operator decided.
//!
//! Pure. Never decides what is due; that is `plan/accounts`. A lock is written down before it is sent ([`Ledger::foresee`]), so that a
//! crash in between leaves no lock that nobody can prove to be ours. And it is ours only as long as nobody saw the account open: what is
//! locked after that, somebody else locked. What operators order is in `orders`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::ids::{Localpart, RoomId, StableId, Timestamp, UserId};
use crate::plan::{AccountDeed, Action, Reason, Step};

#[cfg(test)]
mod tests;

/// How long a final step counts against `erasures_per_day`, in milliseconds.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// An account that usher locked, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaver {
    /// Whose account it was in the directory; `None`: never in it (`candidates: root-space`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<StableId>,
    /// When the lock was written down, just before it was sent.
    pub since: Timestamp,
    pub cause: Cause,
    /// When the grace period of this cause began.
    pub clock: Timestamp,
    /// The clocks were in doubt when it began: it begins anew once they agree (S-53).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
    /// An operator's word: the final step comes no sooner than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// An operator's word: the final step is wanted now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    pub stage: Stage,
    /// Push messages were turned off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silenced: bool,
    /// When it was first seen as due, where grace began before the process that looks (S-53).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_seen: Option<Timestamp>,
    /// Rooms they are the last administrator of, and who is to follow (S-53); nobody: nobody can.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub administers: BTreeMap<RoomId, Option<UserId>>,
}

/// Why an account is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Confirmed gone from the directory (S-24).
    Absent,
    /// Marked as disabled in it (S-4).
    Disabled,
    /// In the root space without being in the directory (`candidates: root-space`).
    Stranger,
}

impl Cause {
    /// The cause behind a planned lock.
    #[must_use]
    pub fn of(reason: &Reason) -> Self {
        match reason {
            Reason::Disabled => Self::Disabled,
            Reason::NotProvisioned => Self::Stranger,
            _ => Self::Absent,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "left the directory",
            Self::Disabled => "disabled in the directory",
            Self::Stranger => "in the root space without a right",
        })
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Written down; whether the homeserver did it is not known yet.
    Locking,
    /// Written down once more, because what became of the attempt before is not known: that one may lock the account first.
    LockingAgain,
    Locked,
    /// The final step was sent; whether the homeserver has finished is not known yet.
    Closing,
    /// An operator gave the account back, although the person is still gone: usher's lock is to be taken off.
    Restoring,
    /// The same after the final step was sent: what the homeserver has begun is finished.
    Halting,
    /// Given back by an operator and seen open since. The person is spared as long as they are gone; a lock on it is not usher's.
    Restored,
    /// Open, and to be locked: somebody took usher's lock off, or an operator took a restore back. A lock on it is not usher's.
    Open,
}

/// What a plan finds out about a leaver, to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaverNews {
    /// The lock that was written down is there.
    Locked,
    /// They are back, and no lock of usher's is on their account.
    Returned,
    /// Somebody else closed the account, or locked it after it was open: nothing about it is usher's.
    Disowned,
    /// The account is open, which usher had locked at that time.
    Opened { locked: Timestamp },
    /// The final step was done before it could be halted.
    Ended,
    /// The final step, which usher had sent, is found done at that time, and nothing more may be sent: they are protected by now.
    Closed { at: Timestamp },
    /// The account stays locked for another cause, whose grace begins now.
    Because { cause: Cause, since: Timestamp },
    /// Rooms they are the last administrator of.
    Administers { rooms: BTreeMap<RoomId, Option<UserId>> },
    /// First seen as due; `None`: not due any more.
    Due { seen: Option<Timestamp> },
}

/// What came of a step, as far as the ledger is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// Not done, for certain.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Leaver {
    /// Whether the lock on the account is usher's, if it is locked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match self.stage {
            Stage::Locking | Stage::LockingAgain | Stage::Locked | Stage::Closing => true,
            Stage::Restoring | Stage::Halting | Stage::Restored | Stage::Open => false,
        }
    }

    /// Whether the lock was sent, or is about to be, and nobody has seen it yet.
    #[must_use]
    pub fn is_locking(&self) -> bool {
        matches!(self.stage, Stage::Locking | Stage::LockingAgain)
    }

    /// Whether usher's lock is to be taken off at an operator's word.
    #[must_use]
    pub fn is_given_back(&self) -> bool {
        matches!(self.stage, Stage::Restoring | Stage::Halting)
    }

    /// Whether an operator keeps the account open although the person is gone.
    #[must_use]
    pub fn is_spared(&self) -> bool {
        self.is_given_back() || self.stage == Stage::Restored
    }

    /// The account is seen open, or was unlocked just now.
    fn opened(&mut self) {
        self.stage = match self.stage {
            Stage::Restoring | Stage::Halting => Stage::Restored,
            Stage::Locked | Stage::Closing => Stage::Open,
            // On its way, or known already.
            Stage::Locking | Stage::LockingAgain | Stage::Restored | Stage::Open => return,
        };
        self.at_once = false;
        self.silenced = false;
        self.due_seen = None;
    }

    /// When the final step is due, after a grace period of `period_ms`.
    #[must_use]
    pub fn due(&self, period_ms: i64) -> Timestamp {
        if self.at_once {
            return self.clock;
        }
        let due = self.clock.plus_ms(period_ms);
        self.not_before.map_or(due, |bound| due.max(bound))
    }
}

impl Ledger {
    /// Takes in that this process has really run for `passed_ms` when the wall clock says `now`. Where the clock leaps nobody knows since when
    /// it was wrong: each grace period that began by it since the process did begins anew once it is right (S-53).
    pub fn tick(&mut self, now: Timestamp, passed_ms: i64) {
        let calm = self.clocks.leapt_ms.is_none();
        self.clocks.tick(now, passed_ms);
        if calm && self.clocks.leapt_ms.is_some() {
            let started = self.clocks.started;
            let begun = |leaver: &&mut Leaver| started.is_none_or(|started| leaver.clock >= started);
            self.leavers.values_mut().filter(begun).for_each(|leaver| leaver.unsure = true);
        }
    }

    /// Whether the localpart belongs to somebody whose account usher locked: it passes to nobody else (S-5).
    #[must_use]
    pub fn keeps(&self, localpart: &Localpart) -> bool {
        self.leavers.keys().any(|user| user.localpart() == localpart.as_str())
    }

    /// Writes down what is about to be sent.
    pub fn foresee(&mut self, step: &Step, now: Timestamp) {
        let Action::Account { user, deed } = &step.action else { return };
        let unsure = self.clocks.doubt().is_some();
        match deed {
            AccountDeed::Lock { id } => {
                let known = self.leavers.get(user);
                let again = known.is_some_and(Leaver::is_locking);
                let cause = Cause::of(&step.reason);
                // An order to erase was about why they were gone then.
                let ordered = |known: &Leaver| {
                    known.at_once && known.cause == cause && (known.is_locking() || known.stage == Stage::Open)
                };
                let leaver = Leaver {
                    id: id.clone(),
                    since: now,
                    cause,
                    clock: now,
                    unsure,
                    not_before: known.and_then(|known| known.not_before),
                    at_once: known.is_some_and(ordered),
                    stage: if again { Stage::LockingAgain } else { Stage::Locking },
                    silenced: false,
                    due_seen: None,
                    administers: BTreeMap::new(),
                };
                self.leavers.insert(user.clone(), leaver);
            }
            AccountDeed::Close(_) => {
                // It counts from here on, once, however long the homeserver takes.
                if let Some(leaver) = self.leavers.get_mut(user).filter(|leaver| leaver.stage != Stage::Closing) {
                    leaver.stage = Stage::Closing;
                    self.closings.push(now);
                }
            }
            AccountDeed::Set(attribute) => self.sends(user, attribute),
            AccountDeed::Unlock
            | AccountDeed::RemovePushers
            | AccountDeed::TurnDown { .. }
            | AccountDeed::HandOver { .. } => {}
        }
    }

    /// Takes in what came of a step that was sent.
    pub fn settle(&mut self, step: &Step, ending: Ending) {
        let Action::Account { user, deed } = &step.action else { return };
        match (deed, ending) {
            (AccountDeed::Lock { .. }, Ending::Done) => self.advance(user, Stage::Locked),
            (AccountDeed::Close(_), Ending::Refused) => {
                self.closings.pop();
                self.advance(user, Stage::Locked);
            }
            // The attempt before may have been the one: the next look tells.
            (AccountDeed::Lock { .. }, Ending::Refused) if self.is_tried_again(user) => {
                self.advance(user, Stage::Locking);
            }
            // What an operator ordered about them stands.
            (AccountDeed::Lock { .. }, Ending::Refused) if self.is_ordered(user) => self.advance(user, Stage::Open),
            (AccountDeed::Lock { .. }, Ending::Refused) => drop(self.leavers.remove(user)),
            (AccountDeed::Unlock, Ending::Done) => {
                if self.leavers.get(user).is_some_and(Leaver::is_ours) {
                    self.leavers.remove(user);
                } else if let Some(leaver) = self.leavers.get_mut(user) {
                    leaver.opened();
                }
            }
            (AccountDeed::RemovePushers, Ending::Done) => {
                if let Some(leaver) = self.leavers.get_mut(user) {
                    leaver.silenced = true;
                }
            }
            (AccountDeed::Close(_), Ending::Done) => self.forget(user),
            (AccountDeed::Set(attribute), Ending::Done) => self.wrote(user, attribute),
            (AccountDeed::TurnDown { .. } | AccountDeed::HandOver { .. }, _)
            // What a refusal of an attribute means is told apart where its answer is known.
            | (
                AccountDeed::Unlock | AccountDeed::RemovePushers | AccountDeed::Set(_),
                Ending::Refused | Ending::Unknown,
            )
            | (AccountDeed::Lock { .. } | AccountDeed::Close(_), Ending::Unknown) => {}
        }
    }

    fn is_ordered(&self, user: &UserId) -> bool {
        self.leavers.get(user).is_some_and(|leaver| leaver.at_once || leaver.not_before.is_some())
    }

    fn is_tried_again(&self, user: &UserId) -> bool {
        self.leavers.get(user).is_some_and(|leaver| leaver.stage == Stage::LockingAgain)
    }

    fn advance(&mut self, user: &UserId, stage: Stage) {
        if let Some(leaver) = self.leavers.get_mut(user) {
            leaver.stage = stage;
        }
    }

    /// The entries of the directory that an account is bound to.
    #[must_use]
    pub fn entries_of(&self, user: &UserId) -> BTreeSet<StableId> {
        let theirs = |localpart: &Localpart| localpart.as_str() == user.localpart();
        self.people.iter().filter(|(_, localpart)| theirs(localpart)).map(|(id, _)| id.clone()).collect()
    }

    /// Forgets somebody whose account is no more: nothing that names them is kept.
    fn forget(&mut self, user: &UserId) {
        self.leavers.remove(user);
        self.attributes.remove(user);
        let entries = self.entries_of(user);
        self.people.retain(|id, _| !entries.contains(id));
        for group in self.groups.values_mut().filter(|group| group.users.iter().any(|id| entries.contains(id))) {
            group.users.retain(|id| !entries.contains(id));
        }
        let people = &self.people;
        self.absences.retain(|id, _| people.contains_key(id) || super::witness::is_unit(id));
        for levels in self.entitled.values_mut().filter(|levels| levels.contains_key(user)) {
            std::sync::Arc::make_mut(levels).remove(user);
        }
        self.refusals.retain(|(_, person), _| person != user);
        self.forgiven.retain(|(_, person, _)| person != user);
        // What was taken from them counts on for a day (S-81): as somebody's, not as theirs.
        let somebody = UserId::from(self.pseudonym(user).as_str());
        for record in self.removals.iter_mut().filter(|record| record.person.as_ref() == Some(user)) {
            record.person = Some(somebody.clone());
        }
    }

    /// Takes in what a plan found out about a leaver.
    pub(super) fn heed(&mut self, user: &UserId, news: &LeaverNews) {
        let unsure = self.clocks.doubt().is_some();
        let Some(leaver) = self.leavers.get_mut(user) else { return };
        match news {
            LeaverNews::Locked if leaver.is_locking() => leaver.stage = Stage::Locked,
            LeaverNews::Opened { locked } if leaver.since == *locked => leaver.opened(),
            LeaverNews::Ended if leaver.stage == Stage::Halting => leaver.stage = Stage::Closing,
            LeaverNews::Closed { .. } if leaver.stage == Stage::Closing => self.forget(user),
            // What was seen is not so any more.
            LeaverNews::Locked | LeaverNews::Opened { .. } | LeaverNews::Ended | LeaverNews::Closed { .. } => {}
            LeaverNews::Returned | LeaverNews::Disowned => drop(self.leavers.remove(user)),
            LeaverNews::Because { cause, since } => {
                // Ordered about somebody of whom that was not known.
                leaver.at_once &= leaver.cause == *cause;
                leaver.cause = *cause;
                leaver.clock = *since;
                leaver.unsure = unsure;
                leaver.due_seen = None;
            }
            LeaverNews::Due { seen } => leaver.due_seen = *seen,
            LeaverNews::Administers { rooms } => leaver.administers.clone_from(rooms),
        }
    }

    /// The leavers as they are mirrored in the bot's account data: without what only this database needs, and without locks nobody
    /// knows to be there.
    #[must_use]
    pub fn mirrored_leavers(&self) -> BTreeMap<UserId, Leaver> {
        let plain = |(user, leaver): (&UserId, &Leaver)| {
            let stage = match leaver.stage {
                Stage::Closing => Stage::Locked,
                Stage::Halting => Stage::Restoring,
                stage => stage,
            };
            (user.clone(), Leaver { due_seen: None, administers: BTreeMap::new(), stage, ..leaver.clone() })
        };
        self.leavers.iter().filter(|(_, leaver)| !leaver.is_locking()).map(plain).collect()
    }

    /// Takes back what the bot's account data says, where this ledger was lost (S-51). Grace goes on as it was, but nobody's is cut short
    /// as an operator once ordered: whether they took that back meanwhile is lost as well.
    ///
    /// Returns how many people that were.
    pub fn recover(&mut self, mirror: &BTreeMap<UserId, Leaver>) -> usize {
        if self.settled || !self.leavers.is_empty() {
            return 0;
        }
        let owned =
            mirror.iter().filter_map(|(user, leaver)| Some((Localpart::from(user.localpart()), leaver.id.clone()?)));
        let owners: BTreeMap<Localpart, StableId> = owned.collect();
        // Whoever the source has of such a name by now passed for the owner as long as nothing was remembered: they only claim it (S-5).
        self.people.retain(|_, bound| !owners.contains_key(bound));
        self.people.extend(owners.into_iter().map(|(localpart, id)| (id, localpart)));
        let kept = |(user, leaver): (&UserId, &Leaver)| (user.clone(), Leaver { at_once: false, ..leaver.clone() });
        self.leavers.extend(mirror.iter().map(kept));
        let people = &self.people;
        self.absences.retain(|id, _| people.contains_key(id) || super::witness::is_unit(id));
        mirror.len()
    }
}
