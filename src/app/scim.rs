//! Builds the SCIM server from the configuration: its address, its tokens, and whom it asks about server admins.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::Failure;
use crate::bridge::localpart::Mapping;
use crate::cli::Exit;
use crate::config::{Config, RegisterUsers, ScimSource};
use crate::http::scim::{self, Gate, Server, Settings};
use crate::scim::access::{Digest, Roles, Token};
use crate::store::Store;
use crate::store::scim::Letters;

/// Opens the listener; nothing is served yet.
///
/// # Errors
/// When the address cannot be had, or the registration that admins are asked about with cannot be read.
pub(super) async fn open(
    config: &Config,
    source: &ScimSource,
    store: watch::Receiver<Option<Store>>,
    queued: Arc<Notify>,
) -> Result<(TcpListener, Server), Failure> {
    let mapping = Mapping::new(None, &source.username_attribute, false)
        .map_err(|error| Failure::new(Exit::Config, format!("source.client.attributeMapping.username: {error}")))?;
    let settings = Settings {
        base_path: source.base_url.clone(),
        public_url: source.public_url.clone(),
        username_attribute: source.username_attribute.clone(),
        strip_domain: source.strip_domain,
        mapping,
        letters: letters(config, source, queued),
    };
    let gate = gate(config, source).await?;
    let listen = address(source);
    let listener = scim::bind(&listen).await?;
    if source.register_users != RegisterUsers::No {
        tracing::warn!("source.register_users: usher registers no accounts yet; people are invited once they have one");
    }
    if source.synchronous_provisioning {
        tracing::warn!("source.synchronous_provisioning is read and not carried out yet");
    }
    tracing::info!(listen, client = source.client_id, "SCIM clients are served");
    Ok((listener, Server::new(settings, gate, &source.client_id, store)))
}

/// That people are written to, where a mailer is configured and not silent (S-64).
fn letters(config: &Config, source: &ScimSource, queued: Arc<Notify>) -> Option<Letters> {
    let mailer = source.mailer.as_ref().filter(|mailer| !mailer.silent);
    mailer.map(|_| Letters { server_name: config.homeserver.server_name.clone(), queued })
}

/// `listen` is an address with or without a port of its own; without it every address (S-62).
fn address(source: &ScimSource) -> String {
    match source.listen.as_deref() {
        None => format!("0.0.0.0:{}", source.port),
        Some(listen) if listen.parse::<std::net::SocketAddr>().is_ok() => listen.to_owned(),
        Some(listen) if listen.contains(':') && !listen.starts_with('[') => format!("[{listen}]:{}", source.port),
        Some(listen) => format!("{listen}:{}", source.port),
    }
}

async fn gate(config: &Config, source: &ScimSource) -> Result<Gate, Failure> {
    let mut tokens = Vec::new();
    let mut admins: Vec<&str> = Vec::new();
    for (number, credential) in source.credentials.iter().enumerate() {
        let roles = credential.roles.iter().map(String::as_str);
        match &credential.token {
            Some(token) => tokens.push(Token {
                digest: Digest::of(token.expose_secret()),
                name: credential.name.clone().unwrap_or_else(|| format!("token {}", number + 1)),
                roles: Roles::new(roles),
                not_after: credential.not_after,
            }),
            None => admins.extend(roles),
        }
    }
    let admins = if admins.is_empty() { None } else { Some((super::homeserver(config).await?, Roles::new(admins))) };
    Ok(Gate::new(tokens, admins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_bring_its_port() {
        let at = |listen: Option<&str>| {
            address(&ScimSource {
                check_interval_ms: 60_000,
                port: 8040,
                listen: listen.map(str::to_owned),
                base_url: String::new(),
                public_url: None,
                client_id: "x".to_owned(),
                credentials: Vec::new(),
                username_attribute: "userName".to_owned(),
                strip_domain: false,
                register_users: RegisterUsers::No,
                synchronous_provisioning: false,
                mailer: None,
            })
        };
        assert_eq!(at(None), "0.0.0.0:8040");
        assert_eq!(at(Some("127.0.0.1")), "127.0.0.1:8040");
        assert_eq!(at(Some("127.0.0.1:9")), "127.0.0.1:9");
        assert_eq!(at(Some("::1")), "[::1]:8040");
        assert_eq!(at(Some("[::1]:9")), "[::1]:9");
    }
}
