//! Several servers in order: one that is up but cannot serve is passed over, and no read is put together from two (S-3, S-6).

use usher::config::LdapSource;

use super::scripted::{BASE, ann, cem, lab, wants_users};
use super::stub::{Manner, Request, Stub, base_or, done};
use super::{failure, fetch, flaws};

/// A server that answers the search for people with these, and this code.
async fn serving(people: fn(&Request) -> Vec<u8>, code: u8) -> Stub {
    Stub::start(move |request| {
        base_or(request, BASE, || {
            if wants_users(request) {
                return [people(request), done(request, code, "")].concat();
            }
            done(request, 0, "")
        })
    })
    .await
}

fn both(request: &Request) -> Vec<u8> {
    [ann(request), cem(request)].concat()
}

async fn refusing_binds(code: u8) -> Stub {
    Stub::start_with(Manner { bind_code: code, ..Manner::default() }, |request| done(request, 0, "")).await
}

fn in_order(stubs: &[&Stub]) -> LdapSource {
    let uris = stubs.iter().map(|stub| stub.uri.clone()).collect();
    LdapSource { uris, ..lab(stubs[0]) }
}

#[tokio::test]
async fn servers_that_are_busy_or_unavailable_are_passed_over() {
    let busy = refusing_binds(51).await;
    let unavailable = Stub::start(|request| done(request, 52, "")).await;
    let good = serving(both, 0).await;
    let snapshot = fetch(&in_order(&[&busy, &unavailable, &good])).await;
    assert_eq!((snapshot.users.len(), flaws(&snapshot)), (2, Vec::new()));
    assert_eq!(
        snapshot.notices,
        [
            format!(
                "another server was passed over: bind as cn=admin,dc=example,dc=org at {}: code 51 (busy)",
                busy.uri
            ),
            format!(
                "another server was passed over: read the base `dc=lab,dc=test` from {}: code 52 (unavailable)",
                unavailable.uri
            ),
        ]
    );
}

#[tokio::test]
async fn wrong_credentials_are_not_tried_elsewhere() {
    let strict = refusing_binds(49).await;
    let good = serving(both, 0).await;
    let (text, retry) = failure(&in_order(&[&strict, &good])).await;
    assert!(text.ends_with("bind_dn or bind_password is wrong [code 49 (invalid credentials)]") && !retry, "{text}");
    assert_eq!(good.searches(), 0);
}

#[tokio::test]
async fn where_one_server_gives_a_part_the_next_one_is_read_from_the_beginning() {
    let tired = serving(ann, 51).await;
    let good = serving(both, 0).await;
    let snapshot = fetch(&in_order(&[&tired, &good])).await;
    assert_eq!((snapshot.users.len(), flaws(&snapshot)), (2, Vec::new()));
    let remark = "the read was not complete: users: the server stopped after 1 entries: code 51 (busy)";
    assert_eq!(snapshot.notices, [format!("another server was passed over: {}: {remark}", tired.uri)]);
}

#[tokio::test]
async fn where_no_server_gives_everything_the_most_is_taken_and_is_incomplete() {
    let least = serving(ann, 4).await;
    let most = serving(both, 52).await;
    let strict = refusing_binds(49).await;
    let snapshot = fetch(&in_order(&[&least, &most, &strict])).await;
    assert_eq!(flaws(&snapshot), ["users: the server stopped after 2 entries: code 52 (unavailable)"]);
    assert_eq!((snapshot.users.len(), snapshot.notices.len()), (2, 2));
}
