//! What becomes of people: moves, leads, newcomers, leavers, bans, knocks, intruders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::json;

use super::world::{World, until};
use crate::lab::synapse::{SERVER_NAME, escape};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_leaves_the_space_first_and_a_lead_is_raised_in_one_write_a_room() {
    let mut world = World::new().await;
    world.settle().await;
    for thing in ["red", "red/general"] {
        world.join("bob", thing).await;
    }
    world.transfer("bob", "red", "blue");
    world.groups.get_mut("leads").unwrap().extend(["hal".to_owned(), "ida".to_owned()]);
    world.write();
    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_members().await;

    let (space, room) = (world.room("red").await, world.room("red/general").await);
    let seen = world.proxy.seen();
    let at = |wanted: &usher::ids::RoomId| {
        seen.iter().position(|seen| seen.path.ends_with("/kick") && seen.path.contains(&escape(wanted.as_str())[3..]))
    };
    assert!(at(&space).unwrap() < at(&room).unwrap(), "the space comes first: {:?}", world.proxy.writes());
    for thing in ["org", "org/general"] {
        assert_eq!(world.level(thing, "hal").await, 50);
        assert_eq!(world.level(thing, "ida").await, 50);
    }
    let levels = seen.iter().filter(|seen| seen.is_write() && seen.path.contains("m.room.power_levels")).count();
    assert_eq!(levels, 2, "{:?}", world.proxy.writes());
    let kick = world.history(&space).await.into_iter().find(|change| change.membership == "leave").unwrap();
    assert!(kick.who == "bob" && !kick.reason.is_empty(), "{kick:?}");
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn human_decisions_stand_and_intruders_do_not() {
    let mut world = World::new().await;
    let knocking = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    world.config["provisioner"]["default_rooms"] =
        json!([{ "id": "general", "properties": { "name": "General", "initial_state": [knocking] } }]);
    world.write();
    world.settle().await;
    for thing in ["org", "blue", "blue/general"] {
        world.join("ida", thing).await;
    }
    world.join("ann", "org").await;
    world.change("ida", "leave", "blue", "").await;
    world.change("ida", "leave", "blue/general", "").await;
    world.change("ann", "ban", "org", "dan").await;
    world.change("ann", "kick", "org", "eve").await;
    world.open_account("mal").await;
    let invite = async |user: &str| {
        let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(world.room("red").await.as_str()));
        assert_eq!(world.as_bot("POST", &path, json!({ "user_id": user })).await.0, 200);
    };
    let admin = format!("@root:{SERVER_NAME}");
    invite(&world.user("mal")).await;
    invite(&admin).await;

    world.usher(&["apply", "--yes"]).await.code(0);
    let of = async |thing: &str, name: &str| world.members(thing).await.get(name).cloned().unwrap_or_default();
    assert_eq!(of("blue", "ida").await, "leave");
    assert_eq!(of("org", "dan").await, "ban");
    assert_eq!(of("org", "eve").await, "leave");
    assert_eq!(of("red", "mal").await, "leave");
    assert_eq!(of("red", &admin).await, "invite", "a server admin is protected");
    assert_eq!(world.removed().await, ["mal".to_owned()].into());
    world.must_be_settled().await;

    // Who knocks wants in again.
    let path = format!("/_matrix/client/v3/knock/{}", escape(world.room("blue/general").await.as_str()));
    let (status, answer) = world.as_person("ida", "POST", &path, json!({})).await;
    assert_eq!(status, 200, "{answer}");
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(of("blue/general", "ida").await, "invite");
    assert_eq!(of("blue", "ida").await, "leave");
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_account_is_noticed_at_the_next_poll() {
    let mut world = World::new().await;
    world.employ("zoe");
    world.groups.get_mut("red").unwrap().insert("zoe".to_owned());
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    let daemon = world.start(&["run"]);
    until("everybody is in", async || world.is_right().await).await;
    assert!(!world.members("red").await.contains_key("zoe"), "nobody without an account is invited");
    world.open_account("zoe").await;
    until("zoe is in", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}
