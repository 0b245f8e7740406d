//! Fights (S-34): somebody, or something, undoes what usher does, again and again. What is fought over waits longer and longer;
//! everything else stays prompt.
//!
//! Pure: `now` is an argument. Lives in memory only: after a restart a fight begins anew, with its first five rounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::Timestamp;
use crate::plan::{Plan, Step, StepId};

const MINUTE_MS: i64 = 60 * 1000;
/// So many times undone…
const FLIPS: usize = 5;
/// …within this time is a fight.
const WINDOW_MS: i64 = 10 * MINUTE_MS;
/// The first wait; it doubles up to the longest.
const WAITS_MS: (i64, i64) = (MINUTE_MS, 60 * MINUTE_MS);
/// A fight is over when what was done last has stood for so long.
const QUIET_MS: i64 = 60 * MINUTE_MS;
/// A plan of more steps than this is work to be done, not drift: its steps are not looked up one by one.
const MOST_STEPS: usize = 10_000;

/// What was done lately, and what of it keeps being undone.
#[derive(Debug, Default)]
pub(super) struct Fights {
    things: BTreeMap<StepId, Thing>,
}

/// One thing usher did: by the id its step has in every plan.
#[derive(Debug, Default)]
struct Thing {
    /// When it was done, as long as nobody undid it.
    done: Option<Timestamp>,
    /// When it was last done or found undone.
    touched: Timestamp,
    /// When it was found undone, as far as that counts.
    flips: VecDeque<Timestamp>,
    fight: Option<Fight>,
}

/// Something that is fought over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fight {
    /// The step, as the plan words it.
    pub what: String,
    pub since: Timestamp,
    /// How often it was undone.
    pub flips: u32,
    /// When it is done again; `None`: it was, and stands.
    pub until: Option<Timestamp>,
    waits: u32,
}

impl Fight {
    /// Tells the operator that it has begun.
    pub fn announce(&self) {
        let Self { what, flips, .. } = self;
        tracing::warn!(what, flips, "undone again and again: usher does it less and less often from now on");
    }
}

impl Fights {
    /// Takes in that `step` was done.
    pub fn done(&mut self, step: &Step, now: Timestamp) {
        for id in step.part_ids() {
            let thing = self.things.entry(id).or_default();
            (thing.done, thing.touched) = (Some(now), now);
        }
    }

    /// Looks through a plan for what was done and is to be done again. `whole`: the plan covers everything. Hands back the fights that
    /// have just begun.
    pub fn look(&mut self, plan: &Plan, whole: bool, now: Timestamp) -> Vec<Fight> {
        self.forget(now);
        let mut begun = Vec::new();
        let mut pending = BTreeSet::new();
        let is_work = self.things.is_empty() || plan.steps.len() > MOST_STEPS;
        for step in plan.pending().filter(|_| !is_work) {
            for id in step.part_ids() {
                if let Some(thing) = self.things.get_mut(&id) {
                    begun.extend(thing.is_pending(|| plan.line(step), now));
                    pending.insert(id);
                }
            }
        }
        for (id, thing) in &mut self.things {
            if let Some(fight) = &mut thing.fight
                && fight.until.is_some_and(|until| until <= now)
                && (whole || pending.contains(id))
            {
                // Its wait is over: this pass does it, or somebody else has.
                fight.until = None;
            }
        }
        begun
    }

    /// Takes in that what `step` did was found undone, where no plan shows that: the bot's own place and power. Hands back a fight that
    /// begins with this, which `what` says in words.
    pub fn undone(&mut self, step: &Step, what: impl Fn() -> String, now: Timestamp) -> Option<Fight> {
        self.forget(now);
        self.things.get_mut(&step.id())?.is_pending(what, now)
    }

    /// Takes in that what `step` is for came about, whoever did it: there is nothing to wait for.
    pub fn rest(&mut self, step: &Step) {
        if let Some(fight) = self.things.get_mut(&step.id()).and_then(|thing| thing.fight.as_mut()) {
            fight.until = None;
        }
    }

    /// How often what `step` does was undone, and until when it waits for that.
    pub fn wait_of(&self, step: &Step, now: Timestamp) -> Option<(u32, Timestamp)> {
        let fight = self.things.get(&step.id())?.fight.as_ref()?;
        fight.until.filter(|until| *until > now).map(|until| (fight.flips, until))
    }

    /// Whether `step` must wait: everything it does is fought over. One write holds the levels of several people, and those nobody
    /// fights over are not to wait for those somebody does.
    pub fn waits(&self, step: &Step, now: Timestamp) -> bool {
        let waits = |id: &StepId| {
            let fight = self.things.get(id).and_then(|thing| thing.fight.as_ref());
            fight.and_then(|fight| fight.until).is_some_and(|until| until > now)
        };
        step.part_ids().iter().all(waits)
    }

