//! Reads the whole history of every room after a walk and names what must never have happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};
use usher::ids::RoomId;
use usher::observed::REMOVED;

use super::super::world::World;
use crate::lab::synapse::escape;

/// How long what usher does may rest on what the directory said before: a pass goes on for ten seconds before the source is read again,
/// and then ends with a slice of work.
const LAG_MS: i64 = 14_000;

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

impl Verdict {
    /// One room's history.
    fn hear(&mut self, events: &[Value], mut trial: Trial<'_>) {
        self.rooms += 1;
        self.events += events.len();
        for event in events {
            self.judged += usize::from(trial.take(event, &mut self.wrongs));
        }
    }
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
        let short = |user: &str| world.short(user);
        verdict.hear(&events, Trial::new((&world.bot(), &short), employment, format!("{thing} {room}")));
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
    /// When people left the room to the bot alone.
    left_to_bot: Option<i64>,
}

/// One room's history.
struct Trial<'a> {
    bot: &'a str,
    /// What people are called in the directory.
    short: &'a dyn Fn(&str) -> String,
    employment: &'a Employment,
    /// The space, or the room in it, and what else names it.
    name: String,
    version: u32,
    state: State,
}

impl<'a> Trial<'a> {
    fn new((bot, short): (&'a str, &'a dyn Fn(&str) -> String), employment: &'a Employment, name: String) -> Self {
        Self { bot, short, employment, name, version: 0, state: State::default() }
    }

    /// The next event; `true` if usher did it and it was judged.
    fn take(&mut self, event: &Value, wrongs: &mut Vec<String>) -> bool {
        let content = &event["content"];
        let sender = event["sender"].as_str().unwrap_or_default();
        // What a puppet does to leave is usher's deed.
        let by_usher = sender == self.bot || !content[REMOVED].is_null();
        let at = event["origin_server_ts"].as_i64().unwrap_or_default();
        let (had_admin, had_others) = (self.has_admin(), self.has_other_admin());
        match event["type"].as_str() {
            Some("m.room.create") => {
                self.version = content["room_version"].as_str().and_then(|version| version.parse().ok()).unwrap_or(1);
                self.state.creators.insert(sender.to_owned());
            }
            Some("m.room.power_levels") => self.state.levels = content.clone(),
            Some("m.room.member") => self.member(event, by_usher, wrongs),
            other => panic!("{other:?} was not asked for"),
        }
        if had_others && !self.has_other_admin() {
            self.state.left_to_bot = (!by_usher).then_some(at);
        }
        // A room that nobody is in needs none, and what people do at the same moment usher cannot know.
        let known = self.state.left_to_bot.is_none_or(|since| since <= at - LAG_MS);
        if by_usher && had_admin && !self.has_admin() && !self.state.joined.is_empty() && known {
            let State { joined, levels, .. } = &self.state;
            wrongs.push(format!("{}: left without an administrator by {event}: {joined:?} {levels}", self.name));
        }
        by_usher && event["type"] != "m.room.create"
    }

