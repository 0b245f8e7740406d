//! A random walk: people do what people do while usher runs and the directory changes, on a real Synapse. Afterwards nothing is left to
//! do, and the whole history of every room is searched for what must never have happened: somebody entitled removed, a human decision
//! undone (S-19), a room without an administrator (S-86).
//!
//! Two minutes, ten with `USHER_LONG=1`, `USHER_WALK` seconds otherwise; `USHER_SEED` walks the same way again, as far as
//! two programs that run at the same time can.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod judge;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::child::Running;
use super::crashes::Moments;
use super::world::{NAMES, THINGS, World, until};
use crate::lab::synapse::escape;
use judge::Employment;

/// Who have 100 in every space, and so can do the most.
const CHIEFS: [&str; 2] = ["ann", "fay"];
/// Accounts of people who are in no group.
const STRANGERS: [&str; 3] = ["mal", "moe", "max"];
/// How often people do the same thing to the same thing: more is a fight, which usher leaves for minutes (S-34).
const MOST_OFTEN: usize = 3;
/// Rooms people make.
const MOST_ROOMS: usize = 6;

/// How long people walk.
fn length() -> Duration {
    let given = std::env::var("USHER_WALK").ok().and_then(|seconds| seconds.parse().ok());
    let usual = if std::env::var_os("USHER_LONG").is_some() { 600 } else { 120 };
    Duration::from_secs(given.unwrap_or(usual))
}

/// What people do, each as likely as its number says.
const DEEDS: [(&str, u64); 14] = [
    ("join", 10),
    ("leave", 3),
    ("invite", 6),
    ("kick", 2),
    ("ban", 1),
    ("promote", 3),
    ("rename", 3),
    ("retopic", 1),
    ("make", 3),
    ("hang", 3),
    ("unhang", 1),
    ("replace", 4),
    ("upgrade", 1),
    ("reorganise", 3),
];

struct Walk {
    /// Before the world in whose folder it writes: one that ends badly shows what it said.
    daemon: Running,
    world: World,
    moments: Moments,
    /// usher's rooms and those people made.
    rooms: Vec<RoomId>,
    /// Rooms people made, with the space they are for.
    own: Vec<(RoomId, &'static str)>,
    /// What people replaced usher's spaces and rooms by.
    heirs: Vec<(RoomId, &'static str)>,
    /// Who was in which group from when on.
    employment: Employment,
    /// How often what was done.
    done: BTreeMap<String, usize>,
    /// Accepted and refused, by deed.
    count: BTreeMap<&'static str, (usize, usize)>,
}

impl Walk {
    async fn begin() -> Self {
        let moments = Moments::new("random walk");
        let mut world = World::new().await;
        for name in STRANGERS {
            world.open_account(name).await;
        }
        world.groups.insert("chiefs".to_owned(), CHIEFS.map(str::to_owned).into());
        let chiefs = json!({ "externalId": "chiefs", "powerLevel": 100 });
        let team = |id: &str, name: &str| json!({ "id": id, "name": name, "groups": [{ "externalId": id }, chiefs] });
        world.config["spaces"] = json!([{
            "id": "org", "name": "Company", "groups": [{ "externalId": "leads", "powerLevel": 50 }, chiefs],
            "subspaces": [team("red", "Red team"), team("blue", "Blue team")],
        }]);
        // From version 12 on nobody but the bot could replace what it has made; what people replace it by is of version 12.
        world.config["provisioner"]["room_version"] = json!("11");
        world.config["source"] = json!({ "check_interval_seconds": 1 });
        // What is walked here is not how much may change at once.
        let far = json!({ "min": 10_000 });
        world.config["safety"] = json!({ "limits": {
            "kicks_per_space": far, "kicks_total": far, "demotions": far, "rooms": far, "spaces": far } });
        world.write();
        let employment = Employment::new(&world.groups);
        let daemon = world.start(&["run"]);
        until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
        let mut rooms = Vec::new();
        for thing in THINGS {
            rooms.push(world.room(thing).await);
        }
        let (done, count) = (BTreeMap::new(), BTreeMap::new());
        let walk = Self { world, daemon, moments, rooms, own: Vec::new(), heirs: Vec::new(), employment, done, count };
        for name in NAMES {
            for room in walk.rooms.clone() {
                walk.join(name, &room).await;
            }
        }
        walk
    }

    fn pick<T: Clone>(&mut self, some: &[T]) -> T {
        some[usize::try_from(self.moments.below(some.len() as u64)).unwrap()].clone()
    }

    fn somebody(&mut self) -> &'static str {
        let all: Vec<&'static str> = NAMES.into_iter().chain(STRANGERS).collect();
        self.pick(&all)
    }

    /// Mostly those who may do a lot.
    fn somebody_strong(&mut self) -> &'static str {
        if self.moments.below(4) == 0 { self.somebody() } else { self.pick(&CHIEFS) }
    }

