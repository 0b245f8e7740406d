//! Whether the clocks may decide that a grace period is over (S-53).
//!
//! Pure: what the clocks say comes in as arguments. Never sooner is the rule: a clock that is in doubt holds every final step.

use serde::{Deserialize, Serialize};

use crate::ids::Timestamp;

/// How far two clocks may be apart, in milliseconds.
pub const TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// How long somebody must have been seen as due, where grace began before this process, in milliseconds.
pub const TWO_LOOKS_MS: i64 = 10 * 60 * 1000;

/// What is known of the clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clocks {
    /// When this process began, by the wall clock; `None`: no process looks (a recorded world).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// The wall clock leapt against the time that really passed, since the process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leapt_ms: Option<i64>,
    /// Our clock minus the homeserver's (its `Date`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homeserver_ms: Option<i64>,
    /// Our clock minus the database's, where that has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_ms: Option<i64>,
    /// The process goes on looking (`usher run`): what an earlier one saw is none of its two looks. Where each look is a process of its
    /// own (`usher apply`), those of others count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lasting: bool,
}

impl Clocks {
    /// Takes in that the process has really run for `passed_ms` when the wall clock says `now`. A leap, once seen, is remembered.
    pub fn tick(&mut self, now: Timestamp, passed_ms: i64) {
        let started = *self.started.get_or_insert(now.plus_ms(-passed_ms));
        let leap = now.since_ms(started) - passed_ms;
        if leap.abs() > TOLERANCE_MS && self.leapt_ms.is_none() {
            self.leapt_ms = Some(leap);
        }
    }

    /// Why no clock decides anything now.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let minutes = |ms: i64| format!("{} min", ms.abs() / 60_000);
        if let Some(leap) = self.leapt_ms {
            let whither = if leap > 0 { "forward" } else { "back" };
            return Some(format!(
                "the clock leapt {whither} by {} while usher ran: restart usher once it is right",
                minutes(leap)
            ));
        }
        let apart = |ms: &i64| ms.abs() > TOLERANCE_MS;
        if let Some(ms) = self.homeserver_ms.filter(apart) {
            return Some(format!("usher's clock and the homeserver's are {} apart", minutes(ms)));
        }
        let ms = self.database_ms.filter(apart)?;
        Some(format!("usher's clock and the database's are {} apart", minutes(ms)))
    }

    /// Whether a grace period that began at `clock` and was first seen as over at `due_seen` is over, as two looks see it.
    #[must_use]
    pub fn agree(&self, clock: Timestamp, due_seen: Option<Timestamp>, now: Timestamp) -> bool {
        let own = self.started.is_none_or(|started| clock >= started);
        own || due_seen.is_some_and(|seen| self.counts(seen, now) && now.since_ms(seen) >= TWO_LOOKS_MS)
    }

    /// Whether what was first seen as due at `seen` is the first of two looks: not if it lies in the future, nor, in a process that goes on
    /// looking, if an earlier one saw it.
    #[must_use]
    pub fn counts(&self, seen: Timestamp, now: Timestamp) -> bool {
        let earlier = self.lasting && self.started.is_some_and(|started| seen < started);
        seen <= now && !earlier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn a_leap_in_a_running_process_holds_for_its_life() {
        let mut clocks = Clocks::default();
        clocks.tick(Timestamp(0), 0);
        clocks.tick(Timestamp(60 * MINUTE), 60 * MINUTE);
        assert_eq!(clocks.doubt(), None);
        clocks.tick(Timestamp(600 * MINUTE), 61 * MINUTE);
        assert!(clocks.doubt().unwrap().contains("leapt forward by 539 min"));
        clocks.tick(Timestamp(62 * MINUTE), 62 * MINUTE);
        assert!(clocks.doubt().is_some(), "what was decided by it is not known");
    }

    #[test]
    fn clocks_five_minutes_apart_are_in_doubt() {
        for (ms, doubted) in [(0, false), (5 * MINUTE, false), (5 * MINUTE + 1, true), (-6 * MINUTE, true)] {
            let other = Clocks { homeserver_ms: Some(ms), ..Clocks::default() };
            assert_eq!(other.doubt().is_some(), doubted, "homeserver {ms}");
            let other = Clocks { database_ms: Some(ms), ..Clocks::default() };
            assert_eq!(other.doubt().is_some(), doubted, "database {ms}");
        }
    }

    #[test]
    fn after_a_restart_two_looks_ten_minutes_apart_are_needed_and_only_then() {
        let clocks = Clocks { started: Some(Timestamp(100 * MINUTE)), ..Clocks::default() };
        let now = Timestamp(120 * MINUTE);
        assert!(clocks.agree(Timestamp(101 * MINUTE), None, now), "begun by this process");
        assert!(!clocks.agree(Timestamp(99 * MINUTE), None, now));
        assert!(!clocks.agree(Timestamp(99 * MINUTE), Some(Timestamp(111 * MINUTE)), now));
        assert!(clocks.agree(Timestamp(99 * MINUTE), Some(Timestamp(110 * MINUTE)), now));
    }

    #[test]
    fn a_look_before_the_restart_is_the_first_of_two_only_where_each_look_is_a_process() {
        let (clock, now) = (Timestamp(0), Timestamp(120 * MINUTE));
        let before = Some(Timestamp(100 * MINUTE));
        let apply = Clocks { started: Some(Timestamp(119 * MINUTE)), ..Clocks::default() };
        assert!(apply.agree(clock, before, now));
        let run = Clocks { lasting: true, ..apply };
        assert!(!run.agree(clock, before, now), "one look since the restart, whenever an earlier process looked");
        assert!(!run.counts(Timestamp(100 * MINUTE), now));
        let later = Timestamp(130 * MINUTE);
        assert!(run.agree(clock, Some(now), later) && run.counts(now, later));
        assert!(!run.counts(later, now), "what is yet to come was not seen");
    }
}
