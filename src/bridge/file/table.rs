//! Users and groups as YAML or JSON: the form of a recorded [`Snapshot`], with less to write.
//!
//! A group's `id` defaults to its `name`, a user's `localpart` to the mapped `id`; members may be given by user id, localpart, group
//! id or group name, in that order. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::Content;
use crate::bridge::localpart::Mapping;
use crate::config::FileSource;
use crate::directory::{Alias, Completeness, GroupKind, RawGroup, Snapshot, User};
use crate::ids::{Localpart, StableId};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Written by a recording; the file's own path is used instead.
    #[serde(default)]
    #[expect(dead_code, reason = "accepted so that a recorded snapshot can be read back")]
    source: Option<String>,
    #[serde(default)]
    organisation: Option<String>,
    users: Vec<UserRow>,
    #[serde(default)]
    groups: Vec<GroupRow>,
    #[serde(default)]
    completeness: Completeness,
    #[serde(default)]
    notices: Vec<String>,
    #[serde(default)]
    unnamed: Vec<StableId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRow {
    id: StableId,
    localpart: Option<String>,
    display_name: Option<String>,
    #[serde(default)]
    emails: Vec<String>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupRow {
    id: Option<StableId>,
    #[serde(default)]
    kind: GroupKind,
    name: String,
    #[serde(default)]
    aliases: Vec<Alias>,
    parent: Option<StableId>,
    #[serde(default)]
    members: Vec<String>,
}

/// Parses a table.
///
/// # Errors
/// What is wrong, with line and column where the text itself is at fault.
pub fn content(text: &str, source: &FileSource) -> Result<Content, String> {
    let table: Table = if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(text).map_err(|error| with_our_word(error.to_string()))?
    } else {
        serde_yaml::from_str(text).map_err(|error| with_our_word(error.to_string()))?
    };
    let mapping = Mapping::new(None, "id", source.strict_localparts)?;
    let mut notices = table.notices;
    let mut unnamed = table.unnamed;
    let users = users(table.users, &mapping, (&mut notices, &mut unnamed))?;
    let groups = groups(&table.groups, (&users, &unnamed), &mut notices)?;
    let snapshot = Snapshot {
        source: String::new(),
        organisation: table.organisation,
        users,
        groups,
        completeness: table.completeness,
        notices,
        unnamed,
        ..Snapshot::default()
    };
    Ok(Content { snapshot, next_expiry: None })
}

/// What directories call things, in lower case without `_` and `-`, and what they are called here: of several words the one that
/// belongs where it stands.
const OUR_WORDS: [(&[&str], &[&str]); 7] = [
    (&["entryuuid", "objectguid", "nsuniqueid", "ipauniqueid", "externalid"], &["id"]),
    (&["uid", "samaccountname", "userprincipalname", "username", "login"], &["localpart"]),
    (&["cn", "displayname", "commonname", "fullname"], &["display_name", "name"]),
    (&["mail", "mails", "email", "emailaddress", "emailaddresses"], &["emails"]),
    (&["active", "accountenabled"], &["enabled"]),
    (&["member", "uniquemember", "memberuid"], &["members"]),
    (&["o", "organization"], &["organisation"]),
];

/// A parser's complaint about a field it does not know, with the word meant if it is one that directories use.
fn with_our_word(complaint: String) -> String {
    let Some((_, rest)) = complaint.split_once("unknown field `") else { return complaint };
    let Some((written, expected)) = rest.split_once('`') else { return complaint };
    let bare = written.to_lowercase().replace(['_', '-'], "");
    let theirs = OUR_WORDS.iter().find(|(theirs, _)| theirs.contains(&bare.as_str()));
    let ours = theirs.and_then(|(_, ours)| ours.iter().find(|word| expected.contains(&format!("`{word}`"))));
    match ours {
        Some(word) => format!("{complaint}; did you mean `{word}`?"),
        None => complaint,
    }
}

