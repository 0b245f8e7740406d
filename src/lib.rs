//! usher keeps a Synapse (Matrix) homeserver in line with an organisation's directory.
//!
//! ```text
//!  LDAP / Graph / SCIM / file                      Synapse
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
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | Snapshot | what a bridge read: people and groups as the source has them, complete or not |
//! | Directory | a Snapshot flattened: group → all its users |
//! | Desired | what Matrix should look like, with the policy that says how far to go for it |
//! | Observed | what the homeserver says; unknown is not empty |
//! | Plan, Step | the ordered difference; one change with its reason, perhaps withheld |
//! | Ledger | what Matrix cannot tell: people seen, absences, locks and grace, removals of 24 hours, approvals |
//! | key | the identity of a managed space or room, whatever room carries it |
//! | suspended | a person nobody has decided about: no step touches them |
//!
//! # What always holds
//!
//! 1. Everything between reading and writing is pure; `now` is an argument.
//! 2. From an incomplete read nothing is removed; an absence needs two complete reads.
//! 3. A removal can be made in one place only, after protected, foreign and suspended people are excluded.
//! 4. The guard withholds, it never adds; removals are written down before they are done.
//! 5. A dry run builds no [`actuate::Actuator`].
//! 6. A room is ours by its create event, its marker and its fencing alias, all of which live in Matrix.
//!
//! # Where do I change …
//!
//! | what | where |
//! |---|---|
//! | a setting | `config.rs` (its type), `config/` (its reading), `config.sample.yaml`, `docs/configuration.md` |
//! | a source | one file under `bridge/`, one line in [`bridge::build`] |
//! | what a SCIM client may say, and what it means | `scim/`; where it is kept: `store/scim/`; how it comes in: `http/scim/` |
//! | who belongs where | `desired/rules.rs`, `desired/groups.rs`, `desired/people.rs` |
//! | what is done about a difference | `plan/rooms.rs`, `plan/members.rs`, `plan/levels.rs` |
//! | rooms that people made | `plan/takeover.rs`, `plan/reach.rs` (what the bot can do itself), `plan/creators.rs` |
//! | what people replaced by an upgrade | `plan/succession.rs` |
//! | rooms and spaces to adopt | `plan/adoption.rs`, `reconcile/adoption.rs` |
//! | what is given up | `plan/gc.rs` |
//! | who is locked, unlocked, erased | `plan/accounts.rs`, `ledger/leavers.rs`, clocks: `ledger/clocks.rs` |
//! | names, addresses, photos | `plan/attributes.rs`; photos: `bridge/ldap/photos.rs`, `bridge/msgraph/photos.rs`, `plan/avatars.rs`, `reconcile/photos.rs` |
//! | what a leaver leaves behind, and who gets it | `plan/estate.rs`, `reconcile/estates.rs` |
//! | how an account is made or changed | `account.rs`, one file a backend under `account/`; orders of SCIM clients: `account/registrar.rs` |
//! | a limit or a hold | `plan/guard.rs` |
//! | a new kind of change | `plan::Action`, and the four matches its compiler errors name |
//! | a request to the homeserver | `matrix/` |
//! | when things happen | `reconcile/daemon.rs`; fights: `reconcile/fights.rs`; the bot's own place: `reconcile/standing.rs`, `plan/lenders.rs` |
//! | what the homeserver brings | `matrix/feed.rs`; its transactions, which only hint: `http/appservice.rs` |
//! | what people are written | `templates/`, `mail/`; what operators are told, and what they may answer there: `operators/` |
//! | how listeners serve, and their bounds | `http/serve.rs` |
//! | what a verb prints | `cli/`, `plan/render.rs` |

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
// -- what a SCIM client may say (pure)
pub mod scim;
// -- doing
pub mod account;
pub mod actuate;
pub mod app;
pub mod bridge;
pub mod cli;
pub mod clock;
pub mod execute;
pub mod http;
pub mod mail;
pub mod matrix;
pub mod observability;
pub mod operators;
pub mod reconcile;
pub mod store;

/// Gives back what was freed, which the system's own allocator keeps: a large directory is read again and again. `SQLite` takes its memory from
/// it, too; both are set up in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
