//! What a client is told when a request cannot be done (RFC 7644 section 3.12). Details name attributes, never their values.

use serde_json::{Value, json};

/// URN of every error body.
pub const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

/// A refusal, with the status it is answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Error {
    pub status: u16,
    /// One of the registered `scimType` words.
    pub kind: Option<&'static str>,
    pub detail: String,
}

impl Error {
    /// A refusal without a `scimType`.
    #[must_use]
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { status, kind: None, detail: detail.into() }
    }

    fn typed(status: u16, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind: Some(kind), detail: detail.into() }
    }

    pub fn invalid_filter(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidFilter", detail)
    }

    pub fn uniqueness(detail: impl Into<String>) -> Self {
        Self::typed(409, "uniqueness", detail)
    }

    pub fn mutability(detail: impl Into<String>) -> Self {
        Self::typed(400, "mutability", detail)
    }

    pub fn invalid_syntax(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidSyntax", detail)
    }

    pub fn invalid_path(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidPath", detail)
    }

    pub fn no_target(detail: impl Into<String>) -> Self {
        Self::typed(400, "noTarget", detail)
    }

    pub fn invalid_value(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidValue", detail)
    }

    pub fn invalid_cursor(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidCursor", detail)
    }

    #[must_use]
    pub fn expired_cursor() -> Self {
        Self::typed(400, "expiredCursor", "the cursor has expired; begin again with an empty one")
    }

    pub fn invalid_count(detail: impl Into<String>) -> Self {
        Self::typed(400, "invalidCount", detail)
    }

    /// There is no such resource (any more).
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(404, format!("there is no {what} with this id"))
    }

    /// The body that says so.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({ "schemas": [ERROR], "status": self.status.to_string(), "detail": self.detail });
        if let Some(kind) = self.kind {
            body["scimType"] = kind.into();
        }
        body
    }
}
