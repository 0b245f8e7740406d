//! Adoption (S-12, S-81) of what people made before usher came: spaces and rooms of versions 9 to 12 with guests, knocks, bans, a bridge's
//! ghost and odd levels, adopted with `observe`, then `additive`, then `strict`, space by space. After each stage the whole history of
//! every room is read: nobody was removed, and nobody lowered, whom nobody agreed to.
//!
//! 60 people, 6 spaces and 12 rooms; with `USHER_LONG=1` 500, 30 and 100.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::stage::Stage;
use super::world::{World, until};
use crate::lab::synapse::{SERVER_NAME, escape};

/// How large the company is.
#[derive(Clone, Copy)]
struct Size {
    people: usize,
    spaces: usize,
    rooms: usize,
}

impl Size {
    fn chosen() -> Self {
        if std::env::var_os("USHER_LONG").is_some() {
            Self { people: 500, spaces: 30, rooms: 100 }
        } else {
            Self { people: 60, spaces: 6, rooms: 12 }
        }
    }
}

/// Who is what in a department, by their place in its list.
mod place {
    /// Made everything, and leads.
    pub const FOUNDER: usize = 0;
    /// Has a level the directory does not know.
    pub const ODD: usize = 1;
    /// Has not come yet.
    pub const MISSING: [usize; 2] = [2, 5];
    pub const BANNED: usize = 7;
    pub const LEFT: usize = 8;
}

/// A space or room that was there before usher.
struct Site {
    /// `d0`, or `d0/r3`.
    thing: String,
    department: usize,
    room: RoomId,
    /// Joined or invited before, people of other departments among them.
    before: BTreeSet<String>,
    /// Who has no right to be there.
    guests: BTreeSet<String>,
    levels: Value,
}

struct Brownfield {
    world: World,
    size: Size,
    ghost: String,
    sites: Vec<Site>,
}

impl Brownfield {
    async fn new(size: Size) -> Self {
        let stage = Stage::with_slots(2).await;
        let bridge = stage.slot();
        let mut world = World::bare(stage).await;
        world.bootstrap().await;
        for number in 0..size.people {
            let name = name(number);
            world.employ(&name);
            world.open_account(&name).await;
            world.groups.entry(format!("d{}", number % size.spaces)).or_default().insert(name.clone());
            if number < size.spaces {
                world.groups.insert(format!("l{number}"), [name].into());
            }
        }
        let ghost = format!("@{}:{SERVER_NAME}", bridge.bot);
        let body = json!({ "type": "m.login.application_service", "username": bridge.bot, "inhibit_login": true });
        let (status, answer) = world.request(&bridge.tokens[0], "POST", "/_matrix/client/v3/register", body).await;
        assert_eq!(status, 200, "{answer}");
        let mut field = Self { world, size, ghost, sites: Vec::new() };
        for department in 0..size.spaces {
            let space = field.found(department, None, &bridge.tokens[0]).await;
            field.sites.push(space);
        }
        for room in 0..size.rooms {
            let made = field.found(room % size.spaces, Some(room), &bridge.tokens[0]).await;
            field.sites.push(made);
        }
        field
    }

    /// The person at a place of a department's list.
    fn at(&self, department: usize, place: usize) -> String {
        name(department % self.size.spaces + place * self.size.spaces)
    }

    fn staff(&self, department: usize) -> BTreeSet<String> {
        self.world.groups[&format!("d{department}")].clone()
    }

