//! Power levels (S-13, S-21): effective levels are compared and repaired in one write per room.

use std::collections::BTreeMap;

use serde_json::Value;

use super::members::{Moves, is_protected};
use super::{Action, Class, Lesson, LevelChange, Note, Planner, Reason, RoomRef, Step, Withheld};
use crate::config::Enforce;
use crate::desired::{DesiredRoom, Rule};
use crate::ids::{Key, UserId};
use crate::observed::{PowerLevels, Room};

/// The bot's level in rooms below version 12: above every configured one.
pub(super) const BOT: i64 = 150;
/// Largest content written, in bytes of JSON; an event may have 65 536 in all (S-21).
const LARGEST_CONTENT: usize = 60_000;
/// The event type whose own level guards all others.
const GUARD: &str = "m.room.power_levels";
/// What it takes to change levels.
const GUARD_LEVEL: i64 = 100;

/// From version 12 on creators stand above every level and may not be listed.
pub(super) fn creators_are_immutable(version: &str) -> bool {
    version.parse::<u32>().is_ok_and(|version| version >= 12)
}

/// The homeserver's default level for `m.room.tombstone`.
pub(super) fn tombstone(version: &str) -> i64 {
    if creators_are_immutable(version) { 150 } else { 100 }
}

/// What is being compared for one room.
struct Comparison<'c> {
    wanted: &'c DesiredRoom,
    room: &'c Room,
    rule: &'c Rule,
    moves: &'c Moves,
    enforce: Enforce,
}

impl<'a> Planner<'a> {
    pub(super) fn levels(
        &mut self,
        wanted: &'a DesiredRoom,
        here: &RoomRef,
        room: &'a Room,
        (rule, moves): (&Rule, &Moves),
    ) {
        let id = match here {
            RoomRef::Id(id) => Some(id),
            RoomRef::New(_) => None,
        };
        let enforce = self.enforce(wanted, id);
        let comparison = Comparison { wanted, room, rule, moves, enforce };
        let current = room.power_levels.clone().unwrap_or_default();
        let (mut next, changes) = self.compare(&comparison, &current);
        if changes.is_empty() && room.power_levels.is_some() {
            return;
        }
        let (content, dropped) = self.fit(&comparison, &mut next);
        if dropped > 0 {
            self.note(Note::LevelsDoNotFit { place: wanted.key.clone(), dropped });
        }
        if room.power_levels.as_ref() == Some(&next) {
            return;
        }
        let reason = match changes.as_slice() {
            [] => Reason::Structure("completes a room whose making was cut off"),
            [only] => only.reason.clone(),
            _ => Reason::LevelRule,
        };
        let action = Action::SetPowerLevels { room: here.clone(), content, changes };
        let withheld = (enforce == Enforce::Observe).then_some(Withheld::Policy("enforce: observe"));
        self.push(Step { action, reason, place: Some(wanted.key.clone()), withheld, removal: None });
    }

    /// The levels that should stand, and what that changes.
    fn compare(&self, at: &Comparison<'_>, current: &PowerLevels) -> (PowerLevels, Vec<LevelChange>) {
        let mut next = current.clone();
        let mut changes = Vec::new();
        if current.level_for_state(GUARD) < GUARD_LEVEL {
            next.set_event(GUARD, GUARD_LEVEL);
            changes.push(LevelChange {
                user: None,
                key: Some(GUARD.to_owned()),
                from: current.level_for_state(GUARD),
                to: GUARD_LEVEL,
                reason: Reason::Structure("only those at 100 may change levels"),
                removal: None,
            });
        }
        let bot = &self.observed.bot;
        if !creators_are_immutable(&at.room.version)
            && current.user_level(bot) < GUARD_LEVEL
            && at.room.power_levels.is_none()
        {
            next.users.insert(bot.clone(), BOT);
        }
        for (user, from) in &current.users {
            if at.room.creators.contains(user) || self.is_left_alone(at, user) {
                continue;
            }
            let (to, reason) = self.target(at, user, *from, current.users_default());
            if to == *from {
                continue;
            }
            if to == current.users_default() {
                next.users.remove(user);
            } else {
                next.users.insert(user.clone(), to);
            }
            changes.push(self.change(at, user, (*from, to), reason));
        }
        for (user, right) in &at.rule.members {
            let listed = current.users.contains_key(user) || at.room.creators.contains(user);
            if listed || right.level == current.users_default() || !is_here(at, user) || self.is_suspended(user) {
                continue;
            }
            let raised = right.level > current.users_default();
            if !raised && (is_protected(self.desired, self.observed, user) || at.enforce != Enforce::Strict) {
                continue;
            }
            next.users.insert(user.clone(), right.level);
            changes.push(self.change(at, user, (current.users_default(), right.level), self.desired.reason(right)));
        }
        (next, changes)
    }

    /// Levels that are nobody's business here: the bot's, other homeservers' people's, undecided people's.
    fn is_left_alone(&self, at: &Comparison<'_>, user: &UserId) -> bool {
        let ours = *user == self.observed.bot || *user == self.observed.sender;
        let undecided = self.is_suspended(user) && at.room.members.get(user).is_none_or(|member| member.is_in());
        ours || user.server() != self.observed.server || undecided
    }

