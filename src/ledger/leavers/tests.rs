//! What the ledger makes of locks, answers that were lost, looks, and orders about leavers.

use super::*;
use crate::ids::Key;
use crate::ids::SpaceId;
use crate::ledger::recalled::tests::directory;
use crate::ledger::{Claim, GroupMemory, Objection, Order, RemovalRecord};
use crate::observed::{Account, Presence};
use crate::plan::{Class, End};

const MINUTE: i64 = 60_000;

fn evan() -> UserId {
    UserId::from("@evan:example.org")
}

fn at(minute: i64) -> Timestamp {
    Timestamp(minute * MINUTE)
}

fn step(deed: AccountDeed, reason: Reason) -> Step {
    let action = Action::Account { user: evan(), deed };
    Step { action, reason, place: None, withheld: None, removal: None }
}

fn lock() -> Step {
    step(AccountDeed::Lock { id: Some("1".into()) }, Reason::LeftDirectory { since: at(0) })
}

fn unlock() -> Step {
    step(AccountDeed::Unlock, Reason::Restored)
}

fn close() -> Step {
    step(AccountDeed::Close(End::Erase), Reason::GraceOver { cause: Cause::Absent, since: at(1) })
}

fn done(ledger: &mut Ledger, step: &Step, minute: i64) {
    ledger.foresee(step, at(minute));
    ledger.settle(step, Ending::Done);
}

/// A ledger with Evan locked in the first minute.
fn locked() -> Ledger {
    let mut ledger = Ledger { people: [("1".into(), "evan".into())].into(), ..Ledger::default() };
    done(&mut ledger, &lock(), 1);
    ledger
}

fn stage(ledger: &Ledger) -> Option<Stage> {
    ledger.leavers.get(&evan()).map(|leaver| leaver.stage)
}

/// Obeys, if nothing stands against it.
fn ordered(ledger: &mut Ledger, order: &Order, minute: i64) -> Option<Objection> {
    let objection = ledger.objection(order, None);
    if objection.is_none() {
        assert!(ledger.obey(order, at(minute)));
    }
    objection
}

fn restore() -> Order {
    Order::Restore { user: evan() }
}

fn erase_now() -> Order {
    Order::EraseNow { user: evan() }
}

fn lock_again() -> Order {
    Order::Lock { user: evan() }
}

/// Evan's account was given back, and is to be erased all the same by an order of the fourth minute.
fn hurried() -> Ledger {
    let mut ledger = locked();
    ordered(&mut ledger, &restore(), 2);
    done(&mut ledger, &unlock(), 3);
    assert_eq!(ordered(&mut ledger, &erase_now(), 4), None);
    ledger
}

fn opened(ledger: &mut Ledger) {
    let locked = ledger.leavers[&evan()].since;
    ledger.heed(&evan(), &LeaverNews::Opened { locked });
}

#[test]
fn a_lock_found_set_after_an_attempt_whose_answer_was_lost_is_ours() {
    let mut ledger = Ledger::default();
    ledger.foresee(&lock(), at(1));
    ledger.settle(&lock(), Ending::Unknown);
    assert_eq!(stage(&ledger), Some(Stage::Locking));
    // The look shows it open; it is sent again and found locked: by the attempt before.
    ledger.foresee(&lock(), at(2));
    ledger.settle(&lock(), Ending::Refused);
    assert_eq!(stage(&ledger), Some(Stage::Locking), "not disowned");
    ledger.heed(&evan(), &LeaverNews::Locked);
    assert_eq!(stage(&ledger), Some(Stage::Locked));
    assert_eq!(ledger.leavers[&evan()].clock, at(2), "never sooner");
}

#[test]
fn a_first_attempt_that_is_refused_makes_nobody_a_leaver() {
    let mut ledger = Ledger::default();
    ledger.foresee(&lock(), at(1));
    ledger.settle(&lock(), Ending::Refused);
    assert_eq!(stage(&ledger), None);
}