    fn some_room(&mut self) -> RoomId {
        let rooms = self.rooms.clone();
        self.pick(&rooms)
    }

    /// Whether this may be done once more.
    fn once_more(&mut self, what: String) -> bool {
        let done = self.done.entry(what).or_default();
        *done += 1;
        *done <= MOST_OFTEN
    }

    async fn post(&self, by: &str, path: &str, body: Value) -> (bool, Value) {
        let (status, answer) = self.world.as_person(by, "POST", path, body).await;
        (status == 200, answer)
    }

    async fn put(&self, by: &str, room: &RoomId, (kind, key): (&str, &str), content: Value) -> bool {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", escape(room.as_str()), escape(key));
        self.world.as_person(by, "PUT", &path, content).await.0 == 200
    }

    async fn join(&self, name: &str, room: &RoomId) -> bool {
        self.post(name, &format!("/_matrix/client/v3/join/{}", escape(room.as_str())), json!({})).await.0
    }

    async fn membership(&mut self, by: &str, verb: &str, whom: &str) -> Option<bool> {
        let room = self.some_room();
        if !self.once_more(format!("membership of {whom} in {room}")) {
            return None;
        }
        let path = format!("/_matrix/client/v3/rooms/{}/{verb}", escape(room.as_str()));
        let body = if verb == "leave" { json!({}) } else { json!({ "user_id": self.world.user(whom) }) };
        Some(self.post(by, &path, body).await.0)
    }

    /// One deed by somebody; `None`: there is nothing to do it to.
    async fn deed(&mut self, deed: &str) -> Option<bool> {
        match deed {
            "join" => {
                let (name, room) = (self.somebody(), self.some_room());
                Some(self.join(name, &room).await)
            }
            "leave" => {
                let name = self.somebody();
                self.membership(name, "leave", name).await
            }
            "invite" | "kick" | "ban" => {
                let (by, whom) = (self.somebody_strong(), self.somebody());
                self.membership(by, deed, whom).await
            }
            "promote" => self.promote().await,
            "rename" => self.set("m.room.name", "name").await,
            "retopic" => self.set("m.room.topic", "topic").await,
            "make" => self.make().await,
            "hang" => self.hang(json!({ "via": [crate::lab::synapse::SERVER_NAME] })).await,
            "unhang" => self.hang(json!({})).await,
            "upgrade" => self.upgrade().await,
            "replace" => self.replace().await,
            "reorganise" => self.reorganise(),
            other => panic!("nobody does {other}"),
        }
    }

    async fn promote(&mut self) -> Option<bool> {
        let (by, whom, room) = (self.somebody_strong(), self.somebody(), self.some_room());
        if !self.once_more(format!("levels of {room}")) {
            return None;
        }
        let level = self.pick(&[0, 50, 99, 100]);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", escape(room.as_str()));
        let (status, mut levels) = self.world.as_person(by, "GET", &path, Value::Null).await;
        if status != 200 {
            return Some(false);
        }
        levels["users"][self.world.user(whom)] = json!(level);
        Some(self.put(by, &room, ("m.room.power_levels", ""), levels).await)
    }

    async fn set(&mut self, kind: &str, key: &str) -> Option<bool> {
        let (by, room) = (self.somebody_strong(), self.some_room());
        if !self.once_more(format!("{kind} of {room}")) {
            return None;
        }
        let name = format!("Walk {}", self.moments.below(1_000));
        Some(self.put(by, &room, (kind, ""), json!({ key: name })).await)
    }

