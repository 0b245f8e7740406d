//! What a test looks at and changes on the homeserver itself, past usher and its proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use usher::ids::{Key, RoomId};

use super::world::World;
use crate::lab::synapse::{SERVER_NAME, escape};

/// One `m.room.member` event, the newest last.
#[derive(Clone, Debug)]
pub struct Change {
    pub by: String,
    pub who: String,
    pub membership: String,
    pub reason: String,
}

impl World {
    /// A request with `token`: status and answer.
    pub async fn request(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method: reqwest::Method = method.parse().expect("a method");
        let request = self.http.request(method.clone(), format!("{}{path}", self.stage.url())).bearer_auth(token);
        let request = if method == reqwest::Method::GET { request } else { request.json(&body) };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// As the bot.
    pub async fn as_bot(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let sign = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{sign}user_id={}", escape(&self.bot()));
        self.request(&self.slot.tokens[0], method, &path, body).await
    }

    pub async fn as_admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.request(self.stage.admin_token(), method, path, body).await
    }

    /// As a person of this world.
    pub async fn as_person(&self, name: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let token = self.tokens.get(name).expect("a person with an account");
        self.request(token, method, path, body).await
    }

    /// The fencing alias of a thing: `red` is a space, `red/general` a room in it.
    pub fn alias(&self, thing: &str) -> String {
        let key = match thing.split_once('/') {
            None => Key::Space(thing.into()),
            Some((space, slot)) => Key::Room { space: space.into(), slot: slot.into() },
        };
        key.alias(&self.slot.instance, SERVER_NAME).to_string()
    }

    /// Where an alias points.
    pub async fn resolve(&self, alias: &str) -> Option<RoomId> {
        let path = format!("/_matrix/client/v3/directory/room/{}", escape(alias));
        let (status, answer) = self.as_admin("GET", &path, Value::Null).await;
        (status == 200).then(|| answer["room_id"].as_str().expect("room_id").into())
    }

    pub async fn room(&self, thing: &str) -> RoomId {
        let alias = self.alias(thing);
        self.resolve(&alias).await.unwrap_or_else(|| panic!("{alias} points nowhere"))
    }

