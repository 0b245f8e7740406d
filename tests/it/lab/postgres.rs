//! A real `PostgreSQL` on loopback in a temporary directory, ended with the last test that uses it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;

use super::ports::free_port;

/// How often, every 100 ms, a starting server is asked whether it is there.
const START_TRIES: u32 = 600;

/// A running (or stopped) server. Ended when dropped.
pub struct Postgres {
    directory: TempDir,
    port: u16,
    server: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("usher-postgres-").tempdir().unwrap();
        if let Some(user) = account() {
            let (uid, gid) = (id("-u", &user), id("-g", &user));
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = free_port();
        let cluster = Self { directory, port, server: Mutex::new(None), databases: AtomicU32::new(0) };
        let made = cluster
            .program("initdb")
            .args(["--auth=trust", "--username=usher", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        cluster.resume().await;
        cluster
    }

    /// The server that all tests running at the moment share; each makes its own database.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Postgres>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Makes an empty database and gives its URL.
    pub async fn database(&self) -> String {
        let name = format!("usher_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect().await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
        self.url(&name)
    }

    /// Stops the server at once, as an outage does; its data stays.
    pub fn stop(&self) {
        let Some(mut child) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
        for _ in 0..100 {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the server again where it was.
    pub async fn resume(&self) {
        let log = self.directory.path().join("server.log");
        let child = self
            .program("postgres")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-c",
                "fsync=off",
                "-c",
                "max_connections=200",
                "-k",
                "",
            ])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        for _ in 0..START_TRIES {
            if self.connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut text = String::new();
        let _ = std::fs::File::open(&log).and_then(|mut file| file.read_to_string(&mut text));
        panic!("PostgreSQL did not start: {text}");
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://usher@127.0.0.1:{}/{database}", self.port)
    }

    async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url("postgres")).await
    }

    /// One of the server's programs on this cluster, as a user that is not root: it refuses to run otherwise.
    fn program(&self, name: &str) -> Command {
        let path = programs().join(name);
        let data = self.directory.path().join("data");
        let mut command = match account() {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={}", id("-g", &user)),
                    "--clear-groups".into(),
                ]);
                command.arg(path);
                command
            }
            None => Command::new(path),
        };
        command.arg("-D").arg(data).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The newest installed server.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is not installed");
    let newest = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).max();
    let newest = newest.expect("PostgreSQL is not installed");
    Path::new("/usr/lib/postgresql").join(newest.to_string()).join("bin")
}

/// Whom the server runs as, when this is root.
fn account() -> Option<String> {
    if id("-u", "") != 0 {
        return None;
    }
    let known = |user: &&str| Command::new("id").arg(user).output().is_ok_and(|output| output.status.success());
    ["postgres", "nobody"].into_iter().find(known).map(str::to_owned)
}

fn id(what: &str, user: &str) -> u32 {
    let mut command = Command::new("id");
    command.arg(what);
    if !user.is_empty() {
        command.arg(user);
    }
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse().unwrap()
}
