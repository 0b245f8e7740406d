//! Finds out whether the homeserver's transactions reach us: it is asked to ping us once the listener is up, and whenever it comes
//! back. Never fatal: without transactions usher follows the feed all the same (S-33).

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::matrix::{Homeserver, Ping, Trouble};

/// Pauses while the homeserver does not answer at all: the first, doubling up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often a ping that did not reach us is tried again: what is in its way is mostly a setting or a firewall.
const UNREACHED_PAUSE: Duration = Duration::from_mins(5);

/// Has the homeserver ping us now and each time that `returned` changes, until `stop`; says what came of it, and the same trouble once.
pub async fn greet(homeserver: Homeserver, mut returned: watch::Receiver<()>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    while !stop.is_cancelled() {
        returned.mark_unchanged();
        let tried = tokio::select! {
            () = stop.cancelled() => return,
            tried = homeserver.ping() => tried,
        };
        let again = match tried {
            Ok(Ping::Reached(took)) => {
                let milliseconds = took.as_millis();
                tracing::info!(milliseconds, "the homeserver reaches usher: transactions wake it");
                told.clear();
                pause = FIRST_PAUSE;
                None
            }
            Ok(Ping::Unreached { cause, remedy }) => {
                if told != cause {
                    tracing::warn!(
                        cause,
                        "the homeserver's transactions do not reach usher, which works without; {remedy}"
                    );
                    told = cause;
                }
                Some(UNREACHED_PAUSE)
            }
            Err(error) if matches!(error.trouble, Trouble::Away | Trouble::RateLimited) => {
                tracing::debug!(%error, "the homeserver cannot be asked for a ping");
                let again = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Some(again)
            }
            Err(error) => {
                let cause = error.to_string();
                if told != cause {
                    tracing::warn!(cause, "whether transactions reach usher is unknown; it works without");
                    told = cause;
                }
                Some(UNREACHED_PAUSE)
            }
        };
        let timer = async {
            match again {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = timer => {}
            changed = returned.changed() => if changed.is_err() { return },
        }
    }
}