    /// Whether nothing waits: most passes know of no fight, and need not look at their steps.
    pub fn is_calm(&self) -> bool {
        self.waiting().next().is_none()
    }

    /// What waits.
    pub fn waiting(&self) -> impl Iterator<Item = (&Fight, Timestamp)> {
        self.things.values().filter_map(|thing| {
            let fight = thing.fight.as_ref()?;
            Some((fight, fight.until?))
        })
    }

    /// Whether a wait is over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.waiting().any(|(_, until)| until <= now)
    }

    /// What has stood long enough, or was never fought over.
    fn forget(&mut self, now: Timestamp) {
        self.things.retain(|_, thing| {
            let (kept, from) = match &thing.fight {
                Some(fight) => (QUIET_MS, fight.until.map_or(thing.touched, |until| until.max(thing.touched))),
                None => (WINDOW_MS, thing.touched),
            };
            now.since_ms(from) < kept
        });
    }
}

impl Thing {
    /// It is to be done: undone since it was done, or still undone. Hands back a fight that begins with this.
    fn is_pending(&mut self, what: impl Fn() -> String, now: Timestamp) -> Option<Fight> {
        self.done.take()?;
        self.touched = now;
        self.flips.push_back(now);
        self.flips.retain(|flip| now.since_ms(*flip) < WINDOW_MS);
        if let Some(fight) = &mut self.fight {
            fight.flips += 1;
            fight.until = Some(now.back_off(fight.waits, WAITS_MS));
            fight.waits += 1;
            return None;
        }
        if self.flips.len() < FLIPS {
            return None;
        }
        let since = self.flips.front().copied().unwrap_or(now);
        let flips = u32::try_from(self.flips.len()).unwrap_or(u32::MAX);
        let fight = Fight { what: what(), since, flips, until: Some(now.back_off(0, WAITS_MS)), waits: 1 };
        self.fight = Some(fight.clone());
        Some(fight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Key, RoomId};
    use crate::plan::{Action, LevelChange, Reason, RoomRef, StateChange};

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_000_000_000_000 + seconds * 1000)
    }

    fn step(action: Action) -> Step {
        let reason = Reason::Configured("name");
        Step { action, reason, place: Some(Key::Space("red".into())), withheld: None, removal: None }
    }

    fn here() -> RoomRef {
        RoomRef::Id(RoomId::from("!red"))
    }

    fn rename() -> Step {
        step(Action::SetState { room: here(), state: StateChange::Name("Red".into()) })
    }

    fn levels(people: &[&str]) -> Step {
        let change = |user: &&str| LevelChange {
            user: Some((*user).into()),
            key: None,
            from: 50,
            to: 0,
            reason: Reason::LevelRule,
            removal: None,
        };
        let changes = people.iter().map(change).collect();
        step(Action::SetPowerLevels { room: here(), content: serde_json::Value::Null, changes })
    }

    fn plan(steps: &[Step]) -> Plan {
        Plan { steps: steps.to_vec(), ..Plan::default() }
    }

    /// Does `step` and finds it undone, every `pause` seconds from `from` on; when it ended.
    fn rounds(fights: &mut Fights, step: &Step, (from, pause): (i64, i64), count: i64) -> (i64, usize) {
        let mut begun = 0;
        for round in 0..count {
            let now = from + round * pause;
            assert!(!fights.waits(step, at(now)), "round {round}");
            fights.done(step, at(now));
            begun += fights.look(&plan(std::slice::from_ref(step)), false, at(now + pause)).len();
        }
        (from + count * pause, begun)
    }

    #[test]
    fn what_is_undone_five_times_in_ten_minutes_waits_longer_and_longer() {
        let (mut fights, step) = (Fights::default(), rename());
        let (mut now, begun) = rounds(&mut fights, &step, (0, 1), 4);
        assert_eq!((begun, fights.waits(&step, at(now))), (0, false));
        let (end, begun) = rounds(&mut fights, &step, (now, 1), 1);
        assert_eq!(begun, 1, "told once");
        now = end;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let until = now + minutes * 60;
            assert!(fights.waits(&step, at(until - 1)), "{minutes} minutes");
            assert!(!fights.is_due(at(until - 1)) && fights.is_due(at(until)));
            assert_eq!(fights.look(&plan(std::slice::from_ref(&step)), false, at(until)), []);
            assert!(!fights.waits(&step, at(until)) && !fights.is_due(at(until)));
            let (end, begun) = rounds(&mut fights, &step, (until, 1), 1);
            assert_eq!(begun, 0);
            now = end;
        }
        assert_eq!(fights.waiting().map(|(fight, _)| fight.flips).collect::<Vec<_>>(), [14]);
    }

    #[test]
    fn what_is_undone_now_and_then_is_put_right_at_once_for_ever() {
        let (mut fights, step) = (Fights::default(), rename());
        let (_, begun) = rounds(&mut fights, &step, (0, 151), 100);
        assert_eq!((begun, fights.waiting().count()), (0, 0));
    }

    #[test]
    fn an_hour_of_quiet_ends_a_fight() {
        let (mut fights, step) = (Fights::default(), rename());
        let (now, _) = rounds(&mut fights, &step, (0, 1), 5);
        let resumed = now + 60;
        fights.look(&plan(std::slice::from_ref(&step)), true, at(resumed));
        fights.done(&step, at(resumed));
        assert_eq!(fights.look(&plan(&[]), true, at(resumed + 3599)).len(), 0);
        assert_eq!(fights.things.len(), 1);
        fights.look(&plan(&[]), true, at(resumed + 3600));
        assert_eq!(fights.things.len(), 0);
        let (_, begun) = rounds(&mut fights, &step, (resumed + 3601, 1), 4);
        assert_eq!((begun, fights.waiting().count()), (0, 0));
    }

    #[test]
    fn what_somebody_else_put_right_meanwhile_waits_no_more() {
        let (mut fights, step) = (Fights::default(), rename());
        let (now, _) = rounds(&mut fights, &step, (0, 1), 5);
        fights.look(&plan(&[]), false, at(now + 60));
        assert!(fights.is_due(at(now + 60)), "a plan of other rooms says nothing about it");
        fights.look(&plan(&[]), true, at(now + 60));
        assert!(!fights.is_due(at(now + 60)));
    }

    #[test]
    fn a_fight_over_one_level_leaves_the_others_prompt() {
        let mut fights = Fights::default();
        let (now, begun) = rounds(&mut fights, &levels(&["@ann:x"]), (0, 1), 5);
        assert_eq!(begun, 1);
        assert!(fights.waits(&levels(&["@ann:x"]), at(now)));
        assert!(!fights.waits(&levels(&["@bob:x"]), at(now)));
        assert!(!fights.waits(&levels(&["@ann:x", "@bob:x"]), at(now)), "bob does not wait for ann");
        assert!(!fights.waits(&rename(), at(now)));
    }

    #[test]
    fn what_no_plan_shows_is_fought_over_as_well() {
        let (mut fights, step) = (Fights::default(), step(Action::Enter { room: here() }));
        let what = || "the bot's place".to_owned();
        assert_eq!(fights.undone(&step, what, at(0)), None, "usher did not do it");
        for round in 0..4 {
            fights.done(&step, at(round));
            assert_eq!(fights.undone(&step, what, at(round)), None, "round {round}");
            assert_eq!(fights.undone(&step, what, at(round)), None, "it is still undone");
            assert_eq!(fights.wait_of(&step, at(round)), None);
        }
        fights.done(&step, at(4));
        let begun = fights.undone(&step, what, at(4)).map(|fight| (fight.what, fight.flips));
        assert_eq!(begun, Some(("the bot's place".to_owned(), 5)));
        let mut now = 4;
        for minutes in [1, 2, 4, 8] {
            let until = now + minutes * 60;
            assert_eq!(fights.wait_of(&step, at(now)).map(|(_, until)| until), Some(at(until)), "{minutes} minutes");
            assert!(!fights.is_due(at(until - 1)) && fights.is_due(at(until)));
            assert_eq!(fights.wait_of(&step, at(until)), None);
            fights.done(&step, at(until));
            fights.rest(&step);
            assert!(fights.is_calm());
            assert_eq!(fights.undone(&step, what, at(until)), None, "told once");
            now = until;
        }
        fights.rest(&step);
        assert!(fights.is_calm(), "somebody let the bot in again before the wait was over");
    }

    #[test]
    fn a_wait_that_is_over_during_a_flood_of_work_is_over() {
        let (mut fights, step) = (Fights::default(), rename());
        let (now, _) = rounds(&mut fights, &step, (0, 1), 5);
        let flood = Plan { steps: vec![step; MOST_STEPS + 1], ..Plan::default() };
        assert!(fights.is_due(at(now + 60)));
        fights.look(&flood, true, at(now + 60));
        assert!(!fights.is_due(at(now + 60)), "or every turn of the loop would be a pass");
    }

    #[test]
    fn nothing_is_remembered_for_long_that_is_not_fought_over() {
        let mut fights = Fights::default();
        fights.done(&rename(), at(0));
        fights.look(&plan(&[]), false, at(599));
        assert_eq!(fights.things.len(), 1);
        fights.look(&plan(&[]), false, at(600));
        assert_eq!(fights.things.len(), 0);
    }
}
