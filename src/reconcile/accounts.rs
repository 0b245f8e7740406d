//! What a pass does about accounts beside planning: writes down locks before they are sent, reads again before somebody is erased, watches
//! the clocks, and completes the audit's rows.
//!
//! Decides nothing: who is locked or erased, and when, is `plan/accounts`.

use std::collections::BTreeMap;

use super::record::{self, Found, result_of};
use super::{MOST_ROUNDS, PassError, Reconciler};
use crate::account::{ADDRESS_TAKEN, holder_of_address};
use crate::actuate::{ActError, ActErrorKind};
use crate::clock;
use crate::execute::Report;
use crate::ids::{Timestamp, UserId};
use crate::ledger::{Ending, Flaw, LeaverNews};
use crate::observed::{Known, Observed, Presence};
use crate::plan::{AccountDeed, Action, Attribute, Lesson, Plan, Step, StepId, WAITS_FOR_READ, Withheld};
use crate::store::StoreError;
use crate::store::audit::{AuditRecord, SENT};

/// The audit's rows that stand since before their steps were sent.
pub(super) type Rows = BTreeMap<StepId, Vec<AuditRecord>>;

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

    /// Writes down, before anything is sent, what is about to happen to accounts (S-83), here and in the audit. Hands back the audit's rows,
    /// which are completed by what comes of it.
    pub(super) async fn foresee_accounts(&mut self, due: &[Step], now: Timestamp) -> Result<Rows, StoreError> {
        let mut rows = Rows::new();
        let mut unsent = std::mem::take(&mut self.unsent);
        for step in due.iter().filter(|step| matches!(step.action, Action::Account { .. })) {
            self.ledger.foresee(step, now);
            let mut records = self.records(step, self.found(step), now, SENT);
            for (record, before) in records.iter_mut().zip(unsent.remove(&step.id()).unwrap_or_default()) {
                record.id = before.id;
            }
            rows.insert(step.id(), records);
        }
        let given_up = unsent.into_values().flatten().map(never_sent);
        self.audit(&rows.values().flatten().cloned().chain(given_up).collect::<Vec<_>>()).await?;
        Ok(rows)
    }

    /// What a step that was not sent yet would change.
    fn found(&self, step: &Step) -> String {
        self.observed.as_ref().map(|observed| record::found(&step.action, observed)).unwrap_or_default()
    }

    /// The audit's rows of a step, with what came of it: those that were written before it was sent, or new ones with what it found then.
    fn completed(
        &self,
        step: &Step,
        (rows, found): (&mut Rows, &mut Found),
        at: Timestamp,
        result: &str,
    ) -> Vec<AuditRecord> {
        let Some(mut known) = rows.remove(&step.id()) else {
            let found = found.remove(&step.id()).unwrap_or_else(|| self.found(step));
            return self.records(step, found, at, result);
        };
        for row in &mut known {
            row.at = clock::now();
            result.clone_into(&mut row.result);
        }
        known
    }

    /// Takes in what came of a slice. An account that was not as planned is looked at again.
    pub(super) async fn settle_accounts(
        &mut self,
        (plan, report): (&Plan, &Report),
        (mut rows, mut found): (Rows, Found),
        began: Timestamp,
    ) -> Result<(), PassError> {
        let now = clock::now();
        let mut records = Vec::new();
        let mut ended = Vec::new();
        for step in &report.done {
            if let Some(user) = step.ends() {
                ended.push((user.clone(), self.ledger.entries_of(user)));
            }
            self.ledger.settle(step, Ending::Done);
            records.extend(self.completed(step, (&mut rows, &mut found), began, &result_of(None)));
            if matches!(step.action, Action::Account { .. }) {
                self.registry_answers();
            }
        }
        for (step, error) in &report.failed {
            self.ledger.settle(step, ending(step, error, self.observed.as_ref()));
            self.heed_refusal(plan, (step, error), now);
            records.extend(self.completed(step, (&mut rows, &mut found), began, &result_of(Some(error))));
        }
        // What there was no time for is sent with the next slice; what depends on something that failed is not.
        if report.finished || self.stop.is_cancelled() {
            records.extend(rows.into_values().flatten().map(never_sent));
        } else {
            self.unsent = rows;
        }
        for (user, _) in &ended {
            self.services.remove(user);
        }
        self.nameless.extend(ended);
        self.unwritten.extend(records);
        self.forget_names().await?;
        self.forget_estates(report);
        let unclear = report.failed.iter().filter(|(_, error)| error.kind != ActErrorKind::Retry);
        let users: Vec<UserId> = unclear.filter_map(|(step, _)| account_of(step).cloned()).collect();
        for user in users {
            self.reread_account(&user).await?;
        }
        Ok(())
    }

    /// Completes the audit's rows, and takes the names of people whose accounts came to their end out of them: at once, or as soon as the
    /// database is there again.
    pub(super) async fn forget_names(&mut self) -> Result<(), StoreError> {
        self.audit(&self.unwritten).await?;
        self.unwritten.clear();
        while let Some((user, entries)) = self.nameless.first_key_value().map(|(user, ids)| (user.clone(), ids.clone()))
        {
            if let Some(store) = self.store_to_write() {
                for entry in &entries {
                    store.forget_entry(entry).await?;
                }
                store.pseudonymise(&user, &self.ledger.pseudonym(&user)).await?;
            }
            self.nameless.remove(&user);
        }
        Ok(())
    }

    /// What the homeserver will not have, now or ever, is not sent again as if nothing had been said.
    fn heed_refusal(&mut self, plan: &Plan, (step, error): (&Step, &ActError), now: Timestamp) {
        let Action::Account { user, deed: AccountDeed::Set(attribute) } = &step.action else { return };
        if error.kind != ActErrorKind::Refused {
            return;
        }
        match attribute {
            Attribute::Avatar(_) => self.ledger.refuse_photo(user),
            // Whoever has it gets other addresses by the same plan: it is tried again when that is done.
            Attribute::Emails { .. } if holder_of_address(error).is_some_and(|user| changes_addresses(plan, &user)) => {
            }
            Attribute::Emails { digest, .. } => {
                let taken = error.code.as_deref() == Some(ADDRESS_TAKEN);
                let objection = if taken { Flaw::Taken } else { Flaw::Unacceptable };
                self.ledger.refuse_emails(user, digest, objection, now);
            }
            Attribute::DisplayName(_) | Attribute::NoEmails(_) | Attribute::NoAvatar { .. } => {}
        }
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
        self.mark_admins();
        Ok(())
    }

    /// Whether the source was read again because somebody's end waits for that (S-53); the plan is then made anew.
    pub(super) async fn read_for_final_steps(&mut self, plan: &Plan) -> Result<bool, PassError> {
        if self.parts.actuator.is_none() || self.stop.is_cancelled() {
            return Ok(false);
        }
        let looked = self.read_estates_for_ends(plan).await;
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
    /// is to tell the same by the end of the pass (S-84). What never comes to rest, as `heeded` counts, keeps nothing else waiting.
    ///
    /// # Errors
    /// When the database is away.
    pub(super) async fn heed(&mut self, plan: &Plan, heeded: &mut u32) -> Result<bool, StoreError> {
        if self.parts.actuator.is_none() {
            return Ok(false);
        }
        let mut news = Vec::new();
        for lesson in &plan.lessons {
            let Lesson::Leaver { user, news: what } = lesson else { continue };
            if let (LeaverNews::Closed { at }, Some(leaver)) = (what, self.ledger.leavers.get(user)) {
                self.unwritten.push(self.record_of_closed(user, leaver.since, *at));
                self.nameless.insert(user.clone(), self.ledger.entries_of(user));
            }
            news.push(lesson.clone());
        }
        self.forget_names().await?;
        let before = self.ledger.leavers.clone();
        self.ledger.learn(&news);
        if before == self.ledger.leavers {
            return Ok(false);
        }
        *heeded += 1;
        if *heeded == MOST_ROUNDS {
            tracing::warn!(?news, "what is found out about leavers differs each time; usher goes on with the rest");
        }
        Ok(*heeded < MOST_ROUNDS)
    }

    /// Compares the clocks (S-53). Only where somebody's grace depends on them, now or once they are locked.
    pub(super) async fn look_at_clocks(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.ledger.tick(now, passed);
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
}

/// The row of a step that was written down and not sent after all.
fn never_sent(row: AuditRecord) -> AuditRecord {
    AuditRecord { at: clock::now(), result: "not sent".to_owned(), ..row }
}

/// Whether a plan changes somebody's addresses now.
fn changes_addresses(plan: &Plan, user: &UserId) -> bool {
    let changes = |step: &Step| match &step.action {
        Action::Account { user: owner, deed: AccountDeed::Set(Attribute::Emails { .. } | Attribute::NoEmails(_)) } => {
            owner == user
        }
        _ => false,
    };
    plan.pending().any(changes)
}

fn account_of(step: &Step) -> Option<&UserId> {
    match &step.action {
        Action::Account { user, .. } => Some(user),
        _ => None,
    }
}

/// What a failure means for what was written down before.
pub(super) fn ending(step: &Step, error: &ActError, observed: Option<&Observed>) -> Ending {
    let closing = step.ends().is_some();
    let presence = account_of(step).zip(observed).map(|(user, observed)| observed.accounts.presence(user));
    // It came to its end at usher's word: what is refused is only a look at how far that is.
    let begun = closing && matches!(presence, Some(Presence::Exists(account)) if account.deactivated);
    match error.kind {
        ActErrorKind::Retry => Ending::Unknown,
        _ if begun => Ending::Unknown,
        // The homeserver has begun and not finished.
        ActErrorKind::Stale if closing => Ending::Unknown,
        ActErrorKind::Stale | ActErrorKind::Refused | ActErrorKind::Forbidden | ActErrorKind::Fatal => Ending::Refused,
    }
}
