//! The first apply of 300 people in 20 rooms on a real Synapse, against a bare concurrent loop that sends the same requests to one that
//! is alike: five rounds of both, and the median of their ratios.
//!
//! Before that, once behind the counting proxy: the writes must be exactly those the plan implies. `cargo bench --bench first_apply`;
//! `-- --rounds N` for another number of rounds. Needs the lab's Synapse (`tests/run` installs it). usher's time is that of the whole
//! process `usher apply --yes`, with reading, planning and its database; the loop's is that of its requests alone. Both are optimised
//! builds, or nothing is measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot set up its world stops"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use usher::matrix::registration::Registration;

#[path = "../tests/it/lab/company.rs"]
mod company;
#[path = "../tests/it/lab/ports.rs"]
mod ports;
#[path = "../tests/it/lab/proxy.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod proxy;
#[path = "../tests/it/lab/synapse.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod synapse;

use proxy::{Proxy, Seen};
use synapse::{Person, SERVER_NAME, Synapse, escape};

/// How many people each space (and its one room) has by itself: 300 in all, unevenly, as departments are. The first is the root, to
/// which those of its subspaces belong too.
const SIZES: [usize; 10] = [10, 54, 48, 44, 38, 32, 26, 20, 16, 12];
/// As in `execute`.
const ROOMS_AT_ONCE: usize = 8;
const ROUNDS: usize = 5;
/// The usher that is measured. Cargo builds it with the profile it builds this benchmark with.
const USHER: &str = env!("CARGO_BIN_EXE_usher");
/// High enough that the homeserver is what limits both sides: at the default of 30 writes a second both would only wait.
const MAX_RATE: u32 = 10_000;
/// A Synapse that has just started still does things of its own.
const BREATH: Duration = Duration::from_secs(3);

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("usher must be an optimised build: start this with `cargo bench --bench first_apply`");
        std::process::exit(1);
    }
    println!("usher: {USHER} (optimised build)");
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.map_or(ROUNDS, |at| arguments[at + 1].parse().expect("a number of rounds"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(rounds));
}

async fn run(rounds: usize) {
    let world = World::new();
    let seed = world.seed().await;
    let requests = world.record(&seed).await;
    let (mut own, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever goes first in a round goes second in the next.
        for turn in 0..2 {
            let synapse = seed.twin(&[&world.registration_text]).await;
            tokio::time::sleep(BREATH).await;
            if (round + turn) % 2 == 0 {
                own.push(world.apply(&synapse.url(), &format!("round-{round}")).as_secs_f64());
            } else {
                bare.push(world.replay(&synapse.url(), &requests).await.as_secs_f64());
            }
        }
        let ratio = own[round] / bare[round];
        println!("round {}: usher {:.2} s, bare loop {:.2} s, ratio {ratio:.3}", round + 1, own[round], bare[round]);
        ratios.push(ratio);
    }
    let (own, bare) = (median(own), median(bare));
    println!(
        "bare loop, {ROOMS_AT_ONCE} rooms at once: {bare:.2} s ({:.1} writes a second), median",
        count(&requests) / bare
    );
    println!("usher apply, whole process:   {own:.2} s, median");
    println!("median of the ratios of {rounds} rounds: {:.3} (at most 1.10)", median(ratios));
}

