//! What operators were told in their room, and what of it may be approved there (S-97). Holds no names: what a message said is in the room.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Store, StoreError, damaged};
use crate::ids::{EventId, RoomId, Timestamp};
use crate::plan::StepId;

const WHAT: &str = "read what operators were told";

/// A message in the operators' room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub event: EventId,
    pub room: RoomId,
    /// What it is about: the same while the same thing lasts.
    pub reason: String,
    /// What an answer names it by: another for other steps, and empty where there is nothing to approve.
    pub code: String,
    pub told_at: Timestamp,
    /// Since when what it is about is over, or approved.
    pub over_at: Option<Timestamp>,
}

impl Store {
    /// Everything told within the last month, the oldest first. A row that cannot be read keeps nobody from being told.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn told(&self) -> Result<Vec<Told>, StoreError> {
        let rows = self.bounded(WHAT, sqlx::query(SELECT).fetch_all(&self.pool)).await?;
        let read = rows.iter().map(told).filter_map(|told| {
            told.inspect_err(|error| tracing::warn!(%error, "what operators were told once is left out")).ok()
        });
        Ok(read.collect())
    }

    /// The held steps that a message listed: an answer to it approves these and no others.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn listed_steps(&self, event: &EventId) -> Result<Vec<StepId>, StoreError> {
        let query = sqlx::query(SELECT_STEPS).bind(event.as_str().to_owned());
        let Some(row) = self.bounded(WHAT, query.fetch_optional(&self.pool)).await? else { return Ok(Vec::new()) };
        let steps: String = row.try_get(0).map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
        serde_json::from_str(&steps).map_err(damaged(WHAT))
    }

    /// Remembers a message and the steps it listed; the same one twice is one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_told(&self, told: &Told, steps: &[StepId]) -> Result<(), StoreError> {
        const WHAT: &str = "note what operators were told";
        let steps = serde_json::to_string(steps).map_err(damaged(WHAT))?;
        let texts = [told.event.as_str(), told.room.as_str(), &told.reason, &told.code];
        let query = texts.into_iter().fold(sqlx::query(INSERT), |query, text| query.bind(text.to_owned()));
        let over_at = told.over_at.map_or(0, |at| at.0);
        self.write(WHAT, query.bind(told.told_at.0).bind(over_at).bind(steps)).await
    }

    /// Notes that what a message is about is over.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_over(&self, event: &EventId, at: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(END).bind(at.0).bind(event.as_str().to_owned());
        self.write("note that something is over", query).await
    }

    /// Forgets a message.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_told(&self, event: &EventId) -> Result<(), StoreError> {
        self.write("forget what operators were told", sqlx::query(FORGET).bind(event.as_str().to_owned())).await
    }
}

fn told(row: &AnyRow) -> Result<Told, StoreError> {
    let columns = || -> Result<_, sqlx::Error> {
        let texts: [String; 4] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        Ok((texts, row.try_get(4)?, row.try_get::<i64, _>(5)?))
    };
    let ([event, room, reason, code], told_at, over_at) =
        columns().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
    Ok(Told {
        event: event.into(),
        room: room.into(),
        reason,
        code,
        told_at: Timestamp(told_at),
        over_at: Some(over_at).filter(|at| *at != 0).map(Timestamp),
    })
}

pub(super) const QUERIES: &[&str] = &[SELECT, SELECT_STEPS, INSERT, END, FORGET];

const SELECT: &str = "SELECT event_id, room_id, reason, code, told_at, over_at FROM notices ORDER BY told_at, event_id";
const SELECT_STEPS: &str = "SELECT steps FROM notices WHERE event_id = $1";
const INSERT: &str = "INSERT INTO notices (event_id, room_id, reason, code, told_at, over_at, steps) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_id) DO NOTHING";
const END: &str = "UPDATE notices SET over_at = $1 WHERE event_id = $2";
const FORGET: &str = "DELETE FROM notices WHERE event_id = $1";
