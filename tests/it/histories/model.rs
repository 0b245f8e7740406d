//! A homeserver that is nothing but a sequence of state changes: it shows any part of it through `/sync`, and the sum through `/state`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use usher::ids::{Interner, Key, RoomId, UserId};
use usher::observed::{MARKER_TYPE, Marker, Member, REMOVED, Room, StateEvent};

pub const SERVER: &str = "lab.test";
pub const INSTANCE: &str = "main";
pub const BOT: &str = "@usher:lab.test";
pub const ROOMS: [&str; 2] = ["!one:lab.test", "!two:lab.test"];
const PEOPLE: [&str; 3] = ["@ann:lab.test", "@bob:lab.test", "@mal:elsewhere"];

/// One change of one room's state.
#[derive(Clone, Debug)]
pub struct Change {
    room: usize,
    kind: &'static str,
    state_key: String,
    sender: &'static str,
    content: Value,
}

impl Change {
    /// The first room gets another name.
    pub fn renaming(name: &str) -> Self {
        let content = json!({ "name": name });
        Self { room: 0, kind: "m.room.name", state_key: String::new(), sender: PEOPLE[0], content }
    }
}

/// Whether a marker is one that the bot of the model writes.
pub fn is_ours(marker: &Marker) -> bool {
    marker.key == Key::Space("ours".into()) && marker.instance == INSTANCE
}

fn marker(key: &str, instance: &str) -> Value {
    json!({ "instance": instance, "key": Key::Space(key.into()) })
}

fn person() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(PEOPLE[0]), Just(PEOPLE[1]), Just(PEOPLE[2])]
}

fn sender() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => person(), 1 => Just(BOT)]
}

fn membership() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => Just(json!({ "membership": "join" })),
        1 => Just(json!({ "membership": "join", "displayname": "Ann", "x": [[[[7]]]] })),
        2 => Just(json!({ "membership": "invite" })),
        3 => Just(json!({ "membership": "leave", "reason": "because" })),
        1 => Just(json!({ "membership": "leave", REMOVED: true })),
        1 => Just(json!({ "membership": "ban" })),
        1 => Just(json!({ "membership": "knock" })),
    ]
}

fn plain_kind() -> impl Strategy<Value = (&'static str, Value)> {
    let odd = prop_oneof![Just(json!({})), Just(json!({ "name": 7, "topic": [], "join_rule": {}, "users": "x" }))];
    prop_oneof![
        3 => "[AB]".prop_map(|name| ("m.room.name", json!({ "name": name }))),
        1 => Just(("m.room.topic", json!({ "topic": "T" }))),
        1 => Just(("m.room.avatar", json!({ "url": "mxc://lab.test/a" }))),
        1 => Just(("m.room.canonical_alias", json!({ "alias": "#a:lab.test" }))),
        1 => Just(("m.room.guest_access", json!({ "guest_access": "can_join" }))),
        1 => Just(("m.room.tombstone", json!({ "replacement_room": "!new:lab.test" }))),
        1 => Just(("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" }))),
        2 => (0..101_i64).prop_map(|level| ("m.room.power_levels", json!({ "users": { PEOPLE[0]: level }, "ban": "50" }))),
        2 => Just(("m.room.join_rules", json!({ "join_rule": "restricted",
                 "allow": [{ "type": "m.room_membership", "room_id": ROOMS[1] }, 7] }))),
        1 => Just(("m.room.message", json!({ "body": "no state that usher reads" }))),
        2 => (prop_oneof![Just("m.room.name"), Just("m.room.topic"), Just("m.room.power_levels"),
                          Just("m.room.join_rules"), Just("m.room.tombstone")], odd),
    ]
}

fn link() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(json!({ "via": [SERVER], "suggested": true })),
        1 => Just(json!({ "via": [SERVER], "order": "a", "canonical": true })),
        1 => Just(json!({})),
        1 => Just(json!({ "via": [7], "order": 9 })),
    ]
}

