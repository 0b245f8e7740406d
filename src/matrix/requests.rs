//! One request as a value, and the counts of those made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::ids::UserId;

/// How long an ordinary request may take. Synapse answers a large room's state or a full power-level event in a few seconds.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The methods usher uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What a request carries.
#[derive(Clone)]
pub(super) enum Body {
    Json(Value),
    Media { bytes: Arc<[u8]>, media_type: &'static str },
}

/// A request to be sent. Its `Debug` shows the endpoint only.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    /// The path with `{}` where ids go: the label in metrics, so that these stay bounded.
    pub(super) endpoint: &'static str,
    /// Path and query, escaped.
    pub(super) target: String,
    pub(super) body: Option<Body>,
    pub(super) timeout: Duration,
    /// What is attempted on what, for errors.
    pub(super) attempt: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.endpoint)
    }
}

impl Request {
    fn new(method: Method, endpoint: &'static str, ids: &[&str]) -> Self {
        let target = fill(endpoint, ids);
        let attempt = format!("{} {target}", method.as_str());
        Self { method, endpoint, target, body: None, timeout: TIMEOUT, attempt }
    }

    pub(super) fn get(endpoint: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::Get, endpoint, ids)
    }

    pub(super) fn put(endpoint: &'static str, ids: &[&str], body: Value) -> Self {
        Self { body: Some(Body::Json(body)), ..Self::new(Method::Put, endpoint, ids) }
    }

    pub(super) fn post(endpoint: &'static str, ids: &[&str], body: Value) -> Self {
        Self { body: Some(Body::Json(body)), ..Self::new(Method::Post, endpoint, ids) }
    }

    pub(super) fn upload(endpoint: &'static str, bytes: Arc<[u8]>, media_type: &'static str) -> Self {
        Self { body: Some(Body::Media { bytes, media_type }), ..Self::new(Method::Post, endpoint, &[]) }
    }

    pub(super) fn delete(endpoint: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::Delete, endpoint, ids)
    }

    /// Adds a query parameter.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        escape(value, &mut self.target);
        self
    }

    /// As a user of the registration's namespaces.
    pub(super) fn on_behalf_of(self, user: &UserId) -> Self {
        self.with("user_id", user.as_str())
    }

    /// What is attempted on what, as errors say it.
    pub(super) fn to(mut self, attempt: impl Into<String>) -> Self {
        self.attempt = attempt.into();
        self
    }

    pub(super) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(super) fn attempt(&self) -> &str {
        &self.attempt
    }

    pub(super) fn is_write(&self) -> bool {
        self.method != Method::Get
    }
}

/// Puts `ids`, escaped, where `endpoint` says `{}`.
fn fill(endpoint: &str, ids: &[&str]) -> String {
    let mut target = String::with_capacity(endpoint.len() + 64);
    let mut ids = ids.iter();
    for (index, part) in endpoint.split("{}").enumerate() {
        if index > 0 {
            escape(ids.next().copied().unwrap_or_default(), &mut target);
        }
        target.push_str(part);
    }
    target
}

/// Percent-encodes everything but RFC 3986's unreserved characters: room ids hold `!` and `:`, aliases `#`, and localparts may hold `/`.
fn escape(text: &str, out: &mut String) {
    use fmt::Write as _;
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// How often what was asked, by method, endpoint and answer.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<(Method, &'static str, String), u64>>);

/// One line of [`Requests::counts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCount {
    pub method: &'static str,
    /// The path with `{}` in the place of ids.
    pub endpoint: &'static str,
    /// HTTP status, or `none` when no answer came.
    pub code: String,
    pub count: u64,
}

impl Requests {
    pub(super) fn record(&self, request: &Request, status: Option<u16>) {
        let code = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *counts.entry((request.method, request.endpoint, code)).or_default() += 1;
    }

    /// All counts since the start, in one order.
    #[must_use]
    pub fn counts(&self) -> Vec<RequestCount> {
        let counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let line = |((method, endpoint, code), count): (&(Method, &'static str, String), &u64)| RequestCount {
            method: method.as_str(),
            endpoint,
            code: code.clone(),
            count: *count,
        };
        counts.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_escaped_into_the_path_and_the_query() {
        let request = Request::get("/rooms/{}/state/{}", &["!a/b:x y", "m.space.child"]).with("user_id", "@ü&=:x");
        assert_eq!(request.target, "/rooms/%21a%2Fb%3Ax%20y/state/m.space.child?user_id=%40%C3%BC%26%3D%3Ax");
        assert_eq!(request.with("from", "1").target.matches('?').count(), 1);
    }

    #[test]
    fn requests_are_counted_by_endpoint_and_answer_without_ids() {
        let requests = Requests::default();
        for room in ["!a", "!b"] {
            requests.record(&Request::get("/rooms/{}/state", &[room]), Some(200));
        }
        requests.record(&Request::get("/rooms/{}/state", &["!c"]), None);
        let counts: Vec<_> = requests.counts().into_iter().map(|line| (line.code, line.count)).collect();
        assert_eq!(counts, [("200".to_owned(), 2), ("none".to_owned(), 1)]);
    }
}
