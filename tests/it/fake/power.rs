//! What Synapse gives a server admin over rooms, how a space shows its children, and upgrades.

use serde_json::{Value, json};
use usher::ids::{RoomId, UserId};

use super::world::{Event, Refusal, Room, World, refuse};

impl World {
    /// The whole state of a room, whoever is in it.
    pub fn state_for_admin(&self, room: &RoomId) -> Result<Value, Refusal> {
        let state: Vec<Value> = self.room(room)?.state.values().map(Event::json).collect();
        Ok(json!({ "state": state }))
    }

    /// `make_room_admin`: the strongest joined local user, who stands in the list or is a creator of version 12, raises `user`.
    pub fn make_room_admin(&mut self, room: &RoomId, user: &UserId) -> Result<Value, Refusal> {
        let held = self.room(room)?;
        let mut levels = held.content("m.room.power_levels", "").cloned().unwrap_or_else(|| json!({}));
        let Some((admin, level)) = self.strongest(held, &levels) else {
            return refuse(400, "M_UNKNOWN", "No local admin user in room");
        };
        if held.membership(user).is_none() || levels["users"][user.as_str()] != json!(level) {
            levels["users"][user.as_str()] = json!(level);
        }
        if self.may_set(room, &admin, "m.room.power_levels", "", &levels).is_err() {
            return refuse(400, "M_UNKNOWN", "No local admin user in room with power to update power levels.");
        }
        self.set(room, &admin, "m.room.power_levels", "", levels);
        let held = self.room(room)?;
        if !matches!(held.membership(user), Some("join" | "invite")) && held.join_rule() != "public" {
            self.invite(room, &admin, user, &Value::Null)?;
        }
        Ok(json!({}))
    }

    fn strongest(&self, held: &Room, levels: &Value) -> Option<(UserId, i64)> {
        let local = |user: &UserId| user.server() == self.server && held.membership(user) == Some("join");
        let creator = held.state.get(&("m.room.create".to_owned(), String::new())).map(|event| event.sender.clone());
        if held.version >= 12
            && let Some(creator) = creator.filter(|user| local(user))
        {
            return Some((creator, 100));
        }
        let listed = levels["users"].as_object()?.iter();
        let listed = listed.filter_map(|(user, level)| Some((UserId::from(user.as_str()), level.as_i64()?)));
        listed.filter(|(user, _)| local(user)).max_by_key(|(_, level)| *level)
    }

    /// The space itself and those of its children that `me` may see.
    pub fn hierarchy(&self, space: &RoomId, me: &UserId) -> Result<Value, Refusal> {
        let held = self.room(space)?;
        let open = |room: &super::world::Room| {
            matches!(room.membership(me), Some("join" | "invite"))
                || matches!(room.join_rule(), "public" | "knock" | "knock_restricted")
                || (room.join_rule() == "restricted" && self.is_allowed(room, me))
        };
        if !open(held) {
            return refuse(403, "M_FORBIDDEN", format!("User {me} not in room {space}"));
        }
        let links =
            held.state.iter().filter(|((kind, _), event)| kind == "m.space.child" && event.content["via"].is_array());
        let children = links.map(|((_, child), _)| RoomId::from(child.as_str()));
        let children = children.filter(|child| self.rooms.get(child).is_some_and(open));
        let rooms = std::iter::once(space.clone()).chain(children).map(|id| self.shown(&id));
        Ok(json!({ "rooms": rooms.collect::<Vec<_>>() }))
    }

    fn shown(&self, id: &RoomId) -> Value {
        let room = &self.rooms[id];
        let mut shown = json!({ "room_id": id, "join_rule": room.join_rule(), "children_state": [] });
        if let Some(kind) = room.content("m.room.create", "").and_then(|create| create["type"].as_str()) {
            shown["room_type"] = kind.into();
        }
        if let Some(name) = room.content("m.room.name", "").and_then(|content| content["name"].as_str()) {
            shown["name"] = name.into();
        }
        let allow = room.content("m.room.join_rules", "").and_then(|rule| rule["allow"].as_array());
        if let Some(allow) = allow {
            shown["allowed_room_ids"] = allow.iter().map(|entry| entry["room_id"].clone()).collect();
        }
        shown
    }

    /// `/upgrade`: a new room that names the old one, most of the old state in it, a tombstone in the old.
    pub fn upgrade(&mut self, room: &RoomId, by: &UserId, version: &str) -> Result<RoomId, Refusal> {
        let held = self.room(room)?;
        let levels = held.content("m.room.power_levels", "").cloned();
        self.may_set(room, by, "m.room.tombstone", "", &json!({}))?;
        let old = held.content("m.room.create", "").cloned().unwrap_or_default();
        let mut creation = json!({ "predecessor": { "room_id": room } });
        for key in ["type", "m.federate"] {
            creation.as_object_mut().unwrap().extend(old.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        let is_space = old["type"] == "m.space";
        let carried = ["m.room.join_rules", "m.room.name", "m.room.topic", "m.room.guest_access", "m.room.avatar"];
        let state: Vec<Value> = held
            .state
            .iter()
            .filter(|((kind, _), _)| carried.contains(&kind.as_str()) || is_space && kind == "m.space.child")
            .map(|((kind, key), event)| json!({ "type": kind, "state_key": key, "content": event.content }))
            .collect();
        let mut body = json!({ "room_version": version, "creation_content": creation, "initial_state": state });
        if let Some(mut levels) = levels {
            if version.parse::<u32>().is_ok_and(|version| version >= 12) {
                levels["users"].as_object_mut().and_then(|users| users.remove(by.as_str()));
            }
            body["power_level_content_override"] = levels;
        }
        let successor = self.create(by, &body)?;
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": successor });
        self.set(room, by, "m.room.tombstone", "", tombstone);
        for target in self.aliases.values_mut().filter(|target| *target == room) {
            *target = successor.clone();
        }
        Ok(successor)
    }
}
