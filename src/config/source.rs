//! `source`: which directory, and its simple kinds (file, Microsoft Graph). LDAP and SCIM have files of their own.

use super::section::Section;
use super::value::Field;
use super::{FileSource, LdapAttributes, MsGraphSource, Source, secret, source_ldap, source_scim};

#[derive(Clone, Copy)]
enum Kind {
    Ldap,
    File,
    MsGraph,
    Scim,
}

const KINDS: &[(&str, Kind)] =
    &[("ldap", Kind::Ldap), ("file", Kind::File), ("ms-graph-ad", Kind::MsGraph), ("scim", Kind::Scim)];

/// `None` only with a problem.
pub(super) fn source(root: &mut Section<'_>) -> Option<Source> {
    let Some(field) = root.field("source") else {
        root.missing("source", "{ type: file, path: people.yaml }");
        return None;
    };
    let mut section = field.section()?;
    let Some(kind) = section.field("type") else {
        section.missing("type", "ldap");
        return None;
    };
    let source = match kind.choice(KINDS)? {
        Kind::Ldap => Source::Ldap(Box::new(source_ldap::ldap(&mut section))),
        Kind::File => Source::File(file(&mut section)),
        Kind::MsGraph => Source::MsGraph(Box::new(msgraph(&mut section))),
        Kind::Scim => Source::Scim(Box::new(source_scim::scim(&mut section))),
    };
    section.finish();
    Some(source)
}

/// Between reads; AIM's key, whole seconds, at most a week.
pub(super) fn check_interval_ms(section: &mut Section<'_>) -> i64 {
    section.number("check_interval_seconds", 60, (1, 604_800)) * 1000
}

/// Names of the attributes; the defaults are those of `inetOrgPerson`.
pub(super) fn attributes(section: &mut Section<'_>) -> LdapAttributes {
    let mut inner = section.section("attributes");
    let mut name = |key: &'static str, default: &str| {
        inner.as_mut().and_then(|inner| inner.text(key)).unwrap_or_else(|| default.to_owned())
    };
    let (uid, common_name, mail) = (name("uid", "uid"), name("name", "cn"), name("mail", "mail"));
    let avatar = inner.as_mut().and_then(|inner| inner.text("avatar"));
    if let Some(inner) = inner {
        inner.finish();
    }
    LdapAttributes { uid, name: common_name, mail, avatar }
}

fn file(section: &mut Section<'_>) -> FileSource {
    let path = section.field("path");
    if path.is_none() {
        section.missing("path", "people.yaml");
    }
    FileSource {
        path: path.and_then(|field| field.path()).unwrap_or_default(),
        check_interval_ms: check_interval_ms(section),
        base: section.text("base"),
        attributes: attributes(section),
        strict_localparts: section.boolean("strict_localparts", false),
    }
}

fn msgraph(section: &mut Section<'_>) -> MsGraphSource {
    let base_url = section.field("base_url").and_then(|field| field.url(&["https", "http"]));
    let base_url = base_url.unwrap_or_else(|| "https://graph.microsoft.com".to_owned());
    let scopes = section.field("scopes").map(|list| list.items().iter().filter_map(Field::filled).collect());
    MsGraphSource {
        check_interval_ms: check_interval_ms(section),
        tenant_id: section.need("tenant_id", "'b9355cb3-feed-dead-beef-9cc325f0335b'"),
        client_id: section.need("client_id", "'5c955b66-18b3-42de-bb5a-13b5a202d4fc'"),
        client_secret: secret::need(section, "client_secret", "client_secret_file"),
        scopes: scopes.unwrap_or_else(|| vec![format!("{base_url}/.default")]),
        base_url,
    }
}
