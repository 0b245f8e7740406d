//! One account or room that the homeserver always answers with an error keeps only itself waiting (S-82), and a pass that takes long keeps
//! nobody who leaves, and no operator, waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::office::{Office, SERVER, until};
use crate::lab::proxy::Fault;
use crate::lab::synapse::escape;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| format!("@{name}")).collect()
}

/// Answers every look at what is under a path with this part and this name with an error.
fn fail(office: &Office, part: &'static str, name: &'static str, status: u16) {
    office.fake.spoil(move |seen| {
        let met = seen.method == "GET" && seen.path.contains(part) && seen.path.contains(name);
        met.then(|| Fault::Answer(status, json!({ "errcode": "M_UNKNOWN", "error": "Internal server error" })))
    });
}

/// So many people in the directory, all of the staff; these are disabled.
fn employ(office: &Office, people: usize, disabled: &[usize]) {
    let person = |at: usize| {
        json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "display_name": format!("Name {at}"),
                "enabled": !disabled.contains(&at) })
    };
    let staff: Vec<String> = (0..people).map(|at| format!("id{at}")).collect();
    office.list(&(0..people).map(person).collect::<Vec<_>>(), &staff);
}

/// These people and a boss, all of the staff.
fn employ_below_a_boss(office: &Office, people: &[&str]) {
    let people: Vec<&str> = std::iter::once("boss").chain(people.iter().copied()).collect();
    let users: Vec<Value> = people.iter().map(|name| json!({ "id": name, "localpart": name })).collect();
    let groups = json!([{ "id": "staff", "name": "staff", "members": people }, { "id": "bosses", "name": "bosses", "members": ["boss"] }]);
    let all = json!({ "users": users, "groups": groups });
    std::fs::write(office.path("people.json"), all.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_person_whose_rooms_cannot_be_looked_at_keeps_nobody_else_waiting() {
    let mut office = Office::open(4, &[]).await;
    office.config["userProvisioner"]["deprovisioning"] = json!({ "enabled": true, "erase_inactive_after": "0s" });
    employ(&office, 3, &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    fail(&office, "/memberships", "p1", 500);
    employ(&office, 4, &[1, 2]);
    office.usher(&["apply", "--yes"]).await.says("what a locked person would leave behind is not known");
    assert!(office.inside().await.contains("@p3"), "whoever is new is asked in");
    for (name, closed) in [("p1", false), ("p2", true)] {
        let account = office.account(name).await;
        assert!(account["locked"] == true || account["deactivated"] == true, "{account}");
        assert_eq!(account["deactivated"], closed, "nobody is erased whose rooms were not looked at: {account}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_an_account_that_cannot_be_looked_at_waits_and_nothing_else() {
    let office = Office::open(4, &[]).await;
    office.employ(0..3, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    fail(&office, "/v2/users/", "p1", 500);
    office.employ(0..4, "first", &[1, 2]);
    office.usher(&["apply", "--yes"]).await.code(4).says("an account cannot be looked at");
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p3"]), "nobody knows whose p1 is");
    office.fake.behave();
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "p0", "p3"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_refused_keeps_nobodys_addresses_from_being_read() {
    let mut office = Office::open(3, &[]).await;
    office.config["userProvisioner"]["deprovisioning"] = json!({ "enabled": true });
    office.employ(0..3, "first", &[]);
    office.usher(&["run", "--once"]).await.code(0);
    office.fake.spoil(move |seen| {
        let met = seen.method == "PUT" && seen.path.contains("p1") && seen.body["locked"] == true;
        met.then(|| Fault::Answer(403, json!({ "errcode": "M_FORBIDDEN", "error": "not this one" })))
    });
    let person = |at: usize| json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "enabled": at != 1, "emails": [format!("new{at}@example.com")] });
    let people: Vec<Value> = (0..3).map(person).collect();
    office.list(&people, &["id0", "id1", "id2"].map(str::to_owned));
    office.usher(&["run", "--once"]).await.says("not this one");
    // Nothing else is to be done now.
    office.config["userProvisioner"]["synapse"]["attributes"] = json!(["emails"]);
    office.usher(&["run", "--once"]).await.says("not this one");
    assert_eq!(office.account("p1").await["locked"], false);
    assert_eq!(office.addresses("p2").await, ["new2@example.com"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_in_a_space_of_ours_that_cannot_be_looked_at_keeps_nothing_else_waiting() {
    let mut office = Office::open(3, &[]).await;
    let boss = office.fake.register("boss").await;
    office.config["spaces"][0]["groups"] =
        json!([{ "externalId": "staff" }, { "externalId": "bosses", "powerLevel": 100 }]);
    employ_below_a_boss(&office, &["p0"]);
    office.usher(&["apply", "--yes"]).await.code(0);
    let space = escape(office.space().await.as_str());
    boss.must("POST", &format!("/_matrix/client/v3/join/{space}"), json!({})).await;
    office.usher(&["apply", "--yes"]).await.code(0);
    let made =
        boss.must("POST", "/_matrix/client/v3/createRoom", json!({ "preset": "public_chat", "name": "Huge" })).await;
    let huge = made["room_id"].as_str().unwrap().to_owned();
    let child = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{}", escape(&huge));
    boss.must("PUT", &child, json!({ "via": [SERVER] })).await;
    office.fake.spoil(move |seen| {
        let met = seen.path.contains("/_synapse/admin/v1/rooms/") && seen.path.contains(&escape(&huge));
        met.then(|| Fault::Answer(500, json!({ "errcode": "M_UNKNOWN", "error": "Internal server error" })))
    });
    employ_below_a_boss(&office, &["p0", "p1"]);
    office.usher(&["apply", "--yes"]).await.code(0).says("a room outside cannot be looked at");
    assert_eq!(office.inside().await, names(&["usher", "boss", "p0", "p1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_replaced_ours_and_cannot_be_looked_at_keeps_nothing_else_waiting() {
    let mut office = Office::open(3, &[]).await;
    let boss = office.fake.register("boss").await;
    let bosses = json!({ "externalId": "bosses", "powerLevel": 100 });
    let space = |id: &str| json!({ "id": id, "name": id, "groups": [{ "externalId": "staff" }, bosses] });
    office.config["spaces"] = json!([space("few"), space("other")]);
    // Whoever has 100 may replace it.
    office.config["provisioner"]["room_version"] = json!("11");
    employ_below_a_boss(&office, &["p0"]);
    office.usher(&["apply", "--yes"]).await.code(0);
    let old = office.space().await;
    boss.must("POST", &format!("/_matrix/client/v3/join/{}", escape(old.as_str())), json!({})).await;
    office.usher(&["apply", "--yes"]).await.code(0);
    let upgrade = format!("/_matrix/client/v3/rooms/{}/upgrade", escape(old.as_str()));
    let made = boss.must("POST", &upgrade, json!({ "new_version": "11" })).await;
    let heir = made["replacement_room"].as_str().unwrap().to_owned();
    let path = escape(&heir);
    office.fake.spoil(move |seen| {
        let met = seen.path.contains("/_synapse/admin/v1/rooms/") && seen.path.contains(&path);
        met.then(|| Fault::Answer(500, json!({ "errcode": "M_UNKNOWN", "error": "Internal server error" })))
    });
    employ_below_a_boss(&office, &["p0", "p1"]);
    office.usher(&["apply", "--yes"]).await.code(0).says("could not be read");
    assert_eq!(office.inside_of("other").await, names(&["usher", "boss", "p0", "p1"]), "the other space goes on");
    office.fake.behave();
    assert_eq!(office.space().await.as_str(), heir, "no third one is made");
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", escape(&heir));
    boss.must("POST", &invite, json!({ "user_id": format!("@usher:{SERVER}") })).await;
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "boss", "p0", "p1"]), "it is followed once it can be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_external_id_cannot_be_looked_up_is_left_out_and_nothing_is_taken_from_anybody() {
    let mut office = Office::open(4, &[]).await;
    office.config["accounts"] = json!({ "match_external_id": { "provider": "oidc-sso", "from": "id" } });
    office.employ(0..2, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    fail(&office, "/auth_providers/", "id2", 400);
    office.employ(0..4, "first", &[0]);
    let ended = office.usher(&["apply", "--yes"]).await;
    ended.says("whose account id2 has cannot be looked up");
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p3"]));
    office.fake.behave();
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "p1", "p2", "p3"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_and_orders_do_not_wait_for_the_end_of_a_first_sync() {
    const PEOPLE: usize = 120;
    let mut office = Office::open(PEOPLE, &["displayName"]).await;
    office.config["userProvisioner"]["deprovisioning"] = json!({ "enabled": true });
    office.config["source"]["check_interval_seconds"] = json!(1);
    employ(&office, PEOPLE, &[]);
    let mut running = office.start(&["run"]);
    let named = async |at: usize| office.account(&format!("p{at}")).await["displayname"] == format!("Name {at}");
    let unfinished = async || {
        for at in 0..PEOPLE {
            if !named(at).await {
                return true;
            }
        }
        false
    };
    until("the first names are written", async || named(0).await).await;
    let last = PEOPLE - 1;
    employ(&office, PEOPLE, &[last]);
    let locked = async || office.account(&format!("p{last}")).await["locked"] == Value::Bool(true);
    until("the leaver is locked", async || locked().await).await;
    assert!(unfinished().await, "not only after the first sync");
    office.usher(&["grace", "restore", &format!("p{last}")]).await.code(0);
    until("the order is obeyed", async || !locked().await).await;
    assert!(unfinished().await, "not only after the first sync");
    running.must_run();
}
