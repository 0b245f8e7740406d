//! The hand: everything usher does to the homeserver goes through an [`Actuator`].
//!
//! A dry run builds none (DESIGN decision 3). `LiveActuator` is the exhaustive match from [`Action`] to requests; the tests' fake
//! homeserver is another.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::account::synapse::Synapse;
use crate::account::{Accounts, Shield};
use crate::ids::{EventId, Key, RoomAlias, RoomId, UserId};
use crate::ledger::PictureKind;
use crate::matrix::{Homeserver, MatrixError, Membership, Trouble};
use crate::observed::PowerLevels;
use crate::plan::{Action, Creation, Deed, RoomRef, StateChange};

/// What came back from one action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The room a `CreateRoom` made or found.
    pub room: Option<RoomId>,
    /// The event a write produced.
    pub event: Option<EventId>,
    /// The room was there already: our own, half-made or made by a call whose answer got lost. Re-read it before relying on it.
    pub found: bool,
}

/// Why an action did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct ActError {
    pub attempted: String,
    pub cause: String,
    /// Matrix error code, if the homeserver gave one.
    pub code: Option<String>,
    pub kind: ActErrorKind,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActErrorKind {
    /// Outcome unknown or homeserver away: re-read, then plan again.
    Retry,
    /// The world is not as planned (already joined, not in the room): re-read that room.
    Stale,
    /// The homeserver refuses this person (invite blocked, suspended): typed, reported, not retried in a loop (S-19).
    Refused,
    /// usher lacks a right.
    Forbidden,
    /// The token is not accepted: nothing will work until an operator acts.
    Fatal,
}

/// How often, and how far apart, a room behind a fencing alias is looked for before it counts as debris. Together less than the
/// shortest time a write may take.
const DEBRIS_LOOKS: u32 = 8;
const DEBRIS_PAUSE: Duration = Duration::from_millis(500);

const LEVELS: &str = "m.room.power_levels";

/// Does actions.
#[async_trait]
pub trait Actuator: Send + Sync {
    /// Does one action. Rooms of the same plan are already resolved: every `RoomRef` is an id, except the room to be created.
    /// `standing` are the levels the room was last seen with: new ones are written on top of those and of no others (S-21).
    ///
    /// # Errors
    /// [`ActError`], classified.
    async fn perform(&self, action: &Action, standing: Option<&PowerLevels>) -> Result<Outcome, ActError>;

    /// The mail addresses of an account in normal form: a read that only the hand which writes them can make. `None`: no such account.
    ///
    /// # Errors
    /// When whoever keeps the accounts refuses or is away.
    async fn emails_of(&self, user: &UserId) -> Result<Option<Vec<String>>, MatrixError>;

    /// Brings a photo to the homeserver, to become an avatar; hands back its `mxc://` URI.
    ///
    /// # Errors
    /// [`ActErrorKind::Refused`] for one the homeserver will not have; else as [`Actuator::perform`].
    async fn upload(&self, picture: Arc<[u8]>, kind: PictureKind) -> Result<String, ActError>;
}

/// Does actions on the real homeserver: the exhaustive match from [`Action`] to requests. What to do was decided before; here is only
/// how, and what a refusal means.
pub struct LiveActuator {
    homeserver: Homeserver,
    accounts: Accounts,
}

impl LiveActuator {
    /// Acts on `homeserver`, which keeps its accounts itself; server admins are left alone. Makes no request.
    #[must_use]
    pub fn new(homeserver: Homeserver) -> Self {
        let backend = Box::new(Synapse::new(homeserver.clone()));
        let accounts = Accounts::new(backend, Shield::default(), homeserver.clone());
        Self { homeserver, accounts }
    }

    /// The same, changing accounts through `accounts`.
    #[must_use]
    pub fn with_accounts(self, accounts: Accounts) -> Self {
        Self { accounts, ..self }
    }

    async fn create(&self, creation: &Creation) -> Result<Outcome, ActError> {
        let attempt = format!("make {}", creation.key);
        let body = creation.request(self.homeserver.bot());
        match self.homeserver.create_room(body, &attempt).await {
            Ok(room) => Ok(Outcome { room: Some(room), ..Outcome::default() }),
            Err(error) if error.code.as_deref() == Some("M_ROOM_IN_USE") => self.find(creation, error).await,
            Err(error) => Err(classify(error)),
        }
    }

