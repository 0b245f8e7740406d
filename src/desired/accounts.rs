//! What accounts should be like (S-50, S-51): who is leaving, and whose names, addresses and photos follow the directory.
//!
//! Pure. Never looks at an account: what is there is `observed`, and the comparison is `plan/accounts` and `plan/attributes`.

use std::sync::Arc;

use super::People;
use crate::config::{AccountsBackend, Config, SyncMode};
use crate::directory::{Directory, Stamp};
use crate::ids::{StableId, UserId};
use crate::ledger::normal_emails;
use crate::plan::{Emails, Reason};

/// Longest display name Synapse takes, in characters.
const LONGEST_NAME: usize = 256;

/// Somebody who is confirmed gone, or disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub user: UserId,
    pub reason: Reason,
    /// Who they are in the directory.
    pub id: StableId,
}

/// Which attributes follow the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributePolicy {
    pub names: Option<SyncMode>,
    pub emails: bool,
    pub avatars: Option<SyncMode>,
}

/// What the directory says of an active person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub user: UserId,
    /// In the homeserver's form (S-109); `None`: the directory has none.
    pub name: Option<Arc<str>>,
    pub emails: Emails,
    /// Their entry in the directory, and its change stamp where photos are wanted.
    pub id: StableId,
    pub stamp: Option<Stamp>,
}

impl AttributePolicy {
    pub(super) fn of(config: &Config) -> Self {
        let provisioner = &config.user_provisioner;
        let wanted = |name: &str| {
            config.accounts.backend != AccountsBackend::None
                && provisioner.synapse_attributes.iter().any(|known| known == name)
        };
        Self {
            names: wanted("displayName").then_some(provisioner.display_name),
            emails: wanted("emails"),
            avatars: provisioner.avatar.filter(|_| config.accounts.backend != AccountsBackend::None),
        }
    }

    /// Whether anything follows the directory at all.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.names.is_none() && !self.emails && self.avatars.is_none()
    }

    pub(super) fn profiles(self, directory: &Directory, people: &People) -> Vec<Profile> {
        if self.is_none() {
            return Vec::new();
        }
        let active = directory.users.values().filter_map(|user| Some((people.active(&user.id)?, user)));
        let profile = |(person, user): (u32, &Arc<crate::directory::User>)| Profile {
            user: people.user(person).clone(),
            name: user.display_name.as_deref().and_then(normal_name),
            emails: Emails(normal_emails(user.emails.iter().map(String::as_str))),
            id: user.id.clone(),
            stamp: self.avatars.and_then(|_| directory.stamps.get(&user.id).cloned()),
        };
        active.map(profile).collect()
    }
}

fn normal_name(name: &str) -> Option<Arc<str>> {
    let name: String = name.trim().chars().take(LONGEST_NAME).collect();
    let name = name.trim_end();
    (!name.is_empty()).then(|| Arc::from(name))
}
