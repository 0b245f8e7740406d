//! Interleavings of leaving, returning, renaming, being made again, human locks, clock jumps, restarts, crashes around each write and lost
//! databases, over the pure core: nobody is erased early or while present, and nothing a human locked is unlocked (S-51 to S-53).
//!
//! Three things no usher can know are left out: a human who locks an account in the very moment between usher writing down its own lock and
//! sending it, and one who takes usher's lock off and puts an own one on between two looks.
//! And the database is lost only once the bot's account data has every lock: one set a moment before, or about to be taken off, cannot be
//! proven, and is only reported.
//!
//! 500 interleavings; with `USHER_LONG=1` 20 000.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use usher::actuate::Outcome;
use usher::config::Config;
use usher::directory::Snapshot;
use usher::ids::{Timestamp, UserId};
use usher::ledger::{Ending, Ledger, Stage, TOLERANCE_MS, Witnessing};
use usher::observed::{Estate, Known, Observed};
use usher::plan::{AccountDeed, Action, World};

use crate::lab::dice::Dice;

const SERVER: &str = "example.org";
const PEOPLE: usize = 4;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const PERIOD: i64 = DAY;
const EVENTS: usize = 60;
/// Interleavings that went wrong once: a lock taken off or set anew, not yet struck from the bot's account data or put there again, then a
/// human's lock and a lost database.
const FOUND: [u64; 3] = [1865, 17_015, 17_241];

/// Who locked an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Usher { at: i64 },
    Human,
}

struct Sim {
    dice: Dice,
    config: Config,
    /// True time; usher's clock is `offset` off.
    time: i64,
    offset: i64,
    started: i64,
    /// Stable ids in the directory, with the localpart and whether enabled.
    directory: BTreeMap<String, (String, bool)>,
    homeserver: Observed,
    ledger: Ledger,
    saved: Ledger,
    locks: BTreeMap<UserId, By>,
    erased: BTreeSet<UserId>,
    made: usize,
    history: Vec<String>,
}

fn user(at: usize) -> UserId {
    UserId::new(&format!("p{at}"), SERVER)
}

