//! What goes wrong with Microsoft Graph and with its login, in words that say what to do.
//!
//! Quotes codes, and texts only of requests that Graph did not understand; never a secret, a token or a mail address.

use std::time::Duration;

use serde::Deserialize;

use crate::bridge::SourceError;
use crate::bridge::tally::hide_addresses;

/// Longest part of Graph's own words that is passed on, and the longest word in it: a token would be one.
const LONGEST_TEXT: usize = 200;
const LONGEST_WORD: usize = 40;

/// A request that brought nothing.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What was attempted on what, without secrets.
    pub attempted: String,
    pub cause: String,
    /// Whether it may be gone at a later read.
    pub retry: bool,
    /// Whether the same request is worth repeating now.
    pub again: Again,
    pub status: Option<u16>,
    pub code: String,
    /// By which Microsoft finds the request.
    pub request_id: Option<String>,
}

/// What may be done at once about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    No,
    /// A hiccup.
    Soon,
    /// Too much was asked, or the service is busy; how long it wants to be left alone, if it says.
    Later(Option<Duration>),
}

impl Trouble {
    /// Without an answer that could be read.
    #[must_use]
    pub fn away(attempted: &str, cause: impl Into<String>) -> Self {
        Self {
            attempted: attempted.to_owned(),
            cause: cause.into(),
            retry: true,
            again: Again::Soon,
            status: None,
            code: String::new(),
            request_id: None,
        }
    }

    /// An answer that is not what Graph documents; asking again will not change it.
    #[must_use]
    pub fn odd(attempted: &str, cause: impl Into<String>) -> Self {
        Self { again: Again::No, ..Self::away(attempted, cause) }
    }

    /// For an operator: with the id that Microsoft's support asks for.
    #[must_use]
    pub fn in_full(&self) -> String {
        let id = self.request_id.as_ref().map(|id| format!(" [request-id {id}]")).unwrap_or_default();
        format!("{}: {}{id}", self.attempted, self.cause)
    }
}

impl From<Trouble> for SourceError {
    /// Says the request's id in the log only: what is told twice in the same words is told once.
    fn from(trouble: Trouble) -> Self {
        if let Some(request_id) = &trouble.request_id {
            tracing::warn!(request_id, attempted = trouble.attempted, code = trouble.code, "Microsoft Graph refused");
        }
        Self { attempted: trouble.attempted, cause: trouble.cause, retry: trouble.retry }
    }
}

/// Graph's own account of what went wrong.
#[derive(Debug, Default, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    error: Account,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    code: Option<String>,
    message: Option<String>,
    #[serde(rename = "innerError")]
    inner: Option<Inner>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Inner {
    #[serde(rename = "request-id")]
    request_id: Option<String>,
}

/// What a request needed, for the texts.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// `read the users`.
    pub what: &'static str,
    /// The application permission it takes.
    pub permission: &'static str,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Answered<'a> {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub request_id: Option<String>,
    pub body: &'a [u8],
}

/// What Graph means by such an answer.
#[must_use]
pub fn refused(attempted: &str, purpose: Purpose, answer: Answered<'_>) -> Trouble {
    let Answered { status, retry_after, request_id, body } = answer;
    let Refusal { error } = serde_json::from_slice(body).unwrap_or_default();
    let code = word(error.code.as_deref().unwrap_or_default());
    let message = error.message.unwrap_or_default();
    let request_id = request_id.or(error.inner.and_then(|inner| inner.request_id)).map(|id| word(&id));
    let said = if code.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}, {code}") };
    let (cause, retry, again) = match status {
        401 => {
            let cause = "Graph does not accept a token it was just given: do base_url, login_url and scopes belong to one cloud?";
            (format!("{cause} [{said}]"), true, Again::No)
        }
        403 => (
            format!(
                "the app registration may not: give it the application permission {} and grant admin consent [{said}]",
                purpose.permission
            ),
            false,
            Again::No,
        ),
        400 | 501 => {
            (format!("Graph does not understand the request: {} [{said}]", quoted(&message)), false, Again::No)
        }
        429 => (format!("Graph wants to be asked less often [{said}]"), true, Again::Later(retry_after)),
        503 | 504 => (format!("Graph is not available just now [{said}]"), true, Again::Later(retry_after)),
        500.. => (format!("Graph failed [{said}]"), true, Again::Soon),
        _ => (format!("Graph refuses [{said}]"), true, Again::No),
    };
    // Kept for who must tell one 404 from another: Graph has been seen to put the kind of error into the text.
    let code = if message.contains("ImageNotFoundException") { "ImageNotFound".to_owned() } else { code };
    tracing::debug!(status, code, request_id, attempted, "Microsoft Graph refuses");
    Trouble { attempted: attempted.to_owned(), cause, retry, again, status: Some(status), code, request_id }
}

/// One word of a foreign text, fit to be shown.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(LONGEST_WORD).collect()
}

