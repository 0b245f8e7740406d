//! Plan, apply, plan again: the whole line once, and nothing the second time (S-84).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::world::{THINGS, World, until};
use crate::lab::synapse::{SERVER_NAME, escape};
use crate::stores::polls_since;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_apply_does_everything_and_the_second_writes_nothing() {
    let world = World::new().await;
    world.proxy.clear();
    world.usher(&["plan"]).await.code(2).says("Red team");
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    assert!(!world.path("usher.db").exists());
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_members().await;
    assert_eq!(world.level("org", "ann").await, 50);
    assert_eq!(world.level("red", "ann").await, 0);
    world.usher(&["plan"]).await.code(0).says("othing to do");
    world.must_be_settled().await;
    world.assert_no_doubles().await;

    for name in ["usher.db", "usher.db-wal", "usher.db-shm", "usher.db.lock"] {
        let _ = std::fs::remove_file(world.path(name));
    }
    world.must_be_settled().await;
    world.assert_no_doubles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_poll_costs_three_requests_at_most_and_a_full_read_its_budget() {
    let mut world = World::new().await;
    world.settle().await;
    world.proxy.clear();
    world.usher(&["plan"]).await.code(0);
    let (_, users) = world.as_admin("GET", "/_synapse/admin/v2/users?limit=1", Value::Null).await;
    let users = usize::try_from(users["total"].as_u64().unwrap()).unwrap();
    let budget = THINGS.len() + users / 1000 + 10;
    assert!(world.proxy.count() <= budget, "{} requests: {:?}", world.proxy.count(), world.proxy.seen());

    world.config["source"] = json!({ "check_interval_seconds": 2 });
    world.write();
    let mut daemon = world.start(&["run"]);
    let passes = async || world.status().await["last_pass"]["ended"].as_u64().unwrap_or(0);
    until("a first pass", async || passes().await > 0).await;
    // The first batches of the feed belong to the start.
    let mut last = passes().await;
    for _ in 0..2 {
        until("another pass", async || passes().await > last).await;
        last = passes().await;
    }
    world.proxy.clear();
    let begun = usher::clock::now();
    for _ in 0..4 {
        until("another pass", async || passes().await > last).await;
        last = passes().await;
    }
    let seen = world.proxy.seen();
    // More than were noticed, where this was slower than they.
    let polls = polls_since(&world.store().await, begun).await.len();
    assert!(polls >= 4 && seen.len() <= 3 * polls, "{} requests in {polls} polls: {seen:?}", seen.len());
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    daemon.must_run();
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_spaces_of_room_version_10_work_like_the_newest() {
    let mut world = World::new().await;
    world.config["provisioner"]["membership"] = json!("join");
    world.config["provisioner"]["room_version"] = json!("10");
    world.write();
    // Joining people takes an admin inside the room: the bot is made one too.
    world.bootstrap().await;
    world.settle().await;
    world.assert_members().await;
    let members = world.members("red").await;
    assert!(members.values().all(|membership| membership == "join"), "{members:?}");
    let created = world.state(&world.room("red").await, "m.room.create", "").await;
    assert_eq!(created["room_version"], "10");
    assert_eq!(world.level("org", "ann").await, 50);
    // Below version 12 the bot's own level is written.
    let levels = world.state(&world.room("red").await, "m.room.power_levels", "").await;
    assert!(levels["users"][world.bot()].as_i64().unwrap() >= 100, "{levels}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admin_rights_it_works_and_check_says_what_to_run() {
    let mut world = World::bare(super::stage::Stage::shared().await).await;
    // Somebody without an account is looked up, and not invited.
    world.employ("zoe");
    world.groups.get_mut("red").unwrap().insert("zoe".to_owned());
    world.write();
    let line = format!("/_synapse/admin/v1/users/@{}:{SERVER_NAME}/admin'", world.slot.sender);
    world.usher(&["check"]).await.code(0).says(&line);
    world.settle().await;
    world.assert_members().await;
    let zoe = format!("/_matrix/client/v3/profile/{}", escape(&world.user("zoe")));
    assert!(world.proxy.seen().iter().any(|seen| seen.path == zoe), "she is looked up in every read");
    world.usher(&["check"]).await.code(0).says(&line);
    world.open_account("zoe").await;
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_members().await;
}
