//! Accounts through Synapse's own admin API (S-53). One method, one or two requests; what they mean is decided in [`super::Accounts`].

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{AccountBackend, AccountView, Link, Newcomer};
use crate::ids::UserId;
use crate::matrix::{Homeserver, MatrixError, Threepid};
use crate::plan::{Emails, End};

/// A Synapse that keeps its accounts itself.
pub struct Synapse(Homeserver);

impl Synapse {
    /// Speaks with `homeserver`, whose sender must be a server admin. Makes no request.
    #[must_use]
    pub fn new(homeserver: Homeserver) -> Self {
        Self(homeserver)
    }
}

#[async_trait]
impl AccountBackend for Synapse {
    async fn look(&self, user: &UserId) -> Result<Option<AccountView>, MatrixError> {
        let record = self.0.account(user).await?;
        Ok(record.map(|record| AccountView {
            admin: record.admin,
            locked: record.locked,
            deactivated: record.deactivated,
            erased: record.erased,
            of_a_service: record.service.is_some(),
            emails: Emails(record.emails().map(str::to_owned).collect()),
            display_name: record.display_name,
            avatar: record.avatar,
        }))
    }

    async fn lock(&self, user: &UserId) -> Result<(), MatrixError> {
        self.0.set_locked(user, true).await
    }

    async fn unlock(&self, user: &UserId) -> Result<(), MatrixError> {
        self.0.set_locked(user, false).await
    }

    async fn end(&self, user: &UserId, end: End) -> Result<(), MatrixError> {
        self.0.deactivate(user, end == End::Erase).await
    }

    /// Synapse answers before it has left the rooms.
    async fn has_ended(&self, user: &UserId, end: End) -> Result<bool, MatrixError> {
        let Some(record) = self.0.account(user).await? else { return Ok(true) };
        let done = record.deactivated && (record.erased || end == End::Deactivate);
        Ok(done && self.0.count_rooms_of(user).await? == 0)
    }

    async fn reactivate(&self, user: &UserId) -> Result<(), MatrixError> {
        self.0.reactivate(user).await
    }

    async fn set_display_name(&self, user: &UserId, name: &str) -> Result<(), MatrixError> {
        self.0.set_account_name(user, name).await
    }

    async fn set_avatar(&self, user: &UserId, url: Option<&str>) -> Result<(), MatrixError> {
        self.0.set_account_avatar(user, url).await
    }

    /// The request replaces everything bound to the account, so what is no mail address is sent back unchanged.
    async fn set_emails(&self, user: &UserId, emails: &Emails) -> Result<(), MatrixError> {
        let record = self.0.account(user).await?.unwrap_or_default();
        let others = record.threepids.into_iter().filter(|threepid| threepid.medium != "email");
        let wanted = emails.0.iter().map(|address| Threepid { medium: "email".to_owned(), address: address.clone() });
        self.0.set_threepids(user, &others.chain(wanted).collect::<Vec<_>>()).await
    }

    async fn owner_of_email(&self, address: &str) -> Result<Option<UserId>, MatrixError> {
        self.0.owner_of_email(address).await
    }

    /// Not one step at the homeserver: an account may be there without its link.
    async fn register(&self, newcomer: &Newcomer) -> Result<(), MatrixError> {
        let Newcomer { user, display_name, link } = newcomer;
        match (self.0.account(user).await?, link) {
            (None, link) => self.0.create_account(user, display_name.as_deref(), link.as_ref()).await,
            (Some(_), Some(link)) => self.0.add_link(user, link).await,
            (Some(_), None) => Ok(()),
        }
    }

    async fn owner_of_link(&self, link: &Link) -> Result<Option<UserId>, MatrixError> {
        self.0.owner_of_link(link).await
    }

    async fn usable_admins(&self) -> Result<BTreeSet<UserId>, MatrixError> {
        self.0.usable_admins().await
    }
}
