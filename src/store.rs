//! The database: `SQLite` in a file or `PostgreSQL` by URL, the same behaviour on both (S-96).
//!
//! Plain functions, one query each, through sqlx's `Any` driver: one query text for both, column types limited to BIGINT and TEXT. What
//! SCIM clients wait for goes over connections of its own where the database is `SQLite` (`near`), with the same query texts.
//! What is kept here is only what Matrix cannot hold: the ledger, holds and approvals, the history of passes, the place in the
//! change feed, the writer's lease, what SCIM clients provision and letters until they are sent, mail addresses among both. Never kept:
//! tokens, passwords, message bodies.

mod accounts;
pub mod audit;
pub mod facts;
pub mod history;
pub mod holds;
pub mod lease;
pub mod ledger;
mod look;
mod migrations;
mod near;
pub mod notices;
pub mod outbox;
pub mod scim;
mod session;
mod tables;

use std::fs::OpenOptions;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::{AnyArguments, AnyPoolOptions, install_default_drivers};
use sqlx::migrate::MigrateError;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, Executor as _, SqlSafeStr as _, Transaction};

pub use accounts::GivenOrder;
pub use facts::Fact;
pub use history::PassRecord;
pub use holds::{HeldStep, HoldRow, class_name};
pub use lease::{LeaseError, Remainder, WriterLease};
pub use ledger::{LedgerChanges, diff};
pub use notices::Told;

/// One process needs one connection for the loop and a few for probes and status.
const CONNECTIONS: u32 = 4;
/// How long to wait for a connection before the database counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest any one function here may take; saving 100 000 people takes a few seconds.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// Two processes may open a new `SQLite` file at the same moment; the later one finds the migrations done when it looks again, and goes on
/// looking while the other gets on with them.
const MIGRATION_TRIES: u32 = 5;
const MIGRATION_PAUSE: Duration = Duration::from_millis(200);

/// An open database, its tables up to date. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    backend: Backend,
    near: near::Near,
    reach: Reach,
}

/// What may be done through a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Write,
    /// The database refuses every write (S-80).
    Look,
}

/// Which database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The database file.
    Sqlite(PathBuf),
    Postgres,
}

/// Why the database did not do what was asked. Never holds the URL's user or password.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Down, starting, stopping, busy or out of connections: worth another try.
    #[error("the database is unreachable (attempted: {what}): {cause}")]
    Unreachable { what: &'static str, cause: String },
    /// The database answered, and trying again will not help.
    #[error("the database refused (attempted: {what}): {cause}")]
    Refused { what: &'static str, cause: String },
    /// A row that this version cannot read. Nothing is guessed from it.
    #[error("the database holds a row that cannot be read (attempted: {what}): {cause}")]
    Damaged { what: &'static str, cause: String },
    /// `database.url` or the file behind it.
    #[error("cannot open the database {url}: {cause}")]
    Open { url: String, cause: String },
    /// Migrations only go forward.
    #[error("the database was written by a newer usher (migration {version}); start that version, or restore a backup")]
    Newer { version: i64 },
    /// Looking migrates nothing (S-80).
    #[error(
        "the database was written by an older usher (migration {version} of {latest}): `usher run` or `usher apply` brings it up to \
         date; looking at it changes nothing"
    )]
    Older { version: i64, latest: i64 },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { .. }
            | Self::Damaged { .. }
            | Self::Open { .. }
            | Self::Newer { .. }
            | Self::Older { .. } => false,
        }
    }

    fn from_sqlx(what: &'static str, error: &sqlx::Error) -> Self {
        let cause = error.to_string();
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Self::Damaged { what, cause }
            }
            error if is_outage(error) => Self::Unreachable { what, cause },
            _ => Self::Refused { what, cause },
        }
    }
}

/// SQLSTATE classes and codes of an outage: connection exceptions, server stopping or starting, too many connections,
/// serialisation and dead-lock victims. `SQLite`: busy and locked, with their extended forms in the low byte.
fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("57P")
                || ["53300", "40001", "40P01", "55P03"].contains(&code.as_ref())
                || (code.len() < 5 && code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)))
        }),
        _ => false,
    }
}

