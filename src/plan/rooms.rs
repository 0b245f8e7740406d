//! Which room carries which managed thing, and what must change about the rooms themselves: making, naming, linking (S-16, S-17, S-30).

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::adoption::adopted_rule;
use super::{Action, Class, Hold, Note, Plan, Planner, Reason, Removal, RoomRef, Scope, StateChange, Step, Withheld};
use crate::config::Enforce;
use crate::desired::{Desired, DesiredRoom, RoomKind};
use crate::ids::{Key, RoomId, RoomSlot, SpaceId, Timestamp};
use crate::ledger::Ledger;
use crate::observed::{Child, JoinRule, Marker, Member, Observed, Parent, Room};

impl<'a> Planner<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, ledger: &'a Ledger, now: Timestamp) -> Self {
        let mut planner = Self {
            desired,
            observed,
            ledger,
            now,
            wanted: desired.rooms.iter().map(|room| (&room.key, room)).collect(),
            located: BTreeMap::new(),
            heirs: BTreeMap::new(),
            unseen_heirs: BTreeMap::new(),
            former: BTreeMap::new(),
            holders: BTreeMap::new(),
            extra: BTreeMap::new(),
            candidates: vec![OnceCell::new(); desired.people.len()],
            without_account: BTreeSet::new(),
            taken: &[],
            strangers: BTreeSet::new(),
            plan: Plan::default(),
        };
        planner.locate();
        planner.hold();
        planner
    }

    /// Finds the room of every managed thing. Where several claim to be the same one, the settled one wins and the others are reported.
    fn locate(&mut self) {
        let mut claims: BTreeMap<&'a Key, Vec<(bool, &'a RoomId, &'a Room)>> = BTreeMap::new();
        let mut orphans = BTreeSet::new();
        let mut replaced: BTreeMap<&'a Key, BTreeSet<&'a RoomId>> = BTreeMap::new();
        for (id, room) in &self.observed.rooms {
            let Some(key) = identity(room, &self.observed.bot) else { continue };
            let direct = self.wanted.get_key_value(key);
            let found = direct.or_else(|| self.wanted.get_key_value(&self.renamed(key)?)).map(|(key, _)| *key);
            match found {
                Some(key) if room.successor.is_some() => drop(replaced.entry(key).or_default().insert(id)),
                Some(key) => claims.entry(key).or_default().push((direct.is_none(), id, room)),
                None => {
                    orphans.insert(key);
                }
            }
        }
        for (key, mut rooms) in claims {
            let fence = self.observed.aliases.get(key);
            rooms.sort_by_key(|(renamed, id, room)| {
                let fenced = fence == Some(*id);
                (!fenced, *renamed, room.marker.is_none(), Reverse(room.members.len()), *id)
            });
            if let [(_, managed, _), others @ ..] = rooms.as_slice()
                && !others.is_empty()
            {
                let others: Vec<&str> = others.iter().map(|(_, id, _)| id.as_str()).collect();
                let what = format!("several rooms claim to be it: {managed} is managed, not {}", others.join(", "));
                self.plan.notes.push(Note::Unenforceable { place: key.clone(), what });
            }
            self.located.insert(key, rooms[0].1);
        }
        let disowned = self.claim_heirs(replaced);
        self.claim_adoptions();
        for key in disowned {
            if self.located.contains_key(key) {
                continue;
            }
            let what = "was replaced by somebody else's upgrade and is not managed any more".to_owned();
            self.note(Note::Unenforceable { place: key.clone(), what });
        }
        for key in orphans.into_iter().filter(|key| key.is_space() && self.desired.undecided.contains(key.space())) {
            let what = "missing from the source, not yet confirmed: left as it is".to_owned();
            self.plan.notes.push(Note::Unenforceable { place: key.clone(), what });
        }
    }

    /// The key that goes by another space id now (`renamed_from`, S-43).
    pub(super) fn renamed(&self, key: &Key) -> Option<Key> {
        let space = self.desired.renamed.get(key.space())?.clone();
        Some(match key {
            Key::Space(_) => Key::Space(space),
            Key::Room { slot, .. } => Key::Room { space, slot: slot.clone() },
        })
    }

    /// Which managed spaces hold or admit each room (S-14).
    fn hold(&mut self) {
        for (key, id) in &self.located {
            let Some(room) = self.room_at(id) else { continue };
            if key.is_space() {
                for child in room.children.keys() {
                    self.holders.entry(self.current(child)).or_default().insert(key);
                }
            }
        }
        let spaces: BTreeMap<&RoomId, &'a Key> =
            self.located.iter().filter(|(key, _)| key.is_space()).map(|(key, id)| (*id, *key)).collect();
        for (key, id) in &self.located {
            let allow = self.room_at(id).and_then(|room| room.join_rule.as_ref()).map(|rule| &rule.allow);
            for room in allow.into_iter().flatten() {
                let Some(space) = spaces.get(self.current(room)) else { continue };
                if !key.is_space() {
                    self.holders.entry(id).or_default().insert(space);
                }
            }
        }
    }

    /// Exceptions by room id or alias, with the right rising to the spaces above (S-107).
    pub(super) fn place_exceptions(&mut self) {
        for exception in &self.desired.room_exceptions {
            let key = self.located.iter().find_map(|(key, id)| {
                let room = self.observed.rooms.get(*id).or_else(|| self.observed.outside.get(*id))?;
                let named =
                    id.as_str() == exception.room || room.canonical_alias.as_deref() == Some(exception.room.as_str());
                named.then_some(*key)
            });
            let Some(key) = key else {
                self.plan
                    .notes
                    .push(Note::ExceptionUnknown { user: exception.user.clone(), place: exception.room.clone() });
                continue;
            };
            self.extra.entry(key).or_default().push((exception.user.clone(), exception.entitlement));
            let entitlement = crate::desired::Entitlement { level: 0, ..exception.entitlement };
            let first = match self.wanted(key).map(|room| (&room.kind, &room.parent)) {
                Some((RoomKind::Taken { spaces }, _)) => spaces.clone(),
                Some((_, Some(parent))) => vec![Key::Space(parent.clone())],
                Some((_, None)) | None => Vec::new(),
            };
            for first in &first {
                let mut above = self.wanted(first);
                while let Some(space) = above {
                    self.extra.entry(&space.key).or_default().push((exception.user.clone(), entitlement));
                    above = space.parent.clone().and_then(|parent| self.wanted(&Key::Space(parent)));
                }
            }
        }
    }

    /// Everything about one desired room.
    pub(super) fn room(&mut self, wanted: &'a DesiredRoom, scope: &Scope) {
        if self.is_out_of_sight(&wanted.key) || self.is_out_of_sight(&Key::Space(wanted.key.space().clone())) {
            let what = "could not be read: it is left as it is until it can".to_owned();
            self.note(Note::Unenforceable { place: wanted.key.clone(), what });
            return;
        }
        if self.is_below_refused(wanted) {
            return;
        }
        match self.located.get(&wanted.key).copied() {
            Some(id) if scope.covers(id) || self.heirs.get(id).is_some_and(|heir| scope.covers(heir)) => {
                self.existing(wanted, id);
            }
            None if *scope == Scope::Everything => self.missing(wanted),
            Some(_) | None => {}
        }
    }

    /// The thing is there, in a room that could not be read: making it anew would make it twice (S-16).
    fn is_out_of_sight(&self, key: &Key) -> bool {
        !self.located.contains_key(key)
            && self.observed.aliases.get(key).is_some_and(|room| self.observed.unread.contains(room))
    }

    fn existing(&mut self, wanted: &'a DesiredRoom, id: &'a RoomId) {
        let steps = self.plan.steps.len();
        if self.plan.adopting.contains(&wanted.key) && !self.adopt(wanted, id) {
            return;
        }
        let Some(room) = self.room_at(id) else { return };
        if self.was_withdrawn(wanted, id, room) {
            self.note(Note::TakenOut { place: wanted.key.clone() });
            return;
        }
        if room.successor.is_some() {
            self.people(wanted, &RoomRef::Id(id.clone()), Some(room));
            return self.follow(wanted, (id, room));
        }
        if room.encrypted && wanted.key.is_space() {
            self.note(Note::Unenforceable {
                place: wanted.key.clone(),
                what: "the homeserver forces encryption on spaces: set encryption_enabled_by_default_for_room_type to off or invite"
                    .to_owned(),
            });
        }
        self.shape(wanted, id, room);
        if wanted.key.is_space() {
            self.unlink(wanted, id, room);
        }
        self.people(wanted, &RoomRef::Id(id.clone()), Some(room));
        self.end_adoption(wanted, id, steps);
        self.creators(wanted, &RoomRef::Id(id.clone()), room, steps);
    }

    /// Whether people have replaced the space something belongs in, and usher is not in the new one yet: what is missing waits for that.
    fn is_space_replaced(&self, space: &SpaceId) -> bool {
        self.space_room(space).is_some_and(|room| room.successor.is_some())
    }

    pub(super) fn space_room(&self, space: &SpaceId) -> Option<&'a Room> {
        self.room_at(self.located.get(&Key::Space(space.clone()))?)
    }

    fn missing(&mut self, wanted: &'a DesiredRoom) {
        let above = [wanted.parent.as_ref(), Some(wanted.key.space()).filter(|_| !wanted.key.is_space())];
        if self.plan.adopting.contains(&wanted.key)
            || above.into_iter().flatten().any(|space| self.is_space_replaced(space))
        {
            return;
        }
        if let Key::Room { space, slot } = &wanted.key
            && self.space_room(space).is_some_and(|parent| made(parent).contains(slot))
        {
            // One that somebody upgraded has its own note.
            let carries = |room: &Room| identity(room, &self.observed.bot) == Some(&wanted.key);
            if !self.observed.rooms.values().any(carries) {
                self.note(Note::TakenOut { place: wanted.key.clone() });
            }
            return;
        }
        if let Some(target) = self.observed.aliases.get(&wanted.key) {
            let alias = wanted.key.alias(&self.desired.instance, &self.observed.server);
            let reason = Reason::Debris { room: Some(target.clone()) };
            self.step(wanted, Action::DropAlias { key: wanted.key.clone(), alias }, reason);
        }
        let creation = self.creation(wanted);
        let reason = if self.desired.mirrored { Reason::Mirrored } else { Reason::Configured("new") };
        self.step(wanted, Action::CreateRoom(Box::new(creation)), reason);
        let approvals = &self.ledger.approvals;
        if let Some(hold) = self.probable_rename(wanted)
            && let Some(step) = self.plan.steps.last_mut()
            && approvals.get(&step.id()).is_none_or(|until| *until <= self.now)
        {
            step.withheld.get_or_insert(Withheld::Held(Box::new(hold)));
        }
        let here = RoomRef::New(wanted.key.clone());
        if let Some(alias) = self.full_alias(wanted) {
            self.state(wanted, &here, StateChange::CanonicalAlias(alias), Reason::Configured("alias"));
        }
        self.links(wanted, &here, None);
        self.remember_made(wanted, &here, None);
        self.people(wanted, &here, None);
    }

    /// What hangs on a creation that is not done is not done either, and so on.
    pub(super) fn after_withheld_creations(&mut self) {
        let mut done = BTreeSet::new();
        loop {
            let withheld = self.plan.steps.iter().filter(|step| step.withheld.is_some());
            let creations = withheld.filter_map(|step| match &step.action {
                Action::CreateRoom(creation) => Some(&creation.key),
                _ => None,
            });
            let unmade: BTreeSet<Key> = creations.filter(|key| !done.contains(*key)).cloned().collect();
            if unmade.is_empty() {
                return;
            }
            for step in &mut self.plan.steps {
                let needs = |key: &Key| {
                    let new = RoomRef::New(key.clone());
                    step.action.room() == Some(&new) || step.action.links(&new)
                };
                if step.withheld.is_none() && unmade.iter().any(needs) {
                    step.withheld = Some(Withheld::DependsOnWithheld);
                }
            }
            done.extend(unmade);
        }
    }

    /// A space of the same name and people whose id is no longer configured: probably renamed (S-43).
    pub(super) fn probable_rename(&self, wanted: &DesiredRoom) -> Option<Hold> {
        let old = self.probably_was(wanted)?;
        Some(Hold {
            class: Class::Rename,
            space: Some(wanted.key.clone()),
            count: 1,
            limit: None,
            base: 0,
            detail: Some(format!(
                "space {old} has the same name and is no longer configured: set renamed_from: {old}?"
            )),
        })
    }

    /// The vanished space that a new one probably is.
    pub(super) fn probably_was(&self, wanted: &DesiredRoom) -> Option<&'a Key> {
        let Key::Space(_) = wanted.key else { return None };
        self.observed.rooms.values().find_map(|room| {
            let key = identity(room, &self.observed.bot)?;
            let vanished = key.is_space() && room.successor.is_none() && self.wanted(key).is_none();
            let alike =
                vanished && room.name.as_deref() == Some(wanted.name.as_str()) && self.has_people_of(key, wanted);
            alike.then_some(key)
        })
    }

    /// Whether the groups of a vanished space are those of a new one. Which they were is known only by who was in them: half is alike,
    /// because people come and go while a configuration is edited.
    fn has_people_of(&self, vanished: &Key, wanted: &DesiredRoom) -> bool {
        let Some(before) = self.ledger.entitled.get(vanished) else { return true };
        let now = &wanted.rule.members;
        let common = now.keys().filter(|user| before.contains_key(*user)).count();
        2 * common >= before.len().max(now.len())
    }

    /// Names, guards and links of a room that is there.
    fn shape(&mut self, wanted: &'a DesiredRoom, id: &RoomId, room: &'a Room) {
        let here = RoomRef::Id(id.clone());
        let half_made = !self.is_settled(wanted, room) && !self.is_fresh(wanted);
        let structure = Reason::Structure("completes a room whose making was cut off");
        if wanted.key.is_space() || half_made {
            let reason = if room.name.is_some() || self.is_fresh(wanted) {
                Reason::Configured("name")
            } else {
                structure.clone()
            };
            let theirs = matches!(wanted.kind, RoomKind::Space { named_once: true, .. }) && room.name.is_some();
            if !theirs && differs(&wanted.name, room.name.as_deref()) {
                self.state(wanted, &here, StateChange::Name(wanted.name.clone()), reason);
            }
            if let Some(topic) = wanted.topic.as_ref().filter(|topic| differs(topic, room.topic.as_deref())) {
                self.state(wanted, &here, StateChange::Topic(topic.clone()), Reason::Configured("topic"));
            }
        }
        if let Some(avatar) = wanted.avatar.as_ref().filter(|avatar| differs(avatar, room.avatar.as_deref())) {
            self.state(wanted, &here, StateChange::Avatar(avatar.clone()), Reason::Configured("avatar"));
        }
        if let Some(alias) = self.full_alias(wanted).filter(|alias| room.canonical_alias.as_ref() != Some(alias)) {
            self.state(wanted, &here, StateChange::CanonicalAlias(alias), Reason::Configured("alias"));
        }
        self.access(wanted, &here, room);
        self.links(wanted, &here, Some(room));
        if !self.plan.adopting.contains(&wanted.key) {
            self.remember_made(wanted, &here, Some(room));
        }
    }

    fn access(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: &'a Room) {
        let invite_only = || JoinRule { rule: "invite".to_owned(), ..JoinRule::default() };
        if wanted.key.is_space() {
            if room.join_rule != Some(invite_only()) {
                let reason = Reason::Structure("spaces are invite-only");
                self.state(wanted, here, StateChange::JoinRule(invite_only()), reason);
            }
            if room.guest_access.as_deref() != Some("forbidden") {
                let reason = Reason::Structure("guests stay out of spaces");
                self.state(wanted, here, StateChange::GuestAccess("forbidden".to_owned()), reason);
            }
        } else if self.is_fresh(wanted)
            && !self.is_settled(wanted, room)
            && let Some(space) = self.located.get(&Key::Space(wanted.key.space().clone()))
        {
            if let Some(rule) = adopted_rule(wanted, room, space) {
                self.state(wanted, here, StateChange::JoinRule(rule), Reason::Structure("as a room of its space"));
            }
        } else if room.join_rule.is_none()
            && let Some(space) = self.located.get(&Key::Space(wanted.key.space().clone()))
        {
            let own_people = matches!(&wanted.kind, RoomKind::Room(template) if template.groups.is_some());
            let rule = if own_people {
                invite_only()
            } else {
                JoinRule { rule: "restricted".to_owned(), allow: BTreeSet::from([(*space).clone()]) }
            };
            let reason = Reason::Structure("completes a room whose making was cut off");
            self.state(wanted, here, StateChange::JoinRule(rule), reason);
        } else {
            self.renew_rule(wanted, here, room);
        }
    }

    /// Both links between a room and the space it hangs in. A room once linked is a moderator's to take out; a subspace is not.
    fn links(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: Option<&Room>) {
        let Some(parent) = &wanted.parent else { return };
        let parent_key = Key::Space(parent.clone());
        if self.is_out_of_sight(&parent_key)
            || self.desired.undecided.contains(parent)
            || self.is_space_replaced(parent)
        {
            return;
        }
        let parent_ref = match self.located.get(&parent_key) {
            Some(id) => RoomRef::Id((*id).clone()),
            None => RoomRef::New(parent_key),
        };
        let via = vec![self.observed.server.clone()];
        let linked = match (here, self.space_room(parent)) {
            // The link of a room that it replaced leads to it soon.
            (RoomRef::Id(id), Some(space)) => self.hangs_in(id, space),
            _ => false,
        };
        let reason = Reason::Structure("hangs in its space");
        if !linked {
            let (order, suggested) = match &wanted.kind {
                RoomKind::Space { .. } | RoomKind::Taken { .. } => (None, false),
                RoomKind::Room(template) => (template.order.clone(), template.suggested),
            };
            let link = Child { via: via.clone(), order, suggested };
            self.state(wanted, &parent_ref, StateChange::Child { child: here.clone(), link }, reason.clone());
            // The link is written into the space above, whose own policy counts too.
            let observed = self.wanted(&Key::Space(parent.clone())).is_some_and(|up| up.enforce == Enforce::Observe);
            if let Some(step) = self.plan.steps.last_mut().filter(|_| observed) {
                step.withheld.get_or_insert(Withheld::Policy("enforce: observe"));
            }
        }
        let back = match (&parent_ref, room) {
            (RoomRef::Id(id), Some(room)) => room.parents.contains_key(id),
            _ => false,
        };
        if !back {
            let link = Parent { via, canonical: true };
            self.state(wanted, here, StateChange::Parent { parent: parent_ref, link }, reason);
        }
    }

    /// The marker: identity, and which rooms were made (S-16, S-30).
    fn remember_made(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: Option<&Room>) {
        let current = room.and_then(|room| room.marker.as_ref());
        if let Some(current) = current.filter(|current| current.key != wanted.key) {
            let marker = Marker { key: wanted.key.clone(), abandoned: false, ..current.clone() };
            let state = StateChange::Rename { from: current.key.clone(), marker };
            self.state(wanted, here, state, Reason::Configured("renamed_from"));
        }
        let mut marker = current.cloned().unwrap_or_else(|| self.marker(&wanted.key));
        if let Some(room) = room.filter(|room| current.is_none() && room.created_for.is_none()) {
            marker.former.extend(room.predecessor.clone());
        }
        marker.key = wanted.key.clone();
        marker.abandoned = false;
        // How strictly a space was held must outlive its place in the configuration (S-41).
        if wanted.key.is_space() && wanted.enforce != Enforce::Observe {
            marker.additive = wanted.enforce == Enforce::Additive;
        }
        if let Key::Space(space) = &wanted.key {
            let rooms: Vec<&RoomSlot> = self
                .desired
                .rooms
                .iter()
                // One that is still to be adopted has no place in the space yet.
                .filter(|room| !self.plan.adopting.contains(&room.key))
                .filter_map(|room| match &room.key {
                    Key::Room { space: holder, slot } if holder == space => Some(slot),
                    _ => None,
                })
                .collect();
            marker.made.extend(rooms.into_iter().cloned());
        }
        let unmarked = room.is_some() && current.is_none();
        let differs =
            |current: &Marker| current.made != marker.made || current.abandoned || current.additive != marker.additive;
        if unmarked || current.map_or(!marker.made.is_empty() || marker.additive, differs) {
            let only_policy =
                current.is_some_and(|current| current.additive != marker.additive && current.made == marker.made);
            let what = if only_policy { "remembers how strictly it is held" } else { "remembers what was made" };
            self.state(wanted, here, StateChange::Marker(marker), Reason::Structure(what));
        }
    }

    pub(super) fn marker(&self, key: &Key) -> Marker {
        Marker {
            instance: self.desired.instance.clone(),
            key: key.clone(),
            made: BTreeSet::new(),
            abandoned: false,
            additive: false,
            original_creator: None,
            former: BTreeSet::new(),
            adopted: false,
        }
    }

    /// Whether the room was finished once: a space has its marker's list, a room stands in its space's.
    fn is_settled(&self, wanted: &DesiredRoom, room: &Room) -> bool {
        match &wanted.key {
            Key::Space(_) => room.name.is_some(),
            Key::Room { space, slot } => self.space_room(space).is_some_and(|parent| made(parent).contains(slot)),
        }
    }

    /// Managed subspaces that hang where the configuration does not put them.
    fn unlink(&mut self, wanted: &'a DesiredRoom, id: &RoomId, room: &'a Room) {
        let Key::Space(space) = &wanted.key else { return };
        for child in room.children.keys() {
            let Some((key, _)) = self.located.iter().find(|(key, at)| key.is_space() && **at == child) else {
                continue;
            };
            let moved = self.wanted(key).is_some_and(|below| below.parent.as_ref() != Some(space));
            if moved {
                let key = (*key).clone();
                let reason = Reason::Configured("moved in the tree");
                self.state(
                    wanted,
                    &RoomRef::Id(id.clone()),
                    StateChange::Unchild { child: child.clone() },
                    reason.clone(),
                );
                if self.observed.rooms.get(child).is_some_and(|below| below.parents.contains_key(id))
                    && let Some(below) = self.wanted(&key)
                {
                    let state = StateChange::Unparent { parent: id.clone() };
                    self.state(below, &RoomRef::Id(child.clone()), state, reason);
                }
            }
        }
    }

    fn full_alias(&self, wanted: &DesiredRoom) -> Option<String> {
        let alias = wanted.alias.as_ref()?;
        Some(if alias.starts_with('#') { alias.clone() } else { format!("#{alias}:{}", self.observed.server) })
    }

    pub(super) fn state(&mut self, wanted: &DesiredRoom, room: &RoomRef, state: StateChange, reason: Reason) {
        self.step(wanted, Action::SetState { room: room.clone(), state }, reason);
    }

    /// A step about a managed thing, withheld where one of its spaces is only observed (S-108).
    pub(super) fn step(&mut self, wanted: &DesiredRoom, action: Action, reason: Reason) {
        let id = self.located.get(&wanted.key).copied();
        let withheld = (self.enforce(wanted, id) == Enforce::Observe).then_some(Withheld::Policy("enforce: observe"));
        self.push(Step { action, reason, place: Some(wanted.key.clone()), withheld, removal: None });
    }

    pub(super) fn removal(&self, wanted: &DesiredRoom, person: &crate::ids::UserId, class: Class) -> Removal {
        Removal {
            class,
            space: Key::Space(wanted.key.space().clone()),
            person: Some(person.clone()),
            counts: true,
            emptied: self.desired.emptied.get(person).cloned(),
            adopted: self.is_fresh(wanted),
        }
    }
}

