//! What looking costs the homeserver, counted on the wire at three sizes: a poll that finds nothing to do, and a full re-read.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use usher::app::{self, Built, Purpose};
use usher::clock;
use usher::config::{Config, load_with};
use usher::http::appservice::Hints;
use usher::ids::{Key, UserId};
use usher::matrix::Promotion;
use usher::observability::Status;
use usher::plan::Scope;
use usher::reconcile::{NoFeed, daemon};

use crate::fake::Fake;
use crate::lab::company;
use crate::lab::proxy::Proxy;
use crate::stores::{look_in, polls_since};

const SERVER: &str = crate::lab::synapse::SERVER_NAME;
/// Spaces beside the one of everybody; each space has one room.
const SMALL_SPACES: usize = 4;
/// Members of a small space.
const FEW: usize = 10;
const POLLS: usize = 4;
/// A poll a second; longer than any pass takes here, even on a busy machine.
const LONGEST: Duration = Duration::from_mins(2);

/// A company that is all in place: everybody in one space and its room, a few people in some more.
struct Settled {
    fake: Fake,
    proxy: Proxy,
    config: Config,
    rooms: usize,
    folder: TempDir,
}

impl Settled {
    async fn with(people: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (registration, _) = company::register(folder.path(), SERVER);
        let fake = Fake::start(SERVER, &[&registration]).await;
        let proxy = Proxy::start(&fake.url()).await;
        let config = config(&folder, proxy.url(), people);
        let mut settled = Self { fake, proxy, config, rooms: 0, folder };
        settled.fill(people).await;
        settled
    }

    /// The rooms are usher's own work; the people are put into them afterwards, at once.
    async fn fill(&mut self, people: usize) {
        let root = self.fake.register_admin("root").await;
        let mut built = self.build(&CancellationToken::new()).await;
        built.homeserver.ensure_users().await.unwrap();
        built.homeserver.make_admin(&root.token.into(), Promotion::Sender).await.unwrap();
        let reconciler = &mut built.reconciler;
        reconciler.read_source(true).await.unwrap();
        reconciler.read_homeserver().await.unwrap();
        let result = reconciler.carry_out(&Scope::Everything, &mut NoFeed).await.unwrap();
        assert_eq!((result.failed, result.interrupted), (0, false));
        self.fake.add_accounts("p", people);
        let rooms = &reconciler.observed().unwrap().aliases;
        for (key, room) in rooms {
            let members = if key.space().as_str() == "everybody" { people } else { FEW };
            self.fake.let_in(room, (0..members).map(person));
        }
        self.rooms = rooms.keys().filter(|key| matches!(key, Key::Space(_) | Key::Room { .. })).count();
        assert_eq!(self.rooms, 2 * (1 + SMALL_SPACES));
    }

    async fn build(&self, stop: &CancellationToken) -> Built {
        app::build(&self.config, Purpose::Act, stop).await.unwrap_or_else(|failure| panic!("{}", failure.text))
    }
}

fn person(number: usize) -> UserId {
    UserId::new(&format!("p{number}"), SERVER)
}

fn config(folder: &TempDir, url: &str, people: usize) -> Config {
    let names = |count: usize| (0..count).map(|number| format!("p{number}")).collect::<Vec<_>>();
    let users: Vec<_> = names(people).iter().map(|name| json!({ "id": name, "display_name": name })).collect();
    let table = json!({ "users": users, "groups": [{ "name": "few", "members": names(FEW) }] });
    company::write_people(folder.path(), &table);
    let mut spaces = vec![json!({ "id": "everybody", "name": "Everybody", "groups": [{ "externalId": "" }] })];
    for number in 0..SMALL_SPACES {
        let group = json!({ "externalId": "few" });
        spaces.push(json!({ "id": format!("s{number}"), "name": format!("Space {number}"), "groups": [group] }));
    }
    let mut text = company::config(folder.path(), (SERVER, url), "usher.db", &spaces);
    text["source"]["check_interval_seconds"] = json!(1);
    text["provisioner"]["max_rate"] = json!(1000);
    // JSON is YAML.
    let path: PathBuf = folder.path().join("usher.yaml");
    let loaded = load_with(&[(path, text.to_string())], &|_| None);
    loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems))
}

/// Waits for `count` polls that found nothing to do.
async fn quiet_polls(status: &mut watch::Receiver<Status>, count: usize) {
    let mut polls = 0;
    while polls < count {
        let ended = tokio::time::timeout(LONGEST, status.changed()).await;
        ended.expect("a poll within its time").expect("the loop runs");
        let status = status.borrow_and_update();
        let pass = status.last_pass.clone().unwrap_or_default();
        assert_eq!(pass.result, "ok");
        polls += usize::from(pass.cause == "poll" && status.plan.pending == 0);
    }
}

async fn looking_stays_within_its_budget(people: usize) {
    let settled = Settled::with(people).await;
    let stop = CancellationToken::new();
    let mut built = settled.build(&stop).await;
    built.reconciler.read_source(true).await.unwrap();

    settled.proxy.clear();
    built.reconciler.read_homeserver().await.unwrap();
    let budget = settled.rooms + people / 1000 + 10;
    assert!(settled.proxy.count() <= budget, "{} requests for a full read, {budget} allowed", settled.proxy.count());
    let decided = built.reconciler.decide(&Scope::Everything).await.unwrap();
    assert_eq!(decided.plan.steps.len(), 0, "{}", usher::plan::render(&decided.plan, &decided.header));

    let (sender, mut status) = watch::channel(Status::default());
    let running = tokio::spawn(daemon::run(built.reconciler, built.homeserver, (sender, Hints::default()), false));
    // The first reads everything.
    quiet_polls(&mut status, 3).await;
    settled.proxy.clear();
    let begun = clock::now();
    quiet_polls(&mut status, POLLS).await;
    // More than were noticed, where this was slower than they.
    let store = look_in(settled.folder.path()).await;
    let polls = polls_since(&store, begun).await.len();
    let seen = settled.proxy.seen();
    let latest = polls_since(&store, begun).await.len();
    stop.cancel();
    assert_eq!(running.await.unwrap(), daemon::Ended::Stopped);
    let lists = seen.iter().filter(|seen| seen.path.ends_with("/users"));
    let (new, admins): (Vec<_>, Vec<_>) = lists.partition(|seen| seen.query.contains("order_by=creation_ts"));
    // One may have been under way.
    let looks = polls..=latest + 1;
    let once = looks.contains(&new.len()) && looks.contains(&admins.len());
    assert!(polls >= POLLS && once, "one look for new accounts and one for admins in each of {polls} polls: {seen:?}");
    // The stream is asked again when its wait is over, whatever the polls do.
    let most = (3 * latest).min(new.len() + admins.len() + 2);
    assert!(seen.len() <= most, "{people} people: {seen:?}");
    assert_eq!(settled.proxy.writes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_10_people_stays_within_its_budget() {
    Box::pin(looking_stays_within_its_budget(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_1_000_people_stays_within_its_budget() {
    Box::pin(looking_stays_within_its_budget(1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_10_000_people_stays_within_its_budget() {
    Box::pin(looking_stays_within_its_budget(10_000)).await;
}
