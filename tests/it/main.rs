//! The one integration-test binary. `tests/run` installs what it needs and runs it; a missing component fails, never skips.

mod accounts;
mod appservice;
mod architecture;
mod configuration;
mod contract;
mod convergence;
mod end_to_end;
mod fake;
mod file_source;
mod graph_source;
mod histories;
mod lab;
mod ldap_source;
mod mail;
mod scenarios;
mod scim;
mod stores;
