//! Adoption (S-12, S-16, S-81): a space or room that others made becomes a managed one, because `adopt:` says so.
//!
//! The way in is a few steps under [`Reason::Configured`]`("adopt")`: the homeserver or a puppet gives the bot power, the bot enters, the
//! marker and the fencing alias are set. Until the marker stands nothing else of the room is managed: what would change is planned from
//! what the room looks like, and shown as [`Withheld::AfterAdoption`]. The marker begins with [`Marker::adopted`]; while it stands, every
//! removal in the room, whoever it concerns, is held ([`Class::Adoption`]), so that nobody who was there before is taken out without a
//! yes. The first complete pass that finds nothing to take away, because it was approved and done or because there was nothing, ends that:
//! from then on the limits of S-81 are all. The flag stands in the room and not in the database, because it must outlive the database.
//!
//! Never takes a room from another instance, or one that is managed as something else already.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::levels::{GUARD, GUARD_LEVEL, key_change};
use super::{
    Action, Class, Deed, LevelChange, Note, Plan, Planner, Reason, RoomRef, StateChange, Step, Withheld, members,
};
use crate::desired::{Desired, DesiredRoom, RoomKind};
use crate::ids::{Key, RoomId, UserId};
use crate::observed::{JoinRule, Marker, Member, PowerLevels, Room};

const ADOPT: Reason = Reason::Configured("adopt");
/// First room version that knows `restricted`.
const RESTRICTED_SINCE: u32 = 8;
/// Keys of the levels that a space's frame sets besides single events.
const FRAME_KEYS: [&str; 3] = ["events_default", "state_default", "invite"];

pub(super) const INVITE_THE_BOT: &str = "invite the bot to it and give the bot level 100";
const RAISE_THE_BOT: &str = "give the bot level 100 there";
const LIFT_THE_BAN: &str = "the bot is banned there: lift that";
const NOBODY_STRONG: &str = "nobody of this homeserver who is in it has level 100: only they could give it to the bot";

/// Things of `keys` that are to be adopted, and what names the room.
#[must_use]
pub fn to_adopt(desired: &Desired, keys: &BTreeSet<Key>) -> BTreeSet<String> {
    desired.rooms.iter().filter(|room| keys.contains(&room.key)).filter_map(|room| room.adopt.clone()).collect()
}