fn users(
    rows: Vec<UserRow>,
    mapping: &Mapping,
    (notices, unnamed): (&mut Vec<String>, &mut Vec<StableId>),
) -> Result<Vec<Arc<User>>, String> {
    let mut seen = BTreeSet::new();
    let mut users = Vec::with_capacity(rows.len());
    for row in rows {
        if !seen.insert(row.id.clone()) {
            return Err(format!("users: two have the id `{}`; an id is one person's", row.id));
        }
        match mapping.map(row.localpart.as_deref().unwrap_or(row.id.as_str())) {
            Ok(localpart) => {
                let (display_name, emails, enabled) = (row.display_name, row.emails, row.enabled);
                users.push(Arc::new(User {
                    id: row.id,
                    localpart: already_mapped(row.localpart, localpart),
                    display_name,
                    emails,
                    enabled,
                }));
            }
            Err(why) => {
                notices.push(format!("user `{}` has no localpart: {why}", row.id));
                unnamed.push(row.id);
            }
        }
    }
    Ok(users)
}

/// A localpart that is one as written stays so: `=` is escaped in names, not in localparts.
fn already_mapped(written: Option<String>, mapped: Localpart) -> Localpart {
    let is_localpart = |text: &String| {
        text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'+' | b'='))
    };
    written.filter(is_localpart).map_or(mapped, Localpart::from)
}

fn groups(
    rows: &[GroupRow],
    (users, unnamed): (&[Arc<User>], &[StableId]),
    notices: &mut Vec<String>,
) -> Result<Vec<RawGroup>, String> {
    let mut ids: BTreeMap<&str, StableId> = BTreeMap::new();
    let mut names: BTreeMap<&str, StableId> = BTreeMap::new();
    let own_ids: Vec<StableId> =
        rows.iter().map(|row| row.id.clone().unwrap_or_else(|| row.name.as_str().into())).collect();
    let mut seen = BTreeSet::new();
    for (row, id) in rows.iter().zip(&own_ids) {
        if !seen.insert(id.clone()) {
            return Err(format!("groups: two have the id `{id}`; give each an `id` of its own"));
        }
        names.insert(&row.name, id.clone());
    }
    for (row, id) in rows.iter().zip(&own_ids) {
        if names.get(row.name.as_str()) != Some(id) {
            // A name that several groups carry names none of them.
            names.remove(row.name.as_str());
        }
    }
    ids.extend(own_ids.iter().map(|id| (id.as_str(), id.clone())));
    // The strongest meaning last: a user's id wins over a localpart, that over a group's id, that over a group's name.
    let mut meanings = names;
    meanings.extend(ids);
    meanings.extend(unnamed.iter().map(|id| (id.as_str(), id.clone())));
    meanings.extend(users.iter().map(|user| (user.localpart.as_str(), user.id.clone())));
    meanings.extend(users.iter().map(|user| (user.id.as_str(), user.id.clone())));
    let mut out = Vec::with_capacity(rows.len());
    for (row, id) in rows.iter().zip(own_ids.iter().cloned()) {
        let mut members = Vec::with_capacity(row.members.len());
        let mut unknown = Vec::new();
        for member in &row.members {
            match meanings.get(member.as_str()) {
                Some(id) => members.push(id.clone()),
                None => unknown.push(format!("`{}`", crate::bridge::ldap::notices::shown(member))),
            }
        }
        if !unknown.is_empty() {
            notices.push(format!("group `{}` lists who is no user or group: {}", row.name, unknown.join(", ")));
        }
        let mut aliases = row.aliases.clone();
        let own_name = Alias::Name(row.name.clone());
        if row.kind == GroupKind::Group && row.name != id.as_str() && !aliases.contains(&own_name) {
            aliases.push(own_name);
        }
        out.push(RawGroup { id, kind: row.kind, name: row.name.clone(), aliases, parent: row.parent.clone(), members });
    }
    Ok(out)
}
