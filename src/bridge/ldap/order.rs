//! The order of stable ids, worked out once, so that half a million members are sorted as numbers and not as strings.
//!
//! Pure.

use std::sync::Arc;

use crate::directory::User;
use crate::ids::StableId;

/// Ids in order, and where the id of each place stands among them.
#[derive(Debug)]
pub struct Order {
    ids: Vec<StableId>,
    /// By place; [`NOWHERE`] for places without an id.
    ranks: Vec<usize>,
}

const NOWHERE: usize = usize::MAX;

impl Order {
    /// The order of the ids of places; equal ids share a rank.
    pub fn of<'a>(id_of_places: impl Iterator<Item = Option<&'a StableId>>) -> Self {
        let mut ranks = Vec::new();
        let mut found = Vec::new();
        for (place, id) in id_of_places.enumerate() {
            ranks.push(NOWHERE);
            if let Some(id) = id {
                found.push((beginning(id), id, place));
            }
        }
        // Comparing where an id begins mostly settles it without a look at the id itself.
        found.sort_unstable_by(|one, other| (one.0, one.1, one.2).cmp(&(other.0, other.1, other.2)));
        let mut ids: Vec<StableId> = Vec::with_capacity(found.len());
        for (_, id, place) in found {
            if ids.last() != Some(id) {
                ids.push(id.clone());
            }
            ranks[place] = ids.len() - 1;
        }
        Self { ids, ranks }
    }

    /// The ids at these places, in order, once each.
    pub fn sorted(&self, places: impl Iterator<Item = usize>) -> Vec<StableId> {
        let mut ranks: Vec<usize> =
            places.filter_map(|place| self.ranks.get(place).copied().filter(|rank| *rank != NOWHERE)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks.into_iter().map(|rank| self.ids[rank].clone()).collect()
    }
}

/// Users by their stable ids.
pub fn sort_by_id(users: &mut [Arc<User>]) {
    users.sort_by_cached_key(|user| (beginning(&user.id), user.id.clone()));
}

/// The first sixteen bytes as a number that compares as they do.
fn beginning(id: &StableId) -> u128 {
    let bytes = id.as_str().as_bytes();
    let mut first = [0; 16];
    let length = bytes.len().min(first.len());
    first[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn members_are_in_order_once_each(
            texts in prop::collection::vec(prop::option::of("[a-c\0]{0,3}|0123456789abcdef[ab]{0,2}"), 1..20),
            places in prop::collection::vec(0_usize..20, 0..40),
        ) {
            let ids: Vec<Option<StableId>> = texts.into_iter().map(|text| text.map(StableId::from)).collect();
            let order = Order::of(ids.iter().map(Option::as_ref));
            let mut expected: Vec<StableId> =
                places.iter().filter_map(|place| ids.get(*place).cloned().flatten()).collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(order.sorted(places.into_iter()), expected);
        }
    }
}