#[test]
fn whoever_was_restored_and_seen_open_is_never_unlocked_again() {
    let mut ledger = locked();
    assert_eq!(ordered(&mut ledger, &restore(), 2), None);
    assert_eq!(stage(&ledger), Some(Stage::Restoring));
    done(&mut ledger, &unlock(), 3);
    let leaver = ledger.leavers[&evan()].clone();
    assert!(leaver.stage == Stage::Restored && leaver.is_spared() && !leaver.is_given_back() && !leaver.is_ours());
    // The same where the answer to the unlock was lost and a look shows it open.
    let mut ledger = locked();
    ordered(&mut ledger, &restore(), 2);
    ledger.foresee(&unlock(), at(3));
    ledger.settle(&unlock(), Ending::Unknown);
    assert_eq!(stage(&ledger), Some(Stage::Restoring));
    opened(&mut ledger);
    assert_eq!(stage(&ledger), Some(Stage::Restored));
    assert_eq!(ordered(&mut ledger, &restore(), 4), Some(Objection::RestoredAlready));
}

#[test]
fn an_account_that_was_seen_open_is_locked_anew_and_a_lock_in_between_is_not_ours() {
    let mut ledger = locked();
    let before = ledger.leavers[&evan()].since;
    opened(&mut ledger);
    assert!(stage(&ledger) == Some(Stage::Open) && !ledger.leavers[&evan()].is_ours());
    ledger.foresee(&lock(), at(5));
    assert_eq!(stage(&ledger), Some(Stage::Locking), "not a second attempt: found locked it is a human's");
    ledger.heed(&evan(), &LeaverNews::Opened { locked: before });
    ledger.settle(&lock(), Ending::Done);
    ledger.heed(&evan(), &LeaverNews::Opened { locked: before });
    assert_eq!(stage(&ledger), Some(Stage::Locked), "what was seen before says nothing of this lock");
    opened(&mut ledger);
    ledger.foresee(&lock(), at(6));
    ledger.settle(&lock(), Ending::Refused);
    assert_eq!(stage(&ledger), None);
}

#[test]
fn ledgers_of_earlier_versions_load_and_their_restored_people_stay_spared() {
    let known = serde_json::json!({
        "since": 1, "cause": "absent", "clock": 2, "stage": "restored", "id": "1",
    });
    let leaver: Leaver = serde_json::from_value(known.clone()).unwrap();
    assert!(leaver.is_spared() && !leaver.is_given_back());
    for stage in ["locking", "locked", "closing"] {
        let mut known = known.clone();
        known["stage"] = stage.into();
        let leaver: Leaver = serde_json::from_value(known).unwrap();
        assert!(leaver.is_ours(), "{stage}");
    }
}

#[test]
fn a_restore_is_taken_back_by_an_order_and_grace_begins_anew() {
    let mut ledger = locked();
    assert_eq!(ordered(&mut ledger, &lock_again(), 2), Some(Objection::NotRestored));
    ordered(&mut ledger, &restore(), 2);
    assert_eq!(ordered(&mut ledger, &lock_again(), 3), None, "before it was unlocked");
    assert_eq!((stage(&ledger), ledger.leavers[&evan()].clock), (Some(Stage::Locked), at(3)));
    ordered(&mut ledger, &restore(), 4);
    done(&mut ledger, &unlock(), 5);
    assert_eq!(ordered(&mut ledger, &lock_again(), 6), None);
    assert_eq!(stage(&ledger), Some(Stage::Open));
    done(&mut ledger, &lock(), 7);
    let leaver = &ledger.leavers[&evan()];
    assert_eq!((leaver.stage, leaver.clock, leaver.at_once), (Stage::Locked, at(7), false));
}

#[test]
fn erase_now_reaches_whoever_was_restored() {
    let mut ledger = hurried();
    assert_eq!(stage(&ledger), Some(Stage::Open));
    ledger.foresee(&lock(), at(5));
    ledger.settle(&lock(), Ending::Unknown);
    done(&mut ledger, &lock(), 6);
    let leaver = &ledger.leavers[&evan()];
    assert!(leaver.stage == Stage::Locked && leaver.at_once && leaver.due(1_000 * MINUTE) == at(6));
}

