//! What one read of the directory teaches the ledger: bindings, absences, and whether an empty answer can be true (S-1, S-3, S-24).

use super::{Absence, GroupMemory, Ledger};
use crate::directory::{Departed, Directory};
use crate::ids::{StableId, Timestamp};

/// Two reads closer together than this are one look (S-24).
pub const SHORTEST_GAP_MS: i64 = 60_000;

/// Complete reads that must lack somebody before their localpart passes to a newcomer.
const READS_BEFORE_PASSING_ON: u32 = 2;

/// What an order to leave counts for: more reads than anybody asks for.
const READS_OF_AN_ORDER: u32 = u32::MAX;

/// How a read is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessing {
    /// The source's poll interval, in milliseconds.
    pub interval_ms: i64,
    /// Deprovisioning is on: an account stays its first owner's until it is erased, or `usher rebind` gives it away.
    pub holds_accounts: bool,
}

impl Ledger {
    /// Marks `directory` incomplete where it contradicts what was there before: nobody where there were people (S-3).
    pub fn doubt(&self, directory: &mut Directory) {
        let missing = |id: &StableId| !directory.departed.contains_key(id);
        if directory.users.is_empty() && self.people.keys().any(missing) {
            directory.flaw(format!(
                "the source answered with nobody, but {} people were there before: is the bind account still allowed to read them?",
                self.people.len()
            ));
        }
    }

    /// Takes in a read that counts (`run` and `apply` only): binds newcomers to their localparts, counts absences.
    ///
    /// `interval_ms` is the source's poll interval: absence is confirmed by reads at least that long, and 60 s, apart.
    pub fn witness(&mut self, directory: &Directory, interval_ms: i64, now: Timestamp) {
        self.witness_as(directory, Witnessing { interval_ms, holds_accounts: false }, now);
    }

    /// As [`Ledger::witness`], with a word on whether accounts outlive their owners.
    pub fn witness_as(&mut self, directory: &Directory, how: Witnessing, now: Timestamp) {
        let interval_ms = how.interval_ms;
        self.bind(directory, how.holds_accounts);
        self.bind_departed(directory);
        for id in directory.users.keys().chain(&directory.unnamed) {
            self.absences.remove(id);
        }
        self.depart(directory, now);
        if !directory.is_complete() {
            return;
        }
        let gap = interval_ms.max(SHORTEST_GAP_MS);
        let mut missing: Vec<StableId> = self.people.keys().filter(|id| !directory.knows(id)).cloned().collect();
        let units: Vec<StableId> = self.missing_units(directory).map(|unit| of_unit(&unit.id)).collect();
        self.absences.retain(|id, _| !id.as_str().starts_with(UNIT) || units.contains(id));
        missing.extend(units);
        for id in missing {
            let absence = self.absences.entry(id).or_insert(Absence { since: now, reads: 0, last_read: now });
            // A look in the future was one by a clock that has been set back: the gap begins anew, and does not last until then.
            absence.last_read = absence.last_read.min(now);
            if absence.reads == 0 || now.since_ms(absence.last_read) >= gap {
                absence.reads = absence.reads.saturating_add(1);
                absence.last_read = now;
            }
        }
        self.last_complete_read = Some(now);
    }

    /// A stable id stays bound to the localpart first seen (S-1). A localpart that several people claim binds nobody new (S-5); one whose
    /// former owner was missing from [`READS_BEFORE_PASSING_ON`] complete reads passes to the newcomer.
    ///
    /// `holds_accounts`: it does not pass on by itself, because the former owner's account is still there (S-5, S-51).
    fn bind(&mut self, directory: &Directory, holds_accounts: bool) {
        let newcomers: Vec<_> = directory
            .users
            .values()
            .filter(|user| !self.people.contains_key(&user.id) && !directory.conflicts.contains_key(&user.localpart))
            .collect();
        if newcomers.is_empty() {
            return;
        }
        for user in &newcomers {
            self.reveal(&user.localpart, &user.id);
        }
        let mut owners: std::collections::BTreeMap<_, Vec<StableId>> = std::collections::BTreeMap::new();
        for (id, localpart) in &self.people {
            owners.entry(localpart.clone()).or_default().push(id.clone());
        }
        for user in newcomers {
            if self.people.contains_key(&user.id) {
                continue;
            }
            let former = owners.get(&user.localpart).cloned().unwrap_or_default();
            let gone = |id: &StableId| {
                !directory.users.contains_key(id)
                    && self.absences.get(id).is_some_and(|absence| absence.reads >= READS_BEFORE_PASSING_ON)
            };
            if !former.iter().all(gone) || self.keeps(&user.localpart) || (holds_accounts && !former.is_empty()) {
                continue;
            }
            for id in former {
                self.people.remove(&id);
                self.absences.remove(&id);
            }
            self.people.insert(user.id.clone(), user.localpart.clone());
        }
    }

