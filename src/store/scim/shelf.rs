//! How many resources there are and where pages began and ended, as long as nothing is written: a client that reads page after page has
//! everything counted and walked once, not once for every page.
//!
//! Holds no resource, only numbers, and only those of the latest revision it was asked about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Kind, Revision, Slice};

/// Places remembered.
const MOST: usize = 256;

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    revision: Revision,
    counts: BTreeMap<Kind, i64>,
    /// So many resources of a kind stand up to this one.
    places: BTreeMap<(Kind, i64), i64>,
}

impl Shelf {
    /// What is known of this revision; what was known of another is forgotten.
    fn at(&self, revision: Revision) -> MutexGuard<'_, Known> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.revision != revision {
            *known = Known { revision, ..Known::default() };
        }
        known
    }

    pub(super) fn count(&self, revision: Revision, kind: Kind) -> Option<i64> {
        self.at(revision).counts.get(&kind).copied()
    }

    pub(super) fn counted(&self, revision: Revision, kind: Kind, count: i64) {
        self.at(revision).counts.insert(kind, count);
    }

    /// The same slice, from a known place on where there is one.
    pub(super) fn shortened(&self, revision: Revision, kind: Kind, slice: Slice) -> Slice {
        let Slice::Offset(skip) = slice else { return slice };
        self.at(revision).places.get(&(kind, skip)).map_or(slice, |pk| Slice::After(*pk))
    }

    /// Notes where the resources behind the first `skip` of a kind begin and where they end; the last one may have been read to see whether
    /// there is another page, which begins with it.
    pub(super) fn walked(&self, revision: Revision, (kind, skip): (Kind, i64), pks: &[i64]) {
        let mut known = self.at(revision);
        if known.places.len() >= MOST {
            known.places.clear();
        }
        if let Some(first) = pks.first() {
            known.places.insert((kind, skip), first - 1);
        }
        for (up_to, pk) in (1..).zip(pks).skip(pks.len().saturating_sub(2)) {
            known.places.insert((kind, skip + up_to), *pk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_begun_where_the_last_one_ended_unless_something_was_written() {
        let (shelf, now) = (Shelf::default(), Revision { number: 7, ..Revision::default() });
        let asked = |revision, skip| shelf.shortened(revision, Kind::User, Slice::Offset(skip));
        assert_eq!(asked(now, 100), Slice::Offset(100));
        shelf.walked(now, (Kind::User, 100), &[210, 215, 222]);
        assert_eq!(asked(now, 100), Slice::After(209));
        assert_eq!(asked(now, 103), Slice::After(222));
        assert_eq!(asked(now, 102), Slice::After(215));
        assert_eq!(asked(now, 101), Slice::Offset(101));
        assert_eq!(shelf.shortened(now, Kind::Group, Slice::Offset(103)), Slice::Offset(103));
        assert_eq!(shelf.shortened(now, Kind::User, Slice::Before(9)), Slice::Before(9));
        let later = Revision { number: 8, ..now };
        assert_eq!(asked(later, 103), Slice::Offset(103));
        assert_eq!(asked(now, 103), Slice::Offset(103));
    }

    #[test]
    fn what_was_counted_holds_for_its_revision() {
        let (shelf, now) = (Shelf::default(), Revision::default());
        shelf.counted(now, Kind::User, 5);
        assert_eq!((shelf.count(now, Kind::User), shelf.count(now, Kind::Group)), (Some(5), None));
        assert_eq!(shelf.count(Revision { number: 1, ..now }, Kind::User), None);
    }
}
