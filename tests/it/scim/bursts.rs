//! A client's burst of writes and the loop: many writes are one pass, and a deactivation among them waits for nothing (S-52). Passes are
//! counted by what the loop wrote down of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use usher::app::{self, Purpose};
use usher::clock;
use usher::config::load_with;
use usher::http::appservice::Hints;
use usher::ids::Timestamp;
use usher::matrix::Promotion;
use usher::observability::Status;
use usher::reconcile::daemon::{self, Ended};
use usher::store::PassRecord;
use usher::store::scim::Resources;

use super::Scim;
use crate::fake::Fake;
use crate::lab::company;
use crate::lab::proxy::{Fault, Seen};
use crate::stores::{Database, polls_since};

const SERVER: &str = crate::lab::synapse::SERVER_NAME;
const PEOPLE: usize = 40;
/// The loop takes a burst as over after two seconds of quiet: a machine that was busy elsewhere for so long has made two of one.
const QUIET: Duration = Duration::from_millis(1_500);
/// However long it goes on, a burst is over after fifteen seconds.
const LONGEST_BURST: Duration = Duration::from_secs(15);
/// Pause between two writes of a client that goes on and on.
const PACE: Duration = Duration::from_millis(150);
/// Writes it sends at most: fewer than it would need to be told that its burst has gone on for long enough.
const MOST_WRITES: usize = 60;
const LOOKS: usize = 2_400;

/// A loop that works for a client, on a homeserver in memory where everybody has an account.
struct Company {
    fake: Fake,
    scim: Scim,
    resources: Resources,
    stop: CancellationToken,
    running: JoinHandle<Ended>,
    _database: Database,
    _folder: TempDir,
}

impl Company {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// One whose accounts' attributes follow the client's word.
    async fn with(attributes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (registration, _) = company::register(folder.path(), SERVER);
        let fake = Fake::start(SERVER, &[&registration]).await;
        let root = fake.register_admin("root").await;
        fake.add_accounts("p", PEOPLE);
        let database = Database::sqlite();
        let space = json!({ "id": "everybody", "name": "Everybody", "groups": [{ "externalId": "" }] });
        let mut text = company::config(folder.path(), (SERVER, &fake.url()), "none", &[space]);
        text["database"]["url"] = json!(database.url);
        // The loop never looks by itself within this test.
        text["source"] = json!({
            "type": "scim", "check_interval_seconds": 86_400, "client": { "id": "acme", "token": "not asked for here" },
        });
        text["provisioner"]["max_rate"] = json!(1000);
        text["userProvisioner"]["synapse"]["attributes"] = json!(attributes);
        let path: PathBuf = folder.path().join("usher.yaml");
        let loaded = load_with(&[(path, text.to_string())], &|_| None);
        let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems));
        let stop = CancellationToken::new();
        let built = app::build(&config, Purpose::Act, &stop).await.unwrap_or_else(|failure| panic!("{}", failure.text));
        built.homeserver.ensure_users().await.unwrap();
        built.homeserver.make_admin(&root.token.into(), Promotion::Sender).await.unwrap();
        let (sender, _) = watch::channel(Status::default());
        let running = tokio::spawn(daemon::run(built.reconciler, built.homeserver, (sender, Hints::default()), false));
        let scim = Scim::on(&database).await;
        let resources = Resources::new(scim.store.clone(), "acme");
        let company = Self { fake, scim, resources, stop, running, _database: database, _folder: folder };
        company.until("a first pass", async || company.polls().await.len() == 1).await;
        company
    }

    /// Passes that the source, or the time, asked for.
    async fn polls(&self) -> Vec<PassRecord> {
        self.polls_since(Timestamp(0)).await
    }

    async fn polls_since(&self, begun: Timestamp) -> Vec<PassRecord> {
        polls_since(&self.scim.store, begun).await
    }

    async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> bool) {
        for _ in 0..LOOKS {
            if look().await {
                return;
            }
            assert!(!self.running.is_finished(), "the loop ended before: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {what}");
    }

    /// Until everything that was written is carried out and written down, and `polls` is there.
    async fn settled(&self, polls: usize) {
        let latest = self.resources.revision().await.unwrap().number;
        self.until("carried out", async || {
            self.resources.is_carried_out(latest).await.unwrap() && self.polls().await.len() >= polls
        })
        .await;
    }

    async fn end(self) {
        self.stop.cancel();
        assert_eq!(self.running.await.unwrap(), Ended::Stopped);
    }

    fn is_locked(&self, name: &str) -> bool {
        self.fake.seen().iter().any(|seen| is_lock(seen, name))
    }
}

fn is_lock(seen: &Seen, name: &str) -> bool {
    seen.method == "PUT" && seen.path.contains(name) && seen.body["locked"] == true
}

/// Notes when a client wrote, and how often it may have seemed quiet for so long that a burst of its writes was over.
struct Rhythm {
    begun: Instant,
    /// When the latest write began: the loop counts from some moment between that and its answer.
    latest: Instant,
    pauses: usize,
}