/// Markers: the bot's own, taken back, unreadable; and those of people who would like to be it.
fn mark() -> impl Strategy<Value = (&'static str, String, Value)> {
    prop_oneof![
        2 => Just((BOT, BOT.to_owned(), marker("ours", INSTANCE))),
        1 => Just((BOT, BOT.to_owned(), json!({}))),
        1 => Just((BOT, BOT.to_owned(), json!({ "instance": INSTANCE, "key": 7 }))),
        1 => person().prop_map(|user| (user, String::new(), marker("theirs", INSTANCE))),
        1 => person().prop_map(|user| (user, user.to_owned(), marker("theirs", INSTANCE))),
        1 => person().prop_map(|user| (user, BOT.to_owned(), marker("theirs", INSTANCE))),
        1 => Just(("@usher2:lab.test", "@usher2:lab.test".to_owned(), marker("theirs", "other"))),
    ]
}

/// Any change. The bot itself is thrown out, and comes back, now and then.
pub fn change() -> impl Strategy<Value = Change> {
    let what = prop_oneof![
        6 => (membership(), person(), sender()).prop_map(|(content, user, sender)| {
            ("m.room.member", user.to_owned(), sender, content)
        }),
        6 => (plain_kind(), sender()).prop_map(|((kind, content), sender)| (kind, String::new(), sender, content)),
        2 => (link(), sender()).prop_map(|(content, sender)| ("m.space.child", "!child:lab.test".to_owned(), sender, content)),
        1 => (link(), sender()).prop_map(|(content, sender)| ("m.space.parent", "!up:lab.test".to_owned(), sender, content)),
        2 => mark().prop_map(|(sender, state_key, content)| (MARKER_TYPE, state_key, sender, content)),
        1 => (prop_oneof![Just("leave"), Just("join"), Just("invite")], sender()).prop_map(|(membership, sender)| {
            ("m.room.member", BOT.to_owned(), sender, json!({ "membership": membership }))
        }),
    ];
    (0..ROOMS.len(), what).prop_map(|(room, (kind, state_key, sender, content))| Change {
        room,
        kind,
        state_key,
        sender,
        content,
    })
}

/// What was said when: an event of the stream.
#[derive(Clone, Debug)]
struct Event {
    room: &'static str,
    json: Value,
}

#[derive(Default)]
struct Story {
    upcoming: Vec<Change>,
    stream: Vec<Event>,
    limit: usize,
    requests: usize,
}

/// The homeserver of one history at a time.
#[derive(Default)]
pub struct Server(Mutex<Story>);

impl Server {
    /// A new history: two rooms, a space and another one, that the bot is in.
    pub fn begin(&self, mut history: Vec<Change>) {
        history.reverse();
        let mut story = self.0.lock().unwrap();
        *story = Story { upcoming: history, limit: 100, requests: story.requests, ..Story::default() };
        for (room, kind) in ROOMS.into_iter().zip(["m.space", ""]) {
            let sender = PEOPLE[0];
            let created = json!({ "room_version": "12", "type": kind });
            story.append(room, "m.room.create", "", (sender, created));
            story.append(room, "m.room.member", BOT, (BOT, json!({ "membership": "join" })));
        }
    }

    /// The next so many changes happen.
    pub fn happen(&self, count: usize) {
        let mut story = self.0.lock().unwrap();
        for _ in 0..count {
            let Some(change) = story.upcoming.pop() else { return };
            let Change { room, kind, state_key, sender, content } = change;
            story.append(ROOMS[room], kind, &state_key, (sender, content));
        }
    }

    /// How many events of a room `/sync` shows at most.
    pub fn limit(&self, limit: usize) {
        self.0.lock().unwrap().limit = limit;
    }

    pub fn requests(&self) -> usize {
        self.0.lock().unwrap().requests
    }

    /// What is there: the rooms the bot is in.
    pub fn rooms(&self) -> BTreeMap<RoomId, Room> {
        let story = self.0.lock().unwrap();
        let joined = ROOMS.into_iter().filter(|room| story.has_joined(room));
        joined
            .map(|room| {
                let events: Vec<Value> = story.state(room).into_values().collect();
                let events = events.iter().filter_map(StateEvent::from_json);
                (RoomId::from(room), Room::from_state(&BOT.into(), INSTANCE, events, &mut Interner::default()))
            })
            .inspect(|(_, room)| assert_eq!(room.members.get(&UserId::from(BOT)), Some(&Member::Join)))
            .collect()
    }
}

