//! kill -9 while writing, an outage, a damaged row.

use std::time::Duration;

use usher::ids::{Timestamp, UserId};
use usher::ledger::{Ledger, Order};
use usher::store::audit::AuditRecord;
use usher::store::{Store, StoreError, diff};

use super::{Child, Database, on_both, this_binary};
use crate::lab::postgres::Postgres;

const WRITER: &str = "USHER_TEST_WRITER_URL";
/// People in each generation that the writing process saves.
const PEOPLE: u32 = 1500;
const KILLS: u32 = 6;

on_both! {
    an_order_is_taken_in_with_all_that_follows_from_it_or_not_at_all
    an_order_that_nobody_understands_keeps_no_other_waiting
    a_row_that_cannot_be_read_is_an_error_and_never_an_omission
}

/// Every generation renames everybody, so that a half-written one shows.
fn generation(number: i64) -> Ledger {
    Ledger {
        people: (0..PEOPLE).map(|n| (format!("p{n}").as_str().into(), format!("u{number}").as_str().into())).collect(),
        last_complete_read: Some(Timestamp(number)),
        settled: true,
        ..Ledger::default()
    }
}

/// Saves one generation after the other until killed.
async fn write_for_ever(url: &str) {
    let store = Store::open(url).await.unwrap();
    let mut ledger = store.load_ledger().await.unwrap();
    loop {
        let next = generation(ledger.last_complete_read.map_or(1, |at| at.0 + 1));
        store.save(&diff(&ledger, &next)).await.unwrap();
        ledger = next;
    }
}

