//! What a pass teaches: what is written into the ledger once it is over (S-85). A dry run drops it.
//!
//! Values only; the ledger takes them in.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{EventId, Key, RoomId, UserId};
use crate::ledger::{Digest, GroupMemory, LeaverNews};

/// Something to remember after the pass, or (`Vanished`) to forget: nothing carries the key any more, and nothing is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    Entitled {
        key: Key,
        levels: Arc<BTreeMap<UserId, i64>>,
    },
    Vanished(Key),
    Forgiven {
        room: RoomId,
        user: UserId,
        event: EventId,
    },
    Group {
        external_id: String,
        memory: GroupMemory,
    },
    Mode {
        mirrored: bool,
    },
    Leaver {
        user: UserId,
        news: LeaverNews,
    },
    /// The directory's display name or photo of somebody was dealt with (S-50).
    Named {
        user: UserId,
        what: Dealt,
    },
}

/// What was dealt with: written, or left out for what the person chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dealt {
    Name(Digest),
    Photo(Digest),
}
