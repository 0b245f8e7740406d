//! What a pass does about accounts beside planning: writes down locks before they are sent, reads again before somebody is erased, watches
//! the clocks, reads mail addresses a few at a time, and keeps the audit.
//!
//! Decides nothing: who is locked or erased, and when, is `plan/accounts`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{PassError, Reconciler};
use crate::actuate::{ActError, ActErrorKind};
use crate::clock;
use crate::desired::Desired;
use crate::execute::Report;
use crate::ids::{Timestamp, UserId};
use crate::ledger::Ending;
use crate::observed::{Account, Known, Observed};
use crate::plan::{AccountDeed, Action, Attribute, Lesson, LevelChange, Plan, Step, WAITS_FOR_READ, Withheld};
use crate::store::audit::{AuditRecord, SENT};
use crate::store::{Store, StoreError};

/// Accounts whose mail addresses are read at one pass: one request each, at most so many before the next look at everything else.
const EMAILS_PER_PASS: usize = 500;
/// Addresses are read again after this long, in milliseconds: somebody may have changed them on the homeserver.
const EMAILS_STALE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Stale addresses read again at one pass.
const STALE_PER_PASS: usize = 20;
/// Between two of those reads.
const EMAIL_PAUSE: Duration = Duration::from_millis(10);
/// Attribute writes of one slice: locks and kicks of the next look must not wait behind ten thousand names.
const ATTRIBUTES_PER_SLICE: usize = 50;

impl Reconciler {
    /// What of `due` is sent in one slice: attributes only so many, final steps one at a time. Says whether that is all.
    pub(super) fn portion(due: Vec<Step>) -> (Vec<Step>, bool) {
        let all = due.len();
        let mut attributes = 0;
        let mut closings = 0;
        let fits = |step: &Step| match &step.action {
            Action::Account { deed: AccountDeed::Set(_), .. } => {
                attributes += 1;
                attributes <= ATTRIBUTES_PER_SLICE
            }
            Action::Account { deed: AccountDeed::Close(_), .. } => {
                closings += 1;
                closings <= 1
            }
            _ => true,
        };
        let portion: Vec<Step> = due.into_iter().filter(fits).collect();
        let whole = portion.len() == all;
        (portion, whole)
    }

    /// Writes down, before anything is sent, what is about to happen to accounts (S-83), here and in the audit.
    pub(super) async fn foresee_accounts(&mut self, due: &[Step], now: Timestamp) -> Result<(), StoreError> {
        let mut records = Vec::new();
        for step in due.iter().filter(|step| matches!(step.action, Action::Account { .. })) {
            self.ledger.foresee(step, now);
            records.extend(self.records(step, now, SENT));
        }
        self.audit(&records).await
    }

    /// Takes in what came of a slice. An account that was not as planned is looked at again.
    pub(super) async fn settle_accounts(&mut self, report: &Report, began: Timestamp) -> Result<(), PassError> {
        let now = clock::now();
        let mut records = Vec::new();
        let mut ended = Vec::new();
        for step in &report.done {
            self.ledger.settle(step, Ending::Done, now);
            records.extend(self.records(step, began, "done"));
            if let Action::Account { user, deed: AccountDeed::Close(_) } = &step.action {
                ended.push(user.clone());
            }
        }
        for (step, error) in &report.failed {
            self.ledger.settle(step, ending(step, error), now);
            if let Action::Account { user, deed: AccountDeed::Set(Attribute::Avatar(_)) } = &step.action
                && error.kind == ActErrorKind::Refused
            {
                self.ledger.refuse_photo(user);
            }
            records.extend(self.records(step, began, &format!("{:?}: {}", error.kind, error.cause).to_lowercase()));
        }
        self.audit(&records).await?;
        for user in ended {
            let pseudonym = self.ledger.pseudonym(&user);
            if let Some(store) = self.parts.store.as_ref().filter(|_| self.parts.actuator.is_some()) {
                store.pseudonymise(&user, &pseudonym).await?;
            }
            self.services.remove(&user);
        }
        self.forget_estates(report);
        let unclear = report.failed.iter().filter(|(_, error)| error.kind != ActErrorKind::Retry);
        let users: Vec<UserId> = unclear.filter_map(|(step, _)| account_of(step).cloned()).collect();
        for user in users {
            self.reread_account(&user).await?;
        }
        Ok(())
    }

