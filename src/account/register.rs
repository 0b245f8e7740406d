//! Whether an account may be made for somebody, and making it (S-63): under a name nobody has, found by the person's single sign-on.
//!
//! Never changes an account that was there before.

use std::fmt;

use super::{AccountView, Accounts};
use crate::ids::UserId;
use crate::matrix::MatrixError;

/// What the homeserver knows a person by who signs in elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The homeserver's own name for where they sign in: `oidc-entra`; with Matrix Authentication Service the provider's ULID.
    pub provider: String,
    /// The person there.
    pub subject: String,
}

impl fmt::Debug for Link {
    /// Without the person: it may be a mail address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// Somebody whose account is to be made.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub user: UserId,
    pub display_name: Option<String>,
    /// By what their first single sign-on finds the account; `None`: by its name, if at all.
    pub link: Option<Link>,
}

/// What is where an account is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Free,
    /// Somebody's account, like any other.
    Taken,
    /// The same, and it is locked: somebody left it behind, or was locked out.
    Locked,
    /// An account that came to its end: nobody can have it any more.
    Closed,
    /// None is made here, and the one that may be there is nobody's to have.
    Refused(String),
}

impl Accounts {
    /// What is in a newcomer's place. Only reads.
    ///
    /// # Errors
    /// When the backend refuses or is away.
    pub async fn place_of(&self, newcomer: &Newcomer) -> Result<Place, MatrixError> {
        let user = &newcomer.user;
        let seen = self.backend.look(user).await?;
        let refused = |why: &str| Ok(Place::Refused(why.to_owned()));
        if let Some(why) = self.protection(user, seen.as_ref().unwrap_or(&AccountView::default())) {
            return refused(&format!("the name is taken: {why}"));
        }
        if let Some(link) = &newcomer.link
            && let Some(owner) = self.backend.owner_of_link(link).await?.filter(|owner| owner != user)
        {
            return refused(&format!("the person's single sign-on leads to {owner} already"));
        }
        match seen {
            None => Ok(Place::Free),
            Some(seen) if seen.deactivated => Ok(Place::Closed),
            Some(seen) if seen.locked => Ok(Place::Locked),
            Some(_) => Ok(Place::Taken),
        }
    }

    /// Makes an account in a place that is [`Place::Free`], or completes one that an earlier call began there.
    ///
    /// # Errors
    /// When the backend refuses or is away; whether the account was made is then not known.
    pub async fn register(&self, newcomer: &Newcomer) -> Result<(), MatrixError> {
        self.backend.register(newcomer).await
    }
}