    /// Makes a space, or a room in one, as its people did, years ago.
    async fn found(&self, department: usize, room: Option<usize>, bridge: &str) -> Site {
        let world = &self.world;
        let founder = self.at(department, place::FOUNDER);
        let number = room.unwrap_or(department);
        let version = (9 + number % 4).to_string();
        let parent = room.map(|_| self.sites[department].room.clone());
        let mut body = json!({ "preset": "public_chat", "room_version": version, "name": format!("Old {number}") });
        if parent.is_none() {
            body["creation_content"] = json!({ "type": "m.space" });
        }
        let made = self.must(&founder, "POST", "/_matrix/client/v3/createRoom", body).await;
        let id = RoomId::from(made["room_id"].as_str().unwrap());
        let (mut before, mut guests) = (BTreeSet::from([founder.clone()]), BTreeSet::new());
        for (index, member) in self.staff(department).iter().enumerate() {
            // The list is in the order of the names, and the names are in the order of the places.
            if index != place::FOUNDER && !place::MISSING.contains(&index) {
                self.must(member, "POST", &join(&id), json!({})).await;
                before.insert(member.clone());
            }
        }
        for guest in [self.at(department + 1, 1), self.at(department + 1, 3)] {
            self.must(&guest, "POST", &join(&id), json!({})).await;
            guests.insert(guest);
        }
        let path = format!("{}?user_id={}", join(&id), escape(&self.ghost));
        assert_eq!(world.request(bridge, "POST", &path, json!({})).await.0, 200);
        self.trouble(department, &id, &mut before).await;
        let levels = self.odd_levels(department, number, &id).await;
        self.close(department, number, (&id, parent.as_ref()), &mut guests).await;
        before.extend(guests.iter().cloned());
        let thing = room.map_or_else(|| format!("d{department}"), |room| format!("d{department}/r{room}"));
        Site { thing, department, room: id, before, guests, levels }
    }

    /// Somebody left, somebody was banned.
    async fn trouble(&self, department: usize, room: &RoomId, before: &mut BTreeSet<String>) {
        let (left, banned) = (self.at(department, place::LEFT), self.at(department, place::BANNED));
        self.must(&left, "POST", &in_room(room, "leave"), json!({})).await;
        let founder = self.at(department, place::FOUNDER);
        let body = json!({ "user_id": self.world.user(&banned) });
        self.must(&founder, "POST", &in_room(room, "ban"), body).await;
        before.remove(&left);
        before.remove(&banned);
    }

    async fn odd_levels(&self, department: usize, number: usize, room: &RoomId) -> Value {
        let founder = self.at(department, place::FOUNDER);
        let path = in_room(room, "state/m.room.power_levels");
        let mut levels = self.must(&founder, "GET", &path, Value::Null).await;
        levels["users"][self.world.user(&self.at(department, place::ODD))] = json!(25);
        levels["users"][self.world.user(&self.at(department + 1, 1))] = json!(50);
        levels["users"][&self.ghost] = json!(40);
        if number % 3 == 2 {
            levels["events"]["m.room.power_levels"] = json!(75);
            levels["invite"] = json!(5);
        }
        self.must(&founder, "PUT", &path, levels.clone()).await;
        levels
    }

    /// From here on not everybody may come in; somebody knocks.
    async fn close(
        &self,
        department: usize,
        number: usize,
        (room, parent): (&RoomId, Option<&RoomId>),
        guests: &mut BTreeSet<String>,
    ) {
        let founder = self.at(department, place::FOUNDER);
        let rule = match (parent, number % 4) {
            (Some(space), 0) => json!({
                "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }],
            }),
            (_, 1) => json!({ "join_rule": "knock" }),
            (_, 2) => json!({ "join_rule": "public" }),
            _ => json!({ "join_rule": "invite" }),
        };
        self.must(&founder, "PUT", &in_room(room, "state/m.room.join_rules"), rule.clone()).await;
        if rule["join_rule"] == "knock" {
            let path = format!("/_matrix/client/v3/knock/{}", escape(room.as_str()));
            for knocker in [self.at(department, place::MISSING[0]), self.at(department + 2, 1)] {
                self.must(&knocker, "POST", &path, json!({})).await;
            }
            guests.insert(self.at(department + 2, 1));
        }
        if let Some(space) = parent {
            let path = in_room(space, &format!("state/m.space.child/{}", escape(room.as_str())));
            self.must(&founder, "PUT", &path, json!({ "via": [SERVER_NAME] })).await;
        }
    }

    async fn must(&self, name: &str, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.world.as_person(name, method, path, body).await;
        assert_eq!(status, 200, "{name} {method} {path}: {answer}");
        answer
    }

