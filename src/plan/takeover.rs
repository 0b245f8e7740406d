//! Rooms that people made and opened to managed spaces (S-31, S-14): found, entered, taken over, and then held like any other room, but
//! for what is theirs: name, topic, alias, links and join rule are never touched.
//!
//! A room's consent is its own join rule. Public and private rooms, rooms of other homeservers and spaces people made are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::adoption::INVITE_THE_BOT;
use super::levels;
use super::members::{Remembered, is_protected};
use super::reach::{Way, admits};
use super::rooms::identity;
use super::{Action, Deed, Lesson, LevelChange, Note, Planner, Reason, RoomRef, Scope, StateChange, Step, Withheld};
use crate::config::Enforce;
use crate::desired::{Desired, DesiredRoom, Entitlement, Members, RoomKind, Rule};
use crate::ids::{Key, RoomId, RoomSlot, Timestamp, UserId};
use crate::ledger::{Ledger, TOLERATED};
use crate::observed::{Marker, Member, Observed, Room};

/// A room people made, and what it is to become.
#[derive(Clone, Debug)]
pub(super) struct UserRoom {
    pub wanted: DesiredRoom,
    pub id: RoomId,
    /// A space that its join rule names could not be read: whom it admits is unknown.
    unclear: bool,
}

const OPENED: &str = "people opened it to this space";
const REMOTE: &str = "was made on another homeserver: left alone";
const NOBODY: &str = "has nobody of this homeserver in it who can administer it: left alone";

/// Rooms people made and opened to managed spaces, each with the rule it is held to, or will be.
pub(super) fn taken_rooms(desired: &Desired, observed: &Observed) -> Vec<(RoomId, DesiredRoom)> {
    // Who belongs where does not depend on what is remembered, nor on the time.
    let ledger = Ledger::default();
    let mut planner = Planner::new(desired, observed, &ledger, Timestamp(0));
    let rooms = planner.user_rooms();
    planner.take_in(&rooms);
    let ruled = |room: &UserRoom| DesiredRoom {
        rule: planner.effective_rule(&room.wanted, Some(&room.id)),
        enforce: planner.enforce(&room.wanted, Some(&room.id)),
        ..room.wanted.clone()
    };
    rooms.iter().map(|room| (room.id.clone(), ruled(room))).collect()
}

impl<'a> Planner<'a> {
    /// Every room people made that hangs in a managed space and whose join rule admits the members of one.
    pub(super) fn user_rooms(&self) -> Vec<UserRoom> {
        let spaces: Vec<(&'a RoomId, &'a DesiredRoom)> = self
            .desired
            .rooms
            .iter()
            .filter(|room| room.key.is_space())
            .filter_map(|room| Some((*self.located.get(&room.key)?, room)))
            .collect();
        let order: BTreeMap<&RoomId, usize> = spaces.iter().zip(0..).map(|((id, _), at)| (*id, at)).collect();
        let managed: BTreeSet<&RoomId> = self.located.values().chain(self.heirs.values()).copied().collect();
        let mut found: BTreeMap<(usize, &RoomId), UserRoom> = BTreeMap::new();
        for (space, _) in &spaces {
            let children = self.observed.rooms.get(*space).into_iter().flat_map(|space| space.children.keys());
            // What usher has upgraded is about to hang where the old room does.
            let candidates = children.flat_map(|child| self.own_successor(child).into_iter().chain([child]));
            for id in candidates.filter(|id| !managed.contains(id)) {
                let Some(room) = self.consenting(id) else { continue };
                let allow = room.join_rule.iter().flat_map(|rule| &rule.allow);
                let mut admitting: Vec<usize> =
                    allow.filter_map(|space| order.get(self.current(space)).copied()).collect();
                admitting.sort_unstable();
                admitting.dedup();
                if let Some(first) = admitting.first().copied() {
                    let spaces: Vec<_> = admitting.iter().map(|at| spaces[*at].1).collect();
                    found.entry((first, id)).or_insert_with(|| self.user_room(id, room, &spaces));
                }
            }
        }
        found.into_values().collect()
    }

