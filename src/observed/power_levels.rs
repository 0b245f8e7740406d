//! `m.room.power_levels`: the users apart, everything else kept as it came, so that a write leaves other people's keys alone (S-21).
//!
//! Content comes from the network: values of a wrong type count as absent and never fail.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::ids::UserId;

/// Content of the event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PowerLevels {
    /// Levels of named users.
    pub users: BTreeMap<UserId, i64>,
    /// The other keys, untouched.
    pub rest: Map<String, Value>,
}

impl PowerLevels {
    /// Reads the event's content.
    #[must_use]
    pub fn from_content(content: &Value) -> Self {
        let mut rest = content.as_object().cloned().unwrap_or_default();
        let users = match rest.remove("users") {
            Some(Value::Object(users)) => {
                users.iter().filter_map(|(user, value)| Some((UserId::from(user.as_str()), level(value)?))).collect()
            }
            _ => BTreeMap::new(),
        };
        Self { users, rest }
    }

    /// The content to write.
    #[must_use]
    pub fn content(&self) -> Value {
        let users = self.users.iter().map(|(user, level)| (user.as_str().to_owned(), Value::from(*level))).collect();
        let mut content = self.rest.clone();
        content.insert("users".to_owned(), Value::Object(users));
        Value::Object(content)
    }

    /// Effective level of `user`. Creators of rooms from version 12 on stand above every level and are not named here.
    #[must_use]
    pub fn user_level(&self, user: &UserId) -> i64 {
        self.users.get(user).copied().unwrap_or_else(|| self.users_default())
    }

    /// Level of users who are not named.
    #[must_use]
    pub fn users_default(&self) -> i64 {
        self.key("users_default")
    }

    /// Level needed to send state events of `event_type`.
    #[must_use]
    pub fn level_for_state(&self, event_type: &str) -> i64 {
        self.rest
            .get("events")
            .and_then(|events| events.get(event_type))
            .and_then(level)
            .unwrap_or_else(|| self.key("state_default"))
    }

    /// A top-level key such as `invite`, or Matrix's default for it where it is absent.
    #[must_use]
    pub fn key(&self, name: &str) -> i64 {
        self.rest.get(name).and_then(level).unwrap_or(match name {
            "ban" | "kick" | "redact" | "state_default" => 50,
            _ => 0,
        })
    }

    /// Sets a top-level key.
    pub fn set_key(&mut self, name: &str, level: i64) {
        self.rest.insert(name.to_owned(), Value::from(level));
    }

    /// Sets the level needed to send events of `event_type`.
    pub fn set_event(&mut self, event_type: &str, level: i64) {
        let events = self.rest.entry("events").or_insert_with(|| Value::Object(Map::new()));
        if !events.is_object() {
            *events = Value::Object(Map::new());
        }
        if let Value::Object(events) = events {
            events.insert(event_type.to_owned(), Value::from(level));
        }
    }
}

/// Room versions below 10 also know levels written as text.
fn level(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

impl Serialize for PowerLevels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.content().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PowerLevels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_content(&Value::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn content_survives_the_round_trip() {
        let content =
            json!({ "users": { "@ann:x": 50 }, "events": { "m.room.name": 60 }, "org.example.key": [1, "two"] });
        assert_eq!(PowerLevels::from_content(&content).content(), content);
    }

    #[test]
    fn wrong_types_count_as_absent() {
        let levels = PowerLevels::from_content(&json!({
            "users": { "@ann:x": {}, "@ben:x": "40" }, "users_default": [], "events": 7, "state_default": null, "kick": "x",
        }));
        assert_eq!(levels.user_level(&"@ann:x".into()), 0);
        assert_eq!(levels.user_level(&"@ben:x".into()), 40);
        assert_eq!((levels.level_for_state("m.room.name"), levels.key("kick"), levels.key("invite")), (50, 50, 0));
        assert_eq!(PowerLevels::from_content(&json!("nonsense")), PowerLevels::default());
    }

    #[test]
    fn one_event_type_is_set_beside_the_others() {
        let mut levels = PowerLevels::from_content(&json!({ "events": { "m.room.name": 60 } }));
        levels.set_event("m.space.child", 50);
        levels.set_key("invite", 100);
        assert_eq!(
            levels.content(),
            json!({ "users": {}, "events": { "m.room.name": 60, "m.space.child": 50 }, "invite": 100 })
        );
    }
}
