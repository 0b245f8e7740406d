//! Operators' orders about accounts: what stands against one when it is taken in, and what it changes (S-1, S-52, S-53).
//!
//! Pure. Never locks, unlocks or erases: the next plan does what follows from an order.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cause, Leaver, Ledger, Stage};
use crate::directory::Directory;
use crate::ids::{Localpart, StableId, Timestamp, UserId};
use crate::observed::Presence;

/// An operator's order about one person, given beside a running usher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// `usher grace restore`
    Restore { user: UserId },
    /// `usher grace lock`: takes a restore back.
    Lock { user: UserId },
    /// `usher grace extend`
    Extend { user: UserId, not_before: Timestamp },
    /// `usher grace erase-now`
    EraseNow { user: UserId },
    /// `usher rebind`
    Rebind { id: StableId, localpart: Localpart },
}

/// Why an order is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    NotALeaver,
    /// Their account is given back, or was.
    RestoredAlready,
    NotRestored,
    /// The final step was sent.
    UnderWay,
    /// In the directory and disabled, where that has no clock (S-52, S-53).
    Present,
    /// The latest read of the source was not complete: nobody can be told not to be in it.
    Incomplete,
    NotInDirectory,
    NoAccount,
    Protected,
    /// The account is that of somebody else who is in the directory.
    Owned {
        by: StableId,
    },
    /// The account they have now is locked by usher: it would stay so, and be nobody's.
    Locked {
        account: Localpart,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotALeaver => "not locked by usher: see usher grace list",
            Self::RestoredAlready => "restored by an operator: usher grace lock takes that back",
            Self::NotRestored => "not restored by an operator, so there is nothing to take back",
            Self::UnderWay => "the end of the account is under way",
            Self::Present => {
                "in the directory, though disabled: nobody who is there is erased unless erase_inactive_after is set"
            }
            Self::Incomplete => "the source could not be read completely, so who is in it is not known: order it again",
            Self::NotInDirectory => "nobody in the directory has that stable id",
            Self::NoAccount => "there is no account of that name",
            Self::Protected => "a protected user: their account passes to nobody",
            Self::Owned { by } => {
                return write!(f, "the account of {by}, who is in the directory: rebind them to another one first");
            }
            Self::Locked { account } => {
                return write!(
                    f,
                    "the account they have now, {account}, is locked by usher and would stay so: `usher grace restore {account}` first, and \
                     order this again once it is unlocked"
                );
            }
        })
    }
}

impl Objection {
    /// What is kept of it: naming nobody, because the row it stands in is another account's, and outlasts an erasure of whoever it named.
    #[must_use]
    pub fn on_record(&self) -> String {
        match self {
            Self::Owned { .. } => {
                "the account of somebody else who is in the directory: rebind them to another one first".to_owned()
            }
            Self::Locked { .. } => {
                "the account they have now is locked by usher and would stay so: unlock it first (usher grace restore)"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }
}

/// Who claims which account by `usher rebind`, and what is known of both.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub id: &'a StableId,
    pub localpart: &'a Localpart,
    /// The latest read; `None`: there is none.
    pub directory: Option<&'a Directory>,
    pub account: Presence<'a>,
    /// The account is a protected user's (S-54).
    pub protected: bool,
}

impl Order {
    /// Whose leaving it is about; `None`: nobody's.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.subject().ok()
    }

    /// Whose account on `server` it is about.
    #[must_use]
    pub fn on_whom(&self, server: &str) -> UserId {
        self.subject().map_or_else(|localpart| UserId::new(localpart.as_str(), server), UserId::clone)
    }

    /// The leaver it is about, or else the account that is to be somebody's.
    fn subject(&self) -> Result<&UserId, &Localpart> {
        match self {
            Self::Restore { user } | Self::Lock { user } | Self::Extend { user, .. } | Self::EraseNow { user } => {
                Ok(user)
            }
            Self::Rebind { localpart, .. } => Err(localpart),
        }
    }
}

impl Ledger {
    /// What stands against an order about a leaver. `erase_inactive_after_ms`: whether and when those who are disabled are erased (S-52).
    #[must_use]
    pub fn objection(&self, order: &Order, erase_inactive_after_ms: Option<i64>) -> Option<Objection> {
        let Some(leaver) = self.leavers.get(order.user()?) else { return Some(Objection::NotALeaver) };
        let closing = leaver.stage == Stage::Closing;
        let spared = leaver.is_spared();
        match order {
            Order::Restore { .. } => spared.then_some(Objection::RestoredAlready),
            Order::Lock { .. } => (!spared).then_some(Objection::NotRestored),
            Order::Extend { .. } if spared => Some(Objection::RestoredAlready),
            Order::Extend { .. } => closing.then_some(Objection::UnderWay),
            // Why somebody was locked who is open by now may not be so any more: the lock tells.
            Order::EraseNow { .. } => {
                let present = leaver.cause == Cause::Disabled && !spared && erase_inactive_after_ms.is_none();
                present.then_some(Objection::Present)
            }
            Order::Rebind { .. } => None,
        }
    }

