//! Looking makes nothing and changes nothing (S-80).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use usher::cli::{Exit, HoldVerb, hold, status};
use usher::config::Ops;
use usher::ids::Timestamp;
use usher::ledger::Ledger;
use usher::plan::StepId;
use usher::store::{Fact, LeaseError, PassRecord, Store, StoreError, WriterLease, diff};

use super::behaviour::{full, hold as row, same};
use super::{Database, on_both};

on_both! {
    a_look_where_nothing_is_makes_nothing
    a_look_reads_what_was_left_and_leaves_it_so
    nothing_can_be_written_through_a_look
    a_look_beside_a_writer_sees_what_was_committed
    the_tables_of_an_older_version_are_named_and_left_alone
    whoever_brings_the_tables_up_to_date_just_now_is_waited_for
    verbs_that_look_say_that_there_is_nothing_yet
    verbs_that_look_change_nothing
}

/// Everything there is: files byte by byte, or tables row by row.
async fn everything(database: &Database) -> BTreeMap<String, Vec<u8>> {
    if let Some(folder) = folder(database) {
        return files(&folder);
    }
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let tables = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&pool).await.unwrap();
    let mut everything = BTreeMap::new();
    for table in tables {
        let rows = format!("SELECT COALESCE(CAST(json_agg(t) AS TEXT), '') FROM {table} t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(&pool).await.unwrap();
        everything.insert(table, rows.into_bytes());
    }
    pool.close().await;
    everything
}

/// Where the file of an `SQLite` database lies.
fn folder(database: &Database) -> Option<PathBuf> {
    database.url.strip_prefix("sqlite://").and_then(|path| Path::new(path).parent()).map(Path::to_owned)
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|it| (it.file_name().into_string().unwrap(), std::fs::read(it.path()).unwrap())).collect()
}

async fn filled(database: &Database) -> Ledger {
    let store = database.open().await;
    let ledger = full();
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    store.set_holds(&[row("h-1", 2, 5)]).await.unwrap();
    store.set_feed_position("s1").await.unwrap();
    store.close().await;
    ledger
}

async fn looked(database: &Database) -> Store {
    Store::look(&database.url).await.unwrap().expect("there is a database")
}

async fn a_look_where_nothing_is_makes_nothing(database: &Database) {
    assert!(Store::look(&database.url).await.unwrap().is_none());
    assert_eq!(everything(database).await, BTreeMap::new());
    if let Some(folder) = folder(database) {
        std::fs::write(folder.join("usher.db"), "").unwrap();
        assert!(Store::look(&database.url).await.unwrap().is_none(), "an empty file holds nothing");
        assert_eq!(files(&folder), BTreeMap::from([("usher.db".to_owned(), Vec::new())]));
    }
}

async fn a_look_reads_what_was_left_and_leaves_it_so(database: &Database) {
    let ledger = filled(database).await;
    // A birth that was never noted is no business of somebody who looks.
    let store = database.open().await;
    store.clear_fact(Fact::BornAt).await.unwrap();
    store.close().await;
    let before = everything(database).await;
    let look = looked(database).await;
    assert!(look.only_looks());
    assert!(same(&look.load_ledger().await.unwrap(), &ledger));
    assert_eq!(look.holds().await.unwrap(), [row("h-1", 2, 5)]);
    assert_eq!(look.feed_position().await.unwrap().as_deref(), Some("s1"));
    look.ping().await.unwrap();
    look.close().await;
    assert_eq!(everything(database).await, before);
}

async fn nothing_can_be_written_through_a_look(database: &Database) {
    let ledger = filled(database).await;
    let before = everything(database).await;
    let look = looked(database).await;
    let pass = PassRecord {
        started: Timestamp(1),
        ended: Timestamp(2),
        cause: "poll".into(),
        counts: BTreeMap::new(),
        result: "ok".into(),
    };
    let refused = [
        look.set_fact(Fact::Instance, "other").await,
        look.clear_fact(Fact::FeedPosition).await,
        look.set_holds(&[]).await,
        look.approve(&[StepId("s-1".into())], Timestamp(i64::MAX), "ann").await,
        look.save(&diff(&ledger, &Ledger::default())).await,
        look.record_pass(&pass).await,
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "write {number}: {refused:?}");
    }
    let lease = WriterLease::acquire(&look).await;
    assert!(matches!(lease, Err(LeaseError::Store(StoreError::Refused { .. }))), "{lease:?}");
    look.close().await;
    assert_eq!(everything(database).await, before);
}

async fn a_look_beside_a_writer_sees_what_was_committed(database: &Database) {
    let ledger = filled(database).await;
    let writer = database.open().await;
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let mut writing = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM people").execute(&mut *writing).await.unwrap();
    let look = looked(database).await;
    assert!(same(&look.load_ledger().await.unwrap(), &ledger));
    writing.rollback().await.unwrap();
    writer.set_holds(&[]).await.unwrap();
    assert!(look.holds().await.unwrap().is_empty(), "a look that stays open sees what comes");
    look.close().await;
    // The writer is none the worse for it.
    writer.set_feed_position("s2").await.unwrap();
    let again = looked(database).await;
    assert_eq!(again.feed_position().await.unwrap().as_deref(), Some("s2"));
    again.close().await;
    pool.close().await;
    writer.close().await;
    if let Some(folder) = folder(database) {
        assert_eq!(files(&folder).into_keys().collect::<Vec<_>>(), ["usher.db"]);
    }
}

