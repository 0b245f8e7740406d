//! What is allowed, as Synapse allows it.

use serde_json::{Map, Value, json};
use usher::ids::{RoomId, UserId};

use super::world::{Refusal, Room, World, refuse};

impl Room {
    fn is_creator(&self, user: &UserId) -> bool {
        let create = self.state.get(&("m.room.create".to_owned(), String::new()));
        create.is_some_and(|event| {
            let additional = event.content["additional_creators"].as_array();
            event.sender == *user
                || additional.is_some_and(|list| list.iter().any(|creator| creator.as_str() == Some(user.as_str())))
        })
    }

    fn level(&self, user: &UserId) -> i64 {
        if self.version >= 12 && self.is_creator(user) {
            return i64::MAX;
        }
        match self.content("m.room.power_levels", "") {
            Some(levels) => {
                let own = levels["users"][user.as_str()].as_i64();
                own.or(levels["users_default"].as_i64()).unwrap_or(0)
            }
            None if self.is_creator(user) => 100,
            None => 0,
        }
    }

    fn needed(&self, key: &str, default: i64) -> i64 {
        let levels = self.content("m.room.power_levels", "");
        levels.and_then(|levels| levels[key].as_i64()).unwrap_or(default)
    }

    fn needed_for_state(&self, kind: &str) -> i64 {
        let levels = self.content("m.room.power_levels", "");
        levels.and_then(|levels| levels["events"][kind].as_i64()).unwrap_or_else(|| self.needed("state_default", 50))
    }

    pub fn join_rule(&self) -> &str {
        self.content("m.room.join_rules", "").and_then(|rule| rule["join_rule"].as_str()).unwrap_or("invite")
    }

    fn must_be_in(&self, user: &UserId) -> Result<(), Refusal> {
        if self.membership(user) == Some("join") {
            return Ok(());
        }
        refuse(403, "M_FORBIDDEN", format!("User {user} not in room"))
    }

    fn must_have(&self, user: &UserId, level: i64) -> Result<(), Refusal> {
        if self.level(user) >= level {
            return Ok(());
        }
        refuse(403, "M_FORBIDDEN", format!("user_level ({}) < send_level ({level})", self.level(user)))
    }

    fn levels_may_change(&self, by: &UserId, new: &Value) -> Result<(), Refusal> {
        let none = Map::new();
        let users = new["users"].as_object().unwrap_or(&none);
        if self.version >= 12 && users.keys().any(|user| self.is_creator(&user.as_str().into())) {
            return refuse(400, "M_UNKNOWN", "Creator user must not appear in content.users");
        }
        if users.values().any(|level| !level.is_i64()) {
            return refuse(400, "M_BAD_JSON", "levels are integers");
        }
        let own = self.level(by);
        let before = self.content("m.room.power_levels", "").and_then(|levels| levels["users"].as_object());
        let before = before.unwrap_or(&none);
        for user in users.keys().chain(before.keys()) {
            let (old, new) = (before.get(user).and_then(Value::as_i64), users.get(user).and_then(Value::as_i64));
            let equal_other = old.is_some_and(|old| old >= own) && user != by.as_str();
            if old != new && (equal_other || new.is_some_and(|new| new > own)) {
                return refuse(403, "M_FORBIDDEN", "You don't have permission to change that level");
            }
        }
        Ok(())
    }
}

impl World {
    pub fn may_set(&self, room: &RoomId, by: &UserId, kind: &str, state_key: &str, new: &Value) -> Result<(), Refusal> {
        let held = self.room(room)?;
        held.must_be_in(by)?;
        held.must_have(by, held.needed_for_state(kind))?;
        if state_key.starts_with('@') && state_key != by.as_str() {
            return refuse(403, "M_FORBIDDEN", "You are not allowed to set others state");
        }
        if kind == "m.room.canonical_alias"
            && let Some(alias) = new["alias"].as_str()
            && self.aliases.get(alias) != Some(room)
        {
            return refuse(400, "M_BAD_ALIAS", format!("Room alias {alias} does not point to the room"));
        }
        if kind == "m.room.power_levels" { held.levels_may_change(by, new) } else { Ok(()) }
    }

