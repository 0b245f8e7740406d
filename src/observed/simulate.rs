//! What the homeserver will look like after one of our actions: the same semantics as Synapse, kept honest by the contract suite, which
//! compares this with a full read after the same action on a real server.

use serde_json::{Map, Value, json};

use super::creators_are_immutable;
use super::fold::join_rule;
use super::{Account, CREATED_FOR, Known, MARKER_TYPE, Marker, Member, Observed, PowerLevels, Room, StateEvent};
use crate::actuate::Outcome;
use crate::ids::{EventId, Interner, Key, RoomId, UserId};
use crate::plan::{AccountDeed, Action, Attribute, Creation, Deed, End, RoomRef, StateChange};

impl Creation {
    /// The createRoom body as it is sent: the planned one, with our identity in the create content, the marker, the fencing alias and
    /// the rooms of `allow` in the join rule. An empty canonical alias keeps the fence from becoming the canonical one, which
    /// createRoom would do otherwise (S-16). Rooms that are still unresolved are left out.
    #[must_use]
    pub fn request(&self, bot: &UserId) -> Value {
        let mut body = self.body.as_object().cloned().unwrap_or_default();
        let made_for = json!({ "instance": self.marker.instance, "key": self.key });
        edit(&mut body, "creation_content", |content| {
            content.insert(CREATED_FOR.to_owned(), made_for);
        });
        body.insert("room_alias_name".to_owned(), self.key.alias_localpart(&self.marker.instance).into());
        let mut state = match body.remove("initial_state") {
            Some(Value::Array(state)) => state,
            _ => Vec::new(),
        };
        state.retain(|event| event.get("type").and_then(Value::as_str) != Some(MARKER_TYPE));
        state.push(json!({ "type": MARKER_TYPE, "state_key": bot, "content": self.marker }));
        self.admit(&mut state);
        if !state.iter().any(|event| is_unkeyed(event, "m.room.canonical_alias")) {
            state.push(json!({ "type": "m.room.canonical_alias", "state_key": "", "content": {} }));
        }
        body.insert("initial_state".to_owned(), Value::Array(state));
        Value::Object(body)
    }

    /// Puts the rooms of `allow` into the join rule, making one where there is none.
    fn admit(&self, state: &mut Vec<Value>) {
        if self.allow.is_empty() {
            return;
        }
        let position = state.iter().position(|event| is_unkeyed(event, "m.room.join_rules"));
        let planned = position.map(|at| state.remove(at)).and_then(|event| join_rule(event.get("content")?));
        let mut rule = planned.unwrap_or_default();
        if rule.rule.is_empty() {
            "restricted".clone_into(&mut rule.rule);
        }
        rule.allow.extend(self.allow.iter().filter_map(|room| match room {
            RoomRef::Id(room) => Some(room.clone()),
            RoomRef::New(_) => None,
        }));
        state.push(json!({ "type": "m.room.join_rules", "state_key": "", "content": rule.content() }));
    }
}

impl super::JoinRule {
    /// The event's content.
    #[must_use]
    pub fn content(&self) -> Value {
        let mut content = json!({ "join_rule": self.rule });
        if !self.allow.is_empty() {
            let allow = self.allow.iter().map(|room| json!({ "type": "m.room_membership", "room_id": room }));
            content["allow"] = Value::Array(allow.collect());
        }
        content
    }
}

impl StateChange {
    /// The event to send: type, state key, content. `None` while it names a room that does not exist yet.
    #[must_use]
    pub fn event(&self, bot: &UserId) -> Option<(&'static str, String, Value)> {
        let id = |room: &RoomRef| match room {
            RoomRef::Id(room) => Some(room.as_str().to_owned()),
            RoomRef::New(_) => None,
        };
        let unkeyed = |kind, content| Some((kind, String::new(), content));
        match self {
            Self::Name(name) => unkeyed("m.room.name", json!({ "name": name })),
            Self::Topic(topic) => unkeyed("m.room.topic", json!({ "topic": topic })),
            Self::Avatar(url) => unkeyed("m.room.avatar", json!({ "url": url })),
            Self::CanonicalAlias(alias) => unkeyed("m.room.canonical_alias", json!({ "alias": alias })),
            Self::JoinRule(rule) => unkeyed("m.room.join_rules", rule.content()),
            Self::GuestAccess(access) => unkeyed("m.room.guest_access", json!({ "guest_access": access })),
            Self::Child { child, link } => Some(("m.space.child", id(child)?, json!(link))),
            Self::Unchild { child } => Some(("m.space.child", child.as_str().to_owned(), json!({}))),
            Self::Parent { parent, link } => Some(("m.space.parent", id(parent)?, json!(link))),
            Self::Unparent { parent } => Some(("m.space.parent", parent.as_str().to_owned(), json!({}))),
            Self::Marker(marker) | Self::Rename { marker, .. } | Self::Adopt(marker) => {
                Some((MARKER_TYPE, bot.as_str().to_owned(), json!(marker)))
            }
            Self::Unmark(marker) => {
                let given_up = Marker { abandoned: true, ..marker.clone() };
                Some((MARKER_TYPE, bot.as_str().to_owned(), json!(given_up)))
            }
        }
    }
}

