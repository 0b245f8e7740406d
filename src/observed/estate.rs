//! What a locked person would leave behind: rooms that nobody else administers, and invitations that wait for them.
//!
//! Pure. Only rooms usher is not in; the others are in [`Observed::rooms`](super::Observed::rooms). What was not looked at has no entry.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Accounts, Member, PowerLevels, Presence, Room};
use crate::ids::{RoomId, Timestamp, UserId};

/// The event that says who administers a room.
const LEVELS: &str = "m.room.power_levels";
/// What the creator of a room without that event has.
const CREATORS_LEVEL: i64 = 100;

/// What was last seen of one person's places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estate {
    pub read_at: Timestamp,
    /// Rooms they administer, and nobody else did when they were looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<RoomId, Room>,
    /// Rooms they are invited to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub invited: BTreeSet<RoomId>,
}

/// What becomes of a room when somebody is gone from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heir {
    /// Somebody else administers it, or nobody is left to miss that.
    NotNeeded,
    /// It needs this administrator.
    Local(UserId),
    /// Only people of other homeservers are left, and none of them administers it.
    Nobody,
}

/// How far somebody's account can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Deactivated, or never there.
    Gone,
    /// Locked: they may come back.
    Locked,
    Works,
}

impl Room {
    /// What somebody may do here, also where no event says it.
    #[must_use]
    pub fn power_of(&self, user: &UserId) -> i64 {
        let level = self.level_of(user);
        if self.power_levels.is_none() && self.creators.contains(user) { level.max(CREATORS_LEVEL) } else { level }
    }

    /// Whether somebody can say who may do what here (S-86).
    #[must_use]
    pub fn is_administered_by(&self, user: &UserId) -> bool {
        let needed = self.power_levels.as_ref().map_or(CREATORS_LEVEL, |levels| levels.level_for_state(LEVELS));
        self.members.get(user) == Some(&Member::Join) && self.power_of(user) >= needed
    }

    /// Who must administer the room before `leaver` is gone from it: of its local members the one with the highest level, first by name
    /// among equals, and somebody who is locked only where there is nobody else. `barred` are accounts nobody is to rely on.
    #[must_use]
    pub fn heir_of(&self, leaver: &UserId, accounts: &Accounts, barred: &dyn Fn(&UserId) -> bool) -> Heir {
        if !self.is_administered_by(leaver) {
            return Heir::NotNeeded;
        }
        let local = |user: &UserId| user.server() == leaver.server();
        let usable = |user: &UserId| match accounts.presence(user) {
            _ if !local(user) => Use::Works,
            Presence::Exists(account) if account.deactivated => Use::Gone,
            Presence::Exists(account) if account.locked => Use::Locked,
            Presence::Exists(_) | Presence::Unknown => Use::Works,
            Presence::Missing => Use::Gone,
        };
        let joined = self.members.iter().filter(|(user, member)| **member == Member::Join && *user != leaver);
        let rest: Vec<(&UserId, Use)> =
            joined.map(|(user, _)| (user, usable(user))).filter(|(_, usable)| *usable != Use::Gone).collect();
        let administered = |wanted: Use| {
            rest.iter().any(|(user, usable)| *usable == wanted && self.is_administered_by(user) && !barred(user))
        };
        let strongest = |wanted: Use| {
            let able = rest.iter().rev().filter(|(user, usable)| *usable == wanted && local(user) && !barred(user));
            able.max_by_key(|(user, _)| self.power_of(user)).map(|(user, _)| Heir::Local((*user).clone()))
        };
        if rest.is_empty() || administered(Use::Works) {
            return Heir::NotNeeded;
        }
        if let Some(heir) = strongest(Use::Works) {
            return heir;
        }
        if administered(Use::Locked) {
            return Heir::NotNeeded;
        }
        strongest(Use::Locked).unwrap_or(Heir::Nobody)
    }