    pub fn invite(&mut self, room: &RoomId, by: &UserId, user: &UserId, reason: &Value) -> Result<(), Refusal> {
        let held = self.room(room)?;
        let inviting_admin = self.accounts.get(by).is_some_and(|account| account.admin);
        if !inviting_admin && self.accounts.get(user).is_some_and(|account| account.blocks_invites) {
            return refuse(403, "M_INVITE_BLOCKED", "You are not permitted to invite this user.");
        }
        match held.membership(user) {
            Some("ban") => return refuse(403, "M_BAD_STATE", "Cannot invite user who was banned"),
            Some("join") => return refuse(403, "M_FORBIDDEN", format!("{user} is already in the room.")),
            _ => {}
        }
        held.must_be_in(by)?;
        held.must_have(by, held.needed("invite", 0))?;
        self.set_member(room, by, user, "invite", reason);
        Ok(())
    }

    pub fn kick(&mut self, room: &RoomId, by: &UserId, user: &UserId, reason: &Value) -> Result<(), Refusal> {
        self.remove(room, by, user, "kick")?;
        self.set_member(room, by, user, "leave", reason);
        Ok(())
    }

    pub fn ban(&mut self, room: &RoomId, by: &UserId, user: &UserId, reason: &Value) -> Result<(), Refusal> {
        self.remove(room, by, user, "ban")?;
        self.set_member(room, by, user, "ban", reason);
        Ok(())
    }

    fn remove(&self, room: &RoomId, by: &UserId, user: &UserId, verb: &str) -> Result<(), Refusal> {
        let held = self.room(room)?;
        if verb == "kick" {
            match held.membership(user) {
                Some("ban") => return refuse(403, "M_BAD_STATE", "Cannot kick user who was banned"),
                None | Some("leave") => return refuse(403, "M_FORBIDDEN", "The target user is not in the room"),
                _ => {}
            }
        }
        held.must_be_in(by)?;
        held.must_have(by, held.needed(verb, 50))?;
        if held.level(user) >= held.level(by) {
            return refuse(403, "M_FORBIDDEN", format!("You cannot {verb} user {user}."));
        }
        Ok(())
    }

    pub fn join(&mut self, room: &RoomId, user: &UserId) -> Result<(), Refusal> {
        const NOBODY: &str = "Can't join remote room because no servers that are in the room have been provided.";
        let Some(held) = self.rooms.get(room) else { return refuse(404, "M_UNKNOWN", NOBODY) };
        if self.accounts.get(user).is_some_and(|account| account.suspended) {
            return refuse(403, "M_USER_SUSPENDED", "Sending messages while account is suspended is not allowed.");
        }
        // Nobody here is in it, and nobody said who else may be.
        if !held.has_members() {
            return refuse(404, "M_UNKNOWN", NOBODY);
        }
        let admitted = match held.membership(user) {
            Some("join") => return Ok(()),
            Some("ban") => return refuse(403, "M_BAD_STATE", "Cannot join user who was banned"),
            Some("invite") => true,
            _ => match held.join_rule() {
                "public" => true,
                "restricted" | "knock_restricted" => self.is_allowed(held, user),
                _ => false,
            },
        };
        if !admitted {
            return refuse(403, "M_FORBIDDEN", "You are not invited to this room.");
        }
        self.set_member(room, user, user, "join", &Value::Null);
        Ok(())
    }