async fn kill_the_writer_again_and_again(database: &Database, test: &str) {
    let mut reached = 0;
    for round in 0..KILLS {
        let child =
            Child(this_binary(test).env(WRITER, &database.url).stdout(std::process::Stdio::null()).spawn().unwrap());
        let store = database.open().await;
        for _ in 0..600 {
            let at = store.load_ledger().await.unwrap().last_complete_read.map_or(0, |at| at.0);
            if at > reached {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Not in step with the writer's commits.
        tokio::time::sleep(Duration::from_millis(u64::from(13 * round))).await;
        drop(child);
        let ledger = database.open().await.load_ledger().await.unwrap();
        let number = ledger.last_complete_read.unwrap().0;
        assert!(number > reached, "the writer came no further than {number}");
        assert!(diff(&ledger, &generation(number)).is_empty(), "generation {number} is torn");
        reached = number;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_at_any_moment_leaves_a_whole_ledger_on_sqlite() {
    if let Ok(url) = std::env::var(WRITER) {
        return write_for_ever(&url).await;
    }
    let test = "stores::faults::a_writer_killed_at_any_moment_leaves_a_whole_ledger_on_sqlite";
    kill_the_writer_again_and_again(&Database::sqlite(), test).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_at_any_moment_leaves_a_whole_ledger_on_postgres() {
    if let Ok(url) = std::env::var(WRITER) {
        return write_for_ever(&url).await;
    }
    let test = "stores::faults::a_writer_killed_at_any_moment_leaves_a_whole_ledger_on_postgres";
    kill_the_writer_again_and_again(&Database::postgres().await, test).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_retryable_and_passes() {
    let server = Postgres::start().await;
    let url = server.database().await;
    let store = Store::open(&url).await.unwrap();
    store.save(&diff(&Ledger::default(), &generation(1))).await.unwrap();
    server.stop();
    let errors = [
        store.ping().await.unwrap_err(),
        store.save(&diff(&generation(1), &generation(2))).await.unwrap_err(),
        store.load_ledger().await.unwrap_err(),
        store.set_feed_position("s1").await.unwrap_err(),
        Store::open(&url).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_retryable(), "{error}");
    }
    server.resume().await;
    store.ping().await.unwrap();
    let ledger = store.load_ledger().await.unwrap();
    assert!(diff(&ledger, &generation(1)).is_empty());
    store.save(&diff(&ledger, &generation(2))).await.unwrap();
    assert!(diff(&store.load_ledger().await.unwrap(), &generation(2)).is_empty());
}

async fn a_row_that_cannot_be_read_is_an_error_and_never_an_omission(database: &Database) {
    let store = database.open().await;
    store.save(&diff(&Ledger::default(), &super::behaviour::full())).await.unwrap();
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    for damage in [
        "UPDATE entitled SET users = '[\"@a:b\"'",
        "UPDATE removals SET class = 'unheard_of'",
        "UPDATE group_memories SET users = 'x'",
    ] {
        let broken = sqlx::query(damage).execute(&pool).await.unwrap();
        assert!(broken.rows_affected() > 0);
        let error = store.load_ledger().await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{damage}: {error}");
        assert!(!error.is_retryable());
    }
}

fn ordered(id: &str) -> AuditRecord {
    AuditRecord { id: id.to_owned(), result: "ordered".to_owned(), ..AuditRecord::default() }
}

async fn an_order_is_taken_in_with_all_that_follows_from_it_or_not_at_all(database: &Database) {
    let store = database.open().await;
    let order = Order::Restore { user: UserId::new("evan", "example.com") };
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    sqlx::query("ALTER TABLE orders RENAME TO orders_away").execute(&pool).await.unwrap();
    store.give_order(&order, (Timestamp(1), "ops"), &ordered("1-order")).await.unwrap_err();
    sqlx::query("ALTER TABLE orders_away RENAME TO orders").execute(&pool).await.unwrap();
    assert!(store.audit_tail(9).await.unwrap().is_empty(), "nothing is on record of an order that was not given");
    store.give_order(&order, (Timestamp(1), "ops"), &ordered("1-order")).await.unwrap();
    let given = store.orders().await.unwrap().remove(0);
    let outcome = AuditRecord { id: "1-order".to_owned(), result: "obeyed".to_owned(), ..AuditRecord::default() };
    let changes = diff(&Ledger::default(), &generation(1));
    sqlx::query("ALTER TABLE audit RENAME TO audit_away").execute(&pool).await.unwrap();
    store.take_order(given.seq, &changes, &outcome).await.unwrap_err();
    sqlx::query("ALTER TABLE audit_away RENAME TO audit").execute(&pool).await.unwrap();
    assert_eq!(store.orders().await.unwrap(), std::slice::from_ref(&given), "it waits");
    assert!(diff(&store.load_ledger().await.unwrap(), &Ledger::default()).is_empty(), "and nothing has come of it");
    store.take_order(given.seq, &changes, &outcome).await.unwrap();
    assert!(store.orders().await.unwrap().is_empty());
    assert!(diff(&store.load_ledger().await.unwrap(), &generation(1)).is_empty());
    assert_eq!(store.audit_tail(9).await.unwrap()[0].result, "obeyed");
}

async fn an_order_that_nobody_understands_keeps_no_other_waiting(database: &Database) {
    let store = database.open().await;
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let strange = "INSERT INTO orders (what, given_at, given_by) VALUES ('{\"dance\":{}}', 1, 'ops')";
    sqlx::query(strange).execute(&pool).await.unwrap();
    let order = Order::Lock { user: UserId::new("evan", "example.com") };
    store.give_order(&order, (Timestamp(2), "ops"), &ordered("2-order")).await.unwrap();
    let understood = store.orders().await.unwrap();
    assert_eq!(understood.iter().map(|given| &given.order).collect::<Vec<_>>(), [&order]);
    let none = diff(&Ledger::default(), &Ledger::default());
    store.take_order(understood[0].seq, &none, &AuditRecord::default()).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM orders").fetch_one(&pool).await.unwrap();
    assert_eq!((store.orders().await.unwrap().len(), left), (0, 1), "it waits for whoever understands it");
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_says_which_and_why() {
    for (url, expected) in [
        ("sqlite:///nonexistent/usher.db", "does the directory exist"),
        ("sqlite:///tmp", "is it a file, and may this user read and write it"),
        ("mysql://db/usher", "must begin with sqlite:// or postgres://"),
        ("sqlite::memory:", "usher needs a file"),
    ] {
        let error = Store::open(url).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn the_database_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let database = Database::sqlite();
    let _store = database.open().await;
    let path = database.url.strip_prefix("sqlite://").unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}
