//! From direct members to all users of a group, through any depth and any cycle (S-2), and from a configured name to its group (S-6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::roll::Roll;
use super::{Alias, Completeness, Directory, Found, Group, GroupKind, RawGroup, Snapshot, User, dn};
use crate::ids::{Localpart, StableId};

/// Names less alike than this (Jaro-Winkler, 0 to 1) are not offered as "nearest".
const NEAR: f64 = 0.8;

impl Directory {
    /// Flattens what a bridge read. Linear in users and groups, and per group in what it reaches.
    #[must_use]
    pub fn flatten(snapshot: Snapshot) -> Self {
        let Snapshot { source, organisation, users, groups, mut completeness, notices, unnamed, .. } = snapshot;
        let Snapshot { departed, revision, suggests_name, renamed, stamps, .. } = snapshot;
        let (people, twice) = by_id(users);
        for id in twice {
            completeness.flaw(format!("two users carry the stable id {id}"));
        }
        let mut groups = groups;
        let flattened = members_of_all(&mut groups, &people);
        let conflicts = conflicts(&people);
        let mut names: BTreeMap<Alias, BTreeSet<StableId>> = BTreeMap::new();
        let mut flat = BTreeMap::new();
        for (raw, (users, places)) in groups.into_iter().zip(flattened) {
            let RawGroup { id, kind, name, aliases, parent, members: _ } = raw;
            for alias in aliases {
                names.entry(alias).or_default().insert(id.clone());
            }
            let group = Group { id: id.clone(), kind, name, parent, users, places };
            flat.insert(id, group);
        }
        Self {
            source,
            organisation,
            users: people,
            groups: flat,
            completeness,
            notices,
            unnamed: unnamed.into_iter().collect(),
            departed: departed.into_iter().map(|person| (person.id.clone(), person)).collect(),
            revision,
            suggests_name,
            renamed,
            stamps,
            conflicts,
            names,
        }
    }

    /// What `external_id` means here. In order: everybody, a DN, a stable or opaque id, and last a name that must be unique.
    #[must_use]
    pub fn find(&self, external_id: &str) -> Found<'_> {
        if external_id.is_empty() {
            return Found::Everyone;
        }
        let exact = dn::normalise(external_id)
            .and_then(|normal| self.names.get(&Alias::Dn(normal)))
            .and_then(|ids| ids.first())
            .or_else(|| self.groups.get_key_value(external_id).map(|(id, _)| id))
            .or_else(|| self.names.get(&Alias::Id(external_id.to_owned())).and_then(|ids| ids.first()));
        if let Some(group) = exact.and_then(|id| self.groups.get(id)) {
            return Self::found(group);
        }
        let named: Vec<&Group> = self
            .names
            .get(&Alias::Name(external_id.to_owned()))
            .into_iter()
            .flatten()
            .filter_map(|id| self.groups.get(id))
            .collect();
        match named.as_slice() {
            [] => Found::Missing { nearest: self.nearest(external_id) },
            [only] => Self::found(only),
            _ => Found::Ambiguous(named),
        }
    }

    fn found(group: &Group) -> Found<'_> {
        match group.kind {
            GroupKind::Root => Found::Everyone,
            GroupKind::Container | GroupKind::Group => Found::Group(group),
        }
    }

    /// Every way `group` may be named in a configuration, for messages: DNs first.
    #[must_use]
    pub fn names_of(&self, group: &StableId) -> Vec<String> {
        self.names
            .iter()
            .filter(|(_, ids)| ids.contains(group))
            .map(|(alias, _)| match alias {
                Alias::Dn(text) | Alias::Id(text) | Alias::Name(text) => text.clone(),
            })
            .collect()
    }

    fn nearest(&self, wanted: &str) -> Option<String> {
        let names = self.names.keys().map(|alias| match alias {
            Alias::Dn(text) | Alias::Id(text) | Alias::Name(text) => text,
        });
        nearest(wanted, names).cloned()
    }

    /// The root container's group, if the source has one.
    #[must_use]
    pub fn root(&self) -> Option<&Group> {
        self.groups.values().find(|group| group.kind == GroupKind::Root)
    }

    /// Whether a person is there at all, with a usable name or without.
    #[must_use]
    pub fn knows(&self, id: &StableId) -> bool {
        self.users.contains_key(id) || self.unnamed.contains(id)
    }

    /// Adds a reason why this read is not complete (S-3).
    pub fn flaw(&mut self, reason: impl Into<String>) {
        self.completeness.flaw(reason);
    }

    /// Whether removals may be derived from it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.completeness, Completeness::Complete)
    }
}

