//! The connection that short reads of `SQLite` are made with. Each loan from the pool costs two more errands to the connection's thread than
//! the query itself; this one is lent once. Closing the pool takes it back.

use std::sync::Arc;

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::{Any, AnyPool};
use tokio::sync::Mutex;

/// Lent for good. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Option<PoolConnection<Any>>>>);

impl Kept {
    /// All rows of a query that gives few.
    pub(super) async fn fetch_all(
        &self,
        pool: &AnyPool,
        query: Query<'_, Any, AnyArguments>,
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        let mut kept = self.0.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.borrow(pool).await?,
        };
        let rows = query.fetch_all(&mut *connection).await?;
        if !pool.is_closed() {
            *kept = Some(connection);
        }
        Ok(rows)
    }

    async fn borrow(&self, pool: &AnyPool) -> Result<PoolConnection<Any>, sqlx::Error> {
        let connection = pool.acquire().await?;
        let (kept, closing) = (Arc::downgrade(&self.0), pool.close_event());
        // The pool waits for everything it lent.
        tokio::spawn(async move {
            closing.await;
            if let Some(kept) = kept.upgrade() {
                kept.lock().await.take();
            }
        });
        Ok(connection)
    }
}
