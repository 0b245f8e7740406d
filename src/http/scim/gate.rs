//! Who is let in (S-62): bearer tokens of the configuration, and server admins with their own access token, whom the homeserver vouches
//! for. Where it does not answer, nobody is let in on its word.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Answer, Refusal};
use crate::ids::Timestamp;
use crate::matrix::Homeserver;
use crate::scim::Error;
use crate::scim::access::{Digest, Roles, Shown, Token, look_up};

/// How long the homeserver's yes counts, and its no.
const YES_FOR: Duration = Duration::from_mins(1);
const NO_FOR: Duration = Duration::from_secs(5);
/// Answers of the homeserver kept at most.
const MOST_ANSWERS: usize = 256;
/// How long nobody is asked about after the homeserver did not answer.
const AWAY_FOR: Duration = Duration::from_secs(1);
/// Credentials that wait for the homeserver at a time: whoever guesses must not take every connection.
const MOST_ASKED: usize = 8;
/// How many wrong credentials within [`WINDOW`] are answered one by one. Tokens of the configuration are let in whatever others try, and
/// a server admin's own whom the homeserver vouched for within [`YES_FOR`].
const MOST_FAILURES: u32 = 30;
/// On top of what is told in whole seconds; and a wait that is short.
const SOON: Duration = Duration::from_secs(1);
/// How long the homeserver may take to say whose token it is.
const PATIENCE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_mins(1);

/// Somebody who is let in.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub name: String,
    pub roles: Roles,
}

/// What the homeserver said.
#[derive(Default)]
struct Answers {
    known: BTreeMap<Digest, (bool, Instant)>,
    /// It did not answer: until when it is not asked again.
    away: Option<Instant>,
}

/// What credentials are accepted.
pub struct Gate {
    tokens: Vec<Token>,
    /// Server admins, and what they may do.
    admins: Option<(Homeserver, Roles)>,
    answers: Mutex<Answers>,
    /// One question at a time reaches the homeserver, and few wait for their turn.
    asking: tokio::sync::Mutex<()>,
    in_line: Semaphore,
    failures: Mutex<Option<(Instant, u32)>>,
    most_failures: u32,
}

impl Gate {
    /// Accepts these tokens, and server admins of this homeserver.
    #[must_use]
    pub fn new(tokens: Vec<Token>, admins: Option<(Homeserver, Roles)>) -> Self {
        Self {
            tokens,
            admins,
            answers: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            in_line: Semaphore::new(MOST_ASKED),
            failures: Mutex::default(),
            most_failures: MOST_FAILURES,
        }
    }

    /// Answers so many wrong credentials a minute one by one.
    #[must_use]
    pub fn tolerating(self, most_failures: u32) -> Self {
        Self { most_failures, ..self }
    }

    /// Lets somebody in, or says why not: 401, 429 after too many failures, 503 where the homeserver had to be asked and is away.
    pub(super) async fn admit(&self, shown: Option<&str>, now: Timestamp) -> Result<Admitted, Refusal> {
        let Some(shown) = shown.filter(|shown| !shown.is_empty()) else { return Err(self.failed("no bearer token")) };
        match look_up(&self.tokens, shown, now) {
            Shown::Accepted { name, roles } => return Ok(Admitted { name, roles }),
            Shown::Expired => return Err(self.failed("an expired token")),
            Shown::Unknown => {}
        }
        if let Some((homeserver, roles)) = &self.admins
            && self.is_admin(homeserver, shown).await?
        {
            return Ok(Admitted { name: "server admin".to_owned(), roles: *roles });
        }
        Err(self.failed("an unknown token"))
    }

