//! What is remembered of people's photos in the directory, and of the avatars made of them (S-50).
//!
//! Pure. Knows a photo by its digest, size and kind; the bytes are kept nowhere.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Digest, Ledger};
use crate::directory::Stamp;
use crate::ids::UserId;

/// The largest photo that becomes an avatar, in bytes: what a directory holds for faces is a tenth of it.
pub const LARGEST_PHOTO: u64 = 1 << 20;
/// Characters of a digest that are shown.
const SHOWN: usize = 12;

/// A kind of picture that every client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureKind {
    Jpeg,
    Png,
    Gif,
}

impl PictureKind {
    /// The kind by the first bytes, which say it in all three formats; names and attributes do not count.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let begins = |signature: &[u8]| bytes.starts_with(signature);
        if begins(&[0xff, 0xd8, 0xff]) {
            Some(Self::Jpeg)
        } else if begins(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if begins(b"GIF87a") || begins(b"GIF89a") {
            Some(Self::Gif)
        } else {
            None
        }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
        }
    }
}

/// A photo without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Photo {
    /// SHA-256 of the bytes, as `sha256sum` prints it.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// `None`: none that becomes an avatar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PictureKind>,
}

impl Photo {
    /// What is to be known of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest(hex::encode(Sha256::digest(bytes))),
            size: bytes.len() as u64,
            kind: PictureKind::of(bytes),
        }
    }

    /// Why it cannot become an avatar, if so.
    #[must_use]
    pub fn flaw(&self) -> Option<&'static str> {
        if self.size > LARGEST_PHOTO {
            Some("the photo is larger than 1 MiB")
        } else if self.kind.is_none() {
            Some("the photo is neither JPEG nor PNG nor GIF")
        } else {
            None
        }
    }

    /// The beginning of its digest.
    #[must_use]
    pub fn short(&self) -> &str {
        self.digest.0.get(..SHOWN).unwrap_or(&self.digest.0)
    }
}

impl fmt::Display for Photo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kB, {}", self.size.div_ceil(1000), self.short())
    }
}

/// A photo on the homeserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub digest: Digest,
    /// `mxc://` URI.
    pub url: Arc<str>,
}

/// What is remembered of one person's photo and avatar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Portrait {
    /// The entry's change stamp when its photo was last looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The photo it had then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub photo: Option<Photo>,
    /// The homeserver does not take that photo.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The photo last dealt with: it became the avatar, or was left out for one that the person chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dealt: Option<Digest>,
    /// What usher made the avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hung: Option<Arc<str>>,
    /// What was uploaded to be the avatar; whether it is one yet is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Upload>,
}

impl Portrait {
    /// Where a photo is on the homeserver, if it was uploaded.
    #[must_use]
    pub fn uploaded(&self, digest: &Digest) -> Option<&Arc<str>> {
        let sent = self.sent.as_ref().filter(|sent| sent.digest == *digest).map(|sent| &sent.url);
        sent.or_else(|| self.hung.as_ref().filter(|_| self.dealt.as_ref() == Some(digest)))
    }
}

impl Ledger {
    /// What is remembered of somebody's photo; `None`: it was never looked at.
    #[must_use]
    pub fn portrait(&self, user: &UserId) -> Option<&Portrait> {
        self.attributes.get(user)?.portrait.as_deref()
    }

    /// The same, if somebody's entry has not changed since; without a stamp nobody can tell.
    #[must_use]
    pub fn portrait_at(&self, user: &UserId, stamp: Option<&Stamp>) -> Option<&Portrait> {
        self.portrait(user).filter(|portrait| stamp.is_some() && portrait.stamp.as_ref() == stamp)
    }

    fn portrait_mut(&mut self, user: &UserId) -> &mut Portrait {
        self.attributes.entry(user.clone()).or_default().portrait.get_or_insert_default()
    }

    /// Somebody's entry was looked at.
    pub fn saw_photo(&mut self, user: &UserId, stamp: Stamp, photo: Option<Photo>) {
        let portrait = self.portrait_mut(user);
        portrait.stamp = Some(stamp);
        portrait.refused &= portrait.photo == photo;
        portrait.photo = photo;
    }

    /// The homeserver will not have the photo that was seen: it is left alone until it is another one.
    pub fn refuse_photo(&mut self, user: &UserId) {
        self.portrait_mut(user).refused = true;
    }

