//! Room entries: `provisioner.default_rooms` and a space's own `rooms` (S-30).

use serde_json::{Map, Value};

use super::problem::Severity;
use super::section::{Section, join, nearest};
use super::value::Field;
use super::{GroupGrant, RoomTemplate, tree};
use crate::ids::RoomSlot;

/// What a createRoom body may hold here.
const PROPERTIES: &[&str] = &[
    "name",
    "topic",
    "visibility",
    "preset",
    "room_version",
    "creation_content",
    "initial_state",
    "power_level_content_override",
];

/// What it must not hold, and why (S-30).
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "room_alias_name",
        "is not allowed: one alias cannot serve the rooms of several spaces. Give a room in a space's own `rooms` an `alias` instead",
    ),
    ("invite", "is not allowed: the directory decides who is invited. Remove it"),
    ("invite_3pid", "is not allowed: the directory decides who is invited. Remove it"),
    ("is_direct", "is not allowed: a managed room is never a direct chat. Remove it"),
];

/// One of `provisioner.default_rooms`.
pub(super) fn default_room(field: &Field<'_>) -> RoomTemplate {
    let Some(mut section) = field.section() else { return nameless() };
    for key in ["groups", "alias", "adopt"] {
        if let Some(field) = section.field(key) {
            field.fail(
                "a default room is made in every space, so it cannot have this: move the room into one space's `rooms`",
            );
        }
    }
    let room = room(&mut section);
    section.finish();
    room
}

/// One of a space's own `rooms`.
pub(super) fn own_room(field: &Field<'_>) -> RoomTemplate {
    let Some(mut section) = field.section() else { return nameless() };
    let groups = section.field("groups").map(|list| grants(&list));
    let alias = section.field("alias").and_then(|field| alias(&field));
    let adopt = section.field("adopt").and_then(|field| adopt(&field));
    let room = RoomTemplate { groups, alias, adopt, ..room(&mut section) };
    section.finish();
    room
}

/// Keeps the number of an entry that is no mapping, so that later ones are reported at theirs.
fn nameless() -> RoomTemplate {
    RoomTemplate {
        id: RoomSlot::from(""),
        properties: Map::new(),
        groups: None,
        alias: None,
        suggested: false,
        order: None,
        adopt: None,
    }
}

fn room(section: &mut Section<'_>) -> RoomTemplate {
    let id = section.need("id", "'general'");
    if id.starts_with('!') {
        let message = "has an id that begins with '!': such ids are those of rooms that people made; choose another";
        section.report.error(Some(&section.spot), &section.path, message);
    }
    RoomTemplate {
        id: RoomSlot::from(id),
        properties: section.field("properties").map(|field| properties(&field)).unwrap_or_default(),
        groups: None,
        alias: None,
        suggested: section.boolean("suggested", false),
        order: section.field("order").and_then(|field| order(&field)),
        adopt: None,
    }
}

/// An existing room, by id or alias. Ids of version 12 name no server.
pub(super) fn adopt(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    let id = text.strip_prefix('!').is_some_and(|rest| !rest.is_empty());
    let alias = text.strip_prefix('#').and_then(|rest| rest.split_once(':'));
    let alias = alias.is_some_and(|(name, server)| !name.is_empty() && !server.is_empty());
    if !(id || alias) || text.contains(char::is_whitespace) {
        field.fail(format!("must be a room id (!...) or an alias (#...:server), not {}", field.shown()));
        return None;
    }
    Some(text)
}

/// `order` of `m.space.child`: at most 50 printable ASCII characters (Matrix specification).
fn order(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    if text.len() > 50 || !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        field.fail("must be at most 50 plain ASCII characters, such as '01'");
        return None;
    }
    Some(text)
}

fn properties(field: &Field<'_>) -> Map<String, Value> {
    let tree::Value::Mapping(entries) = &field.node.value else {
        field.fail(format!("must be a mapping such as {{ name: 'General discussion' }}, not {}", field.shown()));
        return Map::new();
    };
    for entry in entries {
        let path = join(&field.path, &entry.key);
        if let Some((_, why)) = FORBIDDEN.iter().find(|(name, _)| *name == entry.key) {
            field.report.error(Some(&entry.spot), &path, *why);
        } else if !PROPERTIES.contains(&entry.key.as_str()) {
            let known = || format!("; known here: {}", PROPERTIES.join(", "));
            let meant = nearest(&entry.key, PROPERTIES.iter().copied());
            let meant = meant.map_or_else(known, |name| format!("; did you mean `{name}`?"));
            let message = format!("unknown property of a room{meant}");
            field.report.add(Severity::Unknown, Some(&entry.spot), &path, message);
        } else {
            check_shape(&entry.key, &Field { report: field.report, node: &entry.value, path });
        }
    }
    match field.json() {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key.clone(), as_text(&key, value))).collect(),
        _ => Map::new(),
    }
}

fn check_shape(key: &str, field: &Field<'_>) {
    match key {
        "initial_state" => {
            field.items();
        }
        "creation_content" | "power_level_content_override" => {
            field.section();
        }
        "visibility" => {
            field.choice(&[("public", ()), ("private", ())]);
        }
        "preset" => {
            field.choice(&[("private_chat", ()), ("public_chat", ()), ("trusted_private_chat", ())]);
        }
        _ => {
            field.text();
        }
    }
}

/// `room_version: 12` and `name: 2027` are texts in Matrix, quoted or not.
fn as_text(key: &str, value: Value) -> Value {
    match (key, value) {
        ("name" | "topic" | "room_version", Value::Number(number)) => number.to_string().into(),
        ("name" | "topic", Value::Bool(truth)) => truth.to_string().into(),
        (_, value) => value,
    }
}

/// A localpart or a full alias.
pub(super) fn alias(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    let full = text.starts_with('#') && text.contains(':');
    let bare = !text.contains(['#', ':', '@', '!']) && !text.contains(char::is_whitespace);
    if !full && !bare {
        field.fail(format!("must be an alias such as '#news:example.com', or only 'news', not {}", field.shown()));
        return None;
    }
    Some(text)
}

/// `groups: [{externalId, powerLevel}]`.
pub(super) fn grants(list: &Field<'_>) -> Vec<GroupGrant> {
    list.items().iter().filter_map(grant).collect()
}

fn grant(field: &Field<'_>) -> Option<GroupGrant> {
    if field.is_scalar() {
        field.fail("must be a mapping: write `- externalId: ...`, with `powerLevel` below it if you need one");
        return None;
    }
    let mut section = field.section()?;
    let grant = GroupGrant { external_id: external_id(&mut section), power_level: power_level(&mut section) };
    section.finish();
    Some(grant)
}

/// A group as the source names it; `''` is everybody (S-2).
pub(super) fn external_id(section: &mut Section<'_>) -> String {
    let Some(field) = section.field("externalId") else {
        section.missing("externalId", "'cn=staff,ou=groups,dc=example,dc=com'");
        return String::new();
    };
    field.text().unwrap_or_default()
}

pub(super) fn power_level(section: &mut Section<'_>) -> i64 {
    section.number("powerLevel", 0, (0, 100))
}
