//! PATCH (RFC 7644 section 3.5.2): operations read and applied to a document, all of them or none. A group's members are kept as rows,
//! so what happens to them is handed on as [`MemberChange`]s.
//!
//! The forms of Entra ID, Okta and authentik are understood everywhere. None of them widens an effect: `remove` with a list of values
//! removes these values.

mod edit;

use serde_json::Value;

use super::evaluate::{Compiled, compile_inside};
use super::filter::{Filter, parse_path};
use super::schema::{Attribute, Named, Place, Schema, resolve};
use super::{Document, Error, Kind, document};

/// Most operations in one request: authentik sends one for each member.
pub const MOST_OPERATIONS: usize = 20_000;
/// Most operations that look for members by anything but their ids, each at all of them: no client sends several.
pub const MOST_LOOKS: usize = 10;

/// One operation as written.
#[derive(Clone, Debug)]
pub struct Operation {
    pub verb: Verb,
    pub path: Option<String>,
    /// `Null` if there is none.
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Replace,
    Remove,
}

/// What happens to a group's members, in order.
#[derive(Clone, Debug)]
pub enum MemberChange {
    Add(Vec<String>),
    Remove(Vec<String>),
    /// Those that a filter on anything but ids fits.
    RemoveWhere(Box<Compiled>),
    /// Nothing, where whoever the filter fits is this one already: an id is immutable. Refused where it fits nobody or somebody else.
    Keep(Box<Compiled>, String),
    Clear,
}

/// Reads the body of a PATCH.
///
/// # Errors
/// `invalidSyntax` where it is none.
pub fn parse(body: &Value) -> Result<Vec<Operation>, Error> {
    let operations = entry(body, "Operations").and_then(Value::as_array);
    let Some(operations) = operations.filter(|operations| !operations.is_empty()) else {
        return Err(Error::invalid_syntax("Operations must be a list with at least one operation"));
    };
    if operations.len() > MOST_OPERATIONS {
        return Err(Error::new(413, format!("more than {MOST_OPERATIONS} operations in one request")));
    }
    operations.iter().map(operation).collect()
}

fn operation(given: &Value) -> Result<Operation, Error> {
    let verb = match entry(given, "op").and_then(Value::as_str).map(str::to_ascii_lowercase).as_deref() {
        Some("add") => Verb::Add,
        Some("replace") => Verb::Replace,
        Some("remove") => Verb::Remove,
        _ => return Err(Error::invalid_syntax("op must be add, replace or remove")),
    };
    let path = match entry(given, "path") {
        None | Some(Value::Null) => None,
        Some(Value::String(path)) if path.trim().is_empty() => None,
        Some(Value::String(path)) => Some(path.clone()),
        Some(_) => return Err(Error::invalid_path("path must be a text")),
    };
    let value = entry(given, "value");
    if verb == Verb::Remove && path.is_none() {
        return Err(Error::no_target("remove needs a path"));
    }
    if verb != Verb::Remove && value.is_none() {
        return Err(Error::invalid_value("add and replace need a value"));
    }
    Ok(Operation { verb, path, value: value.cloned().unwrap_or(Value::Null) })
}

fn entry<'v>(given: &'v Value, name: &str) -> Option<&'v Value> {
    given.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Applies operations. On an error `document` is as it was.
///
/// # Errors
/// The first operation that cannot be done.
pub fn apply(kind: Kind, document: &mut Document, operations: &[Operation]) -> Result<Vec<MemberChange>, Error> {
    let mut work = Work { kind, document: document.clone(), members: Vec::new(), edits: 0, looks: 0 };
    for operation in operations {
        work.apply(operation)?;
    }
    for extension in kind.extensions() {
        if work.document.get(extension.urn).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            work.document.remove(extension.urn);
        }
    }
    document::check(kind, &work.document)?;
    *document = work.document;
    Ok(work.members)
}

struct Work {
    kind: Kind,
    document: Document,
    members: Vec<MemberChange>,
    /// Attributes touched so far: without a path one operation may touch as many as its value has names.
    edits: usize,
    /// See [`MOST_LOOKS`].
    looks: usize,
}

/// That nothing of a member changes.
#[must_use]
pub fn unchangeable() -> Error {
    Error::mutability("a member cannot be changed: remove it and add another")
}

/// What a path points at.
enum Target {
    Attribute {
        place: Place,
        filter: Option<Filter>,
        sub: Option<&'static Attribute>,
    },
    Extension(&'static Schema),
    Core,
    /// Known to others: there is nothing to do.
    Foreign,
}

fn target(kind: Kind, text: &str) -> Result<Target, Error> {
    let path = parse_path(text)?;
    Ok(match resolve(kind, &path.attribute) {
        Named::Foreign => Target::Foreign,
        Named::Core => Target::Core,
        Named::Extension(extension) => Target::Extension(extension),
        Named::Unknown => return Err(Error::invalid_path(format!("there is no attribute `{}`", path.attribute))),
        Named::Attribute(place) => {
            let mut sub = place.sub;
            if path.filter.is_some() && (!place.attribute.many || sub.is_some()) {
                return Err(Error::invalid_path(format!("`{}` cannot be followed by brackets", path.attribute)));
            }
            if let Some(name) = &path.sub {
                sub = place.attribute.sub(name);
                if sub.is_none() {
                    return Err(Error::invalid_path(format!("`{}` has no part `{name}`", place.attribute.name)));
                }
            }
            Target::Attribute { place, filter: path.filter, sub }
        }
    })
}

impl Work {
    fn apply(&mut self, operation: &Operation) -> Result<(), Error> {
        let (verb, value) = (operation.verb, &operation.value);
        let Some(path) = &operation.path else { return self.apply_all(verb, value) };
        match target(self.kind, path)? {
            Target::Foreign => Ok(()),
            Target::Core => self.apply_all(verb, value),
            Target::Extension(extension) => self.apply_extension(verb, extension, value),
            Target::Attribute { place, filter, sub } => {
                if place.attribute.is_read_only() || sub.is_some_and(Attribute::is_read_only) {
                    return Err(Error::mutability(format!("{} cannot be changed by clients", place.attribute.name)));
                }
                self.apply_at(verb, place, (filter.as_ref(), sub), value)
            }
        }
    }

