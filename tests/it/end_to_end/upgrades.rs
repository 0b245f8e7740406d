//! Spaces and rooms of usher's that people upgrade (S-31), on a real Synapse, from and to room versions 10, 11 and 12: with all means, with
//! admin rights alone and with none, while usher runs and while it is stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use usher::ids::RoomId;

use super::live::put;
use super::stage::Stage;
use super::world::{THINGS, World, merge, until};
use crate::lab::proxy::Fault;
use crate::lab::synapse::escape;

const LEVELS: &str = "m.room.power_levels";
const CHILD: &str = "m.space.child";
const PARENT: &str = "m.space.parent";
const MARKER: &str = "dev.usher.managed";

/// A company of this room version in which `ann` has 100 everywhere and may replace rooms; she and Dan are in the company's space, in the
/// red one and in their rooms.
async fn company(version: &str, (admin, puppets): (bool, bool)) -> World {
    let mut world = World::bare(Stage::shared().await).await;
    if admin {
        world.bootstrap().await;
    }
    if puppets {
        merge(&mut world.config, &json!({ "appservice": { "puppet_registration": "usher-puppet.yaml" } }));
    }
    world.groups.insert("chiefs".to_owned(), ["ann".to_owned()].into());
    let chiefs = json!({ "externalId": "chiefs", "powerLevel": 100 });
    let team = |id: &str, name: &str| json!({ "id": id, "name": name, "groups": [{ "externalId": id }, chiefs] });
    let levels = json!({ "events": { "m.room.tombstone": 100 } });
    let general = json!({ "name": "General", "power_level_content_override": levels });
    world.config["provisioner"]["default_rooms"] = json!([{ "id": "general", "properties": general }]);
    world.config["provisioner"]["room_version"] = json!(version);
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.config["spaces"] = json!([{
        "id": "org", "name": "Company", "groups": [chiefs], "subspaces": [team("red", "Red team"), team("blue", "Blue team")],
    }]);
    world.open_account("mal").await;
    world.write();
    world.settle().await;
    for name in ["ann", "dan"] {
        for thing in ["org", "red", "org/general", "red/general"] {
            world.join(name, thing).await;
        }
    }
    world
}

impl World {
    /// Replaces a room as somebody's client does.
    async fn upgrade(&self, by: &str, room: &RoomId, version: &str) -> RoomId {
        let path = format!("/_matrix/client/v3/rooms/{}/upgrade", escape(room.as_str()));
        let (status, answer) = self.as_person(by, "POST", &path, json!({ "new_version": version })).await;
        assert_eq!(status, 200, "{answer}");
        answer["replacement_room"].as_str().unwrap().into()
    }

