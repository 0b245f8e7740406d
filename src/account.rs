//! Accounts: what is done to one, behind [`AccountBackend`], and by whom (S-50 to S-55, DESIGN decision 10).
//!
//! Every write looks at the account first: what was planned on an older view is refused when the world is another by now, and nobody
//! protected is ever written to, whatever a plan says (S-54). Never decides what should be done.

mod attributes;
pub mod mas;
mod register;
pub mod registrar;
pub mod synapse;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use attributes::{ADDRESS_TAKEN, holder_of_address};
pub use register::{Link, Newcomer, Place};

use crate::actuate::{ActError, ActErrorKind, Outcome, classify};
use crate::config::Pattern;
use crate::ids::{RoomId, UserId};
use crate::matrix::{Homeserver, MatrixError};
use crate::observed::Member;
use crate::plan::{AccountDeed, Attribute, Emails, End};

/// How often, and how far apart, a homeserver that took a final step is asked whether it has finished. Together less than the shortest
/// time a write may take; what takes longer is asked again in the next round.
const END_LOOKS: u32 = 8;
const END_PAUSE: Duration = Duration::from_millis(500);
const NOT_LOCKED: &str = "the account is not locked any more";

/// An account as its backend shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, as the backends have them")]
pub struct AccountView {
    pub admin: bool,
    pub locked: bool,
    pub deactivated: bool,
    /// What names the person is gone.
    pub erased: bool,
    /// Another application service's.
    pub of_a_service: bool,
    pub display_name: Option<String>,
    /// An `mxc://` URI.
    pub avatar: Option<Arc<str>>,
    pub emails: Emails,
}

/// Who is in charge of accounts: Synapse itself, or Matrix Authentication Service.
#[async_trait]
pub trait AccountBackend: Send + Sync {
    /// The account; `None`: there is none.
    async fn look(&self, user: &UserId) -> Result<Option<AccountView>, MatrixError>;
    /// Ends all sessions until unlocked; memberships stay.
    async fn lock(&self, user: &UserId) -> Result<(), MatrixError>;
    async fn unlock(&self, user: &UserId) -> Result<(), MatrixError>;
    /// Asks for the end of an account. It may take a while: [`AccountBackend::has_ended`].
    async fn end(&self, user: &UserId, end: End) -> Result<(), MatrixError>;
    /// Whether the end that was asked for is complete: deactivated, erased where wanted, and out of every room.
    async fn has_ended(&self, user: &UserId, end: End) -> Result<bool, MatrixError>;
    /// Opens a deactivated account again. What was erased stays so, and a lock stays.
    async fn reactivate(&self, user: &UserId) -> Result<(), MatrixError>;
    async fn set_display_name(&self, user: &UserId, name: &str) -> Result<(), MatrixError>;
    /// Makes what an `mxc://` URI names the account's avatar; `None`: it has none any more.
    async fn set_avatar(&self, user: &UserId, url: Option<&str>) -> Result<(), MatrixError>;
    /// Makes these the account's mail addresses, in normal form; whatever else is bound to it stays.
    async fn set_emails(&self, user: &UserId, emails: &Emails) -> Result<(), MatrixError>;
    /// Whose account has this address.
    async fn owner_of_email(&self, address: &str) -> Result<Option<UserId>, MatrixError>;
    /// Makes an account without a password that single sign-on finds by the newcomer's link. Completes one that an earlier call began;
    /// never to be called for any other that exists.
    async fn register(&self, newcomer: &Newcomer) -> Result<(), MatrixError>;
    /// Whose account single sign-on finds by this link.
    async fn owner_of_link(&self, link: &Link) -> Result<Option<UserId>, MatrixError>;
    /// Accounts of people who are server admins and can log in.
    async fn usable_admins(&self) -> Result<BTreeSet<UserId>, MatrixError>;
    /// Whether somebody else than the homeserver is asked: what goes wrong there says nothing about rooms.
    fn is_apart(&self) -> bool {
        false
    }
}

/// Whom nothing is ever done to (section 1 of the rules).
#[derive(Clone, Debug, Default)]
pub struct Shield {
    pub patterns: Vec<Pattern>,
    /// `protect_server_admins: false` lays server admins open, all but the last.
    pub admins_are_open: bool,
}

/// The hand that changes accounts.
pub struct Accounts {
    backend: Box<dyn AccountBackend>,
    shield: Shield,
    homeserver: Homeserver,
}

