//! Single values: the database's birth, whose it is, and the place in the homeserver's change feed.

use sqlx::Row as _;

use super::{Store, StoreError};
use crate::ids::Timestamp;

/// A value kept under a name. The ledger keeps its own single values in the same table under other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// When this database was made, in milliseconds since the epoch (S-101: younger than our markers means the ledger was lost).
    BornAt,
    /// The `instance` of the configuration that uses it.
    Instance,
    /// The `next_batch` of the change feed (S-33).
    FeedPosition,
    /// What digests of names and addresses are keyed with.
    DigestKey,
    /// Source and revision that the last pass without failures carried out.
    CarriedOut,
    /// The place up to which answers in the operators' room were heard (S-97).
    AnswersPosition,
    /// Since when the youngest lock is there that operators were told of, in milliseconds since the epoch (S-52).
    LocksTold,
}

impl Fact {
    fn name(self) -> &'static str {
        match self {
            Self::BornAt => "born_at",
            Self::Instance => "instance",
            Self::FeedPosition => "feed_position",
            Self::DigestKey => "digest_key",
            Self::CarriedOut => "carried_out",
            Self::AnswersPosition => "answers_position",
            Self::LocksTold => "locks_told",
        }
    }
}

impl Store {
    /// The value of a fact, if it was ever set.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn fact(&self, fact: Fact) -> Result<Option<String>, StoreError> {
        let work = sqlx::query(SELECT_FACT).bind(fact.name()).fetch_optional(&self.pool);
        let row = self.bounded("read a fact", work).await?;
        row.map(|row| row.try_get(0)).transpose().map_err(|error| StoreError::from_sqlx("read a fact", &error))
    }

    /// Sets or replaces a fact.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_fact(&self, fact: Fact, value: &str) -> Result<(), StoreError> {
        self.write("write a fact", sqlx::query(UPSERT_FACT).bind(fact.name()).bind(value)).await
    }

    /// Forgets a fact.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn clear_fact(&self, fact: Fact) -> Result<(), StoreError> {
        self.write("forget a fact", sqlx::query(DELETE_FACT).bind(fact.name())).await
    }

    /// Where the change feed stands (S-33).
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn feed_position(&self) -> Result<Option<String>, StoreError> {
        self.fact(Fact::FeedPosition).await
    }

    /// Remembers where the change feed stands, after what came before it was folded in.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_feed_position(&self, position: &str) -> Result<(), StoreError> {
        self.set_fact(Fact::FeedPosition, position).await
    }

    /// Which revision of a source was carried out last without a failure, where it counts them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn carried_out(&self, source: &str) -> Result<Option<i64>, StoreError> {
        let fact = self.fact(Fact::CarriedOut).await?;
        let known = fact.as_deref().and_then(|fact| fact.split_once('\n')).filter(|(known, _)| *known == source);
        Ok(known.and_then(|(_, revision)| revision.parse().ok()))
    }

    /// Remembers which revision of a source was carried out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_carried_out(&self, source: &str, revision: i64) -> Result<(), StoreError> {
        self.set_fact(Fact::CarriedOut, &format!("{source}\n{revision}")).await
    }

    /// When this database was made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn born_at(&self) -> Result<Timestamp, StoreError> {
        let text = self.fact(Fact::BornAt).await?.unwrap_or_default();
        let number = text.parse::<i64>();
        number.map(Timestamp).map_err(|error| StoreError::Damaged { what: "read a fact", cause: error.to_string() })
    }

    /// Asks first: opening a database that exists must not wait for its writer.
    pub(super) async fn note_birth(&self) -> Result<(), StoreError> {
        if self.fact(Fact::BornAt).await?.is_some() {
            return Ok(());
        }
        let now = crate::clock::now().0.to_string();
        self.write("note the database's birth", sqlx::query(INSERT_FACT).bind(Fact::BornAt.name()).bind(now)).await
    }
}

pub(super) const QUERIES: &[&str] = &[SELECT_FACT, UPSERT_FACT, INSERT_FACT, DELETE_FACT];

const SELECT_FACT: &str = "SELECT value FROM facts WHERE name = $1";
const UPSERT_FACT: &str =
    "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const INSERT_FACT: &str = "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
const DELETE_FACT: &str = "DELETE FROM facts WHERE name = $1";
