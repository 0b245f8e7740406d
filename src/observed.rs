//! What the homeserver says: rooms, accounts, aliases. [`Observed::fold`] takes in one state event, [`Observed::simulate`] one of our
//! own actions; both are the only ways it changes after a full read.
//!
//! Pure. Unknown is not empty: what was not read is [`Known::Unknown`] or absent, never a default.

mod estate;
mod fold;
mod power_levels;
mod simulate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use estate::{Estate, Heir};
pub use fold::StateEvent;
pub use power_levels::PowerLevels;

use crate::ids::{EventId, Key, RoomId, RoomSlot, UserId};
use crate::ledger::Leaver;

/// Type of the marker state event; its state key is the bot's MXID, so that only the bot can send it (DESIGN decision 8).
pub const MARKER_TYPE: &str = "dev.usher.managed";
/// Key in the create content that names the managed thing a room was made for.
pub const CREATED_FOR: &str = "dev.usher.created_for";

/// Key in the content of a departure that a puppet made: it was our kick, not the person's wish (S-22).
pub const REMOVED: &str = "dev.usher.removed";

/// Something that may not have been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known<T> {
    #[default]
    Unknown,
    Known(T),
}

impl<T> Known<T> {
    /// Whether nobody has read it.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// The value, if it was read.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Unknown => None,
            Self::Known(value) => Some(value),
        }
    }
}

/// The homeserver as far as usher sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    pub server: String,
    pub bot: UserId,
    /// The registration's sender, which only speaks to the admin API.
    pub sender: UserId,
    /// Whether the bot's account exists.
    #[serde(default)]
    pub bot_registered: Known<bool>,
    /// The bot's display name; inner `None`: it has none.
    #[serde(default)]
    pub bot_display_name: Known<Option<String>>,
    /// Rooms the bot is joined to.
    #[serde(default)]
    pub rooms: BTreeMap<RoomId, Room>,
    /// Rooms the bot is not in and usher must know of: those that hang in managed spaces (S-31) and those to be adopted. As far as
    /// they can be seen: without admin rights only name, join rule and kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outside: BTreeMap<RoomId, Room>,
    /// Rooms whose state could not be read, and never was: the bot is in them, or they took the place of one of ours, or should. What they
    /// are is unknown, so nothing takes their place.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unread: BTreeSet<RoomId>,
    /// Where the fencing alias of a key points, looked up for keys that have no room of ours. No entry: it points nowhere.
    #[serde(default, with = "key_map")]
    pub aliases: BTreeMap<Key, RoomId>,
    /// What `adopt:` names and where that is; ids lead to themselves. Looked up for keys that have no room of ours. No entry: the alias
    /// points nowhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adoptable: BTreeMap<String, RoomId>,
    #[serde(default)]
    pub accounts: Accounts,
    /// Who is locked, as the bot's account data has it (S-51).
    #[serde(default, skip_serializing_if = "Known::is_unknown")]
    pub leavers: Known<BTreeMap<UserId, Leaver>>,
    /// What locked people would leave behind (S-52, S-53). No entry: nobody has looked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub estates: BTreeMap<UserId, Estate>,
}

impl Observed {
    /// What the rooms of ours were replaced by, as far as their tombstones and those after them lead, without the rooms the bot is in.
    #[must_use]
    pub fn heirs_outside(&self) -> BTreeSet<RoomId> {
        let ours = self.rooms.values().filter(|room| room.marker.is_some() || room.created_for.is_some());
        let mut next: Vec<&RoomId> = ours.filter_map(|room| room.successor.as_ref()).collect();
        let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
        while let Some(id) = next.pop() {
            if !seen.insert(id) {
                continue;
            }
            let inside = self.rooms.get(id);
            if inside.is_none() && !self.unread.contains(id) {
                found.insert(id.clone());
            }
            next.extend(inside.or_else(|| self.outside.get(id)).and_then(|room| room.successor.as_ref()));
        }
        found
    }
}

/// Accounts of the homeserver.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// Whether `people` is the whole user list (needs admin rights). Otherwise an absent person is unknown, not missing.
    pub listed: bool,
    pub people: BTreeMap<UserId, Account>,
    /// Without the list: people whose profile was asked for and who do not exist.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<UserId>,
}

/// One account. Flags that were not read are `false`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent flags of the homeserver's user list")]
pub struct Account {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deactivated: bool,
    /// Owned by another application service: known only where it was asked for (S-102).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub foreign_service: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// An `mxc://` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Arc<str>>,
}

/// Whether an account exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence<'a> {
    Exists(&'a Account),
    Missing,
    Unknown,
}

