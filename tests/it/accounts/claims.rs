//! Two entries of the directory for one account, as a ledger of earlier versions may have them: what is planned comes to rest, and the account
//! goes to nobody by itself (S-5, S-51).

#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

use serde_json::{Value, json};
use usher::config::Config;
use usher::ids::{Timestamp, UserId};
use usher::ledger::{Cause, Ledger};
use usher::plan::{AccountDeed, Action, Lesson, Plan, World};

const NOW: Timestamp = Timestamp(1_772_442_600_000);
/// Plans in a row that may each find out something about the same people.
const ENOUGH: usize = 4;

fn config() -> Config {
    let yaml = json!({
        "userProvisioner": { "deprovisioning": { "enabled": true } },
        "spaces": [{ "id": "all", "name": "All", "groups": [{ "externalId": "" }] }],
    });
    crate::scenarios::world::config(&yaml.to_string())
}

fn evan() -> UserId {
    UserId::new("evan", "example.org")
}

/// Evan's account is locked as that of an entry which is gone, and bound to another one, too.
fn world(enabled: bool) -> World {
    let gone = json!({ "since": 1, "reads": 2, "last_read": 2 });
    let leaver = json!({ "id": "old", "since": 3, "clock": 3, "cause": "absent", "stage": "locked", "silenced": true });
    let people = |locked: bool| json!({ "locked": locked });
    let text: Value = json!({
        "config": "",
        "directory": { "source": "test", "users": [{ "id": "new", "localpart": "evan", "enabled": enabled },
                                                   { "id": "sue", "localpart": "sue" }] },
        "homeserver": { "server": "example.org", "bot": "@usher:example.org", "sender": "@_usher:example.org",
                        "accounts": { "listed": true, "people": { "@evan:example.org": people(true),
                                                                  "@sue:example.org": people(false) } } },
        "ledger": { "people": { "old": "evan", "new": "evan", "sue": "sue" }, "absences": { "old": gone }, "settled": true,
                    "leavers": { "@evan:example.org": leaver } },
        "now": NOW.0,
    });
    serde_json::from_value(text).unwrap()
}

/// The plan in which nothing new is found out about leavers, as the loop comes to it.
fn at_rest(world: &mut World, config: &Config) -> Plan {
    for _ in 0..ENOUGH {
        let plan = world.decide(config).plan;
        let before = leavers(&world.ledger);
        let news: Vec<Lesson> =
            plan.lessons.iter().filter(|lesson| matches!(lesson, Lesson::Leaver { .. })).cloned().collect();
        world.ledger.learn(&news);
        if leavers(&world.ledger) == before {
            return plan;
        }
        // As a clock goes on between two plans.
        world.now = world.now.plus_ms(1);
    }
    panic!("it never comes to rest: {:?}", world.ledger.leavers);
}

fn leavers(ledger: &Ledger) -> String {
    format!("{:?}", ledger.leavers)
}

#[test]
fn two_entries_of_one_account_do_not_undo_each_others_cause_for_ever() {
    let (mut world, config) = (world(false), config());
    let plan = at_rest(&mut world, &config);
    assert_eq!(world.ledger.leavers[&evan()].cause, Cause::Disabled, "whoever is there counts: that has no end");
    let deeds = |step: &&usher::plan::Step| step.action.user() == Some(&evan());
    assert_eq!(plan.steps.iter().filter(deeds).count(), 0, "nothing is done, once or twice");
}

#[test]
fn an_account_is_not_unlocked_for_another_entry_than_the_one_it_was_locked_for() {
    let (mut world, config) = (world(true), config());
    let plan = at_rest(&mut world, &config);
    let unlocks = |step: &&usher::plan::Step| {
        matches!(step.action, Action::Account { deed: AccountDeed::Unlock | AccountDeed::Lock { .. }, .. })
    };
    assert_eq!(plan.steps.iter().filter(unlocks).count(), 0, "{:?}", plan.steps);
    assert!(world.ledger.leavers.contains_key(&evan()));
    // An operator says whose it is.
    let order = usher::ledger::Order::Rebind { id: "new".into(), localpart: "evan".into() };
    assert!(world.ledger.obey(&order, NOW));
    let plan = at_rest(&mut world, &config);
    assert!(plan.pending().any(|step| unlocks(&step) && step.action.user() == Some(&evan())));
}
