//! What `OpenLDAP` never does but other servers, or broken ones, do.

use std::time::Duration;

use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::config::LdapSource;

use super::stub::{HANG_UP, Manner, Request, Stub, base_or, ber, done, entry, garbled_entry, reference};
use super::{failure, fetch, flaws, outline, source};

pub const BASE: &str = "dc=lab,dc=test";

pub fn lab(stub: &Stub) -> LdapSource {
    LdapSource { base: BASE.to_owned(), ..source(&stub.uri) }
}

/// What kind of entries a search is for.
pub fn wants_users(request: &Request) -> bool {
    request.mentions("inetorgperson")
}

pub fn wants_groups(request: &Request) -> bool {
    request.mentions("groupofnames")
}

pub fn ann(request: &Request) -> Vec<u8> {
    entry(request, "cn=Ann,dc=lab,dc=test", &[("objectClass", &["user"]), ("uid", &["ann"]), ("entryUUID", &["u1"])])
}

pub fn cem(request: &Request) -> Vec<u8> {
    entry(request, "cn=Cem,dc=lab,dc=test", &[("objectClass", &["user"]), ("uid", &["cem"]), ("entryUUID", &["u2"])])
}

#[tokio::test]
async fn members_in_parts_are_followed_to_the_end() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || match request.attributes.first().map(String::as_str) {
            Some("member;range=1-*") => [
                entry(request, "cn=Staff,dc=lab,dc=test", &[("member;range=1-1", &["cn=gone,dc=lab,dc=test"])]),
                done(request, 0, ""),
            ]
            .concat(),
            Some("member;range=2-*") => [
                entry(request, "cn=Staff,dc=lab,dc=test", &[("member;range=2-*", &["CN=Cem,DC=lab,DC=test"])]),
                done(request, 0, ""),
            ]
            .concat(),
            _ if wants_users(request) => [ann(request), cem(request), done(request, 0, "")].concat(),
            _ if wants_groups(request) => {
                let members: &[(&str, &[&str])] = &[
                    ("objectClass", &["group"]),
                    ("cn", &["Staff"]),
                    ("member", &[]),
                    ("member;range=0-0", &["CN=Ann,DC=lab,DC=test"]),
                ];
                [entry(request, "cn=Staff,dc=lab,dc=test", members), done(request, 0, "")].concat()
            }
            _ => done(request, 0, ""),
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(flaws(&snapshot), [""; 0]);
    assert_eq!(outline(&snapshot), "ann = -, 0 mails\ncem = -, 0 mails\nG Staff: ann cem\nR lab: ann cem\n");
    assert_eq!(stub.asked_of("cn=Staff,dc=lab,dc=test"), [["member;range=1-*"], ["member;range=2-*"]]);
}

#[tokio::test]
async fn a_group_whose_parts_do_not_continue_makes_the_read_incomplete() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                return [ann(request), done(request, 0, "")].concat();
            }
            let ranged: &[(&str, &[&str])] =
                &[("objectClass", &["group"]), ("member;range=0-0", &["CN=Ann,DC=lab,DC=test"])];
            if wants_groups(request) || request.mentions("range=") {
                return [entry(request, "cn=Staff,dc=lab,dc=test", ranged), done(request, 0, "")].concat();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(
        flaws(&snapshot),
        ["group `cn=Staff,dc=lab,dc=test` is not whole: the answer to `member;range=1-*` does not continue it"]
    );
}

#[tokio::test]
async fn an_entry_that_is_garbled_makes_the_read_incomplete() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                return [ann(request), garbled_entry(request), cem(request), done(request, 0, "")].concat();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(flaws(&snapshot), ["users: 1 entries were not encoded as LDAP demands"]);
    assert_eq!(snapshot.users.len(), 2);
}

