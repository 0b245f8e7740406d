//! What SCIM clients provision, in rows (S-60 to S-65): reading. `write` changes it, `feed` hands it to the loop.
//!
//! Finds candidates and pages; whether a resource fits a filter is decided by `scim::evaluate` alone. Keeps attributes as the client
//! gave them, mail addresses among them, and never a password.

mod addresses;
mod feed;
mod letters;
mod members;
#[cfg(test)]
mod plans;
mod registrations;
mod shelf;
mod turns;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use feed::{Known, Provisioned, Revision, display_name, source_name};
pub use letters::Letters;
pub use registrations::{Delayed, Ended, Ordered, RegistrationCounts, Registrations};
pub use write::{Change, Decide, New, Wanted, WriteError, Written};

use super::session::{Bound, Columns};
use super::{Store, StoreError};
use crate::scim::evaluate::Key;
use crate::scim::{Document, Kind};

const WHAT: &str = "read SCIM resources";

/// The resources of one client. Clones share the connections and the order of writes.
#[derive(Clone, Debug)]
pub struct Resources {
    store: Store,
    client: String,
    /// `SQLite` takes one writer at a time: those of one process wait here, in order, and not in the file's lock.
    turns: Arc<turns::Turns>,
    shelf: shelf::Shelf,
    letters: Option<Letters>,
    registrations: Option<Registrations>,
    /// Every change is told to the loop as one that waits for nothing.
    hurried: bool,
}

/// A stored resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Order of creation; never shown.
    pub pk: i64,
    pub kind: Kind,
    pub id: String,
    pub document: Document,
    pub version: i64,
    /// Milliseconds since the epoch.
    pub created: i64,
    pub modified: i64,
    /// Whether the person may use Matrix. Stays as it is where the attribute is taken away.
    pub active: bool,
    /// `false`: it is known to be a member of no group.
    pub grouped: bool,
}

/// A member of a group, or a group of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: String,
    /// `None`: there is no such resource.
    pub kind: Option<Kind>,
    /// A group's name; members have none here.
    pub display: Option<String>,
}

/// Which part of all resources, in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// Behind this one.
    After(i64),
    /// In front of this one.
    Before(i64),
    /// Behind so many.
    Offset(i64),
}

impl Resources {
    /// The resources of `client` in this database.
    #[must_use]
    pub fn new(store: Store, client: &str) -> Self {
        Self {
            store,
            client: client.to_owned(),
            turns: Arc::default(),
            shelf: shelf::Shelf::default(),
            letters: None,
            registrations: None,
            hurried: false,
        }
    }

    /// The same resources, whose people are written to.
    #[must_use]
    pub fn with_letters(self, letters: Option<Letters>) -> Self {
        Self { letters, ..self }
    }

    /// The same resources, for whose people accounts are ordered (S-63).
    #[must_use]
    pub fn with_registrations(self, registrations: Option<Registrations>) -> Self {
        Self { registrations, ..self }
    }

    /// The same resources, each of whose changes is acted on at once: somebody waits for that.
    #[must_use]
    pub fn hurried(self, hurried: bool) -> Self {
        Self { hurried, ..self }
    }

    /// The same resources through another opening of the database, in one order of writes.
    #[must_use]
    pub fn through(&self, store: Store) -> Self {
        Self { store, ..self.clone() }
    }

