//! usher's own listeners: operations here; each on its own address, each ended through a cancellation token.

pub mod ops;