    /// Somebody the source ordered out is gone without a second look (S-51), and stays so until they are back.
    fn depart(&mut self, directory: &Directory, now: Timestamp) {
        for (id, person) in &directory.departed {
            if self.people.contains_key(id) && !directory.knows(id) {
                let order = Absence { since: person.since, reads: READS_OF_AN_ORDER, last_read: now };
                self.absences.insert(id.clone(), order);
            }
        }
    }

    /// Who came and was ordered out between two reads was in the directory, too. Those of long ago were seen then or are forgotten.
    fn bind_departed(&mut self, directory: &Directory) {
        let Some(last) = self.last_complete_read else { return };
        let news = |person: &&Departed| person.since > last.plus_ms(-SHORTEST_GAP_MS);
        for person in directory.departed.values().filter(news) {
            let claimed = directory.users.values().any(|user| user.localpart == person.localpart)
                || self.people.values().any(|bound| *bound == person.localpart);
            if !claimed && !self.keeps(&person.localpart) {
                self.people.entry(person.id.clone()).or_insert_with(|| person.localpart.clone());
            }
        }
    }

    /// Whether the person has been missing often enough to be gone (S-24).
    #[must_use]
    pub fn is_confirmed(&self, id: &StableId, confirm_reads: u32) -> Option<Timestamp> {
        self.absences.get(id).filter(|absence| absence.reads >= confirm_reads).map(|absence| absence.since)
    }

    /// Units that were mirrored and are not in `directory`, with who was last read in them.
    pub fn missing_units<'l>(&'l self, directory: &Directory) -> impl Iterator<Item = &'l GroupMemory> {
        // A mirrored unit is mapped by its own stable id (S-15).
        let units = self.groups.iter().filter(|(mapped, unit)| *mapped == unit.id.as_str());
        let mirrored = self.mirrored == Some(true);
        units.map(|(_, unit)| unit).filter(move |unit| mirrored && !directory.groups.contains_key(&unit.id))
    }

    /// Whether a unit has been missing often enough to be gone (S-24).
    #[must_use]
    pub fn is_unit_confirmed(&self, id: &StableId, confirm_reads: u32) -> Option<Timestamp> {
        self.is_confirmed(&of_unit(id), confirm_reads)
    }
}

/// Absences of units stand beside those of people, under names no source gives a person.
const UNIT: &str = "unit\u{1f}";

/// Whether an absence is a unit's.
pub(super) fn is_unit(id: &StableId) -> bool {
    id.as_str().starts_with(UNIT)
}