    /// Somebody makes a room for the people of a space.
    async fn make(&mut self) -> Option<bool> {
        if self.own.len() >= MOST_ROOMS {
            return None;
        }
        let (by, index) = (self.somebody_strong(), usize::try_from(self.moments.below(3)).unwrap());
        let version = self.pick(&["10", "11", "12"]);
        let rule = json!({ "join_rule": "restricted",
                           "allow": [{ "type": "m.room_membership", "room_id": self.rooms[index] }] });
        let body = json!({ "name": format!("{by}'s room"), "room_version": version,
                           "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rule }] });
        let (made, answer) = self.post(by, "/_matrix/client/v3/createRoom", body).await;
        if made {
            let room = RoomId::from(answer["room_id"].as_str().unwrap());
            self.rooms.push(room.clone());
            self.own.push((room, THINGS[index]));
        }
        Some(made)
    }

    /// A room people made is hung into its space, or taken out.
    async fn hang(&mut self, content: Value) -> Option<bool> {
        if self.own.is_empty() {
            return None;
        }
        let own = self.own.clone();
        let (room, space) = self.pick(&own);
        if !self.once_more(format!("place of {room}")) {
            return None;
        }
        let (by, space) = (self.somebody_strong(), self.world.room(space).await);
        Some(self.put(by, &space, ("m.space.child", room.as_str()), content).await)
    }

    /// A room people made is upgraded by somebody who can.
    async fn upgrade(&mut self) -> Option<bool> {
        if self.own.is_empty() {
            return None;
        }
        let own = self.own.clone();
        let (room, space) = self.pick(&own);
        if !self.once_more(format!("upgrade of {room}")) {
            return None;
        }
        let path = format!("/_matrix/client/v3/rooms/{}/upgrade", escape(room.as_str()));
        let by = self.somebody_strong();
        let (upgraded, answer) = self.post(by, &path, json!({ "new_version": "11" })).await;
        if upgraded {
            let successor = RoomId::from(answer["replacement_room"].as_str().unwrap());
            self.rooms.push(successor.clone());
            self.own.push((successor, space));
        }
        Some(upgraded)
    }

    /// A space or room of usher's is upgraded by somebody who can.
    async fn replace(&mut self) -> Option<bool> {
        let thing = self.pick(&THINGS);
        if !self.once_more(format!("upgrade of {thing}")) {
            return None;
        }
        let (by, room) = (self.somebody_strong(), self.world.room(thing).await);
        let path = format!("/_matrix/client/v3/rooms/{}/upgrade", escape(room.as_str()));
        let (upgraded, answer) = self.post(by, &path, json!({ "new_version": "12" })).await;
        if upgraded {
            let heir = RoomId::from(answer["replacement_room"].as_str().unwrap());
            self.rooms.push(heir.clone());
            self.heirs.push((heir, thing));
        }
        Some(upgraded)
    }

    /// The directory changes: somebody changes the team, or begins or ends to lead. The teams' first stay, so that none is ever empty.
    fn reorganise(&mut self) -> Option<bool> {
        let name = self.pick(&["bob", "cat", "dan", "hal", "ida", "jon"]);
        let (from, to) = match self.moments.below(3) {
            0 => (Some("red"), "blue"),
            1 => (Some("blue"), "red"),
            _ => (None, "leads"),
        };
        match from {
            Some(from) if self.world.groups[from].contains(name) => self.world.transfer(name, from, to),
            Some(_) => return None,
            None => {
                let leads = self.world.groups.get_mut(to).unwrap();
                if !leads.remove(name) {
                    leads.insert(name.to_owned());
                }
            }
        }
        // Before and after: usher may read the file at any time in between.
        self.employment.note(&self.world.groups);
        self.world.write_source();
        self.employment.note(&self.world.groups);
        Some(true)
    }

    async fn walk(&mut self) {
        let (end, all) = (Instant::now() + length(), DEEDS.iter().map(|(_, weight)| weight).sum());
        while Instant::now() < end {
            let mut drawn = self.moments.below(all);
            let mut deeds = DEEDS.iter();
            let deed = loop {
                let (deed, weight) = deeds.next().expect("the weights add up");
                if drawn < *weight {
                    break *deed;
                }
                drawn -= weight;
            };
            if let Some(accepted) = self.deed(deed).await {
                let count = self.count.entry(deed).or_default();
                *(if accepted { &mut count.0 } else { &mut count.1 }) += 1;
            }
            self.daemon.must_run();
            tokio::time::sleep(Duration::from_millis(self.moments.below(100))).await;
        }
        println!("random walk: (accepted, refused) {:?}", self.count);
    }

    /// Until usher has nothing left to do.
    async fn rest(&self) {
        until("nothing is left to do", async || {
            let before = self.world.proxy.writes().len();
            tokio::time::sleep(Duration::from_secs(5)).await;
            let status = self.world.status().await;
            status["plan"]["pending"] == 0
                && status["last_pass"]["result"] == "ok"
                && self.world.proxy.writes().len() == before
        })
        .await;
    }

    /// All that is known of what became of a thing: for whoever reads a failure.
    async fn lineage(&self, thing: &str, last: &RoomId) -> String {
        let heirs = self.heirs.iter().filter(|(_, of)| *of == thing).map(|(heir, _)| heir);
        let line: Vec<&RoomId> = heirs.chain([last]).collect();
        let telling =
            ["m.room.create", "m.room.tombstone", "dev.usher.managed", "m.room.power_levels", "m.room.member"];
        let mut text = String::new();
        for room in self.world.made_rooms().await.iter().chain(line.iter().copied()) {
            let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(room.as_str()));
            let (_, state) = self.world.as_admin("GET", &path, Value::Null).await;
            let mut told = format!("{room}:\n");
            for event in state["state"].as_array().into_iter().flatten() {
                if telling.contains(&event["type"].as_str().unwrap_or_default()) {
                    let (kind, key) = (&event["type"], &event["state_key"]);
                    let (by, at) = (&event["sender"], &event["origin_server_ts"]);
                    let _ = writeln!(told, "    {kind} {key} by {by} at {at}: {}", event["content"]);
                }
            }
            // The one usher made leads to one of the others.
            if line.iter().any(|room| told.contains(room.as_str())) {
                text.push_str(&told);
            }
        }
        text.push_str(&self.world.usher(&["plan"]).await.out);
        text
    }

    /// Whether somebody can be lowered or removed only as themselves: people gave them what the bot has.
    async fn is_out_of_reach(&self, name: &str, room: &RoomId) -> bool {
        let levels = self.world.state(room, "m.room.power_levels", "").await;
        let level = |user: &str| levels["users"][user].as_i64().unwrap_or(0);
        level(&self.world.user(name)) >= level(&self.world.bot())
    }

    /// Nobody is where they should not be whom the bot can remove, and no decision of people's is left out of account.
    async fn assert_nobody_too_many(&self) {
        for thing in THINGS {
            let (room, entitled) = (self.world.room(thing).await, self.employment.entitled_now(thing));
            for name in self.world.inside_room(&room).await.difference(&entitled) {
                let out_of_reach = self.is_out_of_reach(name, &room).await;
                assert!(out_of_reach, "{thing}: {name} is there:\n{}", self.lineage(thing, &room).await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_walk_ends_in_order_and_nothing_wrong_happened_on_the_way() {
    let mut walk = Walk::begin().await;
    walk.walk().await;
    walk.rest().await;
    let Walk { world, employment, own, heirs, .. } = &walk;
    walk.assert_nobody_too_many().await;
    let others: Vec<_> = own.iter().chain(heirs).cloned().collect();
    let verdict = judge::judge(world, employment, &others).await;
    println!("random walk: {verdict}");
    assert_eq!(verdict.wrongs, Vec::<String>::new());
    assert!(verdict.judged > 0, "usher did nothing that could be judged");
    for (heir, thing) in &walk.heirs {
        let last = walk.world.room(thing).await;
        let replaced = walk.world.state(&last, "dev.usher.managed", &walk.world.bot()).await;
        let known = replaced["former"].as_array().is_some_and(|former| former.contains(&json!(heir)));
        let followed = *heir == last || known;
        assert!(followed, "{thing}: {heir} is not followed to {last}:\n{}", walk.lineage(thing, &last).await);
    }
    let Walk { world, daemon, .. } = walk;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}
