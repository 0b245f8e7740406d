//! Interleavings of leaving, returning, renaming, being made again, human locks, clock jumps, restarts, crashes around each write and lost
//! databases, over the pure core: nobody is erased early or while present, and nothing a human locked is unlocked (S-51 to S-53). In the
//! end nobody who is there is locked, and everybody who is gone is.
//!
//! Half of them also have operators' orders, answers that are lost, late or refusals without a crash, and humans who lock accounts that
//! usher knows: what these add is drawn apart, so that a seed below [`ORDERED`] means what it always meant.
//!
//! Three things no usher can know are left out: a human who locks an account in the very moment between usher writing down its own lock and
//! sending it, and one who takes usher's lock off and puts an own one on between two looks.
//! And the database is lost only once the bot's account data has every lock: one set a moment before, or about to be taken off, cannot be
//! proven, and is only reported. Nor is it lost while that data tells of a lock that a human has taken the place of.
//!
//! 250 interleavings of each kind; with `USHER_LONG=1` 20 000.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use usher::actuate::Outcome;
use usher::config::Config;
use usher::directory::Snapshot;
use usher::ids::{Timestamp, UserId};
use usher::ledger::{Clocks, Ending, Leaver, Ledger, Order, Stage, TOLERANCE_MS, TWO_LOOKS_MS, Witnessing};
use usher::observed::{Estate, Known, Observed};
use usher::plan::{AccountDeed, Action, Lesson, Step, World};

use crate::lab::dice::Dice;

const SERVER: &str = "example.org";
const PEOPLE: usize = 4;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const PERIOD: i64 = DAY;
const EVENTS: usize = 60;
/// Interleavings that went wrong once: a lock taken off or set anew, not yet struck from the bot's account data or put there again, then a
/// human's lock and a lost database; an order to erase at once that was withdrawn, both lost but for the first in the account data.
const FOUND: [u64; 4] = [1865, 17_015, 17_241, 1_001_915];

/// Seeds from here on have orders and lost answers.
const ORDERED: u64 = 1_000_000;
/// As the loop: rounds of planning and doing in one pass.
const ROUNDS: usize = 8;

/// What becomes of a write that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fortune {
    Answered,
    /// It never arrives.
    Lost,
    /// It is done, and nobody is told.
    Unheard,
    /// It is done after the next look, and nobody is told.
    Late,
    Refused,
}

