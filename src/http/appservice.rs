//! The application service's own listener (Matrix Application Service API): transactions, ping and queries. Optional (S-33, S-91).
//!
//! A transaction is a hint and nothing more (DESIGN decision 6): homeservers lose, repeat and delay them, so what they hold is never
//! folded. It wakes the feed, and names rooms the feed does not show. Whatever the body, an authenticated transaction is answered
//! 200 once taken in: one that is refused blocks the homeserver's queue for ever.

mod greeting;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use greeting::greet;

use super::BindError;
use crate::ids::{RoomId, UserId};

/// Largest transaction read: a hundred events of 64 KiB, threefold. What is larger is taken in unread.
const LARGEST_BODY: usize = 20 * 1024 * 1024;
/// Rooms remembered between two looks; beyond them, all are looked at.
pub const MOST_ROOMS: usize = 1_000;
/// Longest room id there is, in bytes (Matrix specification, appendix 4.2.1).
const LONGEST_ID: usize = 255;
/// Shortest pause that a transaction ends: a storm of them must not become one of requests.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// What passes between the listener and the loop: what transactions hinted at since the last look, and that the homeserver is back.
/// Clones share it; it never grows beyond [`MOST_ROOMS`] names.
#[derive(Clone, Debug)]
pub struct Hints {
    named: Arc<Mutex<Hinted>>,
    woken: watch::Sender<()>,
    returned: watch::Sender<()>,
}

/// Rooms in which something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hinted {
    pub rooms: BTreeSet<RoomId>,
    /// More than could be named, or not to be read: any room.
    pub any: bool,
}

impl Default for Hints {
    fn default() -> Self {
        Self { named: Arc::default(), woken: watch::channel(()).0, returned: watch::channel(()).0 }
    }
}

impl Hints {
    /// Changes whenever a transaction came.
    #[must_use]
    pub fn woken(&self) -> watch::Receiver<()> {
        self.woken.subscribe()
    }

    /// The homeserver answers again, after it did not.
    pub fn homeserver_returned(&self) {
        self.returned.send_replace(());
    }

