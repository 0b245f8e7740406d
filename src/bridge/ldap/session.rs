//! A connection to one directory server: reached, encrypted and bound, each step by itself so that a test can name the one that failed.
//!
//! Every step has its own time limit. Never tries the next server; that is the reader's choice.

use std::net::Ipv6Addr;
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, StdStream};
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tls::Tls;
use super::trouble::{BROKEN, Trouble, bind_refusal, error_text, io_text, is_passing, no_answer};
use crate::config::LdapSource;

/// An `ldap://` or `ldaps://` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As configured, without path.
    pub uri: String,
    pub tls_first: bool,
    host: String,
    port: u16,
}

impl Address {
    /// Takes a URI apart; whatever follows host and port is ignored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let (scheme, rest) =
            uri.split_once("://").ok_or_else(|| format!("`{uri}` is no URI: write ldap://host or ldaps://host"))?;
        let tls_first = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => false,
            "ldaps" => true,
            other => return Err(format!("`{uri}`: scheme `{other}` is neither ldap nor ldaps")),
        };
        let place = rest.split('/').next().unwrap_or_default();
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            Some(_) | None => (place, None),
        };
        if host.is_empty() {
            return Err(format!("`{uri}` names no host"));
        }
        let port = match port {
            None => {
                if tls_first {
                    636
                } else {
                    389
                }
            }
            Some(port) => port.parse().map_err(|_| format!("`{uri}`: `{port}` is no port"))?,
        };
        let address = Self { uri: format!("{scheme}://{place}"), tls_first, host: host.to_owned(), port };
        if host.contains(['[', ']', ':']) && address.ipv6().is_none() {
            return Err(format!("`{uri}`: `{host}` is no IPv6 address; write ldap://[2001:db8::1]"));
        }
        Ok(address)
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }

    fn ipv6(&self) -> Option<Ipv6Addr> {
        self.host.starts_with('[').then(|| self.bare_host().parse().ok()).flatten()
    }
}

/// What happens on a connection: whose it is, and the task that drives it.
#[derive(Debug)]
pub struct Session {
    pub ldap: Ldap,
    pub uri: String,
    /// Gone once its end has been told.
    driver: Option<JoinHandle<Result<(), LdapError>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// What the library is told in place of an IPv6 address: a name that nobody can have (RFC 6761).
const STAND_IN: &str = "ipv6.invalid";

/// How long a connection's end may take to be told once its answers have stopped.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

impl Session {
    /// Connects, encrypts if configured, and binds.
    pub async fn open(address: &Address, source: &LdapSource, tls: &Tls) -> Result<Self, Trouble> {
        let stream = dial(address, source).await?;
        let mut session = Self::secure(stream, address, source, tls).await?;
        session.bind(source).await?;
        Ok(session)
    }

    /// Starts LDAP on a connection, with TLS before or after as configured.
    pub async fn secure(stream: TcpStream, address: &Address, source: &LdapSource, tls: &Tls) -> Result<Self, Trouble> {
        let encrypted = address.tls_first || source.start_tls;
        let step = if encrypted { "tls" } else { "connect" };
        let trouble = |cause: String, retry| Trouble {
            step,
            attempted: if encrypted {
                format!("set up TLS with {}", address.uri)
            } else {
                format!("connect to {}", address.uri)
            },
            cause,
            retry,
        };
        let stream = stream.into_std().map_err(|error| trouble(error.to_string(), true))?;
        // The connection is there already: of the URI the library takes the scheme, and the name to verify, which it cannot take
        // from an IPv6 address.
        let (config, uri) = match address.ipv6() {
            None => (tls.for_named(), address.uri.clone()),
            Some(ip) => {
                (tls.for_ipv6(ip), format!("{}://{STAND_IN}", if address.tls_first { "ldaps" } else { "ldap" }))
            }
        };
        let settings = LdapConnSettings::new()
            .set_config(config)
            .set_starttls(source.start_tls)
            .set_std_stream(StdStream::Tcp(stream));
        let opening = LdapConnAsync::with_settings(settings, &uri);
        let patience = Duration::from_millis(source.connect_timeout_ms);
        let opened =
            timeout(patience, opening).await.map_err(|_| trouble(no_answer(source.connect_timeout_ms), true))?;
        let (connection, ldap) = opened.map_err(|error| match &error {
            LdapError::LdapResult { result } if source.start_tls => trouble(
                format!("the server refuses StartTLS: {}", super::trouble::code_text(result)),
                is_passing(result.rc),
            ),
            LdapError::ResultRecv { .. } | LdapError::EndOfStream => trouble(BROKEN.to_owned(), true),
            _ => trouble(error_text(&error, source.connect_timeout_ms), true),
        })?;
        Ok(Self { ldap, uri: address.uri.clone(), driver: Some(tokio::spawn(connection.drive())) })
    }