#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
fn count(requests: &[Sent]) -> f64 {
    requests.len() as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The company, its registration, and a folder for all of it.
struct World {
    folder: tempfile::TempDir,
    registration: Registration,
    registration_text: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (registration, registration_text) = company::register(folder.path(), SERVER_NAME);
        company::write_people(folder.path(), &people());
        Self { folder, registration, registration_text }
    }

    /// A stopped Synapse on which everybody has an account and usher its rights: what a first apply finds.
    async fn seed(&self) -> Synapse {
        let people: usize = SIZES.iter().sum();
        println!("filling Synapse: {people} accounts");
        let mut synapse = Synapse::start(&[&self.registration_text]).await;
        let url = synapse.url();
        let registered = futures_util::stream::iter(0..people).map(|number| {
            let url = url.clone();
            async move { Person::register(&url, &name(number)).await.token.len() }
        });
        assert_eq!(registered.buffer_unordered(4).count().await, people);
        let root = synapse.register_admin("root").await;
        std::fs::write(self.folder.path().join("token"), &root.token).unwrap();
        let done = usher(&self.config(&url, "seed"), &["bootstrap", "--admin-token-file", "token"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        synapse.stop();
        synapse
    }

    /// A first apply behind the counting proxy: asserts that it writes what the plan implies and hands back the writes.
    async fn record(&self, seed: &Synapse) -> Vec<Sent> {
        let synapse = seed.twin(&[&self.registration_text]).await;
        let proxy = Proxy::start(&synapse.url()).await;
        let config = self.config(proxy.url(), "record");
        let planned = usher(&config, &["plan", "--json"]);
        let implied = implied(&serde_json::from_slice(&planned.stdout).expect("a plan"));
        proxy.clear();
        let done = tokio::task::block_in_place(|| usher(&config, &["apply", "--yes"]));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (writes, reads): (Vec<_>, Vec<_>) = proxy.seen().into_iter().partition(Seen::is_write);
        println!("requests sent: {} writes, {implied} implied by the plan; {} reads", writes.len(), reads.len());
        assert_eq!(writes.len(), implied, "usher writes what the plan implies and nothing else");
        proxy.clear();
        let again = usher(&config, &["plan"]);
        assert_eq!(again.status.code(), Some(0), "nothing is left: {}", String::from_utf8_lossy(&again.stdout));
        assert_eq!(proxy.writes(), Vec::<String>::new());
        self.readable(&synapse.url(), &writes).await
    }

    /// The recorded writes in a form that can be sent to another homeserver, where the rooms have other ids.
    async fn readable(&self, url: &str, writes: &[Seen]) -> Vec<Sent> {
        let http = reqwest::Client::new();
        let mut rooms: Vec<String> = Vec::new();
        for write in writes.iter().filter(|write| write.path.ends_with("/createRoom")) {
            let alias = format!("#{}:{SERVER_NAME}", write.body["room_alias_name"].as_str().expect("the fence"));
            let path = format!("{url}/_matrix/client/v3/directory/room/{}", escape(&alias));
            let found = http.get(path).bearer_auth(self.registration.as_token.expose_secret()).send().await.unwrap();
            let found: Value = found.json().await.unwrap();
            rooms.push(opaque(&found).to_owned());
        }
        let mut made = 0..rooms.len();
        writes
            .iter()
            .map(|write| {
                let mut target = format!("{}?{}", write.path, write.query);
                let mut body = write.body.to_string();
                let room = rooms.iter().position(|id| write.path.contains(id.as_str()));
                for (index, id) in rooms.iter().enumerate() {
                    target = target.replace(id.as_str(), &placeholder(index));
                    body = body.replace(id.as_str(), &placeholder(index));
                }
                let making = write.path.ends_with("/createRoom").then(|| Making {
                    room: made.next().expect("one each"),
                    space: write.body["creation_content"]["type"] == "m.space",
                });
                Sent { method: write.method.parse().unwrap(), target, body, room, making }
            })
            .collect()
    }

    /// The whole process, from start to end.
    fn apply(&self, url: &str, name: &str) -> Duration {
        let config = self.config(url, name);
        let begun = Instant::now();
        let done = tokio::task::block_in_place(|| usher(&config, &["apply", "--yes"]));
        let taken = begun.elapsed();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        taken
    }

    /// The same requests without any thought: spaces, then rooms, then what is left of each room in order, several rooms at once.
    async fn replay(&self, url: &str, requests: &[Sent]) -> Duration {
        let count = requests.iter().filter(|sent| sent.making.is_some()).count();
        let target = Target {
            url: url.to_owned(),
            token: self.registration.as_token.expose_secret().to_owned(),
            http: reqwest::Client::new(),
            rooms: (0..count).map(|_| OnceLock::new()).collect(),
        };
        let making = |space: bool| {
            let wanted = move |sent: &&Sent| sent.making.as_ref().is_some_and(|making| making.space == space);
            futures_util::stream::iter(requests.iter().filter(wanted))
        };
        let lanes: Vec<Vec<&Sent>> =
            (0..count).map(|room| requests.iter().filter(|sent| sent.room == Some(room)).collect()).collect();
        let begun = Instant::now();
        for sent in requests.iter().filter(|sent| sent.room.is_none() && sent.making.is_none()) {
            target.send(sent).await;
        }
        making(true).for_each_concurrent(ROOMS_AT_ONCE, |sent| target.send(sent)).await;
        making(false).for_each_concurrent(ROOMS_AT_ONCE, |sent| target.send(sent)).await;
        let lanes = futures_util::stream::iter(&lanes);
        lanes
            .for_each_concurrent(ROOMS_AT_ONCE, async |lane: &Vec<&Sent>| {
                for sent in lane {
                    target.send(sent).await;
                }
            })
            .await;
        begun.elapsed()
    }

    fn config(&self, url: &str, name: &str) -> PathBuf {
        let spaces: Vec<Value> = (1..SIZES.len())
            .map(|number| {
                json!({ "id": format!("d{number}"), "name": format!("Department {number}"),
                "groups": [{ "externalId": format!("group{number}") }] })
            })
            .collect();
        let root =
            json!({ "id": "company", "name": "Company", "groups": [{ "externalId": "group0" }], "subspaces": spaces });
        let database = format!("{name}.db");
        let mut config = company::config(self.folder.path(), (SERVER_NAME, url), &database, &[root]);
        config["provisioner"]["max_rate"] = json!(MAX_RATE);
        let path = self.folder.path().join(format!("{name}.yaml"));
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

/// One request to be sent again, with places for the ids of rooms.
struct Sent {
    method: reqwest::Method,
    target: String,
    body: String,
    /// The room it is about.
    room: Option<usize>,
    making: Option<Making>,
}

struct Making {
    room: usize,
    space: bool,
}

struct Target {
    url: String,
    token: String,
    http: reqwest::Client,
    /// What comes in the place of each recorded room.
    rooms: Vec<OnceLock<String>>,
}

impl Target {
    async fn send(&self, sent: &Sent) {
        let (mut target, mut body) = (sent.target.clone(), sent.body.clone());
        for (index, room) in self.rooms.iter().enumerate() {
            let Some(id) = room.get() else { continue };
            target = target.replace(&placeholder(index), id);
            body = body.replace(&placeholder(index), id);
        }
        let request = self.http.request(sent.method.clone(), format!("{}{target}", self.url)).bearer_auth(&self.token);
        let answer = request.header("content-type", "application/json").body(body).send().await.expect("an answer");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{} {target}: {answer}", sent.method);
        if let Some(making) = &sent.making {
            self.rooms[making.room].set(opaque(&answer).to_owned()).expect("made once");
        }
    }
}

/// The part of a room's id that needs no escaping anywhere.
fn opaque(answer: &Value) -> &str {
    let id = answer["room_id"].as_str().expect("room_id").trim_start_matches('!');
    assert!(!id.contains(':'), "rooms of version 12 are expected");
    id
}

fn placeholder(room: usize) -> String {
    format!("<room {room}>")
}

/// Requests that a plan takes: one a step, and two for usher's own users.
fn implied(plan: &Value) -> usize {
    let steps = plan["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["status"] == "pending"), "everything can be done");
    let invited = steps.iter().filter(|step| step["action"] == "invite").count();
    let people: usize = SIZES.iter().sum();
    assert_eq!(invited, 2 * (people + people - SIZES[0]), "everybody in the root, the others in their department too");
    steps.iter().map(|step| if step["action"] == "register_bot" { 2 } else { 1 }).sum()
}

fn usher(config: &Path, arguments: &[&str]) -> Output {
    Command::new(USHER)
        .arg("-c")
        .arg(config)
        .args(arguments)
        .current_dir(config.parent().unwrap())
        .output()
        .expect("usher")
}

fn name(number: usize) -> String {
    format!("person{number:03}")
}

fn people() -> Value {
    let all: Vec<String> = (0..SIZES.iter().sum()).map(name).collect();
    let users: Vec<Value> = all
        .iter()
        .map(|name| json!({ "id": name, "display_name": name, "emails": [format!("{name}@example.org")] }))
        .collect();
    let mut rest = all.into_iter();
    let groups: Vec<Value> = SIZES
        .iter()
        .enumerate()
        .map(|(number, size)| {
            json!({ "name": format!("group{number}"), "members": rest.by_ref().take(*size).collect::<Vec<_>>() })
        })
        .collect();
    json!({ "users": users, "groups": groups })
}
