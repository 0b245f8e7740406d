//! From a configured space to its rule and its rooms (S-13, S-25, S-30, S-107).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::groups::Groups;
use super::members::settle;
use super::{DesiredRoom, Entitlement, Members, RoomException, RoomKind, Rule, Standing, Why};
use crate::config::{Config, Enforce, Exception, ExceptionPlace, GroupGrant, RoomTemplate, Space};
use crate::ids::{Key, SpaceId, Timestamp};

/// A rule while it is being made.
#[derive(Clone, Default)]
struct Draft {
    /// One a person, in order, wherever [`settle`] was called last.
    rights: Vec<Entitlement>,
    blind: Option<Arc<str>>,
}

/// Builds rules bottom-up and lists rooms top-down.
pub(super) struct Weaver<'c, 'g, 'd> {
    config: &'c Config,
    groups: &'g mut Groups<'d>,
    whys: Vec<Why>,
    why_index: BTreeMap<Why, u32>,
    exceptions: Vec<&'c Exception>,
}

impl<'c, 'g, 'd> Weaver<'c, 'g, 'd> {
    pub fn new(config: &'c Config, groups: &'g mut Groups<'d>, now: Timestamp) -> Self {
        let exceptions =
            config.exceptions.iter().filter(|exception| exception.until.is_none_or(|until| now < until)).collect();
        Self { config, groups, whys: Vec::new(), why_index: BTreeMap::new(), exceptions }
    }

    /// Adds `space`, its rooms and everything below to `out`, and hands back its rule.
    pub fn weave(&mut self, space: &Space, parent: Option<&SpaceId>, out: &mut Vec<DesiredRoom>) -> Arc<Rule> {
        let key = Key::Space(space.id.clone());
        let mut below = Vec::new();
        let mut draft = self.granted(&space.groups, &key);
        for subspace in &space.subspaces {
            let sub = self.weave(subspace, Some(&space.id), &mut below);
            self.include(&mut draft, &sub, &subspace.name);
        }
        settle(&mut draft.rights);
        self.except(&mut draft, |place| matches!(place, ExceptionPlace::Space(id) if *id == space.id));
        let rooms = self.rooms(space, &mut draft);
        let rule = self.rule(draft);
        let enforce = space.enforce.unwrap_or(self.config.provisioner.enforce);
        out.push(DesiredRoom {
            key,
            name: space.name.clone(),
            topic: space.topic.clone(),
            avatar: space.avatar.clone(),
            alias: space.alias.clone(),
            adopt: space.adopt.clone(),
            rule: Arc::clone(&rule),
            rule_key: Key::Space(space.id.clone()),
            enforce,
            parent: parent.cloned(),
            invites: true,
            kind: RoomKind::Space { federate: space.federate, named_once: false },
        });
        for (template, own) in rooms {
            let rule_key = match own {
                Some(_) => Key::Room { space: space.id.clone(), slot: template.id.clone() },
                None => Key::Space(space.id.clone()),
            };
            let rule = own.unwrap_or_else(|| Arc::clone(&rule));
            out.push(DesiredRoom { rule_key, ..self.room(space, template, rule, enforce) });
        }
        out.append(&mut below);
        rule
    }

    fn rule(&self, draft: Draft) -> Arc<Rule> {
        Arc::new(Rule { members: Members::of(self.groups.people(), draft.rights), blind: draft.blind })
    }

    fn granted(&mut self, grants: &[GroupGrant], key: &Key) -> Draft {
        let mut draft = Draft::default();
        for grant in grants {
            let resolved = self.groups.resolve(&grant.external_id, key);
            if resolved.blind {
                draft.blind = Some(Arc::from(grant.external_id.as_str()));
            }
            let why = self.why(match &resolved.label {
                None => Why::Everyone,
                Some(label) => Why::Group(Arc::clone(label)),
            });
            let right = |person: &u32| Entitlement { person: *person, level: grant.power_level, why };
            draft.rights.extend(resolved.people.iter().map(right));
        }
        settle(&mut draft.rights);
        draft
    }

    /// Members of a subspace are members of the space, without their level (S-13).
    fn include(&mut self, draft: &mut Draft, sub: &Rule, name: &str) {
        let name: Arc<str> = Arc::from(name);
        let mut risen: BTreeMap<u32, u32> = BTreeMap::new();
        for right in sub.members.values() {
            let why = *risen.entry(right.why).or_insert_with(|| self.risen(right.why, &name));
            draft.rights.push(Entitlement { level: 0, why, ..*right });
        }
        if draft.blind.is_none() {
            draft.blind.clone_from(&sub.blind);
        }
    }

