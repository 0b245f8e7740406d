//! What is done to an account, as data (S-50 to S-53).
//!
//! Pure. Never shows a mail address, and holds no photo's bytes.

use std::fmt;
use std::sync::Arc;

use crate::ids::{RoomId, StableId, UserId};
use crate::ledger::{Digest, Given, Photo, Upload};

/// What is done to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountDeed {
    /// Ends every session at once and keeps memberships and levels (S-52).
    Lock {
        /// Whose account it was in the directory.
        id: Option<StableId>,
    },
    Unlock,
    /// A locked account still gets push messages otherwise (S-52).
    RemovePushers,
    /// An invitation to a room usher is not in is turned down as the person (S-52).
    TurnDown {
        room: RoomId,
        text: Arc<str>,
    },
    /// A room whose last administrator the person is gets another one (S-53, S-86).
    HandOver {
        room: RoomId,
        to: UserId,
    },
    /// The final step (S-53).
    Close(End),
    /// Something follows the directory (S-50).
    Set(Attribute),
}

/// What of an account follows the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    DisplayName(Arc<str>),
    Emails {
        emails: Emails,
        digest: Digest,
    },
    /// The directory has no address of the person any more: those that usher gave are taken back, and no others.
    NoEmails(Given),
    Avatar(Box<Avatar>),
    /// The photo is gone from the directory: so is the avatar, if it is still this one.
    NoAvatar {
        url: Arc<str>,
    },
}

/// A photo that becomes an avatar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avatar {
    pub photo: Photo,
    /// Its `mxc://` URI, once it is uploaded; until then it cannot be set.
    pub uploaded: Option<Arc<str>>,
    /// What is the avatar now: whatever else it has become meanwhile is left alone.
    pub standing: Option<Arc<str>>,
}

impl Avatar {
    /// Where it is on the homeserver; where nothing was uploaded because nothing is sent, a place that stands for it.
    #[must_use]
    pub fn upload(&self) -> Upload {
        let digest = self.photo.digest.clone();
        let url = self.uploaded.clone().unwrap_or_else(|| format!("mxc://unsent/{}", self.photo.short()).into());
        Upload { digest, url }
    }
}

impl Attribute {
    /// What is done, in a word or two.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::DisplayName(_) => "name",
            Self::Emails { .. } => "give",
            Self::NoEmails(_) => "take back addresses of",
            Self::Avatar(_) => "set avatar",
            Self::NoAvatar { .. } => "remove avatar",
        }
    }

    /// What it becomes, as part of a step's identity: what the directory says anew is another change, not the same one undone.
    #[must_use]
    pub(super) fn identity(&self) -> &str {
        match self {
            Self::DisplayName(name) => name,
            Self::Emails { digest, .. } => &digest.0,
            Self::NoEmails(_) => "no address",
            Self::Avatar(avatar) => &avatar.photo.digest.0,
            Self::NoAvatar { url } => url,
        }
    }
}

/// What the final step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// AIM's way: the account and what names the person are gone.
    Erase,
    Deactivate,
}

/// Mail addresses in normal form. Never shown, whatever prints the plan.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Emails(pub Vec<String>);

impl fmt::Debug for Emails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses", self.0.len())
    }
}
