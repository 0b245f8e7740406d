//! A rule's people, in order of their ids: a sorted list, because rules are made once a plan and then only walked, a million times over.
//!
//! Never looks at a homeserver: whether somebody is where they belong is the plan's business.

use std::cmp::Reverse;

use super::{Entitlement, People};
use crate::ids::UserId;

/// People and their rights, sorted, once each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(Vec<(UserId, Entitlement)>);

impl Members {
    /// Everybody with a right; of several rights of one person the highest, of equal ones the first.
    #[must_use]
    pub fn of(people: &People, mut rights: Vec<Entitlement>) -> Self {
        settle(&mut rights);
        Self(rights.into_iter().map(|right| (people.user(right.person).clone(), right)).collect())
    }

    /// The right of one person.
    #[must_use]
    pub fn get(&self, user: &UserId) -> Option<&Entitlement> {
        let at = self.0.binary_search_by(|(known, _)| known.cmp(user)).ok()?;
        self.0.get(at).map(|(_, right)| right)
    }

    /// Whether somebody has a right.
    #[must_use]
    pub fn contains_key(&self, user: &UserId) -> bool {
        self.get(user).is_some()
    }

    /// Whether nobody has a right.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many people there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Everybody, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&UserId, &Entitlement)> + Clone {
        self.0.iter().map(|(user, right)| (user, right))
    }

    /// Everybody, in order, without their rights.
    pub fn keys(&self) -> impl Iterator<Item = &UserId> {
        self.0.iter().map(|(user, _)| user)
    }

    /// The rights, in the order of the people.
    pub fn values(&self) -> impl Iterator<Item = &Entitlement> {
        self.0.iter().map(|(_, right)| right)
    }
}

/// Sorts rights by person and leaves each person one: the highest, and of equal ones the first (S-13).
pub(super) fn settle(rights: &mut Vec<Entitlement>) {
    rights.sort_by_key(|right| (right.person, Reverse(right.level)));
    rights.dedup_by_key(|right| right.person);
}
