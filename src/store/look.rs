//! Looking into a database that is there (S-80): what an earlier `run` or `apply` left. Never makes a file or a table, never migrates,
//! never writes: the database itself refuses every write through such a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::any::install_default_drivers;

use super::near::Near;
use super::{Backend, Reach, Store, StoreError, backend_of, connect, migrations, without_secrets};

/// Longest time between two migrations of somebody who is at it.
const MIGRATION: Duration = Duration::from_millis(500);

impl Store {
    /// Opens `url` for reading only. `None`: there is no file, or no `run` or `apply` has made its tables yet. Works beside a usher
    /// that writes; to be closed with [`Store::close`], so that `SQLite` takes its side files away again.
    ///
    /// # Errors
    /// [`StoreError::Older`] where the tables are those of an older version, [`StoreError::Newer`] where they are a newer one's;
    /// [`StoreError::Unreachable`] while `PostgreSQL` is down.
    pub async fn look(url: &str) -> Result<Option<Self>, StoreError> {
        install_default_drivers();
        let backend = backend_of(url)?;
        let pool = match &backend {
            Backend::Sqlite(path) => match sqlite(url, path)? {
                Some(url) => connect(&url, SQLITE_LOOKING).await?,
                None => return Ok(None),
            },
            Backend::Postgres => connect(url, POSTGRES_LOOKING).await?,
        };
        let store = Self { pool, backend, near: Near::default(), reach: Reach::Look };
        let latest = migrations::latest();
        let version = store.settled_version(latest).await?;
        let refused = match version {
            None => None,
            Some(version) if version == latest => return Ok(Some(store)),
            Some(version) if version > latest => Some(StoreError::Newer { version }),
            Some(version) => Some(StoreError::Older { version, latest }),
        };
        store.close().await;
        refused.map_or(Ok(None), Err)
    }

    /// Whether this store only looks.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        self.reach == Reach::Look
    }

    /// The newest migration that was done. Somebody who is bringing the database up to date just now is waited for.
    async fn settled_version(&self, latest: i64) -> Result<Option<i64>, StoreError> {
        let mut version = self.version().await?;
        while version.is_some_and(|version| version < latest) {
            tokio::time::sleep(MIGRATION).await;
            let now = self.version().await?;
            if now == version {
                break;
            }
            version = now;
        }
        Ok(version)
    }

    /// The newest migration that was done; `None` without tables.
    pub(super) async fn version(&self) -> Result<Option<i64>, StoreError> {
        const WHAT: &str = "look which migrations were done";
        let number = async |sql: &'static str| {
            let row = self.bounded(WHAT, sqlx::query(sql).fetch_one(&self.pool)).await?;
            row.try_get::<i64, _>(0).map_err(|error| StoreError::from_sqlx(WHAT, &error))
        };
        let [tables, newest] = queries(&self.backend);
        if number(tables).await? == 0 {
            return Ok(None);
        }
        Ok(Some(number(newest).await?).filter(|version| *version > 0))
    }
}

/// The URL for a look at an existing file. After a writer that was killed a log is left: it is read where it lies, without any right to
/// write. Without one the file is opened as writers open it and forbidden to write: only so `SQLite` may take away the empty side files
/// that it makes for every reader.
fn sqlite(url: &str, path: &Path) -> Result<Option<String>, StoreError> {
    let refuse = |cause: String| StoreError::Open { url: without_secrets(url), cause };
    let size = |path: &Path| match std::fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(file.len()),
        Ok(_) => Err(refuse(format!("{} is not a file", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(refuse(format!("{}: {error}; may this user read it?", path.display()))),
    };
    if size(path)? == 0 {
        return Ok(None);
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let mode = if size(&PathBuf::from(log))? == 0 { "rw" } else { "ro" };
    let bare = url.split_once('?').map_or(url, |(bare, _)| bare);
    Ok(Some(format!("{bare}?mode={mode}")))
}

const SQLITE_LOOKING: &str = "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON;";
const POSTGRES_LOOKING: &str = "SET default_transaction_read_only = on";

/// Whether there are tables, and the newest migration.
pub(super) fn queries(backend: &Backend) -> [&'static str; 2] {
    let tables = match backend {
        Backend::Sqlite(_) => SELECT_SQLITE_TABLES,
        Backend::Postgres => SELECT_POSTGRES_TABLES,
    };
    [tables, SELECT_VERSION]
}

const SELECT_SQLITE_TABLES: &str = "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
const SELECT_POSTGRES_TABLES: &str =
    "SELECT COUNT(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('_sqlx_migrations')";
const SELECT_VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";
