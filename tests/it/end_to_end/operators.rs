//! The operators' room (S-97): who is in it, what is told there, and what may be approved there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use usher::ids::{RoomId, operators_alias_localpart};
use usher::store::Fact;

use super::holds::{extras, larger, lose};
use super::world::{World, merge, until};
use crate::lab::synapse::{SERVER_NAME, escape};

/// Somebody with an account who is in no directory.
const OPERATOR: &str = "opal";

async fn name_operators(world: &mut World, names: &[&str]) {
    for name in names {
        if !world.tokens.contains_key(*name) {
            world.open_account(name).await;
        }
    }
    let users: Vec<String> = names.iter().map(|name| world.user(name)).collect();
    merge(&mut world.config, &json!({ "operators": users }));
    world.write();
}

async fn office(world: &World) -> RoomId {
    let alias = format!("#{}:{SERVER_NAME}", operators_alias_localpart(&world.slot.instance));
    let mut room = None;
    until("the operators' room is there", async || {
        room = world.resolve(&alias).await;
        room.is_some()
    })
    .await;
    room.unwrap()
}

/// Follows the invitation.
async fn enter(world: &World, name: &str, room: &RoomId) {
    until("an operator is invited", async || {
        let members = world.members_of(room).await;
        members.get(name).is_some_and(|membership| membership == "invite")
    })
    .await;
    let path = format!("/_matrix/client/v3/join/{}", escape(room.as_str()));
    let (status, answer) = world.as_person(name, "POST", &path, json!({})).await;
    assert_eq!(status, 200, "{answer}");
}

/// What the bot wrote there and still stands, the oldest first: event id and content.
async fn written(world: &World, room: &RoomId) -> Vec<(String, Value)> {
    let bot = world.bot();
    let messages = world.events(room, "m.room.message").await.into_iter().filter(|event| event["sender"] == *bot);
    messages
        .filter(|event| event["content"]["body"].is_string())
        .map(|event| (event["event_id"].as_str().unwrap().to_owned(), event["content"].clone()))
        .collect()
}

/// How often it wrote something with `text` in it.
async fn count(world: &World, room: &RoomId, text: &str) -> usize {
    written(world, room).await.iter().filter(|(_, content)| content["body"].as_str().unwrap().contains(text)).count()
}

