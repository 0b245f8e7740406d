//! A real `OpenLDAP` on loopback, in a directory of its own, ended with the value that stands for it.
//!
//! Base `dc=example,dc=org`, root DN [`ROOT_DN`] with [`PASSWORD`]. `slapd`, `slapadd` and `ldapmodify` must be installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set up its world should fail there and then"
)]

// The path is spelt out because the benchmark includes this file from elsewhere.
#[path = "slapd/certificates.rs"]
pub mod certificates;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use certificates::Certificates;
use secrecy::SecretString;
use tempfile::TempDir;
use usher::config::{LdapAttributes, LdapSource};

use super::ports::free_port;

pub const BASE: &str = "dc=example,dc=org";
pub const ROOT_DN: &str = "cn=admin,dc=example,dc=org";
pub const PASSWORD: &str = "lab-secret";

const BASE_ENTRY: &str =
    "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n";

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A source reading everything at `uri` as the root DN, with small pages and short patience.
pub fn source(uri: &str) -> LdapSource {
    LdapSource {
        check_interval_ms: 60_000,
        uris: vec![uri.to_owned()],
        base: BASE.to_owned(),
        filter: None,
        user_filter: None,
        group_filter: None,
        bind_dn: Some(ROOT_DN.to_owned()),
        bind_password: Some(SecretString::from(PASSWORD)),
        attributes: LdapAttributes {
            uid: "uid".to_owned(),
            name: "cn".to_owned(),
            mail: "mail".to_owned(),
            avatar: None,
        },
        localpart: None,
        strict_localparts: false,
        start_tls: false,
        verify_tls: true,
        ca_file: None,
        client_cert: None,
        page_size: 3,
        connect_timeout_ms: 5_000,
        operation_timeout_ms: 5_000,
        read_timeout_ms: 30_000,
        probe: false,
    }
}

/// Whether this machine has an IPv6 loopback.
pub fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// What is beyond the ordinary about a server.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Certificates, `ldaps`, `StartTLS`; a client certificate's user is the root DN.
    pub tls: bool,
    /// Lines of slapd.conf before the database, and in it.
    pub global: String,
    pub database: String,
}

/// A running (or stopped) server.
#[derive(Debug)]
pub struct Slapd {
    folder: TempDir,
    port: u16,
    tls_port: Option<u16>,
    process: Option<Child>,
    pub certificates: Option<Certificates>,
}

impl Slapd {
    /// A server holding these entries. The base entry is added if `ldif` has none.
    pub fn start(ldif: &str) -> Self {
        Self::start_with(ldif, &Setup::default())
    }

    /// A server that is out of the ordinary.
    pub fn start_with(ldif: &str, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = setup.tls.then(|| Certificates::make(folder.path()));
        fs::create_dir(folder.path().join("db")).unwrap();
        fs::write(folder.path().join("slapd.conf"), configuration(folder.path(), setup)).unwrap();
        let whole =
            if ldif.contains("dn: dc=example,dc=org\n") { ldif.to_owned() } else { format!("{BASE_ENTRY}{ldif}") };
        let content = folder.path().join("content.ldif");
        fs::write(&content, whole).unwrap();
        let added = run(Command::new("slapadd")
            .arg("-q")
            .arg("-f")
            .arg(folder.path().join("slapd.conf"))
            .arg("-l")
            .arg(&content));
        assert!(added.status.success(), "slapadd: {}", String::from_utf8_lossy(&added.stderr));
        fs::remove_file(content).unwrap();
        let tls_port = setup.tls.then(free_port);
        let mut slapd = Self { folder, port: free_port(), tls_port, process: None, certificates };
        slapd.launch();
        slapd
    }

    fn launch(&mut self) {
        let mut listen = format!("ldap://127.0.0.1:{}/", self.port);
        if let Some(port) = self.tls_port {
            let _ = write!(listen, " ldaps://127.0.0.1:{port}/");
            if has_ipv6() {
                let _ = write!(listen, " ldap://[::1]:{}/ ldaps://[::1]:{port}/", self.port);
            }
        }
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("slapd")
            .args(["-d", "0", "-h", &listen, "-f"])
            .arg(self.folder.path().join("slapd.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("slapd is installed");
        self.process = Some(child);
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < until,
                "slapd does not listen: {ended:?}\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `ldap://127.0.0.1:port`.
    pub fn uri(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// `ldaps://127.0.0.1:port`; only with [`Setup::tls`], and then at `[::1]` too if the machine has it.
    pub fn tls_uri(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls_port.expect("started with TLS"))
    }

    /// Where the server listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Applies change records as the root DN.
    pub fn modify(&self, ldif: &str) {
        let mut child = Command::new("ldapmodify")
            .args(["-x", "-H", &self.uri(), "-D", ROOT_DN, "-w", PASSWORD])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ldapmodify is installed");
        child.stdin.take().unwrap().write_all(ldif.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "ldapmodify: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Ends the server in good order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // A frozen process takes no TERM.
            signal(child.id(), "CONT");
            signal(child.id(), "TERM");
            let _ = child.wait();
        }
    }

    /// Ends the server as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes the server: it accepts connections and answers nothing.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// Undoes [`Slapd::pause`].
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// Starts the server again on the same port with the same data, ending it first if it runs.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Sends a signal to one process. Returns once a `STOP` has reached every thread, and a `KILL` has left nothing but what is for its parent.
pub fn signal(pid: u32, name: &str) {
    // The process may be gone; the program that tells it must be there, or a test would prove nothing.
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("kill is installed");
    let until = Instant::now() + PATIENCE;
    let awaited: &[char] = match name {
        "STOP" => &['T'],
        "KILL" => &['Z', 'X'],
        _ => return,
    };
    while !is_in(pid, awaited) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether every thread that is left of a process is in one of these states.
fn is_in(pid: u32, states: &[char]) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(states))
    })
}

fn run(command: &mut Command) -> std::process::Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn configuration(folder: &Path, setup: &Setup) -> String {
    let schemas: PathBuf = "/etc/ldap/schema".into();
    let mut text = String::new();
    for schema in ["core", "cosine", "nis", "inetorgperson"] {
        let _ = writeln!(text, "include {}", schemas.join(format!("{schema}.schema")).display());
    }
    text.push_str("modulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload syncprov\nmoduleload ppolicy\n");
    if setup.tls {
        let folder = folder.display();
        let _ = write!(
            text,
            "TLSCACertificateFile {folder}/ca.pem\nTLSCertificateFile {folder}/server.pem\nTLSCertificateKeyFile {folder}/server.key\n\
             TLSVerifyClient try\nauthz-regexp \"cn=usher\" \"{ROOT_DN}\"\n"
        );
    }
    text.push_str(&setup.global);
    let _ = write!(
        text,
        "\ndatabase mdb\nsuffix \"{BASE}\"\nrootdn \"{ROOT_DN}\"\nrootpw {PASSWORD}\ndirectory {}\nmaxsize 1073741824\n\
         index objectClass,entryUUID,entryCSN eq\nindex uid pres,eq\n",
        folder.join("db").display()
    );
    text.push_str(&setup.database);
    if !setup.database.contains("access to") {
        text.push_str("\naccess to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n");
    }
    text.push_str("\noverlay syncprov\n");
    text
}
