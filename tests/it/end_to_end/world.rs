//! One test's company: people, groups, a configuration, and the usher that works for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use usher::store::Store;

use super::child::{Ended, Running};
use super::stage::{Slot, Stage};
use crate::lab::ports::free_port;
use crate::lab::proxy::{Proxy, client};
use crate::lab::synapse::{Person, SERVER_NAME};
use crate::stores::look_in;

/// Part of every mail address: must never be printed.
const CANARY: &str = "canary-mail.example";
/// How often, every 50 ms, something awaited is looked at.
const LOOKS: u32 = 2400;

/// A company on a stage.
pub struct World {
    pub stage: Arc<Stage>,
    pub slot: Slot,
    pub proxy: Proxy,
    pub folder: TempDir,
    pub http: reqwest::Client,
    /// Merged over the base configuration.
    pub config: Value,
    /// Everybody in the source: disabled or not.
    pub people: BTreeMap<String, bool>,
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Access tokens of those with accounts.
    pub tokens: BTreeMap<String, String>,
    pub secrets: Vec<String>,
    prefix: String,
    ops: u16,
    runs: AtomicUsize,
}

impl World {
    /// Two teams and their leads in three spaces with a room each, on the shared stage; accounts for everybody, usher an admin.
    pub async fn new() -> Self {
        let world = Self::bare(Stage::shared().await).await;
        world.bootstrap().await;
        world
    }

    /// As [`World::new`], on a stage of its own.
    pub async fn alone() -> Self {
        let world = Self::bare(Stage::own().await).await;
        world.bootstrap().await;
        world
    }

    /// As [`World::new`], and usher is no admin.
    pub async fn bare(stage: Arc<Stage>) -> Self {
        let slot = stage.slot();
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self {
            proxy: Proxy::start(stage.url()).await,
            prefix: stage.prefix(),
            ops: free_port(),
            secrets: slot.tokens.iter().cloned().chain([CANARY.to_owned(), stage.admin_token().to_owned()]).collect(),
            stage,
            slot,
            folder,
            http: client(),
            config: company(),
            people: BTreeMap::new(),
            groups: BTreeMap::new(),
            tokens: BTreeMap::new(),
            runs: AtomicUsize::new(0),
        };
        for name in NAMES {
            world.employ(name);
            world.open_account(name).await;
        }
        for (group, members) in [("red", &NAMES[..5]), ("blue", &NAMES[5..]), ("leads", &["ann", "gus"])] {
            world.groups.insert(group.to_owned(), members.iter().map(|name| (*name).to_owned()).collect());
        }
        std::fs::write(world.path("usher-registration.yaml"), &world.slot.main).unwrap();
        std::fs::write(world.path("usher-puppet.yaml"), &world.slot.puppet).unwrap();
        std::fs::write(world.path("admin-token"), world.stage.admin_token()).unwrap();
        world.write();
        world
    }

    /// Makes usher an admin, and forgets that it is on record: the tests begin without a database.
    pub async fn bootstrap(&self) {
        self.promote().await;
        for file in ["usher.db", "usher.db-wal", "usher.db-shm"] {
            let _ = std::fs::remove_file(self.path(file));
        }
    }

