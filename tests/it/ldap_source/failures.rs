//! Servers that fail: the read is not complete or an error, and the message says what happened and what to do (S-3).

use secrecy::SecretString;
use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::config::{LdapAttributes, LdapSource};

use super::{COMPANY, failure, fetch, flaws, relay, source};
use crate::lab::slapd::{BASE, Setup, Slapd, signal};

#[tokio::test]
async fn a_reader_with_limited_rights_gets_an_incomplete_read() {
    let limits = "\nlimits dn.exact=\"cn=reader,dc=example,dc=org\" size.soft=6 size.hard=6\n".to_owned();
    let slapd = Slapd::start_with(COMPANY, &Setup { database: limits, ..Setup::default() });
    let reader = LdapSource {
        bind_dn: Some(format!("cn=reader,{BASE}")),
        bind_password: Some(SecretString::from("reader-secret")),
        page_size: 1000,
        ..source(&slapd.uri())
    };
    let snapshot = fetch(&reader).await;
    assert_eq!(
        flaws(&snapshot),
        [
            "users: the server stopped after 6 entries: code 4 (size limit exceeded); raise the server's limits for the bind user \
             (OpenLDAP: `limits dn.exact=\"…\" size.unlimited size.prtotal=unlimited`)",
            "groups: the server stopped after 6 entries: code 4 (size limit exceeded); raise the server's limits for the bind user \
             (OpenLDAP: `limits dn.exact=\"…\" size.unlimited size.prtotal=unlimited`)",
        ]
    );
    assert_eq!(snapshot.users.len() + snapshot.unnamed.len(), 6);
    let probes = LdapBridge::new(&reader).unwrap().probe().await;
    let last = probes.last().unwrap();
    assert_eq!(
        (last.step, last.ok, last.detail.as_str()),
        (
            "users",
            false,
            "the server stopped after 6 entries: code 4 (size limit exceeded); raise the server's limits for the bind user \
             (OpenLDAP: `limits dn.exact=\"…\" size.unlimited size.prtotal=unlimited`)"
        )
    );
}

/// Bind, base, and two pages of three containers each come first.
const SECOND_PAGE_OF_USERS: usize = 6;

#[tokio::test]
async fn a_server_killed_in_the_middle_leaves_an_incomplete_read() {
    let slapd = Slapd::start(COMPANY);
    let pid = slapd.pid();
    let uri =
        relay::before_request("127.0.0.1:0", slapd.port(), SECOND_PAGE_OF_USERS, move || signal(pid, "KILL")).await;
    let snapshot = fetch(&source(&uri)).await;
    assert_eq!(flaws(&snapshot), ["users: the server stopped after 3 entries: the connection broke off"]);
    assert_eq!((snapshot.users.len(), snapshot.groups.len()), (3, 5));
}