    async fn is_admin(&self, homeserver: &Homeserver, shown: &str) -> Result<bool, Refusal> {
        let digest = Digest::of(shown);
        if let Some(answer) = self.remembered(&digest)? {
            return Ok(answer);
        }
        if let Some(refusal) = self.too_many() {
            return Err(refusal);
        }
        let Ok(_in_line) = self.in_line.try_acquire() else { return Err(crowded()) };
        let _alone = self.asking.lock().await;
        if let Some(answer) = self.remembered(&digest)? {
            return Ok(answer);
        }
        let token = shown.to_owned().into();
        let asked = tokio::time::timeout(PATIENCE, homeserver.vouches_for_admin(&token)).await;
        let cause = match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let mut answers = self.answers();
        let answer = cause.map_err(|cause| {
            tracing::warn!(cause, "the homeserver could not be asked about a SCIM credential");
            answers.away = Some(Instant::now() + AWAY_FOR);
            unasked()
        })?;
        let now = Instant::now();
        answers.known.retain(|_, (_, until)| now < *until);
        if answers.known.len() >= MOST_ANSWERS {
            answers.known.clear();
        }
        answers.known.insert(digest, (answer, now + if answer { YES_FOR } else { NO_FOR }));
        Ok(answer)
    }

    /// What the homeserver said lately of a credential; an error while it is not to be asked.
    fn remembered(&self, digest: &Digest) -> Result<Option<bool>, Refusal> {
        let (answers, now) = (self.answers(), Instant::now());
        match answers.known.get(digest) {
            Some((answer, until)) if now < *until => Ok(Some(*answer)),
            _ if answers.away.is_some_and(|until| now < until) => Err(unasked()),
            _ => Ok(None),
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a wrong credential and says how it is answered.
    fn failed(&self, what: &'static str) -> Refusal {
        if let Some(refusal) = self.too_many() {
            return refusal;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *failures {
            Some((_, count)) => *count += 1,
            none => *none = Some((Instant::now(), 1)),
        }
        tracing::debug!(what, "a SCIM request was not let in");
        let error = Error::new(401, "a valid bearer token is needed");
        let challenge = (header::WWW_AUTHENTICATE, "Bearer realm=\"usher\"".to_owned());
        Refusal::Answer(Box::new(Answer { headers: vec![challenge], ..Answer::error(&error) }))
    }

    fn too_many(&self) -> Option<Refusal> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = (*failures)?;
        let left = WINDOW.saturating_sub(began.elapsed());
        if left.is_zero() {
            *failures = None;
            return None;
        }
        if count < self.most_failures {
            return None;
        }
        if count == self.most_failures {
            tracing::warn!("many wrong credentials at the SCIM listener: more are answered 429 for a minute");
            *failures = Some((began, count + 1));
        }
        let error = Error::new(429, "too many wrong credentials; try again later");
        Some(Refusal::later(&error, left + SOON))
    }
}

fn unasked() -> Refusal {
    let away = Error::new(503, "the homeserver does not answer, and only it knows this credential");
    Refusal::later(&away, AWAY_FOR + SOON)
}

fn crowded() -> Refusal {
    let many = Error::new(503, "only the homeserver knows this credential, and it is being asked about others");
    Refusal::later(&many, SOON)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(result: Result<Admitted, Refusal>) -> u16 {
        result.map_or_else(|refusal| refusal.answer().status, |_| 200)
    }

    #[tokio::test(start_paused = true)]
    async fn many_failures_are_answered_429_for_a_minute_and_good_tokens_are_let_in_all_the_time() {
        let good =
            Token { digest: Digest::of("good"), name: "idp".to_owned(), roles: Roles::new(["*:*"]), not_after: None };
        let gate = Gate::new(vec![good], None);
        for _ in 0..MOST_FAILURES {
            assert_eq!(status(gate.admit(Some("bad"), Timestamp(0)).await), 401);
        }
        for wrong in [Some("bad"), Some(""), None] {
            assert_eq!(status(gate.admit(wrong, Timestamp(0)).await), 429);
        }
        assert_eq!(status(gate.admit(Some("good"), Timestamp(0)).await), 200);
        tokio::time::sleep(WINDOW).await;
        assert_eq!(status(gate.admit(Some("bad"), Timestamp(0)).await), 401);
    }
}
