//! Who is let in (S-62): bearer tokens of the configuration, and server admins with their own access token, whom the homeserver vouches
//! for. Where it does not answer, nobody is let in on its word.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::header;
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
/// How many wrong credentials within [`WINDOW`] are answered one by one. Good ones are let in whatever others try.
const MOST_FAILURES: u32 = 30;
/// How long the homeserver may take to say whose token it is.
const PATIENCE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_mins(1);

/// Somebody who is let in.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub name: String,
    pub roles: Roles,
}

/// What credentials are accepted.
pub struct Gate {
    tokens: Vec<Token>,
    /// Server admins, and what they may do.
    admins: Option<(Homeserver, Roles)>,
    /// Also lets one question at a time reach the homeserver.
    answers: tokio::sync::Mutex<BTreeMap<Digest, (bool, Instant)>>,
    failures: Mutex<Option<(Instant, u32)>>,
    most_failures: u32,
}

impl Gate {
    /// Accepts these tokens, and server admins of this homeserver.
    #[must_use]
    pub fn new(tokens: Vec<Token>, admins: Option<(Homeserver, Roles)>) -> Self {
        let (answers, failures) = (tokio::sync::Mutex::default(), Mutex::new(None));
        Self { tokens, admins, answers, failures, most_failures: MOST_FAILURES }
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
        let mut answers = self.answers.lock().await;
        if let Some((answer, until)) = answers.get(&digest)
            && Instant::now() < *until
        {
            return Ok(*answer);
        }
        if let Some(refusal) = self.too_many() {
            return Err(refusal);
        }
        let token = shown.to_owned().into();
        let asked = tokio::time::timeout(PATIENCE, homeserver.vouches_for_admin(&token)).await;
        let cause = match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let answer = cause.map_err(|cause| {
            tracing::warn!(cause, "the homeserver could not be asked about a SCIM credential");
            Refusal::from(Error::new(503, "the homeserver does not answer, and only it knows this credential"))
        })?;
        let now = Instant::now();
        answers.retain(|_, (_, until)| now < *until);
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        answers.insert(digest, (answer, now + if answer { YES_FOR } else { NO_FOR }));
        Ok(answer)
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
        let later = (header::RETRY_AFTER, (left.as_secs() + 1).to_string());
        Some(Refusal::Answer(Box::new(Answer { headers: vec![later], ..Answer::error(&error) })))
    }
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
