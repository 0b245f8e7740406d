//! One state event into what is observed; a room's whole state is the same, event by event.
//!
//! Content is written by anybody: what is malformed counts as absent.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    CREATED_FOR, Child, JoinRule, MARKER_TYPE, Marker, Member, Observed, Parent, PowerLevels, REMOVED, Room,
    creators_are_immutable,
};
use crate::ids::{EventId, Interner, Key, RoomId, UserId};

/// A state event, from `/state`, `/sync` or a transaction: the same shape everywhere.
#[derive(Clone, Debug)]
pub struct StateEvent {
    /// The event type, `m.room.member` and so on.
    pub kind: String,
    pub state_key: String,
    pub sender: UserId,
    pub event_id: EventId,
    pub content: Value,
}

impl StateEvent {
    /// Every type of state event that usher reads; anything else is ignored, and the feed does not ask for it.
    pub const READ_TYPES: [&'static str; 14] = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
        "m.room.canonical_alias",
        "m.room.guest_access",
        "m.room.tombstone",
        "m.room.encryption",
        "m.space.child",
        "m.space.parent",
        MARKER_TYPE,
    ];

    /// Reads an event as the client API shows it; `None` if it is no state event. A missing event id becomes the empty one.
    #[must_use]
    pub fn from_json(event: &Value) -> Option<Self> {
        let text = |key: &str| event.get(key).and_then(Value::as_str);
        Some(Self {
            kind: text("type")?.to_owned(),
            state_key: text("state_key")?.to_owned(),
            sender: text("sender")?.into(),
            event_id: text("event_id").unwrap_or_default().into(),
            content: event.get("content").cloned().unwrap_or_default(),
        })
    }

    /// Whether this is a marker of another instance of usher, which is none to us (S-16). One without an instance is not: that is how
    /// a marker is taken back.
    #[must_use]
    pub fn is_foreign_marker(&self, instance: &str) -> bool {
        let named = self.content.get("instance").and_then(Value::as_str);
        self.kind == MARKER_TYPE && named.is_some_and(|named| named != instance)
    }

    /// Who owns the room by this marker of another instance; `None`: a marker that was taken back.
    fn foreign_owner(&self) -> Option<String> {
        let marker = Marker::deserialize_lossy(&self.content)?;
        let own = self.sender.as_str() == self.state_key;
        (own && !marker.abandoned).then(|| format!("instance {} of {}", marker.instance, self.sender))
    }
}

impl Observed {
    /// Takes in one state event of a room that is known. Markers of other instances must not come here
    /// ([`StateEvent::is_foreign_marker`]).
    ///
    /// Returns whether anything usher cares about changed.
    pub fn fold(&mut self, room: &RoomId, event: &StateEvent) -> bool {
        match self.rooms.get_mut(room) {
            Some(room) => room.take_in(&self.bot, event),
            None => false,
        }
    }
}

impl Room {
    /// A room from its whole state. `created_for` and `marker` are set only by what `bot` wrote for `instance` (S-16).
    pub fn from_state(
        bot: &UserId,
        instance: &str,
        events: impl Iterator<Item = StateEvent>,
        interner: &mut Interner,
    ) -> Self {
        let mut room = Self::default();
        for event in events {
            if event.is_foreign_marker(instance) {
                room.managed_by = room.managed_by.or_else(|| event.foreign_owner());
                continue;
            }
            let event = StateEvent { sender: interner.share(event.sender.as_str()).into(), ..event };
            match event.kind.as_str() {
                "m.room.member" if !event.state_key.is_empty() => {
                    room.set_member(bot, interner.share(&event.state_key).into(), &event);
                }
                "m.room.create" => {
                    room.take_in(bot, &event);
                    room.created_for = created_for(bot, instance, &event);
                }
                _ => {
                    room.take_in(bot, &event);
                }
            }
        }
        room
    }

    /// One event; returns whether it changed anything.
    pub(super) fn take_in(&mut self, bot: &UserId, event: &StateEvent) -> bool {
        let content = &event.content;
        if !event.state_key.is_empty() {
            return self.take_in_keyed(bot, event);
        }
        match event.kind.as_str() {
            "m.room.create" => self.set_creation(event),
            "m.room.power_levels" => set(&mut self.power_levels, Some(PowerLevels::from_content(content))),
            "m.room.join_rules" => set(&mut self.join_rule, join_rule(content)),
            "m.room.name" => set(&mut self.name, text(content, "name")),
            "m.room.topic" => set(&mut self.topic, text(content, "topic")),
            "m.room.avatar" => set(&mut self.avatar, text(content, "url")),
            "m.room.canonical_alias" => set(&mut self.canonical_alias, text(content, "alias")),
            "m.room.guest_access" => set(&mut self.guest_access, text(content, "guest_access")),
            "m.room.tombstone" => set(&mut self.successor, text(content, "replacement_room").map(RoomId::from)),
            "m.room.encryption" => set(&mut self.encrypted, text(content, "algorithm").is_some()),
            _ => false,
        }
    }