/// What a room says it is: by its marker, else by its create content; only while the bot is in it and it was not abandoned.
pub(super) fn identity<'a>(room: &'a Room, bot: &crate::ids::UserId) -> Option<&'a Key> {
    if room.members.get(bot) != Some(&Member::Join) {
        return None;
    }
    match &room.marker {
        Some(marker) if marker.abandoned => None,
        Some(marker) => Some(&marker.key),
        None => room.created_for.as_ref(),
    }
}

/// An empty text is none: Matrix clears a name or a topic by sending an empty one.
fn differs(wanted: &str, current: Option<&str>) -> bool {
    wanted != current.unwrap_or_default()
}

pub(super) fn made(space: &Room) -> BTreeSet<RoomSlot> {
    space.marker.as_ref().map(|marker| marker.made.clone()).unwrap_or_default()
}

/// Desired things that no room carries, or several, and what is given up while the bot is still in it: where their fencing aliases point
/// must be looked up before planning.
#[must_use]
pub fn missing(desired: &Desired, observed: &Observed) -> BTreeSet<Key> {
    let mut carriers: BTreeMap<&Key, usize> = BTreeMap::new();
    let living = observed.rooms.values().filter(|room| room.successor.is_none());
    for key in living.filter_map(|room| identity(room, &observed.bot)) {
        *carriers.entry(key).or_default() += 1;
    }
    let unmade = desired.rooms.iter().map(|room| &room.key).filter(|key| carriers.get(key) != Some(&1));
    let given_up = observed.rooms.values().filter(|room| room.is_given_up());
    unmade.chain(given_up.filter_map(|room| Some(&room.marker.as_ref()?.key))).cloned().collect()
}
