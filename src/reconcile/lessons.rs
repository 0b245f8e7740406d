//! What a pass leaves behind: the ledger, holds, failures, the removals that count.

use std::collections::BTreeSet;

use super::accounts::{Rows, ending};
use super::record::Found;
use super::{PAUSES_MS, PassError, PassResult, Reconciler, StepTrouble};
use crate::actuate::{ActError, ActErrorKind};
use crate::clock;
use crate::execute::Report;
use crate::ids::{RoomId, Timestamp};
use crate::ledger::{DAY_MS, Ending, Refusal, RemovalRecord};
use crate::plan::{Action, Class, Plan, Removal, RoomRef, Step, StepId, WINDOW_MS};
use crate::store::{HeldStep, HoldRow, Store, StoreError, diff};

/// How long a homeserver's refusal of a person stands before it is tried once more.
const REFUSAL_MS: i64 = 24 * 60 * 60 * 1000;

/// Where the foreseen removals begin in the ledger, when they were written down, and the audit's rows that were.
pub(super) struct Foreseen {
    records: usize,
    at: Timestamp,
    rows: Rows,
}

impl Reconciler {
    /// Writes down the removals that are about to be done, as if they were: a crash in the middle must not leave any uncounted (S-81,
    /// S-83). Hands back what [`Self::settle_up`] needs to put in their place what really was done.
    ///
    /// # Errors
    /// When the database is away.
    pub(super) async fn foresee(&mut self, plan: &Plan, due: &[Step]) -> Result<Foreseen, StoreError> {
        let (records, at) = (self.ledger.removals.len(), clock::now());
        for step in due {
            self.record_removals(plan, step, at);
        }
        let rows = self.foresee_accounts(due, at).await?;
        self.save().await?;
        Ok(Foreseen { records, at, rows })
    }

    /// Takes in what a slice did, and what its steps found.
    pub(super) async fn settle_up(
        &mut self,
        plan: &Plan,
        (foreseen, report, found): (Foreseen, Report, Found),
        result: &mut PassResult,
    ) -> Result<(), PassError> {
        let now = clock::now();
        self.ledger.removals.truncate(foreseen.records);
        // What was sent and whose answer was lost may have happened; an end that the homeserver has not finished has begun.
        let observed = self.observed.as_ref();
        let unknown = |(step, error): &&(Step, ActError)| ending(step, error, observed) == Ending::Unknown;
        let sent: Vec<&Step> = report.failed.iter().filter(unknown).map(|(step, _)| step).collect();
        for step in report.done.iter().chain(sent) {
            self.record_removals(plan, step, foreseen.at);
        }
        self.settle_accounts((plan, &report), (foreseen.rows, found), foreseen.at).await?;
        for step in &report.done {
            self.fights.done(step, now);
            self.troubles.remove(&step.id());
            if let (Action::TakePower { .. } | Action::Enter { .. }, Some(RoomRef::Id(room))) =
                (&step.action, step.action.room())
            {
                self.try_again_in(room, now);
            }
            for id in step.part_ids() {
                self.ledger.approvals.remove(&id);
            }
        }
        for (step, error) in report.failed {
            match error.kind {
                // Rooms do not wait for whoever keeps the accounts.
                ActErrorKind::Retry => result.interrupted |= !self.is_registry_away(&step, &error),
                ActErrorKind::Fatal => result.fatal = Some(error.to_string()),
                ActErrorKind::Stale | ActErrorKind::Refused | ActErrorKind::Forbidden => {}
            }
            // The alias points elsewhere than it did: it is looked up anew.
            if let (Action::CreateRoom(_) | Action::DropAlias { .. }, Some(place)) = (&step.action, &step.place) {
                self.looked_up.remove(place);
            }
            self.remember_failure(plan, &step, &error, now);
        }
        if !result.interrupted {
            self.reread_rooms(&report.reread).await?;
        }
        Ok(self.save().await?)
    }

