//! What OpenLDAP never does but other servers, or broken ones, do.

use usher::config::LdapSource;

use super::stub::{Request, Stub, base_or, ber, done, entry, garbled_entry, reference};
use super::{failure, fetch, flaws, outline, source};

const BASE: &str = "dc=lab,dc=test";

fn lab(stub: &Stub) -> LdapSource {
    LdapSource { base: BASE.to_owned(), ..source(&stub.uri) }
}

/// What kind of entries a search is for.
fn wants_users(request: &Request) -> bool {
    request.mentions("inetorgperson")
}

fn wants_groups(request: &Request) -> bool {
    request.mentions("groupofnames")
}

fn ann(request: &Request) -> Vec<u8> {
    entry(request, "cn=Ann,dc=lab,dc=test", &[("objectClass", &["user"]), ("uid", &["ann"]), ("entryUUID", &["u1"])])
}

fn cem(request: &Request) -> Vec<u8> {
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
