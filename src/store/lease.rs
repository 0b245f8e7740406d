//! One writer (S-85). On `SQLite` a file lock beside the database, which the kernel drops with its holder; on `PostgreSQL` a lease row
//! that its holder renews and that runs out by the database's clock, so that a stopped or cut-off holder blocks nobody for ever.
//!
//! Never relied on: the wall clock of this machine. What is left of the lease is counted on the monotonic clock from before the
//! renewal was sent, so it errs towards "less".

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Row as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Backend, Store, StoreError};

/// How long a lease lasts without renewal.
const TTL: Duration = Duration::from_secs(15);
const TTL_MS: i64 = 15_000;
/// How often it is renewed: two renewals may fail before it runs out.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The right to write, until dropped, released or lost.
#[derive(Debug)]
pub struct WriterLease {
    kind: Kind,
}

/// How long the right to write lasts; it gives none.
#[derive(Clone, Debug)]
pub struct Remainder(Option<(Arc<Mutex<Instant>>, CancellationToken)>);

impl Remainder {
    /// As [`WriterLease::remaining_ms`].
    #[must_use]
    pub fn ms(&self) -> u64 {
        match &self.0 {
            None => u64::MAX,
            Some((_, lost)) if lost.is_cancelled() => 0,
            Some((ends, _)) => {
                let ends = *ends.lock().unwrap_or_else(PoisonError::into_inner);
                u64::try_from(ends.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX)
            }
        }
    }
}

#[derive(Debug)]
enum Kind {
    /// Open for as long as the lock is wanted.
    File(File),
    Row(RowLease),
}

#[derive(Debug)]
struct RowLease {
    store: Store,
    term: Term,
    ends: Arc<Mutex<Instant>>,
    lost: CancellationToken,
    renewal: JoinHandle<()>,
    /// Given back on purpose: dropping has nothing left to do.
    released: bool,
}

/// Which lease row is ours.
#[derive(Clone, Debug)]
struct Term {
    holder: String,
    epoch: i64,
}

/// Why there is no right to write.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Exit code 5.
    #[error("another usher writes with this database: {by}; stop it first, or use the reading verbs beside it")]
    Held { by: String },
    #[error("cannot use the lock file {}: {cause}", path.display())]
    File { path: PathBuf, cause: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WriterLease {
    /// Takes the right to write, or says who has it. Does not wait.
    ///
    /// # Errors
    /// [`LeaseError::Held`] while another process has it.
    pub async fn acquire(store: &Store) -> Result<Self, LeaseError> {
        if store.only_looks() {
            let cause = "it was opened for looking only".to_owned();
            return Err(StoreError::Refused { what: "take the writer's lease", cause }.into());
        }
        let kind = match store.backend() {
            Backend::Sqlite(path) => Kind::File(lock_file(path)?),
            Backend::Postgres => Kind::Row(RowLease::acquire(store).await?),
        };
        Ok(Self { kind })
    }

    /// Milliseconds for which the right is certain. No write is sent when this is below the request's timeout (S-85).
    #[must_use]
    pub fn remaining_ms(&self) -> u64 {
        self.remainder().ms()
    }

    /// How much of it is left, for those who write beside its holder.
    #[must_use]
    pub fn remainder(&self) -> Remainder {
        Remainder(match &self.kind {
            Kind::File(_) => None,
            Kind::Row(row) => Some((Arc::clone(&row.ends), row.lost.clone())),
        })
    }

    /// Ends when another process has taken the lease. While the database is merely unreachable the lease runs down to nothing
    /// and comes back with the next renewal, unless somebody else was faster.
    pub async fn lost(&self) {
        match &self.kind {
            Kind::File(_) => std::future::pending().await,
            Kind::Row(row) => row.lost.cancelled().await,
        }
    }

    /// Which term this is: one more for each holder. Always 0 on `SQLite`.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        match &self.kind {
            Kind::File(_) => 0,
            Kind::Row(row) => row.term.epoch,
        }
    }

    /// Gives the right back at once. Dropping does the same, without telling whether it worked.
    ///
    /// # Errors
    /// When the database did not take it back; it then runs out by itself.
    pub async fn release(self) -> Result<(), StoreError> {
        match self.kind {
            Kind::File(file) => {
                // Closing it would do, but for a process that is being started just now and has a copy of it for a moment.
                let _ = file.unlock();
                Ok(())
            }
            Kind::Row(mut row) => {
                row.renewal.abort();
                row.released = true;
                give_back(&row.store, &row.term).await
            }
        }
    }
}

