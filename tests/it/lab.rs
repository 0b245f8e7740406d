//! Real servers on loopback, started by the tests that use them and ended with them.

pub mod company;
pub mod dice;
pub mod graph;
pub mod ports;
pub mod postgres;
mod programs;
pub mod proxy;
pub mod registered;
pub mod slapd;
pub mod smtp;
pub mod synapse;
