//! The convergence property: in any world, doing what is planned leaves nothing to do (DESIGN decision 4, S-83, S-84), whatever was
//! refused or lost on the way; and no plan ever breaks the invariants that keep people in their rooms (section 9).
//!
//! `USHER_LONG=1` plays many more worlds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

mod invariants;
mod rooms;
mod worlds;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use usher::actuate::Outcome;
use usher::plan::{Action, Plan};

use worlds::{Faults, Sketch, Stage, sketch};

/// Passes until nothing is pending: one does everything; a second is allowed where the first could not know what it would find (below).
const ROUNDS: usize = 2;

/// The same worlds in every run; with `USHER_LONG` fifty times as many, others each time.
fn runner(short: u32) -> TestRunner {
    let long = std::env::var_os("USHER_LONG").is_some();
    let cases = if long { short * 50 } else { short };
    let cases = Cases { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Cases::default() };
    if long {
        return TestRunner::new(cases);
    }
    TestRunner::new_with_rng(cases, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn pending(plan: &Plan) -> Vec<String> {
    plan.pending().map(|step| plan.line(step)).collect()
}

/// One pass without faults.
fn pass(stage: &mut Stage) -> Plan {
    let decision = stage.decide();
    invariants::hold(stage, &decision);
    for step in decision.plan.pending() {
        stage.observed.simulate(&step.action, &Outcome::default());
    }
    stage.learn(&decision.plan);
    decision.plan
}

#[test]
fn what_is_planned_and_done_leaves_nothing_to_do() {
    let mut runner = runner(300);
    let result = runner.run(&sketch(), |sketch| {
        let mut stage = Stage::of(&sketch);
        let first = pass(&mut stage);
        let second = stage.decide();
        invariants::hold(&stage, &second);
        prop_assert!(
            second.plan.pending().next().is_none(),
            "first {:#?}\nthen {:#?}",
            pending(&first),
            pending(&second.plan)
        );
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_change_of_directory_settles_in_one_round_too() {
    let mut runner = runner(200);
    let result = runner.run(&(sketch(), sketch()), |(before, after)| {
        let mut stage = Stage::of(&before);
        pass(&mut stage);
        stage.accept();
        stage.become_directory_of(&after);
        for minute in 0..3 {
            let first = pass(&mut stage);
            let second = stage.decide();
            invariants::hold(&stage, &second);
            prop_assert!(
                second.plan.pending().next().is_none(),
                "minute {minute}, first {:#?}\nthen {:#?}",
                pending(&first),
                pending(&second.plan)
            );
            stage.wait();
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn refusals_and_lost_answers_settle_once_they_stop() {
    let mut runner = runner(200);
    let result = runner.run(&(sketch(), any::<u64>()), |(sketch, seed)| {
        let mut stage = Stage::of(&sketch);
        let mut faults = Faults::new(seed);
        for _ in 0..3 {
            faulty_pass(&mut stage, &mut faults);
        }
        let mut last = Vec::new();
        for _ in 0..ROUNDS {
            last = pending(&pass(&mut stage));
        }
        // The second of these rounds is for what the faults left: a link that was refused is put back before its room is remembered.
        let quiet = stage.decide();
        prop_assert!(quiet.plan.pending().next().is_none(), "last {last:#?}\nthen {:#?}", pending(&quiet.plan));
        let rooms = stage.carriers();
        prop_assert_eq!(rooms.len(), rooms.iter().collect::<std::collections::BTreeSet<_>>().len(), "made twice");
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A pass in which some writes are refused, some answers get lost, and it may be cut off anywhere. What depends on something that did not
/// happen is skipped, as the executor does.
fn faulty_pass(stage: &mut Stage, faults: &mut Faults) {
    let decision = stage.decide();
    invariants::hold(stage, &decision);
    let mut steps: Vec<_> = decision.plan.pending().cloned().collect();
    // Markers come last in their phase: they remember what was made.
    steps.sort_by_key(|step| (step.action.phase(step.place.as_ref()), worlds::is_marker(&step.action)));
    let mut lost = Vec::new();
    for step in steps {
        if faults.cut_off() {
            return;
        }
        if worlds::depends_on(&step, &lost) || faults.refuses() {
            if let Some(key) = worlds::unmade(&step) {
                lost.push(key);
            }
            continue;
        }
        stage.observed.simulate(&step.action, &Outcome::default());
        if let Action::CreateRoom(creation) = &step.action
            && faults.cuts_creation()
        {
            stage.halve(&creation.key);
            lost.push(creation.key.clone());
        }
    }
    stage.learn(&decision.plan);
}

/// Planning rounds of one pass: entering, taking power, holding the room to its rule, and what people at the bot's level leave behind.
const ROUNDS_OF_ROOMS: usize = 5;

#[test]
fn rooms_that_people_made_settle_by_steps_that_a_homeserver_allows() {
    let mut runner = runner(400);
    let result = runner.run(&(sketch(), rooms::sketches(), rooms::policy()), |(sketch, rooms, policy)| {
        let mut stage = Stage::of(&sketch);
        pass(&mut stage);
        rooms::open(&mut stage, &rooms, &policy);
        let mut done = Vec::new();
        for _ in 0..ROUNDS_OF_ROOMS {
            let decision = stage.decide();
            invariants::hold(&stage, &decision);
            for step in decision.plan.pending() {
                let refusal = rooms::refusal(&stage.observed, &step.action);
                prop_assert!(refusal.is_none(), "{}: {refusal:?}, after {done:#?}", decision.plan.line(step));
                stage.observed.simulate(&step.action, &Outcome::default());
                done.push(decision.plan.line(step));
            }
            stage.learn(&decision.plan);
        }
        let quiet = stage.decide();
        prop_assert!(quiet.plan.pending().next().is_none(), "{done:#?}\nthen {:#?}", pending(&quiet.plan));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_plan_depends_on_nothing_but_its_world() {
    let mut runner = runner(100);
    let result = runner.run(&(sketch(), any::<u64>()), |(sketch, seed)| {
        let stage = Stage::of(&sketch);
        let shuffled = Stage::of(&Sketch::shuffled(&sketch, seed));
        prop_assert_eq!(stage.render(), stage.render());
        prop_assert_eq!(stage.render(), shuffled.render());
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
