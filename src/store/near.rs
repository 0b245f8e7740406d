//! `SQLite` in place. Handing a statement to the thread of a pooled connection and back costs several times what a short statement does,
//! so what SCIM clients wait for goes over connections of their own, used where they are needed (S-65).
//!
//! Reads never wait: what cannot be read at once, because the file is locked or gone, goes the long way through the pool, which waits
//! and knows what to say. Beginning and committing a write, which wait for the file's lock and for the disk, have a thread of their own; so
//! has a read that may be long.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, ToSql, ffi};
use sqlx::error::{DatabaseError, ErrorKind};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::session::{Bound, Columns, Session, Take, query};
use super::{Backend, Reach, Store, StoreError};

/// Statements kept prepared by each connection.
const PREPARED: usize = 64;
/// Pages, of 4 KiB, that wait in the write-ahead log before they are put where they belong: one that changes often is written there once.
const CHECKPOINT_PAGES: i64 = 4_000;
/// What a connection keeps of the file, in KiB with a minus sign: the one that writes comes back to the same pages, those that read to
/// little but the way there. The system keeps the rest.
const WRITER_CACHE_KIB: i64 = -1_000;
const READER_CACHE_KIB: i64 = -300;
/// Connections for reading that are kept open.
const MOST_READERS: usize = 4;
/// How long a write waits for others to end theirs.
const PATIENCE: Duration = Duration::from_secs(5);
/// A statement with more parameters takes long enough that others should have a turn afterwards.
const MANY: usize = 64;

const BEGIN: &str = "BEGIN IMMEDIATE";

/// Leave to write, in turn with everybody else in this process.
pub(super) type Turn = OwnedMutexGuard<()>;

/// The connections to one file. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Near {
    idle: Arc<Mutex<Idle>>,
    /// Those who write wait here, in order, and not for the file: there, whoever asks at the right moment comes first.
    line: Arc<tokio::sync::Mutex<()>>,
    /// So many long reads at once; more would only wait for the same disk.
    long_reads: Arc<Semaphore>,
}

impl Default for Near {
    fn default() -> Self {
        Self { idle: Arc::default(), line: Arc::default(), long_reads: Arc::new(Semaphore::new(MOST_READERS)) }
    }
}

/// Connections that nobody uses just now.
#[derive(Debug, Default)]
struct Idle {
    readers: Vec<Connection>,
    writer: Option<Connection>,
    closed: bool,
}

impl Near {
    /// No connection stays open: the last one that closes folds the write-ahead log in.
    pub(super) fn close(&self) {
        *self.idle() = Idle { closed: true, ..Idle::default() };
    }

    /// A turn to write; kept until it is over.
    pub(super) async fn turn(&self) -> Turn {
        Arc::clone(&self.line).lock_owned().await
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless all of them are to be closed.
    fn open_ones(&self) -> rusqlite::Result<MutexGuard<'_, Idle>> {
        let idle = self.idle();
        if idle.closed {
            let code = ffi::Error::new(ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(code, Some("the database is being closed".to_owned())));
        }
        Ok(idle)
    }

    fn reader(&self, file: &Path) -> rusqlite::Result<Connection> {
        let known = self.open_ones()?.readers.pop();
        known.map_or_else(|| open(file, true), Ok)
    }

