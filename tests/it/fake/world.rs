//! What the fake homeserver knows: accounts, rooms, aliases, the stream of events.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use usher::ids::{RoomId, UserId};
use usher::matrix::registration::Registration;

/// A refusal: status, code, text.
pub type Refusal = (u16, &'static str, String);

pub fn refuse<T>(status: u16, code: &'static str, text: impl Into<String>) -> Result<T, Refusal> {
    Err((status, code, text.into()))
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, as the user list has them")]
pub struct Account {
    pub admin: bool,
    pub locked: bool,
    pub deactivated: bool,
    pub display_name: Option<String>,
    pub avatar: Option<String>,
    pub created: usize,
    pub blocks_invites: bool,
    pub suspended: bool,
    pub erased: bool,
    /// The registration that owns it.
    pub service: Option<String>,
    /// Medium and address.
    pub threepids: Vec<(String, String)>,
    /// Provider and id.
    pub links: Vec<(String, String)>,
    pub pushers: Vec<Value>,
    pub data: BTreeMap<String, Value>,
}

#[derive(Clone)]
pub struct Event {
    pub kind: String,
    /// `None`: no state.
    pub state_key: Option<String>,
    pub sender: UserId,
    pub id: String,
    pub content: Value,
    pub before: Value,
}

impl Event {
    pub fn json(&self) -> Value {
        let mut event = json!({
            "type": self.kind, "sender": self.sender, "event_id": self.id, "content": self.content,
            "unsigned": { "prev_content": self.before },
        });
        if let Some(state_key) = &self.state_key {
            event["state_key"] = json!(state_key);
        }
        event
    }
}

#[derive(Default)]
pub struct Room {
    pub version: u32,
    pub state: BTreeMap<(String, String), Event>,
}

impl Room {
    pub fn content(&self, kind: &str, state_key: &str) -> Option<&Value> {
        self.state.get(&(kind.to_owned(), state_key.to_owned())).map(|event| &event.content)
    }

    pub fn membership(&self, user: &UserId) -> Option<&str> {
        self.content("m.room.member", user.as_str())?.get("membership")?.as_str()
    }

    pub fn has_members(&self) -> bool {
        let joined = |event: &Event| event.kind == "m.room.member" && event.content["membership"] == "join";
        self.state.values().any(joined)
    }
}

pub struct World {
    pub server: String,
    pub registrations: Vec<Registration>,
    pub accounts: BTreeMap<UserId, Account>,
    pub tokens: BTreeMap<String, UserId>,
    pub rooms: BTreeMap<RoomId, Room>,
    pub aliases: BTreeMap<String, RoomId>,
    pub stream: Vec<(RoomId, Event)>,
    made: usize,
}

impl World {
    pub fn new(server: &str, registrations: Vec<Registration>) -> Self {
        Self {
            server: server.to_owned(),
            registrations,
            accounts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            rooms: BTreeMap::new(),
            aliases: BTreeMap::new(),
            stream: Vec::new(),
            made: 0,
        }
    }

    /// A number never used before.
    pub fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    pub fn account(&mut self, user: &UserId) -> &mut Account {
        self.accounts.entry(user.clone()).or_default()
    }

    pub fn add_account(&mut self, user: &UserId) -> Result<(), Refusal> {
        if self.accounts.contains_key(user) {
            return refuse(400, "M_USER_IN_USE", "User ID already taken.");
        }
        let created = self.next();
        let display_name = Some(user.localpart().to_owned());
        self.accounts.insert(user.clone(), Account { display_name, created, ..Account::default() });
        Ok(())
    }

    pub fn room(&self, id: &RoomId) -> Result<&Room, Refusal> {
        // Synapse does not tell whether a room exists.
        self.rooms.get(id).map_or_else(|| refuse(403, "M_FORBIDDEN", "not in room"), Ok)
    }

    /// Appends an event that was allowed; equal state is the event that stands.
    pub fn append(&mut self, room: &RoomId, mut event: Event) -> String {
        let number = self.next();
        event.id = format!("$e{number}");
        let held = self.rooms.entry(room.clone()).or_default();
        if let Some(state_key) = &event.state_key {
            let place = (event.kind.clone(), state_key.clone());
            if let Some(standing) = held.state.get(&place) {
                if standing.content == event.content && standing.sender == event.sender {
                    return standing.id.clone();
                }
                event.before = standing.content.clone();
            }
            held.state.insert(place, event.clone());
        }
        let id = event.id.clone();
        self.stream.push((room.clone(), event));
        id
    }

    /// Appends a state event.
    pub fn set(&mut self, room: &RoomId, by: &UserId, kind: &str, state_key: &str, content: Value) -> String {
        let event = Event {
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            sender: by.clone(),
            id: String::new(),
            content,
            before: Value::Null,
        };
        self.append(room, event)
    }

    pub fn set_member(&mut self, room: &RoomId, by: &UserId, user: &UserId, membership: &str, reason: &Value) {
        let mut content = json!({ "membership": membership });
        if reason.is_string() {
            content["reason"] = reason.clone();
        }
        self.set(room, by, "m.room.member", user.as_str(), content);
    }
}
