//! SCIM 2.0 as values (RFC 7643, RFC 7644, RFC 9865): what resources, filters, paths and changes are, and what they mean.
//!
//! Pure: no I/O, no clock, no randomness. `store::scim` keeps what is decided here, `http::scim` carries it.

pub mod access;
pub mod body;
pub mod bulk;
pub mod discovery;
mod distinct;
pub mod document;
pub mod error;
pub mod evaluate;
pub mod filter;
pub mod list;
pub mod patch;
pub mod projection;
pub mod route;
pub mod schema;

pub use error::Error;
pub use schema::{Kind, Schema};

/// A resource's attributes by their canonical names, extensions under their URN. Never holds `id`, `meta`, `schemas`, and nothing
/// that is kept elsewhere (`members`) or derived (`groups`).
pub type Document = serde_json::Map<String, serde_json::Value>;

/// How names that are not case-exact are compared and kept in an index.
#[must_use]
pub fn fold(text: &str) -> String {
    text.to_lowercase()
}

/// The entity tag of a version (RFC 7644 section 3.14); weak, because a projection changes the bytes and not the version.
#[must_use]
pub fn etag(version: i64) -> String {
    format!("W/\"{version}\"")
}
