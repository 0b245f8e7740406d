//! Mail addresses as the homeserver has them (S-50): read once, then slowly again and again, a few at each pass. And the rest that whoever
//! keeps the accounts is given while they are away: nothing about rooms waits for them (S-82).
//!
//! Decides nothing: what is written is `plan/attributes`. Keeps no address.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Reconciler;
use super::delays::{Delay, Delays};
use crate::actuate::{ActError, ActErrorKind};
use crate::bridge::Hint;
use crate::clock;
use crate::config::AccountsBackend;
use crate::desired::{Desired, Profile};
use crate::ids::{Timestamp, UserId};
use crate::ledger::Ledger;
use crate::matrix::Trouble;
use crate::observability::FailureStatus;
use crate::observed::Accounts;
use crate::plan::{Action, Step};

/// Accounts whose mail addresses are read at one pass: one request each, at most so many before the next look at everything else.
const EMAILS_PER_PASS: usize = 500;
/// Addresses are read again after this long, in milliseconds: somebody may have changed them on the homeserver.
const EMAILS_STALE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Stale addresses read again at one pass.
const STALE_PER_PASS: usize = 20;
/// So often it is asked whether somebody is to be locked at once.
const EMAILS_BETWEEN_HINTS: usize = 20;
/// Between two of those reads.
const EMAIL_PAUSE: Duration = Duration::from_millis(10);

/// What is known of whoever keeps the accounts, beside what they keep.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// They do not answer, or not us.
    away: Option<Delay>,
    /// People whose addresses cannot be read.
    unreadable: Delays<UserId>,
}

impl Registry {
    /// Whether they are left alone now.
    pub(super) fn rests(&self, now: Timestamp) -> bool {
        self.away.as_ref().is_some_and(|away| away.lasts(now))
    }

    pub(super) fn is_away(&mut self, cause: String, now: Timestamp) {
        let before = self.away.take();
        self.away = Some(Delay::after(before, cause, now));
    }

    pub(super) fn is_there(&mut self) {
        if self.away.take().is_some() {
            tracing::info!("accounts can be read and written again");
        }
    }

    /// Forgets the trouble with those whose addresses are not asked after any more.
    fn keep_only(&mut self, profiles: &[Profile], accounts: &Accounts) {
        if self.unreadable.is_empty() {
            return;
        }
        let wanted: BTreeSet<&UserId> = profiles.iter().map(|profile| &profile.user).collect();
        self.unreadable.retain(|user| wanted.contains(user) && accounts.are_open(user));
    }

    /// What an operator should know.
    pub(super) fn failures(&self) -> Vec<FailureStatus> {
        let away = self.away.iter().map(|away| away.status("accounts are neither read nor written".to_owned()));
        away.chain(self.unreadable.failures(|user| format!("the mail addresses of {user} are not read"))).collect()
    }

    /// Whose addresses are read next: of those never read so many, and a few of those read long ago, the oldest first. Who cannot be
    /// read keeps nobody waiting.
    fn turns(&self, profiles: &[Profile], accounts: &Accounts, ledger: &Ledger, now: Timestamp) -> Vec<UserId> {
        let mut unread = Vec::new();
        let mut stale = BTreeSet::new();
        for Profile { user, .. } in profiles {
            let read_at = ledger.attributes.get(user).and_then(|known| known.read_at);
            let due = read_at.is_none_or(|at| now.since_ms(at) > EMAILS_STALE_MS);
            if !due || self.unreadable.holds(user, now) || !accounts.are_open(user) {
                continue;
            }
            match read_at {
                None if unread.len() < EMAILS_PER_PASS => unread.push(user.clone()),
                None => {}
                Some(at) => drop(stale.insert((at, user.clone()))),
            }
        }
        let again = stale.into_iter().map(|(_, user)| user).take(STALE_PER_PASS);
        unread.into_iter().chain(again).collect()
    }
}

