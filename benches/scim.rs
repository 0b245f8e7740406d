//! usher's SCIM server against scim2-server (Python) and SCIMMY (Node.js), which keep everything in memory, on one machine in one run:
//! creating, reading, finding by name, pages; then what a membership costs in a large group, and memory.
//!
//! `cargo bench --bench scim` with 10 000 people for all three and 50 200 for usher alone; `-- --small` with a twentieth. Needs
//! `benches/scim/install`. usher is the real program, `usher run` on `SQLite` with every write durable before it is answered; its
//! homeserver is away, which the SCIM listener does not mind. Rates are the median of three rounds in which the servers take turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot set up its world stops"
)]

#[path = "scim/wire.rs"]
mod wire;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wire::{Ask, Figures, Server, TOKEN};

/// The usher that is measured. Cargo builds it with the profile it builds this benchmark with.
const USHER: &str = env!("CARGO_BIN_EXE_usher");
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
const NO_LIMIT: Duration = Duration::from_hours(1);
const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("usher must be an optimised build: start this with `cargo bench --bench scim`");
        std::process::exit(1);
    }
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let divisor = if has("--small") { 20 } else { 1 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(10_000 / divisor, 50_000 / divisor, !has("--alone")));
}

async fn run(people: usize, many: usize, with_peers: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = vec![usher(folder.path())];
    if with_peers {
        servers.extend([scim2_server(), scimmy()]);
    }
    for server in &servers {
        server.is_up().await;
    }
    let ids = against_each_other(&servers, people).await;
    servers.truncate(1);
    println!("\nusher alone");
    groups(&servers[0], ids, many).await;
}

/// What all of them can do, in a table. Gives the ids that the first of them made.
async fn against_each_other(servers: &[Server], people: usize) -> Vec<String> {
    println!("{people} people; {CONNECTIONS} connections");
    let mut created = Vec::new();
    let mut ids: Vec<Vec<String>> = Vec::new();
    for server in servers {
        let (figures, made) = people_from(server, 0, people).await;
        created.push(figures);
        ids.push(made);
    }
    table("create a user", servers, &created);
    let one = |_, _, said: &[u8]| assert!(String::from_utf8_lossy(said).contains("@example.org"), "somebody is found");
    let scattered = |number: usize| number.wrapping_mul(7919) % people;
    let (mut read, mut matched) = (vec![Vec::new(); servers.len()], vec![Vec::new(); servers.len()]);
    for _ in 0..ROUNDS {
        for (place, server) in servers.iter().enumerate() {
            let load = (CONNECTIONS, usize::MAX, ROUND);
            let by_id = |number: usize| Ask::get(format!("/Users/{}", ids[place][scattered(number)]));
            read[place].push(server.load(load, &by_id, &ignore).await);
            let by_name = |number: usize| {
                let name = scattered(number);
                Ask::get(format!("/Users?filter=userName%20eq%20%22person{name:06}%40example.org%22"))
            };
            matched[place].push(server.load(load, &by_name, &one).await);
        }
    }
    table("read one user", servers, &read.into_iter().map(median).collect::<Vec<_>>());
    table("find by userName", servers, &matched.into_iter().map(median).collect::<Vec<_>>());
    let mut pages = Vec::new();
    for server in servers {
        let page = |number: usize| {
            let start = 1 + (number * 100) % people;
            Ask::get(format!("/Users?startIndex={start}&count=100"))
        };
        let found = Cell::new(0);
        let count = |_, _, said: &[u8]| {
            found.set(String::from_utf8_lossy(said).matches("\"userName\"").count());
        };
        pages.push(server.load((1, 500, ROUND * 2), &page, &count).await);
        // SCIMMY's routers never give more than their own length of a page.
        assert!(found.get() == 100 || server.name == "scimmy", "{}: {} on a page", server.name, found.get());
    }
    table("page of 100 (one connection)", servers, &pages);
    for server in servers {
        println!("{:14} {:6.0} MiB resident", server.name, server.resident_mib().0);
    }
    ids.swap_remove(0)
}

fn table(what: &str, servers: &[Server], figures: &[Figures]) {
    println!("{what}");
    let best = figures.iter().skip(1).map(|figures| figures.per_second).fold(0.0, f64::max);
    for (server, figures) in servers.iter().zip(figures) {
        let Figures { per_second, cpu_ms } = figures;
        println!("  {:14} {per_second:9.1} a second   {cpu_ms:8.3} ms of CPU each", server.name);
    }
    if best > 0.0 {
        println!("  {:.1} x the faster of the others", figures[0].per_second / best);
    }
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    figures[figures.len() / 2]
}

fn person(number: usize) -> Ask {
    let body = format!(
        r#"{{"schemas":["{USER}"],"userName":"person{number:06}@example.org","externalId":"x{number:06}","active":true,"displayName":"Person {number}","name":{{"givenName":"Person","familyName":"Number {number}"}},"emails":[{{"value":"person{number:06}@example.org","type":"work","primary":true}}]}}"#
    );
    Ask { method: "POST", path: "/Users".to_owned(), body }
}

/// Makes people from a number on, and gives their ids in that order.
async fn people_from(server: &Server, first: usize, count: usize) -> (Figures, Vec<String>) {
    let ids = RefCell::new(vec![String::new(); count]);
    let make = |number: usize| person(first + number);
    let keep = |number: usize, _, said: &[u8]| {
        let answer: Value = serde_json::from_slice(said).unwrap();
        answer["id"].as_str().expect("an id").clone_into(&mut ids.borrow_mut()[number]);
    };
    let figures = server.load((CONNECTIONS, count, NO_LIMIT), &make, &keep).await;
    (figures, ids.into_inner())
}

