//! What goes wrong between usher and Graph: nothing is lost, nobody looks gone, no secret is told.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use usher::bridge::Bridge as _;
use usher::bridge::msgraph::GraphBridge;
use usher::directory::Snapshot;

use super::{NEVER_SHOWN, anywhere, bridge, failure, fetch, wanting};
use crate::lab::graph::{Fault, Graph, Heard, Tenant};
use crate::ldap_source::flaws;

const PEOPLE: [&str; 6] = ["ann", "bob", "cem", "dora", "eva", "fred"];

/// Six people on three pages, in a group.
async fn paged() -> Graph {
    let mut tenant = Tenant { page_cap: 2, ..Tenant::of(&PEOPLE) };
    tenant.group("staff", &PEOPLE);
    Graph::start(tenant).await
}

fn people(snapshot: &Snapshot) -> usize {
    snapshot.users.len()
}

/// Whether this is the second page of the people.
fn second_page(heard: &Heard) -> bool {
    heard.path == "/users" && heard.query.ends_with("RFNwdAIAAQAAAB000000")
}

#[tokio::test]
async fn pages_are_read_to_the_end() {
    let graph = paged().await;
    let snapshot = fetch(&graph, &["staff"]).await;
    assert_eq!((people(&snapshot), snapshot.groups[1].members.len(), flaws(&snapshot)), (6, 6, Vec::new()));
}

#[tokio::test]
async fn an_empty_page_with_a_link_is_not_the_end() {
    let graph = paged().await;
    graph.spoil(|heard| (second_page(heard) && heard.before == 0).then_some(Fault::Empty));
    let snapshot = fetch(&graph, &["staff"]).await;
    assert_eq!((people(&snapshot), flaws(&snapshot)), (6, Vec::new()));
}

#[tokio::test]
async fn an_empty_answer_is_read_as_it_stands() {
    let snapshot = fetch(&Graph::start(Tenant::default()).await, &[]).await;
    assert_eq!(
        (people(&snapshot), flaws(&snapshot)),
        (0, Vec::new()),
        "whether it can be is judged by who was there before"
    );
}

#[tokio::test]
async fn a_page_that_fails_for_good_makes_the_read_incomplete() {
    let faults = [
        (Fault::error(400, "Request_UnsupportedQuery"), "Graph does not understand the request"),
        (Fault::Cut, "the answer broke off"),
        (Fault::error(500, "InternalServerError"), "Graph failed"),
        (Fault::Answer(200, Vec::new(), json!({ "values": [] })), "the answer is not what Graph documents"),
        (
            Fault::Answer(302, vec![("location", "http://127.0.0.1:1/".to_owned())], json!({})),
            "Graph refuses [HTTP 302]",
        ),
    ];
    for (fault, what) in faults {
        let graph = paged().await;
        graph.spoil(move |heard| second_page(heard).then(|| fault.clone()));
        let snapshot = fetch(&graph, &["staff"]).await;
        let [flaw] = &flaws(&snapshot)[..] else { panic!("{:?}", flaws(&snapshot)) };
        assert!(flaw.contains(&format!("from {}: {what}", graph.url)), "{flaw}");
        assert_eq!(
            (people(&snapshot), snapshot.groups.len()),
            (2, 1),
            "{what}: what came before it, and no group without members"
        );
    }
}

#[tokio::test]
async fn a_hiccup_is_asked_again() {
    for fault in [Fault::Cut, Fault::error(502, "BadGateway"), Fault::throttle("0")] {
        let graph = paged().await;
        graph.spoil(move |heard| (second_page(heard) && heard.before == 0).then(|| fault.clone()));
        let snapshot = fetch(&graph, &["staff"]).await;
        assert_eq!((people(&snapshot), flaws(&snapshot)), (6, Vec::new()));
    }
}

#[tokio::test]
async fn who_asks_too_often_waits_as_long_as_told() {
    for status in [429, 503, 504] {
        let graph = paged().await;
        let busy = Fault::Answer(status, vec![("retry-after", "1".to_owned())], json!({}));
        graph.spoil(move |heard| (second_page(heard) && heard.before == 0).then(|| busy.clone()));
        let begun = Instant::now();
        let snapshot = fetch(&graph, &[]).await;
        assert_eq!((people(&snapshot), flaws(&snapshot)), (6, Vec::new()));
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}");
    }
}

