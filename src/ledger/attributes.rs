//! What was last seen or written of people's attributes (S-50), as keyed digests: mail addresses and names are never kept. Photos have
//! a file of their own.
//!
//! Pure. The key is drawn once a database ([`Ledger::key`]); without it nobody can try addresses against the digests.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use caseless::default_case_fold_str;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Ledger, Portrait};
use crate::ids::{Localpart, StableId, Timestamp, UserId};
use crate::plan::Attribute;

/// How long addresses the homeserver would not take are left alone before they are tried once more, in milliseconds.
const REFUSED_MS: i64 = 24 * 60 * 60 * 1000;

/// A digest, in hexadecimal; keyed, but for those of photos.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

/// What is remembered of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// The directory's display name when it was last dealt with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Digest>,
    /// The account's addresses when they were last read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emails: Option<Digest>,
    /// When they were last read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
    /// The addresses usher itself gave the account, each by its own digest: no others are ever taken back.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub given: BTreeSet<Digest>,
    /// Addresses the homeserver would not take, and until when they are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<(Digest, Timestamp)>,
    /// What was wrong with those.
    #[serde(skip_serializing_if = "Flaw::is_taken")]
    pub objection: Flaw,
    /// The name in the directory of somebody whose account was found by another one (S-5), as it was then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub called: Option<Digest>,
    /// Their photo and avatar. Apart, because where nobody asks for photos there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portrait: Option<Box<Portrait>>,
}

impl Attributes {
    /// Until when addresses are left alone that the homeserver would not take, if these are the ones.
    #[must_use]
    pub fn refused_until(&self, digest: &Digest, now: Timestamp) -> Option<Timestamp> {
        self.refused.as_ref().filter(|(refused, until)| refused == digest && *until > now).map(|(_, until)| *until)
    }
}

/// What is wrong with addresses that were not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// One of them is another account's.
    #[default]
    Taken,
    /// The homeserver does not accept one of them.
    Unacceptable,
}

impl Flaw {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks")]
    fn is_taken(&self) -> bool {
        *self == Self::Taken
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "an address is another account's",
            Self::Unacceptable => "the homeserver does not accept an address",
        })
    }
}

/// The addresses usher gave one account: told from others, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    key: Arc<str>,
    digests: BTreeSet<Digest>,
}

impl Given {
    /// Whether an address, in normal form, is among them.
    #[must_use]
    pub fn has(&self, address: &str) -> bool {
        self.digests.contains(&of_one(&self.key, address))
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.digests.len()
    }
}

impl fmt::Debug for Given {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses given", self.digests.len())
    }
}

fn of_one(key: &str, address: &str) -> Digest {
    keyed(key, &format!("address\n{address}"))
}

/// HMAC-SHA-256 (RFC 2104) of `text`, in hexadecimal.
#[must_use]
pub fn keyed(key: &str, text: &str) -> Digest {
    // It takes keys of any length; the type cannot say so.
    let mac = <Hmac<Sha256> as Mac>::new_from_slice(key.as_bytes());
    let code = mac.map(|mac| mac.chain_update(text.as_bytes()).finalize().into_bytes());
    Digest(code.map(hex::encode).unwrap_or_default())
}

/// An address in the homeserver's normal form (S-109), which is that of MSC2265: trimmed, the local part folded (`Straße` is `strasse`),
/// the domain in lower case. The homeserver looks for an address as it is asked, and keeps it like this: one that was asked after in
/// another form would be taken for free. What is no address stays as wrong as it is.
#[must_use]
pub fn normal_email(address: &str) -> String {
    let address = address.trim();
    match address.split_once('@') {
        Some((local, domain)) if !domain.contains('@') => {
            format!("{}@{}", default_case_fold_str(local), domain.to_lowercase())
        }
        Some(_) | None => address.to_lowercase(),
    }
}

/// Addresses in normal form, sorted, once each.
#[must_use]
pub fn normal_emails<'a>(emails: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut normal: Vec<String> = emails.into_iter().map(normal_email).filter(|email| !email.is_empty()).collect();
    normal.sort();
    normal.dedup();
    normal
}

