//! `source: {type: ms-graph-ad}`: AIM's keys, and what usher adds to them (S-8).

use super::section::Section;
use super::source::{attribute_names, check_interval_ms};
use super::source_ldap::timeout;
use super::value::Field;
use super::{GraphAttributes, MsGraphSource, secret};

/// Microsoft's public cloud.
const GRAPH: &str = "https://graph.microsoft.com";
const LOGIN: &str = "https://login.microsoftonline.com";

/// Where each national cloud has Graph, and where it gives out tokens.
const NATIONAL: [(&str, &str); 3] = [
    ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
    ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
    ("https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
];

pub(super) fn msgraph(section: &mut Section<'_>) -> MsGraphSource {
    let mut base_url = address(section, "base_url").unwrap_or_else(|| GRAPH.to_owned());
    if let Some(bare) = base_url.strip_suffix("/v1.0") {
        base_url.truncate(bare.len());
    }
    let national = NATIONAL.iter().find(|(graph, _)| base_url.eq_ignore_ascii_case(graph));
    let login_url = address(section, "login_url");
    let login_url = login_url.unwrap_or_else(|| national.map_or(LOGIN, |(_, login)| login).to_owned());
    let scopes = section.list("scopes").iter().filter_map(Field::filled).collect::<Vec<_>>();
    MsGraphSource {
        check_interval_ms: check_interval_ms(section),
        tenant_id: section.need("tenant_id", "'b9355cb3-feed-dead-beef-9cc325f0335b'"),
        client_id: section.need("client_id", "'5c955b66-18b3-42de-bb5a-13b5a202d4fc'"),
        client_secret: secret::need(section, "client_secret", "client_secret_file"),
        scopes: if scopes.is_empty() { vec![format!("{base_url}/.default")] } else { scopes },
        base_url,
        login_url,
        attributes: attributes(section),
        localpart: section.text("localpart"),
        strict_localparts: section.boolean("strict_localparts", false),
        guests: section.boolean("guests", false),
        connect_timeout_ms: timeout(section, "connect_timeout", 10_000),
        operation_timeout_ms: timeout(section, "operation_timeout", 60_000),
        read_timeout_ms: timeout(section, "read_timeout", 600_000),
    }
}

fn address(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let field = section.field(key)?;
    let url = field.url(&["https", "http"])?;
    let near = ["http://127.", "http://localhost", "http://[::1]"].iter().any(|host| url.starts_with(host));
    if url.starts_with("http://") && !near {
        field.advise("the client secret or its tokens cross the network readable: use https://");
    }
    Some(url)
}

fn attributes(section: &mut Section<'_>) -> GraphAttributes {
    let mut inner = section.section("attributes");
    let [uid, name, mail] = attribute_names(inner.as_mut(), ["userPrincipalName", "displayName", "mail"]);
    if let Some(inner) = inner {
        inner.finish();
    }
    GraphAttributes { uid, name, mail }
}
