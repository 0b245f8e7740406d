//! What a pass over many people costs, counted at the wire: in proportion to what changed, not to how many there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::office::Office;

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

/// Everybody as their account is, but for so many. Nobody is of the staff: what rooms cost is another matter.
fn list(office: &Office, count: usize, changed: usize) {
    let person = |at: usize| {
        let word = if at < changed { "changed" } else { "p" };
        let name = if at < changed { format!("Changed {at}") } else { format!("p{at}") };
        json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": name,
                "emails": [format!("{word}{at}@example.com")] })
    };
    office.list(&(0..count).map(person).collect::<Vec<Value>>(), &[]);
}

/// Requests and writes of a pass with ten changed names, or addresses, among `count` people.
async fn cost(what: What, count: usize) -> (usize, Vec<String>) {
    let office = Office::open(count, &[if what == What::Names { "displayName" } else { "emails" }]).await;
    office.fake.give_addresses("p", count, "example.com");
    list(&office, count, 0);
    // Addresses are read once, some hundreds at a pass, before anything is compared.
    let passes = if what == What::Names { 1 } else { count.div_ceil(500) };
    for _ in 0..passes {
        office.usher(&["apply", "--yes"]).await.code(0);
    }
    let written = office.fake.writes().into_iter().filter(|write| write.contains("/v2/users/")).count();
    assert_eq!(written, 0, "all is as it should be");
    list(&office, count, CHANGED);
    office.fake.clear();
    office.usher(&["apply", "--yes"]).await.code(0);
    (office.fake.count(), office.fake.writes())
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
