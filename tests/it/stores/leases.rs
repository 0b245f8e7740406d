//! One writer (S-85): two at once, a stopped holder, a killed holder, an outage.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use usher::store::{LeaseError, Store, WriterLease};

use super::{Child, Database, on_both, signal, this_binary};
use crate::lab::postgres::Postgres;

const HOLDER: &str = "USHER_TEST_HOLDER_URL";
const TEST_SQLITE: &str = "stores::leases::a_killed_holder_on_sqlite_is_followed_at_once";
const TEST_POSTGRES: &str = "stores::leases::a_stopped_or_killed_holder_on_postgres_is_followed_when_its_lease_ends";

on_both! {
    of_two_at_once_one_gets_it_and_the_other_learns_who
    of_many_at_once_exactly_one_gets_it
    a_lease_given_back_is_free
}

async fn of_two_at_once_one_gets_it_and_the_other_learns_who(database: &Database) {
    let (first, second) = (database.open().await, database.open().await);
    let begun = Instant::now();
    let lease = WriterLease::acquire(&first).await.unwrap();
    // As long as it is given for, less what has passed since at the most.
    let whole = || lease.remaining_ms().saturating_add(u64::try_from(begun.elapsed().as_millis()).unwrap()) >= 14_990;
    assert!(whole(), "{}", lease.remaining_ms());
    let error = WriterLease::acquire(&second).await.unwrap_err();
    let LeaseError::Held { by } = &error else { panic!("{error}") };
    assert!(by.contains(&format!("process {} on ", std::process::id())), "{by}");
    assert!(error.to_string().contains("another usher writes"), "{error}");
    assert!(whole(), "{}", lease.remaining_ms());
}

async fn of_many_at_once_exactly_one_gets_it(database: &Database) {
    let store = database.open().await;
    let tries = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { WriterLease::acquire(&store).await })
    });
    let mut got = Vec::new();
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(lease) => got.push(lease),
            Err(LeaseError::Held { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(got.len(), 1);
}

async fn a_lease_given_back_is_free(database: &Database) {
    let store = database.open().await;
    let first = WriterLease::acquire(&store).await.unwrap();
    let epoch = first.epoch();
    first.release().await.unwrap();
    let second = WriterLease::acquire(&store).await.unwrap();
    let step = i64::from(!database.url.starts_with("sqlite"));
    assert_eq!(second.epoch(), epoch + step);
    drop(second);
    // Dropping gives back in the background.
    let mut third = WriterLease::acquire(&store).await;
    for _ in 0..100 {
        if third.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        third = WriterLease::acquire(&store).await;
    }
    assert_eq!(third.unwrap().epoch(), epoch + 2 * step);
}

/// A process that takes the lease, says so, and keeps it; once a line says what is left of it.
async fn hold_for_ever(url: &str) {
    let store = Store::open(url).await.unwrap();
    let lease = WriterLease::acquire(&store).await.unwrap();
    println!("\nholding");
    loop {
        tokio::select! {
            () = lease.lost() => {
                println!("\nlost, {} ms left", lease.remaining_ms());
                return;
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn start_holder(database: &Database, test: &str) -> (Child, Lines) {
    let mut child = Child(this_binary(test).env(HOLDER, &database.url).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    await_line(&mut lines, "holding");
    (child, lines)
}

fn await_line(lines: &mut Lines, begin: &str) -> String {
    lines.map(Result::unwrap).find(|line| line.starts_with(begin)).expect("the holder ended too early")
}

/// Tries until the lease is free; gives the lease and how long it took.
async fn acquire_when_free(store: &Store, limit: Duration) -> (WriterLease, Duration) {
    let began = Instant::now();
    loop {
        match WriterLease::acquire(store).await {
            Ok(lease) => return (lease, began.elapsed()),
            Err(LeaseError::Held { .. }) if began.elapsed() < limit => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("after {:?}: {error}", began.elapsed()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_on_sqlite_is_followed_at_once() {
    if let Ok(url) = std::env::var(HOLDER) {
        return hold_for_ever(&url).await;
    }
    let database = Database::sqlite();
    let store = database.open().await;
    let (mut child, _lines) = start_holder(&database, TEST_SQLITE);
    let error = WriterLease::acquire(&store).await.unwrap_err();
    assert!(error.to_string().contains(&format!("process {} on ", child.0.id())), "{error}");
    // A stopped process still has its file: only its end gives the lock back.
    signal(child.0.id(), "STOP");
    assert!(WriterLease::acquire(&store).await.is_err());
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    WriterLease::acquire(&store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_or_killed_holder_on_postgres_is_followed_when_its_lease_ends() {
    if let Ok(url) = std::env::var(HOLDER) {
        return hold_for_ever(&url).await;
    }
    let database = Database::postgres().await;
    let store = database.open().await;
    let limit = Duration::from_mins(1);
    let (child, mut lines) = start_holder(&database, TEST_POSTGRES);
    signal(child.0.id(), "STOP");
    let (lease, _) = acquire_when_free(&store, limit).await;
    assert_eq!(lease.epoch(), 2);
    signal(child.0.id(), "CONT");
    assert_eq!(await_line(&mut lines, "lost"), "lost, 0 ms left");
    lease.release().await.unwrap();

    let (mut child, _lines) = start_holder(&database, TEST_POSTGRES);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let still = WriterLease::acquire(&store).await;
    assert!(matches!(still, Err(LeaseError::Held { .. })), "the lease outlives its holder until its end");
    let (lease, _) = acquire_when_free(&store, limit).await;
    assert_eq!(lease.epoch(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_runs_down_in_an_outage_and_comes_back_after_it() {
    let server = Postgres::start().await;
    let store = Store::open(&server.database().await).await.unwrap();
    let lease = WriterLease::acquire(&store).await.unwrap();
    server.stop();
    let mut left = lease.remaining_ms();
    let began = Instant::now();
    while left > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = lease.remaining_ms();
        assert!(now <= left, "nothing renews a lease while the database is away");
        left = now;
        assert!(began.elapsed() < Duration::from_mins(1), "it never ran down");
    }
    server.resume().await;
    for _ in 0..600 {
        if lease.remaining_ms() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(lease.remaining_ms() > 0, "nobody else took it, so it is ours again");
    assert_eq!(lease.epoch(), 1);
}
