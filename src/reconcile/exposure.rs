//! Whether the puppet registration admits somebody nobody is to act for (S-54, S-103): looked at with every full read.
//!
//! Never writes; such a person is not acted for anyway, as the plan and the hand refuse it.

use std::collections::BTreeSet;

use super::Reconciler;
use crate::clock;
use crate::ids::{Timestamp, UserId};
use crate::observability::FailureStatus;

/// How many people a failure names.
const NAMED: usize = 5;

/// Whom the puppet registration should leave out and does not.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    people: BTreeSet<UserId>,
    since: Timestamp,
}

impl Reconciler {
    /// Server admins and protected users whom the puppet registration admits.
    #[must_use]
    pub fn exposed(&self) -> BTreeSet<UserId> {
        let homeserver = &self.parts.homeserver;
        let Some(observed) = self.observed.as_ref().filter(|_| homeserver.has_puppets()) else {
            return BTreeSet::new();
        };
        let provisioner = &self.parts.config.provisioner;
        let patterns = || provisioner.protected_users.iter().chain(&provisioner.allowed_users);
        let people = observed.accounts.people.iter().filter(|(user, account)| {
            let own = [homeserver.bot(), homeserver.sender()].contains(user);
            !own && !account.deactivated && (account.admin || patterns().any(|pattern| pattern.matches(user)))
        });
        people.map(|(user, _)| user).filter(|user| homeserver.may_act_as(user)).cloned().collect()
    }

    /// Compares anew, and says so when it has become worse.
    pub(super) fn look_at_exposure(&mut self) {
        let people = self.exposed();
        self.parts.metrics.set_exposed(people.len() as u64);
        let new: Vec<&UserId> = people.difference(&self.exposure.people).collect();
        if !new.is_empty() {
            tracing::warn!(
                people = ?new.iter().take(NAMED).map(|user| user.as_str()).collect::<Vec<_>>(),
                count = new.len(),
                "the puppet registration admits people whom nobody is to act for: run usher registration generate"
            );
        }
        let since = if self.exposure.people.is_empty() { clock::now() } else { self.exposure.since };
        self.exposure = Exposure { people, since };
    }

    pub(super) fn exposure_failure(&self) -> Option<FailureStatus> {
        let Exposure { people, since } = &self.exposure;
        let named: Vec<&str> = people.iter().take(NAMED).map(UserId::as_str).collect();
        (!people.is_empty()).then(|| FailureStatus {
            what: format!("the puppet registration admits {} whom nobody is to act for", people.len()),
            reason: format!("server admins or protected users: {}", named.join(", ")),
            remedy: Some("run `usher registration generate`, and restart the homeserver".to_owned()),
            since: *since,
            retry_at: None,
        })
    }
}
