//! People a SCIM client makes, and what becomes of them on a real Synapse: accounts that single sign-on finds, answers that wait, orders that
//! do not, and names that people give.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::child::Running;
use super::scim::{Provider, USER, is_locked, provisioned};
use super::world::{NAMES, World, until};
use crate::lab::proxy::{Fault, Seen};
use crate::lab::smtp::{Encryption, SmtpSink};
use crate::lab::synapse::escape;

const SSO: &str = "oidc-idp";

/// The company with a SCIM client that makes accounts.
async fn registering(mode: &str) -> (World, Provider) {
    let mut world = World::new().await;
    let provider = provisioned(&mut world);
    world.config["source"]["register_users"] = json!(mode);
    world.config["source"]["client"]["single_sign_on"] = json!({ "provider": SSO });
    world.config["source"]["synchronous_provisioning"] = json!(true);
    world.config["source"]["synchronous_limit"] = json!("2m");
    world.config["spaces"] = Value::Null;
    world.config["provisioner"]["default_rooms"] = json!([]);
    world.write();
    (world, provider)
}

async fn served(world: &World, provider: &Provider) -> Running {
    let running = world.start(&["run"]);
    until("SCIM is served", async || provider.call("GET", "/Users", Value::Null).await.0 == 200).await;
    running
}

fn person(world: &World, name: &str) -> Value {
    json!({
        "schemas": [USER], "userName": world.local(name), "externalId": external(world, name), "displayName": name,
        "emails": [{ "value": format!("{name}@canary-mail.example") }],
    })
}

fn external(world: &World, name: &str) -> String {
    format!("idp|{}", world.local(name))
}

impl World {
    async fn account_of(&self, name: &str) -> Option<Value> {
        let path = format!("/_synapse/admin/v2/users/{}", escape(&self.user(name)));
        let (status, answer) = self.as_admin("GET", &path, Value::Null).await;
        (status == 200).then_some(answer)
    }

    /// Whom single sign-on finds.
    async fn found_by_sign_on(&self, name: &str) -> Value {
        let external = escape(&external(self, name));
        let path = format!("/_synapse/admin/v1/auth_providers/{SSO}/users/{external}");
        self.as_admin("GET", &path, Value::Null).await.1["user_id"].clone()
    }

    /// The audit's rows about accounts that were made: person and result.
    async fn registered(&self) -> Vec<(String, String)> {
        let exported = self.usher(&["audit", "export"]).await.code(0).out.clone();
        let rows = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rows.filter(|row| row["action"] == "register").map(|row| (text(&row["person"]), text(&row["result"]))).collect()
    }
}

