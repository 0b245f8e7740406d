//! `run` between two polls: what is changed by hand is put right as the feed tells of it (S-33).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::Duration;

use serde_json::json;

use super::world::{World, until};
use crate::lab::proxy::Fault;
use crate::lab::synapse::escape;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_made_by_hand_are_put_right_without_a_poll() {
    let mut world = World::new().await;
    world.open_account("mal").await;
    let mut daemon = world.start(&["run"]);
    until("a first pass", async || world.status().await["last_pass"].is_object()).await;
    world.assert_members().await;
    let (space, room) = (world.room("red").await, world.room("red/general").await);
    // What the first pass did comes back in the feed; nothing shows that usher has had the last of it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.proxy.clear();

    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(space.as_str()));
    assert_eq!(world.as_bot("POST", &path, json!({ "user_id": world.user("mal") })).await.0, 200);
    until("the intruder is out", async || world.members("red").await["mal"] == "leave").await;

    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", escape(space.as_str()));
    assert_eq!(world.as_bot("PUT", &path, json!({ "name": "Red tribe" })).await.0, 200);
    until("the name is back", async || world.state(&space, "m.room.name", "").await["name"] == "Red team").await;

    let mut levels = world.state(&room, "m.room.power_levels", "").await;
    levels["users"][world.user("bob")] = json!(50);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", escape(room.as_str()));
    assert_eq!(world.as_bot("PUT", &path, levels).await.0, 200);
    until("the level is back", async || world.level("red/general", "bob").await == 0).await;

    // What was written shows a moment before its answer has passed the proxy.
    until("the last answer", async || world.proxy.writes().len() >= 3).await;
    let seen = world.proxy.seen();
    assert!(seen.iter().all(|seen| !seen.path.ends_with("/joined_rooms")), "nothing was read as a whole");
    assert_eq!(world.proxy.writes().len(), 3, "{:?}", world.proxy.writes());
    daemon.must_run();

    let (status, metrics) = world.ops("/metrics").await;
    assert_eq!(status, 200);
    for line in ["usher_passes_total{result=\"ok\"}", "usher_source_users 10", "usher_source_complete 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.contains("usher_matrix_requests_total{") && metrics.contains("usher_steps_total{"), "{metrics}");
    let status = world.status().await;
    assert_eq!((&status["mode"], &status["source"]["users"]), (&json!("live"), &json!(10)));
    assert_eq!(status["plan"]["pending"], 0);
    assert_eq!(world.ops("/ready").await.0, 200);
    world.usher(&["status"]).await.code(0);
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

/// The place in the feed is taken before the first read: one that comes later would leave a gap, and everything would be read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_read_once_however_slowly_the_feed_begins() {
    let mut world = World::new().await;
    world.open_account("mal").await;
    world.settle().await;
    let mut slow = true;
    world.proxy.clear();
    world.proxy.spoil(move |seen| {
        let first = seen.path.ends_with("/sync") && std::mem::take(&mut slow);
        first.then_some(Fault::Late(Duration::from_secs(3)))
    });
    let daemon = world.start(&["run"]);
    until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(world.room("red").await.as_str()));
    assert_eq!(world.as_bot("POST", &path, json!({ "user_id": world.user("mal") })).await.0, 200);
    until("the intruder is out", async || world.members("red").await["mal"] == "leave").await;
    let reads = world.proxy.seen().iter().filter(|seen| seen.path.ends_with("/joined_rooms")).count();
    assert_eq!(reads, 1);
    daemon.stop().await.code(0);
}

/// Where the stored feed stands.
async fn place_in_the_feed(world: &World) -> Option<String> {
    world.store().await.feed_position().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_takes_the_feed_up_where_it_was_left() {
    let mut world = World::new().await;
    world.open_account("mal").await;
    let daemon = world.start(&["run"]);
    until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
    let begun = place_in_the_feed(&world).await.expect("a place after the first pass");
    let space = world.room("red").await;
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", escape(space.as_str()));
    assert_eq!(world.as_bot("PUT", &path, json!({ "name": "Red tribe" })).await.0, 200);
    until("the name is back", async || world.state(&space, "m.room.name", "").await["name"] == "Red team").await;
    until("that is dealt with", async || place_in_the_feed(&world).await.as_ref() != Some(&begun)).await;
    daemon.stop().await.code(0);
    let left = place_in_the_feed(&world).await.expect("a place");

    let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(space.as_str()));
    assert_eq!(world.as_bot("POST", &path, json!({ "user_id": world.user("mal") })).await.0, 200);
    world.proxy.clear();
    let daemon = world.start(&["run"]);
    let first_sync = || world.proxy.seen().into_iter().find(|seen| seen.path.ends_with("/sync"));
    until("the feed brings what happened", async || first_sync().is_some()).await;
    let asked = format!("http://feed/?{}", first_sync().unwrap().query).parse::<reqwest::Url>().unwrap();
    let since = asked.query_pairs().find(|(name, _)| name == "since").map(|(_, value)| value.into_owned());
    assert_eq!(since, Some(left));
    until("the intruder is out", async || world.members("red").await["mal"] == "leave").await;
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_writes_nothing_anywhere() {
    let mut world = World::new().await;
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    world.proxy.clear();
    let mut daemon = world.start(&["run", "--dry-run"]);
    daemon.until_said("Red team").await;
    assert_eq!(world.ops("/live").await.0, 200);
    until("a pass", async || world.status().await["last_pass"].is_object()).await;
    assert_eq!(world.status().await["mode"], "dry_run");
    daemon.stop().await.code(0);
    world.usher(&["run", "--dry-run", "--once"]).await.code(2);
    world.usher(&["plan", "--json"]).await.code(2);
    world.usher(&["check"]).await.code(0);
    world.config["provisioner"]["dry_run"] = json!(true);
    world.write();
    world.usher(&["apply", "--yes"]).await.code(2).says("dry_run");
    world.usher(&["run", "--once"]).await.code(2);
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    assert!(!world.path("usher.db").exists());
}
