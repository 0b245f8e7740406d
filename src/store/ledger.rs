//! Keeps [`Ledger`] in tables. What is saved is the difference between two ledgers, in one transaction: a pass that changed two
//! things writes two rows, whatever the size of the organisation. A crash leaves the ledger before or after, never between (S-83).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::holds::{class_from, class_name};
use super::session::Session;
use super::tables::{Cell, Row, Table, TableChange};
use super::{Store, StoreError, damaged};
use crate::ids::{Interner, Timestamp, UserId};
use crate::ledger::{Absence, GroupMemory, Leaver, Ledger, Refusal, RemovalRecord};

const WHAT_READ: &str = "read the ledger";
const WHAT_WRITE: &str = "write the ledger";

/// The rows in which two ledgers differ.
#[derive(Debug)]
pub struct LedgerChanges(Vec<TableChange>);

impl LedgerChanges {
    /// Whether the two ledgers were the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Writes them as part of a larger change.
    pub(super) async fn write(&self, session: &mut dyn Session) -> Result<(), sqlx::Error> {
        for change in &self.0 {
            change.write(session).await?;
        }
        Ok(())
    }

    /// How many rows will be written or deleted.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.iter().map(|change| change.upserts.len() + change.deletes.len()).sum()
    }
}

/// What has to be written so that a stored `old` becomes `new`.
#[must_use]
pub fn diff(old: &Ledger, new: &Ledger) -> LedgerChanges {
    LedgerChanges(vec![
        changed(
            &PEOPLE,
            &old.people,
            &new.people,
            |id, _| vec![id.as_str().into()],
            |_, localpart| vec![localpart.as_str().into()],
        ),
        changed(
            &ABSENCES,
            &old.absences,
            &new.absences,
            |id, _| vec![id.as_str().into()],
            |_, absence| vec![absence.since.0.into(), i64::from(absence.reads).into(), absence.last_read.0.into()],
        ),
        changed(
            &GROUPS,
            &old.groups,
            &new.groups,
            |id, _| vec![id.as_str().into()],
            |_, group| vec![group.id.as_str().into(), group.name.as_str().into(), json(&group.users).into()],
        ),
        changed(
            &ENTITLED,
            &old.entitled,
            &new.entitled,
            |key, _| vec![json(key).into()],
            |_, users| vec![json(users.as_ref()).into()],
        ),
        forgiven(old, new),
        changed(
            &REFUSALS,
            &old.refusals,
            &new.refusals,
            |(key, user), _| vec![json(key).into(), user.as_str().into()],
            |_, refusal| vec![refusal.code.as_str().into(), refusal.retry_at.0.into()],
        ),
        removals(old, new),
        approvals(old, new),
        changed(
            &LEAVERS,
            &old.leavers,
            &new.leavers,
            |user, _| vec![user.as_str().into()],
            |_, leaver| vec![json(leaver).into()],
        ),
        changed(
            &ATTRIBUTES,
            &old.attributes,
            &new.attributes,
            |user, _| vec![user.as_str().into()],
            |_, known| vec![json(known).into()],
        ),
        changed(
            &FACTS,
            &facts(old),
            &facts(new),
            |name, _| vec![(*name).into()],
            |_, value| vec![value.as_str().into()],
        ),
    ])
}

