//! Whatever way the homeserver's changes arrive, usher ends up seeing what is there: late, twice, with gaps, from an older position,
//! among reads (S-33). And whatever people write into events, nothing breaks and nobody passes for the bot.
//!
//! 300 histories in CI, 10 000 with `USHER_LONG=1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod hostile;
mod model;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use usher::config::Config;
use usher::http::ops::Heartbeat;
use usher::ids::RoomId;
use usher::matrix::registration::Registration;
use usher::matrix::{Access, Homeserver};
use usher::observability::Metrics;
use usher::observed::Room;
use usher::reconcile::{Arrival, Parts, Reconciler};

use model::{BOT, Change, INSTANCE, SERVER, Server, change};

/// The same cases in every run; with `USHER_LONG` 10 000, others each time.
fn runner(short: u32) -> TestRunner {
    let long = std::env::var_os("USHER_LONG").is_some();
    let cases = if long { 10_000 } else { short };
    let cases = Cases { cases, failure_persistence: None, max_shrink_iters: 500, ..Cases::default() };
    if long {
        return TestRunner::new(cases);
    }
    TestRunner::new_with_rng(cases, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// What happens to a history on its way to usher.
#[derive(Clone, Debug)]
enum Delivery {
    /// So many changes happen on the homeserver.
    Happen(usize),
    /// The feed asks; the homeserver shows so many events of a room at most.
    Ask { limit: usize },
    /// The feed asks, and everything is read while the answer is on its way.
    AskSlowly { limit: usize },
    /// The loop takes in so many of the answers that wait.
    Fold(usize),
    /// The loop reads everything.
    Read,
    /// usher is killed and starts again, from a position it stored so many answers ago.
    Restart { back: usize },
    /// The homeserver does not know the position any more.
    Forget,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let limit = prop_oneof![3 => 1..4_usize, 1 => Just(100_usize)];
    prop_oneof![
        6 => (1..8_usize).prop_map(Delivery::Happen),
        5 => limit.clone().prop_map(|limit| Delivery::Ask { limit }),
        1 => limit.prop_map(|limit| Delivery::AskSlowly { limit }),
        5 => (1..4_usize).prop_map(Delivery::Fold),
        1 => Just(Delivery::Read),
        1 => (0..4_usize).prop_map(|back| Delivery::Restart { back }),
        1 => Just(Delivery::Forget),
    ]
}

/// usher's side: the feed's answers, waiting, and the loop that takes them in.
struct Reader {
    server: Arc<Server>,
    homeserver: Homeserver,
    config: Config,
    reconciler: Reconciler,
    position: Option<String>,
    waiting: VecDeque<Arrival>,
    /// Positions up to which everything was dealt with, oldest first.
    stored: Vec<Option<String>>,
    /// Everything must be read before long.
    owes_read: bool,
}

impl Reader {
    async fn new(server: Arc<Server>, homeserver: Homeserver, config: Config) -> Self {
        let reconciler = reconciler(&homeserver, &config).await;
        Self {
            server,
            homeserver,
            config,
            reconciler,
            position: None,
            waiting: VecDeque::new(),
            stored: vec![None],
            owes_read: true,
        }
    }

    async fn follow(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Happen(count) => self.server.happen(*count),
            Delivery::Ask { limit } => {
                let batch = self.ask(*limit).await;
                self.waiting.push_back(Arrival { batch, at: Instant::now() });
            }
            Delivery::AskSlowly { limit } => {
                let batch = self.ask(*limit).await;
                self.server.happen(1);
                self.read().await;
                self.waiting.push_back(Arrival { batch, at: Instant::now() });
            }
            Delivery::Fold(count) => {
                for _ in 0..*count {
                    self.fold().await;
                }
            }
            Delivery::Read => self.read().await,
            Delivery::Restart { back } => {
                self.reconciler = reconciler(&self.homeserver, &self.config).await;
                self.waiting.clear();
                let index = self.stored.len().saturating_sub(1 + back);
                self.position.clone_from(&self.stored[index]);
                self.stored.truncate(index + 1);
                self.owes_read = true;
            }
            Delivery::Forget => self.position = Some("forgotten".to_owned()),
        }
    }

    async fn ask(&mut self, limit: usize) -> usher::matrix::Batch {
        self.server.limit(limit);
        let batch = self.homeserver.next_batch(self.position.as_deref(), Duration::ZERO).await.expect("a batch");
        self.position = Some(batch.position.clone());
        batch
    }

    async fn fold(&mut self) {
        let Some(arrival) = self.waiting.pop_front() else { return };
        let news = self.reconciler.fold(&arrival).await.expect("what the batch needs");
        self.owes_read |= news.reread;
        self.stored.push(Some(arrival.batch.position));
    }

    async fn read(&mut self) {
        self.reconciler.read_homeserver().await.expect("a read");
        self.owes_read = false;
    }

    /// Everything that has happened has arrived.
    async fn catch_up(&mut self) {
        self.server.happen(usize::MAX);
        if self.owes_read {
            self.read().await;
        }
        loop {
            let batch = self.ask(5).await;
            let quiet = batch.is_empty();
            self.waiting.push_back(Arrival { batch, at: Instant::now() });
            while !self.waiting.is_empty() {
                self.fold().await;
            }
            if self.owes_read {
                self.read().await;
            } else if quiet {
                return;
            }
        }
    }

    fn seen(&self) -> BTreeMap<RoomId, Room> {
        self.reconciler.observed().map(|observed| observed.rooms.clone()).unwrap_or_default()
    }
}

async fn reconciler(homeserver: &Homeserver, config: &Config) -> Reconciler {
    let parts = Parts {
        config: config.clone(),
        bridge: usher::bridge::build(config).unwrap(),
        homeserver: homeserver.clone(),
        roster: None,
        actuator: None,
        store: None,
        lease: None,
        metrics: Arc::new(Metrics::new()),
        heartbeat: Heartbeat::default(),
    };
    Reconciler::new(parts, CancellationToken::new()).await.unwrap()
}

fn config() -> Config {
    let text = format!(
        "homeserver: {{ url: 'http://127.0.0.1:8008', server_name: {SERVER} }}\n\
         source: {{ type: file, path: people.yaml }}\nspaces: [{{ id: s, name: S }}]\n"
    );
    let loaded = usher::config::load_with(&[("usher.yaml".into(), text)], &|_| None);
    loaded.strict().map_or_else(|problems| panic!("{problems:?}"), |(config, _)| config)
}

async fn connect(url: &str) -> Homeserver {
    let access = Access {
        instance: INSTANCE.to_owned(),
        server_name: SERVER.to_owned(),
        url: url.to_owned(),
        admin_url: None,
        bot: "usher".into(),
        admin_token: None,
        max_rate: 1000,
    };
    let registration = Registration {
        id: "usher-main".to_owned(),
        url: None,
        sender_localpart: "_usher".to_owned(),
        as_token: "as-token".into(),
        hs_token: "hs-token".into(),
        users: Vec::new(),
        aliases: Vec::new(),
    };
    Homeserver::connect(access, &registration).await.unwrap()
}

/// One history, delivered: what usher sees in the end, what it would read anew, and what is there.
async fn play(
    homeserver: &Homeserver,
    server: &Arc<Server>,
    (history, deliveries): (Vec<Change>, Vec<Delivery>),
) -> Result<(), TestCaseError> {
    server.begin(history);
    let mut reader = Reader::new(Arc::clone(server), homeserver.clone(), config()).await;
    for delivery in &deliveries {
        reader.follow(delivery).await;
        no_stranger_marks(&reader.seen())?;
    }
    reader.catch_up().await;
    let there = server.rooms();
    prop_assert_eq!(&homeserver.full().await.unwrap().rooms, &there, "a full read sees what is there");
    prop_assert_eq!(&reader.seen(), &there, "what was delivered is what is there");
    no_stranger_marks(&there)
}

fn no_stranger_marks(rooms: &BTreeMap<RoomId, Room>) -> Result<(), TestCaseError> {
    for (id, room) in rooms {
        prop_assert!(
            room.marker.as_ref().is_none_or(model::is_ours),
            "{} is marked by a stranger: {:?}",
            id,
            room.marker
        );
        prop_assert_eq!(&room.created_for, &None, "{}: nobody but the bot makes rooms of ours", id);
    }
    Ok(())
}

#[test]
fn every_history_ends_in_what_is_there_however_it_is_delivered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Arc::new(Server::default());
    let (url, task) = runtime.block_on(model::serve(Arc::clone(&server)));
    let homeserver = runtime.block_on(connect(&url));
    let histories = (proptest::collection::vec(change(), 5..60), proptest::collection::vec(delivery(), 3..16));
    let outcome = runner(300).run(&histories, |case| runtime.block_on(play(&homeserver, &server, case)));
    task.abort();
    println!("{} requests", server.requests());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The model must be able to fail: what is not delivered is not seen.
#[tokio::test]
async fn a_history_that_is_not_delivered_is_not_seen() {
    let server = Arc::new(Server::default());
    let (url, task) = model::serve(Arc::clone(&server)).await;
    let homeserver = connect(&url).await;
    server.begin(vec![Change::renaming("late")]);
    let mut reader = Reader::new(Arc::clone(&server), homeserver, config()).await;
    reader.follow(&Delivery::Ask { limit: 5 }).await;
    reader.follow(&Delivery::Read).await;
    server.happen(1);
    assert_ne!(reader.seen(), server.rooms());
    reader.catch_up().await;
    assert_eq!(reader.seen(), server.rooms());
    assert!(reader.seen()[BOT_ROOM].name.as_deref() == Some("late"), "{:?}", reader.seen());
    task.abort();
}

const BOT_ROOM: &str = model::ROOMS[0];

#[test]
fn the_bot_of_the_model_is_the_bot_of_the_configuration() {
    assert_eq!(BOT, format!("@usher:{SERVER}"));
}
