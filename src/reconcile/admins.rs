//! Server admins whom only Matrix Authentication Service knows (S-54, S-55): the homeserver's own list has no flag for them, so nothing
//! else would protect them from being locked, removed or demoted.
//!
//! Decides nothing. While the service has not said once who they are, nothing is taken from anybody ([`Reconciler::knows_admins`]).

use super::{Reconciler, alive};
use crate::clock;
use crate::matrix::Trouble;

impl Reconciler {
    /// Asks who they are (one request); where that fails, those who were known last go on being protected.
    pub(super) async fn read_admins(&mut self) {
        let now = clock::now();
        if let Some(roster) = self.parts.roster.as_ref().filter(|_| !self.registry.rests(now)) {
            match alive(&self.parts.heartbeat, roster.admins()).await {
                Ok(admins) => {
                    self.admins = Some(admins);
                    self.registry.is_there();
                }
                Err(error) => {
                    tracing::warn!(%error, "who is a server admin is not known anew");
                    if matches!(error.trouble, Trouble::Away | Trouble::RateLimited | Trouble::UnknownToken) {
                        self.registry.is_away(error.to_string(), now);
                    }
                }
            }
        }
        self.mark_admins();
    }

    /// Marks them among the accounts, which were read from the homeserver.
    pub(super) fn mark_admins(&mut self) {
        let (Some(observed), Some(admins)) = (&mut self.observed, &self.admins) else { return };
        let accounts = &mut observed.accounts;
        for user in admins {
            // Without the list everybody is unknown who was not asked after.
            if !accounts.listed {
                accounts.people.entry(user.clone()).or_default();
            }
            if let Some(account) = accounts.people.get_mut(user) {
                account.admin = true;
            }
        }
    }

    /// Whether everybody is known who is protected for being a server admin.
    pub(super) fn knows_admins(&self) -> bool {
        self.parts.roster.is_none() || self.admins.is_some()
    }
}