    /// What the homeserver does to the levels when one administrator hands over to another.
    pub(super) fn hand_over(&mut self, from: &UserId, to: &UserId) {
        let listed = self.power_levels.as_ref().and_then(|levels| levels.users.get(from)).copied();
        // A creator above all levels, or one of a room without levels, makes an administrator of 100.
        let given = listed.unwrap_or(CREATORS_LEVEL);
        self.power_levels.get_or_insert_with(PowerLevels::default).users.insert(to.clone(), given);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn room(members: &[(&str, i64)]) -> Room {
        let users: serde_json::Map<_, _> = members
            .iter()
            .filter(|(_, level)| *level > 0)
            .map(|(user, level)| ((*user).to_owned(), json!(level)))
            .collect();
        Room {
            version: "11".to_owned(),
            members: members.iter().map(|(user, _)| (UserId::from(*user), Member::Join)).collect(),
            power_levels: Some(PowerLevels::from_content(&json!({ "users": users, "events": { LEVELS: 100 } }))),
            ..Room::default()
        }
    }

    fn accounts(people: &[(&str, bool, bool)]) -> Accounts {
        let account = |locked, deactivated| crate::observed::Account {
            locked,
            deactivated,
            ..crate::observed::Account::default()
        };
        let people =
            people.iter().map(|(user, locked, deactivated)| (UserId::from(*user), account(*locked, *deactivated)));
        Accounts { listed: true, people: people.collect(), ..Accounts::default() }
    }

    fn heir(room: &Room, accounts: &Accounts) -> Heir {
        room.heir_of(&"@evan:x".into(), accounts, &|_| false)
    }

    #[test]
    fn the_strongest_who_can_log_in_follows_and_only_where_nobody_else_administers() {
        let all = accounts(&[
            ("@evan:x", true, false),
            ("@ann:x", false, false),
            ("@ben:x", false, false),
            ("@cid:x", true, false),
        ]);
        let local = |user: &str| Heir::Local(user.into());
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@ann:x", 0), ("@ben:x", 50)]), &all), local("@ben:x"));
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@ann:x", 50), ("@ben:x", 50)]), &all), local("@ann:x"), "by name");
        assert_eq!(
            heir(&room(&[("@evan:x", 100), ("@cid:x", 100), ("@ann:x", 0)]), &all),
            local("@ann:x"),
            "cid is locked"
        );
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@cid:x", 100)]), &all), Heir::NotNeeded, "cid may come back");
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@cid:x", 0)]), &all), local("@cid:x"));
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@ann:x", 100)]), &all), Heir::NotNeeded);
        assert_eq!(heir(&room(&[("@evan:x", 50), ("@ann:x", 0)]), &all), Heir::NotNeeded, "never administered it");
        assert_eq!(heir(&room(&[("@evan:x", 100)]), &all), Heir::NotNeeded, "nobody is left behind");
    }

    #[test]
    fn people_of_other_homeservers_keep_their_own_administrator_and_are_given_none() {
        let all = accounts(&[("@evan:x", true, false), ("@old:x", false, true)]);
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@far:y", 100)]), &all), Heir::NotNeeded);
        assert_eq!(heir(&room(&[("@evan:x", 100), ("@far:y", 50)]), &all), Heir::Nobody);
        assert_eq!(
            heir(&room(&[("@evan:x", 100), ("@old:x", 100)]), &all),
            Heir::NotNeeded,
            "only a closed account is left"
        );
    }

    #[test]
    fn a_creator_above_all_levels_makes_an_administrator_of_100() {
        let all = accounts(&[("@evan:x", true, false), ("@ann:x", false, false)]);
        let mut room = room(&[("@evan:x", 0), ("@ann:x", 0)]);
        assert_eq!(heir(&room, &all), Heir::NotNeeded);
        (room.version, room.creators) = ("12".to_owned(), ["@evan:x".into()].into());
        assert_eq!(heir(&room, &all), Heir::Local("@ann:x".into()));
        room.hand_over(&"@evan:x".into(), &"@ann:x".into());
        assert_eq!(heir(&room, &all), Heir::NotNeeded);
    }
}