    async fn reread_account(&mut self, user: &UserId) -> Result<(), PassError> {
        let record = self.parts.homeserver.account(user).await;
        let Some(observed) = &mut self.observed else { return Ok(()) };
        match (record, observed.accounts.people.get_mut(user)) {
            (Ok(Some(record)), Some(account)) => {
                account.admin = record.admin;
                account.locked = record.locked;
                account.deactivated = record.deactivated;
                account.display_name = record.display_name;
                account.avatar = record.avatar;
            }
            (Ok(None), _) => drop(observed.accounts.people.remove(user)),
            (Ok(Some(_)), None) => {}
            // What cannot be looked at is looked at with everything else.
            (Err(error), _) => tracing::debug!(%error, "an account could not be read again"),
        }
        Ok(())
    }

    /// Whether the source was read again because somebody's end waits for that (S-53); the plan is then made anew.
    pub(super) async fn read_for_final_steps(&mut self, plan: &Plan) -> Result<bool, PassError> {
        if self.parts.actuator.is_none() || self.stop.is_cancelled() {
            return Ok(false);
        }
        let looked = self.read_estates_for_ends(plan).await?;
        let waits = plan.steps.iter().any(|step| step.withheld == Some(Withheld::Waits(WAITS_FOR_READ)));
        if !waits {
            return Ok(looked);
        }
        match self.read_source(true).await {
            Ok(()) => Ok(true),
            Err(PassError::Source(error)) => {
                tracing::warn!(%error, "nobody is erased before the source could be read once more");
                Ok(looked)
            }
            Err(other) => Err(other),
        }
    }

    /// Takes in what a plan found out about leavers; `true` if that changes what is known, and with it the plan: the bot's account data
    /// is to tell the same by the end of the pass (S-84).
    pub(super) fn heed(&mut self, plan: &Plan) -> bool {
        if self.parts.actuator.is_none() {
            return false;
        }
        let news = plan.lessons.iter().filter(|lesson| matches!(lesson, Lesson::Leaver { .. }));
        let news: Vec<Lesson> = news.cloned().collect();
        let before = self.ledger.leavers.clone();
        self.ledger.learn(&news);
        before != self.ledger.leavers
    }

    /// Compares the clocks (S-53). Only where somebody's grace depends on them, now or once they are locked.
    pub(super) async fn look_at_clocks(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.ledger.clocks.tick(now, passed);
        if self.parts.config.user_provisioner.deprovisioning.is_none() {
            return Ok(());
        }
        self.ledger.clocks.homeserver_ms = self.parts.homeserver.clock_difference_ms();
        if let Some(store) = &self.parts.store {
            let theirs = store.clock().await?;
            self.ledger.clocks.database_ms = theirs.map(|theirs| clock::now().since_ms(theirs));
        }
        Ok(())
    }

    /// Takes locks and grace back from the bot's account data, where the database was lost (S-51).
    pub(super) fn recover_leavers(&mut self) {
        let Some(Known::Known(mirror)) = self.observed.as_ref().map(|observed: &Observed| observed.leavers.clone())
        else {
            return;
        };
        let count = self.ledger.recover(&mirror);
        if count > 0 {
            tracing::warn!(count, "the database knows of nobody's lock; what the bot's account data says is taken in");
        }
    }

    /// Reads addresses of people whose addresses were never read, and a few of those read long ago: bounded, so that a first pass over
    /// 100 000 people takes its time and nothing else waits for it (S-50).
    pub(super) async fn read_emails(&mut self, desired: &Desired) -> Result<(), PassError> {
        if !desired.attributes.emails || self.parts.actuator.is_none() {
            return Ok(());
        }
        let now = clock::now();
        let Some(observed) = &self.observed else { return Ok(()) };
        let open = |user: &UserId| observed.accounts.are_open(user);
        let mut unread = Vec::new();
        let mut stale = BTreeSet::new();
        for profile in &desired.profiles {
            let read_at = self.ledger.attributes.get(&profile.user).and_then(|known| known.read_at);
            match read_at {
                None if unread.len() < EMAILS_PER_PASS && open(&profile.user) => unread.push(profile.user.clone()),
                Some(at) if now.since_ms(at) > EMAILS_STALE_MS && open(&profile.user) => {
                    stale.insert((at, profile.user.clone()));
                }
                _ => {}
            }
        }
        let again = stale.into_iter().map(|(_, user)| user).take(STALE_PER_PASS);
        for user in unread.into_iter().chain(again).collect::<Vec<_>>() {
            if self.stop.is_cancelled() {
                break;
            }
            self.parts.heartbeat.tick();
            let Some(actuator) = &self.parts.actuator else { break };
            if let Some(emails) = actuator.emails_of(&user).await? {
                self.ledger.read_emails(&user, &emails, now);
            }
            tokio::time::sleep(EMAIL_PAUSE).await;
        }
        Ok(())
    }