    /// Who is joined or invited, as `ann` sees it.
    async fn inside_of(&self, room: &RoomId) -> BTreeSet<String> {
        let path = format!("/_matrix/client/v3/rooms/{}/members", escape(room.as_str()));
        let (status, answer) = self.as_person("ann", "GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        let events = answer["chunk"].as_array().unwrap().iter();
        let inside = events.filter(|event| matches!(event["content"]["membership"].as_str(), Some("join" | "invite")));
        let users = inside.map(|event| event["state_key"].as_str().unwrap_or_default());
        users.filter(|user| *user != self.bot()).map(|user| self.short(user)).collect()
    }

    async fn marker(&self, room: &RoomId) -> Value {
        self.state(room, MARKER, &self.bot()).await
    }

    async fn links(&self, from: &RoomId, kind: &str, to: &RoomId) -> bool {
        self.state(from, kind, to.as_str()).await["via"].is_array()
    }

    /// Whether the new room is what the old one was: marked, found by its alias, hanging where that hung, with everybody in it, and the bot
    /// out of the old one.
    async fn is_followed(
        &self,
        (thing, above): (&str, &str),
        (old, new): (&RoomId, &RoomId),
        before: &BTreeSet<String>,
    ) -> bool {
        let marked = self.marker(new).await["former"].as_array().is_some_and(|former| former.contains(&json!(old)));
        if !marked || self.resolve(&self.alias(thing)).await.as_ref() != Some(new) {
            return false;
        }
        let rooms = self.bot_rooms().await;
        let mut followed = rooms.contains(new) && !rooms.contains(old) && self.inside(thing).await == *before;
        if !above.is_empty() {
            let space = self.room(above).await;
            followed &= self.links(&space, CHILD, new).await && self.links(new, PARENT, &space).await;
            followed &= !self.links(&space, CHILD, old).await;
        }
        followed
    }

    /// Everything in every room, by who is joined or invited.
    async fn everybody(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut all = BTreeMap::new();
        for thing in THINGS {
            all.insert(thing, self.inside(thing).await);
        }
        all
    }

    /// The bot made nothing, nobody was taken out of anything, there is one room for each thing, and nothing is left to do.
    async fn must_be_whole(&self, made: &BTreeSet<RoomId>) {
        assert_eq!(self.made_rooms().await, *made, "nothing was made in its place");
        self.assert_no_doubles().await;
        assert_eq!(self.removed().await, BTreeSet::new());
        self.must_be_settled().await;
    }
}

/// Every space and room that Ann can replace, one after the other, while usher runs.
async fn upgrades_are_followed(version: &'static str, next: &'static str) {
    let world = company(version, (true, true)).await;
    let (before, made) = (world.everybody().await, world.made_rooms().await);
    let daemon = world.start(&["run"]);
    until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
    // From version 12 on nobody but its creator replaces a space of usher's.
    let things: &[(&str, &str)] = match version {
        "12" => &[("red/general", "red"), ("org/general", "org")],
        _ => &[("red/general", "red"), ("red", "org"), ("org", ""), ("org/general", "org")],
    };
    for &(thing, above) in things {
        let old = world.room(thing).await;
        let new = world.upgrade("ann", &old, next).await;
        let start = Instant::now();
        until(&format!("{thing} is followed"), async || {
            world.is_followed((thing, above), (&old, &new), &before[thing]).await
        })
        .await;
        println!("upgrades: {thing} from {version} to {next} followed after {} ms", start.elapsed().as_millis());
        assert_eq!(world.inside_of(&old).await, before[thing], "the old room keeps its people");
    }
    hang_together(&world).await;
    assert_eq!(world.everybody().await, before);
    daemon.stop().await.code(0);
    world.must_be_whole(&made).await;
    // Whoever has no right is taken out of the new ones as ever, and it is the directory that gives levels.
    assert_eq!(world.level("red/general", "dan").await, 0);
    let levels = world.state(&world.room("red/general").await, LEVELS, "").await;
    let bot = levels["users"][world.bot()].as_i64().unwrap_or_default();
    assert!(bot >= 100, "the bot has power: {levels}");
}

/// The tree is whole: links both ways, and rooms open to the space they are in.
async fn hang_together(world: &World) {
    for (below, above) in
        [("red", "org"), ("blue", "org"), ("org/general", "org"), ("red/general", "red"), ("blue/general", "blue")]
    {
        let (space, room) = (world.room(above).await, world.room(below).await);
        until(&format!("{below} hangs in {above}"), async || {
            world.links(&space, CHILD, &room).await && world.links(&room, PARENT, &space).await
        })
        .await;
        if below.contains('/') {
            until(&format!("{below} is open to {above}"), async || {
                let rule = world.state(&room, "m.room.join_rules", "").await;
                let allow = rule["allow"].as_array().cloned().unwrap_or_default();
                allow.len() == 1 && allow[0]["room_id"] == json!(space)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_upgrade_from_version_10_to_11_is_followed() {
    upgrades_are_followed("10", "11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_upgrade_from_version_11_to_12_is_followed() {
    upgrades_are_followed("11", "12").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_upgrade_from_version_12_to_12_is_followed() {
    upgrades_are_followed("12", "12").await;
}

/// A space with three children is replaced twice, its room once, a person leaves a room before and comes to none after: all while usher is
/// stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_while_usher_is_stopped_are_followed_at_the_next_pass() {
    let world = company("10", (true, true)).await;
    let (mut before, made) = (world.everybody().await, world.made_rooms().await);
    world.change("dan", "leave", "red/general", "dan").await;
    before.get_mut("red/general").unwrap().remove("dan");
    let (org, room) = (world.room("org").await, world.room("red/general").await);
    let between = world.upgrade("ann", &org, "11").await;
    let last = world.upgrade("ann", &between, "12").await;
    let new = world.upgrade("ann", &room, "12").await;
    world.usher(&["plan"]).await.code(2).says("people replaced the room by this one");
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.room("org").await, last);
    assert_eq!(world.room("red/general").await, new);
    let former = world.marker(&last).await["former"].clone();
    assert!([&org, &between].into_iter().all(|id| former.as_array().unwrap().contains(&json!(id))), "{former}");
    hang_together(&world).await;
    assert_eq!(world.everybody().await, before, "who left is not fetched back");
    assert_eq!(world.made_rooms().await, made);
    assert!(world.bot_rooms().await.contains(&room), "the old room remembers who left it");
    world.must_be_settled().await;
    // The database is lost: all of it is in Matrix.
    std::fs::remove_file(world.path("usher.db")).unwrap();
    let ended = world.usher(&["plan"]).await;
    assert!(!ended.out.contains("make space") && !ended.out.contains("adopt"), "{}", ended.out);
}

/// The homeserver that is not done with an upgrade yet sets the levels once more, over those that usher was just given. Here Ann does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_lost_while_an_upgrade_is_followed_is_taken_again_in_the_same_pass() {
    let world = company("12", (true, true)).await;
    let before = world.everybody().await;
    let old = world.room("red/general").await;
    let new = world.upgrade("ann", &old, "12").await;
    let (reached, marker) = tokio::sync::oneshot::channel();
    let mut reached = Some(reached);
    world.proxy.spoil(move |seen| {
        let marks = seen.method == "PUT" && seen.path.contains(MARKER);
        let told = reached.take_if(|_| marks)?.send(());
        told.is_ok().then_some(Fault::Delay(Duration::from_secs(5)))
    });
    let demote = async {
        marker.await.unwrap();
        let mut levels = world.state(&new, LEVELS, "").await;
        assert!(levels["users"].as_object_mut().unwrap().remove(&world.bot()).is_some(), "{levels}");
        assert_eq!(put(&world, "ann", &new, (LEVELS, ""), levels).await, 200);
    };
    world.proxy.clear();
    let (ended, ()) = tokio::join!(world.usher(&["apply", "--yes"]), demote);
    ended.says("403 M_FORBIDDEN");
    assert!(world.is_followed(("red/general", "red"), (&old, &new), &before["red/general"]).await, "{}", ended.out);
    let taken = world.proxy.writes().iter().filter(|write| write.ends_with("/make_room_admin")).count();
    assert!(taken >= 2, "{:?}", world.proxy.writes());
    world.must_be_settled().await;
}

/// An invite-only space of version 11, whose new one has the bot above whoever could lend it power: nobody but a person can ask it in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_puppets_a_new_invite_only_space_is_waited_for_and_entered_when_somebody_invites_the_bot() {
    for admin in [true, false] {
        let mut world = company("10", (admin, false)).await;
        let (mut before, made) = (world.everybody().await, world.made_rooms().await);
        let old = world.room("org").await;
        let daemon = world.start(&["run"]);
        until("a first pass", async || world.status().await["last_pass"]["result"] == "ok").await;
        let new = world.upgrade("ann", &old, "11").await;
        until("it says what it needs", async || {
            let out = world.usher(&["plan"]).await.out;
            out.contains("invite the bot to it") || out.contains("which the bot cannot see: invite")
        })
        .await;
        world.usher(&["check"]).await.says(if admin { "mapping" } else { "which the bot cannot see" });
        // The old one is held to its rule meanwhile.
        world.groups.get_mut("red").unwrap().remove("eve");
        world.write_source();
        for thing in ["org", "red", "org/general", "red/general"] {
            until(&format!("Eve is out of {thing}"), async || {
                let room = if thing == "org" { old.clone() } else { world.room(thing).await };
                !world.inside_of(&room).await.contains("eve")
            })
            .await;
            before.get_mut(thing).unwrap().remove("eve");
        }
        assert_eq!(world.made_rooms().await, made, "nothing is made in its place");
        let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(new.as_str()));
        let invited = world.as_person("ann", "POST", &path, json!({ "user_id": world.bot() })).await;
        assert_eq!(invited.0, 200, "{}", invited.1);
        until("it is followed", async || world.is_followed(("org", ""), (&old, &new), &before["org"]).await).await;
        hang_together(&world).await;
        assert_eq!(world.everybody().await, before);
        daemon.stop().await.code(0);
        assert_eq!(world.made_rooms().await, made);
        world.assert_no_doubles().await;
        world.must_be_settled().await;
    }
}

/// With admin rights alone the bot gets into a space of version 12, whose creator lends it power, and into a room that its space opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_admin_rights_alone_what_can_be_entered_is_followed() {
    let world = company("11", (true, false)).await;
    let (before, made) = (world.everybody().await, world.made_rooms().await);
    let (space, room) = (world.room("red").await, world.room("red/general").await);
    let (space, room) = (world.upgrade("ann", &space, "12").await, world.upgrade("ann", &room, "11").await);
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!((world.room("red").await, world.room("red/general").await), (space, room));
    assert_eq!(world.everybody().await, before);
    hang_together(&world).await;
    world.must_be_whole(&made).await;
}

/// The bot was thrown out, and then the room was replaced: the fencing alias still tells whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_replaced_while_the_bot_was_out_of_it_is_not_made_twice() {
    for admin in [true, false] {
        let world = company("11", (admin, false)).await;
        let (before, made) = (world.everybody().await, world.made_rooms().await);
        let old = world.room("red").await;
        let leave = format!("/_matrix/client/v3/rooms/{}/leave", escape(old.as_str()));
        assert_eq!(world.as_bot("POST", &leave, json!({})).await.0, 200);
        let new = world.upgrade("ann", &old, "11").await;
        world.usher(&["plan"]).await.says("could not be read");
        let check = world.usher(&["check"]).await;
        assert!(check.out.contains(new.as_str()) && check.out.contains("invite @"), "{}", check.out);
        world.usher(&["apply", "--yes"]).await;
        assert_eq!(world.made_rooms().await, made, "nothing is made in its place");
        let path = format!("/_matrix/client/v3/rooms/{}/invite", escape(new.as_str()));
        assert_eq!(world.as_person("ann", "POST", &path, json!({ "user_id": world.bot() })).await.0, 200);
        world.usher(&["apply", "--yes"]).await.code(0);
        assert_eq!(world.room("red").await, new);
        assert_eq!(world.everybody().await, before);
        hang_together(&world).await;
        world.must_be_whole(&made).await;
    }
}

/// Mal, who may make rooms like anybody, makes a space that says it replaces usher's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_merely_claims_to_replace_one_of_ours_is_nothing_to_us() {
    let world = company("11", (true, true)).await;
    let rooms = world.bot_rooms().await;
    let body = json!({
        "name": "Company", "preset": "public_chat", "invite": [world.bot()],
        "creation_content": { "type": "m.space", "predecessor": { "room_id": world.room("org").await } },
    });
    let (status, answer) = world.as_person("mal", "POST", "/_matrix/client/v3/createRoom", body).await;
    assert_eq!(status, 200, "{answer}");
    world.must_be_settled().await;
    assert_eq!(world.bot_rooms().await, rooms);
}