    /// What stands against giving an account to another entry of the directory (S-1): a wrong id would make a leaver of whoever has the
    /// account, a wrong name of whoever has that one.
    #[must_use]
    pub fn objection_to(&self, claim: &Claim<'_>) -> Option<Objection> {
        let Some(directory) = claim.directory.filter(|directory| directory.is_complete()) else {
            return Some(Objection::Incomplete);
        };
        if !directory.knows(claim.id) {
            return Some(Objection::NotInDirectory);
        }
        if claim.protected {
            return Some(Objection::Protected);
        }
        let owners = self.people.iter().filter(|(_, bound)| *bound == claim.localpart).map(|(id, _)| id);
        let mut others = owners.clone().filter(|id| *id != claim.id && directory.knows(id));
        if let Some(owner) = others.next() {
            return Some(Objection::Owned { by: owner.clone() });
        }
        if let Some(account) = self.locked_account_of(claim.id).filter(|account| *account != claim.localpart) {
            return Some(Objection::Locked { account: account.clone() });
        }
        match claim.account {
            Presence::Exists(_) => None,
            // Without admin rights nobody can list accounts: those that belonged to somebody are there.
            Presence::Unknown if owners.count() > 0 => None,
            Presence::Missing | Presence::Unknown => Some(Objection::NoAccount),
        }
    }

    /// The account of an entry of the directory, if a lock of usher's is on it.
    #[must_use]
    pub fn locked_account_of(&self, id: &StableId) -> Option<&Localpart> {
        let account = self.people.get(id)?;
        let mut theirs = self.leavers.iter().filter(|(user, _)| user.localpart() == account.as_str());
        theirs.any(|(_, leaver)| leaver.is_ours() || leaver.is_given_back()).then_some(account)
    }

    /// Does what was ordered, if nothing stands against it; `false`: there is nobody it applies to.
    pub fn obey(&mut self, order: &Order, now: Timestamp) -> bool {
        let user = match (order, order.user()) {
            (Order::Rebind { id, localpart }, _) => return self.rebind(id, localpart),
            (_, Some(user)) => user,
            (_, None) => return false,
        };
        let unsure = self.clocks.doubt().is_some();
        let Some(leaver) = self.leavers.get_mut(user) else { return false };
        match order {
            Order::Restore { .. } => leaver.give_back(),
            Order::Lock { .. } => {
                leaver.take_back(now);
                leaver.unsure = unsure;
            }
            Order::Extend { not_before, .. } => {
                leaver.not_before = Some(*not_before);
                leaver.at_once = false;
                leaver.due_seen = None;
            }
            Order::EraseNow { .. } => {
                // Ordered just now: no clock that began before this process decides it.
                leaver.take_back(now);
                leaver.unsure = false;
                leaver.at_once = true;
                leaver.not_before = None;
            }
            Order::Rebind { .. } => {}
        }
        true
    }

    /// Binds a stable id to a localpart, whoever had either of them (S-1). The account they had before is open, and nobody's from now on.
    fn rebind(&mut self, id: &StableId, localpart: &Localpart) -> bool {
        if let Some(before) = self.people.get(id).filter(|before| *before != localpart) {
            self.leavers.retain(|user, leaver| {
                user.localpart() != before.as_str() || leaver.is_ours() || leaver.is_given_back()
            });
        }
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
}

impl Leaver {
    fn give_back(&mut self) {
        self.stage = match self.stage {
            Stage::Locking | Stage::LockingAgain | Stage::Locked | Stage::Restoring => Stage::Restoring,
            Stage::Closing | Stage::Halting => Stage::Halting,
            // There is no lock of usher's on it.
            Stage::Open | Stage::Restored => Stage::Restored,
        };
        self.at_once = false;
        self.due_seen = None;
    }

    /// Undoes [`Leaver::give_back`]; grace begins now.
    fn take_back(&mut self, now: Timestamp) {
        self.stage = match self.stage {
            Stage::Restoring => Stage::Locked,
            Stage::Halting => Stage::Closing,
            Stage::Restored => Stage::Open,
            stage @ (Stage::Locking | Stage::LockingAgain | Stage::Locked | Stage::Closing | Stage::Open) => stage,
        };
        self.clock = now;
        self.due_seen = None;
    }
}
