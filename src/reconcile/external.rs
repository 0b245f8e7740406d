//! Finds the accounts of people by their single-sign-on external id, where the configuration says so (S-5): the localpart of the account
//! that is found takes the place of the one the source's template makes. That somebody is called otherwise than when they were found is handed
//! on, to be reported (S-1).
//!
//! Never gives an account to a second person, and never changes a binding whose account exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{PassError, Reconciler, alive};
use crate::account::Link;
use crate::config::ExternalIdSource;
use crate::directory::{Snapshot, User};
use crate::ids::{Localpart, StableId, UserId};
use crate::matrix::{MatrixError, each};
use crate::observed::Presence;

/// People whose account is not there yet who are looked up again at one read: they may have logged in under another name.
const AGAIN_PER_READ: usize = 100;

impl Reconciler {
    /// Puts the localparts of accounts that are linked to people into `snapshot`. One request for each newcomer, and some for people
    /// without an account.
    pub(super) async fn match_external_ids(&mut self, snapshot: &mut Snapshot) -> Result<(), PassError> {
        let Some(matching) = self.parts.config.accounts.match_external_id.clone() else { return Ok(()) };
        let wanted: Vec<(StableId, String)> = self
            .unmatched(snapshot)
            .into_iter()
            .filter_map(|user| Some((user.id.clone(), external_id(user, matching.from)?)))
            .collect();
        let homeserver = &self.parts.homeserver;
        let provider = &matching.provider;
        let lookup = |(id, subject): (StableId, String)| async move {
            (id, homeserver.owner_of_link(&Link { provider: provider.clone(), subject }).await)
        };
        let answers = alive(&self.parts.heartbeat, each(wanted.into_iter().map(lookup))).await?;
        let server = &self.parts.config.homeserver.server_name;
        let mut found: BTreeMap<StableId, Localpart> = BTreeMap::new();
        for (id, answer) in answers {
            match answer {
                Ok(user) => {
                    let local = user.filter(|user| user.server() == server);
                    found.extend(local.map(|user| (id, user.localpart().into())));
                }
                Err(error) if self.ledger.people.contains_key(&id) => {
                    tracing::warn!(%id, %error, "somebody without an account cannot be looked up; later again");
                }
                Err(error) => leave_out(snapshot, &id, &error),
            }
        }
        for user in &mut snapshot.users {
            let known = found.get(&user.id).or_else(|| self.ledger.people.get(&user.id)).cloned();
            let Some(localpart) = known else { continue };
            let account = UserId::new(localpart.as_str(), server);
            let name = user.localpart.clone();
            if name != localpart {
                Arc::make_mut(user).localpart = localpart;
            }
            if found.contains_key(&user.id) {
                self.ledger.follow_account(&user.id, &user.localpart);
                self.ledger.found_account(&user.id, &account, &name);
            } else if self.ledger.is_renamed(&account, &name) {
                // What was found once is not asked for again.
                snapshot.renamed.insert(user.id.clone(), name);
            }
        }
        self.ledger.knows_names = true;
        Ok(())
    }

    /// Newcomers, and in turn those who have no account.
    fn unmatched<'s>(&mut self, snapshot: &'s Snapshot) -> Vec<&'s User> {
        let people = &self.ledger.people;
        let (mut wanted, known): (Vec<&User>, Vec<&User>) =
            snapshot.users.iter().map(Arc::as_ref).partition(|user| !people.contains_key(&user.id));
        let server = &self.parts.config.homeserver.server_name;
        let Some(observed) = &self.observed else { return wanted };
        let missing = |user: &User| {
            let account = people.get(&user.id).map(|localpart| UserId::new(localpart.as_str(), server));
            account.is_some_and(|account| observed.accounts.presence(&account) == Presence::Missing)
        };
        let waiting: BTreeMap<&StableId, &User> =
            known.into_iter().filter(|user| missing(user)).map(|user| (&user.id, user)).collect();
        let after = self.matched_after.take();
        let later = waiting.iter().filter(|(id, _)| after.as_ref().is_none_or(|after| **id > after));
        let turn: Vec<&User> = later.map(|(_, user)| *user).take(AGAIN_PER_READ).collect();
        self.matched_after = turn.get(AGAIN_PER_READ - 1).map(|user| user.id.clone());
        let asked: BTreeSet<&StableId> = wanted.iter().map(|user| &user.id).collect();
        wanted.extend(turn.into_iter().filter(|user| !asked.contains(&user.id)));
        wanted
    }
}

/// Somebody whose account may be another than the source's template says is nobody's before that is known.
fn leave_out(snapshot: &mut Snapshot, id: &StableId, error: &MatrixError) {
    snapshot.users.retain(|user| user.id != *id);
    snapshot.completeness.flaw(format!("whose account {id} has cannot be looked up by the external id: {error}"));
}

fn external_id(user: &User, from: ExternalIdSource) -> Option<String> {
    match from {
        ExternalIdSource::Id => Some(user.id.to_string()),
        ExternalIdSource::Localpart => Some(user.localpart.to_string()),
        ExternalIdSource::Email => user.emails.first().map(|email| email.trim().to_lowercase()),
    }
}
