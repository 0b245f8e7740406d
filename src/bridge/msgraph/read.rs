//! One whole read: the organisation, its people, and the groups that are wanted with those nested in them (S-3, S-8).
//!
//! What was read before something went wrong is kept and called incomplete; only a read that brought nobody is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::Wanted;
use super::members::{BATCH, GROUP, Member, Roll, USER, members};
use super::pages::{Page, pages};
use super::person::{Interpretation, Seen};
use super::trouble::{Purpose, Trouble};
use super::wire::{Ask, Wire, is_id};
use crate::bridge::tally::Tally;
use crate::directory::{Alias, GroupKind, RawGroup, Snapshot, User, nearest};
use crate::ids::StableId;

const ORGANISATION: Purpose = Purpose { what: "read the organisation", permission: "Organization.Read.All" };
const USERS: Purpose = Purpose { what: "read the users", permission: "User.Read.All" };
const GROUPS: Purpose = Purpose { what: "read the groups", permission: "GroupMember.Read.All" };

/// The visibility of groups that show their members to themselves only.
const HIDDEN: &str = "HiddenMembership";
/// What shows them to an app.
const SHOWS_HIDDEN: &str = "Member.Read.Hidden";
/// How often groups are read anew because one of them came or went on the way.
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
struct Listed {
    #[serde(default)]
    id: Option<String>,
    #[serde(rename = "displayName", default)]
    name: Option<String>,
    #[serde(default)]
    visibility: Option<String>,
}

/// What the list of groups says of one.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: String,
    /// To an app without the permission for that its members may look like nobody.
    hides_members: bool,
}

/// The groups of a tenant by id.
pub type Groups = BTreeMap<StableId, Known>;

impl Listed {
    fn known(self) -> Option<(StableId, Known)> {
        let id = self.id.filter(|id| is_id(id))?;
        let name = self.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
        let hides_members = self.visibility.is_some_and(|visibility| visibility.eq_ignore_ascii_case(HIDDEN));
        Some((id.into(), Known { name, hides_members }))
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
    pub async fn groups(&self) -> Result<Groups, Trouble> {
        let mut known = Groups::new();
        let ask = self.wire.ask(GROUPS, "groups?$select=id,displayName,visibility&$top=999")?;
        let mut take = |page: Vec<Listed>| known.extend(page.into_iter().filter_map(Listed::known));
        pages(self.wire, ask, self.deadline, &mut take).await?;
        Ok(known)
    }

    /// Which of these groups the configuration names.
    pub fn chosen<'a>(&self, known: &'a Groups) -> impl Iterator<Item = &'a StableId> {
        known.iter().filter(|(id, group)| self.wanted.names(id, &group.name)).map(|(id, _)| id)
    }

    /// What the configuration names and the tenant has not, each with the name most like it.
    #[must_use]
    pub fn missing(&self, known: &Groups) -> Vec<String> {
        let is_there = |wanted: &str| {
            known.iter().any(|(id, group)| id.as_str().eq_ignore_ascii_case(wanted) || group.name == wanted)
        };
        let missing = self.wanted.groups.iter().filter(|wanted| !is_there(wanted));
        missing.map(|wanted| format!("`{wanted}`{}", hint(wanted, known))).collect()
    }
}

/// ` (is `Managers` meant?)`.
fn hint(wanted: &str, known: &Groups) -> String {
    nearest(wanted, known.values().map(|group| &group.name))
        .map_or_else(String::new, |name| format!(" (is `{name}` meant?)"))
}

/// People as they come in, with what is odd about them.
#[derive(Debug, Default)]
pub struct People {
    pub users: Vec<Arc<User>>,
    pub unnamed: BTreeSet<StableId>,
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
                    self.unnamed.insert(id);
                }
                Seen::Guest(id) => {
                    self.guests.insert(id);
                }
                Seen::Odd => self.odd += 1,
            }
        }
    }
}

