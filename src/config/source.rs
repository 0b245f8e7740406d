//! `source`: which directory, and the simplest kind, a file. The others have files of their own.

use super::section::Section;
use super::{FileSource, LdapAttributes, Source, source_graph, source_ldap, source_scim};

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
        Kind::MsGraph => Source::MsGraph(Box::new(source_graph::msgraph(&mut section))),
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
    let [uid, common_name, mail] = attribute_names(inner.as_mut(), ["uid", "cn", "mail"]);
    let avatar = inner.as_mut().and_then(|inner| inner.text("avatar"));
    if let Some(inner) = inner {
        inner.finish();
    }
    LdapAttributes { uid, name: common_name, mail, avatar }
}

/// The keys that every source with attributes has: `uid`, `name`, `mail`.
pub(super) fn attribute_names(mut section: Option<&mut Section<'_>>, defaults: [&str; 3]) -> [String; 3] {
    let mut name = |key: &'static str, default: &str| {
        section.as_mut().and_then(|section| section.text(key)).unwrap_or_else(|| default.to_owned())
    };
    let [uid, common_name, mail] = defaults;
    [name("uid", uid), name("name", common_name), name("mail", mail)]
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