impl Reconciler {
    /// Reads addresses of people whose addresses were never read, and a few of those read long ago: bounded, so that a first pass over
    /// 100 000 people takes its time and nothing else waits for it (S-50). An account that cannot be read keeps nobody else's from being
    /// read, and whoever does not answer keeps nothing but accounts waiting (S-82). Whether there was anybody.
    pub(super) async fn read_emails(&mut self, desired: &Desired) -> bool {
        let now = clock::now();
        if !desired.attributes.emails || self.parts.actuator.is_none() || self.registry.rests(now) {
            return false;
        }
        let Some(observed) = &self.observed else { return false };
        self.registry.keep_only(&desired.profiles, &observed.accounts);
        let turns = self.registry.turns(&desired.profiles, &observed.accounts, &self.ledger, now);
        let any = !turns.is_empty();
        self.read_emails_of(turns, now).await;
        any
    }

    async fn read_emails_of(&mut self, turns: Vec<UserId>, now: Timestamp) {
        let mut failed_before = false;
        for (number, user) in turns.into_iter().enumerate() {
            if number % EMAILS_BETWEEN_HINTS == 0 && self.source_hint().await == Hint::Urgent {
                return;
            }
            let Some(actuator) = self.parts.actuator.as_ref().filter(|_| !self.stop.is_cancelled()) else { return };
            self.parts.heartbeat.tick();
            match actuator.emails_of(&user).await {
                Ok(emails) => {
                    failed_before = false;
                    self.registry.is_there();
                    self.registry.unreadable.succeeded(&user);
                    if let Some(emails) = emails {
                        self.ledger.read_emails(&user, &emails, now);
                    }
                }
                Err(error) if matches!(error.trouble, Trouble::Away | Trouble::RateLimited | Trouble::UnknownToken) => {
                    // Another is asked about first next time: one account that always fails must not keep everybody's waiting.
                    self.registry.unreadable.failed(&user, error.to_string(), now);
                    let may_be_one = error.trouble == Trouble::Away && error.status.is_some() && !failed_before;
                    failed_before = true;
                    if !may_be_one {
                        tracing::warn!(%error, "mail addresses cannot be read now; a later pass goes on with it");
                        return self.registry.is_away(error.to_string(), now);
                    }
                    tracing::warn!(%user, %error, "somebody's mail addresses cannot be read; they are tried again later");
                }
                Err(error) => {
                    tracing::warn!(%user, %error, "somebody's mail addresses cannot be read; they are tried again later");
                    self.registry.unreadable.failed(&user, error.to_string(), now);
                }
            }
            tokio::time::sleep(EMAIL_PAUSE).await;
        }
    }

    /// Whoever keeps the accounts did what was asked.
    pub(super) fn registry_answers(&mut self) {
        self.registry.is_there();
    }

    /// Takes in what a failed step says about whoever keeps the accounts; `true` if it is they who are away, and not the homeserver.
    pub(super) fn is_registry_away(&mut self, step: &Step, error: &ActError) -> bool {
        let apart = self.parts.config.accounts.backend == AccountsBackend::Mas;
        let away = apart && matches!(step.action, Action::Account { .. }) && error.kind == ActErrorKind::Retry;
        if away {
            self.registry.is_away(error.to_string(), clock::now());
        }
        away
    }

