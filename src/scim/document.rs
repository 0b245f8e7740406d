//! From what a client sends to what is kept: canonical names and types, nothing read-only, nothing unknown, nothing empty.
//!
//! Tolerant where clients err without meaning anything else (`"True"`, `null`, one element in brackets), strict otherwise.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::distinct::once_each;
use super::schema::{Attribute, Named, Place, Type, resolve};
use super::{Document, Error, Kind};

/// Longest name that is looked up, in bytes: both databases can have it in an index.
pub const LONGEST_NAME: usize = 1024;
/// Deepest nesting of a body.
pub const DEEPEST: usize = 32;
/// Most values of one attribute; a group's members are kept apart and have no such limit. People have a few of each, and each operation
/// of a PATCH may look at all of them.
pub const MOST_VALUES: usize = 1_000;

/// A resource as a client sent it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Incoming {
    pub document: Document,
    /// Ids of members; `None` if nothing was said about them.
    pub members: Option<Vec<String>>,
}

/// Reads the body of a POST or PUT.
///
/// # Errors
/// `invalidSyntax` where it is no resource, `invalidValue` where a value does not fit its attribute.
pub fn read(kind: Kind, body: &Value) -> Result<Incoming, Error> {
    let Value::Object(body) = body else { return Err(Error::invalid_syntax("the body must be a JSON object")) };
    check_schemas(kind, body)?;
    let mut incoming = Incoming::default();
    let mut seen = BTreeMap::new();
    for (key, given) in body {
        once(&mut seen, key, given)?;
        match resolve(kind, key) {
            // Null says nothing about the members, and empties no group: Okta and others send it along.
            Named::Attribute(place) if is_members(kind, &place) => {
                incoming.members = if given.is_null() { None } else { Some(members(given)?) };
            }
            // A dotted key belongs to patches; an attribute of an extension stands under its URN, whatever Entra ID's samples say.
            Named::Attribute(place) if place.sub.is_none() && place.extension.is_none() => {
                if !place.attribute.is_read_only()
                    && let Some(value) = value(place.attribute, given)?
                {
                    incoming.document.insert(place.attribute.name.to_owned(), value);
                }
            }
            Named::Extension(extension) => {
                let inner = object(extension.attributes, extension.name, given)?;
                if let Some(inner) = inner {
                    incoming.document.insert(extension.urn.to_owned(), inner);
                }
            }
            Named::Attribute(_) | Named::Core | Named::Foreign | Named::Unknown => {}
        }
    }
    Ok(incoming)
}

/// Whether it is the one attribute of a group that is kept as rows.
#[must_use]
pub fn is_members(kind: Kind, place: &Place) -> bool {
    kind == Kind::Group && place.is_core("members")
}

/// That what must be there is there, and that names can be shown.
///
/// # Errors
/// `invalidValue`, naming the attribute.
pub fn check(kind: Kind, document: &Document) -> Result<(), Error> {
    let required = kind.required();
    let filled = document.get(required).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
    if !filled {
        return Err(Error::invalid_value(format!("{required} must have a value")));
    }
    for name in ["userName", "displayName", "externalId"] {
        let text = document.get(name).and_then(Value::as_str).unwrap_or_default();
        if text.contains(char::is_control) {
            return Err(Error::invalid_value(format!("{name} must not hold control characters")));
        }
        if text.len() > LONGEST_NAME {
            return Err(Error::invalid_value(format!("{name} must not be longer than {LONGEST_NAME} bytes")));
        }
    }
    Ok(())
}

/// How deep a value is nested.
#[must_use]
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Two keys that differ in case only must say the same.
fn once<'v>(seen: &mut BTreeMap<String, &'v Value>, key: &str, given: &'v Value) -> Result<(), Error> {
    if *seen.entry(key.to_ascii_lowercase()).or_insert(given) == given {
        Ok(())
    } else {
        Err(Error::invalid_syntax(format!("{key} is given twice with different values")))
    }
}