#[test]
fn nobody_who_is_present_is_erased_by_an_order() {
    let mut ledger = locked();
    ledger.heed(&evan(), &LeaverNews::Because { cause: Cause::Disabled, since: at(2) });
    assert_eq!(ledger.objection(&erase_now(), None), Some(Objection::Present));
    assert_eq!(ledger.objection(&erase_now(), Some(MINUTE)), None, "erase_inactive_after allows it");
    // Ordered about somebody who was gone, and who turns up disabled.
    let mut ledger = locked();
    ordered(&mut ledger, &erase_now(), 2);
    assert!(ledger.leavers[&evan()].at_once);
    ledger.heed(&evan(), &LeaverNews::Because { cause: Cause::Absent, since: at(3) });
    assert!(ledger.leavers[&evan()].at_once, "the same cause, by clocks that agree again");
    ledger.heed(&evan(), &LeaverNews::Because { cause: Cause::Disabled, since: at(4) });
    assert!(!ledger.leavers[&evan()].at_once);
}

#[test]
fn a_restore_while_the_end_is_under_way_does_not_forget_that_it_is() {
    let mut ledger = locked();
    ledger.foresee(&close(), at(2));
    ledger.settle(&close(), Ending::Unknown);
    assert_eq!(ordered(&mut ledger, &Order::Extend { user: evan(), not_before: at(9) }, 3), Some(Objection::UnderWay));
    assert_eq!(ordered(&mut ledger, &erase_now(), 3), None, "it is what is being done");
    assert_eq!(stage(&ledger), Some(Stage::Closing), "and goes on where it is");
    assert_eq!(ordered(&mut ledger, &restore(), 3), None);
    assert_eq!(stage(&ledger), Some(Stage::Halting));
    let mut too_late = ledger.clone();
    too_late.heed(&evan(), &LeaverNews::Ended);
    assert_eq!(stage(&too_late), Some(Stage::Closing), "verified and sent again like any");
    done(&mut ledger, &unlock(), 4);
    assert_eq!(stage(&ledger), Some(Stage::Restored));
}

#[test]
fn whom_usher_never_locked_no_order_reaches() {
    let mut ledger = Ledger::default();
    let extend = Order::Extend { user: evan(), not_before: at(9) };
    for order in [restore(), lock_again(), erase_now(), extend] {
        assert_eq!(ledger.objection(&order, None), Some(Objection::NotALeaver));
        assert!(!ledger.obey(&order, at(1)));
    }
}

#[test]
fn nothing_names_whoever_was_erased() {
    let mut ledger = locked();
    ledger.key = "key".to_owned();
    let removal = |person: UserId| RemovalRecord {
        class: Class::Locks,
        space: Key::Space(SpaceId::from("")),
        person: Some(person),
        at: at(1),
        space_base: 0,
        total_base: 9,
    };
    ledger.removals = vec![removal(evan()), removal("@sue:example.org".into())];
    let memory = GroupMemory { id: "g".into(), name: "Staff".into(), users: vec!["1".into(), "2".into()] };
    ledger.groups.insert("staff".to_owned(), memory);
    ledger.entitled.insert(Key::Space("all".into()), std::sync::Arc::new([(evan(), 0)].into()));
    done(&mut ledger, &close(), 9);
    assert_eq!(ledger.groups["staff"].users, ["2".into()]);
    let removed: BTreeSet<_> = ledger.removals.iter().map(|record| record.person.clone()).collect();
    assert!(removed.len() == 2 && !removed.contains(&Some(evan())), "two people still count: {removed:?}");
    let text = format!("{ledger:?}");
    assert!(!text.contains("evan"), "{text}");
}

