//! One whole read: the organisation, its people, and the groups that are wanted with those nested in them (S-3, S-8).
//!
//! What was read before something went wrong is kept and called incomplete; only a read that brought nobody is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::Wanted;
use super::members::{BATCH, Member, Roll, USER, members};
use super::pages::{Page, pages};
use super::person::{Interpretation, Seen};
use super::trouble::{Purpose, Trouble};
use super::wire::{Ask, Wire, is_id};
use crate::bridge::tally::Tally;
use crate::directory::{Alias, GroupKind, RawGroup, Snapshot, User};
use crate::ids::StableId;

const ORGANISATION: Purpose = Purpose { what: "read the organisation", permission: "Organization.Read.All" };
const USERS: Purpose = Purpose { what: "read the users", permission: "User.Read.All" };
const GROUPS: Purpose = Purpose { what: "read the groups", permission: "GroupMember.Read.All" };

/// How often groups are read anew because one of them vanished on the way.
const RESTARTS: u32 = 2;

/// What a read needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub wire: &'a Wire,
    pub how: &'a Interpretation,
    pub wanted: &'a Wanted,
    pub tenant: &'a str,
    pub deadline: Instant,
}

#[derive(Debug, Deserialize)]
struct Organisation {
    #[serde(rename = "displayName", default)]
    name: Option<String>,
}

/// A group in the list of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    #[serde(default)]
    id: Option<String>,
    #[serde(rename = "displayName", default)]
    name: Option<String>,
}

impl Listed {
    /// Its id, and what people call it.
    fn named(self) -> Option<(StableId, String)> {
        let id = self.id.filter(|id| is_id(id))?;
        let name = self.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
        Some((id.into(), name))
    }
}

impl Reading<'_> {
    /// The organisation's name; `None`: it has none or is not shown.
    ///
    /// # Errors
    /// When it cannot be asked for; a missing permission is told by status 403.
    pub async fn organisation(&self) -> Result<Option<String>, Trouble> {
        let ask = self.wire.ask(ORGANISATION, "organization?$select=id,displayName")?;
        let page: Page<Organisation> = self.wire.json(&ask, self.deadline).await?;
        let name = page.value.into_iter().find_map(|organisation| organisation.name);
        Ok(name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()))
    }

    /// The request for the first page of people.
    ///
    /// # Errors
    /// Where that is no URL.
    pub fn users(&self) -> Result<Ask, Trouble> {
        self.wire.ask(USERS, &format!("users?$select={}&$top=999", self.how.select))
    }

    /// All groups there are, by id.
    ///
    /// # Errors
    /// When the list cannot be read to its end.
    pub async fn groups(&self) -> Result<BTreeMap<StableId, String>, Trouble> {
        let mut known = BTreeMap::new();
        let ask = self.wire.ask(GROUPS, "groups?$select=id,displayName&$top=999")?;
        let mut take = |page: Vec<Listed>| known.extend(page.into_iter().filter_map(Listed::named));
        pages(self.wire, ask, self.deadline, &mut take).await?;
        Ok(known)
    }

    /// Which of these groups the configuration names.
    pub fn chosen<'a>(&self, known: &'a BTreeMap<StableId, String>) -> impl Iterator<Item = &'a StableId> {
        let names = &self.wanted.groups;
        known.iter().filter(|(id, name)| names.contains(id.as_str()) || names.contains(*name)).map(|(id, _)| id)
    }
}

/// People as they come in, with what is odd about them.
#[derive(Debug, Default)]
pub struct People {
    pub users: Vec<Arc<User>>,
    pub unnamed: Vec<StableId>,
    pub guests: BTreeSet<StableId>,
    pub nameless: Tally,
    /// Who do not say whether they are enabled.
    pub unmarked: usize,
    pub odd: usize,
}

