//! `instance`, `homeserver`, `appservice`, `accounts` and `database`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::section::Section;
use super::value::is_server_name;
use super::{Accounts, AccountsBackend, Appservice, Homeserver, Mas, secret};
use crate::ids::Localpart;

const HTTP: &[&str] = &["http", "https"];

/// Files that nobody names stand beside the first configuration file.
pub(super) fn default_path(first: &Path, name: &str) -> PathBuf {
    first.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name))
}

pub(super) fn instance(root: &mut Section<'_>) -> String {
    const DEFAULT: &str = "main";
    let Some(field) = root.field("instance") else { return DEFAULT.to_owned() };
    let Some(text) = field.filled() else { return DEFAULT.to_owned() };
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') || text.len() > 32
    {
        field.fail("must be at most 32 lower-case letters, digits, `-` and `.`: it becomes part of room aliases");
    }
    text
}

pub(super) fn homeserver(root: &mut Section<'_>) -> Homeserver {
    let empty = Homeserver { url: String::new(), admin_url: None, server_name: String::new() };
    let Some(field) = root.field("homeserver") else {
        root.missing("homeserver", "{ url: 'http://127.0.0.1:8008', server_name: example.com }");
        return empty;
    };
    let Some(mut section) = field.section() else { return empty };
    let url = section.field("url");
    if url.is_none() {
        section.missing("url", "'http://127.0.0.1:8008'");
    }
    let url = url.and_then(|url| url.url(HTTP)).unwrap_or_default();
    let admin_url = section.field("admin_url").and_then(|url| url.url(HTTP));
    let name = section.field("server_name");
    if name.is_none() {
        section.missing("server_name", "example.com");
    }
    let server_name = name.as_ref().and_then(super::value::Field::filled).unwrap_or_default();
    if let Some(name) = name
        && !server_name.is_empty()
        && !is_server_name(&server_name)
    {
        name.fail(format!(
            "must be the part of your Matrix ids after the colon, such as example.com, not {}",
            name.shown()
        ));
    }
    section.finish();
    Homeserver { url, admin_url, server_name }
}

pub(super) fn appservice(root: &mut Section<'_>, first: &Path) -> Appservice {
    let mut appservice = Appservice {
        registration: default_path(first, "usher-registration.yaml"),
        puppet_registration: None,
        bot: Localpart::from("usher"),
        listen: None,
        url: None,
    };
    let Some(mut section) = root.section("appservice") else { return appservice };
    if let Some(path) = section.path("registration") {
        appservice.registration = path;
    }
    appservice.puppet_registration = section.path("puppet_registration");
    if let Some(field) = section.field("bot")
        && let Some(bot) = field.filled()
    {
        let fine = bot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._=-/+".contains(&b));
        if fine {
            appservice.bot = Localpart::from(bot);
        } else {
            let hint = if bot.starts_with('@') { ": write only the part between @ and the colon" } else { "" };
            field.fail(format!("must be a localpart of a-z, 0-9 and ._=-/+, not {}{hint}", field.shown()));
        }
    }
    let listen = section.field("listen");
    let url = section.field("url");
    appservice.listen = listen.as_ref().and_then(super::value::Field::listen);
    appservice.url = url.as_ref().and_then(|field| field.url(HTTP));
    match (&listen, &url) {
        (None, Some(url)) => url.fail("is where the homeserver brings transactions: set appservice.listen too"),
        (Some(listen), None) if appservice.listen.as_deref().is_some_and(is_everywhere) => {
            listen.advise(
                "is every address of this machine: name the one at which the homeserver reaches usher in appservice.url, \
                 or the registration says 127.0.0.1",
            );
        }
        _ => {}
    }
    section.finish();
    appservice
}

