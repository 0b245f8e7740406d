//! Accounts for people a client makes (S-63): one each, found by their single sign-on, whatever breaks in between; and answers that wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use usher::account::registrar::{Policy, Registrar};
use usher::account::{Accounts, Shield};
use usher::config::{RegisterUsers, SingleSignOn};
use usher::http::scim::{Names, Provisioning};
use usher::ids::Timestamp;
use usher::store::scim::{Letters, Registrations, Resources};

use super::{Scim, USER, id};
use crate::accounts::backends::{Ground, ground};
use crate::lab::proxy::Fault;
use crate::stores::{Database, on_both};

const SERVER: &str = "lab.test";

/// A client's server, what makes its accounts, and the homeserver they are made on.
struct Company {
    ground: Ground,
    scim: Scim,
    registrar: Registrar,
}

impl Company {
    async fn new(database: &Database, mode: RegisterUsers) -> Self {
        let ground = ground().await;
        let accounts = || Accounts::new(ground.synapse(), Shield::default(), ground.homeserver.clone());
        let registrations = Some(Registrations { ordered: Arc::default() });
        let only_free = mode == RegisterUsers::Yes;
        let names = Names { accounts: Arc::new(accounts()), server_name: SERVER.to_owned(), only_free };
        let provisioning = Provisioning { registrations: registrations.clone(), names: Some(names), patience: None };
        let scim = Scim::provisioning(database, provisioning).await;
        let letters = Some(Letters { server_name: SERVER.to_owned(), queued: Arc::default() });
        let resources =
            Resources::new(scim.store.clone(), "acme").with_letters(letters).with_registrations(registrations);
        let single_sign_on = Some(SingleSignOn { provider: "oidc-idp".to_owned(), attribute: "externalId".to_owned() });
        let policy = Policy { mode, server_name: SERVER.to_owned(), client: "acme".to_owned(), single_sign_on };
        let registrar = Registrar::new(resources, accounts(), policy);
        Self { ground, scim, registrar }
    }

    async fn round(&self) -> usize {
        self.registrar.round(&CancellationToken::new()).await.unwrap()
    }

