//! The whole program where accounts are somebody else's business, or cannot be read: rooms do not wait for that (S-82), and whom only
//! Matrix Authentication Service knows to be a server admin is protected all the same (S-54).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use usher::ids::{Key, RoomId, UserId};

use super::mas::{CLIENT, SECRET, StandIn};
use crate::end_to_end::child::{Ended, Running};
use crate::fake::Fake;
use crate::lab::proxy::Fault;
use crate::lab::registered::registered;
use crate::lab::slapd::free_port;
use crate::lab::synapse::{Person, escape};

const SERVER: &str = "lab.test";

/// A homeserver in memory with people `p0`, `p1` and so on, and an usher of theirs.
struct Office {
    fake: Fake,
    folder: tempfile::TempDir,
    root: Person,
    config: Value,
}

impl Office {
    async fn open(people: usize, attributes: &[&str]) -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets a service keep the accounts.
    async fn hand_over_accounts(&mut self, people: usize) -> StandIn {
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
    fn employ(&self, people: impl Iterator<Item = usize> + Clone, word: &str, without: &[usize]) {
        let person = |at: usize| {
            json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": format!("{word} {at}"),
                    "emails": [format!("{word}{at}@example.com")] })
        };
        let members: Vec<String> =
            people.clone().filter(|at| !without.contains(at)).map(|at| format!("id{at}")).collect();
        let all = json!({ "users": people.map(person).collect::<Vec<_>>(),
                          "groups": [{ "id": "staff", "name": "staff", "members": members }] });
        std::fs::write(self.path("people.json"), all.to_string()).unwrap();
    }

    async fn usher(&self, args: &[&str]) -> Ended {
        std::fs::write(self.path("usher.yaml"), self.config.to_string()).unwrap();
        Running::start(self.folder.path(), &args.join("-"), args, vec!["@example.com".to_owned()]).wait().await
    }

    async fn account(&self, name: &str) -> Value {
        let path = format!("/_synapse/admin/v2/users/{}", escape(&format!("@{name}:{SERVER}")));
        self.root.must("GET", &path, Value::Null).await
    }

    async fn space(&self) -> RoomId {
        let alias = Key::Space("few".into()).alias("main", SERVER);
        let path = format!("/_matrix/client/v3/directory/room/{}", escape(alias.as_str()));
        self.root.must("GET", &path, Value::Null).await["room_id"].as_str().unwrap().into()
    }

    /// Who is invited to the space or in it.
    async fn inside(&self) -> BTreeSet<String> {
        let path = format!("/_synapse/admin/v1/rooms/{}/state", escape(self.space().await.as_str()));
        let state = self.root.must("GET", &path, Value::Null).await;
        let members = state["state"].as_array().unwrap().iter().filter(|event| event["type"] == "m.room.member");
        let inside = members.filter(|event| matches!(event["content"]["membership"].as_str(), Some("join" | "invite")));
        inside.map(|event| event["state_key"].as_str().unwrap().split(':').next().unwrap().to_owned()).collect()
    }

    /// The audit's rows.
    async fn audited(&self) -> Vec<Value> {
        let out = self.usher(&["audit", "export"]).await.code(0).out.clone();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| format!("@{name}")).collect()
}

