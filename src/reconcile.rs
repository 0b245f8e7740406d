//! From reading to doing: fetch, fold, plan, guard, execute, remember. One owner of everything that is known ([`Reconciler`]), no locks;
//! `daemon` is the loop around it.
//!
//! Decides nothing itself: what should be is `desired`, what to do is `plan`, how it is sent is `actuate`.

mod accounts;
mod addresses;
mod admins;
mod adoption;
pub mod daemon;
mod delays;
mod estates;
mod exposure;
mod external;
mod fights;
mod lessons;
mod orders;
mod outside;
mod pass;
mod photos;
mod recall;
mod record;
mod standing;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use pass::{Folding, NoFeed, PassError, PassResult};
pub(crate) use survey::alive;
pub use survey::{Arrival, News};

use crate::account::mas::Roster;
use crate::actuate::{ActError, ActErrorKind, Actuator, Outcome};
use crate::bridge::Bridge;
use crate::cli::progress::Progress;
use crate::clock;
use crate::config::Config;
use crate::desired::{Desired, desire};
use crate::directory::{Completeness, Directory};
use crate::execute;
use crate::http::ops::Heartbeat;
use crate::ids::{Key, RoomId, StableId, Timestamp, UserId};
use crate::ledger::{Ledger, Order};
use crate::matrix::Homeserver;
use crate::observability::{Metrics, StepState};
use crate::observed::Observed;
use crate::plan::{self, Action, Header, Plan, Scope, Step, StepId};
use crate::store::audit::AuditRecord;
use crate::store::{Remainder, Store, StoreError, WriterLease};

/// Rounds of planning and doing in one pass. Two are usual; more means that something undoes what usher does (S-34).
const MOST_ROUNDS: u32 = 8;
/// Pauses before a failed step is tried again: the first, which doubles, and the longest.
const PAUSES_MS: (i64, i64) = (5_000, 15 * 60 * 1000);
/// A write is sent only while the writer's lease lasts at least this long, and given up when the lease ends (S-85).
const SHORTEST_WRITE_MS: u64 = 5_000;
/// Longest a write may take where no lease limits it: making a room on a busy homeserver.
const LONGEST_WRITE_MS: u64 = 300_000;

/// What a pass works with. Built in `app`.
pub struct Parts {
    pub config: Config,
    pub bridge: Box<dyn Bridge>,
    pub homeserver: Homeserver,
    /// Who knows the server admins, where that is not the homeserver.
    pub roster: Option<Roster>,
    /// `None`: a dry run (DESIGN decision 3).
    pub actuator: Option<Box<dyn Actuator>>,
    /// `None`: there is no database yet, and nothing may be written.
    pub store: Option<Store>,
    pub lease: Option<WriterLease>,
    pub metrics: std::sync::Arc<Metrics>,
    pub heartbeat: Heartbeat,
}

/// Everything usher knows, and the only one to change it.
pub struct Reconciler {
    parts: Parts,
    directory: Option<Directory>,
    /// The state of the source that is known to be carried out.
    carried_out: Option<i64>,
    /// When the source was last read at all.
    read_at: Option<Timestamp>,
    /// When that read, or the look that found nothing new, began: what changes while it lasts may not be in it.
    asked_at: Option<Timestamp>,
    observed: Option<Observed>,
    readings: survey::Readings,
    /// When the current pass began, of a one-shot verb the only one: what the audit knows its rows by.
    pass_began: Timestamp,
    /// The audit's rows of steps that were to be sent in the latest slice and were not: they go on with the step.
    unsent: accounts::Rows,
    /// What came of steps and could not be written into the audit yet.
    unwritten: Vec<AuditRecord>,
    /// Erased people whose names are still in the audit, and their entries in the directory.
    nameless: BTreeMap<UserId, BTreeSet<StableId>>,
    /// When this process began to look, by a clock nobody sets (S-53).
    began: std::time::Instant,
    ledger: Ledger,
    /// The ledger as the database has it.
    saved: Ledger,
    /// Keys whose fencing alias was looked up since the last full read.
    looked_up: BTreeSet<Key>,
    /// Without a list of accounts: the last of those who were looked up again ([`Accounts::absent`]).
    ///
    /// [`Accounts::absent`]: crate::observed::Accounts::absent
    asked_after: Option<UserId>,
    /// Rooms outside that were looked at, and the last one whose turn it was.
    looked_outside: BTreeSet<RoomId>,
    outside_after: Option<RoomId>,
    /// What replaced rooms of ours, and was looked at since the last full read.
    looked_at_heirs: BTreeSet<RoomId>,
    /// Removal candidates asked after: whether another service owns the account (S-102).
    services: BTreeMap<UserId, bool>,
    /// Those of them whose account could not be looked at: what concerns them waits.
    unasked: delays::Delays<UserId>,
    /// Locked people whose places could not be looked at.
    unseen_estates: delays::Delays<UserId>,
    /// Rooms outside that could not be looked at.
    unseen: outside::Unseen,
    /// Steps that failed, and when they are due again.
    troubles: BTreeMap<StepId, StepTrouble>,
    /// What is undone again and again (S-34).
    fights: fights::Fights,
    /// Rooms of usher's that the bot is not in any more, or has no power in.
    standing: standing::Standing,
    /// Whom the puppet registration should leave out and does not (S-103).
    exposure: exposure::Exposure,
    /// Who were asked after because the ledger was lost (S-51).
    recalled: BTreeSet<UserId>,
    /// Orders that were obeyed and whose writing the database did not answer, by their numbers, and when.
    unanswered: BTreeMap<i64, (Order, Timestamp)>,
    /// The last of those without an account who were looked up by their external id (S-5).
    matched_after: Option<StableId>,
    /// The server admins, as the roster had them last.
    admins: Option<BTreeSet<UserId>>,
    /// Whoever keeps the accounts, as far as they can be asked.
    registry: addresses::Registry,
    /// Photos on their way to the homeserver.
    album: photos::Album,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
}