impl Ledger {
    /// The digest of a set of addresses in normal form.
    #[must_use]
    pub fn digest_of_emails(&self, normal: &[String]) -> Digest {
        keyed(&self.key, &normal.join("\n"))
    }

    /// The digest of a display name.
    #[must_use]
    pub fn digest_of_name(&self, name: &str) -> Digest {
        keyed(&self.key, &format!("name\n{name}"))
    }

    /// Who somebody was, without saying so: what stands in the audit once their account is erased.
    #[must_use]
    pub fn pseudonym(&self, user: &UserId) -> String {
        format!("erased:{}", &keyed(&self.key, &format!("person\n{user}")).0[..32])
    }

    /// Somebody's account was found who is called `name` in the directory: that they are is no news from now on, unless the account is bound
    /// to somebody else.
    pub fn found_account(&mut self, id: &StableId, user: &UserId, name: &Localpart) {
        if self.people.iter().any(|(other, bound)| other != id && bound.as_str() == user.localpart()) {
            return;
        }
        if name.as_str() != user.localpart() {
            self.attributes.entry(user.clone()).or_default().called = Some(self.digest_of_called(name));
        } else if let Some(known) = self.attributes.get_mut(user) {
            known.called = None;
        }
    }

    /// Whether the directory calls somebody otherwise than when their account was found, or than the account where nothing else was
    /// remembered then. Where earlier versions remembered nothing, it is remembered now.
    pub fn is_renamed(&mut self, user: &UserId, name: &Localpart) -> bool {
        if name.as_str() == user.localpart() {
            return false;
        }
        let called = self.attributes.get(user).and_then(|known| known.called.as_ref());
        match called {
            Some(called) => *called != self.digest_of_called(name),
            None if self.knows_names => true,
            None => {
                self.attributes.entry(user.clone()).or_default().called = Some(self.digest_of_called(name));
                false
            }
        }
    }

    fn digest_of_called(&self, name: &Localpart) -> Digest {
        keyed(&self.key, &format!("called\n{name}"))
    }

    /// The addresses of an account were read. What usher gave and is not there any more is not usher's if it comes back.
    pub fn read_emails(&mut self, user: &UserId, normal: &[String], now: Timestamp) {
        let digest = self.digest_of_emails(normal);
        let known = self.attributes.entry(user.clone()).or_default();
        known.emails = Some(digest);
        known.read_at = Some(now);
        if !known.given.is_empty() {
            let there: BTreeSet<Digest> = normal.iter().map(|address| of_one(&self.key, address)).collect();
            known.given.retain(|given| there.contains(given));
        }
    }

    /// The digest of one address in normal form, as [`Attributes::given`] has it.
    #[must_use]
    pub fn digest_of_address(&self, normal: &str) -> Digest {
        of_one(&self.key, normal)
    }

    /// What usher gave somebody's account, if anything.
    #[must_use]
    pub fn given(&self, user: &UserId) -> Option<Given> {
        let digests = &self.attributes.get(user)?.given;
        (!digests.is_empty()).then(|| Given { key: self.key.as_str().into(), digests: digests.clone() })
    }

    /// How many accounts had an address when they were last read or written.
    #[must_use]
    pub fn addressed(&self) -> u64 {
        let none = self.digest_of_emails(&[]);
        let known = self.attributes.values().filter_map(|known| known.emails.as_ref());
        known.filter(|emails| **emails != none).count() as u64
    }

    /// An attribute is about to be written: a crash must not leave anything of usher's that nobody knows to be that.
    pub(super) fn sends(&mut self, user: &UserId, attribute: &Attribute) {
        match attribute {
            Attribute::Avatar(avatar) => self.sends_avatar(user, avatar.upload()),
            Attribute::Emails { emails, .. } => {
                let digests: Vec<Digest> = emails.0.iter().map(|address| of_one(&self.key, address)).collect();
                self.attributes.entry(user.clone()).or_default().given.extend(digests);
            }
            Attribute::DisplayName(_) | Attribute::NoEmails(_) | Attribute::NoAvatar { .. } => {}
        }
    }

