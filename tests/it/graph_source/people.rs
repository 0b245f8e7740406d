//! Who is read, and what they are called.

use std::sync::Arc;

use serde_json::json;
use usher::bridge::Bridge as _;
use usher::bridge::msgraph::GraphBridge;
use usher::directory::{GroupKind, Snapshot, User};

use super::{anywhere, bridge, fetch, wanting};
use crate::lab::graph::{Graph, TENANT, Tenant};
use crate::ldap_source::{flaws, outline};

fn localparts(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.users.iter().map(|user| user.localpart.as_str()).collect()
}

#[tokio::test]
async fn a_person_has_the_principal_name_before_the_at_a_name_and_an_address() {
    let mut tenant = Tenant::of(&["Ann"]);
    tenant.set("Ann", "userPrincipalName", json!("Ann.Müller@contoso.example"));
    let snapshot = fetch(&Graph::start(tenant).await, &[]).await;
    let ann = User {
        id: "id-Ann".into(),
        localpart: "ann.m=c3=bcller".into(),
        display_name: Some("The Ann".to_owned()),
        emails: vec!["Ann@canary-mail.example".to_owned()],
        enabled: true,
    };
    assert_eq!((snapshot.users.as_slice(), flaws(&snapshot)), ([Arc::new(ann)].as_slice(), Vec::new()));
    assert!(snapshot.stamps.is_empty(), "nobody wants photos");
}

#[tokio::test]
async fn everybody_is_in_one_space_named_after_the_organisation() {
    let graph = Graph::start(Tenant::of(&["ann", "bob"])).await;
    let snapshot = fetch(&graph, &[]).await;
    assert_eq!((snapshot.organisation.as_deref(), snapshot.suggests_name), (Some("Contoso"), false));
    assert_eq!(outline(&snapshot), "ann = The ann, 1 mails\nbob = The bob, 1 mails\nR Contoso: ann bob\n");
    assert_eq!(snapshot.groups[0].id.as_str(), format!("graph-tenant:{TENANT}"));
    assert_eq!(graph.asked(), ["GET /organization", "GET /users"], "groups are not needed for that");
}

#[tokio::test]
async fn an_organisation_that_is_not_shown_stops_nothing_and_renames_nothing() {
    let graph = Graph::start(Tenant { denied: ["organization"].into(), ..Tenant::of(&["ann"]) }).await;
    let snapshot = fetch(&graph, &[]).await;
    assert_eq!((flaws(&snapshot), localparts(&snapshot)), (Vec::new(), vec!["ann"]));
    assert_eq!((snapshot.organisation.as_deref(), snapshot.suggests_name), (Some(TENANT), true));
    graph.change(|tenant| {
        tenant.denied.clear();
        tenant.name = None;
    });
    assert!(fetch(&graph, &[]).await.suggests_name);
}

#[tokio::test]
async fn only_an_explicit_mark_disables_and_a_missing_one_is_a_flaw() {
    let mut tenant = Tenant::of(&["ann", "bob", "cem"]);
    tenant.set("bob", "accountEnabled", json!(false));
    let graph = Graph::start(tenant).await;
    let snapshot = fetch(&graph, &[]).await;
    assert_eq!((flaws(&snapshot), snapshot.users[1].enabled), (Vec::new(), false));
    graph.change(|tenant| {
        tenant.users.get_mut("id-ann").unwrap().remove("accountEnabled");
        tenant.set("cem", "accountEnabled", json!(null));
    });
    let snapshot = fetch(&graph, &[]).await;
    assert_eq!(snapshot.users.iter().map(|user| user.enabled).collect::<Vec<_>>(), [true, false, true]);
    let flaw = "2 users came without accountEnabled, so that nobody knows whether they are disabled; it takes the application \
                permission User.Read.All";
    assert_eq!(flaws(&snapshot), [flaw]);
}

#[tokio::test]
async fn guests_are_left_out_unless_they_are_wanted() {
    let mut tenant = Tenant::of(&["ann", "bob", "cem"]);
    tenant.set("bob", "userType", json!("Guest"));
    tenant.set("cem", "userPrincipalName", json!("cem_fabrikam.example#EXT#@contoso.example"));
    tenant.set("ann", "userType", json!(null));
    tenant.group("staff", &["ann", "bob", "cem"]);
    let graph = Graph::start(tenant).await;
    let snapshot = fetch(&graph, &["staff"]).await;
    assert_eq!(outline(&snapshot), "ann = The ann, 1 mails\nG staff: ann\nR Contoso: ann\n");
    assert_eq!(snapshot.notices, ["2 guests are left out (`guests: true` takes them in)"]);
    assert_eq!(flaws(&snapshot), [""; 0]);
    let mut source = graph.source();
    source.guests = true;
    let snapshot = bridge(&source, &["staff"]).fetch().await.unwrap();
    assert_eq!(localparts(&snapshot), ["ann", "bob", "cem_fabrikam.example=23ext=23"]);
    assert_eq!((snapshot.groups[1].members.len(), snapshot.notices.len()), (3, 0));
}