    /// Writes the configuration: each space as strict as `enforce` says, with these people let in beyond the directory.
    fn configure(&mut self, enforce: impl Fn(usize) -> &'static str, welcome: &BTreeMap<usize, String>) {
        let site =
            |thing: &str| self.sites.iter().find(|site| site.thing == thing).map(|site| site.room.to_string()).unwrap();
        let spaces: Vec<Value> = (0..self.size.spaces)
            .map(|space| {
                let rooms = (0..self.size.rooms).filter(|room| room % self.size.spaces == space);
                let rooms: Vec<Value> = rooms
                    .map(|room| json!({ "id": format!("r{room}"), "adopt": site(&format!("d{space}/r{room}")) }))
                    .collect();
                json!({
                    "id": format!("d{space}"), "name": format!("Department {space}"), "enforce": enforce(space),
                    "adopt": site(&format!("d{space}")), "rooms": rooms,
                    "groups": [{ "externalId": format!("d{space}") }, { "externalId": format!("l{space}"), "powerLevel": 50 }],
                })
            })
            .collect();
        let exceptions: Vec<Value> = welcome
            .iter()
            .map(|(space, guest)| {
                json!({ "user": self.world.user(guest), "space": format!("d{space}"), "reason": "works with them" })
            })
            .collect();
        self.world.config = json!({ "provisioner": { "max_rate": 1000 }, "spaces": spaces, "exceptions": exceptions });
        self.world.write();
    }

    /// Whom usher took out of what, by the histories of all rooms: as itself, or as a puppet.
    async fn removed(&self) -> BTreeSet<(String, String)> {
        let mut removed = BTreeSet::new();
        for site in &self.sites {
            for event in self.world.events(&site.room, "m.room.member").await {
                let ours = event["sender"] == self.world.bot() || !event["content"]["dev.usher.removed"].is_null();
                if ours && matches!(event["content"]["membership"].as_str(), Some("leave" | "ban")) {
                    removed.insert((site.thing.clone(), self.world.short(event["state_key"].as_str().unwrap())));
                }
            }
        }
        removed
    }

    /// Everybody who is to be let in is, beside those who were there; nobody who left or was banned is asked again.
    async fn assert_everybody_is_in(&self) {
        for site in &self.sites {
            let apart = [place::LEFT, place::BANNED].map(|place| self.at(site.department, place));
            let mut expected = site.before.clone();
            expected.extend(self.staff(site.department).into_iter().filter(|name| !apart.contains(name)));
            expected.insert(self.ghost.clone());
            let inside = self.world.inside(&site.thing).await;
            let knocking: BTreeSet<String> = site.guests.difference(&inside).cloned().collect();
            assert_eq!(inside.union(&knocking).cloned().collect::<BTreeSet<_>>(), expected, "{}", site.thing);
            assert_eq!(self.world.room(&site.thing).await, site.room, "it is the room that was there");
        }
    }

    /// Who has a lower level than at the beginning.
    async fn lowered(&self) -> BTreeSet<(String, String)> {
        let mut lowered = BTreeSet::new();
        for site in &self.sites {
            let now = self.world.state(&site.room, "m.room.power_levels", "").await;
            for (user, before) in site.levels["users"].as_object().unwrap() {
                if now["users"][user].as_i64().unwrap_or(0) < before.as_i64().unwrap() {
                    lowered.insert((site.thing.clone(), self.world.short(user)));
                }
            }
        }
        lowered
    }

    /// The id of the hold for what a space's adoption takes away.
    async fn hold_of(&self, space: usize) -> Option<String> {
        let listed = self.world.usher(&["hold", "list", "--json"]).await;
        let holds: Value = serde_json::from_str(&listed.code(0).out).unwrap();
        let here = |hold: &&Value| {
            hold["class"] == "adoption" && hold["detail"].as_str().unwrap().contains(&format!("[d{space}]"))
        };
        holds.as_array().unwrap().iter().find(here).map(|hold| hold["id"].as_str().unwrap().to_owned())
    }

