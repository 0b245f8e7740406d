//! What every function of the store does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use usher::ids::{Key, Timestamp, UserId};
use usher::ledger::{
    Absence, Attributes, Cause, Clocks, Flaw, GroupMemory, Leaver, Ledger, Order, Photo, Portrait, Refusal,
    RemovalRecord, Stage, Upload, keyed,
};
use usher::plan::{Class, StepId};
use usher::store::audit::AuditRecord;
use usher::store::{Fact, HeldStep, HoldRow, PassRecord, Store, StoreError, Told, diff};

use super::{Database, on_both};

on_both! {
    a_new_database_holds_an_empty_ledger
    a_ledger_survives_a_restart
    only_the_difference_is_written
    what_is_gone_is_deleted
    equal_removals_are_counted_each
    a_hundred_thousand_people_are_saved_in_few_statements
    a_renewed_approval_outlives_the_old_one
    holds_are_replaced_and_keep_their_age
    history_is_bounded_in_age_and_number
    facts_are_kept_and_forgotten
    what_operators_were_told_is_kept_until_it_is_taken_back
    migrations_run_once
    several_processes_may_open_a_new_database_at_once
    every_query_is_understood
    nothing_of_an_order_names_whoever_was_erased
    nothing_from_the_operators_room_names_whoever_was_erased
    nothing_about_other_accounts_names_the_entry_of_whoever_was_erased
    odd_texts_come_back_as_they_were
    readers_need_not_wait_for_a_writer
}

fn user(number: u32) -> UserId {
    UserId::new(&format!("user{number}"), "example.com")
}

fn room() -> Key {
    Key::Room { space: "eng".into(), slot: "general".into() }
}

fn leaver() -> Leaver {
    Leaver {
        id: Some("p-9".into()),
        since: Timestamp(1),
        cause: Cause::Absent,
        clock: Timestamp(2),
        unsure: true,
        not_before: Some(Timestamp(3)),
        at_once: true,
        stage: Stage::Closing,
        silenced: true,
        due_seen: Some(Timestamp(4)),
        administers: [("!club:x".into(), Some("@next:x".into())), ("!far:x".into(), None)].into(),
    }
}

fn attributes() -> Attributes {
    let digest = |text: &str| keyed("key", text);
    Attributes {
        name: Some(digest("name")),
        emails: Some(digest("emails")),
        read_at: Some(Timestamp(7)),
        given: [digest("one"), digest("other")].into(),
        refused: Some((digest("refused"), Timestamp(8))),
        objection: Flaw::Unacceptable,
        called: Some(digest("called")),
        portrait: Some(Box::new(Portrait {
            stamp: Some("20260302090000.000001Z#000000".into()),
            photo: Some(Photo::of(b"GIF89a")),
            refused: true,
            dealt: Some(digest("dealt")),
            hung: Some("mxc://x/hung".into()),
            sent: Some(Upload { digest: digest("sent"), url: "mxc://x/sent".into() }),
        })),
    }
}

/// A ledger with something in every part.
pub fn full() -> Ledger {
    let removal = |person: u32| RemovalRecord {
        class: Class::KicksPerSpace,
        space: Key::Space("eng".into()),
        person: Some(user(person)),
        at: Timestamp(1_700_000_000_123),
        space_base: 40,
        total_base: 60,
    };
    let given_up = RemovalRecord { class: Class::Spaces, person: None, at: Timestamp(1_700_000_000_124), ..removal(5) };
    let memory = GroupMemory { id: "g-1".into(), name: "Mods".into(), users: vec!["p-1".into(), "p-2".into()] };
    let absence = Absence { since: Timestamp(10), reads: 1, last_read: Timestamp(20) };
    let refusal = Refusal { code: "M_FORBIDDEN".into(), retry_at: Timestamp(99) };
    let everybody: BTreeMap<UserId, i64> = (0..5).map(|n| (user(n), i64::from(n) * 10)).collect();
    Ledger {
        people: (0..450_u32).map(|n| (format!("p-{n}").as_str().into(), format!("user{n}").as_str().into())).collect(),
        absences: BTreeMap::from([("p-9".into(), absence)]),
        groups: BTreeMap::from([("cn=mods".to_owned(), memory)]),
        entitled: BTreeMap::from([(Key::Space("eng".into()), Arc::new(everybody)), (room(), Arc::default())]),
        forgiven: BTreeSet::from([("!r:example.com".into(), user(1), "$e".into())]),
        refusals: BTreeMap::from([((room(), user(2)), refusal)]),
        removals: vec![removal(3), removal(4), given_up],
        approvals: BTreeMap::from([(StepId("s-1".into()), Timestamp(500))]),
        mirrored: Some(false),
        settled: true,
        began_bare: false,
        last_complete_read: Some(Timestamp(77)),
        leavers: BTreeMap::from([(user(9), leaver())]),
        closings: vec![Timestamp(5), Timestamp(6)],
        attributes: BTreeMap::from([(user(8), attributes())]),
        knows_names: true,
        clocks: Clocks::default(),
        key: String::new(),
    }
}

