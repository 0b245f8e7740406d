//! What the loop is told of the resources: whether there is news, and all of it as a source's people and groups. Only reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::{Resources, WHAT, kind_of};
use crate::directory::{Alias, Departed, GroupKind, RawGroup, User};
use crate::ids::{Localpart, StableId, Timestamp};
use crate::scim::{Document, Kind};
use crate::store::session::Columns;
use crate::store::{StoreError, damaged};

/// How many changes there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    pub number: i64,
    /// The number that the last deactivation or deletion had.
    pub urgent: i64,
    /// When the last change was made, in milliseconds since the epoch.
    pub changed_at: i64,
}

/// Everything a client provisioned.
#[derive(Clone, Debug, Default)]
pub struct Provisioned {
    pub users: Vec<Arc<User>>,
    pub groups: Vec<RawGroup>,
    /// Places of groups in `groups`, and how many of their members do not exist.
    pub dangling: BTreeMap<usize, usize>,
    /// Who was deleted and has not returned: a deletion is an order (S-51).
    pub departed: Vec<Departed>,
}

/// The people of the last read, by their rows and in the order of these: whoever is as they were then is not kept twice.
#[derive(Debug, Default)]
pub struct Known(Vec<(i64, Arc<User>)>);

/// What the source is called whose people a client provisions.
#[must_use]
pub fn source_name(client: &str) -> String {
    format!("scim {client}")
}

impl Resources {
    /// Whether there is news.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        let read = |row: &dyn Columns| {
            Ok(Revision { number: row.the_number(0)?, urgent: row.the_number(1)?, changed_at: row.the_number(2)? })
        };
        let found = self.store.few(WHAT, (SELECT_REVISION, &[self.client()]), read).await?;
        Ok(found.first().copied().unwrap_or_default())
    }

    /// Whether the loop has done everything that the changes up to this number ask for.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_carried_out(&self, number: i64) -> Result<bool, StoreError> {
        let done = self.store.carried_out(&source_name(&self.client)).await?;
        Ok(done.is_some_and(|done| done >= number))
    }

    /// Other clients that have resources in this database.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn others(&self) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query(SELECT_OTHERS).bind(self.client.as_str());
        let rows = self.store.bounded(WHAT, query.fetch_all(&self.store.pool)).await?;
        rows.iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::from_sqlx(WHAT, &error))
    }

    /// Everything, as people and groups, as it was at one moment: a person read as present must not be read as out of their groups
    /// because they were deleted between two queries. Shares with `known`, the last read, whoever has not changed since.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn provisioned(&self, known: &mut Known) -> Result<Provisioned, StoreError> {
        let mut provisioned = Provisioned::default();
        let mut before = known.0.iter().peekable();
        let mut people: Vec<(i64, Arc<User>)> = Vec::with_capacity(known.0.len());
        let mut positions: BTreeMap<i64, usize> = BTreeMap::new();
        let mut moment = self.store.bounded(WHAT, self.store.moment()).await?;
        let query = sqlx::query(SELECT_ALL).bind(self.client.as_str());
        let mut rows = query.fetch(&mut *moment);
        while let Some(row) = self.store.bounded(WHAT, rows.try_next()).await? {
            let row = Row::read(&row)?;
            let pk = row.pk;
            match row.kind {
                Kind::User => {
                    let Some(user) = row.user() else { continue };
                    while before.next_if(|(earlier, _)| *earlier < pk).is_some() {}
                    let same = before.next_if(|(earlier, known)| *earlier == pk && **known == user);
                    let user = same.map_or_else(|| Arc::new(user), |(_, known)| Arc::clone(known));
                    people.push((pk, user));
                }
                Kind::Group => {
                    let group = row.group();
                    positions.insert(pk, provisioned.groups.len());
                    provisioned.groups.push(group);
                }
            }
        }
        drop(rows);
        let query = sqlx::query(SELECT_LINKS).bind(self.client.as_str());
        let mut rows = query.fetch(&mut *moment);
        while let Some(row) = self.store.bounded(WHAT, rows.try_next()).await? {
            let link = || Ok::<(i64, Option<i64>), sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
            let (group, member) = link().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
            match (positions.get(&group), member) {
                (Some(position), Some(pk)) => {
                    // Groups share the ids of who is in them. Who came meanwhile is in the next read.
                    let person =
                        people.binary_search_by_key(&pk, |(pk, _)| *pk).ok().map(|place| people[place].1.id.clone());
                    let member =
                        person.or_else(|| provisioned.groups.get(*positions.get(&pk)?).map(|group| group.id.clone()));
                    provisioned.groups[*position].members.extend(member);
                }
                (Some(position), None) => *provisioned.dangling.entry(*position).or_default() += 1,
                (None, _) => {}
            }
        }
        drop(rows);
        provisioned.departed = self.departed(&mut moment).await?;
        people.shrink_to_fit();
        provisioned.users = people.iter().map(|(_, user)| Arc::clone(user)).collect();
        *known = Known(people);
        Ok(provisioned)
    }

    async fn departed(&self, moment: &mut AnyConnection) -> Result<Vec<Departed>, StoreError> {
        let query = sqlx::query(SELECT_DEPARTED).bind(self.client.as_str());
        let rows = self.store.bounded(WHAT, query.fetch_all(moment)).await?;
        let person = |row: &AnyRow| -> Result<Departed, sqlx::Error> {
            let (id, localpart): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Departed { id: id.into(), localpart: localpart.into(), since: Timestamp(row.try_get(2)?) })
        };
        rows.iter().map(person).collect::<Result<_, _>>().map_err(|error| StoreError::from_sqlx(WHAT, &error))
    }
}

