//! A homeserver in memory that behaves as Synapse does where usher looks: aliases, power levels, creators of version 12, restricted
//! joins, refusals with their codes, the user list, the stream. The contract suite holds it to the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod accounts;
mod power;
mod routes;
mod rules;
mod world;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use usher::ids::{RoomId, UserId};
use usher::matrix::registration::Registration;

use crate::lab::proxy::{Tap, open, serve};
use crate::lab::synapse::Person;
use world::World;

pub struct Shared {
    world: Mutex<World>,
    /// Something happened: the stream goes on.
    changed: Notify,
    tap: Tap,
}

/// A running fake; it ends with this value. Faults and counts are its [`Tap`]'s.
pub struct Fake {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Fake {
    /// Starts one that knows these registrations.
    pub async fn start(server_name: &str, registrations: &[&Registration]) -> Self {
        let registrations = registrations.iter().map(|registration| (*registration).clone()).collect();
        let world = Mutex::new(World::new(server_name, registrations));
        let shared = Arc::new(Shared { world, changed: Notify::new(), tap: Tap::default() });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let (url, server) = serve(app).await;
        Self { url, shared, server }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A new ordinary account.
    pub async fn register(&self, localpart: &str) -> Person {
        Person::register(&self.url, localpart).await
    }

    /// A new server admin.
    pub async fn register_admin(&self, localpart: &str) -> Person {
        let person = self.register(localpart).await;
        self.set_admin(&person.user);
        person
    }

    /// Many accounts at once, `<prefix>0` and so on.
    pub fn add_accounts(&self, prefix: &str, count: usize) {
        let mut world = self.shared.world.lock().expect("the world");
        for number in 0..count {
            let user = UserId::new(&format!("{prefix}{number}"), &world.server);
            world.add_account(&user).expect("a new name");
        }
    }

    /// Gives those of [`Fake::add_accounts`] a mail address each: `<prefix>0@<domain>` and so on.
    pub fn give_addresses(&self, prefix: &str, count: usize, domain: &str) {
        let mut world = self.shared.world.lock().expect("the world");
        for number in 0..count {
            let user = UserId::new(&format!("{prefix}{number}"), &world.server);
            world.account(&user).threepids = vec![("email".to_owned(), format!("{prefix}{number}@{domain}"))];
        }
    }

    /// Lets many into a room at once, without asking anybody.
    pub fn let_in(&self, room: &RoomId, people: impl Iterator<Item = UserId>) {
        let mut world = self.shared.world.lock().expect("the world");
        for user in people {
            world.set_member(room, &user, &user, "join", &serde_json::Value::Null);
        }
    }

    /// Makes an account server admin, as an operator would.
    pub fn set_admin(&self, user: &UserId) {
        self.shared.world.lock().expect("the world").account(user).admin = true;
    }
}

impl std::ops::Deref for Fake {
    type Target = Tap;

    fn deref(&self) -> &Tap {
        &self.shared.tap
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some((parts, _, seen)) = open(request).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let token = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = token.trim_start_matches("Bearer ").to_owned();
    let body = seen.body.clone();
    shared.tap.pass(seen, routes::answer(&shared, &parts, &token, body)).await
}
