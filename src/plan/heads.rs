//! Head counts: what the percentages of the limits are of (S-81).
//!
//! Pure.

use std::collections::BTreeMap;

use super::Class;
use crate::ids::Key;

/// Head counts before the plan is done.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    pub spaces: BTreeMap<Key, u64>,
    pub total: u64,
    /// Not people, but what clean-up is measured by: how many spaces and rooms are ours.
    pub own_spaces: u64,
    pub own_rooms: u64,
    /// People whose account had a mail address when it was last read.
    pub addressed: u64,
}

impl Heads {
    /// What a limit of `class` over everything is a percentage of.
    #[must_use]
    pub fn base(&self, class: Class) -> u64 {
        if class == Class::Spaces {
            self.own_spaces
        } else if class == Class::Rooms {
            self.own_rooms
        } else if class == Class::Addresses {
            self.addressed
        } else {
            self.total
        }
    }
}
