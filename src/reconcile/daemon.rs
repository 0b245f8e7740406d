//! The loop of `usher run`: poll the source, follow the feed, put things right, survive every outage (S-7, S-33, S-82).
//!
//! One task owns the [`Reconciler`]; a second one only waits on `/sync` and hands batches over a bounded queue.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::survey::alive;
use super::{Arrival, Folding, News, PassError, PassResult, Reconciler};
use crate::bridge::Hint;
use crate::clock;
use crate::directory::Completeness;
use crate::http::appservice::{Hints, wait_or_wake};
use crate::ids::Timestamp;
use crate::matrix::Homeserver;
use crate::observability::{HoldStatus, Mode, PassStatus, PlanStatus, SourceStatus, Status};
use crate::plan::{Plan, Scope, render};
use crate::store::{HoldRow, PassRecord, WriterLease};

/// How long one `/sync` waits: with a poll a minute an idle usher stays at three requests.
const SYNC_WAIT: Duration = Duration::from_secs(50);
/// Batches that may wait for the loop; the feed task waits when it is full, so memory stays flat.
const BATCHES: usize = 16;
/// So long a pass goes on before the source is asked again, however often that should be.
const LEAST_WORK: Duration = Duration::from_secs(10);
/// How often approvals are looked for and the pulse is shown.
const TICK: Duration = Duration::from_secs(2);
/// How long a turn may go on after a stop.
const GRACE: Duration = Duration::from_secs(4);
/// Pauses after an outage: the first, doubling up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Longest pause of the feed: until the bot is registered it has none, and what happens meanwhile must not wait for long after.
const LONGEST_FEED_PAUSE: Duration = Duration::from_secs(10);
/// After a whole pass with failures the next one comes this soon.
const SOON: Duration = Duration::from_secs(10);
/// What a pass is called whose time had come.
const POLL: &str = "poll";

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// Another instance took the writer's lease (S-85).
    LeaseLost,
    /// The task that follows the homeserver broke.
    FeedLost,
}

/// Runs until stopped. `hints` come from the homeserver's transactions, where it sends any. `show`: print each plan that differs from
/// the one before (`--dry-run`).
pub async fn run(
    mut reconciler: Reconciler,
    homeserver: Homeserver,
    (status, hints): (watch::Sender<Status>, Hints),
    show: bool,
) -> Ended {
    let (sender, batches) = mpsc::channel(BATCHES);
    let stop = reconciler.stop.clone();
    reconciler.ledger.clocks.lasting = true;
    let position = feed_position(&reconciler, &homeserver).await;
    let feed = tokio::spawn(follow(homeserver, position.clone(), sender, (hints.clone(), stop.clone())));
    let mut daemon = Daemon {
        woken: hints.woken(),
        hints,
        reconciler,
        inbox: Inbox { batches, news: News::default(), position, polled: Instant::now() },
        status,
        show,
        next_poll: Instant::now(),
        next_reread: Instant::now(),
        outages: 0,
        shown: String::new(),
        source_problem: None,
    };
    let ended = daemon.turn_until_stopped(&stop).await;
    feed.abort();
    if let Err(error) = daemon.reconciler.save().await {
        tracing::error!(%error, "the last of the ledger could not be saved; it is learned again at the next start");
    }
    if let Some(lease) = daemon.reconciler.parts.lease.take()
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the writer's lease could not be given back; it runs out by itself");
    }
    ended
}

/// Where the feed goes on: where it was left, else where it stands now, asked before anything is read. A position that is younger than the
/// first read would leave a gap between the two, and everything would be read a second time. `None`: the homeserver is away, or the bot
/// is not registered yet.
async fn feed_position(reconciler: &Reconciler, homeserver: &Homeserver) -> Option<String> {
    if let Some(store) = &reconciler.parts.store
        && let Ok(Some(position)) = store.feed_position().await
    {
        return Some(position);
    }
    let present = alive(&reconciler.parts.heartbeat, homeserver.next_batch(None, Duration::ZERO));
    tokio::select! {
        () = reconciler.stop.cancelled() => None,
        present = present => present.ok().map(|batch| batch.position),
    }
}

