//! Microsoft Graph as the source, in the shape of its stand-in, of a real Synapse: groups become members, photos avatars (S-8, S-50).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::{Value, json};

use super::avatars::{CANARY, avatar_writes, picture, shown, wanting};
use super::world::{NAMES, World};
use crate::lab::graph::{CLIENT, Fault, Graph, Photo, SECRET, TENANT, Tenant, member};

/// The world's people and groups, as its source has them now; `ann` is red by way of a group in the group.
fn tenant(world: &World) -> Tenant {
    let mut tenant = Tenant::default();
    for (name, enabled) in &world.people {
        let person = tenant.employ(name);
        person.insert("userPrincipalName".to_owned(), format!("{}@contoso.example", world.local(name)).into());
        person.insert("accountEnabled".to_owned(), (*enabled).into());
    }
    for (group, members) in &world.groups {
        let direct = members.iter().filter(|name| group != "red" || *name != "ann");
        tenant.group(group, &direct.map(String::as_str).collect::<Vec<_>>());
    }
    tenant.group("night", &["ann"]);
    tenant.join("red", member("group", "g-night"));
    tenant
}

/// A world whose source is the stand-in.
async fn office() -> (World, Graph) {
    let mut world = World::new().await;
    let graph = Graph::start(tenant(&world)).await;
    world.secrets.extend(["canary-token", "canary-mail", CANARY, SECRET].map(str::to_owned));
    std::fs::write(world.path("graph-secret"), format!("{SECRET}\n")).unwrap();
    world.config["source"] = json!({
        "type": "ms-graph-ad", "path": null, "tenant_id": TENANT, "client_id": CLIENT, "client_secret_file": "graph-secret",
        "base_url": format!("{}/", graph.url), "login_url": graph.url,
    });
    let team = |id: &str| json!({ "id": id, "name": id, "groups": [{ "externalId": format!("g-{id}") }] });
    world.config["spaces"] = json!([{
        "id": "org", "name": "Company", "groups": [{ "externalId": "leads", "powerLevel": 50 }],
        "subspaces": [team("red"), team("blue")],
    }]);
    world.write();
    (world, graph)
}

/// Hands the world's state to the source.
fn publish(world: &World, graph: &Graph) {
    let Tenant { users, groups, .. } = tenant(world);
    graph.change(|tenant| (tenant.users, tenant.groups) = (users, groups));
}

fn photos_asked(graph: &Graph) -> usize {
    graph.asked().iter().filter(|asked| asked.contains("/photo")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_groups_and_photos_of_graph_become_members_and_avatars() {
    let (mut world, graph) = office().await;
    world.usher(&["source", "test"]).await.code(0).says("among them all 3 that the configuration names");
    graph.change(|tenant| tenant.photos.insert("id-ann".to_owned(), Photo::Sized(picture("grey"))));
    world.settle().await;
    world.assert_members().await;
    assert_eq!(photos_asked(&graph), 0, "nobody wants photos");

    wanting("always", &mut world).await;
    assert_eq!(avatar_writes(&world), ([1, 1], 0));
    assert_eq!(shown(&world, "ann").await, Some(picture("grey")));
    assert_eq!(shown(&world, "bob").await, None);
    assert!(photos_asked(&graph) >= 2 * NAMES.len() - 1, "everybody is looked at, in two sizes where there is none");
    world.must_be_settled().await;

    // The same photo of the next day writes nothing, another one does, and one that is gone takes the avatar along.
    graph.forget();
    world.proxy.clear();
    world.usher_at("+25h", &["apply", "--yes"]).await.code(0);
    assert!(photos_asked(&graph) >= 2 * NAMES.len() - 1);
    assert_eq!(avatar_writes(&world), ([0, 0], 0));
    graph.change(|tenant| tenant.photos.insert("id-ann".to_owned(), Photo::Whole(picture("white"))));
    world.usher_at("+50h", &["apply", "--yes"]).await.code(0);
    assert_eq!(shown(&world, "ann").await, Some(picture("white")));
    graph
        .change(|tenant| tenant.photos.insert("id-ann".to_owned(), Photo::Refused(404, "MailboxNotEnabledForRESTAPI")));
    world.usher_at("+75h", &["apply", "--yes"]).await.code(0);
    assert_eq!(shown(&world, "ann").await, Some(picture("white")), "who cannot be seen keeps it");
    graph.change(|tenant| tenant.photos.clear());
    world.usher_at("+100h", &["apply", "--yes"]).await.code(0);
    assert_eq!(world.account("ann").await["avatar_url"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_changes_groups_moves_and_nobody_leaves_for_a_read_that_broke_off() {
    let (mut world, graph) = office().await;
    world.settle().await;
    graph.change(|tenant| tenant.page_cap = 4);
    graph.spoil(|heard| (heard.path == "/users" && heard.query.contains("skiptoken")).then_some(Fault::Cut));
    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await;
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    world.assert_members().await;
    graph
        .spoil(|heard| (heard.path == "/groups/g-blue/members").then(|| Fault::error(404, "Request_ResourceNotFound")));
    world.usher(&["apply", "--yes"]).await;
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    graph.behave();
    world.transfer("bob", "red", "blue");
    world.people.insert("fay".to_owned(), false);
    publish(&world, &graph);
    world.usher(&["apply", "--yes"]).await.code(0);
    world.people.remove("fay");
    world.assert_members().await;
    graph.change(|tenant| tenant.secret = "another".to_owned());
    world.usher(&["plan"]).await.code(75).says("client_secret is wrong");
}
