//! Which groups are read, and who is in them.

use serde_json::json;
use usher::bridge::Bridge as _;
use usher::directory::{Alias, Directory, Found};

use super::{bridge, fetch};
use crate::lab::graph::{Fault, Graph, Tenant, member};
use crate::ldap_source::{flaws, outline};

const PEOPLE: [&str; 4] = ["ann", "bob", "cem", "dora"];

/// Two groups side by side.
fn two() -> Tenant {
    let mut tenant = Tenant::of(&PEOPLE);
    tenant.group("red", &["ann", "bob"]);
    tenant.group("blue", &["cem"]);
    tenant
}

/// Only groups of an outline.
fn groups_of(outline: &str) -> Vec<&str> {
    outline.lines().filter(|line| line.starts_with('G')).collect()
}

#[tokio::test]
async fn groups_are_found_by_object_id_or_name_and_those_nested_in_them_are_read() {
    let mut tenant = two();
    tenant.group("inner", &["dora"]);
    tenant.group("innermost", &["ann"]);
    tenant.group("unwanted", &["ann"]);
    tenant.join("red", member("group", "g-inner"));
    tenant.join("inner", member("group", "g-innermost"));
    tenant.join("innermost", member("group", "g-red"));
    let graph = Graph::start(tenant).await;
    let snapshot = fetch(&graph, &["g-red", "blue"]).await;
    let groups = ["G blue: cem", "G inner: [innermost] dora", "G innermost: [red] ann", "G red: [inner] ann bob"];
    assert_eq!((groups_of(&outline(&snapshot)), flaws(&snapshot)), (groups.to_vec(), Vec::new()));
    assert!(!graph.heard().iter().any(|heard| heard.path.contains("unwanted")), "what nobody names is not read");
    let red = snapshot.groups.iter().find(|group| group.name == "red").unwrap();
    assert_eq!(red.aliases, [Alias::Id("g-red".to_owned()), Alias::Name("red".to_owned())]);
    let directory = Directory::flatten(snapshot);
    let Found::Group(red) = directory.find("g-red") else { panic!("it is there") };
    assert_eq!(red.users.len(), 3, "ann, bob, dora");
    assert!(matches!(directory.find("unwanted"), Found::Missing { .. }), "what was not read does not look empty");
}

#[tokio::test]
async fn devices_contacts_and_strangers_are_nobody() {
    let mut tenant = two();
    for kind in ["device", "orgContact", "servicePrincipal", "somethingNew"] {
        tenant.join("red", member(kind, &format!("{kind}-1")));
    }
    tenant.join("red", member("user", "id-newcomer"));
    tenant.join("red", json!({ "@odata.type": "#microsoft.graph.device", "id": null }));
    tenant.join("red", json!({ "@odata.type": null, "id": "id-dora" }));
    let snapshot = fetch(&Graph::start(tenant).await, &["red"]).await;
    assert_eq!((groups_of(&outline(&snapshot)), flaws(&snapshot)), (vec!["G red: ann bob dora"], Vec::new()));
    let notices =
        ["1 group member is a person who is not among the users that were read (id-newcomer); they are left out"];
    assert_eq!(snapshot.notices, notices);
}

