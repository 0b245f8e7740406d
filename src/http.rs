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

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At this `address:port`.
    At(String),
    /// At every address of this machine, on this port.
    Everywhere(u16),
}

/// Opens the listener that the setting `key` asks for.
async fn bind(listen: &str, key: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(listen).await.map_err(|cause| unopened(listen, key, cause))
}

/// Opens every address: that of IPv6, which takes IPv4 along where the system lets it (Linux does unless told otherwise), and that of IPv4
/// alone where there is no IPv6, or usher may not use it.
async fn everywhere<L>(
    (port, key): (u16, &'static str),
    open: impl AsyncFn(&str) -> io::Result<L>,
) -> Result<L, BindError> {
    let (all, of_ipv4) = (format!("[::]:{port}"), format!("0.0.0.0:{port}"));
    match open(&all).await {
        Ok(listener) => Ok(listener),
        // Of IPv4 alone it could perhaps be had, and half of all clients would be another program's.
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => Err(unopened(&all, key, cause)),
        Err(_) => open(&of_ipv4).await.map_err(|cause| unopened(&of_ipv4, key, cause)),
    }
}

fn unopened(listen: &str, key: &'static str, cause: io::Error) -> BindError {
    let remedy = match cause.kind() {
        io::ErrorKind::AddrInUse => "another process has that port: stop it or choose another",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: use one of its own, or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
        _ => "write it as address:port, for example 127.0.0.1:8042",
    };
    BindError { listen: listen.to_owned(), key, cause, remedy }
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

    #[tokio::test]
    async fn every_address_is_that_of_ipv6_where_there_is_ipv6() {
        // What the system says of the address of IPv6; which one is opened.
        let opened = async |of_ipv6: Option<io::ErrorKind>| {
            let open = async |address: &str| match of_ipv6 {
                Some(kind) if address == "[::]:8040" => Err(kind.into()),
                _ => Ok(address.to_owned()),
            };
            everywhere((8040, "source.listen"), open).await.map_err(|error| error.to_string())
        };
        assert_eq!(opened(None).await.unwrap(), "[::]:8040");
        // IPv6 is switched off, forbidden, or the system was built without.
        let withouts = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported];
        for without in withouts {
            assert_eq!(opened(Some(without)).await.unwrap(), "0.0.0.0:8040");
        }
        let error = opened(Some(io::ErrorKind::AddrInUse)).await.unwrap_err();
        assert!(error.contains("[::]:8040 (source.listen)") && error.contains("another process"), "{error}");
        for (cause, remedy) in [(io::ErrorKind::Other, "address:port"), (io::ErrorKind::PermissionDenied, "privileges")]
        {
            let nothing = everywhere((8040, "source.listen"), async |_: &str| Err::<(), _>(cause.into()));
            let error = nothing.await.unwrap_err().to_string();
            assert!(error.contains("0.0.0.0:8040") && error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        assert!(!is_token("", &SecretString::from("")));
        assert!(!is_token("", &SecretString::from("secret")));
        assert!(is_token("secret", &SecretString::from("secret")));
    }
}