fn makes_an_account(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.starts_with("/_synapse/admin/v2/users/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_there_and_invited_when_the_client_is_answered_and_sign_on_finds_it() {
    let (mut world, provider) = registering("yes").await;
    let sink = SmtpSink::start(Encryption::None, None);
    world.config["source"]["mailer"] = json!({
        "from": "Chat <it@canary-mail.example>",
        "transport": { "host": "127.0.0.1", "port": sink.port, "secure": false, "ignoreTLS": true },
    });
    world.write();
    let daemon = served(&world, &provider).await;
    provider.must("POST", "/Users", person(&world, "zoe")).await;
    let account = world.account_of("zoe").await.expect("an account");
    assert_eq!(account["external_ids"], json!([{ "auth_provider": SSO, "external_id": external(&world, "zoe") }]));
    assert_eq!(world.found_by_sign_on("zoe").await, json!(world.user("zoe")));
    assert_eq!((&account["displayname"], &account["admin"]), (&json!("zoe"), &json!(false)));
    assert!(world.inside("scim-client:acme").await.contains("zoe"), "invited before the answer");
    until("the letter is sent", async || !sink.letters().is_empty()).await;
    assert!(sink.letters()[0]["content"].as_str().unwrap().contains("is ready"));
    let (status, refused) = provider.call("POST", "/Users", person(&world, "ann")).await;
    assert_eq!((status, &refused["scimType"]), (409, &json!("uniqueness")), "ann has an account: {refused}");

    let one = provider.must("GET", "/Users", Value::Null).await;
    let path = format!("/Users/{}", one["Resources"][0]["id"].as_str().unwrap());
    provider.must("DELETE", &path, Value::Null).await;
    assert_eq!(world.account_of("zoe").await.unwrap()["locked"], true, "locked before the answer");
    provider.must("POST", "/Users", person(&world, "zoe")).await;
    assert_eq!(world.account_of("zoe").await.unwrap()["locked"], false, "and hers again");
    daemon.stop().await.code(0);
    assert_eq!(world.registered().await, [(world.user("zoe"), "done".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_step_of_a_registration_makes_one_account() {
    let (mut world, provider) = registering("if-missing").await;
    world.config["source"]["synchronous_provisioning"] = json!(false);
    world.write();
    for (name, fault) in [("lea", Fault::DropBefore), ("leo", Fault::DropAfter)] {
        let daemon = served(&world, &provider).await;
        let reached = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&reached);
        world.proxy.spoil(move |request| {
            let makes = makes_an_account(request);
            seen.fetch_or(makes, Ordering::Relaxed);
            makes.then(|| fault.clone())
        });
        provider.must("POST", "/Users", person(&world, name)).await;
        until("the account is asked for", async || reached.load(Ordering::Relaxed)).await;
        daemon.kill9();
        world.proxy.behave();
        let daemon = served(&world, &provider).await;
        until("the account is found by sign-on", async || world.found_by_sign_on(name).await == world.user(name)).await;
        until("and invited", async || {
            world.resolve(&world.alias("scim-client:acme")).await.is_some()
                && world.inside("scim-client:acme").await.contains(name)
        })
        .await;
        // The account may be there, and invited, from the request whose answer was lost: that it is usher's is found out by the next one.
        let done = (world.user(name), "done".to_owned());
        until("and on record", async || world.registered().await.contains(&done)).await;
        daemon.stop().await.code(0);
    }
    let rows = world.registered().await;
    let done = |name: &str| (world.user(name), "done".to_owned());
    assert_eq!(rows, [done("lea"), done("leo")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_homeserver_delays_the_account_and_makes_no_error_of_the_answer() {
    let (mut world, provider) = registering("if-missing").await;
    world.config["source"]["synchronous_limit"] = json!("1s");
    world.write();
    let daemon = served(&world, &provider).await;
    let slow = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&slow);
    world.proxy.spoil(move |seen| {
        (makes_an_account(seen) && gate.load(Ordering::Relaxed)).then(|| Fault::Answer(503, json!({})))
    });
    let made = provider.must("POST", "/Users", person(&world, "mia")).await;
    assert_eq!(made["userName"], json!(world.local("mia")), "the normal answer");
    assert_eq!(world.account_of("mia").await, None);
    until("the failure is shown", async || {
        let status = world.status().await;
        let told = status["failures"].as_array().into_iter().flatten();
        let ours = told.filter(|failure| failure["what"].as_str().unwrap_or_default().contains(&world.local("mia")));
        ours.count() == 1 && status["outbox"]["accounts_waiting"] == 1
    })
    .await;
    let metrics = world.ops("/metrics").await.1;
    assert!(metrics.contains("usher_outbox{what=\"account\",state=\"waiting\"} 1"), "{metrics}");
    slow.store(false, Ordering::Relaxed);
    until("the account is there", async || world.found_by_sign_on("mia").await == world.user("mia")).await;
    until("nothing waits", async || world.status().await["outbox"]["accounts_waiting"] == 0).await;
    daemon.stop().await.code(0);
}

/// Each write is held up for this long, so that "within five seconds" is a number of writes: eight go at a time.
const HELD_UP: Duration = Duration::from_millis(200);
const WRITES_IN_FIVE_SECONDS: usize = 8 * 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deactivation_does_not_wait_for_the_end_of_a_first_synchronisation() {
    let mut world = World::new().await;
    let provider = provisioned(&mut world);
    let team = |number: usize| json!({ "id": format!("team-{number}"), "name": format!("Team {number}"), "groups": [{ "externalId": "" }] });
    world.config["spaces"] = (0..40).map(team).collect();
    world.write();
    let daemon = served(&world, &provider).await;
    world.proxy.spoil(|seen| seen.is_write().then_some(Fault::Delay(HELD_UP)));
    let mut jon = String::new();
    for name in NAMES {
        let made = provider.must("POST", "/Users", person(&world, name)).await;
        if name == "jon" {
            jon = format!("/Users/{}", made["id"].as_str().unwrap());
        }
    }
    let additions = |world: &World| {
        world.proxy.writes().iter().filter(|class| class.ends_with("/invite") || class.ends_with("/createRoom")).count()
    };
    until("the synchronisation is under way", async || additions(&world) > 20).await;
    let before = world.proxy.count();
    provider.patch(&jon, json!({ "op": "Replace", "path": "active", "value": "False" })).await;
    until("jon is locked", async || is_locked(&world, "jon").await).await;
    let since = || world.proxy.seen().split_off(before);
    let locks = |seen: &Seen| makes_an_account(seen) && seen.body["locked"] == true;
    // What has come by is known once it is answered.
    until("the answer comes by", async || since().iter().any(locks)).await;
    let meanwhile = since().iter().take_while(|seen| !locks(seen)).filter(|seen| seen.is_write()).count();
    assert!(meanwhile <= WRITES_IN_FIVE_SECONDS, "{meanwhile} writes went before the lock");
    let done = additions(&world);
    until("and the synchronisation goes on", async || additions(&world) > done).await;
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_on_the_word_of_a_homeserver_that_is_away() {
    let mut world = World::alone().await;
    let provider = provisioned(&mut world);
    let daemon = served(&world, &provider).await;
    let as_admin = async || {
        let request = world.http.get(format!("{}/Users", provider.base)).bearer_auth(world.stage.admin_token());
        request.send().await.unwrap().status().as_u16()
    };
    let as_provider = async || provider.call("GET", "/Users", Value::Null).await.0;
    for fault in [Fault::DropBefore, Fault::Answer(502, json!({}))] {
        // For a moment after it did not answer it is not asked again.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        world.proxy.spoil(move |seen| {
            let asks = seen.path.ends_with("/account/whoami") || seen.path.ends_with("/admin");
            asks.then(|| fault.clone())
        });
        assert_eq!(as_admin().await, 503);
        assert_eq!(as_provider().await, 200, "a provider's own token needs nobody's word");
    }
    world.proxy.behave();
    world.stage.synapse().await.stop();
    assert_eq!((as_admin().await, as_provider().await), (503, 200), "the homeserver itself is away");
    world.stage.synapse().await.restart().await;
    assert_eq!(as_admin().await, 200, "a refusal for want of an answer is not remembered");
    let asked = || world.proxy.seen().iter().filter(|seen| seen.path.ends_with("/account/whoami")).count();
    let before = asked();
    assert_eq!((as_admin().await, as_admin().await, asked()), (200, 200, before), "nor asked for again and again");
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_space_keeps_the_name_its_moderators_give_it() {
    let (mut world, provider) = registering("no").await;
    let thing = "scim-client:acme";
    world.config["exceptions"] =
        json!([{ "user": world.user("ann"), "space": thing, "level": 50, "reason": "moderates" }]);
    world.write();
    let daemon = served(&world, &provider).await;
    provider.must("POST", "/Users", person(&world, "ann")).await;
    let space = world.room(thing).await;
    assert_eq!(world.state(&space, "m.room.name", "").await["name"], "acme");
    world.join("ann", thing).await;
    until("ann moderates", async || world.level(thing, "ann").await == 50).await;
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", escape(space.as_str()));
    let (status, answer) = world.as_person("ann", "PUT", &path, json!({ "name": "Acme & Sons" })).await;
    assert_eq!(status, 200, "{answer}");
    provider.must("POST", "/Users", person(&world, "bob")).await;
    assert!(world.inside(thing).await.contains("bob"), "a whole pass has gone by");
    daemon.stop().await.code(0);
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.state(&space, "m.room.name", "").await["name"], "Acme & Sons");
    assert_eq!(world.room(thing).await, space);
}
