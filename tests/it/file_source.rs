//! The `file` source.