/// What is counted of a history, by what its lines tell.
const MARKS: [(&str, &str); 10] = [
    ("locks", "org Lock {"),
    ("returns", "org Unlock"),
    ("restores", " Restore {"),
    ("hurries", " EraseNow {"),
    ("taken back", " Lock { user"),
    ("lost", " Lost: "),
    ("unheard", " Unheard: "),
    ("late", " Late: "),
    ("refused", " Refused: "),
    ("human locks", " a human locks "),
];

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
    /// What only seeds from [`ORDERED`] on have.
    chance: Option<Dice>,
    /// Writes on their way.
    late: Vec<Action>,
    /// Whose end was ordered, and who is to stay as they are at an operator's word.
    hurried: BTreeSet<UserId>,
    spared: BTreeSet<UserId>,
    /// Whom an operator ever gave their account back.
    given_back: BTreeSet<UserId>,
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
            chance: (seed >= ORDERED).then(|| Dice(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1)),
            late: Vec::new(),
            hurried: BTreeSet::new(),
            spared: BTreeSet::new(),
            given_back: BTreeSet::new(),
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

    /// What was sent is done: only usher dies.
    fn restart(&mut self) {
        self.land();
        self.ledger = self.saved.clone();
        self.started = self.time;
        self.ledger.clocks = Clocks { lasting: true, ..Clocks::default() };
        self.ledger.clocks.tick(self.now(), 0);
        if self.chance.is_some() && !self.ledger.settled {
            // The source is read before the homeserver is.
            let directory = usher::directory::Directory::flatten(self.snapshot(true));
            let how = Witnessing { interval_ms: MINUTE, holds_accounts: true };
            self.ledger.witness_as(&directory, how, self.now());
        }
        if let Known::Known(mirror) = self.homeserver.leavers.clone() {
            self.ledger.recover(&mirror);
        }
    }

    /// A pass, cut off before (or after) the write with the given number.
    fn pass(&mut self, complete: bool, crash: Option<(usize, bool)>) {
        let mut writes = 0;
        for _ in 0..ROUNDS {
            let now = self.now();
            let (steps, lessons) = self.plan(complete, now);
            let known = self.ledger.leavers.clone();
            let news: Vec<Lesson> =
                lessons.iter().filter(|lesson| matches!(lesson, Lesson::Leaver { .. })).cloned().collect();
            self.ledger.learn(&news);
            if known != self.ledger.leavers {
                continue;
            }
            for step in &steps {
                self.ledger.foresee(step, now);
            }
            self.saved = self.ledger.clone();
            self.land();
            for step in &steps {
                if crash == Some((writes, false)) {
                    return self.restart();
                }
                let ending = self.perform(step);
                if crash == Some((writes, true)) {
                    return self.restart();
                }
                self.ledger.settle(step, ending);
                writes += 1;
            }
            if steps.is_empty() {
                self.ledger.learn(&lessons);
                self.ledger.settled = true;
                self.saved = self.ledger.clone();
                return;
            }
            self.saved = self.ledger.clone();
            self.ledger.settled = true;
        }
        self.land();
    }

    /// A look at everything, and what it leads to.
    fn plan(&mut self, complete: bool, now: Timestamp) -> (Vec<Step>, Vec<Lesson>) {
        self.ledger.tick(now, self.time - self.started);
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
        (plan.pending().cloned().collect(), plan.lessons)
    }

    /// Sends a write, as the executor does: it looks at the account first.
    fn perform(&mut self, step: &Step) -> Ending {
        let fortune = match self.chance.as_mut().map(|chance| chance.below(24)) {
            Some(0 | 1) => Fortune::Lost,
            Some(2 | 3) => Fortune::Unheard,
            Some(4 | 5) => Fortune::Late,
            Some(6) => Fortune::Refused,
            Some(_) | None => Fortune::Answered,
        };
        if let Action::Account { user, deed } = &step.action {
            let account = &self.homeserver.accounts.people[user];
            let (locked, closed) = (account.locked, account.deactivated);
            match deed {
                AccountDeed::Lock { .. } if locked || closed => return Ending::Refused,
                AccountDeed::Unlock if closed => return Ending::Refused,
                AccountDeed::Unlock if !locked => return Ending::Done,
                AccountDeed::Close(_) if closed => return Ending::Done,
                AccountDeed::Close(_) if !locked => return Ending::Unknown,
                _ => {}
            }
        }
        if fortune != Fortune::Answered {
            self.history.push(format!("{} {fortune:?}: {:?}", self.time, step.action));
        }
        match fortune {
            Fortune::Lost => return Ending::Unknown,
            Fortune::Refused => return Ending::Refused,
            Fortune::Late => {
                self.late.push(step.action.clone());
                return Ending::Unknown;
            }
            Fortune::Answered | Fortune::Unheard => self.arrive(&step.action),
        }
        if fortune == Fortune::Unheard { Ending::Unknown } else { Ending::Done }
    }

    fn arrive(&mut self, action: &Action) {
        self.judge(action);
        self.homeserver.simulate(action, &Outcome::default());
    }

    /// What was on its way is done.
    fn land(&mut self) {
        for action in std::mem::take(&mut self.late) {
            self.arrive(&action);
        }
    }

    /// What must hold of every write to an account.
    fn judge(&mut self, action: &Action) {
        let Action::Account { user, deed } = action else { return };
        self.history.push(format!("{} {user} {deed:?}", self.time));
        match deed {
            AccountDeed::Lock { .. } => {
                assert!(!self.locks.contains_key(user), "locks what is locked: {:#?}", self.history);
                assert!(!self.spared.contains(user), "locks whom an operator restored: {:#?}", self.history);
                self.locks.insert(user.clone(), By::Usher { at: self.time });
            }
            AccountDeed::Unlock => {
                let by = self.locks.remove(user);
                self.hurried.remove(user);
                assert!(matches!(by, Some(By::Usher { .. })), "unlocks what {by:?} locked: {:#?}", self.history);
                let theirs = self.is_present(user) || self.given_back.contains(user);
                assert!(theirs, "unlocks it for somebody else: {:#?}", self.history);
            }
            AccountDeed::Close(_) => {
                let Some(By::Usher { at }) = self.locks.get(user) else {
                    panic!("erases somebody it has not locked: {:#?}", self.history);
                };
                // Two clocks may each be five minutes off.
                let grace = self.time - at;
                let hurried = self.hurried.contains(user);
                assert!(hurried || grace >= PERIOD - 2 * TOLERANCE_MS, "{grace} ms of grace: {:#?}", self.history);
                let looked = self.time - self.started;
                // The clock may be set by some minutes in between.
                let own = hurried || *at >= self.started - 2 * TOLERANCE_MS;
                assert!(
                    own || looked >= TWO_LOOKS_MS - TOLERANCE_MS,
                    "{looked} ms after the start: {:#?}",
                    self.history
                );
                assert!(!self.spared.contains(user), "erases whom an operator restored: {:#?}", self.history);
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
            2 | 3 => {
                self.spared.remove(&account);
                self.directory.insert(id, (format!("p{person}"), true));
            }
            4 => drop(self.directory.insert(id, (format!("p{person}"), false))),
            5 if self.directory.contains_key(&id) => {
                self.spared.remove(&account);
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
                self.hurried.clear();
                let restored = |user: &UserId| self.ledger.leavers.get(user).is_some_and(Leaver::is_spared);
                self.spared.retain(restored);
            }
            _ => self.pass(true, None),
        }
        self.interfere();
        self.time += [1, 2, 11, 61, 360, 1441][self.dice.below(6)] * MINUTE;
    }

    /// Operators' orders, and humans who lock accounts usher knows.
    fn interfere(&mut self) {
        let Some(chance) = &mut self.chance else { return };
        let (kind, person) = (chance.below(16), chance.below(PEOPLE));
        let account = user(person);
        match kind {
            0 | 1 => self.order(&Order::Restore { user: account }),
            2 => self.order(&Order::Lock { user: account }),
            3 => self.order(&Order::EraseNow { user: account }),
            4 => {
                let not_before = self.now().plus_ms(DAY);
                self.order(&Order::Extend { user: account, not_before });
            }
            5 | 6 => self.lock_what_is_open(&account),
            7 => self.unlock_by_hand(&account),
            8 => self.pass(true, None),
            _ => {}
        }
    }

    /// The loop takes it in before its next pass, and saves that.
    fn order(&mut self, order: &Order) {
        let Some(account) = order.user().cloned() else { return };
        let objection = self.ledger.objection(order, None);
        if objection.is_some() {
            return;
        }
        self.history.push(format!("{} {order:?}", self.time));
        assert!(self.ledger.obey(order, self.now()));
        self.saved = self.ledger.clone();
        match order {
            Order::Restore { .. } => {
                self.hurried.remove(&account);
                self.given_back.insert(account.clone());
                let id = format!("id{}", account.localpart().trim_start_matches('p'));
                // Whoever is back is spared by that, and a leaver like any when they leave again.
                if !self.directory.get(&id).is_some_and(|(_, enabled)| *enabled) {
                    self.spared.insert(account);
                }
            }
            Order::EraseNow { .. } => {
                self.spared.remove(&account);
                self.hurried.insert(account);
            }
            Order::Lock { .. } | Order::Extend { .. } | Order::Rebind { .. } => {
                self.spared.remove(&account);
                self.hurried.remove(&account);
            }
        }
    }

    /// Whether the bot's account data knows of every lock of usher's as one: what is set in the moment before is lost with the database.
    /// And whether it knows that a human's is none.
    fn is_mirrored(&self) -> bool {
        let Known::Known(mirror) = &self.homeserver.leavers else { return false };
        self.locks.iter().all(|(account, by)| match by {
            By::Usher { .. } => {
                mirror.get(account).is_some_and(|leaver| !matches!(leaver.stage, Stage::Restored | Stage::Open))
            }
            By::Human => self.chance.is_none() || !mirror.contains_key(account),
        })
    }

    fn lock_by_hand(&mut self, account: &UserId) {
        let known = [&self.ledger, &self.saved].iter().any(|ledger| ledger.leavers.contains_key(account));
        if !known && !self.locks.contains_key(account) {
            self.set_lock(account);
        }
    }

    /// A human locks an account that usher has seen open since it was locked.
    fn lock_what_is_open(&mut self, account: &UserId) {
        let seen = |leaver: &Leaver| matches!(leaver.stage, Stage::Restored | Stage::Open);
        let ledgers = [&self.ledger, &self.saved];
        let open = ledgers.iter().all(|ledger| ledger.leavers.get(account).is_none_or(seen));
        if open && !self.locks.contains_key(account) && !self.erased.contains(account) {
            self.history.push(format!("{} a human locks {account}", self.time));
            self.set_lock(account);
        }
    }

    fn set_lock(&mut self, account: &UserId) {
        self.locks.insert(account.clone(), By::Human);
        self.homeserver.accounts.people.get_mut(account).unwrap().locked = true;
    }

    fn unlock_by_hand(&mut self, account: &UserId) {
        let closing = self.saved.leavers.get(account).is_some_and(|leaver| leaver.stage == Stage::Closing);
        if !closing && self.locks.remove(account).is_some() {
            self.homeserver.accounts.people.get_mut(account).unwrap().locked = false;
        }
    }

    /// Whether somebody's entry, which is not in the directory or disabled there, is bound to the account.
    fn is_gone(&self, account: &UserId) -> bool {
        let mut entries = self.ledger.people.iter().filter(|(_, bound)| bound.as_str() == account.localpart());
        let present = |id: &str| self.directory.get(id).is_some_and(|(_, enabled)| *enabled);
        // An empty directory is doubted (S-3).
        !self.directory.is_empty() && entries.any(|(id, _)| !present(id.as_str()))
    }

    /// Once the clocks are right and nothing happens any more, everybody ends where they belong.
    fn come_to_rest(&mut self) {
        self.offset = 0;
        self.chance = None;
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
            let spared = self.ledger.leavers.get(&account).is_some_and(Leaver::is_spared);
            if self.is_gone(&account) && !spared {
                assert!(locked, "{account} is gone and open: {:#?}", self.history);
            }
            if self.is_gone(&account) && self.spared.contains(&account) {
                assert!(!locked, "{account} was restored and is locked: {:#?}", self.history);
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
    let count = if long { 20_000 } else { 250 };
    // One, or `from-to`.
    let given = std::env::var("USHER_SEED").ok().and_then(|text| {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    });
    let seeds: Vec<u64> = match given {
        Some((first, last)) => (first..=last).collect(),
        None => (1..=count).chain(FOUND).chain(ORDERED..ORDERED + count).collect(),
    };
    let config = config();
    let mut happened: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        let mut sim = Sim::new(seed, &config);
        sim.history.insert(0, format!("USHER_SEED={seed}"));
        for _ in 0..EVENTS {
            sim.event();
        }
        sim.come_to_rest();
        let count = |what: &str| sim.history.iter().filter(|line| line.contains(what)).count();
        for (name, mark) in MARKS {
            *happened.entry(name).or_default() += count(mark);
        }
        *happened.entry("erasures").or_default() += sim.erased.len();
    }
    println!("{happened:?}");
    if given.is_none() {
        for (name, least) in [("locks", 1_000), ("returns", 300), ("erasures", 100), ("restores", 100), ("hurries", 50)]
        {
            assert!(happened[name] > least, "too little happened: {happened:?}");
        }
        for (name, _) in MARKS {
            assert!(happened[name] > 20, "too little happened: {happened:?}");
        }
    }
}