impl Drop for RowLease {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.released {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, term) = (self.store.clone(), self.term.clone());
            runtime.spawn(async move {
                if let Err(error) = give_back(&store, &term).await {
                    tracing::debug!(%error, "the writer's lease was not given back; it runs out by itself");
                }
            });
        }
    }
}

impl RowLease {
    async fn acquire(store: &Store) -> Result<Self, LeaseError> {
        const WHAT: &str = "take the writer's lease";
        let holder = describe_self();
        let before = Instant::now();
        let take = sqlx::query(TAKE).bind(holder.as_str()).bind(TTL_MS).fetch_optional(&store.pool);
        let Some(row) = store.bounded(WHAT, take).await? else {
            let read = sqlx::query(WHO).fetch_optional(&store.pool);
            let row = store.bounded(WHAT, read).await?;
            let by = row.and_then(|row| row.try_get(0).ok()).unwrap_or_else(|| "unknown".to_owned());
            return Err(LeaseError::Held { by });
        };
        let epoch = row.try_get(0).map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
        let term = Term { holder, epoch };
        let ends = Arc::new(Mutex::new(before + TTL));
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(keep(store.clone(), term.clone(), Arc::clone(&ends), lost.clone()));
        Ok(Self { store: store.clone(), term, ends, lost, renewal, released: false })
    }
}

/// Renews until somebody else has the lease.
async fn keep(store: Store, term: Term, ends: Arc<Mutex<Instant>>, lost: CancellationToken) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let before = Instant::now();
        let renew = sqlx::query(RENEW).bind(term.holder.as_str()).bind(term.epoch).bind(TTL_MS).execute(&store.pool);
        match store.bounded("renew the writer's lease", renew).await {
            Ok(done) if done.rows_affected() == 1 => {
                *ends.lock().unwrap_or_else(PoisonError::into_inner) = before + TTL;
            }
            Ok(_) => {
                tracing::warn!("another usher has taken the writer's lease");
                lost.cancel();
                return;
            }
            Err(error) => tracing::warn!(%error, "the writer's lease was not renewed"),
        }
    }
}

async fn give_back(store: &Store, term: &Term) -> Result<(), StoreError> {
    let release = sqlx::query(RELEASE).bind(term.holder.as_str()).bind(term.epoch).execute(&store.pool);
    store.bounded("give the writer's lease back", release).await.map(|_| ())
}

fn lock_file(database: &Path) -> Result<File, LeaseError> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let failed = |cause| LeaseError::File { path: path.clone(), cause };
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
    let mut file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut by = String::new();
            file.read_to_string(&mut by).map_err(failed)?;
            return Err(LeaseError::Held { by: by.trim().to_owned() });
        }
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    file.write_all(describe_self().as_bytes()).map_err(failed)?;
    Ok(file)
}

/// Process, machine and time: what an operator needs to find the holder.
fn describe_self() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "this machine" } else { host.trim() };
    let since = chrono::DateTime::from_timestamp_millis(crate::clock::now().0)
        .map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string())
        .unwrap_or_default();
    format!("process {} on {host}, since {since}", std::process::id())
}

/// For `PostgreSQL` only. Times are `clock_timestamp()`: `now()` stands still within a transaction.
pub(super) const QUERIES: &[&str] = &[TAKE, WHO, RENEW, RELEASE];

const TAKE: &str = "INSERT INTO lease (name, holder, epoch, expires_at) \
     VALUES ('writer', $1, 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2) \
     ON CONFLICT (name) DO UPDATE \
     SET holder = excluded.holder, epoch = lease.epoch + 1, expires_at = excluded.expires_at \
     WHERE lease.expires_at <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint \
     RETURNING epoch";
const WHO: &str = "SELECT holder FROM lease WHERE name = 'writer'";
const RENEW: &str = "UPDATE lease SET expires_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $3 \
     WHERE name = 'writer' AND holder = $1 AND epoch = $2";
const RELEASE: &str = "UPDATE lease SET expires_at = 0 WHERE name = 'writer' AND holder = $1 AND epoch = $2";
