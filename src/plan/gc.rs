//! Clean-up (S-40 to S-43, S-106): spaces that are no longer configured are abandoned, rooms that no managed space holds are released.
//!
//! Goes by what the rooms are like, not by what was done before: whatever a crash left half given up is planned again from where it
//! stands, and a room whose marker says it is given up is finished and left. Never touches a room that is not ours, and never leaves one
//! in which nobody of this homeserver could administer it (S-86).

use std::collections::{BTreeMap, BTreeSet};

use super::members::Tie;
use super::{
    Action, Class, Hold, LevelChange, Note, Plan, Planner, Reason, Removal, RoomRef, Scope, StateChange, Step,
    Withheld, counted, levels, rooms,
};
use crate::config::Enforce;
use crate::desired::{DesiredRoom, RoomKind};
use crate::ids::{Key, RoomId, UserId};
use crate::observed::{JoinRule, MARKER_TYPE, Marker, Member, PowerLevels, Presence, Room};

/// What it takes to administer a room.
const ADMINISTRATOR: i64 = 100;
/// What replaces a room. From version 12 on only creators may by default, and ours is about to leave.
const TOMBSTONE: &str = "m.room.tombstone";

/// Why the rest of something is done.
const BEFORE: &str = "given up before";

/// Something of ours that is managed no longer.
struct Leftover<'a> {
    id: &'a RoomId,
    room: &'a Room,
    /// What it was, by its marker or create content.
    key: &'a Key,
    /// Where its steps stand.
    place: Key,
    name: String,
    reason: Reason,
    /// The marker says so already: only what a crash, or somebody to administer it, kept from being done is left.
    begun: bool,
    withheld: Option<Withheld>,
}

/// What becomes of a room that is left.
enum Succession {
    /// It can be left, after this write where there is one.
    Settled(Option<(PowerLevels, Vec<LevelChange>)>),
    /// Nobody can administer it: usher stays, but gives back what it took.
    Nobody(Option<(PowerLevels, Vec<LevelChange>)>),
}

/// What clean-up would do, were it not switched off; `None`: nothing.
#[must_use]
pub fn clean_up_waits(plan: &Plan) -> Option<String> {
    let off = plan.steps.iter().filter(|step| step.withheld == Some(Withheld::GcOff));
    let things: BTreeSet<&Key> = off.filter_map(Step::gives_up).collect();
    let (spaces, rooms): (Vec<&Key>, Vec<&Key>) = things.into_iter().partition(|thing| thing.is_space());
    let of = |list: &[&Key], one, many| counted(list.len() as u64, one, many);
    (spaces.len() + rooms.len() > 0).then(|| {
        format!(
            "{} and {} no longer managed: `usher plan` shows what provisioner.gc.enabled would do about them",
            of(&spaces, "space is", "spaces are"),
            of(&rooms, "room", "rooms"),
        )
    })
}

impl<'a> Planner<'a> {
    /// Plans what is to be given up, after everything else (S-40).
    pub(super) fn clean_up(&mut self, scope: &Scope) {
        for leftover in self.leftovers() {
            self.plan.rooms.entry(leftover.id.clone()).or_insert_with(|| leftover.place.clone());
            let known = self.wanted(&leftover.place).is_some();
            if !known && self.plan.titles.iter().all(|(key, _)| *key != leftover.place) {
                self.plan.titles.push((leftover.place.clone(), leftover.name.clone()));
            }
            if scope.covers(leftover.id) {
                self.give_up(&leftover);
            }
        }
    }

