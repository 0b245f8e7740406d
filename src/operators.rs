//! What usher tells the people who run it, in a Matrix room of theirs, and what they approve there (S-52, S-81, S-97).
//!
//! ```text
//! operators.rs   looks after each pass, says what is new, listens for answers
//!   news         what is to be told: once per reason, daily while it lasts
//!   notice       one message, as text and as an event
//!   answers      what an operator's message asks for
//!   room         the room: made once, closed to everybody else
//!   desk         every write to it
//! ```
//! Works beside the loop, as mail does: an approval is a row that the loop picks up (S-85), and nothing else here changes what usher does.
//! Never lets anybody approve who is not in `operators:`, nor more than the message listed that they answered. One message that cannot be
//! written keeps no other from being written, and nothing that lasts keeps answers from being heard.

mod answers;
mod desk;
mod news;
mod notice;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::hold::APPROVAL_MS;
use crate::clock;
use crate::config::{Config, Deprovisioning};
use crate::ids::{RoomId, Timestamp, UserId};
use crate::ledger::Leaver;
use crate::matrix::{Heard, Homeserver, MatrixError, Said, Trouble};
use crate::observability::{FailureStatus, Status};
use crate::plan::{StepId, counted};
use crate::store::{Fact, Remainder, Store, StoreError, Told};
use answers::Approval;
use desk::Desk;
use news::{News, Sight};
use room::Place;

/// How long one request for answers waits: as the feed's, so that an idle usher makes few.
const HEAR_WAIT: Duration = Duration::from_secs(50);
/// Between two such requests, because the homeserver answers at once whenever something else happens to the bot.
const BETWEEN_HEARS: Duration = Duration::from_secs(1);
/// The place in the stream of answers is stored this often where nobody says anything.
const PLACE_STORED: Duration = Duration::from_mins(5);
/// How often there is a look without a pass: what is due daily must not wait for one.
const LOOK: Duration = Duration::from_mins(5);
/// Looks are at least so far apart: a first synchronisation ends a slice every two seconds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// How often the room is looked at: who is in it, and whether it is still there.
const ROOM_LOOK: Duration = Duration::from_hours(1);
/// Pauses after something did not work: the first, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// Messages are taken out of the room after so long, in milliseconds: names of people who left must not stand there for ever.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;
/// Messages taken out at one look.
const TAKEN_OUT: usize = 20;
/// Accounts that could not be made so far, looked at.
const MOST_DELAYED: u32 = 1000;

/// Why something did not work. Everything is tried again.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error("{0}")]
    Homeserver(#[from] MatrixError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the writer's lease does not last for another write")]
    Lease,
}

impl Setback {
    /// Whether it says nothing about what was to be written: it would be the same for anything.
    fn is_passing(&self) -> bool {
        match self {
            Self::Homeserver(error) => {
                matches!(error.trouble, Trouble::Away | Trouble::RateLimited | Trouble::UnknownToken)
            }
            Self::Store(_) | Self::Lease => true,
        }
    }

    /// Whether it is this one message that the homeserver will not have.
    fn is_of_one_message(&self) -> bool {
        matches!(self, Self::Homeserver(error) if matches!(error.trouble, Trouble::Rejected | Trouble::Malformed))
    }
}

/// One message that is not accepted keeps no other from being written.
fn go_on(done: Result<(), Setback>) -> Result<(), Setback> {
    match done {
        Err(setback) if setback.is_of_one_message() => {
            tracing::warn!(%setback, "the homeserver does not take a message to operators");
            Ok(())
        }
        other => other,
    }
}

/// When the next look is due.
struct Looks {
    earliest: Instant,
    latest: Instant,
    /// After the next one that does not work; the first while they do.
    pause: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        let now = Instant::now();
        Self { earliest: now, latest: now, pause: PAUSES.0 }
    }
}

impl Looks {
    /// Whether the latest one did not work.
    fn failed(&self) -> bool {
        self.pause > PAUSES.0
    }