    /// The fence stands: an earlier call made the room and its answer was lost, or somebody else's room or debris is in the way.
    async fn find(&self, creation: &Creation, refusal: MatrixError) -> Result<Outcome, ActError> {
        let server = self.homeserver.bot().server();
        let alias = creation.key.alias(&creation.marker.instance, server);
        let stale = |cause: String| ActError {
            attempted: refusal.attempted.clone(),
            cause,
            code: refusal.code.clone(),
            kind: ActErrorKind::Stale,
        };
        let Some(id) = self.homeserver.resolve(&alias).await.map_err(classify)? else {
            return Err(stale(format!("{alias} was taken and is free again")));
        };
        if self.becomes_ours(&id, &creation.key).await? {
            return Ok(Outcome { room: Some(id), found: true, ..Outcome::default() });
        }
        Err(stale(format!("{alias} points at {id}, which is not a room of ours")))
    }

    /// Takes a fencing alias back from debris.
    async fn drop_alias(&self, alias: &RoomAlias, key: &Key) -> Result<Outcome, ActError> {
        let Some(id) = self.homeserver.resolve(alias).await.map_err(classify)? else {
            return Ok(Outcome::default());
        };
        if self.becomes_ours(&id, key).await? {
            return Ok(Outcome { room: Some(id), found: true, ..Outcome::default() });
        }
        self.homeserver.remove_alias(alias).await.map(|()| Outcome::default()).map_err(classify)
    }

    /// Takes an alias from a room; one that points elsewhere is another room's by now.
    async fn remove_alias(&self, alias: &RoomAlias, room: &RoomId) -> Result<Outcome, ActError> {
        if self.homeserver.resolve(alias).await.map_err(classify)?.as_ref() == Some(room) {
            self.homeserver.remove_alias(alias).await.map_err(classify)?;
        }
        Ok(Outcome::default())
    }

    /// Whether the room behind a fencing alias was made by us for `key`. One the bot cannot see may still be in the making, for an
    /// usher that was killed: it is looked at a few times before it counts as debris.
    async fn becomes_ours(&self, id: &RoomId, key: &Key) -> Result<bool, ActError> {
        for _ in 0..DEBRIS_LOOKS {
            if let Some(room) = self.homeserver.room(id).await.map_err(classify)? {
                return Ok(room.created_for.as_ref() == Some(key) && !room.is_given_up());
            }
            tokio::time::sleep(DEBRIS_PAUSE).await;
        }
        Ok(false)
    }

    async fn set_state(&self, room: &RoomRef, state: &StateChange) -> Result<Outcome, ActError> {
        let room = resolved(room)?;
        let bot = self.homeserver.bot();
        let (kind, state_key, content) = state.event(bot).ok_or_else(unresolved)?;
        if let StateChange::CanonicalAlias(alias) = state {
            let alias = RoomAlias::from(alias.as_str());
            self.homeserver.point_alias(&alias, room).await.map_err(classify)?;
        }
        if let StateChange::Rename { from, marker } = state {
            self.move_fence(room, (from, &marker.key), &marker.instance).await?;
        }
        if let StateChange::Adopt(marker) = state {
            self.take_fence(room, &marker.key.alias(&marker.instance, bot.server())).await?;
        }
        self.put_state(room, kind, &state_key, content).await
    }

    /// Gives a renamed thing the fencing alias of its new id and takes the old one back. Before the marker: until that is written, all of
    /// this is planned again.
    async fn move_fence(&self, room: &RoomId, (from, to): (&Key, &Key), instance: &str) -> Result<(), ActError> {
        let server = self.homeserver.bot().server();
        self.homeserver.point_alias(&to.alias(instance, server), room).await.map_err(classify)?;
        let old = from.alias(instance, server);
        if self.homeserver.resolve(&old).await.map_err(classify)?.as_ref() == Some(room) {
            self.homeserver.remove_alias(&old).await.map_err(classify)?;
        }
        Ok(())
    }

    /// Points a fencing alias at an adopted room. Where it points already is a room that the adopted one takes the place of.
    async fn take_fence(&self, room: &RoomId, alias: &RoomAlias) -> Result<(), ActError> {
        let standing = self.homeserver.resolve(alias).await.map_err(classify)?;
        if standing.as_ref().is_some_and(|standing| standing != room) {
            self.homeserver.remove_alias(alias).await.map_err(classify)?;
        }
        self.homeserver.point_alias(alias, room).await.map_err(classify)
    }

