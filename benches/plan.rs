//! What a plan costs: 100 000 users, 1 000 rooms, 1 000 000 memberships, beside a bare walk over the same memberships.
//!
//! `cargo bench --bench plan`; `-- --small` plays a hundredth of it. Each figure comes from a process of its own that does nothing else, so
//! that its peak memory is its own.

#![expect(clippy::expect_used, clippy::panic, reason = "a measurement that cannot be set up ends at once")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use serde_json::json;
use usher::actuate::Outcome;
use usher::config::{Config, load_with};
use usher::desired::desire;
use usher::directory::{Directory, Snapshot};
use usher::ids::{Interner, RoomId, Timestamp, UserId};
use usher::ledger::Ledger;
use usher::observed::{Account, Known, Member, Observed};
use usher::plan::{Lesson, Plan, Scope, guard, plan};

const SERVER: &str = "example.org";
const NOW: Timestamp = Timestamp(1_000_000_000_000);
/// Rooms usher makes in a space; with the space itself four rooms.
const ROOMS_PER_SPACE: usize = 3;

/// How large a company.
#[derive(Clone, Copy)]
struct Size {
    users: usize,
    spaces: usize,
    /// In each space, and so in each of its rooms.
    members: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let small = args.iter().any(|arg| arg == "--small");
    let size = if small {
        Size { users: 1_000, spaces: 10, members: 250 }
    } else {
        Size { users: 100_000, spaces: 250, members: 1_000 }
    };
    let alone = args.iter().position(|arg| arg == "--alone").and_then(|at| args.get(at + 1));
    match alone.map(String::as_str) {
        Some("walk") => walk(size),
        Some("steady") => steady(size),
        Some("first") => first(size),
        Some(other) => panic!("no measurement '{other}'"),
        None => {
            let memberships = size.spaces * (1 + ROOMS_PER_SPACE) * size.members;
            println!("{} users, {} rooms, {memberships} memberships", size.users, size.spaces * (1 + ROOMS_PER_SPACE));
            for what in ["walk", "steady", "first"] {
                let mut child = Command::new(std::env::current_exe().expect("this program"));
                child.args(["--alone", what]).args(small.then_some("--small"));
                assert!(child.status().expect("a child process").success(), "{what} failed");
            }
        }
    }
}

fn config(size: Size) -> Config {
    let rooms: Vec<_> = (0..ROOMS_PER_SPACE)
        .map(|at| json!({ "id": format!("r{at}"), "properties": { "name": format!("Room {at}") } }))
        .collect();
    let spaces: Vec<_> = (0..size.spaces)
        .map(|at| json!({ "id": format!("s{at:04}"), "name": format!("Space {at}"), "groups": [{ "externalId": format!("g{at}") }] }))
        .collect();
    let text = json!({
        "homeserver": { "url": "http://127.0.0.1:8008", "server_name": SERVER },
        "source": { "type": "file", "path": "company.yaml" },
        "provisioner": { "default_rooms": rooms },
        "spaces": spaces,
    });
    let loaded = load_with(&[("bench.yaml".into(), text.to_string())], &|_| None);
    match loaded.strict() {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems:?}"),
    }
}

/// Members of a group: spread over the company, `shift` of them replaced by others.
fn members(size: Size, group: usize, shift: usize) -> impl Iterator<Item = usize> {
    let stride = size.users / size.members;
    (shift..size.members + shift).map(move |at| (group * 7 + at * stride + at / size.members) % size.users)
}

/// `people: false` is the same company with empty groups; `change`: ten memberships differ, in the first group.
fn directory(size: Size, people: bool, change: bool) -> Directory {
    let users: Vec<_> =
        (0..size.users).map(|at| json!({ "id": format!("u{at:06}"), "localpart": format!("user{at:06}") })).collect();
    let groups: Vec<_> = (0..size.spaces)
        .map(|group| {
            let shift = if change && group == 0 { 5 } else { 0 };
            let members: Vec<String> =
                members(size, group, shift).filter(|_| people).map(|at| format!("u{at:06}")).collect();
            let name = format!("g{group}");
            json!({ "id": name, "name": name, "members": members })
        })
        .collect();
    let snapshot = json!({ "source": "bench", "users": users, "groups": groups });
    Directory::flatten(serde_json::from_value::<Snapshot>(snapshot).expect("a snapshot"))
}

fn homeserver(size: Size) -> Observed {
    let mut observed: Observed = serde_json::from_value(json!({
        "server": SERVER, "bot": "@usher:example.org", "sender": "@_usher:example.org",
    }))
    .expect("an empty homeserver");
    observed.bot_registered = Known::Known(true);
    observed.bot_display_name = Known::Known(Some("usher".to_owned()));
    observed.accounts.listed = true;
    observed.accounts.people = (0..size.users).map(|at| (account(at), Account::default())).collect();
    observed
}

