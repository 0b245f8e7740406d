//! The bot thrown out of an adopted space, and lowered in it, by somebody who stands above it (S-22, S-34): with admin rights alone and with
//! puppets alone, while usher runs, with the time until it is back. Once for each room version.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::Instant;

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::live::{Live, WITNESS, put, seen_by};
use super::stage::Stage;
use super::world::{World, merge, until};
use crate::lab::synapse::escape;

const MEMBER: &str = "m.room.member";
const LEVELS: &str = "m.room.power_levels";
/// Who made the spaces: protected, so that usher neither lowers nor acts for him.
const FOUNDER: &str = "gus";

/// A space that its founder made by hand: he stands above the bot, which he has invited and given level 100.
async fn founded(world: &World, version: &str) -> RoomId {
    let mut users = json!({ world.bot(): 100 });
    if version != "12" {
        users[world.user(FOUNDER)] = json!(150);
    }
    let body = json!({
        "name": "Old", "creation_content": { "type": "m.space" }, "room_version": version, "preset": "private_chat",
        "power_level_content_override": { "users": users }, "invite": [world.bot()],
    });
    let (status, made) = world.as_person(FOUNDER, "POST", "/_matrix/client/v3/createRoom", body).await;
    assert_eq!(status, 200, "{made}");
    made["room_id"].as_str().unwrap().into()
}

/// Founded spaces, adopted by a running usher; Ann has level 100 in them, and the witness is there.
async fn adopted(version: &'static str, means: Value, ids: &[&str]) -> Live {
    let mut world = World::bare(Stage::shared().await).await;
    if means["puppet_registration"].is_null() {
        world.bootstrap().await;
    } else {
        let body = json!({ "type": "m.login.application_service", "username": world.slot.bot, "inhibit_login": true });
        let registered = world.request(&world.slot.tokens[0], "POST", "/_matrix/client/v3/register", body).await;
        assert_eq!(registered.0, 200, "{}", registered.1);
    }
    world.groups.insert("chiefs".to_owned(), ["ann".to_owned()].into());
    let mut spaces = Vec::new();
    for id in ids {
        let room = founded(&world, version).await;
        let groups = json!([{ "externalId": "red" }, { "externalId": "chiefs", "powerLevel": 100 }]);
        spaces.push(json!({ "id": id, "name": "Old", "adopt": room, "groups": groups }));
    }
    world.config = json!({
        "provisioner": { "max_rate": 1000, "protected_users": [world.user(FOUNDER)] },
        "appservice": means, "spaces": spaces,
    });
    world.write();
    let daemon = world.start(&["run"]);
    for id in ids {
        until("it is adopted", async || world.resolve(&world.alias(id)).await.is_some()).await;
        for name in ["ann", WITNESS] {
            until("they are asked in", async || world.members(id).await.contains_key(name)).await;
            world.join(name, id).await;
        }
        until("Ann leads", async || world.level(id, "ann").await == 100).await;
    }
    let live = Live::over(world, daemon, version);
    live.calm().await;
    live
}

fn puppets() -> Value {
    json!({ "puppet_registration": "usher-puppet.yaml" })
}

/// The bot is kicked; the homeserver's answer.
async fn kick(live: &Live, room: &RoomId) -> u16 {
    let path = format!("/_matrix/client/v3/rooms/{}/kick", escape(room.as_str()));
    live.world.as_person(FOUNDER, "POST", &path, json!({ "user_id": live.world.bot() })).await.0
}

/// Somebody takes the bot's level away; the homeserver's answer.
async fn lower(world: &World, by: &str, room: &RoomId) -> u16 {
    let mut levels = seen_by(world, by, room, LEVELS, "").await;
    levels["users"][world.bot()] = json!(0);
    put(world, by, room, (LEVELS, ""), levels).await
}

/// How often usher has seen that the bot got back what it had lost. It counts in a fight from then on, which is after others see it.
fn seen_back(live: &Live) -> usize {
    live.daemon.said().matches("the bot has got back what it lost").count()
}

async fn comes_back(live: &mut Live, what: &str, room: &RoomId) {
    let (start, bot, before) = (Instant::now(), live.world.bot(), seen_back(live));
    assert_eq!(kick(live, room).await, 200);
    live.put_right(what, start, room, (MEMBER, &bot), |member| member["membership"] == "join").await;
    until("usher sees it", async || seen_back(live) > before).await;
}