impl<'a> Planner<'a> {
    /// A room as it is known, from inside or from outside.
    pub(super) fn room_at(&self, id: &RoomId) -> Option<&'a Room> {
        self.observed.rooms.get(id).or_else(|| self.observed.outside.get(id))
    }

    /// Gives things without a room those they are to adopt. What cannot be adopted is said, and nothing is made in its place.
    pub(super) fn claim_adoptions(&mut self) {
        let mut taken: BTreeMap<&RoomId, &Key> = self.located.iter().map(|(key, id)| (*id, *key)).collect();
        for wanted in &self.desired.rooms {
            let Some(text) = &wanted.adopt else { continue };
            let target = self.observed.adoptable.get(text);
            if let Some(carrier) = self.located.get(&wanted.key) {
                let replaced = |id: &RoomId| {
                    self.former.get(id) == Some(carrier) || self.heirs.get(carrier).is_some_and(|heir| *heir == id)
                };
                if let Some(other) = target.filter(|target| target != carrier && !replaced(target)) {
                    let what = format!("adopt: {other} is left alone, because {carrier} is managed as this already");
                    self.note(Note::Unenforceable { place: wanted.key.clone(), what });
                }
                continue;
            }
            self.plan.adopting.insert(wanted.key.clone());
            match self.adoptable(wanted, target, &taken) {
                Ok(id) => {
                    taken.insert(id, &wanted.key);
                    self.located.insert(&wanted.key, id);
                }
                Err(why) => {
                    let what = format!("adopt: {text} {why}; nothing is made in its place");
                    self.note(Note::Unenforceable { place: wanted.key.clone(), what });
                }
            }
        }
    }

    /// The room, or why it cannot be adopted.
    fn adoptable(
        &self,
        wanted: &DesiredRoom,
        target: Option<&'a RoomId>,
        taken: &BTreeMap<&RoomId, &Key>,
    ) -> Result<&'a RoomId, String> {
        let Some(id) = target else { return Err("points at no room".to_owned()) };
        if self.observed.unread.contains(id) {
            return Err("could not be read".to_owned());
        }
        if let Some(other) = taken.get(id) {
            return Err(format!("is {id}, which is managed as {other} already"));
        }
        let Some(room) = self.room_at(id) else {
            let unknown = "is no room, or nobody of this homeserver is in it";
            return if self.observed.accounts.listed { Err(unknown.to_owned()) } else { Ok(id) };
        };
        if let Some(successor) = &room.successor {
            return Err(format!("was replaced by {successor}: adopt that one"));
        }
        if let Some(owner) = &room.managed_by {
            return Err(format!("is managed by another usher: {owner}"));
        }
        let own = match &room.marker {
            Some(marker) => Some(&marker.key).filter(|_| !marker.abandoned),
            None => room.created_for.as_ref(),
        };
        // A room that was only taken over may get a place of its own.
        let taken_over = |key: &Key| matches!(key, Key::Room { slot, .. } if slot.as_str().starts_with('!'));
        if let Some(other) = own.filter(|own| **own != wanted.key && !taken_over(own)) {
            return Err(format!("is managed as {other}: an id is changed by `renamed_from`"));
        }
        if is_whole(room) && room.is_space != wanted.key.is_space() {
            return Err(if room.is_space { "is a space, not a room" } else { "is a room, not a space" }.to_owned());
        }
        let local = |(user, member): (&UserId, &Member)| {
            user.server() == self.observed.server && matches!(member, Member::Join | Member::Invite)
        };
        if is_whole(room) && !room.members.iter().any(local) {
            return Err("has nobody of this homeserver in it".to_owned());
        }
        Ok(id)
    }

    /// The way in: power, entry, marker. Says whether enough of the room is known to show what follows.
    pub(super) fn adopt(&mut self, wanted: &'a DesiredRoom, id: &RoomId) -> bool {
        let unknown = Room::default();
        let room = self.room_at(id).unwrap_or(&unknown);
        let here = RoomRef::Id(id.clone());
        let footing = self.footing(room);
        let marker = Marker { original_creator: self.maker(room).cloned(), adopted: true, ..self.marker(&wanted.key) };
        self.enter_and_mark(wanted, (&here, &footing), marker, ADOPT);
        footing.whole
    }

    /// Power, entry and the marker, which waits for what the way in still lacks.
    pub(super) fn enter_and_mark(
        &mut self,
        wanted: &'a DesiredRoom,
        (here, footing): (&RoomRef, &Footing<'_>),
        marker: Marker,
        reason: Reason,
    ) {
        let approach = self.approach(wanted, here, footing, reason.clone());
        self.state(wanted, here, StateChange::Adopt(marker), reason);
        let withheld = match approach {
            Approach::Clear => None,
            Approach::First => Some(Withheld::AfterAdoption),
            Approach::Barred(remedy) => Some(Withheld::MissingRight(remedy)),
        };
        if let (Some(step), Some(withheld)) = (self.plan.steps.last_mut(), withheld) {
            step.withheld.get_or_insert(withheld);
        }
    }

    /// Power and entry, as far as usher can see to them itself; otherwise what an operator has to do.
    pub(super) fn approach(
        &mut self,
        wanted: &'a DesiredRoom,
        here: &RoomRef,
        footing: &Footing<'_>,
        reason: Reason,
    ) -> Approach {
        // What is not seen whole from outside is looked at from inside before it is marked.
        let mut approach = if footing.whole { Approach::Clear } else { Approach::First };
        let (inside, mut enters) = (footing.position == Position::Inside, footing.position == Position::Admitted);
        if footing.position == Position::Banned {
            return Approach::Barred(LIFT_THE_BAN);
        }
        if !footing.strong {
            if footing.whole && footing.strongest.is_none() {
                return Approach::Barred(NOBODY_STRONG);
            }
            let admin = self.observed.accounts.listed && footing.strongest.is_some();
            if admin {
                self.step(wanted, Action::TakePower { room: here.clone() }, reason.clone());
                enters = true;
            } else {
                approach = Approach::First;
            }
            if inside && !admin {
                let Some(user) = footing.puppet else { return Approach::Barred(RAISE_THE_BOT) };
                let deed = self.raise_the_bot(here, &reason);
                self.step(wanted, Action::Puppet { room: here.clone(), user: user.clone(), deed }, reason.clone());
            }
        }
        if inside {
            return approach;
        }
        if !enters && footing.strong && footing.lends && self.observed.accounts.listed {
            // Raises nobody, but invites.
            self.step(wanted, Action::TakePower { room: here.clone() }, reason.clone());
        } else if !enters {
            let Some(user) = footing.puppet else { return Approach::Barred(INVITE_THE_BOT) };
            let action = Action::Puppet { room: here.clone(), user: user.clone(), deed: Deed::InviteBot };
            self.step(wanted, action, reason.clone());
        }
        self.step(wanted, Action::Enter { room: here.clone() }, reason);
        approach
    }

    fn raise_the_bot(&self, here: &RoomRef, reason: &Reason) -> Deed {
        let RoomRef::Id(id) = here else { return Deed::InviteBot };
        let mut levels = self.room_at(id).and_then(|room| room.power_levels.clone()).unwrap_or_default();
        let bot = self.observed.bot.clone();
        let from = levels.user_level(&bot);
        levels.users.insert(bot.clone(), GUARD_LEVEL);
        let change =
            LevelChange { user: Some(bot), key: None, from, to: GUARD_LEVEL, reason: reason.clone(), removal: None };
        Deed::SetLevels { content: levels.content(), changes: vec![change] }
    }

    pub(super) fn footing<'r>(&self, room: &'r Room) -> Footing<'r> {
        let bot = &self.observed.bot;
        let own = room.members.get(bot);
        let public = room.join_rule.as_ref().is_some_and(|rule| rule.rule == "public");
        let let_in = public || self.admits_from_inside(room);
        Footing {
            whole: is_whole(room),
            position: match own {
                Some(Member::Join) => Position::Inside,
                Some(Member::Invite) => Position::Admitted,
                Some(Member::Ban { .. }) => Position::Banned,
                Some(Member::Knock | Member::Leave { .. }) | None if let_in => Position::Admitted,
                Some(Member::Knock | Member::Leave { .. }) | None => Position::Outside,
            },
            strong: room.level_of(bot) >= GUARD_LEVEL,
            strongest: self.strongest(room, |_| true),
            // The homeserver may not lower somebody on behalf of a weaker one.
            lends: self.strongest(room, |_| true).is_some_and(|user| room.level_of(user) >= room.level_of(bot)),
            puppet: self.strongest(room, |user| {
                let barred = self.is_suspended(user) || members::is_protected(self.desired, self.observed, user);
                self.desired.puppets && !barred
            }),
        }
    }

    /// The strongest local member of whom `may` holds, if they can give the bot [`GUARD_LEVEL`].
    fn strongest<'r>(&self, room: &'r Room, may: impl Fn(&UserId) -> bool) -> Option<&'r UserId> {
        let listed = room.power_levels.iter().flat_map(|levels| levels.users.keys());
        let local = |user: &&UserId| {
            let joined = room.members.get(*user) == Some(&Member::Join);
            joined && user.server() == self.observed.server && **user != self.observed.bot
        };
        let strong = room.creators.iter().chain(listed).filter(local).filter(|user| may(user));
        strong
            .map(|user| (room.level_of(user), user))
            .filter(|(level, _)| *level >= GUARD_LEVEL)
            .max()
            .map(|(_, user)| user)
    }

    /// The highest level the bot may give, and below which it may take one away. Of a room that is still to be adopted: what it will be.
    pub(super) fn reach(&self, wanted: &DesiredRoom, room: &Room) -> i64 {
        let now = if room.power_levels.is_none() { i64::MAX } else { room.level_of(&self.observed.bot) };
        if self.plan.adopting.contains(&wanted.key) { now.max(GUARD_LEVEL) } else { now }
    }

    /// Whether the space of a room is one that cannot be adopted: that is said once, and not of each of its rooms.
    pub(super) fn is_below_refused(&self, wanted: &DesiredRoom) -> bool {
        let space = Key::Space(wanted.key.space().clone());
        self.plan.adopting.contains(&space) && !self.located.contains_key(&space)
    }

    /// Whether what the room's adoption takes away is still undecided.
    pub(super) fn is_fresh(&self, wanted: &DesiredRoom) -> bool {
        let there = || self.room_at(self.located.get(&wanted.key)?)?.marker.as_ref();
        self.plan.adopting.contains(&wanted.key) || there().is_some_and(|marker| marker.adopted)
    }

    /// Ends the first enforcement once nothing is left to take away. `steps`: where the room's own begin.
    pub(super) fn end_adoption(&mut self, wanted: &'a DesiredRoom, id: &RoomId, steps: usize) {
        let marker = self.room_at(id).and_then(|room| room.marker.as_ref()).filter(|marker| marker.adopted);
        let Some(marker) = marker.filter(|_| self.desired.complete && !self.plan.adopting.contains(&wanted.key)) else {
            return;
        };
        let undecided = |step: &Step| {
            let marks = matches!(step.action, Action::SetState { state: StateChange::Marker(_), .. });
            marks
                || step.removal.is_some()
                || matches!(step.action, Action::SetPowerLevels { .. } | Action::Puppet { .. })
        };
        // What usher has not the right to do, such as to lower somebody as strong as itself, waits for no yes.
        let possible = |step: &&Step| match &step.withheld {
            Some(Withheld::MissingRight(_)) => false,
            Some(Withheld::Policy(what)) => !what.starts_with("v12_creators"),
            _ => true,
        };
        if !self.plan.steps[steps..].iter().filter(possible).any(undecided) {
            let marker = Marker { adopted: false, ..marker.clone() };
            let reason = Reason::Structure("the adoption takes nothing away any more");
            self.state(wanted, &RoomRef::Id(id.clone()), StateChange::Marker(marker), reason);
        }
    }

    /// The levels that guard a managed space, for one that others made: where they are lower than in a space of ours, they are raised.
    pub(super) fn tighten(&self, wanted: &DesiredRoom, room: &Room, next: &mut PowerLevels) -> Vec<LevelChange> {
        if !wanted.key.is_space() || !self.is_fresh(wanted) {
            return Vec::new();
        }
        let reason = || Reason::Structure("guards a managed space");
        let reach = self.reach(wanted, room);
        let frame = self.level_frame(wanted, &room.version);
        let mut changes = Vec::new();
        let events = frame.rest.get("events").and_then(Value::as_object);
        for kind in events.into_iter().flat_map(|events| events.keys()).filter(|kind| *kind != GUARD) {
            let (from, to) = (next.level_for_state(kind), frame.level_for_state(kind));
            if from < to && to <= reach {
                changes.push(key_change(kind, (from, to), reason()));
            }
        }
        for change in &changes {
            next.set_event(change.key.as_deref().unwrap_or_default(), change.to);
        }
        for key in FRAME_KEYS {
            let (from, to) = (next.key(key), frame.key(key));
            if from < to && to <= reach {
                next.set_key(key, to);
                changes.push(key_change(key, (from, to), reason()));
            }
        }
        changes
    }
}

