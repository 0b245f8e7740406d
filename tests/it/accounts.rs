//! Accounts: what holds of every history of leaving, returning, crashing and wrong clocks, and what a pass costs.

pub mod backends;
mod claims;
mod mas;
mod office;
mod orders;
mod proportions;
mod service;
mod simulator;
mod unserved;
