//! Whose account is whose on a real homeserver (S-1, S-5, S-51, S-54, S-103): rebound by an operator, found by an external id, claimed by
//! the wrong entry, remembered by an invitation only, and never acted for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::accounts::{come_back, company, leave};
use super::stage::Stage;
use super::world::{World, replace, until};
use crate::lab::postgres::Postgres;
use crate::lab::proxy::Fault;
use crate::lab::synapse::{SERVER_NAME, escape};

/// The source's file with these users beside the others, all of them in group blue.
fn write_with(world: &World, extra: &[Value]) {
    world.write_source();
    let path = world.path("company.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for user in extra {
        file["users"].as_array_mut().unwrap().push(user.clone());
        let groups = file["groups"].as_array_mut().unwrap();
        let blue = groups.iter_mut().find(|group| group["id"] == "blue").unwrap();
        blue["members"].as_array_mut().unwrap().push(user["id"].clone());
    }
    replace(&path, &file.to_string());
}

async fn record(world: &World, user: &str) -> Value {
    world.as_admin("GET", &format!("/_synapse/admin/v2/users/{}", escape(user)), Value::Null).await.1
}

async fn change(world: &World, user: &str, body: Value) {
    let (status, answer) = world.as_admin("PUT", &format!("/_synapse/admin/v2/users/{}", escape(user)), body).await;
    assert!(status < 300, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_passes_to_an_entry_that_was_made_again_only_by_rebind() {
    let mut world = company().await;
    leave(&mut world, "jon");
    let again = json!({ "id": "7f3c", "localpart": world.local("jon") });
    write_with(&world, &[again]);
    world.usher(&["apply", "--yes"]).await.code(0);
    world.apply_at(120, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED", "it is the account of somebody who left");
    let remedy = format!("usher rebind 7f3c {}", world.local("jon"));
    world.usher_at("+121m", &["plan", "--json"]).await.code(0).says(&remedy);
    world.usher_at("+121m", &["rebind", "7f3c", &world.local("jon")]).await.code(0).says("it is jon's now");
    assert_eq!(world.session("jon").await, "M_USER_LOCKED", "an order, taken in by the next pass");
    world.apply_at(125, true).await.code(0);
    assert_eq!(world.session("jon").await, "ok");
    world.usher_at("+126m", &["grace", "list"]).await.code(0).says("Nobody is locked");
    world.usher(&["audit", "tail", "50"]).await.code(0).says("order rebind").says("obeyed");
    assert!(world.inside("blue").await.contains("jon"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_to_write_where_the_homeserver_has_handed_its_accounts_over() {
    let mut world = World::bare(Stage::shared().await).await;
    world.bootstrap().await;
    world.proxy.spoil(|request| {
        let metadata = json!({ "issuer": "https://auth.example/", "token_endpoint": "https://auth.example/token" });
        request.path.contains("/auth_metadata").then_some(Fault::Answer(200, metadata))
    });
    world.usher(&["check"]).await.code(78).says("Matrix Authentication Service").says("backend: mas");
    world.proxy.behave();
    world.usher(&["check"]).await.code(0);
    world.config["accounts"] = json!({
        "backend": "mas", "mas": { "url": "http://127.0.0.1:1", "client_id": "01HX", "client_secret": "s3cr3t-of-the-client" },
    });
    world.write();
    world.usher(&["check"]).await.code(78).says("keeps its accounts itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_often_is_written_once_each_time_and_is_no_fight() {
    const TIMES: usize = 7;
    let mut world = World::new().await;
    world.config["userProvisioner"] = json!({ "synapse": { "attributes": ["displayName"] } });
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    world.settle().await;
    for thing in ["blue", "blue/general", "org"] {
        world.join("jon", thing).await;
    }
    world.people.remove("jon");
    let user = world.user("jon");
    let daemon = world.start(&["run"]);
    until("a pass", async || world.status().await["last_pass"].is_object()).await;
    world.proxy.clear();
    for time in 1..=TIMES {
        let name = format!("Jon {time}");
        write_with(&world, &[json!({ "id": "jon", "localpart": world.local("jon"), "display_name": name })]);
        until("the name is there", async || record(&world, &user).await["displayname"] == name.as_str()).await;
        let room = world.room("blue/general").await;
        let shown = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", escape(room.as_str()), escape(&user));
        until("its echo is there", async || {
            world.as_bot("GET", &shown, Value::Null).await.1["displayname"] == name.as_str()
        })
        .await;
    }
    let status = world.status().await;
    assert_eq!(status["failures"], json!([]), "nobody undoes anything");
    assert!(!daemon.said().contains("undone again and again"), "and nothing is slowed down");
    let writes =
        || -> Vec<String> { world.proxy.writes().into_iter().filter(|write| write.contains("/v2/users/")).collect() };
    // What was written shows a moment before its answer has passed the proxy.
    until("the last answer", async || writes().len() >= TIMES).await;
    assert_eq!(writes().len(), TIMES, "{:?}", writes());
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_to_an_admin_the_bot_or_another_services_user_whatever_the_directory_claims() {
    let stage = Stage::with_slots(2).await;
    let other = World::bare(Arc::clone(&stage)).await;
    other.bootstrap().await;
    let mut world = World::bare(stage).await;
    world.bootstrap().await;
    world.config["userProvisioner"] = json!({
        "synapse": { "attributes": ["displayName", "emails"] },
        "deprovisioning": { "enabled": true, "soft_delete_period": "0s" },
    });
    world.write();
    world.settle().await;
    let local = |user: &str| user.trim_start_matches('@').split(':').next().unwrap().to_owned();
    let claimed = [format!("@root:{SERVER_NAME}"), world.bot(), other.bot()];
    let before =
        [record(&world, &claimed[0]).await, record(&world, &claimed[1]).await, record(&world, &claimed[2]).await];
    assert!(before[0]["admin"] == true && before[2]["appservice_id"].is_string(), "{before:?}");
    let entry = |at: usize, enabled: bool| {
        json!({ "id": format!("claims-{at}"), "localpart": local(&claimed[at]), "display_name": "Mallory",
                "emails": [format!("mallory{at}@canary-mail.example")], "enabled": enabled })
    };
    world.proxy.clear();
    write_with(&world, &[entry(0, true), entry(1, true), entry(2, true)]);
    world.usher(&["apply", "--yes"]).await;
    write_with(&world, &[entry(0, false), entry(1, false), entry(2, false)]);
    world.usher(&["apply", "--yes"]).await;
    world.write_source();
    world.apply_at(120, true).await;
    world.apply_at(240, true).await;
    for (user, before) in claimed.iter().zip(&before) {
        let after = record(&world, user).await;
        for key in ["displayname", "threepids", "locked", "deactivated", "admin"] {
            assert_eq!(after[key], before[key], "{key} of {user}");
        }
        let spelt = escape(user);
        let written: Vec<String> = world
            .proxy
            .seen()
            .iter()
            .filter(|seen| seen.is_write() && (seen.path.contains(user.as_str()) || seen.path.contains(&spelt)))
            .filter(|seen| !seen.path.contains("/rooms/") && !seen.path.contains("/account_data/"))
            .map(|seen| seen.path.clone())
            .collect();
        assert_eq!(written, Vec::<String>::new(), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_while_the_database_was_lost_is_a_leaver_because_the_bot_invited_them() {
    let mut world = company().await;
    for file in ["usher.db", "usher.db-wal", "usher.db-shm"] {
        let _ = std::fs::remove_file(world.path(file));
    }
    leave(&mut world, "jon");
    world.apply_at(10, true).await;
    world.apply_at(130, true).await;
    assert!(world.inside("blue").await.contains("jon"), "not confirmed, and no stranger");
    assert_eq!(world.session("jon").await, "ok");
    // The first removal after a loss waits for an operator (S-101).
    world.apply_at(250, true).await.code(3).says("hold");
    assert_eq!(world.session("jon").await, "ok");
    world.usher_at("+251m", &["hold", "approve", "--all"]).await.code(0);
    world.apply_at(252, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED");
    assert!(world.inside("blue").await.contains("jon"), "locked people keep their places");
    world.usher_at("+253m", &["grace", "list"]).await.code(0).says(&world.user("jon"));
    come_back(&mut world, "jon");
    world.apply_at(260, true).await.code(0);
    assert_eq!(world.session("jon").await, "ok", "the entry with that name is them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_found_by_the_external_id_before_the_name() {
    let mut world = World::new().await;
    world.config["accounts"] = json!({ "match_external_id": { "provider": "oidc-lab", "from": "id" } });
    world.write();
    let link = |id: &str| json!({ "external_ids": [{ "auth_provider": "oidc-lab", "external_id": id }] });
    for name in ["kai-sso", "kai", "lea-sso"] {
        world.open_account(name).await;
    }
    change(&world, &world.user("kai-sso"), link("id-of-kai")).await;
    let people = [
        json!({ "id": "id-of-kai", "localpart": world.local("kai") }),
        json!({ "id": "id-of-lea", "localpart": world.local("lea") }),
    ];
    write_with(&world, &people);
    world.usher(&["apply", "--yes"]).await.code(0);
    let members = world.members("blue").await;
    assert_eq!(members["kai-sso"], "invite");
    assert!(!members.contains_key("kai"), "somebody else's account of the same name");
    assert!(!members.contains_key("lea") && !members.contains_key("lea-sso"));

    // She logs in for the first time, and the provider gives her another name: a running usher asks again with each read of the source.
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    write_with(&world, &people);
    let daemon = world.start(&["run"]);
    until("a pass", async || world.status().await["last_pass"].is_object()).await;
    change(&world, &world.user("lea-sso"), link("id-of-lea")).await;
    world.employ("zoe");
    write_with(&world, &people);
    until("she is asked", async || world.members("blue").await.contains_key("lea-sso")).await;
    daemon.stop().await.code(0);
    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await.code(0);
    let asked = world.proxy.seen().iter().filter(|seen| seen.path.contains("/auth_providers/")).count();
    assert_eq!(asked, 0, "who was found is not looked up again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_whom_nobody_is_to_act_for_are_named_until_the_registration_leaves_them_out() {
    let mut world = World::alone().await;
    world.config["appservice"] = json!({ "puppet_registration": "usher-puppet.yaml" });
    world.write();
    // This homeserver knows usher by another sender than the one that is generated.
    let own = std::fs::read(world.path("usher-registration.yaml")).unwrap();
    world.usher(&["registration", "generate"]).await.code(0);
    std::fs::write(world.path("usher-registration.yaml"), own).unwrap();
    world.usher(&["check"]).await.code(0).says("no server admin and no protected user can be acted as");
    world.config["provisioner"]["protected_users"] = json!([format!("@{}:.*", world.local("bob"))]);
    world.write();
    let path = format!("/_synapse/admin/v1/users/{}/admin", escape(&world.user("ann")));
    assert_eq!(world.as_admin("PUT", &path, json!({ "admin": true })).await.0, 200);
    world.usher(&["check"]).await.code(0).says("admits server admins or protected users").says(&world.user("ann"));
    let daemon = world.start(&["run"]);
    until("a pass", async || world.status().await["last_pass"].is_object()).await;
    let status = world.status().await;
    let failures = status["failures"].to_string();
    assert!(failures.contains(&world.user("ann")) && failures.contains(&world.user("bob")), "{failures}");
    assert!(world.ops("/metrics").await.1.contains("usher_puppet_exposed_users 2"));
    daemon.stop().await.code(0);
    assert_eq!(world.as_admin("PUT", &path, json!({ "admin": false })).await.0, 200);
    world.config["provisioner"]["protected_users"] = json!([]);
    world.write();
    world.usher(&["check"]).await.code(0).says("no server admin and no protected user can be acted as");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_another_time_holds_every_end() {
    let postgres = Postgres::shared().await;
    let mut world = World::new().await;
    world.config["userProvisioner"] = json!({ "deprovisioning": { "enabled": true, "soft_delete_period": "1h" } });
    world.config["database"] = json!({ "url": postgres.database().await });
    world.write();
    world.usher(&["apply", "--yes"]).await.code(0);
    // Marked as gone at once: a disabled person has no clock, so jon is missing.
    leave(&mut world, "jon");
    world.usher(&["apply", "--yes"]).await.code(0);
    world.apply_at(120, true).await.code(0);
    assert_eq!(world.session("jon").await, "M_USER_LOCKED", "a lock needs no clock");
    // usher's clock and the homeserver's agree; the database's stays behind.
    world.apply_at(240, true).await.code(0).says("usher's clock and the database's are");
    world.apply_at(260, true).await.code(0);
    assert_eq!(world.account("jon").await["deactivated"], false);
}