/// Until `look` says yes, for a minute.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if look().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_only_the_service_knows_to_be_an_admin_is_protected_and_rooms_do_not_wait_for_it() {
    let mut office = Office::open(4, &["emails"]).await;
    let boss = office.fake.register("boss").await;
    let service = office.hand_over_accounts(4).await;
    service.add("boss", true);
    office.employ(0..2, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1"]));
    office.fake.let_in(&office.space().await, [boss.user.clone()].into_iter());
    let planned = office.usher(&["plan", "--json"]).await.code(0).out.clone();
    assert!(!planned.contains("@boss"), "an admin is no intruder: {planned}");

    // Nobody can say now who is protected: whoever is new is asked in, and nobody is taken out.
    drop(service);
    office.employ(0..3, "first", &[0]);
    let ended = office.usher(&["apply", "--yes"]).await;
    ended.says("who is a server admin is not known anew");
    assert!(matches!(ended.code, Some(0 | 3)), "{ended:?}");
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p2", "boss"]));

    let service = office.hand_over_accounts(4).await;
    service.add("boss", true);
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "p1", "p2", "boss"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_cannot_be_read_keeps_nobody_else_waiting() {
    let office = Office::open(3, &["emails"]).await;
    office.employ(0..3, "first", &[]);
    office.fake.spoil(move |seen| {
        let met = seen.method == "GET" && seen.path.contains("/v2/users/") && seen.path.contains("p1");
        met.then(|| Fault::Answer(400, json!({ "errcode": "M_UNKNOWN", "error": "cannot be read" })))
    });
    office.usher(&["apply", "--yes"]).await.code(0).says("mail addresses cannot be read");
    office.fake.behave();
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p2"]));
    for (name, expected) in
        [("p0", json!("first0@example.com")), ("p1", Value::Null), ("p2", json!("first2@example.com"))]
    {
        assert_eq!(office.account(name).await["threepids"][0]["address"], expected, "{name}");
    }
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.account("p1").await["threepids"][0]["address"], "first1@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_says_what_it_was_before_what_it_became_and_in_which_pass() {
    // More names than one slice of a running usher has time for, four a second.
    const PEOPLE: usize = 20;
    let office = Office::open(PEOPLE, &["displayName", "emails"]).await;
    office.employ(0..PEOPLE, "One", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    let first = office.audited().await;
    office.employ(0..PEOPLE, "Two", &[0]);
    let mut running = Running::start(office.folder.path(), "run", &["run"], vec!["@example.com".to_owned()]);
    for number in 0..PEOPLE {
        let (name, wanted) = (format!("p{number}"), json!(format!("Two {number}")));
        until("the name is written", async || office.account(&name).await["displayname"] == wanted).await;
    }
    let unanswered = |row: &Value| row["result"] == "sent";
    until("all is on record", async || !office.audited().await.iter().any(unanswered)).await;
    running.must_run();
    running.stop().await.code(0);
    let second = office.audited().await.split_off(first.len());

    let texts = |row: &Value| ["before", "after", "result"].map(|key| row[key].as_str().unwrap().to_owned());
    let of = |rows: &[Value], action: &str, person: &str| -> Vec<[String; 3]> {
        let person = format!("@{person}:{SERVER}");
        rows.iter().filter(|row| row["action"] == action && row["person"] == person.as_str()).map(texts).collect()
    };
    for number in 0..PEOPLE {
        let row = [format!("One {number}"), format!("Two {number}"), "done".to_owned()];
        assert_eq!(of(&second, "name", &format!("p{number}")), [row]);
    }
    assert_eq!(of(&second, "give", "p7"), [["", "1 addresses", "done"].map(str::to_owned)]);
    assert_eq!(of(&first, "invite", "p0"), [["", "invited", "done"].map(str::to_owned)]);
    assert_eq!(of(&second, "remove", "p0"), [["invited", "left", "done"].map(str::to_owned)]);
    assert!(first.iter().filter(|row| row["action"] != "drop alias").all(|row| row["after"] != ""), "{first:?}");
    let passes = |rows: &[Value], action: &str| -> BTreeSet<i64> {
        rows.iter().filter(|row| row["action"] == action).map(|row| row["pass"].as_i64().unwrap()).collect()
    };
    let (before, after) = (passes(&first, "name"), passes(&second, "name"));
    assert_eq!((before.len(), after.len()), (1, 1), "several slices, one pass: {before:?} {after:?}");
    assert!(before < after && second.iter().all(|row| row["at"].as_i64() >= row["pass"].as_i64()));
    assert!(!serde_json::to_string(&second).unwrap().contains("example.com"), "no address is on record");
}
