//! What identity providers send, form by form, each test named after its client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use super::{ENTERPRISE, GROUP, SEARCH, Scim, USER, id, on_both};

on_both! {
    entra_id_tests_the_connection
    entra_id_creates_and_matches_users
    entra_id_changes_users
    entra_id_with_its_feature_flag
    entra_id_makes_and_reads_groups
    entra_id_removes_members_by_a_list
    entra_id_checks_references
    entra_id_restores_somebody_without_sending_memberships_again
    entra_id_without_a_token_sends_its_own_and_is_refused
    entra_ids_validator_changes_several_types_at_once
    okta_eight_steps
    okta_puts_whole_users_and_pushes_groups
    authentik_sends_one_operation_a_member
    keycloak_and_others_are_never_answered_with_everybody
    authentik_looks_for_what_is_taken
    one_login_sends_nulls_and_offsets
    jump_cloud_and_google_send_a_few_attributes_by_put_and_by_patch
}

async fn entra_id_tests_the_connection(scim: &Scim) {
    let found = scim.filter("Users", r#"userName eq "f0a6c9d1-0000-4000-8000-000000000000""#).await.is(200);
    assert_eq!((&found["totalResults"], &found["Resources"]), (&json!(0), &json!([])));
}

async fn entra_id_creates_and_matches_users(scim: &Scim) {
    let body = json!({
        "schemas": [USER, "urn:ietf:params:scim:schemas:extension:enterprise:2.0User"],
        "externalId": "jyoung", "userName": "jy@example.com", "active": true, "addresses": null, "displayName": "Joy Young",
        "emails": [{ "type": "work", "value": "jy@example.com", "primary": true }],
        "meta": { "resourceType": "User" }, "name": { "familyName": "Young", "givenName": "Joy" },
        "phoneNumbers": null, "preferredLanguage": null, "title": null, "department": null, "manager": null, "roles": [],
    });
    let made = scim.call("POST", "/Users", body.clone()).await;
    let location = made.header("location").to_owned();
    assert_eq!(made.header("content-type"), "application/scim+json");
    assert_eq!(made.header("etag"), "W/\"1\"");
    let made = made.is(201);
    assert_eq!(made["meta"]["location"], location.as_str());
    assert_eq!(made["schemas"], json!([USER]));
    for filter in [
        r#"userName eq "JY@example.com""#,
        "externalId eq jyoung",
        r#"emails[type eq "work"].value eq "jy@example.com""#,
        r#"emails[type eq "work" and primary eq true].value eq "jy@example.com""#,
        r#"externalId eq "jyoung" and active eq "True""#,
    ] {
        let found = scim.filter("Users", filter).await.is(200);
        assert_eq!(found["totalResults"], 1, "{filter}");
        assert_eq!(found["Resources"][0]["id"], made["id"]);
    }
    let again = scim.call("POST", "/Users", body).await.is(409);
    assert_eq!(again["scimType"], "uniqueness");
    assert!(!again.to_string().contains("jy@"), "no address is echoed");
}

async fn entra_id_changes_users(scim: &Scim) {
    let path = format!("/Users/{}", scim.user("ann").await);
    let changed = scim
        .patch(
            &path,
            json!([
                { "op": "Replace", "path": "displayName", "value": "Ann" },
                { "op": "Add", "path": "emails[type eq \"work\"].value", "value": "ann@example.com" },
                { "op": "Replace", "path": "phoneNumbers[type eq \"mobile\"].value", "value": "+1 555" },
                { "op": "Replace", "path": "addresses[type eq \"work\"].formatted", "value": "Street 1" },
                { "op": "Add", "path": format!("{ENTERPRISE}:department"), "value": "Sales" },
                { "op": "Add", "path": "manager", "value": [{ "$ref": null, "value": "m-1" }] },
                { "op": "Add", "path": "urn:example:extension:2.0:User:badge", "value": "7" },
            ]),
        )
        .await
        .is(200);
    assert_eq!(changed["emails"], json!([{ "type": "work", "value": "ann@example.com" }]));
    assert_eq!(changed[ENTERPRISE], json!({ "department": "Sales", "manager": { "value": "m-1" } }));
    assert_eq!(changed["schemas"], json!([USER, ENTERPRISE]));
    for (value, active) in
        [(json!("False"), false), (json!("True"), true), (json!(false), false), (json!("true"), true)]
    {
        let changed = scim.patch(&path, json!([{ "op": "Replace", "path": "active", "value": value }])).await.is(200);
        assert_eq!(changed["active"], active);
    }
}

async fn entra_id_with_its_feature_flag(scim: &Scim) {
    let ann = scim.user("ann").await;
    let group = scim.group("blue", &[&ann]).await;
    let value = json!({
        "displayName": "Ann N", "name.givenName": "Ann", "name.familyName": "N", "active": false,
        format!("{ENTERPRISE}:employeeNumber"): "7",
    });
    let path = format!("/Users/{ann}?aadOptscim062020");
    let changed = scim.patch(&path, json!([{ "op": "replace", "value": value }])).await.is(200);
    assert_eq!(changed["name"], json!({ "givenName": "Ann", "familyName": "N" }));
    assert_eq!((&changed["active"], &changed[ENTERPRISE]["employeeNumber"]), (&json!(false), &json!("7")));
    let path = format!("/Groups/{group}?aadOptscim062020");
    let removal = json!([{ "op": "remove", "path": format!("members[value eq \"{ann}\"]") }]);
    scim.patch(&path, removal).await.is(200);
    assert_eq!(scim.members(&group).await, [""; 0]);
}

async fn entra_id_makes_and_reads_groups(scim: &Scim) {
    let body = json!({
        "schemas": [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
        "externalId": "8aa1a0c0", "displayName": "Blue", "meta": { "resourceType": "Group" },
    });
    let made = scim.call("POST", "/Groups", body).await.is(201);
    let ann = scim.user("ann").await;
    let path = format!("/Groups/{}", id(&made));
    scim.patch(&path, json!([{ "op": "Add", "path": "members", "value": [{ "$ref": null, "value": ann }] }]))
        .await
        .is(200);
    let read = scim.get(&format!("{path}?excludedAttributes=members")).await;
    assert!(read.get("members").is_none() && read["displayName"] == "Blue");
    let url = reqwest::Url::parse_with_params(
        "http://x/",
        [("excludedAttributes", "members"), ("filter", r#"displayName eq "blue""#)],
    );
    let found = scim.get(&format!("/Groups?{}", url.unwrap().query().unwrap())).await;
    assert_eq!(found["totalResults"], 1);
    assert!(found["Resources"][0].get("members").is_none());
    scim.patch(&path, json!([{ "op": "Replace", "path": "displayName", "value": "Navy" }])).await.is(200);
    assert_eq!(scim.members(&id(&made)).await, [ann]);
    assert_eq!(scim.call("DELETE", &path, Value::Null).await.status, 204);
}

async fn entra_id_removes_members_by_a_list(scim: &Scim) {
    let (ann, bob) = (scim.user("ann").await, scim.user("bob").await);
    let group = scim.group("blue", &[&ann, &bob]).await;
    let path = format!("/Groups/{group}");
    let removal = |value: Value| json!([{ "op": "Remove", "path": "members", "value": value }]);
    scim.patch(&path, removal(json!([]))).await.is(200);
    assert_eq!(scim.members(&group).await.len(), 2, "an empty list names nobody");
    scim.patch(&path, removal(json!([{ "$ref": null, "value": ann }]))).await.is(200);
    assert_eq!(scim.members(&group).await, [bob], "nobody else is removed");
}

async fn entra_id_checks_references(scim: &Scim) {
    let ann = scim.user("ann").await;
    let group = scim.group("blue", &[&ann]).await;
    let boss = scim.user("boss").await;
    let manager = json!([{ "op": "Add", "path": format!("{ENTERPRISE}:manager"), "value": boss }]);
    scim.patch(&format!("/Users/{ann}"), manager).await.is(200);
    for (endpoint, filter, count) in [
        ("Groups", format!("id eq \"{group}\" and members eq \"{ann}\""), 1),
        ("Groups", format!("members eq \"{ann}\" and id eq \"{group}\""), 1),
        ("Groups", format!("id eq \"{group}\" and members eq \"{boss}\""), 0),
        ("Groups", format!("members[value eq \"{ann}\"]"), 1),
        ("Users", format!("id eq \"{ann}\" and manager eq \"{boss}\""), 1),
        ("Users", format!("manager eq \"{ann}\" and id eq \"{ann}\""), 0),
    ] {
        let query =
            reqwest::Url::parse_with_params("http://x/", [("attributes", "id"), ("filter", filter.as_str())]).unwrap();
        let found = scim.get(&format!("/{endpoint}?{}", query.query().unwrap())).await;
        assert_eq!(found["totalResults"], count, "{filter}");
        for found in found["Resources"].as_array().unwrap() {
            assert_eq!(found.as_object().unwrap().len(), 2, "id and schemas: {found}");
        }
    }
    let path = format!("/Users/{ann}");
    for manager in [json!({ "value": ann }), json!([{ "$ref": null, "value": ann }]), json!(ann)] {
        let changed =
            scim.patch(&path, json!([{ "op": "Replace", "path": "manager", "value": manager }])).await.is(200);
        assert_eq!(changed[ENTERPRISE]["manager"]["value"], ann.as_str(), "{manager}");
    }
    let none = scim.patch(&path, json!([{ "op": "Remove", "path": "manager" }])).await.is(200);
    assert!(none.get(ENTERPRISE).is_none(), "{none}");
}

/// Whoever is back from being unassigned gets no member operations: what was stays.
async fn entra_id_restores_somebody_without_sending_memberships_again(scim: &Scim) {
    let ann = scim.user("ann").await;
    let group = scim.group("blue", &[&ann]).await;
    let path = format!("/Users/{ann}");
    for (value, active) in [("False", false), ("True", true)] {
        let operation = json!([{ "op": "Replace", "path": "active", "value": value }]);
        let changed = scim.patch(&path, operation).await.is(200);
        assert_eq!((&changed["active"], &changed["groups"][0]["value"]), (&json!(active), &json!(group)));
        assert_eq!(scim.members(&group).await, [ann.as_str()]);
    }
    let found = scim.filter("Users", r#"userName eq "ann""#).await.is(200);
    assert_eq!(found["Resources"][0]["id"], ann.as_str(), "who is inactive is found");
}

/// A token signed by nobody, with the audience Entra ID gives to the ones it makes where its secret is left empty.
async fn entra_id_without_a_token_sends_its_own_and_is_refused(scim: &Scim) {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    let part = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let claims = json!({ "aud": "8adf8e6e-67b2-4cf2-a259-e3dc5476c621", "iss": "https://sts.windows.net/0/", "exp": 4_000_000_000_u64 });
    for signature in ["", "c2lnbmF0dXJl"] {
        let token =
            format!("Bearer {}.{}.{signature}", part(json!({ "typ": "JWT", "alg": "none" })), part(claims.clone()));
        let answer = scim.send("GET", "/Users", &[("authorization", &token)], None).await;
        assert_eq!((answer.status, &answer.body["Resources"]), (401, &Value::Null));
    }
}

async fn entra_ids_validator_changes_several_types_at_once(scim: &Scim) {
    let path = format!("/Users/{}", scim.user("ann").await);
    let operations = json!([
        { "op": "replace", "path": "emails[type eq \"work\"].value", "value": "work@x" },
        { "op": "replace", "path": "emails[type eq \"work\"].primary", "value": true },
        { "op": "add", "path": "emails[type eq \"home\"].value", "value": "home@x" },
        { "op": "add", "path": "emails[type eq \"home\"].display", "value": "At home" },
        { "op": "replace", "path": "phoneNumbers[type eq \"work\"].value", "value": "1" },
        { "op": "replace", "path": "phoneNumbers[type eq \"mobile\"].value", "value": "2" },
        { "op": "add", "path": "addresses[type eq \"other\"].locality", "value": "Ulm" },
        { "op": "replace", "path": "name.familyName", "value": "N" },
        { "op": "replace", "path": "nickName", "value": "Annie" },
        { "op": "add", "path": "roles[primary eq \"True\"].value", "value": "chief" },
    ]);
    let changed = scim.patch(&path, operations).await.is(200);
    let work = json!({ "type": "work", "value": "work@x", "primary": true });
    let home = json!({ "type": "home", "value": "home@x", "display": "At home" });
    assert_eq!(changed["emails"], json!([work, home]));
    let numbers = json!([{ "type": "work", "value": "1" }, { "type": "mobile", "value": "2" }]);
    assert_eq!(changed["phoneNumbers"], numbers);
    assert_eq!(changed["addresses"], json!([{ "type": "other", "locality": "Ulm" }]));
    assert_eq!((&changed["name"]["familyName"], &changed["nickName"]), (&json!("N"), &json!("Annie")));
    assert_eq!(changed["roles"], json!([{ "primary": true, "value": "chief" }]));
    let flipped = json!([{ "op": "replace", "path": "emails[type eq \"home\"].primary", "value": "True" }]);
    let emails = scim.patch(&path, flipped).await.is(200)["emails"].clone();
    let primary = |at: usize| emails[at].get("primary") == Some(&json!(true));
    assert_eq!((primary(0), primary(1)), (false, true), "one is primary: {emails}");
    for required in ["userName", "id", "meta"] {
        let refused = scim.patch(&path, json!([{ "op": "remove", "path": required }])).await.is(400);
        assert!(["mutability", "invalidValue"].contains(&refused["scimType"].as_str().unwrap()), "{refused}");
    }
}

/// A new user with everything that Okta's test looks for.
pub(super) async fn somebody(scim: &Scim, name: &str) -> String {
    let body = json!({
        "schemas": [USER], "userName": name, "active": true, "name": { "givenName": name, "familyName": "N" },
        "emails": [{ "primary": true, "value": format!("{name}@example.com"), "type": "work" }],
    });
    id(&scim.call("POST", "/Users", body).await.is(201))
}

/// The eight steps of Okta's published SCIM 2.0 test, with what each of them asserts.
pub(super) async fn okta_eight_steps(scim: &Scim) {
    scim.group("present", &[&somebody(scim, "present").await]).await;
    let list = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
    // 1. Users endpoint: a page of one.
    let page = scim.get("/Users?count=1&startIndex=1").await;
    assert!(page["Resources"].as_array().is_some_and(|all| all.len() == 1), "{page}");
    assert!(page["schemas"].as_array().unwrap().contains(&json!(list)));
    assert!(page["itemsPerPage"].is_i64() && page["startIndex"].is_i64() && page["totalResults"].is_i64());
    let filled = |user: &Value| {
        for at in ["/id", "/name/familyName", "/name/givenName", "/userName", "/active", "/emails/0/value"] {
            let value = user.pointer(at).unwrap_or(&Value::Null);
            assert!(!value.is_null() && value != "", "{at}: {user}");
        }
    };
    filled(&page["Resources"][0]);
    // 2. One user by its id.
    let first = id(&page["Resources"][0]);
    let user = scim.get(&format!("/Users/{first}")).await;
    assert_eq!(user["id"], first.as_str());
    filled(&user);
    // 3. Somebody who is not there.
    let invalid = scim.filter("Users", r#"userName eq "nobody@example.com""#).await.is(200);
    assert_eq!((&invalid["totalResults"], &invalid["schemas"]), (&json!(0), &json!([list])));
    // 4. An id that is not there: 404 with a reason.
    let missing = scim.call("GET", "/Users/00919288221112222", Value::Null).await.is(404);
    assert!(missing["detail"].is_string());
    assert_eq!(missing["schemas"], json!(["urn:ietf:params:scim:api:messages:2.0:Error"]));
    // 5. A new user.
    let body = json!({
        "schemas": [USER], "userName": "runscope300@example.com", "name": { "givenName": "R", "familyName": "S" },
        "emails": [{ "primary": true, "value": "runscope300@example.com", "type": "work" }], "displayName": "R S",
        "active": true, "groups": [], "locale": "en-US", "externalId": "00u1", "password": "1mz050nq",
    });
    let made = scim.call("POST", "/Users", body.clone()).await.is(201);
    assert_eq!(
        (&made["active"], &made["userName"], &made["name"]["familyName"]),
        (&json!(true), &body["userName"], &json!("S"))
    );
    assert!(made.get("password").is_none());
    // 6. Found again under its id.
    let new = format!("/Users/{}", id(&made));
    assert_eq!(scim.get(&new).await["userName"], body["userName"]);
    // 7. The same user a second time, and switched off without a path.
    assert_eq!(scim.call("POST", "/Users", body).await.status, 409);
    let off = scim.patch(&new, json!([{ "op": "replace", "value": { "active": false } }])).await.is(200);
    assert_eq!(off["active"], false);
    // 8. Groups.
    let groups = scim.get("/Groups?startIndex=1&count=100").await;
    assert!(groups["Resources"].as_array().is_some_and(|all| !all.is_empty()));
}

async fn okta_puts_whole_users_and_pushes_groups(scim: &Scim) {
    let ann = scim.user("ann").await;
    let path = format!("/Users/{ann}");
    let mut whole = scim.get(&path).await;
    whole["groups"] = json!([]);
    whole["active"] = json!(false);
    whole["title"] = json!("");
    whole["emails"] = json!([{ "value": "ann@x", "primary": true, "type": "work" }]);
    let put = scim.call("PUT", &path, whole).await.is(200);
    assert_eq!((&put["active"], &put["id"], put.get("title")), (&json!(false), &json!(ann), None));
    let silent = scim.call("PUT", &path, json!({ "schemas": [USER], "userName": "ann" })).await.is(200);
    assert_eq!(silent["active"], false, "saying nothing unlocks nobody");
    assert_eq!(scim.call("PUT", "/Users/nobody", json!({ "schemas": [USER], "userName": "x" })).await.status, 404);

    let bob = scim.user("bob").await;
    let group = scim
        .call("POST", "/Groups", json!({ "schemas": [GROUP], "displayName": "push", "members": null }))
        .await
        .is(201);
    let path = format!("/Groups/{}", id(&group));
    let operations = json!([
        { "op": "replace", "value": { "id": id(&group), "displayName": "Pushed" } },
        { "op": "remove", "path": format!("members[value eq \"{bob}\"]") },
        { "op": "add", "path": "members", "value": [{ "value": ann, "display": "ann" }] },
    ]);
    let changed = scim.patch(&path, operations).await.is(200);
    assert_eq!((&changed["displayName"], &changed["members"][0]["value"]), (&json!("Pushed"), &json!(ann)));
    let full = json!([{ "op": "replace", "path": "members", "value": [{ "value": bob }] }]);
    scim.patch(&path, full).await.is(200);
    assert_eq!(scim.members(&id(&group)).await, [bob.as_str()]);
    let body = json!({ "schemas": [GROUP], "displayName": "Renamed", "externalId": "g" });
    scim.call("PUT", &path, body).await.is(200);
    let body = json!({ "schemas": [GROUP], "displayName": "Renamed", "members": null });
    scim.call("PUT", &path, body).await.is(200);
    let body = json!([{ "op": "replace", "value": { "displayName": "Renamed", "members": null } }]);
    scim.patch(&path, body).await.is(200);
    assert_eq!(scim.members(&id(&group)).await, [bob.as_str()], "saying nothing empties no group");
    scim.patch(&path, json!([{ "op": "replace", "path": "members", "value": [] }])).await.is(200);
    assert!(scim.members(&id(&group)).await.is_empty(), "saying nobody does");
}

async fn authentik_sends_one_operation_a_member(scim: &Scim) {
    let config = scim.get("/ServiceProviderConfig").await;
    assert!(config["bulk"]["maxOperations"].as_i64().unwrap() >= 1);
    let mut users = Vec::new();
    for number in 0..30 {
        users.push(scim.user(&format!("user{number}")).await);
    }
    let group = scim.group("all", &[]).await;
    let path = format!("/Groups/{group}");
    let each = |op: &str, users: &[String]| {
        let one = |user: &String| json!({ "op": op, "path": "members", "value": [{ "value": user }] });
        Value::Array(users.iter().map(one).collect())
    };
    scim.patch(&path, each("add", &users)).await.is(200);
    assert_eq!(scim.members(&group).await.len(), 30);
    scim.patch(&path, each("remove", &users[10..])).await.is(200);
    let mut kept = scim.members(&group).await;
    kept.sort();
    users.truncate(10);
    users.sort();
    assert_eq!(kept, users);
    let whole =
        json!([{ "op": "replace", "value": { "schemas": [GROUP], "displayName": "Everybody", "externalId": "pk" } }]);
    let changed = scim.patch(&path, whole).await.is(200);
    assert_eq!((&changed["externalId"], changed["members"].as_array().unwrap().len()), (&json!("pk"), 10));
}

async fn keycloak_and_others_are_never_answered_with_everybody(scim: &Scim) {
    let ann = scim.user("ann").await;
    scim.group("blue", &[&ann]).await;
    for (endpoint, filter) in [
        ("Users", r#"favouriteColour eq "blue""#),
        ("Groups", r#"emails.value eq "ann@x""#),
        ("Groups", "owner pr"),
        ("Users", "userName eq"),
        ("Users", r#"userName like "ann""#),
        ("Users", ""),
        ("Groups", " "),
    ] {
        let refused = scim.filter(endpoint, filter).await.is(400);
        assert_eq!(refused["scimType"], "invalidFilter", "{filter}");
        let search = json!({ "schemas": [SEARCH], "filter": filter });
        for path in [format!("/{endpoint}/.search"), "/.search".to_owned()] {
            // Over both kinds, what one of them has is understood.
            if path == "/.search" && filter.starts_with("emails.") {
                continue;
            }
            let refused = scim.call("POST", &path, search.clone()).await.is(400);
            assert_eq!(refused["scimType"], "invalidFilter", "{path}: {filter}");
        }
    }
    scim.call("GET", "/Users?filter", Value::Null).await.is(400);
    let null = json!({ "schemas": [SEARCH], "filter": null });
    assert_eq!(scim.call("POST", "/Users/.search", null).await.is(200)["totalResults"], 1, "null says nothing");
    assert_eq!(scim.filter("Users", r#"emails.value eq "ann@x""#).await.is(200)["totalResults"], 0);
}

/// What is refused as taken is there to be found: authentik then goes on with the one it found.
async fn authentik_looks_for_what_is_taken(scim: &Scim) {
    let body = json!({ "schemas": [USER], "userName": "ann", "externalId": "7f3c", "displayName": "Ann", "photos": [], "locale": "" });
    let ann = scim.call("POST", "/Users", body.clone()).await.is(201);
    let taken = scim.call("POST", "/Users", body).await.is(409);
    assert_eq!(taken["scimType"], "uniqueness");
    for filter in [r#"userName eq "ann""#, r#"externalId eq "7f3c""#] {
        assert_eq!(scim.filter("Users", filter).await.is(200)["Resources"], json!([ann]), "{filter}");
    }
    let group = scim.group("Everybody", &[&id(&ann)]).await;
    let found = scim.filter("Groups", r#"displayName eq "Everybody""#).await.is(200);
    assert_eq!(found["Resources"][0]["members"][0]["value"], ann["id"]);
    let all = scim.get("/Groups").await;
    assert_eq!((&all["totalResults"], &all["Resources"][0]["id"]), (&json!(1), &json!(group)));
}

async fn one_login_sends_nulls_and_offsets(scim: &Scim) {
    let body = json!({ "schemas": [USER], "userName": "ann", "displayName": null, "emails": null, "name": { "givenName": null } });
    let made = scim.call("POST", "/Users", body).await.is(201);
    assert!(made.get("name").is_none() && made.get("emails").is_none());
    for filter in [
        r#"meta.lastModified ge "2020-01-01T00:00:00+02:00""#,
        r#"meta.lastModified gt "2020-01-01T00:00:00Z" and meta.created gt "2020-01-01T00:00:00.000-11:00""#,
    ] {
        assert_eq!(scim.filter("Users", filter).await.is(200)["totalResults"], 1, "{filter}");
    }
}

async fn jump_cloud_and_google_send_a_few_attributes_by_put_and_by_patch(scim: &Scim) {
    let body = |active: bool| {
        json!({
            "schemas": [USER], "userName": "ann@example.com", "name": { "givenName": "Ann", "familyName": "N" }, "active": active,
            "emails": [{ "type": "work", "primary": true, "value": "ann@example.com" }],
        })
    };
    let made = scim.call("POST", "/Users", body(true)).await.is(201);
    let path = format!("/Users/{}", id(&made));
    let put = scim.call("PUT", &path, body(false)).await.is(200);
    let patched = scim.patch(&path, json!([{ "op": "replace", "value": { "active": true } }])).await.is(200);
    assert_eq!((&put["active"], &patched["active"]), (&json!(false), &json!(true)));
    for kept in ["userName", "name", "emails", "id"] {
        assert_eq!(patched[kept], made[kept], "{kept}");
    }
}
