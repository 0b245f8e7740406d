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

/// What follows the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Names,
    Emails,
}

/// Everybody as their account is, but for so many.
fn write_people(path: &std::path::Path, count: usize, changed: usize) {
    let person = |at: usize| {
        let word = if at < changed { "changed" } else { "p" };
        let name = if at < changed { format!("Changed {at}") } else { format!("p{at}") };
        json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": name,
                "emails": [format!("{word}{at}@example.com")] })
    };
    let users: Vec<Value> = (0..count).map(person).collect();
    std::fs::write(
        path,
        json!({ "users": users, "groups": [{ "id": "none", "name": "none", "members": [] }] }).to_string(),
    )
    .unwrap();
}

/// Requests and writes of a pass with ten changed names, or addresses, among `count` people.
async fn cost(what: What, count: usize) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (registration, _) = registered(folder.path(), SERVER);
    let fake = Fake::start(SERVER, &[&registration]).await;
    fake.add_accounts("p", count);
    fake.give_addresses("p", count, "example.com");
    let sender = usher::ids::UserId::new(&registration.sender_localpart, SERVER);
    fake.set_admin(&sender);
    let config = json!({
        "homeserver": { "url": fake.url(), "server_name": SERVER },
        "appservice": { "registration": "usher-registration.yaml" },
        "database": { "url": "sqlite://usher.db" },
        "ops": { "listen": format!("127.0.0.1:{}", free_port()) },
        "source": { "type": "file", "path": "people.json" },
        "userProvisioner": { "synapse": { "attributes": [if what == What::Names { "displayName" } else { "emails" }] } },
        "spaces": [{ "id": "few", "name": "Few", "groups": [{ "externalId": "none" }] }],
    });
    std::fs::write(folder.path().join("usher.yaml"), config.to_string()).unwrap();
    write_people(&folder.path().join("people.json"), count, 0);
    let apply = async |name: &str| {
        Running::start(folder.path(), name, &["apply", "--yes"], Vec::new()).wait().await.code(0);
    };
    // Addresses are read once, some hundreds at a pass, before anything is compared.
    let passes = if what == What::Names { 1 } else { count.div_ceil(500) };
    for number in 0..passes {
        apply(&format!("first-{number}")).await;
    }
    assert_eq!(fake.writes().iter().filter(|write| write.contains("/v2/users/")).count(), 0, "all is as it should be");
    write_people(&folder.path().join("people.json"), count, CHANGED);
    fake.clear();
    apply("second").await;
    (fake.count(), fake.writes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changed_names_cost_the_same_among_few_people_and_among_many() {
    compare(What::Names, people(3_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changed_addresses_cost_the_same_among_few_people_and_among_many() {
    compare(What::Emails, people(700)).await;
}

async fn compare(what: What, count: usize) {
    let (few, writes) = cost(what, 100).await;
    assert_eq!(writes.len(), CHANGED, "{writes:?}");
    let (many, writes) = cost(what, count).await;
    assert_eq!(writes.len(), CHANGED, "{writes:?}");
    // The user list comes in pages of a thousand.
    let pages = count.div_ceil(1_000) + 1;
    assert!(many <= few + 2 * pages, "{few} requests for 100 people, {many} for {count}");
    println!("{what:?}: {few} requests for 100 people, {many} for {count}");
}
