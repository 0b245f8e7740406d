//! Bodies as JSON, the members of large groups in little: `{"value": "…"}` fifty thousand times would be thirty megabytes of trees.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Map, Value};

const MEMBERS: &str = "members";

/// Parses a body. A member with an id is its id alone afterwards, which [`members`](super::document::members) takes as well; clients send
/// nothing else of one that is theirs to say.
///
/// # Errors
/// Where it is not JSON.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = Deserializer::from_slice(text);
    let value = Anything { members: false }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Any value.
struct Anything {
    /// It stands under `members`.
    members: bool,
}

impl<'de> DeserializeSeed<'de> for Anything {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(Self { members: false })? {
            items.push(if self.members { id_alone(item) } else { item });
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let members = key.eq_ignore_ascii_case(MEMBERS);
            map.insert(key, entries.next_value_seed(Self { members })?);
        }
        let is = |key: &str, name: &str| key.eq_ignore_ascii_case(name);
        let path = map.iter().find(|(key, _)| is(key, "path")).and_then(|(_, path)| path.as_str());
        // An operation of a PATCH; its path may stand behind its value.
        if path.is_some_and(|path| is(path, MEMBERS))
            && let Some((_, Value::Array(items))) = map.iter_mut().find(|(key, _)| is(key, "value"))
        {
            *items = std::mem::take(items).into_iter().map(id_alone).collect();
        }
        Ok(Value::Object(map))
    }
}

/// A member's id where it has one, else the member.
fn id_alone(member: Value) -> Value {
    let value = member.as_object().and_then(|member| member.iter().find(|(key, _)| key.eq_ignore_ascii_case("value")));
    match value.and_then(|(_, id)| id.as_str()).filter(|id| !id.is_empty()) {
        Some(id) => id.into(),
        None => member,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scim::document::members;

    #[test]
    fn what_has_no_members_is_what_it_is() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,1.5,"\u00e9",{"b":{}}],"a2":[{"value":"x"}]}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for broken in ["", "{", "[1,]", "{} x", "{\"a\":1e999}"] {
            assert_eq!(parse(broken.as_bytes()).is_err(), serde_json::from_str::<Value>(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn members_mean_the_same_in_little() {
        let text = r#"{"Members":[{"value":"a","display":"A"},"b",{"VALUE":"c","$ref":null}]}"#;
        let (short, whole) = (parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(short["Members"], json!(["a", "b", "c"]));
        assert_eq!(members(&short["Members"]).unwrap(), members(&whole["Members"]).unwrap());
        let text = r#"{"op":"add","value":[{"value":"a","$ref":"/a"}],"path":"Members"}"#;
        assert_eq!(parse(text.as_bytes()).unwrap()["value"], json!(["a"]));
        let text = r#"{"op":"add","path":"emails","value":[{"value":"a"}]}"#;
        assert_eq!(parse(text.as_bytes()).unwrap()["value"], json!([{ "value": "a" }]));
        let wrong = r#"{"members":[{"value":7},{"value":""},{"display":"A"},7]}"#;
        assert_eq!(parse(wrong.as_bytes()).unwrap(), serde_json::from_str::<Value>(wrong).unwrap());
    }
}
