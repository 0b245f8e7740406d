//! Photos, one person at a time (S-50). Graph does not tell when a photo was changed, so each is looked at once a day, and everybody at
//! another moment of it.
//!
//! Never says that somebody has no photo unless Graph said that there is none: a mailbox that is missing or elsewhere says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use super::trouble::{Again, Purpose, Trouble};
use super::wire::{Ask, Wire, is_id};
use crate::bridge::Sighting;
use crate::directory::{Stamp, User};
use crate::ids::{StableId, Timestamp};
use crate::ledger::LARGEST_PHOTO;

const PHOTOS: Purpose =
    Purpose { what: "look at photos", permission: "User.Read.All (or ProfilePhoto.Read.All for photos alone)" };

/// The size that is asked for first: what clients show is no larger, and the whole photo may have megabytes.
const SIZED: &str = "photos/240x240/$value";
const WHOLE: &str = "photo/$value";
/// People looked at side by side: an answer takes a fifth of a second, and each handful is waited for.
const SIDE_BY_SIDE: usize = 4;
/// How long one handful may take, with all waiting that Graph asks for: the rest of usher's work waits, too.
const PATIENCE: Duration = Duration::from_secs(20);
const DAY_MS: i64 = 86_400_000;
/// The code by which Graph says that the app may not.
const NOT_PERMITTED: &str = "Authorization_RequestDenied";
/// Codes by which Graph says that there is no photo (or none of that size).
const NO_PHOTO: [&str; 3] = ["ImageNotFound", "ErrorItemNotFound", "GetUserPhoto"];

/// When everybody's photo is to be looked at next: the day, each beginning at an hour of their own.
#[must_use]
pub fn stamps(users: &[Arc<User>], now: Timestamp) -> BTreeMap<StableId, Stamp> {
    // All stamps of a moment are two.
    let mut shared: BTreeMap<i64, Stamp> = BTreeMap::new();
    let mut stamp = |day: i64| Arc::clone(shared.entry(day).or_insert_with(|| text(day)));
    users.iter().map(|user| (user.id.clone(), stamp(day_of(&user.id, now)))).collect()
}

fn text(day: i64) -> Stamp {
    format!("day {day}").into()
}

fn day_of(id: &StableId, now: Timestamp) -> i64 {
    let digest = Sha256::digest(id.as_str());
    let hash = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    now.0.saturating_add(i64::from(hash) % DAY_MS).div_euclid(DAY_MS)
}

/// Looks at these people, as many as there is time for. Who cannot be seen is left out, and asked for no more on this day of theirs; one
/// whose photo Graph always fails at keeps nobody else from being seen.
///
/// # Errors
/// When nobody can be seen, because Graph cannot be asked or does not let the app see photos.
pub async fn look(
    wire: &Wire,
    people: &[StableId],
    now: Timestamp,
    unseen: &mut BTreeMap<StableId, Stamp>,
) -> Result<Vec<Sighting>, Trouble> {
    let deadline = Instant::now() + PATIENCE;
    let stamped = people.iter().filter(|id| is_id(id.as_str())).map(|id| (id, text(day_of(id, now))));
    let due: Vec<(StableId, Stamp)> =
        stamped.filter(|(id, stamp)| unseen.get(*id) != Some(stamp)).map(|(id, stamp)| (id.clone(), stamp)).collect();
    let mut due = due.into_iter();
    let mut looks = FuturesUnordered::new();
    let (mut seen, mut is_answered, mut failures, mut failed) = (Vec::new(), false, 0, None);
    let mut goes_on = true;
    loop {
        while goes_on && looks.len() < SIDE_BY_SIDE {
            let Some((id, stamp)) = due.next() else { break };
            looks.push(async move {
                let look = one(wire, &id, deadline).await;
                (id, stamp, look)
            });
        }
        // Who is not looked at in time is in a later handful.
        let Ok(looked) = timeout_at(deadline, looks.next()).await else {
            failed.get_or_insert_with(|| Trouble::away(&wire.attempt(PHOTOS), "no answer in time"));
            break;
        };
        let Some((id, stamp, look)) = looked else { break };
        is_answered |= look.is_ok();
        match look {
            Ok(Look::Photo(bytes)) => seen.push(Sighting { id, stamp, photo: Some(bytes) }),
            Ok(Look::None) => seen.push(Sighting { id, stamp, photo: None }),
            Ok(Look::Unseen) => drop(unseen.insert(id, stamp)),
            Err(trouble) => {
                let is_theirs = is_of_one(&trouble);
                if is_theirs {
                    unseen.insert(id, stamp);
                }
                failed.get_or_insert(trouble);
                failures += 1;
                // What is on its way counts; the next handful will tell.
                goes_on &= is_theirs && (is_answered || failures < SIDE_BY_SIDE);
            }
        }
    }
    if let Some(trouble) = failed.filter(|_| !is_answered) {
        return Err(trouble);
    }
    seen.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(seen)
}

