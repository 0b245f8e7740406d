//! Entries become a [`Snapshot`]: people, the containers above them, and the groups that list them (S-6).
//!
//! Entries are handed in in this order: the base, containers, people, groups. Each is digested at once and dropped, so that a read
//! of any size keeps only what the snapshot needs; until the end a member is the number of its DN in a [`Roll`].
//! Pure. Never asks a server; whether the read was complete is the caller's to say.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::directory::dn::{self, Normaliser};
use crate::directory::roll::Roll;
use crate::directory::{Alias, Completeness, GroupKind, RawGroup, Snapshot, Stamp, User};
use crate::ids::{StableId, Timestamp};

use super::entry::Entry;
use super::notices::Notices;
use super::order::{self, Order};
use super::person::{Interpretation, Person, stable_id};
use super::photos;

/// Classes of containers, in lower case.
pub const CONTAINER_CLASSES: [&str; 5] = ["organizationalunit", "organization", "domain", "dcobject", "domaindns"];

/// Classes of groups, in lower case.
pub const GROUP_CLASSES: [&str; 5] = ["group", "groupofnames", "groupofuniquenames", "posixgroup", "groupofmembers"];

/// Attributes that list members, in lower case. The first two hold DNs, the last one uids.
pub const MEMBER_ATTRIBUTES: [&str; 3] = ["member", "uniquemember", "memberuid"];

/// What is at a DN that was mentioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing that was read: a member that dangles, unless its entry comes later.
    Unseen,
    /// An index into the people.
    Person(usize),
    /// An index into the groups, as the next one.
    Group(usize),
    Container(usize),
}

/// A group or container and the places of its members.
#[derive(Debug)]
struct Gathering {
    group: RawGroup,
    members: Vec<usize>,
}