impl Observed {
    /// Changes what is observed as the homeserver would when `action` succeeds with `outcome`.
    ///
    /// A room that was found instead of made ([`Outcome::found`]) is not guessed at: the caller re-reads it. Rooms made by the same
    /// plan ([`RoomRef::New`]) are found by their key. Nothing happens for a room that is not known.
    pub fn simulate(&mut self, action: &Action, outcome: &Outcome) {
        match action {
            Action::RegisterBot => self.register_bot(),
            Action::SetBotName { name } => self.bot_display_name = Known::Known(Some(name.trim().to_owned())),
            Action::DropAlias { key, .. } | Action::RemoveAlias { key, .. } => {
                self.aliases.remove(key);
            }
            Action::CreateRoom(creation) => self.create(creation, outcome),
            Action::SetState { room, state } => self.set_state(room, state),
            Action::SetPowerLevels { room, content, .. } => {
                if let Some(room) = self.known_room(room) {
                    room.power_levels = Some(PowerLevels::from_content(content));
                }
            }
            Action::Invite { room, user, .. } => self.set_member(room, user, Member::Invite),
            Action::Join { room, user } => self.set_member(room, user, Member::Join),
            Action::Kick { room, user, .. } => {
                // The kick's answer names no event; the feed brings the real id, and nothing asks for that of our own kicks.
                let event = outcome.event.clone().unwrap_or_else(|| EventId::from(""));
                self.set_member(room, user, Member::Leave { by: self.bot.clone(), event });
            }
            Action::Account { user, deed } => self.account_deed(user, deed),
            Action::MirrorLeavers { leavers } => self.leavers = Known::Known(leavers.clone()),
            Action::Leave { room } => {
                if let Some(room) = self.resolve(room) {
                    self.rooms.remove(&room);
                }
            }
            Action::Enter { room } => self.enter(room),
            Action::TakePower { room } => self.take_power(room),
            Action::Puppet { room, user, deed } => self.done_by(room, user, deed, outcome),
        }
    }

    fn account_deed(&mut self, user: &UserId, deed: &AccountDeed) {
        match deed {
            AccountDeed::HandOver { room, to } => return self.hand_over(user, room, to),
            AccountDeed::TurnDown { room, .. } => {
                if let Some(estate) = self.estates.get_mut(user) {
                    estate.invited.remove(room);
                }
                if let Some(room) = self.outside.get_mut(room) {
                    room.members.insert(user.clone(), Member::Leave { by: user.clone(), event: EventId::from("") });
                }
                return;
            }
            AccountDeed::Unlock | AccountDeed::Close(_) => drop(self.estates.remove(user)),
            AccountDeed::Lock { .. } | AccountDeed::RemovePushers | AccountDeed::Set(_) => {}
        }
        if let AccountDeed::Close(_) = deed {
            for room in self.rooms.values_mut().chain(self.outside.values_mut()) {
                if room.members.get(user).is_some_and(Member::is_in) {
                    let event = EventId::from("");
                    room.members.insert(user.clone(), Member::Leave { by: user.clone(), event });
                }
            }
        }
        let Some(account) = self.accounts.people.get_mut(user) else { return };
        match deed {
            AccountDeed::Lock { .. } => account.locked = true,
            AccountDeed::Unlock => account.locked = false,
            // Whether somebody is locked says nothing any more, and the homeserver leaves it as it was.
            AccountDeed::Close(end) => {
                account.deactivated = true;
                if *end == End::Erase {
                    account.display_name = None;
                    account.avatar = None;
                }
            }
            AccountDeed::Set(Attribute::DisplayName(name)) => account.display_name = Some(name.trim().to_owned()),
            AccountDeed::Set(Attribute::Avatar(avatar)) => account.avatar = Some(avatar.upload().url),
            AccountDeed::Set(Attribute::NoAvatar { .. }) => account.avatar = None,
            // The first two are not observed, the others were dealt with.
            AccountDeed::RemovePushers
            | AccountDeed::Set(Attribute::Emails { .. } | Attribute::NoEmails(_))
            | AccountDeed::HandOver { .. }
            | AccountDeed::TurnDown { .. } => {}
        }
    }