/// A step that failed and waits.
#[derive(Clone, Debug)]
pub struct StepTrouble {
    pub what: String,
    pub cause: String,
    /// Where it was to be done.
    room: Option<RoomId>,
    /// The world was not as planned, the last time it was tried.
    stale: bool,
    pub failures: u32,
    pub since: Timestamp,
    pub retry_at: Timestamp,
}

/// A plan with what it was made from.
pub struct Decided {
    pub desired: Desired,
    pub plan: Plan,
    pub header: Header,
}

impl Reconciler {
    /// Takes the parts and what the database remembers. Reads nothing else yet.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn new(parts: Parts, stop: CancellationToken) -> Result<Self, StoreError> {
        let mut ledger = Ledger::default();
        if let Some(store) = &parts.store {
            ledger = store.load_ledger().await?;
            ledger.key = store.digest_key().await?;
        }
        ledger.clocks.tick(clock::now(), 0);
        let (progress, _) = watch::channel(Progress::default());
        Ok(Self {
            parts,
            directory: None,
            carried_out: None,
            read_at: None,
            asked_at: None,
            observed: None,
            readings: survey::Readings::default(),
            saved: ledger.clone(),
            pass_began: clock::now(),
            unsent: accounts::Rows::new(),
            unwritten: Vec::new(),
            nameless: BTreeMap::new(),
            began: std::time::Instant::now(),
            ledger,
            looked_up: BTreeSet::new(),
            asked_after: None,
            looked_outside: BTreeSet::new(),
            outside_after: None,
            looked_at_heirs: BTreeSet::new(),
            services: BTreeMap::new(),
            unasked: delays::Delays::default(),
            unseen_estates: delays::Delays::default(),
            unseen: outside::Unseen::default(),
            troubles: BTreeMap::new(),
            fights: fights::Fights::default(),
            standing: standing::Standing::default(),
            exposure: exposure::Exposure::default(),
            recalled: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            matched_after: None,
            admins: None,
            registry: addresses::Registry::default(),
            album: photos::Album::default(),
            progress,
            stop,
        })
    }

    /// How far the current pass is.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Ends whoever shows the progress.
    pub fn hush(&mut self) {
        self.progress = watch::channel(Progress::default()).0;
    }

    /// Gives the writer's lease back and closes the database. What is not saved is learned again.
    pub async fn close(&mut self) {
        if let Some(lease) = self.parts.lease.take()
            && let Err(error) = lease.release().await
        {
            tracing::warn!(%error, "the writer's lease could not be given back; it runs out by itself");
        }
        if let Some(store) = &self.parts.store {
            store.close().await;
        }
    }

    /// How long the right to write lasts; `None`: there is none.
    #[must_use]
    pub fn remainder(&self) -> Option<Remainder> {
        self.parts.lease.as_ref().map(WriterLease::remainder)
    }

    /// Whether a pass has ended with this database (S-101).
    #[must_use]
    pub fn has_settled(&self) -> bool {
        self.ledger.settled
    }

    /// Steps that failed and wait.
    pub fn troubles(&self) -> impl Iterator<Item = &StepTrouble> {
        self.troubles.values()
    }

    /// What was read last.
    #[must_use]
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// What the homeserver looks like.
    #[must_use]
    pub fn observed(&self) -> Option<&Observed> {
        self.observed.as_ref()
    }

    /// What is remembered.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The plan for `scope` from what is known now. Asks the homeserver only for what the plan turns out to need: where aliases of
    /// missing rooms point, whether people exist (without a user list), and who owns the accounts to be removed.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn decide(&mut self, scope: &Scope) -> Result<Decided, PassError> {
        self.weigh(scope, false).await.map(|(decided, _)| decided)
    }

    /// As [`Reconciler::decide`]; in a `hurry` whoever is to be locked or removed is so before everybody's addresses and photos are seen.
    /// Whether those were left for later as well.
    async fn weigh(&mut self, scope: &Scope, hurry: bool) -> Result<(Decided, bool), PassError> {
        let now = clock::now();
        self.look_at_clocks(now).await?;
        self.recall_invited().await?;
        let desired = self.desire(now);
        self.complete(&desired).await?;
        self.read_estates().await;
        let mut plan = self.plan(&desired, scope, now);
        let later = hurry && self.ready(&plan).iter().any(|step| step.takes().is_some());
        if !later && self.read_attributes(&desired, scope).await {
            plan = self.plan(&desired, scope, now);
        }
        // Whom the next plan turns to instead is looked at as well: each time somebody new.
        while self.ask_owners(&plan, scope).await? {
            plan = self.plan(&desired, scope, now);
        }
        let header = self.header(&desired);
        if *scope == Scope::Everything {
            self.count(&plan);
        }
        Ok((Decided { desired, plan, header }, later))
    }

    /// Reads addresses and photos, which nobody tells of; whether there were any to read.
    async fn read_attributes(&mut self, desired: &Desired, scope: &Scope) -> bool {
        let addresses = self.read_emails(desired).await;
        let photos = *scope == Scope::Everything && self.read_photos(desired).await;
        addresses || photos
    }

    fn desire(&self, now: Timestamp) -> Desired {
        let nothing = Directory::default();
        let directory = self.directory.as_ref().unwrap_or(&nothing);
        let mut desired = tokio::task::block_in_place(|| desire(&self.parts.config, directory, &self.ledger, now));
        let stale = self.read_at.is_none_or(|read| now.since_ms(read) > self.parts.config.safety.stale_after_ms);
        desired.complete = desired.complete && !stale && self.knows_admins();
        desired
    }

    fn plan(&self, desired: &Desired, scope: &Scope, now: Timestamp) -> Plan {
        let Some(observed) = &self.observed else { return Plan::default() };
        tokio::task::block_in_place(|| {
            let limits = &self.parts.config.safety.limits;
            plan::guarded((desired, observed), &self.ledger, scope, limits, now)
        })
    }

    fn header(&self, desired: &Desired) -> Header {
        let source = match &self.directory {
            None => "not read yet".to_owned(),
            Some(directory) => {
                let people =
                    format!("{}: {} users, {} groups", directory.source, directory.users.len(), directory.groups.len());
                match &directory.completeness {
                    Completeness::Complete => format!("{people}, complete"),
                    Completeness::Incomplete(reasons) => format!("{people}, NOT COMPLETE: {}", reasons.join("; ")),
                }
            }
        };
        let spaces = desired.rooms.iter().filter(|room| room.key.is_space()).count();
        let server = self.parts.config.homeserver.server_name.clone();
        let target = format!("{server}: {spaces} spaces, {} rooms to manage", desired.rooms.len() - spaces);
        Header { source, target, server }
    }

    /// Plans and does until nothing is left to do, in slices; `between` runs after each slice and may fold news in.
    ///
    /// # Errors
    /// When the homeserver or the database is away before anything was sent.
    pub async fn carry_out(&mut self, scope: &Scope, feed: &mut dyn Folding) -> Result<PassResult, PassError> {
        let mut result = PassResult::default();
        let mut rounds = 0;
        let mut heeded = 0;
        let mut read_again = false;
        let mut plan;
        let mut complete;
        loop {
            self.parts.heartbeat.tick();
            feed.fold(self).await?;
            let (decided, unread) = self.weigh(scope, true).await?;
            (plan, complete) = (decided.plan, decided.desired.complete);
            if self.recover(&decided.desired).await? {
                continue;
            }
            if self.heed(&plan, &mut heeded).await? {
                continue;
            }
            if !read_again && self.read_for_final_steps(&plan).await? {
                read_again = true;
                continue;
            }
            if result.has_begun() && feed.calls_away(self).await {
                result.unfinished = true;
                break;
            }
            let (due, whole) = Self::portion(self.due(&plan, *scope == Scope::Everything));
            if due.is_empty() || self.stop.is_cancelled() || rounds >= MOST_ROUNDS || self.parts.actuator.is_none() {
                break;
            }
            let count = due.len();
            let (due, not_uploaded) = self.upload_photos(due, &decided.desired).await?;
            let whole = whole && due.len() + not_uploaded.len() == count;
            // Removals must be written down: without the database none is done (S-81 survives restarts).
            let foreseen = self.foresee(&plan, &due).await?;
            let total = result.done + result.failed + due.len() as u64;
            self.progress.send_modify(|progress| progress.total = total);
            // Removals count for a day (S-81): they are written down soon after they are done.
            let length = if due.iter().any(|step| step.takes().is_some()) { execute::SLICE } else { feed.slice() };
            let (mut report, found) = self.slice(due, length).await;
            report.failed.extend(not_uploaded);
            result.done += report.done.len() as u64;
            // What was not as planned is planned anew from a fresh read, and fails only if it is left over in the end.
            let stale = report.failed.iter().filter(|(_, error)| error.kind == ActErrorKind::Stale).count();
            result.failed += (report.failed.len() - stale) as u64;
            rounds += u32::from(report.finished && (whole || report.done.is_empty()));
            let progressed = !report.done.is_empty() || stale > 0;
            let idle = !progressed && report.failed.is_empty() && !report.finished;
            self.settle_up(&plan, (foreseen, report, found), &mut result).await?;
            heeded = 0;
            if idle && !self.stop.is_cancelled() {
                tracing::warn!("the writer's lease does not last for another write; usher waits for its renewal");
                result.interrupted = true;
            }
            if result.interrupted || result.fatal.is_some() || !(progressed || unread || rounds == 0) {
                break;
            }
        }
        if rounds >= MOST_ROUNDS {
            tracing::warn!(rounds, "the same steps come back in every round: something undoes what usher does");
        }
        self.end_pass(scope, (&plan, complete), &mut result).await?;
        result.plan = Some(plan);
        Ok(result)
    }

    /// Counts what is left of `plan`, and writes down what a whole pass has learned; `complete`: all of the directory was known.
    async fn end_pass(
        &mut self,
        scope: &Scope,
        (plan, complete): (&Plan, bool),
        result: &mut PassResult,
    ) -> Result<(), PassError> {
        self.album.close();
        result.failed += self.stale(plan);
        if self.parts.actuator.is_some() {
            // What waits for whoever keeps the accounts is not done.
            let now = clock::now();
            let waiting = plan.pending().filter(|step| self.waits_for_registry(step, now)).count() as u64;
            result.failed = result.failed.max(waiting);
            result.waiting = plan.pending().filter(|step| self.waits_for_owner(step)).count() as u64;
            self.forget_names().await?;
        }
        result.held = plan.held_count() as u64;
        if *scope == Scope::Everything && self.parts.actuator.is_some() {
            // A pass over half a directory settles nothing: what it withheld for that was never weighed (S-101).
            let whole = !result.interrupted && !result.unfinished && result.fatal.is_none();
            self.finish(plan, (complete, whole)).await?;
            self.tell_carried_out(result).await?;
        }
        Ok(())
    }

    /// What of `plan` is to be done now: not what failed a moment ago, nor what is fought over, nor what must not be done before
    /// that (a space is not left with people in it).
    fn due(&mut self, plan: &Plan, whole: bool) -> Vec<Step> {
        let now = clock::now();
        for fight in self.fights.look(plan, whole, now) {
            fight.announce();
        }
        self.ready(plan).into_iter().cloned().collect()
    }

    /// The same, of what is known about fights so far.
    fn ready<'p>(&self, plan: &'p Plan) -> Vec<&'p Step> {
        let now = clock::now();
        let (calm, troubled) = (self.fights.is_calm(), !self.troubles.is_empty());
        let failed = |step: &Step| self.troubles.get(&step.id()).is_some_and(|trouble| trouble.retry_at > now);
        let waits = |step: &Step| {
            (troubled && failed(step))
                || (!calm && self.fights.waits(step, now))
                || self.waits_for_registry(step, now)
                || self.waits_for_owner(step)
        };
        let (waiting, mut due): (Vec<&'p Step>, Vec<&'p Step>) = plan.pending().partition(|step| waits(step));
        let unfinished: BTreeSet<&Key> = waiting.into_iter().filter_map(Step::gives_up).collect();
        due.retain(|step| step.closes().is_none_or(|thing| !unfinished.contains(thing)));
        due.retain(|step| !plan.hands_over_before(step));
        due
    }

    /// Steps that are left though they were tried again and again, because the world is never as planned.
    fn stale(&self, plan: &Plan) -> u64 {
        let waiting = |step: &&Step| self.troubles.get(&step.id()).is_some_and(|trouble| trouble.stale);
        if self.troubles.is_empty() { 0 } else { plan.pending().filter(waiting).count() as u64 }
    }

    /// Whether the writer's lease lasts for another write, and nobody has said stop.
    fn may_write(&self) -> bool {
        let leased = self.parts.lease.as_ref().is_some_and(|lease| lease.remaining_ms() > SHORTEST_WRITE_MS);
        leased && self.parts.actuator.is_some() && !self.stop.is_cancelled()
    }

    async fn slice(&mut self, due: Vec<Step>, length: Duration) -> (execute::Report, record::Found) {
        let (Some(actuator), Some(observed)) = (&self.parts.actuator, &mut self.observed) else {
            return Default::default();
        };
        let mut watch = Overseer {
            lease: self.parts.lease.as_ref(),
            stop: &self.stop,
            metrics: &self.parts.metrics,
            heartbeat: &self.parts.heartbeat,
            progress: &self.progress,
            found: record::Found::new(),
        };
        let report = execute::run(due, observed, actuator.as_ref(), &mut watch, length).await;
        (report, watch.found)
    }

    fn count(&self, plan: &Plan) {
        let metrics = &self.parts.metrics;
        let held = plan.held_count() as u64;
        let pending = plan.pending().count() as u64;
        metrics.set_plan(StepState::Pending, pending);
        metrics.set_plan(StepState::Held, held);
        metrics.set_plan(StepState::Withheld, plan.steps.len() as u64 - pending - held);
        let mut classes: BTreeMap<plan::Class, u64> = BTreeMap::new();
        for hold in plan.steps.iter().filter_map(Step::hold) {
            *classes.entry(hold.class).or_default() += 1;
        }
        metrics.set_held(|class| classes.get(&class).copied().unwrap_or(0));
    }
}