#[tokio::test]
async fn what_is_not_ldap_at_all_ends_the_read_without_a_panic() {
    // An answer whose parts the library itself cannot take: a message without an id.
    for garbage in [ber(0x30, &ber(4, b"x")), b"HTTP/1.1 400 Bad Request\r\n".repeat(9)] {
        let stub = Stub::start(move |request| {
            let garbage = garbage.clone();
            base_or(request, BASE, || {
                if wants_users(request) {
                    return [ann(request), garbage].concat();
                }
                done(request, 0, "")
            })
        })
        .await;
        let snapshot = fetch(&lab(&stub)).await;
        let flaws = flaws(&snapshot);
        assert_eq!(flaws.len(), 1);
        let text = "users: the server stopped after 1 entries: the server sent something that is not LDAP";
        assert!(flaws[0].starts_with(text), "{}", flaws[0]);
        assert_eq!(snapshot.users.len(), 1);
    }
}

#[tokio::test]
async fn refusals_of_one_search_leave_an_incomplete_read() {
    for (code, cause) in [
        (3, "code 3 (time limit exceeded); raise the server's time limit for the bind user"),
        (10, "code 10 (referral to another server); name the server that holds the base in `uri`"),
        (51, "code 51 (busy)"),
        (52, "code 52 (unavailable)"),
        (53, "code 53 (unwilling to perform)"),
    ] {
        let stub = Stub::start(move |request| {
            base_or(request, BASE, || {
                if wants_users(request) {
                    return [ann(request), done(request, code, "")].concat();
                }
                done(request, 0, "")
            })
        })
        .await;
        let snapshot = fetch(&lab(&stub)).await;
        assert_eq!(flaws(&snapshot), [format!("users: the server stopped after 1 entries: {cause}")]);
    }
}

#[tokio::test]
async fn refusals_before_anything_was_read_are_an_error() {
    let stub = Stub::start(|request| base_or(request, BASE, || done(request, 52, ""))).await;
    let text = format!(
        "read users and groups below `dc=lab,dc=test` from {}: OUs and domains: the server stopped after 0 entries: \
         code 52 (unavailable); users: the server stopped after 0 entries: code 52 (unavailable); \
         groups: the server stopped after 0 entries: code 52 (unavailable)",
        stub.uri
    );
    assert_eq!(failure(&lab(&stub)).await, (text, true));
}

#[tokio::test]
async fn pages_without_end_are_cut_off() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                return [if request.mentions("more") { Vec::new() } else { ann(request) }, done(request, 0, "more")]
                    .concat();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(flaws(&snapshot), ["users: the server stopped after 1 entries: the server hands out pages without end"]);
    assert_eq!(stub.searches(), 1 + 1 + 101 + 1);
}

#[tokio::test]
async fn references_to_other_servers_are_counted_and_not_followed() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            let away = reference(request, "ldap://elsewhere.test/CN=Configuration,DC=lab,DC=test");
            let found = if wants_users(request) { ann(request) } else { Vec::new() };
            [found, away, done(request, 0, "")].concat()
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(flaws(&snapshot), [""; 0]);
    assert_eq!(snapshot.notices, ["1 reference to another server was not followed"]);
}

#[tokio::test]
async fn a_server_that_hands_out_one_page_again_and_again_is_found_out() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                let found = if request.mentions("stuck") { cem(request) } else { ann(request) };
                return [found, done(request, 0, "stuck")].concat();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    let flaws = flaws(&snapshot);
    assert!(flaws.len() == 1 && flaws[0].ends_with("the server hands out the same page again and again"), "{flaws:?}");
    assert_eq!(snapshot.users.len(), 2);
    // The base, the containers, the groups; three pages of people, or four if the third was decoded while the fourth was on its way.
    assert!((6..=7).contains(&stub.searches()), "{} searches", stub.searches());
}