impl Store {
    /// Writes a difference, whole or not at all. The caller holds the writer's lease (S-85).
    ///
    /// # Errors
    /// See [`StoreError`]; after an error nothing was written, or everything if the answer to the commit was lost: saving the same
    /// difference again is harmless.
    pub async fn save(&self, changes: &LedgerChanges) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.bounded(WHAT_WRITE, async {
            let mut transaction = self.begin().await?;
            changes.write(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    /// The whole ledger; an empty one from a new database.
    ///
    /// # Errors
    /// See [`StoreError`]. A row that cannot be read is an error, never an omission: what is missing would read as "never seen".
    pub async fn load_ledger(&self) -> Result<Ledger, StoreError> {
        let mut interner = Interner::default();
        let mut ledger = Ledger { approvals: self.approvals().await?, ..Ledger::default() };
        self.each(SELECT_PEOPLE, |row| {
            ledger.people.insert(text(row, 0)?.into(), text(row, 1)?.into());
            Ok(())
        })
        .await?;
        self.each(SELECT_ABSENCES, |row| {
            let reads = u32::try_from(number(row, 2)?).unwrap_or(u32::MAX);
            let absence = Absence { since: Timestamp(number(row, 1)?), reads, last_read: Timestamp(number(row, 3)?) };
            ledger.absences.insert(text(row, 0)?.into(), absence);
            Ok(())
        })
        .await?;
        self.each(SELECT_GROUPS, |row| {
            let users = parsed(&text(row, 3)?)?;
            ledger.groups.insert(text(row, 0)?, GroupMemory { id: text(row, 1)?.into(), name: text(row, 2)?, users });
            Ok(())
        })
        .await?;
        self.each(SELECT_ENTITLED, |row| {
            let list = text(row, 1)?;
            let named: BTreeMap<Cow<'_, str>, i64> = parsed(&list)?;
            let levels: BTreeMap<UserId, i64> =
                named.iter().map(|(name, level)| (interner.share(name).into(), *level)).collect();
            ledger.entitled.insert(parsed(&text(row, 0)?)?, Arc::new(levels));
            Ok(())
        })
        .await?;
        self.load_decisions(&mut ledger).await?;
        Ok(ledger)
    }

    /// Whose accounts usher locked, or is about to.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn leavers(&self) -> Result<BTreeMap<UserId, Leaver>, StoreError> {
        let mut leavers = BTreeMap::new();
        self.each(SELECT_LEAVERS, |row| {
            leavers.insert(text(row, 0)?.into(), parsed(&text(row, 1)?)?);
            Ok(())
        })
        .await?;
        Ok(leavers)
    }

    async fn load_decisions(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        self.each(SELECT_FORGIVEN, |row| {
            ledger.forgiven.insert((text(row, 0)?.into(), text(row, 1)?.into(), text(row, 2)?.into()));
            Ok(())
        })
        .await?;
        self.each(SELECT_REFUSALS, |row| {
            let refusal = Refusal { code: text(row, 2)?, retry_at: Timestamp(number(row, 3)?) };
            ledger.refusals.insert((parsed(&text(row, 0)?)?, text(row, 1)?.into()), refusal);
            Ok(())
        })
        .await?;
        self.each(SELECT_REMOVALS, |row| {
            ledger.removals.push(RemovalRecord {
                at: Timestamp(number(row, 0)?),
                class: class_from(&text(row, 1)?).map_err(damaged(WHAT_READ))?,
                space: parsed(&text(row, 2)?)?,
                person: Some(text(row, 3)?).filter(|person| !person.is_empty()).map(UserId::from),
                space_base: number(row, 4)?.unsigned_abs(),
                total_base: number(row, 5)?.unsigned_abs(),
            });
            Ok(())
        })
        .await?;
        ledger.leavers = self.leavers().await?;
        self.each(SELECT_ATTRIBUTES, |row| {
            ledger.attributes.insert(text(row, 0)?.into(), parsed(&text(row, 1)?)?);
            Ok(())
        })
        .await?;
        self.each(SELECT_LEDGER_FACTS, |row| {
            let value = text(row, 1)?;
            match text(row, 0)?.as_str() {
                SETTLED => ledger.settled = parsed(&value)?,
                KNOWS_NAMES => ledger.knows_names = parsed(&value)?,
                CLOSINGS => ledger.closings = parsed(&value)?,
                MIRRORED => ledger.mirrored = Some(parsed(&value)?),
                LAST_COMPLETE_READ => ledger.last_complete_read = Some(Timestamp(parsed(&value)?)),
                _ => {}
            }
            Ok(())
        })
        .await
    }

    /// Feeds every row of a query to `take`, one at a time, so that the rows never stand in memory beside the ledger.
    async fn each(
        &self,
        sql: &'static str,
        mut take: impl FnMut(&AnyRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = sqlx::query(sql).fetch(&self.pool);
        while let Some(row) = self.bounded(WHAT_READ, rows.try_next()).await? {
            take(&row)?;
        }
        Ok(())
    }
}

/// The rows of one map that differ.
fn changed<K: Ord, V: PartialEq>(
    table: &'static Table,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    key: impl Fn(&K, &V) -> Row,
    values: impl Fn(&K, &V) -> Row,
) -> TableChange {
    let row = |(name, value): (&K, &V)| [key(name, value), values(name, value)].concat();
    let upserts = new.iter().filter(|(name, value)| old.get(name) != Some(value)).map(row).collect();
    let gone = old.iter().filter(|(name, _)| !new.contains_key(name));
    TableChange { table, upserts, deletes: gone.map(|(name, value)| key(name, value)).collect() }
}

fn forgiven(old: &Ledger, new: &Ledger) -> TableChange {
    let row = |(room, user, event): &(_, _, _)| -> Row {
        let (room, user, event): (&crate::ids::RoomId, &UserId, &crate::ids::EventId) = (room, user, event);
        vec![room.as_str().into(), user.as_str().into(), event.as_str().into()]
    };
    let upserts = new.forgiven.difference(&old.forgiven).map(row).collect();
    TableChange { table: &FORGIVEN, upserts, deletes: old.forgiven.difference(&new.forgiven).map(row).collect() }
}

/// Records are a list, and two may agree in time, class, place and person: the ordinal tells them apart.
fn removals(old: &Ledger, new: &Ledger) -> TableChange {
    type Identity = (i64, &'static str, String, String, i64);
    fn keyed(ledger: &Ledger) -> BTreeMap<Identity, (u64, u64)> {
        let mut map = BTreeMap::new();
        for record in &ledger.removals {
            // A column of the key cannot be null: nobody is nothing.
            let person = record.person.as_ref().map_or("", UserId::as_str).to_owned();
            let place = json(&record.space);
            let mut identity = (record.at.0, class_name(record.class), place, person, 0);
            while map.contains_key(&identity) {
                identity.4 += 1;
            }
            map.insert(identity, (record.space_base, record.total_base));
        }
        map
    }
    let key = |(at, class, place, person, ordinal): &Identity, _: &(u64, u64)| -> Row {
        vec![(*at).into(), (*class).into(), place.as_str().into(), person.as_str().into(), (*ordinal).into()]
    };
    let bases = |_: &Identity, (space, total): &(u64, u64)| -> Row {
        vec![i64::try_from(*space).unwrap_or(i64::MAX).into(), i64::try_from(*total).unwrap_or(i64::MAX).into()]
    };
    changed(&REMOVALS, &keyed(old), &keyed(new), key, bases)
}

/// An approval is deleted only with the end it had: one that somebody renewed in the meantime stays.
fn approvals(old: &Ledger, new: &Ledger) -> TableChange {
    let mut change = changed(
        &APPROVALS,
        &old.approvals,
        &new.approvals,
        |step, _| vec![step.0.as_str().into()],
        |_, until| vec![until.0.into()],
    );
    let gone = old.approvals.iter().filter(|(step, _)| !new.approvals.contains_key(step));
    change.deletes = gone.map(|(step, until)| vec![step.0.as_str().into(), Cell::Int(until.0)]).collect();
    change
}

fn facts(ledger: &Ledger) -> BTreeMap<&'static str, String> {
    let mut facts = BTreeMap::new();
    if ledger.settled {
        facts.insert(SETTLED, "true".to_owned());
    }
    if ledger.knows_names {
        facts.insert(KNOWS_NAMES, "true".to_owned());
    }
    if !ledger.closings.is_empty() {
        facts.insert(CLOSINGS, json(&ledger.closings));
    }
    if let Some(mirrored) = ledger.mirrored {
        facts.insert(MIRRORED, mirrored.to_string());
    }
    if let Some(at) = ledger.last_complete_read {
        facts.insert(LAST_COMPLETE_READ, at.0.to_string());
    }
    facts
}

/// Ids and lists of ids as JSON text. Serialising them cannot fail: they are strings, and structs of strings.
fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parsed<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(damaged(WHAT_READ))
}

fn text(row: &AnyRow, column: usize) -> Result<String, StoreError> {
    row.try_get(column).map_err(|error| StoreError::from_sqlx(WHAT_READ, &error))
}

fn number(row: &AnyRow, column: usize) -> Result<i64, StoreError> {
    row.try_get(column).map_err(|error| StoreError::from_sqlx(WHAT_READ, &error))
}

const SETTLED: &str = "settled";
const KNOWS_NAMES: &str = "knows_names";
const MIRRORED: &str = "mirrored";
const CLOSINGS: &str = "closings";
const LAST_COMPLETE_READ: &str = "last_complete_read";

static PEOPLE: Table =
    Table { name: "people", columns: &["stable_id", "localpart"], key: 1, delete_by: &["stable_id"] };
static ABSENCES: Table = Table {
    name: "absences",
    columns: &["stable_id", "since", "reads", "last_read"],
    key: 1,
    delete_by: &["stable_id"],
};
static GROUPS: Table = Table {
    name: "group_memories",
    columns: &["external_id", "stable_id", "name", "users"],
    key: 1,
    delete_by: &["external_id"],
};
static ENTITLED: Table = Table { name: "entitled", columns: &["rule", "users"], key: 1, delete_by: &["rule"] };
static FORGIVEN: Table = Table {
    name: "forgiven",
    columns: &["room_id", "user_id", "event_id"],
    key: 3,
    delete_by: &["room_id", "user_id", "event_id"],
};
static REFUSALS: Table = Table {
    name: "refusals",
    columns: &["rule", "user_id", "code", "retry_at"],
    key: 2,
    delete_by: &["rule", "user_id"],
};
static REMOVALS: Table = Table {
    name: "removals",
    columns: &["done_at", "class", "place", "person", "ordinal", "space_base", "total_base"],
    key: 5,
    delete_by: &["done_at", "class", "place", "person", "ordinal"],
};
static APPROVALS: Table =
    Table { name: "approvals", columns: &["step_id", "until"], key: 1, delete_by: &["step_id", "until"] };
static LEAVERS: Table = Table { name: "leavers", columns: &["user_id", "record"], key: 1, delete_by: &["user_id"] };
static ATTRIBUTES: Table =
    Table { name: "attributes", columns: &["user_id", "record"], key: 1, delete_by: &["user_id"] };
static FACTS: Table = Table { name: "facts", columns: &["name", "value"], key: 1, delete_by: &["name"] };

pub(super) const TABLES: &[&Table] = &[
    &PEOPLE,
    &ABSENCES,
    &GROUPS,
    &ENTITLED,
    &FORGIVEN,
    &REFUSALS,
    &REMOVALS,
    &APPROVALS,
    &LEAVERS,
    &ATTRIBUTES,
    &FACTS,
];
pub(super) const QUERIES: &[&str] = &[
    SELECT_PEOPLE,
    SELECT_ABSENCES,
    SELECT_GROUPS,
    SELECT_ENTITLED,
    SELECT_FORGIVEN,
    SELECT_REFUSALS,
    SELECT_REMOVALS,
    SELECT_LEAVERS,
    SELECT_ATTRIBUTES,
    SELECT_LEDGER_FACTS,
];

const SELECT_PEOPLE: &str = "SELECT stable_id, localpart FROM people";
const SELECT_ABSENCES: &str = "SELECT stable_id, since, reads, last_read FROM absences";
const SELECT_GROUPS: &str = "SELECT external_id, stable_id, name, users FROM group_memories";
const SELECT_ENTITLED: &str = "SELECT rule, users FROM entitled";
const SELECT_FORGIVEN: &str = "SELECT room_id, user_id, event_id FROM forgiven";
const SELECT_REFUSALS: &str = "SELECT rule, user_id, code, retry_at FROM refusals";
const SELECT_REMOVALS: &str = "SELECT done_at, class, place, person, space_base, total_base FROM removals \
     ORDER BY done_at, class, place, person, ordinal";
const SELECT_LEAVERS: &str = "SELECT user_id, record FROM leavers";
const SELECT_ATTRIBUTES: &str = "SELECT user_id, record FROM attributes";
const SELECT_LEDGER_FACTS: &str = "SELECT name, value FROM facts";