async fn whoever_brings_the_tables_up_to_date_just_now_is_waited_for(database: &Database) {
    filled(database).await;
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let mark = async |done: &str| {
        let sql = format!("UPDATE _sqlx_migrations SET success = {done} WHERE version > 8");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    };
    let mut looked = None;
    // A machine that is busy may take longer to migrate than is waited for.
    for _ in 0..5 {
        mark("FALSE").await;
        let migrating = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            mark("TRUE").await;
        };
        looked = tokio::join!(Store::look(&database.url), migrating).0.unwrap_or_default();
        if looked.is_some() {
            break;
        }
    }
    looked.expect("it is waited for").close().await;
    pool.close().await;
}

async fn the_tables_of_an_older_version_are_named_and_left_alone(database: &Database) {
    filled(database).await;
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let newest = "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)";
    sqlx::query(newest).execute(&pool).await.unwrap();
    pool.close().await;
    let before = everything(database).await;
    let refused = Store::look(&database.url).await.unwrap_err();
    assert!(matches!(refused, StoreError::Older { version, latest } if version + 1 == latest), "{refused}");
    assert!(refused.to_string().contains("usher apply"), "{refused}");
    assert_eq!(everything(database).await, before);

    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET version = 999 WHERE version = 2").execute(&pool).await.unwrap();
    pool.close().await;
    let refused = Store::look(&database.url).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { version: 999 }), "{refused}");
}

fn verbs() -> [HoldVerb; 3] {
    [HoldVerb::List { json: false }, HoldVerb::List { json: true }, HoldVerb::Show { id: "h-1".into() }]
}

/// An address where nobody listens.
fn nobody() -> Ops {
    Ops { listen: "127.0.0.1:1".into(), token: None }
}

async fn verbs_that_look_say_that_there_is_nothing_yet(database: &Database) {
    let mut said = Vec::new();
    let approvals =
        [HoldVerb::Approve { ids: Vec::new(), all: true }, HoldVerb::Approve { ids: vec!["h-1".into()], all: false }];
    for verb in verbs().into_iter().chain(approvals) {
        said.push(hold::on(&database.url, &verb, Timestamp(0), "ann").await.unwrap());
    }
    let exits: Vec<Exit> = said.iter().map(|(_, exit)| *exit).collect();
    assert_eq!(exits, [Exit::Done, Exit::Done, Exit::Error, Exit::Done, Exit::Error]);
    assert!(said[0].0.contains("no database yet") && said[2].0.contains("There is no hold h-1"), "{said:?}");
    assert_eq!(said[1].0, "[]\n");
    let (text, exit) = status::run(&nobody(), &database.url, false).await.unwrap();
    assert!(exit == Exit::Error && text.contains("no database yet"), "{text}");
    assert_eq!(everything(database).await, BTreeMap::new());
}

async fn verbs_that_look_change_nothing(database: &Database) {
    filled(database).await;
    let before = everything(database).await;
    for verb in verbs() {
        let (text, exit) = hold::on(&database.url, &verb, Timestamp(0), "ann").await.unwrap();
        assert!(exit == Exit::Done && text.contains("h-1"), "{text}");
    }
    let (text, _) = status::run(&nobody(), &database.url, false).await.unwrap();
    assert!(text.contains("From its database") && text.contains("h-1"), "{text}");
    assert_eq!(everything(database).await, before);
    let approve = HoldVerb::Approve { ids: vec!["h-1".into()], all: false };
    assert_eq!(hold::on(&database.url, &approve, Timestamp(0), "ann").await.unwrap().1, Exit::Done);
    assert_ne!(everything(database).await, before);
}

/// What a killed writer leaves: a file whose latest changes stand in the log beside it.
#[tokio::test]
async fn what_a_killed_writer_left_is_read_where_it_lies() {
    let (database, crashed) = (Database::sqlite(), Database::sqlite());
    let writer = database.open().await;
    writer.set_feed_position("s7").await.unwrap();
    let (from, to) = (folder(&database).unwrap(), folder(&crashed).unwrap());
    for name in files(&from).keys() {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    writer.close().await;
    let kept = |name: &str| files(&to).remove(name);
    let before = (kept("usher.db"), kept("usher.db-wal"));
    assert!(before.1.as_ref().is_some_and(|log| !log.is_empty()), "the changes stand in the log");
    let look = looked(&crashed).await;
    assert_eq!(look.feed_position().await.unwrap().as_deref(), Some("s7"));
    assert!(look.set_feed_position("s8").await.is_err());
    look.close().await;
    assert_eq!((kept("usher.db"), kept("usher.db-wal")), before);
    let store = crashed.open().await;
    assert_eq!(store.feed_position().await.unwrap().as_deref(), Some("s7"));
    store.close().await;
}

#[tokio::test]
async fn a_folder_where_the_database_should_be_is_named() {
    let database = Database::sqlite();
    let folder = folder(&database).unwrap();
    std::fs::create_dir(folder.join("usher.db")).unwrap();
    let error = Store::look(&database.url).await.unwrap_err().to_string();
    assert!(error.contains("usher.db is not a file"), "{error}");
}
