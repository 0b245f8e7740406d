//! What a filter means: which resources fit it (RFC 7644 section 3.4.2.2). The one semantics; what the database does with a filter
//! only narrows what is looked at ([`Compiled::key`]).

use chrono::DateTime;
use serde_json::Value;

use super::filter::{Filter, Literal, Op, Test};
use super::schema::{Attribute, Named, Place, Type, resolve};
use super::{Document, Error, Kind, fold};

/// A filter whose names are known to be attributes of one kind of resource.
#[derive(Clone, Debug)]
pub struct Compiled(Node);

#[derive(Clone, Debug)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Check(Check),
    Element { place: Place, inside: Box<Self>, then: Option<Check> },
}

#[derive(Clone, Debug)]
struct Check {
    at: At,
    op: Op,
    operand: Operand,
}

/// What a comparison looks at.
#[derive(Clone, Copy, Debug)]
enum At {
    Resource(Place),
    /// Within brackets.
    Element(&'static Attribute),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// Folded where the attribute is not case-exact.
    Text(String),
    Bool(bool),
    /// Milliseconds since the epoch.
    Instant(i64),
    Null,
}

/// Something every fitting resource has, and the database can find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Id(String),
    /// Folded.
    UserName(String),
    ExternalId(String),
    /// Folded.
    DisplayName(String),
    /// Has this mail address, folded.
    Address(String),
    /// Has this member.
    Member(String),
}

/// What of a group's members a filter has to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Whether these ids are among them.
    These(Vec<String>),
    All,
}

/// Gives the names of a filter their meaning.
///
/// # Errors
/// `invalidFilter` for an attribute that does not exist, or an operator that does not fit it: never "everything".
pub fn compile(kind: Kind, filter: &Filter) -> Result<Compiled, Error> {
    node(filter, &|path| match resolve(kind, path) {
        Named::Attribute(place) => Some(At::Resource(place)),
        Named::Extension(_) | Named::Core | Named::Foreign | Named::Unknown => None,
    })
    .map(Compiled)
}

/// The same for what stands in the brackets behind `attribute`.
///
/// # Errors
/// `invalidFilter`.
pub fn compile_inside(attribute: &'static Attribute, filter: &Filter) -> Result<Compiled, Error> {
    node(filter, &|path| attribute.sub(path).map(At::Element)).map(Compiled)
}

fn node(filter: &Filter, find: &dyn Fn(&str) -> Option<At>) -> Result<Node, Error> {
    let nodes = |parts: &[Filter]| parts.iter().map(|part| node(part, find)).collect::<Result<Vec<_>, _>>();
    Ok(match filter {
        Filter::And(parts) => Node::And(nodes(parts)?),
        Filter::Or(parts) => Node::Or(nodes(parts)?),
        Filter::Not(part) => Node::Not(Box::new(node(part, find)?)),
        Filter::Test(test) => Node::Check(check(test, find(&test.path))?),
        Filter::Element { path, inside, then } => {
            let place = match find(path) {
                Some(At::Resource(place)) if place.sub.is_none() && place.attribute.is_complex() => place,
                _ => return Err(Error::invalid_filter(format!("`{path}` cannot be followed by brackets"))),
            };
            let sub = |name: &str| place.attribute.sub(name).map(At::Element);
            let inside = Box::new(node(inside, &sub)?);
            let then = then.as_ref().map(|test| check(test, sub(&test.path))).transpose()?;
            Node::Element { place, inside, then }
        }
    })
}