/// Whether a failure is about this one photo: others may be seen. A permission that is missing, and a service that is busy, are not.
fn is_of_one(trouble: &Trouble) -> bool {
    let busy = matches!(trouble.again, Again::Later(_));
    matches!(trouble.status, Some(403 | 409 | 410 | 423 | 500..=599)) && !busy && trouble.code != NOT_PERMITTED
}

/// What a look at one person brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Photo(Vec<u8>),
    /// Graph says that there is none.
    None,
    /// Graph cannot tell.
    Unseen,
}

/// Looks at one person.
///
/// # Errors
/// As [`look`].
pub async fn one(wire: &Wire, id: &StableId, deadline: Instant) -> Result<Look, Trouble> {
    match size(wire, id, SIZED, deadline).await? {
        // A photo out of Entra ID has one size, whatever that is.
        Look::None => size(wire, id, WHOLE, deadline).await,
        other => Ok(other),
    }
}

async fn size(wire: &Wire, id: &StableId, which: &str, deadline: Instant) -> Result<Look, Trouble> {
    // More is not needed to know that it is too large.
    let enough = usize::try_from(LARGEST_PHOTO).map_or(usize::MAX, |most| most + 1);
    let ask = Ask { enough: Some(enough), ..wire.ask(PHOTOS, &format!("users/{id}/{which}"))? };
    match wire.bytes(&ask, deadline).await {
        Ok(bytes) if bytes.is_empty() => Ok(Look::Unseen),
        Ok(bytes) if is_blank(&bytes) => Ok(Look::None),
        Ok(bytes) => Ok(Look::Photo(bytes)),
        Err(Trouble { status: Some(404), code, .. }) if NO_PHOTO.contains(&code.as_str()) => Ok(Look::None),
        // No mailbox, one that is elsewhere, or the person has gone since: Graph has several codes for each.
        Err(Trouble { status: Some(400 | 404), .. }) => Ok(Look::Unseen),
        Err(trouble) => Err(trouble),
    }
}

/// The GIF of one pixel that stands for "nothing was uploaded".
fn is_blank(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GIF8") && bytes.get(6..10) == Some(&[1, 0, 1, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_due_once_a_day_and_not_at_once() {
        let ids: Vec<StableId> = (0..1000).map(|number| StableId::from(format!("person-{number}"))).collect();
        let now = Timestamp(1_800_000_000_000);
        let due = |hours: i64| {
            let later = Timestamp(now.0 + hours * DAY_MS / 24);
            ids.iter().filter(|id| day_of(id, later) != day_of(id, now)).count()
        };
        assert_eq!((due(0), due(24)), (0, 1000));
        for hours in 1..24 {
            let share = 1000 * usize::try_from(hours).unwrap() / 24;
            assert!(due(hours).abs_diff(share) < 60, "{hours} h: {} are due", due(hours));
        }
    }

    #[test]
    fn the_pixel_that_stands_for_no_photo_is_none() {
        assert!(is_blank(b"GIF89a\x01\x00\x01\x00\x80\x00\x00"));
        assert!(!is_blank(b"GIF89a\xf0\x00\xf0\x00\x80\x00\x00") && !is_blank(b"\xff\xd8\xff"));
    }
}
