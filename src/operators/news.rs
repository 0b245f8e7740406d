//! What operators are to be told now: holds, lasting failures, locks (S-52, S-81, S-82, S-97). Once per reason, daily while it lasts.
//!
//! Decides from values only; sends nothing.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::notice::Notice;
use crate::cli::hold::APPROVAL_MS;
use crate::ids::{Timestamp, UserId};
use crate::ledger::{DAY_MS, Leaver, Stage};
use crate::observability::FailureStatus;
use crate::plan::{StepId, counted};
use crate::store::{HeldStep, HoldRow, Told, class_name};

/// A failure counts as lasting from then on, in milliseconds: by then a failed step was tried again some eight times.
pub(super) const LASTING_MS: i64 = 30 * 60 * 1000;
/// Kinds of failures that are told of within a day; the others are on the status page.
pub(super) const FAILURES_A_DAY: usize = 10;
/// Lines of one message.
const LINES: usize = 10;
/// What was over and is back is told again after so long, in milliseconds: what comes and goes with every pass is one piece of news.
const AGAIN_MS: i64 = 60 * 60 * 1000;

/// What a look found.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub holds: &'a [HoldRow],
    pub approvals: &'a BTreeMap<StepId, Timestamp>,
    pub failures: &'a [FailureStatus],
    /// Whether these are all failures there are: none is known while passes cannot be made.
    pub settled: bool,
    pub now: Timestamp,
}

/// Something to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News<'t> {
    Tell(Notice),
    /// What this message told of is over.
    Over(&'t Told),
}

/// What is to be said after `told`.
pub(super) fn news<'t>(sight: &Sight<'_>, told: &'t [Told]) -> Vec<News<'t>> {
    let latest: BTreeMap<&str, &Told> = told.iter().map(|told| (told.reason.as_str(), told)).collect();
    let mut news = Vec::new();
    let mut lasting = BTreeSet::new();
    for hold in sight.holds {
        let notice = of_hold(hold, sight);
        if let Some(notice) = notice {
            lasting.insert(notice.reason.clone());
            if is_due(&notice, latest.get(notice.reason.as_str()).copied(), sight.now) {
                news.push(News::Tell(notice));
            }
        }
    }
    let mut kinds: Vec<_> = kinds(sight.failures).into_iter().collect();
    // Those that were never told come first, then those that waited longest.
    kinds.sort_by_key(|(reason, _)| latest.get(reason.as_str()).map(|told| told.told_at));
    let today = |told: &&Told| told.reason.starts_with(FAILURE) && sight.now.since_ms(told.told_at) < DAY_MS;
    let mut left = FAILURES_A_DAY.saturating_sub(told.iter().filter(today).count());
    for (reason, failures) in kinds {
        let last = latest.get(reason.as_str()).copied();
        lasting.insert(reason.clone());
        let is_old = failures.iter().any(|failure| sight.now.since_ms(failure.since) >= LASTING_MS);
        let notice = of_failures(reason, &failures, sight.now);
        if is_old && left > 0 && is_due(&notice, last, sight.now) {
            left -= 1;
            news.push(News::Tell(notice));
        }
    }
    let over = latest.into_values().filter(|told| told.over_at.is_none() && !lasting.contains(&told.reason));
    news.extend(over.filter(|told| sight.settled || !told.reason.starts_with(FAILURE)).map(News::Over));
    news
}

/// Whether something is told now that was told last by `last`: never so far, a day ago, or it is back and not the same, or back after a while.
fn is_due(notice: &Notice, last: Option<&Told>, now: Timestamp) -> bool {
    let Some(last) = last else { return true };
    let age_ms = now.since_ms(last.told_at);
    let is_back = last.over_at.is_some() && (notice.code != last.code || age_ms >= AGAIN_MS);
    is_back || age_ms >= DAY_MS
}

const HOLD: &str = "hold:";
const FAILURE: &str = "failure:";

