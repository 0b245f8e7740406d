//! `source: {type: scim}` (S-62, S-63).

use secrecy::ExposeSecret as _;

use super::safety::moment;
use super::section::Section;
use super::source::check_interval_ms;
use super::value::Field;
use super::{RegisterUsers, ScimCredential, ScimSource, mailer, secret};
use crate::scim::Kind;
use crate::scim::access::Digest;
use crate::scim::schema::{Named, Type, resolve};

/// A token of fewer characters can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Answers that wait for Matrix do so for this long at most, unless told otherwise, in milliseconds: clients wait for half a minute.
const SYNCHRONOUS_LIMIT_MS: i64 = 25_000;

/// By what the homeserver finds the accounts usher makes when people sign in for the first time (S-63).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleSignOn {
    /// The homeserver's name for where they sign in.
    pub provider: String,
    /// The SCIM attribute that holds what they are known by there.
    pub attribute: String,
}

pub(super) fn scim(section: &mut Section<'_>) -> ScimSource {
    let register = [("yes", RegisterUsers::Yes), ("no", RegisterUsers::No), ("if-missing", RegisterUsers::IfMissing)];
    let mut scim = ScimSource {
        check_interval_ms: check_interval_ms(section),
        port: u16::try_from(section.number("port", 8040, (1, 65_535))).unwrap_or(8040),
        listen: section.text("listen"),
        base_url: section.field("base_url").and_then(|field| prefix(&field)).unwrap_or_default(),
        public_url: section
            .field("public_url")
            .and_then(|field| field.url(&["https", "http"]))
            .map(|url| url.trim_end_matches('/').to_owned()),
        client_id: String::new(),
        credentials: Vec::new(),
        username_attribute: "userName".to_owned(),
        strip_domain: false,
        register_users: section.choice("register_users", RegisterUsers::No, &register),
        synchronous_provisioning: section.boolean("synchronous_provisioning", false),
        synchronous_limit_ms: u64::try_from(section.duration("synchronous_limit", SYNCHRONOUS_LIMIT_MS)).unwrap_or(0),
        single_sign_on: None,
        mailer: section.field("mailer").and_then(|field| mailer::mailer(&field)),
    };
    let Some(client) = section.field("client") else {
        section.missing("client", "{ id: 'example', token_file: /run/secrets/scim-token }");
        return scim;
    };
    if let Some(mut client) = client.section() {
        scim.client_id = client.need("id", "'example'");
        scim.credentials = credentials(&mut client);
        if let Some(mut mapping) = client.section("attributeMapping") {
            if let Some(name) = mapping.field("username").and_then(|field| one_text(&field)) {
                scim.username_attribute = name;
            }
            scim.strip_domain = mapping.boolean("strip_domain", false);
            mapping.finish();
        }
        if let Some(mut known) = client.section("single_sign_on") {
            let provider = known.need("provider", "'oidc-entra'");
            let attribute = known.field("attribute").and_then(|field| one_text(&field));
            scim.single_sign_on =
                Some(SingleSignOn { provider, attribute: attribute.unwrap_or_else(|| "externalId".to_owned()) });
            known.finish();
        }
        client.finish();
    }
    scim
}

/// A path before every route, without the slash at its end.
fn prefix(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if !text.is_empty() && !text.starts_with('/') {
        field.fail(format!("must be a path that begins with a slash, such as '/scim/v2', not {}", field.shown()));
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

/// An attribute that holds one text.
fn one_text(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    let fine = match resolve(Kind::User, &text) {
        Named::Attribute(place) => {
            let leaf = place.leaf();
            leaf.kind == Type::Text && !leaf.many && !place.attribute.many && !place.attribute.is_read_only()
        }
        Named::Extension(_) | Named::Core | Named::Foreign | Named::Unknown => false,
    };
    if !fine {
        field.fail(format!(
            "must name an attribute of SCIM users that holds one text, such as userName, externalId or employeeNumber, not {}",
            field.shown()
        ));
    }
    fine.then_some(text)
}

fn credentials(client: &mut Section<'_>) -> Vec<ScimCredential> {
    let before = client.report.errors();
    let mut found: Vec<ScimCredential> = Vec::new();
    if let Some(token) = secret::read(client, "token", "token_file") {
        let token = Some(Digest::of(token.expose_secret()));
        found.push(ScimCredential { token, name: None, not_after: None, roles: vec!["*:*".to_owned()] });
    }
    for field in client.list("rbac") {
        let Some(credential) = credential(&field) else { continue };
        if credential.token.is_some() && found.iter().any(|known| known.token == credential.token) {
            field.advise(
                "has the same token as an entry above, and its roles count: give each client a token of its own",
            );
        }
        found.push(credential);
    }
    if found.is_empty() && client.report.errors() == before {
        client.missing("rbac", "[{ token_file: /run/secrets/scim-token, roles: ['*:*'] }]");
    }
    found
}

fn credential(field: &Field<'_>) -> Option<ScimCredential> {
    let mut section = field.section()?;
    let before = section.report.errors();
    let admin = section.field("synapse_user");
    let token = secret::read(&mut section, "token", "token_file");
    let name = section.text("name");
    let not_after = section.field("not_after").and_then(|field| moment(&field));
    let roles = section.field("roles");
    if roles.is_none() {
        section.missing("roles", "['*:*']");
    }
    let roles: Vec<String> = roles.map(|list| list.items().iter().filter_map(role).collect()).unwrap_or_default();
    match (&admin, &token) {
        (Some(admin), None) => {
            admin.choice(&[("admin", ())]);
        }
        (Some(admin), Some(_)) => admin.fail("stands beside a token: make two entries of them"),
        (None, None) if section.report.errors() == before => {
            section.missing("token", "${SCIM_TOKEN}");
        }
        (None, _) => {}
    }
    section.finish();
    if token.as_ref().is_some_and(|token| token.expose_secret().len() < SHORTEST_TOKEN) {
        field.advise(format!("has a short token: use at least {SHORTEST_TOKEN} random characters"));
    }
    let token = token.map(|token| Digest::of(token.expose_secret()));
    Some(ScimCredential { token, name, not_after, roles })
}

fn role(field: &Field<'_>) -> Option<String> {
    let text = field.filled()?;
    let fine = text.split_once(':').is_some_and(|(access, scope)| {
        matches!(access, "read" | "write" | "*") && matches!(scope, "users" | "groups" | "*")
    });
    if !fine {
        field.fail(format!(
            "must be access:scope with read, write or * before the colon and users, groups or * after it, not {}",
            field.shown()
        ));
    }
    fine.then_some(text)
}