    /// Changes whenever the homeserver came back.
    #[must_use]
    pub fn returned(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    /// Looks at what came since the last [`Hints::take`], and leaves it there.
    pub fn peek<T>(&self, look: impl FnOnce(&Hinted) -> T) -> T {
        look(&self.named.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What came since the last call.
    #[must_use]
    pub fn take(&self) -> Hinted {
        std::mem::take(&mut *self.named.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, hinted: Hinted) {
        {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            named.any |= hinted.any;
            named.rooms.extend(hinted.rooms);
            if named.rooms.len() > MOST_ROOMS {
                *named = Hinted { any: true, ..Hinted::default() };
            }
        }
        self.woken.send_replace(());
    }
}

/// What the listener needs.
#[derive(Clone, Debug)]
pub struct Appservice {
    /// The registration's `hs_token`.
    pub token: SecretString,
    /// The only user this service answers for.
    pub bot: UserId,
    pub hints: Hints,
}

/// Everything the homeserver may ask of an application service.
pub fn router(service: Appservice) -> Router {
    Router::new()
        .route("/_matrix/app/v1/transactions/{txn}", put(transaction))
        .route("/_matrix/app/v1/ping", post(ping))
        .route("/_matrix/app/v1/users/{user}", get(user))
        .route("/_matrix/app/v1/rooms/{alias}", get(room))
        .method_not_allowed_fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "M_UNRECOGNIZED"))
        .layer(middleware::from_fn_with_state(service.clone(), authenticated))
        .with_state(service)
}

/// Waits for `pause`, or for less when a transaction comes meanwhile: then the homeserver is there.
pub async fn wait_or_wake(pause: Duration, woken: &mut watch::Receiver<()>) {
    let shortest = pause.min(SHORTEST_PAUSE);
    tokio::time::sleep(shortest).await;
    let rest = tokio::time::sleep(pause.saturating_sub(shortest));
    tokio::pin!(rest);
    tokio::select! {
        () = &mut rest => {}
        changed = woken.changed() => match changed {
            Ok(()) => tracing::debug!("a transaction ends the pause"),
            // Nobody listens: then it is the time alone.
            Err(_) => rest.await,
        },
    }
}

/// Opens the listener.
///
/// # Errors
/// Says which address it was and what to do.
pub async fn bind(listen: &str) -> Result<TcpListener, BindError> {
    super::bind(listen, "appservice.listen").await
}

/// Serves until `stop`; open requests get a few seconds to end.
///
/// # Errors
/// When the listener itself breaks.
pub async fn serve(listener: TcpListener, service: Appservice, stop: CancellationToken) -> io::Result<()> {
    super::serve(listener, router(service), stop).await
}

/// Nothing is answered, and no body read, without the homeserver's token.
async fn authenticated(State(service): State<Appservice>, request: Request, next: Next) -> Response {
    match super::bearer(request.headers()) {
        None => refusal(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        Some(shown) if super::is_token(shown, &service.token) => next.run(request).await,
        Some(_) => refusal(StatusCode::FORBIDDEN, "M_FORBIDDEN"),
    }
}

async fn transaction(
    State(service): State<Appservice>,
    Path(txn): Path<String>,
    body: Body,
) -> Json<serde_json::Value> {
    let hinted = match to_bytes(body, LARGEST_BODY).await {
        Ok(body) => read(&body),
        Err(_) => None,
    };
    let hinted = hinted.unwrap_or_else(|| {
        tracing::debug!(txn, "a transaction could not be read; every room is looked at instead");
        Hinted { any: true, ..Hinted::default() }
    });
    tracing::debug!(txn, rooms = hinted.rooms.len(), "transaction");
    service.hints.add(hinted);
    Json(json!({}))
}

/// The rooms whose state a transaction says has changed; `None` for what is no transaction. Each event is read on its own, so that
/// a malformed one hides no other.
fn read(body: &[u8]) -> Option<Hinted> {
    #[derive(Deserialize)]
    struct Transaction<'a> {
        #[serde(borrow, default)]
        events: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Event {
        room_id: RoomId,
        /// Only state events have one.
        #[serde(rename = "state_key")]
        _state_key: String,
    }
    let transaction: Transaction<'_> = serde_json::from_slice(body).ok()?;
    let events = transaction.events.into_iter().filter_map(|event| serde_json::from_str::<Event>(event.get()).ok());
    let rooms = events.map(|event| event.room_id).filter(|room| room.as_str().len() <= LONGEST_ID);
    Some(Hinted { rooms: rooms.collect(), any: false })
}

async fn ping() -> Json<serde_json::Value> {
    Json(json!({}))
}

async fn user(State(service): State<Appservice>, Path(user): Path<String>) -> Response {
    if user == service.bot.as_str() {
        Json(json!({})).into_response()
    } else {
        refusal(StatusCode::NOT_FOUND, "M_NOT_FOUND")
    }
}

/// Rooms are never made on demand: an alias of ours that points nowhere means no room.
async fn room() -> Response {
    refusal(StatusCode::NOT_FOUND, "M_NOT_FOUND")
}

fn refusal(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({ "errcode": code, "error": status.canonical_reason().unwrap_or_default() }))).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_state_events_are_hints_and_a_malformed_one_hides_no_other() {
        let body = br#"{"events": [
            {"room_id": "!a", "state_key": "", "type": "m.room.name", "content": {"name": 7}},
            {"room_id": "!b", "type": "m.room.message", "content": {"body": "secret"}},
            {"room_id": 5, "state_key": ""}, 7, null, [], {"state_key": []},
            {"room_id": "!c", "state_key": "@ann:x"}
        ], "ephemeral": {}}"#;
        let rooms = BTreeSet::from([RoomId::from("!a"), RoomId::from("!c")]);
        assert_eq!(read(body), Some(Hinted { rooms, any: false }));
        assert_eq!(read(b"{}"), Some(Hinted::default()));
        assert_eq!(read(b"not JSON"), None);
        assert_eq!(read(br#"{"events": 7}"#), None);
    }

    #[test]
    fn deep_content_does_not_hide_the_room() {
        let deep = format!(
            r#"{{"events": [{{"room_id": "!a", "state_key": "", "content": {}{} }}]}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(read(deep.as_bytes()).map(|hinted| hinted.rooms.len()), Some(1));
    }

    #[test]
    fn too_many_rooms_become_any() {
        let hints = Hints::default();
        let mut woken = hints.woken();
        hints.add(Hinted {
            rooms: (0..=MOST_ROOMS).map(|number| RoomId::from(format!("!{number}"))).collect(),
            any: false,
        });
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();
        assert_eq!(hints.take(), Hinted { rooms: BTreeSet::new(), any: true });
        assert_eq!(hints.take(), Hinted::default());
        assert!(!woken.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_ends_a_pause_but_a_storm_of_them_leaves_it_some_length() {
        let hints = Hints::default();
        let mut woken = hints.woken();
        let (long, started) = (Duration::from_mins(1), tokio::time::Instant::now());
        wait_or_wake(long, &mut woken).await;
        assert_eq!(started.elapsed(), long, "nothing came");
        let (teller, started) = (hints.clone(), tokio::time::Instant::now());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            teller.add(Hinted::default());
        });
        wait_or_wake(long, &mut woken).await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        hints.add(Hinted::default());
        let started = tokio::time::Instant::now();
        wait_or_wake(long, &mut woken).await;
        assert_eq!(started.elapsed(), SHORTEST_PAUSE);
        drop(hints);
        let started = tokio::time::Instant::now();
        wait_or_wake(long, &mut woken).await;
        assert_eq!(started.elapsed(), long, "nobody is left to wake anybody");
    }

    proptest! {
        #[test]
        fn no_body_is_too_odd(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&body);
        }
    }
}
