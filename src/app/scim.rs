//! Builds the SCIM server from the configuration: its address, its tokens, and whom it asks about server admins.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::Failure;
use crate::account::registrar::{Policy, Registrar};
use crate::bridge::localpart::Mapping;
use crate::cli::Exit;
use crate::config::{AccountsBackend, Config, RegisterUsers, ScimSource, Source};
use crate::http::Listen;
use crate::http::scim::{self, Gate, Names, Provisioning, Server, Settings};
use crate::matrix::Homeserver;
use crate::scim::access::{Roles, Token};
use crate::store::Store;
use crate::store::scim::{Letters, Registrations, Resources};

/// Opens the listener; nothing is served yet.
///
/// # Errors
/// When the address cannot be had, or the registration that admins are asked about with cannot be read.
pub(super) async fn open(
    config: &Config,
    source: &ScimSource,
    store: watch::Receiver<Option<Store>>,
    orders: &Orders,
) -> Result<(TcpListener, Server), Failure> {
    let mapping = Mapping::new(None, &source.username_attribute, false)
        .map_err(|error| Failure::new(Exit::Config, format!("source.client.attributeMapping.username: {error}")))?;
    let settings = Settings {
        base_path: source.base_url.clone(),
        public_url: source.public_url.clone(),
        username_attribute: source.username_attribute.clone(),
        strip_domain: source.strip_domain,
        mapping,
        letters: letters(config, source, &orders.letters),
    };
    let gate = gate(config, source).await?;
    let listener = scim::bind(&listen(source)).await?;
    let provisioning = provisioning(config, source, &orders.accounts).await?;
    let listen = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(listen, client = source.client_id, "SCIM clients are served");
    Ok((listener, Server::provisioning(settings, gate, (&source.client_id, provisioning), store)))
}

/// Who is told that something was put into the database for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub letters: Arc<Notify>,
    pub accounts: Arc<Notify>,
}

/// How people come to accounts, and who waits for that (S-63).
async fn provisioning(config: &Config, source: &ScimSource, ordered: &Arc<Notify>) -> Result<Provisioning, Failure> {
    let registers = source.register_users != RegisterUsers::No;
    let names = if config.accounts.backend == AccountsBackend::None {
        None
    } else {
        let accounts = Arc::new(super::accounts(config, &super::homeserver(config).await?)?);
        let server_name = config.homeserver.server_name.clone();
        Some(Names { accounts, server_name, only_free: source.register_users == RegisterUsers::Yes })
    };
    let limit = Duration::from_millis(source.synchronous_limit_ms);
    Ok(Provisioning {
        registrations: registers.then(|| Registrations { ordered: Arc::clone(ordered) }),
        names,
        patience: source.synchronous_provisioning.then_some(limit),
    })
}

/// What makes the accounts that are ordered, where that is wanted. Makes no request.
///
/// # Errors
/// Settings that cannot be used.
pub(super) fn registrar(
    config: &Config,
    homeserver: &Homeserver,
    store: Store,
    orders: &Orders,
) -> Result<Option<Registrar>, Failure> {
    let Source::Scim(source) = &config.source else { return Ok(None) };
    if source.register_users == RegisterUsers::No {
        return Ok(None);
    }
    let resources = Resources::new(store, &source.client_id)
        .with_letters(letters(config, source, &orders.letters))
        .with_registrations(Some(Registrations { ordered: Arc::clone(&orders.accounts) }))
        .hurried(source.synchronous_provisioning);
    let policy = Policy {
        mode: source.register_users,
        server_name: config.homeserver.server_name.clone(),
        client: source.client_id.clone(),
        single_sign_on: source.single_sign_on.clone(),
    };
    Ok(Some(Registrar::new(resources, super::accounts(config, homeserver)?, policy)))
}

/// That people are written to, where a mailer is configured and not silent (S-64).
fn letters(config: &Config, source: &ScimSource, queued: &Arc<Notify>) -> Option<Letters> {
    let mailer = source.mailer.as_ref().filter(|mailer| !mailer.silent);
    mailer.map(|_| Letters { server_name: config.homeserver.server_name.clone(), queued: Arc::clone(queued) })
}

/// `listen` is an address with or without a port of its own; without it every address (S-62).
fn listen(source: &ScimSource) -> Listen {
    let port = source.port;
    match source.listen.as_deref() {
        None => Listen::Everywhere(port),
        Some(listen) if listen.parse::<std::net::SocketAddr>().is_ok() => Listen::At(listen.to_owned()),
        Some(listen) if listen.contains(':') && !listen.starts_with('[') => Listen::At(format!("[{listen}]:{port}")),
        Some(listen) => Listen::At(format!("{listen}:{port}")),
    }
}

async fn gate(config: &Config, source: &ScimSource) -> Result<Gate, Failure> {
    let mut tokens = Vec::new();
    let mut admins: Vec<&str> = Vec::new();
    for (number, credential) in source.credentials.iter().enumerate() {
        let roles = credential.roles.iter().map(String::as_str);
        match credential.token {
            Some(digest) => tokens.push(Token {
                digest,
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
            super::listen(&ScimSource {
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
                synchronous_limit_ms: 25_000,
                single_sign_on: None,
                mailer: None,
            })
        };
        assert_eq!(at(None), Listen::Everywhere(8040));
        for (listen, address) in [
            ("127.0.0.1", "127.0.0.1:8040"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("0.0.0.0", "0.0.0.0:8040"),
            ("::1", "[::1]:8040"),
            ("[::1]", "[::1]:8040"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(at(Some(listen)), Listen::At(address.to_owned()));
        }
    }
}
