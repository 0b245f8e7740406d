//! Events as anybody could write them, straight into what usher believes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use usher::ids::{Interner, RoomId, UserId};
use usher::observed::{Accounts, CREATED_FOR, Known, MARKER_TYPE, Observed, REMOVED, Room, StateEvent};

use super::model::{BOT, INSTANCE, SERVER};
use super::runner;

const ROOM: &str = "!room:lab.test";
const LARGE: usize = 64 * 1024;

/// Keys usher reads, and others.
fn key() -> impl Strategy<Value = String> {
    const READ: [&str; 24] = [
        "membership",
        "name",
        "topic",
        "url",
        "alias",
        "users",
        "events",
        "users_default",
        "state_default",
        "ban",
        "invite",
        "join_rule",
        "allow",
        "type",
        "room_id",
        "via",
        "order",
        "suggested",
        "canonical",
        "instance",
        "key",
        "room_version",
        "additional_creators",
        "replacement_room",
    ];
    prop_oneof![
        12 => (0..READ.len()).prop_map(|index| READ[index].to_owned()),
        1 => Just(CREATED_FOR.to_owned()),
        1 => Just(REMOVED.to_owned()),
        1 => Just("k".repeat(LARGE)),
        2 => "\\PC{0,8}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    const MEANT: [&str; 14] = [
        "join",
        "leave",
        "ban",
        "invite",
        "knock",
        "restricted",
        "m.room_membership",
        "m.space",
        INSTANCE,
        BOT,
        ROOM,
        "12",
        "-9223372036854775808",
        "  50 ",
    ];
    prop_oneof![
        8 => (0..MEANT.len()).prop_map(|index| MEANT[index].to_owned()),
        1 => Just("x".repeat(LARGE)),
        2 => "\\PC{0,8}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => Just(json!(u64::MAX)),
        5 => text().prop_map(Value::from),
        1 => (1..120_usize).prop_map(deep),
        1 => Just(json!({ "space": "theirs" })),
        1 => Just(json!({ "instance": INSTANCE, "key": { "space": "theirs" } })),
    ];
    leaf.prop_recursive(3, 30, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(key(), inner, 0..6).prop_map(object),
        ]
    })
}

fn object(map: BTreeMap<String, Value>) -> Value {
    Value::Object(map.into_iter().collect::<Map<_, _>>())
}

/// As deep as a reader lets through.
fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(7), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({ "name": inner }) })
}

fn event() -> impl Strategy<Value = StateEvent> {
    let kind = prop_oneof![
        14 => (0..StateEvent::READ_TYPES.len()).prop_map(|index| StateEvent::READ_TYPES[index].to_owned()),
        2 => Just(MARKER_TYPE.to_owned()),
        1 => "\\PC{0,8}",
    ];
    let state_key = prop_oneof![
        4 => Just(String::new()),
        3 => Just(BOT.to_owned()),
        2 => Just("@mal:lab.test".to_owned()),
        1 => Just(ROOM.to_owned()),
        1 => Just("@".repeat(LARGE)),
        1 => "\\PC{0,8}",
    ];
    // Anybody but the bot: what it writes itself is not hostile.
    let sender =
        prop_oneof![3 => Just("@mal:lab.test".to_owned()), 1 => Just("@usher:elsewhere".to_owned()), 1 => "\\PC{0,8}"];
    let content =
        prop_oneof![4 => proptest::collection::btree_map(key(), value(), 0..8).prop_map(object), 1 => value()];
    (kind, state_key, sender, content).prop_map(|(kind, state_key, sender, content)| StateEvent {
        kind,
        state_key,
        sender: UserId::from(sender),
        event_id: "$1".into(),
        content,
    })
}

fn observed(room: Room) -> Observed {
    Observed {
        server: SERVER.to_owned(),
        bot: BOT.into(),
        sender: "@_usher:lab.test".into(),
        bot_registered: Known::Known(true),
        bot_display_name: Known::Unknown,
        rooms: [(RoomId::from(ROOM), room)].into(),
        outside: BTreeMap::new(),
        adoptable: BTreeMap::new(),
        unread: std::collections::BTreeSet::new(),
        aliases: BTreeMap::new(),
        accounts: Accounts::default(),
        leavers: Known::Unknown,
        estates: [].into(),
    }
}

/// What no event of somebody else can bring about.
fn nobody_passes_for_the_bot(room: &Room) -> Result<(), TestCaseError> {
    prop_assert_eq!(&room.marker, &None, "a marker the bot did not write");
    prop_assert_eq!(&room.created_for, &None, "a room the bot did not make");
    Ok(())
}

#[test]
fn hostile_events_break_nothing_and_mark_nothing() {
    let outcome = runner(300).run(&proptest::collection::vec(event(), 0..12), |events| {
        let mut seen = observed(Room::default());
        for event in events.iter().filter(|event| !event.is_foreign_marker(INSTANCE)) {
            let before = seen.rooms[ROOM].clone();
            let changed = seen.fold(&ROOM.into(), event);
            prop_assert_eq!(changed, before != seen.rooms[ROOM], "whether it changed anything: {:?}", event.kind);
            prop_assert!(!seen.fold(&ROOM.into(), event), "a second time changes nothing");
            nobody_passes_for_the_bot(&seen.rooms[ROOM])?;
            // Whoever asks for a level gets one.
            if let Some(levels) = &seen.rooms[ROOM].power_levels {
                let _ = (levels.user_level(&BOT.into()), levels.level_for_state("m.room.name"), levels.key("invite"));
            }
        }
        let read = Room::from_state(&BOT.into(), INSTANCE, events.into_iter(), &mut Interner::default());
        // Who else manages it is told only by the whole state.
        let read = Room { managed_by: None, ..read };
        nobody_passes_for_the_bot(&read)?;
        prop_assert_eq!(&read, &seen.rooms[ROOM], "event by event or at once");
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn any_json_is_an_event_or_none() {
    let outcome = runner(300).run(&value(), |value| {
        if let Some(event) = StateEvent::from_json(&value) {
            let _ = observed(Room::default()).fold(&ROOM.into(), &event);
        }
        let wrapped = json!({ "type": MARKER_TYPE, "state_key": BOT, "sender": "@mal:lab.test", "content": value });
        let mut seen = observed(Room::default());
        seen.fold(&ROOM.into(), &StateEvent::from_json(&wrapped).expect("an event"));
        nobody_passes_for_the_bot(&seen.rooms[ROOM])
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