#[test]
fn a_typo_in_a_rebind_is_refused() {
    let ledger =
        Ledger { people: [("1".into(), "evan".into()), ("2".into(), "eva".into())].into(), ..Ledger::default() };
    let read = directory(&[("7f3c", "evan"), ("2", "eva")]);
    let account = Account::default();
    let (id, evan, eva, nobody) = ("7f3c".into(), "evan".into(), "eva".into(), "evam".into());
    let claim = Claim {
        id: &id,
        localpart: &evan,
        directory: Some(&read),
        account: Presence::Exists(&account),
        protected: false,
    };
    assert_eq!(ledger.objection_to(&claim), None);
    let (typo, mut half) = ("7f3d".into(), read.clone());
    assert_eq!(ledger.objection_to(&Claim { id: &typo, ..claim }), Some(Objection::NotInDirectory));
    assert_eq!(ledger.objection_to(&Claim { id: &"1".into(), ..claim }), Some(Objection::NotInDirectory), "who left");
    assert_eq!(ledger.objection_to(&Claim { localpart: &eva, ..claim }), Some(Objection::Owned { by: "2".into() }));
    let missing = Claim { localpart: &nobody, account: Presence::Missing, ..claim };
    assert_eq!(ledger.objection_to(&missing), Some(Objection::NoAccount));
    let unknown = Claim { account: Presence::Unknown, ..missing };
    assert_eq!(ledger.objection_to(&unknown), Some(Objection::NoAccount));
    assert_eq!(ledger.objection_to(&Claim { account: Presence::Unknown, ..claim }), None, "it was somebody's");
    assert_eq!(ledger.objection_to(&Claim { protected: true, ..claim }), Some(Objection::Protected));
    half.flaw("the connection ended");
    for directory in [None, Some(&half)] {
        assert_eq!(ledger.objection_to(&Claim { directory, ..claim }), Some(Objection::Incomplete));
    }
}

#[test]
fn a_rebind_leaves_no_lock_of_ushers_behind_on_an_account_that_is_nobodys() {
    let mut ledger = locked();
    ledger.people.insert("2".into(), "sue".into());
    let (read, account) = (directory(&[("1", "evan"), ("2", "sue")]), Account::default());
    let (id, eva, evan_again) = ("1".into(), "eva".into(), "evan".into());
    let claim = |localpart| Claim {
        id: &id,
        localpart,
        directory: Some(&read),
        account: Presence::Exists(&account),
        protected: false,
    };
    let locked = Some(Objection::Locked { account: "evan".into() });
    assert_eq!(ledger.objection_to(&claim(&eva)), locked);
    let why = locked.clone().unwrap();
    assert!(why.to_string().contains("usher grace restore evan") && !why.on_record().contains("evan"), "{why}");
    assert_eq!(ledger.objection_to(&claim(&evan_again)), None, "what they have they may keep");
    ordered(&mut ledger, &restore(), 2);
    assert_eq!(ledger.objection_to(&claim(&eva)), locked, "ordered, and not open yet");
    done(&mut ledger, &unlock(), 3);
    assert_eq!(ledger.objection_to(&claim(&eva)), None);
    assert!(ledger.obey(&Order::Rebind { id: "1".into(), localpart: "eva".into() }, at(4)));
    assert!(ledger.leavers.is_empty(), "whose account it was has another one: it is open, and nobody's");
    assert!(!ledger.keeps(&"evan".into()) && ledger.people[&StableId::from("1")].as_str() == "eva");
}

#[test]
fn what_is_kept_of_a_refusal_names_nobody() {
    let owned = Objection::Owned { by: "7f3c".into() };
    assert!(owned.to_string().contains("7f3c") && !owned.on_record().contains("7f3c"));
    assert!(owned.on_record().contains("somebody else"));
    assert_eq!(Objection::Protected.on_record(), Objection::Protected.to_string());
}

#[test]
fn an_end_that_is_found_done_where_nothing_may_be_written_any_more_is_over_and_forgotten() {
    let mut ledger = locked();
    ledger.heed(&evan(), &LeaverNews::Closed { at: at(2) });
    assert_eq!(stage(&ledger), Some(Stage::Locked), "nothing was begun");
    ledger.foresee(&close(), at(2));
    ledger.settle(&close(), Ending::Unknown);
    ledger.heed(&evan(), &LeaverNews::Closed { at: at(3) });
    assert_eq!(ledger.closings, [at(2)], "it counts as one of the day, once");
    assert!(ledger.leavers.is_empty() && ledger.people.is_empty());
}