    pub async fn promote(&self) {
        self.usher(&["bootstrap", "--admin-token-file", "admin-token"]).await.code(0);
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn employ(&mut self, name: &str) {
        self.people.insert(name.to_owned(), true);
    }

    pub async fn open_account(&mut self, name: &str) {
        let person = Person::register(self.stage.url(), &self.local(name)).await;
        self.tokens.insert(name.to_owned(), person.token.clone());
        self.secrets.push(person.token);
    }

    /// Moves somebody from group to group.
    pub fn transfer(&mut self, name: &str, from: &str, to: &str) {
        assert!(self.groups.get_mut(from).unwrap().remove(name), "{name} is in {from}");
        self.groups.get_mut(to).unwrap().insert(name.to_owned());
    }

    /// `ann` as she is called on the homeserver.
    pub fn local(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn user(&self, name: &str) -> String {
        format!("@{}:{SERVER_NAME}", self.local(name))
    }

    /// The other way round; whoever is not of this world keeps the whole id.
    pub fn short(&self, user: &str) -> String {
        let own = user.strip_prefix(&format!("@{}-", self.prefix));
        own.and_then(|rest| rest.strip_suffix(&format!(":{SERVER_NAME}"))).unwrap_or(user).to_owned()
    }

    pub fn bot(&self) -> String {
        format!("@{}:{SERVER_NAME}", self.slot.bot)
    }

    /// Writes the configuration and the source's file, each in one piece.
    pub fn write(&self) {
        let mut config = json!({
            "instance": self.slot.instance,
            "homeserver": { "url": self.proxy.url(), "server_name": SERVER_NAME },
            "appservice": { "registration": "usher-registration.yaml", "bot": self.slot.bot },
            "database": { "url": "sqlite://usher.db" },
            "ops": { "listen": format!("127.0.0.1:{}", self.ops) },
            "logging": { "level": "silly" },
            "source": { "type": "file", "path": "company.json", "check_interval_seconds": 3600 },
        });
        merge(&mut config, &self.config);
        replace(&self.path("usher.yaml"), &config.to_string());
        self.write_source();
    }

    /// Gives the usher started next another port for its operations listener.
    pub fn move_ops(&mut self) {
        self.ops = free_port();
        self.write();
    }

    /// A person's mail address: the world's own, since a homeserver gives no address to two.
    pub fn mail(&self, name: &str) -> String {
        format!("{}@{CANARY}", self.local(name))
    }

    pub fn write_source(&self) {
        let users: Vec<Value> = self
            .people
            .iter()
            .map(|(name, enabled)| {
                json!({ "id": name, "localpart": self.local(name), "display_name": name, "enabled": enabled,
                        "emails": [self.mail(name)] })
            })
            .collect();
        let groups: Vec<Value> =
            self.groups.iter().map(|(name, members)| json!({ "id": name, "name": name, "members": members })).collect();
        replace(&self.path("company.json"), &json!({ "users": users, "groups": groups }).to_string());
    }

    /// Runs a verb to its end.
    pub async fn usher(&self, args: &[&str]) -> Ended {
        self.start(args).wait().await
    }

    /// Starts a verb.
    pub fn start(&self, args: &[&str]) -> Running {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        Running::start(self.folder.path(), &format!("run-{number}"), args, self.secrets.clone())
    }

    /// Runs a verb to its end with the clock set forward, as `+2h`.
    pub async fn usher_at(&self, offset: &str, args: &[&str]) -> Ended {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        Running::later(self.folder.path(), &format!("run-{number}"), (offset, args), self.secrets.clone()).wait().await
    }

    /// Starts a verb with the clock set forward, as `+2h`.
    pub fn start_at(&self, offset: &str, args: &[&str]) -> Running {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        Running::later(self.folder.path(), &format!("run-{number}"), (offset, args), self.secrets.clone())
    }

    /// `apply --yes` that ends well, and a plan with nothing left.
    pub async fn settle(&self) {
        self.usher(&["apply", "--yes"]).await.code(0);
        self.must_be_settled().await;
    }

    /// Nothing to plan, and nothing written when told to do it.
    pub async fn must_be_settled(&self) {
        self.usher(&["plan"]).await.code(0);
        self.proxy.clear();
        self.usher(&["apply", "--yes"]).await.code(0);
        assert_eq!(self.proxy.writes(), Vec::<String>::new());
    }

    /// What usher has written down, to look at.
    pub async fn store(&self) -> Store {
        look_in(self.folder.path()).await
    }

    /// An answer of the operations listener.
    pub async fn ops(&self, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.ops);
        let answer = self.http.get(url).timeout(Duration::from_secs(20)).send().await;
        match answer {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.ops("/status").await.1).unwrap_or_default()
    }

    /// Names in every space and room, as they should be now.
    pub async fn assert_members(&self) {
        for (space, members) in self.expected() {
            assert_eq!(self.inside(&space).await, members, "{space}");
            assert_eq!(self.inside(&format!("{space}/general")).await, members, "{space}/general");
        }
    }

    /// Whether everybody is where they should be; a room that is not there counts as "no".
    pub async fn is_right(&self) -> bool {
        for (space, members) in self.expected() {
            for thing in [space.clone(), format!("{space}/general")] {
                // What a crash left half made goes while we look.
                let Some(room) = self.resolve(&self.alias(&thing)).await else { return false };
                if self.inside_room(&room).await != members {
                    return false;
                }
            }
        }
        true
    }

    fn expected(&self) -> BTreeMap<String, BTreeSet<String>> {
        let team = |group: &str| -> BTreeSet<String> {
            let here = |name: &&String| self.tokens.contains_key(*name) && self.people.contains_key(*name);
            self.groups[group].iter().filter(here).cloned().collect()
        };
        let all = ["red", "blue", "leads"].into_iter().flat_map(team).collect();
        [("org", all), ("red", team("red")), ("blue", team("blue"))]
            .map(|(space, members)| (space.to_owned(), members))
            .into()
    }

    /// One room for each thing, and no other.
    pub async fn assert_no_doubles(&self) {
        let mut rooms = BTreeSet::new();
        for thing in THINGS {
            rooms.insert(self.room(thing).await);
        }
        assert_eq!(rooms.len(), THINGS.len());
        assert_eq!(self.bot_rooms().await, rooms);
    }
}

/// Spaces and rooms of the company.
pub const THINGS: [&str; 6] = ["org", "red", "blue", "org/general", "red/general", "blue/general"];

/// The company's people: the first five are red, the others blue, `ann` and `gus` lead.
pub const NAMES: [&str; 10] = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ida", "jon"];

/// Until `look` says yes.
pub async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..LOOKS {
        if look().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn company() -> Value {
    let team = |id: &str, name: &str| json!({ "id": id, "name": name, "groups": [{ "externalId": id }] });
    json!({
        "provisioner": {
            "max_rate": 1000,
            "invite_to_public_rooms": true,
            "default_rooms": [{ "id": "general", "properties": { "name": "General" } }],
        },
        "spaces": [{
            "id": "org", "name": "Company",
            "groups": [{ "externalId": "leads", "powerLevel": 50 }],
            "subspaces": [team("red", "Red team"), team("blue", "Blue team")],
        }],
    })
}

/// Maps merge, everything else replaces, `null` deletes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A file in one piece: a reader sees the old or the new one.
pub fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}
