//! Letters that are to be sent, and for 30 days which were (S-64). The address and the name are kept only until a letter's end.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::session::Session;
use super::{Store, StoreError};
use crate::ids::Timestamp;
use crate::mail::{Letter, Occasion};

/// How long it is remembered that a letter was sent or given up, in milliseconds: the same change is not told twice.
const REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// A letter that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub letter: Letter,
    pub queued_at: Timestamp,
    /// Attempts made so far.
    pub attempts: u32,
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    pub waiting: i64,
    /// Within the last 30 days.
    pub sent: i64,
    pub given_up: i64,
}

/// Puts a letter into the outbox as part of the change it is about. One for the same change is there once, however often it is put.
pub(super) async fn queue(session: &mut dyn Session, letter: &Letter, now: Timestamp) -> Result<(), sqlx::Error> {
    let Letter { id, occasion, address, display_name, user_id } = letter;
    let bound = [id.into(), occasion.name().into(), address.into(), display_name.into(), user_id.into(), now.0.into()];
    session.execute(QUEUE, &bound).await.map(|_| ())
}

impl Store {
    /// Puts a letter into the outbox by itself; the same one twice is one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn queue_letter(&self, letter: &Letter, now: Timestamp) -> Result<(), StoreError> {
        self.bounded("queue a letter", async {
            let mut transaction = self.begin().await?;
            queue(&mut *transaction, letter, now).await?;
            transaction.commit().await
        })
        .await
    }

    /// Letters whose time has come, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn letters_due(&self, now: Timestamp, at_most: u32) -> Result<Vec<Waiting>, StoreError> {
        let work = sqlx::query(DUE).bind(now.0).bind(i64::from(at_most)).fetch_all(&self.pool);
        self.bounded("read the outbox", work).await?.iter().map(waiting).collect()
    }

    /// Notes that the mail server has accepted a letter, and forgets to whom it went; forgets what ended long ago.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn letter_sent(&self, id: &str, now: Timestamp) -> Result<(), StoreError> {
        self.end_letter(id, "sent", "", now).await
    }

    /// Notes that a letter is not tried again, and why.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn letter_given_up(&self, id: &str, now: Timestamp, cause: &str) -> Result<(), StoreError> {
        self.end_letter(id, "given up", cause, now).await
    }

    async fn end_letter(&self, id: &str, end: &'static str, cause: &str, now: Timestamp) -> Result<(), StoreError> {
        self.bounded("end a letter", async {
            let mut transaction = self.begin().await?;
            sqlx::query(END).bind(end).bind(cause).bind(now.0).bind(id).execute(&mut *transaction).await?;
            sqlx::query(FORGET).bind(now.0 - REMEMBERED_MS).execute(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    /// Notes a failed attempt, and when the next one is due.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn letter_put_off(&self, id: &str, until: Timestamp, cause: &str) -> Result<(), StoreError> {
        self.write("put a letter off", sqlx::query(PUT_OFF).bind(until.0).bind(cause).bind(id)).await
    }

    /// How many letters wait, were sent, were given up.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        let rows = self.bounded("count the outbox", sqlx::query(COUNTS).fetch_all(&self.pool)).await?;
        let mut counts = OutboxCounts::default();
        for row in &rows {
            let columns = || -> Result<(String, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
            let (state, number) = columns().map_err(|error| StoreError::from_sqlx("count the outbox", &error))?;
            match state.as_str() {
                "waiting" => counts.waiting = number,
                "sent" => counts.sent = number,
                _ => counts.given_up = number,
            }
        }
        Ok(counts)
    }
}

fn waiting(row: &AnyRow) -> Result<Waiting, StoreError> {
    let columns = || -> Result<_, sqlx::Error> {
        let occasion: String = row.try_get(1)?;
        let texts = (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        Ok((occasion, texts, row.try_get(5)?, row.try_get(6)?))
    };
    let (occasion, (id, address, display_name, user_id), queued_at, attempts): (_, _, _, i64) =
        columns().map_err(|error| StoreError::from_sqlx("read the outbox", &error))?;
    let occasion = Occasion::named(&occasion).ok_or_else(|| StoreError::Damaged {
        what: "read the outbox",
        cause: format!("a letter for `{occasion}`, which is no occasion"),
    })?;
    let letter = Letter { id, occasion, address, display_name, user_id };
    Ok(Waiting { letter, queued_at: Timestamp(queued_at), attempts: u32::try_from(attempts).unwrap_or(u32::MAX) })
}

pub(super) const QUERIES: &[&str] = &[QUEUE, DUE, END, FORGET, PUT_OFF, COUNTS];

const QUEUE: &str = "INSERT INTO outbox (id, occasion, address, display_name, user_id, queued_at, attempts, due_at, state, cause) \
                     VALUES ($1, $2, $3, $4, $5, $6, 0, $6, 'waiting', '') ON CONFLICT (id) DO NOTHING";
const DUE: &str = "SELECT id, occasion, address, display_name, user_id, queued_at, attempts FROM outbox \
                   WHERE state = 'waiting' AND due_at <= $1 ORDER BY due_at, queued_at, id LIMIT $2";
const END: &str = "UPDATE outbox SET state = $1, cause = $2, due_at = $3, address = '', display_name = '', \
                   attempts = attempts + 1 WHERE id = $4";
const FORGET: &str = "DELETE FROM outbox WHERE state <> 'waiting' AND due_at < $1";
const PUT_OFF: &str =
    "UPDATE outbox SET due_at = $1, cause = $2, attempts = attempts + 1 WHERE id = $3 AND state = 'waiting'";
const COUNTS: &str = "SELECT CASE state WHEN 'waiting' THEN 'waiting' WHEN 'sent' THEN 'sent' ELSE 'given up' END AS kind, COUNT(*) \
                      FROM outbox GROUP BY kind";
