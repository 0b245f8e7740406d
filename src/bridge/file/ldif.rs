//! LDIF (RFC 2849), read as the entries a server would have sent: folded lines, comments, base64, attribute options.
//!
//! Pure. Never follows `:<` references to other files, and takes content only, no change records.

use base64ct::{Base64, Encoding as _};

use super::Content;
use crate::bridge::ldap::entry::Entry;
use crate::bridge::ldap::person::Interpretation;
use crate::bridge::ldap::tree::{CONTAINER_CLASSES, Tree};
use crate::bridge::localpart::Mapping;
use crate::clock;
use crate::config::FileSource;
use crate::directory::dn;

/// Reads an LDIF file into users, groups and containers as an LDAP server's answer is read (S-6).
///
/// # Errors
/// What is wrong, with line and column.
pub fn content(text: &str, source: &FileSource) -> Result<Content, String> {
    let entries = entries(text)?;
    let base = match &source.base {
        Some(base) => dn::normalise(base).ok_or_else(|| format!("base `{base}` is not a DN"))?,
        None => common_base(&entries)?,
    };
    let names = &source.attributes;
    let how = Interpretation {
        uid: names.uid.to_ascii_lowercase(),
        name: names.name.to_ascii_lowercase(),
        mail: names.mail.to_ascii_lowercase(),
        mapping: Mapping::new(None, &names.uid, source.strict_localparts)?,
        by_class: true,
        groups_by_class: true,
        photos: None,
    };
    let is_base = |entry: &&Entry| dn::normalise(&entry.dn).as_deref() == Some(base.as_str());
    let base_entry = entries.iter().find(is_base);
    if base_entry.is_none() && source.base.is_some() {
        return Err(format!("it has no entry for the base `{}`", source.base.as_deref().unwrap_or_default()));
    }
    let mut tree = Tree::new(&how, clock::now(), &base, base_entry);
    entries.iter().filter(|entry| entry.is_of(&CONTAINER_CLASSES)).for_each(|entry| tree.container(entry));
    for entry in &entries {
        tree.person(entry);
    }
    for entry in &entries {
        tree.group(entry);
    }
    let grown = tree.finish();
    Ok(Content { snapshot: grown.snapshot, next_expiry: grown.next_expiry })
}

/// The longest DN all entries lie below.
fn common_base(entries: &[Entry]) -> Result<String, String> {
    let mut base: Option<String> = None;
    for entry in entries {
        let place = dn::normalise(&entry.dn).unwrap_or_default();
        let mut candidate = base.as_deref().unwrap_or(&place);
        while !dn::is_within(&place, candidate) {
            candidate = dn::parent(candidate).unwrap_or_default();
        }
        base = Some(candidate.to_owned());
    }
    base.ok_or_else(|| "it holds no entries".to_owned())
}

/// The entries of an LDIF file.
///
/// # Errors
/// What is wrong, with line and column.
pub fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut current: Option<Entry> = None;
    for line in logical_lines(text)? {
        let Some((number, line)) = line else {
            entries.extend(current.take());
            continue;
        };
        let (name, value) = attribute(number, &line)?;
        match (&mut current, name.to_ascii_lowercase().as_str()) {
            (None, "version") if entries.is_empty() => {
                if value != b"1" {
                    return Err(format!("line {number}, column 1: only LDIF version 1 is known"));
                }
            }
            (None, "dn") => {
                let dn =
                    String::from_utf8(value).map_err(|_| format!("line {number}, column 1: the DN is not UTF-8"))?;
                if dn::normalise(&dn).is_none() {
                    return Err(format!("line {number}, column 4: `{dn}` is not a DN"));
                }
                current = Some(Entry::new(dn));
            }
            (None, _) => return Err(format!("line {number}, column 1: an entry must begin with `dn:`")),
            (Some(_), "dn") => {
                return Err(format!("line {number}, column 1: a second `dn:` without an empty line before it"));
            }
            (Some(_), "changetype") => {
                return Err(format!("line {number}, column 1: change records are not content; export entries instead"));
            }
            (Some(entry), _) => entry.add(&name, vec![value]),
        }
    }
    entries.extend(current);
    if entries.is_empty() {
        return Err("it holds no entries".to_owned());
    }
    Ok(entries)
}

