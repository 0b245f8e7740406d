//! The whole program against a real Synapse: the `usher` binary as a child process with a written configuration, and the counting proxy
//! between the two.

mod accounts;
mod acknowledged;
mod aliases;
mod avatars;
mod brownfield;
pub mod child;
mod cleanup;
mod crashes;
mod daemon;
mod drill;
mod estates;
mod first;
mod graph;
mod holds;
mod identities;
mod instances;
mod kills;
mod live;
mod mail;
mod matrix;
mod offboarding;
mod opened;
mod operators;
mod outages;
mod people;
mod place;
mod registration;
mod scim;
mod stage;
mod takeover;
mod transactions;
mod upgrades;
mod verbs;
mod walk;
mod world;