/// Waits on the feed and hands on what comes.
async fn follow(
    homeserver: Homeserver,
    mut position: Option<String>,
    batches: mpsc::Sender<Arrival>,
    (hints, stop): (Hints, CancellationToken),
) {
    let mut pause = FIRST_PAUSE;
    let mut interrupted = false;
    let mut woken = hints.woken();
    loop {
        woken.mark_unchanged();
        // Whether the homeserver is back is known as soon as it answers at all.
        let wait = if interrupted { Duration::ZERO } else { SYNC_WAIT };
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = homeserver.next_batch(position.as_deref(), wait) => next,
        };
        match next {
            Ok(batch) => {
                pause = FIRST_PAUSE;
                if std::mem::take(&mut interrupted) {
                    hints.homeserver_returned();
                }
                position = Some(batch.position.clone());
                if batches.send(Arrival { batch, at: Instant::now() }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the feed is interrupted");
                interrupted = true;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = wait_or_wake(pause, &mut woken) => {}
                }
                pause = (pause * 2).min(LONGEST_FEED_PAUSE);
            }
        }
    }
}

/// Ends when the lease is another's; never without one.
async fn lost(lease: Option<&WriterLease>) {
    match lease {
        Some(lease) => lease.lost().await,
        None => std::future::pending().await,
    }
}

/// What the feed brought and nobody has dealt with yet.
struct Inbox {
    batches: mpsc::Receiver<Arrival>,
    news: News,
    /// How far the feed is dealt with.
    position: Option<String>,
    /// When the source was last asked.
    polled: Instant,
}

impl Inbox {
    async fn take(&mut self, arrival: Arrival, reconciler: &mut Reconciler) {
        match reconciler.fold(&arrival).await {
            Ok(News { dirty, reread, whole }) => {
                self.news.dirty.extend(dirty);
                self.news.reread |= reread;
                self.news.whole |= whole;
            }
            Err(error) => {
                tracing::debug!(%error, "what the feed brought could not be read; it is read with everything else");
                self.news.reread = true;
            }
        }
        self.position = Some(arrival.batch.position);
    }
}

#[async_trait::async_trait]
impl Folding for Inbox {
    async fn fold(&mut self, reconciler: &mut Reconciler) -> Result<(), PassError> {
        while let Ok(arrival) = self.batches.try_recv() {
            self.take(arrival, reconciler).await;
        }
        Ok(())
    }

    /// A first sync takes hours: whoever leaves meanwhile, and what operators say, does not wait for its end.
    async fn calls_away(&mut self, reconciler: &mut Reconciler) -> bool {
        self.polled.elapsed() >= reconciler.poll_interval().max(LEAST_WORK)
            || reconciler.source_hint().await == Hint::Urgent
            || reconciler.is_spoken_to().await
    }
}

/// What ends the wait between two turns.
enum Came {
    Batch(Arrival),
    Transaction,
    Time,
}

struct Daemon {
    reconciler: Reconciler,
    inbox: Inbox,
    /// What transactions hint at.
    hints: Hints,
    woken: watch::Receiver<()>,
    status: watch::Sender<Status>,
    show: bool,
    next_poll: Instant,
    next_reread: Instant,
    /// Outages in a row.
    outages: u32,
    shown: String,
    /// Why the latest look at the source failed.
    source_problem: Option<String>,
}

impl Daemon {
    async fn turn_until_stopped(&mut self, stop: &CancellationToken) -> Ended {
        while !stop.is_cancelled() {
            self.reconciler.parts.heartbeat.tick();
            let wake = self.next_poll.min(Instant::now() + TICK);
            let came = tokio::select! {
                () = stop.cancelled() => break,
                () = lost(self.reconciler.parts.lease.as_ref()) => return Ended::LeaseLost,
                batch = self.inbox.batches.recv() => match batch {
                    Some(arrival) => Came::Batch(arrival),
                    None if stop.is_cancelled() => break,
                    None => return Ended::FeedLost,
                },
                _ = self.woken.changed() => Came::Transaction,
                () = tokio::time::sleep_until(wake) => Came::Time,
            };
            // What is being sent may end; what does not end soon is given up, and seen by the next start.
            let given_up = async {
                stop.cancelled().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                () = self.deal_with(came) => {}
                () = given_up => break,
            }
        }
        Ended::Stopped
    }

    async fn deal_with(&mut self, came: Came) {
        match came {
            Came::Batch(arrival) => self.inbox.take(arrival, &mut self.reconciler).await,
            Came::Transaction => self.follow_hints().await,
            Came::Time => {}
        }
        self.turn().await;
    }