#[tokio::test]
async fn a_server_whose_cookie_is_always_the_same_is_read_whole() {
    let mut page = 0;
    let stub = Stub::start(move |request| {
        base_or(request, BASE, || {
            if !wants_users(request) {
                return done(request, 0, "");
            }
            page += 1;
            match page {
                1 => [ann(request), done(request, 0, "0")].concat(),
                2 => [cem(request), done(request, 0, "0")].concat(),
                _ => done(request, 0, ""),
            }
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!((snapshot.users.len(), flaws(&snapshot)), (2, Vec::new()));
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_middle_of_a_page_leaves_an_incomplete_read() {
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                let half = cem(request);
                return [&ann(request)[..], &half[..half.len() / 2], HANG_UP].concat();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&lab(&stub)).await;
    assert_eq!(flaws(&snapshot), ["users: the server stopped after 1 entries: the connection broke off"]);
    assert_eq!(snapshot.users.len(), 1);
}

#[tokio::test]
async fn a_server_that_never_quite_runs_into_its_time_limit_is_cut_off_all_the_same() {
    const PEOPLE: usize = 200;
    let manner = Manner { pause: Duration::from_millis(100), ..Manner::default() };
    let stub = Stub::start_with(manner, |request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                let people = (0..PEOPLE).flat_map(|number| person(request, number));
                return people.chain(done(request, 0, "")).collect();
            }
            done(request, 0, "")
        })
    })
    .await;
    let snapshot = fetch(&LdapSource { read_timeout_ms: 2000, ..lab(&stub) }).await;
    assert_eq!(flaws(&snapshot), ["the whole read took longer than read_timeout (2 s)"]);
    assert!((1..PEOPLE).contains(&snapshot.users.len()), "{}", snapshot.users.len());
    let probes = LdapBridge::new(&LdapSource { read_timeout_ms: 1000, ..lab(&stub) }).unwrap().probe().await;
    let last = probes.last().unwrap();
    let expected = "what follows the steps above took longer than read_timeout (1 s)";
    assert_eq!((last.step, last.ok, last.detail.as_str()), ("time", false, expected));
}

fn person(request: &Request, number: usize) -> Vec<u8> {
    let (uid, id) = (format!("p{number:06}"), format!("id{number:06}"));
    let attributes: &[(&str, &[&str])] = &[("objectClass", &["user"]), ("uid", &[&uid]), ("entryUUID", &[&id])];
    entry(request, &member(number), attributes)
}

fn member(number: usize) -> String {
    format!("CN=p{number:06},DC=lab,DC=test")
}

#[tokio::test]
async fn a_hundred_thousand_members_are_read_at_once_and_in_parts() {
    const MEMBERS: usize = 100_000;
    const PEOPLE: usize = 2_000;
    const PART: usize = 1_500;
    let stub = Stub::start(|request| {
        base_or(request, BASE, || {
            let group = |name: &str, attribute: &str, range: std::ops::Range<usize>| {
                let members: Vec<String> = range.map(member).collect();
                let members: Vec<&str> = members.iter().map(String::as_str).collect();
                let attributes: &[(&str, &[&str])] =
                    &[("objectClass", &["group"]), ("cn", &[name]), (attribute, &members)];
                entry(request, &format!("CN={name},DC=lab,DC=test"), attributes)
            };
            let part = |from: usize| match from + PART {
                end if end >= MEMBERS => group("Parts", &format!("member;range={from}-*"), from..MEMBERS),
                end => group("Parts", &format!("member;range={from}-{}", end - 1), from..end),
            };
            if wants_users(request) {
                return (0..PEOPLE).flat_map(|number| person(request, number)).chain(done(request, 0, "")).collect();
            }
            if wants_groups(request) {
                return [group("Whole", "member", 0..MEMBERS), part(0), done(request, 0, "")].concat();
            }
            let asked = request.attributes.first().and_then(|name| name.strip_prefix("member;range="));
            match asked.and_then(|range| range.strip_suffix("-*")) {
                Some(from) => [part(from.parse().unwrap()), done(request, 0, "")].concat(),
                None => done(request, 0, ""),
            }
        })
    })
    .await;
    let patient = LdapSource { operation_timeout_ms: 60_000, read_timeout_ms: 180_000, ..lab(&stub) };
    let snapshot = fetch(&LdapSource { page_size: 1000, ..patient }).await;
    assert_eq!(flaws(&snapshot), [""; 0]);
    for name in ["Whole", "Parts"] {
        let group = snapshot.groups.iter().find(|group| group.name == name).unwrap();
        assert_eq!(group.members.len(), PEOPLE, "{name}");
    }
    let dangling = 2 * (MEMBERS - PEOPLE);
    assert!(snapshot.notices[1].starts_with(&format!("{dangling} group members are")), "{:?}", snapshot.notices);
    assert_eq!(stub.asked_of("CN=Parts,DC=lab,DC=test").len(), MEMBERS.div_ceil(PART) - 1);
}