    fn hand_over(&mut self, from: &UserId, room: &RoomId, to: &UserId) {
        let elsewhere = self.estates.get_mut(from).and_then(|estate| estate.rooms.get_mut(room));
        let known = self.rooms.get_mut(room).into_iter().chain(self.outside.get_mut(room)).chain(elsewhere);
        for room in known {
            room.hand_over(from, to);
        }
    }

    /// What the room was like from outside may be less than it is: the caller re-reads it.
    fn enter(&mut self, room: &RoomRef) {
        let Some(id) = self.resolve(room) else { return };
        if let Some(seen) = self.outside.remove(&id) {
            self.rooms.insert(id.clone(), seen);
        }
        self.set_member(&RoomRef::Id(id), &self.bot.clone(), Member::Join);
    }

    /// The strongest local member's level becomes the bot's. Creators that stand above all levels give 100.
    fn take_power(&mut self, room: &RoomRef) {
        let (bot, server) = (self.bot.clone(), self.server.clone());
        let Some(id) = self.resolve(room) else { return };
        let Some(room) = self.rooms.get_mut(&id).or_else(|| self.outside.get_mut(&id)) else { return };
        let joined = |user: &UserId| user.server() == server && room.members.get(user) == Some(&Member::Join);
        let levels = room.power_levels.clone().unwrap_or_default();
        let creator = creators_are_immutable(&room.version) && room.creators.iter().any(joined);
        let listed = levels.users.iter().filter(|(user, _)| joined(user)).map(|(_, level)| *level).max();
        let Some(level) = Some(100).filter(|_| creator).or(listed) else { return };
        room.power_levels.get_or_insert(levels).users.insert(bot.clone(), level);
        let public = room.join_rule.as_ref().is_some_and(|rule| rule.rule == "public");
        if !public && !room.members.get(&bot).is_some_and(Member::is_in) {
            room.members.insert(bot, Member::Invite);
        }
    }

    /// What somebody did in the bot's stead.
    fn done_by(&mut self, room: &RoomRef, user: &UserId, deed: &Deed, outcome: &Outcome) {
        match deed {
            Deed::Leave { .. } => {
                let event = outcome.event.clone().unwrap_or_else(|| EventId::from(""));
                self.set_member(room, user, Member::Leave { by: self.bot.clone(), event });
            }
            Deed::InviteBot => self.set_member(room, &self.bot.clone(), Member::Invite),
            Deed::SetLevels { content, .. } => {
                if let Some(room) = self.known_room(room) {
                    room.power_levels = Some(PowerLevels::from_content(content));
                }
            }
            Deed::Join => self.set_member(room, user, Member::Join),
            // What a person's list shows is not observed.
            Deed::Forget => {}
            Deed::Upgrade { version } => self.upgrade(room, user, version, outcome),
        }
    }

    /// Name, join rule and levels are copied; members, markers and links are not. Whoever upgrades is the new room's only member.
    fn upgrade(&mut self, room: &RoomRef, user: &UserId, version: &str, outcome: &Outcome) {
        let Some(id) = self.resolve(room) else { return };
        let successor = outcome.room.clone().unwrap_or_else(|| self.unused(id.as_str()));
        let Some(old) = self.known_room(&RoomRef::Id(id.clone())) else { return };
        old.successor = Some(successor.clone());
        let mut levels = old.power_levels.clone().unwrap_or_default();
        levels.users.retain(|listed, _| !creators_are_immutable(version) || listed != user);
        let new = Room {
            version: version.to_owned(),
            creators: [user.clone()].into(),
            made_by: Some(user.clone()),
            predecessor: Some(id),
            name: old.name.clone(),
            topic: old.topic.clone(),
            avatar: old.avatar.clone(),
            join_rule: old.join_rule.clone(),
            guest_access: old.guest_access.clone(),
            power_levels: Some(levels),
            members: [(user.clone(), Member::Join)].into(),
            encrypted: old.encrypted,
            is_space: old.is_space,
            children: old.children.clone(),
            ..Room::default()
        };
        for target in self
            .aliases
            .values_mut()
            .filter(|target| target.as_str() == new.predecessor.as_ref().map_or("", RoomId::as_str))
        {
            *target = successor.clone();
        }
        let seen = if *user == self.bot { &mut self.rooms } else { &mut self.outside };
        seen.insert(successor, new);
    }

