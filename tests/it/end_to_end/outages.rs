//! `run` while what it needs is away: it lives, removes nobody, and converges afterwards (S-3, S-82).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::world::{World, replace, until};
use crate::lab::postgres::Postgres;
use crate::lab::slapd::{BASE, PASSWORD, ROOT_DN, Slapd};

async fn quick() -> World {
    quickly(World::new().await)
}

fn quickly(mut world: World) -> World {
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    world
}

/// A pass that began after this and asked the source. Those the feed calls for do not.
async fn a_poll(world: &World) {
    let now = usher::clock::now();
    until("a poll", async || {
        let pass = &world.status().await["last_pass"];
        pass["cause"] == "poll" && pass["started"].as_i64() >= Some(now.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_garbage_gone_or_empty_removes_nobody() {
    let mut world = quick().await;
    let daemon = world.start(&["run"]);
    until("everybody is in", async || world.is_right().await).await;
    let company = world.path("company.json");
    world.transfer("bob", "red", "blue");
    for broken in [Some("{ \"users\": [{"), None, Some("{\"users\": [], \"groups\": []}"), Some("")] {
        match broken {
            Some(text) => replace(&company, text),
            None => std::fs::remove_file(&company).unwrap(),
        }
        a_poll(&world).await;
        let status = world.status().await;
        assert!(
            status["source"]["complete"] == false || !status["source"]["problem"].is_null(),
            "{broken:?}: {status}"
        );
        assert_eq!(world.ops("/live").await.0, 200);
        assert_eq!(world.removed().await.len(), 0, "{broken:?}");
    }
    world.write_source();
    until("it has caught up", async || world.is_right().await).await;
    until("the source is well", async || world.status().await["source"]["problem"].is_null()).await;
    daemon.stop().await.code(0);
    assert_eq!(world.removed().await, ["bob".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_homeserver_that_is_away_is_waited_for() {
    let mut world = quickly(World::alone().await);
    world.stage.synapse().await.stop();
    // Not even at the start is it needed.
    let mut daemon = world.start(&["run"]);
    daemon.until_said("tries again").await;
    assert_eq!(world.ops("/live").await.0, 200);
    assert_eq!(world.ops("/ready").await.0, 200);
    world.stage.synapse().await.restart().await;
    until("everybody is in", async || world.is_right().await).await;
    world.stage.synapse().await.stop();
    world.transfer("bob", "red", "blue");
    world.write_source();
    a_poll(&world).await;
    assert_eq!(world.ops("/live").await.0, 200);
    world.stage.synapse().await.restart().await;
    until("it has caught up", async || world.is_right().await).await;
    until("it says so", async || world.status().await["last_pass"]["result"] == "ok").await;
    daemon.stop().await.code(0);
    assert_eq!(world.removed().await, ["bob".to_owned()].into());
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_waited_for() {
    let postgres = Postgres::start().await;
    let mut world = quick().await;
    world.config["database"] = json!({ "url": postgres.database().await });
    world.write();
    postgres.stop();
    let mut daemon = world.start(&["run"]);
    daemon.until_said("waiting for the database").await;
    assert_eq!(world.ops("/live").await.0, 200);
    assert_eq!(world.ops("/ready").await.0, 503);
    postgres.resume().await;
    until("everybody is in", async || world.is_right().await).await;
    until("it is ready", async || world.ops("/ready").await.0 == 200).await;
    postgres.stop();
    until("it is not ready", async || world.ops("/ready").await.0 == 503).await;
    world.transfer("bob", "red", "blue");
    world.write_source();
    until("it was noticed", async || world.status().await["last_pass"]["result"] != "ok").await;
    assert_eq!(world.ops("/live").await.0, 200);
    assert_eq!(world.removed().await.len(), 0, "removals count, and cannot be counted now");
    postgres.resume().await;
    until("it has caught up", async || world.is_right().await).await;
    until("it is ready", async || world.ops("/ready").await.0 == 200).await;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_server_that_is_away_is_waited_for() {
    let mut world = World::new().await;
    let mut slapd = Slapd::start(&company(&world));
    world.secrets.push(PASSWORD.to_owned());
    world.config["source"] = json!({
        "type": "ldap", "path": null, "check_interval_seconds": 1, "uri": slapd.uri(), "base": BASE,
        "bind_dn": ROOT_DN, "bind_password": PASSWORD,
        "attributes": { "uid": "uid", "name": "cn", "mail": "mail" },
    });
    world.config["spaces"] = named(&world.config["spaces"]);
    world.write();
    world.usher(&["source", "test"]).await.code(0);
    let daemon = world.start(&["run"]);
    until("everybody is in", async || world.is_right().await).await;
    slapd.kill9();
    a_poll(&world).await;
    assert_eq!(world.removed().await, BTreeSet::new());
    assert_eq!(world.ops("/live").await.0, 200);
    world.usher(&["plan"]).await.code(75).says("ldap://");
    slapd.restart();
    let bob = format!("uid={},{BASE}", world.local("bob"));
    let change = |group: &str, verb: &str| {
        format!("dn: cn={group},{BASE}\nchangetype: modify\n{verb}: member\nmember: {bob}\n\n")
    };
    slapd.modify(&format!("{}{}", change("red", "delete"), change("blue", "add")));
    world.transfer("bob", "red", "blue");
    until("it has caught up", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    assert_eq!(world.removed().await, ["bob".to_owned()].into());
    world.must_be_settled().await;
}

/// The company as LDIF.
fn company(world: &World) -> String {
    use std::fmt::Write as _;
    let mut ldif = String::new();
    for name in world.people.keys() {
        let uid = world.local(name);
        let _ = write!(
            ldif,
            "dn: uid={uid},{BASE}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {name}\nsn: {name}\n\
             mail: {name}@canary-mail.example\n\n"
        );
    }
    for (group, members) in &world.groups {
        let _ = write!(ldif, "dn: cn={group},{BASE}\nobjectClass: groupOfNames\ncn: {group}\n");
        for name in members {
            let _ = writeln!(ldif, "member: uid={},{BASE}", world.local(name));
        }
        ldif.push('\n');
    }
    ldif
}

/// The same spaces with groups by DN.
fn named(spaces: &Value) -> Value {
    let text = spaces.to_string();
    let text = ["red", "blue", "leads"].into_iter().fold(text, |text, group| {
        text.replace(&format!("\"externalId\":\"{group}\""), &format!("\"externalId\":\"cn={group},{BASE}\""))
    });
    serde_json::from_str(&text).unwrap_or_default()
}
