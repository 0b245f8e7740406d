//! What usher tells the people who run it, in a Matrix room of theirs, and what they approve there (S-52, S-81, S-97).
//!
//! ```text
//! operators.rs   looks after each pass, writes what is new, listens for answers
//!   news         what is to be told: once per reason, daily while it lasts
//!   notice       one message, as text and as an event
//!   answers      what an operator's message asks for
//!   room         the room: made once, closed to everybody else
//! ```
//! Works beside the loop, as mail does: an approval is a row that the loop picks up (S-85), and nothing else here changes what usher does.
//! Never lets anybody approve who is not in `operators:`, nor more than the message listed that they answered.

mod answers;
mod news;
mod notice;
mod room;

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
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
use crate::store::audit::AuditRecord;
use crate::store::{Fact, Store, StoreError, Told};
use answers::Approval;
use news::{News, Sight};
use notice::{Notice, reply};
use room::Place;

/// How long one request for answers waits: as the feed's, so that an idle usher makes few.
const HEAR_WAIT: Duration = Duration::from_secs(50);
/// How often there is a look without a pass: what is due daily must not wait for one.
const LOOK: Duration = Duration::from_mins(5);
/// How often the room is looked at: who is in it, and whether it is still there.
const ROOM_LOOK: Duration = Duration::from_hours(1);
/// Pauses after something did not work: the first, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// Looks are at least so far apart: a first synchronisation ends a slice every two seconds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// Messages are taken out of the room after so long, in milliseconds: names of people who left must not stand there for ever.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;
/// Messages taken out at one look.
const TAKEN_OUT: usize = 20;
/// Accounts that could not be made so far, looked at.
const MOST_DELAYED: u32 = 1000;

/// Who acts where nobody else does, as the audit has it.
const USHER: &str = "usher";

/// Why something did not work. Everything is tried again.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error("{0}")]
    Homeserver(#[from] MatrixError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Setback {
    /// Whether the room may be closed, or the bot thrown out of it.
    fn is_of_the_room(&self) -> bool {
        matches!(self, Self::Homeserver(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound))
    }
}

/// What it takes to tell operators.
pub struct Office {
    homeserver: Homeserver,
    store: Store,
    status: watch::Receiver<Status>,
    place: Place,
    policy: Option<Deprovisioning>,
    /// Since when the source cannot be read, or not completely.
    source_since: Option<Timestamp>,
}

impl Office {
    /// `None`: nobody is to be told.
    #[must_use]
    pub fn new(
        config: &Config,
        homeserver: &Homeserver,
        store: &Store,
        status: watch::Receiver<Status>,
    ) -> Option<Self> {
        if config.operators.is_empty() {
            return None;
        }
        let unique: BTreeSet<&UserId> = config.operators.iter().collect();
        Some(Self {
            homeserver: homeserver.clone(),
            store: store.clone(),
            status,
            place: Place {
                instance: config.instance.clone(),
                server: config.homeserver.server_name.clone(),
                room_version: config.provisioner.room_version.clone(),
                operators: unique.into_iter().cloned().collect(),
            },
            policy: config.user_provisioner.deprovisioning.clone(),
            source_since: None,
        })
    }