impl Accounts {
    /// What is known of `user`'s account.
    #[must_use]
    pub fn presence(&self, user: &UserId) -> Presence<'_> {
        match self.people.get(user) {
            Some(account) => Presence::Exists(account),
            None if self.listed || self.absent.contains(user) => Presence::Missing,
            None => Presence::Unknown,
        }
    }

    /// Whether somebody is known to have an account that is in use: neither locked nor closed.
    #[must_use]
    pub fn are_open(&self, user: &UserId) -> bool {
        let in_use = |account: &Account| !account.locked && !account.deactivated;
        self.listed && self.people.get(user).is_some_and(in_use)
    }

    /// Takes in who the server admins are: all of them, as they are now.
    pub fn heed_admins(&mut self, admins: BTreeMap<UserId, Account>) {
        for (user, account) in self.people.iter_mut().filter(|(_, account)| account.admin) {
            account.admin = admins.contains_key(user);
        }
        self.people.extend(admins);
    }
}

/// One room's state, as far as usher reads it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    pub version: String,
    /// Sender of the create event and, from version 12 on, the additional creators.
    pub creators: BTreeSet<UserId>,
    /// Sender of the create event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<UserId>,
    /// The room this one replaced, as its create content says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<RoomId>,
    /// From the create content, if the bot made the room for this instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_for: Option<Key>,
    pub is_space: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<Marker>,
    /// Another instance of usher that has marked the room as its own, and its bot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// An `mxc://` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_rule: Option<JoinRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_access: Option<String>,
    /// `None`: the power level event is missing (a room whose creation was cut off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_levels: Option<PowerLevels>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<UserId, Member>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub children: BTreeMap<RoomId, Child>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parents: BTreeMap<RoomId, Parent>,
    /// Where the room's tombstone points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<RoomId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

impl Room {
    /// Whether usher made it, or people did to replace one that usher made.
    #[must_use]
    pub fn is_of_our_making(&self) -> bool {
        let replaces = |marker: &Marker| !marker.former.is_empty() && marker.original_creator.is_none();
        self.created_for.is_some() || self.marker.as_ref().is_some_and(replaces)
    }

    /// Whether it was ours and is managed no longer (S-41, S-42).
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.marker.as_ref().is_some_and(|marker| marker.abandoned)
    }

    /// Whether somebody stands above all levels (room version 12 and later).
    #[must_use]
    pub fn is_above_levels(&self, user: &UserId) -> bool {
        self.creators.contains(user) && creators_are_immutable(&self.version)
    }

    /// The level somebody has by the room's events; [`CREATOR`] for those above all levels.
    #[must_use]
    pub fn level_of(&self, user: &UserId) -> i64 {
        if self.is_above_levels(user) {
            return CREATOR;
        }
        self.power_levels.as_ref().map_or(0, |levels| levels.user_level(user))
    }
}

/// A level above all others, which is never written: a creator's, from room version 12 on.
pub const CREATOR: i64 = i64::MAX;

/// Whether creators stand above every level in rooms of this version, and may not be listed (12 and later).
#[must_use]
pub fn creators_are_immutable(version: &str) -> bool {
    version.parse::<u32>().is_ok_and(|version| version >= 12)
}

/// A person's place in a room. Only departures remember who caused them: that is what S-19 asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    Join,
    Invite,
    Knock,
    Leave {
        /// Sender of the event: the person themselves (left, declined), the bot (our kick), or somebody else.
        by: UserId,
        event: EventId,
    },
    Ban {
        by: UserId,
    },
}

impl Member {
    /// Joined or invited: the room shows in the person's list and a level may be kept for them (S-108).
    #[must_use]
    pub fn is_in(&self) -> bool {
        matches!(self, Self::Join | Self::Invite)
    }
}

/// `m.room.join_rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRule {
    /// `invite`, `restricted`, `knock_restricted`, `public`, …
    pub rule: String,
    /// Rooms whose members may join.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow: BTreeSet<RoomId>,
}

/// An `m.space.child` with a `via`: a link without one is no link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub via: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suggested: bool,
}

/// An `m.space.parent` with a `via`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub via: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canonical: bool,
}

/// Content of [`MARKER_TYPE`]: what this room is to which usher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub instance: String,
    pub key: Key,
    /// Slots of the rooms once made in this space: one that a moderator took out is not made again (S-30).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub made: BTreeSet<RoomSlot>,
    /// No longer managed: a space that was abandoned, a room that was released (S-41, S-42). Said here rather than by taking the marker
    /// away, because the create content names the key for ever, and what a crash leaves half given up must be found again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// The space was held additively when it was last looked at: it is left without kicks, also when nothing else remembers that (S-41).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub additive: bool,
    /// Whoever made the room before usher took it over (S-31).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_creator: Option<UserId>,
    /// Rooms that people replaced by this one, the latest and those before it (S-31).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former: BTreeSet<RoomId>,
    /// The room was adopted, and what that takes away from people is not decided yet: every removal needs an approval (S-81).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
}

/// JSON and YAML maps need text keys: a key is written as it is shown.
mod key_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::ids::{Key, RoomId};

    pub fn serialize<S: Serializer>(map: &BTreeMap<Key, RoomId>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Key, RoomId>, D::Error> {
        Ok(Vec::<(Key, RoomId)>::deserialize(deserializer)?.into_iter().collect())
    }
}
