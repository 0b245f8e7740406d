//! What is there when a room of ours was replaced, or the bot is out of it (S-16, S-31).

use serde_json::json;
use usher::actuate::ActErrorKind;
use usher::ids::{Key, RoomId};
use usher::observed::{JoinRule, Member};
use usher::plan::{Action, Deed, StateChange};

use crate::contract::ground::{Ground, at, marker};

pub async fn an_upgraded_space_takes_its_fence_and_its_links_along(ground: &Ground) {
    let (space, below) = (ground.space("upgraded").await, ground.space("upgraded-below").await);
    let key = Key::Space("upgraded".into());
    let link = usher::observed::Child { via: vec!["lab.test".to_owned()], ..usher::observed::Child::default() };
    let state = StateChange::Child { child: at(&below), link };
    ground.perform(&Action::SetState { room: at(&space), state }).await;
    let deed = Deed::Upgrade { version: "12".to_owned() };
    let bot = ground.homeserver.bot().clone();
    let upgraded = ground.perform(&Action::Puppet { room: at(&space), user: bot, deed }).await;
    let new = upgraded.room.expect("a new room");
    let aliases = ground.homeserver.aliases_for(&[key.clone()].into()).await.unwrap();
    assert_eq!(aliases.get(&key), Some(&new), "the homeserver moves the fence");
    let old = ground.homeserver.room(&space).await.unwrap().unwrap();
    assert_eq!(old.successor.as_ref(), Some(&new));
    let seen = ground.homeserver.room(&new).await.unwrap().unwrap();
    assert_eq!(seen.predecessor.as_ref(), Some(&space));
    assert!(seen.is_space && seen.children.contains_key(&below), "{seen:?}");
    assert_eq!((&seen.created_for, &seen.marker), (&None, &None), "what makes a room ours is not copied");
    let former = usher::observed::Marker { former: [space.clone()].into(), ..marker(&key) };
    let adopt = Action::SetState { room: at(&new), state: StateChange::Adopt(former.clone()) };
    ground.do_and_compare(&adopt).await;
    assert_eq!(ground.homeserver.room(&new).await.unwrap().unwrap().marker, Some(former));
    ground.do_and_compare(&Action::Leave { room: at(&space) }).await;
}

/// Nothing is seen of what does not admit the bot; only trying to enter tells a room with somebody in it from one with nobody.
pub async fn a_room_with_nobody_in_it_is_told_from_one_that_is_closed(ground: &Ground) {
    let person = ground.person("xia").await;
    let closed = person.create_room(json!({ "preset": "private_chat", "name": "Closed" })).await;
    let enter = |room: &RoomId| Action::Enter { room: at(room) };
    assert_eq!(ground.homeserver.shown_from_outside(&closed).await.unwrap(), None);
    assert_eq!(ground.homeserver.room_when_left(&closed).await.unwrap(), None);
    ground.refused(&enter(&closed), ActErrorKind::Forbidden).await;
    let nowhere = RoomId::from("!nowhere:lab.test");
    assert_eq!(ground.homeserver.shown_from_outside(&nowhere).await.unwrap(), None);
    ground.refused(&enter(&nowhere), ActErrorKind::Stale).await;
    assert_eq!(person.leave(&closed).await.0, 200);
    ground.refused(&enter(&closed), ActErrorKind::Stale).await;

    let banned = person.create_room(json!({ "preset": "public_chat" })).await;
    let bot = ground.homeserver.bot().clone();
    assert_eq!(person.ban(&banned, &bot).await.0, 200);
    let refusal = ground.refused(&enter(&banned), ActErrorKind::Stale).await;
    assert_eq!(refusal.code.as_deref(), Some("M_BAD_STATE"));

    // One that would let the bot in, or asked it in, shows its name, its kind and its rule.
    let space = ground.space("opening").await;
    let rule = JoinRule { rule: "restricted".to_owned(), allow: [space].into() };
    let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule.content() }]);
    let open = person.create_room(json!({ "room_version": "11", "name": "Open", "initial_state": state })).await;
    let shown = ground.homeserver.shown_from_outside(&open).await.unwrap().expect("it shows");
    assert_eq!((shown.name.as_deref(), shown.join_rule), (Some("Open"), Some(rule)));
    assert!(shown.version.is_empty() && shown.members.is_empty(), "and nothing else");
    let asked = person.create_room(json!({ "preset": "private_chat", "name": "Asked in" })).await;
    assert_eq!(person.invite(&asked, &bot).await.0, 200);
    let shown = ground.homeserver.shown_from_outside(&asked).await.unwrap().expect("it shows");
    assert_eq!(shown.name.as_deref(), Some("Asked in"));
    ground.perform(&enter(&asked)).await;
    let inside = ground.homeserver.room(&asked).await.unwrap().unwrap();
    assert_eq!(inside.members.get(&bot), Some(&Member::Join));
}
