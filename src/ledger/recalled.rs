//! Bindings that Matrix knows better: people of whom only an invitation tells that they were in the directory, because the ledger was lost
//! (S-51), and accounts found by their external id (S-5).
//!
//! Pure. Their stable id is unknown, so they have a stand-in for one, which passes to whoever the directory has under their localpart.

use super::Ledger;
use crate::ids::{Localpart, StableId, UserId};

/// No source gives such an id.
const RECALLED: &str = "invited\u{1f}";

/// Whether an id stands in for one nobody knows any more.
pub(super) fn is_recalled(id: &StableId) -> bool {
    id.as_str().starts_with(RECALLED)
}

impl Ledger {
    /// Counts somebody as seen in the directory.
    pub fn recall(&mut self, user: &UserId) {
        let localpart = Localpart::from(user.localpart());
        if !self.people.values().any(|bound| *bound == localpart) {
            self.people.insert(format!("{RECALLED}{localpart}").into(), localpart);
        }
    }

    /// Whether somebody who was recalled is still to be confirmed as gone: until then the ledger is not settled, so that what follows is
    /// held (S-101).
    #[must_use]
    pub fn recalls_somebody_unconfirmed(&self, confirm_reads: u32) -> bool {
        let mut recalled = self.people.keys().filter(|id| is_recalled(id));
        recalled.any(|id| self.is_confirmed(id, confirm_reads).is_none())
    }

    /// Somebody whose account was not there has one under another name, as their external id says (S-5): the binding follows, unless the
    /// account is somebody else's.
    pub fn follow_account(&mut self, id: &StableId, localpart: &Localpart) {
        let taken = self.people.iter().any(|(other, bound)| other != id && bound == localpart);
        if let Some(bound) = self.people.get_mut(id).filter(|bound| *bound != localpart && !taken) {
            bound.clone_from(localpart);
        }
    }

    /// The directory has the localpart of somebody who was recalled: it is them, and usher's lock on their account is undone like anybody's.
    pub(super) fn reveal(&mut self, localpart: &Localpart, id: &StableId) {
        let stand_in: StableId = format!("{RECALLED}{localpart}").into();
        if self.people.remove(&stand_in).is_none() {
            return;
        }
        self.absences.remove(&stand_in);
        self.people.insert(id.clone(), localpart.clone());
        for leaver in self.leavers.values_mut().filter(|leaver| leaver.id.as_ref() == Some(&stand_in)) {
            leaver.id = Some(id.clone());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::directory::{Directory, Snapshot, User};
    use crate::ids::Timestamp;
    use crate::ledger::Witnessing;

    /// A complete read of these people, by id and localpart.
    pub(in crate::ledger) fn directory(people: &[(&str, &str)]) -> Directory {
        let user = |(id, localpart): &(&str, &str)| {
            Arc::new(User {
                id: (*id).into(),
                localpart: (*localpart).into(),
                display_name: None,
                emails: vec![],
                enabled: true,
            })
        };
        Directory::flatten(Snapshot { users: people.iter().map(user).collect(), ..Snapshot::default() })
    }

    #[test]
    fn who_was_invited_is_missing_like_anybody_and_comes_back_under_their_own_id() {
        let how = Witnessing { interval_ms: 1_000, holds_accounts: true };
        let mut ledger = Ledger::default();
        ledger.witness_as(&directory(&[("1", "ann")]), how, Timestamp(0));
        ledger.recall(&"@evan:x".into());
        ledger.recall(&"@ann:x".into());
        assert_eq!(ledger.people.len(), 2, "ann is known");
        assert!(ledger.recalls_somebody_unconfirmed(2));
        for minute in 1..=2 {
            ledger.witness_as(&directory(&[("1", "ann")]), how, Timestamp(minute * 60_000));
        }
        assert!(!ledger.recalls_somebody_unconfirmed(2));
        let stand_in = ledger.people.keys().find(|id| is_recalled(id)).unwrap().clone();
        assert!(ledger.is_confirmed(&stand_in, 2).is_some());
        ledger.witness_as(&directory(&[("1", "ann"), ("7", "evan")]), how, Timestamp(180_000));
        assert_eq!(ledger.people[&StableId::from("7")].as_str(), "evan", "not held as a stranger's claim");
        assert!(!ledger.people.contains_key(&stand_in) && ledger.absences.is_empty());
    }
}