    pub(super) async fn audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        match self.store_to_write() {
            Some(store) => store.audit(records).await,
            None => Ok(()),
        }
    }

    fn store_to_write(&self) -> Option<&Store> {
        self.parts.store.as_ref().filter(|_| self.parts.actuator.is_some())
    }

    /// The audit's rows of a step: one for each person it changes something for.
    fn records(&self, step: &Step, at: Timestamp, result: &str) -> Vec<AuditRecord> {
        let (before, after) = change(step, self.observed.as_ref());
        let record = |person: &str, number: usize, before: String, after: String| AuditRecord {
            seq: 0,
            id: format!("{}-{}-{number}", at.0, step.id()),
            at: clock::now(),
            pass: at,
            actor: "usher".to_owned(),
            action: step.action.verb().to_owned(),
            place: place_of(step),
            person: person.to_owned(),
            reason: step.reason.to_string(),
            before,
            after,
            result: result.to_owned(),
        };
        let levels = step.action.level_changes();
        if levels.is_empty() {
            let person = person_of(step).map(UserId::as_str).unwrap_or_default();
            return vec![record(person, 0, before, after)];
        }
        let of_change = |(number, change): (usize, &LevelChange)| {
            let person = change.user.as_ref().map(UserId::as_str).unwrap_or_default();
            let key = change.key.as_deref().map(|key| format!("{key} ")).unwrap_or_default();
            record(person, number, format!("{key}{}", change.from), format!("{key}{}", change.to))
        };
        levels.iter().enumerate().map(of_change).collect()
    }
}

/// Whom a record is about: a room is given to somebody, and that stays on record when the name of whoever had it is taken out.
fn person_of(step: &Step) -> Option<&UserId> {
    step.action.heir().or(step.action.user())
}

fn place_of(step: &Step) -> String {
    match &step.action {
        Action::Account { deed: AccountDeed::HandOver { room, .. } | AccountDeed::TurnDown { room, .. }, .. } => {
            room.to_string()
        }
        _ => step.place.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn account_of(step: &Step) -> Option<&UserId> {
    match &step.action {
        Action::Account { user, .. } => Some(user),
        _ => None,
    }
}

/// What a failure means for what was written down before.
fn ending(step: &Step, error: &ActError) -> Ending {
    let closing = matches!(&step.action, Action::Account { deed: AccountDeed::Close(_), .. });
    match error.kind {
        ActErrorKind::Retry => Ending::Unknown,
        // The homeserver has begun and not finished.
        ActErrorKind::Stale if closing => Ending::Unknown,
        ActErrorKind::Stale | ActErrorKind::Refused | ActErrorKind::Forbidden | ActErrorKind::Fatal => Ending::Refused,
    }
}

/// What a write changes, in words, without addresses.
fn change(step: &Step, observed: Option<&Observed>) -> (String, String) {
    let pair = |before: &str, after: &str| (before.to_owned(), after.to_owned());
    match &step.action {
        Action::Account { user, deed } => match deed {
            AccountDeed::Lock { .. } => pair("open", "locked"),
            AccountDeed::Unlock => pair("locked", "open"),
            AccountDeed::RemovePushers => pair("", "no pushes"),
            AccountDeed::TurnDown { .. } => pair("invited", ""),
            AccountDeed::HandOver { .. } => pair("", "administrator"),
            AccountDeed::Close(end) => pair("locked", &format!("{end:?}").to_lowercase()),
            AccountDeed::Set(attribute) => {
                let known = observed.and_then(|observed| observed.accounts.people.get(user));
                written(attribute, known)
            }
        },
        Action::SetState { state, .. } => pair("", &state.label()),
        _ => pair("", ""),
    }
}

/// The same of an attribute. A picture is known by its place and its digest.
fn written(attribute: &Attribute, known: Option<&Account>) -> (String, String) {
    let name = || known.and_then(|account| account.display_name.clone()).unwrap_or_default();
    let avatar = || known.and_then(|account| account.avatar.as_deref()).unwrap_or_default().to_owned();
    match attribute {
        Attribute::DisplayName(wanted) => (name(), wanted.to_string()),
        Attribute::Emails { emails, .. } => (String::new(), format!("{emails:?}")),
        Attribute::Avatar(wanted) => {
            let place = wanted.uploaded.as_deref().unwrap_or("not uploaded");
            (avatar(), format!("{place} ({})", wanted.photo))
        }
        Attribute::NoAvatar { .. } => (avatar(), String::new()),
    }
}