    fn member(&mut self, event: &Value, by_usher: bool, wrongs: &mut Vec<String>) {
        let user = event["state_key"].as_str().unwrap_or_default();
        let name = (self.short)(user);
        let membership = event["content"]["membership"].as_str().unwrap_or_default();
        let before = event["unsigned"]["prev_content"]["membership"].as_str().unwrap_or_default();
        let at = event["origin_server_ts"].as_i64().unwrap_or_default();
        if by_usher && user != self.bot {
            let decided = self.state.decided.get(&name).copied();
            let thing = self.name.split(' ').next().unwrap_or_default();
            let entitled = |since| self.employment.entitled_throughout(&name, thing, (since, at));
            if membership == "leave" && before != "leave" && entitled(at - LAG_MS) {
                wrongs.push(format!(
                    "{}: {name}, who belongs there, is removed ({before}): {}",
                    self.name, event["content"]
                ));
            }
            match decided {
                Some((Decision::Banned, _)) => {
                    wrongs.push(format!("{}: the ban of {name} is undone: {membership}", self.name));
                }
                Some((Decision::Out, since)) if membership == "invite" && entitled(since - LAG_MS) => {
                    wrongs.push(format!("{}: {name} is asked back though people decided otherwise", self.name));
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
        self.state.joined.iter().any(|user| self.is_admin(user))
    }

    fn has_other_admin(&self) -> bool {
        self.state.joined.iter().any(|user| user != self.bot && self.is_admin(user))
    }

    fn is_admin(&self, user: &str) -> bool {
        let State { creators, levels, .. } = &self.state;
        // Before the first levels the creator has 100.
        let reigns = creators.contains(user) && (self.version >= 12 || levels.is_null());
        reigns || levels["users"][user].as_i64().or(levels["users_default"].as_i64()).unwrap_or(0) >= 100
    }
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    const BOT: &str = "@usher:lab.test";

    fn wrongs(events: &[Value]) -> Vec<String> {
        let groups = [("red", vec!["ann", "bob"]), ("blue", vec![]), ("leads", vec![]), ("chiefs", vec!["ann"])];
        let named = groups.map(|(group, names)| (group.to_owned(), names.into_iter().map(str::to_owned).collect()));
        let employment = Employment::new(&named.into());
        let short = |user: &str| user.trim_start_matches('@').trim_end_matches(":lab.test").to_owned();
        let mut verdict = Verdict::default();
        verdict.hear(events, Trial::new((BOT, &short), &employment, "red !room".to_owned()));
        verdict.wrongs
    }

    /// A room of version 11 that `creator` made and is in.
    fn made_by(creator: &str) -> Vec<Value> {
        let create = json!({ "type": "m.room.create", "sender": creator, "content": { "room_version": "11" } });
        vec![create, member(creator, creator, ("", "join"))]
    }

    fn member(by: &str, whom: &str, (before, after): (&str, &str)) -> Value {
        json!({ "type": "m.room.member", "sender": by, "state_key": whom, "origin_server_ts": 1_000_000,
                "content": { "membership": after }, "unsigned": { "prev_content": { "membership": before } } })
    }

    fn levels(by: &str, users: &Value) -> Value {
        json!({ "type": "m.room.power_levels", "sender": by, "content": { "users": users } })
    }

    fn with(mut events: Vec<Value>, more: &[Value]) -> Vec<String> {
        events.extend(more.iter().cloned());
        wrongs(&events)
    }

    #[test]
    fn removing_somebody_entitled_is_wrong_and_somebody_else_is_not() {
        let (bob, mal) = ("@bob:lab.test", "@mal:lab.test");
        let removed = with(made_by(BOT), &[member(BOT, bob, ("join", "leave"))]);
        assert!(removed.len() == 1 && removed[0].contains("bob, who belongs there"), "{removed:?}");
        assert_eq!(with(made_by(BOT), &[member(BOT, mal, ("join", "leave"))]), Vec::<String>::new());
        assert_eq!(with(made_by(BOT), &[member("@ann:lab.test", bob, ("join", "leave"))]), Vec::<String>::new());
        // As a puppet it is usher all the same.
        let mut puppet = member(bob, bob, ("join", "leave"));
        puppet["content"][REMOVED] = json!(true);
        assert_eq!(with(made_by(BOT), &[puppet]).len(), 1);
    }

    #[test]
    fn undoing_a_human_decision_is_wrong() {
        let bob = "@bob:lab.test";
        let asked = member(BOT, bob, ("leave", "invite"));
        let undone = with(made_by(BOT), &[member(bob, bob, ("join", "leave")), asked.clone()]);
        assert!(undone.len() == 1 && undone[0].contains("asked back"), "{undone:?}");
        let banned =
            with(made_by(BOT), &[member("@ann:lab.test", bob, ("join", "ban")), member(BOT, bob, ("ban", "leave"))]);
        assert!(banned.iter().any(|wrong| wrong.contains("the ban of bob")), "{banned:?}");
        // Who knocks wants in again.
        let knocked = [member(bob, bob, ("join", "leave")), member(bob, bob, ("leave", "knock")), asked];
        assert_eq!(with(made_by(BOT), &knocked), Vec::<String>::new());
    }

    #[test]
    fn a_room_that_loses_its_last_administrator_to_usher_is_wrong() {
        let ann = "@ann:lab.test";
        let alone = levels(ann, &json!({ ann: 100 }));
        let bereft = with(made_by(ann), &[alone.clone(), levels(BOT, &json!({ ann: 0 }))]);
        assert!(bereft.len() == 1 && bereft[0].contains("without an administrator"), "{bereft:?}");
        // People may do so themselves, and where somebody else is left nothing is lost.
        assert_eq!(with(made_by(ann), &[alone.clone(), levels(ann, &json!({ ann: 0 }))]), Vec::<String>::new());
        let both = [member(BOT, BOT, ("invite", "join")), alone, levels(BOT, &json!({ BOT: 100, ann: 0 }))];
        assert_eq!(with(made_by(ann), &both), Vec::<String>::new());
        // The bot goes: from whoever is left long after its last other administrator, but for nobody, or in the same moment.
        let at = |time: i64, mut event: Value| {
            event["origin_server_ts"] = json!(time);
            event
        };
        let end = |left: i64, more: Option<Value>| {
            let mut events = vec![member(BOT, BOT, ("invite", "join")), levels(ann, &json!({ BOT: 100, ann: 100 }))];
            events.extend(more);
            events.push(at(left, member(ann, ann, ("join", "leave"))));
            events.push(at(1_000_000, member(BOT, BOT, ("join", "leave"))));
            with(made_by(ann), &events).len()
        };
        let bob = member("@bob:lab.test", "@bob:lab.test", ("invite", "join"));
        assert_eq!([end(1_000, Some(bob.clone())), end(1_000, None), end(999_000, Some(bob))], [1, 0, 0]);
    }
}