impl Sim {
    fn new(seed: u64, config: &Config) -> Self {
        let mut homeserver: Observed = serde_json::from_value(json!({
            "server": SERVER, "bot": "@usher:example.org", "sender": "@_usher:example.org",
        }))
        .unwrap();
        homeserver.bot_registered = Known::Known(false);
        homeserver.bot_display_name = Known::Known(None);
        homeserver.accounts.listed = true;
        for at in 0..PEOPLE {
            homeserver.accounts.people.entry(user(at)).or_default();
        }
        let directory = (0..PEOPLE).map(|at| (format!("id{at}"), (format!("p{at}"), true))).collect();
        let mut sim = Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            config: config.clone(),
            time: 1_700_000_000_000,
            offset: 0,
            started: 1_700_000_000_000,
            directory,
            homeserver,
            ledger: Ledger::default(),
            saved: Ledger::default(),
            locks: BTreeMap::new(),
            erased: BTreeSet::new(),
            made: PEOPLE,
            history: Vec::new(),
        };
        sim.restart();
        sim.pass(true, None);
        sim.pass(true, None);
        sim
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.time + self.offset)
    }

    fn snapshot(&self, complete: bool) -> Snapshot {
        let users: Vec<_> = self
            .directory
            .iter()
            .map(|(id, (localpart, enabled))| json!({ "id": id, "localpart": localpart, "enabled": enabled }))
            .collect();
        let mut snapshot = json!({ "source": "simulated", "users": users });
        if !complete {
            snapshot["users"].as_array_mut().unwrap().truncate(1);
            snapshot["completeness"] = json!({ "incomplete": ["cut short"] });
        }
        serde_json::from_value(snapshot).unwrap()
    }

    fn restart(&mut self) {
        self.ledger = self.saved.clone();
        self.started = self.time;
        self.ledger.clocks = usher::ledger::Clocks::default();
        self.ledger.clocks.tick(self.now(), 0);
        if let Known::Known(mirror) = self.homeserver.leavers.clone() {
            self.ledger.recover(&mirror);
        }
    }

    /// A pass, cut off before (or after) the write with the given number.
    fn pass(&mut self, complete: bool, crash: Option<(usize, bool)>) {
        let mut writes = 0;
        for _ in 0..4 {
            let now = self.now();
            self.ledger.clocks.tick(now, self.time - self.started);
            self.ledger.clocks.homeserver_ms = Some(self.offset);
            let mut directory = usher::directory::Directory::flatten(self.snapshot(complete));
            self.ledger.doubt(&mut directory);
            self.ledger.witness_as(&directory, Witnessing { interval_ms: MINUTE, holds_accounts: true }, now);
            for account in self.ledger.leavers.keys() {
                let estate = Estate { read_at: now, ..Estate::default() };
                self.homeserver.estates.insert(account.clone(), estate);
            }
            let world = World {
                config: String::new(),
                directory: self.snapshot(complete),
                homeserver: self.homeserver.clone(),
                ledger: self.ledger.clone(),
                now,
            };
            let plan = world.decide(&self.config).plan;
            let steps: Vec<_> = plan.pending().cloned().collect();
            for step in &steps {
                self.ledger.foresee(step, now);
            }
            self.saved = self.ledger.clone();
            for step in &steps {
                if crash == Some((writes, false)) {
                    return self.restart();
                }
                self.judge(&step.action);
                self.homeserver.simulate(&step.action, &Outcome::default());
                if crash == Some((writes, true)) {
                    return self.restart();
                }
                self.ledger.settle(step, Ending::Done, now);
                writes += 1;
            }
            if steps.is_empty() {
                self.ledger.learn(&plan.lessons);
                self.ledger.settled = true;
                self.saved = self.ledger.clone();
                return;
            }
            self.saved = self.ledger.clone();
            self.ledger.settled = true;
        }
    }

    /// What must hold of every write to an account.
    fn judge(&mut self, action: &Action) {
        let Action::Account { user, deed } = action else { return };
        self.history.push(format!("{} {user} {deed:?}", self.time));
        match deed {
            AccountDeed::Lock { .. } => {
                assert!(!self.locks.contains_key(user), "locks what is locked: {:#?}", self.history);
                self.locks.insert(user.clone(), By::Usher { at: self.time });
            }
            AccountDeed::Unlock => {
                let by = self.locks.remove(user);
                assert!(matches!(by, Some(By::Usher { .. })), "unlocks what {by:?} locked: {:#?}", self.history);
            }
            AccountDeed::Close(_) => {
                let Some(By::Usher { at }) = self.locks.get(user) else {
                    panic!("erases somebody it has not locked: {:#?}", self.history);
                };
                // Two clocks may each be five minutes off.
                let grace = self.time - at;
                assert!(grace >= PERIOD - 2 * TOLERANCE_MS, "{grace} ms of grace: {:#?}", self.history);
                assert!(!self.is_present(user), "erases somebody who is there: {:#?}", self.history);
                self.erased.insert(user.clone());
            }
            AccountDeed::RemovePushers
            | AccountDeed::TurnDown { .. }
            | AccountDeed::HandOver { .. }
            | AccountDeed::Set(_) => {}
        }
    }

    /// Whether the entry the account belongs to is in the directory: the first one that ever had its name.
    fn is_present(&self, user: &UserId) -> bool {
        let id = format!("id{}", user.localpart().trim_start_matches('p'));
        self.directory.contains_key(&id)
    }

    fn event(&mut self) {
        let person = self.dice.below(PEOPLE);
        let (id, account) = (format!("id{person}"), user(person));
        let kind = self.dice.below(20);
        self.history.push(format!("{} event {kind} on p{person}", self.time));
        match kind {
            0 | 1 => drop(self.directory.remove(&id)),
            2 | 3 => drop(self.directory.insert(id, (format!("p{person}"), true))),
            4 => drop(self.directory.insert(id, (format!("p{person}"), false))),
            5 if self.directory.contains_key(&id) => {
                self.directory.insert(id, (format!("renamed{person}"), true));
            }
            6 => {
                self.directory.remove(&id);
                self.made += 1;
                self.directory.insert(format!("new{}", self.made), (format!("p{person}"), true));
            }
            7 => self.lock_by_hand(&account),
            8 => self.unlock_by_hand(&account),
            9 => self.offset = [0, 0, 2 * MINUTE, -DAY, 3 * DAY, 400 * DAY][self.dice.below(6)],
            10 => self.restart(),
            11 => self.pass(false, None),
            12 | 13 => {
                let crash = (self.dice.below(3), self.dice.below(2) == 0);
                self.pass(true, Some(crash));
            }
            14 if self.dice.below(4) == 0 && self.is_mirrored() => {
                self.saved = Ledger::default();
                self.restart();
            }
            _ => self.pass(true, None),
        }
        self.time += [1, 2, 11, 61, 360, 1441][self.dice.below(6)] * MINUTE;
    }

    /// Whether the bot's account data knows of every lock of usher's: one that is set in the moment before is lost with the database.
    fn is_mirrored(&self) -> bool {
        let Known::Known(mirror) = &self.homeserver.leavers else { return false };
        self.locks.iter().all(|(account, by)| *by == By::Human || mirror.contains_key(account))
    }

    fn lock_by_hand(&mut self, account: &UserId) {
        let known = [&self.ledger, &self.saved].iter().any(|ledger| ledger.leavers.contains_key(account));
        if !known && !self.locks.contains_key(account) {
            self.locks.insert(account.clone(), By::Human);
            self.homeserver.accounts.people.get_mut(account).unwrap().locked = true;
        }
    }

    fn unlock_by_hand(&mut self, account: &UserId) {
        let closing = self.saved.leavers.get(account).is_some_and(|leaver| leaver.stage == Stage::Closing);
        if !closing && self.locks.remove(account).is_some() {
            self.homeserver.accounts.people.get_mut(account).unwrap().locked = false;
        }
    }

    /// Once the clocks are right and nothing happens any more, everybody ends where they belong.
    fn come_to_rest(&mut self) {
        self.offset = 0;
        self.restart();
        for minutes in [2, 61, 61, 61, 61] {
            self.time += minutes * MINUTE;
            self.pass(true, None);
        }
        for at in 0..PEOPLE {
            let account = user(at);
            let locked = self.homeserver.accounts.people[&account].locked;
            let enabled = self.directory.get(&format!("id{at}")).is_some_and(|(_, enabled)| *enabled);
            if self.erased.contains(&account) || self.locks.get(&account) == Some(&By::Human) {
                continue;
            }
            if enabled {
                assert!(!locked, "{account} is there and locked: {:#?}", self.history);
            }
        }
    }
}

