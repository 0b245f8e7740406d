//! The protocol itself: media types, entity tags, bulk, bodies that are too much, people who come back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use usher::ids::{Localpart, StableId};

use super::{ENTERPRISE, GROUP, Scim, USER, id, on_both};
use crate::stores::Database;

on_both! {
    versions_are_checked_and_unchanged_things_keep_theirs
    bulk_resolves_references_and_reports_each_operation
    what_the_server_says_of_itself_is_not_filtered
    who_comes_back_gets_the_name_again
    deleting_somebody_takes_them_out_of_groups
    members_who_do_not_exist_are_kept_as_given
    a_member_is_replaced_by_itself_alone
    what_is_advertised_is_kept_without_loss
    the_kind_of_a_member_is_the_servers_to_say
    bodies_that_are_too_much_or_nothing_are_refused
    what_somebody_else_has_is_refused_by_name
    what_usher_does_not_know_is_ignored_or_refused_as_the_guide_says
}

async fn versions_are_checked_and_unchanged_things_keep_theirs(scim: &Scim) {
    let path = format!("/Users/{}", scim.user("ann").await);
    let bearer = ("authorization", "Bearer token *:*");
    let fresh = scim.send("GET", &path, &[bearer, ("if-none-match", "W/\"1\"")], None).await;
    assert_eq!((fresh.status, fresh.header("etag")), (304, "W/\"1\""));
    let same = scim.patch(&path, json!([{ "op": "replace", "path": "userName", "value": "ann" }])).await;
    assert_eq!(same.header("etag"), "W/\"1\"", "nothing changed");
    scim.patch(&path, json!([{ "op": "add", "path": "title", "value": "Dr" }])).await.is(200);
    let body = json!({ "schemas": [USER], "userName": "ann" }).to_string().into_bytes();
    for method in ["PUT", "PATCH", "DELETE"] {
        let body = if method == "PATCH" {
            json!({ "Operations": [{ "op": "remove", "path": "title" }] }).to_string().into_bytes()
        } else {
            body.clone()
        };
        let stale = scim.send(method, &path, &[bearer, ("if-match", "W/\"1\"")], Some(body)).await;
        assert_eq!(stale.status, 412, "{method}");
    }
    let current = scim.send("DELETE", &path, &[bearer, ("if-match", "\"2\"")], None).await;
    assert_eq!(current.status, 204);
}