/// What of a hold waits for somebody; `None`: everything is approved.
fn of_hold(hold: &HoldRow, sight: &Sight<'_>) -> Option<Notice> {
    let approved = |step: &HeldStep| sight.approvals.get(&step.id).is_some_and(|until| *until > sight.now);
    let waiting: Vec<&HeldStep> = hold.steps.iter().filter(|step| !approved(step)).collect();
    if waiting.is_empty() {
        return None;
    }
    let steps: Vec<StepId> = waiting.iter().map(|step| step.id.clone()).collect();
    let code = code(&hold.id, &steps);
    let count = counted(waiting.len() as u64, "step waits", "steps wait");
    let closing = format!(
        "To let this happen, react to this message with ✅, or write `approve {code}`. That covers what is listed by `usher hold show {}` now and \
         nothing that comes later; what is not done within {} hours needs a new approval.",
        hold.id,
        APPROVAL_MS / 3_600_000
    );
    Some(Notice {
        headline: format!("{count} for your approval: {}", class_name(hold.class)),
        about: vec![hold.detail.clone(), format!("Held since {}.", hold.first_held_at)],
        items: waiting.iter().take(LINES).map(|step| step.text.clone()).collect(),
        left_out: waiting.len().saturating_sub(LINES),
        closing,
        reason: format!("{HOLD}{}", hold.id),
        lasts: true,
        code,
        steps,
    })
}

/// Failures by what is behind them: a thousand people who are refused for one reason are one piece of news.
fn kinds(failures: &[FailureStatus]) -> BTreeMap<String, Vec<&FailureStatus>> {
    let mut kinds: BTreeMap<String, Vec<&FailureStatus>> = BTreeMap::new();
    for failure in failures {
        let digest = Sha256::digest(kind(&failure.reason));
        kinds.entry(format!("{FAILURE}{}", hex::encode(&digest[..8]))).or_default().push(failure);
    }
    kinds
}

/// A cause without the ids and numbers in it.
fn kind(cause: &str) -> String {
    let plain = |word: &str| match word.trim_start_matches(['\'', '"', '(', '`']).chars().next() {
        Some(sigil @ ('@' | '!' | '#' | '$')) => sigil.to_string(),
        _ => word.chars().filter(|letter| !letter.is_ascii_digit()).collect(),
    };
    cause.split_whitespace().map(plain).collect::<Vec<_>>().join(" ")
}

fn of_failures(reason: String, failures: &[&FailureStatus], now: Timestamp) -> Notice {
    let since = failures.iter().map(|failure| failure.since).min().unwrap_or(now);
    let remedies: BTreeSet<&str> = failures.iter().filter_map(|failure| failure.remedy.as_deref()).collect();
    let cause = failures.first().map(|failure| failure.reason.clone()).unwrap_or_default();
    let about = std::iter::once(cause).chain([format!("Since {since}; usher goes on trying.")]);
    Notice {
        headline: counted(failures.len() as u64, "thing fails", "things fail") + " for one reason",
        about: about.chain(remedies.into_iter().take(LINES).map(|remedy| format!("What helps: {remedy}."))).collect(),
        items: failures.iter().take(LINES).map(|failure| failure.what.clone()).collect(),
        left_out: failures.len().saturating_sub(LINES),
        closing: "All of it is in `usher status`.".to_owned(),
        code: String::new(),
        reason,
        lasts: true,
        steps: Vec::new(),
    }
}

