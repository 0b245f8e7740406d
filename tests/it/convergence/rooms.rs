//! Rooms that people made, in any state they can leave them in, and what a homeserver allows in them: the authorisation rules of
//! memberships and levels, as far as usher's steps meet them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use usher::config::{Enforce, V12Creators};
use usher::ids::{RoomId, UserId};
use usher::observed::{Child, JoinRule, Member, Observed, PowerLevels, Room};
use usher::plan::{Action, Deed, RoomRef};

use super::worlds::{PEOPLE, Stage, who};

/// A room in few words.
#[derive(Clone, Debug)]
pub struct RoomSketch {
    /// Which of the spaces it hangs in, and which it admits.
    hangs: usize,
    opens: Vec<usize>,
    rule: &'static str,
    version: &'static str,
    maker: usize,
    /// Person, membership, level.
    people: Vec<(usize, u8, i64)>,
    /// The bot: outside, banned, in it, in it with power.
    bot: u8,
    guard: i64,
    invite: i64,
}

/// What usher may do.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each drawn on its own")]
pub struct Policy {
    puppets: bool,
    admin: bool,
    forget: bool,
    keeps_makers: bool,
    enforce: Enforce,
    creators: V12Creators,
}

pub fn sketches() -> impl Strategy<Value = Vec<RoomSketch>> {
    let rule =
        prop::sample::select(vec!["restricted", "restricted", "restricted", "knock_restricted", "public", "invite"]);
    let version = prop::sample::select(vec!["10", "11", "12"]);
    let person = (0..PEOPLE + 5, 0u8..7, prop::sample::select(vec![0i64, 0, 50, 100, 100, 150]));
    let place = (0usize..5, prop::collection::vec(0usize..5, 0..3), rule, version);
    let inside = (0..PEOPLE + 5, prop::collection::vec(person, 0..8), 0u8..6);
    let levels = (prop::sample::select(vec![100i64, 100, 50]), prop::sample::select(vec![0i64, 50, 100]));
    let room =
        (place, inside, levels).prop_map(|((hangs, opens, rule, version), (maker, people, bot), (guard, invite))| {
            RoomSketch { hangs, opens, rule, version, maker, people, bot, guard, invite }
        });
    prop::collection::vec(room, 1..5)
}

pub fn policy() -> impl Strategy<Value = Policy> {
    let flags = (prop::bool::weighted(0.7), any::<bool>(), any::<bool>(), any::<bool>());
    let enforce = prop::sample::select(vec![Enforce::Strict, Enforce::Strict, Enforce::Additive, Enforce::Observe]);
    let creators = prop::sample::select(vec![V12Creators::Tolerate, V12Creators::Remove, V12Creators::Upgrade]);
    (flags, enforce, creators).prop_map(|((puppets, admin, forget, keeps_makers), enforce, creators)| Policy {
        puppets,
        admin,
        forget,
        keeps_makers,
        enforce,
        creators,
    })
}

/// Hangs the rooms into the world's spaces and gives usher its means.
pub fn open(stage: &mut Stage, rooms: &[RoomSketch], policy: &Policy) {
    stage.config.appservice.puppet_registration = policy.puppets.then(|| "usher-puppet.yaml".into());
    stage.config.provisioner.forget = policy.forget;
    stage.config.provisioner.user_rooms.enforce = policy.enforce;
    stage.config.provisioner.user_rooms.creator_level = policy.keeps_makers.then_some(75);
    stage.config.provisioner.v12_creators = policy.creators;
    stage.observed.accounts.listed = policy.admin;
    let spaces: Vec<RoomId> =
        stage.observed.rooms.iter().filter(|(_, room)| room.is_space).map(|(id, _)| id.clone()).collect();
    for (sketch, at) in rooms.iter().zip(0..) {
        let id = RoomId::from(format!("!people{at}:example.org"));
        let mut room = sketch.room(&stage.observed.bot, &spaces);
        if !policy.admin && matches!(room.members.get(&stage.observed.bot), Some(Member::Ban { .. })) {
            // Without admin rights a ban shows only when it is run against.
            room.members.remove(&stage.observed.bot);
        }
        let link = Child { via: vec!["example.org".into()], ..Child::default() };
        if let Some(space) =
            spaces.get(sketch.hangs % spaces.len().max(1)).and_then(|id| stage.observed.rooms.get_mut(id))
        {
            space.children.insert(id.clone(), link);
        }
        let inside = room.members.get(&stage.observed.bot) == Some(&Member::Join);
        if inside {
            stage.observed.rooms.insert(id, room)
        } else {
            stage.observed.outside.insert(id, room)
        };
    }
}

