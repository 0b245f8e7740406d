//! The homeserver's transactions, on a real Synapse: they arrive, wake usher, and are missed by nobody when they do not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::Instant;

use serde_json::json;
use usher::ids::RoomId;

use super::stage::Stage;
use super::world::{World, until};
use crate::lab::ports::free_port;
use crate::lab::proxy::{Fault, Proxy};
use crate::lab::synapse::escape;

/// What usher says when the homeserver's ping came through.
const REACHED: &str = "the homeserver reaches usher";
/// What it says when the feed fails.
const INTERRUPTED: &str = "the feed is interrupted";
/// What it says when it did not.
const UNREACHED: &str = "transactions do not reach usher";

/// A company whose homeserver brings transactions through a proxy that counts them to a port where usher is to listen.
async fn company() -> (World, Proxy, String) {
    let listen = format!("127.0.0.1:{}", free_port());
    let way = Proxy::start(&format!("http://{listen}")).await;
    let mut world = World::bare(Stage::bringing_transactions_to(way.url()).await).await;
    world.bootstrap().await;
    world.open_account("mal").await;
    world.config["appservice"] = json!({ "listen": listen, "url": way.url() });
    world.write();
    (world, way, listen)
}

/// An act of somebody's that usher has to undo.
async fn intrude(world: &World) {
    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(world.room("red").await.as_str()));
    assert_eq!(world.as_bot("POST", &path, json!({ "user_id": world.user("mal") })).await.0, 200);
}

