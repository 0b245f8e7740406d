//! What `usher grace` says and what it leaves for the loop: a promise that holds, or why there is none.

#![allow(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use serde_json::json;
use usher::cli::{Exit, GraceVerb, grace};
use usher::config::Config;
use usher::ids::{Timestamp, UserId};
use usher::ledger::{Leaver, Ledger, Order};
use usher::store::diff;

use crate::stores::Database;

const DAY: i64 = 24 * 60 * 60 * 1000;
const NOW: Timestamp = Timestamp(1_772_442_600_000);

/// People in every stage, named after it.
async fn waiting(database: &Database, deprovisioning: serde_json::Value) -> Config {
    let leaver = |cause: &str, stage: &str| -> Leaver {
        let text = json!({ "since": NOW.0 - DAY, "clock": NOW.0 - DAY, "cause": cause, "stage": stage });
        serde_json::from_value(text).unwrap()
    };
    let people = [
        ("gone", "absent", "locked"),
        ("disabled", "disabled", "locked"),
        ("closing", "absent", "closing"),
        ("restoring", "absent", "restoring"),
        ("restored", "disabled", "restored"),
        ("open", "absent", "open"),
    ];
    let of = |(name, cause, stage): (&str, &str, &str)| (user(name), leaver(cause, stage));
    let ledger = Ledger { leavers: people.into_iter().map(of).collect(), ..Ledger::default() };
    let store = database.open().await;
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    store.close().await;
    let yaml = json!({ "database": { "url": database.url }, "userProvisioner": { "deprovisioning": deprovisioning } });
    crate::scenarios::world::config(&yaml.to_string())
}

fn user(name: &str) -> UserId {
    UserId::new(name, "example.org")
}

async fn said(config: &Config, verb: GraceVerb) -> (String, Exit) {
    grace::on(config, &verb, NOW, "ops").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_would_do_nothing_is_refused_and_any_other_says_where_its_outcome_shows() {
    let database = Database::sqlite();
    let config = waiting(&database, json!({ "enabled": true })).await;
    let name = str::to_owned;
    let restore = |user: &str| GraceVerb::Restore { user: name(user) };
    let lock = |user: &str| GraceVerb::Lock { user: name(user) };
    let erase = |user: &str| GraceVerb::EraseNow { user: name(user) };
    let extend = |user: &str| GraceVerb::Extend { user: name(user), period: name("9d") };
    let refused = [
        (restore("nobody"), "not locked by usher"),
        (restore("restored"), "usher grace lock takes that back"),
        (restore("restoring"), "usher grace lock takes that back"),
        (lock("gone"), "nothing to take back"),
        (erase("disabled"), "erase_inactive_after"),
        (extend("closing"), "under way"),
        (extend("restored"), "restored by an operator"),
    ];
    for (verb, why) in refused {
        let (text, exit) = said(&config, verb.clone()).await;
        assert!(exit == Exit::Error && text.contains(why), "{verb:?}: {text}");
    }
    let store = database.open().await;
    assert_eq!((store.orders().await.unwrap().len(), store.audit_tail(9).await.unwrap().len()), (0, 0));
    let taken = [
        (restore("gone"), "@gone:example.org is unlocked and stays so"),
        (restore("closing"), "unless the homeserver has erased the account by then"),
        (lock("restored"), "locked again if they are still gone or disabled"),
        (erase("gone"), "if a fresh read of the source still lacks them"),
        (erase("restored"), "is locked again and erased"),
        (erase("closing"), "if a fresh read of the source still lacks them"),
        (extend("gone"), "is not erased before"),
    ];
    for (verb, promise) in taken.clone() {
        let (text, exit) = said(&config, verb.clone()).await;
        assert!(exit == Exit::Done && text.contains(promise) && text.contains("usher audit tail"), "{verb:?}: {text}");
    }
    let orders: Vec<Order> = store.orders().await.unwrap().into_iter().map(|given| given.order).collect();
    assert_eq!(orders.len(), taken.len());
    assert_eq!(orders[2], Order::Lock { user: user("restored") });
    let rows = store.audit_tail(9).await.unwrap();
    assert!(rows.len() == taken.len() && rows.iter().all(|row| row.result == "ordered"), "{rows:?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_announced_only_for_those_who_have_one() {
    let database = Database::sqlite();
    let config = waiting(&database, json!({ "enabled": true, "final": "deactivate" })).await;
    let (list, _) = said(&config, GraceVerb::List { json: false }).await;
    let of = |name: &str| list.lines().find(|line| line.starts_with(&format!("@{name}:"))).unwrap_or_default();
    assert!(of("gone").contains("left the directory; deactivation not before"), "{list}");
    assert!(of("disabled").contains("disabled in the directory; no clock"), "{list}");
    assert!(of("restored").contains("restored by an operator"), "{list}");
    assert!(of("restoring").contains("to be unlocked"), "{list}");
    assert!(of("open").contains("to be locked again"), "{list}");
    let (json, _) = said(&config, GraceVerb::List { json: true }).await;
    let shown: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let ending: Vec<&str> = shown
        .iter()
        .filter(|leaver| !leaver["not_before"].is_null())
        .map(|leaver| leaver["user"].as_str().unwrap())
        .collect();
    assert_eq!(ending, ["@closing:example.org", "@gone:example.org"]);

    let database = Database::sqlite();
    let config = waiting(&database, json!({ "enabled": true, "erase_inactive_after": "90d" })).await;
    let (text, exit) = said(&config, GraceVerb::EraseNow { user: "disabled".to_owned() }).await;
    assert!(exit == Exit::Done && text.contains("still has them as disabled"), "{text}");
}
