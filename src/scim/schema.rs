//! What attributes there are (RFC 7643) and what a name in a path, filter or body means. Every attribute listed here is kept as the
//! client gave it; what is not listed is ignored where a client sends it.

mod catalog;

pub use catalog::{COMMON, ENTERPRISE, GROUP, USER};

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    User,
    Group,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::User, Self::Group];

    /// `User`, as `meta.resourceType` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
        }
    }

    /// `Users`, as the path has it.
    #[must_use]
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::User => "Users",
            Self::Group => "Groups",
        }
    }

    #[must_use]
    pub fn schema(self) -> &'static Schema {
        match self {
            Self::User => &USER,
            Self::Group => &GROUP,
        }
    }

    #[must_use]
    pub fn extensions(self) -> &'static [&'static Schema] {
        match self {
            Self::User => catalog::OF_USERS,
            Self::Group => &[],
        }
    }

    /// The attribute that must have a value.
    #[must_use]
    pub fn required(self) -> &'static str {
        match self {
            Self::User => "userName",
            Self::Group => "displayName",
        }
    }
}

/// A schema with its attributes.
#[derive(Debug)]
pub struct Schema {
    pub urn: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub attributes: &'static [Attribute],
}

/// What an attribute holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Boolean,
    DateTime,
    Reference,
    Binary,
    Complex,
}

/// Who may set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutability {
    ReadWrite,
    ReadOnly,
    Immutable,
}

/// When it is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    Always,
    Default,
}

/// An attribute or sub-attribute (RFC 7643 section 7).
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one characteristic the RFC names")]
pub struct Attribute {
    pub name: &'static str,
    pub kind: Type,
    pub description: &'static str,
    pub many: bool,
    pub required: bool,
    pub case_exact: bool,
    /// No two resources of the client have the same value.
    pub unique: bool,
    pub mutability: Mutability,
    pub returned: Returned,
    pub canonical: &'static [&'static str],
    pub refers: &'static [&'static str],
    pub sub: &'static [Self],
}

impl Attribute {
    /// The sub-attribute of that name.
    #[must_use]
    pub fn sub(&self, name: &str) -> Option<&'static Self> {
        self.sub.iter().find(|sub| sub.name.eq_ignore_ascii_case(name))
    }

    /// Whether a value of it is an object.
    #[must_use]
    pub fn is_complex(&self) -> bool {
        self.kind == Type::Complex
    }

    /// Whether clients may not set it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.mutability == Mutability::ReadOnly
    }
}

/// Where an attribute stands in a document.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub extension: Option<&'static Schema>,
    pub attribute: &'static Attribute,
    pub sub: Option<&'static Attribute>,
}

impl Place {
    /// The attribute, or the part of it that is meant.
    #[must_use]
    pub fn leaf(&self) -> &'static Attribute {
        self.sub.unwrap_or(self.attribute)
    }

    /// Whether it is the core attribute of this name.
    #[must_use]
    pub fn is_core(&self, name: &str) -> bool {
        self.extension.is_none() && self.attribute.name == name
    }
}

/// What a name turned out to mean.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    Attribute(Place),
    /// A whole extension.
    Extension(&'static Schema),
    /// The core schema itself.
    Core,
    /// Something other servers may know: an attribute of a foreign extension, or the password. Clients may send it; it is ignored.
    Foreign,
    Unknown,
}

/// What `text` means for a resource: `name.givenName`, `urn:…:enterprise:2.0:User:department`, and `department` alone, as Entra ID
/// writes it.
#[must_use]
pub fn resolve(kind: Kind, text: &str) -> Named {
    let core = kind.schema();
    if let Some(rest) = below(text, core.urn) {
        return if rest.is_empty() { Named::Core } else { within(None, core.attributes, rest) };
    }
    for extension in kind.extensions() {
        if let Some(rest) = below(text, extension.urn) {
            return if rest.is_empty() {
                Named::Extension(extension)
            } else {
                within(Some(extension), extension.attributes, rest)
            };
        }
    }
    if text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:")) {
        return Named::Foreign;
    }
    let mut schemas = vec![(None, core.attributes), (None, COMMON)];
    schemas.extend(kind.extensions().iter().map(|extension| (Some(*extension), extension.attributes)));
    for (extension, attributes) in schemas {
        let found = within(extension, attributes, text);
        if !matches!(found, Named::Unknown) {
            return found;
        }
    }
    if text.eq_ignore_ascii_case("password") { Named::Foreign } else { Named::Unknown }
}

/// What stands behind a schema's URN and its colon; empty for the URN alone.
fn below<'t>(text: &'t str, urn: &str) -> Option<&'t str> {
    let start = text.get(..urn.len())?;
    if !start.eq_ignore_ascii_case(urn) {
        return None;
    }
    let rest = &text[urn.len()..];
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(':') }
}

fn within(extension: Option<&'static Schema>, attributes: &'static [Attribute], text: &str) -> Named {
    let (name, sub) = text.split_once('.').map_or((text, None), |(name, sub)| (name, Some(sub)));
    let Some(attribute) = attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name)) else {
        return Named::Unknown;
    };
    match sub {
        None => Named::Attribute(Place { extension, attribute, sub: None }),
        Some(sub) => match attribute.sub(sub) {
            Some(sub) => Named::Attribute(Place { extension, attribute, sub: Some(sub) }),
            None => Named::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<(Option<&'static str>, &'static str, Option<&'static str>)> {
        match resolve(Kind::User, text) {
            Named::Attribute(place) => Some((
                place.extension.map(|extension| extension.name),
                place.attribute.name,
                place.sub.map(|sub| sub.name),
            )),
            _ => None,
        }
    }

    #[test]
    fn names_are_found_in_any_case_with_and_without_their_schema() {
        assert_eq!(place("USERNAME"), Some((None, "userName", None)));
        assert_eq!(place("name.givenname"), Some((None, "name", Some("givenName"))));
        assert_eq!(
            place("URN:ietf:params:scim:schemas:core:2.0:user:emails.value"),
            Some((None, "emails", Some("value")))
        );
        let enterprise = Some("EnterpriseUser");
        assert_eq!(
            place("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value"),
            Some((enterprise, "manager", Some("value")))
        );
        assert_eq!(place("department"), Some((enterprise, "department", None)));
        assert_eq!(place("meta.lastModified"), Some((None, "meta", Some("lastModified"))));
    }

    #[test]
    fn what_others_know_is_foreign_and_nonsense_is_unknown() {
        assert!(matches!(resolve(Kind::User, "urn:example:2.0:User:shoeSize"), Named::Foreign));
        assert!(matches!(resolve(Kind::User, "password"), Named::Foreign));
        let misspelled = "urn:ietf:params:scim:schemas:extension:enterprise:2.0User:department";
        assert!(matches!(resolve(Kind::User, misspelled), Named::Foreign));
        for unknown in ["", "shoeSize", "name.shoeSize", "members", "émail"] {
            assert!(matches!(resolve(Kind::User, unknown), Named::Unknown), "{unknown}");
        }
        assert!(matches!(resolve(Kind::User, USER.urn), Named::Core));
        assert!(matches!(resolve(Kind::User, ENTERPRISE.urn), Named::Extension(_)));
    }
}
