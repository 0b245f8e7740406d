//! Where every person stands: active, suspended, disabled or gone (S-4, S-24).

use std::collections::BTreeMap;

use crate::config::Config;
use crate::directory::{Directory, User};
use crate::ids::{Localpart, StableId, Timestamp, UserId};
use crate::ledger::Ledger;
use crate::plan::{Note, Reason};

/// What the directory and the ledger say of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the directory and enabled.
    Active,
    /// Undecided: no step in any room touches them (S-24). The text says why.
    Suspended(&'static str),
    /// Marked as disabled, and deprovisioning is off: not entitled to anything.
    Disabled,
    /// Confirmed gone, and deprovisioning is off.
    Gone { since: Timestamp },
}

/// Everybody the directory or the ledger knows.
#[derive(Clone, Debug, Default)]
pub struct People {
    standing: BTreeMap<UserId, Standing>,
    /// Present people by stable id: the account bound to them.
    accounts: BTreeMap<StableId, UserId>,
    leavers: Vec<(UserId, Reason)>,
    /// Localparts somebody new claims while they are bound to somebody present who has another name by now: owner and newcomer.
    contested: Vec<(Localpart, [StableId; 2])>,
}

impl People {
    /// Sorts everybody into their standing.
    pub(super) fn stand(config: &Config, directory: &Directory, ledger: &Ledger) -> Self {
        let server = &config.homeserver.server_name;
        let deprovisioning = config.user_provisioner.deprovisioning.is_some();
        let mut people = Self::default();
        for (id, localpart) in &ledger.people {
            if directory.users.contains_key(id) {
                continue;
            }
            let account = UserId::new(localpart.as_str(), server);
            let standing = match ledger.is_confirmed(id, config.safety.confirm_reads) {
                _ if directory.unnamed.contains(id) => {
                    Standing::Suspended("in the directory, but without a usable name")
                }
                _ if !directory.is_complete() => Standing::Suspended("missing from an incomplete read"),
                None => Standing::Suspended("missing from the directory, not yet confirmed"),
                Some(since) if deprovisioning => {
                    people.leavers.push((account.clone(), Reason::LeftDirectory { since }));
                    Standing::Suspended("gone from the directory, to be locked")
                }
                Some(since) => Standing::Gone { since },
            };
            people.standing.insert(account, standing);
        }
        let owners: BTreeMap<&Localpart, &StableId> = ledger
            .people
            .iter()
            .filter(|(id, _)| directory.users.contains_key(*id))
            .map(|(id, localpart)| (localpart, id))
            .collect();
        // After the absent: whoever is in the directory now decides over a former owner of the same localpart.
        for user in directory.users.values() {
            match owners.get(&user.localpart) {
                Some(owner) if !ledger.people.contains_key(&user.id) => {
                    people.contested.push((user.localpart.clone(), [(*owner).clone(), user.id.clone()]));
                }
                _ => people.admit(user, directory, ledger, (server, deprovisioning)),
            }
        }
        people
    }

    fn admit(&mut self, user: &User, directory: &Directory, ledger: &Ledger, (server, deprovisioning): (&str, bool)) {
        let bound = ledger.people.get(&user.id);
        let place = UserId::new(user.localpart.as_str(), server);
        if bound.is_none() && matches!(self.standing.get(&place), Some(Standing::Suspended(_))) {
            // Somebody new claims the account of a person whose absence is not decided: it stays as it is until that is (S-5).
            return;
        }
        if bound.is_none() && directory.conflicts.contains_key(&user.localpart) {
            // Nothing is done to or because of them: if the account is in a room, it is not ours to judge either.
            self.standing
                .entry(UserId::new(user.localpart.as_str(), server))
                .or_insert(Standing::Suspended("several people claim this localpart"));
            return;
        }
        let account = UserId::new(bound.unwrap_or(&user.localpart).as_str(), server);
        let standing = match (user.enabled, deprovisioning) {
            (true, _) => Standing::Active,
            (false, false) => Standing::Disabled,
            (false, true) => {
                self.leavers.push((account.clone(), Reason::Disabled));
                Standing::Suspended("disabled in the directory, to be locked")
            }
        };
        self.standing.insert(account.clone(), standing);
        self.accounts.insert(user.id.clone(), account);
    }

    /// What is known of `user`; `None`: never seen in the directory.
    #[must_use]
    pub fn standing(&self, user: &UserId) -> Option<Standing> {
        self.standing.get(user).copied()
    }

    /// The account of an active person.
    #[must_use]
    pub fn active(&self, id: &StableId) -> Option<&UserId> {
        self.accounts.get(id).filter(|account| self.standing.get(*account) == Some(&Standing::Active))
    }

    /// The account bound to a stable id in the present directory, whatever the person's standing.
    #[must_use]
    pub fn account(&self, id: &StableId) -> Option<&UserId> {
        self.accounts.get(id)
    }

    /// Every active account.
    pub fn all_active(&self) -> impl Iterator<Item = &UserId> {
        self.standing.iter().filter(|(_, standing)| **standing == Standing::Active).map(|(account, _)| account)
    }

    /// Every suspended account, and why.
    pub fn suspended(&self) -> impl Iterator<Item = (&UserId, &'static str)> {
        self.standing.iter().filter_map(|(account, standing)| match standing {
            Standing::Suspended(why) => Some((account, *why)),
            Standing::Active | Standing::Disabled | Standing::Gone { .. } => None,
        })
    }

    pub(super) fn locks(&self, deprovisioning: bool) -> Vec<(UserId, Reason)> {
        if deprovisioning { self.leavers.clone() } else { Vec::new() }
    }

    pub(super) fn notes(&self, directory: &Directory, ledger: &Ledger, server: &str) -> Vec<Note> {
        let mut notes: Vec<Note> = directory.notices.iter().cloned().map(Note::Source).collect();
        for (localpart, ids) in
            self.contested.iter().filter(|(localpart, _)| !directory.conflicts.contains_key(localpart))
        {
            notes.push(Note::LocalpartConflict {
                localpart: localpart.to_string(),
                ids: ids.iter().map(ToString::to_string).collect(),
            });
        }
        for (localpart, ids) in &directory.conflicts {
            notes.push(Note::LocalpartConflict {
                localpart: localpart.to_string(),
                ids: ids.iter().map(ToString::to_string).collect(),
            });
        }
        for user in directory.users.values() {
            if let Some(bound) = ledger.people.get(&user.id).filter(|bound| **bound != user.localpart) {
                notes.push(Note::LocalpartChanged {
                    id: user.id.to_string(),
                    bound: UserId::new(bound.as_str(), server),
                    now: UserId::new(user.localpart.as_str(), server),
                });
            }
        }
        notes.extend(self.suspended().map(|(user, why)| Note::Suspended { user: user.clone(), why }));
        notes
    }
}
