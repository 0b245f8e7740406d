//! Entries become a [`Snapshot`]: people, the containers above them, and the groups that list them (S-6).
//!
//! Entries are handed in in this order: the base, containers, people, groups. Each is digested at once and dropped, so that a read
//! of any size keeps only what the snapshot needs. Pure. Never asks a server; whether the read was complete is the caller's to say.

use std::collections::BTreeMap;

use crate::directory::{Alias, Completeness, GroupKind, RawGroup, Snapshot, User, dn};
use crate::ids::{StableId, Timestamp};

use super::entry::Entry;
use super::notices::Notices;
use super::person::{Interpretation, Person, stable_id};

/// Classes of containers, in lower case.
pub const CONTAINER_CLASSES: [&str; 5] = ["organizationalunit", "organization", "domain", "dcobject", "domaindns"];

/// Classes of groups, in lower case.
pub const GROUP_CLASSES: [&str; 5] = ["group", "groupofnames", "groupofuniquenames", "posixgroup", "groupofmembers"];

/// Attributes that list members, in lower case. The first two hold DNs, the last one uids.
pub const MEMBER_ATTRIBUTES: [&str; 3] = ["member", "uniquemember", "memberuid"];

/// What is known of an entry by its DN.
#[derive(Clone, Debug)]
enum Place {
    Person(StableId),
    /// An index into the groups.
    Group(usize),
    Container(usize),
}

/// Entries digested so far.
#[derive(Debug)]
pub struct Tree<'a> {
    how: &'a Interpretation,
    now: Timestamp,
    base: String,
    users: Vec<User>,
    unnamed: Vec<StableId>,
    groups: Vec<RawGroup>,
    by_dn: BTreeMap<Box<str>, Place>,
    /// `None`: several people carry this uid.
    by_uid: BTreeMap<Box<str>, Option<StableId>>,
    /// People by the SID of their primary group.
    by_primary_group: BTreeMap<Vec<u8>, Vec<StableId>>,
    /// Members that are not people: groups perhaps, which may come later.
    pending: Vec<(usize, Box<str>)>,
    notices: Notices,
    next_expiry: Option<Timestamp>,
}

/// The index of a group in a [`Tree`], for members that follow later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSlot(usize);

/// A finished tree.
#[derive(Debug)]
pub struct Grown {
    /// Without `source` and flaws, which are the reader's to add.
    pub snapshot: Snapshot,
    /// When the first account expires by itself: the snapshot is outdated then without any change at the source.
    pub next_expiry: Option<Timestamp>,
}

impl<'a> Tree<'a> {
    /// A tree below `base` (in normal form), with the base's own entry if it could be read.
    #[must_use]
    pub fn new(how: &'a Interpretation, now: Timestamp, base: &str, base_entry: Option<&Entry>) -> Self {
        let mut notices = Notices::default();
        let id = match base_entry.map(|entry| (entry, stable_id(entry))) {
            Some((_, Some(id))) => id,
            Some((entry, None)) => {
                notices.without_id(&entry.dn);
                StableId::from(base)
            }
            None => StableId::from(base),
        };
        let own_name = base_entry.map_or_else(|| base.to_owned(), |entry| entry.dn.clone());
        let name = base_entry.and_then(|entry| entry.text("o")).unwrap_or_else(|| rdn_value(&own_name));
        let root = RawGroup {
            id,
            kind: GroupKind::Root,
            name,
            aliases: vec![Alias::Dn(base.to_owned())],
            parent: None,
            members: Vec::new(),
        };
        Self {
            how,
            now,
            base: base.to_owned(),
            users: Vec::new(),
            unnamed: Vec::new(),
            groups: vec![root],
            by_dn: BTreeMap::from([(Box::from(base), Place::Container(0))]),
            by_uid: BTreeMap::new(),
            by_primary_group: BTreeMap::new(),
            pending: Vec::new(),
            notices,
            next_expiry: None,
        }
    }

    /// People taken in so far.
    #[must_use]
    pub fn people(&self) -> usize {
        self.users.len() + self.unnamed.len()
    }

