//! Rooms and their state.

use serde_json::json;
use usher::actuate::ActErrorKind;
use usher::ids::Key;
use usher::observed::{Child, JoinRule, Parent};
use usher::plan::{Action, Creation, RoomRef, StateChange};

use crate::contract::ground::{Ground, SERVER, at, creation, marker, space};
use crate::lab::proxy::Fault;

fn make(creation: Creation) -> Action {
    Action::CreateRoom(Box::new(creation))
}

pub async fn creations_look_as_simulated(ground: &Ground) {
    let room = ground.do_and_compare(&make(space("made"))).await.room.unwrap();
    let seen = ground.homeserver.room(&room).await.unwrap().unwrap();
    assert_eq!(seen.canonical_alias, None, "the fence is never the canonical alias");
    assert_eq!(seen.created_for, Some(Key::Space("made".into())));
    let key = Key::Space("made".into());
    assert_eq!(ground.homeserver.aliases_for(&[key.clone()].into()).await.unwrap()[&key], room);

    let slot = |slot: &str| Key::Room { space: "made".into(), slot: slot.into() };
    let mut restricted = creation(slot("restricted"), json!({ "name": "R", "topic": "T", "preset": "private_chat" }));
    restricted.allow = vec![RoomRef::Id(room.clone())];
    ground.do_and_compare(&make(restricted)).await;
    ground.do_and_compare(&make(creation(slot("plain"), json!({})))).await;
    ground.do_and_compare(&make(creation(slot("public"), json!({ "preset": "public_chat", "name": "P" })))).await;
    let old = json!({
        "room_version": "11",
        "power_level_content_override": { "users": { "@usher:lab.test": 101, "@stranger:lab.test": 50 } },
        "initial_state": [
            { "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            { "type": "m.space.parent", "state_key": room, "content": { "via": [SERVER], "canonical": true } },
            { "type": "m.room.avatar", "state_key": "", "content": { "url": "mxc://lab.test/a" } },
        ],
    });
    ground.do_and_compare(&make(creation(slot("old"), old))).await;
}

pub async fn a_repeated_creation_finds_the_first(ground: &Ground) {
    let first = ground.perform(&make(space("twice"))).await;
    let second = ground.do_and_compare(&make(space("twice"))).await;
    assert_eq!((second.room, second.found, first.found), (first.room, true, false));
}

pub async fn a_creation_whose_answer_was_lost_is_found(ground: &Ground) {
    ground.proxy.spoil_write(0, Fault::DropAfter);
    ground.refused(&make(space("lost")), ActErrorKind::Retry).await;
    ground.proxy.behave();
    assert!(ground.perform(&make(space("lost"))).await.found);
}

pub async fn a_half_made_room_is_found_and_completed(ground: &Ground) {
    let key = Key::Space("half".into());
    let body = json!({
        "room_alias_name": key.alias_localpart("main"),
        "creation_content": { "type": "m.space", "dev.usher.created_for": { "instance": "main", "key": key } },
    });
    ground.raw_as_bot("POST", "/_matrix/client/v3/createRoom", body).await;
    let found = ground.perform(&make(space("half"))).await;
    assert!(found.found);
    let room = found.room.unwrap();
    assert_eq!(ground.homeserver.room(&room).await.unwrap().unwrap().marker, None);
    let complete = Action::SetState { room: at(&room), state: StateChange::Marker(marker(&key)) };
    ground.do_and_compare(&complete).await;
}

pub async fn a_squatted_alias_is_stale_until_dropped(ground: &Ground) {
    let squatter = ground.person("squatter").await;
    let theirs = squatter.create_room(json!({})).await;
    let key = Key::Space("squatted".into());
    let alias = key.alias("main", SERVER);
    squatter.invite(&theirs, ground.homeserver.bot()).await;
    let path = format!("/_matrix/client/v3/join/{}", crate::lab::synapse::escape(theirs.as_str()));
    ground.raw_as_bot("POST", &path, json!({})).await;
    let path = format!("/_matrix/client/v3/directory/room/{}", crate::lab::synapse::escape(alias.as_str()));
    ground.raw_as_bot("PUT", &path, json!({ "room_id": theirs })).await;

    let error = ground.refused(&make(space("squatted")), ActErrorKind::Stale).await;
    assert_eq!(error.code.as_deref(), Some("M_ROOM_IN_USE"));
    ground.do_and_compare(&Action::DropAlias { key: key.clone(), alias: alias.clone() }).await;
    ground.do_and_compare(&Action::DropAlias { key, alias }).await;
    ground.do_and_compare(&make(space("squatted"))).await;
}

pub async fn an_alias_to_debris_is_stale_until_dropped(ground: &Ground) {
    let key = Key::Space("debris".into());
    let body = json!({ "room_alias_name": key.alias_localpart("main") });
    let made = ground.raw_as_bot("POST", "/_matrix/client/v3/createRoom", body).await;
    let room = made["room_id"].as_str().unwrap().into();
    ground.perform(&Action::Leave { room: RoomRef::Id(room) }).await;
    ground.refused(&make(space("debris")), ActErrorKind::Stale).await;
    ground.perform(&Action::DropAlias { alias: key.alias("main", SERVER), key }).await;
    assert!(!ground.do_and_compare(&make(space("debris"))).await.found);
}

pub async fn state_changes_look_as_simulated(ground: &Ground) {
    let parent = ground.space("parent").await;
    let child = ground.space("child").await;
    let via = vec![SERVER.to_owned()];
    let mut marker = marker(&Key::Space("parent".into()));
    marker.made = ["lobby".into()].into();
    marker.original_creator = Some("@stranger:lab.test".into());
    let rule = JoinRule { rule: "restricted".to_owned(), allow: [child.clone()].into() };
    let link = Child { via: via.clone(), order: Some("a".to_owned()), suggested: true };
    let changes = [
        StateChange::Name("New name".to_owned()),
        StateChange::Name(String::new()),
        StateChange::Topic("New topic".to_owned()),
        StateChange::Avatar("mxc://lab.test/b".to_owned()),
        StateChange::CanonicalAlias(format!("#staff:{SERVER}")),
        StateChange::JoinRule(rule),
        StateChange::JoinRule(JoinRule { rule: "invite".to_owned(), allow: [].into() }),
        StateChange::GuestAccess("can_join".to_owned()),
        StateChange::Child { child: at(&child), link },
        StateChange::Unchild { child: child.clone() },
        StateChange::Parent { parent: at(&child), link: Parent { via, canonical: true } },
        StateChange::Marker(marker),
    ];
    for state in changes {
        ground.do_and_compare(&Action::SetState { room: at(&parent), state }).await;
    }
    let again = Action::SetState { room: at(&parent), state: StateChange::CanonicalAlias(format!("#staff:{SERVER}")) };
    ground.do_and_compare(&again).await;
    let stolen = Action::SetState { room: at(&child), state: StateChange::CanonicalAlias(format!("#staff:{SERVER}")) };
    ground.refused(&stolen, ActErrorKind::Stale).await;
}

pub async fn equal_state_is_the_same_event(ground: &Ground) {
    let room = ground.space("equal").await;
    let rename = Action::SetState { room: at(&room), state: StateChange::Name("Same".to_owned()) };
    let first = ground.perform(&rename).await;
    assert!(first.event.is_some());
    assert_eq!(ground.perform(&rename).await.event, first.event);
}

pub async fn power_levels_look_as_simulated(ground: &Ground) {
    let room = ground.space("levels").await;
    let mut levels = ground.homeserver.room(&room).await.unwrap().unwrap().power_levels.unwrap();
    levels.users.insert("@stranger:lab.test".into(), 50);
    levels.set_key("users_default", 1);
    levels.set_event("org.example.poll", 7);
    let set = |content| Action::SetPowerLevels { room: at(&room), content, changes: Vec::new() };
    ground.do_and_compare(&set(levels.content())).await;

    levels.users.insert(ground.homeserver.bot().clone(), 100);
    ground.refused(&set(levels.content()), ActErrorKind::Refused).await;
    let gone = Action::SetPowerLevels { room: RoomRef::Id("!nowhere".into()), content: json!({}), changes: Vec::new() };
    ground.refused(&gone, ActErrorKind::Stale).await;
}

pub async fn levels_that_changed_meanwhile_are_not_written_over(ground: &Ground) {
    let room = ground.space("changed").await;
    let planned_on = ground.homeserver.room(&room).await.unwrap().unwrap().power_levels.unwrap();
    // What a moderator does between the read and the write.
    let mut theirs = planned_on.clone();
    theirs.set_event("org.example.poll", 7);
    let path =
        format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", crate::lab::synapse::escape(room.as_str()));
    ground.raw_as_bot("PUT", &path, theirs.content()).await;

    let mut ours = planned_on.clone();
    ours.users.insert("@ann:lab.test".into(), 50);
    let set = Action::SetPowerLevels { room: at(&room), content: ours.content(), changes: Vec::new() };
    ground.refused_over(&set, Some(&planned_on), ActErrorKind::Stale).await;
    ground.refused_over(&set, None, ActErrorKind::Stale).await;
    assert_eq!(ground.homeserver.room(&room).await.unwrap().unwrap().power_levels, Some(theirs));
}

pub async fn a_room_that_was_left_is_gone(ground: &Ground) {
    let room = ground.space("left").await;
    ground.do_and_compare(&Action::Leave { room: at(&room) }).await;
    assert!(ground.homeserver.room(&room).await.unwrap().is_none());
}
