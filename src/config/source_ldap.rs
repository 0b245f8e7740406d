//! `source: {type: ldap}`, with the keys of Synapse's LDAP password provider (matrix-synapse-ldap3) understood, so that its
//! section can be copied as it stands (S-6).

use secrecy::{ExposeSecret as _, SecretString};

use super::section::{Section, join};
use super::source::{attributes, check_interval_ms};
use super::value::Field;
use super::{ClientCert, LdapSource, secret};

pub(super) fn ldap(section: &mut Section<'_>) -> LdapSource {
    let start_tls = section.boolean("start_tls", false);
    let uris = uris(section, start_tls);
    let tls = tls(section);
    let bind_dn = section.text("bind_dn");
    let before = section.report.errors();
    let bind_password = secret::read(section, "bind_password", "bind_password_file");
    if section.report.errors() == before {
        check_bind(section, bind_dn.is_some(), bind_password.is_some());
    }
    accepted_only(section);
    LdapSource {
        check_interval_ms: check_interval_ms(section),
        uris,
        base: section.need("base", "'ou=people,dc=example,dc=com'"),
        filter: filter(section, "filter"),
        user_filter: filter(section, "user_filter"),
        group_filter: filter(section, "group_filter"),
        bind_dn,
        bind_password,
        attributes: attributes(section),
        localpart: section.text("localpart"),
        strict_localparts: section.boolean("strict_localparts", false),
        start_tls,
        verify_tls: tls.verify,
        ca_file: tls.ca_file,
        client_cert: tls.client_cert,
        page_size: u32::try_from(section.number("page_size", 500, (1, 100_000))).unwrap_or(500),
        connect_timeout_ms: timeout(section, "connect_timeout", 10_000),
        operation_timeout_ms: timeout(section, "operation_timeout", 60_000),
        read_timeout_ms: timeout(section, "read_timeout", 600_000),
        probe: section.boolean("probe", true),
    }
}

/// A time limit of nothing would end every operation before it began.
pub(super) fn timeout(section: &mut Section<'_>, name: &'static str, default: u64) -> u64 {
    let Some(field) = section.field(name) else { return default };
    match field.duration() {
        Some(0) => {
            field.fail("must be longer than 0s: write for example '30s'");
            default
        }
        Some(ms) => u64::try_from(ms).unwrap_or(default),
        None => default,
    }
}

fn uris(section: &mut Section<'_>, start_tls: bool) -> Vec<String> {
    let Some(field) = section.field("uri") else {
        section.missing("uri", "'ldaps://ldap.example.com'");
        return Vec::new();
    };
    let listed = field.one_or_more();
    if listed.is_empty() {
        field.fail("lists no server: write for example 'ldaps://ldap.example.com'");
    }
    let uri = |field: &Field<'_>| {
        let uri = field.url(&["ldap", "ldaps", "ldapi"])?;
        let near = ["ldap://127.", "ldap://localhost", "ldap://[::1]"].iter().any(|host| uri.starts_with(host));
        if uri.starts_with("ldap://") && !start_tls && !near {
            field.advise("passwords and names cross the network readable: use ldaps://, or add `start_tls: true`");
        }
        if uri.starts_with("ldaps://") && start_tls {
            field.fail("is encrypted already: remove `start_tls`, or write ldap:// here");
        }
        Some(uri)
    };
    listed.iter().filter_map(uri).collect()
}

/// An LDAP filter, checked only for its brackets: the server knows its own syntax.
fn filter(section: &mut Section<'_>, name: &'static str) -> Option<String> {
    let field = section.field(name)?;
    let text = field.filled()?.trim().to_owned();
    let (mut depth, mut lowest) = (0_i64, 0_i64);
    for c in text.chars() {
        depth += i64::from(c == '(') - i64::from(c == ')');
        lowest = lowest.min(depth);
    }
    if depth != 0 || lowest < 0 {
        field.fail("has brackets that do not pair up: write for example '(objectClass=person)'");
        return None;
    }
    Some(if text.starts_with('(') { text } else { format!("({text})") })
}

fn check_bind(section: &Section<'_>, dn: bool, password: bool) {
    let complain = |key: &str, message: &str| {
        section.report.error(Some(&section.spot), &join(&section.path, key), message);
    };
    match (dn, password) {
        (true, false) => {
            complain("bind_password", "is missing: `bind_dn` is given. Write `bind_password_file: /path/to/it`");
        }
        (false, true) => complain("bind_dn", "is missing: `bind_password` is given. Write whose password it is"),
        (true, true) | (false, false) => {}
    }
}

struct Tls {
    verify: bool,
    ca_file: Option<std::path::PathBuf>,
    client_cert: Option<ClientCert>,
}

fn tls(section: &mut Section<'_>) -> Tls {
    let verify = section.field_named(&["verify_tls", "validate_cert"]);
    let own_ca = section.path("ca_file");
    let own_cert = section.section("cert").map(cert);
    let mut tls = Tls {
        verify: verify.as_ref().and_then(Field::boolean).unwrap_or(true),
        ca_file: own_ca,
        client_cert: own_cert.flatten(),
    };
    if let Some(mut options) = section.section("tls_options") {
        tls.verify &= options.field_named(&["validate", "verify"]).and_then(|field| field.boolean()).unwrap_or(true);
        let ca = options.field_named(&["ca_certs_file", "ca_file"]).and_then(|field| field.path());
        tls.ca_file = tls.ca_file.or(ca);
        let cert = pair(&mut options);
        tls.client_cert = tls.client_cert.or(cert);
        for key in ["ca_certs_path", "ca_certs_data", "ciphers", "version", "valid_names", "sni"] {
            if let Some(field) = options.field(key) {
                field.advise("is accepted from Synapse's configuration but has no effect here");
            }
        }
        options.finish();
    }
    if !tls.verify {
        let path = join(&section.path, "verify_tls");
        let message =
            "the server's certificate is not checked, so anybody may answer in its place: name its CA in `ca_file`";
        section.report.advice(Some(&section.spot), &path, message);
    }
    tls
}

/// AIM's `cert: {file | cert, passphrase}`.
fn cert(mut section: Section<'_>) -> Option<ClientCert> {
    let pem = secret::need(&mut section, "cert", "file");
    let passphrase = secret::read(&mut section, "passphrase", "passphrase_file");
    section.finish();
    Some(ClientCert { pem: pem?, passphrase })
}

/// matrix-synapse-ldap3's certificate and key in two files.
fn pair(options: &mut Section<'_>) -> Option<ClientCert> {
    let certificate = options.field_named(&["local_certificate_file", "local_certificate"]);
    let key = options.field_named(&["local_private_key_file", "local_private_key"]);
    let password = "local_private_key_password";
    let passphrase = secret::read(options, password, "local_private_key_password_file");
    let certificate = secret::contents(&certificate?)?;
    let key = key.map_or_else(|| Some(SecretString::from(String::new())), |key| secret::contents(&key))?;
    let pem = format!("{}\n{}", certificate.expose_secret(), key.expose_secret());
    Some(ClientCert { pem: SecretString::from(pem), passphrase })
}

/// Keys of the password provider that say how people log in; usher logs nobody in.
fn accepted_only(section: &mut Section<'_>) {
    section.boolean("enabled", true);
    section.boolean("active_directory", false);
    section.text("default_domain");
    section.choice("mode", (), &[("simple", ()), ("search", ())]);
}