fn check(test: &Test, at: Option<At>) -> Result<Check, Error> {
    let Some(at) = at else {
        return Err(Error::invalid_filter(format!("`{}` is not an attribute one can filter by", test.path)));
    };
    let refuse = |why: &str| Err(Error::invalid_filter(format!("`{}` {why}", test.path)));
    if test.op == Op::Pr {
        return Ok(Check { at, op: test.op, operand: Operand::Null });
    }
    let Some(leaf) = leaf(at) else { return refuse("has parts: name one of them") };
    let written = match &test.value {
        Literal::Null => {
            return match test.op {
                Op::Eq | Op::Ne => Ok(Check { at, op: test.op, operand: Operand::Null }),
                _ => refuse("can be compared with null by eq and ne only"),
            };
        }
        Literal::Text(word) | Literal::Bare(word) => word.clone(),
        Literal::Bool(value) => value.to_string(),
    };
    let ordered = matches!(test.op, Op::Gt | Op::Ge | Op::Lt | Op::Le);
    let parts = matches!(test.op, Op::Co | Op::Sw | Op::Ew);
    let operand = match leaf.kind {
        Type::Boolean if ordered || parts => return refuse("is true or false: use eq or ne"),
        Type::Boolean => match written.to_ascii_lowercase().as_str() {
            "true" => Operand::Bool(true),
            "false" => Operand::Bool(false),
            _ => return refuse("is true or false"),
        },
        Type::Binary if ordered => return refuse("has no order"),
        Type::DateTime if !parts => match instant(&written) {
            Some(at) => Operand::Instant(at),
            None => return refuse("must be compared with a time such as 2027-03-31T12:00:00Z"),
        },
        Type::Complex => return refuse("has parts: name one of them"),
        Type::Text | Type::Reference | Type::Binary | Type::DateTime => Operand::Text(folded(leaf, &written)),
    };
    Ok(Check { at, op: test.op, operand })
}

/// The attribute whose values are compared: a multi-valued one stands for its `value`.
fn leaf(at: At) -> Option<&'static Attribute> {
    let attribute = match at {
        At::Resource(place) => place.leaf(),
        At::Element(attribute) => attribute,
    };
    if attribute.is_complex() { attribute.sub("value") } else { Some(attribute) }
}

fn folded(attribute: &Attribute, text: &str) -> String {
    if attribute.case_exact { text.to_owned() } else { fold(text) }
}

fn instant(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text.trim()).ok().map(|time| time.timestamp_millis())
}

impl Compiled {
    /// Whether a resource fits. It is given as clients see it; what [`Compiled::members`] does not ask for may be missing.
    #[must_use]
    pub fn fits(&self, resource: &Document) -> bool {
        fits(&self.0, &Context::Resource(resource))
    }

    /// Whether one element fits, for a filter from brackets.
    #[must_use]
    pub fn fits_element(&self, element: &Value) -> bool {
        fits(&self.0, &Context::Element(element))
    }

