//! One state event into what is observed.

use serde_json::Value;

use crate::ids::{EventId, UserId};

/// A state event, from `/state`, `/sync` or a transaction: the same shape everywhere.
#[derive(Clone, Debug)]
pub struct StateEvent {
    /// The event type, `m.room.member` and so on.
    pub kind: String,
    pub state_key: String,
    pub sender: UserId,
    pub event_id: EventId,
    pub content: Value,
}