    /// The level somebody listed should have.
    fn target(&self, at: &Comparison<'_>, user: &UserId, from: i64, default: i64) -> (i64, Reason) {
        let mild = at.enforce != Enforce::Strict || is_protected(self.desired, self.observed, user);
        let (to, reason) = match at.rule.members.get(user) {
            Some(right) if is_here(at, user) => {
                let explained = if right.level > from { self.desired.reason(right) } else { Reason::LevelRule };
                (right.level, explained)
            }
            // Somebody who stays without being entitled is withheld from kicking: their level goes with the same decision.
            _ if is_here(at, user) && at.rule.blind.is_some() => (from, Reason::LevelRule),
            _ if is_here(at, user) => (default, Reason::LevelRule),
            _ => (default, Reason::NotInRoom),
        };
        if mild { (to.max(from), reason) } else { (to, reason) }
    }

    fn change(&self, at: &Comparison<'_>, user: &UserId, (from, to): (i64, i64), reason: Reason) -> LevelChange {
        let removal = (to < from && is_here(at, user)).then(|| {
            let remembered = self.ledger.entitled.get(&at.wanted.rule_key).map(|levels| levels.get(user).copied());
            let mut removal = self.removal(at.wanted, user, Class::Demotions);
            // Somebody raised by a human beyond what the directory ever gave is put right, not demoted by the directory.
            removal.counts = remembered.is_none_or(|level| level.is_some_and(|level| level > to));
            removal
        });
        LevelChange { user: Some(user.clone()), key: None, from, to, reason, removal }
    }

    /// Makes the list fit one event: the lowest level all entitled people have becomes the default, with strangers listed below it;
    /// what still does not fit is left out, lowest first (S-21).
    fn fit(&self, at: &Comparison<'_>, next: &mut PowerLevels) -> (Value, u64) {
        let content = next.content();
        if size(&content) <= LARGEST_CONTENT {
            return (content, 0);
        }
        let closed = at.room.join_rule.as_ref().is_some_and(|rule| rule.rule != "public");
        let lowest = at.rule.members.values().map(|right| right.level).min().unwrap_or(0);
        if closed && lowest > 0 {
            let before = next.clone();
            let strangers = at
                .room
                .members
                .iter()
                .filter(|(user, member)| member.is_in() && !at.rule.members.contains_key(*user))
                .map(|(user, _)| (user.clone(), before.user_level(user)))
                .filter(|(user, _)| !at.room.creators.contains(user));
            let listed: BTreeMap<UserId, i64> = strangers.chain(std::mem::take(&mut next.users)).collect();
            next.users = listed.into_iter().filter(|(_, level)| *level != lowest).collect();
            next.set_key("users_default", lowest);
        }
        let mut dropped = 0;
        let mut by_level: Vec<(i64, UserId)> = next.users.iter().map(|(user, level)| (*level, user.clone())).collect();
        by_level.sort();
        for (_, user) in by_level.into_iter().filter(|(_, user)| *user != self.observed.bot) {
            if size(&next.content()) <= LARGEST_CONTENT {
                break;
            }
            // Drop in proportion to the excess rather than one by one, each of which costs a serialisation.
            next.users.remove(&user);
            dropped += 1;
        }
        (next.content(), dropped)
    }

    /// What to remember of this pass: rights per rule, group memberships, the mode.
    pub(super) fn lessons(&mut self) {
        let mut rules: BTreeMap<&Key, &DesiredRoom> = BTreeMap::new();
        for room in &self.desired.rooms {
            rules.entry(&room.rule_key).or_insert(room);
        }
        for (key, wanted) in rules {
            let before = self.ledger.entitled.get(key);
            // Half a rule is no memory to judge people by: they would look like intruders later, whom no limit counts.
            if before.is_none() && (!self.desired.complete || wanted.rule.blind.is_some()) {
                continue;
            }
            let mut levels: BTreeMap<UserId, i64> =
                wanted.rule.members.iter().map(|(user, right)| (user.clone(), right.level)).collect();
            for (user, level) in before.iter().flat_map(|levels| levels.iter()) {
                if self.still_has(key, user, *level) || !self.desired.complete {
                    let known = levels.entry(user.clone()).or_insert(*level);
                    *known = (*known).max(*level);
                }
            }
            if before.is_none_or(|before| **before != levels) {
                self.plan.lessons.push(Lesson::Entitled { key: key.clone(), levels: levels.into() });
            }
        }
        for (external_id, memory) in &self.desired.groups {
            if self.ledger.groups.get(external_id) != Some(memory) {
                self.plan.lessons.push(Lesson::Group { external_id: external_id.clone(), memory: memory.clone() });
            }
        }
        if self.ledger.mirrored != Some(self.desired.mirrored) {
            self.plan.lessons.push(Lesson::Mode { mirrored: self.desired.mirrored });
        }
    }

    /// Whether somebody still has, in a room of this rule, what the rule may no longer give them.
    fn still_has(&self, rule_key: &Key, user: &UserId, level: i64) -> bool {
        self.desired.rooms.iter().filter(|room| room.rule_key == *rule_key).any(|room| {
            let there = self.located.get(&room.key).and_then(|id| self.observed.rooms.get(*id));
            there.is_some_and(|there| {
                let inside = there.members.get(user).is_some_and(crate::observed::Member::is_in);
                let listed = there.power_levels.as_ref().map_or(0, |levels| levels.user_level(user));
                let entitled = room.rule.members.contains_key(user);
                inside && (!entitled || listed >= level && level > 0)
            })
        })
    }
}

/// In the room once the plan is done.
fn is_here(at: &Comparison<'_>, user: &UserId) -> bool {
    let inside = at.room.members.get(user).is_some_and(crate::observed::Member::is_in);
    (inside && !at.moves.kicked.contains(user)) || at.moves.invited.contains(user)
}

fn size(content: &Value) -> usize {
    content.to_string().len()
}
