//! The cases.

pub mod feed;
pub mod identity;
pub mod members;
pub mod reads;
pub mod rooms;
