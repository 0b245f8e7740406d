//! What `usher source test` says.

use serde_json::json;
use usher::bridge::msgraph::{GraphBridge, Wanted};
use usher::cli;

use super::{anywhere, wanting};
use crate::lab::graph::{CLIENT, Fault, Graph, Photo, Tenant, member};

fn office() -> Tenant {
    let mut tenant = Tenant::of(&["ann", "bob", "cem"]);
    tenant.set("bob", "accountEnabled", json!(false));
    tenant.set("cem", "userType", json!("Guest"));
    tenant.set("bob", "mail", json!(null));
    tenant.group("staff", &["ann", "bob"]);
    tenant.group("leads", &["ann"]);
    tenant.join("staff", member("device", "d-1"));
    tenant
}

async fn test(graph: &Graph, wanted: Wanted) -> (String, bool) {
    let mut bridge = GraphBridge::new(&graph.source(), wanted).unwrap();
    let (text, ok) = cli::source::test(&mut bridge).await;
    (anywhere(&text, graph), ok)
}

/// The steps of a test that fails at the last one.
async fn failing(graph: &Graph, wanted: Wanted) -> (Vec<String>, String) {
    let (text, ok) = test(graph, wanted).await;
    assert!(!ok, "{text}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.pop().as_deref(), Some("The source cannot be read as configured."));
    let last = lines.pop().unwrap_or_default();
    let steps = lines.iter().map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned()).collect();
    (steps, last)
}

#[tokio::test]
async fn each_step_says_what_was_seen() {
    let mut tenant = office();
    tenant.photos.insert("id-ann".to_owned(), Photo::Sized(vec![0xff; 2_500]));
    let graph = Graph::start(tenant).await;
    let wanted = Wanted { photos: true, ..wanting(&["g-staff", "leads"]) };
    let expected = format!(
        "ok      token       http://graph gives one to client {CLIENT}\n\
         ok      organization  Contoso\n\
         ok      users       2 people: 2 with a display name, 1 with a mail address, 1 disabled; 0 without a Matrix name; guests left out: 1\n\
         ok      groups      2 groups, among them all 2 that the configuration names\n\
         ok      members     2 groups have as direct members: 1 device, 3 user\n\
         ok      photos      the first person has one of 3 kB\n\
         The source can be read.\n"
    );
    assert_eq!(test(&graph, wanted).await, (expected, true));
    assert_eq!(graph.asked().len(), 5, "first pages only");
}

#[tokio::test]
async fn what_nothing_names_is_not_asked_for() {
    let graph = Graph::start(Tenant { denied: ["organization", "groups"].into(), ..office() }).await;
    let (text, ok) = test(&graph, wanting(&[])).await;
    assert!(ok && text.contains("ok      groups      no space and no room names one, so none is read\n"), "{text}");
    assert!(text.contains("not shown, which is no harm") && !text.contains("photos"), "{text}");
}

#[tokio::test]
async fn the_step_that_fails_is_the_last_and_says_how_to_mend_it() {
    let graph = Graph::start(office()).await;
    graph.change(|tenant| tenant.secret = "another".to_owned());
    let (steps, last) = failing(&graph, wanting(&[])).await;
    assert!(steps.is_empty() && last.contains("client_secret is wrong"), "{last}");
    assert!(last.ends_with("[AADSTS7000215] [request-id c0ffee-trace]"), "what Microsoft's support asks for: {last}");
    graph.change(|tenant| tenant.secret = crate::lab::graph::SECRET.to_owned());

    for (denied, step, permission) in [
        ("users", "users", "User.Read.All"),
        ("groups", "groups", "GroupMember.Read.All"),
        ("members", "members", "GroupMember.Read.All (and Member.Read.Hidden"),
        ("photos", "photos", "User.Read.All (or ProfilePhoto.Read.All"),
    ] {
        graph.change(|tenant| tenant.denied = [denied].into());
        let (_, last) = failing(&graph, Wanted { photos: true, ..wanting(&["staff"]) }).await;
        assert!(last.starts_with(&format!("FAILED  {step:<10}")) && last.contains(permission), "{last}");
        assert!(last.contains("grant admin consent") && last.contains("[request-id 7d4c-stand-in]"), "{last}");
    }
}

#[tokio::test]
async fn a_group_that_is_not_there_is_named() {
    let graph = Graph::start(office()).await;
    let (steps, last) = failing(&graph, wanting(&["staff", "staf"])).await;
    assert_eq!(steps, ["token", "organization", "users"]);
    let expected = "FAILED  groups      2 groups, but none with the object id or display name `staf` (is `staff` meant?): compare with the group's overview page";
    assert_eq!(last, expected);
}

#[tokio::test]
async fn nobody_is_a_failure_and_so_is_not_knowing_who_is_disabled() {
    let graph = Graph::start(Tenant::default()).await;
    let (_, last) = failing(&graph, wanting(&[])).await;
    assert_eq!(last, "FAILED  users       nobody is shown: 0 guests are left out, 0 have no Matrix name");
    graph.change(|tenant| tenant.employ("ann").remove("accountEnabled"));
    let (_, last) = failing(&graph, wanting(&[])).await;
    assert!(last.contains("1 of 1 do not say whether they are enabled: User.Read.All is needed"), "{last}");
    graph.spoil(|heard| (heard.path == "/users").then_some(Fault::Delay(std::time::Duration::from_secs(20))));
    let mut source = graph.source();
    source.read_timeout_ms = 300;
    let (text, ok) = cli::source::test(&mut GraphBridge::new(&source, wanting(&[])).unwrap()).await;
    assert!(!ok && text.contains("FAILED  time"), "{text}");
}
