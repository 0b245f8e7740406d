//! Clean-up on a real homeserver (S-40 to S-42, S-86, S-106): a space is abandoned, a room released, and a crash in between finished.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use usher::ids::RoomId;
use usher::observed::MARKER_TYPE;

use super::world::{World, until};
use crate::lab::synapse::escape;

impl World {
    /// The company is everybody's whatever teams there are.
    fn open_company(&mut self) {
        let all = ["red", "blue"].map(|group| json!({ "externalId": group }));
        self.config["spaces"][0]["groups"].as_array_mut().unwrap().extend(all);
        self.write();
    }

    fn configure_clean_up(&mut self, enabled: bool) {
        self.config["provisioner"]["gc"] = json!({ "enabled": enabled });
        self.write();
    }

    /// Takes one of the teams out of the configuration; back comes what was there.
    fn close_team(&mut self, id: &str) -> Value {
        let teams = self.config["spaces"][0]["subspaces"].as_array_mut().unwrap();
        let at = teams.iter().position(|team| team["id"] == id).expect("a team");
        let team = teams.remove(at);
        self.write();
        team
    }

    /// A room's state as a server admin sees it: also where the bot is no longer in.
    async fn whole_state(&self, room: &RoomId) -> Vec<Value> {
        let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(room.as_str()));
        let (status, answer) = self.as_admin("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer["state"].as_array().unwrap().clone()
    }

    async fn content(&self, room: &RoomId, kind: &str, key: &str) -> Value {
        let state = self.whole_state(room).await.into_iter();
        let found = state.into_iter().find(|event| event["type"] == kind && event["state_key"] == key);
        found.map_or(Value::Null, |event| event["content"].clone())
    }

    /// Who is what in a room, the bot too.
    async fn memberships(&self, room: &RoomId) -> BTreeMap<String, String> {
        let events = self.whole_state(room).await.into_iter().filter(|event| event["type"] == "m.room.member");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.map(|event| (self.short(&text(&event["state_key"])), text(&event["content"]["membership"]))).collect()
    }

