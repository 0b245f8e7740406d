//! One directory entry, decoded from BER byte by byte (RFC 4511, 4.5.2), with every value as the bytes the server sent.
//!
//! Never panics on what a server sends, and never guesses whether a value is text: who asks for text says so.

use ldap3::ResultEntry;

/// An entry as the server (or an LDIF file) has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub dn: String,
    attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    /// Without options, in lower case.
    name: String,
    options: Options,
    values: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Options {
    /// None, or `;binary`, which only says how the value is sent.
    Plain,
    /// Values from `from`; there are more unless `last` (Active Directory's `;range=0-1499`, `;range=1500-*`).
    Range { from: u64, to: Option<u64> },
    /// Another language or purpose, such as `;lang-de`.
    Other,
}

/// An entry that is not as RFC 4511 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry is not encoded as LDAP demands: {0}")]
pub struct Undecodable(&'static str);

impl Entry {
    /// An entry built from its parts; attribute names may carry options.
    #[must_use]
    pub fn new(dn: impl Into<String>) -> Self {
        Self { dn: dn.into(), attributes: Vec::new() }
    }

    /// Adds values under an attribute description such as `cn`, `cn;lang-de` or `member;range=0-1499`.
    pub fn add(&mut self, description: &str, mut values: Vec<Vec<u8>>) {
        let (name, options) = split_description(description);
        match self.attributes.iter_mut().find(|known| known.name == name && known.options == options) {
            Some(known) => known.values.append(&mut values),
            None => self.attributes.push(Attribute { name, options, values }),
        }
    }

    /// Decodes what a search returned.
    ///
    /// # Errors
    /// What about it is not an entry.
    pub fn decode(result: ResultEntry) -> Result<Self, Undecodable> {
        let tag = result.0;
        if tag.id != 4 {
            return Err(Undecodable("it is not a search result entry"));
        }
        let mut parts = tag.expect_constructed().ok_or(Undecodable("it has no parts"))?.into_iter();
        let dn =
            parts.next().and_then(ldap3::asn1::StructureTag::expect_primitive).ok_or(Undecodable("it has no name"))?;
        let dn = String::from_utf8(dn).map_err(|_| Undecodable("its name is not UTF-8"))?;
        let list = parts
            .next()
            .and_then(ldap3::asn1::StructureTag::expect_constructed)
            .ok_or(Undecodable("it has no attributes"))?;
        let mut entry = Self { dn, attributes: Vec::with_capacity(list.len()) };
        for attribute in list {
            let mut halves =
                attribute.expect_constructed().ok_or(Undecodable("an attribute has no parts"))?.into_iter();
            let description = halves.next().and_then(ldap3::asn1::StructureTag::expect_primitive);
            let description = description.ok_or(Undecodable("an attribute has no name"))?;
            let mut description =
                String::from_utf8(description).map_err(|_| Undecodable("an attribute's name is not text"))?;
            let set = halves.next().and_then(ldap3::asn1::StructureTag::expect_constructed);
            let set = set.ok_or(Undecodable("an attribute has no values"))?;
            let values: Option<Vec<Vec<u8>>> =
                set.into_iter().map(ldap3::asn1::StructureTag::expect_primitive).collect();
            let (name, options) = if description.contains(';') {
                split_description(&description)
            } else {
                // Nearly all of them, a million in a large directory: the name is kept where it is.
                description.make_ascii_lowercase();
                (description, Options::Plain)
            };
            let values = values.ok_or(Undecodable("a value is not an octet string"))?;
            entry.attributes.push(Attribute { name, options, values });
        }
        Ok(entry)
    }

    /// Values of an attribute, by its name in lower case. Values under other options (`;lang-de`) count only where there are no plain ones.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move || self.attributes.iter().filter(move |attribute| attribute.name == name);
        let has_plain = named().any(|attribute| attribute.options != Options::Other && !attribute.values.is_empty());
        named()
            .filter(move |attribute| !has_plain || attribute.options != Options::Other)
            .flat_map(|attribute| attribute.values.iter().map(Vec::as_slice))
    }

    /// The values that are text, without those that are blank.
    pub fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok()).filter(|text| !text.trim().is_empty())
    }

    /// The first value that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.texts(name).next().map(str::to_owned)
    }

    /// Whether it is of one of `classes`, given in lower case.
    #[must_use]
    pub fn is_of(&self, classes: &[&str]) -> bool {
        self.texts("objectclass").any(|class| classes.iter().any(|wanted| class.eq_ignore_ascii_case(wanted)))
    }

    /// Attributes the server has sent only a part of: name, and the index of the first value not sent.
    pub fn unfinished(&self) -> impl Iterator<Item = (&str, u64)> {
        self.attributes.iter().filter_map(|attribute| match attribute.options {
            Options::Range { to: Some(to), .. } => Some((attribute.name.as_str(), to.saturating_add(1))),
            Options::Range { to: None, .. } | Options::Plain | Options::Other => None,
        })
    }

    /// Where a ranged attribute begins and, unless its end was reached, which index comes next.
    #[must_use]
    pub fn range_of(&self, name: &str) -> Option<(u64, Option<u64>)> {
        self.attributes.iter().find_map(|attribute| match attribute.options {
            Options::Range { from, to } if attribute.name == name => Some((from, to.map(|to| to.saturating_add(1)))),
            Options::Range { .. } | Options::Plain | Options::Other => None,
        })
    }
}

fn split_description(description: &str) -> (String, Options) {
    let mut parts = description.split(';');
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let mut options = Options::Plain;
    for option in parts {
        options = match option.to_ascii_lowercase().as_str() {
            "binary" | "" => options,
            other => other.strip_prefix("range=").and_then(range).unwrap_or(Options::Other),
        };
    }
    (name, options)
}

fn range(text: &str) -> Option<Options> {
    let (from, to) = text.split_once('-')?;
    let from = from.parse().ok()?;
    let to = if to == "*" { None } else { Some(to.parse().ok()?) };
    Some(Options::Range { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attributes: &[(&str, &[&str])]) -> Entry {
        let mut entry = Entry::new("cn=x,dc=org");
        for (name, values) in attributes {
            entry.add(name, values.iter().map(|value| value.as_bytes().to_vec()).collect());
        }
        entry
    }

    #[test]
    fn attributes_are_found_by_base_name_whatever_the_case_and_options() {
        let entry = entry(&[("userCertificate;binary", &["der"]), ("CN", &["Ann"]), ("cn;lang-de", &["Anna"])]);
        assert_eq!(entry.text("usercertificate").as_deref(), Some("der"));
        assert_eq!(entry.texts("cn").collect::<Vec<_>>(), ["Ann"]);
    }

    #[test]
    fn a_value_in_another_language_counts_where_there_is_no_plain_one() {
        assert_eq!(entry(&[("cn;lang-de", &["Anna"])]).text("cn").as_deref(), Some("Anna"));
    }

    #[test]
    fn an_empty_attribute_beside_a_ranged_one_hides_nothing() {
        let entry = entry(&[("member", &[]), ("member;range=0-1", &["a", "b"])]);
        assert_eq!(entry.texts("member").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(entry.unfinished().collect::<Vec<_>>(), [("member", 2)]);
        assert_eq!(entry.range_of("member"), Some((0, Some(2))));
    }

    #[test]
    fn the_last_range_leaves_nothing_unfinished() {
        let entry = entry(&[("member;range=1500-*", &["z"])]);
        assert_eq!(entry.unfinished().count(), 0);
        assert_eq!(entry.range_of("member"), Some((1500, None)));
    }
}
