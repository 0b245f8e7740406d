//! The operations listener (S-91): `/live`, `/ready`, `/metrics`, `/status`. It only reads; nothing here changes anything.
//!
//! `/live` and `/ready` are open, because orchestrators probe without credentials; the others ask for `ops.token` where one is set.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BindError;
use crate::observability::{FailureStatus, Metrics, Mode, OutboxStatus, Status};
use crate::store::{Store, StoreError};

/// How long the loop may be silent before the process counts as dead. Its longest slice of work is about two seconds.
const LIVE_FOR: Duration = Duration::from_secs(30);
/// Accounts that could not be made so far, told of at most.
const MOST_DELAYED: u32 = 100;
/// How long an answer waits for the database.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// The loop's pulse. Clones share it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    born: Instant,
    /// Milliseconds from `born` to the last tick.
    ticked: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { born: Instant::now(), ticked: Arc::default() }
    }
}

impl Heartbeat {
    /// The loop is alive. To be called at least every few seconds, also while it waits for a long read.
    pub fn tick(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ticked.store(age, Ordering::Relaxed);
    }

    /// Time since the last tick, or since the start.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.ticked.load(Ordering::Relaxed)))
    }
}

/// What the listener shows.
#[derive(Clone, Debug)]
pub struct Operations {
    pub heartbeat: Heartbeat,
    pub metrics: Arc<Metrics>,
    pub status: watch::Receiver<Status>,
    /// `None`: it could not be opened yet, or (in a dry run) there is none.
    pub store: watch::Receiver<Option<Store>>,
    /// Asked for as a bearer token, where set.
    pub token: Option<SecretString>,
}

/// Opens the listener.
///
/// # Errors
/// Says which address it was and what to do.
pub async fn bind(listen: &str) -> Result<TcpListener, BindError> {
    super::bind(listen, "ops.listen").await
}

/// Serves until `stop`; open requests get a few seconds to end.
///
/// # Errors
/// When the listener itself breaks.
pub async fn serve(listener: TcpListener, operations: Operations, stop: CancellationToken) -> io::Result<()> {
    super::serve(listener, router(operations), stop).await
}

fn router(operations: Operations) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(operations)
}

async fn live(State(operations): State<Operations>) -> Response {
    let silence = operations.heartbeat.silence();
    if silence <= LIVE_FOR {
        return "live\n".into_response();
    }
    let text = format!("the loop has been silent for {} s\n", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// That the configuration is loaded and the listener bound is shown by there being an answer.
async fn ready(State(operations): State<Operations>) -> Response {
    let store = operations.store.borrow().clone();
    let Some(store) = store else {
        // Looking needs no database.
        return if operations.status.borrow().mode == Mode::DryRun {
            "ready\n".into_response()
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
        };
    };
    match tokio::time::timeout(PING_LIMIT, store.ping()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database answers too slowly\n").into_response(),
    }
}

async fn metrics(State(operations): State<Operations>, headers: HeaderMap) -> Response {
    if !may_read(&operations, &headers) {
        return refused();
    }
    if let Some((outbox, _)) = ordered(&operations).await {
        operations.metrics.set_outbox(&outbox);
    }
    match operations.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn status(State(operations): State<Operations>, headers: HeaderMap) -> Response {
    if !may_read(&operations, &headers) {
        return refused();
    }
    let mut status = operations.status.borrow().clone();
    if let Some((outbox, delayed)) = ordered(&operations).await {
        status.outbox = Some(outbox);
        status.failures.extend(delayed);
    }
    Json(status).into_response()
}

/// Letters and accounts on their way, and accounts that could not be made so far. `None`: the database cannot be asked now.
async fn ordered(operations: &Operations) -> Option<(OutboxStatus, Vec<FailureStatus>)> {
    let store = operations.store.borrow().clone()?;
    let counted = tokio::time::timeout(PING_LIMIT, count(&store)).await;
    match counted {
        Ok(Ok(counted)) => Some(counted),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the outbox cannot be counted");
            None
        }
        Err(_) => None,
    }
}

async fn count(store: &Store) -> Result<(OutboxStatus, Vec<FailureStatus>), StoreError> {
    let (letters, accounts) = (store.outbox_counts().await?, store.registration_counts().await?);
    let outbox = OutboxStatus {
        letters_waiting: letters.waiting,
        letters_given_up: letters.given_up,
        accounts_waiting: accounts.waiting,
        accounts_refused: accounts.refused,
    };
    let delayed = store.delayed_registrations(MOST_DELAYED).await?;
    Ok((outbox, delayed.into_iter().map(FailureStatus::from).collect()))
}

/// Whether the caller showed the token.
fn may_read(operations: &Operations, headers: &HeaderMap) -> bool {
    let Some(token) = &operations.token else { return true };
    super::bearer(headers).is_some_and(|shown| super::is_token(shown, token))
}

fn refused() -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "the token of ops.token is needed\n")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_loop_is_noticed_and_a_tick_forgives() {
        let heartbeat = Heartbeat::default();
        tokio::time::advance(LIVE_FOR).await;
        assert!(heartbeat.silence() <= LIVE_FOR);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(heartbeat.silence() > LIVE_FOR);
        heartbeat.clone().tick();
        assert!(heartbeat.silence() <= LIVE_FOR);
    }
}
