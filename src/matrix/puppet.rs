//! What is done as somebody else: the deeds of S-22, through the puppet registration and nothing but it.
//!
//! Whom the registration does not admit is never acted for: it leaves protected users out (S-54), the homeserver refuses them, and so
//! does this module, before anything is sent.

use std::sync::Arc;

use fancy_regex::Regex;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::registration::Registration;
use super::write::{CREATE_TIMEOUT, STATE, event_in, room_in};
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{EventId, RoomId, UserId};
use crate::observed::REMOVED;

/// The puppet registration, as far as it is used.
#[derive(Clone)]
pub(super) struct Puppets {
    token: SecretString,
    users: Vec<Regex>,
}

impl std::fmt::Debug for Puppets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Puppets").field("users", &self.users).finish_non_exhaustive()
    }
}

impl Homeserver {
    /// The same homeserver, where usher may also act as the users `registration` admits.
    ///
    /// # Errors
    /// When one of its expressions cannot be read.
    pub fn with_puppets(mut self, registration: &Registration) -> Result<Self, MatrixError> {
        let mut users = Vec::new();
        for expression in &registration.users {
            users.push(Regex::new(expression).map_err(|error| MatrixError {
                attempted: format!("read the users of registration {}", registration.id),
                cause: error.to_string(),
                status: None,
                code: None,
                trouble: Trouble::Malformed,
            })?);
        }
        self.puppets = Some(Arc::new(Puppets { token: registration.as_token.clone(), users }));
        Ok(self)
    }

    /// Whether usher may act as anybody.
    #[must_use]
    pub fn has_puppets(&self) -> bool {
        self.puppets.is_some()
    }

    /// Whether usher may act as `user`.
    #[must_use]
    pub fn may_act_as(&self, user: &UserId) -> bool {
        // An expression that takes too long to decide admits nobody.
        let admits = |puppets: &Arc<Puppets>| {
            puppets.users.iter().any(|expression| expression.is_match(user.as_str()).unwrap_or(false))
        };
        self.puppets.as_ref().is_some_and(admits)
    }

    /// `user` leaves a room, or turns an invitation down, with our reason; marked as ours, so that it does not count as their wish.
    ///
    /// # Errors
    /// When the homeserver refuses or is away, or `user` may not be acted for.
    pub async fn leave_as(&self, user: &UserId, room: &RoomId, reason: &str) -> Result<Option<EventId>, MatrixError> {
        let content = json!({ "membership": "leave", "reason": reason, REMOVED: true });
        let request = Request::put(STATE, &[room.as_str(), "m.room.member", user.as_str()], content);
        Ok(event_in(&self.act_as(user, request.to(format!("leave {room} as {user}"))).await?))
    }

    /// Takes a room that `user` left from their list.
    ///
    /// # Errors
    /// As [`Homeserver::leave_as`].
    pub async fn forget_as(&self, user: &UserId, room: &RoomId) -> Result<(), MatrixError> {
        let request = Request::post("/_matrix/client/v3/rooms/{}/forget", &[room.as_str()], json!({}));
        self.act_as(user, request.to(format!("forget {room} as {user}"))).await.map(drop)
    }

    /// `user` invites the bot.
    ///
    /// # Errors
    /// As [`Homeserver::leave_as`].
    pub async fn invite_bot_as(&self, user: &UserId, room: &RoomId) -> Result<(), MatrixError> {
        let body = json!({ "user_id": self.bot() });
        let request = Request::post("/_matrix/client/v3/rooms/{}/invite", &[room.as_str()], body);
        self.act_as(user, request.to(format!("invite the bot to {room} as {user}"))).await.map(drop)
    }

    /// `user` writes the levels: to raise the bot, or to lower themselves.
    ///
    /// # Errors
    /// As [`Homeserver::leave_as`].
    pub async fn set_levels_as(
        &self,
        user: &UserId,
        room: &RoomId,
        content: Value,
    ) -> Result<Option<EventId>, MatrixError> {
        let request = Request::put(STATE, &[room.as_str(), "m.room.power_levels", ""], content);
        Ok(event_in(&self.act_as(user, request.to(format!("set the levels of {room} as {user}"))).await?))
    }

    /// `user` joins a room that admits them.
    ///
    /// # Errors
    /// As [`Homeserver::leave_as`].
    pub async fn join_as(&self, user: &UserId, room: &RoomId) -> Result<(), MatrixError> {
        let request = Request::post("/_matrix/client/v3/rooms/{}/join", &[room.as_str()], json!({}));
        self.act_as(user, request.to(format!("join {room} as {user}"))).await.map(drop)
    }

    /// `user` replaces a room by one of another version; hands back the new one.
    ///
    /// # Errors
    /// As [`Homeserver::leave_as`].
    pub async fn upgrade_as(&self, user: &UserId, room: &RoomId, version: &str) -> Result<RoomId, MatrixError> {
        let attempt = format!("upgrade {room} to version {version} as {user}");
        let answer = self.act_as(user, upgrade(room, version, &attempt)).await?;
        room_in(&answer, "replacement_room", &attempt)
    }

    /// The bot replaces a room by one of another version, whose creator it becomes; hands back the new one.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn upgrade(&self, room: &RoomId, version: &str) -> Result<RoomId, MatrixError> {
        let attempt = format!("upgrade {room} to version {version}");
        let answer: Value = self.call_as_bot(upgrade(room, version, &attempt)).await?.json(&attempt)?;
        room_in(&answer, "replacement_room", &attempt)
    }

    /// Each deed is logged as such.
    pub(super) async fn act_as(&self, user: &UserId, request: Request) -> Result<Value, MatrixError> {
        let refused = |cause: &str| MatrixError {
            attempted: request.attempt().to_owned(),
            cause: cause.to_owned(),
            status: None,
            code: None,
            trouble: Trouble::Forbidden,
        };
        let Some(puppets) = &self.puppets else {
            return Err(refused("there is no puppet registration"));
        };
        if !self.may_act_as(user) {
            return Err(refused("the puppet registration leaves this user out"));
        }
        let attempt = request.attempt().to_owned();
        if request.is_write() {
            tracing::info!(%user, deed = attempt, "acting as a puppet");
        }
        let request = request.on_behalf_of(user);
        self.transport.send(&self.identity.url, &puppets.token, request).await?.json(&attempt)
    }
}

fn upgrade(room: &RoomId, version: &str, attempt: &str) -> Request {
    let body = json!({ "new_version": version });
    let request = Request::post("/_matrix/client/v3/rooms/{}/upgrade", &[room.as_str()], body);
    request.within(CREATE_TIMEOUT).to(attempt)
}