    /// Guests of the spaces for which `of` holds, but for those who are welcome, and everything they are to be taken out of.
    fn unwanted(&self, of: impl Fn(usize) -> bool, welcome: &BTreeMap<usize, String>) -> BTreeSet<(String, String)> {
        let mut unwanted = BTreeSet::new();
        for site in self.sites.iter().filter(|site| of(site.department)) {
            let strangers = site.guests.iter().filter(|guest| welcome.get(&site.department) != Some(guest));
            unwanted.extend(strangers.map(|guest| (site.thing.clone(), guest.clone())));
        }
        unwanted
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_made_before_is_adopted_without_an_unwanted_kick_at_any_stage() {
    let mut field = Brownfield::new(Size::chosen()).await;
    let nobody = BTreeMap::new();

    // Looking first: everything is shown, and the bot goes nowhere.
    field.configure(|_| "observe", &nobody);
    let looked = field.world.usher(&["plan"]).await;
    let guest = field.world.local(&field.at(1, 3));
    looked.says(&format!("remove @{guest}")).says("enforce: observe").says("take power");
    field.world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(field.world.bot_rooms().await, BTreeSet::new());

    // Adding: the rooms are managed, who is missing is asked in, nothing is taken from anybody.
    field.configure(|_| "additive", &nobody);
    field.world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(field.removed().await, BTreeSet::new());
    assert_eq!(field.lowered().await, BTreeSet::new());
    field.assert_everybody_is_in().await;
    assert_eq!(field.world.bot_rooms().await, field.sites.iter().map(|site| site.room.clone()).collect());
    field.world.must_be_settled().await;

    // Strict for half of the spaces: what that means waits, however often it is applied.
    let half = field.size.spaces / 2;
    let stage = move |space: usize| if space < half { "strict" } else { "additive" };
    field.configure(stage, &nobody);
    for _ in 0..2 {
        field.world.usher(&["apply", "--yes"]).await.code(3);
        assert_eq!(field.removed().await, BTreeSet::new());
        assert_eq!(field.lowered().await, BTreeSet::new());
    }

    // One guest of the first space is let in; the rest of it is approved. Nothing happens anywhere else.
    let mut welcome = BTreeMap::from([(0, field.at(1, 3))]);
    field.configure(stage, &welcome);
    field.world.usher(&["apply", "--yes"]).await.code(3);
    let hold = field.hold_of(0).await.expect("the first space waits");
    field.world.usher(&["hold", "show", &hold]).await.code(0).says(&field.world.user(&field.at(1, 1)));
    field.world.usher(&["hold", "approve", &hold]).await.code(0);
    field.world.usher(&["apply", "--yes"]).await.code(3);
    assert_eq!(field.removed().await, field.unwanted(|space| space == 0, &welcome));
    assert!(field.lowered().await.iter().all(|(thing, _)| thing.starts_with("d0")));

    // Strict everywhere, another guest let in, and everything approved.
    welcome.insert(1, field.at(2, 3));
    field.configure(|_| "strict", &welcome);
    field.world.usher(&["apply", "--yes"]).await.code(3);
    assert_eq!(field.removed().await, field.unwanted(|space| space == 0, &welcome));
    field.world.usher(&["hold", "approve", "--all"]).await.code(0);
    field.world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(field.removed().await, field.unwanted(|_| true, &welcome));
    field.world.must_be_settled().await;
    stays_ordinary(field, &welcome).await;
}

/// Once adopted, the limits are all: somebody who changes the department is taken out like anywhere else.
async fn stays_ordinary(mut field: Brownfield, welcome: &BTreeMap<usize, String>) {
    for site in &field.sites {
        let marker = field.world.state(&site.room, "dev.usher.managed", &field.world.bot()).await;
        assert_eq!(marker["original_creator"], field.world.user(&field.at(site.department, place::FOUNDER)));
    }
    let mover = field.at(0, 4);
    field.world.transfer(&mover, "d0", "d1");
    field.world.write_source();
    field.world.usher(&["apply", "--yes"]).await.code(0);
    let mut removed = field.unwanted(|_| true, welcome);
    let left = field.sites.iter().filter(|site| site.department == 0);
    removed.extend(left.map(|site| (site.thing.clone(), mover.clone())));
    assert_eq!(field.removed().await, removed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admin_rights_an_invitation_is_asked_for_and_enough() {
    let mut world = World::bare(Stage::shared().await).await;
    let room = old_space(&world, "10").await;
    world.config = adopting(&room);
    world.write();
    world.usher(&["apply", "--yes"]).await.code(0);
    world.usher(&["plan"]).await.says("invite the bot");
    let invite = json!({ "user_id": world.bot() });
    assert_eq!(world.as_person("bob", "POST", &in_room(&room, "invite"), invite).await.0, 200);
    // In, and too weak to do anything.
    world.usher(&["apply", "--yes"]).await.code(0);
    world.usher(&["plan"]).await.says("give the bot level 100");
    assert_eq!(world.bot_rooms().await, [room.clone()].into());
    // Bob, whom the puppet registration admits, is acted for.
    world.config["appservice"] = json!({ "puppet_registration": "usher-puppet.yaml" });
    world.write();
    world.usher(&["apply", "--yes"]).await.code(3);
    assert_eq!(world.room("old").await, room);
    assert_eq!(world.inside("old").await, world.groups["red"]);
    // He made the space, and lowers himself only once somebody has said yes.
    assert_eq!(world.level("old", "bob").await, 100);
    world.usher(&["hold", "approve", "--all"]).await.code(0);
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.level("old", "bob").await, 0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_usher_follows_an_invitation_to_what_it_is_to_adopt() {
    let mut world = World::bare(Stage::shared().await).await;
    let (room, other) = (old_space(&world, "11").await, old_space(&world, "11").await);
    world.config = adopting(&room);
    world.write();
    let daemon = world.start(&["run"]);
    until("it is ready", async || world.ops("/ready").await.0 == 200).await;
    let path = in_room(&room, "state/m.room.power_levels");
    let (_, mut levels) = world.as_person("bob", "GET", &path, Value::Null).await;
    levels["users"][world.bot()] = json!(100);
    assert_eq!(world.as_person("bob", "PUT", &path, levels).await.0, 200);
    for room in [&other, &room] {
        let invite = json!({ "user_id": world.bot() });
        assert_eq!(world.as_person("bob", "POST", &in_room(room, "invite"), invite).await.0, 200);
    }
    until("it is adopted", async || world.resolve(&world.alias("old")).await.as_ref() == Some(&room)).await;
    until("the team is in", async || world.inside("old").await == world.groups["red"]).await;
    until("the adoption is over", async || {
        let marker = world.state(&room, "dev.usher.managed", &world.bot()).await;
        marker["key"].is_object() && marker["adopted"].is_null()
    })
    .await;
    daemon.stop().await.code(0);
    assert_eq!(world.bot_rooms().await, [room].into(), "other invitations are not taken up");
    world.must_be_settled().await;
}

/// A private space of Bob's.
async fn old_space(world: &World, version: &str) -> RoomId {
    let body = json!({
        "name": "Old", "creation_content": { "type": "m.space" }, "room_version": version, "preset": "private_chat",
    });
    let (status, made) = world.as_person("bob", "POST", "/_matrix/client/v3/createRoom", body).await;
    assert_eq!(status, 200, "{made}");
    RoomId::from(made["room_id"].as_str().unwrap())
}

fn adopting(room: &RoomId) -> Value {
    json!({
        "provisioner": { "max_rate": 1000 },
        "spaces": [{ "id": "old", "name": "Old", "adopt": room, "groups": [{ "externalId": "red" }] }],
    })
}

fn name(number: usize) -> String {
    format!("p{number:03}")
}

fn join(room: &RoomId) -> String {
    format!("/_matrix/client/v3/join/{}", escape(room.as_str()))
}

fn in_room(room: &RoomId, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", escape(room.as_str()))
}