    /// A reason in a subspace, as it is told one space further up.
    fn risen(&mut self, why: u32, name: &Arc<str>) -> u32 {
        let below = |group: &Arc<str>| Why::Subspace { space: Arc::clone(name), group: Arc::clone(group) };
        let risen = match &self.whys[why as usize] {
            Why::Everyone => below(&Arc::from("everybody")),
            Why::Group(group) | Why::Subspace { group, .. } => below(group),
            exception @ Why::Exception { .. } => exception.clone(),
        };
        self.why(risen)
    }

    /// The space's rooms, with a rule of their own where they have groups or exceptions. Exceptions of a room rise to its space.
    fn rooms(&mut self, space: &Space, draft: &mut Draft) -> Vec<(RoomTemplate, Option<Arc<Rule>>)> {
        let own = space.rooms.iter();
        let defaults = self.config.provisioner.default_rooms.iter();
        let templates: Vec<RoomTemplate> = own
            .clone()
            .chain(defaults.filter(|default| space.rooms.iter().all(|room| room.id != default.id)))
            .cloned()
            .collect();
        for template in &templates {
            let mut guests = Draft::default();
            self.except(&mut guests, |place| names(place, template));
            draft.rights.extend(guests.rights.into_iter().map(|guest| Entitlement { level: 0, ..guest }));
            settle(&mut draft.rights);
        }
        templates
            .into_iter()
            .map(|template| {
                let key = Key::Room { space: space.id.clone(), slot: template.id.clone() };
                let has_exception = self.exceptions.iter().any(|exception| names(&exception.place, &template));
                let mut own = match &template.groups {
                    Some(groups) => self.granted(groups, &key),
                    None if has_exception => draft.clone(),
                    None => return (template, None),
                };
                self.except(&mut own, |place| names(place, &template));
                (template, Some(self.rule(own)))
            })
            .collect()
    }

    fn room(&self, space: &Space, template: RoomTemplate, rule: Arc<Rule>, enforce: Enforce) -> DesiredRoom {
        let property = |name: &str| template.properties.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        DesiredRoom {
            key: Key::Room { space: space.id.clone(), slot: template.id.clone() },
            name: property("name").unwrap_or_else(|| template.id.to_string()),
            topic: property("topic"),
            avatar: None,
            alias: template.alias.clone(),
            adopt: template.adopt.clone(),
            rule,
            rule_key: Key::Space(space.id.clone()),
            enforce,
            parent: Some(space.id.clone()),
            invites: self.config.provisioner.invite_to_public_rooms || template.groups.is_some(),
            kind: RoomKind::Room(template),
        }
    }

    /// Applies the exceptions whose place `here` accepts. They never hold for people who are gone (S-107).
    fn except(&mut self, draft: &mut Draft, here: impl Fn(&ExceptionPlace) -> bool) {
        for exception in self.exceptions.clone() {
            let holds = match self.groups.people().standing(&exception.user) {
                None | Some(Standing::Active) => true,
                Some(Standing::Suspended(_) | Standing::Disabled | Standing::Gone { .. }) => false,
            };
            if here(&exception.place) && holds {
                draft.rights.extend(self.right_of(exception));
                settle(&mut draft.rights);
            }
        }
    }

    fn right_of(&mut self, exception: &Exception) -> Option<Entitlement> {
        let why = self.why(Why::Exception { reason: exception.reason.as_str().into(), until: exception.until });
        let person = self.groups.people().number(&exception.user)?;
        Some(Entitlement { person, level: exception.level, why })
    }

    fn why(&mut self, why: Why) -> u32 {
        if let Some(index) = self.why_index.get(&why) {
            return *index;
        }
        let index = u32::try_from(self.whys.len()).unwrap_or(u32::MAX);
        self.whys.push(why.clone());
        self.why_index.insert(why, index);
        index
    }

    /// The whys, and the exceptions that only the homeserver can place.
    pub fn finish(mut self, spaces: &[Space]) -> (Vec<Why>, Vec<RoomException>) {
        let defaults = &self.config.provisioner.default_rooms;
        let mut by_room = Vec::new();
        for exception in self.exceptions.clone() {
            let ExceptionPlace::Room(room) = &exception.place else { continue };
            if defaults.iter().any(|template| template.id.as_str() == room) || slot_exists(spaces, room) {
                continue;
            }
            if let Some(entitlement) = self.right_of(exception) {
                by_room.push(RoomException { room: room.clone(), user: exception.user.clone(), entitlement });
            }
        }
        (self.whys, by_room)
    }
}

fn names(place: &ExceptionPlace, template: &RoomTemplate) -> bool {
    matches!(place, ExceptionPlace::Room(room) if room == template.id.as_str())
}

fn slot_exists(spaces: &[Space], slot: &str) -> bool {
    spaces
        .iter()
        .any(|space| space.rooms.iter().any(|room| room.id.as_str() == slot) || slot_exists(&space.subspaces, slot))
}
