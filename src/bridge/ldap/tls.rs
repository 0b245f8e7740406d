//! TLS towards the directory: which authorities are trusted, and the client certificate with its key.
//!
//! The LDAP library takes host names and IPv4 addresses to verify a certificate against, no IPv6 addresses; for those the name is put
//! in by a verifier of our own. Never turns verification off unless `verify_tls: false` says so, and never puts key material into an error.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use pkcs8::der::SecretDocument;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use secrecy::ExposeSecret as _;

use crate::bridge::SourceError;
use crate::config::{ClientCert, LdapSource};

/// The TLS settings for a source, whatever server of it is connected to.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl Tls {
    /// Reads the certificates that the source names.
    ///
    /// # Errors
    /// A CA file, certificate or key that cannot be used, and how to mend it.
    pub fn new(source: &LdapSource) -> Result<Self, SourceError> {
        let attempted = "set up TLS for ldap";
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if source.verify_tls {
            let roots = Arc::new(authorities(source)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            verifier.map_err(|error| unusable(attempted, error.to_string()))?
        } else {
            Arc::new(Unverified(Arc::clone(&provider)))
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(attempted, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier));
        let config = client_config(builder, source)?;
        Ok(Self { config: Arc::new(config), verifier })
    }

    /// Settings for a server that the library can name, by name or IPv4 address.
    #[must_use]
    pub fn for_named(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Settings for the server at this address, whatever name it is asked for by.
    #[must_use]
    pub fn for_ipv6(&self, address: Ipv6Addr) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        // Addresses are not sent (RFC 6066, 3), and the stand-in for one must not be.
        config.enable_sni = false;
        let name = ServerName::IpAddress(IpAddr::from(address).into());
        let verifier = At { name, inner: Arc::clone(&self.verifier) };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

fn client_config(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    source: &LdapSource,
) -> Result<ClientConfig, SourceError> {
    let config = match &source.client_cert {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let attempted = "use the ldap client certificate";
            let (chain, key) = identity(own).map_err(|cause| unusable(attempted, cause))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable(attempted, certificate_problem(&error)))?
        }
    };
    Ok(config)
}

fn unusable(attempted: &str, cause: String) -> SourceError {
    SourceError { attempted: attempted.to_owned(), cause, retry: false }
}

/// The system's authorities, and those of `ca_file` beside them.
fn authorities(source: &LdapSource) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &source.ca_file else { return Ok(roots) };
    let attempted = format!("read ldap ca_file {}", path.display());
    let pem = std::fs::read(path).map_err(|error| unusable(&attempted, error.to_string()))?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&attempted, format!("not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| unusable(&attempted, certificate_problem(&error)))?;
        found += 1;
    }
    if found == 0 {
        return Err(unusable(
            &attempted,
            "it holds no certificate (expected `-----BEGIN CERTIFICATE-----`)".to_owned(),
        ));
    }
    Ok(roots)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(own: &ClientCert) -> Result<Identity, String> {
    let pem = own.pem.expose_secret();
    if pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(
            "its key is encrypted in OpenSSL's old form; convert it: openssl pkcs8 -topk8 -in old.pem -out new.pem"
                .to_owned(),
        );
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("its certificate is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("it holds no certificate (expected `-----BEGIN CERTIFICATE-----`)".to_owned());
    }
    let Some(block) = block(pem, "ENCRYPTED PRIVATE KEY") else {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            "it holds no private key (expected `-----BEGIN PRIVATE KEY-----` beside the certificate)".to_owned()
        })?;
        return Ok((chain, key));
    };
    let Some(passphrase) = &own.passphrase else {
        return Err("its key is encrypted; set cert.passphrase".to_owned());
    };
    let (_, document) = SecretDocument::from_pem(block).map_err(|_| "its encrypted key is not PEM".to_owned())?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| {
        "its encrypted key is of a kind unknown here; encrypt it with AES-256: openssl pkcs8 -topk8 -v2 aes-256-cbc"
            .to_owned()
    })?;
    let key = encrypted
        .decrypt(passphrase.expose_secret())
        .map_err(|_| "its key cannot be decrypted: cert.passphrase is wrong".to_owned())?;
    Ok((chain, PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()))
}

/// The PEM block of this kind, delimiters included.
fn block<'a>(pem: &'a str, kind: &str) -> Option<&'a str> {
    let start = pem.find(&format!("-----BEGIN {kind}-----"))?;
    let end_mark = format!("-----END {kind}-----");
    let length = pem[start..].find(&end_mark)? + end_mark.len();
    Some(&pem[start..start + length])
}

/// What is wrong with a certificate or a handshake, and what to do.
#[must_use]
pub fn certificate_problem(error: &rustls::Error) -> String {
    let text = match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate comes from an authority that is not known here; set ca_file to that authority's certificate"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate is for another name; use a name it is for in the URI",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired (or this machine's clock is wrong)"
        }
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => "the server's certificate was revoked",
        rustls::Error::AlertReceived(_) => "the server broke the handshake off; it may want another client certificate",
        rustls::Error::InconsistentKeys(_) => "the private key does not belong to the certificate",
        _ => return other_problem(&error.to_string()),
    };
    text.to_owned()
}

fn other_problem(text: &str) -> String {
    if text.contains("UnsupportedCertVersion") {
        return "the certificate is of X.509 version 1, which TLS libraries no longer take; issue it again as version 3".to_owned();
    }
    if text.contains("CaUsedAsEndEntity") {
        return "the server shows a certificate of an authority as its own; give it one of its own, signed by that authority"
            .to_owned();
    }
    format!("TLS: {text}")
}

/// Verifies a server by its own address in place of the name that the library gave.
#[derive(Debug)]
struct At {
    name: ServerName<'static>,
    inner: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for At {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate, as `verify_tls: false` demands; signatures of the handshake are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
