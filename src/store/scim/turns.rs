//! Writes to `SQLite` take turns, and those that wait for each other share a commit: what costs most is that it reaches the disk. Each
//! write is whole or not at all by itself, and none is answered before the commit that holds it is done.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::Resources;
use super::write::{Trouble, WHAT};
use crate::store::near::Writer;
use crate::store::session::Session;
use crate::store::{Store, StoreError, Write};

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
    Own(Write),
}

impl Writing {
    pub(super) fn session(&mut self) -> &mut dyn Session {
        match self {
            Self::Shared(_, batch) => &mut batch.writer,
            Self::Own(write) => &mut **write,
        }
    }

    /// Comes back when what was written is committed.
    pub(super) async fn commit(self, turns: &Turns) -> Result<(), Trouble> {
        match self {
            Self::Shared(turn, batch) => turns.end(turn, batch).await,
            Self::Own(write) => Ok(write.commit().await?),
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

/// Somebody who waits for the commit of a batch they wrote in. If they go away, they see to it that it is committed: nobody else may be
/// left to do so, and until then nobody else can write.
struct Waiting<'t> {
    batch: &'t Arc<Mutex<Option<Batch>>>,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.answered {
            runtime.spawn(commit_open(Arc::clone(self.batch)));
        }
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

    /// Ends a turn: hands the batch on to who waits in line or is about to, or commits it. Comes back when it is committed.
    pub(super) async fn end(&self, Turn(mut turn): Turn, mut batch: Batch) -> Result<(), Trouble> {
        let (sender, mut committed) = oneshot::channel();
        batch.waiting.push(sender);
        let mut waiting = Waiting { batch: &self.batch, answered: false };
        if batch.waiting.len() >= MOST {
            commit(turn, batch);
        } else {
            *turn = Some(batch);
            drop(turn);
            if self.in_line.load(Ordering::Relaxed) == 0 {
                // Whose request is there already comes along: a commit costs more than one more write in it.
                tokio::task::yield_now().await;
                self.commit_if_free();
            }
        }
        loop {
            match tokio::time::timeout(PATIENCE, &mut committed).await {
                Ok(answer) => {
                    waiting.answered = true;
                    return answer.map_or(Err(Trouble::Undone), |done| done.map_err(Trouble::Store));
                }
                Err(_) => commit_open(Arc::clone(&self.batch)).await,
            }
        }
    }

    /// Commits the open batch, unless somebody writes in it, who will see to that, or another is just being committed.
    fn commit_if_free(&self) {
        if let Ok(mut turn) = Arc::clone(&self.batch).try_lock_owned()
            && let Some(batch) = turn.take()
        {
            commit(turn, batch);
        }
    }
}

/// Commits the batch that was handed on and that nobody writes in.
async fn commit_open(batch: Arc<Mutex<Option<Batch>>>) {
    let mut turn = batch.lock_owned().await;
    if let Some(batch) = turn.take() {
        commit(turn, batch);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use futures_util::{FutureExt as _, pin_mut};

    use super::super::write::{New, Wanted};
    use super::*;
    use crate::scim::Kind;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_else_writes_gets_a_turn_while_clients_write_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}", folder.path().join("usher.db").display())).await.unwrap();
        let (resources, made) = (Resources::new(store.clone(), "acme"), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (resources, made) = (resources.clone(), Arc::clone(&made));
            async move {
                loop {
                    let id = format!("{number}-{}", made.load(Ordering::Relaxed));
                    let document = serde_json::Map::from_iter([("displayName".to_owned(), "blue".into())]);
                    let new = New { kind: Kind::Group, id, document, localpart: None, members: Vec::new() };
                    resources.create(&new, Wanted::Nothing, 0).await.unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let mut clients = tokio::task::JoinSet::new();
        (0..8).for_each(|number| drop(clients.spawn(client(number))));
        for round in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let before = made.load(Ordering::Relaxed);
            store.set_carried_out("scim acme", round).await.unwrap();
            let waited = made.load(Ordering::Relaxed) - before;
            assert!(waited <= 2 * MOST, "{waited} others came first");
        }
        assert!(made.load(Ordering::Relaxed) > 20, "they wrote all the time");
    }

    #[tokio::test]
    async fn a_batch_whose_writers_all_went_away_is_committed_and_others_can_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usher.db");
        let store = Store::open(&format!("sqlite://{}", file.display())).await.unwrap();
        let turns = Turns::default();
        let (turn, mut batch) = turns.take(&store, &file).await.unwrap();
        batch.writer.execute("INSERT INTO facts (name, value) VALUES ('turn', '1')", &[]).await.unwrap();
        {
            let waits = turns.take(&store, &file);
            pin_mut!(waits);
            assert!(waits.as_mut().now_or_never().is_none(), "somebody is in line");
            let ends = turns.end(turn, batch);
            pin_mut!(ends);
            assert!(ends.as_mut().now_or_never().is_none(), "the batch is handed on");
        }
        let other = tokio::time::timeout(PATIENCE * 20, store.begin()).await.expect("nobody holds the file");
        other.unwrap().commit().await.unwrap();
        let written: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM facts WHERE name = 'turn'").fetch_one(&store.pool).await.unwrap();
        assert_eq!(written, 1);
    }
}
