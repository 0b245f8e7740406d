//! Rooms that people made and opened to their space (S-31, S-22), on a real Synapse, in room versions 10, 11 and 12: with admin rights and
//! with puppets, with either alone, and with neither.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::stage::Stage;
use super::world::{NAMES, World, merge};
use crate::lab::synapse::{SERVER_NAME, escape};

const VERSIONS: [&str; 3] = ["10", "11", "12"];

/// What usher may do.
#[derive(Clone, Copy)]
struct Means {
    admin: bool,
    puppets: bool,
}

/// A company whose spaces are made, with Ann, who leads, in the company's space, and two people who belong nowhere.
async fn company(means: Means, provisioner: Value) -> World {
    let mut world = World::bare(Stage::shared().await).await;
    if means.admin {
        world.bootstrap().await;
    }
    if means.puppets {
        merge(&mut world.config, &json!({ "appservice": { "puppet_registration": "usher-puppet.yaml" } }));
    }
    merge(&mut world.config, &json!({ "provisioner": provisioner }));
    for stranger in ["vip", "max"] {
        world.open_account(stranger).await;
    }
    world.write();
    world.settle().await;
    world.join("ann", "org").await;
    world
}

impl World {
    /// A room of `maker`'s, open to the company's space and hung into it by Ann. Bob, Cat and two strangers are in it, Bob with level 50,
    /// Cat and one of the strangers as high as the maker.
    async fn made_by(&self, maker: &str, version: &str) -> RoomId {
        let space = self.room("org").await;
        let body = json!({
            "room_version": version, "preset": "private_chat", "name": format!("Room of {maker}, version {version}"),
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": {
                "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }],
            } }],
        });
        let (status, answer) = self.as_person(maker, "POST", "/_matrix/client/v3/createRoom", body).await;
        assert_eq!(status, 200, "{answer}");
        let room: RoomId = answer["room_id"].as_str().unwrap().into();
        for guest in ["bob", "cat", "vip", "max"].into_iter().filter(|guest| *guest != maker) {
            let (status, answer) = self.in_room(maker, &room, "invite", json!({ "user_id": self.user(guest) })).await;
            assert_eq!(status, 200, "{answer}");
            let (status, answer) = self.in_room(guest, &room, "join", json!({})).await;
            assert_eq!(status, 200, "{answer}");
        }
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", escape(room.as_str()));
        let (_, mut levels) = self.as_person(maker, "GET", &path, Value::Null).await;
        for (name, level) in [("bob", 50), ("cat", 100), ("max", 100)] {
            levels["users"][self.user(name)] = level.into();
        }
        let (status, answer) = self.as_person(maker, "PUT", &path, levels).await;
        assert_eq!(status, 200, "{answer}");
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.space.child/{}",
            escape(space.as_str()),
            escape(room.as_str())
        );
        let (status, answer) = self.as_person("ann", "PUT", &path, json!({ "via": [SERVER_NAME] })).await;
        assert_eq!(status, 200, "{answer}");
        room
    }

    async fn in_room(&self, name: &str, room: &RoomId, verb: &str, body: Value) -> (u16, Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/{verb}", escape(room.as_str()));
        self.as_person(name, "POST", &path, body).await
    }

    /// Who is in what state in a room the bot is in, as `name` is `join`; the bot left out.
    async fn people(&self, room: &RoomId) -> BTreeMap<String, String> {
        let mut people = BTreeMap::new();
        for change in self.history(room).await {
            people.insert(change.who, change.membership);
        }
        people.remove(&self.bot());
        people
    }

    async fn levels(&self, room: &RoomId) -> BTreeMap<String, i64> {
        let levels = self.state(room, "m.room.power_levels", "").await;
        let users = levels["users"].as_object().unwrap().iter();
        users.map(|(user, level)| (self.short(user), level.as_i64().unwrap())).collect()
    }

    /// The company's people are in or invited, the strangers are not but for `staying`, and the marker says whose the room was.
    async fn assert_taken(&self, room: &RoomId, maker: &str, staying: &[&str]) {
        let marker = self.state(room, "dev.usher.managed", &self.bot()).await;
        assert_eq!(marker["original_creator"], self.user(maker), "{marker}");
        assert_eq!(marker["key"]["room"]["slot"], room.as_str(), "{marker}");
        let people = self.people(room).await;
        let inside = people.iter().filter(|(_, how)| matches!(how.as_str(), "join" | "invite"));
        let inside: BTreeSet<&str> = inside.map(|(name, _)| name.as_str()).collect();
        assert_eq!(inside, NAMES.iter().chain(staying).copied().collect());
        for (name, how) in [("bob", "join"), ("dan", "invite")] {
            assert_eq!(people[name], how, "{name}");
        }
        let history = self.history(room).await;
        let told = history.iter().filter(|change| change.who == "vip" && change.membership == "leave");
        assert!(told.into_iter().all(|change| change.reason.contains("groups only")), "{history:?}");
    }

    /// The bot's name among levels, below version 12 and above.
    fn with_bot(&self, level: i64, others: &[(&str, i64)]) -> BTreeMap<String, i64> {
        let others = others.iter().map(|(name, level)| ((*name).to_owned(), *level));
        others.chain([(self.bot(), level)]).collect()
    }
}

