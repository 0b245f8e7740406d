//! The whole program beside a homeserver in memory: people, a directory of some of them in a file, and what the accounts are like afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use usher::ids::{Key, RoomId, UserId};

use super::mas::{CLIENT, SECRET, StandIn};
use crate::end_to_end::child::{Ended, Running};
use crate::fake::Fake;
use crate::lab::ports::free_port;
use crate::lab::registered::registered;
use crate::lab::synapse::{Person, escape};

pub const SERVER: &str = "lab.test";

/// A homeserver in memory with people `p0`, `p1` and so on, and an usher of theirs.
pub struct Office {
    pub fake: Fake,
    pub folder: tempfile::TempDir,
    pub root: Person,
    pub config: Value,
}

impl Office {
    pub async fn open(people: usize, attributes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (main, puppet) = registered(folder.path(), SERVER);
        let fake = Fake::start(SERVER, &[&main, &puppet]).await;
        fake.add_accounts("p", people);
        let root = fake.register_admin("root").await;
        fake.set_admin(&UserId::new(&main.sender_localpart, SERVER));
        let config = json!({
            "homeserver": { "url": fake.url(), "server_name": SERVER },
            "appservice": { "registration": "usher-registration.yaml" },
            "database": { "url": "sqlite://usher.db" },
            "ops": { "listen": format!("127.0.0.1:{}", free_port()) },
            "source": { "type": "file", "path": "people.json" },
            "userProvisioner": { "synapse": { "attributes": attributes } },
            "spaces": [{ "id": "few", "name": "Few", "groups": [{ "externalId": "staff" }] }],
        });
        Self { fake, folder, root, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets a service keep the accounts.
    pub async fn hand_over_accounts(&mut self, people: usize) -> StandIn {
        let service = StandIn::start(&self.fake.url(), &self.root.token, SERVER).await;
        service.add("root", true);
        (0..people).for_each(|number| service.add(&format!("p{number}"), false));
        std::fs::write(self.path("mas-secret"), SECRET).unwrap();
        std::fs::write(self.path("admin-token"), &self.root.token).unwrap();
        self.config["accounts"] = json!({
            "backend": "mas",
            "mas": { "url": service.url, "client_id": CLIENT, "client_secret_file": "mas-secret" },
            "admin_token_file": "admin-token",
        });
        service
    }

    /// The directory: these people, with a name and an address made of `word`, all of the staff but those left out.
    pub fn employ(&self, people: impl Iterator<Item = usize> + Clone, word: &str, without: &[usize]) {
        let person = |at: usize| {
            json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": format!("{word} {at}"),
                    "emails": [format!("{word}{at}@example.com")] })
        };
        let members: Vec<String> =
            people.clone().filter(|at| !without.contains(at)).map(|at| format!("id{at}")).collect();
        self.list(&people.map(person).collect::<Vec<_>>(), &members);
    }

    /// The directory: these entries, and the ids of the staff.
    pub fn list(&self, users: &[Value], staff: &[String]) {
        let all = json!({ "users": users, "groups": [{ "id": "staff", "name": "staff", "members": staff }] });
        std::fs::write(self.path("people.json"), all.to_string()).unwrap();
    }

    pub async fn usher(&self, args: &[&str]) -> Ended {
        self.start(args).wait().await
    }

    pub fn start(&self, args: &[&str]) -> Running {
        std::fs::write(self.path("usher.yaml"), self.config.to_string()).unwrap();
        Running::start(self.folder.path(), &args.join("-"), args, vec!["@example.com".to_owned()])
    }

    pub async fn account(&self, name: &str) -> Value {
        let path = format!("/_synapse/admin/v2/users/{}", escape(&format!("@{name}:{SERVER}")));
        self.root.must("GET", &path, Value::Null).await
    }

    pub async fn space(&self) -> RoomId {
        self.space_called("few").await
    }

    async fn space_called(&self, id: &str) -> RoomId {
        let alias = Key::Space(id.into()).alias("main", SERVER);
        let path = format!("/_matrix/client/v3/directory/room/{}", escape(alias.as_str()));
        self.root.must("GET", &path, Value::Null).await["room_id"].as_str().unwrap().into()
    }

    /// Who is invited to the space or in it.
    pub async fn inside(&self) -> BTreeSet<String> {
        self.inside_of("few").await
    }

    /// Who is invited to another space or in it.
    pub async fn inside_of(&self, id: &str) -> BTreeSet<String> {
        let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(self.space_called(id).await.as_str()));
        let state = self.root.must("GET", &path, Value::Null).await;
        let members = state["state"].as_array().unwrap().iter().filter(|event| event["type"] == "m.room.member");
        let inside = members.filter(|event| matches!(event["content"]["membership"].as_str(), Some("join" | "invite")));
        inside.map(|event| event["state_key"].as_str().unwrap().split(':').next().unwrap().to_owned()).collect()
    }

    /// Somebody's mail addresses.
    pub async fn addresses(&self, name: &str) -> Vec<String> {
        let account = self.account(name).await;
        let list = account["threepids"].as_array().unwrap().iter();
        list.map(|threepid| threepid["address"].as_str().unwrap().to_owned()).collect()
    }

    /// Where the database is.
    pub fn database(&self) -> String {
        format!("sqlite://{}", self.path("usher.db").display())
    }

    /// The audit's rows.
    pub async fn audited(&self) -> Vec<Value> {
        let out = self.usher(&["audit", "export"]).await.code(0).out.clone();
        // Before there is a database it says so in words.
        out.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Until `look` says yes, for a minute.
pub async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if look().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}