async fn rises(live: &mut Live, what: &str, by: &str, room: &RoomId) {
    let (start, bot, before) = (Instant::now(), live.world.bot(), seen_back(live));
    assert_eq!(lower(&live.world, by, room).await, 200);
    live.put_right(what, start, room, (LEVELS, ""), |levels| levels["users"][&bot].as_i64() >= Some(100)).await;
    until("usher sees it", async || seen_back(live) > before).await;
}

/// The status says both: that it is fought over, and what a person can do.
async fn says(live: &Live, texts: [&str; 2]) {
    until("it is reported", async || {
        let failures = live.world.status().await["failures"].to_string();
        texts.iter().all(|text| failures.contains(text))
    })
    .await;
    assert_eq!(live.daemon.said().matches("undone again and again").count(), 1, "said once");
}

/// Who sent the latest event of a kind about the bot that `fits`.
async fn latest_sender(world: &World, room: &RoomId, kind: &str, fits: impl Fn(&Value) -> bool) -> String {
    let events = world.events(room, kind).await;
    let latest = events.iter().rfind(|event| fits(event)).expect("such an event");
    world.short(latest["sender"].as_str().unwrap())
}

async fn puppets_bring_the_bot_back(version: &'static str) {
    let mut live = adopted(version, puppets(), &["old"]).await;
    let (room, bot) = (live.world.room("old").await, live.world.bot());

    rises(&mut live, "bot lowered, with puppets", FOUNDER, &room).await;
    assert_eq!(latest_sender(&live.world, &room, LEVELS, |_| true).await, "ann", "not the founder, who is protected");

    // When it was adopted usher brought the bot in, which he now undoes for the first time.
    for _ in 0..4 {
        comes_back(&mut live, "bot kicked, with puppets", &room).await;
        let asked = |event: &Value| event["state_key"] == bot && event["content"]["membership"] == "invite";
        assert_eq!(latest_sender(&live.world, &room, MEMBER, asked).await, "ann");
        live.calm().await;
    }
    live.world.proxy.clear();
    assert_eq!(kick(&live, &room).await, 200);
    says(&live, ["undone 5 times", &format!("invite {bot}")]).await;
    live.calm().await;
    assert_eq!(live.sees(&room, MEMBER, &bot).await["membership"], "leave", "it waits");
    assert_eq!(live.world.proxy.writes(), Vec::<String>::new(), "and tries nothing");

    let start = Instant::now();
    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(room.as_str()));
    assert_eq!(live.world.as_person("ann", "POST", &path, json!({ "user_id": bot })).await.0, 200);
    live.put_right("bot asked back in a fight", start, &room, (MEMBER, &bot), |member| member["membership"] == "join")
        .await;
    until("all is well", async || live.world.status().await["failures"] == json!([])).await;
    live.report();
    let Live { world, daemon, .. } = live;
    daemon.stop().await.code(0);
    assert_eq!(world.bot_rooms().await, [room].into(), "nothing was made in its place");
    let audited = world.audited().await;
    for action in ["enter", "invite bot as", "level as"] {
        let of_it = |line: &&str| line.contains(&format!("\"action\":\"{action}\""));
        let rows: Vec<&str> = audited.lines().filter(of_it).collect();
        assert!(
            rows.iter().any(|row| row.contains("the bot lost its") && row.contains("\"done\"")),
            "{action}: {audited}"
        );
        assert!(
            action == "enter" || rows.iter().any(|row| row.contains(&world.user("ann"))),
            "in whose name: {rows:?}"
        );
    }
    world.must_be_settled().await;
}