/// Watches over the executor: lease, stop, log, metrics, progress, what the audit says of the time before.
struct Overseer<'a> {
    lease: Option<&'a WriterLease>,
    stop: &'a CancellationToken,
    metrics: &'a Metrics,
    heartbeat: &'a Heartbeat,
    progress: &'a watch::Sender<Progress>,
    /// What the steps found that were sent.
    found: record::Found,
}

impl execute::Watch for Overseer<'_> {
    fn may_write(&self) -> bool {
        let leased = self.lease.is_some_and(|lease| lease.remaining_ms() > SHORTEST_WRITE_MS);
        leased && !self.stop.is_cancelled()
    }

    fn time_left(&self) -> Duration {
        let lease = self.lease.map_or(0, WriterLease::remaining_ms);
        Duration::from_millis(lease.min(LONGEST_WRITE_MS))
    }

    fn begins(&mut self, step: &Step, action: &Action, observed: &Observed) {
        // What is done to accounts was written down before.
        if !matches!(action, Action::Account { .. }) {
            self.found.insert(step.id(), record::found(action, observed));
        }
    }

    fn ended(&mut self, step: &Step, result: Result<&Outcome, &ActError>) {
        self.heartbeat.tick();
        let action = step.action.verb();
        let place = step.place.as_ref().map(ToString::to_string).unwrap_or_default();
        let user = step.action.user().map(UserId::as_str).unwrap_or_default();
        let word = match result {
            Ok(_) => {
                tracing::info!(action, place, user, reason = %step.reason, "done");
                "done"
            }
            Err(error) => {
                tracing::warn!(action, place, user, %error, "failed");
                match error.kind {
                    ActErrorKind::Refused => "refused",
                    ActErrorKind::Stale => "stale",
                    ActErrorKind::Retry | ActErrorKind::Forbidden | ActErrorKind::Fatal => "failed",
                }
            }
        };
        self.metrics.step_ended(action, word);
        self.progress.send_modify(|progress| {
            progress.done += 1;
            progress.failed += u64::from(result.is_err());
        });
    }
}

/// Rooms something happened in.
pub type Dirty = BTreeSet<RoomId>;
