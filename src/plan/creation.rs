//! The createRoom body of a new space or room (S-17, S-30): complete here, so that nothing is left to decide when it is sent.

use serde_json::{Map, Value, json};

use super::{Creation, Planner, RoomRef, levels};
use crate::desired::{DesiredRoom, RoomKind};
use crate::ids::Key;

/// Events that only usher may change in a space; `m.space.child` is the moderators'.
const GUARDED_IN_SPACES: [&str; 10] = [
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.power_levels",
    "m.room.server_acl",
    "m.room.topic",
    "m.space.parent",
];
/// The homeserver's own defaults for rooms: an `events` override replaces the whole map, so they are written out (S-17).
const ROOM_EVENTS: [(&str, i64); 8] = [
    ("m.room.avatar", 50),
    ("m.room.canonical_alias", 50),
    ("m.room.encryption", 100),
    ("m.room.history_visibility", 100),
    ("m.room.name", 50),
    ("m.room.power_levels", 100),
    ("m.room.server_acl", 100),
    ("m.space.child", 50),
];
/// Calls are everybody's (S-30).
const CALL_EVENTS: [&str; 2] = ["m.call.member", "org.matrix.msc3401.call.member"];

impl Planner<'_> {
    pub(super) fn creation(&self, wanted: &DesiredRoom) -> Creation {
        match &wanted.kind {
            RoomKind::Space { federate } => self.space_creation(wanted, *federate),
            RoomKind::Room(template) => self.room_creation(wanted, &template.properties),
        }
    }

    fn space_creation(&self, wanted: &DesiredRoom, federate: Option<bool>) -> Creation {
        let version = &self.desired.provisioner.room_version;
        let mut content = json!({ "type": "m.space" });
        if let Some(federate) = federate {
            content["m.federate"] = federate.into();
        }
        let mut events: Map<String, Value> =
            GUARDED_IN_SPACES.iter().map(|kind| ((*kind).to_owned(), 100.into())).collect();
        events.insert("m.room.tombstone".to_owned(), levels::tombstone(version).into());
        events.insert("m.space.child".to_owned(), 50.into());
        let mut body = json!({
            "name": wanted.name,
            "visibility": "private",
            "preset": "private_chat",
            "room_version": version,
            "creation_content": content,
            "power_level_content_override": {
                "users": self.initial_levels(wanted, version),
                "events": events,
                "events_default": 100,
                "state_default": 100,
                "invite": 100,
            },
            "initial_state": [
                { "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "forbidden" } },
                { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "invite" } },
            ],
        });
        if let Some(topic) = &wanted.topic {
            body["topic"] = topic.as_str().into();
        }
        self.picture(wanted, &mut body);
        Creation { key: wanted.key.clone(), body, allow: Vec::new(), marker: self.marker(&wanted.key) }
    }

    /// The configured `properties` win, except for what makes the room usher's: identity, alias and the directory's levels.
    fn room_creation(&self, wanted: &DesiredRoom, properties: &Map<String, Value>) -> Creation {
        let mut body = Value::Object(properties.clone());
        for (name, value) in [("name", wanted.name.as_str()), ("visibility", "private"), ("preset", "private_chat")] {
            if body.get(name).is_none() {
                body[name] = value.into();
            }
        }
        if body.get("room_version").is_none() {
            body["room_version"] = self.desired.provisioner.room_version.as_str().into();
        }
        let version = body["room_version"].as_str().unwrap_or_default().to_owned();
        let mut override_content = match body.get("power_level_content_override") {
            Some(Value::Object(content)) => content.clone(),
            _ => Map::new(),
        };
        let mut events: Map<String, Value> =
            ROOM_EVENTS.iter().map(|(kind, level)| ((*kind).to_owned(), (*level).into())).collect();
        events.insert("m.room.tombstone".to_owned(), levels::tombstone(&version).into());
        events.extend(CALL_EVENTS.iter().map(|kind| ((*kind).to_owned(), 0.into())));
        if let Some(Value::Object(own)) = override_content.get("events") {
            events.extend(own.clone());
        }
        override_content.insert("events".to_owned(), events.into());
        let mut users = match override_content.remove("users") {
            Some(Value::Object(users)) => users,
            _ => Map::new(),
        };
        users.extend(self.initial_levels(wanted, &version));
        override_content.insert("users".to_owned(), users.into());
        body["power_level_content_override"] = override_content.into();
        let state = body.get("initial_state").and_then(Value::as_array);
        let has_rule = state.is_some_and(|state| state.iter().any(|event| event["type"] == "m.room.join_rules"));
        let open = body["preset"] == "public_chat";
        let RoomKind::Room(template) = &wanted.kind else {
            return Creation { key: wanted.key.clone(), body, allow: Vec::new(), marker: self.marker(&wanted.key) };
        };
        let allow =
            if has_rule || open || template.groups.is_some() { Vec::new() } else { vec![self.space_of(wanted)] };
        self.picture(wanted, &mut body);
        Creation { key: wanted.key.clone(), body, allow, marker: self.marker(&wanted.key) }
    }

    fn space_of(&self, wanted: &DesiredRoom) -> RoomRef {
        let space = Key::Space(wanted.key.space().clone());
        match self.located.get(&space) {
            Some(id) => RoomRef::Id((*id).clone()),
            None => RoomRef::New(space),
        }
    }

    fn picture(&self, wanted: &DesiredRoom, body: &mut Value) {
        let Some(avatar) = &wanted.avatar else { return };
        let event = json!({ "type": "m.room.avatar", "state_key": "", "content": { "url": avatar } });
        match body.get_mut("initial_state").and_then(Value::as_array_mut) {
            Some(state) => state.push(event),
            None => body["initial_state"] = json!([event]),
        }
    }

    /// Levels of everybody who will be invited; below version 12 also the bot's, above every configured one (S-21).
    fn initial_levels(&self, wanted: &DesiredRoom, version: &str) -> Map<String, Value> {
        let rule = self.effective_rule(wanted, None);
        let mut users: Map<String, Value> = rule
            .members
            .iter()
            .filter(|(user, entitlement)| entitlement.level != 0 && self.may_be_invited(user))
            .map(|(user, entitlement)| (user.to_string(), entitlement.level.into()))
            .collect();
        if !levels::creators_are_immutable(version) {
            users.insert(self.observed.bot.to_string(), levels::BOT.into());
        }
        users
    }
}
