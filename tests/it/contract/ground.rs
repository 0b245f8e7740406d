//! What the cases stand on: a homeserver, fake or real, behind the counting proxy, and usher's hand on it.

use std::sync::Mutex;
use std::time::Instant;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use usher::actuate::{ActError, ActErrorKind, Actuator as _, LiveActuator, Outcome};
use usher::ids::{Key, RoomId, UserId};
use usher::matrix::registration::{self, Generated, Outline, Registration, Tokens};
use usher::matrix::{Access, Homeserver};
use usher::observed::{Marker, Member, Observed, PowerLevels};
use usher::plan::{Action, Creation, Deed, RoomRef};

use crate::fake::Fake;
use crate::lab::proxy::Proxy;
use crate::lab::synapse::{Person, Synapse};

/// How often an end is asked for, each time for some seconds.
const END_TRIES: u32 = 20;

/// Which homeserver: held for as long as the cases run.
enum Server {
    Real(Synapse),
    Fake(Fake),
}

pub struct Ground {
    server: Server,
    pub proxy: Proxy,
    pub homeserver: Homeserver,
    pub hand: LiveActuator,
    pub registration: Registration,
    pub puppet: Registration,
    admin: Mutex<Option<Person>>,
}

pub const SERVER: &str = crate::lab::synapse::SERVER_NAME;

fn outline() -> Outline {
    Outline {
        instance: "main".to_owned(),
        server_name: SERVER.to_owned(),
        bot: "usher".into(),
        url: None,
        aliases: [format!("#staff:{SERVER}")].into(),
        protected: Vec::new(),
    }
}

fn registrations() -> Generated {
    let tokens = || Tokens::draw().expect("tokens");
    registration::generate(&outline(), &tokens(), &tokens(), &[user("root")].into())
}

impl Ground {
    pub async fn synapse() -> Self {
        let generated = registrations();
        let texts = [generated.main.expose_secret(), generated.puppet.expose_secret()];
        let started = Instant::now();
        let synapse = Synapse::start(&texts).await;
        eprintln!("Synapse took {} ms to start", started.elapsed().as_millis());
        let url = synapse.url();
        Self::on(Server::Real(synapse), &url, &generated).await
    }

    pub async fn fake() -> Self {
        let generated = registrations();
        let (main, puppet) = (read_back(&generated.main), read_back(&generated.puppet));
        let fake = Fake::start(SERVER, &[&main, &puppet]).await;
        let url = fake.url();
        Self::on(Server::Fake(fake), &url, &generated).await
    }

    async fn on(server: Server, url: &str, generated: &Generated) -> Self {
        let proxy = Proxy::start(url).await;
        let registration = read_back(&generated.main);
        let puppet = read_back(&generated.puppet);
        let homeserver = Homeserver::connect(access(proxy.url()), &registration).await.expect("a client");
        let homeserver = homeserver.with_puppets(&puppet).expect("the puppet registration");
        let hand = LiveActuator::new(homeserver.clone());
        Self { server, proxy, homeserver, hand, registration, puppet, admin: Mutex::default() }
    }

    /// Ends a real Synapse as a power cut would, and starts it again.
    pub async fn kill_and_restart(&mut self) {
        match &mut self.server {
            Server::Real(synapse) => {
                synapse.kill9();
                synapse.restart().await;
            }
            Server::Fake(_) => panic!("the fake has nothing to survive"),
        }
    }

    /// As [`Ground::kill_and_restart`], in order.
    pub async fn stop_and_restart(&mut self) {
        match &mut self.server {
            Server::Real(synapse) => {
                synapse.stop();
                synapse.restart().await;
            }
            Server::Fake(_) => panic!("the fake has nothing to survive"),
        }
    }

    fn url(&self) -> String {
        match &self.server {
            Server::Real(synapse) => synapse.url(),
            Server::Fake(fake) => fake.url(),
        }
    }

    /// A new ordinary person, whose requests do not pass the proxy.
    pub async fn person(&self, localpart: &str) -> Person {
        Person::register(&self.url(), localpart).await
    }

    /// Many accounts at once (fake only: a real one takes minutes for what this is about).
    pub fn crowd(&self, prefix: &str, count: usize) {
        match &self.server {
            Server::Real(_) => panic!("crowds are for the fake"),
            Server::Fake(fake) => fake.add_accounts(prefix, count),
        }
    }

    /// The one human server admin.
    pub async fn admin(&self) -> Person {
        if let Some(admin) = self.admin.lock().expect("the admin").clone() {
            return admin;
        }
        let admin = match &self.server {
            Server::Real(synapse) => synapse.register_admin("root").await,
            Server::Fake(fake) => fake.register_admin("root").await,
        };
        *self.admin.lock().expect("the admin") = Some(admin.clone());
        admin
    }

    /// Does `action` and proves that the homeserver then looks as simulated.
    pub async fn do_and_compare(&self, action: &Action) -> Outcome {
        let mut predicted = self.homeserver.full().await.expect("a read before");
        let standing = self.standing(action).await;
        let outcome = self.hand.perform(action, standing.as_ref()).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{action:?}: {error}"));
        predicted.simulate(action, &outcome);
        let read = self.homeserver.full().await.expect("a read after");
        assert_same(&predicted, &read, action);
        outcome
    }