    /// Rooms the bot is in.
    pub async fn bot_rooms(&self) -> BTreeSet<RoomId> {
        let (status, answer) = self.as_bot("GET", "/_matrix/client/v3/joined_rooms", Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer["joined_rooms"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().into()).collect()
    }

    /// Every room our bot ever made, alive or not.
    pub async fn made_rooms(&self) -> BTreeSet<RoomId> {
        let (status, answer) = self.as_admin("GET", "/_synapse/admin/v1/rooms?limit=10000", Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        let bot = self.bot();
        let rooms = answer["rooms"].as_array().unwrap().iter();
        rooms
            .filter(|room| room["creator"] == bot.as_str())
            .map(|room| room["room_id"].as_str().unwrap().into())
            .collect()
    }

    pub async fn state(&self, room: &RoomId, kind: &str, key: &str) -> Value {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", escape(room.as_str()), escape(key));
        let (status, answer) = self.as_bot("GET", &path, Value::Null).await;
        if status == 200 { answer } else { Value::Null }
    }

    /// Who is in what state in a room of ours, the bot left out: `ann` is `invite`. Names without the test's prefix.
    pub async fn members(&self, thing: &str) -> BTreeMap<String, String> {
        self.members_of(&self.room(thing).await).await
    }

    /// As [`World::members`], of a room by its id.
    pub async fn members_of(&self, room: &RoomId) -> BTreeMap<String, String> {
        let path = format!("/_matrix/client/v3/rooms/{}/members", escape(room.as_str()));
        let (status, answer) = self.as_bot("GET", &path, Value::Null).await;
        // The alias is there before the bot is: the homeserver is still making the room.
        assert!(status == 200 || answer["errcode"] == "M_FORBIDDEN", "{answer}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = answer["chunk"].as_array().into_iter().flatten();
        let all = events.map(|event| (text(&event["state_key"]), text(&event["content"]["membership"])));
        all.filter(|(user, _)| *user != self.bot()).map(|(user, membership)| (self.short(&user), membership)).collect()
    }

    /// Those of [`World::members`] who are joined or invited.
    pub async fn inside(&self, thing: &str) -> BTreeSet<String> {
        self.inside_room(&self.room(thing).await).await
    }

    /// As [`World::inside`], of a room by its id.
    pub async fn inside_room(&self, room: &RoomId) -> BTreeSet<String> {
        let members = self.members_of(room).await.into_iter();
        members
            .filter(|(_, membership)| matches!(membership.as_str(), "join" | "invite"))
            .map(|(name, _)| name)
            .collect()
    }

    pub async fn level(&self, thing: &str, name: &str) -> i64 {
        let levels = self.state(&self.room(thing).await, "m.room.power_levels", "").await;
        levels["users"][self.user(name)].as_i64().unwrap_or(0)
    }

    /// The timeline of a room from its beginning, reduced to one kind of state event.
    pub async fn events(&self, room: &RoomId, kind: &str) -> Vec<Value> {
        let filter = escape(&json!({ "types": [kind] }).to_string());
        let mut from = String::new();
        let mut events = Vec::new();
        loop {
            let at = if from.is_empty() { String::new() } else { format!("&from={}", escape(&from)) };
            let path = format!(
                "/_matrix/client/v3/rooms/{}/messages?dir=f&limit=500&filter={filter}{at}",
                escape(room.as_str())
            );
            let (status, answer) = self.as_bot("GET", &path, Value::Null).await;
            assert_eq!(status, 200, "{answer}");
            events.extend(answer["chunk"].as_array().unwrap().iter().cloned());
            match answer["end"].as_str() {
                Some(end) if !answer["chunk"].as_array().unwrap().is_empty() => end.clone_into(&mut from),
                _ => return events,
            }
        }
    }

    /// Every membership change of a room.
    pub async fn history(&self, room: &RoomId) -> Vec<Change> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.events(room, "m.room.member").await.into_iter();
        let change = |event: Value| Change {
            by: text(&event["sender"]),
            who: self.short(event["state_key"].as_str().unwrap_or_default()),
            membership: text(&event["content"]["membership"]),
            reason: text(&event["content"]["reason"]),
        };
        events.map(change).collect()
    }

    /// Everybody usher ever removed from any of its rooms.
    pub async fn removed(&self) -> BTreeSet<String> {
        let bot = self.bot();
        let mut removed = BTreeSet::new();
        for room in self.bot_rooms().await {
            let history = self.history(&room).await.into_iter();
            let kicks = history.filter(|change| change.by == bot && change.membership == "leave");
            removed.extend(kicks.map(|change| change.who));
        }
        removed
    }

    /// Makes `name` follow an invitation.
    pub async fn join(&self, name: &str, thing: &str) {
        let room = self.room(thing).await;
        let path = format!("/_matrix/client/v3/join/{}", escape(room.as_str()));
        let (status, answer) = self.as_person(name, "POST", &path, json!({})).await;
        assert_eq!(status, 200, "{name} joins {thing}: {answer}");
    }

    /// A membership change by somebody else: `invite`, `kick`, `ban`, `leave`.
    pub async fn change(&self, by: &str, verb: &str, thing: &str, name: &str) {
        let room = self.room(thing).await;
        let path = format!("/_matrix/client/v3/rooms/{}/{verb}", escape(room.as_str()));
        let body = if verb == "leave" { json!({}) } else { json!({ "user_id": self.user(name) }) };
        let (status, answer) = self.as_person(by, "POST", &path, body).await;
        assert_eq!(status, 200, "{by} {verb} {name} {thing}: {answer}");
    }
}
