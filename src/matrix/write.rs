//! Single writes to the homeserver. Each is one request; what to write and what a refusal means is decided by the caller.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{EventId, RoomAlias, RoomId, UserId};

const ALIAS: &str = "/_matrix/client/v3/directory/room/{}";
pub(super) const STATE: &str = "/_matrix/client/v3/rooms/{}/state/{}/{}";
/// createRoom writes a dozen events, and more with many initial states; a loaded homeserver takes its time.
pub(super) const CREATE_TIMEOUT: Duration = Duration::from_mins(3);

/// A change of somebody's membership, by the bot.
#[derive(Clone, Copy, Debug)]
pub enum Membership<'a> {
    Invite { user: &'a UserId, reason: &'a str },
    Kick { user: &'a UserId, reason: &'a str },
}

impl Homeserver {
    /// Registers a user of the main registration; one that exists already is as good.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn register(&self, user: &UserId) -> Result<(), MatrixError> {
        let body = json!({
            "type": "m.login.application_service", "username": user.localpart(), "inhibit_login": true,
        });
        let request = Request::post("/_matrix/client/v3/register", &[], body).to(format!("register {user}"));
        match self.call(request).await {
            Err(error) if error.code.as_deref() != Some("M_USER_IN_USE") => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets the bot's display name.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn set_bot_name(&self, name: &str) -> Result<(), MatrixError> {
        let body = json!({ "displayname": name });
        let request = Request::put("/_matrix/client/v3/profile/{}/displayname", &[self.bot().as_str()], body);
        self.call_as_bot(request.to(format!("set the display name of {}", self.bot()))).await.map(drop)
    }

    /// Makes a room as the bot.
    ///
    /// # Errors
    /// When the homeserver refuses (`M_ROOM_IN_USE`: the alias is taken) or is away.
    pub async fn create_room(&self, body: Value, attempt: &str) -> Result<RoomId, MatrixError> {
        let request = Request::post("/_matrix/client/v3/createRoom", &[], body).within(CREATE_TIMEOUT).to(attempt);
        let answer: Value = self.call_as_bot(request).await?.json(attempt)?;
        room_in(&answer, "room_id", attempt)
    }

    /// Sends a state event as the bot. An equal one that stands already is the same event.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn put_state(
        &self,
        room: &RoomId,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Result<Option<EventId>, MatrixError> {
        let attempt = format!("set {kind} of {room}");
        let request = Request::put(STATE, &[room.as_str(), kind, state_key], content).to(&attempt);
        let answer: Value = self.call_as_bot(request).await?.json(&attempt)?;
        Ok(event_in(&answer))
    }

    /// Invites or kicks, as the bot. A kick also withdraws an invitation or turns down a knock.
    ///
    /// # Errors
    /// When the homeserver refuses or is away. Its answers name no event.
    pub async fn change_membership(&self, room: &RoomId, change: Membership<'_>) -> Result<(), MatrixError> {
        let (endpoint, verb, user, reason) = match change {
            Membership::Invite { user, reason } => ("/_matrix/client/v3/rooms/{}/invite", "invite", user, reason),
            Membership::Kick { user, reason } => ("/_matrix/client/v3/rooms/{}/kick", "remove", user, reason),
        };
        let body = json!({ "user_id": user, "reason": reason });
        let request = Request::post(endpoint, &[room.as_str()], body).to(format!("{verb} {user}: {room}"));
        self.call_as_bot(request).await.map(drop)
    }

    /// Joins a local user to a room (admin API). The bot asks, because it must be in the room for that; so it must be server admin.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn join_user(&self, room: &RoomId, user: &UserId) -> Result<(), MatrixError> {
        let request = Request::post("/_synapse/admin/v1/join/{}", &[room.as_str()], json!({ "user_id": user }))
            .on_behalf_of(self.bot())
            .to(format!("join {user} to {room}"));
        let identity = &self.identity;
        self.transport.send(&identity.admin_url, &identity.token, request).await.map(drop)
    }

    /// The bot joins a room that admits it or that it was invited to.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn enter(&self, room: &RoomId) -> Result<(), MatrixError> {
        let request = Request::post("/_matrix/client/v3/rooms/{}/join", &[room.as_str()], json!({}));
        self.call_as_bot(request.to(format!("enter {room}"))).await.map(drop)
    }

    /// The bot leaves.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn leave(&self, room: &RoomId) -> Result<(), MatrixError> {
        let request = Request::post("/_matrix/client/v3/rooms/{}/leave", &[room.as_str()], json!({}));
        self.call_as_bot(request.to(format!("leave {room}"))).await.map(drop)
    }

    /// Points an alias of our namespace at a room, as the bot; one that points there already is as good.
    ///
    /// # Errors
    /// `M_UNKNOWN` with 409 when it points elsewhere; when the homeserver refuses or is away.
    pub async fn point_alias(&self, alias: &RoomAlias, room: &RoomId) -> Result<(), MatrixError> {
        let request = Request::put(ALIAS, &[alias.as_str()], json!({ "room_id": room }));
        match self.call_as_bot(request.to(format!("point {alias} at {room}"))).await {
            Err(error) if error.status == Some(409) && self.resolve(alias).await?.as_ref() == Some(room) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes an alias, as the registration that owns its namespace; one that is gone already is as good.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn remove_alias(&self, alias: &RoomAlias) -> Result<(), MatrixError> {
        let request = Request::delete(ALIAS, &[alias.as_str()]).to(format!("remove {alias}"));
        match self.call_as_bot(request).await {
            Err(error) if error.trouble != Trouble::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where an alias points.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn resolve(&self, alias: &RoomAlias) -> Result<Option<RoomId>, MatrixError> {
        let attempt = format!("look up {alias}");
        let request = Request::get(ALIAS, &[alias.as_str()]).to(&attempt);
        match self.call(request).await {
            Ok(answer) => {
                let answer: Value = answer.json(&attempt)?;
                Ok(answer.get("room_id").and_then(Value::as_str).map(RoomId::from))
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The event a write produced.
pub(super) fn event_in(answer: &Value) -> Option<EventId> {
    answer.get("event_id").and_then(Value::as_str).map(EventId::from)
}

/// The room a write made.
pub(super) fn room_in(answer: &Value, key: &str, attempt: &str) -> Result<RoomId, MatrixError> {
    answer.get(key).and_then(Value::as_str).map(RoomId::from).ok_or_else(|| MatrixError {
        attempted: attempt.to_owned(),
        cause: "the answer names no room".to_owned(),
        status: None,
        code: None,
        trouble: Trouble::Malformed,
    })
}
