//! Who is in a group, changed by rows: the cost follows the number of operations, never the size of the group (S-65).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::write::Trouble;
use super::{LONGEST_LIST, kind_of, listed, padded};
use crate::scim::Error;
use crate::scim::evaluate::Compiled;
use crate::scim::patch::MemberChange;

/// What operations come to, whatever order they came in.
#[derive(Debug, Default)]
struct Outcome {
    /// Nobody who was in before stays but those added.
    cleared: bool,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// Changes the members of a group and tells whether that changed anything.
///
/// # Errors
/// `invalidValue` for members to add that do not exist; nothing is done then.
pub(super) async fn change(
    connection: &mut AnyConnection,
    client: &str,
    group: i64,
    changes: &[MemberChange],
    share: &'static str,
) -> Result<bool, Trouble> {
    let mut outcome = Outcome::default();
    for change in changes {
        match change {
            MemberChange::Add(ids) => outcome.add(ids),
            MemberChange::Remove(ids) => outcome.remove(ids),
            MemberChange::Clear => outcome = Outcome { cleared: true, ..Outcome::default() },
            MemberChange::RemoveWhere(filter) => {
                let fitting = fitting(connection, client, group, &outcome, filter).await?;
                outcome.remove(&fitting);
            }
        }
    }
    let added = resolve(connection, client, &outcome.added, share).await?;
    let unknown: Vec<&str> =
        outcome.added.iter().filter(|id| !added.contains_key(*id)).take(3).map(String::as_str).collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        return Err(Error::invalid_value(format!("members: there is nobody with the id {unknown}")).into());
    }
    let wanted: BTreeSet<i64> = added.into_values().map(|(pk, _)| pk).collect();
    let gone: Vec<i64> = if outcome.cleared {
        current(connection, group).await?.into_iter().filter(|pk| !wanted.contains(pk)).collect()
    } else {
        let removed = resolve(connection, client, &outcome.removed, "").await?;
        removed.into_values().map(|(pk, _)| pk).filter(|pk| !wanted.contains(pk)).collect()
    };
    let deleted = delete(connection, group, &gone).await?;
    let inserted = insert(connection, group, &wanted.into_iter().collect::<Vec<_>>()).await?;
    Ok(deleted + inserted > 0)
}

impl Outcome {
    fn add(&mut self, ids: &[String]) {
        for id in ids {
            self.removed.remove(id);
            self.added.insert(id.clone());
        }
    }

    fn remove(&mut self, ids: &[String]) {
        for id in ids {
            self.added.remove(id);
            if !self.cleared {
                self.removed.insert(id.clone());
            }
        }
    }
}

/// The ids of members that a filter fits, as things stand in the middle of a request. Looks at all of them: nobody filters members by
/// anything but their id without meaning many.
async fn fitting(
    connection: &mut AnyConnection,
    client: &str,
    group: i64,
    outcome: &Outcome,
    filter: &Compiled,
) -> Result<Vec<String>, Trouble> {
    let mut candidates: BTreeMap<String, i64> = BTreeMap::new();
    if !outcome.cleared {
        let rows = sqlx::query(SELECT_MEMBER_IDS).bind(group).fetch_all(&mut *connection).await?;
        for row in &rows {
            candidates.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    for (id, (_, kind)) in resolve(connection, client, &outcome.added, "").await? {
        candidates.insert(id, kind);
    }
    let fits = |id: &str, kind: i64| filter.fits_element(&json!({ "value": id, "type": kind_of(kind).name() }));
    Ok(candidates.into_iter().filter(|(id, kind)| fits(id, *kind)).map(|(id, _)| id).collect())
}

/// Row and kind of each id that is there.
async fn resolve(
    connection: &mut AnyConnection,
    client: &str,
    ids: &BTreeSet<String>,
    share: &'static str,
) -> Result<BTreeMap<String, (i64, i64)>, sqlx::Error> {
    let ids: Vec<&String> = ids.iter().collect();
    let mut found = BTreeMap::new();
    for ids in ids.chunks(LONGEST_LIST) {
        let padded = padded(ids);
        let sql = format!("{}{share}", listed(SELECT_PKS, 2, padded.len()));
        let query = sqlx::query(AssertSqlSafe(sql)).bind(client);
        let query = padded.iter().fold(query, |query, id| query.bind(id.as_str()));
        for row in query.fetch_all(&mut *connection).await? {
            found.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
    }
    Ok(found)
}

async fn current(connection: &mut AnyConnection, group: i64) -> Result<Vec<i64>, sqlx::Error> {
    let rows = sqlx::query(SELECT_MEMBER_PKS).bind(group).fetch_all(&mut *connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn delete(connection: &mut AnyConnection, group: i64, gone: &[i64]) -> Result<u64, sqlx::Error> {
    let mut deleted = 0;
    for pks in gone.chunks(LONGEST_LIST) {
        let padded = padded(pks);
        let query = sqlx::query(AssertSqlSafe(listed(DELETE_MEMBERS, 2, padded.len()))).bind(group);
        let query = padded.iter().fold(query, |query, pk| query.bind(**pk));
        deleted += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(deleted)
}

async fn insert(connection: &mut AnyConnection, group: i64, new: &[i64]) -> Result<u64, sqlx::Error> {
    let mut inserted = 0;
    for pks in new.chunks(LONGEST_LIST) {
        let padded = padded(pks);
        let query = sqlx::query(AssertSqlSafe(insertion(padded.len()))).bind(group);
        let query = padded.iter().fold(query, |query, pk| query.bind(**pk));
        inserted += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(inserted)
}

fn insertion(count: usize) -> String {
    let rows: Vec<String> = (2..count + 2).map(|number| format!("($1, ${number})")).collect();
    format!("INSERT INTO scim_members (group_pk, member_pk) VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
}

pub(super) fn statements() -> Vec<String> {
    let mut statements = vec![SELECT_MEMBER_IDS.to_owned(), SELECT_MEMBER_PKS.to_owned()];
    for count in [1, LONGEST_LIST] {
        statements.extend([insertion(count), listed(SELECT_PKS, 2, count), listed(DELETE_MEMBERS, 2, count)]);
    }
    statements
}

const SELECT_PKS: &str =
    "SELECT id, pk, kind FROM scim_resources WHERE client = $1 AND id IN ({}) AND deleted_at IS NULL";
const SELECT_MEMBER_IDS: &str = "SELECT m.id, m.kind FROM scim_members l \
     JOIN scim_resources m ON m.pk = l.member_pk WHERE l.group_pk = $1";
const SELECT_MEMBER_PKS: &str = "SELECT member_pk FROM scim_members WHERE group_pk = $1";
const DELETE_MEMBERS: &str = "DELETE FROM scim_members WHERE group_pk = $1 AND member_pk IN ({})";