    pub async fn perform(&self, action: &Action) -> Outcome {
        let standing = self.standing(action).await;
        let outcome = self.hand.perform(action, standing.as_ref()).await;
        outcome.unwrap_or_else(|error| panic!("{action:?}: {error}"))
    }

    /// As [`Ground::perform`], of an end that the homeserver may take its time for: it is asked for again until it has come.
    pub async fn perform_to_its_end(&self, close: &Action) {
        let tries = if matches!(self.server, Server::Real(_)) { END_TRIES } else { 1 };
        for _ in 0..tries {
            let standing = self.standing(close).await;
            match self.hand.perform(close, standing.as_ref()).await {
                Ok(_) => return,
                Err(error) if error.kind == ActErrorKind::Stale && error.cause.contains("has not finished yet") => {}
                Err(error) => panic!("{close:?}: {error}"),
            }
        }
        panic!("{close:?}: it never ends");
    }

    /// `action` must be refused with this meaning.
    pub async fn refused(&self, action: &Action, kind: ActErrorKind) -> ActError {
        let standing = self.standing(action).await;
        self.refused_over(action, standing.as_ref(), kind).await
    }

    /// `action`, planned on the levels `standing`, must be refused with this meaning.
    pub async fn refused_over(&self, action: &Action, standing: Option<&PowerLevels>, kind: ActErrorKind) -> ActError {
        let error = self.hand.perform(action, standing).await.expect_err("a refusal");
        assert_eq!(error.kind, kind, "{action:?}: {error}");
        error
    }

    /// The levels that a level action is done on top of.
    async fn standing(&self, action: &Action) -> Option<PowerLevels> {
        let (Action::SetPowerLevels { room: RoomRef::Id(room), .. }
        | Action::Puppet { room: RoomRef::Id(room), deed: Deed::SetLevels { .. }, .. }) = action
        else {
            return None;
        };
        self.homeserver.room(room).await.expect("a read before")?.power_levels
    }

    /// A managed space that admits nobody by itself, made for this case.
    pub async fn space(&self, id: &str) -> RoomId {
        self.perform(&Action::CreateRoom(Box::new(space(id)))).await.room.expect("a room")
    }

    /// The status of asking who `user` is with the puppet registration's token.
    pub async fn puppet_status(&self, user: &UserId) -> u16 {
        let user = crate::lab::synapse::escape(user.as_str());
        let url = format!("{}/_matrix/client/v3/account/whoami?user_id={user}", self.url());
        let request = reqwest::Client::new().get(url).bearer_auth(self.puppet.as_token.expose_secret());
        request.send().await.expect("an answer").status().as_u16()
    }

    /// What the bot sends by hand, as usher never would.
    pub async fn raw_as_bot(&self, method: &str, path: &str, body: Value) -> Value {
        let bot = crate::lab::synapse::escape(self.homeserver.bot().as_str());
        let method: reqwest::Method = method.parse().expect("a method");
        let request = reqwest::Client::new()
            .request(method, format!("{}{path}?user_id={bot}", self.url()))
            .bearer_auth(self.registration.as_token.expose_secret())
            .json(&body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

pub fn access(url: &str) -> Access {
    Access {
        instance: "main".to_owned(),
        server_name: SERVER.to_owned(),
        url: url.to_owned(),
        admin_url: None,
        bot: "usher".into(),
        admin_token: None,
        max_rate: 1000,
    }
}

fn read_back(yaml: &SecretString) -> Registration {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registration.yaml");
    registration::write(&path, yaml).expect("a file");
    registration::read(&path).expect("a registration")
}

pub fn user(localpart: &str) -> UserId {
    UserId::new(localpart, SERVER)
}

pub fn marker(key: &Key) -> Marker {
    Marker {
        instance: "main".to_owned(),
        key: key.clone(),
        made: [].into(),
        abandoned: false,
        additive: false,
        original_creator: None,
        former: std::collections::BTreeSet::new(),
        adopted: false,
    }
}

pub fn creation(key: Key, body: Value) -> Creation {
    Creation { marker: marker(&key), key, body, allow: Vec::new() }
}

/// A space as the planner makes them.
pub fn space(id: &str) -> Creation {
    let body = json!({
        "name": id, "room_version": "12", "creation_content": { "type": "m.space" },
        "power_level_content_override": { "invite": 100, "events": { "m.space.child": 50, "m.room.name": 100 } },
        "initial_state": [{ "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "forbidden" } }],
    });
    creation(Key::Space(id.into()), body)
}

pub fn at(room: &RoomId) -> RoomRef {
    RoomRef::Id(room.clone())
}

/// Equal but for what no prediction can know: the event ids of our own kicks.
fn assert_same(predicted: &Observed, read: &Observed, action: &Action) {
    let plain = |observed: &Observed| {
        let mut plain = observed.clone();
        plain.aliases.clear();
        for member in plain.rooms.values_mut().flat_map(|room| room.members.values_mut()) {
            if let Member::Leave { by, event } = member
                && *by == observed.bot
            {
                *event = "".into();
            }
        }
        serde_json::to_value(plain).expect("JSON")
    };
    let (predicted, read) = (plain(predicted), plain(read));
    assert_eq!(predicted, read, "after {action:?}");
}