/// Entries digested so far.
#[derive(Debug)]
pub struct Tree<'a> {
    how: &'a Interpretation,
    now: Timestamp,
    base: String,
    users: Vec<Arc<User>>,
    unnamed: Vec<StableId>,
    people: Vec<StableId>,
    groups: Vec<Gathering>,
    /// Every DN that was mentioned, in normal form, and what is there by the same number.
    dns: Roll,
    places: Vec<Place>,
    normaliser: Normaliser,
    /// Every uid of a person, folded, and whose place that is; `None`: several people carry it.
    uids: Roll,
    by_uid: Vec<Option<usize>>,
    /// Places of people by the SID of their primary group.
    by_primary_group: BTreeMap<Vec<u8>, Vec<usize>>,
    /// Where the last person was, and the container above: most have many neighbours.
    last_home: (String, usize),
    dangling: Vec<u64>,
    notices: Notices,
    next_expiry: Option<Timestamp>,
    stamps: BTreeMap<StableId, Stamp>,
    entries: BTreeMap<StableId, String>,
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
    /// Members inside the base that are nobody who was read, as digests, sorted.
    pub dangling: Vec<u64>,
    /// The DNs of people whose photo may be looked at; of nobody where photos are not wanted.
    pub entries: BTreeMap<StableId, String>,
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
        let mut dns = Roll::default();
        dns.enter(base);
        Self {
            how,
            now,
            base: base.to_owned(),
            users: Vec::new(),
            unnamed: Vec::new(),
            people: Vec::new(),
            groups: vec![Gathering { group: root, members: Vec::new() }],
            dns,
            places: vec![Place::Container(0)],
            normaliser: Normaliser::default(),
            uids: Roll::default(),
            by_uid: Vec::new(),
            by_primary_group: BTreeMap::new(),
            last_home: (base.to_owned(), 0),
            dangling: Vec::new(),
            notices,
            next_expiry: None,
            stamps: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    /// People taken in so far.
    #[must_use]
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// Groups and containers taken in so far, the base not counted.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len() - 1
    }

    /// An OU, domain or organization. Parents are linked when all are there.
    pub fn container(&mut self, entry: &Entry) {
        let Some(place) = self.new_place(entry) else { return };
        self.places[place] = Place::Container(self.groups.len());
        let group = RawGroup {
            id: self.id_of(entry, place),
            kind: GroupKind::Container,
            name: rdn_value(&entry.dn),
            aliases: vec![Alias::Dn(self.dns.text(place).to_owned())],
            parent: None,
            members: Vec::new(),
        };
        self.groups.push(Gathering { group, members: Vec::new() });
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
        let id = self.id_of(entry, place);
        let person = Person::read(entry, self.how, self.now);
        self.next_expiry = self.next_expiry.into_iter().chain(person.expires).min();
        let how = self.how;
        for uid in entry.texts(&how.uid) {
            self.note_uid(uid, place, &id);
        }
        if how.uid != "uid" {
            for uid in entry.texts("uid") {
                self.note_uid(uid, place, &id);
            }
        }
        if let Some(sid) = primary_group_sid(entry) {
            self.by_primary_group.entry(sid).or_default().push(place);
        }
        let home = self.home_of(place);
        self.groups[home].members.push(place);
        self.places[place] = Place::Person(self.people.len());
        self.people.push(id.clone());
        self.note_stamp(entry, &id);
        match person.into_user(id.clone()) {
            Ok(user) => self.users.push(Arc::new(user)),
            Err(why) => {
                self.notices.unnamed(&entry.dn, &why);
                self.unnamed.push(id);
            }
        }
    }

    /// Keeps what tells whether somebody's photo is to be looked at, and where.
    fn note_stamp(&mut self, entry: &Entry, id: &StableId) {
        let Some(names) = &self.how.photos else { return };
        match photos::stamp(entry, names) {
            Some(stamp) => {
                self.stamps.insert(id.clone(), stamp);
                self.entries.insert(id.clone(), entry.dn.clone());
            }
            None => self.notices.without_stamp(&entry.dn),
        }
    }

    fn note_uid(&mut self, uid: &str, place: usize, id: &StableId) {
        let number = self.uids.enter(&uid.to_lowercase());
        match self.by_uid.get_mut(number) {
            None => self.by_uid.push(Some(place)),
            Some(holder) => {
                let known = holder.map(|place| self.places[place]);
                // One person seen in two places is still one.
                let is_same = matches!(known, Some(Place::Person(person)) if self.people[person] == *id);
                *holder = holder.filter(|known| is_same || *known == place);
            }
        }
    }

    /// A group with the members its entry lists; `None` if it is taken for something else already.
    pub fn group(&mut self, entry: &Entry) -> Option<GroupSlot> {
        if self.how.groups_by_class && !entry.is_of(&GROUP_CLASSES) {
            return None;
        }
        let place = self.new_place(entry)?;
        let slot = GroupSlot(self.groups.len());
        self.places[place] = Place::Group(slot.0);
        let mut aliases = vec![Alias::Dn(self.dns.text(place).to_owned())];
        aliases.extend(entry.texts("cn").map(|name| Alias::Name(name.to_owned())));
        let members = entry.values("objectsid").next().and_then(|sid| self.by_primary_group.remove(sid));
        let group = RawGroup {
            id: self.id_of(entry, place),
            kind: GroupKind::Group,
            name: entry.text("cn").unwrap_or_else(|| rdn_value(&entry.dn)),
            aliases,
            parent: None,
            members: Vec::new(),
        };
        self.groups.push(Gathering { group, members: members.unwrap_or_default() });
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
        self.groups[slot.0].members.shrink_to_fit();
    }

    fn member_by_uid(&mut self, slot: GroupSlot, uid: &str) {
        let holder = self.uids.find(&uid.to_lowercase()).and_then(|number| self.by_uid.get(number)).copied().flatten();
        if let Some(place) = holder {
            self.groups[slot.0].members.push(place);
        } else {
            self.dangling.push(digest(uid));
            self.notices.dangling(uid);
        }
    }

    fn member_by_dn(&mut self, slot: GroupSlot, written: &str) {
        let Some(normal) = self.normaliser.normalise(written) else {
            self.notices.dangling(written);
            return;
        };
        if dn::is_within(normal, &self.base) {
            let place = self.dns.enter(normal);
            self.cover(place);
            self.groups[slot.0].members.push(place);
        } else {
            self.notices.outside(written);
        }
    }

    /// The place of an entry, unless it is outside the base, no DN, or known already.
    fn new_place(&mut self, entry: &Entry) -> Option<usize> {
        let base = &self.base;
        let Some(normal) = self.normaliser.normalise(&entry.dn).filter(|normal| dn::is_within(normal, base)) else {
            self.notices.entry_outside(&entry.dn);
            return None;
        };
        let place = self.dns.enter(normal);
        self.cover(place);
        (self.places[place] == Place::Unseen).then_some(place)
    }

    /// Sees to it that there is a place by this number, which is at most the next one.
    fn cover(&mut self, place: usize) {
        if place == self.places.len() {
            self.places.push(Place::Unseen);
        }
    }

    fn id_of(&mut self, entry: &Entry, place: usize) -> StableId {
        stable_id(entry).unwrap_or_else(|| {
            self.notices.without_id(&entry.dn);
            StableId::from(self.dns.text(place))
        })
    }

    /// [`Tree::container_above`] for a person.
    fn home_of(&mut self, place: usize) -> usize {
        let above = dn::parent(self.dns.text(place)).unwrap_or_default();
        if above != self.last_home.0 {
            let above = above.to_owned();
            let home = self.container_above(place);
            self.last_home = (above, home);
        }
        self.last_home.1
    }

    /// The nearest container above a place; the base at the latest.
    fn container_above(&self, place: usize) -> usize {
        let mut above = dn::parent(self.dns.text(place));
        while let Some(candidate) = above {
            if let Some(Place::Container(index)) = self.dns.find(candidate).map(|place| self.places[place]) {
                return index;
            }
            above = dn::parent(candidate);
        }
        0
    }

    /// Links what had to wait for all entries, and hands over the result.
    #[must_use]
    pub fn finish(mut self) -> Grown {
        self.link_containers();
        drop((std::mem::take(&mut self.uids), std::mem::take(&mut self.by_uid)));
        let groups = self.resolve_members();
        let mut completeness = Completeness::Complete;
        let before = self.users.len();
        let mut users = self.users;
        order::sort_by_id(&mut users);
        users.dedup_by(|one, other| one.id == other.id);
        if users.len() < before {
            let twice = before - users.len();
            completeness.flaw(format!("{twice} entries were seen in two places: they were moved during the read"));
        }
        users.shrink_to_fit();
        self.unnamed.sort_unstable();
        self.dangling.sort_unstable();
        self.dangling.dedup();
        let snapshot = Snapshot {
            source: String::new(),
            organisation: groups.first().map(|root| root.name.clone()),
            users,
            groups,
            completeness,
            notices: self.notices.into_texts(&self.how.uid),
            unnamed: self.unnamed,
            stamps: self.stamps,
            ..Snapshot::default()
        };
        Grown { snapshot, next_expiry: self.next_expiry, dangling: self.dangling, entries: self.entries }
    }

    fn link_containers(&mut self) {
        for place in 1..self.places.len() {
            let Place::Container(index) = self.places[place] else { continue };
            let above = self.container_above(place);
            let id = self.groups[above].group.id.clone();
            self.groups[index].group.parent = Some(id);
            self.groups[above].members.push(place);
        }
    }

    /// The groups, with the ids of their members in order, once each.
    fn resolve_members(&mut self) -> Vec<RawGroup> {
        let gatherings = std::mem::take(&mut self.groups);
        let id_at = |place: &Place| match place {
            Place::Unseen => None,
            Place::Person(person) => self.people.get(*person),
            Place::Group(index) | Place::Container(index) => gatherings.get(*index).map(|found| &found.group.id),
        };
        let order = Order::of(self.places.iter().map(id_at));
        let mut groups = Vec::with_capacity(gatherings.len());
        for Gathering { mut group, members } in gatherings {
            let lists = group.kind == GroupKind::Group;
            let dangles = |place: &usize| match self.places[*place] {
                Place::Unseen => true,
                // A container is nobody's member but its parent's.
                Place::Container(_) => lists,
                Place::Person(_) | Place::Group(_) => false,
            };
            for place in members.iter().copied().filter(dangles) {
                let dn = self.dns.text(place);
                self.notices.dangling(dn);
                self.dangling.push(digest(dn));
            }
            group.members = order.sorted(members.into_iter().filter(|place| !dangles(place)));
            groups.push(group);
        }
        groups
    }
}

/// Enough of a member's name to know it again at the next read.
fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
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
