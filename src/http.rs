//! usher's own listeners.

pub mod ops;
