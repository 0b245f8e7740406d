//! A mail server that keeps what it is given, in a process of its own that ends with the value that holds it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Debian's Python has aiosmtpd; one that was installed otherwise may come first on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// How the connection is encrypted.
#[derive(Clone, Copy, Debug)]
pub enum Encryption<'a> {
    None,
    FromTheStart(&'a Path),
    StartTls(&'a Path),
}

pub struct SmtpSink {
    folder: TempDir,
    process: Child,
    pub port: u16,
}

impl SmtpSink {
    /// `Encryption` names a folder with `server.pem` and `server.key`; `login` is a user and a password.
    pub fn start(encryption: Encryption<'_>, login: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(PYTHON);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/lab/smtp_sink.py")).arg(kept(&folder));
        if let Some((option, certificates)) = match encryption {
            Encryption::None => None,
            Encryption::FromTheStart(folder) => Some(("--tls", folder)),
            Encryption::StartTls(folder) => Some(("--starttls", folder)),
        } {
            command.arg(option).arg(certificates.join("server.pem")).arg(certificates.join("server.key"));
        }
        if let Some((user, password)) = login {
            command.args(["--login", user, password]);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Debian's python3");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the mail server's port: is python3-aiosmtpd installed?");
        Self { folder, process, port }
    }

    /// The letters so far.
    pub fn letters(&self) -> Vec<Value> {
        let text = fs::read_to_string(kept(&self.folder)).unwrap_or_default();
        // One may be on its way into the file.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn kept(folder: &TempDir) -> PathBuf {
    folder.path().join("letters")
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