async fn admin_rights_bring_the_bot_back(version: &'static str) {
    let mut live = adopted(version, json!({}), &["old", "elder"]).await;
    let (old, elder, bot) = (live.world.room("old").await, live.world.room("elder").await, live.world.bot());
    comes_back(&mut live, "bot kicked, as admin", &old).await;
    rises(&mut live, "bot lowered, as admin", FOUNDER, &elder).await;
    if version == "12" {
        for _ in 1..5 {
            rises(&mut live, "bot lowered, as admin", FOUNDER, &elder).await;
            live.calm().await;
        }
        live.world.proxy.clear();
        assert_eq!(lower(&live.world, FOUNDER, &elder).await, 200);
        says(&live, ["undone 5 times", &format!("raise {bot} to at least 100")]).await;
        live.world.usher(&["status"]).await.says("undone 5 times");
        live.world.usher(&["check"]).await.says("the bot has no power in its room").says("raise ");
        live.calm().await;
        assert_eq!(live.sees(&elder, LEVELS, "").await["users"][&bot], 0, "it waits");
        let taken = |write: &String| write.ends_with("/make_room_admin");
        assert!(!live.world.proxy.writes().iter().any(taken), "{:?}", live.world.proxy.writes());
        // Elsewhere it is as prompt as ever.
        comes_back(&mut live, "bot kicked beside a fight", &old).await;
        // He gives in.
        let mut levels = live.sees(&elder, LEVELS, "").await;
        levels["users"][&bot] = json!(100);
        assert_eq!(live.put(FOUNDER, &elder, (LEVELS, ""), levels).await, 200);
        until("all is well", async || live.world.status().await["failures"] == json!([])).await;
    } else {
        // The homeserver gave it what the strongest has, and nobody takes that away.
        assert_eq!(kick(&live, &old).await, 403);
        assert_eq!(lower(&live.world, FOUNDER, &elder).await, 403);
        until("all is well", async || live.world.status().await["failures"] == json!([])).await;
    }
    live.report();
    let Live { world, daemon, .. } = live;
    daemon.stop().await.code(0);
    assert_eq!(world.bot_rooms().await, [old, elder].into(), "nothing was made in their place");
    let audited = world.audited().await;
    for action in ["enter", "take power"] {
        let of_it = |line: &str| line.contains(&format!("\"action\":\"{action}\"")) && line.contains("\"done\"");
        assert!(audited.lines().any(of_it), "{action}: {audited}");
    }
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puppets_bring_the_bot_back_in_room_version_10() {
    puppets_bring_the_bot_back("10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puppets_bring_the_bot_back_in_room_version_11() {
    puppets_bring_the_bot_back("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puppets_bring_the_bot_back_in_room_version_12() {
    puppets_bring_the_bot_back("12").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_rights_bring_the_bot_back_in_room_version_10() {
    admin_rights_bring_the_bot_back("10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_rights_bring_the_bot_back_in_room_version_11() {
    admin_rights_bring_the_bot_back("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_rights_bring_the_bot_back_in_room_version_12() {
    admin_rights_bring_the_bot_back("12").await;
}

/// A space of usher's own that Ann replaces: from version 12 on she is its creator, and the bot is one of those she may lower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_in_a_space_that_was_upgraded_to_version_12_is_taken_again() {
    let mut world = World::new().await;
    world.groups.insert("chiefs".to_owned(), ["ann".to_owned()].into());
    let groups = json!([{ "externalId": "red" }, { "externalId": "chiefs", "powerLevel": 100 }]);
    merge(&mut world.config, &json!({ "provisioner": { "room_version": "11", "default_rooms": null } }));
    world.config["spaces"] = json!([{ "id": "red", "name": "Red team", "groups": groups }]);
    world.write();
    let daemon = world.start(&["run"]);
    until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
    for name in ["ann", WITNESS] {
        world.join(name, "red").await;
    }
    let path = format!("/_matrix/client/v3/rooms/{}/upgrade", escape(world.room("red").await.as_str()));
    let (status, answer) = world.as_person("ann", "POST", &path, json!({ "new_version": "12" })).await;
    assert_eq!(status, 200, "{answer}");
    let new: RoomId = answer["replacement_room"].as_str().unwrap().into();
    until("it is followed", async || world.state(&new, "dev.usher.managed", &world.bot()).await["key"].is_object())
        .await;
    until("the witness is asked in", async || world.members_of(&new).await.contains_key(WITNESS)).await;
    world.join(WITNESS, "red").await;
    let mut live = Live::over(world, daemon, "12");
    live.calm().await;
    rises(&mut live, "bot lowered in an upgraded space", "ann", &new).await;
    until("all is well", async || live.world.status().await["failures"] == json!([])).await;
    let Live { world, daemon, .. } = live;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}
