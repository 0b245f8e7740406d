//! Accounts that are to be made for people a client provisions (S-63): ordered with the write that makes somebody, kept until they are
//! made, and for good: nobody's account is ordered twice.
//!
//! Never makes one; that is `account::registrar`. What an order needs of the person is read from the resource when its turn comes.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::any::AnyRow;
use tokio::sync::Notify;

use super::letters::Turn;
use super::write::{News, Trouble, in_time};
use super::{Resource, Resources, WHAT, resource};
use crate::ids::{Localpart, Timestamp};
use crate::store::audit::{AuditRecord, note};
use crate::store::session::{Columns, Session};
use crate::store::{Store, StoreError};

const WHAT_WRITE: &str = "write down what became of an account";

/// That accounts are ordered for new people.
#[derive(Clone, Debug)]
pub struct Registrations {
    /// Told once there is an order.
    pub ordered: Arc<Notify>,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct Ordered {
    pub stable_id: String,
    pub localpart: Localpart,
    pub queued_at: Timestamp,
    /// Attempts made so far.
    pub attempts: u32,
    /// The homeserver was asked before, and what came of it is not known: the account may be there, made by that.
    pub begun: bool,
    /// The name was somebody else's, who was deleted and may return.
    pub namesake: bool,
    /// The person as they are now.
    pub person: Resource,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Made,
    /// There was an account, and it was left as it was.
    Found,
    /// Why none is made.
    Refused(String),
}

impl Ended {
    fn state(&self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Found => "found",
            Self::Refused(_) => "refused",
        }
    }
}

/// How many accounts wait, were made, were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistrationCounts {
    pub waiting: i64,
    pub made: i64,
    pub refused: i64,
}

/// An order that was tried in vain and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    pub localpart: String,
    pub cause: String,
    pub since: Timestamp,
    pub retry_at: Timestamp,
}

impl Resources {
    /// Orders an account for somebody new, or anew for somebody who is activated and whose order was refused before.
    pub(super) async fn order(
        &self,
        session: &mut dyn Session,
        person: &Resource,
        (is_new, now_ms): (bool, i64),
    ) -> Result<(), sqlx::Error> {
        if self.registrations.is_none() {
            return Ok(());
        }
        let sql = if is_new { ORDER } else { ORDER_AGAIN };
        session.execute(sql, &[person.pk.into(), now_ms.into()]).await.map(|_| ())
    }

    /// An order that waits for what the client has not sent is due again once something of the person changes.
    pub(super) async fn hasten(
        &self,
        session: &mut dyn Session,
        person: &Resource,
        now_ms: i64,
    ) -> Result<(), sqlx::Error> {
        if self.registrations.is_none() {
            return Ok(());
        }
        session.execute(HASTEN, &[person.pk.into(), now_ms.into()]).await.map(|_| ())
    }

