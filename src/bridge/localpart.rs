//! From a source's attributes to a localpart (S-5): a template over attributes, then Synapse's own mapping or, when strict, none.
//!
//! Pure. Never decides between two people who claim one localpart; that is seen when the directory is flattened.

use std::fmt::Write as _;

use crate::ids::Localpart;

/// A whole MXID has at most 255 bytes: `@`, the localpart, `:`, and a server name of at least one.
const LONGEST_LOCALPART: usize = 252;

/// How localparts are made.
#[derive(Clone, Debug)]
pub struct Mapping {
    parts: Vec<Part>,
    strict: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// An attribute's name in lower case.
    Attribute(String),
}

/// Why somebody has no localpart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    #[error("attribute `{0}` is missing")]
    Missing(String),
    #[error("attribute `{0}` has several values and none of them is in the entry's own name")]
    Ambiguous(String),
    #[error("attribute `{0}` is not text")]
    NotText(String),
    #[error("the localpart would be empty")]
    Empty,
    #[error("the localpart would be longer than {} bytes", LONGEST_LOCALPART)]
    TooLong,
    #[error("`{0}` holds characters a localpart cannot have, and strict_localparts forbids escaping them")]
    NeedsEscaping(String),
}

impl Mapping {
    /// A template such as `{uid}` or `{givenName}.{sn}`; the uid attribute alone when there is none.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn new(template: Option<&str>, uid_attribute: &str, strict: bool) -> Result<Self, String> {
        let Some(template) = template else {
            return Ok(Self { parts: vec![Part::Attribute(uid_attribute.to_lowercase())], strict });
        };
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("localpart template `{template}`: a `{{` has no `}}`"));
            };
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            {
                return Err(format!("localpart template `{template}`: `{{{name}}}` does not name an attribute"));
            }
            parts.push(Part::Attribute(name.to_lowercase()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if !parts.iter().any(|part| matches!(part, Part::Attribute(_))) {
            return Err(format!(
                "localpart template `{template}` names no attribute: everybody would have one localpart"
            ));
        }
        Ok(Self { parts, strict })
    }

    /// Lower-case names of the attributes it needs.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Attribute(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The localpart of somebody whose attributes `value_of` tells.
    ///
    /// # Errors
    /// Why there is none.
    pub fn apply(&self, value_of: impl Fn(&str) -> Result<String, Unmapped>) -> Result<Localpart, Unmapped> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Attribute(name) => filled.push_str(&value_of(name)?),
            }
        }
        self.map(&filled)
    }

    /// The localpart for a name that needs no template.
    ///
    /// # Errors
    /// Why there is none.
    pub fn map(&self, name: &str) -> Result<Localpart, Unmapped> {
        if name.is_empty() {
            return Err(Unmapped::Empty);
        }
        let mapped = synapse_mapping(name);
        if self.strict && mapped != name.to_ascii_lowercase() {
            return Err(Unmapped::NeedsEscaping(name.to_owned()));
        }
        if mapped.len() > LONGEST_LOCALPART {
            return Err(Unmapped::TooLong);
        }
        Ok(Localpart::from(mapped))
    }
}

/// Synapse's mapping of a user name to a localpart: UTF-8, ASCII letters lower-cased, every other byte outside
/// `a-z 0-9 . _ - / +` as `=xx`, and a leading `_`, which marks application services, as `=5f`.
#[must_use]
pub fn synapse_mapping(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte.to_ascii_lowercase() {
            b'_' if at == 0 => out.push_str("=5f"),
            lower @ (b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'+') => out.push(char::from(lower)),
            other => {
                let _ = write!(out, "={other:02x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(template: &str, strict: bool) -> Mapping {
        Mapping::new(Some(template), "uid", strict).unwrap()
    }

    fn person(name: &str) -> Result<String, Unmapped> {
        match name {
            "givenname" => Ok("Ann".to_owned()),
            "sn" => Ok("Müller".to_owned()),
            other => Err(Unmapped::Missing(other.to_owned())),
        }
    }

    #[test]
    fn names_map_as_synapse_maps_them() {
        for (name, localpart) in [
            ("Müller", "m=c3=bcller"),
            ("_bridge", "=5fbridge"),
            ("a_b", "a_b"),
            ("a=b", "a=3db"),
            ("Ann.B+c/d-e", "ann.b+c/d-e"),
            ("ann@example.org", "ann=40example.org"),
            ("Ä", "=c3=84"),
        ] {
            assert_eq!(synapse_mapping(name), localpart);
        }
    }

    #[test]
    fn a_template_joins_attributes_and_text() {
        let localpart = mapping("{givenName}.{sn}-x", false).apply(person);
        assert_eq!(localpart, Ok("ann.m=c3=bcller-x".into()));
        assert_eq!(mapping("{givenName}{mail}", false).apply(person), Err(Unmapped::Missing("mail".to_owned())));
    }

    #[test]
    fn a_template_that_cannot_work_is_refused() {
        for (template, problem) in [
            ("{uid", "localpart template `{uid`: a `{` has no `}`"),
            ("{}", "localpart template `{}`: `{}` does not name an attribute"),
            ("staff", "localpart template `staff` names no attribute: everybody would have one localpart"),
        ] {
            assert_eq!(Mapping::new(Some(template), "uid", false).unwrap_err(), problem);
        }
    }

    #[test]
    fn strict_lowers_but_never_escapes() {
        assert_eq!(mapping("{uid}", true).map("Ann"), Ok("ann".into()));
        assert_eq!(mapping("{uid}", true).map("Müller"), Err(Unmapped::NeedsEscaping("Müller".to_owned())));
    }

    #[test]
    fn a_localpart_is_neither_empty_nor_endless() {
        assert_eq!(mapping("{uid}", false).map(""), Err(Unmapped::Empty));
        assert_eq!(mapping("{uid}", false).map(&"x".repeat(253)), Err(Unmapped::TooLong));
    }
}
