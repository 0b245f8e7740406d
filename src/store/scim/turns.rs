//! Writes to `SQLite` take turns, and those that wait for each other share a commit: what costs most is that it reaches the disk. Each
//! write is whole or not at all by itself, and none is answered before the commit that holds it is done.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{Any, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::Resources;
use super::write::{Trouble, WHAT};
use crate::store::near::Writer;
use crate::store::session::Session;
use crate::store::{Store, StoreError};

/// Most writes in one commit.
const MOST: usize = 64;
/// Whoever was to commit may have gone away: after this long one of those who wait does it.
const PATIENCE: Duration = Duration::from_millis(50);

/// Who writes, and who waits to.
#[derive(Debug, Default)]
pub(super) struct Turns {
    batch: Arc<Mutex<Option<Batch>>>,
    in_line: AtomicUsize,
}

/// Writes that are done and not committed. Dropped, all of them are undone, and whoever waits is told.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) writer: Writer,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

/// A turn: the batch is this writer's alone.
#[derive(Debug)]
pub(super) struct Turn(OwnedMutexGuard<Option<Batch>>);

/// A transaction to write in.
#[derive(Debug)]
pub(super) enum Writing {
    /// A turn in one that is shared.
    Shared(Turn, Batch),
    Own(Transaction<'static, Any>),
}

impl Writing {
    pub(super) fn session(&mut self) -> &mut dyn Session {
        match self {
            Self::Shared(_, batch) => &mut batch.writer,
            Self::Own(transaction) => &mut **transaction,
        }
    }

    /// Comes back when what was written is committed.
    pub(super) async fn commit(self, turns: &Turns) -> Result<(), Trouble> {
        match self {
            Self::Shared(turn, batch) => turns.end(turn, batch).await,
            Self::Own(transaction) => Ok(transaction.commit().await?),
        }
    }
}

impl Resources {
    /// Begins to write: in turn with the others where the database takes one writer at a time.
    pub(super) async fn begin(&self) -> Result<Writing, sqlx::Error> {
        Ok(match self.store.file() {
            Some(file) => {
                let (turn, batch) = self.turns.take(&self.store, file).await?;
                Writing::Shared(turn, batch)
            }
            None => Writing::Own(self.store.begin().await?),
        })
    }
}

/// Counts somebody in the line, also if they leave it.
struct InLine<'t>(&'t AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// Waits for a turn, and gives the batch that is open or a new one.
    pub(super) async fn take(&self, store: &Store, file: &Path) -> Result<(Turn, Batch), sqlx::Error> {
        self.in_line.fetch_add(1, Ordering::Relaxed);
        let in_line = InLine(&self.in_line);
        let mut turn = Arc::clone(&self.batch).lock_owned().await;
        drop(in_line);
        let batch = match turn.take() {
            Some(batch) => batch,
            None => Batch { writer: store.near.begin(file).await?, waiting: Vec::new() },
        };
        Ok((Turn(turn), batch))
    }

    /// Ends a turn: hands the batch on to who waits in line, or commits it. Comes back when it is committed.
    pub(super) async fn end(&self, Turn(mut turn): Turn, mut batch: Batch) -> Result<(), Trouble> {
        let (sender, mut committed) = oneshot::channel();
        batch.waiting.push(sender);
        if self.in_line.load(Ordering::Relaxed) > 0 && batch.waiting.len() < MOST {
            *turn = Some(batch);
            drop(turn);
        } else {
            commit(turn, batch);
        }
        loop {
            match tokio::time::timeout(PATIENCE, &mut committed).await {
                Ok(Ok(done)) => return done.map_err(Trouble::Store),
                Ok(Err(_)) => return Err(Trouble::Undone),
                Err(_) => {
                    let mut turn = Arc::clone(&self.batch).lock_owned().await;
                    if let Some(batch) = turn.take() {
                        commit(turn, batch);
                    }
                }
            }
        }
    }
}

/// Not to be given up half-way, whoever goes away: nobody would know whether it was done.
fn commit(turn: OwnedMutexGuard<Option<Batch>>, batch: Batch) {
    tokio::spawn(async move {
        let Batch { writer, waiting } = batch;
        let done = writer.commit().await;
        for waiting in waiting {
            // Who is not there any more need not be told.
            let _ = waiting.send(done.as_ref().copied().map_err(|error| StoreError::from_sqlx(WHAT, error)));
        }
        drop(turn);
    });
}