/// What stands between the bot and the marker.
pub(super) enum Approach {
    /// Nothing, or steps that come before it.
    Clear,
    /// Steps whose outcome must be seen first.
    First,
    /// What an operator has to do.
    Barred(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Inside,
    /// Invited, or let in by the room's rule.
    Admitted,
    Outside,
    Banned,
}

/// How the bot stands towards a room that it is to adopt.
pub(super) struct Footing<'r> {
    /// The room's state is known; otherwise only what is shown to somebody who is not in it.
    whole: bool,
    position: Position,
    /// It has, or will have once inside, the level that managing takes.
    strong: bool,
    strongest: Option<&'r UserId>,
    /// The strongest is as strong as the bot at least.
    lends: bool,
    puppet: Option<&'r UserId>,
}

/// The join rule of an adopted room, which becomes that of a room made in its space: once, as long as the space does not list it.
pub(super) fn adopted_rule(wanted: &DesiredRoom, room: &Room, space: &RoomId) -> Option<JoinRule> {
    let own_people = matches!(&wanted.kind, RoomKind::Room(template) if template.groups.is_some());
    let knows_restricted = room.version.parse::<u32>().is_ok_and(|version| version >= RESTRICTED_SINCE);
    let current = room.join_rule.clone().unwrap_or_default();
    let kept = match current.rule.as_str() {
        "restricted" | "knock_restricted" => current.clone(),
        _ => JoinRule { rule: "restricted".to_owned(), allow: BTreeSet::new() },
    };
    let rule = if own_people {
        JoinRule { rule: "invite".to_owned(), allow: BTreeSet::new() }
    } else if knows_restricted {
        let allow = kept.allow.iter().cloned().chain([space.clone()]).collect();
        JoinRule { allow, ..kept }
    } else {
        return None;
    };
    (rule != current).then_some(rule)
}