    /// Without a path the value is an object of attributes, their names perhaps with dots, URNs or brackets in them. What is read-only
    /// or unknown is passed over: Okta sends the id along.
    fn apply_all(&mut self, verb: Verb, value: &Value) -> Result<(), Error> {
        if verb == Verb::Remove {
            return Err(Error::no_target("remove needs a path to an attribute"));
        }
        let Value::Object(attributes) = value else {
            return Err(Error::invalid_value("without a path the value must be an object of attributes"));
        };
        for (key, value) in attributes {
            match target(self.kind, key) {
                // What comes along with the rest of an object empties no group.
                Ok(Target::Attribute { place, .. }) if value.is_null() && document::is_members(self.kind, &place) => {}
                Ok(Target::Attribute { place, filter, sub })
                    if !place.attribute.is_read_only() && !sub.is_some_and(Attribute::is_read_only) =>
                {
                    self.apply_at(verb, place, (filter.as_ref(), sub), value)?;
                }
                Ok(Target::Extension(extension)) => self.apply_extension(verb, extension, value)?,
                Ok(Target::Core) if value.is_object() => self.apply_all(verb, value)?,
                Ok(Target::Attribute { .. } | Target::Foreign | Target::Core) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn apply_extension(&mut self, verb: Verb, extension: &'static Schema, value: &Value) -> Result<(), Error> {
        match (verb, value) {
            (Verb::Remove, _) | (_, Value::Null) => {
                self.document.remove(extension.urn);
                Ok(())
            }
            (_, Value::Object(attributes)) => {
                for (key, value) in attributes {
                    let found = extension.attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(key));
                    if let Some(attribute) = found {
                        let place = Place { extension: Some(extension), attribute, sub: None };
                        self.apply_at(verb, place, (None, None), value)?;
                    }
                }
                Ok(())
            }
            _ => Err(Error::invalid_value(format!("{} must be an object", extension.name))),
        }
    }

    fn apply_at(
        &mut self,
        verb: Verb,
        place: Place,
        (filter, sub): (Option<&Filter>, Option<&'static Attribute>),
        value: &Value,
    ) -> Result<(), Error> {
        self.edits += 1;
        if self.edits > MOST_OPERATIONS {
            return Err(Error::new(413, format!("more than {MOST_OPERATIONS} attributes to change in one request")));
        }
        if document::is_members(self.kind, &place) {
            return self.apply_members(verb, place.attribute, (filter, sub), value);
        }
        let holder = match place.extension {
            None => &mut self.document,
            Some(extension) => match self.document.entry(extension.urn).or_insert_with(|| Document::new().into()) {
                Value::Object(holder) => holder,
                _ => return Err(Error::new(500, "the stored resource is damaged")),
            },
        };
        edit::edit(holder, &edit::Edit { verb, attribute: place.attribute, filter, sub }, value)
    }

    fn apply_members(
        &mut self,
        verb: Verb,
        attribute: &'static Attribute,
        (filter, sub): (Option<&Filter>, Option<&'static Attribute>),
        value: &Value,
    ) -> Result<(), Error> {
        if sub.is_some_and(|sub| sub.name != "value") {
            return Err(unchangeable());
        }
        let Some(filter) = filter else {
            let ids = document::members(value)?;
            match verb {
                Verb::Add => self.members.push(MemberChange::Add(ids)),
                Verb::Replace => self.members.extend([MemberChange::Clear, MemberChange::Add(ids)]),
                // Only without any value are all of them meant: an empty list names nobody.
                Verb::Remove if value.is_null() => self.members.push(MemberChange::Clear),
                Verb::Remove => self.members.push(MemberChange::Remove(ids)),
            }
            return Ok(());
        };
        let compiled = compile_inside(attribute, filter).map_err(|error| Error::invalid_path(error.detail))?;
        let ids = compiled.only_values();
        self.looks += usize::from(ids.is_none());
        if self.looks > MOST_LOOKS {
            let most = format!("more than {MOST_LOOKS} operations that look for members by anything but their ids");
            return Err(Error::new(413, most));
        }
        self.members.push(match (verb, ids) {
            (Verb::Remove, _) if sub.is_some() => return Err(unchangeable()),
            (Verb::Remove, Some(ids)) => MemberChange::Remove(ids),
            (Verb::Remove, None) => MemberChange::RemoveWhere(Box::new(compiled)),
            (Verb::Add | Verb::Replace, _) => match <[String; 1]>::try_from(document::members(value)?) {
                Ok([id]) => MemberChange::Keep(Box::new(compiled), id),
                Err(_) => return Err(Error::invalid_value("in place of a member one member must be named, by its id")),
            },
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
