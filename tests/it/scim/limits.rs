//! What is too much, really sent: one more than is allowed is refused whole, and as much as is allowed is done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use usher::scim::{Kind, bulk, document, filter, patch};
use usher::store::scim::{Change, Resource, Resources, Wanted};

use super::{GROUP, Scim, USER, id, on_both};

on_both! {
    a_patch_of_too_many_operations_is_refused_whole
    a_bulk_request_of_too_many_operations_is_refused_whole
    a_filter_beyond_its_limits_is_refused_and_one_at_them_is_understood
    a_body_of_very_many_names_is_answered
    an_attribute_has_a_thousand_values_at_most
    who_has_more_values_from_before_may_keep_them
    members_are_looked_through_a_few_times_at_most
}

async fn a_patch_of_too_many_operations_is_refused_whole(scim: &Scim) {
    assert_eq!(patch::MOST_OPERATIONS, 20_000, "what the guide says");
    let group = scim.group("blue", &["m-0"]).await;
    let path = format!("/Groups/{group}");
    let many = |count: usize, op: &str| -> Value {
        let one = |number| json!({ "op": op, "path": "members", "value": [{ "value": format!("m-{number}") }] });
        (0..count).map(one).collect()
    };
    let refused = scim.patch(&path, many(20_001, "add")).await.is(413);
    assert_eq!(refused["status"], "413");
    assert!(refused["detail"].as_str().unwrap().contains("20000"), "{refused}");
    assert_eq!(scim.members(&group).await, ["m-0"]);
    let shown = scim.patch(&format!("{path}?attributes=displayName"), many(20_000, "remove")).await.is(200);
    assert_eq!((&shown["displayName"], scim.members(&group).await.len()), (&json!("blue"), 0));

    // A user's body may be a sixteenth as large: the shortest operations there are.
    let path = format!("/Users/{}", scim.user("ann").await);
    scim.patch(&path, json!([{ "op": "add", "path": "title", "value": "Dr." }])).await.is(200);
    let short = |count: usize| -> Value { (0..count).map(|_| json!({ "op": "remove", "path": "title" })).collect() };
    scim.patch(&path, short(20_001)).await.is(413);
    assert_eq!(scim.get(&path).await["title"], "Dr.");
    let changed = scim.patch(&path, short(20_000)).await.is(200);
    assert_eq!((changed.get("title"), &changed["meta"]["version"]), (None, &json!("W/\"3\"")));
}

async fn a_bulk_request_of_too_many_operations_is_refused_whole(scim: &Scim) {
    assert_eq!(bulk::MOST_OPERATIONS, 1_000, "what the guide says");
    let announced = scim.get("/ServiceProviderConfig").await["bulk"].clone();
    assert_eq!((&announced["maxOperations"], &announced["maxPayloadSize"]), (&json!(1_000), &json!(bulk::LARGEST)));
    let people = |count: usize| {
        let one = |number| {
            let data = json!({ "schemas": [USER], "userName": format!("p{number}") });
            json!({ "method": "POST", "path": "/Users", "bulkId": format!("b{number}"), "data": data })
        };
        let operations: Value = (0..count).map(one).collect();
        json!({ "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"], "Operations": operations })
    };
    let refused = scim.call("POST", "/Bulk", people(1_001)).await.is(413);
    assert!(refused["detail"].as_str().unwrap().contains("1000"), "{refused}");
    assert_eq!(scim.get("/Users?count=0").await["totalResults"], 0, "nothing of it is done");
    let nobody: Value = (0..1_000).map(|at| json!({ "method": "DELETE", "path": format!("/Users/{at}") })).collect();
    let done = scim.call("POST", "/Bulk", json!({ "Operations": nobody })).await.is(200);
    let reports = done["Operations"].as_array().unwrap();
    assert_eq!(reports.iter().filter(|report| report["status"] == "404").count(), 1_000, "as many are each done");

    let padded = vec![b' '; bulk::LARGEST + 1];
    let headers = [("authorization", "Bearer token *:*"), ("content-type", "application/scim+json")];
    assert_eq!(scim.send("POST", "/Bulk", &headers, Some(padded)).await.status, 413);
}

