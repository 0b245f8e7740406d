//! Who left and what usher did about their accounts (S-51 to S-53): which locks are ours, when grace began, what an operator decided.
//!
//! Pure. Never decides what is due; that is `plan/accounts`. A lock is written down before it is sent ([`Ledger::foresee`]), so that a
//! crash in between leaves no lock that nobody can prove to be ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::ids::{Localpart, RoomId, StableId, Timestamp, UserId};
use crate::plan::{AccountDeed, Action, Reason, Step};

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

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Written down; whether the homeserver did it is not known yet.
    Locking,
    Locked,
    /// The final step was sent; whether the homeserver has finished is not known yet.
    Closing,
    /// An operator gave the account back, although the person is still gone.
    Restored,
}

/// What a plan finds out about a leaver, to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaverNews {
    /// The lock that was written down is there.
    Locked,
    /// They are back, and their account is open.
    Returned,
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

/// An operator's order about one person, given beside a running usher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// `usher grace restore`
    Restore { user: UserId },
    /// `usher grace extend`
    Extend { user: UserId, not_before: Timestamp },
    /// `usher grace erase-now`
    EraseNow { user: UserId },
    /// `usher rebind`
    Rebind { id: StableId, localpart: Localpart },
}

impl Leaver {
    /// Whether the lock on the account is usher's, if it is locked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match self.stage {
            Stage::Locking | Stage::Locked | Stage::Closing => true,
            Stage::Restored => false,
        }
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
                let leaver = Leaver {
                    id: id.clone(),
                    since: now,
                    cause: Cause::of(&step.reason),
                    clock: now,
                    unsure,
                    not_before: self.leavers.get(user).and_then(|known| known.not_before),
                    at_once: false,
                    stage: Stage::Locking,
                    silenced: false,
                    due_seen: None,
                    administers: BTreeMap::new(),
                };
                self.leavers.insert(user.clone(), leaver);
            }
            AccountDeed::Close(_) => {
                if let Some(leaver) = self.leavers.get_mut(user) {
                    leaver.stage = Stage::Closing;
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
    pub fn settle(&mut self, step: &Step, ending: Ending, now: Timestamp) {
        let Action::Account { user, deed } = &step.action else { return };
        match (deed, ending) {
            (AccountDeed::Lock { .. }, Ending::Done) | (AccountDeed::Close(_), Ending::Refused) => {
                self.advance(user, Stage::Locked);
            }
            (AccountDeed::Lock { .. }, Ending::Refused) => drop(self.leavers.remove(user)),
            (AccountDeed::Unlock, Ending::Done) => {
                if self.leavers.get(user).is_some_and(Leaver::is_ours) {
                    self.leavers.remove(user);
                }
            }
            (AccountDeed::RemovePushers, Ending::Done) => {
                if let Some(leaver) = self.leavers.get_mut(user) {
                    leaver.silenced = true;
                }
            }
            (AccountDeed::Close(_), Ending::Done) => {
                self.closings.push(now);
                self.forget(user);
            }
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

    fn advance(&mut self, user: &UserId, stage: Stage) {
        if let Some(leaver) = self.leavers.get_mut(user) {
            leaver.stage = stage;
        }
    }

    /// Forgets somebody whose account is no more: nothing that names them is kept.
    fn forget(&mut self, user: &UserId) {
        self.leavers.remove(user);
        self.attributes.remove(user);
        self.people.retain(|_, localpart| localpart.as_str() != user.localpart());
        let people = &self.people;
        self.absences.retain(|id, _| people.contains_key(id) || super::witness::is_unit(id));
        for levels in self.entitled.values_mut().filter(|levels| levels.contains_key(user)) {
            std::sync::Arc::make_mut(levels).remove(user);
        }
        self.refusals.retain(|(_, person), _| person != user);
        self.forgiven.retain(|(_, person, _)| person != user);
    }

    /// Takes in what a plan found out about a leaver.
    pub(super) fn heed(&mut self, user: &UserId, news: &LeaverNews) {
        let unsure = self.clocks.doubt().is_some();
        let Some(leaver) = self.leavers.get_mut(user) else { return };
        match news {
            LeaverNews::Locked if leaver.stage == Stage::Locking => leaver.stage = Stage::Locked,
            LeaverNews::Locked => {}
            LeaverNews::Returned => drop(self.leavers.remove(user)),
            LeaverNews::Because { cause, since } => {
                leaver.cause = *cause;
                leaver.clock = *since;
                leaver.unsure = unsure;
                leaver.due_seen = None;
            }
            LeaverNews::Due { seen } => leaver.due_seen = *seen,
            LeaverNews::Administers { rooms } => leaver.administers.clone_from(rooms),
        }
    }

    /// Takes an operator's order; `false`: there is nothing it applies to.
    pub fn obey(&mut self, order: &Order, now: Timestamp) -> bool {
        let (user, change): (&UserId, &dyn Fn(&mut Leaver)) = match order {
            Order::Rebind { id, localpart } => return self.rebind(id, localpart),
            Order::Restore { user } => (user, &|leaver| leaver.stage = Stage::Restored),
            Order::Extend { user, not_before } => (user, &|leaver| {
                leaver.not_before = Some(*not_before);
                leaver.at_once = false;
                leaver.due_seen = None;
            }),
            Order::EraseNow { user } => (user, &|leaver| {
                leaver.at_once = true;
                leaver.not_before = None;
                // Ordered just now: no clock that began before this process decides it.
                leaver.clock = now;
                leaver.unsure = false;
            }),
        };
        match self.leavers.get_mut(user) {
            Some(leaver) => {
                change(leaver);
                true
            }
            None => false,
        }
    }

    /// Binds a stable id to a localpart, whoever had either of them (S-1).
    fn rebind(&mut self, id: &StableId, localpart: &Localpart) -> bool {
        self.people.retain(|known, bound| known == id || bound != localpart);
        let people = &self.people;
        self.absences.retain(|known, _| people.contains_key(known) || super::witness::is_unit(known));
        self.people.insert(id.clone(), localpart.clone());
        for (user, leaver) in &mut self.leavers {
            if user.localpart() == localpart.as_str() {
                leaver.id = Some(id.clone());
            }
        }
        true
    }

    /// The leavers as they are mirrored in the bot's account data: without what only this database needs, and without locks nobody
    /// knows to be there.
    #[must_use]
    pub fn mirrored_leavers(&self) -> BTreeMap<UserId, Leaver> {
        let plain = |(user, leaver): (&UserId, &Leaver)| {
            let stage = if leaver.stage == Stage::Closing { Stage::Locked } else { leaver.stage };
            (user.clone(), Leaver { due_seen: None, administers: BTreeMap::new(), stage, ..leaver.clone() })
        };
        self.leavers.iter().filter(|(_, leaver)| leaver.stage != Stage::Locking).map(plain).collect()
    }

    /// Takes back what the bot's account data says, where this ledger was lost (S-51). Grace goes on as it was.
    ///
    /// Returns how many people that were.
    pub fn recover(&mut self, mirror: &BTreeMap<UserId, Leaver>) -> usize {
        if self.settled || !self.leavers.is_empty() {
            return 0;
        }
        for (user, leaver) in mirror {
            self.leavers.insert(user.clone(), leaver.clone());
            if let Some(id) = &leaver.id {
                self.people.entry(id.clone()).or_insert_with(|| Localpart::from(user.localpart()));
            }
        }
        mirror.len()
    }
}