    /// Events with a state key.
    fn take_in_keyed(&mut self, bot: &UserId, event: &StateEvent) -> bool {
        let room = || RoomId::from(event.state_key.as_str());
        match event.kind.as_str() {
            "m.room.member" => self.set_member(bot, event.state_key.as_str().into(), event),
            "m.space.child" => match child(&event.content) {
                Some(link) => self.children.insert(room(), link.clone()) != Some(link),
                None => self.children.remove(event.state_key.as_str()).is_some(),
            },
            "m.space.parent" => match parent(&event.content) {
                Some(link) => self.parents.insert(room(), link.clone()) != Some(link),
                None => self.parents.remove(event.state_key.as_str()).is_some(),
            },
            // What somebody else wrote there stands in place of ours, which is gone.
            MARKER_TYPE if event.state_key == bot.as_str() => {
                let own = if event.sender == *bot { Marker::deserialize_lossy(&event.content) } else { None };
                set(&mut self.marker, own)
            }
            _ => false,
        }
    }

    fn set_creation(&mut self, event: &StateEvent) -> bool {
        let version = text(&event.content, "room_version").unwrap_or_else(|| "1".to_owned());
        let mut creators = BTreeSet::from([event.sender.clone()]);
        if creators_are_immutable(&version) {
            let additional = event.content.get("additional_creators").and_then(Value::as_array);
            creators.extend(additional.into_iter().flatten().filter_map(Value::as_str).map(UserId::from));
        }
        let is_space = text(&event.content, "type").as_deref() == Some("m.space");
        let replaced = event.content.get("predecessor").and_then(|room| text(room, "room_id")).map(RoomId::from);
        let changed = set(&mut self.version, version);
        let changed = set(&mut self.creators, creators) || changed;
        let changed = set(&mut self.made_by, Some(event.sender.clone())) || changed;
        let changed = set(&mut self.predecessor, replaced) || changed;
        set(&mut self.is_space, is_space) || changed
    }

    fn set_member(&mut self, bot: &UserId, user: UserId, event: &StateEvent) -> bool {
        let member = match event.content.get("membership").and_then(Value::as_str) {
            Some("join") => Member::Join,
            Some("invite") => Member::Invite,
            Some("knock") => Member::Knock,
            Some("ban") => Member::Ban { by: event.sender.clone() },
            // Made to leave by us in their own name, which counts as our kick (S-22).
            Some("leave") if event.content.get(REMOVED).is_some() && event.sender == user => {
                Member::Leave { by: bot.clone(), event: event.event_id.clone() }
            }
            Some("leave") => Member::Leave { by: event.sender.clone(), event: event.event_id.clone() },
            _ => return false,
        };
        self.members.insert(user, member.clone()) != Some(member)
    }
}

impl Marker {
    fn deserialize_lossy(content: &Value) -> Option<Self> {
        serde_json::from_value(content.clone()).ok()
    }
}

fn created_for(bot: &UserId, instance: &str, event: &StateEvent) -> Option<Key> {
    let made = event.content.get(CREATED_FOR)?;
    let ours = event.sender == *bot && made.get("instance").and_then(Value::as_str) == Some(instance);
    ours.then(|| serde_json::from_value(made.get("key")?.clone()).ok()).flatten()
}

/// `field = value`; whether that is a change.
fn set<T: PartialEq>(field: &mut T, value: T) -> bool {
    let before = std::mem::replace(field, value);
    before != *field
}

