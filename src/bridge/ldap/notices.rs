//! Oddities of a directory, counted with an example or two, so that ten thousand of them make one line (S-82).
//!
//! Never holds a mail address: a DN that carries one is shown without it.

use crate::bridge::localpart::Unmapped;
use crate::bridge::tally::{Tally, hide_addresses};
use crate::directory::dn;

/// What is odd about a directory.
#[derive(Debug, Default)]
pub struct Notices {
    dangling: Tally,
    outside: Tally,
    entries_outside: Tally,
    without_id: Tally,
    without_uid: Tally,
    unnamed: Tally,
    without_stamp: Tally,
}

impl Notices {
    /// A member that is no entry that was read.
    pub fn dangling(&mut self, member: &str) {
        self.dangling.add(|| shown(member));
    }

    /// A member outside the base.
    pub fn outside(&mut self, member: &str) {
        self.outside.add(|| shown(member));
    }

    /// An entry outside the base.
    pub fn entry_outside(&mut self, dn: &str) {
        self.entries_outside.add(|| shown(dn));
    }

    /// An entry without an immutable id.
    pub fn without_id(&mut self, dn: &str) {
        self.without_id.add(|| shown(dn));
    }

    /// An entry that the filter takes for a person, without the uid attribute.
    pub fn without_uid(&mut self, dn: &str) {
        self.without_uid.add(|| shown(dn));
    }

    /// A person without a localpart.
    pub fn unnamed(&mut self, dn: &str, why: &Unmapped) {
        self.unnamed.add(|| format!("{}: {}", shown(dn), hide_addresses(&why.to_string())));
    }

    /// A person whose entry does not tell when it was changed, where that is wanted.
    pub fn without_stamp(&mut self, dn: &str) {
        self.without_stamp.add(|| shown(dn));
    }

    /// One line for each kind there is.
    #[must_use]
    pub fn into_texts(self, uid: &str) -> Vec<String> {
        [
            self.unnamed.text(
                "person has no localpart",
                "people have no localpart",
                "; nothing is done for them beyond what is bound to them already",
            ),
            self.without_uid.text(
                &format!("entry matches user_filter but has no `{uid}`"),
                &format!("entries match user_filter but have no `{uid}`"),
                "; they are not taken for people",
            ),
            self.without_id.text(
                "entry shows no entryUUID, objectGUID, nsUniqueId or ipaUniqueID",
                "entries show no entryUUID, objectGUID, nsUniqueId or ipaUniqueID",
                ": the DN serves as id, and a rename will look like a leaver and a newcomer",
            ),
            self.dangling.text(
                "group member is no user or group that was read",
                "group members are no user or group that was read",
                "; they are left out",
            ),
            self.outside.text(
                "group member is outside the base",
                "group members are outside the base",
                "; they are left out",
            ),
            self.entries_outside.text("entry is outside the base", "entries are outside the base", "; left out"),
            self.without_stamp.text(
                "person shows neither modifyTimestamp nor whenChanged",
                "people show neither modifyTimestamp nor whenChanged",
                ": their photos are not looked at; give the bind user the right to read it",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A DN or uid for people to read, without mail addresses.
#[must_use]
pub fn shown(text: &str) -> String {
    if !text.contains('@') {
        return text.to_owned();
    }
    match dn::normalise(text) {
        Some(normal) => normal.split(',').map(hide_addresses).collect::<Vec<_>>().join(","),
        None => hide_addresses(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_oddities_make_one_line() {
        let mut notices = Notices::default();
        for number in 0..5 {
            notices.dangling(&format!("cn={number},dc=org"));
        }
        assert_eq!(
            notices.into_texts("uid"),
            [
                "5 group members are no user or group that was read (cn=0,dc=org; cn=1,dc=org; cn=2,dc=org, …); they are left out"
            ]
        );
    }

    #[test]
    fn addresses_are_hidden() {
        assert_eq!(shown("mail=ann@example.org,ou=People,dc=org"), "mail=…,ou=people,dc=org");
        assert_eq!(shown("ann@example.org"), "…");
        assert_eq!(shown("cn=Ann,dc=org"), "cn=Ann,dc=org");
        let mut notices = Notices::default();
        notices.unnamed("cn=a", &Unmapped::NeedsEscaping("ann@example.org".to_owned()));
        assert!(!notices.into_texts("uid")[0].contains('@'));
    }
}