    fn read<T>(
        &self,
        file: &Path,
        (sql, bound): (&str, &[Bound<'_>]),
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, sqlx::Error> {
        let connection = self.reader(file).map_err(Refused::error)?;
        let mut found = Vec::new();
        each(&connection, sql, bound, &mut |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        let mut idle = self.idle();
        if !idle.closed && idle.readers.len() < MOST_READERS {
            idle.readers.push(connection);
        }
        Ok(found)
    }

    fn writer(&self, file: &Path) -> rusqlite::Result<Connection> {
        let known = self.open_ones()?.writer.take();
        known.map_or_else(|| open(file, false), Ok)
    }

    /// Begins a transaction that will write.
    pub(super) async fn begin(&self, file: &Path) -> Result<Writer, sqlx::Error> {
        let turn = self.turn().await;
        let connection = self.writer(file).map_err(Refused::error)?;
        let near = self.clone();
        // Most of the time nobody else writes, and there is nothing to wait for.
        connection.busy_timeout(Duration::ZERO).map_err(Refused::error)?;
        match connection.execute_batch(BEGIN) {
            Ok(()) => return Ok(Writer { connection, near, turn }),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            Err(error) => return Err(Refused::error(error)),
        }
        let begin = move || {
            connection.busy_timeout(PATIENCE)?;
            connection.execute_batch(BEGIN)?;
            Ok(Writer { connection, near, turn })
        };
        off_the_loop(begin).await
    }
}

/// A transaction that writes. Dropped, it is undone with its connection.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    near: Near,
    turn: Turn,
}

impl Writer {
    /// Comes back when what was written is on the disk.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        let Self { connection, near, turn } = self;
        let commit = move || {
            connection.execute_batch("COMMIT")?;
            drop(turn);
            let mut idle = near.idle();
            if !idle.closed {
                idle.writer = Some(connection);
            }
            Ok(())
        };
        off_the_loop(commit).await
    }
}

/// Does what may wait for the file or the disk.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, sqlx::Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| sqlx::Error::WorkerCrashed)?;
    done.map_err(Refused::error)
}

#[async_trait]
impl Session for Writer {
    async fn execute(&mut self, sql: &str, bound: &[Bound<'_>]) -> Result<u64, sqlx::Error> {
        let changed = {
            let mut statement = prepared(&self.connection, sql, bound).map_err(Refused::error)?;
            statement.raw_execute().map_err(Refused::error)?
        };
        rest(bound).await;
        Ok(changed as u64)
    }

    async fn each(&mut self, sql: &str, bound: &[Bound<'_>], take: &mut Take<'_>) -> Result<(), sqlx::Error> {
        each(&self.connection, sql, bound, take)?;
        rest(bound).await;
        Ok(())
    }
}

/// Lets others have a turn after much work.
async fn rest(bound: &[Bound<'_>]) {
    if bound.len() > MANY {
        tokio::task::yield_now().await;
    }
}

/// A reader is opened as a writer is, and forbidden to write: whoever closes last must be able to fold the log in.
fn open(file: &Path, only_reads: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // Whoever waits for the file does so elsewhere, and says how long.
    connection.busy_timeout(Duration::ZERO)?;
    if only_reads {
        connection.pragma_update(None, "query_only", true)?;
    } else {
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What a savepoint needs to be undone fits into memory; a file for it would be made and removed for every write.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    }
    connection.pragma_update(None, "cache_size", if only_reads { READER_CACHE_KIB } else { WRITER_CACHE_KIB })?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

fn prepared<'c>(connection: &'c Connection, sql: &str, bound: &[Bound<'_>]) -> rusqlite::Result<CachedStatement<'c>> {
    let mut statement = connection.prepare_cached(sql)?;
    for place in 1..=statement.parameter_count() {
        // `$3` is a name to `SQLite`, which numbers them as it meets them.
        let number = statement.parameter_name(place).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
        if let Some(bound) = number.and_then(|number| bound.get(number.checked_sub(1)?)) {
            statement.raw_bind_parameter(place, bound)?;
        }
    }
    Ok(statement)
}

fn each(
    connection: &Connection,
    sql: &str,
    bound: &[Bound<'_>],
    take: &mut dyn FnMut(&dyn Columns) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    let mut statement = prepared(connection, sql, bound).map_err(Refused::error)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(Refused::error)? {
        take(row)?;
    }
    Ok(())
}

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Number(number) => (*number).into(),
            Self::Text(None) => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl Columns for rusqlite::Row<'_> {
    fn number(&self, place: usize) -> Result<Option<i64>, sqlx::Error> {
        match self.get_ref(place) {
            Ok(ValueRef::Integer(number)) => Ok(Some(number)),
            Ok(ValueRef::Null) => Ok(None),
            other => Err(unlike(place, other)),
        }
    }

    fn text(&self, place: usize) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
        match self.get_ref(place) {
            Ok(ValueRef::Text(text)) => std::str::from_utf8(text)
                .map(|text| Some(text.into()))
                .map_err(|error| sqlx::Error::Decode(error.into())),
            Ok(ValueRef::Null) => Ok(None),
            other => Err(unlike(place, other)),
        }
    }
}

fn unlike(place: usize, found: rusqlite::Result<ValueRef<'_>>) -> sqlx::Error {
    let cause = found.map_or_else(|error| error.to_string(), |value| format!("holds {}", value.data_type()));
    sqlx::Error::Decode(format!("column {place}: {cause}").into())
}

/// What `SQLite` said, in the words in which sqlx says it.
#[derive(Debug, thiserror::Error)]
#[error("(code: {code}) {message}")]
struct Refused {
    code: i32,
    message: String,
}

impl Refused {
    fn error(error: rusqlite::Error) -> sqlx::Error {
        let code = error.sqlite_error().map_or(ffi::SQLITE_ERROR, |error| error.extended_code);
        let message = match error {
            rusqlite::Error::SqliteFailure(_, Some(message)) => message,
            other => other.to_string(),
        };
        sqlx::Error::Database(Box::new(Self { code, message }))
    }
}

impl DatabaseError for Refused {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            _ => ErrorKind::Other,
        }
    }
}

impl Store {
    /// What `read` makes of each row of a query that gives few rows by an index.
    pub(super) async fn few<T>(
        &self,
        what: &'static str,
        (sql, bound): (&str, &[Bound<'_>]),
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let near = self.file().map(|file| self.near.read(file, (sql, bound), read));
        match near {
            Some(Ok(found)) => Ok(found),
            Some(Err(_)) | None => self.pooled(what, (sql, bound), read).await,
        }
    }

    /// What `read` makes of each row, however many.
    pub(super) async fn many<T: Send + 'static>(
        &self,
        what: &'static str,
        (sql, bound): (&str, &[Bound<'_>]),
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        if let Some(file) = self.file() {
            let (near, file, sql) = (self.near.clone(), file.to_owned(), sql.to_owned());
            let bound: Vec<Bound<'static>> = bound.iter().cloned().map(Bound::into_owned).collect();
            let permit = Arc::clone(&near.long_reads).acquire_owned().await;
            let reading = tokio::task::spawn_blocking(move || near.read(&file, (&sql, &bound), read));
            let read = reading.await;
            drop(permit);
            if let Ok(Ok(found)) = read {
                return Ok(found);
            }
        }
        self.pooled(what, (sql, bound), read).await
    }

    async fn pooled<T>(
        &self,
        what: &'static str,
        (sql, bound): (&str, &[Bound<'_>]),
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.bounded(what, query(sql, bound).fetch_all(&self.pool)).await?;
        rows.iter().map(|row| read(row)).collect::<Result<_, _>>().map_err(|error| StoreError::from_sqlx(what, &error))
    }

    /// The file that may be used in place.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match (&self.backend, self.reach) {
            (Backend::Sqlite(file), Reach::Write) => Some(file),
            (Backend::Sqlite(_), Reach::Look) | (Backend::Postgres, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    async fn store(folder: &Path) -> Store {
        Store::open(&format!("sqlite://{}", folder.join("usher.db").display())).await.unwrap()
    }

    fn pair(row: &dyn Columns) -> Result<(String, i64), sqlx::Error> {
        Ok((row.the_text(0)?.into_owned(), row.the_number(1)?))
    }

    #[tokio::test]
    async fn parameters_are_told_by_their_numbers_in_whatever_order_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let bound = [Bound::Number(7), "seven".into()];
        for sql in ["SELECT $2, CAST($1 AS BIGINT)", "SELECT $2, CAST($1 AS BIGINT) WHERE $1 = 7 AND $2 = 'seven'"] {
            assert_eq!(store.few("look", (sql, &bound), pair).await.unwrap(), [("seven".to_owned(), 7)]);
            assert_eq!(store.many("look", (sql, &bound), pair).await.unwrap(), [("seven".to_owned(), 7)]);
        }
        let empty = store.few("look", ("SELECT NULL, 1", &[]), pair).await.unwrap_err();
        assert!(matches!(empty, StoreError::Damaged { .. }), "{empty}");
    }

    #[tokio::test]
    async fn a_write_is_there_once_it_is_committed_and_never_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let file = folder.path().join("usher.db");
        let insert = "INSERT INTO facts (name, value) VALUES ($1, $2)";
        let facts = async || {
            let found = store.few("look", ("SELECT name, 1 FROM facts WHERE name LIKE 'near %'", &[]), pair).await;
            found.unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let mut dropped = store.near.begin(&file).await.unwrap();
        assert_eq!(dropped.execute(insert, &["near one".into(), "1".into()]).await.unwrap(), 1);
        assert!(facts().await.is_empty(), "nobody sees what is not committed");
        drop(dropped);
        let mut kept = store.near.begin(&file).await.unwrap();
        kept.execute(insert, &["near two".into(), "2".into()]).await.unwrap();
        let twice = kept.execute(insert, &["near two".into(), "2".into()]).await.unwrap_err();
        assert!(twice.as_database_error().unwrap().is_unique_violation(), "{twice}");
        kept.commit().await.unwrap();
        assert_eq!(facts().await, ["near two"]);
    }

    #[tokio::test]
    async fn closing_leaves_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let file = folder.path().join("usher.db");
        store.few("look", ("SELECT 'a', 1", &[]), pair).await.unwrap();
        store.near.begin(&file).await.unwrap().commit().await.unwrap();
        let writing = store.near.begin(&file).await.unwrap();
        store.close().await;
        writing.commit().await.unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["usher.db"]);
    }
}