/// Lines with their folds undone and comments left out; `None` is an empty line. Numbers count from 1.
fn logical_lines(text: &str) -> Result<Vec<Option<(usize, String)>>, String> {
    let mut lines: Vec<Option<(usize, String)>> = Vec::new();
    // A folded line may continue a comment, which then vanishes with it.
    let mut in_comment = false;
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some(rest) = line.strip_prefix(' ') {
            match lines.last_mut() {
                _ if in_comment => {}
                Some(Some((_, begun))) => begun.push_str(rest),
                Some(None) | None => {
                    return Err(format!("line {number}, column 1: a line that begins with a blank continues nothing"));
                }
            }
            continue;
        }
        in_comment = line.starts_with('#');
        if line.is_empty() {
            lines.push(None);
        } else if !in_comment {
            lines.push(Some((number, line.to_owned())));
        }
    }
    Ok(lines)
}

/// `name: value`, `name:: base64`.
fn attribute(number: usize, line: &str) -> Result<(String, Vec<u8>), String> {
    let Some((name, rest)) = line.split_once(':') else {
        return Err(format!("line {number}, column {}: expected `name: value`", line.chars().count() + 1));
    };
    let well_formed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b';' | b'=' | b'*' | b'_');
    if name.is_empty() || !name.bytes().all(well_formed) {
        return Err(format!("line {number}, column 1: `{name}` is no attribute name"));
    }
    if let Some(encoded) = rest.strip_prefix(':') {
        let encoded = encoded.trim();
        let value = Base64::decode_vec(encoded)
            .map_err(|_| format!("line {number}, column {}: the value is not base64", name.len() + 3))?;
        return Ok((name.to_owned(), value));
    }
    if rest.starts_with('<') {
        return Err(format!("line {number}, column {}: values in other files (`:<`) are not read", name.len() + 2));
    }
    Ok((name.to_owned(), rest.trim_start_matches(' ').as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_comments_and_base64_are_undone() {
        let text = "version: 1\n# a comment\n  that goes on\ndn: cn=A Long\n  Name,dc=org\ncn:: QQ==\r\nCN;lang-de: B\n# in between\ncn: C\n\n\ndn:: Y249eA==\ncn:\n";
        let entries = entries(text).unwrap();
        assert_eq!(
            entries.iter().map(|entry| entry.dn.as_str()).collect::<Vec<_>>(),
            ["cn=A Long Name,dc=org", "cn=x"]
        );
        assert_eq!(entries[0].texts("cn").collect::<Vec<_>>(), ["A", "C"]);
        assert_eq!(entries[1].values("cn").collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        for (text, problem) in [
            ("dn: cn=a\ncn", "line 2, column 3: expected `name: value`"),
            ("dn: cn=a\ncn:: !", "line 2, column 5: the value is not base64"),
            ("dn: people\n", "line 1, column 4: `people` is not a DN"),
            (" x\n", "line 1, column 1: a line that begins with a blank continues nothing"),
            ("cn: a\n", "line 1, column 1: an entry must begin with `dn:`"),
            ("dn: cn=a\ndn: cn=b\n", "line 2, column 1: a second `dn:` without an empty line before it"),
            (
                "dn: cn=a\nchangetype: delete\n",
                "line 2, column 1: change records are not content; export entries instead",
            ),
            ("dn: cn=a\ncn:< file:///etc/passwd\n", "line 2, column 4: values in other files (`:<`) are not read"),
            ("version: 2\n", "line 1, column 1: only LDIF version 1 is known"),
            ("# nothing\n", "it holds no entries"),
        ] {
            assert_eq!(entries(text).unwrap_err(), problem);
        }
    }

    #[test]
    fn the_base_is_what_all_entries_lie_below() {
        let base = |text| common_base(&entries(text).unwrap());
        assert_eq!(base("dn: dc=org\n\ndn: cn=a,dc=org\n"), Ok("dc=org".to_owned()));
        assert_eq!(base("dn: cn=a,ou=x,dc=org\n\ndn: cn=b,ou=y,dc=org\n"), Ok("dc=org".to_owned()));
        assert_eq!(base("dn: dc=com\n\ndn: dc=org\n"), Ok(String::new()));
    }
}