/// The beginning of a foreign text, without what could be an address, a secret or a token.
fn quoted(text: &str) -> String {
    let shown = text.split_whitespace().filter(|word| word.len() <= LONGEST_WORD).collect::<Vec<_>>().join(" ");
    hide_addresses(&shown).chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

/// What the login answers instead of a token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoginRefusal {
    error: String,
    error_codes: Vec<u64>,
    error_description: String,
    trace_id: Option<String>,
}

impl LoginRefusal {
    /// Microsoft's number for it: `AADSTS7000215` is 7000215.
    fn number(&self) -> Option<u64> {
        let written = || {
            let (_, after) = self.error_description.split_once("AADSTS")?;
            after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        self.error_codes.first().copied().or_else(written)
    }
}

/// Why there is no token, and what to do.
#[must_use]
pub fn login_refused(attempted: &str, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Trouble {
    let refusal: LoginRefusal = serde_json::from_slice(body).unwrap_or_default();
    let number = refusal.number();
    let said =
        number.map_or_else(|| format!("HTTP {status} {}", word(&refusal.error)), |number| format!("AADSTS{number}"));
    let busy = status == 429 || status >= 500 || refusal.error == "temporarily_unavailable";
    let cause = match number.and_then(login_remedy) {
        Some(remedy) => remedy.to_owned(),
        None if busy => "the login is not available just now".to_owned(),
        None => "the login refuses; https://login.microsoftonline.com/error explains the number".to_owned(),
    };
    let (code, request_id) = (said.trim_end().to_owned(), refusal.trace_id.map(|id| word(&id)));
    tracing::debug!(status, code, trace_id = request_id, "no token for Microsoft Graph");
    let again = if busy { Again::Later(retry_after) } else { Again::No };
    let cause = format!("{cause} [{code}]");
    Trouble { attempted: attempted.to_owned(), cause, retry: busy, again, status: Some(status), code, request_id }
}

fn login_remedy(number: u64) -> Option<&'static str> {
    Some(match number {
        7_000_215 => {
            "client_secret is wrong: it must be the Value that was shown when the secret was made, not the Secret ID"
        }
        7_000_222 => {
            "the client secret has expired: make a new one under \"Certificates & secrets\" and configure its Value"
        }
        700_016 => {
            "client_id is no app registration of this tenant: compare client_id and tenant_id with its overview page"
        }
        7_000_112 => "the app registration is disabled: enable it under \"Enterprise applications\"",
        90_002 | 900_021 | 900_023 => {
            "tenant_id names no tenant of this cloud: compare it with the overview page; a national cloud needs its own base_url"
        }
        500_011 | 650_057 => {
            "`scopes` names a resource that this tenant does not have: it must fit the cloud of base_url"
        }
        70_011 | 1_002_012 => "`scopes` must be the resource followed by /.default",
        53_003 => {
            "a Conditional Access policy of the tenant forbids it: exclude the app, or let it in from this address"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: Purpose = Purpose { what: "read the users", permission: "User.Read.All" };

    fn answer(status: u16, body: &str) -> Trouble {
        let answered = Answered { status, retry_after: None, request_id: None, body: body.as_bytes() };
        refused("read the users", USERS, answered)
    }

    #[test]
    fn a_missing_permission_is_named_and_not_tried_again() {
        let body = r#"{"error":{"code":"Authorization_RequestDenied","message":"Insufficient privileges",
                       "innerError":{"request-id":"a-1"}}}"#;
        let trouble = answer(403, body);
        assert_eq!(
            trouble.in_full(),
            "read the users: the app registration may not: give it the application permission User.Read.All and grant admin consent \
             [HTTP 403, Authorization_RequestDenied] [request-id a-1]"
        );
        assert_eq!((trouble.retry, trouble.again), (false, Again::No));
    }

    #[test]
    fn what_graph_quotes_of_us_is_left_out() {
        let token = "x".repeat(60);
        let body = format!(
            r#"{{"error":{{"code":"Request_BadRequest","message":"No property 'uid' for ann@example.org {token} on type User"}}}}"#
        );
        assert_eq!(
            answer(400, &body).cause,
            "Graph does not understand the request: No property 'uid' for … on type User [HTTP 400, Request_BadRequest]"
        );
        assert_eq!(answer(404, "<html>").cause, "Graph refuses [HTTP 404]");
    }

    #[test]
    fn a_login_that_refuses_for_good_is_told_from_one_that_is_busy() {
        let refusal = |status, body: &str| login_refused("get a token", status, None, body.as_bytes());
        let wrong = refusal(401, r#"{"error":"invalid_client","error_codes":[7000215]}"#);
        assert!(wrong.cause.starts_with("client_secret is wrong") && wrong.cause.ends_with("[AADSTS7000215]"));
        assert_eq!((wrong.retry, wrong.again), (false, Again::No));
        let expired =
            refusal(401, r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided ..."}"#);
        assert!(expired.cause.contains("has expired"), "{}", expired.cause);
        let other = refusal(400, r#"{"error":"invalid_grant","error_codes":[1]}"#);
        assert_eq!((other.retry, other.cause.ends_with("[AADSTS1]")), (false, true));
        let busy = refusal(503, "");
        assert_eq!((busy.retry, busy.again), (true, Again::Later(None)));
    }
}
