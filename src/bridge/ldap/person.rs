//! What one entry says about itself: its stable id, and for people the localpart, name, addresses and whether it is disabled
//! (S-1, S-4, S-5, S-100).
//!
//! Pure: the moment against which `accountExpires` is held comes in as an argument. Never looks at other entries.

use crate::bridge::localpart::{Mapping, Unmapped};
use crate::directory::{User, dn};
use crate::ids::{Localpart, StableId, Timestamp};

use super::entry::Entry;

/// Classes of people (S-100), in lower case.
pub const PERSON_CLASSES: [&str; 5] = ["person", "organizationalperson", "inetorgperson", "posixaccount", "user"];

/// Attributes that identify an entry, in the order they are looked at, in lower case.
pub const ID_ATTRIBUTES: [&str; 4] = ["entryuuid", "objectguid", "nsuniqueid", "ipauniqueid"];

/// Attributes that mark a disabled account (S-4), in lower case.
pub const MARK_ATTRIBUTES: [&str; 4] =
    ["useraccountcontrol", "accountexpires", "nsaccountlock", "pwdaccountlockedtime"];

/// How entries are read, from the configuration.
#[derive(Clone, Debug)]
pub struct Interpretation {
    /// Attribute names, in lower case.
    pub uid: String,
    pub name: String,
    pub mail: String,
    pub mapping: Mapping,
    /// Whether S-100's classes decide who is a person; `false` when a `user_filter` has decided already.
    pub by_class: bool,
    /// Whether built-in classes decide what is a group; `false` when a `group_filter` has decided already.
    pub groups_by_class: bool,
    /// Attributes that may hold a photo, in lower case, the preferred one first; `None`: photos are not wanted.
    pub photos: Option<Vec<String>>,
}

impl Interpretation {
    /// Whether an entry is a person (S-100).
    #[must_use]
    pub fn is_person(&self, entry: &Entry) -> bool {
        let named = entry.values(&self.uid).next().is_some();
        named && (!self.by_class || (entry.is_of(&PERSON_CLASSES) && !entry.is_of(&["computer"])))
    }
}

/// A person as their entry describes them.
#[derive(Clone, Debug)]
pub struct Person {
    pub localpart: Result<Localpart, Unmapped>,
    pub display_name: Option<String>,
    pub emails: Vec<String>,
    pub enabled: bool,
    /// When the account will expire by itself, if it will.
    pub expires: Option<Timestamp>,
}

impl Person {
    /// Reads a person's entry as of `now`.
    #[must_use]
    pub fn read(entry: &Entry, how: &Interpretation, now: Timestamp) -> Self {
        let expires = account_expires(entry);
        let mut emails: Vec<String> = Vec::new();
        for address in entry.texts(&how.mail).map(str::trim) {
            if !emails.iter().any(|known| known.eq_ignore_ascii_case(address)) {
                emails.push(address.to_owned());
            }
        }
        Self {
            localpart: how.mapping.apply(|name| sole_value(entry, name)),
            display_name: entry.texts(&how.name).next().map(|name| name.trim().to_owned()),
            emails,
            enabled: !is_marked_disabled(entry) && expires.is_none_or(|moment| moment > now),
            expires: expires.filter(|moment| *moment > now),
        }
    }

    /// The user with this id, or why they have no localpart.
    pub fn into_user(self, id: StableId) -> Result<User, Unmapped> {
        let localpart = self.localpart?;
        Ok(User { id, localpart, display_name: self.display_name, emails: self.emails, enabled: self.enabled })
    }
}

/// The entry's immutable id (S-1); `None` when the server shows none.
#[must_use]
pub fn stable_id(entry: &Entry) -> Option<StableId> {
    let value_of = |name| entry.values(name).next();
    if let Some(guid) = value_of("objectguid").and_then(|bytes| <&[u8; 16]>::try_from(bytes).ok())
        && value_of("entryuuid").is_none()
    {
        return Some(StableId::from(guid_text(guid)));
    }
    let id = ID_ATTRIBUTES.into_iter().find_map(|name| entry.text(name))?;
    Some(StableId::from(id.trim().to_ascii_lowercase()))
}

/// An objectGUID as Active Directory's tools print it: the first three fields little-endian.
#[must_use]
pub fn guid_text(bytes: &[u8; 16]) -> String {
    let first = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (second, third) = (u16::from_le_bytes([bytes[4], bytes[5]]), u16::from_le_bytes([bytes[6], bytes[7]]));
    format!("{first:08x}-{second:04x}-{third:04x}-{}-{}", hex::encode(&bytes[8..10]), hex::encode(&bytes[10..]))
}

/// The one value that counts of an attribute that names somebody: the only one, or of several the one in the entry's own RDN (S-100).
///
/// # Errors
/// Why there is none.
pub fn sole_value(entry: &Entry, name: &str) -> Result<String, Unmapped> {
    let values: Vec<&str> = entry.texts(name).map(str::trim).collect();
    match values.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] if entry.values(name).next().is_some_and(|value| std::str::from_utf8(value).is_err()) => {
            Err(Unmapped::NotText(name.to_owned()))
        }
        [] => Err(Unmapped::Missing(name.to_owned())),
        several => {
            let rdn = dn::parse(&entry.dn).and_then(|rdns| rdns.into_iter().next()).unwrap_or_default();
            let is_own = |value: &str| {
                rdn.iter().any(|pair| pair.kind == name && pair.value.eq_ignore_ascii_case(value.as_bytes()))
            };
            let own = several.iter().find(|value| is_own(value));
            own.map(|value| (*value).to_owned()).ok_or_else(|| Unmapped::Ambiguous(name.to_owned()))
        }
    }
}

