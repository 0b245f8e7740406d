//! Whose hand reaches whom (S-22): the bot's own, where it stands above somebody; else that person's, through the puppet registration;
//! else nobody's. And how the bot comes to stand above anybody in a room that people made.
//!
//! Never acts for a protected person (S-54).

use super::levels::{GUARD, GUARD_LEVEL};
use super::members::is_protected;
use super::{Action, Deed, Planner, RoomRef, Withheld};
use crate::config::V12Creators;
use crate::desired::Desired;
use crate::ids::UserId;
use crate::observed::{CREATOR, MARKER_TYPE, Member, Observed, PowerLevels, Presence, Room};
use std::sync::Arc;

/// Who can lower or remove somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    Bot,
    /// They themselves, acted for.
    Puppet,
    /// A creator who stands above all levels: nobody lowers them, they only leave.
    Creator,
    Nobody,
}

/// How the bot can get power in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// This person raises it; `None`: a creator, who stands above all levels.
    Puppet(UserId, Option<i64>),
    Admin,
    Missing(&'static str),
    /// No local person has the power.
    Nobody,
}

const NO_RUNG: &str = "make usher's sender a server admin (usher bootstrap), or set appservice.puppet_registration";
const PROTECTED: &str = "its administrators are protected users: make usher's sender a server admin (usher bootstrap), or raise the bot yourself";
pub(super) const EQUAL: &str = "somebody at the bot's own level is lowered or removed only as themselves: set appservice.puppet_registration, or lower them yourself";
const LEAVES: &str = "a creator only leaves as themselves: set appservice.puppet_registration";

