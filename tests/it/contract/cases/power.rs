//! Rooms that people made: seen from outside, entered, taken over, given back (S-22, S-31, S-42).

use serde_json::{Value, json};
use usher::actuate::ActErrorKind;
use usher::ids::{Key, RoomId, UserId};
use usher::observed::{JoinRule, Member};
use usher::plan::{Action, Deed, StateChange};

use crate::contract::ground::{Ground, at};
use crate::lab::synapse::Person;

/// A managed space with `name` in it, and a room of that person's hanging there, open to the space.
async fn user_room(ground: &Ground, name: &str, version: &str) -> (RoomId, RoomId, Person) {
    let space = ground.space(name).await;
    let person = ground.person(name).await;
    ground.perform(&Action::Join { room: at(&space), user: person.user.clone() }).await;
    let rule = JoinRule { rule: "restricted".to_owned(), allow: [space.clone()].into() };
    let room = person
        .create_room(json!({
            "room_version": version, "name": format!("Room of {name}"),
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rule.content() }],
        }))
        .await;
    let link = usher::observed::Child { via: vec!["lab.test".to_owned()], ..usher::observed::Child::default() };
    ground.perform(&Action::SetState { room: at(&space), state: StateChange::Child { child: at(&room), link } }).await;
    (space, room, person)
}

fn puppet(room: &RoomId, user: &UserId, deed: Deed) -> Action {
    Action::Puppet { room: at(room), user: user.clone(), deed }
}

fn levels(content: Value) -> Deed {
    Deed::SetLevels { content, changes: Vec::new() }
}

pub async fn a_room_outside_is_seen_entered_and_taken(ground: &Ground) {
    let (space, room, una) = user_room(ground, "una", "10").await;
    let seen = ground.homeserver.room_from_outside(&room).await.unwrap().expect("seen");
    assert_eq!((seen.version.as_str(), seen.name.as_deref()), ("10", Some("Room of una")));
    assert_eq!(seen.members[&una.user], Member::Join);
    assert!(!seen.members.contains_key(ground.homeserver.bot()));
    let shown = ground.homeserver.children_from_outside(&space).await.unwrap();
    assert_eq!(shown[&room].join_rule, seen.join_rule);
    assert!(!shown.contains_key(&space), "the space is not its own child");
    assert_eq!(ground.homeserver.room_from_outside(&"!nowhere:lab.test".into()).await.unwrap(), None);

    ground.perform(&Action::Enter { room: at(&room) }).await;
    let inside = ground.homeserver.room(&room).await.unwrap().expect("the bot is in");
    assert_eq!(inside.power_levels.as_ref().unwrap().user_level(ground.homeserver.bot()), 0);
    ground.do_and_compare(&Action::TakePower { room: at(&room) }).await;
    let inside = ground.homeserver.room(&room).await.unwrap().unwrap();
    assert_eq!(inside.power_levels.unwrap().user_level(ground.homeserver.bot()), 100);
}

pub async fn a_room_of_version_12_gives_power_and_keeps_its_creator(ground: &Ground) {
    let (_, room, vic) = user_room(ground, "vic", "12").await;
    // Taken from outside: the bot is invited as well.
    ground.perform(&Action::TakePower { room: at(&room) }).await;
    ground.perform(&Action::Enter { room: at(&room) }).await;
    let inside = ground.homeserver.room(&room).await.unwrap().unwrap();
    let mut own = inside.power_levels.unwrap();
    assert_eq!(own.user_level(ground.homeserver.bot()), 100);
    own.users.insert(vic.user.clone(), 50);
    let demote = Action::SetPowerLevels { room: at(&room), content: own.content(), changes: Vec::new() };
    ground.refused(&demote, ActErrorKind::Refused).await;
    let kick = Action::Kick { room: at(&room), user: vic.user.clone(), text: "no".into() };
    ground.refused(&kick, ActErrorKind::Forbidden).await;
    let private = vic.create_room(json!({ "preset": "private_chat" })).await;
    assert_eq!(vic.leave(&private).await.0, 200);
    ground.refused(&Action::TakePower { room: at(&private) }, ActErrorKind::Forbidden).await;
}

pub async fn puppets_do_what_the_bot_cannot(ground: &Ground) {
    let (_, room, wim) = user_room(ground, "wim", "11").await;
    ground.perform(&puppet(&room, &wim.user, Deed::InviteBot)).await;
    ground.perform(&Action::Enter { room: at(&room) }).await;
    let mut raised = ground.homeserver.room(&room).await.unwrap().unwrap().power_levels.unwrap();
    raised.users.insert(ground.homeserver.bot().clone(), 100);
    raised.users.insert(wim.user.clone(), 50);
    // One event raises the bot and lowers the creator (S-31).
    ground.do_and_compare(&puppet(&room, &wim.user, levels(raised.content()))).await;
    ground.do_and_compare(&puppet(&room, &wim.user, Deed::Leave { text: "you are in no group".into() })).await;
    let member = ground.homeserver.state_content(&room, "m.room.member", wim.user.as_str()).await.unwrap().unwrap();
    assert_eq!(member["reason"], "you are in no group");
    ground.perform(&puppet(&room, &wim.user, Deed::Forget)).await;
    ground.do_and_compare(&puppet(&room, &wim.user, Deed::Join)).await;

    let admin = ground.admin().await;
    ground.refused(&puppet(&room, &admin.user, Deed::Join), ActErrorKind::Forbidden).await;

    let theirs = wim.create_room(json!({ "room_version": "11" })).await;
    let upgraded = ground.perform(&puppet(&theirs, &wim.user, Deed::Upgrade { version: "12".to_owned() })).await;
    let successor = wim.state(&theirs, "m.room.tombstone", "").await.unwrap();
    assert_eq!(successor["replacement_room"].as_str(), upgraded.room.as_ref().map(RoomId::as_str));
}

pub async fn what_makes_a_room_ours_is_taken_back(ground: &Ground) {
    let space = ground.space("given-back").await;
    let key = Key::Space("given-back".into());
    let marker = ground.homeserver.room(&space).await.unwrap().unwrap().marker.expect("it is ours");
    ground.do_and_compare(&Action::SetState { room: at(&space), state: StateChange::Unmark(marker) }).await;
    assert!(ground.homeserver.room(&space).await.unwrap().unwrap().is_given_up());
    let alias = key.alias("main", "lab.test");
    ground.do_and_compare(&Action::RemoveAlias { room: at(&space), key, alias: alias.clone() }).await;
    assert_eq!(ground.homeserver.resolve(&alias).await.unwrap(), None);
}

pub async fn a_new_id_takes_the_fence_along(ground: &Ground) {
    let space = ground.space("old-id").await;
    let (old, new) = (Key::Space("old-id".into()), Key::Space("new-id".into()));
    let marker = usher::observed::Marker {
        instance: "main".to_owned(),
        key: new.clone(),
        made: [].into(),
        abandoned: false,
        additive: false,
        original_creator: None,
        former: std::collections::BTreeSet::new(),
        adopted: false,
    };
    let rename = Action::SetState { room: at(&space), state: StateChange::Rename { from: old.clone(), marker } };
    ground.do_and_compare(&rename).await;
    assert_eq!(ground.homeserver.resolve(&new.alias("main", "lab.test")).await.unwrap(), Some(space.clone()));
    assert_eq!(ground.homeserver.resolve(&old.alias("main", "lab.test")).await.unwrap(), None);
    // A crash in the middle is finished by the same step.
    ground.do_and_compare(&rename).await;
}