    /// Several resources by their place in the order of creation; in that order.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn at(&self, pks: &[i64]) -> Result<Vec<Resource>, StoreError> {
        let mut found = Vec::with_capacity(pks.len());
        for pks in pks.chunks(LONGEST_LIST) {
            let padded = padded(pks);
            let bound: Vec<Bound<'_>> =
                std::iter::once(self.client()).chain(padded.iter().map(|pk| Bound::Number(**pk))).collect();
            found.extend(self.store.many(WHAT, (&listed(SELECT_AT, 2, padded.len()), &bound), resource).await?);
        }
        found.sort_by_key(|resource| resource.pk);
        Ok(found)
    }

    /// One resource by its id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, kind: Kind, id: &str) -> Result<Option<Resource>, StoreError> {
        let found = self.keyed(kind, SELECT_BY_ID, id).await?;
        Ok(found.into_iter().next())
    }

    /// Every resource that has this key; those that fit a filter with it are among them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn with_key(&self, kind: Kind, key: &Key) -> Result<Vec<Resource>, StoreError> {
        match key {
            Key::Id(id) => self.keyed(kind, SELECT_BY_ID, id).await,
            Key::UserName(name) => self.keyed(kind, SELECT_BY_USER_NAME, name).await,
            Key::ExternalId(id) => {
                let sql = match kind {
                    Kind::User => SELECT_USER_BY_EXTERNAL_ID,
                    Kind::Group => SELECT_GROUPS_BY_EXTERNAL_ID,
                };
                self.keyed(kind, sql, id).await
            }
            Key::DisplayName(name) => self.keyed(kind, SELECT_BY_DISPLAY_NAME, name).await,
            Key::Address(address) => self.keyed(kind, SELECT_BY_ADDRESS, &addresses::key(address)).await,
            Key::Member(id) => self.keyed(kind, SELECT_BY_MEMBER, id).await,
        }
    }

    async fn keyed(&self, kind: Kind, sql: &'static str, key: &str) -> Result<Vec<Resource>, StoreError> {
        if !storable(key) {
            return Ok(Vec::new());
        }
        let bound = [self.client(), number(kind).into(), key.into()];
        if [SELECT_BY_ID, SELECT_BY_USER_NAME, SELECT_USER_BY_EXTERNAL_ID].contains(&sql) {
            self.store.few(WHAT, (sql, &bound), one).await
        } else if sql == SELECT_GROUPS_BY_EXTERNAL_ID {
            self.store.many(WHAT, (sql, &bound), one).await
        } else {
            self.store.many(WHAT, (sql, &bound), resource).await
        }
    }

    fn client(&self) -> Bound<'_> {
        self.client.as_str().into()
    }

    /// At most `limit` resources of a slice, in order, and how many there are in all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn page(&self, kind: Kind, slice: Slice, limit: i64) -> Result<(i64, Vec<Resource>), StoreError> {
        let revision = self.revision().await?;
        let total = if let Some(total) = self.shelf.count(revision, kind) {
            total
        } else {
            let counted = self.store.many(WHAT, (COUNT, &[self.client(), number(kind).into()]), first_number).await?;
            let total = counted.first().copied().unwrap_or_default();
            self.shelf.counted(revision, kind, total);
            total
        };
        if limit == 0 {
            return Ok((total, Vec::new()));
        }
        let found = self.slice(kind, self.shelf.shortened(revision, kind, slice), limit).await?;
        if let Slice::Offset(skip) = slice {
            let pks: Vec<i64> = found.iter().map(|resource| resource.pk).collect();
            self.shelf.walked(revision, (kind, skip), &pks);
        }
        Ok((total, found))
    }

    /// At most `limit` resources of a slice, in order.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn slice(&self, kind: Kind, slice: Slice, limit: i64) -> Result<Vec<Resource>, StoreError> {
        let (sql, place) = match slice {
            Slice::After(pk) => (SELECT_AFTER, pk),
            Slice::Before(pk) => (SELECT_BEFORE, pk),
            Slice::Offset(skip) => (SELECT_OFFSET, skip),
        };
        let bound = [self.client(), number(kind).into(), place.into(), limit.into()];
        let mut found = self.store.many(WHAT, (sql, &bound), resource).await?;
        if matches!(slice, Slice::Before(_)) {
            found.reverse();
        }
        Ok(found)
    }

    /// Several groups by their place in the order of creation, in that order, each with its members: both as they were at one moment,
    /// which is what one statement sees. Those that are gone are left out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn with_members(&self, groups: &[i64]) -> Result<Vec<(Resource, Vec<Link>)>, StoreError> {
        let mut found: BTreeMap<i64, (Resource, Vec<Link>)> = BTreeMap::new();
        for groups in groups.chunks(LONGEST_LIST) {
            let padded = padded(groups);
            let bound: Vec<Bound<'_>> =
                std::iter::once(self.client()).chain(padded.iter().map(|pk| Bound::Number(**pk))).collect();
            let parts = self.store.many(WHAT, (&listed(SELECT_WITH_MEMBERS, 2, padded.len()), &bound), part).await?;
            let mut members: BTreeMap<i64, Vec<Link>> = BTreeMap::new();
            for part in parts {
                match part {
                    Part::Group(group) => drop(found.insert(group.pk, (*group, Vec::new()))),
                    Part::Member(group, link) => members.entry(group).or_default().push(link),
                }
            }
            for (group, mut links) in members {
                in_order(&mut links);
                if let Some((_, of_group)) = found.get_mut(&group) {
                    *of_group = links;
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// The members of each of these groups, in order.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn members(&self, groups: &[i64]) -> Result<BTreeMap<i64, Vec<Link>>, StoreError> {
        let mut found = self.links(groups, (SELECT_MEMBERS, false)).await?;
        for links in found.values_mut() {
            in_order(links);
        }
        Ok(found)
    }

    /// The groups each of these users is a member of itself, in order.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn groups(&self, users: &[i64]) -> Result<BTreeMap<i64, Vec<Link>>, StoreError> {
        self.links(users, (SELECT_GROUPS, true)).await
    }

    async fn links(
        &self,
        pks: &[i64],
        (sql, of_people): (&'static str, bool),
    ) -> Result<BTreeMap<i64, Vec<Link>>, StoreError> {
        let mut found: BTreeMap<i64, Vec<Link>> = BTreeMap::new();
        for pks in pks.chunks(LONGEST_LIST) {
            let padded = padded(pks);
            let bound: Vec<Bound<'_>> = padded.iter().map(|pk| Bound::Number(**pk)).collect();
            let sql = listed(sql, 1, padded.len());
            // Somebody's groups are few; a group's members need not be.
            let links = match pks {
                [_] if of_people => self.store.few(WHAT, (&sql, &bound), link).await?,
                _ => self.store.many(WHAT, (&sql, &bound), link).await?,
            };
            for (of, link) in links {
                found.entry(of).or_default().push(link);
            }
        }
        Ok(found)
    }

    /// Which of these ids are members of each of these groups.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn members_among(&self, groups: &[i64], ids: &[String]) -> Result<BTreeMap<i64, Vec<Link>>, StoreError> {
        let mut found: BTreeMap<i64, Vec<Link>> = BTreeMap::new();
        for id in ids.iter().filter(|id| storable(id)) {
            for groups in groups.chunks(LONGEST_LIST) {
                let padded = padded(groups);
                let bound: Vec<Bound<'_>> =
                    std::iter::once(id.into()).chain(padded.iter().map(|group| Bound::Number(**group))).collect();
                for (of, link) in self.store.many(WHAT, (&listed(SELECT_MEMBER, 2, padded.len()), &bound), link).await?
                {
                    found.entry(of).or_default().push(link);
                }
            }
        }
        Ok(found)
    }
}