async fn a_filter_beyond_its_limits_is_refused_and_one_at_them_is_understood(scim: &Scim) {
    assert_eq!((filter::LONGEST, filter::MOST_TERMS, filter::DEEPEST), (8192, 100, 32), "what the guide says");
    scim.user("ann").await;
    let long = |length: usize| {
        let frame = "userName eq \"\"".len();
        format!("userName eq \"{}\"", "a".repeat(length - frame))
    };
    let wide = |terms: usize| vec!["userName eq \"ann\""; terms].join(" or ");
    // The filter itself is the first level.
    let deep = |levels: usize| format!("{}userName eq \"ann\"{}", "(".repeat(levels - 1), ")".repeat(levels - 1));
    for (allowed, found) in [(long(8192), 0), (wide(100), 1), (deep(32), 1)] {
        assert_eq!(scim.filter("Users", &allowed).await.is(200)["totalResults"], found);
    }
    let bracketed = format!("emails[{}type pr{}]", "(".repeat(32), ")".repeat(32));
    for (refused, why) in [
        (long(8193), "longer than 8192 bytes"),
        (wide(101), "too many comparisons"),
        (deep(33), "nested too deeply"),
        (deep(4000), "nested too deeply"),
        (bracketed, "nested too deeply"),
    ] {
        let by_get = scim.filter("Users", &refused).await.is(400);
        let by_search = scim.call("POST", "/Users/.search", json!({ "filter": refused })).await.is(400);
        for answer in [by_get, by_search] {
            assert_eq!(answer["scimType"], "invalidFilter");
            assert!(answer["detail"].as_str().unwrap().contains(why), "{answer}");
            assert!(answer.get("Resources").is_none());
        }
    }
    let path = format!("emails[value eq \"{}\"].type", "a".repeat(8192));
    let user = scim.user("bob").await;
    let operation = json!([{ "op": "replace", "path": path, "value": "work" }]);
    let refused = scim.patch(&format!("/Users/{user}"), operation).await.is(400);
    assert_eq!(refused["scimType"], "invalidPath");
}

/// Where each name is compared with every other, this does not end while anybody waits.
async fn a_body_of_very_many_names_is_answered(scim: &Scim) {
    let mut body = json!({ "schemas": [GROUP], "displayName": "blue" });
    body.as_object_mut().unwrap().extend((0..200_000).map(|number| (format!("k{number}"), json!(1))));
    let group = id(&scim.call("POST", "/Groups", body.clone()).await.is(201));
    let path = format!("/Groups/{group}");
    scim.call("PUT", &path, body.clone()).await.is(200);
    body["DISPLAYNAME"] = json!("red");
    let refused = scim.call("PUT", &path, body).await.is(400);
    assert_eq!(refused["scimType"], "invalidSyntax", "the last is still compared with the first");
}

