//! Messages in the one room where usher writes any: what the bot says there, and what the people it is for answer (S-97).
//!
//! Never reads another room's messages: the filter names the room and the senders, and the homeserver hands out nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::feed::{GRACE, SYNC};
use super::write::event_in;
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{EventId, RoomId, Timestamp, UserId};

const SEND: &str = "/_matrix/client/v3/rooms/{}/send/{}/{}";
/// Messages of one batch; of more that came while usher was away the oldest are not heard.
const MOST_MESSAGES: u32 = 100;
/// Batches of what the bot itself has said: more than that is said in no room within a month.
const MOST_BATCHES: u32 = 1_000;

/// What was said since a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Where the next batch begins.
    pub position: String,
    /// In the order the homeserver has it.
    pub said: Vec<Said>,
}

/// One answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Said {
    pub event: EventId,
    pub sender: UserId,
    /// When, by the homeserver's clock.
    pub at: Timestamp,
    pub saying: Saying,
}

/// Its `Debug` shows no words.
impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Said").field("event", &self.event).field("sender", &self.sender).finish_non_exhaustive()
    }
}

/// How it was said.
#[derive(Clone, PartialEq, Eq)]
pub enum Saying {
    Text {
        body: String,
        reply_to: Option<EventId>,
    },
    /// An `m.annotation`.
    Reaction {
        to: EventId,
        key: String,
    },
}

impl Homeserver {
    /// Writes a message as the bot. The homeserver takes one with the same `transaction` for the same message, for half an hour or longer.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn say(&self, room: &RoomId, transaction: &str, content: Value) -> Result<EventId, MatrixError> {
        let attempt = format!("write a message: {room}");
        let request = Request::put(SEND, &[room.as_str(), "m.room.message", transaction], content).to(&attempt);
        let answer: Value = self.call_as_bot(request).await?.json(&attempt)?;
        event_in(&answer).ok_or_else(|| MatrixError {
            attempted: attempt,
            cause: "the answer names no event".to_owned(),
            status: None,
            code: None,
            trouble: Trouble::Malformed,
        })
    }

    /// Takes a message of the bot's out of a room.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn unsay(&self, room: &RoomId, event: &EventId) -> Result<(), MatrixError> {
        let endpoint = "/_matrix/client/v3/rooms/{}/redact/{}/{}";
        let path = [room.as_str(), event.as_str(), event.as_str()];
        let request = Request::put(endpoint, &path, json!({ "reason": "no longer needed" }));
        self.call_as_bot(request.to(format!("take a message back: {room}"))).await.map(drop)
    }

    /// The messages of the bot's that still stand in a room, the latest first.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn standing_messages(&self, room: &RoomId) -> Result<Vec<EventId>, MatrixError> {
        let attempt = format!("look at usher's own messages: {room}");
        let own = json!({ "types": ["m.room.message"], "senders": [self.bot()] }).to_string();
        let (mut standing, mut from) = (Vec::new(), None::<String>);
        for _ in 0..MOST_BATCHES {
            let mut request = Request::get("/_matrix/client/v3/rooms/{}/messages", &[room.as_str()])
                .with("dir", "b")
                .with("limit", &MOST_MESSAGES.to_string())
                .with("filter", &own);
            if let Some(from) = &from {
                request = request.with("from", from);
            }
            let batch: Batch = self.call_as_bot(request.to(&attempt)).await?.json(&attempt)?;
            let said = batch.chunk.into_iter().filter(|event| event.sender == *self.bot()).filter_map(Message::said);
            standing.extend(said.map(|said| said.event));
            match batch.end {
                Some(end) if from.as_ref() != Some(&end) => from = Some(end),
                _ => break,
            }
        }
        Ok(standing)
    }

    /// What `by` say in `room` after `since`, waiting up to `wait` for it. Without a position, and for one the homeserver does not know,
    /// nothing is heard: it is only found out where things stand.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn hear(
        &self,
        (room, by): (&RoomId, &[UserId]),
        since: Option<&str>,
        wait: Duration,
    ) -> Result<Heard, MatrixError> {
        let attempt = format!("listen for answers: {room}");
        let request = |wait: Duration, most: u32| {
            Request::get(SYNC, &[])
                .with("timeout", &wait.as_millis().to_string())
                .with("filter", &filter(room, by, most))
                .with("set_presence", "offline")
                .within(wait + GRACE)
                .to(&attempt)
        };
        if let Some(since) = since {
            match self.call_as_bot(request(wait, MOST_MESSAGES).with("since", since)).await {
                Ok(answer) => return Ok(heard(answer.json(&attempt)?, room, by)),
                Err(error) if error.trouble == Trouble::Rejected => {}
                Err(error) => return Err(error),
            }
        }
        let answer: SyncAnswer = self.call_as_bot(request(Duration::ZERO, 0)).await?.json(&attempt)?;
        Ok(Heard { position: answer.next_batch, said: Vec::new() })
    }
}