/// A text that is there and not empty: Matrix clears a name by sending an empty one.
fn text(content: &Value, key: &str) -> Option<String> {
    content.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn join_rule(content: &Value) -> Option<JoinRule> {
    let allow = content.get("allow").and_then(Value::as_array);
    let allow = allow.into_iter().flatten();
    let allow = allow.filter(|entry| entry.get("type").and_then(Value::as_str) == Some("m.room_membership"));
    Some(JoinRule {
        rule: text(content, "join_rule")?,
        allow: allow.filter_map(|entry| entry.get("room_id").and_then(Value::as_str)).map(RoomId::from).collect(),
    })
}

/// Servers to go through; without any, a link is no link.
fn via(content: &Value) -> Option<Vec<String>> {
    let servers = content.get("via").and_then(Value::as_array)?.iter().filter_map(Value::as_str);
    let servers: Vec<String> = servers.map(str::to_owned).collect();
    (!servers.is_empty()).then_some(servers)
}

fn child(content: &Value) -> Option<Child> {
    Some(Child {
        via: via(content)?,
        order: text(content, "order"),
        suggested: content.get("suggested").and_then(Value::as_bool).unwrap_or_default(),
    })
}

fn parent(content: &Value) -> Option<Parent> {
    Some(Parent {
        via: via(content)?,
        canonical: content.get("canonical").and_then(Value::as_bool).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOT: &str = "@usher:x";

    fn event(kind: &str, state_key: &str, sender: &str, content: Value) -> StateEvent {
        let mut json = json!({ "type": kind, "state_key": state_key, "sender": sender, "event_id": "$1" });
        json["content"] = content;
        StateEvent::from_json(&json).unwrap()
    }

    fn room(events: Vec<StateEvent>) -> Room {
        Room::from_state(&BOT.into(), "main", events.into_iter(), &mut Interner::default())
    }

    fn made_for(instance: &str) -> Value {
        json!({ "room_version": "12", "type": "m.space", "additional_creators": ["@ann:x"],
                CREATED_FOR: { "instance": instance, "key": Key::Space("s".into()) } })
    }

    #[test]
    fn a_room_is_ours_only_by_our_own_create_event() {
        let ours = room(vec![event("m.room.create", "", BOT, made_for("main"))]);
        assert_eq!(ours.created_for, Some(Key::Space("s".into())));
        assert_eq!(ours.creators, BTreeSet::from([BOT.into(), "@ann:x".into()]));
        assert!(ours.is_space);
        assert_eq!(room(vec![event("m.room.create", "", "@ann:x", made_for("main"))]).created_for, None);
        assert_eq!(room(vec![event("m.room.create", "", BOT, made_for("other"))]).created_for, None);
    }

    #[test]
    fn additional_creators_count_from_version_12_on() {
        let content = json!({ "room_version": "11", "additional_creators": ["@ann:x"] });
        assert_eq!(room(vec![event("m.room.create", "", BOT, content)]).creators, BTreeSet::from([BOT.into()]));
    }

    #[test]
    fn only_the_bots_marker_of_this_instance_counts() {
        let marker = |instance: &str| json!({ "instance": instance, "key": Key::Space("s".into()) });
        assert!(room(vec![event(MARKER_TYPE, BOT, BOT, marker("main"))]).marker.is_some());
        assert!(room(vec![event(MARKER_TYPE, BOT, BOT, marker("other"))]).marker.is_none());
        assert!(room(vec![event(MARKER_TYPE, "", "@ann:x", marker("main"))]).marker.is_none());
        assert!(room(vec![event(MARKER_TYPE, "@ann:x", "@ann:x", marker("main"))]).marker.is_none());
    }

    #[test]
    fn a_marker_that_the_bot_takes_back_is_gone() {
        let mut seen =
            room(vec![event(MARKER_TYPE, BOT, BOT, json!({ "instance": "main", "key": Key::Space("s".into()) }))]);
        let taken_back = event(MARKER_TYPE, BOT, BOT, json!({}));
        assert!(!taken_back.is_foreign_marker("main"));
        assert!(seen.take_in(&BOT.into(), &taken_back));
        assert_eq!(seen.marker, None);
    }

    #[test]
    fn event_by_event_or_at_once_is_the_same() {
        let marker = json!({ "instance": "main", "key": Key::Space("s".into()) });
        let histories = [
            // No homeserver accepts these: who writes under another's id, and a member without an id.
            vec![event(MARKER_TYPE, BOT, BOT, marker.clone()), event(MARKER_TYPE, BOT, "@ann:x", marker)],
            vec![event("m.room.member", "", "@ann:x", json!({ "membership": "join" }))],
        ];
        for history in histories {
            let mut seen = Room::default();
            for event in &history {
                seen.take_in(&BOT.into(), event);
            }
            // At once there is only the last event of a kind and key.
            assert_eq!(room(history.into_iter().next_back().into_iter().collect()), seen);
            assert_eq!(seen, Room::default());
        }
    }

    #[test]
    fn a_link_without_servers_is_removed() {
        let mut seen = room(vec![event("m.space.child", "!a", BOT, json!({ "via": ["x"], "suggested": true }))]);
        assert_eq!(seen.children.len(), 1);
        assert!(seen.take_in(&BOT.into(), &event("m.space.child", "!a", "@ann:x", json!({}))));
        assert!(seen.children.is_empty());
    }

    #[test]
    fn a_display_name_change_is_no_change_and_a_departure_remembers_who() {
        let join = json!({ "membership": "join" });
        let mut seen = room(vec![event("m.room.member", "@ann:x", "@ann:x", join)]);
        let renamed = event("m.room.member", "@ann:x", "@ann:x", json!({ "membership": "join", "displayname": "A" }));
        assert!(!seen.take_in(&BOT.into(), &renamed));
        assert!(
            seen.take_in(&BOT.into(), &event("m.room.member", "@ann:x", "@ben:x", json!({ "membership": "leave" })))
        );
        assert_eq!(seen.members[&UserId::from("@ann:x")], Member::Leave { by: "@ben:x".into(), event: "$1".into() });
    }

    #[test]
    fn malformed_content_counts_as_absent() {
        let odd = room(vec![
            event("m.room.name", "", BOT, json!({ "name": 7 })),
            event(
                "m.room.join_rules",
                "",
                BOT,
                json!({ "join_rule": "restricted", "allow": [3, { "type": "m.room_membership" }] }),
            ),
            event("m.room.member", "@ann:x", BOT, json!("join")),
            event(MARKER_TYPE, BOT, BOT, json!({ "instance": "main" })),
        ]);
        let rule = JoinRule { rule: "restricted".into(), allow: BTreeSet::new() };
        assert_eq!(odd, Room { join_rule: Some(rule), ..Room::default() });
    }
}