impl Store {
    /// Opens `url` (`sqlite://usher.db`, `postgres://…`), makes the file if there is none (readable by its owner only), and brings
    /// the tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] while `PostgreSQL` is down; the others want a person.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        install_default_drivers();
        let backend = backend_of(url)?;
        if let Backend::Sqlite(path) = &backend {
            create_file(url, path)?;
        }
        let settings = match backend {
            Backend::Sqlite(_) => SQLITE_SETTINGS,
            Backend::Postgres => "",
        };
        let pool = connect(url, settings).await?;
        let store = Self { pool, backend, near: near::Near::default(), reach: Reach::Write };
        store.migrate().await?;
        store.note_birth().await?;
        Ok(store)
    }

    /// Which database this is.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.bounded("ping", async { sqlx::query(PING).execute(&self.pool).await.map(|_| ()) }).await
    }

    /// Closes every connection; the file's write-ahead log is folded in.
    pub async fn close(&self) {
        self.near.close();
        self.pool.close().await;
    }

    /// Has the database parse every query usher may ever send, and tells how many there are.
    ///
    /// # Errors
    /// The first query the database does not accept.
    pub async fn prepare_all(&self) -> Result<usize, StoreError> {
        let statements = self.statements();
        for sql in &statements {
            let statement = AssertSqlSafe(sql.clone()).into_sql_str();
            let prepared = self.bounded("prepare", async { (&self.pool).prepare(statement).await.map(|_| ()) }).await;
            prepared.map_err(|error| StoreError::Refused { what: "prepare", cause: format!("{error}; in: {sql}") })?;
        }
        Ok(statements.len())
    }

    /// Every query for this database, the generated ones at their shortest and longest.
    fn statements(&self) -> Vec<String> {
        let lists = [
            &[PING][..],
            facts::QUERIES,
            accounts::QUERIES,
            audit::QUERIES,
            history::QUERIES,
            holds::QUERIES,
            ledger::QUERIES,
            notices::QUERIES,
            outbox::QUERIES,
        ];
        let mut statements: Vec<String> = lists.concat().into_iter().map(str::to_owned).collect();
        statements.extend(look::queries(&self.backend).map(str::to_owned));
        if self.backend == Backend::Postgres {
            let own = lease::QUERIES.iter().chain(accounts::POSTGRES_QUERIES);
            statements.extend(own.map(|sql| (*sql).to_owned()));
        }
        statements.extend(scim::statements(&self.backend));
        statements.extend(ledger::TABLES.iter().flat_map(|table| table.statements()));
        statements.extend(audit::TABLES.iter().flat_map(|table| table.statements()));
        statements.extend(holds::TABLES.iter().flat_map(|table| table.statements()));
        statements
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migrator = migrations::migrator(&self.backend);
        let (mut tries, mut version) = (0, None);
        loop {
            tries += 1;
            let done = tokio::time::timeout(CALL_LIMIT, migrator.run(&self.pool)).await;
            match done {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(MigrateError::VersionMissing(version))) => return Err(StoreError::Newer { version }),
                Ok(Err(_)) if tries < MIGRATION_TRIES && self.backend != Backend::Postgres => {
                    tokio::time::sleep(MIGRATION_PAUSE).await;
                    if let Ok(now) = self.version().await
                        && now != version
                    {
                        (tries, version) = (0, now);
                    }
                }
                Ok(Err(MigrateError::Execute(error))) => return Err(StoreError::from_sqlx("migrate", &error)),
                Ok(Err(error)) => return Err(StoreError::Refused { what: "migrate", cause: error.to_string() }),
                Err(_) => return Err(too_slow("migrate")),
            }
        }
    }

    /// Runs one piece of database work within [`CALL_LIMIT`].
    async fn bounded<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(CALL_LIMIT, work).await {
            Ok(done) => done.map_err(|error| StoreError::from_sqlx(what, &error)),
            Err(_) => Err(too_slow(what)),
        }
    }

    /// A transaction that only reads, and sees nothing of what is written meanwhile.
    async fn moment(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self.backend {
            Backend::Sqlite(_) => self.pool.begin().await,
            Backend::Postgres => self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await,
        }
    }

    /// A transaction that will write. `SQLite`'s takes the write lock at once: one that reads first and writes later can be refused
    /// without waiting.
    async fn begin(&self) -> Result<Write, sqlx::Error> {
        let turn = self.turn().await;
        let transaction = match self.backend {
            Backend::Sqlite(_) => self.pool.begin_with("BEGIN IMMEDIATE").await?,
            Backend::Postgres => self.pool.begin().await?,
        };
        Ok(Write { transaction, turn })
    }

    /// Does what one statement says.
    async fn write(&self, what: &'static str, query: Query<'_, Any, AnyArguments>) -> Result<(), StoreError> {
        self.bounded(what, async {
            let _turn = self.turn().await;
            query.execute(&self.pool).await.map(|_| ())
        })
        .await
    }

    /// A turn to write, where the database takes one writer at a time.
    async fn turn(&self) -> Option<near::Turn> {
        match self.backend {
            Backend::Sqlite(_) => Some(self.near.turn().await),
            Backend::Postgres => None,
        }
    }
}