    /// Binds as configured: with DN and password, by client certificate, or not at all.
    pub async fn bind(&mut self, source: &LdapSource) -> Result<(), Trouble> {
        let patience = Duration::from_millis(source.operation_timeout_ms);
        let ldap = self.ldap.with_timeout(patience);
        let (who, answer) = match (&source.bind_dn, &source.bind_password) {
            (Some(dn), Some(password)) => {
                (super::notices::shown(dn), ldap.simple_bind(dn, password.expose_secret()).await)
            }
            _ if source.client_cert.is_some() => {
                ("the client certificate's user".to_owned(), ldap.sasl_external_bind().await)
            }
            _ => return Ok(()),
        };
        let trouble =
            |cause, retry| Trouble { step: "bind", attempted: format!("bind as {who} at {}", self.uri), cause, retry };
        match answer {
            Ok(result) if result.rc == 0 => Ok(()),
            Ok(result) => Err(trouble(bind_refusal(&result), is_passing(result.rc))),
            Err(error) => {
                let cause = error_text(&error, source.operation_timeout_ms);
                Err(trouble(cause, true))
            }
        }
    }

    /// Says goodbye, for the server's log; nobody waits for it.
    pub async fn end(&mut self) {
        let _ = self.ldap.with_timeout(GOODBYE).unbind().await;
    }

    /// Why the answers stopped, once `error` says they did.
    pub async fn last_words(&mut self, error: &LdapError, patience_ms: u64) -> String {
        let text = error_text(error, patience_ms);
        if text != BROKEN {
            return text;
        }
        let Some(driver) = self.driver.take() else { return text };
        let abort = driver.abort_handle();
        let end = timeout(LAST_WORDS, driver).await;
        abort.abort();
        match end {
            Ok(Err(end)) if end.is_panic() => "the server sent something that is not LDAP".to_owned(),
            // What the codec says when the connection ends within a message.
            Ok(Ok(Err(LdapError::Io { source }))) if source.to_string() == "bytes remaining on stream" => text,
            Ok(Ok(Err(LdapError::Io { source }))) if source.kind() == std::io::ErrorKind::Other => {
                format!("the server sent something that is not LDAP: {}", io_text(&source))
            }
            Ok(Ok(Err(end))) => error_text(&end, patience_ms),
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => text,
        }
    }
}

/// Reaches a server, within `connect_timeout`.
pub async fn dial(address: &Address, source: &LdapSource) -> Result<TcpStream, Trouble> {
    let trouble =
        |cause| Trouble { step: "connect", attempted: format!("connect to {}", address.uri), cause, retry: true };
    let patience = Duration::from_millis(source.connect_timeout_ms);
    match timeout(patience, TcpStream::connect((address.bare_host(), address.port))).await {
        Err(_) => Err(trouble(no_answer(source.connect_timeout_ms))),
        Ok(Err(error)) => Err(trouble(io_text(&error))),
        Ok(Ok(stream)) => Ok(stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let parts = |uri| Address::parse(uri).map(|address| (address.tls_first, address.host, address.port));
        assert_eq!(parts("ldap://dir.example.org"), Ok((false, "dir.example.org".to_owned(), 389)));
        assert_eq!(parts("LDAPS://dir.example.org/dc=x"), Ok((true, "dir.example.org".to_owned(), 636)));
        assert_eq!(parts("ldap://[::1]:3389"), Ok((false, "[::1]".to_owned(), 3389)));
        assert_eq!(parts("ldap://[::1]"), Ok((false, "[::1]".to_owned(), 389)));
        assert_eq!(
            parts("ldaps://[::1"),
            Err("`ldaps://[::1`: `[:` is no IPv6 address; write ldap://[2001:db8::1]".to_owned())
        );
        assert_eq!(
            parts("ldaps://::1:636"),
            Err("`ldaps://::1:636`: `::1` is no IPv6 address; write ldap://[2001:db8::1]".to_owned())
        );
        assert_eq!(parts("dir"), Err("`dir` is no URI: write ldap://host or ldaps://host".to_owned()));
        assert_eq!(parts("http://x"), Err("`http://x`: scheme `http` is neither ldap nor ldaps".to_owned()));
        assert_eq!(parts("ldap://x:y"), Err("`ldap://x:y`: `y` is no port".to_owned()));
        assert_eq!(parts("ldap:///"), Err("`ldap:///` names no host".to_owned()));
    }
}
