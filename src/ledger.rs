//! What usher remembers and Matrix cannot tell: people seen, absences being confirmed, group memberships last read, removals of the last
//! 24 hours, approvals, whose accounts are locked and since when. Pure; `store::ledger` keeps it.

mod attributes;
mod clocks;
mod leavers;
mod orders;
mod portrait;
mod recalled;
mod witness;

pub use attributes::{Attributes, Digest, Flaw, Given, keyed, normal_email, normal_emails};
pub use clocks::{Clocks, TOLERANCE_MS, TWO_LOOKS_MS};
pub use leavers::{Cause, DAY_MS, Ending, Leaver, LeaverNews, Stage};
pub use orders::{Claim, Objection, Order};
pub use portrait::{LARGEST_PHOTO, Photo, PictureKind, Portrait, Upload};
pub use witness::{SHORTEST_GAP_MS, Witnessing};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, Key, Localpart, RoomId, StableId, Timestamp, UserId};
use crate::plan::{Class, Dealt, Lesson, StepId};

/// The whole memory, loaded at start and kept by the loop. Every part survives restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Everybody ever seen in the directory, and the localpart they were first seen with (S-1).
    pub people: BTreeMap<StableId, Localpart>,
    /// People once seen and missing from the latest complete reads (S-24).
    pub absences: BTreeMap<StableId, Absence>,
    /// Per configured external id: the group it last meant and who was in it (S-23).
    pub groups: BTreeMap<String, GroupMemory>,
    /// Per rule: who was entitled when the last pass ended, with what level; and who lost that but is still in the room. S-81 counts
    /// only what these lose. [`TOLERATED`] in place of a level: never entitled, and there since before.
    #[serde(with = "entitled_map")]
    pub entitled: BTreeMap<Key, Arc<BTreeMap<UserId, i64>>>,
    /// Departures by human decision that no longer stand, because the person lost the right since (S-19).
    pub forgiven: BTreeSet<(RoomId, UserId, EventId)>,
    /// Homeserver refusals not to be retried before a time (S-19): invite blocked, suspended.
    #[serde(with = "refusal_map")]
    pub refusals: BTreeMap<(Key, UserId), Refusal>,
    /// Removals done in the last 24 hours (S-81).
    pub removals: Vec<RemovalRecord>,
    /// Approved steps, and until when.
    pub approvals: BTreeMap<StepId, Timestamp>,
    /// Whether the last pass mirrored the source or followed `spaces:` (S-15); `None` before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<bool>,
    /// Whether a pass has ended with this ledger. `false` beside rooms with our marker: the ledger was lost (S-101).
    pub settled: bool,
    /// The homeserver had no room of ours when this ledger was new: it is no new one beside old rooms, even before a pass has ended.
    /// Of this process only.
    #[serde(skip)]
    pub began_bare: bool,
    /// When the last complete read was taken in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_complete_read: Option<Timestamp>,
    /// Whose accounts usher locked (S-51).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leavers: BTreeMap<UserId, Leaver>,
    /// When final steps began in the last 24 hours (`erasures_per_day`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub closings: Vec<Timestamp>,
    /// What was last seen of people's attributes (S-50).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<UserId, Attributes>,
    /// What the directory calls people is remembered, where accounts are found by their external ids (S-5).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub knows_names: bool,
    /// What the clocks say (S-53): of this process only.
    pub clocks: Clocks,
    /// What digests are keyed with; never recorded.
    #[serde(skip)]
    pub key: String,
}

impl Ledger {
    /// Takes in what a pass leaves to remember.
    pub fn learn(&mut self, lessons: &[Lesson]) {
        for lesson in lessons.iter().cloned() {
            match lesson {
                Lesson::Entitled { key, levels } => {
                    self.entitled.insert(key, levels);
                }
                Lesson::Vanished(key) => {
                    self.entitled.remove(&key);
                }
                Lesson::Forgiven { room, user, event } => {
                    self.forgiven.insert((room, user, event));
                }
                Lesson::Group { external_id, memory } => {
                    self.groups.insert(external_id, memory);
                }
                Lesson::Mode { mirrored } => self.mirrored = Some(mirrored),
                Lesson::Leaver { user, news } => self.heed(&user, &news),
                Lesson::Named { user, what: Dealt::Name(name) } => {
                    self.attributes.entry(user).or_default().name = Some(name);
                }
                Lesson::Named { user, what: Dealt::Photo(photo) } => self.dealt_with_photo(&user, photo),
            }
        }
    }
}

/// What stands for the level of somebody without a right who is in a room that is not held strictly, or whom usher had not the right to
/// take out when it was first held to its rule.
pub const TOLERATED: i64 = i64::MIN;

/// An unconfirmed or confirmed absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    pub since: Timestamp,
    /// Complete reads that lacked the person, each at least one interval and 60 s after the one before.
    pub reads: u32,
    pub last_read: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMemory {
    pub id: StableId,
    pub name: String,
    pub users: Vec<StableId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Matrix error code.
    pub code: String,
    pub retry_at: Timestamp,
}

/// One removal that was done and counts (S-81, S-104).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalRecord {
    pub class: Class,
    pub space: Key,
    /// Nobody where a whole space or room was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<UserId>,
    pub at: Timestamp,
    /// People joined or invited in that space just before.
    pub space_base: u64,
    /// People joined or invited anywhere just before; for spaces and rooms given up, how many of them there were.
    pub total_base: u64,
}

mod entitled_map {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::ids::{Key, UserId};

    type Map = BTreeMap<Key, Arc<BTreeMap<UserId, i64>>>;

    pub fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        Ok(Vec::<(Key, Arc<BTreeMap<UserId, i64>>)>::deserialize(deserializer)?.into_iter().collect())
    }
}

mod refusal_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Refusal;
    use crate::ids::{Key, UserId};

    type Map = BTreeMap<(Key, UserId), Refusal>;

    pub fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        Ok(Vec::<((Key, UserId), Refusal)>::deserialize(deserializer)?.into_iter().collect())
    }
}
