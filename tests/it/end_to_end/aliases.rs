//! The fence of S-16: squatted aliases, debris, half-made rooms.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::stage::Stage;
use super::world::World;
use crate::lab::synapse::escape;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_that_points_at_somebody_elses_room_is_taken_back() {
    let world = World::new().await;
    // The bot itself is needed to set aliases of its namespace; it exists since the bootstrap.
    let (status, stranger) =
        world.as_person("bob", "POST", "/_matrix/client/v3/createRoom", json!({ "name": "Not ours" })).await;
    assert_eq!(status, 200);
    let stranger = stranger["room_id"].as_str().unwrap().to_owned();
    point(&world, "red", &stranger).await;
    world.usher(&["plan"]).await.code(2).says(&world.alias("red"));
    world.settle().await;
    assert_ne!(world.room("red").await.as_str(), stranger);
    world.assert_members().await;
    world.assert_no_doubles().await;
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escape(&stranger));
    let (_, members) = world.as_person("bob", "GET", &path, Value::Null).await;
    assert_eq!(members["joined"].as_object().unwrap().len(), 1, "a stranger's room is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_that_points_at_debris_is_taken_back() {
    let world = World::new().await;
    // A room of the bot's without our mark in its create event, which the bot left.
    let (status, debris) = world.as_bot("POST", "/_matrix/client/v3/createRoom", json!({})).await;
    assert_eq!(status, 200, "{debris}");
    let debris = debris["room_id"].as_str().unwrap().to_owned();
    point(&world, "blue/general", &debris).await;
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", escape(&debris));
    assert_eq!(world.as_bot("POST", &leave, json!({})).await.0, 200);
    world.usher(&["plan"]).await.code(2).says(&world.alias("blue/general"));
    world.settle().await;
    assert_ne!(world.room("blue/general").await.as_str(), debris);
    world.assert_members().await;
    world.assert_no_doubles().await;
}

/// The createRoom arrived and nothing after it: the room is completed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_made_room_is_completed_and_not_doubled() {
    let world = World::new().await;
    let mut made = 0;
    // The homeserver makes the third room; from its answer on nothing comes through.
    world.proxy.spoil(move |seen| {
        if made >= 3 {
            return Some(crate::lab::proxy::Fault::DropBefore);
        }
        if seen.is_write() && seen.path.ends_with("/createRoom") {
            made += 1;
            return (made == 3).then_some(crate::lab::proxy::Fault::DropAfter);
        }
        None
    });
    let usher = world.start(&["apply", "--yes"]);
    super::world::until("the third room", async || world.made_rooms().await.len() >= 3).await;
    usher.kill9();
    world.proxy.behave();
    world.settle().await;
    world.assert_members().await;
    world.assert_no_doubles().await;
    assert_eq!(world.made_rooms().await.len(), 6);
}

/// What usher sees of a room it was banned from is nothing at all, unless it is a server admin: no reason to make another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admin_rights_a_room_the_bot_is_banned_from_is_no_debris() {
    let mut world = World::bare(Stage::shared().await).await;
    world.config["provisioner"]["room_version"] = json!("11");
    world.write();
    world.settle().await;
    let (room, made) = (world.room("red/general").await, world.made_rooms().await);
    world.join("ann", "red/general").await;
    // As strong as the bot, by the bot's own hand: nobody else could.
    let levels = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", escape(room.as_str()));
    let mut strong = world.state(&room, "m.room.power_levels", "").await;
    strong["users"][world.bot()] = json!(100);
    strong["users"][world.user("ann")] = json!(150);
    assert_eq!(world.as_bot("PUT", &levels, strong).await.0, 200);
    let ban = |verb: &str| format!("/_matrix/client/v3/rooms/{}/{verb}", escape(room.as_str()));
    let (status, answer) = world.as_person("ann", "POST", &ban("ban"), json!({ "user_id": world.bot() })).await;
    assert_eq!(status, 200, "{answer}");
    for _ in 0..2 {
        // Each is a restart: nothing is known but what the homeserver tells.
        let plan = world.usher(&["plan"]).await;
        assert!(plan.out.contains("could not be read") && !plan.out.contains("make room"), "{}", plan.out);
        let check = world.usher(&["check"]).await;
        assert!(check.out.contains(room.as_str()) && check.out.contains("invite @"), "{}", check.out);
        world.usher(&["apply", "--yes"]).await;
        assert_eq!((world.room("red/general").await, world.made_rooms().await), (room.clone(), made.clone()));
    }
    for verb in ["unban", "invite"] {
        assert_eq!(world.as_person("ann", "POST", &ban(verb), json!({ "user_id": world.bot() })).await.0, 200);
    }
    world.usher(&["apply", "--yes"]).await;
    assert!(world.bot_rooms().await.contains(&room));
    assert_eq!(world.made_rooms().await, made);
}

/// The homeserver sets the alias before it makes the room: a crash between the two leaves an alias that leads nowhere, and there is nobody
/// in what everybody has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admin_rights_a_room_with_nobody_in_it_is_debris() {
    let world = World::bare(Stage::shared().await).await;
    world.usher(&["apply", "--yes"]).await.code(0);
    let room = world.room("blue").await;
    for name in world.inside("blue").await {
        world.change(&name, "leave", "blue", &name).await;
    }
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", escape(room.as_str()));
    let forget = format!("/_matrix/client/v3/rooms/{}/forget", escape(room.as_str()));
    assert_eq!(world.as_bot("POST", &leave, json!({})).await.0, 200);
    assert_eq!(world.as_bot("POST", &forget, json!({})).await.0, 200);
    world.settle().await;
    assert_ne!(world.room("blue").await, room);
    world.assert_no_doubles().await;
}

async fn point(world: &World, thing: &str, room: &str) {
    let path = format!("/_matrix/client/v3/directory/room/{}", escape(&world.alias(thing)));
    let (status, answer) = world.as_bot("PUT", &path, json!({ "room_id": room })).await;
    assert_eq!(status, 200, "{answer}");
}
