//! Power levels (S-13, S-21): effective levels are compared and repaired in one write per room.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::gc;
use super::members::{Moves, Remembered, is_protected};
use super::reach::{EQUAL, Hand};
use super::{Action, Class, Deed, Lesson, LevelChange, Note, Planner, Reason, Removal, RoomRef, Step, Withheld};
use crate::config::Enforce;
use crate::desired::{DesiredRoom, Rule};
use crate::ids::{Key, RoomId, UserId};
use crate::ledger::TOLERATED;
use crate::observed::{Member, PowerLevels, Room, creators_are_immutable};

/// The bot's level in rooms below version 12: above every configured one.
pub(super) const BOT: i64 = 150;
/// Largest content written, in bytes of JSON; an event may have 65 536 in all (S-21).
const LARGEST_CONTENT: usize = 60_000;
/// Quotes, colon and comma of one entry in JSON.
const ENTRY_PUNCTUATION: usize = 4;
/// The event type that ends a room.
pub(super) const TOMBSTONE: &str = "m.room.tombstone";
/// The event type whose own level guards all others.
pub(super) const GUARD: &str = "m.room.power_levels";
/// What it takes to change levels.
pub(super) const GUARD_LEVEL: i64 = 100;

/// The homeserver's default level for `m.room.tombstone`.
pub(super) fn tombstone(version: &str) -> i64 {
    if creators_are_immutable(version) { 150 } else { 100 }
}

/// What the directory gives to those who have no right in a room.
const STRANGER: i64 = 0;

/// What is being compared for one room.
struct Comparison<'c> {
    wanted: &'c DesiredRoom,
    id: Option<&'c RoomId>,
    room: &'c Room,
    rule: &'c Rule,
    moves: &'c Moves,
    enforce: Enforce,
    /// Level of people who are not named, now and as it should be.
    default: (i64, i64),
}