/// Ledgers have no equality of their own; their serialised form has.
pub fn same(left: &Ledger, right: &Ledger) -> bool {
    plain(left) == plain(right)
}

/// A map with tuple keys has no JSON form: the refusals stand beside the rest.
fn plain(ledger: &Ledger) -> (serde_json::Value, String) {
    let rest = Ledger { refusals: BTreeMap::new(), ..ledger.clone() };
    (serde_json::to_value(rest).unwrap(), format!("{:?}", ledger.refusals))
}

async fn a_new_database_holds_an_empty_ledger(database: &Database) {
    let store = database.open().await;
    assert!(same(&store.load_ledger().await.unwrap(), &Ledger::default()));
    assert!(store.holds().await.unwrap().is_empty());
    assert!(store.passes(10).await.unwrap().is_empty());
}

async fn a_ledger_survives_a_restart(database: &Database) {
    let ledger = full();
    let store = database.open().await;
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    store.close().await;
    let loaded = database.open().await.load_ledger().await.unwrap();
    assert!(same(&loaded, &ledger), "{:?}\n{:?}", plain(&loaded), plain(&ledger));
    assert!(diff(&ledger, &loaded).is_empty());
}

async fn only_the_difference_is_written(database: &Database) {
    let store = database.open().await;
    let before = full();
    store.save(&diff(&Ledger::default(), &before)).await.unwrap();
    let mut after = before.clone();
    after.people.insert("p-new".into(), "newcomer".into());
    after.people.insert("p-3".into(), "renamed".into());
    after.absences.clear();
    after.settled = false;
    after.last_complete_read = Some(Timestamp(78));
    let changes = diff(&before, &after);
    assert_eq!(changes.rows(), 5);
    store.save(&changes).await.unwrap();
    assert!(same(&store.load_ledger().await.unwrap(), &after));
    store.save(&changes).await.unwrap();
    assert!(same(&store.load_ledger().await.unwrap(), &after), "saving the same difference twice is harmless");
}

async fn what_is_gone_is_deleted(database: &Database) {
    let store = database.open().await;
    let ledger = full();
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    store.save(&diff(&ledger, &Ledger::default())).await.unwrap();
    assert!(same(&store.load_ledger().await.unwrap(), &Ledger::default()));
}

async fn equal_removals_are_counted_each(database: &Database) {
    let store = database.open().await;
    let mut ledger = full();
    let twin = ledger.removals[0].clone();
    ledger.removals.insert(0, twin);
    store.save(&diff(&full(), &ledger)).await.unwrap();
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    assert_eq!(store.load_ledger().await.unwrap().removals.len(), 4);
}

async fn a_hundred_thousand_people_are_saved_in_few_statements(database: &Database) {
    const PEOPLE: u32 = 100_000;
    let store = database.open().await;
    let everybody: Arc<BTreeMap<UserId, i64>> = Arc::new((0..PEOPLE).map(|n| (user(n), 0)).collect());
    let ledger = Ledger {
        people: (0..PEOPLE).map(|n| (format!("id-{n}").as_str().into(), format!("user{n}").as_str().into())).collect(),
        entitled: (0..4_u32)
            .map(|n| (Key::Space(format!("space{n}").as_str().into()), Arc::clone(&everybody)))
            .collect(),
        ..Ledger::default()
    };
    let changes = diff(&Ledger::default(), &ledger);
    assert_eq!(changes.rows(), PEOPLE as usize + 4);
    store.save(&changes).await.unwrap();
    let loaded = store.load_ledger().await.unwrap();
    assert_eq!(loaded.people.len(), PEOPLE as usize);
    assert!(diff(&ledger, &loaded).is_empty());
}

