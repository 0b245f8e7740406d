//! Directories that are changed while they are read: who was moved meanwhile is nobody who left (S-3, S-24).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::directory::Directory;
use usher::ids::Timestamp;
use usher::ledger::Ledger;

use super::flaws;
use super::scripted::{BASE, ann, cem, lab, wants_groups, wants_users};
use super::stub::{Request, Stub, base_or, done, entry};

const INTERVAL_MS: i64 = 60_000;
const CONFIRM_READS: u32 = 2;

/// A server whose people are told by the number of the read (from 1), in which groups list whom they list there.
async fn changing(
    people: impl Fn(&Request, usize) -> Vec<u8> + Send + 'static,
    members: impl Fn(usize) -> Vec<String> + Send + 'static,
) -> Stub {
    let reads = Arc::new(AtomicUsize::new(0));
    Stub::start(move |request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                let read = reads.fetch_add(1, Ordering::Relaxed) + 1;
                return [people(request, read), done(request, 0, "")].concat();
            }
            if wants_groups(request) {
                let members = members(reads.load(Ordering::Relaxed));
                let members: Vec<&str> = members.iter().map(String::as_str).collect();
                let attributes: &[(&str, &[&str])] =
                    &[("objectClass", &["group"]), ("cn", &["Staff"]), ("member", &members)];
                return [entry(request, "cn=Staff,dc=lab,dc=test", attributes), done(request, 0, "")].concat();
            }
            done(request, 0, "")
        })
    })
    .await
}

fn both(request: &Request) -> Vec<u8> {
    [ann(request), cem(request)].concat()
}

/// Reads, and lets the ledger see it at the time of this poll.
async fn poll(bridge: &mut LdapBridge, ledger: &mut Ledger, number: i64) -> Directory {
    let directory = Directory::flatten(bridge.fetch().await.unwrap());
    ledger.witness(&directory, INTERVAL_MS, Timestamp(1_700_000_000_000 + number * INTERVAL_MS));
    directory
}

#[tokio::test]
async fn who_was_moved_while_we_read_and_seen_nowhere_is_not_gone() {
    let people = |request: &Request, read: usize| if read == 2 { ann(request) } else { both(request) };
    let stub = changing(people, |_| vec!["cn=Ann,dc=lab,dc=test".to_owned()]).await;
    let mut bridge = LdapBridge::new(&lab(&stub)).unwrap();
    let mut ledger = Ledger::default();
    let cem = "u2".into();
    assert!(poll(&mut bridge, &mut ledger, 1).await.knows(&cem));
    let second = poll(&mut bridge, &mut ledger, 2).await;
    // Nothing tells such a read from one after which Cem is gone: the second look does.
    assert!(second.is_complete() && !second.knows(&cem));
    assert_eq!(ledger.absences[&cem].reads, 1);
    assert_eq!(ledger.is_confirmed(&cem, CONFIRM_READS), None);
    poll(&mut bridge, &mut ledger, 3).await;
    assert!(!ledger.absences.contains_key(&cem), "seen again: the next absence begins anew");
}

#[tokio::test]
async fn who_is_listed_by_a_group_and_seen_nowhere_makes_the_read_incomplete() {
    let people = |request: &Request, read: usize| if read == 2 { ann(request) } else { both(request) };
    let stub = changing(people, |_| vec!["cn=Cem,dc=lab,dc=test".to_owned()]).await;
    let mut bridge = LdapBridge::new(&lab(&stub)).unwrap();
    let mut ledger = Ledger::default();
    for read in 1..=3 {
        let complete = poll(&mut bridge, &mut ledger, read).await.is_complete();
        assert_eq!(complete, read != 2, "read {read}");
        assert!(ledger.absences.is_empty(), "read {read}");
    }
}

#[tokio::test]
async fn where_members_begin_to_dangle_at_every_read_one_in_four_counts() {
    let people = |request: &Request, read: usize| if read == 1 { both(request) } else { ann(request) };
    let members = |read: usize| vec![format!("cn=passing {read},dc=lab,dc=test")];
    let stub = changing(people, members).await;
    let mut bridge = LdapBridge::new(&lab(&stub)).unwrap();
    let mut ledger = Ledger::default();
    let mut counted = Vec::new();
    for read in 1..=9 {
        let directory = poll(&mut bridge, &mut ledger, read).await;
        if directory.is_complete() {
            counted.push(read);
        }
        let said = "1 group member is newly no user or group that was read, as in the 3 reads before, which did not count for that; \
                    this one does";
        assert_eq!(directory.notices.iter().any(|notice| notice == said), read == 5 || read == 9, "read {read}");
    }
    assert_eq!(counted, [1, 5, 9]);
    assert!(
        ledger.is_confirmed(&"u2".into(), CONFIRM_READS).is_some(),
        "who left in the first minute is gone in the ninth"
    );
}

#[tokio::test]
async fn a_quiet_read_in_between_gives_the_next_ones_the_benefit_of_the_doubt_again() {
    // New at reads 2, 3, 4; the same at 5; new again from 6 on.
    let gap = |read: usize| if read == 5 { 4 } else { read };
    let members = move |read: usize| vec![format!("cn=passing {},dc=lab,dc=test", gap(read))];
    let stub = changing(|request: &Request, _| both(request), members).await;
    let mut bridge = LdapBridge::new(&lab(&stub)).unwrap();
    let mut counted = Vec::new();
    for read in 1..=9 {
        if flaws(&bridge.fetch().await.unwrap()).is_empty() {
            counted.push(read);
        }
    }
    assert_eq!(counted, [1, 5, 9]);
}
