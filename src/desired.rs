//! What Matrix should look like: the configured spaces (or, without `spaces:`, the source's own tree) filled with people from the
//! Directory. [`desire`] never looks at the homeserver; what is there is `observed`, and the comparison is `plan`.
//!
//! Pure.

mod accounts;
mod groups;
mod members;
mod mirror;
mod people;
mod rules;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use accounts::{AttributePolicy, Leaving, Profile};
pub use members::Members;
pub use people::{People, Standing};

use crate::config::{Config, Deprovisioning, Enforce, Provisioner, RoomTemplate, Space};
use crate::directory::Directory;
use crate::ids::{Key, SpaceId, Timestamp, UserId};
use crate::ledger::{GroupMemory, Ledger};
use crate::plan::{Note, Reason};

/// Everything that should be, with the policy that says how far to go for it (policy is data: DESIGN decision 11).
#[derive(Clone, Debug)]
pub struct Desired {
    /// Spaces and the rooms usher makes in them: parents before children, a space before its rooms.
    pub rooms: Vec<DesiredRoom>,
    pub people: People,
    /// What [`Entitlement::why`] points into.
    pub whys: Vec<Why>,
    pub instance: String,
    pub provisioner: Provisioner,
    /// Whether removals may be derived from the read (S-3).
    pub complete: bool,
    pub mirrored: bool,
    /// Whether usher may act as local people (S-22).
    pub puppets: bool,
    /// How leavers are dealt with; `None`: deprovisioning is off.
    pub offboarding: Option<Deprovisioning>,
    /// Accounts to be locked: confirmed gone, or disabled (S-51).
    pub leaving: Vec<Leaving>,
    /// Which attributes follow the directory (S-50).
    pub attributes: AttributePolicy,
    /// Names and addresses of active people, where attributes follow the directory.
    pub profiles: Vec<Profile>,
    pub notes: Vec<Note>,
    /// What every mapped group meant in this read, by external id (S-23).
    pub groups: BTreeMap<String, GroupMemory>,
    /// Mapped groups that had members and have none: who was in them (S-81).
    pub emptied: BTreeMap<UserId, Arc<str>>,
    /// Spaces that go by another id now: from the old one to the new (`renamed_from`, S-43).
    pub renamed: BTreeMap<SpaceId, SpaceId>,
    /// Spaces whose mirrored units are missing from the source, which is not confirmed yet: nothing about them is decided (S-24).
    pub undecided: BTreeSet<SpaceId>,
    /// Exceptions that name a room by id or alias, which only the homeserver can resolve (S-107).
    pub room_exceptions: Vec<RoomException>,
}

/// One space or room usher is responsible for.
#[derive(Clone, Debug)]
pub struct DesiredRoom {
    pub key: Key,
    pub name: String,
    pub topic: Option<String>,
    pub avatar: Option<String>,
    /// Localpart or full alias, as configured.
    pub alias: Option<String>,
    /// The existing room that is to become this one, by id or alias.
    pub adopt: Option<String>,
    pub rule: Arc<Rule>,
    /// Whose rule it is: the space's own key, shared by its rooms, or the room's where it has one.
    pub rule_key: Key,
    pub enforce: Enforce,
    /// The space it hangs in; `None` for a top space.
    pub parent: Option<SpaceId>,
    /// Whether entitled people are invited, or find it in the space themselves (S-32).
    pub invites: bool,
    pub kind: RoomKind,
}

/// What differs between spaces and rooms.
#[derive(Clone, Debug)]
pub enum RoomKind {
    Space {
        federate: Option<bool>,
        /// Its name is a suggestion, and stays whatever people make of it (S-15).
        named_once: bool,
    },
    Room(RoomTemplate),
    /// A room people made and opened to these managed spaces (S-31): its name, topic, links and join rule are theirs.
    Taken {
        spaces: Vec<Key>,
    },
}

