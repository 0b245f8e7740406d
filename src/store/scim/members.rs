//! Who is in a group, changed by rows: the cost follows the number of operations, never the size of the group (S-65).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::write::Trouble;
use super::{
    LONGEST_LIST, Link, SELECT_MEMBERS, Wanted, first_number, in_order, kind_of, link, listed, padded, storable,
};
use crate::scim::evaluate::Compiled;
use crate::scim::patch::{MemberChange, unchangeable};
use crate::scim::{Error, Kind};
use crate::store::session::{Bound, Columns, Session};

/// What operations come to, whatever order they came in.
#[derive(Debug, Default)]
struct Outcome {
    /// Nobody who was in before stays but those added.
    cleared: bool,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// Longest id kept; ours have 36 characters.
const LONGEST_ID: usize = 256;

/// Changes the members of a group and tells whether that changed anything. An id that is nobody's is kept, for the client to see; it
/// stands for nobody.
///
/// # Errors
/// `invalidValue` for what cannot be an id, `noTarget` and `mutability` where one is to take the place of another; nothing is done then.
pub(super) async fn change(
    session: &mut dyn Session,
    client: &str,
    group: i64,
    changes: &[MemberChange],
) -> Result<bool, Trouble> {
    let before = Before::read(session, (client, group), changes).await?;
    let mut outcome = Outcome::default();
    for change in changes {
        match change {
            MemberChange::Add(ids) if ids.iter().any(|id| id.len() > LONGEST_ID || id.contains(char::is_control)) => {
                return Err(Error::invalid_value("members: a value is no id").into());
            }
            MemberChange::Add(ids) => outcome.add(ids),
            MemberChange::Remove(ids) => outcome.remove(ids),
            MemberChange::Clear => outcome = Outcome { cleared: true, ..Outcome::default() },
            MemberChange::RemoveWhere(filter) => outcome.remove(&before.fitting(&outcome, filter)),
            MemberChange::Keep(filter, id) => {
                let fitting = before.fitting(&outcome, filter);
                if fitting.is_empty() {
                    return Err(Error::no_target("no member fits the filter").into());
                }
                if fitting.iter().any(|member| member != id) {
                    return Err(unchangeable().into());
                }
            }
        }
    }
    let gone: Vec<String> = if outcome.cleared {
        let current = current(session, group).await?;
        current.into_iter().filter(|id| !outcome.added.contains(id)).collect()
    } else {
        outcome.removed.into_iter().filter(|id| storable(id)).collect()
    };
    let deleted = delete(session, group, &gone).await?;
    let inserted = insert(session, group, &outcome.added.into_iter().collect::<Vec<_>>()).await?;
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

/// What there was before the request, as far as its filters ask. Read once, however many they are.
#[derive(Debug, Default)]
struct Before {
    members: BTreeSet<String>,
    /// What those are who were members or are to be; missing: nothing that exists.
    kinds: BTreeMap<String, Kind>,
}

impl Before {
    async fn read(
        session: &mut dyn Session,
        (client, group): (&str, i64),
        changes: &[MemberChange],
    ) -> Result<Self, sqlx::Error> {
        let mut before = Self::default();
        let (mut named, mut added) = (Vec::new(), BTreeSet::new());
        let mut all = false;
        for change in changes {
            match change {
                MemberChange::Add(ids) => added.extend(ids),
                MemberChange::RemoveWhere(_) => all = true,
                MemberChange::Keep(filter, _) => match filter.only_values() {
                    Some(ids) => named.extend(ids.into_iter().filter(|id| storable(id))),
                    None => all = true,
                },
                MemberChange::Remove(_) | MemberChange::Clear => {}
            }
        }
        if !all {
            before.members = members_among(session, group, &named).await?;
            return Ok(before);
        }
        before.members = current(session, group).await?.into_iter().collect();
        let known: BTreeSet<&String> = before.members.iter().chain(added).filter(|id| storable(id)).collect();
        let known: Vec<&String> = known.into_iter().collect();
        before.kinds = kinds(session, client, &known).await?;
        Ok(before)
    }

    /// The ids of members that a filter fits, as things stand in the middle of a request.
    fn fitting(&self, outcome: &Outcome, filter: &Compiled) -> Vec<String> {
        let is_member = |id: &String| {
            let stays = !outcome.cleared && !outcome.removed.contains(id) && self.members.contains(id);
            stays || outcome.added.contains(id)
        };
        if let Some(ids) = filter.only_values() {
            return ids.into_iter().filter(is_member).collect();
        }
        let fits = |id: &String| {
            let member = match self.kinds.get(id) {
                Some(kind) => json!({ "value": id, "type": kind.name() }),
                None => json!({ "value": id }),
            };
            filter.fits_element(&member)
        };
        self.members.union(&outcome.added).filter(|id| is_member(id) && fits(id)).cloned().collect()
    }
}

async fn members_among(session: &mut dyn Session, group: i64, ids: &[String]) -> Result<BTreeSet<String>, sqlx::Error> {
    let mut found = BTreeSet::new();
    for ids in ids.chunks(LONGEST_LIST) {
        let padded = padded(ids);
        let sql = listed(SELECT_AMONG, 2, padded.len());
        found.extend(session.rows(&sql, &of_group(group, &padded), |row| Ok(row.the_text(0)?.into_owned())).await?);
    }
    Ok(found)
}

async fn kinds(
    session: &mut dyn Session,
    client: &str,
    ids: &[&String],
) -> Result<BTreeMap<String, Kind>, sqlx::Error> {
    let mut kinds = BTreeMap::new();
    for ids in ids.chunks(LONGEST_LIST) {
        let padded = padded(ids);
        let bound: Vec<Bound<'_>> =
            std::iter::once(client.into()).chain(padded.iter().map(|id| (**id).into())).collect();
        let kind = |row: &dyn Columns| Ok((row.the_text(0)?.into_owned(), kind_of(row.the_number(1)?)));
        kinds.extend(session.rows(&listed(SELECT_KINDS, 2, padded.len()), &bound, kind).await?);
    }
    Ok(kinds)
}

/// The members of a group as this transaction leaves them, where they are wanted.
pub(super) async fn wanted(
    session: &mut dyn Session,
    group: i64,
    wanted: Wanted,
) -> Result<Option<Vec<Link>>, sqlx::Error> {
    match wanted {
        Wanted::Nothing => return Ok(None),
        Wanted::Members => {}
        Wanted::FewMembers(most) => {
            let count = session.first(COUNT_MEMBERS, &[group.into(), (most + 1).into()], first_number).await?;
            if count.is_some_and(|count| count > most) {
                return Ok(None);
            }
        }
    }
    let read = |row: &dyn Columns| link(row).map(|(_, link)| link);
    let mut links = session.rows(&listed(SELECT_MEMBERS, 1, 1), &[group.into()], read).await?;
    in_order(&mut links);
    Ok(Some(links))
}

/// Takes somebody out of these groups, and of no other that has taken them in meanwhile: what one version of a group shows never changes.
pub(super) async fn leave(session: &mut dyn Session, id: &str, groups: &[i64]) -> Result<(), sqlx::Error> {
    for groups in groups.chunks(LONGEST_LIST) {
        let padded = padded(groups);
        let bound: Vec<Bound<'_>> =
            std::iter::once(id.into()).chain(padded.iter().map(|group| Bound::Number(**group))).collect();
        session.execute(&listed(DELETE_MEMBERSHIPS, 2, padded.len()), &bound).await?;
    }
    Ok(())
}

async fn current(session: &mut dyn Session, group: i64) -> Result<Vec<String>, sqlx::Error> {
    session.rows(SELECT_MEMBER_IDS, &[group.into()], |row| Ok(row.the_text(0)?.into_owned())).await
}

async fn delete(session: &mut dyn Session, group: i64, gone: &[String]) -> Result<u64, sqlx::Error> {
    let mut deleted = 0;
    for ids in gone.chunks(LONGEST_LIST) {
        let padded = padded(ids);
        deleted += session.execute(&listed(DELETE_MEMBERS, 2, padded.len()), &of_group(group, &padded)).await?;
    }
    Ok(deleted)
}

async fn insert(session: &mut dyn Session, group: i64, new: &[String]) -> Result<u64, sqlx::Error> {
    let mut inserted = 0;
    for ids in new.chunks(LONGEST_LIST) {
        let padded = padded(ids);
        inserted += session.execute(&insertion(padded.len()), &of_group(group, &padded)).await?;
    }
    Ok(inserted)
}

fn of_group<'b>(group: i64, ids: &[&'b String]) -> Vec<Bound<'b>> {
    std::iter::once(group.into()).chain(ids.iter().map(|id| (*id).into())).collect()
}