    /// The event holds everybody's levels at once: what a moderator changed a moment ago must not be written over, so the levels are
    /// read just before, and anything but `standing` is news to plan with (S-21).
    async fn set_levels(
        &self,
        room: &RoomRef,
        content: &Value,
        standing: Option<&PowerLevels>,
    ) -> Result<Outcome, ActError> {
        let room = resolved(room)?;
        self.levels_stand(room, standing).await?;
        self.put_state(room, LEVELS, "", content.clone()).await
    }

    async fn levels_stand(&self, room: &RoomId, standing: Option<&PowerLevels>) -> Result<(), ActError> {
        let now = self.homeserver.state_content(room, LEVELS, "").await.map_err(classify)?;
        if now.map(|content| PowerLevels::from_content(&content)).as_ref() == standing {
            return Ok(());
        }
        Err(ActError {
            attempted: format!("set {LEVELS} of {room}"),
            cause: "somebody changed the levels after they were read, or the bot is no longer in the room".to_owned(),
            code: None,
            kind: ActErrorKind::Stale,
        })
    }

    /// What somebody does in the bot's stead (S-22).
    async fn puppet(
        &self,
        room: &RoomId,
        user: &UserId,
        deed: &Deed,
        standing: Option<&PowerLevels>,
    ) -> Result<Outcome, ActError> {
        let homeserver = &self.homeserver;
        let event = match deed {
            Deed::Leave { text } => homeserver.leave_as(user, room, text).await,
            Deed::Forget => homeserver.forget_as(user, room).await.map(|()| None),
            Deed::InviteBot => homeserver.invite_bot_as(user, room).await.map(|()| None),
            Deed::SetLevels { content, .. } => {
                self.levels_stand(room, standing).await?;
                homeserver.set_levels_as(user, room, content.clone()).await
            }
            Deed::Join => homeserver.join_as(user, room).await.map(|()| None),
            // Whoever upgrades is the creator of the new room, so it is the bot where it may.
            Deed::Upgrade { version } => {
                let successor = if user == homeserver.bot() {
                    homeserver.upgrade(room, version).await
                } else {
                    homeserver.upgrade_as(user, room, version).await
                };
                let successor = successor.map_err(classify)?;
                return Ok(Outcome { room: Some(successor), ..Outcome::default() });
            }
        };
        event.map(|event| Outcome { event, ..Outcome::default() }).map_err(classify)
    }

