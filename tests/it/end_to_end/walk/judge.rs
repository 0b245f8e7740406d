//! Reads the whole history of every room after a walk and names what must never have happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};
use usher::ids::RoomId;
use usher::observed::REMOVED;

use super::super::world::World;
use crate::lab::synapse::escape;

/// How long what usher does may rest on what the directory said before: a read, and the slice of work that follows from it.
const LAG_MS: i64 = 8_000;

/// Who was in which group, from when on.
pub struct Employment(Vec<(i64, BTreeMap<String, BTreeSet<String>>)>);

impl Employment {
    pub fn new(groups: &BTreeMap<String, BTreeSet<String>>) -> Self {
        Self(vec![(i64::MIN, groups.clone())])
    }

    /// From now on it is so.
    pub fn note(&mut self, groups: &BTreeMap<String, BTreeSet<String>>) {
        self.0.push((usher::clock::now().0, groups.clone()));
    }

    /// Whether `name` belonged to `thing` at every moment between the two.
    fn entitled_throughout(&self, name: &str, thing: &str, (from, to): (i64, i64)) -> bool {
        let ends = self.0.iter().skip(1).map(|(from, _)| *from).chain([i64::MAX]);
        let then = self.0.iter().zip(ends).filter(|((begin, _), end)| *begin <= to && *end >= from);
        let mut then = then.map(|((_, groups), _)| groups);
        then.all(|groups| members(groups, thing).contains(name))
    }

    pub fn entitled_now(&self, thing: &str) -> BTreeSet<String> {
        members(&self.0.last().expect("a beginning").1, thing)
    }
}

/// Who belongs to a space, or to a room in it.
fn members(groups: &BTreeMap<String, BTreeSet<String>>, thing: &str) -> BTreeSet<String> {
    let names: &[&str] = match thing.split('/').next() {
        Some("red") => &["red", "chiefs"],
        Some("blue") => &["blue", "chiefs"],
        _ => &["leads", "red", "blue", "chiefs"],
    };
    names.iter().flat_map(|name| groups[*name].iter().cloned()).collect()
}

/// What came out.
#[derive(Default)]
pub struct Verdict {
    pub wrongs: Vec<String>,
    rooms: usize,
    events: usize,
    /// Removals, invitations and levels by usher that were looked at.
    pub judged: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wrongs, rooms, events, judged } = self;
        write!(f, "{events} events of {rooms} rooms, {judged} deeds of usher's judged, {} wrong", wrongs.len())
    }
}