    fn ended(&mut self, looked: Result<(), Setback>) {
        let now = Instant::now();
        match looked {
            Ok(()) => *self = Self { earliest: now + BETWEEN_LOOKS, latest: now + LOOK, pause: PAUSES.0 },
            Err(setback) => {
                if self.failed() {
                    tracing::debug!(%setback, "operators still cannot be told");
                } else {
                    tracing::warn!(%setback, "operators cannot be told; usher tries again");
                }
                let next = now + self.pause;
                *self = Self { earliest: next, latest: next, pause: (self.pause * 2).min(PAUSES.1) };
            }
        }
    }
}

/// What it takes to tell operators.
pub struct Office {
    desk: Desk,
    status: watch::Receiver<Status>,
    place: Place,
    policy: Option<Deprovisioning>,
    /// Since when what has no time of its own fails.
    since: BTreeMap<&'static str, Timestamp>,
    pause: Duration,
}

impl Office {
    /// Tells the operators of `config`; also where there are none, because there may have been some.
    #[must_use]
    pub fn new(
        config: &Config,
        homeserver: &Homeserver,
        (store, lease): (&Store, Remainder),
        status: watch::Receiver<Status>,
    ) -> Self {
        let unique: BTreeSet<&UserId> = config.operators.iter().collect();
        Self {
            desk: Desk { homeserver: homeserver.clone(), store: store.clone(), lease },
            status,
            place: Place {
                instance: config.instance.clone(),
                server: config.homeserver.server_name.clone(),
                room_version: config.provisioner.room_version.clone(),
                operators: unique.into_iter().cloned().collect(),
            },
            policy: config.user_provisioner.deprovisioning.clone(),
            since: BTreeMap::new(),
            pause: PAUSES.0,
        }
    }

