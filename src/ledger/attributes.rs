//! What was last seen or written of people's attributes (S-50), as keyed digests: mail addresses and names are never kept. Photos have
//! a file of their own.
//!
//! Pure. The key is drawn once a database ([`Ledger::key`]); without it nobody can try addresses against the digests.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Ledger, Portrait};
use crate::ids::{Timestamp, UserId};
use crate::plan::Attribute;

/// How long an address that is another account's is left alone before it is tried once more, in milliseconds.
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
    /// Addresses the homeserver would not take, and until when they are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<(Digest, Timestamp)>,
    /// Their photo and avatar. Apart, because where nobody asks for photos there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portrait: Option<Box<Portrait>>,
}

/// HMAC-SHA-256 (RFC 2104) of `text`, in hexadecimal.
#[must_use]
pub fn keyed(key: &str, text: &str) -> Digest {
    // It takes keys of any length; the type cannot say so.
    let mac = <Hmac<Sha256> as Mac>::new_from_slice(key.as_bytes());
    let code = mac.map(|mac| mac.chain_update(text.as_bytes()).finalize().into_bytes());
    Digest(code.map(hex::encode).unwrap_or_default())
}

/// Addresses in the homeserver's normal form (S-109): trimmed, lower-cased, sorted, once each.
#[must_use]
pub fn normal_emails<'a>(emails: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut normal: Vec<String> =
        emails.into_iter().map(|email| email.trim().to_lowercase()).filter(|email| !email.is_empty()).collect();
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

    /// The addresses of an account were read.
    pub fn read_emails(&mut self, user: &UserId, normal: &[String], now: Timestamp) {
        let digest = self.digest_of_emails(normal);
        let known = self.attributes.entry(user.clone()).or_default();
        known.emails = Some(digest);
        known.read_at = Some(now);
    }

    /// An attribute was written.
    pub(super) fn wrote(&mut self, user: &UserId, attribute: &Attribute) {
        match attribute {
            Attribute::DisplayName(name) => {
                let digest = self.digest_of_name(name);
                self.attributes.entry(user.clone()).or_default().name = Some(digest);
            }
            Attribute::Emails { digest, .. } => {
                let known = self.attributes.entry(user.clone()).or_default();
                known.emails = Some(digest.clone());
                known.refused = None;
            }
            Attribute::Avatar(avatar) => {
                self.sends_avatar(user, avatar.upload());
                self.dealt_with_photo(user, avatar.photo.digest.clone());
            }
            Attribute::NoAvatar { .. } => self.removed_avatar(user),
        }
    }

    /// An attribute was not written, for certain.
    pub(super) fn could_not_write(&mut self, user: &UserId, attribute: &Attribute, now: Timestamp) {
        match attribute {
            Attribute::Emails { digest, .. } => {
                let until = now.plus_ms(REFUSED_MS);
                self.attributes.entry(user.clone()).or_default().refused = Some((digest.clone(), until));
            }
            // What of these the homeserver will not have is told apart where its answer is known.
            Attribute::DisplayName(_) | Attribute::Avatar(_) | Attribute::NoAvatar { .. } => {}
        }
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
    }
}