    /// Everything of ours that is managed no longer: each space before its rooms.
    fn leftovers(&self) -> Vec<Leftover<'a>> {
        let standing = self.standing();
        let mut found: Vec<Leftover<'a>> = Vec::new();
        let mut seen = BTreeSet::new();
        for (id, room) in &self.observed.rooms {
            let inside = room.members.get(&self.observed.bot) == Some(&Member::Join);
            // What was replaced is left once its successor is settled.
            let Some(key) = kept(room).filter(|_| inside && !self.former.contains_key(id)) else { continue };
            let leftover =
                if key.is_space() { self.forsaken(id, room, key) } else { self.unheld((id, room, key), &standing) };
            // Of several that claim to be the same one comes after the other.
            found.extend(leftover.filter(|leftover| seen.insert(leftover.place.clone())));
        }
        found.sort_by_key(|leftover| {
            (leftover.key.space().clone(), !leftover.place.is_space(), leftover.place.clone(), leftover.id.clone())
        });
        found
    }

    /// Rooms of the spaces that are managed, or whose fate is not decided.
    fn standing(&self) -> BTreeMap<&'a RoomId, &'a Room> {
        let located = self.located.iter().filter(|(key, _)| key.is_space()).map(|(_, id)| *id);
        let mut spaces: BTreeMap<&RoomId, &Room> =
            located.filter_map(|id| Some((id, self.observed.rooms.get(id)?))).collect();
        spaces.extend(self.observed.rooms.iter().filter(|(_, room)| {
            let key = rooms::identity(room, &self.observed.bot).filter(|key| key.is_space());
            key.is_some_and(|key| self.desired.undecided.contains(key.space()))
        }));
        spaces
    }

    /// A space of ours that is no longer configured (S-41).
    fn forsaken(&self, id: &'a RoomId, room: &'a Room, key: &'a Key) -> Option<Leftover<'a>> {
        let begun = room.is_given_up();
        let configured = self.wanted(key).is_some() || self.renamed(key).is_some_and(|key| self.wanted(&key).is_some());
        let spared = configured || self.desired.undecided.contains(key.space());
        if spared && !begun {
            return None;
        }
        let name = room.name.clone().unwrap_or_else(|| key.to_string());
        // Configured again: the new space has the key's place.
        let (place, name) =
            if configured { (beside(id, key), format!("{name}, {BEFORE}")) } else { (key.clone(), name) };
        let reason = if self.desired.mirrored { Reason::NoLongerMirrored } else { Reason::NoLongerConfigured };
        let additive = room.marker.as_ref().is_some_and(|marker| marker.additive);
        let enforce = self.desired.provisioner.enforce.max(if additive { Enforce::Additive } else { Enforce::Strict });
        let renamed = (!begun).then(|| self.renaming_of(key)).flatten();
        let withheld = self.policy(enforce).or_else(|| renamed.map(|hold| Withheld::Held(Box::new(hold))));
        Some(Leftover { id, room, key, place, name, reason, begun, withheld })
    }

    /// The hold of a new space that this one probably is: neither is decided without the other (S-43).
    fn renaming_of(&self, key: &Key) -> Option<Hold> {
        let missing = self.desired.rooms.iter().filter(|wanted| !self.located.contains_key(&wanted.key));
        let mut alike = missing.filter(|wanted| self.probably_was(wanted) == Some(key));
        alike.next().and_then(|wanted| self.probable_rename(wanted))
    }

    /// A room of ours that no managed space holds any more (S-42, S-106).
    fn unheld(
        &self,
        (id, room, key): (&'a RoomId, &'a Room, &'a Key),
        standing: &BTreeMap<&'a RoomId, &'a Room>,
    ) -> Option<Leftover<'a>> {
        let begun = room.is_given_up();
        let renamed = || self.wanted.get_key_value(&self.renamed(key)?);
        let wanted = self.wanted.get_key_value(key).or_else(renamed).map(|(_, wanted)| *wanted);
        let hangs = standing.values().any(|space| self.hangs_in(id, space));
        let open = admits(room.join_rule.as_ref(), |allowed| standing.contains_key(self.current(allowed)));
        let (place, why, enforce) = match wanted {
            // It is a room like any other by now: people hang it where they like, and it is taken over again (S-31).
            _ if begun && hangs && open => return None,
            Some(wanted) if begun => {
                let enforce = self.enforce(wanted, Some(id));
                let remembered = self.space_room(wanted.key.space()).map(rooms::made).unwrap_or_default();
                let stays_out = matches!(&wanted.key, Key::Room { slot, .. } if remembered.contains(slot));
                if stays_out && !self.located.contains_key(&wanted.key) {
                    (wanted.key.clone(), BEFORE, enforce)
                } else {
                    // Its key is, or will be, another room's.
                    (beside(id, &wanted.key), BEFORE, enforce)
                }
            }
            Some(wanted) => {
                if self.located.get(&wanted.key) != Some(&id) || !self.was_withdrawn(wanted, id, room) || hangs && open
                {
                    return None;
                }
                let why = if hangs { "no longer open to its space" } else { "taken out of its space" };
                (wanted.key.clone(), why, self.enforce(wanted, Some(id)))
            }
            None => {
                let why = if begun { BEFORE } else { self.adrift((room, key), (hangs, open))? };
                let policy = &self.desired.provisioner;
                let enforce = if is_of_people(key) { policy.user_rooms.enforce } else { policy.enforce };
                (key.clone(), why, enforce)
            }
        };
        // Nobody is removed: additive is no reason to keep it.
        let withheld = self.policy(if enforce == Enforce::Observe { enforce } else { Enforce::Strict });
        let name = room.name.clone().unwrap_or_else(|| key.to_string());
        let name = if begun { format!("{name}, {BEFORE}") } else { name };
        Some(Leftover { id, room, key, place, name, reason: Reason::NoLongerManaged(why), begun, withheld })
    }

    /// Why a room that is not configured is managed no longer; `None`: it is, or that cannot be told.
    fn adrift(&self, (room, key): (&Room, &Key), (hangs, open): (bool, bool)) -> Option<&'static str> {
        let home = Key::Space(key.space().clone());
        let home = self.renamed(&home).unwrap_or(home);
        let configured = self.wanted(&home).is_some();
        let out_of_sight = !self.observed.unread.is_empty() || (configured && !self.located.contains_key(&home));
        let undecided = self.desired.undecided.contains(key.space());
        if (hangs && open) || out_of_sight || undecided || configured && room.successor.is_some() {
            return None;
        }
        Some(if !configured {
            "its space is no longer managed"
        } else if hangs {
            "no longer open to a managed space"
        } else {
            "taken out of its space"
        })
    }

    /// Whether a moderator took this room out of its space, or closed it to the space: it was linked once (the marker says so) and is not
    /// now, or its join rule named the space and does not now (S-30, S-106).
    pub(super) fn was_withdrawn(&self, wanted: &DesiredRoom, id: &RoomId, room: &'a Room) -> bool {
        let (Key::Room { space, slot }, RoomKind::Room(template)) = (&wanted.key, &wanted.kind) else { return false };
        // Where people replaced the space, its rooms hang in the new one.
        let holds = |parent: &&Room| parent.successor.is_none() && rooms::made(parent).contains(slot);
        let Some(parent) = self.space_room(space).filter(holds) else { return false };
        // One that is adopted in the place of a room that was made once, and has not been linked yet.
        let up = self.located.get(&Key::Space(space.clone()));
        if self.is_fresh(wanted) && !up.is_some_and(|up| room.parents.contains_key(*up)) {
            return false;
        }
        if !self.hangs_in(id, parent) {
            return true;
        }
        // Only where the space's people were to walk in: the consent of other rooms is their place in the configuration.
        let state = template.properties.get("initial_state").and_then(|state| state.as_array());
        let own_rule = state.is_some_and(|state| state.iter().any(|event| event["type"] == "m.room.join_rules"));
        let public = template.properties.get("preset").is_some_and(|preset| preset == "public_chat");
        let consented = template.groups.is_none() && !own_rule && !public && room.is_of_our_making();
        // A space that was made anew: the rule still names the one before.
        let former = |allowed: &RoomId| room.parents.contains_key(allowed);
        let managed = |allowed: &RoomId| self.located.iter().any(|(key, at)| key.is_space() && *at == allowed);
        let rule = room.join_rule.as_ref();
        consented && rule.is_some() && !admits(rule, |allowed| managed(self.current(allowed)) || former(allowed))
    }

    /// Why nothing of it is done, as far as configuration says.
    fn policy(&self, enforce: Enforce) -> Option<Withheld> {
        match enforce {
            _ if !self.desired.provisioner.gc_enabled => Some(Withheld::GcOff),
            Enforce::Observe => Some(Withheld::Policy("enforce: observe")),
            Enforce::Strict | Enforce::Additive => None,
        }
    }

    fn give_up(&mut self, leftover: &Leftover<'a>) {
        let first = self.plan.steps.len();
        let here = RoomRef::Id(leftover.id.clone());
        let mut staying: BTreeSet<&UserId> = leftover.room.members.keys().collect();
        staying.retain(|user| leftover.room.members.get(*user) == Some(&Member::Join) && **user != self.observed.bot);
        let mut undecided = false;
        if leftover.key.is_space() {
            if self.kicks(leftover) {
                undecided = self.dismiss(leftover, &here, &mut staying);
            }
            self.unlink_everywhere(leftover);
        }
        // Whoever is undecided is also nobody to hand it to.
        let succession = if undecided { Succession::Settled(None) } else { self.succession(leftover, &staying) };
        let leaves = matches!(succession, Succession::Settled(_));
        let (Succession::Settled(levels) | Succession::Nobody(levels)) = succession;
        if let Some((content, changes)) = levels {
            let missing = self.lacks(leftover.room, levels::GUARD);
            let reason = if let [only] = changes.as_slice() { only.reason.clone() } else { Reason::LevelRule };
            let action = Action::SetPowerLevels { room: here.clone(), content: content.content(), changes };
            let withheld = missing.then_some(Withheld::MissingRight("to change the levels of this room"));
            self.push(Step { withheld, ..step(leftover, action, reason) });
        }
        let closing = self.plan.steps.len();
        self.close(leftover, &here, leaves);
        if undecided {
            for step in &mut self.plan.steps[closing..] {
                step.withheld = Some(Withheld::Undecided);
            }
        }
        if !leaves {
            let what = "is managed no longer, but nobody of this homeserver in it can administer it: usher stays";
            self.note(Note::Unenforceable { place: leftover.place.clone(), what: what.to_owned() });
        }
        self.stamp(leftover, first);
    }

    /// Only what we made, and held strictly, is emptied: additive spaces and those that others made are left without kicks (S-41).
    fn kicks(&self, leftover: &Leftover<'_>) -> bool {
        let additive = leftover.room.marker.as_ref().is_some_and(|marker| marker.additive);
        let strict = self.desired.provisioner.enforce != Enforce::Additive && !additive;
        strict && leftover.room.is_of_our_making()
    }

    /// Everybody local and unprotected goes; whether somebody is still undecided.
    fn dismiss(&mut self, leftover: &Leftover<'a>, here: &RoomRef, staying: &mut BTreeSet<&'a UserId>) -> bool {
        let mut undecided = false;
        for (user, member) in &leftover.room.members {
            if !matches!(member, Member::Join | Member::Invite | Member::Knock) {
                continue;
            }
            let why = (leftover.reason.clone(), leftover.name.as_str());
            if let Some(step) = self.dismissal((&leftover.place, here), user, why) {
                staying.remove(user);
                self.push(step);
                continue;
            }
            match self.tie(user) {
                Some(Tie::Foreign) => {
                    self.note(Note::ForeignUser { place: leftover.place.clone(), user: user.clone() });
                }
                Some(Tie::Undecided) => undecided = true,
                Some(Tie::Own | Tie::Protected) | None => {}
            }
        }
        undecided
    }

    /// The links between an abandoned space and what stays managed.
    fn unlink_everywhere(&mut self, leftover: &Leftover<'a>) {
        let located: Vec<(&Key, &RoomId)> = self.located.iter().map(|(key, id)| (*key, *id)).collect();
        for (key, id) in located {
            let (Some(room), Some(wanted)) = (self.observed.rooms.get(id), self.wanted(key)) else { continue };
            let observed = self.enforce(wanted, Some(id)) == Enforce::Observe;
            let (down, up) = (
                room.children.contains_key(leftover.id).then(|| StateChange::Unchild { child: leftover.id.clone() }),
                room.parents.contains_key(leftover.id).then(|| StateChange::Unparent { parent: leftover.id.clone() }),
            );
            for state in down.into_iter().chain(up) {
                let action = Action::SetState { room: RoomRef::Id(id.clone()), state };
                let withheld = observed.then_some(Withheld::Policy("enforce: observe"));
                let place = Some(key.clone());
                self.push(Step { place, withheld, ..step(leftover, action, leftover.reason.clone()) });
            }
        }
    }

    /// Marker, alias, and out.
    fn close(&mut self, leftover: &Leftover<'a>, here: &RoomRef, leaves: bool) {
        let Leftover { id, room, key, .. } = leftover;
        let mut deeds = Vec::new();
        let marks = !self.lacks(room, MARKER_TYPE);
        if !leftover.begun && marks {
            let marker = room.marker.clone().unwrap_or_else(|| self.marker(key));
            let state = StateChange::Unmark(Marker { abandoned: true, ..marker });
            deeds.push(Action::SetState { room: here.clone(), state });
        }
        // Looked up for what is half given up; before that it points here, unless it is known to point elsewhere. Where the marker cannot
        // say that the room was given up, the alias stays with it, or it would be taken away again and again.
        let points_here = match self.observed.aliases.get(*key) {
            Some(target) => target == *id,
            None => !leftover.begun && marks && !is_of_people(key),
        };
        let made_way = |step: &Step| matches!(&step.action, Action::DropAlias { key: dropped, .. } if dropped == *key);
        if points_here && !self.plan.steps.iter().any(made_way) {
            let alias = key.alias(&self.desired.instance, &self.observed.server);
            deeds.push(Action::RemoveAlias { room: here.clone(), key: (*key).clone(), alias });
        }
        if leaves {
            deeds.push(Action::Leave { room: here.clone() });
        }
        for action in deeds {
            self.push(step(leftover, action, leftover.reason.clone()));
        }
    }

    /// Counts the steps since `first` as one thing, and withholds them where nothing may be done.
    fn stamp(&mut self, leftover: &Leftover<'_>, first: usize) {
        let class = if leftover.key.is_space() { Class::Spaces } else { Class::Rooms };
        let approvals = &self.ledger.approvals;
        for step in &mut self.plan.steps[first..] {
            step.removal = Some(Box::new(Removal {
                class,
                space: leftover.place.clone(),
                person: None,
                // What the marker says already was decided and counted then.
                counts: !leftover.begun,
                emptied: None,
                adopted: false,
            }));
            let held = matches!(leftover.withheld, Some(Withheld::Held(_)));
            let approved = held && approvals.get(&step.id()).is_some_and(|until| *until > self.now);
            if let Some(withheld) = leftover.withheld.as_ref().filter(|_| !approved) {
                step.withheld = Some(withheld.clone());
            }
        }
    }

    /// Whether the bot may not send a kind of state event there.
    fn lacks(&self, room: &Room, kind: &str) -> bool {
        let bot = &self.observed.bot;
        room.level_of(bot) < room.power_levels.as_ref().map_or(0, |levels| levels.level_for_state(kind))
    }

    /// Who administers the room once usher has left it (S-42, S-86).
    fn succession(&self, leftover: &Leftover<'a>, staying: &BTreeSet<&'a UserId>) -> Succession {
        let room = leftover.room;
        let able: Vec<&UserId> = staying.iter().copied().filter(|user| self.can_administer(user)).collect();
        let (Some(current), false) = (&room.power_levels, staying.is_empty()) else {
            return if staying.is_empty() { Succession::Settled(None) } else { Succession::Nobody(None) };
        };
        let mut next = current.clone();
        let mut changes = Vec::new();
        let mut raise = |user: &UserId, why: &'static str| {
            let (from, to) = (current.user_level(user), ADMINISTRATOR);
            next.users.insert(user.clone(), to);
            changes.push(LevelChange {
                user: Some(user.clone()),
                key: None,
                from,
                to,
                reason: Reason::Structure(why),
                removal: None,
            });
        };
        let mut administered = able.iter().any(|user| room.level_of(user) >= ADMINISTRATOR);
        let original = room.marker.as_ref().and_then(|marker| marker.original_creator.as_ref());
        if let Some(creator) = original.filter(|user| able.contains(user) && room.level_of(user) < ADMINISTRATOR) {
            raise(creator, "made this room before usher took it over");
            administered = true;
        }
        let ours = room.is_of_our_making();
        // Of equals the first by name: there is nothing else to go by.
        let strongest = able.iter().rev().max_by_key(|user| room.level_of(user));
        if let Some(user) = strongest.filter(|_| !administered && ours) {
            raise(user, "somebody must administer it once usher has left");
            administered = true;
        }
        let tombstone = current.level_for_state(TOMBSTONE);
        if administered && ours && !leftover.key.is_space() && tombstone > ADMINISTRATOR {
            next.set_event(TOMBSTONE, ADMINISTRATOR);
            changes.push(LevelChange {
                user: None,
                key: Some(TOMBSTONE.to_owned()),
                from: tombstone,
                to: ADMINISTRATOR,
                reason: Reason::Structure("its own people may replace it"),
                removal: None,
            });
        }
        let write = (!changes.is_empty()).then_some((next, changes));
        if administered { Succession::Settled(write) } else { Succession::Nobody(write) }
    }

    /// A person of this homeserver, whose account works, and no other service's.
    fn can_administer(&self, user: &UserId) -> bool {
        let works = match self.observed.accounts.presence(user) {
            Presence::Exists(account) => !account.deactivated && !account.locked && !account.foreign_service,
            Presence::Missing => false,
            Presence::Unknown => true,
        };
        let ours = *user == self.observed.bot || *user == self.observed.sender;
        works && !ours && user.server() == self.observed.server && !self.is_suspended(user)
    }
}

/// Where the rest of an old thing stands while its key is another room's.
fn beside(id: &RoomId, key: &Key) -> Key {
    Key::Room { space: key.space().clone(), slot: id.as_str().into() }
}

fn step(leftover: &Leftover<'_>, action: Action, reason: Reason) -> Step {
    Step { action, reason, place: Some(leftover.place.clone()), withheld: None, removal: None }
}

/// What a room of ours is or was.
pub(super) fn kept(room: &Room) -> Option<&Key> {
    match &room.marker {
        Some(marker) => Some(&marker.key),
        None => room.created_for.as_ref(),
    }
}

/// A room that people made: known by its id, and without an alias of ours (S-31).
fn is_of_people(key: &Key) -> bool {
    matches!(key, Key::Room { slot, .. } if slot.as_str().starts_with('!'))
}

/// Whether the rule lets in the members of one of `spaces`.
fn admits<'r>(rule: Option<&'r JoinRule>, spaces: impl Fn(&'r RoomId) -> bool) -> bool {
    rule.is_some_and(|rule| {
        matches!(rule.rule.as_str(), "restricted" | "knock_restricted") && rule.allow.iter().any(spaces)
    })
}