    /// A room as it is seen, unless it is a space, was replaced, is managed under another id, or its join rule is no consent.
    fn consenting(&self, id: &RoomId) -> Option<&'a Room> {
        let room = self.observed.rooms.get(id).or_else(|| self.observed.outside.get(id))?;
        let rule = room.join_rule.as_ref()?;
        let open = matches!(rule.rule.as_str(), "restricted" | "knock_restricted");
        // Several rooms that claim to be one managed thing are reported where they are found.
        let claims = identity(room, &self.observed.bot).is_some_and(|key| self.wanted.contains_key(key));
        (open && !room.is_space && room.successor.is_none() && !claims).then_some(room)
    }

    fn user_room(&self, id: &RoomId, room: &Room, spaces: &[&DesiredRoom]) -> UserRoom {
        let policy = &self.desired.provisioner;
        let first = spaces[0];
        let mut allow = room.join_rule.iter().flat_map(|rule| &rule.allow);
        UserRoom {
            unclear: allow.any(|space| self.observed.unread.contains(space)),
            id: id.clone(),
            wanted: DesiredRoom {
                key: Key::Room { space: first.key.space().clone(), slot: RoomSlot::from(id.as_str()) },
                name: room.name.clone().unwrap_or_else(|| id.to_string()),
                topic: None,
                avatar: None,
                alias: None,
                adopt: None,
                rule: Arc::clone(&first.rule),
                rule_key: first.rule_key.clone(),
                enforce: policy.user_rooms.enforce,
                parent: Some(first.key.space().clone()),
                invites: policy.invite_to_public_rooms,
                kind: RoomKind::Taken { spaces: spaces.iter().map(|space| space.key.clone()).collect() },
            },
        }
    }

    /// Takes them in among the managed things.
    pub(super) fn take_in(&mut self, rooms: &'a [UserRoom]) {
        for room in rooms {
            let key = &room.wanted.key;
            self.wanted.insert(key, &room.wanted);
            self.located.insert(key, &room.id);
            if let RoomKind::Taken { spaces } = &room.wanted.kind {
                self.holders.entry(&room.id).or_default().extend(spaces);
            }
        }
        self.taken = rooms;
        self.place_exceptions();
    }

    /// Members of all managed spaces the room admits, each with their highest level; the maker with `creator_level` at least (S-14, S-31).
    pub(super) fn taken_rule(&self, wanted: &DesiredRoom, spaces: &[Key]) -> Arc<Rule> {
        let of_space = |key| self.wanted(key).map(|space| self.effective_rule(space, None));
        let rules: Vec<Arc<Rule>> = spaces.iter().filter_map(of_space).collect();
        let extra = self.extra.get(&wanted.key);
        let level = self.desired.provisioner.user_rooms.creator_level;
        let maker = level.zip(self.seen(wanted).and_then(|room| self.maker(room)));
        if let ([only], None, None) = (rules.as_slice(), extra, &maker) {
            return Arc::clone(only);
        }
        let extra = extra.into_iter().flatten().map(|(_, right)| right);
        let mut rights: Vec<Entitlement> =
            rules.iter().flat_map(|rule| rule.members.values()).chain(extra).copied().collect();
        if let Some((level, maker)) = maker {
            let own = rules.iter().filter_map(|rule| rule.members.get(maker)).max_by_key(|right| right.level).copied();
            rights.extend(own.filter(|right| right.level < level).map(|right| Entitlement { level, ..right }));
        }
        let blind = rules.iter().find_map(|rule| rule.blind.clone());
        Arc::new(Rule { members: Members::of(&self.desired.people, rights), blind })
    }

    fn seen(&self, wanted: &DesiredRoom) -> Option<&'a Room> {
        let id = self.located.get(&wanted.key)?;
        self.observed.rooms.get(*id).or_else(|| self.observed.outside.get(*id))
    }

    /// Whoever made the room: as the marker says, else the sender of its create event; of one that usher upgraded, the old room's maker.
    pub(super) fn maker(&self, room: &'a Room) -> Option<&'a UserId> {
        let before = room.predecessor.as_ref().filter(|_| room.creators.contains(&self.observed.bot));
        let before = before.and_then(|before| self.observed.rooms.get(before));
        let marked = |room: &'a Room| room.marker.as_ref().and_then(|marker| marker.original_creator.as_ref());
        let made_by = |room: &'a Room| room.made_by.as_ref().or_else(|| room.creators.first());
        marked(room).or_else(|| marked(before?)).or_else(|| made_by(before?)).or_else(|| made_by(room))
    }

    /// Whether the room was never held to its rule yet: what that takes from people counts like a change of configuration (S-81).
    pub(super) fn is_first_enforcement(&self, wanted: &DesiredRoom) -> bool {
        matches!(wanted.kind, RoomKind::Taken { .. }) && !self.ledger.entitled.contains_key(&wanted.key)
    }

    /// Whether somebody was in the room that usher replaced by this one: they are brought along (S-22).
    pub(super) fn moves_along(&self, wanted: &DesiredRoom, user: &UserId) -> bool {
        let RoomKind::Taken { .. } = &wanted.kind else {
            return self.located.get(&wanted.key).is_some_and(|id| self.was_there_before(id, user));
        };
        let room = self.seen(wanted).filter(|room| room.creators.contains(&self.observed.bot));
        let before = room.and_then(|room| self.observed.rooms.get(room.predecessor.as_ref()?));
        before.is_some_and(|before| before.members.get(user) == Some(&Member::Join))
    }

    /// The next steps in one room: they depend on each other, so a round does what can be done at once.
    pub(super) fn take_over(&mut self, room: &'a UserRoom, scope: &Scope) {
        let (wanted, here) = (&room.wanted, RoomRef::Id(room.id.clone()));
        if !scope.covers(&room.id) {
            return;
        }
        if room.unclear {
            let why = "is open to a space that could not be read: it is left as it is until it can";
            return self.leave_alone(wanted, why);
        }
        match self.observed.rooms.get(&room.id) {
            Some(there) if self.is_remote(there) => self.leave_alone(wanted, REMOTE),
            Some(there) if self.commands(there) => self.hold_taken(room, &here, there),
            Some(there) => {
                self.take_power(wanted, &here, there);
                self.foretell(wanted, there);
            }
            None => {
                if let Some(there) = self.observed.outside.get(&room.id) {
                    self.enter(wanted, &here, there);
                    self.foretell(wanted, there);
                }
            }
        }
    }

    fn is_remote(&self, room: &Room) -> bool {
        let local = |user: &UserId| user.server() == self.observed.server;
        !room.creators.is_empty() && !room.creators.iter().any(local)
    }

    /// A room that is not taken over, and why not.
    fn leave_alone(&mut self, wanted: &DesiredRoom, why: &str) {
        let what = format!("'{}' {why}", wanted.name);
        self.note(Note::Unenforceable { place: wanted.key.clone(), what });
    }

    fn enter(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, there: &'a Room) {
        let bot = &self.observed.bot;
        if matches!(there.members.get(bot), Some(Member::Ban { .. })) {
            return self.leave_alone(wanted, "has banned the bot: left alone");
        }
        // Without admin rights a room shows only its name and join rule: what is in it is seen from inside.
        let known = !there.version.is_empty();
        let invited = there.members.get(bot) == Some(&Member::Invite);
        // A room that names a space which was replaced admits the members of that one, and the bot may have left it.
        let opens = invited || self.admits_from_inside(there);
        let mut withheld = self.without_means();
        if !opens {
            withheld = withheld.or(Some(Withheld::MissingRight(INVITE_THE_BOT)));
        }
        if known {
            if self.is_remote(there) {
                return self.leave_alone(wanted, REMOTE);
            }
            match self.way_to_power(there) {
                _ if invited && self.commands(there) => withheld = None,
                Way::Nobody => return self.leave_alone(wanted, NOBODY),
                Way::Missing(what) => withheld = Some(Withheld::MissingRight(what)),
                Way::Admin if !(invited || opens && admits(self.observed, there)) => {
                    return self.step(wanted, Action::TakePower { room: here.clone() }, Reason::Structure(OPENED));
                }
                Way::Puppet(user, _) if !opens => {
                    withheld = None;
                    let action = Action::Puppet { room: here.clone(), user, deed: Deed::InviteBot };
                    self.step(wanted, action, Reason::Structure(OPENED));
                }
                Way::Puppet(..) | Way::Admin => {}
            }
        }
        self.step(wanted, Action::Enter { room: here.clone() }, Reason::Structure(OPENED));
        self.withhold_last(withheld);
    }

    /// Says ahead of time whom a later round of the take-over removes (S-31).
    fn foretell(&mut self, wanted: &'a DesiredRoom, there: &Room) {
        let id = self.located.get(&wanted.key).copied();
        let here = |step: &Step| step.is_pending() && step.place.as_ref() == Some(&wanted.key);
        if !self.plan.steps.last().is_some_and(here) || self.enforce(wanted, id) != Enforce::Strict {
            return;
        }
        let rule = self.effective_rule(wanted, id);
        let inside = there.members.iter().filter(|(_, member)| member.is_in()).map(|(user, _)| user);
        let strangers: Vec<UserId> = inside
            .filter(|user| user.server() == self.observed.server && !rule.members.contains_key(user))
            .filter(|user| !is_protected(self.desired, self.observed, user) && !self.is_suspended(user))
            .cloned()
            .collect();
        if !strangers.is_empty() {
            self.note(Note::TakeOver { place: wanted.key.clone(), name: wanted.name.clone(), strangers });
        }
    }

    fn withhold_last(&mut self, withheld: Option<Withheld>) {
        if let (Some(step), Some(withheld)) = (self.plan.steps.last_mut(), withheld) {
            step.withheld.get_or_insert(withheld);
        }
    }

    fn take_power(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, there: &'a Room) {
        let reason = Reason::Structure(OPENED);
        match self.way_to_power(there) {
            Way::Nobody => self.leave_alone(wanted, NOBODY),
            Way::Admin => self.step(wanted, Action::TakePower { room: here.clone() }, reason),
            Way::Missing(what) => {
                self.step(wanted, Action::TakePower { room: here.clone() }, reason);
                self.withhold_last(Some(Withheld::MissingRight(what)));
            }
            Way::Puppet(user, level) => {
                let deed = self.raise(wanted, there, (&user, level));
                self.step(wanted, Action::Puppet { room: here.clone(), user, deed }, reason);
            }
        }
    }

    /// One event in which somebody raises the bot and gets the level the directory gives them (S-31). `level: None`: a creator who
    /// stands above all, and stays there.
    pub(super) fn raise(&self, wanted: &'a DesiredRoom, there: &Room, (user, level): (&UserId, Option<i64>)) -> Deed {
        let bot = &self.observed.bot;
        let mut next = there.power_levels.clone().unwrap_or_default();
        let from = next.user_level(bot);
        // Of a creator the bot gets what an upgrade takes.
        let to = level.unwrap_or_else(|| {
            let tombstone = next.level_for_state(levels::TOMBSTONE);
            levels::BOT.max(tombstone).max(next.level_for_state(levels::GUARD))
        });
        next.users.insert(bot.clone(), to);
        let reason = Reason::Structure("the bot administers the room");
        let raised = LevelChange { user: Some(bot.clone()), key: None, from, to, reason, removal: None };
        let mut changes = vec![raised];
        if let Some(from) = level.filter(|_| self.lowers_at_once(wanted, there, user)) {
            let id = RoomId::from(self.located.get(&wanted.key).map_or("", |id| id.as_str()));
            let rule = self.effective_rule(wanted, Some(&id));
            let right = rule.members.get(user);
            let to = right.map_or(0, |right| right.level);
            if to < from && rule.blind.is_none() {
                levels::put(&mut next, user, to);
                let reason = right.map_or(Reason::LevelRule, |right| self.desired.reason(right));
                changes.push(LevelChange { user: Some(user.clone()), key: None, from, to, reason, removal: None });
            }
        }
        Deed::SetLevels { content: next.content(), changes }
    }

    /// Whether the person who lends the power is lowered by the same event: only the room's maker, for whom that is the bargain, and only
    /// where nothing could hold it.
    fn lowers_at_once(&self, wanted: &DesiredRoom, there: &Room, user: &UserId) -> bool {
        let strict = self.enforce(wanted, self.located.get(&wanted.key).copied()) == Enforce::Strict;
        let known = self.desired.complete && self.ledger.settled && !self.desired.emptied.contains_key(user);
        let maker = there.made_by.as_ref().or_else(|| there.creators.first()) == Some(user);
        strict && known && maker && !self.is_suspended(user)
    }

    /// A room in which the bot has power: the marker, the people, the levels, the creators.
    fn hold_taken(&mut self, room: &'a UserRoom, here: &RoomRef, there: &'a Room) {
        let wanted = &room.wanted;
        let begin = self.plan.steps.len();
        if there.marker.as_ref().is_none_or(|marker| marker.abandoned) {
            let marker = Marker { original_creator: self.maker(there).cloned(), ..self.marker(&wanted.key) };
            let reason = Reason::Structure("remembers that usher took it over, and from whom");
            self.state(wanted, here, StateChange::Marker(marker), reason);
        }
        self.renew_rule(wanted, here, there);
        self.people(wanted, here, Some(there));
        self.creators(wanted, here, there, begin);
        self.remember_taken(wanted, &room.id, begin);
    }

    /// Once a room was held to its rule, whoever has no right there is an intruder, but for those who had one and are still in it. The
    /// others are not listed: the spaces' own memories say who had a right (S-81).
    fn remember_taken(&mut self, wanted: &DesiredRoom, id: &RoomId, begin: usize) {
        let steps = &self.plan.steps[begin..];
        let before = self.ledger.entitled.get(&wanted.key);
        if !self.desired.complete || before.is_none() && steps.iter().any(|step| step.takes().is_some()) {
            return;
        }
        let mild = self.enforce(wanted, Some(id)) != Enforce::Strict;
        let leftovers = steps.iter().filter(|step| step.removal.is_some()).filter_map(|step| step.action.user());
        let levels: BTreeMap<UserId, i64> = leftovers
            .filter_map(|user| match self.remembered(wanted, Some(id), user) {
                Remembered::Level(level) => Some((user.clone(), level)),
                Remembered::Tolerated => Some((user.clone(), TOLERATED)),
                Remembered::Nothing if mild => Some((user.clone(), TOLERATED)),
                Remembered::NewRule | Remembered::Nothing => None,
            })
            .collect();
        if before.is_none_or(|before| **before != levels) {
            self.plan.lessons.push(Lesson::Entitled { key: wanted.key.clone(), levels: levels.into() });
        }
    }

    /// Titles in the order things are shown: what people made comes after a space's own rooms.
    pub(super) fn titles(&self) -> Vec<(Key, String)> {
        let mut taken: BTreeMap<&str, Vec<&UserRoom>> = BTreeMap::new();
        for room in self.taken {
            taken.entry(room.wanted.key.space().as_str()).or_default().push(room);
        }
        let mut titles = Vec::with_capacity(self.desired.rooms.len() + self.taken.len());
        let mut rooms = self.desired.rooms.iter().peekable();
        while let Some(room) = rooms.next() {
            titles.push((room.key.clone(), room.name.clone()));
            if rooms.peek().is_none_or(|next| next.key.space() != room.key.space()) {
                let own = taken.remove(room.key.space().as_str()).into_iter().flatten();
                titles.extend(own.map(|room| (room.wanted.key.clone(), room.wanted.name.clone())));
            }
        }
        titles
    }
}

/// Whoever in the room stands above all levels and is not the bot.
pub(super) fn foreign_creators<'r>(room: &'r Room, bot: &'r UserId) -> impl Iterator<Item = &'r UserId> {
    room.creators.iter().filter(move |user| *user != bot && room.is_above_levels(user))
}
