//! What is done to an account, as data (S-50 to S-53).
//!
//! Pure. Never shows a mail address.

use std::fmt;
use std::sync::Arc;

use crate::ids::{RoomId, StableId, UserId};
use crate::ledger::Digest;

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
    SetDisplayName(Arc<str>),
    SetEmails {
        emails: Emails,
        digest: Digest,
    },
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