/// A transaction that writes, in its turn.
#[derive(Debug)]
struct Write {
    transaction: Transaction<'static, Any>,
    /// Kept until the transaction is over.
    turn: Option<near::Turn>,
}

impl Write {
    async fn commit(self) -> Result<(), sqlx::Error> {
        let Self { transaction, turn } = self;
        let done = transaction.commit().await;
        drop(turn);
        done
    }
}

impl Deref for Write {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

const PING: &str = "SELECT COUNT(*) FROM facts";

/// Readers beside a writer (WAL), writers that wait for each other, and a commit that survives a power cut. Little is kept of the file: the
/// system keeps it, and these connections read large parts of it seldom.
const SQLITE_SETTINGS: &str =
    "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA cache_size = -250;";

/// Connections to `url`, each prepared by `settings` (several statements, or none).
async fn connect(url: &str, settings: &'static str) -> Result<AnyPool, StoreError> {
    let options = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECT_LIMIT).after_connect(
        move |connection, _| {
            Box::pin(async move {
                if !settings.is_empty() {
                    connection.execute(settings).await?;
                }
                Ok(())
            })
        },
    );
    options.connect(url).await.map_err(|error| {
        if is_outage(&error) {
            StoreError::Unreachable { what: "connect", cause: error.to_string() }
        } else {
            let unopened =
                matches!(&error, sqlx::Error::Database(error) if error.code().as_deref() == Some(SQLITE_CANTOPEN));
            let hint =
                if unopened { "; is it a file, and may this user read and write it and its directory?" } else { "" };
            StoreError::Open { url: without_secrets(url), cause: format!("{error}{hint}") }
        }
    })
}

/// `SQLite`'s code for a file that it cannot open, which does not say why.
const SQLITE_CANTOPEN: &str = "14";

fn too_slow(what: &'static str) -> StoreError {
    StoreError::Unreachable { what, cause: format!("no answer within {} s", CALL_LIMIT.as_secs()) }
}

fn damaged(what: &'static str) -> impl Fn(serde_json::Error) -> StoreError {
    move |error| StoreError::Damaged { what, cause: error.to_string() }
}

fn backend_of(url: &str) -> Result<Backend, StoreError> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Backend::Postgres);
    }
    let refuse = |cause: &str| StoreError::Open { url: without_secrets(url), cause: cause.to_owned() };
    let Some(rest) = url.strip_prefix("sqlite:") else {
        return Err(refuse("it must begin with sqlite:// or postgres://"));
    };
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path.is_empty() || path == ":memory:" {
        return Err(refuse("usher needs a file, because what it remembers must survive a restart"));
    }
    if path.contains('%') {
        return Err(refuse("a percent sign in the path would mean an escaped character; name the file without one"));
    }
    Ok(Backend::Sqlite(PathBuf::from(path)))
}

fn create_file(url: &str, path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::Open {
            url: without_secrets(url),
            cause: format!(
                "cannot create {}: {error}; does the directory exist, and may usher write there?",
                path.display()
            ),
        }),
    }
}

/// The URL without user, password and parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{rest}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_shows_the_password() {
        let shown = without_secrets("postgres://usher:s3cr@t@db:5432/usher?password=other");
        assert_eq!(shown, "postgres://db:5432/usher");
    }

    #[test]
    fn a_url_names_its_database() {
        assert_eq!(backend_of("sqlite://usher.db").unwrap(), Backend::Sqlite("usher.db".into()));
        assert_eq!(
            backend_of("sqlite:///var/lib/usher.db?mode=rwc").unwrap(),
            Backend::Sqlite("/var/lib/usher.db".into())
        );
        assert_eq!(backend_of("postgresql://db/usher").unwrap(), Backend::Postgres);
        for wrong in ["mysql://db/usher", "sqlite::memory:", "sqlite://", "sqlite://a%20b.db", "usher.db"] {
            assert!(matches!(backend_of(wrong), Err(StoreError::Open { .. })), "{wrong}");
        }
    }
}
