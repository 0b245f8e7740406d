//! Which attributes an answer has (RFC 7644 section 3.9): `attributes` and `excludedAttributes`. `id` and `schemas` are always there.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::schema::{Named, Place, Returned, resolve};
use super::{Document, Kind};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    only: Option<Vec<Chosen>>,
    except: Vec<Chosen>,
}

/// One name of the list.
#[derive(Clone, Debug)]
enum Chosen {
    Attribute(Place),
    /// A whole extension, by its URN.
    Extension(&'static str),
    Core,
}

impl Chosen {
    /// Schema, attribute and part, each where one is named.
    fn names(&self) -> [Option<&'static str>; 3] {
        match self {
            Self::Attribute(place) => {
                let urn = place.extension.map(|extension| extension.urn);
                [urn, Some(place.attribute.name), place.sub.map(|sub| sub.name)]
            }
            Self::Extension(urn) => [Some(urn), None, None],
            Self::Core => [None; 3],
        }
    }
}

impl Projection {
    /// Reads the two lists, each with commas in between. Names that mean nothing choose nothing, and what is named again is not chosen
    /// again: every attribute of every resource is looked for among what is chosen.
    #[must_use]
    pub fn new(kind: Kind, attributes: Option<&str>, excluded: Option<&str>) -> Self {
        let chosen = |list: &str| -> Vec<Chosen> {
            let mut seen = BTreeSet::new();
            let chosen = list.split(',').filter_map(|name| choose(kind, name.trim()));
            chosen.filter(|chosen| seen.insert(chosen.names())).collect()
        };
        let given = |list: &&str| !list.trim().is_empty();
        Self {
            only: attributes.filter(given).map(chosen),
            except: excluded.filter(given).map(chosen).unwrap_or_default(),
        }
    }

    /// Whether anything was asked for.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// Whether the core attribute `name`, or a part of it, is in the answer: what is not need not be read.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let names = |chosen: &Chosen| match chosen {
            Chosen::Attribute(place) => place.is_core(name),
            Chosen::Core => true,
            Chosen::Extension(_) => false,
        };
        let whole = |chosen: &Chosen| match chosen {
            Chosen::Attribute(place) => place.is_core(name) && place.sub.is_none(),
            Chosen::Core => true,
            Chosen::Extension(_) => false,
        };
        self.only.as_ref().is_none_or(|only| only.iter().any(names)) && !self.except.iter().any(whole)
    }

    /// Leaves out of `resource` what was not asked for.
    pub fn apply(&self, resource: &mut Document) {
        if let Some(only) = &self.only {
            let whole = std::mem::take(resource);
            *resource = kept(whole, only);
        }
        for chosen in &self.except {
            leave_out(resource, chosen);
        }
    }
}

fn choose(kind: Kind, name: &str) -> Option<Chosen> {
    match resolve(kind, name) {
        Named::Attribute(place) => Some(Chosen::Attribute(place)),
        Named::Extension(extension) => Some(Chosen::Extension(extension.urn)),
        Named::Core => Some(Chosen::Core),
        Named::Foreign | Named::Unknown => None,
    }
}

fn is_always(name: &str) -> bool {
    super::schema::COMMON.iter().any(|common| common.name == name && common.returned == Returned::Always)
}

fn kept(whole: Document, only: &[Chosen]) -> Document {
    let mut kept = Map::new();
    for (name, value) in whole {
        let is_extension = name.starts_with("urn:");
        if is_always(&name)
            || only.iter().any(|chosen| match chosen {
                Chosen::Extension(urn) => *urn == name,
                Chosen::Core => !is_extension,
                Chosen::Attribute(place) => place.sub.is_none() && place.is_core(&name),
            })
        {
            kept.insert(name, value);
        } else if is_extension {
            let places: Vec<Place> = of(only, |place| place.extension.is_some_and(|extension| extension.urn == name));
            if let Value::Object(inner) = value {
                let inner =
                    inner.into_iter().filter_map(|(name, value)| Some((name.clone(), part(&places, &name, value)?)));
                let inner: Map<_, _> = inner.collect();
                if !inner.is_empty() {
                    kept.insert(name, Value::Object(inner));
                }
            }
        } else if let Some(value) = part(&of(only, |place| place.extension.is_none()), &name, value) {
            kept.insert(name, value);
        }
    }
    kept
}

fn of(only: &[Chosen], fits: impl Fn(&Place) -> bool) -> Vec<Place> {
    let place = |chosen: &Chosen| match chosen {
        Chosen::Attribute(place) => Some(*place).filter(|place| fits(place)),
        Chosen::Extension(_) | Chosen::Core => None,
    };
    only.iter().filter_map(place).collect()
}