/// What a walk through the groups came upon.
#[derive(Debug, Default)]
struct Walk {
    /// What could not be seen.
    flaws: Vec<String>,
    /// What came or went on the way: worth another walk.
    moved: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Gathered {
    organisation: Option<String>,
    people: People,
    groups: Vec<RawGroup>,
    /// Members who are nobody that is known, and might be somebody.
    unreadable: usize,
    /// People who are members and not among the users.
    strangers: Tally,
    /// Groups that the configuration names and nobody has.
    missing: Vec<String>,
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
            // Its name is all that is wanted of it; what is wrong with more than that shows at the users.
            Err(Trouble { status: Some(_), .. }) => None,
            other => other?,
        };
        let people = &mut self.people;
        let mut take = |page: Vec<Map<String, Value>>| people.take(reading.how, &page);
        pages(reading.wire, reading.users()?, reading.deadline, &mut take).await?;
        if reading.wanted.groups.is_empty() {
            return Ok(());
        }
        let users: BTreeSet<StableId> = self.people.users.iter().map(|user| user.id.clone()).collect();
        for restarts in 0..=RESTARTS {
            self.groups.clear();
            (self.unreadable, self.strangers) = (0, Tally::default());
            let known = reading.groups().await?;
            self.missing = reading.missing(&known);
            followed.extend(reading.chosen(&known).cloned());
            let Walk { flaws, moved } = self.walk(reading, &known, followed, &users).await?;
            if moved.is_empty() || restarts == RESTARTS {
                self.flaws.extend(flaws.into_iter().chain(moved));
                break;
            }
        }
        Ok(())
    }

    /// Members of the groups that are wanted, then of those nested in them, and so on.
    async fn walk(
        &mut self,
        reading: &Reading<'_>,
        known: &Groups,
        followed: &BTreeSet<StableId>,
        users: &BTreeSet<StableId>,
    ) -> Result<Walk, Trouble> {
        let mut walk = Walk::default();
        let mut wave: Vec<StableId> = followed.iter().filter(|id| known.contains_key(*id)).cloned().collect();
        let mut reached: BTreeSet<StableId> = wave.iter().cloned().collect();
        while !wave.is_empty() {
            let mut next = Vec::new();
            for batch in wave.chunks(BATCH) {
                for roll in members(reading.wire, batch, reading.deadline).await? {
                    let Some(Known { name, hides_members }) = known.get(&roll.group) else { continue };
                    if roll.has_vanished() {
                        walk.moved.insert(format!("group `{name}` vanishes while its members are read"));
                        continue;
                    }
                    let hides_all =
                        *hides_members && roll.members.is_empty() && !reading.wire.holds(SHOWS_HIDDEN).await;
                    let flaw = match &roll.trouble {
                        Some(trouble) => Some(format!("group `{name}` is not whole: {}", trouble.cause)),
                        None if hides_all => Some(format!(
                            "group `{name}` hides its members and shows none: it takes the application permission {SHOWS_HIDDEN}"
                        )),
                        None => None,
                    };
                    let is_unseen = flaw.is_some() && roll.members.is_empty();
                    walk.flaws.extend(flaw);
                    if is_unseen {
                        continue;
                    }
                    let group = self.group(roll, reading, (known, users), &mut walk);
                    next.extend(group.members.iter().filter(|id| known.contains_key(*id)).cloned());
                    self.groups.push(group);
                }
            }
            next.retain(|id| reached.insert(id.clone()));
            wave = next;
        }
        Ok(walk)
    }

    /// A group with those of its members that usher knows. Devices, contacts and applications are nobody to it.
    fn group(
        &mut self,
        roll: Roll,
        reading: &Reading<'_>,
        (known, users): (&Groups, &BTreeSet<StableId>),
        walk: &mut Walk,
    ) -> RawGroup {
        let name = known.get(&roll.group).map(|group| group.name.clone()).unwrap_or_default();
        let mut members = Vec::with_capacity(roll.members.len());
        for Member { kind, id } in roll.members {
            let kind = kind.as_deref();
            let may_be_somebody = kind.is_none_or(|kind| [USER, GROUP].contains(&kind));
            let Some(id) = id.filter(|id| is_id(id)) else {
                self.unreadable += usize::from(may_be_somebody);
                continue;
            };
            // The very copy that stands with the user.
            let copy = users.get(id.as_str()).or_else(|| known.get_key_value(id.as_str()).map(|(id, _)| id));
            match copy {
                Some(copy) => members.push(copy.clone()),
                None if self.is_left_out(&id) => {}
                None if kind == Some(USER) => self.strangers.add(|| id),
                // Made after the groups were listed, or not in the list yet: who is in it is in this group, too.
                None if kind == Some(GROUP) => {
                    walk.moved.insert(format!("group `{name}` has a member group that is not in the list of groups"));
                }
                None => self.unreadable += usize::from(may_be_somebody),
            }
        }
        // As the configuration writes it, too.
        let spelt = reading.wanted.groups.iter().filter(|wanted| wanted.eq_ignore_ascii_case(roll.group.as_str()));
        let ids: BTreeSet<String> = spelt.cloned().chain([roll.group.to_string()]).collect();
        let aliases = ids.into_iter().map(Alias::Id).chain([Alias::Name(name.clone())]).collect();
        RawGroup { id: roll.group, kind: GroupKind::Group, name, aliases, parent: None, members }
    }

    /// Somebody who is there and no user.
    fn is_left_out(&self, id: &str) -> bool {
        self.people.guests.contains(id) || self.people.unnamed.contains(id)
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
            unnamed: self.people.unnamed.into_iter().collect(),
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
        let unreadable = (self.unreadable > 0)
            .then(|| format!("{} group members came without an id or a kind: they may be anybody", self.unreadable));
        for flaw in self.flaws.into_iter().chain(unmarked).chain(odd).chain(unreadable) {
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
        let missing = (!self.missing.is_empty())
            .then(|| format!("no group has this object id or display name: {}", self.missing.join(", ")));
        let strangers = self.strangers.text(
            "group member is a person who is not among the users that were read",
            "group members are people who are not among the users that were read",
            "; they are left out",
        );
        [unnamed, guests, missing, strangers].into_iter().flatten().collect()
    }
}
