//! Rooms of others that become managed ones (S-12, S-16): the fence, the marker, invitations, and other ushers' markers.

use serde_json::json;
use usher::ids::{Key, RoomId};
use usher::observed::Marker;
use usher::plan::{Action, StateChange};

use crate::contract::ground::{Ground, SERVER, at, marker};
use crate::lab::synapse::Person;

async fn old_room(person: &Person) -> RoomId {
    person.create_room(json!({ "room_version": "11", "creation_content": { "type": "m.space" } })).await
}

async fn enter(ground: &Ground, room: &RoomId) {
    ground.perform(&Action::TakePower { room: at(room) }).await;
    ground.perform(&Action::Enter { room: at(room) }).await;
}

fn adopt(room: &RoomId, marker: Marker) -> Action {
    Action::SetState { room: at(room), state: StateChange::Adopt(marker) }
}

pub async fn an_adopted_room_is_marked_and_fenced(ground: &Ground) {
    let person = ground.person("xan").await;
    let (first, second) = (old_room(&person).await, old_room(&person).await);
    let key = Key::Space("adopted".into());
    let alias = key.alias("main", SERVER);
    for room in [&first, &second] {
        enter(ground, room).await;
        let marker = Marker { original_creator: Some(person.user.clone()), adopted: true, ..marker(&key) };
        // The second time the fence moves: the room takes the first one's place.
        ground.do_and_compare(&adopt(room, marker)).await;
        assert_eq!(ground.homeserver.resolve(&alias).await.unwrap().as_ref(), Some(room));
    }
}

pub async fn invitations_are_listed(ground: &Ground) {
    let person = ground.person("yan").await;
    let room = old_room(&person).await;
    assert!(!ground.homeserver.invitations().await.unwrap().contains(&room));
    assert_eq!(person.invite(&room, ground.homeserver.bot()).await.0, 200);
    assert!(ground.homeserver.invitations().await.unwrap().contains(&room), "also right after another look");
    ground.perform(&Action::Enter { room: at(&room) }).await;
    assert!(!ground.homeserver.invitations().await.unwrap().contains(&room));
}

pub async fn a_room_of_another_usher_is_known_as_such(ground: &Ground) {
    let person = ground.person("zan").await;
    let room = old_room(&person).await;
    let key = Key::Space("theirs".into());
    let theirs = Marker { instance: "east".to_owned(), ..marker(&key) };
    let send = async |marker: &Marker| {
        person.send_state(&room, "dev.usher.managed", person.user.as_str(), json!(marker)).await
    };
    assert_eq!(send(&theirs).await.0, 200);
    let seen = ground.homeserver.room_from_outside(&room).await.unwrap().unwrap();
    assert_eq!(seen.managed_by, Some(format!("instance east of {}", person.user)));
    assert_eq!(seen.marker, None);
    assert_eq!(send(&Marker { abandoned: true, ..theirs }).await.0, 200);
    let seen = ground.homeserver.room_from_outside(&room).await.unwrap().unwrap();
    assert_eq!(seen.managed_by, None);
}
