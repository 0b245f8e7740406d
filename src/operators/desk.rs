//! The hand of what operators are told: every write to their room goes through here, with its row in the audit and as long as the writer's
//! lease lasts (S-85, S-90).

use std::future::Future;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Setback;
use super::notice::{Notice, reply};
use super::room::{Deed, Place};
use crate::clock;
use crate::ids::{EventId, RoomId, Timestamp, UserId};
use crate::matrix::{Homeserver, MatrixError};
use crate::store::audit::AuditRecord;
use crate::store::{Remainder, Store, Told};

/// A write is sent only while the lease lasts at least this long, in milliseconds: longer than a message takes.
const SHORTEST_WRITE_MS: u64 = 5_000;
/// Longest a write may take where no lease limits it, in milliseconds: making a room on a busy homeserver.
const LONGEST_WRITE_MS: u64 = 300_000;
/// Who acts where nobody else does, as the audit has it.
const USHER: &str = "usher";

/// Where letters to operators are written.
pub(super) struct Desk {
    pub homeserver: Homeserver,
    pub store: Store,
    pub lease: Remainder,
}

impl Desk {
    /// Writes as long as the lease lasts, and no longer.
    async fn write<T>(&self, work: impl Future<Output = Result<T, MatrixError>>) -> Result<T, Setback> {
        let left = self.lease.ms();
        if left <= SHORTEST_WRITE_MS {
            return Err(Setback::Lease);
        }
        match tokio::time::timeout(Duration::from_millis(left.min(LONGEST_WRITE_MS)), work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Setback::Lease),
        }
    }

    /// The operators' room, as it should be.
    pub async fn open(&self, place: &Place) -> Result<RoomId, Setback> {
        let (room, deeds) = self.write(place.open(&self.homeserver)).await?;
        self.record_deeds(&room, &deeds).await?;
        Ok(room)
    }

    /// The same, if it is `due`; `None`: it is not.
    pub async fn open_if(&self, due: bool, place: &Place) -> Result<Option<RoomId>, Setback> {
        if due { self.open(place).await.map(Some) } else { Ok(None) }
    }

    /// Gives the room up; whether it is. First everything that was said there is taken out: also answers, and messages that were on their
    /// way when usher ended.
    pub async fn close(&self, place: &Place) -> Result<bool, Setback> {
        if let Some(room) = self.write(place.find(&self.homeserver)).await? {
            for event in self.homeserver.standing_messages(&room).await? {
                self.unsay(&room, &event).await?;
            }
        }
        let Some((room, deeds)) = self.write(place.close(&self.homeserver)).await? else { return Ok(true) };
        self.record_deeds(&room, &deeds).await?;
        Ok(deeds.contains(&Deed::Leave))
    }

    async fn record_deeds(&self, room: &RoomId, deeds: &[Deed]) -> Result<(), Setback> {
        for deed in deeds {
            let (action, person) = deed.words();
            tracing::info!(%room, action, user = person.map(UserId::as_str), "operators' room");
            self.record(room, (USHER, action), (person, "")).await?;
        }
        Ok(())
    }

    /// Tells something and remembers it. `before`: what was told last for the same reason, so that a message whose answer was lost is not
    /// written twice.
    pub async fn tell(
        &self,
        room: &RoomId,
        notice: &Notice,
        (before, readers): (Option<&Told>, &[UserId]),
    ) -> Result<(), Setback> {
        let now = clock::now();
        let before = before.map_or("", |told| told.event.as_str());
        let message = transaction(&["tell", &notice.reason, &notice.code, before]);
        let event = self.say(room, (&message, notice.content(readers)), &notice.headline).await?;
        // Where there is nothing that lasts, there is no end of it to be told.
        let over_at = if notice.lasts { None } else { Some(now) };
        let (room, reason, code) = (room.clone(), notice.reason.clone(), notice.code.clone());
        let told = Told { event, room, reason, code, told_at: now, over_at };
        Ok(self.store.note_told(&told, &notice.steps).await?)
    }

    /// Says something about a message; once about what happened at `event`.
    pub async fn reply(&self, room: &RoomId, (about, event): (&EventId, &EventId), text: &str) -> Result<(), Setback> {
        let message = transaction(&["reply", event.as_str()]);
        self.say(room, (&message, reply(about, text)), "reply").await.map(drop)
    }

    async fn say(&self, room: &RoomId, (message, content): (&str, Value), headline: &str) -> Result<EventId, Setback> {
        let event = self.write(self.homeserver.say(room, message, content)).await?;
        tracing::info!(%room, headline, "operators told");
        self.record(room, (USHER, "tell"), (None, headline)).await?;
        Ok(event)
    }

    /// Takes a message out of its room and forgets it. A room that the bot is not in any more keeps what it has.
    pub async fn take_out(&self, told: &Told) -> Result<(), Setback> {
        self.unsay(&told.room, &told.event).await?;
        Ok(self.store.forget_told(&told.event).await?)
    }

    async fn unsay(&self, room: &RoomId, event: &EventId) -> Result<(), Setback> {
        match self.write(self.homeserver.unsay(room, event)).await {
            Ok(()) => self.record(room, (USHER, "take back"), (None, "")).await?,
            Err(setback) if setback.is_passing() => return Err(setback),
            Err(setback) => tracing::debug!(%setback, "an old message stays in the operators' room"),
        }
        Ok(())
    }

    /// A row of the audit for what an operator did.
    pub async fn record_approval(&self, room: &RoomId, by: &UserId, what: &str) -> Result<(), Setback> {
        self.record(room, (by.as_str(), "approve"), (None, what)).await
    }

    async fn record(
        &self,
        room: &RoomId,
        (actor, action): (&str, &str),
        (person, after): (Option<&UserId>, &str),
    ) -> Result<(), Setback> {
        let at: Timestamp = clock::now();
        let person = person.map(ToString::to_string).unwrap_or_default();
        let id = transaction(&[actor, action, room.as_str(), &person, after]);
        let record = AuditRecord {
            id: format!("{}-operators-{id}", at.0),
            at,
            pass: at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            place: room.to_string(),
            person,
            reason: "operators".to_owned(),
            after: after.to_owned(),
            result: "done".to_owned(),
            ..AuditRecord::default()
        };
        Ok(self.store.audit(&[record]).await?)
    }
}

/// The same for the same message.
fn transaction(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    hex::encode(&digest.finalize()[..16])
}