fn account(at: usize) -> UserId {
    UserId::new(&format!("user{at:06}"), SERVER)
}

fn decide(config: &Config, directory: &Directory, observed: &Observed, ledger: &Ledger) -> Plan {
    let desired = desire(config, directory, ledger, NOW);
    let mut made = plan(&desired, observed, ledger, &Scope::Everything, NOW);
    guard(&mut made, (&desired, observed), ledger, &config.safety.limits, NOW);
    made
}

/// The company as it stands: rooms made, everybody joined, the ledger settled.
fn settled(size: Size, config: &Config) -> (Observed, Ledger) {
    let mut observed = homeserver(size);
    let mut ledger = Ledger::default();
    for step in decide(config, &directory(size, false, false), &observed, &ledger).steps {
        observed.simulate(&step.action, &Outcome::default());
    }
    let mut names = Interner::default();
    for room in observed.rooms.values_mut() {
        let key = room.marker.as_ref().map(|marker| marker.key.space().to_string()).unwrap_or_default();
        let group: usize = key[1..].parse().expect("a space's number");
        room.members
            .extend(members(size, group, 0).map(|at| (UserId::from(names.share(account(at).as_str())), Member::Join)));
    }
    let whole = directory(size, true, false);
    ledger.witness(&whole, 60_000, NOW);
    let made = decide(config, &whole, &observed, &ledger);
    assert!(made.steps.is_empty(), "the settled company has nothing to do");
    for lesson in made.lessons {
        match lesson {
            Lesson::Vanished(key) => {
                ledger.entitled.remove(&key);
            }
            Lesson::Entitled { key, levels } => drop(ledger.entitled.insert(key, levels)),
            Lesson::Group { external_id, memory } => drop(ledger.groups.insert(external_id, memory)),
            Lesson::Mode { mirrored } => ledger.mirrored = Some(mirrored),
            Lesson::Forgiven { .. } | Lesson::Leaver { .. } | Lesson::Named { .. } => {}
        }
    }
    ledger.settled = true;
    (observed, ledger)
}

fn steady(size: Size) {
    let config = config(size);
    let (observed, ledger) = settled(size, &config);
    let changed = directory(size, true, true);
    let mut best = f64::MAX;
    let mut steps = 0;
    for _ in 0..5 {
        let start = Instant::now();
        steps = decide(&config, &changed, &observed, &ledger).steps.len();
        best = best.min(start.elapsed().as_secs_f64());
    }
    report("steady state, 10 changes", best, &format!("{steps} steps"));
}

fn first(size: Size) {
    let config = config(size);
    let observed = homeserver(size);
    let whole = directory(size, true, false);
    let mut ledger = Ledger::default();
    ledger.witness(&whole, 60_000, NOW);
    let start = Instant::now();
    let steps = decide(&config, &whole, &observed, &ledger).steps.len();
    report("first plan", start.elapsed().as_secs_f64(), &format!("{steps} steps"));
}

/// The least any comparison does: two sorted lists of the same memberships, side by side.
fn walk(size: Size) {
    let mut names = Interner::default();
    let mut list = |shift: usize| -> Vec<(RoomId, UserId)> {
        let mut all = BTreeSet::new();
        for room in 0..size.spaces * (1 + ROOMS_PER_SPACE) {
            let id = RoomId::from(names.share(&format!("!room{room:04}:{SERVER}")));
            let changed = if room < 1 + ROOMS_PER_SPACE { shift } else { 0 };
            for at in members(size, room / (1 + ROOMS_PER_SPACE), changed) {
                all.insert((id.clone(), UserId::from(names.share(account(at).as_str()))));
            }
        }
        all.into_iter().collect()
    };
    let (wanted, there) = (list(5), list(0));
    let mut best = f64::MAX;
    let mut differences = 0;
    for _ in 0..5 {
        let start = Instant::now();
        differences = compare(&wanted, &there);
        best = best.min(start.elapsed().as_secs_f64());
    }
    report("bare walk (baseline)", best, &format!("{differences} differences"));
}

fn compare(wanted: &[(RoomId, UserId)], there: &[(RoomId, UserId)]) -> usize {
    let (mut left, mut right, mut differences) = (0, 0, 0);
    while left < wanted.len() || right < there.len() {
        let order = match (wanted.get(left), there.get(right)) {
            (Some(wanted), Some(there)) => wanted.cmp(there),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        left += usize::from(order.is_le());
        right += usize::from(order.is_ge());
        differences += usize::from(order.is_ne());
    }
    differences
}

fn report(what: &str, seconds: f64, result: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    println!("{what:26} {seconds:8.3} s  peak {:5} MB  {result}", peak.unwrap_or(0) / 1024);
}