async fn a_renewed_approval_outlives_the_old_one(database: &Database) {
    let store = database.open().await;
    let step = StepId("s-1".into());
    let steps: Vec<StepId> = (0..500).map(|n| StepId(format!("s-{n}"))).collect();
    store.approve(&steps, Timestamp(100), "ann").await.unwrap();
    let old = Ledger { approvals: store.approvals().await.unwrap(), ..Ledger::default() };
    assert_eq!(old.approvals.len(), 500);
    store.approve(std::slice::from_ref(&step), Timestamp(200), "bob").await.unwrap();
    store.save(&diff(&old, &Ledger::default())).await.unwrap();
    assert_eq!(store.approvals().await.unwrap(), BTreeMap::from([(step, Timestamp(200))]));
}

pub fn hold(id: &str, steps: u32, first_held_at: i64) -> HoldRow {
    let steps = (0..steps).map(|n| HeldStep { id: StepId(format!("{id}-{n}")), text: format!("kick @user{n}") });
    HoldRow {
        id: id.into(),
        class: Class::KicksPerSpace,
        detail: "12 of 40 people in Engineering, limit 12".into(),
        steps: steps.collect(),
        first_held_at: Timestamp(first_held_at),
    }
}

async fn holds_are_replaced_and_keep_their_age(database: &Database) {
    let store = database.open().await;
    store.set_holds(&[hold("h-1", 3, 100), hold("h-2", 300, 100)]).await.unwrap();
    store.set_holds(&[hold("h-2", 301, 900), hold("h-3", 1, 900)]).await.unwrap();
    assert_eq!(store.holds().await.unwrap(), [hold("h-2", 301, 100), hold("h-3", 1, 900)]);
    store.set_holds(&[]).await.unwrap();
    assert!(store.holds().await.unwrap().is_empty());
}

fn pass(started: i64) -> PassRecord {
    PassRecord {
        started: Timestamp(started),
        ended: Timestamp(started + 5),
        cause: "poll".into(),
        counts: BTreeMap::from([("done".into(), 3)]),
        result: "ok".into(),
    }
}

async fn history_is_bounded_in_age_and_number(database: &Database) {
    const DAY: i64 = 24 * 3600 * 1000;
    let store = database.open().await;
    for day in [1, 2, 40, 41] {
        store.record_pass(&pass(day * DAY)).await.unwrap();
    }
    assert_eq!(store.passes(10).await.unwrap(), [pass(41 * DAY), pass(40 * DAY)]);
    assert_eq!(store.passes(1).await.unwrap(), [pass(41 * DAY)]);
    let many = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10050) \
         INSERT INTO passes (started, ended, cause, counts, result) \
         SELECT 3628800000, 3628800005, 'poll', '{}', 'ok' FROM numbers";
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    sqlx::query(many).execute(&pool).await.unwrap();
    store.record_pass(&pass(42 * DAY)).await.unwrap();
    let passes = store.passes(20_000).await.unwrap();
    assert_eq!((passes.len(), &passes[0]), (10_000, &pass(42 * DAY)));
}

async fn what_operators_were_told_is_kept_until_it_is_taken_back(database: &Database) {
    let store = database.open().await;
    let told = |event: &str, at: i64| Told {
        event: event.into(),
        room: "!office:x".into(),
        reason: "hold:h-1".to_owned(),
        code: "c0de".to_owned(),
        told_at: Timestamp(at),
        over_at: None,
    };
    let steps = ["s-1", "s-2"].map(|id| StepId(id.to_owned()));
    let (first, second) = (told("$z", 1), told("$a", 2));
    for told in [&second, &first, &first] {
        store.note_told(told, &steps).await.unwrap();
    }
    assert_eq!(store.told().await.unwrap(), [first.clone(), second.clone()], "the oldest first, each once");
    assert_eq!(store.listed_steps(&first.event).await.unwrap(), steps);
    assert_eq!(store.listed_steps(&"$none".into()).await.unwrap(), []);
    store.note_over(&second.event, Timestamp(9)).await.unwrap();
    assert_eq!(store.told().await.unwrap()[1].over_at, Some(Timestamp(9)));
    store.forget_told(&first.event).await.unwrap();
    assert_eq!(store.told().await.unwrap().len(), 1);
}

async fn facts_are_kept_and_forgotten(database: &Database) {
    let store = database.open().await;
    let born = store.born_at().await.unwrap();
    assert!(born.0 > 1_700_000_000_000);
    assert_eq!(store.feed_position().await.unwrap(), None);
    store.set_feed_position("s1").await.unwrap();
    store.set_feed_position("s2").await.unwrap();
    store.set_fact(Fact::Instance, "main").await.unwrap();
    store.save(&diff(&full(), &Ledger::default())).await.unwrap();
    store.close().await;
    let store = database.open().await;
    assert_eq!(store.feed_position().await.unwrap().as_deref(), Some("s2"));
    assert_eq!(store.fact(Fact::Instance).await.unwrap().as_deref(), Some("main"));
    assert_eq!(store.born_at().await.unwrap(), born);
    store.clear_fact(Fact::FeedPosition).await.unwrap();
    assert_eq!(store.feed_position().await.unwrap(), None);
}

