//! Units of a mirrored source that are missing from it: until that is confirmed, nothing follows from it (S-24). Their spaces and what
//! hangs in those stay as they are, and whoever was last read in them is suspended.
//!
//! Never forgets a unit that is gone for good: its space is then no longer wanted, like any other.

use std::collections::BTreeSet;

use super::DesiredRoom;
use crate::config::Config;
use crate::directory::Directory;
use crate::ids::{Key, SpaceId, StableId};
use crate::ledger::Ledger;

/// What is undecided.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub spaces: BTreeSet<SpaceId>,
    people: BTreeSet<StableId>,
}

impl Units {
    /// Units that may yet come back.
    pub fn undecided(config: &Config, directory: &Directory, ledger: &Ledger) -> Self {
        let mut undecided = Self::default();
        if config.spaces.is_some() {
            return undecided;
        }
        for unit in ledger.missing_units(directory) {
            if !directory.is_complete() || ledger.is_unit_confirmed(&unit.id, config.safety.confirm_reads).is_none() {
                undecided.spaces.insert(unit.id.as_str().into());
                undecided.people.extend(unit.users.iter().cloned());
            }
        }
        undecided
    }

    /// Why somebody is suspended.
    pub fn doubt(&self, id: &StableId) -> Option<&'static str> {
        self.people.contains(id).then_some("was in a unit that is missing from the directory, not yet confirmed")
    }

    /// What the source still puts into a missing unit stays hung there.
    pub fn keep_below(&self, rooms: &mut [DesiredRoom], directory: &Directory) {
        for room in rooms.iter_mut().filter(|_| !self.spaces.is_empty()) {
            let Key::Space(space) = &room.key else { continue };
            let parent = directory.groups.get(space.as_str()).and_then(|group| group.parent.as_ref());
            if let Some(unit) = parent.and_then(|parent| self.spaces.get(parent.as_str())) {
                room.parent = Some(unit.clone());
            }
        }
    }
}
