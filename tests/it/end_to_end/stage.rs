//! The homeserver of a test: a Synapse that several tests share, each with an instance of its own, or one alone where it is to suffer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use secrecy::ExposeSecret as _;
use usher::matrix::registration::{Outline, Tokens, generate};

use crate::lab::synapse::{Person, SERVER_NAME, Synapse};

/// Instances that one Synapse is told of.
const SLOTS: usize = 40;

/// One usher's place on a homeserver.
#[derive(Clone)]
pub struct Slot {
    pub instance: String,
    pub bot: String,
    pub sender: String,
    /// Registration files, as the homeserver knows them.
    pub main: String,
    pub puppet: String,
    pub tokens: Vec<String>,
}

impl Slot {
    /// `url`: where the homeserver brings this one's transactions.
    fn draw(index: usize, url: Option<&str>) -> Self {
        let instance = format!("e{index}");
        let bot = format!("usher-e{index}");
        let outline = Outline {
            instance: instance.clone(),
            server_name: SERVER_NAME.to_owned(),
            bot: bot.as_str().into(),
            url: url.map(str::to_owned),
            aliases: BTreeSet::new(),
            protected: vec!["@usher-.*".to_owned(), "@_usher.*".to_owned(), "@root.*".to_owned()],
        };
        let (main, puppet) = (Tokens::draw().unwrap(), Tokens::draw().unwrap());
        let both = generate(&outline, &main, &puppet, &BTreeSet::new());
        let sender = format!("_usher_e{index}");
        // Several ushers on one homeserver: each needs a sender of its own.
        let own = |yaml: &str, from: &str, to: &str| {
            yaml.replace(&format!("sender_localpart: '{from}'"), &format!("sender_localpart: '{to}'"))
        };
        Self {
            main: own(both.main.expose_secret(), "_usher", &sender),
            puppet: own(both.puppet.expose_secret(), "_usher_puppet", &format!("_usher_puppet_e{index}")),
            tokens: [main.as_token, main.hs_token, puppet.as_token, puppet.hs_token]
                .map(|token| token.expose_secret().to_owned())
                .to_vec(),
            instance,
            bot,
            sender,
        }
    }
}

/// A homeserver that tests share.
pub struct Stage {
    synapse: tokio::sync::Mutex<Synapse>,
    url: String,
    admin: Person,
    slots: Vec<Slot>,
    next: AtomicUsize,
    people: AtomicUsize,
}

impl Stage {
    /// The one that all tests running at the moment share.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Stage>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(stage) = shared.upgrade().filter(|stage| stage.next.load(Ordering::Relaxed) < SLOTS) {
            return stage;
        }
        let stage = Self::start(SLOTS, None).await;
        *shared = Arc::downgrade(&stage);
        stage
    }

    /// One nobody else uses.
    pub async fn own() -> Arc<Self> {
        Self::start(1, None).await
    }

    /// As [`Stage::own`], with places for more services than one.
    pub async fn with_slots(slots: usize) -> Arc<Self> {
        Self::start(slots, None).await
    }

    /// As [`Stage::own`], and the homeserver brings its transactions to `url`.
    pub async fn bringing_transactions_to(url: &str) -> Arc<Self> {
        Self::start(1, Some(url)).await
    }

    async fn start(slots: usize, url: Option<&str>) -> Arc<Self> {
        let slots: Vec<Slot> = (0..slots).map(|index| Slot::draw(index, url)).collect();
        let texts: Vec<&str> = slots.iter().flat_map(|slot| [slot.main.as_str(), slot.puppet.as_str()]).collect();
        let synapse = Synapse::start(&texts).await;
        let admin = synapse.register_admin("root").await;
        let url = synapse.url();
        let next = AtomicUsize::new(0);
        Arc::new(Self {
            synapse: tokio::sync::Mutex::new(synapse),
            url,
            admin,
            slots,
            next,
            people: AtomicUsize::new(0),
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A server admin; its client belongs to the runtime that asks.
    pub fn admin_token(&self) -> &str {
        &self.admin.token
    }

    /// A place nobody has had yet.
    pub fn slot(&self) -> Slot {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.slots.get(index).expect("a free place").clone()
    }

    /// What the localparts of one test begin with.
    pub fn prefix(&self) -> String {
        format!("w{}", self.people.fetch_add(1, Ordering::Relaxed))
    }

    /// The homeserver itself, to be stopped and started.
    pub async fn synapse(&self) -> tokio::sync::MutexGuard<'_, Synapse> {
        self.synapse.lock().await
    }
}