/// Explicit marks only; a timed lock-out is none (S-4).
fn is_marked_disabled(entry: &Entry) -> bool {
    let control = entry.text("useraccountcontrol").and_then(|text| text.trim().parse::<i64>().ok());
    let locked = entry.text("nsaccountlock").is_some_and(|text| text.trim().eq_ignore_ascii_case("true"));
    let banned = entry.texts("pwdaccountlockedtime").any(|moment| moment.trim() == "000001010000Z");
    control.is_some_and(|bits| bits & 2 != 0) || locked || banned
}

/// `accountExpires` counts tenths of a microsecond from 1601; 0 and the largest value mean never.
fn account_expires(entry: &Entry) -> Option<Timestamp> {
    const EPOCH_1601_MS: i64 = 11_644_473_600_000;
    match entry.text("accountexpires")?.trim().parse::<i64>().ok()? {
        0 | i64::MAX => None,
        ticks => Some(Timestamp(ticks / 10_000 - EPOCH_1601_MS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dn: &str, attributes: &[(&str, &str)]) -> Entry {
        let mut entry = Entry::new(dn);
        for (name, value) in attributes {
            entry.add(name, vec![value.as_bytes().to_vec()]);
        }
        entry
    }

    fn interpretation() -> Interpretation {
        Interpretation {
            uid: "uid".to_owned(),
            name: "cn".to_owned(),
            mail: "mail".to_owned(),
            mapping: Mapping::new(None, "uid", false).unwrap(),
            by_class: true,
            groups_by_class: true,
            photos: None,
        }
    }

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn enabled(attributes: &[(&str, &str)]) -> bool {
        Person::read(&entry("uid=a,dc=org", attributes), &interpretation(), NOW).enabled
    }

    #[test]
    fn an_object_guid_reads_as_active_directory_prints_it() {
        let bytes = [0x0c, 0xc1, 0xc9, 0xa1, 0x20, 0xaf, 0xdc, 0x4a, 0x96, 0xeb, 0xa3, 0x8b, 0x26, 0xed, 0xf0, 0x74];
        assert_eq!(guid_text(&bytes), "a1c9c10c-af20-4adc-96eb-a38b26edf074");
        let mut user = Entry::new("cn=x");
        user.add("objectGUID", vec![bytes.to_vec()]);
        assert_eq!(stable_id(&user), Some("a1c9c10c-af20-4adc-96eb-a38b26edf074".into()));
    }

    #[test]
    fn only_explicit_marks_disable() {
        assert!(enabled(&[("userAccountControl", "512")]));
        assert!(!enabled(&[("userAccountControl", "546")]));
        assert!(!enabled(&[("nsAccountLock", "TRUE")]));
        assert!(enabled(&[("nsAccountLock", "false")]));
        assert!(!enabled(&[("pwdAccountLockedTime", "000001010000Z")]));
        assert!(enabled(&[("pwdAccountLockedTime", "20231114221320Z")]));
        assert!(enabled(&[("lockoutTime", "133444444444444444")]));
    }

    #[test]
    fn an_account_expires_when_its_moment_has_passed() {
        let ticks = |ms: i64| ((ms + 11_644_473_600_000) * 10_000).to_string();
        for never in ["0", "9223372036854775807"] {
            assert!(enabled(&[("accountExpires", never)]));
        }
        assert!(!enabled(&[("accountExpires", &ticks(NOW.0 - 1))]));
        let later = entry("uid=a", &[("accountExpires", &ticks(NOW.0 + 5))]);
        let person = Person::read(&later, &interpretation(), NOW);
        assert_eq!((person.enabled, person.expires), (true, Some(Timestamp(NOW.0 + 5))));
    }

    #[test]
    fn of_several_uids_the_one_in_the_name_counts() {
        let two = entry("uid=Ann+cn=x,dc=org", &[("uid", "anna"), ("uid", "ann")]);
        assert_eq!(sole_value(&two, "uid"), Ok("ann".to_owned()));
        let none = entry("cn=x,dc=org", &[("uid", "anna"), ("uid", "ann")]);
        assert_eq!(sole_value(&none, "uid"), Err(Unmapped::Ambiguous("uid".to_owned())));
        assert_eq!(sole_value(&none, "mail"), Err(Unmapped::Missing("mail".to_owned())));
        let mut bytes = Entry::new("cn=x");
        bytes.add("uid", vec![vec![0xff]]);
        assert_eq!(sole_value(&bytes, "uid"), Err(Unmapped::NotText("uid".to_owned())));
    }

    #[test]
    fn people_are_told_by_class_and_computers_are_none() {
        let how = interpretation();
        let with = |classes: &[(&str, &str)]| how.is_person(&entry("uid=a", &[&[("uid", "a")], classes].concat()));
        assert!(with(&[("objectClass", "inetOrgPerson")]));
        assert!(with(&[("objectClass", "top"), ("objectClass", "posixAccount")]));
        assert!(!with(&[("objectClass", "user"), ("objectClass", "computer")]));
        assert!(!with(&[("objectClass", "account")]));
        assert!(!how.is_person(&entry("cn=a", &[("objectClass", "person")])));
    }
}
