//! From a configured external id to people, by way of the Directory or, where the group is missing, of what the ledger remembers (S-23).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::People;
use crate::directory::{Directory, Found, Group};
use crate::ids::{Key, StableId, UserId};
use crate::ledger::{GroupMemory, Ledger};
use crate::plan::Note;

/// A resolved external id.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    /// By their numbers in [`People`].
    pub people: Vec<u32>,
    /// What to call it in a reason; `None` is everybody.
    pub label: Option<Arc<str>>,
    /// Not found and not remembered.
    pub blind: bool,
}

/// Resolves each external id once.
pub(super) struct Groups<'a> {
    directory: &'a Directory,
    ledger: &'a Ledger,
    people: &'a People,
    known: BTreeMap<String, Arc<Resolved>>,
    pub notes: BTreeSet<Note>,
    pub memories: BTreeMap<String, GroupMemory>,
    pub emptied: BTreeMap<UserId, Arc<str>>,
}

impl<'a> Groups<'a> {
    pub fn new(directory: &'a Directory, ledger: &'a Ledger, people: &'a People) -> Self {
        Self {
            directory,
            ledger,
            people,
            known: BTreeMap::new(),
            notes: BTreeSet::new(),
            memories: BTreeMap::new(),
            emptied: BTreeMap::new(),
        }
    }

    pub fn people(&self) -> &'a People {
        self.people
    }

    /// The active people `external_id` stands for. `space` is where it is mapped, for the notes.
    pub fn resolve(&mut self, external_id: &str, space: &Key) -> Arc<Resolved> {
        if let Some(known) = self.known.get(external_id) {
            return Arc::clone(known);
        }
        let resolved = Arc::new(match self.directory.find(external_id) {
            Found::Everyone => Resolved { people: self.people.all_active().collect(), label: None, blind: false },
            Found::Group(group) => self.present(external_id, group),
            Found::Ambiguous(candidates) => {
                let candidates =
                    candidates.iter().map(|group| self.names(&group.id).unwrap_or(group.name.clone())).collect();
                self.notes.insert(Note::GroupAmbiguous {
                    space: space.clone(),
                    group: external_id.to_owned(),
                    candidates,
                });
                self.frozen(external_id)
            }
            Found::Missing { nearest } => self.missing(external_id, space, nearest),
        });
        self.known.insert(external_id.to_owned(), Arc::clone(&resolved));
        resolved
    }

    fn names(&self, id: &StableId) -> Option<String> {
        self.directory.names_of(id).into_iter().next()
    }

    fn present(&mut self, external_id: &str, group: &Group) -> Resolved {
        let label: Arc<str> = Arc::from(group.name.as_str());
        let people = group.places.iter().filter_map(|place| self.people.active_at(*place)).collect();
        if self.directory.is_complete() {
            self.memories.insert(
                external_id.to_owned(),
                GroupMemory { id: group.id.clone(), name: group.name.clone(), users: group.users.clone() },
            );
            if let Some(memory) = self.ledger.groups.get(external_id).filter(|_| group.users.is_empty()) {
                for id in &memory.users {
                    if let Some(user) = self.people.account(id) {
                        self.emptied.insert(user.clone(), Arc::clone(&label));
                    }
                }
            }
        }
        Resolved { people, label: Some(label), blind: false }
    }

    /// Followed by stable id under its new name, or frozen with its last read members.
    fn missing(&mut self, external_id: &str, space: &Key, nearest: Option<String>) -> Resolved {
        let followed = self.ledger.groups.get(external_id).and_then(|memory| self.directory.groups.get(&memory.id));
        if let Some(group) = followed {
            let renamed = self.names(&group.id).or_else(|| Some(group.name.clone()));
            self.notes.insert(Note::GroupRenamed {
                space: space.clone(),
                group: external_id.to_owned(),
                now: renamed.unwrap_or_default(),
            });
            return self.present(external_id, group);
        }
        let frozen = self.frozen(external_id);
        self.notes.insert(Note::GroupMissing {
            space: space.clone(),
            group: external_id.to_owned(),
            nearest,
            frozen: !frozen.blind,
        });
        frozen
    }

    fn frozen(&self, external_id: &str) -> Resolved {
        let memory = self.ledger.groups.get(external_id);
        let users = memory.into_iter().flat_map(|memory| &memory.users);
        let people = users.filter_map(|id| self.people.active(id)).collect();
        let label = memory.map_or(external_id, |memory| memory.name.as_str());
        Resolved { people, label: Some(Arc::from(label)), blind: memory.is_none() }
    }
}