impl People {
    /// Takes in a page.
    pub fn take(&mut self, how: &Interpretation, page: &[Map<String, Value>]) {
        for object in page {
            match how.read(object) {
                Seen::Person { user, marked } => {
                    self.unmarked += usize::from(!marked);
                    self.users.push(Arc::new(user));
                }
                Seen::Unnamed(id, why) => {
                    self.nameless.add(|| format!("{id}: {}", crate::bridge::tally::hide_addresses(&why.to_string())));
                    self.unnamed.push(id);
                }
                Seen::Guest(id) => {
                    self.guests.insert(id);
                }
                Seen::Odd => self.odd += 1,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Gathered {
    organisation: Option<String>,
    people: People,
    groups: Vec<RawGroup>,
    /// Members without an id, and people among them who are not among the users.
    unreadable: usize,
    strangers: Tally,
    flaws: Vec<String>,
}

/// Reads everything that is wanted. `followed` are groups that were wanted before, and will be again.
///
/// # Errors
/// When nobody could be read.
pub async fn read(reading: &Reading<'_>, followed: &mut BTreeSet<StableId>) -> Result<Snapshot, Trouble> {
    let mut gathered = Gathered::default();
    let ended = timeout_at(reading.deadline, gathered.gather(reading, followed)).await;
    let late = |_| Err(Trouble::odd(&reading.wire.attempt(USERS), "the whole read took longer than read_timeout"));
    if let Err(trouble) = ended.unwrap_or_else(late) {
        if gathered.people.users.is_empty() {
            return Err(trouble);
        }
        gathered.flaws.push(format!("{}: {}", trouble.attempted, trouble.cause));
    }
    Ok(gathered.into_snapshot(reading))
}

impl Gathered {
    async fn gather(&mut self, reading: &Reading<'_>, followed: &mut BTreeSet<StableId>) -> Result<(), Trouble> {
        self.organisation = match reading.organisation().await {
            // Its name is all that is wanted of it.
            Err(Trouble { status: Some(403), .. }) => None,
            other => other?,
        };
        let people = &mut self.people;
        let mut take = |page: Vec<Map<String, Value>>| people.take(reading.how, &page);
        pages(reading.wire, reading.users()?, reading.deadline, &mut take).await?;
        if reading.wanted.groups.is_empty() {
            return Ok(());
        }
        let users: BTreeSet<StableId> = self.people.users.iter().map(|user| user.id.clone()).collect();
        for _ in 0..=RESTARTS {
            self.groups.clear();
            (self.unreadable, self.strangers) = (0, Tally::default());
            let known = reading.groups().await?;
            followed.extend(reading.chosen(&known).cloned());
            if !self.walk(reading, &known, followed, &users).await? {
                return Ok(());
            }
        }
        self.flaws.push("groups vanish while their members are read, time and again".to_owned());
        Ok(())
    }

    /// Members of the groups that are wanted, then of those nested in them, and so on. `true`: a group has vanished meanwhile.
    async fn walk(
        &mut self,
        reading: &Reading<'_>,
        known: &BTreeMap<StableId, String>,
        followed: &BTreeSet<StableId>,
        users: &BTreeSet<StableId>,
    ) -> Result<bool, Trouble> {
        let mut flaws = Vec::new();
        let mut wave: Vec<StableId> = followed.iter().filter(|id| known.contains_key(*id)).cloned().collect();
        let mut reached: BTreeSet<StableId> = wave.iter().cloned().collect();
        while !wave.is_empty() {
            let mut next = Vec::new();
            for batch in wave.chunks(BATCH) {
                for roll in members(reading.wire, batch, reading.deadline).await? {
                    if roll.has_vanished() {
                        return Ok(true);
                    }
                    let name = known.get(&roll.group).cloned().unwrap_or_default();
                    if let Some(trouble) = &roll.trouble {
                        flaws.push(format!("group `{name}` is not whole: {}", trouble.cause));
                        if roll.members.is_empty() {
                            continue;
                        }
                    }
                    let nested = |id: &str| known.get_key_value(id).map(|(id, _)| id.clone());
                    let group = self.group(roll, name, users, nested);
                    next.extend(group.members.iter().filter(|id| known.contains_key(*id)).cloned());
                    self.groups.push(group);
                }
            }
            next.retain(|id| reached.insert(id.clone()));
            wave = next;
        }
        self.flaws.append(&mut flaws);
        Ok(false)
    }

    /// A group with those of its members that usher knows. Devices, contacts and applications are nobody to it.
    fn group(
        &mut self,
        roll: Roll,
        name: String,
        users: &BTreeSet<StableId>,
        nested: impl Fn(&str) -> Option<StableId>,
    ) -> RawGroup {
        let mut members = Vec::with_capacity(roll.members.len());
        for Member { kind, id } in roll.members {
            let Some(id) = id.filter(|id| is_id(id)) else {
                self.unreadable += 1;
                continue;
            };
            // The very copy that stands with the user.
            if let Some(known) = users.get(id.as_str()).cloned().or_else(|| nested(&id)) {
                members.push(known);
            } else if kind.as_deref() == Some(USER) && !self.is_left_out(&id) {
                self.strangers.add(|| id);
            }
        }
        let aliases = vec![Alias::Id(roll.group.to_string()), Alias::Name(name.clone())];
        RawGroup { id: roll.group, kind: GroupKind::Group, name, aliases, parent: None, members }
    }

    /// Somebody who is there and no user.
    fn is_left_out(&self, id: &str) -> bool {
        self.people.guests.contains(id) || self.people.unnamed.iter().any(|unnamed| unnamed.as_str() == id)
    }

    fn into_snapshot(self, reading: &Reading<'_>) -> Snapshot {
        let tenant = reading.tenant.trim().to_ascii_lowercase();
        let suggests_name = self.organisation.is_none();
        let organisation = self.organisation.clone().unwrap_or_else(|| tenant.clone());
        let root = RawGroup {
            id: StableId::from(format!("graph-tenant:{tenant}")),
            kind: GroupKind::Root,
            name: organisation.clone(),
            aliases: Vec::new(),
            parent: None,
            members: self.people.users.iter().map(|user| user.id.clone()).collect(),
        };
        let notices = self.notices();
        let mut snapshot = Snapshot {
            source: format!("Microsoft Graph, tenant {tenant}"),
            organisation: Some(organisation),
            suggests_name,
            users: self.people.users,
            groups: std::iter::once(root).chain(self.groups).collect(),
            notices,
            unnamed: self.people.unnamed,
            ..Snapshot::default()
        };
        let unmarked = self.people.unmarked;
        let unmarked = (unmarked > 0).then(|| {
            format!(
                "{unmarked} users came without accountEnabled, so that nobody knows whether they are disabled; it takes the application \
                 permission {}",
                USERS.permission
            )
        });
        let odd = (self.people.odd > 0).then(|| format!("{} users came without a usable id", self.people.odd));
        for flaw in self.flaws.into_iter().chain(unmarked).chain(odd) {
            snapshot.completeness.flaw(flaw);
        }
        snapshot
    }

    fn notices(&self) -> Vec<String> {
        let people = &self.people;
        let guests = match people.guests.len() {
            0 => None,
            1 => Some("1 guest is left out (`guests: true` takes guests in)".to_owned()),
            many => Some(format!("{many} guests are left out (`guests: true` takes them in)")),
        };
        let unnamed = people.nameless.text(
            "person has no localpart",
            "people have no localpart",
            "; nothing is done for them beyond what is bound to them already",
        );
        let unreadable = (self.unreadable > 0)
            .then(|| format!("{} group members came without an id; they are left out", self.unreadable));
        let strangers = self.strangers.text(
            "group member is a person who is not among the users that were read",
            "group members are people who are not among the users that were read",
            "; they are left out",
        );
        [unnamed, guests, unreadable, strangers].into_iter().flatten().collect()
    }
}
