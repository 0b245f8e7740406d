//! Photos, one entry at a time (S-50). The read of everybody asks for the change stamps of entries only, because a photo is a hundred
//! times the rest of an entry; whose stamp is another one is looked at alone.
//!
//! Never says that somebody has no photo unless their entry was seen without one.

use crate::bridge::Sighting;
use crate::config::LdapSource;
use crate::directory::Stamp;
use crate::ids::StableId;

use super::entry::Entry;
use super::search::{Stop, read_one};
use super::session::Session;
use super::trouble::Trouble;

/// What servers write on an entry at each change, the finest first (`OpenLDAP`, Active Directory, everybody), in lower case.
pub const STAMPS: [&str; 3] = ["entrycsn", "whenchanged", "modifytimestamp"];

/// Where photos are, unless the configuration says otherwise: Active Directory's small picture, and what everybody else has.
const USUAL: [&str; 2] = ["thumbnailphoto", "jpegphoto"];

/// The attributes that may hold a photo, in lower case; the first that has a value counts.
#[must_use]
pub fn attributes(source: &LdapSource) -> Vec<String> {
    match &source.attributes.avatar {
        Some(name) => vec![name.to_ascii_lowercase()],
        None => USUAL.map(str::to_owned).to_vec(),
    }
}

/// The entry's change stamp. With the attribute's name where one was configured: another one holds other photos, whatever the entry's
/// own stamp says.
#[must_use]
pub fn stamp(entry: &Entry, names: &[String]) -> Option<Stamp> {
    let stamp = STAMPS.into_iter().find_map(|name| entry.text(name))?;
    Some(match names {
        [only] => format!("{only} {stamp}").into(),
        _ => stamp.into(),
    })
}

/// Looks at these entries, one base search each. Whom the server does not show (any more) is left out.
///
/// # Errors
/// When the connection is of no further use.
pub async fn look(
    session: &mut Session,
    source: &LdapSource,
    names: &[String],
    people: impl Iterator<Item = (&StableId, &String)> + Send,
) -> Result<Vec<Sighting>, Trouble> {
    let wanted: Vec<&str> = names.iter().map(String::as_str).chain(STAMPS).collect();
    let mut seen = Vec::new();
    for (id, dn) in people {
        match read_one(session, dn, &wanted, source.operation_timeout_ms).await {
            Ok(Some(entry)) => {
                let Some(stamp) = stamp(&entry, names) else { continue };
                let photo = names.iter().find_map(|name| entry.values(name).find(|value| !value.is_empty()));
                seen.push(Sighting { id: id.clone(), stamp, photo: photo.map(<[u8]>::to_vec) });
            }
            Ok(None) | Err(Stop { code: Some(_), .. }) => {}
            Err(Stop { cause, code: None }) => {
                let attempted = format!("look at photos at {}", session.uri);
                return Err(Trouble { step: "photos", attempted, cause, retry: true });
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attributes: &[(&str, &str)]) -> Entry {
        let mut entry = Entry::new("uid=ann,dc=org");
        for (name, value) in attributes {
            entry.add(name, vec![value.as_bytes().to_vec()]);
        }
        entry
    }

    #[test]
    fn the_finest_stamp_counts_and_another_attribute_is_another_stamp() {
        let usual = USUAL.map(str::to_owned);
        let own = ["photo".to_owned()];
        let both = entry(&[("modifyTimestamp", "20260302090000Z"), ("entryCSN", "20260302090000.000001Z#0")]);
        assert_eq!(stamp(&both, &usual).as_deref(), Some("20260302090000.000001Z#0"));
        assert_eq!(stamp(&both, &own).as_deref(), Some("photo 20260302090000.000001Z#0"));
        assert_eq!(stamp(&entry(&[("whenChanged", "20260302.0Z")]), &usual).as_deref(), Some("20260302.0Z"));
        assert_eq!(stamp(&entry(&[("cn", "Ann")]), &usual), None);
    }
}