#[test]
fn who_was_to_be_erased_at_once_has_the_whole_grace_where_the_ledger_was_lost() {
    let mut ledger = locked();
    assert!(ledger.obey(&Order::EraseNow { user: evan() }, at(5)));
    let mut recovered = Ledger::default();
    assert_eq!(recovered.recover(&ledger.mirrored_leavers()), 1);
    assert_eq!(recovered.leavers[&evan()].due(MINUTE), at(6));
}

#[test]
fn a_lock_that_the_mirror_tells_of_belongs_to_the_entry_it_tells_of() {
    let mirror = locked().mirrored_leavers();
    // The source was read before the mirror: somebody new has the name, and the one it was taken from has another.
    let mut ledger = Ledger {
        people: [("9".into(), "evan".into()), ("1".into(), "evans".into()), ("2".into(), "sue".into())].into(),
        ..Ledger::default()
    };
    assert_eq!(ledger.recover(&mirror), 1);
    assert_eq!(ledger.people, [("1".into(), "evan".into()), ("2".into(), "sue".into())].into());
    ledger.witness(&directory(&[("9", "evan"), ("2", "sue")]), 1_000, at(2));
    assert!(!ledger.people.contains_key(&StableId::from("9")), "they claim it, and no more");
}

#[test]
fn an_order_to_erase_is_about_why_they_were_gone_when_it_was_given() {
    for (reason, at_once) in [(Reason::LeftDirectory { since: at(0) }, true), (Reason::Disabled, false)] {
        let mut ledger = hurried();
        done(&mut ledger, &step(AccountDeed::Lock { id: Some("1".into()) }, reason), 5);
        assert_eq!(ledger.leavers[&evan()].at_once, at_once);
    }
}

#[test]
fn what_was_ordered_outlasts_a_lock_that_is_refused() {
    let mut ledger = hurried();
    ledger.foresee(&lock(), at(5));
    ledger.settle(&lock(), Ending::Refused);
    assert_eq!(stage(&ledger), Some(Stage::Open));
    assert!(ledger.leavers[&evan()].at_once);
}

#[test]
fn an_end_counts_when_it_is_sent_and_only_once_and_not_at_all_where_it_is_refused() {
    let mut ledger = locked();
    for minute in 2..5 {
        ledger.foresee(&close(), at(minute));
        ledger.settle(&close(), Ending::Unknown);
    }
    assert_eq!(ledger.closings, [at(2)], "the homeserver takes its time");
    ledger.settle(&close(), Ending::Refused);
    assert!(ledger.closings.is_empty() && stage(&ledger) == Some(Stage::Locked));
}

#[test]
fn grace_that_began_by_a_clock_that_leapt_begins_anew() {
    let mut ledger = Ledger::default();
    let before = Leaver { clock: at(-5), ..locked().leavers[&evan()].clone() };
    let sue = UserId::from("@sue:example.org");
    ledger.leavers.insert(sue.clone(), before);
    ledger.tick(at(0), 0);
    done(&mut ledger, &lock(), 1);
    ledger.tick(at(10), 10 * MINUTE);
    assert!(ledger.leavers.values().all(|leaver| !leaver.unsure), "nothing leapt");
    ledger.tick(at(60 * 24 * 40), 20 * MINUTE);
    assert!(ledger.leavers[&evan()].unsure, "locked by the clock that was wrong");
    assert!(!ledger.leavers[&sue].unsure, "it began before this process: two looks are for that");
    ledger.leavers.get_mut(&evan()).unwrap().unsure = false;
    ledger.tick(at(60 * 24 * 40 + 1), 21 * MINUTE);
    assert!(!ledger.leavers[&evan()].unsure, "once");
}