async fn an_attribute_has_a_thousand_values_at_most(scim: &Scim) {
    assert_eq!(document::MOST_VALUES, 1_000, "what the guide says");
    let roles = |from: usize, to: usize| -> Value { (from..to).map(|number| json!(number.to_string())).collect() };
    let with = |name: &str, count: usize| json!({ "schemas": [USER], "userName": name, "roles": roles(0, count) });
    let is_refused = |answer: super::Answer| {
        let refused = answer.is(400);
        assert_eq!(refused["scimType"], "invalidValue");
        assert_eq!(refused["detail"], "roles must not have more than 1000 values");
    };
    for count in [1_001, 100_000] {
        is_refused(scim.call("POST", "/Users", with("bob", count)).await);
    }
    let ann = scim.call("POST", "/Users", with("ann", 1_000)).await.is(201);
    assert_eq!(ann["roles"].as_array().unwrap().len(), 1_000);
    let path = format!("/Users/{}", id(&ann));
    let add = |value: Value| json!({ "op": "add", "path": "roles", "value": value });
    is_refused(scim.call("PUT", &path, with("ann", 1_001)).await);
    is_refused(scim.patch(&path, json!([add(roles(1_000, 1_001))])).await);
    is_refused(scim.patch(&path, json!([{ "op": "add", "value": { "roles": roles(1_000, 1_001) } }])).await);
    is_refused(
        scim.patch(&path, json!([{ "op": "add", "path": "roles[value eq \"new\"].display", "value": "New" }])).await,
    );
    let each: Value = (0..20_000).map(|number| add(json!(number.to_string()))).collect();
    is_refused(scim.patch(&path, each).await);
    assert_eq!(scim.get(&path).await, ann, "nothing of it is done");
    scim.patch(&path, json!([add(roles(0, 1_000))])).await.is(200);

    // Very many operations, each with all values in sight.
    let turn = |number: usize| {
        let value = json!([{ "value": (number / 2 % 1_000).to_string() }]);
        json!({ "op": if number.is_multiple_of(2) { "remove" } else { "add" }, "path": "roles", "value": value })
    };
    let changed = scim.patch(&path, (0..10_000).map(turn).collect()).await.is(200);
    assert_eq!((&changed["roles"], &changed["meta"]["version"]), (&ann["roles"], &json!("W/\"1\"")));
    let fewer = json!([{ "op": "remove", "path": "roles", "value": roles(1, 1_000) }]);
    assert_eq!(scim.patch(&path, fewer).await.is(200)["roles"], json!([{ "value": "0" }]));
}

/// As an usher without that limit left them.
async fn who_has_more_values_from_before_may_keep_them(scim: &Scim) {
    let ann = scim.user("ann").await;
    let resources = Resources::new(scim.store.clone(), "acme");
    let many = |before: &Resource| {
        let mut document = before.document.clone();
        let roles = (0..1_500).map(|number| json!({ "value": number.to_string() })).collect();
        document.insert("roles".to_owned(), roles);
        Ok(Change { document, members: Vec::new() })
    };
    resources.change((Kind::User, &ann), (Wanted::Nothing, 1), &many).await.unwrap();
    let path = format!("/Users/{ann}");
    let roles_after = async |op: &str, path_of: &str, value: Value| {
        let answer = scim.patch(&path, json!([{ "op": op, "path": path_of, "value": value }])).await;
        (answer.status, answer.body["roles"].as_array().map(Vec::len))
    };
    assert_eq!(roles_after("replace", "title", json!("Dr")).await, (200, Some(1_500)));
    assert_eq!(roles_after("add", "roles", json!("7")).await, (200, Some(1_500)), "that is there");
    assert_eq!(roles_after("add", "roles", json!("new")).await, (400, None));
    assert_eq!(roles_after("remove", "roles", json!("7")).await, (200, Some(1_499)));
    assert_eq!(roles_after("replace", "roles", json!(["new"])).await, (200, Some(1)));
}

async fn members_are_looked_through_a_few_times_at_most(scim: &Scim) {
    assert_eq!(patch::MOST_LOOKS, 10, "what the guide says");
    let ann = scim.user("ann").await;
    let path = format!("/Groups/{}", scim.group("blue", &[&ann, "stranger"]).await);
    let looks = |count: usize| -> Value {
        (0..count).map(|_| json!({ "op": "remove", "path": "members[type eq \"User\"]" })).collect()
    };
    let refused = scim.patch(&path, looks(11)).await.is(413);
    assert!(refused["detail"].as_str().unwrap().contains("more than 10 operations"), "{refused}");
    let left = scim.patch(&path, looks(10)).await.is(200);
    assert_eq!(left["members"], json!([{ "value": "stranger" }]));
}
