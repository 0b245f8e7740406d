//! What piled up while usher was away: taken in as fast as it comes, in memory that does not grow with it.

use std::time::{Duration, Instant};

use serde_json::json;
use usher::http::appservice::MOST_ROOMS;

use super::{Listener, event, transaction};

/// Events in one transaction: what Synapse sends at most.
const PER_TRANSACTION: usize = 100;

/// Events of the backlog: 10 000 in CI, 100 000 with `USHER_LONG=1`.
fn events() -> usize {
    if std::env::var_os("USHER_LONG").is_some() { 100_000 } else { 10_000 }
}

/// Brings the backlog one after the other, as a homeserver does; how long each acknowledgement took.
async fn bring(listener: &Listener, rooms: usize, per_transaction: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for first in (0..events()).step_by(per_transaction) {
        let content = json!({ "membership": "join", "displayname": "Mal", "reason": "x".repeat(400) });
        let some: Vec<_> = (first..first + per_transaction)
            .map(|number| {
                let room = format!("!{}:lab.test", number % rooms);
                event(&room, "m.room.member", &format!("@u{number}:lab.test"), &content)
            })
            .collect();
        let body = transaction(&some);
        let began = Instant::now();
        assert_eq!(listener.bring(&first.to_string(), body).await, 200);
        took.push(began.elapsed());
        // Memory is what is remembered, and that is bounded however much comes.
        let remembered = listener.hints.peek(|hinted| hinted.rooms.len());
        assert!(remembered <= MOST_ROOMS, "{remembered} rooms are remembered");
    }
    took
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// A late acknowledgement costs no more than an early one: nothing grows with what has come before. The fastest are compared, because
/// what else the machine has to do makes none of them faster.
fn must_stay_as_fast(what: &str, took: &[Duration]) {
    let mut sorted = took.to_vec();
    sorted.sort();
    let (p50, p99, worst) = (quantile(&sorted, 50), quantile(&sorted, 99), sorted[sorted.len() - 1]);
    println!("{what}: {} transactions acknowledged, median {p50:?}, p99 {p99:?}, worst {worst:?}", took.len());
    let tenth = (took.len() / 10).max(1);
    let fastest = |some: &[Duration]| some.iter().min().copied().unwrap_or_default();
    let (early, late) = (fastest(&took[..tenth]), fastest(&took[took.len() - tenth..]));
    assert!(late < early * 10 + Duration::from_millis(5), "{what}: at first {early:?}, at last {late:?}");
}

#[tokio::test]
async fn a_backlog_of_full_transactions_is_acknowledged_in_flat_memory() {
    let listener = Listener::start().await;
    let took = bring(&listener, 900, PER_TRANSACTION).await;
    must_stay_as_fast("100 events each, 900 rooms", &took);
    let hinted = listener.hints.take();
    assert_eq!((hinted.rooms.len(), hinted.any), (900, false), "each room once");
}

#[tokio::test]
async fn a_backlog_of_more_rooms_than_are_remembered_stands_for_any_room() {
    let listener = Listener::start().await;
    let took = bring(&listener, 5_000, 2).await;
    must_stay_as_fast("2 events each, 5000 rooms", &took);
    assert!(listener.hints.take().any);
}