/// People whose locks nobody was told of yet: what to say, and up to which lock it is said then. `due`: when the account is ended.
pub(super) fn of_locks(
    leavers: &BTreeMap<UserId, Leaver>,
    told_until: Timestamp,
    due: impl Fn(&Leaver) -> Option<Timestamp>,
    now: Timestamp,
) -> Option<(Notice, Timestamp)> {
    let new = || leavers.iter().filter(|(_, leaver)| leaver.since > told_until);
    // Those that are written down and not known to be there keep the younger ones back, or they would never be told; for a day at most.
    let unknown = new().filter(|(_, leaver)| leaver.is_locking() && now.since_ms(leaver.since) < DAY_MS);
    let first_unknown = unknown.map(|(_, leaver)| leaver.since).min();
    let known = |leaver: &Leaver| {
        matches!(leaver.stage, Stage::Locked | Stage::Closing)
            && first_unknown.is_none_or(|unknown| leaver.since < unknown)
    };
    let mut locked: Vec<(&UserId, &Leaver)> = new().filter(|(_, leaver)| known(leaver)).collect();
    locked.sort_by_key(|(user, leaver)| (leaver.since, (*user).clone()));
    let until = locked.last()?.1.since;
    let line = |(user, leaver): &(&UserId, &Leaver)| {
        let end = due(leaver).map_or_else(String::new, |due| format!("; ended not before {}", due.to_minute()));
        format!("{user}: {}{end}", leaver.cause)
    };
    let notice = Notice {
        headline: counted(locked.len() as u64, "account is locked", "accounts are locked"),
        about: vec!["Rooms and levels stay as they are, and whoever is back in the directory is unlocked.".to_owned()],
        items: locked.iter().take(LINES).map(line).collect(),
        left_out: locked.len().saturating_sub(LINES),
        closing: "All of them: `usher grace list`. To give an account back: `usher grace restore USER`.".to_owned(),
        reason: format!("locked:{}", until.0),
        lasts: false,
        code: String::new(),
        steps: Vec::new(),
    };
    Some((notice, until))
}