/// `schemas` may name more than we know.
fn check_schemas(kind: Kind, body: &Map<String, Value>) -> Result<(), Error> {
    let given = body.iter().find(|(key, _)| key.eq_ignore_ascii_case("schemas")).map(|(_, value)| value);
    let Some(given) = given.filter(|given| !given.is_null()) else {
        return Err(Error::invalid_syntax(format!("schemas is missing; it must name {}", kind.schema().urn)));
    };
    let Value::Array(urns) = given else { return Err(Error::invalid_syntax("schemas must be a list")) };
    let named = urns.iter().filter_map(Value::as_str).any(|urn| urn.eq_ignore_ascii_case(kind.schema().urn));
    if named { Ok(()) } else { Err(Error::invalid_syntax(format!("schemas must name {}", kind.schema().urn))) }
}

/// The ids in a value of `members`: objects, bare ids, one of either without a list, or nothing.
///
/// # Errors
/// `invalidValue` for a member without an id.
pub fn members(given: &Value) -> Result<Vec<String>, Error> {
    let one = |given: &Value| match given {
        Value::String(id) if !id.is_empty() => Ok(id.clone()),
        Value::Object(member) => member
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case("value"))
            .and_then(|(_, id)| id.as_str())
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| Error::invalid_value("each of members needs a value: the member's id")),
        _ => Err(Error::invalid_value("members must be a list of objects with a value")),
    };
    match given {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

/// A value as it is kept; `None` if it is nothing.
///
/// # Errors
/// `invalidValue`, naming the attribute.
pub fn value(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    if attribute.many { several(attribute, given) } else { single(attribute, given) }
}

fn several(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    let items = match given {
        Value::Array(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    if items.len() > MOST_VALUES {
        return Err(too_many(attribute));
    }
    let kept = items.iter().filter_map(|item| element(attribute, item).transpose()).collect::<Result<_, _>>()?;
    let kept = once_each(kept);
    if kept.iter().filter(|item| is_primary(item)).count() > 1 {
        return Err(Error::invalid_value(format!("only one of {} may be primary", attribute.name)));
    }
    Ok((!kept.is_empty()).then_some(Value::Array(kept)))
}

/// That an attribute has, or would have, more than [`MOST_VALUES`]. `tooMany` would be about a filter (RFC 7644 section 3.12), and 413
/// about the request as a whole.
#[must_use]
pub fn too_many(attribute: &Attribute) -> Error {
    Error::invalid_value(format!("{} must not have more than {MOST_VALUES} values", attribute.name))
}

/// One value of a multi-valued attribute.
///
/// # Errors
/// `invalidValue`, naming the attribute.
pub fn element(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    if attribute.is_complex() { complex(attribute, given) } else { simple(attribute, given) }
}

/// Whether it is the preferred one.
#[must_use]
pub fn is_primary(element: &Value) -> bool {
    element.get("primary") == Some(&Value::Bool(true))
}

fn single(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    let given = match given {
        Value::Array(items) if items.is_empty() => return Ok(None),
        Value::Array(items) if items.len() == 1 => &items[0],
        other => other,
    };
    if attribute.is_complex() { complex(attribute, given) } else { simple(attribute, given) }
}

fn complex(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    match (given, attribute.sub("value")) {
        (Value::Null, _) => Ok(None),
        (Value::String(text), Some(sub)) => {
            Ok(simple(sub, &Value::from(text.as_str()))?.map(|value| serde_json::json!({ "value": value })))
        }
        _ => object(attribute.sub, attribute.name, given),
    }
}

fn object(attributes: &'static [Attribute], name: &str, given: &Value) -> Result<Option<Value>, Error> {
    let given = match given {
        Value::Null => return Ok(None),
        Value::Object(given) => given,
        _ => return Err(Error::invalid_value(format!("{name} must be an object"))),
    };
    let mut kept = Map::new();
    let mut seen = BTreeMap::new();
    for (key, given) in given {
        once(&mut seen, key, given)?;
        let known = attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(key));
        if let Some(attribute) = known.filter(|attribute| !attribute.is_read_only())
            && let Some(value) = value(attribute, given)?
        {
            kept.insert(attribute.name.to_owned(), value);
        }
    }
    Ok((!kept.is_empty()).then_some(Value::Object(kept)))
}

fn simple(attribute: &Attribute, given: &Value) -> Result<Option<Value>, Error> {
    let name = attribute.name;
    match (attribute.kind, given) {
        (_, Value::Null) => Ok(None),
        (Type::Boolean, Value::Bool(_)) => Ok(Some(given.clone())),
        (Type::Boolean, Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true.into())),
            "false" => Ok(Some(false.into())),
            "" => Ok(None),
            _ => Err(Error::invalid_value(format!("{name} must be true or false"))),
        },
        (Type::Boolean, _) => Err(Error::invalid_value(format!("{name} must be true or false"))),
        (Type::Text | Type::Reference | Type::Binary | Type::DateTime, Value::String(text)) => {
            Ok((!text.is_empty()).then(|| given.clone()))
        }
        _ => Err(Error::invalid_value(format!("{name} must be a text"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scim::schema::{ENTERPRISE, USER};

    fn user(mut body: Value) -> Result<Document, Error> {
        body["schemas"] = json!([USER.urn]);
        read(Kind::User, &body).map(|incoming| incoming.document)
    }

    #[test]
    fn entra_id_sends_nulls_unknown_keys_and_a_misspelled_schema() {
        let body = json!({
            "schemas": [USER.urn, "urn:ietf:params:scim:schemas:extension:enterprise:2.0User"],
            "externalId": "jyoung", "userName": "jy@example.com", "active": true, "addresses": null, "phoneNumbers": null,
            "title": null, "department": "bob", "manager": "x", "roles": [],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0User": { "department": "lost" },
            "emails": [{ "type": "work", "value": "jy@example.com", "primary": true }],
            "meta": { "resourceType": "User" }, "id": "mine", "password": "secret",
        });
        let expected = json!({
            "externalId": "jyoung", "userName": "jy@example.com", "active": true,
            "emails": [{ "type": "work", "value": "jy@example.com", "primary": true }],
        });
        assert_eq!(Value::Object(read(Kind::User, &body).unwrap().document), expected);
    }

    #[test]
    fn names_become_canonical_and_values_get_their_type() {
        let document = user(json!({
            "USERNAME": "ann", "Active": "False", "emails": { "VALUE": "a@x", "primary": "true" }, "roles": ["x", "x"],
            "name": { "GIVENNAME": "Ann", "shoe": 3 }, "nickName": "",
            ENTERPRISE.urn.to_uppercase(): { "manager": "m1", "employeeNumber": ["7"] },
        }))
        .unwrap();
        let expected = json!({
            "userName": "ann", "active": false, "emails": [{ "value": "a@x", "primary": true }], "roles": [{ "value": "x" }],
            "name": { "givenName": "Ann" }, ENTERPRISE.urn: { "manager": { "value": "m1" }, "employeeNumber": "7" },
        });
        assert_eq!(Value::Object(document), expected);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (wrong, detail) in [
            (json!({ "userName": 7 }), "userName must be a text"),
            (json!({ "active": "maybe" }), "active must be true or false"),
            (json!({ "name": "Ann" }), "name must be an object"),
            (
                json!({ "emails": [{ "primary": true, "value": "a" }, { "primary": true }] }),
                "only one of emails may be primary",
            ),
            (json!({ "title": "a", "TITLE": "b" }), "title is given twice with different values"),
        ] {
            assert_eq!(user(wrong).unwrap_err().detail, detail);
        }
        for wrong in [json!(null), json!([]), json!({}), json!({ "schemas": "x" }), json!({ "schemas": ["x"] })] {
            assert_eq!(read(Kind::User, &wrong).unwrap_err().kind, Some("invalidSyntax"));
        }
    }

    #[test]
    fn members_come_in_several_forms() {
        assert_eq!(members(&json!([{ "value": "a" }, "b", { "Value": "c", "$ref": null }])).unwrap(), ["a", "b", "c"]);
        assert_eq!(members(&json!({ "value": "a" })).unwrap(), ["a"]);
        assert_eq!(members(&json!(null)).unwrap(), [""; 0]);
        assert!(members(&json!([{ "display": "a" }])).is_err());
        assert!(members(&json!([7])).is_err());
    }

    #[test]
    fn somebody_without_a_name_is_refused() {
        for wrong in [
            json!({}),
            json!({ "userName": "  " }),
            json!({ "userName": "a\u{0}" }),
            json!({ "userName": "a".repeat(LONGEST_NAME + 1) }),
        ] {
            assert!(check(Kind::User, wrong.as_object().unwrap()).is_err());
        }
        check(Kind::User, json!({ "userName": "ann" }).as_object().unwrap()).unwrap();
    }
}