impl Rhythm {
    fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, latest: now, pauses: 0 }
    }

    async fn write<T>(&mut self, writing: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let written = writing.await;
        self.pauses += usize::from(self.latest.elapsed() >= QUIET);
        self.latest = began;
        written
    }

    /// How often a burst was over meanwhile, or had lasted for long enough.
    fn ends(&self) -> usize {
        let long = self.begun.elapsed().as_secs() / LONGEST_BURST.as_secs();
        self.pauses + usize::try_from(long).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_writes_is_one_pass() {
    let company = Company::new().await;
    let mut rhythm = Rhythm::begin();
    let group = company.scim.group("blue", &[]).await;
    for number in 0..PEOPLE {
        let person = rhythm.write(company.scim.user(&format!("p{number}"))).await;
        let member = json!([{ "op": "add", "path": "members", "value": [{ "value": person }] }]);
        rhythm.write(company.scim.patch(&format!("/Groups/{group}"), member)).await.is(200);
    }
    company.settled(2).await;
    let polls = company.polls().await;
    assert!(polls.len() <= 2 + rhythm.ends(), "{} writes, {} ends: {polls:?}", 2 * PEOPLE, rhythm.ends());
    let done: u64 = polls.iter().map(|pass| pass.counts.get("done").copied().unwrap_or_default()).sum();
    assert!(done >= u64::try_from(PEOPLE).unwrap(), "everybody of it was brought in: {polls:?}");
    assert!(polls.iter().all(|pass| pass.result == "ok"), "{polls:?}");
    company.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deactivation_in_a_burst_waits_for_nothing() {
    let company = Company::new().await;
    let mut paths = Vec::new();
    for number in 0..6 {
        paths.push(format!("/Users/{}", company.scim.user(&format!("p{number}")).await));
    }
    company.settled(2).await;
    let (begun, mut rhythm) = (clock::now(), Rhythm::begin());
    let (mut writes, mut written_when_locked) = (0, None);
    while writes < MOST_WRITES && written_when_locked.is_none() {
        let title = json!([{ "op": "replace", "path": "title", "value": format!("t{writes}") }]);
        rhythm.write(company.scim.patch(&paths[1 + writes % 5], title)).await.is(200);
        writes += 1;
        if writes == 6 {
            let polls = company.polls_since(begun).await;
            assert!(polls.len() <= rhythm.ends(), "the burst is waited out: {polls:?}");
            let operation = json!([{ "op": "replace", "path": "active", "value": false }]);
            company.scim.patch(&paths[0], operation).await.is(200);
        }
        tokio::time::sleep(PACE).await;
        written_when_locked = company.is_locked("p0").then_some(writes);
    }
    let written = written_when_locked.expect("locked while the client went on writing");
    assert!(written >= 6, "nobody is locked who was not deactivated");
    company.settled(1).await;
    company.until("it is written down", async || !company.polls_since(begun).await.is_empty()).await;
    // The one for the deactivation, and the one for what came behind it.
    let polls = company.polls_since(begun).await;
    assert!(polls.len() <= 2 + rhythm.ends(), "{writes} writes, {} ends: {polls:?}", rhythm.ends());
    company.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deactivation_does_not_wait_until_everybodys_addresses_were_read() {
    let company = Company::with(&["emails"]).await;
    let is_read = |seen: &Seen| seen.method == "GET" && seen.path.starts_with("/_synapse/admin/v2/users/%40p");
    let (deactivated, told) = (Arc::new(AtomicBool::new(false)), Duration::from_millis(500));
    let known = Arc::clone(&deactivated);
    company.fake.spoil(move |seen| {
        let slow = is_read(seen) && !known.load(Ordering::SeqCst);
        slow.then_some(Fault::Delay(told))
    });
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(company.scim.user(&format!("p{number}")).await);
    }
    company.until("the first addresses are read", async || company.fake.seen().iter().any(is_read)).await;
    let operation = json!([{ "op": "replace", "path": "active", "value": false }]);
    company.scim.patch(&format!("/Users/{}", people[0]), operation).await.is(200);
    deactivated.store(true, Ordering::SeqCst);
    company.until("locked", async || company.is_locked("p0")).await;
    let read = |seen: &[Seen]| seen.iter().filter(|seen| is_read(seen)).map(|seen| seen.path.clone()).collect();
    let seen = company.fake.seen();
    let locking = seen.iter().position(|seen| is_lock(seen, "p0")).unwrap();
    let before: BTreeSet<String> = read(&seen[..locking]);
    assert!(before.len() < PEOPLE, "everybody's addresses are read before anything else is done");
    company
        .until("all are read in the end", async || {
            let read: BTreeSet<String> = read(&company.fake.seen());
            read.len() == PEOPLE
        })
        .await;
    company.end().await;
}