/// Nothing but what these people write in this room.
fn filter(room: &RoomId, by: &[UserId], most: u32) -> String {
    let nothing = json!({ "types": [], "limit": 0 });
    let messages = json!({ "types": ["m.room.message", "m.reaction"], "senders": by, "limit": most });
    let rooms = json!({
        "rooms": [room], "account_data": nothing, "ephemeral": nothing, "state": nothing, "timeline": messages,
    });
    json!({ "presence": nothing, "account_data": nothing, "room": rooms }).to_string()
}

fn heard(answer: SyncAnswer, room: &RoomId, by: &[UserId]) -> Heard {
    let mut joined = answer.rooms.join;
    let timeline = joined.remove(room).map(|room| room.timeline).unwrap_or_default();
    if timeline.limited {
        tracing::warn!(%room, "more was said than is listened to; the oldest of it is not heard");
    }
    let of_operators = timeline.events.into_iter().filter(|event| by.contains(&event.sender));
    Heard { position: answer.next_batch, said: of_operators.filter_map(Message::said).collect() }
}

#[derive(Deserialize)]
struct SyncAnswer {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rooms {
    join: BTreeMap<RoomId, Joined>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Joined {
    timeline: Timeline,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timeline {
    events: Vec<Message>,
    limited: bool,
}

#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    chunk: Vec<Message>,
    end: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    event_id: EventId,
    sender: UserId,
    #[serde(rename = "origin_server_ts")]
    at: Timestamp,
    #[serde(default)]
    content: Value,
}

impl Message {
    /// Content is written by anybody: what is malformed says nothing, and neither does what was taken out or an edit of something said
    /// before.
    fn said(self) -> Option<Said> {
        let relation = &self.content["m.relates_to"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let saying = match (self.kind.as_str(), relation["rel_type"].as_str()) {
            ("m.reaction", Some("m.annotation")) => {
                Saying::Reaction { to: text(&relation["event_id"])?.into(), key: text(&relation["key"])? }
            }
            ("m.room.message", relation_type) if relation_type != Some("m.replace") => Saying::Text {
                body: text(&self.content["body"])?,
                reply_to: text(&relation["m.in_reply_to"]["event_id"]).map(EventId::from),
            },
            _ => return None,
        };
        Some(Said { event: self.event_id, sender: self.sender, at: self.at, saying })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_operators_say_in_their_room_is_heard() {
        let event = |kind: &str, sender: &str, content: Value| json!({ "type": kind, "event_id": "$1", "sender": sender, "origin_server_ts": 7, "content": content });
        let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": "$0", "key": "✅" } });
        let edit = json!({ "body": "* approve 1", "m.relates_to": { "rel_type": "m.replace", "event_id": "$0" } });
        let timeline = |events: Vec<Value>| json!({ "timeline": { "events": events } });
        let answer = json!({ "next_batch": "s2", "rooms": { "join": {
            "!ours": timeline(vec![
                event("m.reaction", "@ops:x", reaction.clone()),
                event("m.reaction", "@eve:x", reaction.clone()),
                event("m.reaction", "@ops:x", json!({ "m.relates_to": 7 })),
                event("m.room.message", "@ops:x", json!({ "body": "hello" })),
                event("m.room.message", "@ops:x", json!({ "body": ["no text"] })),
                event("m.room.message", "@ops:x", edit),
            ]),
            "!other": timeline(vec![event("m.reaction", "@ops:x", reaction)]),
        } } });
        let answer: SyncAnswer = serde_json::from_value(answer).expect("an answer");
        let heard = heard(answer, &"!ours".into(), &["@ops:x".into()]);
        let sayings: Vec<Saying> = heard.said.into_iter().map(|said| said.saying).collect();
        let expected = [
            Saying::Reaction { to: "$0".into(), key: "✅".into() },
            Saying::Text { body: "hello".into(), reply_to: None },
        ];
        assert!(sayings == expected, "{} were heard", sayings.len());
    }
}