fn ignore(_: usize, _: u16, _: &[u8]) {}

/// By then usher has read all of it anew.
const SETTLED: Duration = Duration::from_secs(20);

/// What memberships cost, whatever the size of the group, and how much memory all of it takes.
async fn groups(usher: &Server, mut ids: Vec<String>, many: usize) {
    let people = ids.len();
    let extra = 200;
    let (created, rest) = people_from(usher, people, many + extra - people).await;
    println!("create the others, up to {}: {:.1} a second", many + extra, created.per_second);
    ids.extend(rest);
    let path = format!("/Users?startIndex={}&count=100", many / 2);
    let page = usher.load((1, 300, NO_LIMIT), &|_| Ask::get(path.clone()), &ignore).await;
    println!("page of 100 in the middle: {:.2} ms of CPU each (at most 5)", page.cpu_ms);
    let small = group(usher, "small", &ids[..100]).await;
    let large = group(usher, "large", &ids[..many]).await;
    let others = &ids[many..];
    let mut of = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (group, figures) in [&small, &large].into_iter().zip(&mut of) {
            for operation in ["add", "remove"] {
                let change = |number: usize| member(operation, group, &others[number]);
                let done = usher.load((1, extra, NO_LIMIT), &change, &ignore).await;
                if operation == "add" {
                    figures.push(done);
                }
            }
        }
    }
    let [small, large] = of.map(median);
    println!("add a member to a group of 100:    {:.3} ms, {:.3} ms of CPU", 1000.0 / small.per_second, small.cpu_ms);
    println!("add a member to a group of {many}: {:.3} ms, {:.3} ms of CPU", 1000.0 / large.per_second, large.cpu_ms);
    println!(
        "ratio: {:.2} of time, {:.2} of CPU (at most 1.30)",
        small.per_second / large.per_second,
        large.cpu_ms / small.cpu_ms
    );
    let operations: Vec<Value> =
        ids[..people].iter().map(|id| json!({ "op": "add", "path": "members", "value": [{ "value": id }] })).collect();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let path = group(usher, &format!("patched {round}"), &[]).await;
        let body = json!({ "schemas": [PATCH], "Operations": operations }).to_string();
        let began = Instant::now();
        let mut wire = usher.wire();
        assert!((200..300).contains(&wire.ask(&Ask { method: "PATCH", path, body }).await.0));
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    println!("PATCH of {people} one-member operations: {:.3} s (at most 1)", times[ROUNDS / 2]);
    tokio::time::sleep(SETTLED).await;
    let (now, peak) = usher.resident_mib();
    println!(
        "with {} people and groups of them: {now:.0} MiB resident, {peak:.0} MiB at most (at most 80 MB)",
        many + extra
    );
}

fn member(operation: &str, group: &str, id: &str) -> Ask {
    let body = format!(
        r#"{{"schemas":["{PATCH}"],"Operations":[{{"op":"{operation}","path":"members","value":[{{"value":"{id}"}}]}}]}}"#
    );
    // Nothing of the group comes back: answers of different length do not count.
    Ask { method: "PATCH", path: format!("{group}?attributes=id"), body }
}

/// A group's path.
async fn group(usher: &Server, name: &str, members: &[String]) -> String {
    let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
    let body = json!({ "schemas": [GROUP], "displayName": name, "members": members }).to_string();
    let mut wire = usher.wire();
    let (status, said) = wire.ask(&Ask { method: "POST", path: "/Groups?attributes=id".to_owned(), body }).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(said));
    let made: Value = serde_json::from_slice(said).unwrap();
    format!("/Groups/{}", made["id"].as_str().unwrap())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn usher(folder: &Path) -> Server {
    let port = free_port();
    let config = json!({
        "homeserver": { "url": format!("http://127.0.0.1:{}", free_port()), "server_name": "bench.test" },
        "appservice": { "registration": "registration.yaml" },
        "database": { "url": "sqlite://usher.db" },
        "ops": { "listen": format!("127.0.0.1:{}", free_port()) },
        "source": {
            "type": "scim", "listen": "127.0.0.1", "port": port, "base_url": "/scim/v2",
            "client": { "id": "bench", "rbac": [{ "token": TOKEN, "name": "bench", "roles": ["*:*"] }] },
        },
    });
    std::fs::write(folder.join("usher.yaml"), config.to_string()).unwrap();
    let done = Command::new(USHER).args(["registration", "generate"]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(USHER);
    command.arg("run").current_dir(folder).stdout(log.try_clone().unwrap()).stderr(log);
    started("usher", port, "/scim/v2", &mut command)
}

fn scim2_server() -> Server {
    let port = free_port();
    let mut command = Command::new(peers().join("python/bin/scim2-server"));
    command.args(["--bearer-token", TOKEN, "--port", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    started("scim2-server", port, "/v2", &mut command)
}

fn scimmy() -> Server {
    let (port, folder) = (free_port(), peers().join("node"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scim/scimmy.mjs");
    std::fs::copy(script, folder.join("server.mjs")).expect("benches/scim/install has been run");
    let mut command = Command::new("node");
    command.arg("server.mjs").arg(port.to_string()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    started("scimmy", port, "/scim/v2", &mut command)
}

fn started(name: &'static str, port: u16, base: &'static str, command: &mut Command) -> Server {
    let process = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| {
        panic!("{name} cannot be started ({error}); benches/scim/install installs the peers");
    });
    Server { name, port, base, process }
}

/// Where `benches/scim/install` puts the others.
fn peers() -> PathBuf {
    let lab = std::env::var_os("USHER_LAB").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/usher-lab"),
        PathBuf::from,
    );
    lab.join("scim-peers")
}