/// The name most like `wanted`, if one is like it.
pub(crate) fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let wanted = wanted.to_lowercase();
    names
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

/// Users by id, and the ids that came more than once, the last user under each counting.
fn by_id(mut users: Vec<Arc<User>>) -> (BTreeMap<StableId, Arc<User>>, Vec<StableId>) {
    // Stable, and next to nothing for users that come in order.
    users.sort_by(|one, other| one.id.cmp(&other.id));
    let twice = users.windows(2).filter(|pair| pair[0].id == pair[1].id).map(|pair| pair[1].id.clone()).collect();
    (users.into_iter().map(|user| (user.id.clone(), user)).collect(), twice)
}

/// The users in order: who has which rank.
struct Ranks<'a> {
    ids: Vec<&'a StableId>,
    /// Where the ids are in memory: ids that share their text are found without a look at it.
    shared: Vec<(*const u8, u32)>,
    by_text: Roll,
}

impl<'a> Ranks<'a> {
    fn of(users: &'a BTreeMap<StableId, Arc<User>>) -> Self {
        let ids: Vec<&StableId> = users.keys().collect();
        let mut shared: Vec<_> = ids.iter().zip(0..).map(|(id, rank)| (id.as_str().as_ptr(), rank)).collect();
        shared.sort_unstable();
        Self { ids, shared, by_text: Roll::default() }
    }

    /// The rank of a user, and whether `id` is the very copy that stands with them.
    fn find(&mut self, id: &StableId) -> Option<(u32, bool)> {
        let place = id.as_str().as_ptr();
        if let Ok(at) = self.shared.binary_search_by_key(&place, |(known, _)| *known)
            && !id.as_str().is_empty()
        {
            return Some((self.shared[at].1, true));
        }
        if self.by_text.is_empty() {
            for id in &self.ids {
                self.by_text.enter(id.as_str());
            }
        }
        let rank = u32::try_from(self.by_text.find(id.as_str())?).ok()?;
        Some((rank, false))
    }
}

/// What a group holds directly: users by their rank, groups by their position.
#[derive(Default)]
struct Direct {
    people: Vec<u32>,
    nested: Vec<usize>,
    /// The ids as they came, if they are the result already: no group among them, in order, all of them shared copies.
    ready: Option<Vec<StableId>>,
}

fn direct(members: Vec<StableId>, ranks: &mut Ranks<'_>, positions: &BTreeMap<StableId, usize>) -> Direct {
    let mut found = Direct { people: Vec::with_capacity(members.len()), ..Direct::default() };
    let mut all_shared = true;
    for member in &members {
        if let Some((rank, shared)) = ranks.find(member) {
            found.people.push(rank);
            all_shared &= shared;
        } else if let Some(position) = positions.get(member) {
            found.nested.push(*position);
        }
    }
    let whole =
        found.people.len() == members.len() && all_shared && found.people.is_sorted_by(|one, other| one < other);
    found.ready = whole.then_some(members);
    found
}

/// Users of every group and their ranks, in the groups' order. Takes the direct members out of the groups on the way.
fn members_of_all(groups: &mut [RawGroup], users: &BTreeMap<StableId, Arc<User>>) -> Vec<(Vec<StableId>, Vec<u32>)> {
    let mut ranks = Ranks::of(users);
    let positions: BTreeMap<StableId, usize> =
        groups.iter().enumerate().map(|(position, group)| (group.id.clone(), position)).collect();
    let mut directs: Vec<Direct> = Vec::with_capacity(groups.len());
    for group in groups {
        directs.push(direct(std::mem::take(&mut group.members), &mut ranks, &positions));
    }
    // A stamp per group and round makes the walk safe against cycles without clearing the marks.
    let mut seen = vec![usize::MAX; directs.len()];
    (0..directs.len())
        .map(|start| {
            if let Some(ready) = directs[start].ready.take() {
                return (ready, directs[start].people.clone());
            }
            let mut all: Vec<u32> = Vec::new();
            let mut queue = vec![start];
            seen[start] = start;
            while let Some(position) = queue.pop() {
                all.extend(&directs[position].people);
                for &next in &directs[position].nested {
                    if seen[next] != start {
                        seen[next] = start;
                        queue.push(next);
                    }
                }
            }
            all.sort_unstable();
            all.dedup();
            (all.iter().map(|rank| ranks.ids[*rank as usize].clone()).collect(), all)
        })
        .collect()
}