/// What came of a comparison.
struct Verdict {
    next: PowerLevels,
    changes: Vec<LevelChange>,
    /// Demotions that are not done.
    spared: Vec<LevelChange>,
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
        let current = match &room.power_levels {
            Some(levels) => Cow::Borrowed(levels),
            None => Cow::Owned(self.level_frame(wanted, &room.version)),
        };
        let now = current.users_default();
        // An additive room's people keep what they have, and so do those who come.
        let default = (now, if enforce == Enforce::Additive { now.max(0) } else { 0 });
        let at = Comparison { wanted, id, room, rule, moves, enforce, default };
        let Verdict { mut next, mut changes, spared } = self.compare(&at, &current);
        let far = self.out_of_reach(&at, &current, (&mut next, &mut changes));
        let dropped = at.fit(&mut next, &self.observed.bot);
        if dropped > 0 {
            self.note(Note::LevelsDoNotFit { place: wanted.key.clone(), dropped });
        }
        if !spared.is_empty() {
            self.spare(&at, here, &next, spared);
        }
        let lowered = self.step_down(&at, here, &current, far);
        if room.power_levels.as_ref() == Some(&next) {
            return;
        }
        for (user, level) in lowered {
            put(&mut next, &user, level);
        }
        if next.users_default() != now {
            let reason = Reason::Structure("the level of everybody who is not named");
            changes.push(key_change("users_default", (now, next.users_default()), reason));
        }
        let reason = match changes.as_slice() {
            [] if room.power_levels.is_some() => Reason::Structure("the same levels, listed another way"),
            [] => Reason::Structure("completes a room whose making was cut off"),
            [only] => only.reason.clone(),
            _ => Reason::LevelRule,
        };
        let action = Action::SetPowerLevels { room: here.clone(), content: next.content(), changes };
        let withheld = (enforce == Enforce::Observe).then_some(Withheld::Policy("enforce: observe"));
        self.push(Step { action, reason, place: Some(wanted.key.clone()), withheld, removal: None });
    }

    /// Demotions that an additive room does without, shown beside what it does (S-20).
    fn spare(&mut self, at: &Comparison<'_>, here: &RoomRef, next: &PowerLevels, spared: Vec<LevelChange>) {
        let mut strict = next.clone();
        strict.users.extend(spared.iter().filter_map(|change| Some((change.user.clone()?, change.to))));
        let reason = if let [only] = spared.as_slice() { only.reason.clone() } else { Reason::LevelRule };
        let action = Action::SetPowerLevels { room: here.clone(), content: strict.content(), changes: spared };
        let withheld = Some(Withheld::Policy("enforce: additive"));
        self.push(Step { action, reason, place: Some(at.wanted.key.clone()), withheld, removal: None });
    }

    /// Changes of people at the bot's own level or above, which it cannot make: taken out of what it writes.
    fn out_of_reach(
        &self,
        at: &Comparison<'_>,
        current: &PowerLevels,
        (next, changes): (&mut PowerLevels, &mut Vec<LevelChange>),
    ) -> Vec<(UserId, LevelChange)> {
        let mut far = Vec::new();
        changes.retain(|change| {
            let Some(user) = change.user.as_ref().filter(|user| current.users.contains_key(*user)) else { return true };
            let near = self.hand(at.room, user) == Hand::Bot;
            if !near {
                next.users.insert(user.clone(), change.from);
                far.push((user.clone(), change.clone()));
            }
            near
        });
        far
    }

    /// Those people lower themselves, one event each, where usher may act as them (S-22); else it is shown. Hands back who does. Somebody
    /// who is no longer in the room can do nothing there, and neither can the bot.
    fn step_down(
        &mut self,
        at: &Comparison<'_>,
        here: &RoomRef,
        current: &PowerLevels,
        far: Vec<(UserId, LevelChange)>,
    ) -> Vec<(UserId, i64)> {
        let mut next = current.clone();
        let mut lowered = Vec::new();
        for (user, change) in far {
            if at.room.members.get(&user) != Some(&Member::Join) {
                continue;
            }
            let observed = (at.enforce == Enforce::Observe).then_some(Withheld::Policy("enforce: observe"));
            let (reason, removal) = (change.reason.clone(), change.removal.clone().map(Box::new));
            let acts = self.hand(at.room, &user) == Hand::Puppet;
            let mut then = next.clone();
            put(&mut then, &user, change.to);
            let content = then.content();
            let (room, changes) = (here.clone(), vec![change.clone()]);
            let (action, barred) = if acts {
                let deed = Deed::SetLevels { content, changes };
                (Action::Puppet { room, user: user.clone(), deed }, None)
            } else {
                (Action::SetPowerLevels { room, content, changes }, Some(Withheld::MissingRight(EQUAL)))
            };
            let withheld = observed.or(barred);
            if withheld.is_none() {
                next = then;
                lowered.push((user, change.to));
            }
            self.push(Step { action, reason, place: Some(at.wanted.key.clone()), withheld, removal });
        }
        lowered
    }

    /// The levels that should stand, and what that changes.
    fn compare(&self, at: &Comparison<'_>, current: &PowerLevels) -> Verdict {
        let mut next = current.clone();
        let (mut changes, mut spared) = (Vec::new(), Vec::new());
        let guard = current.level_for_state(GUARD);
        if guard < GUARD_LEVEL {
            next.set_event(GUARD, GUARD_LEVEL);
            let reason = Reason::Structure("only those at 100 may change levels");
            changes.push(key_change(GUARD, (guard, GUARD_LEVEL), reason));
        }
        changes.extend(self.tighten(at.wanted, at.room, &mut next));
        let (default, base) = at.default;
        if base != default {
            next.set_key("users_default", base);
        }
        let unnamed = |user: &UserId| !current.users.contains_key(user) && !at.room.is_above_levels(user);
        // Whoever has the old default without being named: keeps it where it is not ours to take, else is judged.
        let (mut keep, mut judge) = (Vec::new(), Vec::new());
        if base != default {
            let inside = at.room.members.iter().filter(|(_, member)| member.is_in()).map(|(user, _)| user);
            let all = inside.chain(&at.moves.invited).filter(|user| unnamed(user));
            (keep, judge) = all.partition(|user| self.is_left_alone(user));
        }
        // The default that an overflowing list made is no right of strangers (S-21).
        let overflowed = common_level(at.rule) == Some(default);
        keep.retain(|user| !(overflowed && user.server() != self.observed.server));
        next.users.extend(keep.into_iter().map(|user| (user.clone(), default)));
        let mut settle = |user: &UserId, from: i64| {
            let (wanted, reason) = self.target(at, user, from);
            let keeps = at.enforce == Enforce::Additive && wanted < from;
            let to = if keeps { from } else { wanted };
            if keeps {
                spared.push(LevelChange { removal: None, ..self.change(at, user, (from, wanted), reason.clone()) });
            }
            if to == base {
                next.users.remove(user);
            } else if next.users.get(user) != Some(&to) {
                next.users.insert(user.clone(), to);
            }
            if to != from {
                changes.push(self.change(at, user, (from, to), reason));
            }
        };
        for (user, from) in &current.users {
            if !at.room.is_above_levels(user) && !self.is_left_alone(user) {
                settle(user, *from);
            }
        }
        for (user, right) in at.rule.members.iter() {
            let decided = right.level == default && base == default;
            if !decided && unnamed(user) && at.has(user) && !self.is_left_alone(user) {
                settle(user, default);
            }
        }
        for user in judge.into_iter().filter(|user| !at.rule.members.contains_key(user)) {
            settle(user, default);
        }
        Verdict { next, changes, spared }
    }

    /// Levels that are nobody's business here: the bot's, other homeservers' people's, undecided people's.
    fn is_left_alone(&self, user: &UserId) -> bool {
        let ours = *user == self.observed.bot || *user == self.observed.sender;
        ours || user.server() != self.observed.server || self.is_suspended(user)
    }

    /// The level somebody should have who has `from`.
    fn target(&self, at: &Comparison<'_>, user: &UserId, from: i64) -> (i64, Reason) {
        let (to, reason) = match at.rule.members.get(user) {
            Some(right) if at.has(user) => {
                let explained = if right.level > from { self.desired.reason(right) } else { Reason::LevelRule };
                (right.level, explained)
            }
            // Somebody who stays without being entitled is withheld from kicking: their level goes with the same decision.
            _ if at.has(user) && at.rule.blind.is_some() => (from, Reason::LevelRule),
            _ if at.has(user) => (STRANGER, Reason::LevelRule),
            _ => (STRANGER, Reason::NotInRoom),
        };
        let lowers = to < from;
        if lowers && is_protected(self.desired, self.observed, user) { (from, reason) } else { (to, reason) }
    }

    fn change(&self, at: &Comparison<'_>, user: &UserId, (from, to): (i64, i64), reason: Reason) -> LevelChange {
        let inside = at.room.members.get(user).is_some_and(Member::is_in);
        let removal = (to < from && inside).then(|| {
            if let Some(counts) = at.moves.kicked.get(user) {
                // Goes with the kick: held where that is held.
                return Removal { counts: *counts, ..self.removal(at.wanted, user, Class::KicksPerSpace) };
            }
            // Somebody raised by a human beyond what the directory ever gave is put right, not demoted by the directory.
            let counts = match self.remembered(at.wanted, at.id, user) {
                Remembered::NewRule | Remembered::Tolerated => true,
                Remembered::Nothing => self.is_first_enforcement(at.wanted),
                Remembered::Level(level) => level > to,
            };
            Removal { counts, ..self.removal(at.wanted, user, Class::Demotions) }
        });
        LevelChange { user: Some(user.clone()), key: None, from, to, reason, removal }
    }

    /// What to remember of this pass: rights per rule, group memberships, the mode.
    pub(super) fn lessons(&mut self) {
        let mut rules: BTreeMap<&Key, Vec<&DesiredRoom>> = BTreeMap::new();
        for room in &self.desired.rooms {
            rules.entry(&room.rule_key).or_default().push(room);
        }
        let mut kept: BTreeMap<&Key, Vec<(&UserId, i64)>> = BTreeMap::new();
        for step in self.plan.steps.iter().filter(|step| step.withheld.is_some()) {
            let Some(place) = &step.place else { continue };
            kept.entry(place).or_default().extend(keeps(step));
        }
        let mut lessons = Vec::new();
        for (key, rooms) in rules {
            let members = &rooms[0].rule.members;
            let before = self.ledger.entitled.get(key);
            // Half a rule is no memory to judge people by: they would look like intruders later, whom no limit counts.
            if before.is_none() && (!self.desired.complete || rooms[0].rule.blind.is_some()) {
                continue;
            }
            let now = members.iter().map(|(user, right)| (user, right.level));
            let tolerated = self.tolerated(&rooms, before.is_none(), &kept);
            let same = before.is_some_and(|before| before.iter().map(|(user, level)| (user, *level)).eq(now.clone()));
            if same && tolerated.is_empty() {
                continue;
            }
            let mut levels: BTreeMap<UserId, i64> = now.map(|(user, level)| (user.clone(), level)).collect();
            for (user, level) in before.iter().flat_map(|levels| levels.iter()) {
                let less = members.get(user).is_none_or(|right| right.level < *level);
                if less && (!self.desired.complete || self.still_has(&rooms, user, *level)) {
                    levels.insert(user.clone(), *level);
                }
            }
            for (user, level) in tolerated {
                let known = levels.entry(user).or_insert(level);
                *known = level.max(*known);
            }
            if before.is_none_or(|before| **before != levels) {
                lessons.push(Lesson::Entitled { key: key.clone(), levels: levels.into() });
            }
        }
        self.plan.lessons.extend(lessons);
        self.forget_vanished();
        for (external_id, memory) in &self.desired.groups {
            if self.ledger.groups.get(external_id) != Some(memory) {
                self.plan.lessons.push(Lesson::Group { external_id: external_id.clone(), memory: memory.clone() });
            }
        }
        if self.ledger.mirrored != Some(self.desired.mirrored) {
            self.plan.lessons.push(Lesson::Mode { mirrored: self.desired.mirrored });
        }
    }

    /// Who stays, or stays as strong, without a right: in rooms that are not held strictly, and, where nobody could change it, in rooms
    /// of a rule that was never enforced (`new`) or that were adopted.
    fn tolerated(
        &self,
        rooms: &[&DesiredRoom],
        new: bool,
        kept: &BTreeMap<&Key, Vec<(&UserId, i64)>>,
    ) -> BTreeMap<UserId, i64> {
        let mild = |room: &DesiredRoom| {
            self.enforce(room, self.located.get(&room.key).copied()) != Enforce::Strict || self.is_fresh(room)
        };
        let places = rooms.iter().filter_map(|room| Some((*room, kept.get(&room.key)?)));
        let people = places.filter(|(room, _)| new || mild(room)).flat_map(|(_, people)| people);
        let members = &rooms[0].rule.members;
        people
            .map(|(user, level)| ((*user).clone(), if members.contains_key(user) { *level } else { TOLERATED }))
            .collect()
    }

    /// Rights in what is neither wanted nor there any more, in a room of whatever standing, are remembered no longer.
    fn forget_vanished(&mut self) {
        if !self.desired.complete || !self.observed.unread.is_empty() {
            return;
        }
        let rooms = self.observed.rooms.values().chain(self.observed.outside.values());
        let there: BTreeSet<&Key> = rooms.filter_map(gc::kept).collect();
        let rules: BTreeSet<&Key> = self.desired.rooms.iter().map(|room| &room.rule_key).collect();
        let vanished = self.ledger.entitled.keys().filter(|key| {
            let wanted = rules.contains(key) || self.wanted(key).is_some() || self.renamed(key).is_some();
            !wanted && !there.contains(key) && !self.desired.undecided.contains(key.space())
        });
        let lessons: Vec<Lesson> = vanished.map(|key| Lesson::Vanished(key.clone())).collect();
        self.plan.lessons.extend(lessons);
    }

    /// Whether somebody still has, in one of these rooms of one rule, what the rule may no longer give them.
    fn still_has(&self, rooms: &[&DesiredRoom], user: &UserId, level: i64) -> bool {
        rooms.iter().any(|room| {
            let there = self.located.get(&room.key).and_then(|id| self.observed.rooms.get(*id));
            there.is_some_and(|there| {
                let inside = there.members.get(user).is_some_and(Member::is_in);
                let listed = there.power_levels.as_ref().map_or(0, |levels| levels.user_level(user));
                let entitled = room.rule.members.contains_key(user);
                inside && (!entitled || listed >= level && level > 0)
            })
        })
    }
}