/// Whether the room's whole state was read, from inside or as an administrator.
pub(super) fn is_whole(room: &Room) -> bool {
    !room.version.is_empty()
}

impl Plan {
    /// Withholds whatever concerns a room that is still to be adopted, its rooms, and links to it.
    pub(super) fn wait_for_adoption(&mut self) {
        if self.adopting.is_empty() {
            return;
        }
        let adopting = &self.adopting;
        let ids: BTreeSet<&RoomId> =
            self.rooms.iter().filter(|(_, key)| adopting.contains(*key)).map(|(id, _)| id).collect();
        let below = |key: &Key| adopting.contains(key) || adopting.contains(&Key::Space(key.space().clone()));
        let waits = |room: &RoomRef| match room {
            RoomRef::Id(id) => ids.contains(id),
            RoomRef::New(key) => below(key),
        };
        let barred: BTreeSet<Key> = self
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::SetState { state: StateChange::Adopt(_), .. }))
            .filter(|step| matches!(step.withheld, Some(Withheld::MissingRight(_))))
            .filter_map(|step| step.place.clone())
            .collect();
        for step in &mut self.steps {
            // Nothing to say yes to while there is no way in.
            let held = step.hold().is_some_and(|hold| hold.class == Class::Adoption);
            let moot = held && step.place.as_ref().is_some_and(|key| barred.contains(key));
            if step.withheld.is_some() && !moot {
                continue;
            }
            let entry = step.reason == ADOPT && step.place.as_ref().is_some_and(|key| adopting.contains(key));
            let linked = match &step.action {
                Action::SetState { state: StateChange::Child { child: other, .. }, .. }
                | Action::SetState { state: StateChange::Parent { parent: other, .. }, .. } => waits(other),
                action => action.room().is_some_and(waits),
            };
            if !entry && (linked || step.action.room().is_some_and(waits) || step.place.as_ref().is_some_and(below)) {
                step.withheld = Some(Withheld::AfterAdoption);
            }
        }
    }
}