    /// Orders whose time has come, the oldest first, of people who are active.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn registrations_due(&self, now: Timestamp, at_most: u32) -> Result<Vec<Ordered>, StoreError> {
        let bound = [self.client(), now.0.into(), i64::from(at_most).into()];
        self.store.many(WHAT, (DUE, &bound), ordered).await
    }

    /// Writes down that the homeserver is about to be asked, with its row of the audit.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn registration_begins(&self, order: &Ordered, record: &AuditRecord) -> Result<(), StoreError> {
        let work = async {
            let mut writing = self.begin().await?;
            let session = writing.session();
            session.execute(BEGIN, &[self.client(), (&order.stable_id).into()]).await?;
            note(session, std::slice::from_ref(record)).await?;
            writing.commit(&self.turns).await
        };
        in_time(WHAT_WRITE, work).await
    }

    /// Writes down how an order ended: with its row of the audit, the news for the loop, and the letter that says so.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn registration_ended(
        &self,
        order: &Ordered,
        ended: &Ended,
        record: Option<&AuditRecord>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let letter = in_time(WHAT_WRITE, self.note_end(order, ended, record, now)).await?;
        self.spread(News { letter, ..News::default() });
        Ok(())
    }

    async fn note_end(
        &self,
        order: &Ordered,
        ended: &Ended,
        record: Option<&AuditRecord>,
        now: Timestamp,
    ) -> Result<bool, Trouble> {
        let cause = if let Ended::Refused(cause) = ended { cause.as_str() } else { "" };
        let mut writing = self.begin().await?;
        let session = writing.session();
        let bound = [self.client(), (&order.stable_id).into(), ended.state().into(), cause.into(), now.0.into()];
        session.execute(END, &bound).await?;
        note(session, record.map(std::slice::from_ref).unwrap_or_default()).await?;
        let mut told = false;
        if !matches!(ended, Ended::Refused(_)) {
            // They may have been deactivated meanwhile.
            let person = session.first(PERSON, &[order.person.pk.into()], |row| Ok(resource(row).ok())).await?;
            if let Some(person) = person.flatten().filter(|person| person.active) {
                told = self.tell(session, &person, Some(Turn::Opened), now.0).await?;
            }
        }
        self.announce(session, false, now.0).await?;
        writing.commit(&self.turns).await?;
        Ok(told)
    }

    /// Notes an attempt in vain, and when the next one is due.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn registration_put_off(&self, order: &Ordered, until: Timestamp, cause: &str) -> Result<(), StoreError> {
        let query = sqlx::query(PUT_OFF).bind(self.client.as_str()).bind(order.stable_id.as_str());
        self.store.write(WHAT_WRITE, query.bind(until.0).bind(cause)).await
    }

    /// Whether an order is open: of one person by their id, or without one any that was never tried.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn has_open_registration(&self, id: Option<&str>) -> Result<bool, StoreError> {
        let query = match id {
            Some(id) => sqlx::query(OPEN_OF).bind(self.client.as_str()).bind(id),
            None => sqlx::query(OPEN).bind(self.client.as_str()),
        };
        Ok(self.store.bounded(WHAT, query.fetch_optional(&self.store.pool)).await?.is_some())
    }

    /// Matrix names for which no account was made, and why.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn refused_registrations(&self, at_most: u32) -> Result<Vec<(String, String)>, StoreError> {
        let query = sqlx::query(REFUSED).bind(self.client.as_str()).bind(i64::from(at_most));
        let rows = self.store.bounded(WHAT, query.fetch_all(&self.store.pool)).await?;
        let pair = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter()
            .map(pair)
            .collect::<Result<_, _>>()
            .map_err(|error: sqlx::Error| StoreError::from_sqlx(WHAT, &error))
    }
}

impl Store {
    /// How many accounts wait to be made, were made, were refused.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn registration_counts(&self) -> Result<RegistrationCounts, StoreError> {
        let rows = self.bounded(WHAT, sqlx::query(COUNTS).fetch_all(&self.pool)).await?;
        let mut counts = RegistrationCounts::default();
        for row in &rows {
            let columns = || -> Result<(String, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
            let (state, number) = columns().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
            match state.as_str() {
                "made" => counts.made += number,
                "refused" => counts.refused += number,
                "waiting" | "sent" => counts.waiting += number,
                // There was an account.
                _ => {}
            }
        }
        Ok(counts)
    }

    /// Accounts that could not be made so far, those waiting longest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delayed_registrations(&self, at_most: u32) -> Result<Vec<Delayed>, StoreError> {
        let work = sqlx::query(DELAYED).bind(i64::from(at_most)).fetch_all(&self.pool);
        let rows = self.bounded(WHAT, work).await?;
        let delayed = |row: &AnyRow| -> Result<Delayed, sqlx::Error> {
            Ok(Delayed {
                localpart: row.try_get(0)?,
                cause: row.try_get(1)?,
                since: Timestamp(row.try_get(2)?),
                retry_at: Timestamp(row.try_get(3)?),
            })
        };
        rows.iter().map(delayed).collect::<Result<_, _>>().map_err(|error| StoreError::from_sqlx(WHAT, &error))
    }
}

fn ordered(row: &dyn Columns) -> Result<Ordered, sqlx::Error> {
    Ok(Ordered {
        // The resource's own columns stand first.
        person: resource(row)?,
        stable_id: row.the_text(8)?.into_owned(),
        localpart: row.the_text(9)?.into_owned().into(),
        begun: row.the_text(10)? == "sent",
        queued_at: Timestamp(row.the_number(11)?),
        attempts: u32::try_from(row.the_number(12)?).unwrap_or(u32::MAX),
        namesake: row.the_number(13)? > 0,
    })
}

pub(super) const QUERIES: &[&str] =
    &[ORDER, ORDER_AGAIN, HASTEN, DUE, BEGIN, END, PERSON, PUT_OFF, OPEN, OPEN_OF, REFUSED, COUNTS, DELAYED];