    /// An attribute was written.
    pub(super) fn wrote(&mut self, user: &UserId, attribute: &Attribute) {
        match attribute {
            Attribute::DisplayName(name) => {
                let digest = self.digest_of_name(name);
                self.attributes.entry(user.clone()).or_default().name = Some(digest);
            }
            Attribute::Emails { emails, digest } => {
                let given = emails.0.iter().map(|address| of_one(&self.key, address)).collect();
                let known = self.attributes.entry(user.clone()).or_default();
                known.emails = Some(digest.clone());
                known.given = given;
                (known.refused, known.objection) = (None, Flaw::default());
            }
            // What the person has beside them is not known: it is read again.
            Attribute::NoEmails(_) => {
                let known = self.attributes.entry(user.clone()).or_default();
                (known.emails, known.read_at) = (None, None);
                known.given.clear();
            }
            Attribute::Avatar(avatar) => {
                self.sends_avatar(user, avatar.upload());
                self.dealt_with_photo(user, avatar.photo.digest.clone());
            }
            Attribute::NoAvatar { .. } => self.removed_avatar(user),
        }
    }

    /// Addresses were not taken, and would not be if they were sent again now. Which of them are the account's all the same is looked at:
    /// none, or those before the one that was refused.
    pub fn refuse_emails(&mut self, user: &UserId, digest: &Digest, objection: Flaw, now: Timestamp) {
        let known = self.attributes.entry(user.clone()).or_default();
        known.refused = Some((digest.clone(), now.plus_ms(REFUSED_MS)));
        known.objection = objection;
        (known.emails, known.read_at) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyed_hash_is_that_of_rfc_4231() {
        let digest = keyed("Jefe", "what do ya want for nothing?");
        assert_eq!(digest.0, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = "\u{7f}".repeat(80);
        assert_ne!(keyed(&long, "x"), keyed(&long[..79], "x"));
    }

    #[test]
    fn addresses_compare_as_the_homeserver_keeps_them() {
        assert_eq!(normal_emails([" B@X.org", "a@x.org", "b@x.ORG", ""]), ["a@x.org", "b@x.org"]);
        // What Python's str.casefold makes of the local part, and its lower of the domain.
        let folded = [
            ("Straße@Straße.example", "strasse@straße.example"),
            ("STRASSE@x.org", "strasse@x.org"),
            ("ΣΊΣΥΦΟΣ@x.org", "σίσυφοσ@x.org"),
            ("ﬁ.ʼN@X.org", "fi.ʼn@x.org"),
            ("two@At@x", "two@at@x"),
        ];
        for (written, kept) in folded {
            assert_eq!(normal_email(written), kept);
            assert_eq!(normal_email(kept), kept, "once is enough");
        }
    }

    fn ann() -> UserId {
        UserId::from("@ann:x")
    }

    fn give(ledger: &Ledger, list: &[&str]) -> Attribute {
        let emails = normal_emails(list.iter().copied());
        Attribute::Emails { digest: ledger.digest_of_emails(&emails), emails: crate::plan::Emails(emails) }
    }

    #[test]
    fn what_usher_gave_is_known_from_the_moment_it_is_sent_and_nothing_else_is() {
        let mut ledger = Ledger { key: "key".to_owned(), ..Ledger::default() };
        ledger.read_emails(&ann(), &["own@x.org".to_owned()], Timestamp(1));
        assert_eq!((ledger.given(&ann()), ledger.addressed()), (None, 1), "the person's own");
        let attribute = give(&ledger, &["a@x.org", "b@x.org"]);
        ledger.sends(&ann(), &attribute);
        let given = ledger.given(&ann()).unwrap();
        assert!(given.has("a@x.org") && given.has("b@x.org") && !given.has("own@x.org"));
        assert!(!format!("{given:?} {ledger:?}").contains("x.org"));
        let attribute = give(&ledger, &["b@x.org"]);
        ledger.sends(&ann(), &attribute);
        ledger.wrote(&ann(), &attribute);
        let given = ledger.given(&ann()).unwrap();
        assert!(given.has("b@x.org") && !given.has("a@x.org") && given.count() == 1);
        ledger.wrote(&ann(), &Attribute::NoEmails(given));
        assert_eq!((ledger.given(&ann()), ledger.addressed()), (None, 0));
        assert_eq!(ledger.attributes[&ann()].read_at, None, "what is left is looked at");
    }

    #[test]
    fn a_name_in_the_directory_is_news_only_once_it_is_another_than_when_the_account_was_found() {
        let mut ledger = Ledger { key: "key".to_owned(), knows_names: true, ..Ledger::default() };
        let (id, name, other) = (StableId::from("1"), Localpart::from("ann.smith"), Localpart::from("ann.jones"));
        ledger.found_account(&id, &ann(), &name);
        assert!(!ledger.is_renamed(&ann(), &name) && ledger.is_renamed(&ann(), &other));
        assert!(ledger.is_renamed(&ann(), &other), "as long as it lasts");
        assert!(!ledger.is_renamed(&ann(), &"ann".into()), "the account's own name is no other one");
        // Whose account is of the directory's name has nothing remembered.
        let ben = UserId::from("@ben:x");
        ledger.found_account(&"2".into(), &ben, &"ben".into());
        assert!(!ledger.attributes.contains_key(&ben) && ledger.is_renamed(&ben, &other));
        // An account that is bound to somebody else is not found for a second one.
        ledger.people.insert("1".into(), "ann".into());
        ledger.found_account(&"3".into(), &ann(), &other);
        assert!(!ledger.is_renamed(&ann(), &name));
        assert!(!format!("{ledger:?}").contains("smith"));
    }

    #[test]
    fn names_that_earlier_versions_did_not_remember_are_no_news() {
        let mut ledger = Ledger { key: "key".to_owned(), ..Ledger::default() };
        let name = Localpart::from("ann.smith");
        assert!(!ledger.is_renamed(&ann(), &name));
        ledger.knows_names = true;
        assert!(!ledger.is_renamed(&ann(), &name) && ledger.is_renamed(&ann(), &"ann.jones".into()));
    }

    #[test]
    fn addresses_that_were_refused_are_nothing_usher_gave() {
        let mut ledger = Ledger { key: "key".to_owned(), ..Ledger::default() };
        ledger.read_emails(&ann(), &[], Timestamp(1));
        ledger.wrote(&ann(), &give(&ledger, &["a@x.org"]));
        let attribute = give(&ledger, &["a@x.org", "b@x.org", "taken@x.org"]);
        let Attribute::Emails { digest, .. } = &attribute else { panic!("what give makes") };
        ledger.sends(&ann(), &attribute);
        ledger.refuse_emails(&ann(), digest, Flaw::Taken, Timestamp(2));
        assert_eq!(ledger.attributes[&ann()].read_at, None, "what is there now is looked at");
        ledger.read_emails(&ann(), &["a@x.org".to_owned(), "b@x.org".to_owned()], Timestamp(3));
        let given = ledger.given(&ann()).unwrap();
        assert!(given.has("a@x.org") && given.has("b@x.org") && !given.has("taken@x.org"));
        assert!(ledger.attributes[&ann()].refused.is_some(), "and it is not tried again at once");
        // She takes one off, and puts it back herself later on.
        for list in [&["a@x.org"][..], &["a@x.org", "b@x.org"]] {
            let list: Vec<String> = list.iter().map(|address| (*address).to_owned()).collect();
            ledger.read_emails(&ann(), &list, Timestamp(4));
        }
        assert!(!ledger.given(&ann()).unwrap().has("b@x.org"));
    }

    #[test]
    fn what_earlier_versions_remembered_is_read() {
        let old = r#"{"emails":"aa","read_at":1,"refused":["bb",2]}"#;
        let known: Attributes = serde_json::from_str(old).unwrap();
        assert!(known.given.is_empty(), "nothing is taken back that was not written down");
        assert_eq!(known.objection, Flaw::Taken);
        assert_eq!(serde_json::to_string(&known).unwrap(), old);
    }
}