/// How a kind is stored.
fn number(kind: Kind) -> i64 {
    match kind {
        Kind::User => 0,
        Kind::Group => 1,
    }
}

fn kind_of(number: i64) -> Kind {
    if number == 0 { Kind::User } else { Kind::Group }
}

fn resource(row: &dyn Columns) -> Result<Resource, sqlx::Error> {
    Ok(Resource {
        pk: row.the_number(0)?,
        kind: kind_of(row.the_number(1)?),
        id: row.the_text(2)?.into_owned(),
        document: document(&row.the_text(3)?)?,
        version: row.the_number(4)?,
        created: row.the_number(5)?,
        modified: row.the_number(6)?,
        active: row.the_number(7)? != 0,
        grouped: true,
    })
}

/// A row of groups and their members.
enum Part {
    Group(Box<Resource>),
    /// Of this group.
    Member(i64, Link),
}

fn part(row: &dyn Columns) -> Result<Part, sqlx::Error> {
    // Only a group has a document here.
    Ok(if row.text(3)?.is_some() {
        Part::Group(Box::new(resource(row)?))
    } else {
        let id = row.the_text(2)?.into_owned();
        Part::Member(row.the_number(0)?, Link { id, kind: row.number(1)?.map(kind_of), display: None })
    })
}

/// A resource that was looked for by itself: whether it is in a group is told along with it.
fn one(row: &dyn Columns) -> Result<Resource, sqlx::Error> {
    Ok(Resource { grouped: row.the_number(8)? != 0, ..resource(row)? })
}