impl Accounts {
    /// Changes accounts through `backend`, but never those `shield` covers. Makes no request.
    #[must_use]
    pub fn new(backend: Box<dyn AccountBackend>, shield: Shield, homeserver: Homeserver) -> Self {
        Self { backend, shield, homeserver }
    }

    /// Does one thing to one account.
    ///
    /// # Errors
    /// [`ActErrorKind::Forbidden`] for whom the shield covers, and where a service apart from the homeserver does not accept its token;
    /// [`ActErrorKind::Stale`] where the account is not as planned, or the homeserver has not finished; [`ActErrorKind::Refused`] for an
    /// address that is another account's, with [`ADDRESS_TAKEN`], or that the homeserver does not accept. Once a write was accepted
    /// whatever goes wrong is [`ActErrorKind::Retry`]: nothing else says that it may have been done.
    pub async fn perform(&self, user: &UserId, deed: &AccountDeed) -> Result<Outcome, ActError> {
        let done = self.attempt(user, deed).await;
        done.map_err(|failure| match failure.kind {
            ActErrorKind::Fatal if self.backend.is_apart() => ActError { kind: ActErrorKind::Forbidden, ..failure },
            _ => failure,
        })
    }

    async fn attempt(&self, user: &UserId, deed: &AccountDeed) -> Result<Outcome, ActError> {
        let attempt = format!("{} {user}", verb(deed));
        let seen = self.backend.look(user).await.map_err(classify)?;
        let Some(seen) = seen else { return Err(error(&attempt, "there is no such account", ActErrorKind::Stale)) };
        if *deed != AccountDeed::Unlock {
            self.refuse_protected(&attempt, user, &seen)?;
        }
        if seen.deactivated && !matches!(deed, AccountDeed::Close(_)) {
            return Err(error(&attempt, "the account was deactivated", ActErrorKind::Stale));
        }
        match deed {
            AccountDeed::Lock { .. } => self.lock(&attempt, user, &seen).await?,
            // A service apart may have been told before, and the homeserver not yet: it looks.
            AccountDeed::Unlock if !seen.locked && !self.backend.is_apart() => {}
            AccountDeed::Unlock => self.backend.unlock(user).await.map_err(classify)?,
            // Somebody who can log in again wants to be told of messages.
            AccountDeed::RemovePushers if !seen.locked => return Err(error(&attempt, NOT_LOCKED, ActErrorKind::Stale)),
            AccountDeed::RemovePushers => self.homeserver.remove_pushers_as(user).await.map_err(classify)?,
            AccountDeed::TurnDown { room, text } => self.turn_down(&attempt, user, (room, text, &seen)).await?,
            AccountDeed::HandOver { room, to } => self.hand_over(&attempt, user, (room, to, &seen)).await?,
            AccountDeed::Close(end) => self.end(&attempt, user, (*end, &seen)).await?,
            AccountDeed::Set(attribute) => self.set(&attempt, user, (attribute, &seen)).await?,
        }
        Ok(Outcome::default())
    }

    /// Plans say the same; here it does not matter why one says otherwise (S-54).
    fn refuse_protected(&self, attempt: &str, user: &UserId, seen: &AccountView) -> Result<(), ActError> {
        self.protection(user, seen).map_or(Ok(()), |why| Err(error(attempt, why, ActErrorKind::Forbidden)))
    }

