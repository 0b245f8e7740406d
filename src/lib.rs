//! usher keeps a Synapse (Matrix) homeserver in line with an organisation's directory.
//!
//! ```text
//!  LDAP / file (Graph, SCIM)                      Synapse
//!         | Bridge::fetch                          ^         | full reads, /sync feed
//!         v                                        |         v
//!     Directory -- desired::desire(config) --> Desired    Observed  <- Observed::fold(event)
//!                                                  \        /
//!                   plan::plan(&Desired, &Observed, &Scope, now) -> Plan     PURE: no async, no I/O, no clock
//!                                                     |
//!                   plan::guard(&mut Plan, ...)  withholds, never adds       PURE
//!                                                     |
//!                 render (text, JSON) <----------- Plan -----> execute::run -> Actuator::perform   ALL SIDE EFFECTS
//!                                                                  |
//!                                              outcome -> Observed, ledger, metrics, status
//! ```

// -- what is asked for
pub mod config;
// -- what things are (pure)
pub mod desired;
pub mod directory;
pub mod ids;
pub mod ledger;
pub mod observed;
// -- deciding (pure)
pub mod plan;
// -- doing
pub mod actuate;
pub mod app;
pub mod bridge;
pub mod cli;
pub mod clock;
pub mod execute;
pub mod http;
pub mod matrix;
pub mod observability;
pub mod reconcile;
pub mod store;