    /// Whether a step waits until whoever keeps the accounts is back.
    pub(super) fn waits_for_registry(&self, step: &Step, now: Timestamp) -> bool {
        matches!(step.action, Action::Account { .. }) && self.registry.rests(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Account;
    use crate::plan::Emails;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    fn name(number: usize) -> UserId {
        UserId::from(format!("@p{number:04}:x").as_str())
    }

    fn world(count: usize) -> (Vec<Profile>, Accounts, Ledger) {
        let profile = |number: usize| Profile {
            user: name(number),
            name: None,
            emails: Emails::default(),
            id: format!("{number}").as_str().into(),
            stamp: None,
        };
        let mut accounts = Accounts { listed: true, ..Accounts::default() };
        accounts.people = (0..count).map(|number| (name(number), Account::default())).collect();
        ((0..count).map(profile).collect(), accounts, Ledger::default())
    }

    /// So many passes, a minute apart; hands back how many were read in each.
    fn passes(
        count: usize,
        (profiles, accounts, ledger): &mut (Vec<Profile>, Accounts, Ledger),
        from: Timestamp,
    ) -> Vec<usize> {
        let registry = Registry::default();
        let pass = |number: usize| {
            let now = from.plus_ms(i64::try_from(number).unwrap() * 60_000);
            let turns = registry.turns(profiles, accounts, ledger, now);
            for user in &turns {
                ledger.read_emails(user, &[], now);
            }
            turns.len()
        };
        (0..count).map(pass).collect()
    }

    #[test]
    fn everybody_is_read_once_so_many_at_a_pass_and_a_week_later_a_few_at_a_pass() {
        let mut world = world(1_030);
        assert_eq!(passes(4, &mut world, Timestamp(0)), [500, 500, 30, 0]);
        assert_eq!(passes(1, &mut world, Timestamp(7 * DAY_MS)), [0], "not before a week is over");
        let later = passes(60, &mut world, Timestamp(8 * DAY_MS));
        assert_eq!((later[0], later[51], later[52]), (20, 10, 0), "1030 are 51 times 20, and ten");
        assert_eq!(later.iter().sum::<usize>(), 1_030, "each once");
    }

    #[test]
    fn newcomers_do_not_wait_for_those_who_are_looked_at_again() {
        let (mut profiles, mut accounts, mut ledger) = world(100);
        (0..100).for_each(|number| ledger.read_emails(&name(number), &[], Timestamp(i64::try_from(number).unwrap())));
        let (more, people, _) = world(103);
        profiles.extend_from_slice(&more[100..]);
        accounts.people = people.people;
        let turns = Registry::default().turns(&profiles, &accounts, &ledger, Timestamp(8 * DAY_MS));
        let expected: Vec<UserId> = (100..103).chain(0..20).map(name).collect();
        assert_eq!(turns, expected, "the newcomers, then those read longest ago");
        let locked = |user: &UserId| Account { locked: *user == name(100), ..Account::default() };
        accounts.people.iter_mut().for_each(|(user, account)| *account = locked(user));
        let turns = Registry::default().turns(&profiles, &accounts, &ledger, Timestamp(8 * DAY_MS));
        assert!(!turns.contains(&name(100)), "nothing is written to a locked account, so nothing is read");
    }

    #[test]
    fn who_cannot_be_read_is_tried_later_and_later_and_keeps_nobody_waiting() {
        let (profiles, accounts, ledger) = world(3);
        let mut registry = Registry::default();
        let turns = |registry: &Registry, at: i64| registry.turns(&profiles, &accounts, &ledger, Timestamp(at));
        registry.unreadable.failed(&name(0), "500".to_owned(), Timestamp(0));
        assert_eq!(turns(&registry, 4_999), [name(1), name(2)]);
        assert_eq!(turns(&registry, 5_000).len(), 3);
        registry.unreadable.failed(&name(0), "500".to_owned(), Timestamp(5_000));
        assert_eq!(turns(&registry, 14_999).len(), 2, "twice as long the second time");
        assert_eq!(turns(&registry, 15_000).len(), 3);
        let shown = registry.failures();
        assert!(shown.len() == 1 && shown[0].what.contains("@p0000:x") && shown[0].since == Timestamp(0));
    }

    #[test]
    fn the_trouble_with_somebody_ends_with_their_leaving_or_their_lock() {
        let (profiles, mut accounts, _) = world(4);
        let mut registry = Registry::default();
        (0..4).for_each(|number| registry.unreadable.failed(&name(number), "500".to_owned(), Timestamp(0)));
        accounts.people.get_mut(&name(1)).unwrap().locked = true;
        accounts.people.remove(&name(2));
        registry.keep_only(&profiles[..3], &accounts);
        let shown = registry.failures();
        assert!(
            shown.len() == 1 && shown[0].what.contains("@p0000:x"),
            "the other ones are locked, closed or gone: {shown:?}"
        );
        registry.keep_only(&[], &accounts);
        assert!(registry.failures().is_empty());
    }

    #[test]
    fn whoever_keeps_the_accounts_is_asked_less_and_less_while_away() {
        let mut registry = Registry::default();
        assert!(!registry.rests(Timestamp(0)));
        registry.is_away("no route".to_owned(), Timestamp(0));
        assert!(registry.rests(Timestamp(4_999)) && !registry.rests(Timestamp(5_000)));
        registry.is_away("no route".to_owned(), Timestamp(5_000));
        assert!(registry.rests(Timestamp(14_999)) && !registry.rests(Timestamp(15_000)));
        registry.is_there();
        assert!(!registry.rests(Timestamp(5_001)) && registry.failures().is_empty());
    }
}
