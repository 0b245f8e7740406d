//! What is too much, really sent: one more than is allowed is refused whole, and as much as is allowed is done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use usher::scim::{bulk, filter, patch};

use super::{Scim, USER, on_both};

on_both! {
    a_patch_of_too_many_operations_is_refused_whole
    a_bulk_request_of_too_many_operations_is_refused_whole
    a_filter_beyond_its_limits_is_refused_and_one_at_them_is_understood
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