/// Whom a step that is withheld leaves what they have, and at what level.
fn keeps(step: &Step) -> impl Iterator<Item = (&UserId, i64)> {
    let removed = step.action.user().filter(|_| step.removal.is_some()).map(|user| (user, TOLERATED));
    let lowered = step.action.level_changes().iter().filter(|change| change.removal.is_some());
    removed.into_iter().chain(lowered.filter_map(|change| Some((change.user.as_ref()?, change.from))))
}

impl Comparison<'_> {
    /// Whether somebody is in the room once the plan is done.
    fn has(&self, user: &UserId) -> bool {
        let inside = self.room.members.get(user).is_some_and(Member::is_in);
        (inside && !self.moves.kicked.contains_key(user)) || self.moves.invited.binary_search(user).is_ok()
    }

    /// Makes the list fit one event; how many levels were left out.
    fn fit(&self, next: &mut PowerLevels, bot: &UserId) -> u64 {
        let closed = self.room.join_rule.as_ref().is_some_and(|rule| rule.rule != "public");
        // Those who are about to be removed too: the removal may be held.
        let strangers = || {
            let inside = self.room.members.iter().filter(|(_, member)| member.is_in()).map(|(user, _)| user);
            let unentitled = inside.filter(|user| !self.rule.members.contains_key(user));
            unentitled.filter(|user| !self.room.is_above_levels(user)).cloned().collect()
        };
        fit(next, common_level(self.rule).filter(|_| closed), strangers, bot)
    }
}

