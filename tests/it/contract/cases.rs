//! The cases both homeservers must pass, by subject.

pub mod accounts;
pub mod adoption;
pub mod feed;
pub mod identity;
pub mod members;
pub mod power;
pub mod reads;
pub mod rooms;
pub mod upgrades;