/// What of an attribute's value the places choose.
fn part(places: &[Place], name: &str, value: Value) -> Option<Value> {
    let mut subs = Vec::new();
    for place in places.iter().filter(|place| place.attribute.name == name) {
        match place.sub {
            None => return Some(value),
            Some(sub) => subs.push(sub.name),
        }
    }
    if subs.is_empty() {
        return None;
    }
    let narrowed = |value: Value| match value {
        Value::Object(map) => {
            let map: Map<_, _> = map.into_iter().filter(|(name, _)| subs.contains(&name.as_str())).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        _ => None,
    };
    match value {
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(narrowed).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        one => narrowed(one),
    }
}

fn leave_out(resource: &mut Document, chosen: &Chosen) {
    let place = match chosen {
        Chosen::Extension(urn) => {
            resource.remove(*urn);
            return;
        }
        Chosen::Core => {
            resource.retain(|name, _| is_always(name) || name.starts_with("urn:"));
            return;
        }
        Chosen::Attribute(place) => place,
    };
    let holder = match place.extension {
        None => resource,
        Some(extension) => match resource.get_mut(extension.urn).and_then(Value::as_object_mut) {
            Some(holder) => holder,
            None => return,
        },
    };
    let name = place.attribute.name;
    if place.extension.is_none() && is_always(name) {
        return;
    }
    match (place.sub, holder.get_mut(name)) {
        (None, _) => {
            holder.remove(name);
        }
        (Some(sub), Some(Value::Array(items))) => {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove(sub.name);
            }
        }
        (Some(sub), Some(Value::Object(map))) => {
            map.remove(sub.name);
        }
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scim::schema::ENTERPRISE;

    fn projected(attributes: Option<&str>, excluded: Option<&str>) -> Value {
        let mut ann = json!({
            "schemas": ["s"], "id": "1", "userName": "ann", "name": { "givenName": "Ann", "familyName": "A" },
            "emails": [{ "value": "a@x", "type": "work" }], ENTERPRISE.urn: { "department": "d", "division": "v" },
            "meta": { "version": "1" },
        });
        Projection::new(Kind::User, attributes, excluded).apply(ann.as_object_mut().unwrap());
        ann
    }

    #[test]
    fn what_is_asked_for_comes_with_id_and_schemas() {
        assert_eq!(projected(Some("USERNAME, shoe"), None), json!({ "schemas": ["s"], "id": "1", "userName": "ann" }));
        assert_eq!(
            projected(Some("name.givenName,emails.type,department"), None),
            json!({
                "schemas": ["s"], "id": "1", "name": { "givenName": "Ann" }, "emails": [{ "type": "work" }],
                ENTERPRISE.urn: { "department": "d" },
            })
        );
        assert_eq!(projected(Some("shoe"), None), json!({ "schemas": ["s"], "id": "1" }));
        assert_eq!(
            projected(Some(ENTERPRISE.urn), None),
            json!({ "schemas": ["s"], "id": "1", ENTERPRISE.urn: { "department": "d", "division": "v" } })
        );
    }

    #[test]
    fn what_is_excluded_takes_nothing_else_with_it() {
        assert_eq!(
            projected(None, Some("id,schemas,emails,meta,name.familyName,department")),
            json!({
                "schemas": ["s"], "id": "1", "userName": "ann", "name": { "givenName": "Ann" },
                ENTERPRISE.urn: { "division": "v" },
            })
        );
        let core = format!("{},shoe", Kind::User.schema().urn);
        assert_eq!(
            projected(None, Some(&core)),
            json!({ "schemas": ["s"], "id": "1", ENTERPRISE.urn: { "department": "d", "division": "v" } })
        );
    }

    #[test]
    fn what_is_named_again_is_chosen_once() {
        let many = "emails,EMAILS.type,urn:ietf:params:scim:schemas:core:2.0:User:emails,department,".repeat(50_000);
        let projection = Projection::new(Kind::User, Some(&many), Some(&many));
        assert_eq!((projection.only.map(|only| only.len()), projection.except.len()), (Some(3), 3));
    }

    #[test]
    fn members_that_are_not_asked_for_need_not_be_read() {
        let wants = |attributes, excluded| Projection::new(Kind::Group, attributes, excluded).wants("members");
        assert!(wants(None, None));
        assert!(wants(Some("members.value"), None));
        assert!(!wants(Some("displayName"), None));
        assert!(!wants(None, Some("members")));
        assert!(wants(None, Some("members.type")));
    }
}