    /// A photo was uploaded, and is about to become the avatar: a crash must not leave one that nobody knows to be usher's.
    pub(super) fn sends_avatar(&mut self, user: &UserId, upload: Upload) {
        self.portrait_mut(user).sent = Some(upload);
    }

    /// A photo was dealt with; as an avatar, if it was uploaded.
    pub(super) fn dealt_with_photo(&mut self, user: &UserId, digest: Digest) {
        let portrait = self.portrait_mut(user);
        if let Some(upload) = portrait.sent.take_if(|sent| sent.digest == digest) {
            portrait.hung = Some(upload.url);
        }
        portrait.dealt = Some(digest);
    }

    /// The avatar usher made was taken away.
    pub(super) fn removed_avatar(&mut self, user: &UserId) {
        let portrait = self.portrait_mut(user);
        (portrait.dealt, portrait.hung, portrait.sent) = (None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_by_their_first_bytes_and_nothing_else() {
        let kind = |bytes: &[u8]| Photo::of(bytes).kind.map(PictureKind::media_type);
        assert_eq!(kind(b"\xff\xd8\xff\xe0\x00\x10JFIF"), Some("image/jpeg"));
        assert_eq!(kind(b"\xff\xd8\xff\xe1\x00\x10Exif"), Some("image/jpeg"));
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n\x00"), Some("image/png"));
        assert_eq!((kind(b"GIF87a..."), kind(b"GIF89a...")), (Some("image/gif"), Some("image/gif")));
        for other in [&b""[..], b"\xff\xd8", b"\x89PNG\n", b"GIF88a", b"RIFF\0\0\0\0WEBP", b"<svg xmlns=", b"BM6\0"] {
            assert_eq!(kind(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_photo_is_known_by_its_digest_and_never_shown() {
        let photo = Photo::of(b"\xff\xd8\xff and so on");
        assert_eq!(photo.digest.0.len(), 64);
        assert_eq!(photo.flaw(), None);
        assert_eq!(photo.to_string(), format!("1 kB, {}", &photo.digest.0[..12]));
        assert_eq!(Photo::of(b"abc").digest.0, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut large = b"\xff\xd8\xff".to_vec();
        large.resize(1 << 20, 0);
        assert_eq!(Photo::of(&large).flaw(), None);
        large.push(0);
        assert_eq!(Photo::of(&large).flaw(), Some("the photo is larger than 1 MiB"));
        assert_eq!(Photo::of(b"BM").flaw(), Some("the photo is neither JPEG nor PNG nor GIF"));
    }

    #[test]
    fn a_refusal_lasts_until_the_photo_is_another_one() {
        let (mut ledger, ann) = (Ledger::default(), UserId::from("@ann:x"));
        ledger.saw_photo(&ann, "1".into(), Some(Photo::of(b"a")));
        ledger.refuse_photo(&ann);
        ledger.saw_photo(&ann, "2".into(), Some(Photo::of(b"a")));
        assert!(ledger.portrait(&ann).unwrap().refused, "the entry changed, its photo did not");
        ledger.saw_photo(&ann, "3".into(), Some(Photo::of(b"b")));
        assert!(!ledger.portrait(&ann).unwrap().refused);
    }

    #[test]
    fn what_was_sent_is_ours_once_it_is_dealt_with_and_nothing_else_is() {
        let (mut ledger, ann) = (Ledger::default(), UserId::from("@ann:x"));
        let (one, two) = (Photo::of(b"1").digest, Photo::of(b"2").digest);
        ledger.sends_avatar(&ann, Upload { digest: one.clone(), url: "mxc://x/1".into() });
        ledger.dealt_with_photo(&ann, two.clone());
        let known = ledger.portrait(&ann).unwrap();
        assert_eq!((&known.hung, known.sent.is_some()), (&None, true), "that was another photo");
        ledger.dealt_with_photo(&ann, one.clone());
        let known = ledger.portrait(&ann).unwrap();
        assert_eq!((known.hung.as_deref(), &known.sent, &known.dealt), (Some("mxc://x/1"), &None, &Some(one)));
        ledger.removed_avatar(&ann);
        assert_eq!(ledger.portrait(&ann), Some(&Portrait::default()));
    }
}
