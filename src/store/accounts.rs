//! What operators ordered about accounts, the key of the digests, and the database's own clock (S-53, S-85).
//!
//! An order is a row that the loop takes in before its next pass. It goes together with what follows from it and with what is on record of
//! it: a crash has it taken in or not, never obeyed once and then refused for that.

use secrecy::ExposeSecret as _;
use sqlx::Row as _;

use super::audit::{self, AuditRecord};
use super::facts::Fact;
use super::session::Session;
use super::{Backend, LedgerChanges, Store, StoreError, damaged};
use crate::ids::Timestamp;
use crate::ledger::Order;
use crate::matrix::registration::Tokens;

/// An order as it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenOrder {
    pub seq: i64,
    pub order: Order,
    pub at: Timestamp,
    pub by: String,
}

impl Store {
    /// Gives an order, with its row in the audit. `by` says who did.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn give_order(
        &self,
        order: &Order,
        (at, by): (Timestamp, &str),
        record: &AuditRecord,
    ) -> Result<(), StoreError> {
        const WHAT: &str = "write an order";
        let text = serde_json::to_string(order).map_err(damaged(WHAT))?;
        self.bounded(WHAT, async {
            let mut transaction = self.begin().await?;
            let session: &mut dyn Session = &mut *transaction;
            audit::note(session, std::slice::from_ref(record)).await?;
            session.execute(INSERT_ORDER, &[(&text).into(), at.0.into(), by.into()]).await?;
            transaction.commit().await
        })
        .await
    }

    /// Orders nobody has taken in yet, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn orders(&self) -> Result<Vec<GivenOrder>, StoreError> {
        const WHAT: &str = "read the orders";
        let rows = self.bounded(WHAT, sqlx::query(SELECT_ORDERS).fetch_all(&self.pool)).await?;
        let mut orders = Vec::new();
        for row in &rows {
            let columns = || -> Result<_, sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get::<String, _>(1)?, row.try_get(2)?, row.try_get(3)?))
            };
            let (seq, text, at, by) = columns().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
            // One of a later usher, say: it waits for whoever understands it, and keeps no other waiting.
            let Ok(order) = serde_json::from_str(&text) else {
                tracing::warn!(seq, "an operator's order cannot be understood; it is left where it is");
                continue;
            };
            orders.push(GivenOrder { seq, order, at: Timestamp(at), by });
        }
        Ok(orders)
    }

    /// Deletes an order, and with it writes what follows from it for the ledger and what became of it: all of that or nothing. The caller
    /// holds the writer's lease (S-85).
    ///
    /// # Errors
    /// See [`StoreError`]. If the answer to the commit was lost all of it was done, which [`Store::orders`] tells.
    pub async fn take_order(&self, seq: i64, changes: &LedgerChanges, outcome: &AuditRecord) -> Result<(), StoreError> {
        self.bounded("take an order in", async {
            let mut transaction = self.begin().await?;
            let session: &mut dyn Session = &mut *transaction;
            changes.write(session).await?;
            audit::note(session, std::slice::from_ref(outcome)).await?;
            session.execute(DELETE_ORDER, &[seq.into()]).await?;
            transaction.commit().await
        })
        .await
    }

    /// What digests are keyed with, drawn when it is first asked for. Only for a store that writes; one that looks has the key or none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn digest_key(&self) -> Result<String, StoreError> {
        if let Some(key) = self.fact(Fact::DigestKey).await? {
            return Ok(key);
        }
        if self.only_looks() {
            return Ok(String::new());
        }
        let refused = |cause: String| StoreError::Refused { what: "draw a key", cause };
        let drawn = Tokens::draw().map_err(|error| refused(error.to_string()))?;
        self.set_fact(Fact::DigestKey, drawn.as_token.expose_secret()).await?;
        Ok(drawn.as_token.expose_secret().to_owned())
    }

    /// The time by the database's own clock; `None`: it has none, being a file.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        const WHAT: &str = "ask the database what time it is";
        match self.backend() {
            Backend::Sqlite(_) => Ok(None),
            Backend::Postgres => {
                let row = self.bounded(WHAT, sqlx::query(SELECT_CLOCK).fetch_one(&self.pool)).await?;
                let now: i64 = row.try_get(0).map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
                Ok(Some(Timestamp(now)))
            }
        }
    }
}

pub(super) const QUERIES: &[&str] = &[INSERT_ORDER, SELECT_ORDERS, DELETE_ORDER];
/// Only for `PostgreSQL`.
pub(super) const POSTGRES_QUERIES: &[&str] = &[SELECT_CLOCK];

const INSERT_ORDER: &str = "INSERT INTO orders (what, given_at, given_by) VALUES ($1, $2, $3)";
const SELECT_ORDERS: &str = "SELECT seq, what, given_at, given_by FROM orders ORDER BY seq";
const DELETE_ORDER: &str = "DELETE FROM orders WHERE seq = $1";
const SELECT_CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
