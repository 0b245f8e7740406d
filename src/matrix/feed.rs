//! The change feed: the bot's `/sync`, narrowed to the state events usher reads (S-33). No message ever comes through it.
//!
//! The position is the caller's: handed in, handed back, stored by it once a batch is dealt with. Nothing is lost over a restart of
//! either side; where the homeserver leaves events out, the room is named as a gap and must be re-read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::read::RawEvent;
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{RoomId, UserId};
use crate::observed::StateEvent;

/// Events of one room in one batch before the homeserver leaves the rest out, and the room must be re-read.
const EVENTS_PER_ROOM: u32 = 100;
/// What the homeserver may take beyond the wait it was asked for.
pub(super) const GRACE: Duration = Duration::from_secs(45);
pub(super) const SYNC: &str = "/_matrix/client/v3/sync";

/// What happened since a position.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Where the next batch begins.
    pub position: String,
    /// The position given was unknown, or none was given: read everything again, then go on from `position`.
    pub reread: bool,
    /// State events in the order of their rooms, oldest first within one.
    pub events: Vec<(RoomId, StateEvent)>,
    /// Rooms whose events are not all here, and rooms the bot has just entered: re-read these.
    pub gaps: BTreeSet<RoomId>,
    /// Rooms the bot is no longer in, or never was.
    pub left: BTreeSet<RoomId>,
    /// Rooms the bot is invited to, and by whom.
    pub invited: BTreeMap<RoomId, UserId>,
}

impl Batch {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.reread
            && self.events.is_empty()
            && self.gaps.is_empty()
            && self.left.is_empty()
            && self.invited.is_empty()
    }
}

impl Homeserver {
    /// The next batch after `since`, waiting up to `wait` for something to happen. Without a position, and for one the homeserver does
    /// not know, it asks for the present position and says so ([`Batch::reread`]); take the position before the full read, so that what
    /// happens between the two comes through the feed.
    ///
    /// # Errors
    /// When the homeserver is away, or the bot is not registered.
    pub async fn next_batch(&self, since: Option<&str>, wait: Duration) -> Result<Batch, MatrixError> {
        let Some(since) = since else { return self.present().await };
        let attempt = "wait for changes";
        let request = Request::get(SYNC, &[])
            .with("since", since)
            .with("timeout", &wait.as_millis().to_string())
            .with("filter", &filter(false))
            .with("set_presence", "offline")
            .within(wait + GRACE)
            .to(attempt);
        match self.call_as_bot(request).await {
            Ok(answer) => Ok(self.batch(answer.json(attempt)?)),
            Err(error) if error.trouble == Trouble::Rejected => self.present().await,
            Err(error) => Err(error),
        }
    }

    /// The present position: a first `/sync` without any room, because it would hold the whole state of all of them.
    async fn present(&self) -> Result<Batch, MatrixError> {
        let attempt = "ask for the present position in the stream of changes";
        let request = Request::get(SYNC, &[])
            .with("timeout", "0")
            .with("filter", &filter(true))
            .with("set_presence", "offline")
            .to(attempt);
        let answer: SyncAnswer = self.call_as_bot(request).await?.json(attempt)?;
        Ok(Batch { position: answer.next_batch, reread: true, ..Batch::default() })
    }

    /// Rooms the bot is invited to. A first `/sync` whose answer holds nothing else of the rooms but their ids; the homeserver keeps such
    /// answers for a while, so each request differs from the one before.
    ///
    /// # Errors
    /// When the homeserver is away. A bot that is not registered is invited nowhere.
    pub async fn invitations(&self) -> Result<BTreeSet<RoomId>, MatrixError> {
        let attempt = "list the bot's invitations";
        let nothing = json!({ "types": [], "limit": 0 });
        let presence = json!({ "types": [], "not_types": [crate::clock::now().0.to_string()] });
        let rooms = json!({ "account_data": nothing, "ephemeral": nothing, "state": nothing, "timeline": nothing });
        let filter = json!({ "presence": presence, "account_data": nothing, "room": rooms }).to_string();
        let request = Request::get(SYNC, &[]).with("timeout", "0").with("filter", &filter);
        match self.call_as_bot(request.with("set_presence", "offline").to(attempt)).await {
            Ok(answer) => Ok(answer.json::<SyncAnswer>(attempt)?.rooms.invite.into_keys().collect()),
            Err(error) if error.trouble == Trouble::Forbidden => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    fn batch(&self, answer: SyncAnswer) -> Batch {
        let mut batch = Batch { position: answer.next_batch, ..Batch::default() };
        for (room, changes) in answer.rooms.join {
            let events = changes.state.events.into_iter().chain(changes.timeline.events);
            let mut gap = changes.timeline.limited;
            for event in events {
                gap = gap || event.is_entry_of(self.bot());
                let Some(event) = event.state_event() else { continue };
                // Who else manages a room is told by its whole state.
                gap = gap || event.is_foreign_marker(&self.identity.instance);
                batch.events.push((room.clone(), event));
            }
            if gap {
                batch.events.retain(|(other, _)| *other != room);
                batch.gaps.insert(room);
            }
        }
        // Thrown out and asked back since: only the invitation shows.
        batch.left = answer.rooms.leave.into_keys().chain(answer.rooms.invite.keys().cloned()).collect();
        for (room, invitation) in answer.rooms.invite {
            let ours = invitation.invite_state.events.into_iter().rev();
            let mut ours = ours.filter(|event| event.kind == "m.room.member" && event.state_key == self.bot().as_str());
            if let Some(event) = ours.next() {
                batch.invited.insert(room, event.sender);
            }
        }
        batch
    }
}

/// Only state events that usher reads; no messages, no presence, no account data. `bare`: no rooms either.
fn filter(bare: bool) -> String {
    let nothing = json!({ "types": [], "limit": 0 });
    let types = json!(StateEvent::READ_TYPES);
    let mut rooms = json!({
        "account_data": nothing, "ephemeral": nothing,
        "state": { "types": types },
        "timeline": { "types": types, "limit": EVENTS_PER_ROOM },
    });
    if bare {
        rooms["rooms"] = json!([]);
    }
    json!({ "presence": nothing, "account_data": nothing, "room": rooms }).to_string()
}

#[derive(Deserialize)]
struct SyncAnswer {
    next_batch: String,
    #[serde(default)]
    rooms: SyncRooms,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SyncRooms {
    join: BTreeMap<RoomId, JoinedRoom>,
    leave: BTreeMap<RoomId, JoinedRoom>,
    invite: BTreeMap<RoomId, Invitation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JoinedRoom {
    state: Events,
    timeline: Timeline,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Events {
    events: Vec<RawEvent>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timeline {
    events: Vec<RawEvent>,
    limited: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Invitation {
    invite_state: StrippedEvents,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StrippedEvents {
    events: Vec<StrippedEvent>,
}

#[derive(Deserialize)]
struct StrippedEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    sender: UserId,
}