/// Who belongs in a room, and with what level. Shared by the rooms of a space (S-13).
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub members: Members,
    /// A mapped group was not found and nobody remembers who was in it: nobody may be removed on the strength of this rule (S-23).
    pub blind: Option<Arc<str>>,
}

/// A person's right to be in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entitlement {
    /// Whose: their number in [`Desired::people`].
    pub person: u32,
    pub level: i64,
    /// Index into [`Desired::whys`].
    pub why: u32,
}

/// A right by exception in a room named by its id or alias.
#[derive(Clone, Debug)]
pub struct RoomException {
    /// A room id or an alias.
    pub room: String,
    pub user: UserId,
    pub entitlement: Entitlement,
}

/// Where a right comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    Everyone,
    Group(Arc<str>),
    Subspace { space: Arc<str>, group: Arc<str> },
    Exception { reason: Arc<str>, until: Option<Timestamp> },
}

impl Desired {
    /// The reason behind an entitlement.
    #[must_use]
    pub fn reason(&self, entitlement: &Entitlement) -> Reason {
        match self.whys.get(entitlement.why as usize) {
            None | Some(Why::Everyone) => Reason::Everyone,
            Some(Why::Group(group)) => Reason::InGroup(Arc::clone(group)),
            Some(Why::Subspace { space, group }) => {
                Reason::InSubspace { space: Arc::clone(space), group: Arc::clone(group) }
            }
            Some(Why::Exception { reason, until }) => Reason::Exception { reason: Arc::clone(reason), until: *until },
        }
    }

    /// The desired room of `key`.
    #[must_use]
    pub fn room(&self, key: &Key) -> Option<&DesiredRoom> {
        self.rooms.iter().find(|room| room.key == *key)
    }
}

/// Computes what should be from the configuration, the Directory and what the ledger remembers.
#[must_use]
pub fn desire(config: &Config, directory: &Directory, ledger: &Ledger, now: Timestamp) -> Desired {
    let units = units::Units::undecided(config, directory, ledger);
    let people = People::stand(config, directory, ledger, &units);
    let mirrored = config.spaces.is_none();
    let spaces: Vec<Space> = match &config.spaces {
        Some(spaces) => spaces.clone(),
        None => mirror::spaces(directory),
    };
    let mut groups = groups::Groups::new(directory, ledger, &people);
    let mut rooms = Vec::new();
    let mut weaver = rules::Weaver::new(config, &mut groups, now);
    for space in &spaces {
        weaver.weave(space, None, &mut rooms);
    }
    let (whys, room_exceptions) = weaver.finish(&spaces);
    units.keep_below(&mut rooms, directory);
    if mirrored && directory.suggests_name {
        for room in rooms.iter_mut().filter(|room| room.parent.is_none()) {
            if let RoomKind::Space { named_once, .. } = &mut room.kind {
                *named_once = true;
            }
        }
    }
    let mut notes = Vec::new();
    let attributes = AttributePolicy::of(config);
    let profiles = attributes.profiles(directory, &people);
    let leaving = people.leaving();
    notes.extend(people.notes(directory, ledger, &config.homeserver.server_name));
    notes.extend(groups.notes);
    let (groups, emptied) = (groups.memories, groups.emptied);
    Desired {
        rooms,
        people,
        whys,
        instance: config.instance.clone(),
        provisioner: config.provisioner.clone(),
        complete: directory.is_complete(),
        mirrored,
        puppets: config.appservice.puppet_registration.is_some(),
        offboarding: config.user_provisioner.deprovisioning.clone(),
        leaving,
        attributes,
        profiles,
        notes,
        groups,
        emptied,
        renamed: renamed(&spaces),
        undecided: units.spaces,
        room_exceptions,
    }
}

fn renamed(spaces: &[Space]) -> BTreeMap<SpaceId, SpaceId> {
    let mut all = BTreeMap::new();
    for space in spaces {
        all.extend(space.renamed_from.clone().map(|old| (old, space.id.clone())));
        all.append(&mut renamed(&space.subspaces));
    }
    all
}
