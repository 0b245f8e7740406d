//! The fence of S-16: squatted aliases, debris, half-made rooms.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

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

async fn point(world: &World, thing: &str, room: &str) {
    let path = format!("/_matrix/client/v3/directory/room/{}", escape(&world.alias(thing)));
    let (status, answer) = world.as_bot("PUT", &path, json!({ "room_id": room })).await;
    assert_eq!(status, 200, "{answer}");
}