fn insertion(count: usize) -> String {
    let rows: Vec<String> = (2..count + 2).map(|number| format!("($1, ${number})")).collect();
    format!("INSERT INTO scim_members (group_pk, member_id) VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
}

pub(super) fn statements() -> Vec<String> {
    let mut statements = vec![SELECT_MEMBER_IDS.to_owned(), COUNT_MEMBERS.to_owned()];
    for count in [1, LONGEST_LIST] {
        let lists = [SELECT_AMONG, SELECT_KINDS, DELETE_MEMBERS, DELETE_MEMBERSHIPS].map(|sql| listed(sql, 2, count));
        statements.push(insertion(count));
        statements.extend(lists);
    }
    statements
}

// By `id`, however many: see `SELECT_AT`.
const SELECT_KINDS: &str =
    "SELECT id, kind FROM scim_resources WHERE client || '' = $1 AND id IN ({}) AND deleted_at IS NULL";
const SELECT_AMONG: &str = "SELECT member_id FROM scim_members WHERE group_pk = $1 AND member_id IN ({})";
const SELECT_MEMBER_IDS: &str = "SELECT member_id FROM scim_members WHERE group_pk = $1";
const COUNT_MEMBERS: &str =
    "SELECT COUNT(*) FROM (SELECT member_id FROM scim_members WHERE group_pk = $1 LIMIT $2) AS some_members";
const DELETE_MEMBERS: &str = "DELETE FROM scim_members WHERE group_pk = $1 AND member_id IN ({})";
const DELETE_MEMBERSHIPS: &str = "DELETE FROM scim_members WHERE member_id = $1 AND group_pk IN ({})";