impl Planner<'_> {
    /// Who can lower or remove `user`.
    pub(super) fn hand(&self, room: &Room, user: &UserId) -> Hand {
        if room.is_above_levels(user) {
            return Hand::Creator;
        }
        let bot = &self.observed.bot;
        let Some(levels) = room.power_levels.as_ref().filter(|_| !room.is_above_levels(bot)) else { return Hand::Bot };
        let (level, mut own) = (levels.user_level(user), levels.user_level(bot));
        if room.members.get(bot) != Some(&Member::Join) {
            // What follows when it has entered with power.
            own = own.max(GUARD_LEVEL);
        }
        // Where the bot has lost its power nothing it does succeeds, whomever it is done to.
        if level < own || own < GUARD_LEVEL {
            Hand::Bot
        } else if self.may_puppet(user) {
            Hand::Puppet
        } else {
            Hand::Nobody
        }
    }

    /// Whether usher may act as `user`, as far as the plan can tell; the registration and the homeserver have the last word.
    pub(super) fn may_puppet(&self, user: &UserId) -> bool {
        self.desired.puppets && may_be_acted_for(self.desired, self.observed, user) && !self.is_suspended(user)
    }

    /// How somebody is taken out of a room, and what stands against it.
    pub(super) fn removal_by(
        &self,
        hand: Hand,
        here: &RoomRef,
        (user, text): (&UserId, Arc<str>),
    ) -> (Action, Option<Withheld>) {
        let (room, user) = (here.clone(), user.clone());
        let leaves = |text| Action::Puppet { room: room.clone(), user: user.clone(), deed: Deed::Leave { text } };
        match (hand, self.desired.provisioner.v12_creators) {
            (Hand::Bot, _) => (Action::Kick { room, user, text }, None),
            (Hand::Puppet, _) => (leaves(text), None),
            (Hand::Creator, V12Creators::Remove) if self.may_puppet(&user) => (leaves(text), None),
            (Hand::Creator, V12Creators::Remove) => (leaves(text), Some(Withheld::MissingRight(LEAVES))),
            (Hand::Creator, V12Creators::Tolerate) => {
                (Action::Kick { room, user, text }, Some(Withheld::Policy("v12_creators: tolerate")))
            }
            (Hand::Creator, V12Creators::Upgrade) => {
                let why = "v12_creators: upgrade; a creator can be removed once the room is upgraded";
                (Action::Kick { room, user, text }, Some(Withheld::Policy(why)))
            }
            (Hand::Nobody, _) => (Action::Kick { room, user, text }, Some(Withheld::MissingRight(EQUAL))),
        }
    }

    /// Whether the join rule admits the members of a space the bot knows from inside.
    pub(super) fn admits_from_inside(&self, room: &Room) -> bool {
        let mut spaces = room.join_rule.iter().flat_map(|rule| &rule.allow);
        spaces.any(|space| self.observed.rooms.contains_key(space))
    }

    /// Whether the bot can administer a room it is in.
    pub(super) fn commands(&self, room: &Room) -> bool {
        let bot = &self.observed.bot;
        room.is_above_levels(bot)
            || room.power_levels.as_ref().is_some_and(|levels| levels.user_level(bot) >= needed(levels))
    }

    /// How the bot gets what it takes to administer a room whose whole state is known.
    pub(super) fn way_to_power(&self, room: &Room) -> Way {
        let fallback = PowerLevels::default();
        let levels = room.power_levels.as_ref().unwrap_or(&fallback);
        let needed = needed(levels);
        let joined = room.members.iter().filter(|(_, member)| **member == Member::Join).map(|(user, _)| user);
        let local = joined.filter(|user| user.server() == self.observed.server && **user != self.observed.bot);
        let able: Vec<(&UserId, i64)> =
            local.map(|user| (user, room.level_of(user))).filter(|(_, power)| *power >= needed).collect();
        if able.is_empty() {
            return Way::Nobody;
        }
        // The room's maker first: their own level is set by the same event.
        let first = |user: &UserId| room.made_by.as_ref() == Some(user);
        let suitable = able.iter().filter(|(user, _)| self.may_puppet(user));
        if let Some((user, power)) =
            suitable.max_by_key(|(user, power)| (first(user), *power, std::cmp::Reverse(*user)))
        {
            return Way::Puppet((*user).clone(), Some(*power).filter(|power| *power != CREATOR));
        }
        // The admin API gives what a listed person has, and a creator's bot 100.
        let given = |(user, power): &(&UserId, i64)| {
            let listed = levels.users.contains_key(*user);
            if *power == CREATOR {
                GUARD_LEVEL
            } else if listed {
                *power
            } else {
                0
            }
        };
        match able.iter().map(given).max() {
            Some(given) if self.observed.accounts.listed && given >= needed => Way::Admin,
            Some(_) | None if self.desired.puppets => Way::Missing(PROTECTED),
            Some(_) | None => Way::Missing(NO_RUNG),
        }
    }

    /// Whether there is any way at all, whatever the room.
    pub(super) fn without_means(&self) -> Option<Withheld> {
        let means = self.desired.puppets || self.observed.accounts.listed;
        (!means).then_some(Withheld::MissingRight(NO_RUNG))
    }
}

/// What it takes to administer a room: to own its levels and to leave a marker.
pub(super) fn needed(levels: &PowerLevels) -> i64 {
    GUARD_LEVEL.max(levels.level_for_state(GUARD)).max(levels.level_for_state(MARKER_TYPE))
}

/// Whether somebody lets in who the join rule admits: a local person who may invite.
pub(super) fn admits(observed: &Observed, room: &Room) -> bool {
    let fallback = PowerLevels::default();
    let levels = room.power_levels.as_ref().unwrap_or(&fallback);
    let mut inside = room.members.iter().filter(|(_, member)| **member == Member::Join).map(|(user, _)| user);
    inside.any(|user| user.server() == observed.server && room.level_of(user) >= levels.key("invite"))
}

/// Neither protected nor without a working account.
fn may_be_acted_for(desired: &Desired, observed: &Observed, user: &UserId) -> bool {
    let usable = match observed.accounts.presence(user) {
        Presence::Exists(account) => !account.deactivated && !account.locked,
        Presence::Missing => false,
        Presence::Unknown => true,
    };
    usable && user.server() == observed.server && !is_protected(desired, observed, user)
}