struct Row {
    pk: i64,
    kind: Kind,
    stable_id: StableId,
    localpart: Option<String>,
    document: Document,
    active: bool,
}

impl Row {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let columns = || -> Result<_, sqlx::Error> {
            let numbers: (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(5)?);
            let texts: (String, Option<String>, String) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            Ok((numbers, texts))
        };
        let ((pk, kind, active), (stable_id, localpart, document)) =
            columns().map_err(|error| StoreError::from_sqlx(WHAT, &error))?;
        let document = serde_json::from_str(&document).map_err(damaged(WHAT))?;
        Ok(Self { pk, kind: kind_of(kind), stable_id: stable_id.into(), localpart, document, active: active != 0 })
    }

    fn user(self) -> Option<User> {
        Some(User {
            id: self.stable_id,
            localpart: Localpart::from(self.localpart?),
            display_name: display_name(&self.document),
            emails: emails(&self.document),
            enabled: self.active,
        })
    }

    /// Named in a configuration by external id, else by display name, else by id (S-63).
    fn group(self) -> RawGroup {
        let text = |name: &str| self.document.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = text("displayName").unwrap_or_default();
        let mut aliases: Vec<Alias> = text("externalId").map(Alias::Id).into_iter().collect();
        aliases.push(Alias::Name(name.clone()));
        RawGroup { id: self.stable_id, kind: GroupKind::Group, name, aliases, parent: None, members: Vec::new() }
    }
}

/// How a person is called: `displayName`, else the name's own form, else its parts, else `userName`.
#[must_use]
pub fn display_name(document: &Document) -> Option<String> {
    let part = |part: &str| shown(document.get("name").and_then(|name| name.get(part)));
    if let Some(name) = shown(document.get("displayName")).or_else(|| part("formatted")) {
        return Some(name.to_owned());
    }
    let parts: Vec<&str> = [part("givenName"), part("familyName")].into_iter().flatten().collect();
    if parts.is_empty() { shown(document.get("userName")).map(str::to_owned) } else { Some(parts.join(" ")) }
}

fn shown(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty() && !text.contains(char::is_control))
}

/// All addresses, the primary one first, in lower case as homeservers keep them. What holds control characters is none.
pub(super) fn emails(document: &Document) -> Vec<String> {
    let given = document.get("emails").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (primary, others): (Vec<&Value>, Vec<&Value>) =
        given.iter().partition(|email| crate::scim::document::is_primary(email));
    let mut emails: Vec<String> = Vec::new();
    for address in primary.into_iter().chain(others).filter_map(|email| email.get("value")?.as_str()) {
        let address = address.trim().to_lowercase();
        if address.contains('@') && !address.contains(char::is_control) && !emails.contains(&address) {
            emails.push(address);
        }
    }
    // Most people have one, and there may be a hundred thousand of them.
    emails.shrink_to_fit();
    emails
}