impl Story {
    fn append(&mut self, room: &'static str, kind: &str, state_key: &str, (sender, content): (&str, Value)) {
        let before = self.state(room).remove(&(kind.to_owned(), state_key.to_owned()));
        let before = before.map(|event| event["content"].clone()).unwrap_or_default();
        let id = format!("$e{}", self.stream.len());
        let mut json = json!({ "type": kind, "state_key": state_key, "sender": sender, "event_id": id,
                               "content": content, "unsigned": { "prev_content": before } });
        if kind == "m.room.message" {
            json.as_object_mut().unwrap().remove("state_key");
        }
        self.stream.push(Event { room, json });
    }

    fn state(&self, room: &str) -> BTreeMap<(String, String), Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let here = self.stream.iter().filter(|event| event.room == room && event.json["state_key"].is_string());
        here.map(|event| ((text(&event.json["type"]), text(&event.json["state_key"])), event.json.clone())).collect()
    }

    fn membership(&self, room: &str) -> String {
        let mine = self.state(room).remove(&("m.room.member".to_owned(), BOT.to_owned()));
        mine.and_then(|event| event["content"]["membership"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    fn has_joined(&self, room: &str) -> bool {
        self.membership(room) == "join"
    }

    /// What a room shows of the stream after `since`.
    fn sync(&self, since: usize) -> Value {
        let mut rooms = json!({ "join": {}, "leave": {}, "invite": {} });
        for room in ROOMS {
            let news: Vec<&Value> =
                self.stream[since..].iter().filter(|event| event.room == room).map(|event| &event.json).collect();
            let about_me = |event: &&&Value| event["type"] == "m.room.member" && event["state_key"] == BOT;
            let mine = news.iter().rev().find(about_me);
            let wanted: Vec<&&Value> = news.iter().filter(|event| event["state_key"].is_string()).collect();
            let shown = &wanted[wanted.len().saturating_sub(self.limit)..];
            match self.membership(room).as_str() {
                "join" if !wanted.is_empty() => {
                    let limited = shown.len() < wanted.len();
                    rooms["join"][room] = json!({ "timeline": { "events": shown, "limited": limited } });
                }
                "join" => {}
                "invite" if mine.is_some() => {
                    rooms["invite"][room] = json!({ "invite_state": { "events": [mine] } });
                }
                _ if mine.is_some() => rooms["leave"][room] = json!({}),
                _ => {}
            }
        }
        rooms
    }
}

/// Serves the history on loopback.
pub async fn serve(server: Arc<Server>) -> (String, JoinHandle<()>) {
    crate::lab::proxy::serve(Router::new().fallback(answer).with_state(server)).await
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let mut story = server.0.lock().unwrap();
    story.requests += 1;
    let path = request.uri().path().replace("%21", "!").replace("%3A", ":");
    let query = request.uri().query().unwrap_or_default();
    let since = query.split('&').find_map(|pair| pair.strip_prefix("since="));
    let refuse = |status: u16, code: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        (status, axum::Json(json!({ "errcode": code, "error": "no" }))).into_response()
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let answer = match parts.as_slice() {
        ["_matrix", "client", "v3", "joined_rooms"] => {
            let joined: Vec<&str> = ROOMS.into_iter().filter(|room| story.has_joined(room)).collect();
            json!({ "joined_rooms": joined })
        }
        ["_matrix", "client", "v3", "rooms", room, "state"] if story.has_joined(room) => {
            story.state(room).into_values().collect()
        }
        ["_matrix", "client", "v3", "profile", _] => json!({ "displayname": "usher" }),
        ["_matrix", "client", "v1", "rooms", _, "hierarchy"] => json!({ "rooms": [] }),
        ["_matrix", "client", "v3", "user", _, "account_data", _] => return refuse(404, "M_NOT_FOUND"),
        ["_matrix", "client", "v3", "sync"] => {
            let next = format!("s{}", story.stream.len());
            match since.map(|since| since.strip_prefix('s').and_then(|number| number.parse::<usize>().ok())) {
                None => json!({ "next_batch": next }),
                Some(None) => return refuse(400, "M_UNKNOWN"),
                Some(Some(since)) => json!({ "next_batch": next, "rooms": story.sync(since) }),
            }
        }
        _ => return refuse(403, "M_FORBIDDEN"),
    };
    axum::Json(answer).into_response()
}