async fn migrations_run_once(database: &Database) {
    for _ in 0..3 {
        database.open().await.close().await;
    }
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let applied: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations").fetch_one(&pool).await.unwrap();
    let known = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite")).unwrap().count();
    assert_eq!(usize::try_from(applied).unwrap(), known);
    let newer = "UPDATE _sqlx_migrations SET version = 999 WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)";
    sqlx::query(newer).execute(&pool).await.unwrap();
    let refused = Store::open(&database.url).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { version: 999 }), "{refused}");
    assert!(!refused.is_retryable());
}

async fn several_processes_may_open_a_new_database_at_once(database: &Database) {
    let opened = (0..6).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { Store::open(&url).await.map(|_| ()) })
    });
    for open in opened.collect::<Vec<_>>() {
        open.await.unwrap().unwrap();
    }
}

async fn every_query_is_understood(database: &Database) {
    let written = declared_queries();
    let prepared = database.open().await.prepare_all().await.unwrap();
    // The ledger's eleven tables, holds, approvals and the audit: two shapes of insert and of delete each.
    // Of SCIM's, nine have a list in two lengths, and two that insert are wholly made, in two lengths as well.
    let generated = (11 + 2 + 1) * 4 + 9 + 2 * 2;
    // The lease's and the clock's are PostgreSQL's only; of the two that ask for tables, and of the two that lock a row, each database has
    // its own.
    let others = if database.url.starts_with("sqlite") { 4 + 1 + 1 + 1 } else { 1 + 1 };
    assert_eq!(prepared, written - others + generated);
}

/// How many constants under `src/store` are queries: each must be in a list that is prepared.
fn declared_queries() -> usize {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join("store.rs")];
    let mut folders = vec![root.join("store")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let text = text.replace("\npub(super) const ", "\nconst ");
    let constants =
        text.split("\nconst ").skip(1).filter_map(|rest| rest.split_once("&str =\n").or(rest.split_once("&str = ")));
    constants
        .filter(|(name, value)| {
            // The last two are put together: all that this folder puts together in a constant are queries.
            let verbs = ["\"SELECT", "\"INSERT", "\"UPDATE", "\"DELETE", "select_one!(", "concat!("];
            name.len() < 40 && verbs.iter().any(|verb| value.trim_start().starts_with(verb))
        })
        .count()
}

