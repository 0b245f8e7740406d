//! The ways back into a room, and to power in it, from the gentlest on (S-22): the room's own rule or an invitation, the homeserver's admin
//! API, somebody who is acted for.
//!
//! Never decides whether to try: how often that is, and what is said when nothing helps, is [`super::Standing`]'s.

use super::Loss;
use crate::actuate::{ActError, ActErrorKind, Actuator};
use crate::clock;
use crate::desired::Desired;
use crate::ids::{RoomId, UserId};
use crate::ledger::Ledger;
use crate::matrix::Homeserver;
use crate::observed::{Observed, PowerLevels, Room};
use crate::plan::{self, Action, Deed, RoomRef};

/// So many people are acted for, one after the other, at one try: the room may have changed since it was seen.
const MOST_LENDERS: usize = 3;

/// What a try works with.
pub(super) struct Ways<'a> {
    pub actuator: &'a dyn Actuator,
    pub homeserver: &'a Homeserver,
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub ledger: &'a Ledger,
    /// What was sent, in order, and what went wrong with it.
    pub sent: Vec<(Action, Option<ActError>)>,
}

impl Ways<'_> {
    /// One try.
    ///
    /// # Errors
    /// What the last way was refused for; `Stale` for a place that is none any more, or levels that are others by now.
    pub async fn win_back(&mut self, room: &RoomId, loss: Loss) -> Result<(), ActError> {
        match loss {
            Loss::Place => self.enter(room).await,
            Loss::Power => self.rise(room).await,
        }
    }

    async fn enter(&mut self, room: &RoomId) -> Result<(), ActError> {
        let enter = Action::Enter { room: RoomRef::Id(room.clone()) };
        let refusal = match self.perform(&enter).await {
            Err(refusal) if refusal.kind == ActErrorKind::Forbidden => refusal,
            entered => return entered,
        };
        // Invites, too; but only where nobody's level would have to be lowered for that.
        let lifted = self.observed.accounts.listed && self.perform(&take(room)).await.is_ok();
        if lifted || self.is_invited(room).await { self.perform(&enter).await } else { Err(refusal) }
    }

    /// Whether somebody in the room invites the bot, acted for.
    async fn is_invited(&mut self, room: &RoomId) -> bool {
        let Some(there) = self.seen_from_outside(room).await else { return false };
        let inviters = plan::inviters((self.desired, self.observed), self.ledger, &there, clock::now());
        for user in inviters.into_iter().take(MOST_LENDERS) {
            match self.act_as(&user, room, (Deed::InviteBot, None)).await {
                Ok(()) => return true,
                Err(error) => tracing::debug!(%room, %user, %error, "the bot is not invited back"),
            }
        }
        false
    }

    /// The room as an admin sees it, else as the bot left it.
    async fn seen_from_outside(&self, room: &RoomId) -> Option<Room> {
        if !self.desired.puppets {
            return None;
        }
        let seen = if self.observed.accounts.listed {
            self.homeserver.room_from_outside(room).await
        } else {
            self.homeserver.room_when_left(room).await
        };
        seen.inspect_err(|error| tracing::debug!(%room, %error, "who could invite the bot back is not seen")).ok()?
    }

    async fn rise(&mut self, room: &RoomId) -> Result<(), ActError> {
        let mut refusal = ActError {
            attempted: format!("take power in {room}"),
            cause: "usher's sender is no server admin, and there is nobody who could be acted for".to_owned(),
            code: None,
            kind: ActErrorKind::Forbidden,
        };
        if self.observed.accounts.listed {
            match self.perform(&take(room)).await {
                Err(refused) if refused.kind == ActErrorKind::Forbidden => refusal = refused,
                taken => return taken,
            }
        }
        let Some(there) = self.observed.rooms.get(room) else { return Err(refusal) };
        let raisers = plan::raisers((self.desired, self.observed), self.ledger, there, clock::now());
        for (user, deed) in raisers.into_iter().take(MOST_LENDERS) {
            match self.act_as(&user, room, (deed, there.power_levels.as_ref())).await {
                Err(refused) if refused.kind == ActErrorKind::Forbidden => refusal = refused,
                raised => return raised,
            }
        }
        Err(refusal)
    }

    async fn act_as(
        &mut self,
        user: &UserId,
        room: &RoomId,
        (deed, standing): (Deed, Option<&PowerLevels>),
    ) -> Result<(), ActError> {
        let action = Action::Puppet { room: RoomRef::Id(room.clone()), user: user.clone(), deed };
        self.send(action, standing).await
    }

    async fn perform(&mut self, action: &Action) -> Result<(), ActError> {
        self.send(action.clone(), None).await
    }

    async fn send(&mut self, action: Action, standing: Option<&PowerLevels>) -> Result<(), ActError> {
        let done = self.actuator.perform(&action, standing).await.map(drop);
        self.sent.push((action, done.as_ref().err().cloned()));
        done
    }
}

fn take(room: &RoomId) -> Action {
    Action::TakePower { room: RoomRef::Id(room.clone()) }
}
