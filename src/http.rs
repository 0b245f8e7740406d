//! usher's own listeners: operations, and the homeserver's transactions where they are wanted; each on its own address, each ended
//! through a cancellation token.

pub mod appservice;
pub mod ops;