    async fn put_state(&self, room: &RoomId, kind: &str, state_key: &str, content: Value) -> Result<Outcome, ActError> {
        match self.homeserver.put_state(room, kind, state_key, content).await.map_err(classify) {
            Ok(event) => Ok(Outcome { event, ..Outcome::default() }),
            // No right, or no longer in the room?
            Err(mut failure) if failure.kind == ActErrorKind::Forbidden => {
                let bot_in = self.homeserver.membership(room, self.homeserver.bot()).await.map_err(classify)?;
                if bot_in.as_deref() != Some("join") {
                    failure.kind = ActErrorKind::Stale;
                }
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// A membership write that was refused for want of a right is looked at once more: was the person already where we want them, or
    /// somewhere we did not know of?
    async fn membership(
        &self,
        room: &RoomRef,
        user: &UserId,
        expected: &[Option<&str>],
        written: Result<(), MatrixError>,
    ) -> Result<Outcome, ActError> {
        let Err(error) = written else { return Ok(Outcome::default()) };
        let mut failure = classify(error);
        if failure.kind == ActErrorKind::Forbidden && failure.code.as_deref() == Some("M_FORBIDDEN") {
            let room = resolved(room)?;
            let bot_in = self.homeserver.membership(room, self.homeserver.bot()).await.map_err(classify)?;
            let now = self.homeserver.membership(room, user).await.map_err(classify)?;
            if bot_in.as_deref() != Some("join") || !expected.contains(&now.as_deref()) {
                failure.kind = ActErrorKind::Stale;
            }
        }
        Err(failure)
    }
}

#[async_trait]
impl Actuator for LiveActuator {
    async fn perform(&self, action: &Action, standing: Option<&PowerLevels>) -> Result<Outcome, ActError> {
        let homeserver = &self.homeserver;
        let plain = |written: Result<(), MatrixError>| written.map(|()| Outcome::default()).map_err(classify);
        match action {
            Action::RegisterBot => plain(homeserver.ensure_users().await),
            Action::SetBotName { name } => plain(homeserver.set_bot_name(name).await),
            Action::DropAlias { alias, key } => self.drop_alias(alias, key).await,
            Action::CreateRoom(creation) => self.create(creation).await,
            Action::SetState { room, state } => self.set_state(room, state).await,
            Action::SetPowerLevels { room, content, .. } => self.set_levels(room, content, standing).await,
            Action::Invite { room, user, text } => {
                let change = Membership::Invite { user, reason: text };
                let written = homeserver.change_membership(resolved(room)?, change).await;
                self.membership(room, user, &[None, Some("leave"), Some("knock"), Some("invite")], written).await
            }
            Action::Join { room, user } => {
                let written = homeserver.join_user(resolved(room)?, user).await;
                self.membership(room, user, &[None, Some("leave"), Some("knock"), Some("invite")], written).await
            }
            Action::Kick { room, user, text } => {
                let change = Membership::Kick { user, reason: text };
                let written = homeserver.change_membership(resolved(room)?, change).await;
                self.membership(room, user, &[Some("join"), Some("invite"), Some("knock")], written).await
            }
            Action::Account { user, deed } => self.accounts.perform(user, deed).await,
            Action::MirrorLeavers { leavers } => plain(homeserver.mirror_leavers(leavers).await),
            Action::Leave { room } => plain(homeserver.leave(resolved(room)?).await),
            Action::Enter { room } => plain(homeserver.enter(resolved(room)?).await),
            Action::TakePower { room } => {
                match homeserver.make_administrator(resolved(room)?, homeserver.bot()).await {
                    // Nobody local has power there: trying again changes nothing.
                    Err(error) if error.status == Some(400) => {
                        Err(ActError { kind: ActErrorKind::Forbidden, ..classify(error) })
                    }
                    other => plain(other),
                }
            }
            Action::Puppet { room, user, deed } => self.puppet(resolved(room)?, user, deed, standing).await,
            Action::RemoveAlias { room, alias, .. } => self.remove_alias(alias, resolved(room)?).await,
        }
    }

    async fn emails_of(&self, user: &UserId) -> Result<Option<Vec<String>>, MatrixError> {
        self.accounts.emails(user).await
    }

    async fn upload(&self, picture: Arc<[u8]>, kind: PictureKind) -> Result<String, ActError> {
        self.homeserver.upload(picture, kind).await.map_err(classify)
    }
}

fn resolved(room: &RoomRef) -> Result<&RoomId, ActError> {
    match room {
        RoomRef::Id(room) => Ok(room),
        RoomRef::New(_) => Err(unresolved()),
    }
}

/// The room an action is about was to be made by an earlier step, which did not happen.
fn unresolved() -> ActError {
    ActError {
        attempted: "find the room this step is about".to_owned(),
        cause: "it has not been made".to_owned(),
        code: None,
        kind: ActErrorKind::Stale,
    }
}

/// What a failed request means for the action.
pub(crate) fn classify(error: MatrixError) -> ActError {
    let kind = match (error.trouble, error.code.as_deref()) {
        (_, Some("M_INVITE_BLOCKED" | "ORG.MATRIX.MSC4155.M_INVITE_BLOCKED" | "M_USER_SUSPENDED")) => {
            ActErrorKind::Refused
        }
        // Somebody is banned, or a room or alias is no longer there.
        (_, Some("M_BAD_STATE")) | (Trouble::NotFound, _) => ActErrorKind::Stale,
        (Trouble::UnknownToken, _) => ActErrorKind::Fatal,
        (Trouble::Away | Trouble::RateLimited | Trouble::Malformed, _) => ActErrorKind::Retry,
        (Trouble::Forbidden, _) | (Trouble::Rejected, Some("M_EXCLUSIVE")) => ActErrorKind::Forbidden,
        // An alias points elsewhere.
        (Trouble::Rejected, _) if error.status == Some(409) => ActErrorKind::Stale,
        // The request itself is unacceptable (too large, a malformed id): the same one will be again.
        (Trouble::Rejected, _) => ActErrorKind::Refused,
    };
    ActError { attempted: error.attempted, cause: error.cause, code: error.code, kind }
}
