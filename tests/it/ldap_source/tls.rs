//! Encrypted connections: `StartTLS`, ldaps, a private authority, and client certificates.

use secrecy::SecretString;
use usher::config::{ClientCert, LdapSource};

use super::{COMPANY, failure, fetch, source};
use crate::lab::slapd::certificates::PASSPHRASE;
use crate::lab::slapd::{Setup, Slapd, has_ipv6};

fn server() -> Slapd {
    Slapd::start_with(COMPANY, &Setup { tls: true, ..Setup::default() })
}

fn trusting(slapd: &Slapd, uri: &str) -> LdapSource {
    LdapSource { ca_file: Some(slapd.certificates.as_ref().unwrap().ca_file.clone()), ..source(uri) }
}

#[tokio::test]
async fn ldaps_and_start_tls_work_with_a_private_authority() {
    let slapd = server();
    assert_eq!(fetch(&trusting(&slapd, &slapd.tls_uri())).await.users.len(), 15);
    let start_tls = LdapSource { start_tls: true, ..trusting(&slapd, &slapd.uri()) };
    assert_eq!(fetch(&start_tls).await.users.len(), 15);
}

#[tokio::test]
async fn an_unknown_authority_is_refused_unless_verification_is_off() {
    let slapd = server();
    let cause = "the server's certificate comes from an authority that is not known here; set ca_file to that authority's certificate";
    for (uri, start_tls) in [(slapd.tls_uri(), false), (slapd.uri(), true)] {
        let unknown = LdapSource { start_tls, ..source(&uri) };
        assert_eq!(failure(&unknown).await, (format!("set up TLS with {uri}: {cause}"), true));
        let unverified = LdapSource { verify_tls: false, ..unknown };
        assert_eq!(fetch(&unverified).await.users.len(), 15);
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let slapd = server();
    let by_name = trusting(&slapd, &slapd.tls_uri().replace("127.0.0.1", "localhost"));
    assert_eq!(fetch(&by_name).await.users.len(), 15);
    let uri = super::relay::before_request("127.0.0.2:0", slapd.port(), usize::MAX, || ()).await;
    let elsewhere = LdapSource { start_tls: true, ..trusting(&slapd, &uri) };
    let cause = "the server's certificate is for another name; use a name it is for in the URI";
    assert_eq!(failure(&elsewhere).await, (format!("set up TLS with {uri}: {cause}"), true));
}

#[tokio::test]
async fn an_ipv6_address_is_verified_against_the_certificate() {
    let slapd = server();
    let source = |scheme: &str, host: &str| {
        let uri = if scheme == "ldaps" { slapd.tls_uri() } else { slapd.uri() };
        LdapSource { start_tls: scheme == "ldap", ..trusting(&slapd, &uri.replace("127.0.0.1", host)) }
    };
    for scheme in ["ldaps", "ldap"] {
        let own = source(scheme, "[::1]");
        if !has_ipv6() {
            // Without an IPv6 loopback it ends at the connection; what it is called is no problem before that.
            println!("this machine has no IPv6 loopback: certificates for IPv6 addresses were not tried");
            assert!(failure(&own).await.0.starts_with(&format!("connect to {}: ", own.uris[0])));
            continue;
        }
        assert_eq!(fetch(&own).await.users.len(), 15);
        // The same server at an address its certificate does not name.
        let mapped = source("ldaps", "[::ffff:127.0.0.1]");
        let cause = "the server's certificate is for another name; use a name it is for in the URI";
        assert_eq!(failure(&mapped).await, (format!("set up TLS with {}: {cause}", mapped.uris[0]), true));
        let unverified = LdapSource { verify_tls: false, ..mapped };
        assert_eq!(fetch(&unverified).await.users.len(), 15);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart() {
    let slapd = Slapd::start(COMPANY);
    let start_tls = LdapSource { start_tls: true, ..source(&slapd.uri()) };
    let (text, retry) = failure(&start_tls).await;
    let cause = "the server refuses StartTLS: code 2 (protocol error): unsupported extended operation";
    assert_eq!((text, retry), (format!("set up TLS with {}: {cause}", slapd.uri()), false));
}

fn with_certificate(slapd: &Slapd, pem: &str, passphrase: Option<&str>) -> LdapSource {
    LdapSource {
        bind_dn: None,
        bind_password: None,
        client_cert: Some(ClientCert { pem: SecretString::from(pem), passphrase: passphrase.map(SecretString::from) }),
        ..trusting(slapd, &slapd.tls_uri())
    }
}

#[tokio::test]
async fn a_client_certificate_with_a_passphrase_binds_as_its_user() {
    // Only the root DN, whom the certificate maps to, sees anything.
    let hidden = "\naccess to * by * none\n".to_owned();
    let slapd = Slapd::start_with(COMPANY, &Setup { tls: true, database: hidden, ..Setup::default() });
    let client = slapd.certificates.as_ref().unwrap().client.clone();
    let own = with_certificate(&slapd, &client, Some(PASSPHRASE));
    assert_eq!(fetch(&own).await.users.len(), 15);
    let by_start_tls = LdapSource { uris: vec![slapd.uri()], start_tls: true, ..own.clone() };
    assert_eq!(fetch(&by_start_tls).await.users.len(), 15);
    let anonymous = LdapSource { client_cert: None, ..own };
    assert!(failure(&anonymous).await.0.contains("code 32"));
}

#[tokio::test]
async fn client_certificates_that_cannot_be_used_say_why() {
    let slapd = server();
    let certificates = slapd.certificates.clone().unwrap();
    let no_key = certificates.client.split("-----BEGIN ENCRYPTED").next().unwrap().to_owned();
    let cases = [
        (certificates.client.as_str(), Some("wrong"), "its key cannot be decrypted: cert.passphrase is wrong"),
        (certificates.client.as_str(), None, "its key is encrypted; set cert.passphrase"),
        (
            certificates.client_old_form.as_str(),
            Some(PASSPHRASE),
            "its key is encrypted in OpenSSL's old form; convert it: openssl pkcs8 -topk8 -in old.pem -out new.pem",
        ),
        (
            certificates.client_version_1.as_str(),
            Some(PASSPHRASE),
            "the certificate is of X.509 version 1, which TLS libraries no longer take; issue it again as version 3",
        ),
        (
            no_key.as_str(),
            None,
            "it holds no private key (expected `-----BEGIN PRIVATE KEY-----` beside the certificate)",
        ),
        ("nothing", None, "it holds no certificate (expected `-----BEGIN CERTIFICATE-----`)"),
    ];
    for (pem, passphrase, cause) in cases {
        let text = format!("use the ldap client certificate: {cause}");
        assert_eq!(failure(&with_certificate(&slapd, pem, passphrase)).await, (text, false));
    }
    let plain =
        LdapSource { uris: vec![slapd.uri()], ..with_certificate(&slapd, &certificates.client, Some(PASSPHRASE)) };
    let cause = "a client certificate needs TLS: use ldaps:// in `uri`, or `start_tls: true`";
    assert_eq!(failure(&plain).await, (format!("use the ldap source as configured: {cause}"), false));
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_says_why() {
    let slapd = server();
    let missing = LdapSource { ca_file: Some("/nonexistent/ca.pem".into()), ..source(&slapd.tls_uri()) };
    let text = "read ldap ca_file /nonexistent/ca.pem: No such file or directory (os error 2)";
    assert_eq!(failure(&missing).await, (text.to_owned(), false));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "not a certificate\n").unwrap();
    let text = format!(
        "read ldap ca_file {}: it holds no certificate (expected `-----BEGIN CERTIFICATE-----`)",
        path.display()
    );
    assert_eq!(failure(&LdapSource { ca_file: Some(path), ..missing }).await, (text, false));
}