async fn bulk_resolves_references_and_reports_each_operation(scim: &Scim) {
    let body = json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
        "Operations": [
            { "method": "POST", "path": "/Groups", "bulkId": "g",
              "data": { "schemas": [GROUP], "displayName": "blue", "members": [{ "value": "bulkId:a" }] } },
            { "method": "POST", "path": "/Users", "bulkId": "a", "data": { "schemas": [USER], "userName": "ann" } },
            { "method": "POST", "path": "/Users", "bulkId": "b", "data": { "schemas": [USER], "userName": "ANN" } },
            { "method": "PATCH", "path": "/Groups/bulkId:g",
              "data": { "Operations": [{ "op": "replace", "path": "displayName", "value": "navy" }] } },
            { "method": "POST", "path": "/Groups", "bulkId": "c1",
              "data": { "schemas": [GROUP], "displayName": "c1", "members": [{ "value": "bulkId:c2" }] } },
            { "method": "POST", "path": "/Groups", "bulkId": "c2",
              "data": { "schemas": [GROUP], "displayName": "c2", "members": [{ "value": "bulkId:c1" }] } },
            { "method": "DELETE", "path": "/Users/nobody" },
            { "method": "GET", "path": "/Users" },
        ],
    });
    let done = scim.call("POST", "/Bulk", body).await.is(200);
    let reports = done["Operations"].as_array().unwrap();
    let statuses: Vec<&str> = reports.iter().map(|report| report["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["201", "201", "409", "200", "409", "409", "404", "400"]);
    assert_eq!(reports[2]["response"]["scimType"], "uniqueness");
    let group = scim.call("GET", reports[0]["location"].as_str().unwrap(), Value::Null).await.is(200);
    assert_eq!(group["displayName"], "navy");
    assert!(reports[1]["location"].as_str().unwrap().ends_with(group["members"][0]["value"].as_str().unwrap()));
    // All but a POST that failed say what they were about (RFC 7644 section 3.7.3).
    let with_location: Vec<bool> = reports.iter().map(|report| report["location"].is_string()).collect();
    assert_eq!(with_location, [true, true, false, true, false, false, true, false]);
    let fails = json!({ "failOnErrors": 1, "Operations": [
        { "method": "DELETE", "path": "/Users/nobody" }, { "method": "DELETE", "path": "/Users/nobody" }] });
    let done = scim.call("POST", "/Bulk", fails).await.is(200);
    assert_eq!(done["Operations"].as_array().unwrap().len(), 1);
}

async fn what_the_server_says_of_itself_is_not_filtered(scim: &Scim) {
    for path in ["/Schemas", "/ResourceTypes", "/ServiceProviderConfig", "/ResourceTypes/User"] {
        scim.get(path).await;
        scim.call("GET", &format!("{path}?filter=id%20eq%20%22x%22"), Value::Null).await.is(403);
    }
}

/// Whom the loop is told of: localpart, stable id, whether they are there or ordered out.
async fn told(scim: &Scim) -> Vec<(String, String, bool)> {
    let resources = usher::store::scim::Resources::new(scim.store.clone(), "acme");
    let provisioned = resources.provisioned(&mut usher::store::scim::Known::default()).await.unwrap();
    assert!(provisioned.users.iter().all(|user| user.enabled));
    let here = provisioned.users.iter().map(|user| (user.localpart.clone(), user.id.clone(), true));
    let out = provisioned.departed.into_iter().map(|person| (person.localpart, person.id, false));
    let text = |(name, id, here): (Localpart, StableId, bool)| (name.as_str().to_owned(), id.to_string(), here);
    out.chain(here).map(text).collect()
}

async fn who_comes_back_gets_the_name_again(scim: &Scim) {
    let first = scim.user("ann").await;
    scim.patch(&format!("/Users/{first}"), json!([{ "op": "replace", "path": "userName", "value": "ann-new" }]))
        .await
        .is(200);
    let before = told(scim).await;
    assert_eq!(before, [("ann".to_owned(), first.clone(), true)], "the name stays as it was first");
    assert_eq!(scim.call("DELETE", &format!("/Users/{first}"), Value::Null).await.status, 204);
    scim.call("GET", &format!("/Users/{first}"), Value::Null).await.is(404);
    assert_eq!(told(scim).await, [("ann".to_owned(), first.clone(), false)], "a deletion is told as an order");
    let body = json!({ "schemas": [USER], "userName": "ann-married", "externalId": "x-ann" });
    let second = id(&scim.call("POST", "/Users", body).await.is(201));
    assert_ne!(second, first, "ids are not used twice");
    assert_eq!(told(scim).await, [("ann".to_owned(), first, true)], "the same person, the same name");

    let other = scim.user("bob").await;
    scim.call("DELETE", &format!("/Users/{other}"), Value::Null).await.is(204);
    let body = json!({ "schemas": [USER], "userName": "bob", "externalId": "x-another" });
    let namesake = id(&scim.call("POST", "/Users", body).await.is(201));
    let bobs: Vec<_> = told(scim).await.into_iter().filter(|(name, _, _)| name == "bob").collect();
    assert_eq!(
        bobs,
        [("bob".to_owned(), other, false), ("bob".to_owned(), namesake, true)],
        "a namesake is somebody else"
    );
}

async fn deleting_somebody_takes_them_out_of_groups(scim: &Scim) {
    let ann = scim.user("ann").await;
    let inner = scim.group("inner", &[&ann]).await;
    let outer = scim.group("outer", &[&inner, &ann]).await;
    let shown = scim.get(&format!("/Groups/{outer}")).await;
    let mut kinds: Vec<&str> =
        shown["members"].as_array().unwrap().iter().map(|member| member["type"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["Group", "User"]);
    assert_eq!(scim.get(&format!("/Users/{ann}")).await["groups"].as_array().unwrap().len(), 2);
    scim.call("DELETE", &format!("/Users/{ann}"), Value::Null).await.is(204);
    assert_eq!(scim.members(&outer).await, [inner.as_str()]);
    assert_eq!(scim.get(&format!("/Groups/{inner}")).await["meta"]["version"], "W/\"2\"");
    scim.call("DELETE", &format!("/Groups/{inner}"), Value::Null).await.is(204);
    assert_eq!(scim.members(&outer).await, [""; 0]);
}

async fn members_who_do_not_exist_are_kept_as_given(scim: &Scim) {
    let group = scim.group("blue", &["stranger"]).await;
    let path = format!("/Groups/{group}");
    assert_eq!(scim.get(&path).await["members"], json!([{ "value": "stranger" }]));
    let resources = usher::store::scim::Resources::new(scim.store.clone(), "acme");
    let provisioned = resources.provisioned(&mut usher::store::scim::Known::default()).await.unwrap();
    assert!(provisioned.groups[0].members.is_empty(), "and stand for nobody");
    assert_eq!(provisioned.dangling, [(0, 1)].into());
    let typed = json!([{ "op": "remove", "path": "members[type eq \"User\"]" }]);
    scim.patch(&path, typed).await.is(200);
    assert_eq!(scim.members(&group).await, ["stranger"], "it has no type");
    scim.patch(&path, json!([{ "op": "remove", "path": "members[value eq \"stranger\"]" }])).await.is(200);
    assert_eq!(scim.members(&group).await, [""; 0]);
}

/// A member's id is immutable (RFC 7643 section 4.2), and a filter that fits nobody is no target (RFC 7644 section 3.5.2.3).
async fn a_member_is_replaced_by_itself_alone(scim: &Scim) {
    let (ann, bob) = (scim.user("ann").await, scim.user("bob").await);
    let inner = scim.group("inner", &[]).await;
    let group = scim.group("blue", &[&ann, "stranger"]).await;
    let path = format!("/Groups/{group}");
    let by_id = |id: &str| format!("members[value eq \"{id}\"]");
    let typed = "members[type eq \"User\"]".to_owned();
    let either = format!("members[value eq \"{ann}\" or value eq \"{bob}\" or value eq \"{ann}\"]");
    for op in ["replace", "Add"] {
        for (path_of, value, answer) in [
            (by_id(&bob), json!({ "value": bob }), "noTarget"),
            (by_id(&bob), json!({ "value": ann }), "noTarget"),
            (by_id(&bob), json!(null), "invalidValue"),
            (by_id("\\u0000"), json!({ "value": bob }), "noTarget"),
            ("members[type eq \"Group\"]".to_owned(), json!({ "value": inner }), "noTarget"),
            (by_id(&ann), json!({ "value": bob }), "mutability"),
            (format!("{}.value", by_id(&ann)), json!(bob), "mutability"),
            ("members[value ne \"nobody\"]".to_owned(), json!({ "value": ann }), "mutability"),
            (by_id(&ann), json!(null), "invalidValue"),
            (by_id(&ann), json!([{ "value": ann }, { "value": bob }]), "invalidValue"),
            (by_id(&ann), json!({ "value": ann, "type": "Group", "display": "Ann" }), ""),
            (by_id(&ann), json!([ann]), ""),
            (format!("{}.value", by_id(&ann)), json!(ann), ""),
            (typed.clone(), json!({ "value": ann }), ""),
            (either.clone(), json!({ "value": ann }), ""),
        ] {
            let done = scim.patch(&path, json!([{ "op": op, "path": path_of, "value": value }])).await;
            assert_eq!(done.status, if answer.is_empty() { 200 } else { 400 }, "{op} {path_of} {value}: {}", done.body);
            assert_eq!(done.body["scimType"].as_str().unwrap_or_default(), answer, "{op} {path_of} {value}");
            let now = scim.get(&path).await;
            assert_eq!((now["members"].as_array().unwrap().len(), &now["meta"]["version"]), (2, &json!("W/\"1\"")));
        }
    }
    // As things stand in the middle of a request.
    let add = json!({ "op": "add", "path": "members", "value": [{ "value": bob }] });
    let remove = json!({ "op": "remove", "path": by_id(&bob) });
    let keep = json!({ "op": "replace", "path": by_id(&bob), "value": { "value": bob } });
    let keep_typed = json!({ "op": "replace", "path": typed, "value": { "value": bob } });
    let clear = json!({ "op": "remove", "path": "members" });
    for (operations, status) in [
        (json!([add, remove, keep]), 400),
        (json!([add, clear, keep]), 400),
        (json!([add, keep_typed]), 400),
        (json!([clear, add, keep_typed]), 200),
        (json!([remove, keep]), 400),
        (json!([remove, add, keep]), 200),
    ] {
        scim.patch(&path, operations.clone()).await.is(status);
    }
    assert_eq!(scim.members(&group).await, [bob]);
}

/// A value for an attribute, with all that a client may write of it.
fn sample(attribute: &Value) -> Value {
    let name = attribute["name"].as_str().unwrap();
    let one = match attribute["type"].as_str().unwrap() {
        "boolean" => json!(true),
        "complex" => samples(&attribute["subAttributes"]).into(),
        _ => json!(format!("{name} Ä \u{1f600} \"'")),
    };
    if attribute["multiValued"] == true { json!([one]) } else { one }
}

fn samples(attributes: &Value) -> serde_json::Map<String, Value> {
    let all = attributes.as_array().unwrap().iter();
    let writable = all.filter(|attribute| attribute["mutability"] != "readOnly");
    writable.map(|attribute| (attribute["name"].as_str().unwrap().to_owned(), sample(attribute))).collect()
}

async fn what_is_advertised_is_kept_without_loss(scim: &Scim) {
    let schemas = scim.get("/Schemas").await;
    let mut user = json!({ "schemas": [USER, ENTERPRISE] });
    let mut group = json!({ "schemas": [GROUP] });
    for schema in schemas["Resources"].as_array().unwrap() {
        let values = samples(&schema["attributes"]);
        match schema["id"].as_str().unwrap() {
            USER => user.as_object_mut().unwrap().extend(values),
            ENTERPRISE => user[ENTERPRISE] = values.into(),
            GROUP => group.as_object_mut().unwrap().extend(values),
            other => panic!("{other} is advertised and not looked at"),
        }
    }
    assert!(user.as_object().unwrap().len() >= 20);
    assert_eq!(group["members"], json!([{ "value": "value Ä \u{1f600} \"'" }]), "the rest is the server's to say");
    for (endpoint, body) in [("Users", user), ("Groups", group)] {
        let made = scim.call("POST", &format!("/{endpoint}"), body.clone()).await.is(201);
        let path = format!("/{endpoint}/{}", id(&made));
        let mut read = scim.get(&path).await;
        for server in ["id", "meta"] {
            read.as_object_mut().unwrap().remove(server);
        }
        assert_eq!(read, body);
        // Clients send back what they read, and something else of what is not theirs to say.
        let mut put = made.clone();
        if endpoint == "Groups" {
            put["members"][0]["type"] = json!("User");
            put["members"][0]["$ref"] = json!("https://elsewhere.example/Users/1");
        }
        assert_eq!(scim.call("PUT", &path, put).await.is(200), made, "nothing changes");
    }
}

/// Of a member the client says the id; the rest is so, whatever it says.
async fn the_kind_of_a_member_is_the_servers_to_say(scim: &Scim) {
    let (ann, inner) = (scim.user("ann").await, scim.group("inner", &[]).await);
    let lie = |id: &str, kind: &str| json!({ "value": id, "type": kind, "$ref": "https://elsewhere.example/x" });
    let body =
        json!({ "schemas": [GROUP], "displayName": "blue", "members": [lie(&ann, "Group"), lie(&inner, "User")] });
    let made = scim.call("POST", "/Groups", body).await.is(201);
    for (id, kind) in [(&ann, "User"), (&inner, "Group")] {
        let url = format!("{}/{kind}s/{id}", scim.base);
        assert!(made["members"].as_array().unwrap().contains(&json!({ "value": id, "type": kind, "$ref": url })));
        let told = json!([{ "op": "replace", "path": format!("members[value eq \"{id}\"].type"), "value": kind }]);
        let refused = scim.patch(&format!("/Groups/{}", super::id(&made)), told).await.is(400);
        assert_eq!(refused["scimType"], "mutability");
    }
}

async fn what_somebody_else_has_is_refused_by_name(scim: &Scim) {
    scim.user("ann").await;
    let bob = scim.user("bob").await;
    let cat = scim.user("cat").await;
    let rename = json!([{ "op": "replace", "path": "userName", "value": "dog" }]);
    scim.patch(&format!("/Users/{cat}"), rename).await.is(200);
    let user =
        |name: &str, external_id: &str| json!({ "schemas": [USER], "userName": name, "externalId": external_id });
    for (body, detail) in [
        (user("DOG", "new"), "userName is taken"),
        (user("new", "x-ann"), "externalId is taken"),
        (user("cat", "new"), "the Matrix name that is made of the mapped attribute is taken"),
    ] {
        let refused = scim.call("POST", "/Users", body).await.is(409);
        assert_eq!((&refused["scimType"], &refused["detail"]), (&json!("uniqueness"), &json!(detail)));
    }
    let path = format!("/Users/{bob}");
    for (path_of, value) in [("userName", "Ann"), ("externalId", "x-ann")] {
        let operation = json!([{ "op": "replace", "path": path_of, "value": value }]);
        let refused = scim.patch(&path, operation).await.is(409);
        assert_eq!(refused["detail"], format!("{path_of} is taken"));
    }
    let put = scim.call("PUT", &path, user("bob", "x-ann")).await.is(409);
    assert_eq!(put["detail"], "externalId is taken");
    let kept = scim.get(&path).await;
    assert_eq!(
        (&kept["userName"], &kept["externalId"], &kept["meta"]["version"]),
        (&json!("bob"), &json!("x-bob"), &json!("W/\"1\""))
    );
}

async fn what_usher_does_not_know_is_ignored_or_refused_as_the_guide_says(scim: &Scim) {
    let own = "urn:ietf:params:scim:schemas:extension:acme:2.0:User";
    let body = json!({
        "schemas": [USER, own], "userName": "ann", "badge": "7", own: { "badge": "7" }, "name": { "givenName": "Ann", "nickname": "A" },
    });
    let made = scim.call("POST", "/Users", body.clone()).await.is(201);
    assert_eq!((&made["schemas"], &made["name"]), (&json!([USER]), &json!({ "givenName": "Ann" })));
    assert!(!made.to_string().contains("badge"), "{made}");
    let path = format!("/Users/{}", id(&made));
    assert_eq!(scim.call("PUT", &path, body.clone()).await.is(200), made);
    assert_eq!(scim.patch(&path, json!([{ "op": "add", "value": body }])).await.is(200), made);
    let with_path = |path_of: &str| {
        let known = json!({ "op": "replace", "path": "title", "value": "Dr" });
        json!([known, { "op": "replace", "path": path_of, "value": "7" }, { "op": "remove", "path": "title" }])
    };
    for ignored in [format!("{own}:badge"), own.to_owned(), "urn:other:x[a eq \"b\"].c".to_owned()] {
        assert_eq!(scim.patch(&path, with_path(&ignored)).await.is(200)["name"], made["name"], "{ignored}");
    }
    let before = scim.get(&path).await;
    for refused in
        ["badge".to_owned(), "name.nickname".to_owned(), format!("{USER}:badge"), format!("{ENTERPRISE}:badge")]
    {
        assert_eq!(scim.patch(&path, with_path(&refused)).await.is(400)["scimType"], "invalidPath", "{refused}");
        assert_eq!(scim.get(&path).await, before, "{refused}");
    }
    assert_eq!(scim.filter("Users", "badge pr").await.is(400)["scimType"], "invalidFilter");
    assert_eq!(scim.call("GET", "/Users?sortBy=badge", Value::Null).await.is(400)["scimType"], "invalidPath");
    assert_eq!(scim.get(&format!("{path}?excludedAttributes=badge")).await, before);
}

async fn bodies_that_are_too_much_or_nothing_are_refused(scim: &Scim) {
    let send = async |kind: &str, body: Vec<u8>| {
        let headers = [("authorization", "Bearer token *:*"), ("content-type", kind)];
        let answer = scim.send("POST", "/Users", &headers, Some(body)).await;
        assert_eq!(answer.header("content-type"), "application/scim+json");
        (answer.status, answer.body["scimType"].as_str().unwrap_or_default().to_owned())
    };
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100)).into_bytes();
    assert_eq!(send("application/scim+json", b"{".to_vec()).await, (400, "invalidSyntax".to_owned()));
    assert_eq!(send("application/json; charset=utf-8", b"[]".to_vec()).await, (400, "invalidSyntax".to_owned()));
    assert_eq!(send("application/json", deep).await, (400, "invalidSyntax".to_owned()));
    assert_eq!(send("text/xml", b"<a/>".to_vec()).await.0, 415);
    assert_eq!(send("application/json", vec![b' '; 1024 * 1024 + 1]).await.0, 413);
    let answer =
        scim.send("PATCH", "/Users/nobody", &[("authorization", "Bearer token *:*")], Some(b"{".to_vec())).await;
    assert_eq!(answer.status, 404, "that it is not there comes first");
    let control = json!({ "schemas": [USER], "userName": "a\u{0}b" });
    scim.call("POST", "/Users", control).await.is(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_name_is_made_of_the_mapped_attribute() {
    let database = Database::sqlite();
    let scim = Scim::with(&database, "employeeNumber", false).await;
    let refused = scim.call("POST", "/Users", json!({ "schemas": [USER], "userName": "ann" })).await.is(400);
    assert_eq!(refused["scimType"], "invalidValue");
    assert!(refused["detail"].as_str().unwrap().contains("employeeNumber"));
    let body = json!({ "schemas": [USER, ENTERPRISE], "userName": "ann", ENTERPRISE: { "employeeNumber": "E 7" } });
    scim.call("POST", "/Users", body.clone()).await.is(201);
    assert_eq!(told(&scim).await[0].0, "e=207");
    let mut twin = body;
    twin["userName"] = json!("bob");
    assert_eq!(scim.call("POST", "/Users", twin).await.is(409)["scimType"], "uniqueness");

    let database = Database::sqlite();
    let scim = Scim::with(&database, "userName", true).await;
    scim.user("Ann@example.com").await;
    assert_eq!(told(&scim).await[0].0, "ann");
}