fn conflicts(users: &BTreeMap<StableId, Arc<User>>) -> BTreeMap<Localpart, Vec<StableId>> {
    let mut localparts = Roll::default();
    let mut first_holders: Vec<&StableId> = Vec::with_capacity(users.len());
    let mut claims: BTreeMap<Localpart, Vec<StableId>> = BTreeMap::new();
    for user in users.values() {
        let number = localparts.enter(user.localpart.as_str());
        match first_holders.get(number) {
            None => first_holders.push(&user.id),
            Some(first) => {
                claims.entry(user.localpart.clone()).or_insert_with(|| vec![(*first).clone()]).push(user.id.clone());
            }
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(id: &str) -> Arc<User> {
        Arc::new(User { id: id.into(), localpart: id.into(), display_name: None, emails: vec![], enabled: true })
    }

    fn group(id: &str, members: &[String]) -> RawGroup {
        RawGroup {
            id: id.into(),
            kind: GroupKind::Group,
            name: id.to_owned(),
            aliases: vec![Alias::Name(id.to_owned())],
            parent: None,
            members: members.iter().map(|member| member.as_str().into()).collect(),
        }
    }

    /// Members by the definition: repeat until nothing is added.
    fn fixpoint(groups: &[RawGroup], start: &str, users: usize) -> Vec<String> {
        let mut inside: BTreeSet<String> = BTreeSet::from([start.to_owned()]);
        loop {
            let before = inside.len();
            for group in groups {
                if inside.contains(group.id.as_str()) {
                    inside.extend(group.members.iter().map(|member| member.as_str().to_owned()));
                }
            }
            if inside.len() == before {
                break;
            }
        }
        (0..users).map(|n| format!("u{n}")).filter(|id| inside.contains(id)).collect()
    }

    proptest! {
        #[test]
        fn flattening_equals_the_fixpoint_on_any_graph(
            edges in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0usize..8), 0..6), 1..8),
        ) {
            let groups: Vec<RawGroup> = edges.iter().enumerate().map(|(at, members)| {
                let members: Vec<String> = members.iter()
                    .map(|(is_user, n)| if *is_user { format!("u{n}") } else { format!("g{n}") })
                    .collect();
                group(&format!("g{at}"), &members)
            }).collect();
            let mut users: Vec<Arc<User>> = (0..8).map(|n| user(&format!("u{n}"))).collect();
            users.sort_by(|left, right| left.id.cmp(&right.id));
            let flat = Directory::flatten(Snapshot { users, groups: groups.clone(), ..Snapshot::default() });
            for raw in &groups {
                let got: Vec<String> = flat.groups[&raw.id].users.iter().map(ToString::to_string).collect();
                prop_assert_eq!(got, fixpoint(&groups, raw.id.as_str(), 8));
            }
        }
    }

    #[test]
    fn a_name_two_groups_carry_is_ambiguous_and_a_near_one_is_offered() {
        let mut twin = group("g2", &[]);
        twin.aliases = vec![Alias::Name("g1".into())];
        let directory = Directory::flatten(Snapshot {
            groups: vec![group("managers", &[]), group("x", &[]), twin, {
                let mut other = group("g3", &[]);
                other.aliases = vec![Alias::Name("g1".into())];
                other
            }],
            ..Snapshot::default()
        });
        assert!(matches!(directory.find("g1"), Found::Ambiguous(ref groups) if groups.len() == 2));
        assert_eq!(directory.find("manager"), Found::Missing { nearest: Some("managers".into()) });
        assert_eq!(directory.find("zzz"), Found::Missing { nearest: None });
        assert_eq!(directory.find(""), Found::Everyone);
    }

    #[test]
    fn two_users_with_one_localpart_are_a_conflict() {
        let second = Arc::new(User { localpart: "a".into(), ..User::clone(&user("b")) });
        let directory =
            Directory::flatten(Snapshot { users: vec![user("a"), second, user("c")], ..Snapshot::default() });
        assert_eq!(directory.conflicts.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    }
}