    /// Why nothing is ever done to an account, if so.
    fn protection(&self, user: &UserId, seen: &AccountView) -> Option<&'static str> {
        let own = [self.homeserver.bot(), self.homeserver.sender()].contains(&user);
        if own {
            Some("usher's own account")
        } else if user.server() != self.homeserver.bot().server() {
            Some("of another homeserver")
        } else if self.shield.patterns.iter().any(|pattern| pattern.matches(user)) {
            Some("a protected user")
        } else if seen.of_a_service {
            Some("another application service's")
        } else if seen.admin && !self.shield.admins_are_open {
            Some("a server admin")
        } else {
            None
        }
    }

    async fn lock(&self, attempt: &str, user: &UserId, seen: &AccountView) -> Result<(), ActError> {
        if seen.locked {
            return Err(error(attempt, "somebody else locked the account meanwhile", ActErrorKind::Stale));
        }
        self.keep_an_admin(attempt, user, seen).await?;
        self.backend.lock(user).await.map_err(classify)
    }

    async fn keep_an_admin(&self, attempt: &str, user: &UserId, seen: &AccountView) -> Result<(), ActError> {
        if !seen.admin {
            return Ok(());
        }
        let own = [self.homeserver.bot(), self.homeserver.sender()];
        let admins = self.backend.usable_admins().await.map_err(classify)?;
        if admins.iter().any(|admin| admin != user && !own.contains(&admin)) {
            return Ok(());
        }
        Err(error(attempt, "the last server admin", ActErrorKind::Forbidden))
    }

    /// An invitation that is none any more is left alone, and so is that of somebody who can log in again.
    async fn turn_down(
        &self,
        attempt: &str,
        user: &UserId,
        (room, text, seen): (&RoomId, &str, &AccountView),
    ) -> Result<(), ActError> {
        let places = self.homeserver.places_of(user).await.map_err(classify)?;
        if !seen.locked || !places.invited.contains(room) {
            return Err(error(attempt, "the invitation does not wait any more", ActErrorKind::Stale));
        }
        self.homeserver.leave_as(user, room, text).await.map(drop).map_err(classify)
    }

    /// The room is looked at just before: whom the homeserver raises must be in it.
    async fn hand_over(
        &self,
        attempt: &str,
        user: &UserId,
        (room, to, seen): (&RoomId, &UserId, &AccountView),
    ) -> Result<(), ActError> {
        let stale = |cause: &str| Err(error(attempt, cause, ActErrorKind::Stale));
        if !seen.locked {
            return stale(NOT_LOCKED);
        }
        let Some(found) = self.homeserver.room_from_outside(room).await.map_err(classify)? else {
            return stale("the room is not there any more");
        };
        if found.is_administered_by(to) {
            return Ok(());
        }
        if !found.is_administered_by(user) || found.members.get(to) != Some(&Member::Join) {
            return stale("the room is not as it was when this was planned");
        }
        self.homeserver.make_administrator(room, to).await.map_err(classify)
    }

    /// The final step. Sent again as long as the homeserver has not finished: it is idempotent.
    async fn end(&self, attempt: &str, user: &UserId, (end, seen): (End, &AccountView)) -> Result<(), ActError> {
        if seen.deactivated {
            if self.backend.has_ended(user, end).await.map_err(accepted)? {
                return Ok(());
            }
            self.backend.end(user, end).await.map_err(accepted)?;
        } else {
            // Somebody gave the account back after the plan was made.
            if !seen.locked {
                return Err(error(attempt, NOT_LOCKED, ActErrorKind::Stale));
            }
            self.keep_an_admin(attempt, user, seen).await?;
            self.backend.end(user, end).await.map_err(classify)?;
        }
        for _ in 0..END_LOOKS {
            if self.backend.has_ended(user, end).await.map_err(accepted)? {
                return Ok(());
            }
            tokio::time::sleep(END_PAUSE).await;
        }
        Err(error(attempt, "the homeserver has not finished yet; it is asked again", ActErrorKind::Stale))
    }
}

/// What went wrong after a write was accepted: that it was not done is the one thing it cannot mean.
fn accepted(error: MatrixError) -> ActError {
    ActError { kind: ActErrorKind::Retry, ..classify(error) }
}

fn error(attempt: &str, cause: &str, kind: ActErrorKind) -> ActError {
    ActError { attempted: attempt.to_owned(), cause: cause.to_owned(), code: None, kind }
}

fn verb(deed: &AccountDeed) -> &'static str {
    match deed {
        AccountDeed::Lock { .. } => "lock",
        AccountDeed::Unlock => "unlock",
        AccountDeed::RemovePushers => "remove the pushers of",
        AccountDeed::TurnDown { .. } => "turn down an invitation of",
        AccountDeed::HandOver { .. } => "hand over a room of",
        AccountDeed::Close(End::Erase) => "erase",
        AccountDeed::Close(End::Deactivate) => "deactivate",
        AccountDeed::Set(Attribute::DisplayName(_)) => "set the display name of",
        AccountDeed::Set(Attribute::Emails { .. }) => "set the mail addresses of",
        AccountDeed::Set(Attribute::NoEmails(_)) => "take back the mail addresses of",
        AccountDeed::Set(Attribute::Avatar(_)) => "set the avatar of",
        AccountDeed::Set(Attribute::NoAvatar { .. }) => "remove the avatar of",
    }
}
