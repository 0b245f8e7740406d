//! The outbox, letter by letter: each is tried until the mail server accepts it, refuses it for good, or three days have passed.
//!
//! Never blocks whoever queued a letter, and never sends one twice, unless the process dies between the server's acceptance and our
//! note of it (S-83); then the second carries the same Message-ID.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Post, Refusal};
use crate::clock;
use crate::ids::Timestamp;
use crate::store::outbox::Waiting;
use crate::store::{Store, StoreError};

/// Letters read from the outbox at a time.
const BATCH: u32 = 20;
/// How often the outbox is looked at when nobody says that there is something in it.
const LOOK: Duration = Duration::from_secs(30);
/// Pauses before another attempt: the first, which doubles, and the longest.
const PAUSES_MS: (i64, i64) = (60_000, 3_600_000);
/// Attempts go on for so long, in milliseconds; mail servers themselves give up after four or five days (RFC 5321, 4.5.4.1).
const GIVE_UP_AFTER_MS: i64 = 3 * 24 * 3_600_000;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub sent: u32,
    pub put_off: u32,
    pub given_up: u32,
}

/// Delivers until `stop`; `queued` says that the outbox has got something.
pub async fn deliver(store: &Store, post: &Post, queued: &Notify, stop: &CancellationToken) {
    loop {
        match round(store, post, stop).await {
            // There may be more.
            Ok(Round { sent, put_off, given_up }) if sent + put_off + given_up >= BATCH => {}
            Ok(_) => pause(queued, stop).await,
            Err(error) => {
                tracing::warn!("the outbox cannot be read: {error}");
                pause(queued, stop).await;
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

async fn pause(queued: &Notify, stop: &CancellationToken) {
    tokio::select! {
        () = queued.notified() => {}
        () = tokio::time::sleep(LOOK) => {}
        () = stop.cancelled() => {}
    }
}

/// Tries every letter that is due, one after the other; the rest waits where the mail server is away.
///
/// # Errors
/// When the database cannot be used; no letter is lost by that.
pub async fn round(store: &Store, post: &Post, stop: &CancellationToken) -> Result<Round, StoreError> {
    let mut round = Round::default();
    for waiting in store.letters_due(clock::now(), BATCH).await? {
        if stop.is_cancelled() {
            break;
        }
        let name = waiting.letter.occasion.name();
        let sent = post.send(&waiting.letter).await;
        let now = clock::now();
        match sent {
            Ok(()) => {
                store.letter_sent(&waiting.letter.id, now).await?;
                tracing::info!(user = %waiting.letter.user_id, "mail sent: {name}");
                round.sent += 1;
            }
            Err(Refusal::Away(cause)) if is_young(&waiting, now) => {
                tracing::warn!("mail waits: {cause}");
                store.letter_put_off(&waiting.letter.id, now.back_off(waiting.attempts, PAUSES_MS), &cause).await?;
                round.put_off += 1;
                break;
            }
            Err(Refusal::ForNow(cause)) if is_young(&waiting, now) => {
                store.letter_put_off(&waiting.letter.id, now.back_off(waiting.attempts, PAUSES_MS), &cause).await?;
                tracing::warn!(user = %waiting.letter.user_id, "mail put off: {name}: {cause}");
                round.put_off += 1;
            }
            Err(Refusal::Away(cause) | Refusal::ForNow(cause) | Refusal::ForGood(cause)) => {
                store.letter_given_up(&waiting.letter.id, now, &cause).await?;
                tracing::error!(user = %waiting.letter.user_id, "mail given up: {name}: {cause}");
                round.given_up += 1;
            }
        }
    }
    Ok(round)
}

fn is_young(waiting: &Waiting, now: Timestamp) -> bool {
    now.0 - waiting.queued_at.0 < GIVE_UP_AFTER_MS
}