fn config() -> Config {
    crate::scenarios::world::config(
        &json!({
            "provisioner": { "protected_users": [] },
            "safety": { "limits": { "locks": { "min": 100 }, "final_steps": { "min": 100 },
                                    "kicks_per_space": { "min": 100 }, "kicks_total": { "min": 100 } } },
            "userProvisioner": { "deprovisioning": { "enabled": true, "soft_delete_period": "1d", "erasures_per_day": 100 } },
            "spaces": [{ "id": "all", "name": "All", "groups": [{ "externalId": "" }] }],
        })
        .to_string(),
    )
}

#[test]
fn nobody_is_erased_early_or_while_present_and_no_human_lock_is_undone() {
    let long = std::env::var_os("USHER_LONG").is_some();
    let count = if long { 20_000 } else { 500 };
    let first = std::env::var("USHER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(1..=count, |seed: u64| seed..=seed).chain(FOUND);
    let config = config();
    let (mut locked, mut erased, mut returned) = (0, 0, 0);
    for seed in seeds {
        let mut sim = Sim::new(seed, &config);
        sim.history.insert(0, format!("USHER_SEED={seed}"));
        for _ in 0..EVENTS {
            sim.event();
        }
        sim.come_to_rest();
        let count = |what: &str| sim.history.iter().filter(|line| line.contains(what)).count();
        locked += count(" Lock {");
        returned += count(" Unlock");
        erased += sim.erased.len();
    }
    println!("{locked} locks, {returned} returns, {erased} erasures");
    if first.is_none() {
        assert!(locked > 500 && returned > 150 && erased > 50, "too little happened: {locked} {returned} {erased}");
    }
}