impl RoomSketch {
    fn room(&self, bot: &UserId, spaces: &[RoomId]) -> Room {
        let maker = who(self.maker);
        let mut members = BTreeMap::from([(maker.clone(), Member::Join)]);
        let mut levels = PowerLevels::from_content(&json!({
            "events": { "m.room.power_levels": self.guard, "m.room.tombstone": 150 }, "invite": self.invite,
        }));
        let immutable = self.version == "12";
        if !immutable {
            levels.users.insert(maker.clone(), 100);
        }
        for (person, how, level) in &self.people {
            let person = who(*person);
            let member = match how {
                0..=2 => Member::Join,
                3 => Member::Invite,
                4 => Member::Knock,
                5 => Member::Leave { by: person.clone(), event: "$left".into() },
                _ => Member::Ban { by: maker.clone() },
            };
            members.insert(person.clone(), member);
            if *level > 0 && !(immutable && person == maker) {
                levels.users.insert(person, *level);
            }
        }
        match self.bot {
            0 | 1 => {}
            2 => drop(members.insert(bot.clone(), Member::Ban { by: maker.clone() })),
            3 => drop(members.insert(bot.clone(), Member::Join)),
            _ => {
                members.insert(bot.clone(), Member::Join);
                levels.users.insert(bot.clone(), 100);
            }
        }
        let allow = self.opens.iter().filter_map(|at| spaces.get(at % spaces.len().max(1)).cloned()).collect();
        Room {
            version: self.version.to_owned(),
            creators: [maker.clone()].into(),
            made_by: Some(maker),
            name: Some("Theirs".to_owned()),
            join_rule: Some(JoinRule { rule: self.rule.to_owned(), allow }),
            power_levels: Some(levels),
            members,
            ..Room::default()
        }
    }
}

/// Why a homeserver would refuse a step in a room that people made; `None`: it would not, or the room is usher's own.
pub fn refusal(observed: &Observed, action: &Action) -> Option<&'static str> {
    let Some(RoomRef::Id(id)) = action.room() else { return None };
    let room = observed.rooms.get(id).or_else(|| observed.outside.get(id)).filter(|room| room.created_for.is_none())?;
    let (bot, authority) = (&observed.bot, Authority(room));
    let joined = |user: &UserId| room.members.get(user) == Some(&Member::Join);
    match action {
        Action::Enter { .. } if matches!(room.members.get(bot), Some(Member::Ban { .. })) => Some("the bot is banned"),
        Action::Kick { user, .. } => (authority.of(bot) <= authority.of(user)).then_some("not above the person"),
        Action::SetPowerLevels { content, .. } => authority.refuses(bot, content),
        Action::Puppet { user, deed: Deed::SetLevels { content, .. }, .. } if joined(user) => {
            authority.refuses(user, content)
        }
        Action::Puppet { user, deed: Deed::Leave { .. }, .. } => {
            let inside = joined(user) || matches!(room.members.get(user), Some(Member::Invite | Member::Knock));
            (!inside).then_some("not in the room")
        }
        Action::Puppet { user, deed: Deed::Forget, .. } => {
            (!matches!(room.members.get(user), Some(Member::Leave { .. }))).then_some("still in the room")
        }
        Action::Puppet { user, deed: Deed::Upgrade { .. }, .. } => {
            let needed = room.power_levels.as_ref().map_or(0, |levels| levels.level_for_state("m.room.tombstone"));
            (authority.of(user) < needed).then_some("may not end the room")
        }
        Action::Puppet { user, .. } if !joined(user) => Some("the person is not in the room"),
        Action::SetState { .. } => (authority.of(bot) < 50).then_some("may not send state"),
        _ => None,
    }
}

/// Who stands where in a room.
struct Authority<'r>(&'r Room);

impl Authority<'_> {
    fn of(&self, user: &UserId) -> i64 {
        if self.0.version == "12" && self.0.creators.contains(user) {
            return i64::MAX;
        }
        self.0.power_levels.as_ref().map_or(0, |levels| levels.user_level(user))
    }

    /// Nobody touches a level above their own, nor another person's at their own, nor gives more than they have.
    fn refuses(&self, sender: &UserId, content: &serde_json::Value) -> Option<&'static str> {
        let (own, next) = (self.of(sender), PowerLevels::from_content(content));
        let now = self.0.power_levels.clone().unwrap_or_default();
        if own < now.level_for_state("m.room.power_levels") {
            return Some("may not change levels");
        }
        if self.0.version == "12" && next.users.keys().any(|user| self.0.creators.contains(user)) {
            return Some("names a creator");
        }
        for user in now.users.keys().chain(next.users.keys()) {
            let (old, new) = (now.users.get(user), next.users.get(user));
            if old == new {
                continue;
            }
            if old.is_some_and(|old| *old > own || *old == own && user != sender) {
                return Some("changes the level of an equal");
            }
            if new.is_some_and(|new| *new > own) {
                return Some("gives more than it has");
            }
        }
        for event in ["m.room.power_levels", "m.room.tombstone"] {
            let (old, new) = (now.level_for_state(event), next.level_for_state(event));
            if old != new && old.max(new) > own {
                return Some("changes what it may not send");
            }
        }
        None
    }
}