    /// The bot has just got power or its place in this room: what was refused there once need not wait. What was refused again waits, so
    /// that power which is taken away each time is not asked for without end.
    fn try_again_in(&mut self, room: &RoomId, now: Timestamp) {
        let here = self.troubles.values_mut().filter(|trouble| trouble.room.as_ref() == Some(room));
        here.filter(|trouble| trouble.failures == 1).for_each(|trouble| trouble.retry_at = now);
    }

    fn remember_failure(&mut self, plan: &Plan, step: &Step, error: &ActError, now: Timestamp) {
        if error.kind == ActErrorKind::Refused
            && let (Some(place), Some(user)) = (&step.place, step.action.user())
        {
            let code = error.code.clone().unwrap_or_else(|| "refused".to_owned());
            let refusal = Refusal { code, retry_at: now.plus_ms(REFUSAL_MS) };
            self.ledger.refusals.insert((place.clone(), user.clone()), refusal);
        }
        let trouble = self.troubles.entry(step.id()).or_insert_with(|| StepTrouble {
            what: plan.line(step),
            cause: String::new(),
            room: match step.action.room() {
                Some(RoomRef::Id(room)) => Some(room.clone()),
                _ => None,
            },
            stale: false,
            failures: 0,
            since: now,
            retry_at: now,
        });
        let later = now.back_off(trouble.failures, PAUSES_MS);
        trouble.failures += 1;
        trouble.cause = error.to_string();
        trouble.stale = error.kind == ActErrorKind::Stale;
        // Lost answers and stale steps are planned again from a fresh read; waiting is for what was refused.
        let waits = !matches!(error.kind, ActErrorKind::Retry | ActErrorKind::Stale) || trouble.failures > 3;
        trouble.retry_at = if waits { later } else { now };
    }

    /// Removals that were done and count: not intruders, and not what an operator approved (S-104).
    fn record_removals(&mut self, plan: &Plan, step: &Step, now: Timestamp) {
        let removals: Vec<Option<&Removal>> = match &step.action {
            Action::SetPowerLevels { changes, .. } if step.removal.is_none() => {
                changes.iter().map(|change| change.removal.as_ref()).collect()
            }
            _ => vec![step.removal.as_deref()],
        };
        if !removals.iter().flatten().any(|removal| removal.counts) {
            return;
        }
        for (removal, id) in removals.into_iter().zip(step.part_ids()) {
            let approved = self.ledger.approvals.get(&id).is_some_and(|until| *until > now);
            let Some(removal) = removal.filter(|removal| removal.counts && !approved) else { continue };
            // A space or room that is given up counts once, whatever that takes.
            let of_it = |known: &RemovalRecord| {
                known.class == removal.class && known.space == removal.space && now.since_ms(known.at) < WINDOW_MS
            };
            if step.gives_up().is_some() && self.ledger.removals.iter().any(of_it) {
                continue;
            }
            self.ledger.removals.push(RemovalRecord {
                class: removal.class,
                space: removal.space.clone(),
                person: removal.person.clone(),
                at: now,
                space_base: plan.heads.spaces.get(&removal.space).copied().unwrap_or(0),
                total_base: plan.heads.base(removal.class),
            });
        }
    }