pub(super) const QUERIES: &[&str] = &[SELECT_REVISION, SELECT_OTHERS, SELECT_ALL, SELECT_DEPARTED, SELECT_LINKS];

const SELECT_REVISION: &str = "SELECT revision, urgent, changed_at FROM scim_clients WHERE client = $1";
const SELECT_OTHERS: &str = "SELECT client FROM scim_clients WHERE client <> $1 ORDER BY client";
pub(super) const SELECT_ALL: &str = "SELECT pk, kind, stable_id, localpart, doc, active FROM scim_resources \
     WHERE client = $1 AND deleted_at IS NULL ORDER BY pk";
const SELECT_DEPARTED: &str = "SELECT stable_id, localpart, deleted_at FROM scim_resources \
     WHERE client = $1 AND kind = 0 AND deleted_at IS NOT NULL AND localpart IS NOT NULL ORDER BY pk";
pub(super) const SELECT_LINKS: &str = "SELECT l.group_pk, m.pk FROM scim_members l JOIN scim_resources g ON g.pk = l.group_pk \
     LEFT JOIN scim_resources m ON m.id = l.member_id AND m.client = g.client AND m.deleted_at IS NULL \
     WHERE g.client = $1 ORDER BY l.group_pk, l.member_id";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::write::{Change, New, Wanted};
    use super::*;
    use crate::store::Store;

    #[test]
    fn people_are_shown_by_the_best_name_there_is() {
        let name = |document: Value| display_name(document.as_object().unwrap());
        let whole = json!({ "userName": "u", "displayName": "D", "name": { "formatted": "F", "givenName": "G" } });
        assert_eq!(name(whole).as_deref(), Some("D"));
        assert_eq!(
            name(json!({ "userName": "u", "displayName": " ", "name": { "formatted": "F" } })).as_deref(),
            Some("F")
        );
        let parts = json!({ "userName": "u", "name": { "givenName": "G", "familyName": "N" } });
        assert_eq!(name(parts).as_deref(), Some("G N"));
        assert_eq!(name(json!({ "userName": "u" })).as_deref(), Some("u"));
    }

    #[test]
    fn the_primary_address_comes_first_and_none_comes_twice() {
        let document = json!({ "emails": [{ "value": "B@x" }, { "value": "A@x", "primary": true }, { "value": "b@X" }, { "value": "no" }, { "value": "c\u{0}@x" }] });
        assert_eq!(emails(document.as_object().unwrap()), ["a@x", "b@x"]);
    }

    #[tokio::test]
    async fn whoever_has_not_changed_since_the_last_read_is_not_kept_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}", folder.path().join("usher.db").display())).await.unwrap();
        let resources = Resources::new(store, "acme");
        let document = |name: &str| json!({ "userName": name, "displayName": name }).as_object().unwrap().clone();
        let make = async |id: &str| {
            let new = New {
                kind: Kind::User,
                id: id.to_owned(),
                document: document(id),
                localpart: Some(id.into()),
                members: Vec::new(),
            };
            resources.create(&new, Wanted::Nothing, 0).await.unwrap();
        };
        for id in ["ann", "ben", "cem"] {
            make(id).await;
        }
        let mut known = Known::default();
        let first = resources.provisioned(&mut known).await.unwrap().users;
        let changed = |_: &_| Ok(Change { document: document("Benedict"), members: Vec::new() });
        resources.change((Kind::User, "ben"), (Wanted::Nothing, 1), &changed).await.unwrap();
        resources.delete((Kind::User, "ann"), 1, &|_| Ok(())).await.unwrap();
        make("dan").await;
        let second = resources.provisioned(&mut known).await.unwrap().users;
        let names: Vec<&str> = second.iter().filter_map(|user| user.display_name.as_deref()).collect();
        assert_eq!(names, ["Benedict", "cem", "dan"]);
        assert!(Arc::ptr_eq(&first[2], &second[1]), "cem is as before");
        let third = resources.provisioned(&mut known).await.unwrap().users;
        assert!(second.iter().zip(&third).all(|(before, now)| Arc::ptr_eq(before, now)) && third.len() == 3);
    }
}