    /// Everything of one kind that ever happened in a room, the newest first. The homeserver forgets the state of rooms it has left.
    async fn told(&self, room: &RoomId, kind: &str) -> Vec<Value> {
        let filter = escape(&json!({ "types": [kind] }).to_string());
        let room = escape(room.as_str());
        let path = format!("/_synapse/admin/v1/rooms/{room}/messages?dir=b&limit=500&filter={filter}");
        let (status, answer) = self.as_admin("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer["chunk"].as_array().unwrap().clone()
    }

    /// Nobody is left in it, nothing points to it, and its marker says why.
    async fn assert_abandoned(&self, team: &str, room: &RoomId) {
        let mut latest: BTreeMap<String, String> = BTreeMap::new();
        for event in self.told(room, "m.room.member").await {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            latest.entry(text(&event["state_key"])).or_insert_with(|| text(&event["content"]["membership"]));
        }
        assert_eq!(latest.len(), 6, "five people and usher: {latest:?}");
        assert!(latest.values().all(|membership| membership == "leave"), "{team} is empty: {latest:?}");
        assert_eq!(self.resolve(&self.alias(team)).await, None);
        assert_eq!(self.told(room, MARKER_TYPE).await[0]["content"]["abandoned"], true);
        let org = self.room("org").await;
        assert_eq!(self.state(&org, "m.space.child", room.as_str()).await, json!({}), "no link leads to it");
    }

    /// Its people are in it as before, `admin` administers it, and usher is out.
    async fn assert_released(&self, alias: &str, room: &RoomId, (admin, people): (&str, &[&str])) {
        let members = self.memberships(room).await;
        for name in people {
            assert!(matches!(members[*name].as_str(), "join" | "invite"), "{name} in {members:?}");
        }
        assert_eq!(members[&self.bot()], "leave");
        let levels = self.content(room, "m.room.power_levels", "").await;
        assert_eq!(levels["users"][self.user(admin)], 100, "{levels}");
        assert!(levels["events"]["m.room.tombstone"].as_i64().unwrap() <= 100, "{levels}");
        assert_eq!(self.resolve(&self.alias(alias)).await, None);
        assert_eq!(self.content(room, MARKER_TYPE, &self.bot()).await["abandoned"], true);
    }
}

const RED: [&str; 5] = ["ann", "bob", "cat", "dan", "eve"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_space_that_goes_is_shown_while_clean_up_is_off_and_abandoned_once_it_is_on() {
    let mut world = World::new().await;
    world.open_company();
    world.settle().await;
    for name in ["ann", "bob"] {
        world.join(name, "red").await;
        world.join(name, "red/general").await;
    }
    let (red, general, blue) = (world.room("red").await, world.room("red/general").await, world.room("blue").await);
    let team = world.close_team("red");

    world.usher(&["plan"]).await.code(0).says("provisioner.gc.enabled is off").says("Plan: nothing to do");
    world.must_be_settled().await;
    world.usher(&["check"]).await.code(0).says("1 space is and 1 room no longer managed");
    let shown = world.usher(&["explain", "red"]).await;
    shown.code(0).says("abandoned  no longer configured").says("not done   provisioner.gc.enabled is off");
    assert_eq!(world.memberships(&red).await["ann"], "join");

    world.configure_clean_up(true);
    world.usher(&["plan"]).await.code(2).says("1 space to abandon, 1 room to release");
    world.settle().await;
    world.assert_abandoned("red", &red).await;
    world.assert_released("red/general", &general, ("ann", &RED)).await;

    // A second one within the day waits for a yes, with everything that belongs to it.
    world.close_team("blue");
    for _ in 0..2 {
        world.usher(&["apply", "--yes"]).await.code(3).says("spaces abandoned: 2 spaces in 24 h, limit 1 of 3");
        assert_eq!(world.inside("blue").await.len(), 5);
    }
    world.usher(&["hold", "approve", "--all"]).await.code(0);
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_abandoned("blue", &blue).await;
    world.must_be_settled().await;

    // Configured again it is a new space.
    world.config["spaces"][0]["subspaces"] = json!([team]);
    world.write();
    world.settle().await;
    assert_ne!(world.room("red").await, red);
    assert_eq!(world.inside("red").await.len(), 5);
    assert_eq!(world.memberships(&general).await[&world.bot()], "leave");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_a_moderator_takes_out_is_released_at_once_and_stays_theirs() {
    let mut world = World::new().await;
    world.configure_clean_up(true);
    let daemon = world.start(&["run"]);
    until("everybody is in", async || world.is_right().await).await;
    for name in ["ann", "bob"] {
        world.join(name, "org").await;
        world.join(name, "org/general").await;
    }
    let (org, general) = (world.room("org").await, world.room("org/general").await);
    let path =
        format!("/_matrix/client/v3/rooms/{}/state/m.space.child/{}", escape(org.as_str()), escape(general.as_str()));
    let (status, answer) = world.as_person("ann", "PUT", &path, json!({})).await;
    assert_eq!(status, 200, "a moderator may: {answer}");
    // The source is polled once an hour: what is done now the feed brought about.
    until("usher is out of it", async || !world.bot_rooms().await.contains(&general)).await;
    daemon.stop().await.code(0);
    world.assert_released("org/general", &general, ("ann", &["ann", "bob", "gus"])).await;
    world.must_be_settled().await;
    assert_eq!(world.memberships(&general).await["bob"], "join");
    world.usher(&["plan"]).await.code(0).says("it is not made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_in_an_abandonment_finishes_it_and_does_nothing_twice() {
    for (red, blue) in [(2, 9), (6, 11)] {
        let mut world = World::new().await;
        world.open_company();
        world.configure_clean_up(true);
        world.config["safety"] = json!({ "limits": { "spaces": { "min": 9 } } });
        world.write();
        world.settle().await;
        for (team, person, writes) in [("red", "ann", red), ("blue", "fay", blue)] {
            let general = format!("{team}/general");
            world.join(person, team).await;
            world.join(person, &general).await;
            let (space, room) = (world.room(team).await, world.room(&general).await);
            world.close_team(team);
            let killed = kill_after(&world, writes).await;
            world.usher(&["apply", "--yes"]).await.code(0);
            world.must_be_settled().await;
            println!("{team}: killed after {writes} writes: {killed}");
            world.assert_abandoned(team, &space).await;
            world.assert_released(&general, &room, (person, &[person])).await;
            let kicks = world.told(&space, "m.room.member").await.into_iter();
            let kicks = kicks.filter(|event| event["sender"] == world.bot() && event["state_key"] != world.bot());
            let mut removed: BTreeMap<String, usize> = BTreeMap::new();
            for kick in kicks.filter(|event| event["content"]["membership"] == "leave") {
                *removed.entry(kick["state_key"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            assert_eq!(removed.len(), 5, "{removed:?}");
            assert!(removed.values().all(|times| *times == 1), "{removed:?}");
            let marks = world.told(&space, MARKER_TYPE).await;
            let given_up = marks.iter().filter(|event| event["content"]["abandoned"] == true).count();
            assert_eq!(given_up, 1, "{marks:?}");
        }
        assert_eq!(world.bot_rooms().await.len(), 2, "the company and its room");
    }
}

/// Starts an apply and kills it once so many writes were sent; `false`: it was over before.
async fn kill_after(world: &World, writes: usize) -> bool {
    world.proxy.clear();
    let mut usher = world.start(&["apply", "--yes"]);
    for _ in 0..20_000 {
        if world.proxy.writes().len() >= writes || usher.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if usher.has_ended() {
        usher.wait().await.code(0);
        return false;
    }
    usher.kill9();
    true
}