#[tokio::test]
async fn a_group_of_many_pages_is_read_to_its_end() {
    let names: Vec<String> = (0..50).map(|number| format!("p{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut tenant = Tenant { page_cap: 7, ..Tenant::of(&names) };
    tenant.group("all", &names);
    tenant.group("some", &names[..3]);
    let graph = Graph::start(tenant).await;
    let both = fetch(&graph, &["all", "some"]).await;
    let size = |snapshot: &usher::directory::Snapshot, name: &str| {
        snapshot.groups.iter().find(|group| group.name == name).map(|group| group.members.len())
    };
    assert_eq!((size(&both, "all"), size(&both, "some"), flaws(&both)), (Some(50), Some(3), Vec::new()));
    assert_eq!(graph.asked().iter().filter(|asked| *asked == "POST /$batch").count(), 1);
    graph.forget();
    let alone = fetch(&graph, &["all"]).await;
    assert_eq!((size(&alone, "all"), flaws(&alone)), (Some(50), Vec::new()));
    assert!(!graph.asked().contains(&"POST /$batch".to_owned()), "one group needs no batch");
}

#[tokio::test]
async fn a_group_that_is_called_otherwise_by_now_is_still_read() {
    let graph = Graph::start(two()).await;
    let mut bridge = bridge(&graph.source(), &["red"]);
    bridge.fetch().await.unwrap();
    graph.change(|tenant| tenant.groups.get_mut("g-red").unwrap().0 = "crimson".to_owned());
    let snapshot = bridge.fetch().await.unwrap();
    assert_eq!(groups_of(&outline(&snapshot)), ["G crimson: ann bob"]);
}

#[tokio::test]
async fn a_group_that_a_batch_turns_away_is_asked_for_by_itself() {
    for seconds in ["0", "1"] {
        let graph = Graph::start(two()).await;
        graph.spoil(move |heard| {
            (heard.in_batch && heard.path == "/groups/g-red/members").then(|| Fault::throttle(seconds))
        });
        let mut bridge = bridge(&graph.source(), &["red", "blue"]);
        let begun = std::time::Instant::now();
        let snapshot = bridge.fetch().await.unwrap();
        assert_eq!(
            (groups_of(&outline(&snapshot)), flaws(&snapshot)),
            (vec!["G blue: cem", "G red: ann bob"], Vec::new())
        );
        assert!(seconds == "0" || begun.elapsed().as_secs() >= 1, "it waits as long as it is told to");
        let members: Vec<String> = graph.asked().into_iter().skip(3).collect();
        assert_eq!(members, ["POST /$batch", "GET /groups/g-red/members"]);
    }
}

#[tokio::test]
async fn a_failure_within_a_batch_is_asked_for_by_itself_and_stays_a_flaw_where_it_lasts() {
    let graph = Graph::start(two()).await;
    graph.spoil(|heard| (heard.path == "/groups/g-red/members").then(|| Fault::error(500, "InternalServerError")));
    let snapshot = fetch(&graph, &["red", "blue"]).await;
    assert_eq!(groups_of(&outline(&snapshot)), ["G blue: cem"]);
    assert_eq!(flaws(&snapshot), ["group `red` is not whole: Graph failed [HTTP 500, InternalServerError]"]);
}

#[tokio::test]
async fn a_group_that_vanishes_between_list_and_members_begins_the_groups_anew() {
    let graph = Graph::start(two()).await;
    let gone = |status: u16| Fault::error(status, "Request_ResourceNotFound");
    graph.spoil(move |heard| (heard.path == "/groups/g-red/members" && heard.before == 0).then(|| gone(404)));
    let snapshot = fetch(&graph, &["red", "blue"]).await;
    assert_eq!((groups_of(&outline(&snapshot)), flaws(&snapshot)), (vec!["G blue: cem", "G red: ann bob"], Vec::new()));
    assert_eq!(graph.asked().iter().filter(|asked| *asked == "GET /groups").count(), 2);
    assert_eq!(graph.asked().iter().filter(|asked| *asked == "GET /users").count(), 1);

    graph.forget();
    graph.spoil(move |heard| (heard.path == "/groups/g-red/members").then(|| gone(404)));
    let snapshot = fetch(&graph, &["red", "blue"]).await;
    assert_eq!(flaws(&snapshot), ["group `red` vanishes while its members are read"]);
    assert!(outline(&snapshot).contains("G blue: cem"), "others are read");
    assert!(!outline(&snapshot).contains("G red"), "no empty group");
    assert_eq!(graph.asked().iter().filter(|asked| *asked == "GET /groups").count(), 3);
}

#[tokio::test]
async fn a_member_group_that_is_not_in_the_list_yet_is_no_group_that_lost_its_people() {
    let mut tenant = two();
    tenant.join("red", member("group", "g-newer"));
    let graph = Graph::start(tenant).await;
    let snapshot = fetch(&graph, &["red", "blue"]).await;
    assert_eq!(groups_of(&outline(&snapshot)), ["G blue: cem", "G red: ann bob"]);
    assert_eq!(flaws(&snapshot), ["group `red` has a member group that is not in the list of groups"]);
    assert_eq!(graph.asked().iter().filter(|asked| *asked == "GET /groups").count(), 3, "it may come into the list");
}

#[tokio::test]
async fn members_who_may_be_anybody_make_a_read_incomplete() {
    for member in [
        json!({ "@odata.type": "#microsoft.graph.user", "id": null }),
        json!({ "@odata.type": "#microsoft.graph.group", "id": null }),
        json!({ "@odata.type": null, "id": "id-stranger" }),
    ] {
        let mut tenant = two();
        tenant.join("red", member.clone());
        let snapshot = fetch(&Graph::start(tenant).await, &["red"]).await;
        assert_eq!(flaws(&snapshot), ["1 group members came without an id or a kind: they may be anybody"], "{member}");
        assert_eq!(groups_of(&outline(&snapshot)), ["G red: ann bob"]);
    }
}

#[tokio::test]
async fn a_group_that_hides_its_members_is_missing_and_not_empty() {
    let mut tenant = two();
    tenant.group("inner", &["dora"]);
    tenant.join("red", member("group", "g-inner"));
    tenant.hidden.insert("g-inner".to_owned());
    let snapshot = fetch(&Graph::start(tenant).await, &["red"]).await;
    assert_eq!(
        flaws(&snapshot),
        ["group `inner` hides its members and shows none: it takes the application permission Member.Read.Hidden"]
    );
    assert!(!outline(&snapshot).contains("G inner"), "no empty group");
}

#[tokio::test]
async fn a_hidden_group_without_members_is_empty_to_whom_it_would_show_them() {
    for (roles, flawed) in [(vec!["User.Read.All", "Member.Read.Hidden"], false), (vec!["User.Read.All"], true)] {
        let mut tenant = Tenant { roles, ..two() };
        tenant.group("inner", &[]);
        tenant.join("red", member("group", "g-inner"));
        tenant.hidden.insert("g-inner".to_owned());
        let snapshot = fetch(&Graph::start(tenant).await, &["red"]).await;
        assert_eq!((flaws(&snapshot).len(), outline(&snapshot).contains("G inner")), (usize::from(flawed), !flawed));
    }
}

#[tokio::test]
async fn an_object_id_may_be_written_in_capitals_and_a_misspelt_name_is_answered_with_the_nearest() {
    let snapshot = fetch(&Graph::start(two()).await, &["G-RED", "bleu"]).await;
    assert_eq!(snapshot.notices, ["no group has this object id or display name: `bleu` (is `blue` meant?)"]);
    let directory = Directory::flatten(snapshot);
    assert!(matches!(directory.find("G-RED"), Found::Group(group) if group.users.len() == 2));
}

#[tokio::test]
async fn a_group_that_may_not_be_seen_is_missing_and_not_empty() {
    let graph = Graph::start(two()).await;
    graph.spoil(|heard| {
        (heard.path == "/groups/g-red/members").then(|| Fault::error(403, "Authorization_RequestDenied"))
    });
    let snapshot = fetch(&graph, &["red", "blue"]).await;
    assert_eq!(groups_of(&outline(&snapshot)), ["G blue: cem"]);
    let flaw = "group `red` is not whole: the app registration may not: give it the application permission GroupMember.Read.All (and \
                Member.Read.Hidden for groups with hidden members) and grant admin consent [HTTP 403, Authorization_RequestDenied]";
    assert_eq!(flaws(&snapshot), [flaw]);
}

#[tokio::test]
async fn groups_that_cannot_be_listed_leave_the_people() {
    let graph = Graph::start(Tenant { denied: ["groups"].into(), ..two() }).await;
    let snapshot = fetch(&graph, &["red"]).await;
    assert_eq!((snapshot.users.len(), snapshot.groups.len(), flaws(&snapshot).len()), (4, 1, 1));
    assert!(flaws(&snapshot)[0].contains("the application permission GroupMember.Read.All"), "{:?}", flaws(&snapshot));
}

#[tokio::test]
async fn two_groups_of_one_name_are_both_read_and_told_apart() {
    let mut tenant = two();
    tenant.groups.get_mut("g-blue").unwrap().0 = "red".to_owned();
    let directory = Directory::flatten(fetch(&Graph::start(tenant).await, &["red"]).await);
    assert!(matches!(directory.find("red"), Found::Ambiguous(groups) if groups.len() == 2));
}