    /// The end of a whole pass: lessons, holds, what has expired.
    pub(super) async fn finish(&mut self, plan: &Plan, (complete, whole): (bool, bool)) -> Result<(), PassError> {
        let now = clock::now();
        if whole {
            self.ledger.learn(&plan.lessons);
        } else {
            let lessons = plan.lessons_of_a_part(&self.ledger);
            self.ledger.learn(&lessons);
        }
        let lost = plan.steps.iter().filter_map(Step::hold).any(|hold| hold.class == Class::LedgerLost);
        let undecided = self.ledger.recalls_somebody_unconfirmed(self.parts.config.safety.confirm_reads);
        self.ledger.settled |= complete && whole && !lost && !undecided;
        self.ledger.closings.retain(|at| now.since_ms(*at) < DAY_MS);
        self.ledger.removals.retain(|record| now.since_ms(record.at) < WINDOW_MS);
        self.ledger.approvals.retain(|_, until| *until > now);
        self.ledger.refusals.retain(|_, refusal| refusal.retry_at > now);
        let planned: BTreeSet<_> =
            if self.troubles.is_empty() { BTreeSet::new() } else { plan.steps.iter().map(Step::id).collect() };
        self.troubles.retain(|id, _| planned.contains(id));
        self.save().await?;
        let rows = holds(plan, now);
        if let Some(store) = &self.parts.store {
            store.set_holds(&rows).await?;
        }
        Ok(())
    }

    /// Writes what changed in the ledger.
    pub(super) async fn save(&mut self) -> Result<(), StoreError> {
        let Some(store) = self.parts.store.as_ref().filter(|_| self.parts.actuator.is_some()) else { return Ok(()) };
        let changes = diff(&self.saved, &self.ledger);
        if !changes.is_empty() {
            if let Err(error) = self.hold_no_longer(store).await {
                tracing::debug!(%error, "what is done stays among what is held until the pass ends");
            }
            store.save(&changes).await?;
            self.saved = self.ledger.clone();
        }
        Ok(())
    }

    /// Takes what was approved and is done out of the holds, before its approvals go: for whoever looks before the pass has ended, it would
    /// wait again.
    async fn hold_no_longer(&self, store: &Store) -> Result<(), StoreError> {
        let now = clock::now();
        let used = |(id, until): &(&StepId, &Timestamp)| **until > now && !self.ledger.approvals.contains_key(*id);
        let used: BTreeSet<&StepId> = self.saved.approvals.iter().filter(used).map(|(id, _)| id).collect();
        if used.is_empty() {
            return Ok(());
        }
        let mut holds = store.holds().await?;
        for hold in &mut holds {
            hold.steps.retain(|step| !used.contains(&step.id));
        }
        holds.retain(|hold| !hold.steps.is_empty());
        store.set_holds(&holds).await
    }

    /// Picks up what an operator approved meanwhile; `true` if there is something new.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn take_approvals(&mut self) -> Result<bool, StoreError> {
        let Some(store) = &self.parts.store else { return Ok(false) };
        let mut approvals = store.approvals().await?;
        approvals.retain(|step, until| self.is_new_approval((step, until)));
        let mut news = self.take_orders().await?;
        news |= !approvals.is_empty();
        for (step, until) in approvals {
            self.ledger.approvals.insert(step.clone(), until);
            self.saved.approvals.insert(step, until);
        }
        Ok(news)
    }

    /// One that was used up and whose row could not be deleted yet is no new one.
    fn is_new_approval(&self, (step, until): (&StepId, &Timestamp)) -> bool {
        *until > clock::now() && self.saved.approvals.get(step) != Some(until)
    }

    /// Whether operators approved or ordered something that is not taken in yet, or it is not known what is in force.
    pub(super) async fn is_spoken_to(&self) -> bool {
        let Some(store) = self.parts.store.as_ref().filter(|_| self.parts.actuator.is_some()) else { return false };
        let approved =
            store.approvals().await.is_ok_and(|all| all.iter().any(|approval| self.is_new_approval(approval)));
        approved || self.has_unanswered_orders() || store.orders().await.is_ok_and(|orders| !orders.is_empty())
    }
}

fn holds(plan: &Plan, now: Timestamp) -> Vec<HoldRow> {
    plan.held()
        .into_iter()
        .map(|item| HoldRow {
            detail: item.title(plan),
            class: item.hold.class,
            steps: item
                .steps
                .iter()
                .zip(&item.lines)
                .map(|(id, text)| HeldStep { id: id.clone(), text: text.clone() })
                .collect(),
            first_held_at: now,
            id: item.id,
        })
        .collect()
}