    pub fn is_allowed(&self, held: &Room, user: &UserId) -> bool {
        let allow = held.content("m.room.join_rules", "").and_then(|rule| rule["allow"].as_array());
        allow
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["room_id"].as_str())
            .any(|room| self.rooms.get(room).is_some_and(|room| room.membership(user) == Some("join")))
    }

    pub fn knock(&mut self, room: &RoomId, user: &UserId) -> Result<(), Refusal> {
        let held = self.room(room)?;
        let open = matches!(held.join_rule(), "knock" | "knock_restricted");
        if !open || !matches!(held.membership(user), None | Some("leave" | "knock")) {
            return refuse(403, "M_FORBIDDEN", "You don't have permission to knock");
        }
        self.set_member(room, user, user, "knock", &Value::Null);
        Ok(())
    }

    pub fn leave(&mut self, room: &RoomId, user: &UserId) -> Result<(), Refusal> {
        match self.room(room)?.membership(user) {
            Some("join" | "invite" | "knock") => {
                self.set_member(room, user, user, "leave", &Value::Null);
                Ok(())
            }
            Some("leave") => Ok(()),
            _ => refuse(403, "M_FORBIDDEN", format!("User {user} not in room")),
        }
    }

    /// createRoom, in Synapse's order of events.
    pub fn create(&mut self, by: &UserId, body: &Value) -> Result<RoomId, Refusal> {
        let version = body["room_version"].as_str().unwrap_or("12");
        let Ok(number) = version.parse::<u32>() else {
            return refuse(400, "M_UNSUPPORTED_ROOM_VERSION", "no such version");
        };
        let own_levels = &body["power_level_content_override"];
        if number < 12 && own_levels["users"].is_object() && own_levels["users"][by.as_str()].is_null() {
            return refuse(400, "M_UNKNOWN", format!("'users' did not contain {by}"));
        }
        if number >= 12 && !own_levels["users"][by.as_str()].is_null() {
            return refuse(400, "M_UNKNOWN", "Creator user must not appear in content.users");
        }
        let id: RoomId = format!("!fake{}", self.next()).into();
        if let Some(name) = body["room_alias_name"].as_str() {
            let alias = format!("#{name}:{}", self.server);
            if self.aliases.contains_key(&alias) {
                return refuse(400, "M_ROOM_IN_USE", "Room alias already taken");
            }
            self.aliases.insert(alias, id.clone());
        }
        let public = match body["preset"].as_str() {
            Some(preset) => preset == "public_chat",
            None => body["visibility"] == "public",
        };
        let mut create = body["creation_content"].as_object().cloned().unwrap_or_default();
        create.insert("room_version".to_owned(), version.into());
        self.set(&id, by, "m.room.create", "", Value::Object(create));
        self.rooms.entry(id.clone()).or_default().version = number;
        self.set_member(&id, by, by, "join", &Value::Null);
        self.set(&id, by, "m.room.power_levels", "", first_levels(by, number, public, own_levels));
        self.first_state(&id, by, body, public);
        Ok(id)
    }

    fn first_state(&mut self, id: &RoomId, by: &UserId, body: &Value, public: bool) {
        let initial: Vec<&Value> = body["initial_state"].as_array().into_iter().flatten().collect();
        let given = |kind: &str| initial.iter().any(|event| event["type"] == kind);
        if let Some(name) = body["room_alias_name"].as_str()
            && !given("m.room.canonical_alias")
        {
            let alias = format!("#{name}:{}", self.server);
            self.set(id, by, "m.room.canonical_alias", "", json!({ "alias": alias }));
        }
        if !given("m.room.join_rules") {
            let rule = if public { "public" } else { "invite" };
            self.set(id, by, "m.room.join_rules", "", json!({ "join_rule": rule }));
        }
        if !public && !given("m.room.guest_access") {
            self.set(id, by, "m.room.guest_access", "", json!({ "guest_access": "can_join" }));
        }
        for event in &initial {
            let state_key = event["state_key"].as_str().unwrap_or_default();
            self.set(id, by, event["type"].as_str().unwrap_or_default(), state_key, event["content"].clone());
        }
        for (key, kind) in [("name", "m.room.name"), ("topic", "m.room.topic")] {
            if let Some(text) = body[key].as_str() {
                self.set(id, by, kind, "", json!({ key: text }));
            }
        }
    }
}

fn first_levels(by: &UserId, version: u32, public: bool, own: &Value) -> Value {
    let creators = version >= 12;
    let mut levels = json!({
        "users": if creators { json!({}) } else { json!({ by.as_str(): 100 }) },
        "users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50,
        "invite": if public { 50 } else { 0 }, "historical": 100,
        "events": {
            "m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50, "m.room.avatar": 50, "m.room.server_acl": 100, "m.room.encryption": 100,
            "m.room.tombstone": if creators { 150 } else { 100 },
        },
    });
    if public {
        levels["events"]["m.call.invite"] = json!(50);
    }
    for (key, value) in own.as_object().into_iter().flatten() {
        levels[key] = value.clone();
    }
    levels
}
