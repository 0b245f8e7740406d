//! Looks at what locked people would leave behind: the rooms they administer alone, and the invitations that wait for them (S-52, S-53).
//!
//! Decides nothing: what is handed over and turned down is `plan/estate`. A look that fails leaves the account's end waiting.

use std::collections::BTreeSet;

use super::{Reconciler, alive};
use crate::actuate::ActErrorKind;
use crate::clock;
use crate::execute::Report;
use crate::ids::{RoomId, UserId};
use crate::ledger::Leaver;
use crate::observed::{Estate, Presence};
use crate::plan::{AccountDeed, Action, Plan, WAITS_FOR_ESTATE, WAITS_FOR_READ, Withheld};

/// People looked at for the first time at one look: each costs a request and one for every room usher is not in.
const NEW_PER_LOOK: usize = 10;
/// What was seen is looked at again after this long, in milliseconds; and always just before an end.
const STALE_MS: i64 = 24 * 60 * 60 * 1000;
/// Of those seen long ago so many are looked at again at one look.
const STALE_PER_LOOK: usize = 2;

impl Reconciler {
    /// Looks at the places of people who are locked and were not looked at, a few at a time.
    pub(super) async fn read_estates(&mut self) {
        let now = clock::now();
        let Some(observed) = &mut self.observed else { return };
        if !observed.accounts.listed {
            return;
        }
        let accounts = &observed.accounts;
        let waits = |user: &UserId| match accounts.presence(user) {
            Presence::Exists(account) => account.locked && !account.deactivated,
            Presence::Missing | Presence::Unknown => false,
        };
        let leavers = self.ledger.leavers.iter().filter(|(_, leaver)| Leaver::is_ours(leaver));
        let locked: BTreeSet<&UserId> = leavers.map(|(user, _)| user).filter(|user| waits(user)).collect();
        observed.estates.retain(|user, _| locked.contains(user));
        self.unseen_estates.retain(|user| locked.contains(user));
        let estates = &observed.estates;
        let new = locked.iter().copied().filter(|user| !estates.contains_key(*user));
        let stale = |estate: &Estate| now.since_ms(estate.read_at) > STALE_MS;
        let again = estates.iter().filter(|(_, estate)| stale(estate)).map(|(user, _)| user);
        let may_be_seen = |user: &&UserId| !self.unseen_estates.holds(user, now);
        let new = new.filter(may_be_seen).take(NEW_PER_LOOK);
        let users: Vec<UserId> = new.chain(again.filter(may_be_seen).take(STALE_PER_LOOK)).cloned().collect();
        self.look_at_estates(users).await;
    }

    /// Looks once more at the places of those whose end waits for that, or will once the source was read; whether there were any.
    pub(super) async fn read_estates_for_ends(&mut self, plan: &Plan) -> bool {
        let now = clock::now();
        let waits = [WAITS_FOR_ESTATE, WAITS_FOR_READ].map(|what| Some(Withheld::Waits(what)));
        let waiting = plan.steps.iter().filter(|step| waits.contains(&step.withheld));
        let users = waiting.filter_map(|step| step.action.user()).filter(|user| !self.unseen_estates.holds(user, now));
        let users: Vec<UserId> = users.cloned().collect();
        let any = !users.is_empty();
        self.look_at_estates(users).await;
        any
    }

    /// One that cannot be looked at, in a room that is too large or broken, keeps only that person's end waiting (S-82). Where nobody's can,
    /// the homeserver is away: whoever asks for more finds that out.
    async fn look_at_estates(&mut self, users: Vec<UserId>) {
        let mut failed_before = false;
        for user in users {
            let Some(observed) = &self.observed else { return };
            if self.stop.is_cancelled() {
                return;
            }
            let known: BTreeSet<RoomId> = observed.rooms.keys().cloned().collect();
            let now = clock::now();
            let looking = self.parts.homeserver.estate_of(&user, &known, &observed.accounts, now);
            match alive(&self.parts.heartbeat, looking).await {
                Ok(estate) => {
                    failed_before = false;
                    self.unseen_estates.succeeded(&user);
                    if let Some(observed) = &mut self.observed {
                        observed.estates.insert(user, estate);
                    }
                }
                Err(error) => {
                    tracing::warn!(%user, %error, "what a locked person would leave behind is not known");
                    self.unseen_estates.failed(&user, error.to_string(), clock::now());
                    if std::mem::replace(&mut failed_before, true) {
                        return;
                    }
                }
            }
        }
    }

    /// What was not as planned is looked at again before it is planned anew.
    pub(super) fn forget_estates(&mut self, report: &Report) {
        let Some(observed) = &mut self.observed else { return };
        for (step, error) in &report.failed {
            if let Action::Account { user, deed: AccountDeed::HandOver { .. } | AccountDeed::TurnDown { .. } } =
                &step.action
                && error.kind == ActErrorKind::Stale
            {
                observed.estates.remove(user);
            }
        }
    }
}