/// Where a client on this machine reaches a listener bound to `listen`: the loopback address stands for "all addresses".
#[must_use]
pub fn reachable_at(listen: &str) -> String {
    let Ok(mut address) = listen.parse::<SocketAddr>() else { return listen.to_owned() };
    if address.ip().is_unspecified() {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address.to_string()
}

/// Whether a listener there has no address of its own.
fn is_everywhere(listen: &str) -> bool {
    listen.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}

impl Appservice {
    /// The URL at which the homeserver is to bring transactions; `None`: none are wanted.
    #[must_use]
    pub fn transactions_url(&self) -> Option<String> {
        let listen = self.listen.as_deref()?;
        Some(self.url.clone().unwrap_or_else(|| format!("http://{}", reachable_at(listen))))
    }
}

pub(super) fn accounts(root: &mut Section<'_>) -> Accounts {
    let mut accounts =
        Accounts { backend: AccountsBackend::Synapse, admin_token: None, match_external_id: None, mas: None };
    let Some(mut section) = root.section("accounts") else { return accounts };
    let choices =
        [("synapse", AccountsBackend::Synapse), ("mas", AccountsBackend::Mas), ("none", AccountsBackend::None)];
    accounts.backend = section.choice("backend", AccountsBackend::Synapse, &choices);
    accounts.admin_token = secret::read(&mut section, "admin_token", "admin_token_file");
    if let Some(mut matching) = section.section("match_external_id") {
        accounts.match_external_id = Some(external_id_match(&mut matching));
        matching.finish();
    }
    let mas = section.section("mas");
    match mas {
        Some(mut mas) if !mas.is_blank() => {
            accounts.mas = read_mas(&mut mas);
            mas.finish();
        }
        _ if accounts.backend == AccountsBackend::Mas => {
            section.missing("mas", "{ url: 'https://mas.example.com', client_id: ..., client_secret_file: ... }");
        }
        _ => {}
    }
    section.finish();
    accounts
}

/// How an account is found by its single-sign-on external id (S-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalIdMatch {
    /// The `idp_id` of the provider in the homeserver's configuration, with its prefix: `oidc-keycloak`.
    pub provider: String,
    /// What of a person is their id there.
    pub from: ExternalIdSource,
}

/// What of a person the provider knows them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalIdSource {
    /// The source's stable id.
    Id,
    /// The localpart the source's template makes.
    Localpart,
    /// The first mail address.
    Email,
}

fn external_id_match(section: &mut Section<'_>) -> ExternalIdMatch {
    let sources =
        [("id", ExternalIdSource::Id), ("localpart", ExternalIdSource::Localpart), ("email", ExternalIdSource::Email)];
    let from = section.choice("from", ExternalIdSource::Id, &sources);
    ExternalIdMatch { provider: section.need("provider", "'oidc-keycloak'"), from }
}

fn read_mas(mas: &mut Section<'_>) -> Option<Mas> {
    let url = mas.field("url");
    if url.is_none() {
        mas.missing("url", "'https://mas.example.com'");
    }
    let url = url.and_then(|url| url.url(HTTP)).unwrap_or_default();
    let client_id = mas.need("client_id", "'01HXUSHERUSHERUSHERUSHERUS'");
    let client_secret = secret::need(mas, "client_secret", "client_secret_file")?;
    Some(Mas { url, client_id, client_secret })
}

/// An `SQLite` file (a relative path stands beside the file that names it) or a `PostgreSQL` URL (S-96).
pub(super) fn database_url(root: &mut Section<'_>, first: &Path) -> String {
    let default = || format!("sqlite://{}", default_path(first, "usher.db").display());
    let Some(mut section) = root.section("database") else { return default() };
    let field = section.field_named(&["url", "url_file"]);
    let url = field.and_then(|field| {
        let from_file = field.path.ends_with("file") || field.path.ends_with("File");
        let url = if from_file {
            use secrecy::ExposeSecret as _;
            secret::contents(&field)?.expose_secret().to_owned()
        } else {
            field.scalar("a database URL").map(|scalar| scalar.text.clone())?
        };
        if url.starts_with("postgres://") || url.starts_with("postgresql://") || url.starts_with("sqlite::memory:") {
            return Some(url);
        }
        let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) else {
            field.fail("must begin with sqlite:// or postgresql://, such as 'sqlite://usher.db'");
            return None;
        };
        Some(format!("sqlite://{}", field.beside(path).display()))
    });
    section.finish();
    url.unwrap_or_else(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        assert_eq!(reachable_at("0.0.0.0:8042"), "127.0.0.1:8042");
        assert_eq!(reachable_at("[::]:8042"), "[::1]:8042");
        assert_eq!(reachable_at("localhost:8042"), "localhost:8042");
    }
}
