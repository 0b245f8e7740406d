//! What a pass over many people costs, counted at the wire: in proportion to what changed, not to how many there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use crate::end_to_end::child::Running;
use crate::fake::Fake;
use crate::lab::registered::registered;
use crate::lab::slapd::free_port;

const SERVER: &str = "lab.test";
/// People who change.
const CHANGED: usize = 10;

fn people(count: usize) -> usize {
    if std::env::var_os("USHER_LONG").is_some() { 100_000 } else { count }
}

fn write_people(path: &std::path::Path, count: usize, changed: usize) {
    let person = |at: usize| {
        let name = if at < changed { format!("Changed {at}") } else { format!("p{at}") };
        json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": name })
    };
    let users: Vec<Value> = (0..count).map(person).collect();
    std::fs::write(
        path,
        json!({ "users": users, "groups": [{ "id": "none", "name": "none", "members": [] }] }).to_string(),
    )
    .unwrap();
}

/// Requests and writes of a pass with ten changed names among `count` people.
async fn cost(count: usize) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (registration, _) = registered(folder.path(), SERVER);
    let fake = Fake::start(SERVER, &[&registration]).await;
    fake.add_accounts("p", count);
    let sender = usher::ids::UserId::new(&registration.sender_localpart, SERVER);
    fake.set_admin(&sender);
    let config = json!({
        "homeserver": { "url": fake.url(), "server_name": SERVER },
        "appservice": { "registration": "usher-registration.yaml" },
        "database": { "url": "sqlite://usher.db" },
        "ops": { "listen": format!("127.0.0.1:{}", free_port()) },
        "source": { "type": "file", "path": "people.json" },
        "userProvisioner": { "synapse": { "attributes": ["displayName"] } },
        "spaces": [{ "id": "few", "name": "Few", "groups": [{ "externalId": "none" }] }],
    });
    std::fs::write(folder.path().join("usher.yaml"), config.to_string()).unwrap();
    write_people(&folder.path().join("people.json"), count, 0);
    let apply = async |name: &str| {
        Running::start(folder.path(), name, &["apply", "--yes"], Vec::new()).wait().await.code(0);
    };
    apply("first").await;
    write_people(&folder.path().join("people.json"), count, CHANGED);
    fake.clear();
    apply("second").await;
    (fake.count(), fake.writes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changed_names_cost_the_same_among_few_people_and_among_many() {
    let (few, writes) = cost(100).await;
    assert_eq!(writes.len(), CHANGED, "{writes:?}");
    let count = people(3_000);
    let (many, writes) = cost(count).await;
    assert_eq!(writes.len(), CHANGED, "{writes:?}");
    // The user list comes in pages of a thousand.
    let pages = count.div_ceil(1_000) + 1;
    assert!(many <= few + 2 * pages, "{few} requests for 100 people, {many} for {count}");
    println!("{few} requests for 100 people, {many} for {count}");
}
