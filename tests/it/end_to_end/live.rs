//! Put right at once: people change, with their own clients, what usher keeps in order, and the time from the act to the correction, as
//! a third person's client sees it, is printed. Once for each room version.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::child::Running;
use super::world::{THINGS, World, until};
use crate::lab::slapd::signal;
use crate::lab::synapse::escape;

/// Who looks: an ordinary member.
pub const WITNESS: &str = "dan";
/// How often.
const LOOK: Duration = Duration::from_millis(15);
/// Long enough for any machine; how long it took is printed, not judged.
const PATIENCE: Duration = Duration::from_mins(1);
const LEVELS: &str = "m.room.power_levels";

/// A company in which `ann` has 100 in every space and room and `bob` 50 in the red ones; both, and the witness, are in the rooms.
pub struct Live {
    /// Before the world in whose folder it writes: one that ends badly shows what it said.
    pub daemon: Running,
    pub world: World,
    version: &'static str,
    times: Vec<(Duration, String)>,
}

impl Live {
    pub async fn new(version: &'static str) -> Self {
        Self::among(World::new().await, version).await
    }

    pub async fn among(mut world: World, version: &'static str) -> Self {
        world.groups.insert("chiefs".to_owned(), ["ann".to_owned()].into());
        world.groups.insert("mods".to_owned(), ["bob".to_owned()].into());
        let chiefs = json!({ "externalId": "chiefs", "powerLevel": 100 });
        let red = json!({
            "id": "red", "name": "Red team", "topic": "What is red", "avatar": "mxc://lab.test/face",
            "groups": [{ "externalId": "red" }, { "externalId": "mods", "powerLevel": 50 }, chiefs],
        });
        let blue = json!({ "id": "blue", "name": "Blue team", "groups": [{ "externalId": "blue" }] });
        world.config["provisioner"]["room_version"] = json!(version);
        world.config["spaces"] =
            json!([{ "id": "org", "name": "Company", "groups": [chiefs], "subspaces": [red, blue] }]);
        world.write();
        let daemon = world.start(&["run"]);
        until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
        let live = Self::over(world, daemon, version);
        for name in ["ann", "bob", WITNESS] {
            for thing in ["org", "red", "org/general", "red/general"] {
                live.world.join(name, thing).await;
            }
        }
        live.calm().await;
        live
    }

    /// Over a company of another kind, whose usher runs already.
    pub fn over(world: World, daemon: Running, version: &'static str) -> Self {
        Self { world, daemon, version, times: Vec::new() }
    }

    /// Until nothing is left to do.
    pub async fn calm(&self) {
        until("calm", async || {
            let before = self.world.proxy.writes().len();
            tokio::time::sleep(Duration::from_millis(400)).await;
            self.world.proxy.writes().len() == before
        })
        .await;
    }

    /// What the witness sees.
    pub async fn sees(&self, room: &RoomId, kind: &str, key: &str) -> Value {
        seen_by(&self.world, WITNESS, room, kind, key).await
    }

    pub async fn put(&self, by: &str, room: &RoomId, (kind, key): (&str, &str), content: Value) -> u16 {
        put(&self.world, by, room, (kind, key), content).await
    }

    /// Waits for `right` from `start` on, and remembers how long it took.
    pub async fn put_right(
        &mut self,
        what: &str,
        start: Instant,
        room: &RoomId,
        event: (&str, &str),
        right: impl Fn(&Value) -> bool,
    ) {
        while !right(&self.sees(room, event.0, event.1).await) {
            assert!(start.elapsed() < PATIENCE, "v{}: {what} is not put right", self.version);
            tokio::time::sleep(LOOK).await;
        }
        self.took(what, start.elapsed());
    }

    fn took(&mut self, what: &str, time: Duration) {
        println!("live: v{} {what} put right after {} ms", self.version, time.as_millis());
        self.times.push((time, what.to_owned()));
    }

