//! The change feed.

use std::time::Duration;

use serde_json::json;
use usher::ids::RoomId;
use usher::matrix::Batch;
use usher::plan::{Action, StateChange};

use crate::contract::ground::{Ground, at};

const WAIT: Duration = Duration::from_secs(5);

/// Everything that happened after `position`, until `enough`: the homeserver may hand it over in several batches.
async fn gather(ground: &Ground, position: &str, enough: impl Fn(&Batch) -> bool) -> Batch {
    let mut all = Batch { position: position.to_owned(), ..Batch::default() };
    for _ in 0..50 {
        if enough(&all) {
            return all;
        }
        let next = ground.homeserver.next_batch(Some(&all.position), WAIT).await.unwrap();
        assert!(!next.reread, "the position is known");
        all.position = next.position;
        all.events.extend(next.events);
        all.gaps.extend(next.gaps);
        all.left.extend(next.left);
        all.invited.extend(next.invited);
    }
    panic!("it never came: {all:?}");
}

async fn present(ground: &Ground) -> String {
    let first = ground.homeserver.next_batch(None, WAIT).await.unwrap();
    assert!(first.reread && first.events.is_empty() && first.gaps.is_empty());
    first.position
}

/// The events that concern `room`, as types.
fn kinds(batch: &Batch, room: &RoomId) -> Vec<String> {
    batch.events.iter().filter(|(place, _)| place == room).map(|(_, event)| event.kind.clone()).collect()
}

pub async fn the_feed_tells_what_happened(ground: &Ground) {
    let room = ground.space("feed").await;
    let mut levels = ground.homeserver.room(&room).await.unwrap().unwrap().power_levels.unwrap();
    levels.users.insert("@fay:lab.test".into(), 60);
    levels.set_event("m.room.topic", 50);
    ground.perform(&Action::SetPowerLevels { room: at(&room), content: levels.content(), changes: Vec::new() }).await;
    let fay = ground.person("fay").await;
    ground.perform(&Action::Join { room: at(&room), user: fay.user.clone() }).await;
    let mut observed = ground.homeserver.full().await.unwrap();
    let position = present(ground).await;
    // A first position may lie in the past: what it brings again changes nothing.
    fay.say(&room, "nobody hears this").await;
    fay.send_state(&room, "m.room.topic", "", json!({ "topic": "From a human" })).await;
    fay.leave(&room).await;
    let done = |batch: &Batch| kinds(batch, &room).last().is_some_and(|kind| kind == "m.room.member");
    let batch =
        gather(ground, &position, |batch| kinds(batch, &room).contains(&"m.room.topic".to_owned()) && done(batch))
            .await;
    assert!(!kinds(&batch, &room).contains(&"m.room.message".to_owned()));
    for (room, event) in &batch.events {
        observed.fold(room, event);
    }
    let read = ground.homeserver.full().await.unwrap();
    assert_eq!(observed.rooms[&room], read.rooms[&room]);
    assert_eq!(observed.rooms[&room].topic.as_deref(), Some("From a human"));
}

pub async fn what_the_feed_leaves_out_is_a_gap(ground: &Ground) {
    let room = ground.space("gap").await;
    let gil = ground.person("gil").await;
    let quiet = ground.space("gap-left").await;
    let position = present(ground).await;
    for round in 0..101 {
        let state = StateChange::Name(format!("Name {round}"));
        ground.perform(&Action::SetState { room: at(&room), state }).await;
    }
    ground.perform(&Action::Leave { room: at(&quiet) }).await;
    let theirs = gil.create_room(json!({ "preset": "public_chat" })).await;
    let path = format!("/_matrix/client/v3/join/{}", crate::lab::synapse::escape(theirs.as_str()));
    ground.raw_as_bot("POST", &path, json!({})).await;
    let private = gil.create_room(json!({})).await;
    gil.invite(&private, ground.homeserver.bot()).await;
    let batch = gather(ground, &position, |batch| !batch.invited.is_empty() && batch.gaps.len() >= 2).await;
    assert!(batch.gaps.contains(&room), "too many events");
    assert!(batch.gaps.contains(&theirs), "newly entered");
    assert!(batch.left.contains(&quiet));
    assert_eq!(batch.invited.get(&private), Some(&gil.user));
    ground.perform(&Action::Leave { room: at(&theirs) }).await;
}

pub async fn an_unknown_position_asks_for_a_full_read(ground: &Ground) {
    let batch = ground.homeserver.next_batch(Some("no-such-position"), WAIT).await.unwrap();
    assert!(batch.reread && !batch.position.is_empty());
    let next = ground.homeserver.next_batch(Some(&batch.position), Duration::ZERO).await.unwrap();
    assert!(!next.reread);
}
