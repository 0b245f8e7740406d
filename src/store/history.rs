//! The history of passes: 30 days of them, and never more than 10 000.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Store, StoreError, damaged};
use crate::ids::Timestamp;

/// How long a pass is remembered, in milliseconds.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;
/// How many passes are remembered; at one a minute that is a week.
const KEPT_PASSES: i64 = 10_000;

/// One pass that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRecord {
    pub started: Timestamp,
    pub ended: Timestamp,
    /// What asked for it: `start`, `poll`, `feed`, `approval`, `resync`.
    pub cause: String,
    /// Steps by outcome, say `done`, `failed`, `held`.
    pub counts: BTreeMap<String, u64>,
    /// `ok`, or what went wrong in a few words.
    pub result: String,
}

impl Store {
    /// Adds a pass and forgets those that are too old or too many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn record_pass(&self, pass: &PassRecord) -> Result<(), StoreError> {
        let counts = serde_json::to_string(&pass.counts).map_err(damaged("record a pass"))?;
        self.bounded("record a pass", async {
            let mut transaction = self.begin().await?;
            let insert = sqlx::query(INSERT_PASS).bind(pass.started.0).bind(pass.ended.0);
            let insert = insert.bind(pass.cause.as_str()).bind(counts).bind(pass.result.as_str());
            insert.execute(&mut *transaction).await?;
            let forget = sqlx::query(FORGET_PASSES).bind(pass.ended.0 - KEPT_MS).bind(KEPT_PASSES);
            forget.execute(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    /// The latest passes, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn passes(&self, at_most: u32) -> Result<Vec<PassRecord>, StoreError> {
        let work = sqlx::query(SELECT_PASSES).bind(i64::from(at_most)).fetch_all(&self.pool);
        self.bounded("read the history", work).await?.iter().map(pass).collect()
    }
}

fn pass(row: &AnyRow) -> Result<PassRecord, StoreError> {
    let columns = || -> Result<_, sqlx::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get::<String, _>(3)?, row.try_get(4)?))
    };
    let (started, ended, cause, counts, result) =
        columns().map_err(|error| StoreError::from_sqlx("read the history", &error))?;
    let counts = serde_json::from_str(&counts).map_err(damaged("read the history"))?;
    Ok(PassRecord { started: Timestamp(started), ended: Timestamp(ended), cause, counts, result })
}

pub(super) const QUERIES: &[&str] = &[INSERT_PASS, FORGET_PASSES, SELECT_PASSES];

const INSERT_PASS: &str = "INSERT INTO passes (started, ended, cause, counts, result) VALUES ($1, $2, $3, $4, $5)";
const FORGET_PASSES: &str = "DELETE FROM passes WHERE started < $1 OR id <= (SELECT MAX(id) FROM passes) - $2";
const SELECT_PASSES: &str = "SELECT started, ended, cause, counts, result FROM passes ORDER BY id DESC LIMIT $1";