    /// A state event that somebody changes and usher changes back.
    async fn changed(&mut self, what: &str, by: &str, room: &RoomId, event: (&str, &str), content: Value) {
        let before = self.sees(room, event.0, event.1).await;
        assert_ne!(before, content, "{what} changes nothing");
        let start = Instant::now();
        assert_eq!(self.put(by, room, event, content).await, 200, "{what}");
        while self.sees(room, event.0, event.1).await != before {
            assert!(start.elapsed() < PATIENCE, "v{}: {what} is not put right", self.version);
            tokio::time::sleep(LOOK).await;
        }
        self.took(what, start.elapsed());
    }

    /// Levels that `by` changes and usher changes back.
    async fn levels(&mut self, what: &str, room: &RoomId, change: impl Fn(&mut Value)) {
        let mut levels = self.sees(room, LEVELS, "").await;
        change(&mut levels);
        self.changed(what, "ann", room, (LEVELS, ""), levels).await;
    }

    /// Something a person does to somebody's membership.
    pub async fn act(&self, by: &str, verb: &str, room: &RoomId, name: &str) -> u16 {
        membership(&self.world, by, verb, room, name).await
    }

    async fn member(&self, room: &RoomId, name: &str) -> Value {
        self.sees(room, "m.room.member", &self.world.user(name)).await["membership"].clone()
    }

    pub fn report(&mut self) {
        self.times.sort();
        let (median, worst) = (&self.times[self.times.len() / 2], &self.times[self.times.len() - 1]);
        println!(
            "live: v{}: {} corrections, median {} ms, worst {} ms ({})",
            self.version,
            self.times.len(),
            median.0.as_millis(),
            worst.0.as_millis(),
            worst.1
        );
    }
}

pub async fn seen_by(world: &World, name: &str, room: &RoomId, kind: &str, key: &str) -> Value {
    let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", escape(room.as_str()), escape(key));
    let (status, answer) = world.as_person(name, "GET", &path, Value::Null).await;
    if status == 200 { answer } else { Value::Null }
}

pub async fn put(world: &World, by: &str, room: &RoomId, (kind, key): (&str, &str), content: Value) -> u16 {
    let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", escape(room.as_str()), escape(key));
    world.as_person(by, "PUT", &path, content).await.0
}

/// `join`, `leave` and `knock` are done by `by`, the others to `name`.
pub async fn membership(world: &World, by: &str, verb: &str, room: &RoomId, name: &str) -> u16 {
    let room = escape(room.as_str());
    let (path, body) = match verb {
        "join" | "knock" => (format!("/_matrix/client/v3/{verb}/{room}"), json!({})),
        "leave" => (format!("/_matrix/client/v3/rooms/{room}/leave"), json!({})),
        _ => (format!("/_matrix/client/v3/rooms/{room}/{verb}"), json!({ "user_id": world.user(name) })),
    };
    world.as_person(by, "POST", &path, body).await.0
}

pub fn out(member: &Value) -> bool {
    member["membership"] == "leave"
}

pub fn invited(member: &Value) -> bool {
    member["membership"] == "invite"
}

