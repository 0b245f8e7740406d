//! The audit: one row for every write usher sends, and for every order an operator gives (S-90). Rows are added, completed once by what
//! came of the write, and never deleted; when somebody's account is erased, their name in them becomes a keyed hash.
//!
//! Never holds mail addresses, tokens or message bodies.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::session::Session;
use super::tables::{Row, Table, TableChange};
use super::{Store, StoreError};
use crate::ids::{StableId, Timestamp, UserId};
use crate::ledger::{Order, keyed};

const WHAT_WRITE: &str = "write the audit";
const WHAT_READ: &str = "read the audit";

/// The result of a write that was sent and whose answer is not known (yet).
pub const SENT: &str = "sent";
/// Rows read at once by an export.
pub const PAGE: u32 = 1000;

/// One write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// In the order they were added; 0 for one that was not read from the database.
    #[serde(default)]
    pub seq: i64,
    #[serde(skip)]
    pub id: String,
    /// When it was sent, and from then on when it was answered.
    pub at: Timestamp,
    /// When the pass began that sent it.
    pub pass: Timestamp,
    /// `usher`, or the operator.
    pub actor: String,
    pub action: String,
    /// The managed thing, if it is about one.
    pub place: String,
    /// On whom; a keyed hash once their account was erased.
    pub person: String,
    pub reason: String,
    pub before: String,
    pub after: String,
    /// `sent`, `done`, or what went wrong.
    pub result: String,
}

impl AuditRecord {
    /// The row of an operator's order, with what became of it so far. It is on whom the account is, so that no name is left in it when that
    /// ends; its id, by which what came of the order is added, tells nothing without `key`.
    #[must_use]
    pub fn of_order((order, user): (&Order, &UserId), (given, by): (Timestamp, &str), key: &str, result: &str) -> Self {
        let (action, after) = match order {
            Order::Restore { .. } => ("order restore", String::new()),
            Order::Lock { .. } => ("order lock", String::new()),
            Order::Extend { not_before, .. } => ("order extend", not_before.to_minute()),
            Order::EraseNow { .. } => ("order erase-now", String::new()),
            Order::Rebind { id, .. } => ("order rebind", id.to_string()),
        };
        let digest = keyed(key, &format!("order\n{action}\n{user}\n{after}"));
        Self {
            id: format!("{}-order-{}", given.0, digest.0),
            at: given,
            pass: given,
            actor: by.to_owned(),
            action: action.to_owned(),
            person: user.to_string(),
            after,
            result: result.to_owned(),
            ..Self::default()
        }
    }
}

impl Store {
    /// Adds rows, or completes those that are there by their ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        self.bounded(WHAT_WRITE, async {
            let mut transaction = self.begin().await?;
            note(&mut *transaction, records).await?;
            transaction.commit().await
        })
        .await
    }

    /// Puts `pseudonym` where somebody's name was, and takes out what was written about them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn pseudonymise(&self, user: &UserId, pseudonym: &str) -> Result<(), StoreError> {
        self.write(WHAT_WRITE, sqlx::query(PSEUDONYMISE).bind(pseudonym).bind(user.as_str())).await?;
        self.write(WHAT_WRITE, sqlx::query(PSEUDONYMISE_ACTOR).bind(pseudonym).bind(user.as_str())).await?;
        self.write(WHAT_WRITE, sqlx::query(PSEUDONYMISE_REBIND).bind(pseudonym).bind(user.localpart())).await
    }

    /// Takes out what was written of somebody's entry in the directory about other accounts: that it claimed one, or kept one from another.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_entry(&self, id: &StableId) -> Result<(), StoreError> {
        // As earlier versions put it.
        let owned = format!("refused: the account of {id}, who is in the directory: rebind them to another one first");
        let query = sqlx::query(FORGET_ENTRY).bind(id.as_str()).bind(&owned).bind(id.as_str()).bind(&owned);
        self.write(WHAT_WRITE, query).await
    }

    /// The latest rows, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn audit_tail(&self, at_most: u32) -> Result<Vec<AuditRecord>, StoreError> {
        let work = sqlx::query(SELECT_LATEST).bind(i64::from(at_most)).fetch_all(&self.pool);
        let rows = self.bounded(WHAT_READ, work).await?;
        rows.iter().rev().map(record).collect()
    }

    /// Up to [`PAGE`] rows after `seq`, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn audit_after(&self, seq: i64) -> Result<Vec<AuditRecord>, StoreError> {
        let work = sqlx::query(SELECT_AFTER).bind(seq).bind(i64::from(PAGE)).fetch_all(&self.pool);
        self.bounded(WHAT_READ, work).await?.iter().map(record).collect()
    }
}