fn document<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn first_number(row: &dyn Columns) -> Result<i64, sqlx::Error> {
    row.the_number(0)
}

fn link(row: &dyn Columns) -> Result<(i64, Link), sqlx::Error> {
    let display = row.text(3)?.map(|text| display(&text)).transpose()?.flatten();
    let id = row.the_text(1)?.into_owned();
    Ok((row.the_number(0)?, Link { id, kind: row.number(2)?.map(kind_of), display }))
}

/// Puts members in an order that does not depend on the database.
fn in_order(members: &mut [Link]) {
    members.sort_unstable_by(|one, other| one.id.cmp(&other.id));
}

/// A group's name, without reading the rest of its document.
fn display(text: &str) -> Result<Option<String>, sqlx::Error> {
    #[derive(serde::Deserialize)]
    struct Names {
        #[serde(rename = "displayName")]
        display: Option<String>,
    }
    document::<Names>(text).map(|names| names.display)
}

/// Whether a text can be in a column: `PostgreSQL` takes no NUL, so nothing that is kept has one, and nobody is found by one.
fn storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Longest list in one statement.
const LONGEST_LIST: usize = 500;

/// Lists come in three lengths, the last entry repeated: each length is a statement that the database keeps prepared.
fn padded<T>(items: &[T]) -> Vec<&T> {
    let length = [1, 20, LONGEST_LIST].into_iter().find(|length| *length >= items.len()).unwrap_or(items.len());
    let mut padded: Vec<&T> = items.iter().collect();
    if let Some(last) = items.last() {
        padded.resize(length, last);
    }
    padded
}

/// The statement with `{}` replaced by so many parameters, the first of them `$first`.
fn listed(sql: &str, first: usize, count: usize) -> String {
    let list: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    sql.replace("{}", &list.join(", "))
}

pub(super) fn statements(backend: &super::Backend) -> Vec<String> {
    let mut statements: Vec<String> = QUERIES.iter().map(|sql| (*sql).to_owned()).collect();
    let lists = [(SELECT_MEMBERS, 1), (SELECT_WITH_MEMBERS, 2), (SELECT_GROUPS, 1), (SELECT_AT, 2), (SELECT_MEMBER, 2)];
    for (sql, first) in lists {
        statements.extend([1, LONGEST_LIST].map(|count| listed(sql, first, count)));
    }
    statements.extend(addresses::statements());
    statements.extend(members::statements());
    statements.extend(write::statements(backend));
    statements.extend(
        feed::QUERIES.iter().chain(letters::QUERIES).chain(registrations::QUERIES).map(|sql| (*sql).to_owned()),
    );
    statements
}

const QUERIES: &[&str] = &[
    SELECT_BY_ID,
    SELECT_BY_USER_NAME,
    SELECT_USER_BY_EXTERNAL_ID,
    SELECT_GROUPS_BY_EXTERNAL_ID,
    SELECT_BY_DISPLAY_NAME,
    SELECT_BY_ADDRESS,
    SELECT_BY_MEMBER,
    COUNT,
    SELECT_AFTER,
    SELECT_BEFORE,
    SELECT_OFFSET,
];

