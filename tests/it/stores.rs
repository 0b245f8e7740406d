//! The same suite on both databases: every function, restart, kill -9, outage, and the one-writer rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod behaviour;
mod cli;
mod faults;
mod leases;
mod looks;
mod operations;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use usher::ids::Timestamp;
use usher::store::{PassRecord, Store};

use crate::lab::postgres::Postgres;

/// An empty database, gone with the test.
pub struct Database {
    pub url: String,
    directory: Option<TempDir>,
    server: Option<Arc<Postgres>>,
}

impl Database {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("usher.db").display());
        Self { url, directory: Some(directory), server: None }
    }

    pub async fn postgres() -> Self {
        let server = Postgres::shared().await;
        Self { url: server.database().await, directory: None, server: Some(server) }
    }

    pub async fn open(&self) -> Store {
        assert!(self.directory.is_some() || self.server.is_some());
        Store::open(&self.url).await.unwrap()
    }
}

/// What an usher that works in `folder` has written down, to look at.
pub async fn look_in(folder: &Path) -> Store {
    let url = format!("sqlite://{}", folder.join("usher.db").display());
    Store::look(&url).await.unwrap().unwrap()
}

/// Passes that the source, or the time, asked for, and that began since.
pub async fn polls_since(store: &Store, begun: Timestamp) -> Vec<PassRecord> {
    let passes = store.passes(1_000).await.unwrap();
    passes.into_iter().filter(|pass| pass.cause == "poll" && pass.started >= begun).collect()
}

/// Runs one behaviour on both databases, as two tests.
macro_rules! on_both {
    ($($behaviour:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(&crate::stores::Database::sqlite()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(&crate::stores::Database::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// This test binary, asked to run one test only: how a test gets a process of its own that it may kill.
pub fn this_binary(test: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

/// Sends a signal to one process.
pub fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{name}"), process.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A child process, killed when dropped.
pub struct Child(pub std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