    /// An application service's user starts with its localpart for a name.
    fn register_bot(&mut self) {
        let name = Some(self.bot.localpart().to_owned());
        self.bot_registered = Known::Known(true);
        self.bot_display_name = Known::Known(name.clone());
        if self.leavers.is_unknown() {
            self.leavers = Known::Known(std::collections::BTreeMap::new());
        }
        if self.accounts.listed {
            self.accounts.people.insert(self.bot.clone(), Account { display_name: name, ..Account::default() });
        }
    }

    fn create(&mut self, creation: &Creation, outcome: &Outcome) {
        let id = outcome.room.clone().unwrap_or_else(|| self.placeholder(creation));
        self.aliases.insert(creation.key.clone(), id.clone());
        if outcome.found {
            return;
        }
        let mut resolved = creation.clone();
        resolved.allow = creation.allow.iter().filter_map(|room| self.resolve(room)).map(RoomRef::Id).collect();
        let room = created(&self.bot, &creation.marker.instance, &resolved.request(&self.bot));
        self.rooms.insert(id, room);
    }

    fn set_state(&mut self, room: &RoomRef, state: &StateChange) {
        let Some(resolved) = self.resolved(state) else { return };
        let Some((kind, state_key, content)) = resolved.event(&self.bot) else { return };
        let event = own_event(&self.bot, kind, state_key, content);
        let Some(room) = self.resolve(room) else { return };
        self.fold(&room, &event);
        match state {
            StateChange::Rename { from, marker } => {
                self.aliases.remove(from);
                self.aliases.insert(marker.key.clone(), room);
            }
            StateChange::Adopt(marker) => {
                self.aliases.insert(marker.key.clone(), room);
            }
            _ => {}
        }
    }

    /// The change with the rooms of the same plan filled in.
    fn resolved(&self, state: &StateChange) -> Option<StateChange> {
        Some(match state {
            StateChange::Child { child, link } => {
                StateChange::Child { child: RoomRef::Id(self.resolve(child)?), link: link.clone() }
            }
            StateChange::Parent { parent, link } => {
                StateChange::Parent { parent: RoomRef::Id(self.resolve(parent)?), link: link.clone() }
            }
            other => other.clone(),
        })
    }

    fn set_member(&mut self, room: &RoomRef, user: &UserId, member: Member) {
        if let Some(room) = self.known_room(room) {
            room.members.insert(user.clone(), member);
        }
    }

    fn known_room(&mut self, room: &RoomRef) -> Option<&mut Room> {
        let id = self.resolve(room)?;
        self.rooms.get_mut(&id).or_else(|| self.outside.get_mut(&id))
    }

    fn resolve(&self, room: &RoomRef) -> Option<RoomId> {
        let key = match room {
            RoomRef::Id(room) => return Some(room.clone()),
            RoomRef::New(key) => key,
        };
        self.aliases.get(key).cloned().or_else(|| self.carrier(key))
    }

    /// A room id where no homeserver gave one.
    fn placeholder(&self, creation: &Creation) -> RoomId {
        self.unused(&creation.key.alias_localpart(&creation.marker.instance))
    }

    /// An id like `name` that no room has.
    fn unused(&self, name: &str) -> RoomId {
        let bare = name.trim_start_matches('!');
        let mut name = bare.strip_suffix(&format!(":{}", self.server)).unwrap_or(bare).to_owned();
        loop {
            let id = RoomId::from(format!("!{name}:{}", self.server));
            if !self.rooms.contains_key(&id) && !self.outside.contains_key(&id) {
                return id;
            }
            name.push('+');
        }
    }

    /// The room that carries `key` by its marker.
    fn carrier(&self, key: &Key) -> Option<RoomId> {
        let carries = |room: &Room| room.marker.as_ref().is_some_and(|marker| marker.key == *key && !marker.abandoned);
        self.rooms.iter().find(|(_, room)| carries(room)).map(|(id, _)| id.clone())
    }
}

