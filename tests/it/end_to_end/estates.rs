//! What a leaver leaves behind on a real homeserver (S-52, S-53, S-86): rooms of their own are handed over before the account ends, and
//! invitations elsewhere are turned down when it is locked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::accounts::{company, leave};
use super::world::World;
use crate::lab::synapse::escape;

/// A private room of `maker`'s, with these others in it; `asked` only invited.
pub(super) async fn room_of(world: &World, maker: &str, others: &[&str], asked: &[&str]) -> String {
    let invite: Vec<String> = others.iter().chain(asked).map(|name| world.user(name)).collect();
    let body = json!({ "preset": "private_chat", "name": format!("Room of {maker}"), "invite": invite });
    let (status, answer) = world.as_person(maker, "POST", "/_matrix/client/v3/createRoom", body).await;
    assert_eq!(status, 200, "{answer}");
    let room = answer["room_id"].as_str().unwrap().to_owned();
    for name in others {
        let path = format!("/_matrix/client/v3/rooms/{}/join", escape(&room));
        assert_eq!(world.as_person(name, "POST", &path, json!({})).await.0, 200);
    }
    room
}

async fn level_in(world: &World, room: &str, name: &str) -> i64 {
    let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(room));
    let state = world.as_admin("GET", &path, Value::Null).await.1;
    let events = state["state"].as_array().unwrap();
    let levels = events.iter().find(|event| event["type"] == "m.room.power_levels").unwrap();
    levels["content"]["users"][world.user(name)].as_i64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_of_a_leaver_are_handed_over_before_the_end_and_invitations_turned_down_at_once() {
    let mut world = company().await;
    let club = room_of(&world, "jon", &["ida", "hal"], &[]).await;
    let party = room_of(&world, "hal", &[], &["jon"]).await;
    leave(&mut world, "jon");
    world.usher(&["apply", "--yes"]).await.code(0);
    world.apply_at(120, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(&party));
    let state = world.as_admin("GET", &path, Value::Null).await.1;
    let events = state["state"].as_array().unwrap();
    let jon = events.iter().find(|event| event["type"] == "m.room.member" && event["state_key"] == world.user("jon"));
    assert_eq!(jon.unwrap()["content"]["membership"], "leave", "turned down");
    // Of equals the first by name.
    world.usher_at("+121m", &["plan"]).await.code(0).says("hand over").says(&club);
    let next = format!("last administrator of {club}: {} follows", world.user("hal"));
    world.usher(&["grace", "list"]).await.code(0).says(&next);
    assert_eq!(level_in(&world, &club, "hal").await, 0, "not before the end");

    let due = 120 + 24 * 60;
    world.apply_at(due + 1, true).await.code(0);
    assert_eq!(level_in(&world, &club, "hal").await, 0, "not before the end");
    world.apply_at(due + 13, true).await.code(0);
    assert_eq!(level_in(&world, &club, "hal").await, 100);
    let account = world.account("jon").await;
    assert!(account["deactivated"] == true && account["erased"] == true, "{account}");
    let audited = world.audited().await;
    let given: Vec<&str> = audited.lines().filter(|line| line.contains("\"hand over\"")).collect();
    assert!(given.len() == 1 && given[0].contains(&world.user("hal")) && given[0].contains(&club), "{audited}");
    assert!(!audited.contains(&world.local("jon")), "{audited}");
}
