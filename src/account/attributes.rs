//! Names, addresses and avatars of accounts (S-50): written where they are not as wanted, and nowhere else.
//!
//! Never decides what they should be, and never moves an address from one account to another.

use std::sync::Arc;
use std::time::Duration;

use super::{AccountView, Accounts, error};
use crate::actuate::{ActError, ActErrorKind, classify};
use crate::ids::UserId;
use crate::ledger::{Given, normal_emails};
use crate::matrix::MatrixError;
use crate::plan::{Attribute, Avatar, Emails};

/// By what the refusal of an address that another account has is told from a homeserver's own.
pub const ADDRESS_TAKEN: &str = "dev.usher.address_taken";
/// What stands before and after the name of whoever has it.
const TAKEN: (&str, &str) = ("an address is ", "'s already");
/// Between two display names or avatars: each becomes an event in every room of the person.
const FAN_OUT_PAUSE: Duration = Duration::from_millis(250);

/// Who has the address for which somebody's were refused with [`ADDRESS_TAKEN`].
#[must_use]
pub fn holder_of_address(error: &ActError) -> Option<UserId> {
    let taken = error.code.as_deref() == Some(ADDRESS_TAKEN);
    let holder = error.cause.strip_prefix(TAKEN.0)?.strip_suffix(TAKEN.1)?;
    taken.then(|| UserId::from(holder))
}

impl Accounts {
    pub(super) async fn set(
        &self,
        attempt: &str,
        user: &UserId,
        (attribute, seen): (&Attribute, &AccountView),
    ) -> Result<(), ActError> {
        match attribute {
            Attribute::DisplayName(name) => {
                if seen.display_name.as_deref().map(str::trim) == Some(&**name) {
                    return Ok(());
                }
                self.backend.set_display_name(user, name).await.map_err(classify)?;
                tokio::time::sleep(FAN_OUT_PAUSE).await;
                Ok(())
            }
            Attribute::Emails { emails, .. } => self.set_emails(attempt, user, (emails, seen)).await,
            Attribute::NoEmails(given) => self.take_back(user, (given, seen)).await,
            Attribute::Avatar(avatar) => {
                let Avatar { uploaded, standing, .. } = &**avatar;
                let uploaded = uploaded.as_ref().ok_or_else(|| stale(attempt, "the photo is not uploaded yet"))?;
                self.set_avatar(attempt, user, (Some(uploaded), standing.as_ref(), seen)).await
            }
            Attribute::NoAvatar { url } => self.set_avatar(attempt, user, (None, Some(url), seen)).await,
        }
    }

    /// The addresses of an account in normal form; `None`: there is none. A read.
    ///
    /// # Errors
    /// When the backend refuses or is away.
    pub async fn emails(&self, user: &UserId) -> Result<Option<Vec<String>>, MatrixError> {
        let seen = self.backend.look(user).await?;
        Ok(seen.map(|seen| normal_emails(seen.emails.0.iter().map(String::as_str))))
    }

    /// Synapse moves an address silently from whoever has it (S-54), so each new one is asked after first.
    async fn set_emails(
        &self,
        attempt: &str,
        user: &UserId,
        (wanted, seen): (&Emails, &AccountView),
    ) -> Result<(), ActError> {
        let standing = normal_emails(seen.emails.0.iter().map(String::as_str));
        if standing == wanted.0 {
            return Ok(());
        }
        for address in wanted.0.iter().filter(|address| !standing.contains(address)) {
            let owner = self.backend.owner_of_email(address).await.map_err(classify)?;
            if let Some(owner) = owner.filter(|owner| owner != user) {
                let (before, after) = TAKEN;
                let refusal = error(attempt, &format!("{before}{owner}{after}"), ActErrorKind::Refused);
                return Err(ActError { code: Some(ADDRESS_TAKEN.to_owned()), ..refusal });
            }
        }
        self.backend.set_emails(user, wanted).await.map_err(classify)
    }

    /// Whatever the person has beside what usher gave stays.
    async fn take_back(&self, user: &UserId, (given, seen): (&Given, &AccountView)) -> Result<(), ActError> {
        let standing = normal_emails(seen.emails.0.iter().map(String::as_str));
        let kept: Vec<String> = standing.iter().filter(|address| !given.has(address)).cloned().collect();
        if kept.len() == standing.len() {
            return Ok(());
        }
        self.backend.set_emails(user, &Emails(kept)).await.map_err(classify)
    }

    /// Only in the place of the avatar the plan was made with: what somebody chose meanwhile is news to plan with.
    async fn set_avatar(
        &self,
        attempt: &str,
        user: &UserId,
        (wanted, standing, seen): (Option<&Arc<str>>, Option<&Arc<str>>, &AccountView),
    ) -> Result<(), ActError> {
        if seen.avatar.as_ref() == wanted {
            return Ok(());
        }
        if seen.avatar.as_ref() != standing {
            return Err(stale(attempt, "somebody changed the avatar meanwhile"));
        }
        let set = self.backend.set_avatar(user, wanted.map(|url| &**url)).await;
        set.map_err(|refusal| {
            // The account may be written to, or it would not have come so far: this picture may not be an avatar there.
            let forbidden = refusal.status == Some(403);
            let failure = classify(refusal);
            if forbidden { ActError { kind: ActErrorKind::Refused, ..failure } } else { failure }
        })?;
        tokio::time::sleep(FAN_OUT_PAUSE).await;
        Ok(())
    }
}

fn stale(attempt: &str, cause: &str) -> ActError {
    error(attempt, cause, ActErrorKind::Stale)
}