    /// A transaction came. Nothing it says is believed: the rooms it names are looked at, and an outage may be over.
    async fn follow_hints(&mut self) {
        let hinted = self.hints.take();
        if self.outages > 0 {
            self.next_poll = self.next_poll.min(Instant::now() + FIRST_PAUSE);
            return;
        }
        match self.reconciler.look_where_hinted(&hinted).await {
            Ok(changed) => self.inbox.news.dirty.extend(changed),
            Err(error) => {
                tracing::debug!(%error, "what a transaction hinted at could not be looked at; a poll does it");
            }
        }
    }

    /// One turn: whatever is due.
    async fn turn(&mut self) {
        let parts = &self.reconciler.parts;
        parts.metrics.count_requests(&parts.homeserver.requests().counts());
        let approved = self.reconciler.take_approvals().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "approvals and orders cannot be read");
            false
        });
        if self.reconciler.has_unanswered_orders() {
            // What may be ordered already is not acted against.
            self.next_poll = self.next_poll.max(Instant::now() + TICK);
            return;
        }
        if self.outages == 0 && self.reconciler.source_hint().await != Hint::Nothing {
            self.next_poll = self.next_poll.min(Instant::now());
        }
        let due = Instant::now() >= self.next_poll;
        let ready = self.reconciler.observed.is_some() && self.outages == 0;
        let (scope, cause) = if due {
            (Scope::Everything, POLL)
        } else if approved {
            (Scope::Everything, "approval")
        } else if ready && self.reconciler.has_waited_enough() {
            (Scope::Everything, "retry")
        } else if ready && (self.inbox.news.whole || self.inbox.news.reread) {
            (Scope::Everything, "feed")
        } else if ready && !self.inbox.news.dirty.is_empty() {
            (Scope::Rooms(std::mem::take(&mut self.inbox.news.dirty)), "feed")
        } else {
            return;
        };
        if scope == Scope::Everything {
            self.inbox.news.whole = false;
            self.inbox.news.dirty.clear();
        }
        let started = clock::now();
        self.reconciler.pass_began = started;
        let result = self.pass(&scope, due).await;
        self.after(cause, started, &scope, result).await;
    }

    /// A pass: reads what is due, then plans and does.
    async fn pass(&mut self, scope: &Scope, poll: bool) -> Result<PassResult, PassError> {
        let mut source = Ok(());
        if poll {
            source = self.poll_source().await;
            self.source_problem = source.as_ref().err().map(ToString::to_string);
        }
        if self.reconciler.observed.is_none() || self.inbox.news.reread || Instant::now() >= self.next_reread {
            self.reconciler.read_homeserver().await?;
            self.inbox.news = News::default();
            let interval = u64::try_from(self.reconciler.parts.config.provisioner.resync_interval_ms).unwrap_or(0);
            self.next_reread = Instant::now() + Duration::from_millis(interval);
        } else if poll {
            self.reconciler.read_new_accounts().await?;
        }
        if self.reconciler.directory.is_none() {
            source?;
            return Ok(PassResult::default());
        }
        if let Err(error) = source {
            tracing::warn!(%error, "the source could not be read; the last read stays in force");
        }
        self.show_plan(scope).await?;
        self.reconciler.carry_out(scope, &mut self.inbox).await
    }

    async fn poll_source(&mut self) -> Result<(), PassError> {
        let polled = if self.reconciler.source_may_have_changed().await {
            self.reconciler.read_source(true).await
        } else {
            tracing::debug!("the source has not changed");
            Ok(())
        };
        // However long that takes, a pass has its time before the next one.
        self.inbox.polled = Instant::now();
        polled
    }

    /// In a dry run the plan is the product: printed whenever it is another one.
    async fn show_plan(&mut self, scope: &Scope) -> Result<(), PassError> {
        if self.show && *scope == Scope::Everything {
            let decided = self.reconciler.decide(scope).await?;
            let text = render(&decided.plan, &decided.header);
            if text != self.shown {
                print!("{text}");
                self.shown = text;
            }
        }
        Ok(())
    }

    /// Schedules what comes next and tells of what was.
    async fn after(
        &mut self,
        cause: &'static str,
        started: Timestamp,
        scope: &Scope,
        result: Result<PassResult, PassError>,
    ) {
        let interval = self.reconciler.poll_interval();
        let (word, text, wait) = match &result {
            Ok(pass) if pass.fatal.is_some() => {
                let cause = pass.fatal.clone().unwrap_or_default();
                tracing::error!(cause, "the homeserver does not accept our token: is the registration loaded?");
                self.outages += 1;
                ("error", cause, self.pause())
            }
            Ok(pass) if pass.interrupted => {
                self.outages += 1;
                self.inbox.news.reread = true;
                ("error", "the homeserver went away".to_owned(), self.pause())
            }
            Ok(pass) => {
                self.outages = 0;
                let word = match pass {
                    pass if pass.failed > 0 => "failures",
                    pass if pass.unfinished => "unfinished",
                    _ => "ok",
                };
                (word, word.to_owned(), if pass.failed > 0 { interval.min(SOON) } else { interval })
            }
            Err(error) => {
                self.outages += 1;
                // Something that was to be read was not.
                self.inbox.news.reread |= matches!(error, PassError::Homeserver(_));
                tracing::warn!(%error, outages = self.outages, "the pass could not be made; usher tries again");
                ("error", error.to_string(), self.pause())
            }
        };
        if matches!(&result, Ok(pass) if pass.unfinished) {
            self.next_poll = Instant::now();
        } else if cause == POLL || word != "ok" {
            // What happens in between does not put the poll off.
            let wait = if word == "error" { wait.min(interval) } else { wait };
            self.next_poll = Instant::now() + wait;
        }
        if word != "error"
            && let (Some(position), Some(store), Some(_)) =
                (self.inbox.position.take(), &self.reconciler.parts.store, &self.reconciler.parts.actuator)
            && let Err(error) = store.set_feed_position(&position).await
        {
            tracing::warn!(%error, "the place in the feed could not be stored");
        }
        self.reconciler.parts.metrics.pass_ended(word, clock::now());
        self.record(cause, started, scope, (text, result.ok())).await;
    }

    fn pause(&self) -> Duration {
        (FIRST_PAUSE * 2_u32.saturating_pow(self.outages.min(10))).min(LONGEST_PAUSE)
    }

    /// History, status page, request counts.
    async fn record(
        &mut self,
        cause: &str,
        started: Timestamp,
        scope: &Scope,
        (text, pass): (String, Option<PassResult>),
    ) {
        let plan = pass.as_ref().and_then(|pass| pass.plan.clone()).filter(|_| *scope == Scope::Everything);
        let counts = pass.map(|pass| {
            [("done", pass.done), ("failed", pass.failed), ("held", pass.held)]
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect()
        });
        let record = PassRecord {
            started,
            ended: clock::now(),
            cause: cause.to_owned(),
            counts: counts.unwrap_or_default(),
            result: text,
        };
        let worth_telling = record.result != "ok" || record.counts.values().any(|count| *count > 0);
        let mut holds = Vec::new();
        if let Some(store) = &self.reconciler.parts.store {
            if self.reconciler.parts.actuator.is_some() && (worth_telling || *scope == Scope::Everything) {
                // A database that is away is told about by the pass itself.
                let _ = store.record_pass(&record).await;
            }
            holds = store.holds().await.unwrap_or_default();
        }
        self.tell(record, plan.as_ref(), &holds);
    }

    fn tell(&mut self, record: PassRecord, plan: Option<&Plan>, holds: &[HoldRow]) {
        let reconciler = &self.reconciler;
        let next = clock::now()
            .plus_ms(i64::try_from(self.next_poll.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(0));
        self.status.send_modify(|status| {
            if reconciler.parts.actuator.is_none() {
                status.mode = Mode::DryRun;
            }
            status.source.problem.clone_from(&self.source_problem);
            if let Some(directory) = &reconciler.directory {
                let missing = match &directory.completeness {
                    Completeness::Complete => None,
                    Completeness::Incomplete(reasons) => Some(reasons.join("; ")),
                };
                status.source = SourceStatus {
                    kind: directory.source.clone(),
                    users: directory.users.len() as u64,
                    groups: directory.groups.len() as u64,
                    complete: directory.is_complete(),
                    last_success: reconciler.read_at,
                    problem: self.source_problem.clone().or(missing),
                };
            }
            status.next_pass = Some(next);
            if let Some(plan) = plan {
                let pending = plan.pending().count() as u64;
                let held = plan.held_count() as u64;
                status.plan = PlanStatus { pending, held, withheld: plan.steps.len() as u64 - pending - held };
                status.notes = plan.notes.iter().take(100).map(ToString::to_string).collect();
            }
            status.holds = holds.iter().map(HoldStatus::from).collect();
            status.failures = reconciler.failures();
            status.last_pass = Some(PassStatus {
                started: record.started,
                ended: record.ended,
                cause: record.cause,
                result: record.result,
                counts: record.counts,
            });
        });
    }
}
