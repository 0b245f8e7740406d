//! The lost-event drill: forty changes that the homeserver accepted while usher was stopped or dead, with the homeserver restarted in
//! between, once in order and once by a power cut. Every one of them is put right within a minute, out of the feed alone (S-33).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::live::{Live, membership, put};
use super::world::{World, until};
use crate::lab::proxy::Fault;
use crate::lab::slapd::signal;
use crate::lab::synapse::escape;

/// Changes in all; half of them before the first restart, half before the second.
const CHANGES: usize = 40;
/// What the issue asks for.
const IN_TIME: Duration = Duration::from_mins(1);
/// Rooms that may be read again as a whole: those in whose levels usher's own writes met changes it had not heard of yet.
const ROOM_READS: usize = 6;
/// More than the feed takes of one room at once.
const BURST: usize = 120;
const SPACES: [&str; 2] = ["org", "red"];
const ROOMS: [&str; 2] = ["org/general", "red/general"];
/// State of a space that the configuration decides, and what somebody makes of it.
const STATE: [(&str, &str, &str); 3] = [
    ("m.room.name", "name", "Somebody else's"),
    ("m.room.join_rules", "join_rule", "public"),
    ("m.room.guest_access", "guest_access", "can_join"),
];
const LEVELS: &str = "m.room.power_levels";

/// One change, and what must stand afterwards: the field of a state event.
struct Deed {
    room: RoomId,
    kind: &'static str,
    state_key: String,
    field: &'static str,
    value: Value,
    /// What is sent; `None`: a membership, by this verb of `ann`'s or the person's.
    content: Option<Value>,
    verb: Option<(&'static str, String)>,
}

impl Deed {
    async fn is_right(&self, world: &World) -> bool {
        let content = world.state(&self.room, self.kind, &self.state_key).await;
        let found = if self.kind == LEVELS { &content["users"][self.field_of_levels()] } else { &content[self.field] };
        *found == self.value
    }

    fn field_of_levels(&self) -> &str {
        &self.verb.as_ref().expect("whose level").1
    }