    /// Tells and listens until `stop`.
    pub async fn attend(mut self, stop: &CancellationToken) {
        let mut pause = PAUSES.0;
        let mut first = true;
        while !stop.is_cancelled() {
            let attended = tokio::select! {
                () = stop.cancelled() => return,
                attended = self.attend_room(&mut first) => attended,
            };
            let Err(setback) = attended;
            if pause > PAUSES.0 {
                tracing::debug!(%setback, "operators still cannot be told");
            } else {
                tracing::warn!(%setback, "operators cannot be told; usher tries again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = if setback.is_of_the_room() { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
        }
    }

    /// Tells and listens until something does not work.
    async fn attend_room(&mut self, first: &mut bool) -> Result<std::convert::Infallible, Setback> {
        // Before the bot is registered there is nobody to make a room.
        self.status.wait_for(|status| status.last_pass.is_some()).await.ok();
        let mut room = self.open(*first).await?;
        *first = false;
        let mut room_seen = Instant::now();
        let (homeserver, operators) = (self.homeserver.clone(), self.place.operators.clone());
        let listen = |room: RoomId, position: Option<String>| {
            let (homeserver, operators) = (&homeserver, &operators);
            async move { homeserver.hear((&room, operators), position.as_deref(), HEAR_WAIT).await }
        };
        let mut position = self.store.fact(Fact::AnswersPosition).await?;
        let mut hearing = Box::pin(listen(room.clone(), position.clone()));
        let mut looked = None;
        loop {
            let heard = tokio::select! {
                heard = &mut hearing => Some(heard?),
                () = self.wake(looked) => None,
            };
            if let Some(Heard { position: now, said }) = heard {
                for said in &said {
                    self.answer(&room, said).await?;
                }
                if position.as_ref() != Some(&now) {
                    self.store.set_fact(Fact::AnswersPosition, &now).await?;
                    position = Some(now);
                }
                hearing.set(listen(room.clone(), position.clone()));
                continue;
            }
            if room_seen.elapsed() >= ROOM_LOOK {
                let now = self.open(false).await?;
                room_seen = Instant::now();
                if now != room {
                    room = now;
                    hearing.set(listen(room.clone(), position.clone()));
                }
            }
            self.look(&room).await?;
            looked = Some(Instant::now());
        }
    }

    /// Waits until it is time for a look: a pass has ended, or the last look was a while ago.
    async fn wake(&self, looked: Option<Instant>) {
        let Some(looked) = looked else { return };
        let mut status = self.status.clone();
        tokio::time::sleep_until(looked + BETWEEN_LOOKS).await;
        tokio::select! {
            // Whoever publishes it has ended: so will this.
            _ = status.changed() => {}
            () = tokio::time::sleep_until(looked + LOOK) => {}
        }
    }

    async fn open(&self, again: bool) -> Result<RoomId, Setback> {
        let (room, deeds) = self.place.open(&self.homeserver, again).await?;
        for deed in deeds {
            tracing::info!(action = deed.action, user = deed.person.as_ref().map(UserId::as_str), "operators' room");
            let person = deed.person.map(|person| person.to_string()).unwrap_or_default();
            self.record(&room, (USHER, deed.action), (person, String::new())).await?;
        }
        Ok(room)
    }

    /// Writes what is new into the room.
    async fn look(&mut self, room: &RoomId) -> Result<(), Setback> {
        let status = self.status.borrow_and_update().clone();
        let now = clock::now();
        let failures = self.failures(&status, now).await?;
        let (holds, approvals, told) =
            (self.store.holds().await?, self.store.approvals().await?, self.store.told().await?);
        let settled = status.last_pass.as_ref().is_some_and(|pass| pass.result == "ok" || pass.result == "failures");
        let sight = Sight { holds: &holds, approvals: &approvals, failures: &failures, settled, now };
        for item in news::news(&sight, &told) {
            match item {
                News::Tell(notice) => {
                    let before = told.iter().rev().find(|told| told.reason == notice.reason);
                    self.tell(room, &notice, before.map_or("", |told| told.event.as_str())).await?;
                }
                News::Over(told) => {
                    let over = reply(&told.event, "Over: nothing of this is left, or everything is approved.");
                    self.homeserver.say(&told.room, &transaction(&["over", told.event.as_str()]), over).await?;
                    self.store.note_over(&told.event, now).await?;
                }
            }
        }
        self.tell_locks(room, now).await?;
        self.take_out(&told, now).await
    }

    /// Everything that fails, as the status page has it.
    async fn failures(&mut self, status: &Status, now: Timestamp) -> Result<Vec<FailureStatus>, Setback> {
        let mut failures = status.failures.clone();
        failures.extend(self.store.delayed_registrations(MOST_DELAYED).await?.into_iter().map(FailureStatus::from));
        match &status.source.problem {
            None => self.source_since = None,
            Some(problem) => failures.push(FailureStatus {
                what: "the source cannot be read completely: nobody is removed or locked meanwhile".to_owned(),
                reason: problem.clone(),
                remedy: Some("`usher source test` shows which step fails".to_owned()),
                since: *self.source_since.get_or_insert(now),
                retry_at: status.next_pass,
            }),
        }
        Ok(failures)
    }

    /// `before`: what was told last for the same reason, so that a message whose answer was lost is not written twice.
    async fn tell(&self, room: &RoomId, notice: &Notice, before: &str) -> Result<(), Setback> {
        let now = clock::now();
        let content = notice.content(&self.place.operators);
        let transaction = transaction(&[&notice.reason, &notice.code, before]);
        let event = self.homeserver.say(room, &transaction, content).await?;
        // There is no end of a lock to be told.
        let over_at = notice.reason.starts_with(news::LOCKED).then_some(now);
        let told = Told {
            event,
            room: room.clone(),
            reason: notice.reason.clone(),
            code: notice.code.clone(),
            told_at: now,
            over_at,
            steps: notice.steps.clone(),
        };
        self.store.note_told(&told).await?;
        tracing::info!(%room, reason = notice.reason, "operators told");
        self.record(room, (USHER, "tell"), (String::new(), notice.headline.clone())).await
    }

    /// Who was locked since the last look (S-52). Where nobody was told before, those who are locked already are no news.
    async fn tell_locks(&self, room: &RoomId, now: Timestamp) -> Result<(), Setback> {
        let known = self.store.fact(Fact::LocksTold).await?.and_then(|fact| fact.parse().ok()).map(Timestamp);
        let leavers = self.store.leavers().await?;
        let Some(told_until) = known else {
            let youngest = leavers.values().map(|leaver| leaver.since).max().unwrap_or_default();
            self.store.set_fact(Fact::LocksTold, &youngest.0.to_string()).await?;
            return Ok(());
        };
        let policy = self.policy.as_ref();
        let due = |leaver: &Leaver| Some(leaver.due(policy?.grace_ms(leaver.cause)?));
        if let Some((notice, until)) = news::of_locks(&leavers, told_until, due, now) {
            self.tell(room, &notice, "").await?;
            self.store.set_fact(Fact::LocksTold, &until.0.to_string()).await?;
        }
        Ok(())
    }

    /// Takes old messages out of the room.
    async fn take_out(&self, told: &[Told], now: Timestamp) -> Result<(), Setback> {
        for told in told.iter().filter(|told| now.since_ms(told.told_at) >= KEPT_MS).take(TAKEN_OUT) {
            match self.homeserver.unsay(&told.room, &told.event).await {
                Err(error) if matches!(error.trouble, Trouble::Away | Trouble::RateLimited) => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "an old message cannot be taken out of the operators' room"),
                Ok(()) => {}
            }
            self.store.forget_told(&told.event).await?;
        }
        Ok(())
    }

    /// Carries out what an operator asks for, and says what came of it.
    async fn answer(&self, room: &RoomId, said: &Said) -> Result<(), Setback> {
        let Some(asked) = answers::approval(said) else { return Ok(()) };
        let told = self.store.told().await?;
        let meant = match &asked {
            Approval::Message(event) => told.iter().find(|told| told.event == *event),
            Approval::Code(code) => told.iter().rev().find(|told| told.code == *code && !code.is_empty()),
        };
        let text = match (meant, &asked) {
            (Some(told), _) if !told.steps.is_empty() => self.approve(told, &said.sender).await?,
            // A thumb up for something else.
            (_, Approval::Message(_)) => return Ok(()),
            (_, Approval::Code(code)) => {
                format!("Nothing here goes by `{code}`: it stands in the message that lists what waits.")
            }
        };
        let about = match &asked {
            Approval::Message(event) => event,
            Approval::Code(_) => &said.event,
        };
        self.homeserver.say(room, &transaction(&["answer", said.event.as_str()]), reply(about, &text)).await?;
        Ok(())
    }

    /// Approves what a message listed, as far as it still waits.
    async fn approve(&self, told: &Told, by: &UserId) -> Result<String, Setback> {
        let now = clock::now();
        let holds = self.store.holds().await?;
        let held: BTreeSet<&StepId> = holds.iter().flat_map(|hold| &hold.steps).map(|step| &step.id).collect();
        let steps: Vec<StepId> = told.steps.iter().filter(|step| held.contains(step)).cloned().collect();
        if steps.is_empty() {
            return Ok("Nothing of this waits any more.".to_owned());
        }
        let until = now.plus_ms(APPROVAL_MS);
        self.store.approve(&steps, until, by.as_str()).await?;
        self.store.note_over(&told.event, now).await?;
        let count = counted(steps.len() as u64, "step", "steps");
        tracing::info!(%by, steps = steps.len(), "approved in the operators' room");
        self.record(&told.room, (by.as_str(), "approve"), (String::new(), count.clone())).await?;
        Ok(format!(
            "{by} approved {count}. The next pass does what was listed; what is not done by {until} needs a new approval."
        ))
    }

    /// A row of the audit: who did what, on whom, with what result.
    async fn record(
        &self,
        room: &RoomId,
        (actor, action): (&str, &str),
        (person, after): (String, String),
    ) -> Result<(), Setback> {
        let at = clock::now();
        let digest = transaction(&[action, room.as_str(), &person, &after]);
        let record = AuditRecord {
            id: format!("{}-operators-{digest}", at.0),
            at,
            pass: at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            place: room.to_string(),
            person,
            reason: "operators".to_owned(),
            after,
            result: "done".to_owned(),
            ..AuditRecord::default()
        };
        Ok(self.store.audit(&[record]).await?)
    }
}

/// The same for the same message.
fn transaction(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    hex::encode(&digest.finalize()[..16])
}