/// The level that all entitled people have at least, where that is more than nothing.
pub(super) fn common_level(rule: &Rule) -> Option<i64> {
    rule.members.values().map(|right| right.level).min().filter(|level| *level > 0)
}

/// Makes the list fit one event: the lowest level all entitled people have becomes the default, with `strangers` listed below it; what
/// still does not fit is left out, lowest first (S-21). Says how many levels were left out.
pub(super) fn fit(
    next: &mut PowerLevels,
    common: Option<i64>,
    strangers: impl FnOnce() -> BTreeSet<UserId>,
    bot: &UserId,
) -> u64 {
    // Rough, and never less than what is written: most lists are short, and writing them out only to measure them costs.
    let rough = 120 * next.users.len();
    if rough <= LARGEST_CONTENT / 2 || size(&next.content()) <= LARGEST_CONTENT {
        return 0;
    }
    if let Some(common) = common {
        let mut listed: BTreeMap<UserId, i64> =
            strangers().into_iter().map(|user| (user.clone(), next.user_level(&user))).collect();
        listed.append(&mut next.users);
        next.users = listed.into_iter().filter(|(_, level)| *level != common).collect();
        next.set_key("users_default", common);
    }
    let default = next.users_default();
    let mut excess = size(&next.content()).saturating_sub(LARGEST_CONTENT);
    let mut by_level: Vec<(i64, UserId)> = next.users.iter().map(|(user, level)| (*level, user.clone())).collect();
    by_level.sort();
    let mut dropped = 0;
    // Whoever is listed below the default stays listed: leaving them out would raise them.
    for (level, user) in by_level.into_iter().filter(|(level, user)| *level > default && user != bot) {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(user.as_str().len() + level.to_string().len() + ENTRY_PUNCTUATION);
        next.users.remove(&user);
        dropped += 1;
    }
    dropped
}

/// Gives somebody a level: none of their own where everybody has it.
pub(super) fn put(levels: &mut PowerLevels, user: &UserId, level: i64) {
    if level == levels.users_default() {
        levels.users.remove(user);
    } else {
        levels.users.insert(user.clone(), level);
    }
}

pub(super) fn key_change(key: &str, (from, to): (i64, i64), reason: Reason) -> LevelChange {
    LevelChange { user: None, key: Some(key.to_owned()), from, to, reason, removal: None }
}

fn size(content: &Value) -> usize {
    content.to_string().len()
}
