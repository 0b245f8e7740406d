//! usher's own listeners: operations, the homeserver's transactions where they are wanted, SCIM where it is the source; each on its own
//! address, each ended through a cancellation token. Here is what they share: opening and bearer tokens; how they serve is in `serve`.

pub mod appservice;
pub mod ops;
pub mod scim;
mod serve;

use std::io;

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;

pub(crate) use serve::serve;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} ({key}): {cause}; {remedy}")]
pub struct BindError {
    listen: String,
    /// The setting that named the address.
    key: &'static str,
    cause: io::Error,
    remedy: &'static str,
}

/// Opens the listener that the setting `key` asks for.
async fn bind(listen: &str, key: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(listen).await.map_err(|cause| {
        let remedy = match cause.kind() {
            io::ErrorKind::AddrInUse => "another process has that port: stop it or choose another",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: use one of its own, or 0.0.0.0",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
            _ => "write it as address:port, for example 127.0.0.1:8042",
        };
        BindError { listen: listen.to_owned(), key, cause, remedy }
    })
}

/// The token a caller shows, in the header only: in a query it would end up in access logs.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether `shown` is the token; compared in constant time. An empty one is none.
fn is_token(shown: &str, token: &SecretString) -> bool {
    !shown.is_empty() && bool::from(shown.as_bytes().ct_eq(token.expose_secret().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_setting_and_a_remedy() {
        let first = bind("127.0.0.1:0", "ops.listen").await.unwrap();
        let taken = first.local_addr().unwrap().to_string();
        let error = bind(&taken, "appservice.listen").await.unwrap_err().to_string();
        assert!(error.contains(&taken) && error.contains("another process has that port"), "{error}");
        assert!(error.contains("(appservice.listen)"), "{error}");
        let error = bind("8042", "ops.listen").await.unwrap_err().to_string();
        assert!(error.contains("address:port"), "{error}");
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        assert!(!is_token("", &SecretString::from("")));
        assert!(!is_token("", &SecretString::from("secret")));
        assert!(is_token("secret", &SecretString::from("secret")));
    }
}