    /// Tells and listens until `stop`.
    pub async fn attend(mut self, stop: &CancellationToken) {
        loop {
            let setback = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.attend_once() => match ended {
                    Ok(()) => return,
                    Err(setback) => setback,
                },
            };
            if self.pause == PAUSES.0 {
                tracing::warn!(%setback, "operators cannot be heard; usher tries again");
            } else {
                tracing::debug!(%setback, "operators still cannot be heard");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause) => {}
            }
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
    }

    /// Until something does not work, or there is nothing to attend to.
    async fn attend_once(&mut self) -> Result<(), Setback> {
        if self.place.operators.is_empty() {
            return self.dissolve().await;
        }
        self.begin_with_locks().await?;
        // Before the first pass the bot may not be there to make a room.
        let _ = self.status.wait_for(|status| status.last_pass.is_some()).await;
        match self.attend_room().await {
            Ok(never) => match never {},
            Err(setback) => Err(setback),
        }
    }

    /// Nobody is an operator any more: what stands in the room is taken out, and everybody put out.
    async fn dissolve(&mut self) -> Result<(), Setback> {
        let store = &self.desk.store;
        let told = store.told().await?;
        let facts = [Fact::AnswersPosition, Fact::LocksTold];
        let mut known = !told.is_empty();
        for fact in facts {
            known |= store.fact(fact).await?.is_some();
        }
        if !known {
            return Ok(());
        }
        for told in &told {
            self.desk.take_out(told).await?;
        }
        if !self.desk.close(&self.place).await? {
            tracing::warn!("somebody cannot be removed from the operators' room; usher tries again at its next start");
            return Ok(());
        }
        for fact in facts {
            store.clear_fact(fact).await?;
        }
        Ok(())
    }

    /// Tells and listens until something does not work.
    async fn attend_room(&mut self) -> Result<Infallible, Setback> {
        let mut room = self.desk.open(&self.place).await?;
        let mut room_seen = Instant::now();
        let (homeserver, operators) = (self.desk.homeserver.clone(), self.place.operators.clone());
        let listen = |room: RoomId, position: Option<String>| {
            let (homeserver, operators) = (&homeserver, &operators);
            async move {
                tokio::time::sleep(BETWEEN_HEARS).await;
                homeserver.hear((&room, operators), position.as_deref(), HEAR_WAIT).await
            }
        };
        let mut position = self.desk.store.fact(Fact::AnswersPosition).await?;
        if position.is_none() {
            // What is answered counts from the first message on.
            let Heard { position: now, .. } = homeserver.hear((&room, &operators), None, Duration::ZERO).await?;
            self.desk.store.set_fact(Fact::AnswersPosition, &now).await?;
            position = Some(now);
        }
        let mut position_stored = None::<Instant>;
        let mut hearing = Box::pin(listen(room.clone(), position.clone()));
        let mut looks = Looks::default();
        loop {
            let heard = tokio::select! {
                heard = &mut hearing => Some(heard?),
                () = self.wake(&looks) => None,
            };
            if let Some(Heard { position: now, said }) = heard {
                for said in &said {
                    go_on(self.answer(&room, said).await)?;
                }
                if !said.is_empty() || position_stored.is_none_or(|at| at.elapsed() > PLACE_STORED) {
                    self.desk.store.set_fact(Fact::AnswersPosition, &now).await?;
                    position_stored = Some(Instant::now());
                }
                position = Some(now);
                hearing.set(listen(room.clone(), position.clone()));
                self.pause = PAUSES.0;
                continue;
            }
            // What cannot be told keeps nobody from answering what was.
            let looked = match self.desk.open_if(room_seen.elapsed() >= ROOM_LOOK || looks.failed(), &self.place).await
            {
                Ok(now) => {
                    if let Some(now) = now {
                        room_seen = Instant::now();
                        if now != room {
                            room = now;
                            hearing.set(listen(room.clone(), position.clone()));
                        }
                    }
                    self.look(&room).await
                }
                Err(setback) => Err(setback),
            };
            looks.ended(looked);
        }
    }

    /// Waits until it is time for a look: a pass has ended, or the last look was a while ago.
    async fn wake(&self, looks: &Looks) {
        let mut status = self.status.clone();
        tokio::time::sleep_until(looks.earliest).await;
        tokio::select! {
            // Nothing comes any more where whoever publishes it has ended; so does this, soon.
            Ok(()) = status.changed() => {}
            () = tokio::time::sleep_until(looks.latest) => {}
        }
    }

    /// Says what is new.
    async fn look(&mut self, room: &RoomId) -> Result<(), Setback> {
        let status = self.status.borrow_and_update().clone();
        let now = clock::now();
        let settled = status.last_pass.as_ref().is_some_and(|pass| pass.result == "ok" || pass.result == "failures");
        let failures = self.failures(&status, settled, now).await?;
        let Self { desk, place, .. } = self;
        let (holds, approvals) = desk.store.held().await?;
        let (told, elsewhere): (Vec<Told>, Vec<Told>) =
            desk.store.told().await?.into_iter().partition(|told| told.room == *room);
        // A room that was closed: nobody reads there what is over, and here nobody was told of it.
        for told in &elsewhere {
            desk.take_out(told).await?;
        }
        let sight = Sight { holds: &holds, approvals: &approvals, failures: &failures, settled, now };
        for item in news::news(&sight, &told) {
            match item {
                News::Tell(notice) => {
                    let before = told.iter().rev().find(|told| told.reason == notice.reason);
                    go_on(desk.tell(room, &notice, (before, &place.operators)).await)?;
                }
                News::Over(told) => {
                    let text = "Over: nothing of this is left, or everything is approved.";
                    go_on(desk.reply(room, (&told.event, &told.event), text).await)?;
                    desk.store.note_over(&told.event, now).await?;
                }
            }
        }
        go_on(self.tell_locks(room, now).await)?;
        for told in told.iter().filter(|told| now.since_ms(told.told_at) >= KEPT_MS).take(TAKEN_OUT) {
            self.desk.take_out(told).await?;
        }
        Ok(())
    }

    /// Everything that fails: what the status page has, the source, and passes that cannot be made at all.
    async fn failures(
        &mut self,
        status: &Status,
        settled: bool,
        now: Timestamp,
    ) -> Result<Vec<FailureStatus>, Setback> {
        let delayed = self.desk.store.delayed_registrations(MOST_DELAYED).await?;
        let mut failures = status.failures.clone();
        failures.extend(delayed.into_iter().map(FailureStatus::from));
        let source = status.source.problem.as_ref().map(|problem| FailureStatus {
            what: "the source cannot be read completely: nobody is removed or locked meanwhile".to_owned(),
            reason: problem.clone(),
            remedy: Some("`usher source test` shows which step fails".to_owned()),
            ..FailureStatus::default()
        });
        // Without a source there is no pass: that is told already.
        let failed = status.last_pass.as_ref().filter(|_| !settled && source.is_none());
        let pass = failed.map(|pass| FailureStatus {
            what: "no pass can be made: nothing is put right meanwhile".to_owned(),
            reason: pass.result.clone(),
            remedy: Some("`usher check` shows what is wrong".to_owned()),
            ..FailureStatus::default()
        });
        for (name, failure) in [("source", source), ("pass", pass)] {
            match failure {
                None => drop(self.since.remove(name)),
                Some(failure) => {
                    let since = *self.since.entry(name).or_insert(now);
                    failures.push(FailureStatus { since, retry_at: status.next_pass, ..failure });
                }
            }
        }
        Ok(failures)
    }

    /// Whoever is locked before there are operators is no news.
    async fn begin_with_locks(&self) -> Result<(), Setback> {
        if self.desk.store.fact(Fact::LocksTold).await?.is_none() {
            self.desk.store.set_fact(Fact::LocksTold, &clock::now().0.to_string()).await?;
        }
        Ok(())
    }

    /// Who was locked since the last look (S-52).
    async fn tell_locks(&self, room: &RoomId, now: Timestamp) -> Result<(), Setback> {
        let known = self.desk.store.fact(Fact::LocksTold).await?.and_then(|fact| fact.parse().ok());
        let told_until = known.map_or(now, Timestamp);
        let leavers = self.desk.store.leavers().await?;
        let policy = self.policy.as_ref();
        let due = |leaver: &Leaver| Some(leaver.due(policy?.grace_ms(leaver.cause)?));
        if let Some((notice, until)) = news::of_locks(&leavers, told_until, due, now) {
            self.desk.tell(room, &notice, (None, &self.place.operators)).await?;
            self.desk.store.set_fact(Fact::LocksTold, &until.0.to_string()).await?;
        }
        Ok(())
    }

    /// Carries out what an operator asks for, and says what came of it.
    async fn answer(&self, room: &RoomId, said: &Said) -> Result<(), Setback> {
        let Some(asked) = answers::approval(said) else { return Ok(()) };
        let told = self.desk.store.told().await?;
        let meant = match &asked {
            Approval::Message(event) => told.iter().find(|told| told.event == *event),
            Approval::Code(code) => told.iter().rev().find(|told| told.code == *code),
        };
        let text = match (meant, &asked) {
            (Some(told), _) if !told.code.is_empty() => self.approve(told, said).await?,
            // A sign of something else.
            (_, Approval::Message(_)) => return Ok(()),
            (_, Approval::Code(code)) => {
                format!("Nothing here goes by `{code}`: the code stands in the message that lists what waits.")
            }
        };
        let about = match &asked {
            Approval::Message(event) => event,
            Approval::Code(_) => &said.event,
        };
        self.desk.reply(room, (about, &said.event), &text).await
    }

    /// Approves what a message listed, as far as it still waits. An approval counts from when it was given.
    async fn approve(&self, told: &Told, said: &Said) -> Result<String, Setback> {
        let (now, by) = (clock::now(), &said.sender);
        let until = said.at.min(now).plus_ms(APPROVAL_MS);
        if until <= now {
            return Ok(format!(
                "This was given {} and is too old to count: approve once more what still waits.",
                said.at
            ));
        }
        // Heard a second time, because its reply was lost, it approves nothing that came to wait since.
        if told.over_at.is_some_and(|over| over >= said.at.min(now)) {
            return Ok("This is over, or was answered already.".to_owned());
        }
        let store = &self.desk.store;
        let holds = store.holds().await?;
        let held: BTreeSet<&StepId> = holds.iter().flat_map(|hold| &hold.steps).map(|step| &step.id).collect();
        let listed = store.listed_steps(&told.event).await?;
        let steps: Vec<StepId> = listed.into_iter().filter(|step| held.contains(step)).collect();
        if steps.is_empty() {
            return Ok("Nothing of this waits any more.".to_owned());
        }
        store.approve(&steps, until, by.as_str()).await?;
        store.note_over(&told.event, now).await?;
        let count = counted(steps.len() as u64, "step", "steps");
        tracing::info!(%by, steps = steps.len(), "approved in the operators' room");
        self.desk.record_approval(&told.room, by, &count).await?;
        Ok(format!(
            "{by} approved {count}. The next pass does what was listed; what is not done by {until} needs a new approval."
        ))
    }
}