async fn nothing_of_an_order_names_whoever_was_erased(database: &Database) {
    let store = database.open().await;
    let key = store.digest_key().await.unwrap();
    let evan = UserId::new("evan", "example.com");
    let orders = [
        Order::Restore { user: evan.clone() },
        Order::Extend { user: evan.clone(), not_before: Timestamp(99) },
        Order::Rebind { id: "cn=evan".into(), localpart: "evan".into() },
    ];
    for (minute, order) in (1..).zip(&orders) {
        for result in ["ordered", "obeyed"] {
            let row = AuditRecord::of_order((order, &evan), (Timestamp(minute), "ops"), &key, result);
            store.audit(&[row]).await.unwrap();
        }
    }
    // As earlier versions wrote them: the person in the id, the entry as the person.
    let old = |id: &str, action: &str, person: &str, after: &str| AuditRecord {
        id: id.to_owned(),
        action: action.to_owned(),
        person: person.to_owned(),
        after: after.to_owned(),
        ..AuditRecord::default()
    };
    let olds = [
        old("7-order-@evan:example.com", "order restore", "@evan:example.com", ""),
        old("8-order-7f3c", "order rebind", "7f3c", "evan"),
        old("9-order-7f3d", "order rebind", "7f3d", "sue"),
    ];
    store.audit(&olds).await.unwrap();
    let rows = store.audit_tail(10).await.unwrap();
    assert_eq!(rows.len(), 6, "what became of an order completes its row");
    assert!(rows[..3].iter().all(|row| row.result == "obeyed" && row.person == evan.as_str()), "{rows:?}");
    assert!(rows[..3].iter().all(|row| !row.id.contains("evan")), "{rows:?}");

    store.pseudonymise(&evan, "erased:1").await.unwrap();
    let rows = store.audit_tail(10).await.unwrap();
    assert!(!format!("{rows:?}").contains("evan"), "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row.person == "erased:1").count(), 5);
    assert_eq!((rows[5].person.as_str(), rows[5].after.as_str()), ("7f3d", "sue"), "others stay");
}

async fn nothing_from_the_operators_room_names_whoever_was_erased(database: &Database) {
    let store = database.open().await;
    let evan = UserId::new("evan", "example.com");
    let row = |id: &str, actor: &UserId, person: &str| AuditRecord {
        id: format!("1-operators-{id}"),
        actor: actor.to_string(),
        person: person.to_owned(),
        ..AuditRecord::default()
    };
    let sue = UserId::new("sue", "example.com");
    store.audit(&[row("d1", &evan, ""), row("d2", &sue, evan.as_str()), row("d3", &sue, "")]).await.unwrap();
    store.pseudonymise(&evan, "erased:1").await.unwrap();
    let rows = store.audit_tail(10).await.unwrap();
    assert!(!format!("{rows:?}").contains("evan"), "{rows:?}");
    assert_eq!((rows[0].actor.as_str(), rows[1].person.as_str()), ("erased:1", "erased:1"));
    assert!(rows[..2].iter().all(|row| !row.id.contains("-d")), "an id would tell whoever guesses the name: {rows:?}");
    assert_eq!((rows[2].id.as_str(), rows[2].actor.as_str()), ("1-operators-d3", sue.as_str()), "others stay");
}

async fn nothing_about_other_accounts_names_the_entry_of_whoever_was_erased(database: &Database) {
    let store = database.open().await;
    let (key, sue) = (store.digest_key().await.unwrap(), UserId::new("sue", "example.com"));
    // Evan, entry-7, asked for Sue's account; and whose it was is what earlier versions said when somebody else did.
    let owned = "refused: the account of entry-7, who is in the directory: rebind them to another one first";
    for (minute, id, result) in [(1, "entry-7", "refused: a protected user"), (2, "9", owned), (3, "9", "obeyed")] {
        let order = Order::Rebind { id: id.into(), localpart: "sue".into() };
        let row = AuditRecord::of_order((&order, &sue), (Timestamp(minute), "ops"), &key, result);
        store.audit(&[row]).await.unwrap();
    }
    store.forget_entry(&"entry-7".into()).await.unwrap();
    let rows = store.audit_tail(10).await.unwrap();
    assert!(!format!("{rows:?}").contains("entry-7"), "{rows:?}");
    let shown: Vec<[&str; 3]> = rows.iter().map(|row| [&*row.person, &*row.after, &*row.result]).collect();
    let sue = sue.as_str();
    assert_eq!(shown, [[sue, "", "refused: a protected user"], [sue, "9", "refused"], [sue, "9", "obeyed"]]);
}

async fn odd_texts_come_back_as_they_were(database: &Database) {
    let store = database.open().await;
    let odd = "O'Brien \"x\" \\ $1 ; DROP TABLE people -- ☃ 日本";
    let mut ledger = full();
    ledger.people.insert(odd.into(), odd.into());
    ledger.groups.insert(odd.into(), GroupMemory { id: odd.into(), name: odd.into(), users: vec![odd.into()] });
    ledger.entitled.insert(Key::Space(odd.into()), Arc::new(BTreeMap::from([(UserId::new(odd, "a"), 50)])));
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    assert!(same(&store.load_ledger().await.unwrap(), &ledger));
}

async fn readers_need_not_wait_for_a_writer(database: &Database) {
    let store = database.open().await;
    let ledger = full();
    store.save(&diff(&Ledger::default(), &ledger)).await.unwrap();
    store.set_holds(&[hold("h-1", 2, 5)]).await.unwrap();
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    let mut writing = pool.begin().await.unwrap();
    for half_done in ["DELETE FROM people", "DELETE FROM holds", "DELETE FROM facts"] {
        sqlx::query(half_done).execute(&mut *writing).await.unwrap();
    }
    // As `usher hold list` and `usher status` do beside a daemon that is saving: a process of its own.
    let reader = database.open().await;
    assert!(same(&reader.load_ledger().await.unwrap(), &ledger));
    assert_eq!(reader.holds().await.unwrap().len(), 1);
    assert!(reader.passes(1).await.unwrap().is_empty());
    writing.rollback().await.unwrap();
    reader.approve(&[usher::plan::StepId("s-9".into())], Timestamp(9), "ann").await.unwrap();
}
