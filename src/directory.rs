//! What the directory says (S-1 to S-6): a bridge's [`Snapshot`], flattened into a [`Directory`].
//!
//! Pure. Never decides what Matrix should look like; that is `desired`.

pub mod dn;
mod flatten;
pub mod roll;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::flatten::nearest;
use crate::ids::{Localpart, StableId, Timestamp};

/// What a bridge hands over: entries as the source has them, groups not yet flattened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Source and place, for people: `ldap ou=people,dc=example,dc=org`. No secrets.
    pub source: String,
    /// Name of the organisation, for mirror mode (S-15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    /// Shared: who has not changed from one read to the next need not be kept twice.
    pub users: Vec<Arc<User>>,
    #[serde(default)]
    pub groups: Vec<RawGroup>,
    #[serde(default)]
    pub completeness: Completeness,
    /// What an operator should know: skipped entries, dangling members, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// People who are there but from whose entry no localpart can be made; an existing binding stands (S-100).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed: Vec<StableId>,
    /// People whom the source itself ordered out (S-51): gone at once, no absence to confirm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departed: Vec<Departed>,
    /// Which state of the source this is, where it counts them: a larger number is a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The organisation's name is what its space is called at first, and people may call it otherwise (S-15).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suggests_name: bool,
    /// What people are called now whose accounts were found by another name, or go by an earlier one, where accounts are found by their
    /// external ids (S-5). Their [`User::localpart`] is the account's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub renamed: BTreeMap<StableId, Localpart>,
    /// Change stamps of people's entries, where photos are wanted and the source has any (S-50).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stamps: BTreeMap<StableId, Stamp>,
}

/// What a source writes on an entry whenever it changes: another one means that the entry may be another. Compared, never read.
pub type Stamp = Arc<str>;

/// Somebody whom the source ordered out, as a SCIM client does with DELETE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    pub id: StableId,
    pub localpart: Localpart,
    pub since: Timestamp,
}

/// Whether the whole of the source was seen (S-3). From an incomplete read usher adds, never removes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completeness {
    /// Every page arrived, nothing was cut short.
    #[default]
    Complete,
    /// What was missing.
    Incomplete(Vec<String>),
}

impl Completeness {
    /// Whether removals may be derived from this read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// Adds a reason why the read is not complete.
    pub fn flaw(&mut self, reason: impl Into<String>) {
        match self {
            Self::Complete => *self = Self::Incomplete(vec![reason.into()]),
            Self::Incomplete(reasons) => reasons.push(reason.into()),
        }
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: StableId,
    pub localpart: Localpart,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<String>,
    /// `false` only on an explicit mark (S-4).
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands over a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// What kind of container a group is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// The base of the search, or the organisation: everybody in it.
    Root,
    /// An OU or domain: members are the entries below it, and mirror mode makes it a space.
    Container,
    /// A group that lists its members.
    #[default]
    Group,
}

/// A group or container as the source has it: direct members only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawGroup {
    pub id: StableId,
    #[serde(default)]
    pub kind: GroupKind,
    pub name: String,
    /// Names a configuration may call it by, besides its id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
    /// The container above a container (mirror mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<StableId>,
    /// Users and groups, by stable id. Ids that are neither are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<StableId>,
}

/// A name a group goes by (S-6, S-63).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// A distinguished name in normal form ([`dn::normalise`]).
    Dn(String),
    /// An opaque id compared as written (Graph object id, SCIM externalId).
    Id(String),
    /// A name that need not be unique (LDAP CN, display name). Looked at last; ambiguity is an error (S-6).
    Name(String),
}

/// One source's flattened result: users, groups, group → all its users, with its completeness.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub source: String,
    pub organisation: Option<String>,
    pub users: BTreeMap<StableId, Arc<User>>,
    pub groups: BTreeMap<StableId, Group>,
    pub completeness: Completeness,
    pub notices: Vec<String>,
    /// People who are there without a usable name: neither absent nor changed (S-100).
    pub unnamed: BTreeSet<StableId>,
    /// People whom the source itself ordered out (S-51).
    pub departed: BTreeMap<StableId, Departed>,
    /// Which state of the source this is, where it counts them.
    pub revision: Option<i64>,
    /// The organisation's name is a suggestion (S-15).
    pub suggests_name: bool,
    /// What people are called now whose account has another name that was found by their external id (S-5).
    pub renamed: BTreeMap<StableId, Localpart>,
    /// Change stamps of people's entries, where photos are wanted and the source has any (S-50).
    pub stamps: BTreeMap<StableId, Stamp>,
    /// Localparts claimed by several users: nothing is done to or because of them beyond existing bindings (S-5).
    pub conflicts: BTreeMap<Localpart, Vec<StableId>>,
    names: BTreeMap<Alias, BTreeSet<StableId>>,
}

/// A flattened group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: StableId,
    pub kind: GroupKind,
    pub name: String,
    pub parent: Option<StableId>,
    /// Every user through any depth of nesting, sorted, once each.
    pub users: Vec<StableId>,
    /// Where those stand in [`Directory::users`], in the same order: who they are is told by a number, not by looking texts up.
    pub places: Vec<u32>,
}

/// What a configured external id means in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// `''`, or the base itself: every enabled user (S-2).
    Everyone,
    Group(&'a Group),
    /// A name that several groups carry; the ids name them all.
    Ambiguous(Vec<&'a Group>),
    /// Nothing by that name; the nearest name there is, if one is near (S-23).
    Missing {
        nearest: Option<String>,
    },
}