async fn everything_is_put_right(version: &'static str) {
    let mut live = Live::new(version).await;
    live.world.open_account("mal").await;
    live.world.open_account("moe").await;
    let rooms = live.world.bot_rooms().await;
    intruders(&mut live).await;
    knocks(&mut live).await;
    levels(&mut live).await;
    state(&mut live).await;
    links(&mut live).await;
    decisions(&mut live).await;
    assert_eq!(live.world.bot_rooms().await, rooms, "no room was made, none was left");
    live.report();
    live.daemon.must_run();
    let Live { world, daemon, .. } = live;
    let seen = world.proxy.seen();
    let reads = seen.iter().filter(|seen| seen.path.ends_with("/joined_rooms")).count();
    assert_eq!(reads, 1, "everything was read once, at the start");
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_change_is_put_right_in_room_version_10() {
    everything_is_put_right("10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_change_is_put_right_in_room_version_11() {
    everything_is_put_right("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_change_is_put_right_in_room_version_12() {
    everything_is_put_right("12").await;
}

/// People without a right to be there.
async fn intruders(live: &mut Live) {
    let (space, room) = (live.world.room("red").await, live.world.room("red/general").await);
    let mal = live.world.user("mal");
    for (what, place, by) in [("invitation into a space", &space, "ann"), ("invitation into a room", &room, "bob")] {
        let start = Instant::now();
        assert_eq!(live.act(by, "invite", place, "mal").await, 200);
        live.put_right(what, start, place, ("m.room.member", &mal), out).await;
    }
    for (what, place) in [("outsider in a space", &space), ("outsider in a room", &room)] {
        // An invitation would be withdrawn before they could join.
        signal(live.daemon.pid(), "STOP");
        assert_eq!(live.act("ann", "invite", place, "moe").await, 200);
        assert_eq!(live.act("moe", "join", place, "moe").await, 200);
        let start = Instant::now();
        signal(live.daemon.pid(), "CONT");
        live.put_right(what, start, place, ("m.room.member", &live.world.user("moe")), out).await;
    }
}

/// Knocking at a room whose rule is a moderator's business; who comes in is not.
async fn knocks(live: &mut Live) {
    let (space, room) = (live.world.room("red").await, live.world.room("red/general").await);
    let rule = json!({ "join_rule": "knock_restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    assert_eq!(live.put("ann", &room, ("m.room.join_rules", ""), rule.clone()).await, 200);
    let mal = live.world.user("mal");
    let start = Instant::now();
    assert_eq!(live.act("mal", "knock", &room, "mal").await, 200);
    live.put_right("stranger's knock", start, &room, ("m.room.member", &mal), out).await;

    signal(live.daemon.pid(), "STOP");
    assert_eq!(live.act("mal", "knock", &room, "mal").await, 200);
    assert_eq!(live.act("bob", "invite", &room, "mal").await, 200);
    assert_eq!(live.act("mal", "join", &room, "mal").await, 200);
    let start = Instant::now();
    signal(live.daemon.pid(), "CONT");
    live.put_right("stranger let in on a knock", start, &room, ("m.room.member", &mal), out).await;

    // Who declined is not asked again (S-19), but may ask.
    assert_eq!(live.act("cat", "leave", &room, "cat").await, 200);
    let start = Instant::now();
    assert_eq!(live.act("cat", "knock", &room, "cat").await, 200);
    let cat = live.world.user("cat");
    live.put_right("entitled person's knock", start, &room, ("m.room.member", &cat), invited).await;
    assert_eq!(live.act("cat", "join", &room, "cat").await, 200);
    assert_eq!(live.sees(&room, "m.room.join_rules", "").await, rule, "the rule of a room is its moderators'");
}

async fn levels(live: &mut Live) {
    let (eve, bob) = (live.world.user("eve"), live.world.user("bob"));
    for thing in ["red", "red/general"] {
        let room = live.world.room(thing).await;
        let space = if thing == "red" { "in a space" } else { "in a room" };
        live.levels(&format!("level raised {space}"), &room, |levels| levels["users"][&eve] = json!(50)).await;
        live.levels(&format!("level lowered {space}"), &room, |levels| levels["users"][&bob] = json!(0)).await;
        live.levels(&format!("users_default raised {space}"), &room, |levels| levels["users_default"] = json!(50))
            .await;
        live.levels(&format!("guard of the levels lowered {space}"), &room, |levels| {
            levels["events"][LEVELS] = json!(50);
        })
        .await;
        // Creators from version 12 on may not even be named, and below it nobody reaches the bot's level.
        let mut levels = live.sees(&room, LEVELS, "").await;
        levels["users"][live.world.bot()] = json!(0);
        let status = live.put("ann", &room, (LEVELS, ""), levels).await;
        assert!(matches!(status, 400 | 403), "nobody can demote the bot: {status}");
        let bot = live.world.bot();
        let path = format!("/_matrix/client/v3/rooms/{}/kick", escape(room.as_str()));
        let kicked = live.world.as_person("ann", "POST", &path, json!({ "user_id": bot })).await.0;
        assert_eq!(kicked, 403, "nor remove it");
    }
}

async fn state(live: &mut Live) {
    let space = live.world.room("red").await;
    for (what, kind, content) in [
        ("renamed space", "m.room.name", json!({ "name": "Crimson tribe" })),
        ("topic of a space", "m.room.topic", json!({ "topic": "What is not" })),
        ("avatar of a space", "m.room.avatar", json!({ "url": "mxc://lab.test/mask" })),
        ("join rule of a space", "m.room.join_rules", json!({ "join_rule": "public" })),
        ("guest access of a space", "m.room.guest_access", json!({ "guest_access": "can_join" })),
    ] {
        let start = Instant::now();
        let before = live.sees(&space, kind, "").await;
        assert_eq!(live.put("ann", &space, (kind, ""), content.clone()).await, 200, "{what}");
        let value = |content: &Value| content.as_object().and_then(|fields| fields.values().next().cloned());
        // The homeserver writes more into a topic than we do: what counts is the text.
        let key = content.as_object().unwrap().keys().next().unwrap().clone();
        while live.sees(&space, kind, "").await[&key] != before[&key] {
            assert!(start.elapsed() < PATIENCE, "{what} is not put right");
            tokio::time::sleep(LOOK).await;
        }
        assert!(value(&before).is_some());
        live.took(what, start.elapsed());
    }
}

/// A subspace hangs where the configuration says; a room is its moderators' to take out (S-30, S-106).
async fn links(live: &mut Live) {
    let (org, space) = (live.world.room("org").await, live.world.room("red").await);
    let general = live.world.room("red/general").await;
    live.changed("removed subspace link", "ann", &org, ("m.space.child", space.as_str()), json!({})).await;
    live.changed("removed link to the parent", "ann", &space, ("m.space.parent", org.as_str()), json!({})).await;
    assert_eq!(live.put("bob", &space, ("m.space.child", general.as_str()), json!({})).await, 200);
    let members = live.world.members("red/general").await;
    live.changed("removed subspace link", "ann", &org, ("m.space.child", space.as_str()), json!({})).await;
    live.calm().await;
    assert_eq!(live.sees(&space, "m.space.child", general.as_str()).await, json!({}), "a room taken out stays out");
    assert_eq!(live.world.members("red/general").await, members, "and keeps its people");
    let link = json!({ "via": ["lab.test"] });
    assert_eq!(live.put("bob", &space, ("m.space.child", general.as_str()), link).await, 200);
}

/// What people decide about memberships stands (S-19).
async fn decisions(live: &mut Live) {
    let (space, room) = (live.world.room("red").await, live.world.room("red/general").await);
    assert_eq!(live.act("eve", "join", &space, "eve").await, 200);
    assert_eq!(live.act("eve", "leave", &space, "eve").await, 200);
    assert_eq!(live.act("bob", "kick", &room, "eve").await, 200);
    assert_eq!(live.act("ann", "ban", &room, "cat").await, 200);
    let start = Instant::now();
    let mal = live.world.user("mal");
    assert_eq!(live.act("ann", "invite", &space, "mal").await, 200);
    live.put_right("invitation beside human decisions", start, &space, ("m.room.member", &mal), out).await;
    live.calm().await;
    assert_eq!(live.member(&space, "eve").await, "leave", "who left is not asked back");
    assert_eq!(live.member(&room, "eve").await, "leave", "nor who was removed");
    assert_eq!(live.member(&room, "cat").await, "ban");
}

/// The bot out of its rooms: it comes back where it may, makes nothing twice, and says what it needs where it may not.
async fn the_bot_comes_back(version: &'static str) {
    let mut live = Live::new(version).await;
    let rooms = live.world.bot_rooms().await;
    let (space, room) = (live.world.room("red").await, live.world.room("red/general").await);
    let before = live.world.inside("red/general").await;
    let leave = |room: &RoomId| format!("/_matrix/client/v3/rooms/{}/leave", escape(room.as_str()));
    let bot = live.world.bot();

    let start = Instant::now();
    assert_eq!(live.world.as_bot("POST", &leave(&room), json!({})).await.0, 200);
    live.put_right("bot that left a room", start, &room, ("m.room.member", &bot), |member| {
        member["membership"] == "join"
    })
    .await;
    until("all is well", async || live.world.status().await["failures"] == json!([])).await;

    assert_eq!(live.world.as_bot("POST", &leave(&space), json!({})).await.0, 200);
    until("it says what it needs", async || {
        let failures = live.world.status().await["failures"].to_string();
        failures.contains(space.as_str()) && failures.contains("invite @")
    })
    .await;
    live.world.usher(&["status"]).await.says(space.as_str());
    // A whole pass later it still is the same space.
    live.world.write_source();
    live.calm().await;
    assert_eq!(live.world.room("red").await, space);
    assert_eq!(live.world.made_rooms().await, rooms, "nothing was made twice");
    let start = Instant::now();
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", escape(space.as_str()));
    assert_eq!(live.world.as_person("ann", "POST", &invite, json!({ "user_id": bot })).await.0, 200);
    live.put_right("bot that is invited back", start, &space, ("m.room.member", &bot), |member| {
        member["membership"] == "join"
    })
    .await;
    if version != "12" {
        for place in [&space, &room] {
            let mut levels = live.sees(place, LEVELS, "").await;
            levels["users"][&bot] = json!(0);
            let path = format!("/_matrix/client/v3/rooms/{}/state/{LEVELS}/", escape(place.as_str()));
            let start = Instant::now();
            assert_eq!(live.world.as_bot("PUT", &path, levels).await.0, 200);
            while live.sees(place, LEVELS, "").await["users"][&bot] != 100 {
                assert!(start.elapsed() < PATIENCE, "the bot has no power");
                tokio::time::sleep(LOOK).await;
            }
            live.took("bot without power", start.elapsed());
        }
    }
    until("all is well", async || live.world.status().await["failures"] == json!([])).await;
    live.changed("renamed space", "ann", &space, ("m.room.name", ""), json!({ "name": "Crimson" })).await;
    assert_eq!(live.world.inside("red/general").await, before);
    assert_eq!(live.world.removed().await, [bot].into(), "only itself");
    assert_eq!(live.world.bot_rooms().await, rooms);
    assert_eq!(rooms.len(), THINGS.len());
    live.report();
    let Live { world, daemon, .. } = live;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_out_of_its_rooms_comes_back_in_room_version_11() {
    the_bot_comes_back("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_out_of_its_rooms_comes_back_in_room_version_12() {
    the_bot_comes_back("12").await;
}

/// S-34: somebody renames a space as often as usher does.
async fn a_fight_is_slowed_down(version: &'static str) {
    let mut live = Live::new(version).await;
    let (space, org) = (live.world.room("red").await, live.world.room("org").await);
    live.world.open_account("mal").await;
    live.world.proxy.clear();
    for round in 0..5 {
        live.changed(
            "fought-over name",
            "ann",
            &space,
            ("m.room.name", ""),
            json!({ "name": format!("Mine {round}") }),
        )
        .await;
    }
    assert_eq!(live.put("ann", &space, ("m.room.name", ""), json!({ "name": "Mine at last" })).await, 200);
    until("it is reported", async || {
        let failures = live.world.status().await["failures"].to_string();
        failures.contains("undone 5 times") && failures.contains("history")
    })
    .await;
    // Everything else is as prompt as ever, in that space too.
    let start = Instant::now();
    assert_eq!(live.act("ann", "invite", &space, "mal").await, 200);
    let mal = live.world.user("mal");
    live.put_right("invitation beside a fight", start, &space, ("m.room.member", &mal), out).await;
    live.changed("another name beside a fight", "ann", &org, ("m.room.name", ""), json!({ "name": "Ours" })).await;
    assert_eq!(live.sees(&space, "m.room.name", "").await["name"], "Mine at last");
    // The witness may see a write before its answer has come by.
    until("all are counted", async || live.world.proxy.writes().len() >= 5 + 2).await;
    live.calm().await;
    let writes = live.world.proxy.writes();
    assert_eq!(writes.len(), 5 + 2, "{writes:?}");
    assert_eq!(live.daemon.said().matches("undone again and again").count(), 1, "said once");
    live.daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fight_over_a_name_is_slowed_down_and_nothing_else_is_in_room_version_10() {
    a_fight_is_slowed_down("10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fight_over_a_name_is_slowed_down_and_nothing_else_is_in_room_version_11() {
    a_fight_is_slowed_down("11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fight_over_a_name_is_slowed_down_and_nothing_else_is_in_room_version_12() {
    a_fight_is_slowed_down("12").await;
}