async fn until_told(world: &World, room: &RoomId, text: &str) -> (String, Value) {
    let mut found = None;
    until(&format!("operators are told {text:?}"), async || {
        let written = written(world, room).await;
        found = written.into_iter().find(|(_, content)| content["body"].as_str().unwrap().contains(text));
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Until usher knows that it told this: ended before, it would tell it again, or not know what to call over.
async fn until_noted(world: &World, event: &str) {
    until("what was told is noted", async || {
        let store = world.store().await;
        let locks = store.fact(Fact::LocksTold).await.unwrap();
        let told = store.told().await.unwrap();
        let noted = told.iter().find(|told| told.event.as_str() == event);
        noted.is_some_and(|told| {
            told.over_at.is_none() || locks.is_some_and(|until| told.reason == format!("locked:{until}"))
        })
    })
    .await;
}

/// Sends something as a person of this world.
async fn send(world: &World, name: &str, room: &RoomId, (kind, content): (&str, Value)) -> u16 {
    let transaction = usher::clock::now().0;
    let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/t{transaction}", escape(room.as_str()));
    world.as_person(name, "PUT", &path, content).await.0
}

fn reaction(to: &str, key: &str) -> (&'static str, Value) {
    ("m.reaction", json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": to, "key": key } }))
}

fn text(body: &str) -> (&'static str, Value) {
    ("m.room.message", json!({ "msgtype": "m.text", "body": body }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_told_once_and_approved_by_an_operator_in_the_room() {
    let mut world = larger().await;
    name_operators(&mut world, &[OPERATOR]).await;
    let daemon = world.start(&["run"]);
    let room = office(&world).await;
    enter(&world, OPERATOR, &room).await;
    let path = format!("/_matrix/client/v3/join/{}", escape(room.as_str()));
    assert_eq!(world.as_person("bob", "POST", &path, json!({})).await.0, 403, "nobody else may enter");

    lose(&mut world, extras(0, 10));
    daemon.kill9();
    let daemon = world.start(&["run"]);
    let mut holds = Vec::new();
    until("both holds are told", async || {
        holds = written(&world, &room).await;
        holds.len() == 2
    })
    .await;
    for (_, content) in &holds {
        let said = content["body"].as_str().unwrap();
        assert!(said.starts_with("20 steps wait for your approval: kicks_per_space\n"), "{said}");
        assert!(said.contains(&world.local("x3")), "{said}");
        assert_eq!(content["m.mentions"]["user_ids"], json!([world.user(OPERATOR)]));
    }
    assert_eq!(world.removed().await.len(), 0);

    assert_eq!(send(&world, OPERATOR, &room, text("approve 00000000")).await, 200);
    until_told(&world, &room, "Nothing here goes by 00000000").await;
    assert_eq!(send(&world, OPERATOR, &room, reaction(&holds[0].0, "👍")).await, 200);
    daemon.kill9();

    // What was answered while usher was down is heard when it is back.
    assert_eq!(send(&world, OPERATOR, &room, reaction(&holds[0].0, "✅")).await, 200);
    let said = holds[1].1["body"].as_str().unwrap();
    let (_, rest) = said.split_once("or write `").unwrap();
    let (answer, _) = rest.split_once('`').unwrap();
    assert_eq!(send(&world, OPERATOR, &room, text(answer)).await, 200);
    let daemon = world.start(&["run"]);
    until("both are answered", async || {
        count(&world, &room, &format!("{} approved 20 steps", world.user(OPERATOR))).await == 2
    })
    .await;
    until("they are out", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    assert_eq!(world.removed().await, extras(0, 10).collect());
    assert_eq!(count(&world, &room, "for your approval").await, 2);
    // The room is nothing a plan touches.
    world.must_be_settled().await;
    let audit = world.usher(&["audit", "export"]).await;
    audit.code(0);
    let rows = audit.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let approvals = rows.filter(|row| row["action"] == "approve" && row["actor"] == world.user(OPERATOR));
    assert_eq!(approvals.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_operator_any_more_is_put_out_and_without_any_there_is_no_room() {
    let mut world = larger().await;
    name_operators(&mut world, &[OPERATOR, "olaf"]).await;
    lose(&mut world, extras(0, 10));
    let daemon = world.start(&["run"]);
    let room = office(&world).await;
    enter(&world, OPERATOR, &room).await;
    enter(&world, "olaf", &room).await;
    until_told(&world, &room, "for your approval").await;
    daemon.stop().await.code(0);

    name_operators(&mut world, &["olaf"]).await;
    let daemon = world.start(&["run"]);
    let expected: BTreeMap<String, String> =
        [(OPERATOR.to_owned(), "leave".to_owned()), ("olaf".to_owned(), "join".to_owned())].into();
    until("the former operator is out", async || world.members_of(&room).await == expected).await;
    assert_eq!(office(&world).await, room, "it is the same room");
    assert_eq!(send(&world, "olaf", &room, text("approve 00000000")).await, 200);
    until_told(&world, &room, "Nothing here goes by 00000000").await;
    daemon.stop().await.code(0);

    name_operators(&mut world, &[]).await;
    let daemon = world.start(&["run"]);
    let alias = format!("#{}:{SERVER_NAME}", operators_alias_localpart(&world.slot.instance));
    until("the room is given up", async || world.resolve(&alias).await.is_none()).await;
    until("the bot has left", async || !world.bot_rooms().await.contains(&room)).await;
    daemon.stop().await.code(0);
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", escape(room.as_str()));
    let (_, answer) = world.as_person("olaf", "GET", &path, Value::Null).await;
    let bodies = || answer["chunk"].as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str());
    assert_eq!(bodies().collect::<Vec<_>>(), ["approve 00000000"], "nothing of usher's is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_told_anew_where_the_room_is_lost() {
    let mut world = larger().await;
    name_operators(&mut world, &[OPERATOR]).await;
    lose(&mut world, extras(0, 10));
    let daemon = world.start(&["run"]);
    let room = office(&world).await;
    enter(&world, OPERATOR, &room).await;
    until("both holds are told", async || written(&world, &room).await.len() == 2).await;
    daemon.kill9();
    let path = format!("/_synapse/admin/v1/rooms/{}", escape(room.as_str()));
    let (status, answer) = world.as_admin("DELETE", &path, json!({ "block": false, "purge": true })).await;
    assert_eq!(status, 200, "{answer}");

    let daemon = world.start(&["run"]);
    let other = office(&world).await;
    assert_ne!(other, room);
    enter(&world, OPERATOR, &other).await;
    until("both holds are told there", async || written(&world, &other).await.len() == 2).await;
    for (event, _) in written(&world, &other).await {
        assert_eq!(send(&world, OPERATOR, &other, reaction(&event, "✔")).await, 200);
    }
    until("they are out", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_who_was_locked() {
    let mut world = World::new().await;
    name_operators(&mut world, &[OPERATOR]).await;
    merge(
        &mut world.config,
        &json!({ "userProvisioner": { "deprovisioning": { "enabled": true } }, "source": { "check_interval_seconds": 1 } }),
    );
    world.write();
    world.settle().await;
    world.people.insert("ida".to_owned(), false);
    world.write_source();
    // Already in the first pass.
    let daemon = world.start(&["run"]);
    let room = office(&world).await;
    enter(&world, OPERATOR, &room).await;
    let (event, content) = until_told(&world, &room, "1 account is locked").await;
    let line = format!("- {}: disabled in the directory\n", world.user("ida"));
    assert!(content["body"].as_str().unwrap().contains(&line), "{content}");
    until_noted(&world, &event).await;
    daemon.stop().await.code(0);

    world.people.insert("jon".to_owned(), false);
    world.write_source();
    let daemon = world.start(&["run"]);
    until_told(&world, &room, &format!("{}: disabled", world.user("jon"))).await;
    daemon.stop().await.code(0);
    let written = written(&world, &room).await;
    let naming = |name: &str| {
        let user = world.user(name);
        written.iter().filter(|(_, content)| content["body"].as_str().unwrap().contains(&user)).count()
    };
    assert_eq!((naming("ida"), naming("jon"), written.len()), (1, 1, 2));
}

/// Ten minutes a second: what lasts is told, again a day later, that it is over, and that it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_stays_away_is_told_daily_until_it_is_back() {
    const AWAY: &str = "the source cannot be read";
    let mut world = World::new().await;
    name_operators(&mut world, &[OPERATOR]).await;
    merge(&mut world.config, &json!({ "source": { "check_interval_seconds": 1 } }));
    world.write();
    world.settle().await;
    let daemon = world.start_at("+0 x600", &["run"]);
    let room = office(&world).await;
    enter(&world, OPERATOR, &room).await;
    std::fs::remove_file(world.path("company.json")).unwrap();
    let (event, content) = until_told(&world, &room, AWAY).await;
    assert!(content["body"].as_str().unwrap().contains("`usher source test`"), "{content}");
    until_noted(&world, &event).await;
    daemon.kill9();

    // Further than a day, because the first one's days were as short.
    let daemon = world.start_at("+4d x600", &["run"]);
    until("they are told again a day later", async || count(&world, &room, AWAY).await == 2).await;
    world.write_source();
    until("its end is told", async || count(&world, &room, "Over").await == 1).await;
    std::fs::remove_file(world.path("company.json")).unwrap();
    until("they are told that it is back", async || count(&world, &room, AWAY).await == 3).await;
    world.write_source();
    until("its end is told each time", async || count(&world, &room, "Over").await == 2).await;
    daemon.kill9();
    assert_eq!(count(&world, &room, AWAY).await, 3);
}