#[tokio::test]
async fn a_server_frozen_in_the_middle_leaves_an_incomplete_read() {
    let slapd = Slapd::start(COMPANY);
    let pid = slapd.pid();
    let uri =
        relay::before_request("127.0.0.1:0", slapd.port(), SECOND_PAGE_OF_USERS, move || signal(pid, "STOP")).await;
    let snapshot = fetch(&LdapSource { operation_timeout_ms: 3000, ..source(&uri) }).await;
    assert_eq!(flaws(&snapshot), ["users: the server stopped after 3 entries: no answer within 3 s"]);
    assert_eq!(snapshot.users.len(), 3);
    slapd.resume();
    assert!(fetch(&source(&slapd.uri())).await.completeness.is_complete());
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_cut_and_incomplete() {
    let slapd = Slapd::start(COMPANY);
    let pid = slapd.pid();
    let uri =
        relay::before_request("127.0.0.1:0", slapd.port(), SECOND_PAGE_OF_USERS, move || signal(pid, "STOP")).await;
    let snapshot = fetch(&LdapSource { read_timeout_ms: 5000, ..source(&uri) }).await;
    assert_eq!(flaws(&snapshot), ["the whole read took longer than read_timeout (5 s)"]);
    assert_eq!(snapshot.users.len(), 3);
}

#[tokio::test]
async fn a_server_that_fails_before_anything_was_read_is_an_error() {
    for (signal_name, cause, patience) in
        [("KILL", "the connection broke off", 5_000), ("STOP", "no answer within 3 s", 3_000)]
    {
        let slapd = Slapd::start(COMPANY);
        let pid = slapd.pid();
        let uri = relay::before_request("127.0.0.1:0", slapd.port(), 2, move || signal(pid, signal_name)).await;
        let source = LdapSource { operation_timeout_ms: patience, ..source(&uri) };
        assert_eq!(failure(&source).await, (format!("read the base `dc=example,dc=org` from {uri}: {cause}"), true));
    }
}

#[tokio::test]
async fn a_base_that_is_gone_is_an_error_that_names_it() {
    let slapd = Slapd::start(COMPANY);
    let source = LdapSource { base: format!("ou=Gone,{BASE}"), ..source(&slapd.uri()) };
    let cause = "the server has no such entry (code 32), or the bind user may not see it; check `base`";
    let text = format!("read the base `ou=Gone,dc=example,dc=org` from {}: {cause}", slapd.uri());
    assert_eq!(failure(&source).await, (text, false));
}

#[tokio::test]
async fn an_empty_answer_with_success_is_told_from_a_failure() {
    let slapd = Slapd::start(COMPANY);
    let nobody = LdapSource { filter: Some("(cn=nobody at all)".to_owned()), ..source(&slapd.uri()) };
    let snapshot = fetch(&nobody).await;
    assert_eq!((snapshot.users.len(), snapshot.groups.len(), flaws(&snapshot)), (0, 1, Vec::new()));
}

#[tokio::test]
async fn a_server_that_shows_nothing_is_an_error() {
    let hidden = "\naccess to dn.exact=\"dc=example,dc=org\" by * search\naccess to * by * none\n".to_owned();
    let slapd = Slapd::start_with(COMPANY, &Setup { database: hidden, ..Setup::default() });
    let source = LdapSource { bind_dn: None, bind_password: None, ..source(&slapd.uri()) };
    let cause =
        "the server shows neither the base `dc=example,dc=org` nor anybody below it: check the bind user's rights";
    let text = format!("read users and groups below `dc=example,dc=org` from {}: {cause}", slapd.uri());
    assert_eq!(failure(&source).await, (text, true));
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_tried_elsewhere() {
    let slapd = Slapd::start(COMPANY);
    let other = Slapd::start(COMPANY);
    let source = LdapSource {
        bind_password: Some(SecretString::from("wrong")),
        uris: vec![slapd.uri(), other.uri()],
        ..source(&slapd.uri())
    };
    let cause = "bind_dn or bind_password is wrong [code 49 (invalid credentials)]";
    let text = format!("bind as cn=admin,dc=example,dc=org at {}: {cause}", slapd.uri());
    assert_eq!(failure(&source).await, (text, false));
}

#[tokio::test]
async fn an_empty_password_is_refused_before_the_server_takes_it_for_anonymous() {
    for password in [None, Some(SecretString::from(""))] {
        let source = LdapSource { bind_password: password, ..source("ldap://127.0.0.1:1") };
        let cause =
            "bind_dn is set but bind_password is empty: servers take that for an anonymous login and show little";
        assert_eq!(failure(&source).await, (format!("use the ldap source as configured: {cause}"), false));
    }
}

#[tokio::test]
async fn a_server_that_wants_encryption_says_so() {
    let setup = Setup { global: "security simple_bind=128\n".to_owned(), ..Setup::default() };
    let slapd = Slapd::start_with(COMPANY, &setup);
    let cause = "the server wants an encrypted connection first: use ldaps:// in `uri`, or `start_tls: true` \
                 [code 13 (confidentiality required): confidentiality required]";
    let text = format!("bind as cn=admin,dc=example,dc=org at {}: {cause}", slapd.uri());
    assert_eq!(failure(&source(&slapd.uri())).await, (text, false));
}

#[tokio::test]
async fn the_next_server_is_used_when_one_is_dead_or_frozen() {
    let alive = Slapd::start(COMPANY);
    let frozen = Slapd::start(COMPANY);
    frozen.pause();
    let dead = "ldap://127.0.0.1:1".to_owned();
    let source = LdapSource {
        uris: vec![dead.clone(), frozen.uri(), alive.uri()],
        operation_timeout_ms: 3000,
        ..source(&alive.uri())
    };
    let snapshot = fetch(&source).await;
    assert_eq!((snapshot.users.len(), flaws(&snapshot)), (15, Vec::new()));
    let passed_over: Vec<&String> =
        snapshot.notices.iter().filter(|notice| notice.starts_with("another server was passed over")).collect();
    assert_eq!(
        passed_over,
        [
            &format!("another server was passed over: connect to {dead}: connection refused: nothing listens there"),
            &format!(
                "another server was passed over: bind as cn=admin,dc=example,dc=org at {}: no answer within 3 s",
                frozen.uri()
            ),
        ]
    );
    let none = LdapSource { uris: vec![dead.clone(), frozen.uri()], ..source };
    let text = format!(
        "read from 2 ldap servers: connect to {dead}: connection refused: nothing listens there; \
         bind as cn=admin,dc=example,dc=org at {}: no answer within 3 s",
        frozen.uri()
    );
    assert_eq!(failure(&none).await, (text, true));
}

#[tokio::test]
async fn a_server_that_comes_back_is_read_again() {
    let mut slapd = Slapd::start(COMPANY);
    let mut bridge = LdapBridge::new(&source(&slapd.uri())).unwrap();
    assert_eq!(bridge.fetch().await.unwrap().users.len(), 15);
    slapd.kill9();
    let error = bridge.fetch().await.unwrap_err();
    assert_eq!(error.to_string(), format!("connect to {}: connection refused: nothing listens there", slapd.uri()));
    slapd.restart();
    assert_eq!(bridge.fetch().await.unwrap().users.len(), 15);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_without_a_server() {
    let good = source("ldap://127.0.0.1:1");
    let refused = [
        (LdapSource { uris: vec![], ..good.clone() }, "`uri` names no server"),
        (
            LdapSource { uris: vec!["http://x".to_owned()], ..good.clone() },
            "`http://x`: scheme `http` is neither ldap nor ldaps",
        ),
        (
            LdapSource {
                attributes: LdapAttributes { uid: "u)(id".to_owned(), ..good.attributes.clone() },
                ..good.clone()
            },
            "attributes: `u)(id` is no attribute name",
        ),
        (LdapSource { base: "people".to_owned(), ..good.clone() }, "base `people` is not a DN"),
        (
            LdapSource { filter: Some("(&(a=b)".to_owned()), ..good.clone() },
            "filter `(&(a=b)` is not an LDAP filter (RFC 4515)",
        ),
        (
            LdapSource { user_filter: Some("person".to_owned()), ..good.clone() },
            "user_filter `person` is not an LDAP filter (RFC 4515)",
        ),
        (
            LdapSource { localpart: Some("x".to_owned()), ..good },
            "localpart template `x` names no attribute: everybody would have one localpart",
        ),
    ];
    for (source, cause) in refused {
        assert_eq!(failure(&source).await, (format!("use the ldap source as configured: {cause}"), false));
    }
}