/// Version of rooms whose body names none; Synapse's own default.
const DEFAULT_VERSION: &str = "12";

/// The room Synapse makes from a createRoom body.
fn created(bot: &UserId, instance: &str, body: &Value) -> Room {
    let preset = Preset::of(body);
    let version = body.get("room_version").and_then(Value::as_str).unwrap_or(DEFAULT_VERSION);
    let mut create = body.get("creation_content").and_then(Value::as_object).cloned().unwrap_or_default();
    create.insert("room_version".to_owned(), version.into());
    let mut events = vec![
        own_event(bot, "m.room.create", String::new(), Value::Object(create)),
        own_event(bot, "m.room.member", bot.as_str().to_owned(), json!({ "membership": "join" })),
        own_event(bot, "m.room.power_levels", String::new(), power_levels(bot, version, &preset, body)),
        own_event(bot, "m.room.join_rules", String::new(), json!({ "join_rule": preset.join_rule })),
    ];
    if preset.guests {
        events.push(own_event(bot, "m.room.guest_access", String::new(), json!({ "guest_access": "can_join" })));
    }
    for event in body.get("initial_state").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
        let content = event.get("content").cloned().unwrap_or_default();
        events.push(own_event(bot, text("type"), text("state_key").to_owned(), content));
    }
    for (key, kind) in [("name", "m.room.name"), ("topic", "m.room.topic")] {
        if let Some(value) = body.get(key) {
            events.push(own_event(bot, kind, String::new(), json!({ key: value })));
        }
    }
    Room::from_state(bot, instance, events.into_iter(), &mut Interner::default())
}

/// What a preset stands for; without one, the visibility chooses it.
struct Preset {
    join_rule: &'static str,
    guests: bool,
    levels: fn(&mut Map<String, Value>),
}

impl Preset {
    fn of(body: &Value) -> Self {
        let text = |key: &str| body.get(key).and_then(Value::as_str);
        let public = match text("preset") {
            Some(preset) => preset == "public_chat",
            None => text("visibility") == Some("public"),
        };
        if public {
            let levels = |levels: &mut Map<String, Value>| {
                edit(levels, "events", |events| {
                    events.insert("m.call.invite".to_owned(), 50.into());
                });
            };
            return Self { join_rule: "public", guests: false, levels };
        }
        let levels = |levels: &mut Map<String, Value>| {
            levels.insert("invite".to_owned(), 0.into());
        };
        Self { join_rule: "invite", guests: true, levels }
    }
}

/// The first power levels: Synapse's own, the preset's over them, the body's override over both, key by key: an override of `events`
/// replaces the whole map (S-17). A power level event in `initial_state` replaces all of it.
fn power_levels(bot: &UserId, version: &str, preset: &Preset, body: &Value) -> Value {
    let mut levels = Map::new();
    let creators = creators_are_immutable(version);
    levels.insert("users".to_owned(), if creators { json!({}) } else { json!({ bot.as_str(): 100 }) });
    levels.insert(
        "events".to_owned(),
        json!({
            "m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100, "m.room.canonical_alias": 50,
            "m.room.avatar": 50, "m.room.tombstone": if creators { 150 } else { 100 }, "m.room.server_acl": 100,
            "m.room.encryption": 100,
        }),
    );
    for (key, level) in [("users_default", 0), ("events_default", 0), ("state_default", 50), ("historical", 100)] {
        levels.insert(key.to_owned(), level.into());
    }
    for key in ["ban", "kick", "redact", "invite"] {
        levels.insert(key.to_owned(), 50.into());
    }
    (preset.levels)(&mut levels);
    if let Some(Value::Object(own)) = body.get("power_level_content_override") {
        levels.extend(own.clone());
    }
    Value::Object(levels)
}

fn own_event(bot: &UserId, kind: &str, state_key: String, content: Value) -> StateEvent {
    StateEvent { kind: kind.to_owned(), state_key, sender: bot.clone(), event_id: EventId::from(""), content }
}

fn is_unkeyed(event: &Value, kind: &str) -> bool {
    let text = |key: &str| event.get(key).and_then(Value::as_str);
    text("type") == Some(kind) && text("state_key").unwrap_or_default().is_empty()
}

/// Changes the object under `key`, made if it is none.
fn edit(map: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut inner = match map.remove(key) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    };
    change(&mut inner);
    map.insert(key.to_owned(), Value::Object(inner));
}
