//! The whole program where accounts are somebody else's business, or cannot be read: rooms do not wait for that (S-82), and whom only
//! Matrix Authentication Service knows to be a server admin is protected all the same (S-54).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;

use super::office::{Office, SERVER, until};
use crate::lab::proxy::{Fault, Seen};
use crate::lab::synapse::escape;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| format!("@{name}")).collect()
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
    for (name, expected) in [("p0", &["first0@example.com"][..]), ("p1", &[]), ("p2", &["first2@example.com"])] {
        assert_eq!(office.addresses(name).await, expected, "{name}");
    }
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.addresses("p1").await, ["first1@example.com"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_always_answered_with_an_error_of_the_homeservers_keeps_only_itself_waiting() {
    let office = Office::open(4, &["emails"]).await;
    office.employ(0..4, "first", &[]);
    office.fake.spoil(|seen| {
        let met = seen.method == "GET" && seen.path.contains("/v2/users/") && seen.path.contains("p1");
        met.then(|| Fault::Answer(500, json!({ "errcode": "M_UNKNOWN", "error": "Internal server error" })))
    });
    for _ in 0..2 {
        office.usher(&["apply", "--yes"]).await.says("mail addresses cannot be read");
    }
    office.fake.behave();
    for (name, count) in [("p0", 1), ("p1", 0), ("p2", 1), ("p3", 1)] {
        assert_eq!(office.addresses(name).await.len(), count, "{name}");
    }
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p2", "p3"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rests_because_the_service_is_away_is_not_done_and_the_exit_code_says_so() {
    let mut office = Office::open(3, &["emails"]).await;
    let service = office.hand_over_accounts(3).await;
    office.employ(0..2, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    drop(service);
    office.employ(0..3, "second", &[]);
    office.usher(&["apply", "--yes"]).await.code(4);
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1", "p2"]), "rooms do not wait");
    let _service = office.hand_over_accounts(3).await;
    office.usher(&["apply", "--yes"]).await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_somebody_had_before_usher_came_passes_on_with_the_next_pass() {
    let office = Office::open(2, &["emails"]).await;
    office.fake.give_addresses("p", 2, "example.com");
    let person = |at: usize, address: &str| json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "emails": [address] });
    office.list(&[person(0, "p1@example.com"), person(1, "new@example.com")], &[]);
    // Whoever is asked about first finds it taken, and is not put off for a day.
    for _ in 0..2 {
        office.usher(&["apply", "--yes"]).await;
    }
    assert_eq!(office.addresses("p0").await, ["p1@example.com"]);
    assert_eq!(office.addresses("p1").await, ["new@example.com"]);
    office.usher(&["apply", "--yes"]).await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_to_rebind_is_refused_while_the_source_is_down() {
    let mut office = Office::open(2, &[]).await;
    office.config["source"]["check_interval_seconds"] = json!(1);
    office.employ(0..1, "first", &[]);
    let mut running = office.start(&["run"]);
    until("a space", async || !office.audited().await.is_empty()).await;
    std::fs::remove_file(office.path("people.json")).unwrap();
    office.usher(&["rebind", "id0", "p1"]).await.code(0);
    let refused = |row: &Value| {
        row["action"] == "order rebind"
            && row["result"].as_str().unwrap().starts_with("refused: the source could not be read")
    };
    until("it is refused", async || office.audited().await.iter().any(refused)).await;
    running.must_run();
    running.stop().await.code(0);
    let pool = sqlx::SqlitePool::connect(&office.database()).await.unwrap();
    let bound: Vec<(String,)> = sqlx::query_as("SELECT localpart FROM people").fetch_all(&pool).await.unwrap();
    assert_eq!(bound, [("p0".to_owned(),)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_is_reported_where_accounts_are_found_by_another_name() {
    let mut office = Office::open(2, &[]).await;
    office.config["accounts"] = json!({ "match_external_id": { "provider": "oidc-lab", "from": "id" } });
    let link = json!({ "external_ids": [{ "auth_provider": "oidc-lab", "external_id": "id-of-zoe" }] });
    let account = format!("/_synapse/admin/v2/users/{}", escape(&format!("@p1:{SERVER}")));
    office.root.must("PUT", &account, link).await;
    // The one is found by her external id, the other one goes by the name of the directory.
    let people = |zoe: &str, other: &str| {
        [json!({ "id": "id-of-zoe", "localpart": zoe }), json!({ "id": "id-of-other", "localpart": other })]
    };
    let staff = ["id-of-zoe".to_owned(), "id-of-other".to_owned()];
    office.list(&people("zoe", "p0"), &staff);
    office.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1"]));
    let planned = async || office.usher(&["plan", "--json"]).await.code(0).out.clone();
    assert!(!planned().await.contains("is called"), "she always was called otherwise");
    office.list(&people("zoe.jones", "p0.jones"), &staff);
    for _ in 0..2 {
        let said = planned().await;
        for (bound, now) in [("p1", "zoe.jones"), ("p0", "p0.jones")] {
            assert!(
                said.contains(&format!("@{bound}:{SERVER} is called @{now}:{SERVER} in the directory now")),
                "{said}"
            );
        }
        office.usher(&["apply", "--yes"]).await.code(0);
    }
    assert_eq!(office.inside().await, names(&["usher", "p0", "p1"]), "and nothing else happens");
}

/// People 0 and 1, and person 1 disabled, where that is an end at once.
fn disable(office: &mut Office) {
    office.config["userProvisioner"] = json!({ "deprovisioning": { "enabled": true, "erase_inactive_after": "0s" } });
    let person = |at: usize| json!({ "id": format!("id{at}"), "localpart": format!("p{at}"), "enabled": at == 0 });
    office.list(&[person(0), person(1)], &["id0".to_owned()]);
}

fn ends(seen: &Seen) -> bool {
    seen.is_write() && seen.path.contains("/v1/deactivate/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_goes_from_the_record_although_the_database_was_away_when_the_account_ended() {
    let mut office = Office::open(2, &[]).await;
    office.employ(0..2, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    disable(&mut office);
    let met = Arc::new(AtomicBool::new(false));
    let seen_end = Arc::clone(&met);
    office.fake.spoil(move |seen| {
        let first = ends(seen) && !seen_end.swap(true, Ordering::SeqCst);
        first.then_some(Fault::Late(Duration::from_secs(2)))
    });
    let mut running = office.start(&["run"]);
    until("the end is sent", async || met.load(Ordering::SeqCst)).await;
    let mut other = sqlx::SqliteConnection::connect(&office.database()).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    running.until_said("the pass could not be made").await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let ended = |row: &Value| {
        row["action"] == "erase" && row["result"] == "done" && row["person"].as_str().unwrap().starts_with("erased:")
    };
    until("the record is complete", async || office.audited().await.iter().any(ended)).await;
    let audited = format!("{:?}", office.audited().await);
    assert!(!audited.contains("@p1:"), "{audited}");
    running.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_sent_is_recorded_and_forgotten_where_the_person_is_protected_by_now() {
    let mut office = Office::open(2, &[]).await;
    office.employ(0..2, "first", &[]);
    office.usher(&["apply", "--yes"]).await.code(0);
    disable(&mut office);
    let sent = Arc::new(AtomicBool::new(false));
    let seen_end = Arc::clone(&sent);
    office.fake.spoil(move |seen| {
        if ends(seen) {
            seen_end.store(true, Ordering::SeqCst);
            return Some(Fault::DropAfter);
        }
        // Nothing more is heard of it.
        seen_end.load(Ordering::SeqCst).then_some(Fault::DropBefore)
    });
    let mut running = office.start(&["run"]);
    until("the end is sent", async || sent.load(Ordering::SeqCst)).await;
    running.until_said("the pass could not be made").await;
    running.kill9();
    office.fake.behave();
    office.config["provisioner"] = json!({ "protected_users": [format!("@p1:{SERVER}")] });
    office.fake.clear();
    office.usher(&["apply", "--yes"]).await.code(0);
    assert!(
        !office.fake.seen().iter().any(|seen| seen.is_write() && seen.path.contains("p1")),
        "nothing is asked of it"
    );
    office.usher(&["grace", "list"]).await.code(0).says("Nobody is locked");
    let audited = office.audited().await;
    let of_end = |row: &&Value| row["action"] == "end" && row["result"].as_str().unwrap().starts_with("done");
    assert_eq!(audited.iter().filter(of_end).count(), 1, "{audited:?}");
    assert!(!format!("{audited:?}").contains("@p1:"), "{audited:?}");
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
    let mut running = office.start(&["run"]);
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
