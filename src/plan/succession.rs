//! Upgrades that people made of rooms of ours (S-31): the room that replaced one becomes the managed one in its place.
//!
//! Believed is the old room's tombstone, which takes power in that very room to send, and only where the create event of the room it
//! points at names the old one. A room that merely claims to replace ours is nothing to us, wherever it hangs.
//!
//! Until the new room has our marker, the old one stays the managed one: whoever loses a right is taken out of it, nobody is asked in,
//! and nothing is made in its place, so that there are never two. Then the links, the join rules that name it and the people follow, and
//! the bot leaves the old room, out of which nobody is taken any more.

use std::collections::{BTreeMap, BTreeSet};

use super::adoption::is_whole;
use super::members::Candidate;
use super::rooms::identity;
use super::{Action, Note, Planner, Reason, RoomRef, Scope, StateChange};
use crate::desired::{DesiredRoom, RoomKind};
use crate::ids::{EventId, Key, RoomId, UserId};
use crate::observed::{Child, JoinRule, MARKER_TYPE, Marker, Member, Room};

const UPGRADED: Reason = Reason::Structure("people replaced the room by this one");
const REPLACED: Reason = Reason::Structure("another room took its place");

/// What became of a room of ours that has a tombstone.
pub(super) enum Heir<'a> {
    /// This room replaces it, as far as can be seen.
    Room(&'a RoomId),
    /// Its tombstone points at a room that cannot be seen: what that is stays open.
    Unseen(&'a RoomId),
    /// The tombstone points at nothing, or at a room that does not name the old one or is something else already.
    Nobody,
}

impl<'a> Planner<'a> {
    /// Finds what replaced the rooms of things that have no living room. `replaced`: rooms with a tombstone, by what they carry.
    /// Hands back what nothing replaced.
    pub(super) fn claim_heirs(&mut self, replaced: BTreeMap<&'a Key, BTreeSet<&'a RoomId>>) -> BTreeSet<&'a Key> {
        let mut disowned = BTreeSet::new();
        for (key, rooms) in replaced {
            if self.located.contains_key(key) {
                continue;
            }
            // Of a chain the last one. One in between may have been left already: what came after it knows what it replaced.
            let markers = rooms.iter().filter_map(|id| self.observed.rooms.get(*id)?.marker.as_ref());
            let former: BTreeSet<&RoomId> = markers.flat_map(|marker| &marker.former).collect();
            let leads_on = |id: &RoomId| {
                let next = self.observed.rooms.get(id).and_then(|room| room.successor.as_ref());
                next.is_some_and(|next| rooms.contains(next)) || former.contains(id)
            };
            let Some(old) = rooms.iter().copied().find(|id| !leads_on(id)) else { continue };
            let place = key.clone();
            match self.heir(old, key) {
                Heir::Room(heir) => {
                    self.located.insert(key, old);
                    self.heirs.insert(old, heir);
                }
                Heir::Unseen(heir) => {
                    self.located.insert(key, old);
                    self.unseen_heirs.insert(old, heir);
                    let bot = &self.observed.bot;
                    let unseen = if self.observed.unread.contains(heir) {
                        "could not be read".to_owned()
                    } else {
                        format!("the bot cannot see: invite {bot} to it")
                    };
                    let what = format!("was upgraded to {heir}, which {unseen}; until then nobody is brought in");
                    self.note(Note::Unenforceable { place, what });
                }
                Heir::Nobody => drop(disowned.insert(key)),
            }
        }
        self.claim_by_fence();
        for (key, id) in &self.located {
            let marker = self.observed.rooms.get(*id).and_then(|room| room.marker.as_ref());
            let former = marker.filter(|marker| marker.key == **key || !marker.abandoned);
            for old in former.into_iter().flat_map(|marker| &marker.former) {
                self.former.insert(old, *id);
            }
        }
        disowned
    }

    /// The room at the end of the chain of upgrades that begins at `old`.
    fn heir(&self, old: &'a RoomId, key: &Key) -> Heir<'a> {
        let mut seen = BTreeSet::from([old]);
        let (mut at, mut room) = (old, self.room_at(old));
        while let Some(next) = room.and_then(|room| room.successor.as_ref()) {
            if !seen.insert(next) {
                return Heir::Nobody;
            }
            let Some(there) = self.room_at(next) else {
                let fenced = self.observed.aliases.get(key) == Some(next);
                let dark = self.observed.unread.contains(next) || fenced || !self.observed.accounts.listed;
                return if dark { Heir::Unseen(next) } else { Heir::Nobody };
            };
            if is_whole(there) && !may_inherit(there, (at, key)) {
                return Heir::Nobody;
            }
            (at, room) = (next, Some(there));
        }
        if at == old { Heir::Nobody } else { Heir::Room(at) }
    }

    /// A room behind a fencing alias that replaced another one: nobody but the homeserver, upgrading a room of ours, puts that alias there.
    /// The old room need not be seen any more.
    fn claim_by_fence(&mut self) {
        for (key, id) in &self.observed.aliases {
            let Some((key, _)) = self.wanted.get_key_value(key) else { continue };
            let Some(room) = self.observed.rooms.get(id).filter(|_| !self.located.contains_key(*key)) else { continue };
            let inside = room.members.get(&self.observed.bot) == Some(&Member::Join) && room.successor.is_none();
            let Some(old) =
                room.predecessor.as_ref().filter(|_| inside && identity(room, &self.observed.bot).is_none())
            else {
                continue;
            };
            if may_inherit(room, (old, key)) {
                self.located.insert(key, id);
            }
        }
    }

    /// The room that carries on what `id` was, or itself.
    pub(super) fn current(&self, id: &'a RoomId) -> &'a RoomId {
        self.former.get(id).copied().unwrap_or(id)
    }

    /// Whether `id` hangs in `space`, also by the link of a room it replaced or is replaced by.
    pub(super) fn hangs_in(&self, id: &RoomId, space: &'a Room) -> bool {
        let heir = self.heirs.get(id).or_else(|| self.unseen_heirs.get(id));
        space.children.keys().any(|child| self.current(child) == id || heir == Some(&child))
    }

    /// The way into the room that replaced one of ours, up to the marker.
    pub(super) fn follow(&mut self, wanted: &'a DesiredRoom, (old, room): (&'a RoomId, &'a Room)) {
        let Some(heir) = self.heirs.get(old).copied() else { return };
        let unknown = Room::default();
        let there = self.room_at(heir).unwrap_or(&unknown);
        let here = RoomRef::Id(heir.clone());
        let footing = self.footing(there);
        let key = identity(room, &self.observed.bot).unwrap_or(&wanted.key);
        let mut marker = room.marker.clone().unwrap_or_else(|| self.marker(key));
        marker.former.insert(old.clone());
        // Rooms between the two, which usher never was in.
        let mut at = there;
        while let Some(before) = at.predecessor.as_ref().filter(|before| *before != old) {
            let known = marker.former.insert(before.clone());
            let Some(room) = self.room_at(before).filter(|_| known) else { break };
            at = room;
        }
        self.enter_and_mark(wanted, (&here, &footing), marker, UPGRADED);
    }

    /// Links to replaced rooms lead to those that replaced them.
    pub(super) fn relink(&mut self, scope: &Scope) {
        let located: Vec<(&'a Key, &'a RoomId)> = self.located.iter().map(|(key, id)| (*key, *id)).collect();
        for (key, id) in located {
            let (Some(room), Some(wanted)) = (self.observed.rooms.get(id), self.wanted(key)) else { continue };
            let here = RoomRef::Id(id.clone());
            let up = !matches!(wanted.kind, RoomKind::Taken { .. });
            for (old, link) in &room.children {
                let Some(new) = self.former.get(old).copied() else { continue };
                if !key.is_space() || ![id, old, new].into_iter().any(|room| scope.covers(room)) {
                    continue;
                }
                if !room.children.contains_key(new) {
                    let link = Child { via: vec![self.observed.server.clone()], ..link.clone() };
                    let below = self.located.iter().find(|(_, id)| **id == new).and_then(|(key, _)| self.wanted(key));
                    let wanted = below.unwrap_or(wanted);
                    self.state(wanted, &here, StateChange::Child { child: RoomRef::Id(new.clone()), link }, REPLACED);
                }
                self.state(wanted, &here, StateChange::Unchild { child: old.clone() }, REPLACED);
            }
            for parent in room.parents.keys().filter(|_| up && scope.covers(id)) {
                if self.former.contains_key(parent) {
                    self.state(wanted, &here, StateChange::Unparent { parent: parent.clone() }, REPLACED);
                }
            }
        }
    }

    /// A join rule that names a space which was replaced names the one that replaced it: whoever is left in the old one must not walk in,
    /// and whoever is new must.
    pub(super) fn renew_rule(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: &'a Room) {
        let Some(rule) = &room.join_rule else { return };
        if rule.allow.iter().any(|space| self.former.contains_key(space)) {
            let allow = rule.allow.iter().map(|space| self.current(space).clone()).collect();
            let rule = JoinRule { rule: rule.rule.clone(), allow };
            self.state(wanted, here, StateChange::JoinRule(rule), REPLACED);
        }
    }

    /// Rooms that `id` replaced and the bot is still in: what was decided there stands.
    fn before(&self, id: &RoomId) -> impl Iterator<Item = (&'a RoomId, &'a Room)> {
        let former = self.observed.rooms.get(id).and_then(|room| room.marker.as_ref()).map(|marker| &marker.former);
        former.into_iter().flatten().filter_map(|old| Some((old, self.observed.rooms.get(old)?)))
    }

    /// How somebody left the room that this one replaced (S-19).
    pub(super) fn departure_before(&self, id: &RoomId, user: &UserId) -> Option<(&'a RoomId, &'a UserId, &'a EventId)> {
        self.before(id).find_map(|(old, room)| match room.members.get(user) {
            Some(Member::Leave { by, event }) => Some((old, by, event)),
            _ => None,
        })
    }

    /// Everybody who left a room that this one replaced.
    pub(super) fn departures_before(&self, id: &RoomId) -> Vec<(&'a RoomId, &'a UserId, &'a UserId, &'a EventId)> {
        let departed = |(old, room): (&'a RoomId, &'a Room)| {
            room.members.iter().filter_map(move |(user, member)| match member {
                Member::Leave { by, event } => Some((old, user, by, event)),
                _ => None,
            })
        };
        self.before(id).flat_map(departed).collect()
    }

    /// Whether somebody was in the room that people replaced by this one.
    pub(super) fn was_there_before(&self, id: &RoomId, user: &UserId) -> bool {
        self.before(id).any(|(_, room)| room.members.get(user) == Some(&Member::Join))
    }

    /// Leaves the rooms that were replaced, once nothing in them counts any more and somebody else can administer them (S-86).
    pub(super) fn retire(&mut self, scope: &Scope) {
        let located: Vec<(&'a Key, &'a RoomId)> = self.located.iter().map(|(key, id)| (*key, *id)).collect();
        for (key, id) in located {
            let (Some(now), Some(wanted)) = (self.observed.rooms.get(id), self.wanted(key)) else { continue };
            let old: Vec<_> = self.before(id).collect();
            for (old, room) in old {
                let covered = scope.covers(old) || scope.covers(id);
                if !covered || !self.commands(now) || self.is_needed(wanted, (id, now), (old, room)) {
                    continue;
                }
                let here = RoomRef::Id(old.clone());
                let levels = room.power_levels.as_ref();
                let may = levels
                    .is_none_or(|levels| levels.user_level(&self.observed.bot) >= levels.level_for_state(MARKER_TYPE));
                if !room.is_given_up() && (may || room.is_above_levels(&self.observed.bot)) {
                    let marker = room.marker.clone().unwrap_or_else(|| self.marker(key));
                    let state = StateChange::Unmark(Marker { abandoned: true, ..marker });
                    self.state(wanted, &here, state, REPLACED);
                }
                self.step(wanted, Action::Leave { room: here }, REPLACED);
            }
        }
    }

    /// Whether a replaced room still says something about the one that replaced it, or only the bot can administer it.
    fn is_needed(
        &self,
        wanted: &'a DesiredRoom,
        (id, now): (&'a RoomId, &Room),
        (old, room): (&RoomId, &Room),
    ) -> bool {
        let rule = self.effective_rule(wanted, Some(id));
        let speaks = rule.members.iter().any(|(user, right)| {
            let counts = match room.members.get(user) {
                Some(Member::Leave { by, .. }) => *by != self.observed.bot,
                Some(Member::Join) => !wanted.invites && self.candidate(right) == Candidate::Invitable,
                _ => false,
            };
            counts && !now.members.contains_key(user)
        });
        // The bot walks into a room that names the old space as a member of that.
        let opens = self
            .observed
            .outside
            .values()
            .any(|room| room.join_rule.as_ref().is_some_and(|rule| rule.allow.contains(old)));
        let mut others =
            room.members.iter().filter(|(user, member)| **member == Member::Join && **user != self.observed.bot);
        let strong = |user: &UserId| {
            let level = room.power_levels.as_ref().map_or(0, |levels| levels.user_level(user));
            level >= super::levels::GUARD_LEVEL || room.is_above_levels(user)
        };
        let somebody = others.clone().next().is_some();
        speaks || opens || somebody && !others.any(|(user, _)| strong(user))
    }
}

/// Whether a room that is known whole can take the place of `old`, which carries `key`.
fn may_inherit(there: &Room, (old, key): (&RoomId, &Key)) -> bool {
    let carries = match &there.marker {
        Some(marker) => Some(&marker.key),
        None => there.created_for.as_ref(),
    };
    // One that was taken over like any room people made may get its old place back.
    let free = carries
        .is_none_or(|other| other == key || matches!(other, Key::Room { slot, .. } if slot.as_str().starts_with('!')));
    // One that was given up because people replaced it as well leads on.
    let given_up = there.is_given_up() && there.successor.is_none();
    let ours = there.managed_by.is_none() && !given_up && free;
    ours && there.predecessor.as_ref() == Some(old) && there.is_space == key.is_space()
}
