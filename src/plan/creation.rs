//! The createRoom body of a new space or room (S-17, S-30): complete here, so that nothing is left to decide when it is sent.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::members::Candidate;
use super::{Creation, Planner, RoomRef, levels, members};
use crate::config::RoomTemplate;
use crate::desired::{DesiredRoom, RoomKind};
use crate::ids::Key;
use crate::observed::{PowerLevels, creators_are_immutable};

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
            RoomKind::Space { federate, .. } => self.space_creation(wanted, *federate),
            RoomKind::Room(template) => self.room_creation(wanted, template),
            // Rooms people made are never made by us.
            RoomKind::Taken { .. } => Creation {
                key: wanted.key.clone(),
                body: Value::Null,
                allow: Vec::new(),
                marker: self.marker(&wanted.key),
            },
        }
    }

    fn space_creation(&self, wanted: &DesiredRoom, federate: Option<bool>) -> Creation {
        let version = &self.desired.provisioner.room_version;
        let mut content = json!({ "type": "m.space" });
        if let Some(federate) = federate {
            content["m.federate"] = federate.into();
        }
        let mut body = json!({
            "name": wanted.name,
            "visibility": "private",
            "preset": "private_chat",
            "room_version": version,
            "creation_content": content,
            "power_level_content_override": self.first_levels(wanted, version, true),
            "initial_state": [
                { "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "forbidden" } },
                { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "invite" } },
            ],
        });
        if let Some(topic) = &wanted.topic {
            body["topic"] = topic.as_str().into();
        }
        Self::picture(wanted, &mut body);
        Creation { key: wanted.key.clone(), body, allow: Vec::new(), marker: self.marker(&wanted.key) }
    }

    /// The configured `properties` win, except for what makes the room usher's: identity, alias and the directory's levels.
    fn room_creation(&self, wanted: &DesiredRoom, template: &RoomTemplate) -> Creation {
        let mut body = Value::Object(template.properties.clone());
        for (name, value) in [("name", wanted.name.as_str()), ("visibility", "private"), ("preset", "private_chat")] {
            if body.get(name).is_none() {
                body[name] = value.into();
            }
        }
        if body.get("room_version").is_none() {
            body["room_version"] = self.desired.provisioner.room_version.as_str().into();
        }
        let version = body["room_version"].as_str().unwrap_or_default().to_owned();
        let state = body.get("initial_state").and_then(Value::as_array);
        let has_rule = state.is_some_and(|state| state.iter().any(|event| event["type"] == "m.room.join_rules"));
        let open = body["preset"] == "public_chat";
        let closed = open || (has_rule && template.groups.is_none());
        body["power_level_content_override"] = self.first_levels(wanted, &version, !closed);
        let allow =
            if has_rule || open || template.groups.is_some() { Vec::new() } else { vec![self.space_of(wanted)] };
        Self::picture(wanted, &mut body);
        Creation { key: wanted.key.clone(), body, allow, marker: self.marker(&wanted.key) }
    }

    fn space_of(&self, wanted: &DesiredRoom) -> RoomRef {
        let space = Key::Space(wanted.key.space().clone());
        match self.located.get(&space) {
            Some(id) => RoomRef::Id((*id).clone()),
            None => RoomRef::New(space),
        }
    }

    fn picture(wanted: &DesiredRoom, body: &mut Value) {
        let Some(avatar) = &wanted.avatar else { return };
        let event = json!({ "type": "m.room.avatar", "state_key": "", "content": { "url": avatar } });
        match body.get_mut("initial_state").and_then(Value::as_array_mut) {
            Some(state) => state.push(event),
            None => body["initial_state"] = json!([event]),
        }
    }

    /// The first power levels: the frame, with everybody who will be invited. `closed`: strangers cannot walk in.
    fn first_levels(&self, wanted: &DesiredRoom, version: &str, closed: bool) -> Value {
        let mut first = self.level_frame(wanted, version);
        let rule = self.effective_rule(wanted, None);
        let invited = rule.members.iter().filter(|(user, right)| {
            let invitable = wanted.invites && self.candidate(right) == Candidate::Invitable;
            right.level != 0 && invitable && self.refusal(wanted, user).is_none()
        });
        first.users.extend(invited.map(|(user, right)| (user.clone(), right.level)));
        levels::fit(&mut first, levels::common_level(&rule).filter(|_| closed), BTreeSet::new, &self.observed.bot);
        first.content()
    }

    /// Power levels without the directory's people: the keys, below version 12 the bot above every configured level (S-21), and of the
    /// people a room's `properties` name those whom later passes would leave alone.
    pub(super) fn level_frame(&self, wanted: &DesiredRoom, version: &str) -> PowerLevels {
        let mut frame = match &wanted.kind {
            RoomKind::Space { named_once, .. } => {
                let mut events: Map<String, Value> =
                    GUARDED_IN_SPACES.iter().map(|kind| ((*kind).to_owned(), 100.into())).collect();
                events.insert("m.space.child".to_owned(), 50.into());
                if *named_once {
                    events.insert("m.room.name".to_owned(), 50.into());
                }
                events.insert("m.room.tombstone".to_owned(), levels::tombstone(version).into());
                PowerLevels::from_content(&json!({
                    "events": events, "events_default": 100, "state_default": 100, "invite": 100,
                }))
            }
            RoomKind::Room(template) => room_frame(template, version),
            RoomKind::Taken { .. } => PowerLevels::default(),
        };
        frame.users.retain(|user, _| {
            user.server() != self.observed.server || members::is_protected(self.desired, self.observed, user)
        });
        if !creators_are_immutable(version) {
            frame.users.insert(self.observed.bot.clone(), levels::BOT);
        }
        frame
    }
}

/// What `properties` say of the levels, over the homeserver's own defaults; who may change levels and what strangers have is usher's.
fn room_frame(template: &RoomTemplate, version: &str) -> PowerLevels {
    let own = template.properties.get("power_level_content_override").cloned().unwrap_or_default();
    let mut events: Map<String, Value> =
        ROOM_EVENTS.iter().map(|(kind, level)| ((*kind).to_owned(), (*level).into())).collect();
    events.insert("m.room.tombstone".to_owned(), levels::tombstone(version).into());
    events.extend(CALL_EVENTS.iter().map(|kind| ((*kind).to_owned(), 0.into())));
    if let Some(Value::Object(own)) = own.get("events") {
        events.extend(own.clone());
    }
    let mut frame = PowerLevels::from_content(&own);
    frame.rest.insert("events".to_owned(), events.into());
    frame.rest.remove("users_default");
    if frame.level_for_state(levels::GUARD) < levels::GUARD_LEVEL {
        frame.set_event(levels::GUARD, levels::GUARD_LEVEL);
    }
    frame
}
