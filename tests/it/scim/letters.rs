//! Who is told what about their account (S-64): with the change itself, once, and only people who have an address.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use usher::ids::Timestamp;

use super::{Scim, USER, on_both};

on_both! {
    each_turn_of_an_account_makes_one_letter
    who_has_no_address_and_what_is_no_person_gets_none
    a_namesake_of_somebody_who_was_deleted_is_not_told_of_their_account
}

/// Occasion, address and Matrix name of every letter, in order.
async fn letters(scim: &Scim) -> Vec<(&'static str, String, String)> {
    let mut waiting = scim.store.letters_due(Timestamp(i64::MAX), 100).await.unwrap();
    waiting.sort_by_key(|waiting| waiting.queued_at);
    waiting
        .into_iter()
        .map(|waiting| (waiting.letter.occasion.name(), waiting.letter.address, waiting.letter.user_id))
        .collect()
}

fn person(name: &str, address: &str) -> Value {
    json!({ "schemas": [USER], "userName": name, "externalId": format!("x-{name}"), "emails": [{ "value": address }] })
}

async fn each_turn_of_an_account_makes_one_letter(scim: &Scim) {
    let made = scim.call("POST", "/Users", person("zoe", "zoe@example.org")).await.is(201);
    let path = format!("/Users/{}", made["id"].as_str().unwrap());
    let active = |value: bool| json!([{ "op": "replace", "path": "active", "value": value }]);
    for value in [false, false, true, true] {
        scim.patch(&path, active(value)).await.is(200);
    }
    scim.patch(&path, json!([{ "op": "replace", "path": "title", "value": "Dr." }])).await.is(200);
    scim.call("DELETE", &path, Value::Null).await.is(204);
    scim.call("POST", "/Users", person("zoe", "zoe@example.org")).await.is(201);
    let told = |occasion: &'static str| (occasion, "zoe@example.org".to_owned(), "@zoe:example.org".to_owned());
    let expected = ["registered", "deactivated", "activated", "deactivated", "activated"].map(told);
    assert_eq!(letters(scim).await, expected);
}

async fn who_has_no_address_and_what_is_no_person_gets_none(scim: &Scim) {
    scim.call("POST", "/Users", json!({ "schemas": [USER], "userName": "noa" })).await.is(201);
    let inactive =
        json!({ "schemas": [USER], "userName": "ina", "active": false, "emails": [{ "value": "ina@example.org" }] });
    let made = scim.call("POST", "/Users", inactive).await.is(201);
    scim.call("DELETE", &format!("/Users/{}", made["id"].as_str().unwrap()), Value::Null).await.is(204);
    scim.group("blue", &[]).await;
    let odd = json!({
        "schemas": [USER], "userName": "odd", "name": { "formatted": "a\u{0}b" }, "emails": [{ "value": "a\u{0}b@example.org" }],
    });
    scim.call("POST", "/Users", odd).await.is(201);
    // What is refused tells nobody anything.
    scim.call("POST", "/Users", json!({ "schemas": [USER], "userName": "NOA", "emails": [{ "value": "n@x.org" }] }))
        .await
        .is(409);
    assert_eq!(letters(scim).await, []);
}

async fn a_namesake_of_somebody_who_was_deleted_is_not_told_of_their_account(scim: &Scim) {
    let made = scim.call("POST", "/Users", person("zoe", "zoe@example.org")).await.is(201);
    scim.call("DELETE", &format!("/Users/{}", made["id"].as_str().unwrap()), Value::Null).await.is(204);
    let before = letters(scim).await;
    let mut other = person("zoe", "another@example.org");
    other["externalId"] = json!("x-another");
    let made = scim.call("POST", "/Users", other).await.is(201);
    let path = format!("/Users/{}", made["id"].as_str().unwrap());
    scim.patch(&path, json!([{ "op": "replace", "path": "active", "value": false }])).await.is(200);
    assert_eq!(letters(scim).await, before);
}