    /// Groups and containers taken in so far, the base not counted.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len() - 1
    }

    /// An OU, domain or organization. Parents are linked when all are there.
    pub fn container(&mut self, entry: &Entry) {
        let Some(place) = self.new_place(entry) else { return };
        let id = self.id_of(entry, &place);
        self.by_dn.insert(place.as_str().into(), Place::Container(self.groups.len()));
        self.groups.push(RawGroup {
            id,
            kind: GroupKind::Container,
            name: rdn_value(&entry.dn),
            aliases: vec![Alias::Dn(place)],
            parent: None,
            members: Vec::new(),
        });
    }

    /// A person, if S-100 says so.
    pub fn person(&mut self, entry: &Entry) {
        if !self.how.is_person(entry) {
            if !self.how.by_class {
                self.notices.without_uid(&entry.dn);
            }
            return;
        }
        let Some(place) = self.new_place(entry) else { return };
        let id = self.id_of(entry, &place);
        let person = Person::read(entry, self.how, self.now);
        self.next_expiry = self.next_expiry.into_iter().chain(person.expires).min();
        for uid in entry.texts(&self.how.uid).chain(entry.texts("uid")) {
            let other = self.by_uid.get(uid.to_lowercase().as_str()).is_some_and(|known| known.as_ref() != Some(&id));
            self.by_uid.insert(uid.to_lowercase().into(), (!other).then(|| id.clone()));
        }
        if let Some(sid) = primary_group_sid(entry) {
            self.by_primary_group.entry(sid).or_default().push(id.clone());
        }
        let home = self.container_above(&place);
        self.groups[home].members.push(id.clone());
        self.by_dn.insert(place.into(), Place::Person(id.clone()));
        match person.into_user(id.clone()) {
            Ok(user) => self.users.push(user),
            Err(why) => {
                self.notices.unnamed(&entry.dn, &why);
                self.unnamed.push(id);
            }
        }
    }

    /// A group with the members its entry lists; `None` if it is taken for something else already.
    pub fn group(&mut self, entry: &Entry) -> Option<GroupSlot> {
        if self.how.groups_by_class && !entry.is_of(&GROUP_CLASSES) {
            return None;
        }
        let place = self.new_place(entry)?;
        let id = self.id_of(entry, &place);
        let slot = GroupSlot(self.groups.len());
        self.by_dn.insert(place.as_str().into(), Place::Group(slot.0));
        let mut aliases = vec![Alias::Dn(place)];
        aliases.extend(entry.texts("cn").map(|name| Alias::Name(name.to_owned())));
        let name = entry.text("cn").unwrap_or_else(|| rdn_value(&entry.dn));
        let members = entry.values("objectsid").next().and_then(|sid| self.by_primary_group.remove(sid));
        let members = members.unwrap_or_default();
        self.groups.push(RawGroup { id, kind: GroupKind::Group, name, aliases, parent: None, members });
        for attribute in MEMBER_ATTRIBUTES {
            self.members(slot, attribute, entry);
        }
        Some(slot)
    }

    /// Members under `attribute` of `entry`, which may be a later part of the group's own.
    pub fn members(&mut self, slot: GroupSlot, attribute: &str, entry: &Entry) {
        for value in entry.values(attribute) {
            let Ok(text) = std::str::from_utf8(value) else {
                self.notices.dangling("a member that is not text");
                continue;
            };
            // Some servers insist on one member; the empty DN is how an empty group is written there.
            if text.is_empty() {
                continue;
            }
            if attribute == "memberuid" {
                self.member_by_uid(slot, text);
            } else {
                self.member_by_dn(slot, if attribute == "uniquemember" { without_bits(text) } else { text });
            }
        }
    }

    fn member_by_uid(&mut self, slot: GroupSlot, uid: &str) {
        match self.by_uid.get(uid.to_lowercase().as_str()) {
            Some(Some(id)) => self.groups[slot.0].members.push(id.clone()),
            Some(None) | None => self.notices.dangling(uid),
        }
    }

    fn member_by_dn(&mut self, slot: GroupSlot, written: &str) {
        let Some(place) = dn::normalise(written) else {
            self.notices.dangling(written);
            return;
        };
        if let Some(Place::Person(id)) = self.by_dn.get(place.as_str()) {
            self.groups[slot.0].members.push(id.clone());
        } else if dn::is_within(&place, &self.base) {
            self.pending.push((slot.0, place.into()));
        } else {
            self.notices.outside(written);
        }
    }

    /// An entry's DN in normal form, unless it is outside the base, no DN, or known already.
    fn new_place(&mut self, entry: &Entry) -> Option<String> {
        let Some(place) = dn::normalise(&entry.dn).filter(|place| dn::is_within(place, &self.base)) else {
            self.notices.entry_outside(&entry.dn);
            return None;
        };
        (!self.by_dn.contains_key(place.as_str())).then_some(place)
    }

    fn id_of(&mut self, entry: &Entry, place: &str) -> StableId {
        stable_id(entry).unwrap_or_else(|| {
            self.notices.without_id(&entry.dn);
            StableId::from(place)
        })
    }

    /// The nearest container above a place; the base at the latest.
    fn container_above(&self, place: &str) -> usize {
        let mut above = dn::parent(place);
        while let Some(candidate) = above {
            if let Some(Place::Container(index)) = self.by_dn.get(candidate) {
                return *index;
            }
            above = dn::parent(candidate);
        }
        0
    }

    /// Links what had to wait for all entries, and hands over the result.
    #[must_use]
    pub fn finish(mut self) -> Grown {
        self.link_containers();
        for (slot, place) in std::mem::take(&mut self.pending) {
            match self.by_dn.get(&place) {
                Some(Place::Person(id)) => self.groups[slot].members.push(id.clone()),
                Some(Place::Group(member)) => {
                    let id = self.groups[*member].id.clone();
                    self.groups[slot].members.push(id);
                }
                Some(Place::Container(_)) | None => self.notices.dangling(&place),
            }
        }
        for group in &mut self.groups {
            group.members.sort_unstable();
            group.members.dedup();
            group.members.shrink_to_fit();
        }
        self.users.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let mut completeness = Completeness::Complete;
        let before = self.users.len();
        self.users.dedup_by(|one, other| one.id == other.id);
        if self.users.len() < before {
            let twice = before - self.users.len();
            completeness.flaw(format!("{twice} entries were seen in two places: they were moved during the read"));
        }
        self.users.shrink_to_fit();
        self.unnamed.sort_unstable();
        let organisation = self.groups.first().map(|root| root.name.clone());
        let snapshot = Snapshot {
            source: String::new(),
            organisation,
            users: self.users,
            groups: self.groups,
            completeness,
            notices: self.notices.into_texts(&self.how.uid),
            unnamed: self.unnamed,
        };
        Grown { snapshot, next_expiry: self.next_expiry }
    }

    fn link_containers(&mut self) {
        for index in 1..self.groups.len() {
            let group = &self.groups[index];
            let (GroupKind::Container, Some(Alias::Dn(place))) = (group.kind, group.aliases.first()) else { continue };
            let above = self.container_above(place);
            let id = group.id.clone();
            self.groups[index].parent = Some(self.groups[above].id.clone());
            self.groups[above].members.push(id);
        }
    }
}

/// The first value of a DN's first RDN, as written.
fn rdn_value(dn: &str) -> String {
    let first = dn::parse(dn).and_then(|rdns| rdns.into_iter().next()).and_then(|rdn| rdn.into_iter().next());
    first.map_or_else(|| dn.to_owned(), |pair| String::from_utf8_lossy(&pair.value).into_owned())
}

/// A uniqueMember without the bit string that may follow its DN: `cn=x,dc=org#'0101'B`.
fn without_bits(value: &str) -> &str {
    match value.rsplit_once("#'") {
        Some((dn, bits))
            if bits.ends_with("'B") && bits[..bits.len() - 2].bytes().all(|bit| matches!(bit, b'0' | b'1')) =>
        {
            dn
        }
        Some(_) | None => value,
    }
}

/// SID of a person's primary group on Active Directory: their own domain's, with the number in `primaryGroupID` last.
fn primary_group_sid(entry: &Entry) -> Option<Vec<u8>> {
    let number: u32 = entry.text("primarygroupid")?.trim().parse().ok()?;
    let own = entry.values("objectsid").next()?;
    let domain = own.get(..own.len().checked_sub(4)?)?;
    Some([domain, &number.to_le_bytes()].concat())
}