#[tokio::test]
async fn a_wait_beyond_the_time_for_the_read_is_not_taken_on_and_holds_for_the_next_read() {
    let graph = paged().await;
    graph.spoil(|heard| second_page(heard).then(|| Fault::throttle("3600")));
    let mut bridge = bridge(&graph.source(), &[]);
    let begun = Instant::now();
    let snapshot = bridge.fetch().await.unwrap();
    let flaw = "read the users from http://graph: Graph wants to be asked less often [HTTP 429, TooManyRequests]; there is no time left \
                to ask again";
    assert_eq!((people(&snapshot), anywhere(&flaws(&snapshot).concat(), &graph)), (2, flaw.to_owned()));
    graph.forget();
    let error = bridge.fetch().await.unwrap_err();
    assert!(error.retry && error.cause.starts_with("Graph wants to be asked less often"), "{error}");
    assert_eq!(graph.asked(), [""; 0], "Graph is left alone as long as it said");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_read_that_takes_too_long_keeps_what_it_has() {
    let graph = paged().await;
    let never = Duration::from_mins(1);
    graph.spoil(move |heard| second_page(heard).then_some(Fault::Delay(never)));
    let mut source = graph.source();
    source.read_timeout_ms = 3_000;
    let snapshot = bridge(&source, &["staff"]).fetch().await.unwrap();
    let flaw = "read the users from http://graph: the whole read took longer than read_timeout";
    assert_eq!((people(&snapshot), anywhere(&flaws(&snapshot).concat(), &graph)), (2, flaw.to_owned()));
    graph.spoil(move |heard| (heard.path == "/users").then_some(Fault::Delay(never)));
    (source.operation_timeout_ms, source.read_timeout_ms) = (1_000, 2_000);
    assert_eq!(
        anywhere(&failure(&source).await.0, &graph),
        "read the users from http://graph: no answer in time; there is no time left to ask again"
    );
}

#[tokio::test]
async fn a_token_that_ends_on_the_way_is_renewed_once() {
    let graph = paged().await;
    graph.spoil(|heard| (second_page(heard) && heard.before == 0).then_some(Fault::Expire));
    let snapshot = fetch(&graph, &["staff"]).await;
    assert_eq!((people(&snapshot), flaws(&snapshot), graph.tokens_drawn()), (6, Vec::new(), 2));

    graph.forget();
    graph.spoil(|heard| (heard.path == "/users").then(|| Fault::error(401, "InvalidAuthenticationToken")));
    let (error, retry) = failure(&graph.source()).await;
    let expected = "read the users from http://graph: Graph does not accept a token it was just given: do base_url, login_url and scopes \
                    belong to one cloud? [HTTP 401, InvalidAuthenticationToken]";
    assert_eq!((anywhere(&error, &graph).as_str(), retry), (expected, true));
    assert_eq!((graph.tokens_drawn(), graph.asked().len()), (2, 3), "no more than one new token");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let graph = Graph::start(Tenant { token_life: 10, ..Tenant::of(&PEOPLE) }).await;
    let mut bridge = bridge(&graph.source(), &[]);
    bridge.fetch().await.unwrap();
    bridge.fetch().await.unwrap();
    assert_eq!(graph.tokens_drawn(), 1);
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    bridge.fetch().await.unwrap();
    assert_eq!(graph.tokens_drawn(), 2);
}

#[tokio::test]
async fn a_login_that_refuses_says_what_to_mend() {
    let graph = paged().await;
    let mut source = graph.source();
    source.client_secret = Some(SecretString::from("canary-mail-wrong".to_owned()));
    let (error, retry) = failure(&source).await;
    let expected = "get a token from http://graph: client_secret is wrong: it must be the Value that was shown when the secret was made, \
                    not the Secret ID [AADSTS7000215]";
    assert_eq!((anywhere(&error, &graph).as_str(), retry), (expected, false));
    source = graph.source();
    source.client_id = "another".to_owned();
    assert!(failure(&source).await.0.contains("client_id is no app registration of this tenant"));
    source = graph.source();
    source.tenant_id = "another.example".to_owned();
    assert!(failure(&source).await.0.contains("tenant_id names no tenant of this cloud"));
    source = graph.source();
    source.scopes = vec!["User.Read.All".to_owned()];
    assert!(failure(&source).await.0.contains("`scopes` must be the resource followed by /.default"));
    assert_eq!(graph.asked(), [""; 0], "without a token nothing is asked");
    source = graph.source();
    source.tenant_id = "../x".to_owned();
    assert_eq!(
        failure(&source).await.0,
        "use the ms-graph-ad source as configured: tenant_id is neither an id nor a domain name"
    );
}

#[tokio::test]
async fn a_busy_login_is_waited_for() {
    let graph = paged().await;
    let busy = Fault::Answer(503, vec![("retry-after", "0".to_owned())], json!({ "error": "temporarily_unavailable" }));
    graph.spoil(move |heard| (heard.path.ends_with("/token") && heard.before < 2).then(|| busy.clone()));
    assert_eq!((people(&fetch(&graph, &[]).await), graph.tokens_drawn()), (6, 3));
    graph.spoil(|heard| {
        heard.path.ends_with("/token").then(|| Fault::Answer(200, Vec::new(), json!({ "html": "<p>" })))
    });
    let (error, retry) = failure(&graph.source()).await;
    assert!(
        error.contains("the answer holds no token: is login_url the login of a Microsoft cloud?") && retry,
        "{error}"
    );
}

#[tokio::test]
async fn a_link_to_another_host_is_not_followed() {
    let (graph, other) = (paged().await, paged().await);
    let port = graph.url.rsplit_once(':').unwrap().1.to_owned();
    let links =
        [format!("{}/v1.0/users", other.url), format!("http://localhost:{port}/v1.0/users"), "/v1.0/users".to_owned()];
    for link in links {
        let leads = link.clone();
        graph.spoil(move |heard| (heard.path == "/users").then(|| Fault::Link(leads.clone())));
        let snapshot = fetch(&graph, &[]).await;
        let flaw = "read the users from http://graph: the link to the next page leads away from base_url: it is not followed, since the \
                    token would go there";
        assert_eq!((people(&snapshot), anywhere(&flaws(&snapshot).concat(), &graph)), (2, flaw.to_owned()), "{link}");
    }
    assert_eq!((other.asked(), other.tokens_drawn()), (Vec::new(), 0));
}

#[tokio::test]
async fn a_list_that_goes_round_is_left() {
    let graph = paged().await;
    let first = format!("{}/v1.0/users?$select=id&again=1", graph.url);
    graph.spoil(move |heard| (heard.path == "/users").then(|| Fault::Link(first.clone())));
    let snapshot = fetch(&graph, &[]).await;
    let flaw = "read the users from http://graph: the list leads back to a page that was read";
    assert_eq!(anywhere(&flaws(&snapshot).concat(), &graph), flaw);
    assert_eq!(graph.asked().len(), 3);
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let graph = Graph::start(Tenant { denied: ["users"].into(), ..Tenant::of(&PEOPLE) }).await;
    let expected = "read the users from http://graph: the app registration may not: give it the application permission User.Read.All and \
                    grant admin consent [HTTP 403, Authorization_RequestDenied]";
    let (error, retry) = failure(&graph.source()).await;
    assert_eq!((anywhere(&error, &graph).as_str(), retry), (expected, false));
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_later() {
    let mut source = paged().await.source();
    source.login_url = "http://127.0.0.1:1".to_owned();
    let (error, retry) = failure(&source).await;
    assert!(error.starts_with("get a token from http://127.0.0.1:1: cannot connect") && retry, "{error}");
}

#[tokio::test]
async fn neither_secret_nor_token_nor_address_is_shown() {
    let mut tenant = Tenant::of(&PEOPLE);
    tenant.group("staff", &PEOPLE);
    tenant.set("ann", "userPrincipalName", json!("@canary-mail.example"));
    let graph = Graph::start(tenant).await;
    let mut source = graph.source();
    source.strict_localparts = true;
    let mut bridge = GraphBridge::new(&source, wanting(&["staff"])).unwrap();
    let snapshot = bridge.fetch().await.unwrap();
    let probes = bridge.probe().await;
    let told = [format!("{bridge:?}"), snapshot.notices.concat(), format!("{probes:?}")].concat();
    assert!(snapshot.unnamed.len() == 1 && !NEVER_SHOWN.iter().any(|canary| told.contains(canary)), "{told}");
    // What the stand-in says of a token that has ended quotes the token; what it says of a request quotes somebody.
    graph.spoil(|heard| (!heard.path.ends_with("/token")).then_some(Fault::Expire));
    failure(&source).await;
    let quoting =
        json!({ "error": { "code": "Request_BadRequest", "message": "Bad filter for ann@canary-mail.example" } });
    graph.spoil(move |heard| (heard.path == "/users").then(|| Fault::Answer(400, Vec::new(), quoting.clone())));
    assert!(failure(&source).await.0.contains("Bad filter for … [HTTP 400, Request_BadRequest]"));
}