fn of_unit(id: &StableId) -> StableId {
    format!("{UNIT}{id}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Snapshot;
    use crate::ledger::recalled::tests::directory;

    #[test]
    fn absence_takes_two_reads_a_minute_apart_and_ends_with_return() {
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(0));
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(1_000));
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(2_000));
        assert_eq!(ledger.is_confirmed(&"2".into(), 2), None, "one look, however often within a minute");
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(61_000));
        assert_eq!(ledger.is_confirmed(&"2".into(), 2), Some(Timestamp(1_000)));
        ledger.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(62_000));
        assert_eq!(ledger.is_confirmed(&"2".into(), 2), None);
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_back_delays_the_second_look_by_no_more_than_the_gap() {
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(0));
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(400 * 24 * 3_600_000));
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(60_000));
        assert_eq!(ledger.is_confirmed(&"2".into(), 2), None, "never sooner");
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(120_000));
        assert!(ledger.is_confirmed(&"2".into(), 2).is_some());
    }

    #[test]
    fn an_order_to_leave_needs_no_second_look_and_survives_until_the_return() {
        let ordered = |id: &str, localpart: &str, since| Departed { id: id.into(), localpart: localpart.into(), since };
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(100_000));
        let mut left = directory(&[("1", "ann")]);
        // Somebody came and went meanwhile; another one did long ago; a third one's name is somebody else's.
        for (id, localpart, since) in [("2", "bob", 101), ("3", "cat", 102), ("4", "dan", 1), ("5", "ann", 103)] {
            left.departed.insert(id.into(), ordered(id, localpart, Timestamp(since * 1_000)));
        }
        ledger.witness(&left, 1_000, Timestamp(104_000));
        let gone = |ledger: &Ledger, id: &str| ledger.is_confirmed(&id.into(), 2);
        assert_eq!(gone(&ledger, "2"), Some(Timestamp(101_000)));
        assert_eq!(gone(&ledger, "3"), Some(Timestamp(102_000)));
        assert_eq!((gone(&ledger, "4"), gone(&ledger, "5"), gone(&ledger, "1")), (None, None, None));
        let mut stored: Ledger = serde_json::from_value(serde_json::to_value(&ledger).unwrap()).unwrap();
        stored.witness(&left, 1_000, Timestamp(204_000));
        assert_eq!(gone(&stored, "2"), Some(Timestamp(101_000)), "the clock does not begin anew");
        stored.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(205_000));
        assert_eq!(gone(&stored, "2"), None);
    }

    #[test]
    fn everybody_ordered_out_is_no_reason_for_doubt() {
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(0));
        let mut empty = directory(&[]);
        let ordered = Departed { id: "1".into(), localpart: "ann".into(), since: Timestamp(1) };
        empty.departed.insert("1".into(), ordered);
        ledger.doubt(&mut empty);
        assert!(empty.is_complete());
    }

    #[test]
    fn an_incomplete_read_confirms_nothing() {
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann"), ("2", "bob")]), 1_000, Timestamp(0));
        for minute in 1..5 {
            let mut partial = directory(&[("1", "ann")]);
            partial.flaw("the connection ended");
            ledger.witness(&partial, 1_000, Timestamp(minute * 60_000));
        }
        assert!(ledger.absences.is_empty());
    }

    #[test]
    fn a_mirrored_unit_is_missing_until_two_reads_agree_and_forgotten_when_it_is_back() {
        use crate::directory::{GroupKind, RawGroup};
        let unit = RawGroup {
            id: "eng".into(),
            kind: GroupKind::Container,
            name: "engineering".to_owned(),
            aliases: vec![],
            parent: None,
            members: vec![],
        };
        let whole = || Directory::flatten(Snapshot { groups: vec![unit.clone()], ..Snapshot::default() });
        let memory = GroupMemory { id: unit.id.clone(), name: unit.name.clone(), users: vec![] };
        let mut ledger = Ledger { groups: [("eng".to_owned(), memory)].into(), ..Ledger::default() };
        ledger.witness(&directory(&[]), 1_000, Timestamp(0));
        assert!(ledger.absences.is_empty(), "a mapped group is frozen, not confirmed");
        ledger.mirrored = Some(true);
        ledger.witness(&directory(&[]), 1_000, Timestamp(60_000));
        assert_eq!(ledger.is_unit_confirmed(&"eng".into(), 2), None);
        ledger.witness(&whole(), 1_000, Timestamp(120_000));
        assert!(ledger.absences.is_empty());
        ledger.witness(&directory(&[]), 1_000, Timestamp(180_000));
        ledger.witness(&directory(&[]), 1_000, Timestamp(240_000));
        assert_eq!(ledger.is_unit_confirmed(&"eng".into(), 2), Some(Timestamp(180_000)));
    }

    #[test]
    fn nobody_where_there_were_people_is_doubted() {
        let mut ledger = Ledger::default();
        let mut empty = directory(&[]);
        ledger.doubt(&mut empty);
        assert!(empty.is_complete(), "a new directory may be empty");
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(0));
        ledger.doubt(&mut empty);
        assert!(!empty.is_complete());
    }

    #[test]
    fn a_binding_outlives_a_rename_and_a_contested_localpart_binds_nobody_new() {
        let mut ledger = Ledger::default();
        ledger.witness(&directory(&[("1", "ann")]), 1_000, Timestamp(0));
        ledger.witness(&directory(&[("1", "anna"), ("2", "bob")]), 1_000, Timestamp(1));
        assert_eq!(ledger.people[&StableId::from("1")].as_str(), "ann");
        ledger.witness(&directory(&[("1", "anna"), ("2", "bob"), ("3", "bob")]), 1_000, Timestamp(2));
        assert!(!ledger.people.contains_key(&StableId::from("3")));
    }
}
