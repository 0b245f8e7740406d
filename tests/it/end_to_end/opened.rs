//! Rooms that people hang into a managed space, close and open again while usher runs (S-31, S-42, S-33), on a real Synapse, with the time
//! from the act to what usher makes of it. Once for each room version.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::Instant;

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::live::{Live, WITNESS, invited, out};
use super::world::World;
use crate::lab::synapse::SERVER_NAME;

const MEMBER: &str = "m.room.member";
const RULE: &str = "m.room.join_rules";
const LEVELS: &str = "m.room.power_levels";
const MARKER: &str = "dev.usher.managed";

async fn company(version: &'static str) -> Live {
    let mut world = World::new().await;
    world.config["appservice"] = json!({ "puppet_registration": "usher-puppet.yaml" });
    world.config["provisioner"]["gc"] = json!({ "enabled": true });
    // A room the bot is not in shows at a poll.
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    for stranger in ["mal", "moe"] {
        world.open_account(stranger).await;
    }
    Live::among(world, version).await
}

fn open_to(space: &RoomId) -> Value {
    json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] })
}

/// A room that Bob makes and opens to a space: the witness is in it, and a stranger.
async fn room_of_bob(live: &Live, version: &str, space: &RoomId) -> RoomId {
    let body = json!({
        "room_version": version, "preset": "private_chat", "name": "Bob's",
        "initial_state": [{ "type": RULE, "state_key": "", "content": open_to(space) }],
    });
    let (status, answer) = live.world.as_person("bob", "POST", "/_matrix/client/v3/createRoom", body).await;
    assert_eq!(status, 200, "{answer}");
    let room: RoomId = answer["room_id"].as_str().unwrap().into();
    assert_eq!(live.act(WITNESS, "join", &room, WITNESS).await, 200);
    bring_in_mal(live, &room).await;
    room
}

async fn bring_in_mal(live: &Live, room: &RoomId) {
    assert_eq!(live.act("bob", "invite", room, "mal").await, 200);
    assert_eq!(live.act("mal", "join", room, "mal").await, 200);
}

fn joined(member: &Value) -> bool {
    member["membership"] == "join"
}

fn taken(marker: &Value) -> bool {
    marker["key"].is_object() && marker["abandoned"] != true
}

/// Bob's room is held to the rule of its space: the stranger is out, the others are asked in, the marker says whose it was.
async fn is_taken(live: &mut Live, what: &str, room: &RoomId, start: Instant) {
    let (mal, cat, bot) = (live.world.user("mal"), live.world.user("cat"), live.world.bot());
    live.put_right(what, start, room, (MEMBER, &mal), out).await;
    live.put_right(&format!("{what}: marker"), start, room, (MARKER, &bot), taken).await;
    live.put_right(&format!("{what}: people"), start, room, (MEMBER, &cat), invited).await;
    assert_eq!(live.sees(room, MARKER, &bot).await["original_creator"], live.world.user("bob"));
}

/// The bot has left, its people are in the room as before, and it is Bob's again.
async fn is_let_go(live: &mut Live, what: &str, room: &RoomId, rule: Value) {
    let (bot, bob) = (live.world.bot(), live.world.user("bob"));
    let start = Instant::now();
    assert_eq!(live.put("bob", room, (RULE, ""), rule.clone()).await, 200);
    live.put_right(what, start, room, (MEMBER, &bot), out).await;
    assert_eq!(live.sees(room, MARKER, &bot).await["abandoned"], true, "{what}");
    assert_eq!(live.sees(room, RULE, "").await["join_rule"], rule["join_rule"], "the rule is the people's");
    for name in ["bob", WITNESS] {
        assert!(joined(&live.sees(room, MEMBER, &live.world.user(name)).await), "{name} stays");
    }
    let levels = live.sees(room, LEVELS, "").await;
    // From version 12 on a creator stands above all levels and is not listed.
    assert!(matches!(levels["users"][&bob].as_i64(), None | Some(100)), "{levels}");
}

async fn a_room_comes_and_goes(version: &'static str) {
    let mut live = company(version).await;
    let rooms = live.world.bot_rooms().await;
    let space = live.world.room("red").await;
    let room = room_of_bob(&live, version, &space).await;

    let start = Instant::now();
    let link = json!({ "via": [SERVER_NAME] });
    assert_eq!(live.put("bob", &space, ("m.space.child", room.as_str()), link).await, 200);
    is_taken(&mut live, "room hung into a space", &room, start).await;
    if version != "12" {
        let bob = live.world.user("bob");
        live.put_right("level of a room's maker", start, &room, (LEVELS, ""), |levels| levels["users"][&bob] == 50)
            .await;
    }
    live.calm().await;

    is_let_go(&mut live, "room turned private", &room, json!({ "join_rule": "invite" })).await;
    bring_in_mal(&live, &room).await;
    live.calm().await;
    assert!(joined(&live.sees(&room, MEMBER, &live.world.user("mal")).await), "a private room is its people's");

    let start = Instant::now();
    assert_eq!(live.put("bob", &room, (RULE, ""), open_to(&space)).await, 200);
    is_taken(&mut live, "room opened again", &room, start).await;
    live.calm().await;

    is_let_go(&mut live, "room turned public", &room, json!({ "join_rule": "public" })).await;
    assert_eq!(live.act("moe", "join", &room, "moe").await, 200);
    // The next act of anybody's in the space is dealt with, and this room was not touched.
    let (start, mal) = (Instant::now(), live.world.user("mal"));
    assert_eq!(live.act("ann", "invite", &space, "mal").await, 200);
    live.put_right("invitation beside a public room", start, &space, (MEMBER, &mal), out).await;
    live.calm().await;
    assert!(joined(&live.sees(&room, MEMBER, &live.world.user("moe")).await), "nobody is removed from a public room");

    live.report();
    let Live { world, daemon, .. } = live;
    daemon.stop().await.code(0);
    assert_eq!(world.bot_rooms().await, rooms);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_people_hang_close_and_open_is_taken_and_let_go_in_room_version_10() {
    a_room_comes_and_goes("10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_people_hang_close_and_open_is_taken_and_let_go_in_room_version_11() {
    a_room_comes_and_goes("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_people_hang_close_and_open_is_taken_and_let_go_in_room_version_12() {
    a_room_comes_and_goes("12").await;
}
