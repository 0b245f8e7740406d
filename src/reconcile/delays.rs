//! What failed and is left alone for a while, longer each time (S-82): one account or room that the homeserver always answers with an error
//! keeps only itself waiting.

use std::collections::BTreeMap;

use super::PAUSES_MS;
use crate::ids::Timestamp;
use crate::observability::FailureStatus;

/// Something that failed and is left alone for a while.
#[derive(Clone, Debug)]
pub(super) struct Delay {
    cause: String,
    failures: u32,
    since: Timestamp,
    until: Timestamp,
}

impl Delay {
    /// One more failure, after those `before`.
    pub(super) fn after(before: Option<Self>, cause: String, now: Timestamp) -> Self {
        let (failures, since) = before.map_or((0, now), |before| (before.failures, before.since));
        Self { cause, failures: failures + 1, since, until: now.back_off(failures, PAUSES_MS) }
    }

    /// Whether it is left alone now.
    pub(super) fn lasts(&self, now: Timestamp) -> bool {
        self.until > now
    }

    /// What an operator should know.
    pub(super) fn status(&self, what: String) -> FailureStatus {
        FailureStatus { what, reason: self.cause.clone(), remedy: None, since: self.since, retry_at: Some(self.until) }
    }
}

/// People or rooms of whom something cannot be read.
#[derive(Debug)]
pub(super) struct Delays<K>(BTreeMap<K, Delay>);

impl<K> Default for Delays<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Delays<K> {
    /// Whether it is left alone now.
    pub(super) fn holds(&self, key: &K, now: Timestamp) -> bool {
        self.0.get(key).is_some_and(|delay| delay.lasts(now))
    }

    /// Whether something is to be tried again.
    pub(super) fn are_over(&self, now: Timestamp) -> bool {
        self.0.values().any(|delay| !delay.lasts(now))
    }

    /// Whether it failed the last time.
    pub(super) fn fails(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Whether nothing is known to fail.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn failed(&mut self, key: &K, cause: String, now: Timestamp) {
        let before = self.0.remove(key);
        self.0.insert(key.clone(), Delay::after(before, cause, now));
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Forgets the trouble with all others.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// What an operator should know; `what` says it of one of them.
    pub(super) fn failures(&self, what: impl Fn(&K) -> String) -> impl Iterator<Item = FailureStatus> {
        self.0.iter().map(move |(key, delay)| delay.status(what(key)))
    }
}
