//! An authority, a server's certificate and clients' certificates, made by the `openssl` command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Passphrase of the encrypted keys.
pub const PASSPHRASE: &str = "open sesame";

/// PEM texts and files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca_file: PathBuf,
    /// `CN=usher`, its key encrypted with [`PASSPHRASE`] (PKCS#8).
    pub client: String,
    /// The same with the key in OpenSSL's old encrypted form.
    pub client_old_form: String,
    /// The same key with a certificate of X.509 version 1.
    pub client_version_1: String,
}

impl Certificates {
    /// Makes them in `folder`, for a server on 127.0.0.1 and `::1`.
    pub fn make(folder: &Path) -> Self {
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=Lab authority", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(folder, &[&ca[..], &curve[..]].concat());
        openssl(
            folder,
            &[&["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"], &curve[..]].concat(),
        );
        fs::write(
            folder.join("server.ext"),
            "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
        )
        .unwrap();
        sign(folder, "server.csr", "server.pem", Some("server.ext"));
        let pass = format!("pass:{PASSPHRASE}");
        let key = [
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-aes-256-cbc",
            "-out",
            "client.key",
        ];
        openssl(folder, &[&key[..], &["-pass", &pass]].concat());
        openssl(
            folder,
            &["req", "-new", "-subj", "/CN=usher", "-key", "client.key", "-passin", &pass, "-out", "client.csr"],
        );
        fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
        sign(folder, "client.csr", "client.pem", Some("client.ext"));
        sign(folder, "client.csr", "client-v1.pem", None);
        openssl(
            folder,
            &["ec", "-in", "client.key", "-passin", &pass, "-aes256", "-passout", &pass, "-out", "client-old.key"],
        );
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        Self {
            ca_file: folder.join("ca.pem"),
            client: text("client.pem") + text("client.key").as_str(),
            client_old_form: text("client.pem") + text("client-old.key").as_str(),
            client_version_1: text("client-v1.pem") + text("client.key").as_str(),
        }
    }
}

fn sign(folder: &Path, request: &str, out: &str, extensions: Option<&str>) {
    let sign = [
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-out",
        out,
    ];
    let extensions: Vec<&str> = extensions.map_or_else(Vec::new, |file| vec!["-extfile", file]);
    openssl(folder, &[&sign[..], &extensions].concat());
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl is installed");
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