    async fn be_done(&self, world: &World) {
        let status = match (&self.content, &self.verb) {
            (Some(content), None) => put(world, "ann", &self.room, (self.kind, &self.state_key), content.clone()).await,
            (None, Some((verb, name))) => {
                let by = if *verb == "join" { name.as_str() } else { "ann" };
                membership(world, by, verb, &self.room, name).await
            }
            (Some(level), Some((_, user))) => {
                let mut levels = world.state(&self.room, LEVELS, "").await;
                levels["users"][user] = level.clone();
                put(world, "ann", &self.room, (LEVELS, ""), levels).await
            }
            (None, None) => unreachable!("a deed does something"),
        };
        assert_eq!(status, 200, "{} {} {:?}", self.kind, self.state_key, self.verb);
    }
}

/// Forty changes in an order in which each counts: nobody undoes another.
async fn deeds(world: &mut World) -> Vec<Deed> {
    let mut rooms = BTreeMap::new();
    for thing in SPACES.into_iter().chain(ROOMS) {
        rooms.insert(thing, world.room(thing).await);
    }
    let mut deeds = Vec::new();
    for space in SPACES {
        for (kind, field, other) in STATE {
            let room = rooms[space].clone();
            let value = world.state(&room, kind, "").await[field].clone();
            let content = Some(json!({ field: other }));
            deeds.push(Deed { room, kind, state_key: String::new(), field, value, content, verb: None });
        }
    }
    for below in ["red", "blue"] {
        let (org, space) = (rooms["org"].clone(), world.room(below).await);
        let link = |room, kind, key: &RoomId| Deed {
            room,
            kind,
            state_key: key.to_string(),
            field: "via",
            value: json!(["lab.test"]),
            content: Some(json!({})),
            verb: None,
        };
        deeds.push(link(org.clone(), "m.space.child", &space));
        if below == "red" {
            deeds.push(link(space, "m.space.parent", &org));
        }
    }
    for (name, level, right) in [("eve", 50, Value::Null), ("bob", 0, json!(50)), ("cat", 100 - 1, Value::Null)] {
        for thing in ["red", "red/general"] {
            deeds.push(Deed {
                room: rooms[thing].clone(),
                kind: LEVELS,
                state_key: String::new(),
                field: "users",
                value: right.clone(),
                content: Some(json!(level)),
                verb: Some(("level", world.user(name))),
            });
        }
    }
    let mut number = 0;
    while deeds.len() < CHANGES {
        let name = format!("x{number}");
        world.open_account(&name).await;
        let places: Vec<&RoomId> = rooms.values().collect();
        let member = |verb| Deed {
            room: places[number % places.len()].clone(),
            kind: "m.room.member",
            state_key: world.user(&name),
            field: "membership",
            value: json!("leave"),
            content: None,
            verb: Some((verb, name.clone())),
        };
        deeds.push(member("invite"));
        if number % 2 == 0 && deeds.len() < CHANGES {
            deeds.push(member("join"));
        }
        number += 1;
    }
    deeds
}

/// Half of the deeds, a restart, the other half, a power cut.
async fn forty_deeds(world: &mut World) -> Vec<Deed> {
    let deeds = deeds(world).await;
    assert_eq!(deeds.len(), CHANGES);
    for deed in &deeds {
        assert!(deed.is_right(world).await || deed.kind == "m.room.member", "{} {}", deed.kind, deed.state_key);
    }
    for (index, deed) in deeds.iter().enumerate() {
        if index == CHANGES / 2 {
            let mut synapse = world.stage.synapse().await;
            synapse.stop();
            synapse.restart().await;
        }
        deed.be_done(world).await;
    }
    let mut synapse = world.stage.synapse().await;
    synapse.kill9();
    synapse.restart().await;
    drop(synapse);
    deeds
}

async fn all_are_put_right(world: &World, deeds: &[Deed], since: Instant) {
    for deed in deeds {
        while !deed.is_right(world).await {
            assert!(since.elapsed() < IN_TIME, "not put right: {} {} {:?}", deed.kind, deed.state_key, deed.verb);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("drill: {} changes put right after {} ms", deeds.len(), since.elapsed().as_millis());
}

/// Times the homeserver was read as a whole, and rooms that were.
fn reads(world: &World) -> (usize, usize) {
    let seen = world.proxy.seen();
    let gets = |end: &str| seen.iter().filter(|seen| seen.method == "GET" && seen.path.ends_with(end)).count();
    (gets("/joined_rooms"), gets("/state"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_changes_while_usher_was_stopped_are_put_right_out_of_the_feed() {
    let Live { mut world, mut daemon, .. } = Live::among(World::alone().await, "12").await;
    world.proxy.clear();
    signal(daemon.pid(), "STOP");
    let deeds = forty_deeds(&mut world).await;
    let resumed = Instant::now();
    signal(daemon.pid(), "CONT");
    all_are_put_right(&world, &deeds, resumed).await;
    daemon.must_run();
    let (whole, rooms) = reads(&world);
    assert_eq!(whole, 0, "the homeserver was read as a whole");
    assert!(rooms <= ROOM_READS, "{rooms} rooms were read");
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_changes_while_usher_was_dead_are_put_right_at_the_start() {
    let Live { mut world, daemon, .. } = Live::among(World::alone().await, "11").await;
    daemon.kill9();
    let deeds = forty_deeds(&mut world).await;
    world.proxy.clear();
    let resumed = Instant::now();
    let daemon = world.start(&["run"]);
    all_are_put_right(&world, &deeds, resumed).await;
    assert_eq!(reads(&world).0, 1, "read as a whole once, at the start");
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

/// More events in one room than the feed takes: that room is read again, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_more_changes_than_the_feed_takes_is_read_again() {
    let Live { world, daemon, .. } = Live::new("12").await;
    let (org, space) = (world.room("org").await, world.room("red").await);
    signal(daemon.pid(), "STOP");
    assert_eq!(put(&world, "ann", &org, ("m.space.child", space.as_str()), json!({})).await, 200);
    for number in 0..BURST {
        let name = json!({ "name": format!("Number {number}") });
        assert_eq!(put(&world, "ann", &org, ("m.room.name", ""), name).await, 200);
    }
    world.proxy.clear();
    signal(daemon.pid(), "CONT");
    until("the name is back", async || world.state(&org, "m.room.name", "").await["name"] == "Company").await;
    // Lost in the gap, and found by what hung there before.
    let linked = async || !world.state(&org, "m.space.child", space.as_str()).await["via"].is_null();
    until("the link is back", linked).await;
    let whole = world.proxy.seen().into_iter().filter(|seen| seen.path.ends_with("/state"));
    assert_eq!(whole.map(|seen| seen.path.contains(&escape(org.as_str()))).collect::<Vec<_>>(), [true]);
    assert_eq!(reads(&world).0, 0);
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

/// What happened before the position the homeserver knows is in no feed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_the_homeserver_has_forgotten_is_answered_by_a_full_read() {
    let live = Live::new("12").await;
    let (world, space) = (&live.world, live.world.room("red").await);
    let is = async |name: &str| world.state(&space, "m.room.name", "").await["name"] == name;
    let rename = json!({ "name": "Crimson" });
    world.proxy.spoil(|seen| seen.query.contains("since=").then_some(Fault::DropBefore));
    // The request that waits already was let through; it ends with this, which usher has nothing to do about.
    world.join("gus", "blue").await;
    let cut_off = async || world.proxy.seen().iter().any(|seen| seen.query.contains("since=") && seen.status.is_none());
    until("the feed is cut off", cut_off).await;
    assert_eq!(put(world, "ann", &space, ("m.room.name", ""), rename).await, 200);
    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(space.as_str()));
    assert_eq!(world.as_person("ann", "POST", &path, json!({ "user_id": world.user("jon") })).await.0, 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is("Crimson").await, "usher cannot know");
    world.proxy.clear();
    let mut forgotten = false;
    world.proxy.spoil(move |seen| {
        let first = seen.query.contains("since=") && !std::mem::replace(&mut forgotten, true);
        first.then(|| Fault::Answer(400, json!({ "errcode": "M_UNKNOWN", "error": "Invalid stream token" })))
    });
    until("the name is back", async || is("Red team").await).await;
    until("jon is out", async || world.members("red").await["jon"] == "leave").await;
    assert_eq!(reads(world).0, 1, "read as a whole");
    live.daemon.stop().await.code(0);
    live.world.must_be_settled().await;
}
