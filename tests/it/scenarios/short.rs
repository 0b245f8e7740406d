//! The short forms in which scenario files say things, and what they stand for.

use serde_json::{Map, Value, json};
use usher::ids::Key;

use super::world::{DAY_MS, SERVER};

/// `photos: {ann: grey}` is a JPEG; what begins with `bmp` is none, and what begins with `huge` is too large.
pub fn picture(text: &str) -> Vec<u8> {
    if text.starts_with("bmp") {
        return text.as_bytes().to_vec();
    }
    let mut picture = [b"\xff\xd8\xff", text.as_bytes()].concat();
    if text.starts_with("huge") {
        picture.resize((1 << 20) + 1, 0);
    }
    picture
}

/// Maps merge, everything else replaces, `null` deletes.
pub fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, Value::Object(patch)) => {
            *target = Value::Object(Map::new());
            merge(target, &Value::Object(patch.clone()));
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// `ann` is a person of the scenario's homeserver.
pub fn person(short: &str) -> String {
    if short.starts_with('@') { short.to_owned() } else { format!("@{short}:{SERVER}") }
}

pub fn duration(text: &str) -> i64 {
    let (amount, unit) = text.split_at(text.len() - 1);
    let amount: i64 = amount.parse().expect("a duration such as 5m");
    amount
        * match unit {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            other => panic!("unit {other}"),
        }
}

/// `space` or `space/slot`.
pub fn key_of(text: &str) -> Key {
    match text.split_once('/') {
        Some((space, slot)) => Key::Room { space: space.into(), slot: slot.into() },
        None => Key::Space(text.into()),
    }
}

/// `join`, `invite`, `knock`, `left`, `kicked by X`, `banned by X`, or the full form.
pub fn membership(name: &str, how: &Value) -> Value {
    let Some(text) = how.as_str() else { return how.clone() };
    let event = format!("$departure-of-{name}");
    if let Some(by) = text.strip_prefix("banned by ") {
        json!({ "ban": { "by": person(by) } })
    } else if let Some(by) = text.strip_prefix("kicked by ") {
        json!({ "leave": { "by": person(by), "event": event } })
    } else if text == "left" {
        json!({ "leave": { "by": person(name), "event": event } })
    } else {
        how.clone()
    }
}

pub fn patch_or_nothing(patch: &Value) -> &Value {
    static NOTHING: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({}));
    if patch.is_null() { &NOTHING } else { patch }
}

/// `users: [ann, ben]` is short for `users: {ann: {}, ben: {}}`.
pub fn short_lists(directory: &Value) -> Value {
    let mut full = directory.clone();
    if let Some(Value::Array(users)) = directory.get("users")
        && users.iter().all(Value::is_string)
    {
        full["users"] =
            users.iter().map(|id| (id.as_str().unwrap().to_owned(), json!({}))).collect::<Map<_, _>>().into();
    }
    full
}