#[tokio::test]
async fn another_property_or_a_template_makes_the_localpart() {
    let mut tenant = Tenant::of(&["ann", "bob"]);
    tenant.set("ann", "employeeId", json!("E-17"));
    tenant.set("bob", "employeeId", json!(17));
    tenant.group("staff", &["ann", "bob"]);
    let graph = Graph::start(tenant).await;
    let mut source = graph.source();
    source.attributes.uid = "employeeId".to_owned();
    let snapshot = bridge(&source, &["staff"]).fetch().await.unwrap();
    assert_eq!((localparts(&snapshot), snapshot.unnamed.as_slice()), (vec!["e-17"], ["id-bob".into()].as_slice()));
    let notice = "1 person has no localpart (id-bob: attribute `employeeid` is not text); nothing is done for them beyond what is bound \
                  to them already";
    assert_eq!(snapshot.notices, [notice]);

    source.attributes.uid = "userPrincipalName".to_owned();
    source.localpart = Some("{givenName}.{userPrincipalName}".to_owned());
    let snapshot = bridge(&source, &[]).fetch().await.unwrap();
    assert_eq!(localparts(&snapshot), ["ann.ann=40contoso.example", "bob.bob=40contoso.example"]);
    source.strict_localparts = true;
    let snapshot = bridge(&source, &[]).fetch().await.unwrap();
    assert_eq!((snapshot.users.len(), snapshot.unnamed.len()), (0, 2));
    assert!(!snapshot.notices.concat().contains('@'), "{:?}", snapshot.notices);
}

#[tokio::test]
async fn a_property_that_graph_does_not_know_is_named() {
    let graph = Graph::start(Tenant::of(&["ann"])).await;
    let mut source = graph.source();
    source.attributes.uid = "uid".to_owned();
    let error = bridge(&source, &[]).fetch().await.unwrap_err();
    assert_eq!(
        anywhere(&error.to_string(), &graph),
        "read the users from http://graph: Graph does not understand the request: Could not find a property named 'uid' on type \
         'microsoft.graph.user'. [HTTP 400, Request_BadRequest]"
    );
    assert!(!error.retry);
    for (uid, localpart) in [("user name", None), ("", None), ("uid", Some("{"))] {
        source.attributes.uid = uid.to_owned();
        source.localpart = localpart.map(str::to_owned);
        let error = GraphBridge::new(&source, wanting(&[])).unwrap_err();
        assert_eq!((error.attempted.as_str(), error.retry), ("use the ms-graph-ad source as configured", false));
    }
}

#[tokio::test]
async fn requests_are_in_proportion_to_what_is_wanted() {
    let mut tenant = Tenant::default();
    let names: Vec<String> = (0..5000).map(|number| format!("p{number:04}")).collect();
    for name in &names {
        tenant.employ(name);
    }
    for number in 0..600 {
        let people: Vec<&str> = names[number * 8..number * 8 + 8].iter().map(String::as_str).collect();
        tenant.group(&format!("team{number:03}"), &people);
    }
    let graph = Graph::start(tenant).await;
    let wanted: Vec<String> = (0..60).map(|number| format!("g-team{number:03}")).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut bridge = bridge(&graph.source(), &wanted);
    let snapshot = bridge.fetch().await.unwrap();
    assert_eq!((snapshot.users.len(), snapshot.groups.len(), flaws(&snapshot)), (5000, 61, Vec::new()));
    assert!(
        snapshot.groups.iter().filter(|group| group.kind == GroupKind::Group).all(|group| group.members.len() == 8)
    );
    let asked = graph.asked();
    let count = |what: &str| asked.iter().filter(|request| *request == what).count();
    // 5 000 people in pages of 999, and 60 groups of 600 in batches of 20.
    assert_eq!(
        [count("GET /organization"), count("GET /users"), count("GET /groups"), count("POST /$batch")],
        [1, 6, 1, 3]
    );
    assert_eq!((asked.len(), graph.tokens_drawn()), (11, 1));
    bridge.fetch().await.unwrap();
    assert_eq!((graph.asked().len(), graph.tokens_drawn()), (22, 1), "a token serves as long as it lasts");
}