/// Rooms of all versions, taken over in one pass.
async fn taken(world: &World) -> Vec<RoomId> {
    let mut rooms = Vec::new();
    for version in VERSIONS {
        rooms.push(world.made_by("ann", version).await);
    }
    world.usher(&["apply", "--yes"]).await.code(0);
    rooms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_puppets_alone_rooms_of_every_version_are_taken_over_and_held() {
    let world = company(Means { admin: false, puppets: true }, json!({ "forget": true })).await;
    let rooms = taken(&world).await;
    for (room, version) in rooms.iter().zip(VERSIONS) {
        world.assert_taken(room, "ann", &[]).await;
        let expected = match version {
            // The creator of version 12 stands above all and is listed nowhere.
            "12" => world.with_bot(150, &[("gus", 50)]),
            _ => world.with_bot(100, &[("ann", 50), ("gus", 50)]),
        };
        assert_eq!(world.levels(room).await, expected, "version {version}");
        // An equal is lowered as themselves; of version 12 the bot stands above them.
        let levels = world.events(room, "m.room.power_levels").await;
        let by_max = levels.iter().filter(|event| event["sender"] == world.user("max")).count();
        assert_eq!(by_max, usize::from(version != "12"), "version {version}");
        // Forgotten: a room somebody left and forgot cannot be looked into any more.
        let path = format!("/_matrix/client/v3/rooms/{}/members", escape(room.as_str()));
        assert_eq!(world.as_person("vip", "GET", &path, Value::Null).await.0, 403);
    }
    world.usher(&["plan"]).await.code(0).says("v12_creators: tolerate");
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_admin_rights_alone_rooms_are_taken_over_and_equals_are_shown() {
    let world = company(Means { admin: true, puppets: false }, json!({})).await;
    let rooms = taken(&world).await;
    for (room, version) in rooms.iter().zip(VERSIONS) {
        world.assert_taken(room, "ann", &["max"]).await;
        let maker = if version == "12" { None } else { Some(("ann", 100)) };
        let others: Vec<_> = [("cat", 100), ("max", 100), ("gus", 50)].into_iter().chain(maker).collect();
        assert_eq!(world.levels(room).await, world.with_bot(100, &others), "version {version}");
    }
    world.usher(&["plan"]).await.code(0).says("appservice.puppet_registration");
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_means_the_bot_stays_out_and_a_registration_that_is_missing_is_named() {
    let mut world = company(Means { admin: false, puppets: false }, json!({})).await;
    let room = world.made_by("ann", "11").await;
    world.usher(&["apply", "--yes"]).await.code(0);
    assert!(!world.bot_rooms().await.contains(&room));
    world.usher(&["plan"]).await.code(0).says("enter").says("puppet_registration");
    world.must_be_settled().await;
    merge(&mut world.config, &json!({ "appservice": { "puppet_registration": "nowhere.yaml" } }));
    world.write();
    world.usher(&["plan"]).await.code(78).says("appservice.puppet_registration").says("nowhere.yaml");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creator_of_version_12_who_does_not_belong_leaves_where_the_policy_says_so() {
    let world = company(Means { admin: true, puppets: true }, json!({ "v12_creators": "remove" })).await;
    let room = world.made_by("vip", "12").await;
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_taken_from("vip", &room).await;
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_waits_for_a_yes_and_is_carried_to_its_end() {
    let provisioner = json!({ "v12_creators": "upgrade", "invite_to_public_rooms": false });
    let world = company(Means { admin: true, puppets: true }, provisioner).await;
    let old = world.made_by("ann", "12").await;
    world.usher(&["apply", "--yes"]).await.code(3);
    world.usher(&["plan"]).await.code(3).says("room to be upgraded");
    assert_eq!(world.state(&old, "m.room.tombstone", "").await, Value::Null);
    world.usher(&["hold", "approve", "--all"]).await.code(0);
    world.usher(&["apply", "--yes"]).await.code(0);
    let tombstone = world.state(&old, "m.room.tombstone", "").await;
    let new: RoomId = tombstone["replacement_room"].as_str().expect("a successor").into();
    let space = world.room("org").await;
    assert_eq!(world.state(&space, "m.space.child", old.as_str()).await, json!({}));
    assert_eq!(world.state(&space, "m.space.child", new.as_str()).await["via"], json!([SERVER_NAME]));
    let create = world.state(&new, "m.room.create", "").await;
    assert_eq!(create["predecessor"]["room_id"], old.as_str(), "{create}");
    // Whoever was in the old room and belongs there is asked into the new one, and nobody stands above the bot.
    let people = world.people(&new).await;
    let asked: BTreeSet<&str> =
        people.iter().filter(|(_, how)| *how == "invite").map(|(name, _)| name.as_str()).collect();
    assert_eq!(asked, BTreeSet::from(["ann", "bob", "cat"]));
    assert_eq!(world.levels(&new).await, BTreeMap::from([("ann".to_owned(), 50)]));
    let marker = world.state(&new, "dev.usher.managed", &world.bot()).await;
    assert_eq!(marker["original_creator"], world.user("ann"), "{marker}");
    world.must_be_settled().await;
}

impl World {
    /// Nobody but the company's people is in a room whose maker was no part of it.
    async fn assert_taken_from(&self, maker: &str, room: &RoomId) {
        let marker = self.state(room, "dev.usher.managed", &self.bot()).await;
        assert_eq!(marker["original_creator"], self.user(maker), "{marker}");
        let people = self.people(room).await;
        assert_eq!(people[maker], "leave");
        let inside = people.iter().filter(|(_, how)| matches!(how.as_str(), "join" | "invite"));
        let inside: BTreeSet<&str> = inside.map(|(name, _)| name.as_str()).collect();
        assert_eq!(inside, NAMES.iter().copied().collect());
        let history = self.history(room).await;
        let left = history.iter().find(|change| change.who == maker && change.membership == "leave").unwrap();
        assert_eq!(left.by, self.user(maker));
    }
}
