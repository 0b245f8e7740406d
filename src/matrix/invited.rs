//! Whether the bot asked somebody into a room of its own: what stays known in Matrix when the database is lost (S-51).

use serde::Deserialize;
use serde_json::Value;

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{RoomId, UserId};

/// Member events looked at, from the present one back: somebody who changes their name often hides how they came in.
const MOST_EVENTS: usize = 20;

#[derive(Deserialize)]
struct MemberEvent {
    sender: UserId,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    unsigned: Replaced,
}

#[derive(Default, Deserialize)]
struct Replaced {
    #[serde(default)]
    replaces_state: Option<String>,
}

impl Homeserver {
    /// Whether the bot once invited `user` to `room`, as far as their latest changes there tell (one request each, at most twenty).
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn was_invited_by_bot(&self, room: &RoomId, user: &UserId) -> Result<bool, MatrixError> {
        let attempt = format!("look who invited {user} to {room}");
        let path = [room.as_str(), "m.room.member", user.as_str()];
        let present = Request::get("/_matrix/client/v3/rooms/{}/state/{}/{}", &path).with("format", "event");
        let mut next = present.to(&attempt);
        for _ in 0..MOST_EVENTS {
            let event: MemberEvent = match self.call_as_bot(next).await {
                Ok(answer) => answer.json(&attempt)?,
                Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => return Ok(false),
                Err(error) => return Err(error),
            };
            let invites = event.content.get("membership").and_then(Value::as_str) == Some("invite");
            if invites && event.sender == *self.bot() {
                return Ok(true);
            }
            let Some(earlier) = event.unsigned.replaces_state else { return Ok(false) };
            next = Request::get("/_matrix/client/v3/rooms/{}/event/{}", &[room.as_str(), &earlier]).to(&attempt);
        }
        Ok(false)
    }
}