async fn intruder_is_out(world: &World) {
    until("the intruder is out", async || world.members("red").await.get("mal").is_some_and(|it| it == "leave")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_arrive_wake_usher_and_survive_a_restart_of_the_homeserver() {
    let (world, way, _) = company().await;
    world.usher(&["check"]).await.code(0).says(&format!("the homeserver brings them to {}", way.url()));
    let mut daemon = world.start(&["run"]);
    daemon.until_said(REACHED).await;
    way.clear();
    until("everybody is in", async || world.is_right().await).await;
    until("transactions", async || way.seen().iter().any(|seen| seen.path.contains("/transactions/"))).await;

    // usher waits after some failures of the feed: a transaction ends that.
    world.proxy.spoil(|seen| seen.path.ends_with("/sync").then(|| Fault::Answer(502, json!({}))));
    let failed = || world.proxy.seen().iter().filter(|seen| seen.status == Some(502)).count();
    world.proxy.clear();
    // It waits for something to happen; the next time it asks is the first to fail.
    world.join("ann", "org").await;
    until("some failures", async || failed() >= 6).await;
    world.proxy.behave();
    let began = Instant::now();
    intrude(&world).await;
    daemon.until_said("a transaction ends the pause").await;
    intruder_is_out(&world).await;
    println!("transactions: an intruder was out after {} ms, the feed in its pause", began.elapsed().as_millis());

    // The homeserver comes back: it is asked again whether it reaches usher.
    let said = |text: &str| daemon.said().matches(text).count();
    let (reached, interrupted) = (said(REACHED), said(INTERRUPTED));
    let mut synapse = world.stage.synapse().await;
    synapse.stop();
    until("it is missed", async || said(INTERRUPTED) > interrupted).await;
    synapse.restart().await;
    drop(synapse);
    until("another ping", async || said(REACHED) > reached).await;
    must_be_acknowledged(&way);
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_lead_elsewhere_are_told_of_and_missed_by_nobody() {
    let (mut world, way, _) = company().await;
    world.config["appservice"]["listen"] = json!(format!("127.0.0.1:{}", free_port()));
    world.config["appservice"]["url"] = json!("http://127.0.0.1:9");
    world.write();
    world.usher(&["check"]).await.code(0).says(way.url()).says("usher registration generate");
    let mut daemon = world.start(&["run"]);
    daemon.until_said(UNREACHED).await;
    daemon.until_said("restart Synapse").await;
    until("everybody is in", async || world.is_right().await).await;
    intrude(&world).await;
    intruder_is_out(&world).await;
    daemon.stop().await.code(0);

    world.config["appservice"] = json!({ "listen": null, "url": null });
    world.write();
    world.usher(&["check"]).await.code(0).says("appservice.listen is not set");
}

fn must_be_acknowledged(way: &Proxy) {
    let transactions = way.seen().into_iter().filter(|seen| seen.path.contains("/transactions/"));
    let refused: Vec<_> = transactions.filter(|seen| seen.status != Some(200)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Events of the backlog: 10 000 in CI, 100 000 with `USHER_LONG=1`.
fn backlog() -> usize {
    if std::env::var_os("USHER_LONG").is_some() { 100_000 } else { 10_000 }
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Whatever piled up is only hints: it costs no request an event, no memory, and hides nothing that happens meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_and_hostile_events_are_borne_while_usher_goes_on() {
    let (mut world, way, listen) = company().await;
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    let mut daemon = world.start(&["run"]);
    daemon.until_said(REACHED).await;
    way.clear();
    until("everybody is in", async || world.is_right().await).await;
    let (memory, red) = (resident(daemon.pid()), world.room("red").await);
    world.proxy.clear();
    let mut took = Vec::new();
    for first in (0..backlog()).step_by(100) {
        let event = |number: usize| {
            let room =
                if number.is_multiple_of(2) { red.to_string() } else { format!("!old{}:lab.test", number % 3_000) };
            json!({ "room_id": room, "type": "m.room.member", "state_key": world.user("ann"), "sender": world.bot(),
                    "event_id": format!("$old{number}"), "content": { "membership": "leave" } })
        };
        let body = json!({ "events": (first..first + 100).map(event).collect::<Vec<_>>() });
        let url = format!("http://{listen}/_matrix/app/v1/transactions/old{first}");
        let began = Instant::now();
        let answer =
            world.http.put(url).bearer_auth(&world.slot.tokens[1]).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        took.push(began.elapsed());
        if first == backlog() / 2 {
            intrude(&world).await;
        }
    }
    intruder_is_out(&world).await;
    took.sort();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    let more = resident(daemon.pid()).saturating_sub(memory);
    println!("backlog of {} events: acknowledged median {p50:?}, p99 {p99:?}; {more} KiB more memory", backlog());
    let requests = world.proxy.count();
    assert!(requests * 10 < backlog(), "{requests} requests for {} old events", backlog());
    assert!(more < 64 * 1024, "{more} KiB more than before");

    // Somebody who is about to be removed hides behind an event nested deeper than a reader of whole answers goes.
    for thing in ["red", "red/general"] {
        world.join("bob", thing).await;
        hide(&world, "bob", &world.room(thing).await).await;
    }
    world.transfer("bob", "red", "blue");
    world.write_source();
    // Not by the list of members: what the test reads answers with goes no deeper than others do.
    for thing in ["red", "red/general"] {
        let (room, bob) = (world.room(thing).await, world.user("bob"));
        until("who hides is out", async || world.state(&room, "m.room.member", &bob).await["membership"] == "leave")
            .await;
    }

    for thing in ["blue", "blue/general"] {
        until("he is asked into his new team", async || world.inside(thing).await.contains("bob")).await;
    }
    world.must_go_on(&mut daemon).await;
    println!("{} transactions of the homeserver's own", way.count());
    must_be_acknowledged(&way);
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

/// Writes what somebody says of themselves in a room into an event nested as deep as is taken.
async fn hide(world: &World, name: &str, room: &RoomId) {
    let user = escape(&world.user(name));
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{user}", escape(room.as_str()));
    // An answer adds seven levels or so; 128 are what a reader of JSON usually goes into.
    for levels in [900, 400, 128, 127, 126, 125, 124, 123, 122] {
        let deep = format!("{}{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let body = format!(r#"{{"membership": "join", "x": {deep}}}"#);
        let request = world.http.put(format!("{}{path}", world.stage.url())).bearer_auth(&world.tokens[name]);
        let answer = request.header("content-type", "application/json").body(body).send().await.expect("an answer");
        if answer.status().is_success() {
            println!("hostile: the homeserver takes an event {levels} levels deep");
            return;
        }
    }
    panic!("the homeserver takes no deep event");
}

impl World {
    /// The daemon still follows what happens.
    async fn must_go_on(&self, daemon: &mut super::child::Running) {
        daemon.must_run();
        let room = self.room("blue").await;
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", escape(room.as_str()));
        assert_eq!(self.as_bot("PUT", &path, json!({ "name": "Blue tribe" })).await.0, 200);
        until("the name is back", async || self.state(&room, "m.room.name", "").await["name"] == "Blue team").await;
    }
}