const ORDER: &str = "INSERT INTO scim_registrations \
     (client, stable_id, localpart, state, queued_at, attempts, due_at, cause) \
     SELECT client, stable_id, localpart, 'waiting', CAST($2 AS BIGINT), 0, CAST($2 AS BIGINT), '' FROM scim_resources \
     WHERE pk = $1 AND localpart IS NOT NULL \
     ON CONFLICT (client, stable_id) DO UPDATE SET state = 'waiting', due_at = excluded.due_at, cause = '' \
     WHERE scim_registrations.state = 'refused'";
const ORDER_AGAIN: &str = "UPDATE scim_registrations SET state = 'waiting', due_at = $2, cause = '' WHERE state = 'refused' \
     AND EXISTS (SELECT 1 FROM scim_resources m WHERE m.pk = $1 AND m.client = scim_registrations.client \
     AND m.stable_id = scim_registrations.stable_id)";
const HASTEN: &str = "UPDATE scim_registrations SET due_at = $2 WHERE state = 'waiting' AND due_at > $2 \
     AND EXISTS (SELECT 1 FROM scim_resources m WHERE m.pk = $1 AND m.client = scim_registrations.client \
     AND m.stable_id = scim_registrations.stable_id)";
// `CROSS JOIN`: from the orders to the people, of whom there are many more; `SQLite` keeps to that order.
const DUE: &str = "SELECT m.pk, m.kind, m.id, m.doc, m.version, m.created, m.modified, m.active, \
     r.stable_id, r.localpart, r.state, r.queued_at, r.attempts, \
     (SELECT COUNT(*) FROM scim_resources o WHERE o.client = r.client AND o.localpart = r.localpart \
     AND o.deleted_at IS NOT NULL AND o.stable_id <> r.stable_id) FROM scim_registrations r \
     CROSS JOIN scim_resources m \
     WHERE m.client = r.client AND m.stable_id = r.stable_id AND r.client = $1 AND r.state IN ('waiting', 'sent') AND r.due_at <= $2 \
     AND m.active = 1 AND m.deleted_at IS NULL ORDER BY r.due_at, r.queued_at, m.pk LIMIT $3";
const BEGIN: &str = "UPDATE scim_registrations SET state = 'sent' WHERE client = $1 AND stable_id = $2";
const END: &str = "UPDATE scim_registrations SET state = $3, cause = $4, due_at = $5, attempts = attempts + 1 \
     WHERE client = $1 AND stable_id = $2";
const PERSON: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE pk = $1 AND deleted_at IS NULL";
const PUT_OFF: &str = "UPDATE scim_registrations SET due_at = $3, cause = $4, attempts = attempts + 1 \
     WHERE client = $1 AND stable_id = $2 AND state IN ('waiting', 'sent')";
const OPEN: &str = "SELECT r.stable_id FROM scim_registrations r \
     CROSS JOIN scim_resources m \
     WHERE m.client = r.client AND m.stable_id = r.stable_id AND r.client = $1 AND r.state IN ('waiting', 'sent') AND r.attempts = 0 \
     AND m.active = 1 AND m.deleted_at IS NULL LIMIT 1";
const OPEN_OF: &str = "SELECT r.stable_id FROM scim_registrations r \
     JOIN scim_resources m ON m.client = r.client AND m.stable_id = r.stable_id \
     WHERE r.client = $1 AND m.id = $2 AND r.state IN ('waiting', 'sent') AND m.active = 1 AND m.deleted_at IS NULL LIMIT 1";
const REFUSED: &str = "SELECT r.localpart, r.cause FROM scim_registrations r \
     CROSS JOIN scim_resources m \
     WHERE m.client = r.client AND m.stable_id = r.stable_id AND r.client = $1 AND r.state = 'refused' AND m.deleted_at IS NULL ORDER BY r.due_at, r.localpart LIMIT $2";
pub(super) const COUNTS: &str = "SELECT r.state, COUNT(*) FROM scim_registrations r \
     CROSS JOIN scim_resources m \
     WHERE m.client = r.client AND m.stable_id = r.stable_id AND m.kind = 0 AND m.active = 1 AND m.deleted_at IS NULL GROUP BY r.state";
const DELAYED: &str = "SELECT r.localpart, r.cause, r.queued_at, r.due_at FROM scim_registrations r \
     CROSS JOIN scim_resources m \
     WHERE m.client = r.client AND m.stable_id = r.stable_id AND r.state IN ('waiting', 'sent') AND r.attempts > 0 AND m.active = 1 AND m.deleted_at IS NULL \
     ORDER BY r.queued_at, r.localpart LIMIT $1";