/// What an answer names exactly these steps by.
fn code(hold: &str, steps: &[StepId]) -> String {
    let mut digest = Sha256::new();
    digest.update(hold);
    for step in steps {
        digest.update([0]);
        digest.update(step.to_string());
    }
    hex::encode(&digest.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Cause;
    use crate::plan::Class;

    const HOUR_MS: i64 = 3_600_000;
    const START: Timestamp = Timestamp(1_000_000_000_000);

    fn hour(hours: i64) -> Timestamp {
        START.plus_ms(hours * HOUR_MS)
    }

    fn held(steps: &[&str]) -> HoldRow {
        let step = |id: &&str| HeldStep { id: StepId((*id).to_owned()), text: format!("remove {id}") };
        HoldRow {
            id: "h-1".into(),
            class: Class::KicksTotal,
            detail: "30 of 40 people, limit 20".into(),
            steps: steps.iter().map(step).collect(),
            first_held_at: START,
        }
    }

    fn failure(what: &str, reason: &str, since: Timestamp) -> FailureStatus {
        FailureStatus { what: what.into(), reason: reason.into(), since, ..FailureStatus::default() }
    }

    /// What operators saw so far, and what a look at something says.
    #[derive(Default)]
    struct Memory {
        told: Vec<Told>,
        approvals: BTreeMap<StepId, Timestamp>,
    }

    impl Memory {
        /// Takes note of it and hands back its headlines; what is over ends with `over`.
        fn look(&mut self, holds: &[HoldRow], failures: &[FailureStatus], now: Timestamp) -> Vec<String> {
            self.look_at(&Sight { holds, approvals: &self.approvals.clone(), failures, settled: true, now })
        }

        fn look_at(&mut self, sight: &Sight<'_>) -> Vec<String> {
            let before = self.told.clone();
            let said = news(sight, &before);
            let mut lines = Vec::new();
            for item in said {
                match item {
                    News::Tell(notice) => {
                        lines.push(notice.headline.clone());
                        self.told.push(Told {
                            event: format!("${}", self.told.len()).into(),
                            room: "!r".into(),
                            reason: notice.reason,
                            code: notice.code,
                            told_at: sight.now,
                            over_at: None,
                        });
                    }
                    News::Over(told) => {
                        lines.push(format!("{} over", told.reason));
                        let ended = self.told.iter_mut().find(|known| known.event == told.event);
                        ended.expect("known").over_at = Some(sight.now);
                    }
                }
            }
            lines
        }
    }

    #[test]
    fn a_hold_is_told_once_and_daily_while_it_lasts_and_its_end_once() {
        let mut memory = Memory::default();
        let two = [held(&["a", "b"])];
        assert_eq!(memory.look(&two, &[], hour(0)), ["2 steps wait for your approval: kicks_total"]);
        assert_eq!(memory.look(&two, &[], hour(1)), [""; 0]);
        assert_eq!(memory.look(&[held(&["a", "b", "c"])], &[], hour(23)), [""; 0], "growth waits for the day");
        assert_eq!(memory.look(&[held(&["a", "b", "c"])], &[], hour(24)).len(), 1);
        assert_eq!(memory.look(&[], &[], hour(25)), ["hold:h-1 over"]);
        assert_eq!(memory.look(&[], &[], hour(26)), [""; 0]);
        let soon = |minutes: i64| hour(26).plus_ms(minutes * 60_000);
        assert_eq!(memory.look(&two, &[], hour(26)).len(), 1, "it is back after a while");
        assert_eq!(memory.look(&[], &[], soon(1)), ["hold:h-1 over"]);
        assert_eq!(memory.look(&two, &[], soon(2)), [""; 0], "what comes and goes is no news each time");
        assert_eq!(memory.look(&[], &[], soon(3)), [""; 0]);
        assert_eq!(memory.look(&[held(&["a", "d"])], &[], soon(4)).len(), 1, "other steps are");
    }

    #[test]
    fn what_is_approved_waits_for_nobody_and_what_comes_later_is_told_at_once() {
        let mut memory = Memory::default();
        memory.look(&[held(&["a", "b"])], &[], hour(0));
        let notice = of_hold(
            &held(&["a", "b"]),
            &Sight { holds: &[], approvals: &BTreeMap::new(), failures: &[], settled: true, now: hour(0) },
        );
        assert_eq!(notice.expect("two wait").steps.len(), 2);
        let until = hour(24);
        memory.approvals = ["a", "b"].map(|id| (StepId(id.to_owned()), until)).into();
        memory.told[0].over_at = Some(hour(1));
        assert_eq!(memory.look(&[held(&["a", "b"])], &[], hour(1)), [""; 0]);
        assert_eq!(
            memory.look(&[held(&["a", "b", "c"])], &[], hour(2)),
            ["1 step waits for your approval: kicks_total"]
        );
        assert_ne!(memory.told[1].code, memory.told[0].code);
        // What was not done in time waits again.
        assert_eq!(memory.look(&[held(&["a", "b", "c"])], &[], hour(26)).len(), 1);
        assert_eq!(memory.told[2].code, code("h-1", &["a", "b", "c"].map(|id| StepId(id.to_owned()))));
    }

    #[test]
    fn the_code_of_an_answer_stands_for_these_steps_and_no_others() {
        let of = |steps: &[&str]| {
            let steps: Vec<StepId> = steps.iter().map(|id| StepId((*id).to_owned())).collect();
            code("h-1", &steps)
        };
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(code("h-1", &[]), code("h-2", &[]));
    }

    #[test]
    fn only_a_failure_that_lasts_is_told_and_people_with_one_trouble_are_one_piece_of_news() {
        let mut memory = Memory::default();
        let banned = |name: &str, since| {
            failure(
                &format!("join @{name}:x to Sales"),
                &format!("403 M_FORBIDDEN: @{name}:x is banned from !r:x"),
                since,
            )
        };
        let all = [banned("ann", hour(0)), banned("ben", hour(0)), failure("rename Sales", "500 M_UNKNOWN", hour(2))];
        assert_eq!(memory.look(&[], &all[..2], START.plus_ms(LASTING_MS - 1)), [""; 0]);
        assert_eq!(memory.look(&[], &all, hour(2)), ["2 things fail for one reason"]);
        assert_eq!(memory.look(&[], &all[..2], hour(3)).len(), 0);
        let later = START.plus_ms(2 * HOUR_MS + LASTING_MS);
        assert_eq!(memory.look(&[], &all, later), ["1 thing fails for one reason"]);
        assert_eq!(memory.look(&[], &all[2..], hour(4)).len(), 1, "the two are over");
        assert_eq!(memory.look(&[], &all, hour(5)), ["2 things fail for one reason"], "and back");
        assert_eq!(memory.look(&[], &all, hour(6)), [""; 0]);
    }

    #[test]
    fn while_no_pass_can_be_made_no_failure_is_over() {
        let mut memory = Memory::default();
        let broken = [failure("rename Sales", "500 M_UNKNOWN", hour(0))];
        assert_eq!(memory.look(&[], &broken, hour(1)).len(), 1);
        let blind = Sight { holds: &[], approvals: &BTreeMap::new(), failures: &[], settled: false, now: hour(2) };
        assert_eq!(memory.look_at(&blind), [""; 0]);
        assert_eq!(memory.look(&[], &[], hour(3)).len(), 1);
    }

    #[test]
    fn a_day_has_room_for_ten_kinds_of_failures() {
        let mut memory = Memory::default();
        let letters = "abcdefghijklmnopqrst";
        let many: Vec<FailureStatus> =
            letters.chars().map(|letter| failure("it", &format!("odd {letter}"), hour(0))).collect();
        assert_eq!(memory.look(&[], &many, hour(1)).len(), FAILURES_A_DAY);
        assert_eq!(memory.look(&[], &many, hour(2)).len(), 0);
        assert_eq!(memory.look(&[], &many, hour(25)).len(), FAILURES_A_DAY);
        let kinds: BTreeSet<&str> = memory.told.iter().map(|told| told.reason.as_str()).collect();
        assert_eq!(kinds.len(), 2 * FAILURES_A_DAY, "the others have their turn");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let ids: Vec<String> = (0..25).map(|number| format!("s{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let sight = Sight { holds: &[], approvals: &BTreeMap::new(), failures: &[], settled: true, now: hour(0) };
        let notice = of_hold(&held(&ids), &sight).expect("they wait");
        assert_eq!((notice.items.len(), notice.left_out, notice.steps.len()), (LINES, 15, 25));
    }

    fn leaver(since: Timestamp, stage: Stage) -> Leaver {
        Leaver {
            id: None,
            since,
            cause: Cause::Absent,
            clock: since,
            unsure: false,
            not_before: None,
            at_once: false,
            stage,
            silenced: false,
            due_seen: None,
            administers: BTreeMap::new(),
        }
    }

    #[test]
    fn every_lock_is_told_once_when_it_is_known_to_be_there() {
        let mut leavers = BTreeMap::from([
            ("@old:x".into(), leaver(hour(-1), Stage::Locked)),
            ("@ann:x".into(), leaver(hour(1), Stage::Locked)),
            ("@ben:x".into(), leaver(hour(1).plus_ms(1), Stage::Locking)),
            ("@cat:x".into(), leaver(hour(1).plus_ms(2), Stage::Locked)),
        ]);
        let due = |leaver: &Leaver| Some(leaver.due(24 * HOUR_MS));
        let (notice, until) = of_locks(&leavers, START, due, hour(1)).expect("one is known");
        assert_eq!(notice.headline, "1 account is locked");
        assert_eq!(notice.items, ["@ann:x: left the directory; ended not before 2001-09-10 02:46"]);
        assert_eq!(of_locks(&leavers, until, due, hour(1)), None);
        // One that never becomes known keeps the others back for a day only.
        assert_eq!(of_locks(&leavers, until, due, hour(24)), None);
        let (notice, until) = of_locks(&leavers, until, due, hour(26)).expect("another");
        assert!(notice.items[0].starts_with("@cat:x"), "{notice:?}");
        leavers.insert("@dan:x".into(), leaver(hour(3), Stage::Restored));
        assert_eq!(of_locks(&leavers, until, |_| None, hour(4)), None, "given back by an operator");
    }
}