/// Adds rows, or completes those that are there, as part of the change they are about.
pub(super) async fn note(session: &mut dyn Session, records: &[AuditRecord]) -> Result<(), sqlx::Error> {
    if records.is_empty() {
        return Ok(());
    }
    let change = TableChange { table: &AUDIT, upserts: records.iter().map(cells).collect(), deletes: Vec::new() };
    change.write(session).await
}

fn cells(record: &AuditRecord) -> Row {
    vec![
        record.id.as_str().into(),
        record.at.0.into(),
        record.pass.0.into(),
        record.actor.as_str().into(),
        record.action.as_str().into(),
        record.place.as_str().into(),
        record.person.as_str().into(),
        record.reason.as_str().into(),
        record.before.as_str().into(),
        record.after.as_str().into(),
        record.result.as_str().into(),
    ]
}

fn record(row: &AnyRow) -> Result<AuditRecord, StoreError> {
    let read = || -> Result<AuditRecord, sqlx::Error> {
        Ok(AuditRecord {
            seq: row.try_get(0)?,
            id: row.try_get(1)?,
            at: Timestamp(row.try_get(2)?),
            pass: Timestamp(row.try_get(3)?),
            actor: row.try_get(4)?,
            action: row.try_get(5)?,
            place: row.try_get(6)?,
            person: row.try_get(7)?,
            reason: row.try_get(8)?,
            before: row.try_get(9)?,
            after: row.try_get(10)?,
            result: row.try_get(11)?,
        })
    };
    read().map_err(|error| StoreError::from_sqlx(WHAT_READ, &error))
}

static AUDIT: Table = Table {
    name: "audit",
    columns: &["id", "done_at", "pass", "actor", "action", "place", "person", "reason", "was", "became", "result"],
    key: 1,
    delete_by: &["id"],
};

pub(super) const TABLES: &[&Table] = &[&AUDIT];
pub(super) const QUERIES: &[&str] =
    &[PSEUDONYMISE, PSEUDONYMISE_ACTOR, PSEUDONYMISE_REBIND, FORGET_ENTRY, SELECT_LATEST, SELECT_AFTER];

// Earlier versions had the person in the ids of orders' rows, too.
const PSEUDONYMISE: &str = "UPDATE audit SET person = $1, was = '', became = '', reason = '', \
     id = CASE WHEN action LIKE 'order %' THEN 'order-' || CAST(seq AS TEXT) \
     WHEN id LIKE '%-operators-%' THEN 'operators-' || CAST(seq AS TEXT) ELSE id END WHERE person = $2";
// Operators who approve in their room go by their Matrix names.
const PSEUDONYMISE_ACTOR: &str = "UPDATE audit SET actor = $1, \
     id = CASE WHEN id LIKE '%-operators-%' THEN 'operators-' || CAST(seq AS TEXT) ELSE id END WHERE actor = $2";
// And rows of `usher rebind` were on the entry, and told the localpart.
const PSEUDONYMISE_REBIND: &str = "UPDATE audit SET person = $1, was = '', became = '', id = 'order-' || CAST(seq AS TEXT) \
     WHERE action = 'order rebind' AND became = $2 AND person NOT LIKE '@%'";
const FORGET_ENTRY: &str = "UPDATE audit SET became = CASE WHEN became = $1 THEN '' ELSE became END, \
     result = CASE WHEN result = $2 THEN 'refused' ELSE result END \
     WHERE action = 'order rebind' AND (became = $3 OR result = $4)";
const SELECT_LATEST: &str = "SELECT seq, id, done_at, pass, actor, action, place, person, reason, was, became, result FROM audit \
     ORDER BY seq DESC LIMIT $1";
const SELECT_AFTER: &str = "SELECT seq, id, done_at, pass, actor, action, place, person, reason, was, became, result FROM audit \
     WHERE seq > $1 ORDER BY seq LIMIT $2";