/// Judges every room that the bot made or was ever in, of those that people of this world and the bot made.
pub async fn judge(world: &World, employment: &Employment, own: &[(RoomId, &'static str)]) -> Verdict {
    let mut verdict = Verdict::default();
    let made = world.made_rooms().await.into_iter();
    let rooms: BTreeSet<RoomId> = made.chain(own.iter().map(|(room, _)| room.clone())).collect();
    for room in rooms {
        let events = timeline(world, &room).await;
        let thing = thing(&events, &room, own);
        let mut trial = Trial { world, employment, thing, room: &room, version: 0, state: State::default() };
        verdict.rooms += 1;
        for event in &events {
            verdict.events += 1;
            verdict.judged += usize::from(trial.take(event, &mut verdict.wrongs));
        }
    }
    verdict
}

/// State events of a room from its beginning, all kinds in their order, whoever is in it.
async fn timeline(world: &World, room: &RoomId) -> Vec<Value> {
    let kinds = ["m.room.create", "m.room.member", "m.room.power_levels"];
    let filter = escape(&json!({ "types": kinds }).to_string());
    let (mut events, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!(
            "/_synapse/admin/v1/rooms/{}/messages?dir=f&limit=500&filter={filter}{from}",
            escape(room.as_str())
        );
        let (status, answer) = world.as_admin("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{room}: {answer}");
        let chunk = answer["chunk"].as_array().expect("a chunk");
        events.extend(chunk.iter().cloned());
        match answer["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = format!("&from={}", escape(end)),
            _ => return events,
        }
    }
}

/// Whose room it is: for the members of which space.
fn thing(events: &[Value], room: &RoomId, own: &[(RoomId, &'static str)]) -> String {
    if let Some((_, space)) = own.iter().find(|(own, _)| own == room) {
        return (*space).to_owned();
    }
    let create = events.iter().find(|event| event["type"] == "m.room.create").expect("a create event");
    let key = &create["content"]["dev.usher.created_for"]["key"];
    let space = key["space"].as_str().or(key["room"]["space"].as_str());
    space.unwrap_or_else(|| panic!("what is {room} for? {create}")).to_owned()
}

/// What people last decided about somebody's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Left, declined, or removed by another human.
    Out,
    Banned,
    /// Invited, joined or knocked.
    In,
}

#[derive(Default)]
struct State {
    creators: BTreeSet<String>,
    joined: BTreeSet<String>,
    levels: Value,
    /// By person: what people decided, and when.
    decided: BTreeMap<String, (Decision, i64)>,
}

/// One room's history.
struct Trial<'a> {
    world: &'a World,
    employment: &'a Employment,
    thing: String,
    room: &'a RoomId,
    version: u32,
    state: State,
}

impl Trial<'_> {
    /// The next event; `true` if usher did it and it was judged.
    fn take(&mut self, event: &Value, wrongs: &mut Vec<String>) -> bool {
        let content = &event["content"];
        let sender = event["sender"].as_str().unwrap_or_default();
        // What a puppet does to leave is usher's deed.
        let by_usher = sender == self.world.bot() || !content[REMOVED].is_null();
        let had_admin = self.has_admin();
        match event["type"].as_str() {
            Some("m.room.create") => {
                self.version = content["room_version"].as_str().and_then(|version| version.parse().ok()).unwrap_or(1);
                self.state.creators.insert(sender.to_owned());
            }
            Some("m.room.power_levels") => self.state.levels = content.clone(),
            Some("m.room.member") => self.member(event, by_usher, wrongs),
            other => panic!("{other:?} was not asked for"),
        }
        if by_usher && had_admin && !self.has_admin() {
            wrongs.push(format!("{}: left without an administrator by {event}", self.name()));
        }
        by_usher && event["type"] != "m.room.create"
    }

    fn member(&mut self, event: &Value, by_usher: bool, wrongs: &mut Vec<String>) {
        let user = event["state_key"].as_str().unwrap_or_default();
        let name = self.world.short(user);
        let membership = event["content"]["membership"].as_str().unwrap_or_default();
        let before = event["unsigned"]["prev_content"]["membership"].as_str().unwrap_or_default();
        let at = event["origin_server_ts"].as_i64().unwrap_or_default();
        if by_usher && user != self.world.bot() {
            let decided = self.state.decided.get(&name).copied();
            let entitled = |since| self.employment.entitled_throughout(&name, &self.thing, (since, at));
            if membership == "leave" && before != "leave" && entitled(at - LAG_MS) {
                wrongs.push(format!(
                    "{}: {name}, who belongs there, is removed ({before}): {}",
                    self.name(),
                    event["content"]
                ));
            }
            match decided {
                Some((Decision::Banned, _)) => {
                    wrongs.push(format!("{}: the ban of {name} is undone: {membership}", self.name()));
                }
                Some((Decision::Out, since)) if membership == "invite" && entitled(since - LAG_MS) => {
                    wrongs.push(format!("{}: {name} is asked back though people decided otherwise", self.name()));
                }
                Some((Decision::Out | Decision::In, _)) | None => {}
            }
        } else if !by_usher {
            let decision = match membership {
                "leave" => Decision::Out,
                "ban" => Decision::Banned,
                _ => Decision::In,
            };
            self.state.decided.insert(name, (decision, at));
        }
        if membership == "join" {
            self.state.joined.insert(user.to_owned());
        } else {
            self.state.joined.remove(user);
        }
    }

    /// Whether somebody in the room can change anything in it.
    fn has_admin(&self) -> bool {
        let reigns = |user: &str| self.version >= 12 && self.state.creators.contains(user);
        let level = |user: &str| {
            let users = &self.state.levels["users"][user];
            users.as_i64().or(self.state.levels["users_default"].as_i64()).unwrap_or(0)
        };
        // Before the first levels the creator has 100.
        let first = |user: &str| self.state.levels.is_null() && self.state.creators.contains(user);
        self.state.joined.iter().any(|user| reigns(user) || first(user) || level(user) >= 100)
    }

    fn name(&self) -> String {
        format!("{} ({})", self.thing, self.room)
    }
}