// By `pk`, however many: by `client` it would be everybody, and `SQLite` takes the shorter condition for the better one.
const SELECT_AT: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client || '' = $1 AND pk IN ({}) AND deleted_at IS NULL";
/// A resource that is looked for by itself, and whether it is in a group.
macro_rules! select_one {
    ($where:literal) => {
        concat!(
            "SELECT pk, kind, id, doc, version, created, modified, active, (SELECT COUNT(*) FROM (SELECT 1 FROM scim_members \
             WHERE member_id = scim_resources.id LIMIT 1) AS some_members) FROM scim_resources \
             WHERE client = $1 AND kind = $2 AND ",
            $where,
            " AND deleted_at IS NULL"
        )
    };
}
const SELECT_BY_ID: &str = select_one!("id = $3");
const SELECT_BY_USER_NAME: &str = select_one!("user_ci = $3");
// The kind once more, as a number, so that the index of that kind is used.
const SELECT_USER_BY_EXTERNAL_ID: &str = select_one!("kind = 0 AND external_id = $3");
const SELECT_GROUPS_BY_EXTERNAL_ID: &str = concat!(select_one!("kind = 1 AND external_id = $3"), " ORDER BY pk");
const SELECT_BY_DISPLAY_NAME: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND display_ci = $3 AND deleted_at IS NULL ORDER BY pk";
const SELECT_BY_ADDRESS: &str = "SELECT r.pk, r.kind, r.id, r.doc, r.version, r.created, r.modified, r.active FROM scim_resources r \
     WHERE r.client = $1 AND r.kind = $2 AND r.deleted_at IS NULL \
     AND r.pk IN (SELECT resource_pk FROM scim_addresses WHERE address_ci IN ($3, '')) ORDER BY r.pk";
const SELECT_BY_MEMBER: &str = "SELECT g.pk, g.kind, g.id, g.doc, g.version, g.created, g.modified, g.active FROM scim_resources g \
     WHERE g.client = $1 AND g.kind = $2 AND g.deleted_at IS NULL \
     AND g.pk IN (SELECT group_pk FROM scim_members WHERE member_id = $3) ORDER BY g.pk";
const COUNT: &str = "SELECT COUNT(*) FROM scim_resources WHERE client = $1 AND kind = $2 AND deleted_at IS NULL";
const SELECT_AFTER: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND pk > $3 AND deleted_at IS NULL ORDER BY pk LIMIT $4";
const SELECT_BEFORE: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND pk < $3 AND deleted_at IS NULL ORDER BY pk DESC LIMIT $4";
const SELECT_OFFSET: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client = $1 AND kind = $2 AND deleted_at IS NULL ORDER BY pk LIMIT $4 OFFSET $3";
const SELECT_MEMBERS: &str = "SELECT l.group_pk, l.member_id, m.kind, NULL FROM scim_members l \
     JOIN scim_resources g ON g.pk = l.group_pk \
     LEFT JOIN scim_resources m ON m.id = l.member_id AND m.client = g.client AND m.deleted_at IS NULL \
     WHERE l.group_pk IN ({})";
const SELECT_WITH_MEMBERS: &str = "SELECT pk, kind, id, doc, version, created, modified, active FROM scim_resources \
     WHERE client || '' = $1 AND pk IN ({}) AND deleted_at IS NULL \
     UNION ALL SELECT l.group_pk, m.kind, l.member_id, NULL, NULL, NULL, NULL, NULL FROM scim_members l \
     LEFT JOIN scim_resources m ON m.id = l.member_id AND m.client = $1 AND m.deleted_at IS NULL \
     WHERE l.group_pk IN ({})";
const SELECT_GROUPS: &str = "SELECT m.pk, g.id, g.kind, g.doc FROM scim_resources m JOIN scim_members l ON l.member_id = m.id \
     JOIN scim_resources g ON g.pk = l.group_pk AND g.client = m.client WHERE m.pk IN ({}) ORDER BY m.pk, g.pk";
const SELECT_MEMBER: &str = "SELECT l.group_pk, l.member_id, m.kind, NULL FROM scim_members l \
     JOIN scim_resources g ON g.pk = l.group_pk \
     LEFT JOIN scim_resources m ON m.id = l.member_id AND m.client = g.client AND m.deleted_at IS NULL \
     WHERE l.member_id = $1 AND l.group_pk IN ({})";
