//! The hand: everything usher does to the homeserver goes through an [`Actuator`].
//!
//! A dry run builds none (DESIGN decision 3). `LiveActuator` is the exhaustive match from [`Action`] to requests; the tests' fake
//! homeserver is another.

use async_trait::async_trait;

use crate::ids::{EventId, RoomId};
use crate::plan::Action;

/// What came back from one action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The room a `CreateRoom` made or found.
    pub room: Option<RoomId>,
    /// The event a write produced.
    pub event: Option<EventId>,
    /// The room was there already: our own, half-made or made by a call whose answer got lost. Re-read it before relying on it.
    pub found: bool,
}

/// Why an action did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct ActError {
    pub attempted: String,
    pub cause: String,
    /// Matrix error code, if the homeserver gave one.
    pub code: Option<String>,
    pub kind: ActErrorKind,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActErrorKind {
    /// Outcome unknown or homeserver away: re-read, then plan again.
    Retry,
    /// The world is not as planned (already joined, not in the room): re-read that room.
    Stale,
    /// The homeserver refuses this person (invite blocked, suspended): typed, reported, not retried in a loop (S-19).
    Refused,
    /// usher lacks a right.
    Forbidden,
    /// The token is not accepted: nothing will work until an operator acts.
    Fatal,
}

/// Does actions.
#[async_trait]
pub trait Actuator: Send + Sync {
    /// Does one action. Rooms of the same plan are already resolved: every `RoomRef` is an id, except the room to be created.
    ///
    /// # Errors
    /// [`ActError`], classified.
    async fn perform(&self, action: &Action) -> Result<Outcome, ActError>;
}