    /// Something by which the database finds every resource that fits.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let mut best = None;
        for node in conjuncts(&self.0) {
            let found = key_of(node);
            // Members are the last resort: whatever else is known names one resource or a few.
            if matches!(found, Some(Key::Member(_))) {
                best = best.or(found);
            } else if found.is_some() {
                return found;
            }
        }
        best
    }

    /// What of `members` must be there to decide; `None`: nothing.
    #[must_use]
    pub fn members(&self) -> Option<Members> {
        let mut needed = None;
        walk(&self.0, &mut |node| {
            let one = match node {
                Node::Check(check) if is_members(check.at) => match (check.op, &check.operand) {
                    (Op::Eq | Op::Ne, Operand::Text(id)) if leaf(check.at).is_some_and(|leaf| leaf.name == "value") => {
                        Some(Members::These(vec![id.clone()]))
                    }
                    _ => Some(Members::All),
                },
                Node::Element { place, inside, then: None } if place.is_core("members") => match &**inside {
                    Node::Check(check) => Some(value_of(check).map_or(Members::All, |id| Members::These(vec![id]))),
                    _ => Some(Members::All),
                },
                Node::Element { place, .. } if place.is_core("members") => Some(Members::All),
                _ => None,
            };
            needed = match (needed.take(), one) {
                (None, one) | (one, None) => one,
                (Some(Members::These(mut ids)), Some(Members::These(more))) => {
                    ids.extend(more);
                    Some(Members::These(ids))
                }
                _ => Some(Members::All),
            };
        });
        needed
    }

    /// Whether a user's groups must be there to decide.
    #[must_use]
    pub fn asks_for_groups(&self) -> bool {
        let mut asks = false;
        walk(&self.0, &mut |node| {
            asks |= match node {
                Node::Check(Check { at: At::Resource(place), .. }) | Node::Element { place, .. } => {
                    place.is_core("groups")
                }
                _ => false,
            };
        });
        asks
    }

    /// The ids, where the filter is about nothing but an element's `value`.
    #[must_use]
    pub fn only_values(&self) -> Option<Vec<String>> {
        let parts = match &self.0 {
            Node::Or(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        let value = |node: &Node| if let Node::Check(check) = node { value_of(check) } else { None };
        parts.iter().map(value).collect()
    }
}

fn is_members(at: At) -> bool {
    matches!(at, At::Resource(place) if place.is_core("members"))
}

fn conjuncts(node: &Node) -> &[Node] {
    match node {
        Node::And(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

fn key_of(node: &Node) -> Option<Key> {
    match node {
        Node::Check(Check { at: At::Resource(place), op: Op::Eq, operand: Operand::Text(text) }) => {
            let text = text.clone();
            match (place.extension, place.attribute.name, place.sub.map(|sub| sub.name)) {
                (None, "id", None) => Some(Key::Id(text)),
                (None, "userName", None) => Some(Key::UserName(text)),
                (None, "externalId", None) => Some(Key::ExternalId(text)),
                (None, "displayName", None) => Some(Key::DisplayName(text)),
                (None, "members", None | Some("value")) => Some(Key::Member(text)),
                (None, "emails", None | Some("value")) => Some(Key::Address(text)),
                _ => None,
            }
        }
        Node::Element { place, inside, then } if place.is_core("members") || place.is_core("emails") => {
            let text = then.as_ref().and_then(value_of).or_else(|| conjuncts(inside).iter().find_map(value_in))?;
            Some(if place.is_core("members") { Key::Member(text) } else { Key::Address(text) })
        }
        // A conjunction in a conjunction: parentheses.
        Node::And(parts) => parts.iter().find_map(key_of),
        _ => None,
    }
}

/// What an element's `value` must be to fit.
fn value_of(check: &Check) -> Option<String> {
    match check {
        Check { at: At::Element(sub), op: Op::Eq, operand: Operand::Text(text) } if sub.name == "value" => {
            Some(text.clone())
        }
        _ => None,
    }
}

fn value_in(node: &Node) -> Option<String> {
    match node {
        Node::Check(check) => value_of(check),
        Node::And(parts) => parts.iter().find_map(value_in),
        _ => None,
    }
}

fn walk<'n>(node: &'n Node, see: &mut dyn FnMut(&'n Node)) {
    see(node);
    match node {
        Node::And(parts) | Node::Or(parts) => parts.iter().for_each(|part| walk(part, see)),
        Node::Not(part) => walk(part, see),
        Node::Check(_) | Node::Element { .. } => {}
    }
}

enum Context<'r> {
    Resource(&'r Document),
    Element(&'r Value),
}

fn fits(node: &Node, context: &Context<'_>) -> bool {
    match node {
        Node::And(parts) => parts.iter().all(|part| fits(part, context)),
        Node::Or(parts) => parts.iter().any(|part| fits(part, context)),
        Node::Not(part) => !fits(part, context),
        Node::Check(check) => check.holds(context),
        Node::Element { place, inside, then } => {
            let Context::Resource(resource) = context else { return false };
            let fitting = |element: &&Value| {
                let context = Context::Element(element);
                fits(inside, &context) && then.as_ref().is_none_or(|check| check.holds(&context))
            };
            found(resource, *place).into_iter().any(|element| fitting(&element))
        }
    }
}

/// The values of an attribute (not of its parts): none, one or several.
fn found(resource: &Document, place: Place) -> Vec<&Value> {
    let holder = match place.extension {
        Some(extension) => resource.get(extension.urn).and_then(Value::as_object),
        None => Some(resource),
    };
    match holder.and_then(|holder| holder.get(place.attribute.name)) {
        None => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(one) => vec![one],
    }
}

/// The simple values at a place: what is compared and sorted by.
#[must_use]
pub fn values(resource: &Document, place: Place) -> Vec<&Value> {
    let sub = match place.sub {
        Some(sub) => Some(sub.name),
        None => place.attribute.is_complex().then_some("value"),
    };
    let found = found(resource, place).into_iter();
    match sub {
        None => found.collect(),
        Some(sub) => found.filter_map(|value| value.get(sub)).collect(),
    }
}

impl Check {
    fn holds(&self, context: &Context<'_>) -> bool {
        let values: Vec<&Value> = match (context, self.at) {
            // Something is there, whichever part of it.
            (Context::Resource(resource), At::Resource(place)) if self.op == Op::Pr && place.sub.is_none() => {
                found(resource, place)
            }
            (Context::Resource(resource), At::Resource(place)) => values(resource, place),
            (Context::Element(element), At::Element(sub)) => element.get(sub.name).into_iter().collect(),
            (Context::Resource(_), At::Element(_)) | (Context::Element(_), At::Resource(_)) => Vec::new(),
        };
        let present = values.iter().any(|value| !is_empty(value));
        match (self.op, &self.operand) {
            (Op::Pr, _) | (Op::Ne, Operand::Null) => present,
            (Op::Eq, Operand::Null) => !present,
            (Op::Ne, _) => !values.iter().any(|value| self.compares(Op::Eq, value)),
            (op, _) => values.iter().any(|value| self.compares(op, value)),
        }
    }

    fn compares(&self, op: Op, value: &Value) -> bool {
        match (&self.operand, value) {
            (Operand::Bool(wanted), Value::Bool(value)) => op == Op::Eq && wanted == value,
            (Operand::Instant(wanted), Value::String(text)) => {
                instant(text).is_some_and(|value| ordered(op, &value, wanted))
            }
            (Operand::Text(wanted), Value::String(text)) => {
                let exact = leaf(self.at).is_none_or(|leaf| leaf.case_exact);
                match op {
                    // Without a copy where there need be none: very many values are asked this.
                    Op::Eq if exact => text == wanted,
                    Op::Eq if text.is_ascii() => text.eq_ignore_ascii_case(wanted),
                    op => {
                        let text = if exact { text.clone() } else { fold(text) };
                        match op {
                            Op::Co => text.contains(wanted.as_str()),
                            Op::Sw => text.starts_with(wanted.as_str()),
                            Op::Ew => text.ends_with(wanted.as_str()),
                            op => ordered(op, &text, wanted),
                        }
                    }
                }
            }
            _ => false,
        }
    }
}

fn ordered<T: Ord>(op: Op, value: &T, wanted: &T) -> bool {
    match op {
        Op::Eq => value == wanted,
        Op::Gt => value > wanted,
        Op::Ge => value >= wanted,
        Op::Lt => value < wanted,
        Op::Le => value <= wanted,
        Op::Ne | Op::Co | Op::Sw | Op::Ew | Op::Pr => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scim::filter::parse;

    fn compiled(text: &str) -> Compiled {
        compile(Kind::User, &parse(text).unwrap()).unwrap()
    }

    fn ann() -> Document {
        let ann = json!({
            "id": "Id-1", "userName": "Ann", "externalId": "E1", "active": true, "displayName": "Ann Ä",
            "name": { "familyName": "Ärmel" },
            "emails": [{ "value": "Ann@x", "type": "work", "primary": true }, { "value": "home@x", "type": "home" }],
            "meta": { "lastModified": "2027-01-01T10:00:00Z", "resourceType": "User" },
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "R&D", "manager": { "value": "m1" } },
        });
        ann.as_object().unwrap().clone()
    }

    #[test]
    fn comparisons_follow_the_schema() {
        let ann = ann();
        for (filter, fits) in [
            (r#"userName eq "aNN""#, true),
            (r#"externalId eq "e1""#, false),
            ("externalId eq E1", true),
            (r#"id eq "id-1""#, false),
            (r#"displayName ew "ä""#, true),
            (r#"name.familyName sw "är""#, true),
            (r#"emails.value eq "ANN@x""#, true),
            (r#"emails eq "ann@x""#, true),
            (r#"emails co "@x" and not (emails.type eq "other")"#, true),
            (r#"emails[type eq "work" and value eq "home@x"]"#, false),
            (r#"emails[type eq "home"].value eq "HOME@x""#, true),
            (r#"emails[type eq "home"].value eq "ann@x""#, false),
            ("active eq true", true),
            (r#"active eq "True""#, true),
            ("active ne true", false),
            ("title pr", false),
            ("name pr and emails pr and userName pr", true),
            ("title eq null", true),
            ("title ne null", false),
            (r#"title ne "x""#, true),
            (r#"meta.lastModified gt "2027-01-01T11:00:00+02:00""#, true),
            (r#"meta.lastModified lt "2027-01-01T10:00:00.000Z""#, false),
            (r#"meta.lastModified eq "2027-01-01T12:00:00+02:00""#, true),
            (r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "r&d""#, true),
            (r#"manager eq "m1" and id eq "Id-1""#, true),
            (r#"urn:ietf:params:scim:schemas:core:2.0:User:userName ge "ann""#, true),
            (r#"costCenter eq "x""#, false),
        ] {
            assert_eq!(compiled(filter).fits(&ann), fits, "{filter}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused_and_never_means_everybody() {
        for wrong in [
            r#"shoeSize eq "40""#,
            r#"members eq "x""#,
            r#"name eq "x""#,
            r#"addresses eq "x""#,
            "active gt true",
            r#"active eq "maybe""#,
            r#"meta.created gt "yesterday""#,
            r#"userName[type eq "x"]"#,
            r#"emails[shoe eq "x"]"#,
            r#"emails[type eq "x"].shoe eq "y""#,
            "title gt null",
            "password pr",
            r#"x509Certificates.value gt "a""#,
            r#"urn:example:User:a eq "b""#,
        ] {
            let error = compile(Kind::User, &parse(wrong).unwrap()).unwrap_err();
            assert_eq!(error.kind, Some("invalidFilter"), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_what_every_fitting_resource_has() {
        let group = |text: &str| compile(Kind::Group, &parse(text).unwrap()).unwrap();
        assert_eq!(compiled(r#"userName eq "Ann" and active eq true"#).key(), Some(Key::UserName("ann".to_owned())));
        assert_eq!(compiled(r#"userName eq "Ann" or active eq true"#).key(), None);
        assert_eq!(compiled(r#"not (userName eq "Ann")"#).key(), None);
        assert_eq!(compiled(r#"userName sw "Ann""#).key(), None);
        for by_address in [
            r#"emails.value eq "Ann@X""#,
            r#"emails eq "Ann@X""#,
            r#"emails[type eq "work"].value eq "Ann@X""#,
            r#"emails[type eq "work" and (value eq "Ann@X" and primary eq true)]"#,
            r#"active eq true and emails.value eq "Ann@X""#,
        ] {
            assert_eq!(compiled(by_address).key(), Some(Key::Address("ann@x".to_owned())), "{by_address}");
        }
        for not in [
            r#"emails[type eq "Ann@X"]"#,
            r#"emails[value eq "Ann@X" or type eq "work"]"#,
            r#"emails[not (value eq "Ann@X")]"#,
            r#"emails[type eq "work"].value sw "Ann@X""#,
            r#"emails.value ne "Ann@X""#,
            r#"phoneNumbers.value eq "1""#,
        ] {
            assert_eq!(compiled(not).key(), None, "{not}");
        }
        let both = group(r#"members eq "m" and id eq "g""#);
        assert_eq!(both.key(), Some(Key::Id("g".to_owned())));
        assert_eq!(both.members(), Some(Members::These(vec!["m".to_owned()])));
        assert_eq!(group(r#"members[value eq "m"]"#).key(), Some(Key::Member("m".to_owned())));
        assert_eq!(group("members pr").members(), Some(Members::All));
        assert_eq!(group(r#"displayName eq "x""#).members(), None);
        assert!(compiled(r#"groups.value eq "g""#).asks_for_groups());
    }
}
