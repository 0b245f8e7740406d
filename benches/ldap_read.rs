//! A full LDAP read, flattened, against `ldapsearch` on the same slapd, interleaved; the median of five each, and the read's peak memory.
//!
//! `cargo bench --bench ldap_read` generates 100 000 users, 2 000 groups and 500 000 memberships; `-- --small` 5 000 users, 100 groups.
//! Needs `slapd` and `ldap-utils`. The read runs in a process of its own, so that its peak (`VmHWM`) is the read's and nothing else's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot set up its world stops"
)]

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::config::LdapSource;
use usher::directory::Directory;

#[path = "../tests/it/lab/ports.rs"]
mod ports;
#[path = "../tests/it/lab/slapd.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod slapd;

use slapd::{BASE, PASSWORD, ROOT_DN, Slapd};

const PAGE: u32 = 1000;
const ROUNDS: usize = 5;

/// What both sides ask for.
const ATTRIBUTES: [&str; 17] = [
    "objectClass",
    "uid",
    "cn",
    "mail",
    "o",
    "entryUUID",
    "objectGUID",
    "nsUniqueId",
    "ipaUniqueID",
    "userAccountControl",
    "accountExpires",
    "nsAccountLock",
    "pwdAccountLockedTime",
    "member",
    "uniqueMember",
    "memberUid",
    "objectSid",
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--read") {
        read(&arguments[at + 1]);
        return;
    }
    let small = arguments.iter().any(|argument| argument == "--small");
    let (users, groups, members) = if small { (5_000, 100, 250) } else { (100_000, 2_000, 250) };
    println!("filling slapd: {users} users, {groups} groups, {} memberships", groups * members);
    let slapd = Slapd::start(&directory(users, groups, members));
    // Once each unmeasured: the server's caches are warm for both.
    let _ = (ldapsearch(&slapd), own_read(&slapd));
    let mut floor = Vec::new();
    let mut own = Vec::new();
    for _ in 0..ROUNDS {
        floor.push(ldapsearch(&slapd));
        own.push(own_read(&slapd));
    }
    let peak_kib = own.iter().map(|(_, peak)| *peak).max().unwrap();
    let (floor, own) = (median(floor), median(own.into_iter().map(|(time, _)| time).collect()));
    println!("ldapsearch, paged by {PAGE}: {:.2} s", floor.as_secs_f64());
    println!("usher, read and flattened: {:.2} s", own.as_secs_f64());
    println!(
        "ratio {:.2} (at most 1.50), peak {} MiB (at most 150)",
        own.as_secs_f64() / floor.as_secs_f64(),
        peak_kib / 1024
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn directory(users: usize, groups: usize, members: usize) -> String {
    let mut ldif = format!("dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n\n");
    let _ = write!(ldif, "dn: ou=groups,{BASE}\nobjectClass: organizationalUnit\nou: groups\n\n");
    for user in 0..users {
        let _ = write!(
            ldif,
            "dn: uid=user{user:06},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: user{user:06}\ncn: Person Number {user}\n\
             sn: Number {user}\nmail: user{user:06}@example.org\n\n"
        );
    }
    for group in 0..groups {
        let _ =
            write!(ldif, "dn: cn=group{group:04},ou=groups,{BASE}\nobjectClass: groupOfNames\ncn: group{group:04}\n");
        for member in 0..members {
            // A stride coprime to the number of users spreads the members evenly and names nobody twice.
            let user = (group * 37 + member * 397) % users;
            let _ = writeln!(ldif, "member: uid=user{user:06},ou=people,{BASE}");
        }
        ldif.push('\n');
    }
    ldif
}

fn ldapsearch(slapd: &Slapd) -> Duration {
    let begun = Instant::now();
    let done = Command::new("ldapsearch")
        .args(["-x", "-LLL", "-o", "ldif-wrap=no", "-H", &slapd.uri(), "-D", ROOT_DN, "-w", PASSWORD, "-b", BASE])
        .args(["-E", &format!("pr={PAGE}/noprompt"), "(objectClass=*)"])
        .args(ATTRIBUTES)
        .stdout(Stdio::null())
        .status()
        .expect("ldapsearch is installed");
    assert!(done.success());
    begun.elapsed()
}

/// Time from start to end of a process that only reads and flattens, and its peak in KiB.
fn own_read(slapd: &Slapd) -> (Duration, u64) {
    let begun = Instant::now();
    let done = Command::new(std::env::current_exe().unwrap()).args(["--read", &slapd.uri()]).output().unwrap();
    let taken = begun.elapsed();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (taken, String::from_utf8(done.stdout).unwrap().trim().parse().unwrap())
}

/// Reads and flattens once and prints this process's peak memory in KiB.
fn read(uri: &str) {
    let source = LdapSource {
        page_size: PAGE,
        operation_timeout_ms: 60_000,
        read_timeout_ms: 600_000,
        probe: true,
        ..slapd::source(uri)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let snapshot = runtime.block_on(async { LdapBridge::new(&source).unwrap().fetch().await.unwrap() });
    let directory = Directory::flatten(snapshot);
    assert!(directory.is_complete() && directory.users.len() >= 5_000, "{:?}", directory.completeness);
    let memberships: usize = directory.groups.values().map(|group| group.users.len()).sum();
    // Each group's, and everybody once more in `ou=people` and in the base.
    assert!(memberships >= 25_000 + 2 * directory.users.len(), "{memberships}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{}", peak.trim().trim_end_matches(" kB"));
    // What was read is kept for as long as usher runs: taking it apart is no part of reading.
    std::process::exit(0);
}