    /// Rounds until `look` says yes: what failed is tried again later.
    async fn until(&self, mut look: impl AsyncFnMut() -> bool) {
        for _ in 0..200 {
            self.round().await;
            if look().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never");
    }

    /// An account as a server admin sees it.
    async fn account(&self, name: &str) -> Option<Value> {
        let path = format!("/_synapse/admin/v2/users/%40{name}%3A{SERVER}");
        let (status, answer) = self.ground.root.call("GET", &path, Value::Null).await;
        (status == 200).then_some(answer)
    }

    /// How often the homeserver was asked to make or change an account.
    fn puts(&self) -> usize {
        let puts = self.ground.fake.seen().into_iter();
        puts.filter(|seen| seen.method == "PUT" && seen.path.starts_with("/_synapse/admin/v2/users/")).count()
    }

    async fn letters(&self) -> Vec<(&'static str, String)> {
        let mut waiting = self.scim.store.letters_due(Timestamp(i64::MAX), 100).await.unwrap();
        waiting.sort_by_key(|waiting| waiting.queued_at);
        waiting.into_iter().map(|waiting| (waiting.letter.occasion.name(), waiting.letter.user_id)).collect()
    }

    /// Action, person and result of every row of the audit.
    async fn audited(&self) -> Vec<(String, String, String)> {
        let rows = self.scim.store.audit_after(0).await.unwrap();
        rows.into_iter().map(|row| (row.action, row.person, row.result)).collect()
    }

    async fn refused(&self) -> Vec<(String, String)> {
        Resources::new(self.scim.store.clone(), "acme").refused_registrations(10).await.unwrap()
    }
}

fn person(name: &str) -> Value {
    json!({ "schemas": [USER], "userName": name, "externalId": format!("x-{name}"), "displayName": "Zoe Z",
            "emails": [{ "value": format!("{name}@example.org") }] })
}

fn active(value: bool) -> Value {
    json!([{ "op": "replace", "path": "active", "value": value }])
}

on_both! {
    an_account_is_made_once_with_its_link_its_record_and_its_letter
    whoever_is_made_inactive_is_registered_when_they_are_first_activated
    a_lost_answer_or_a_lost_request_makes_one_account
    what_is_there_stays_as_it_is_where_only_missing_accounts_are_made
    a_taken_name_is_refused_where_every_account_is_to_be_new
    an_account_waits_for_what_single_sign_on_is_to_find_it_by
    nobody_returns_to_an_account_that_was_closed
    a_namesake_of_somebody_who_was_deleted_gets_neither_their_account_nor_a_letter
}

async fn an_account_is_made_once_with_its_link_its_record_and_its_letter(database: &Database) {
    let company = Company::new(database, RegisterUsers::IfMissing).await;
    let made = id(&company.scim.call("POST", "/Users", person("zoe")).await.is(201));
    assert_eq!(company.letters().await, [], "nobody is told of an account that is not there");
    assert_eq!(company.scim.store.registration_counts().await.unwrap().waiting, 1);
    assert_eq!((company.round().await, company.round().await), (1, 0));
    let account = company.account("zoe").await.expect("an account");
    assert_eq!(account["external_ids"], json!([{ "auth_provider": "oidc-idp", "external_id": "x-zoe" }]));
    assert_eq!((&account["displayname"], &account["admin"]), (&json!("Zoe Z"), &json!(false)));
    let zoe = format!("@zoe:{SERVER}");
    assert_eq!(company.letters().await, [("registered", zoe.clone())]);
    let row = ("register".to_owned(), zoe.clone(), "done".to_owned());
    assert_eq!(company.audited().await, std::slice::from_ref(&row));

    // The person is one, whatever becomes of the resource: no second account, no second record.
    let path = format!("/Users/{made}");
    company.scim.patch(&path, active(false)).await.is(200);
    company.scim.patch(&path, active(true)).await.is(200);
    company.scim.call("DELETE", &path, Value::Null).await.is(204);
    company.scim.call("POST", "/Users", person("zoe")).await.is(201);
    assert_eq!(company.round().await, 0);
    assert_eq!((company.puts(), company.audited().await), (1, vec![row]));
    let told: Vec<&str> = company.letters().await.into_iter().map(|(occasion, _)| occasion).collect();
    assert_eq!(told, ["registered", "deactivated", "activated", "deactivated", "activated"]);
}

async fn whoever_is_made_inactive_is_registered_when_they_are_first_activated(database: &Database) {
    let company = Company::new(database, RegisterUsers::IfMissing).await;
    let mut ina = person("ina");
    ina["active"] = json!(false);
    let path = format!("/Users/{}", id(&company.scim.call("POST", "/Users", ina).await.is(201)));
    assert_eq!((company.round().await, company.account("ina").await), (0, None));
    company.scim.patch(&path, active(true)).await.is(200);
    // Closed before the account was made: told of nothing.
    company.scim.patch(&path, active(false)).await.is(200);
    assert_eq!((company.round().await, company.letters().await), (0, vec![]));
    company.scim.patch(&path, active(true)).await.is(200);
    assert_eq!(company.round().await, 1);
    assert!(company.account("ina").await.is_some());
    assert_eq!(company.letters().await, [("registered", format!("@ina:{SERVER}"))]);
}

async fn a_lost_answer_or_a_lost_request_makes_one_account(database: &Database) {
    let company = Company::new(database, RegisterUsers::Yes).await;
    for (name, fault) in [("lea", Fault::DropAfter), ("leo", Fault::DropBefore)] {
        company.scim.call("POST", "/Users", person(name)).await.is(201);
        let mut spoilt = false;
        company.ground.fake.spoil(move |seen| {
            let first = seen.method == "PUT" && !spoilt;
            spoilt |= first;
            first.then(|| fault.clone())
        });
        company.round().await;
        assert_eq!(company.letters().await.iter().filter(|(_, user)| user.contains(name)).count(), 0);
        let delayed = company.scim.store.delayed_registrations(10).await.unwrap();
        assert_eq!(delayed.iter().map(|delayed| delayed.localpart.as_str()).collect::<Vec<_>>(), [name]);
        company.until(async || company.scim.store.registration_counts().await.unwrap().waiting == 0).await;
        let links = company.account(name).await.expect("an account")["external_ids"].clone();
        assert_eq!(links, json!([{ "auth_provider": "oidc-idp", "external_id": format!("x-{name}") }]));
    }
    assert_eq!(company.refused().await, [], "what usher began itself is no taken name");
    let rows = company.audited().await;
    assert_eq!(rows.iter().map(|(_, _, result)| result.as_str()).collect::<Vec<_>>(), ["done", "done"]);
}

async fn what_is_there_stays_as_it_is_where_only_missing_accounts_are_made(database: &Database) {
    let company = Company::new(database, RegisterUsers::IfMissing).await;
    for name in ["ann", "root", "usher"] {
        company.scim.call("POST", "/Users", person(name)).await.is(201);
    }
    assert_eq!(company.round().await, 3);
    assert_eq!((company.puts(), company.audited().await), (0, vec![]));
    let told = company.letters().await;
    assert_eq!(told, [("registered", format!("@ann:{SERVER}"))], "only those who can use theirs are told");
    let refused = company.refused().await;
    let why = |name: &str| refused.iter().find(|(refused, _)| refused == name).map(|(_, why)| why.as_str());
    assert_eq!(why("root"), Some("the name is taken: a server admin"));
    assert_eq!(why("usher"), Some("the name is taken: usher's own account"));
    assert_eq!(company.scim.store.registration_counts().await.unwrap().refused, 2);
}

async fn a_taken_name_is_refused_where_every_account_is_to_be_new(database: &Database) {
    let company = Company::new(database, RegisterUsers::Yes).await;
    for taken in ["ann", "root", "usher"] {
        let refused = company.scim.call("POST", "/Users", person(taken)).await.is(409);
        assert_eq!(refused["scimType"], "uniqueness", "{refused}");
    }
    assert_eq!(company.scim.get("/Users").await["totalResults"], 0);
    company.ground.fake.spoil(|_| Some(Fault::DropBefore));
    let away = company.scim.call("POST", "/Users", person("mia")).await;
    assert_eq!((away.status, away.header("retry-after").is_empty()), (503, false));
    company.ground.fake.behave();
    let mia = id(&company.scim.call("POST", "/Users", person("mia")).await.is(201));
    company.round().await;
    // Whoever returns has the name themselves.
    company.scim.call("DELETE", &format!("/Users/{mia}"), Value::Null).await.is(204);
    company.scim.call("POST", "/Users", person("mia")).await.is(201);
    // Somebody was quicker on the homeserver than the order.
    company.scim.call("POST", "/Users", person("pia")).await.is(201);
    company.ground.fake.register("pia").await;
    company.round().await;
    assert_eq!(company.refused().await.len(), 1);
    assert_eq!(company.account("pia").await.unwrap()["external_ids"], json!([]));
}

async fn an_account_waits_for_what_single_sign_on_is_to_find_it_by(database: &Database) {
    let company = Company::new(database, RegisterUsers::IfMissing).await;
    let mut zoe = person("zoe");
    zoe.as_object_mut().unwrap().remove("externalId");
    let path = format!("/Users/{}", id(&company.scim.call("POST", "/Users", zoe).await.is(201)));
    assert_eq!((company.round().await, company.account("zoe").await), (1, None));
    let delayed = company.scim.store.delayed_registrations(10).await.unwrap();
    assert!(delayed[0].cause.contains("sends no externalId"), "{}", delayed[0].cause);
    assert_eq!(company.letters().await, []);
    company.scim.patch(&path, json!([{ "op": "add", "path": "externalId", "value": "x-zoe" }])).await.is(200);
    assert_eq!(company.round().await, 1, "what changes is looked at at once");
    let account = company.account("zoe").await.expect("an account");
    assert_eq!(account["external_ids"], json!([{ "auth_provider": "oidc-idp", "external_id": "x-zoe" }]));
    assert_eq!(company.letters().await, [("registered", format!("@zoe:{SERVER}"))]);
}

async fn nobody_returns_to_an_account_that_was_closed(database: &Database) {
    for mode in [RegisterUsers::IfMissing, RegisterUsers::No] {
        let company = Company::new(database, mode).await;
        let name = if mode == RegisterUsers::No { "ann" } else { "zoe" };
        let path = format!("/Users/{}", id(&company.scim.call("POST", "/Users", person(name)).await.is(201)));
        company.round().await;
        company.scim.call("DELETE", &path, Value::Null).await.is(204);
        let user = format!("%40{name}%3A{SERVER}");
        let close = format!("/_synapse/admin/v1/deactivate/{user}");
        assert_eq!(company.ground.root.call("POST", &close, json!({ "erase": true })).await.0, 200);
        let before = company.letters().await.len();
        let refused = company.scim.call("POST", "/Users", person(name)).await.is(409);
        assert_eq!(refused["scimType"], "uniqueness");
        assert!(refused["detail"].as_str().unwrap().contains("closed for good"), "{refused}");
        assert_eq!(company.letters().await.len(), before, "nobody is told that it is open again");
        // Opened again by a person, it is theirs.
        let again = format!("/_synapse/admin/v2/users/{user}");
        assert_eq!(company.ground.root.call("PUT", &again, json!({ "deactivated": false })).await.0, 200);
        company.scim.call("POST", "/Users", person(name)).await.is(201);
    }
}

async fn a_namesake_of_somebody_who_was_deleted_gets_neither_their_account_nor_a_letter(database: &Database) {
    let company = Company::new(database, RegisterUsers::IfMissing).await;
    let path = format!("/Users/{}", id(&company.scim.call("POST", "/Users", person("zoe")).await.is(201)));
    company.round().await;
    company.scim.call("DELETE", &path, Value::Null).await.is(204);
    let told = company.letters().await;
    let mut other = person("zoe");
    other["externalId"] = json!("x-another");
    company.scim.call("POST", "/Users", other).await.is(201);
    assert_eq!(company.round().await, 1);
    let refused = company.refused().await;
    assert!(refused[0].1.contains("somebody who was deleted"), "{refused:?}");
    assert_eq!(
        (company.puts(), company.letters().await),
        (1, told),
        "the account is left as it was, and nobody is told of it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_matrix_where_that_is_wanted_and_not_for_ever() {
    let database = Database::sqlite();
    let patient = Provisioning { patience: Some(Duration::from_mins(5)), ..Provisioning::default() };
    let scim = Scim::provisioning(&database, patient).await;
    let resources = Resources::new(scim.store.clone(), "acme");
    let waiting = scim.call("POST", "/Users", person("zoe"));
    let carrying_out = async {
        let mut revision = resources.revision().await.unwrap();
        while revision.number == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            revision = resources.revision().await.unwrap();
        }
        assert_eq!(revision.urgent, revision.number, "what is waited for is done at once");
        scim.store.set_carried_out("scim acme", revision.number).await.unwrap();
        revision.number
    };
    let (answer, first) = tokio::join!(waiting, carrying_out);
    let path = format!("/Users/{}", id(&answer.is(201)));
    assert_eq!(scim.get(&path).await["userName"], "zoe", "whoever only reads does not wait");

    let hasty = Provisioning { patience: Some(Duration::from_millis(50)), ..Provisioning::default() };
    let scim = Scim::provisioning(&database, hasty).await;
    let title = json!([{ "op": "replace", "path": "title", "value": "Dr." }]);
    assert_eq!(scim.patch(&path, title).await.is(200)["title"], "Dr.", "the write is kept, and answered as always");
    scim.call("DELETE", &path, Value::Null).await.is(204);
    assert!(!resources.is_carried_out(first + 1).await.unwrap());
}
