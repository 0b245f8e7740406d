//! When the next request may go: at most so many writes a second, and none of a class in the time the homeserver told us to wait.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Writes that may go at once after a pause, as a share of a second: enough for eight rooms at a time, too little to feel as a flood.
const BURST: Duration = Duration::from_millis(250);

/// The pace of one class of requests (reads, or writes).
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two requests; zero: no limit.
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next request is due.
    next: Instant,
    /// The homeserver asked to be left alone until then.
    blocked: Instant,
}

impl Pace {
    /// At most `per_second` requests a second; `None` or 0: as many as wanted.
    pub(super) fn new(per_second: Option<u32>) -> Self {
        let interval = per_second.filter(|rate| *rate > 0).map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
        let now = Instant::now();
        Self { interval, state: Mutex::new(State { next: now, blocked: now }) }
    }

    /// Waits for this request's turn.
    pub(super) async fn turn(&self) {
        loop {
            let due = {
                let mut state = self.state.lock().await;
                let now = Instant::now();
                if state.blocked <= now {
                    let due = state.next.max(now.checked_sub(BURST).unwrap_or(now));
                    state.next = due + self.interval;
                    if due <= now {
                        return;
                    }
                    due
                } else {
                    let blocked = state.blocked;
                    drop(state);
                    sleep_until(blocked).await;
                    continue;
                }
            };
            sleep_until(due).await;
            // Whoever slept through a new "wait" obeys it too.
            if self.state.lock().await.blocked <= Instant::now() {
                return;
            }
        }
    }

    /// No request of this class before `wait` has passed.
    pub(super) async fn hold_off(&self, wait: Duration) {
        let mut state = self.state.lock().await;
        state.blocked = state.blocked.max(Instant::now() + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_holds_no_more_than_the_rate_and_a_burst() {
        let pace = Pace::new(Some(20));
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < Duration::from_secs(10) {
            pace.turn().await;
            sent += 1;
        }
        assert!((200..=206).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_while_the_homeserver_wants_peace() {
        let pace = Pace::new(Some(1000));
        pace.hold_off(Duration::from_secs(7)).await;
        let start = Instant::now();
        pace.turn().await;
        assert!(start.elapsed() >= Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let pace = Pace::new(None);
        let start = Instant::now();
        for _ in 0..1000 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
