//! Every route with every kind of wrong credential, and every role with every route (S-62).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};
use usher::scim::access::Roles;
use usher::scim::route::{EVERY, Need, Route};

use super::{SEARCH, Scim, TOKENS, USER, id, on_both};
use crate::stores::Database;

on_both! {
    groups_that_may_not_be_read_find_and_order_nobody
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_answers_a_wrong_credential() {
    let database = Database::sqlite();
    let scim = Scim::on(&database).await;
    let wrong = [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer token"),
        Some("Bearer token *:* "),
        Some("Bearer token expired"),
        Some("Basic dG9rZW4gKjoq"),
        Some("token *:*"),
        Some("Bearer token *:*x"),
    ];
    let odd = ["/", "", "/nothing", "/Users/a/b", "/Users?token=token%20*:*", "/Users?access_token=token%20*:*"];
    for path in EVERY.iter().chain(&odd) {
        for method in METHODS {
            for credential in wrong {
                // A blank behind the token is the header's, not the token's.
                if credential == Some("Bearer token *:* ") {
                    continue;
                }
                let headers: Vec<(&str, &str)> = credential.iter().map(|value| ("authorization", *value)).collect();
                let answer = scim.send(method, path, &headers, None).await;
                assert_eq!(answer.status, 401, "{method} {path} {credential:?}");
                assert!(answer.header("www-authenticate").starts_with("Bearer"));
                if method != "HEAD" {
                    assert_eq!(answer.body["status"], "401", "{method} {path}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_opens_its_routes_and_no_others() {
    let database = Database::sqlite();
    let scim = Scim::on(&database).await;
    for path in EVERY {
        let route = Route::parse(path).unwrap();
        for method in METHODS {
            for roles in TOKENS {
                let bearer = format!("Bearer token {roles}");
                let headers = [("authorization", bearer.as_str())];
                let answer = scim.send(method, path, &headers, Some(b"{}".to_vec())).await;
                let meant = if method == "HEAD" { "GET" } else { method };
                if !route.methods().contains(&meant) {
                    assert_eq!(answer.status, 405, "{method} {path}");
                    assert_eq!(answer.header("allow"), route.methods().join(", "));
                    continue;
                }
                let allowed = match route.need(meant) {
                    Need::Nothing | Need::Each => true,
                    Need::One(access, kind) => Roles::new([roles]).allow(access, kind),
                    Need::AnyRead => roles != "write:*",
                };
                assert_eq!(answer.status == 403, !allowed, "{method} {path} {roles}: {}", answer.status);
                assert!(answer.status < 500 || answer.status == 501, "{method} {path}: {}", answer.body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_not_shown_beside_what_may() {
    let database = Database::sqlite();
    let scim = Scim::on(&database).await;
    let ann = scim.user("ann").await;
    scim.group("blue", &[&ann]).await;
    let as_reader = |roles: &str| [("authorization", format!("Bearer token {roles}"))];
    let read = async |roles: &str, method: &str, path: &str, body: Value| {
        let headers = as_reader(roles);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        scim.send(method, path, &headers, (!body.is_null()).then(|| body.to_string().into_bytes())).await
    };
    let path = format!("/Users/{ann}");
    assert_eq!(read("read:*", "GET", &path, Value::Null).await.is(200)["groups"][0]["display"], "blue");
    assert!(read("*:users", "GET", &path, Value::Null).await.is(200).get("groups").is_none());
    let search = json!({ "schemas": [SEARCH] });
    assert_eq!(read("read:*", "POST", "/.search", search.clone()).await.is(200)["totalResults"], 2);
    assert_eq!(read("read:users", "POST", "/.search", search).await.is(200)["totalResults"], 1);
    let bulk = json!({ "Operations": [
        { "method": "DELETE", "path": format!("/Users/{ann}") },
        { "method": "POST", "path": "/Groups", "bulkId": "g", "data": {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "new" } },
    ] });
    let done = read("*:groups", "POST", "/Bulk", bulk).await.is(200);
    let statuses: Vec<&Value> = done["Operations"].as_array().unwrap().iter().map(|done| &done["status"]).collect();
    assert_eq!(statuses, ["403", "201"]);
}

/// Who may read users alone finds nobody by their groups, and sees nothing of them in an order, by any of the three ways to look.
async fn groups_that_may_not_be_read_find_and_order_nobody(scim: &Scim) {
    let mut people = Vec::new();
    for name in ["ann", "bob", "cat"] {
        people.push(scim.user(name).await);
    }
    let blue = scim.group("blue", &[&people[2]]).await;
    scim.group("red", &[&people[1]]).await;
    let found = async |roles: &str, query: &[(&str, &str)]| -> Vec<Vec<String>> {
        let bearer = format!("Bearer token {roles}");
        let headers = [("authorization", bearer.as_str())];
        let url = reqwest::Url::parse_with_params("http://x/", query).unwrap();
        let mut search = json!({ "schemas": [SEARCH] });
        for (name, value) in query {
            search[*name] = json!(value);
        }
        let mut answers =
            vec![scim.send("GET", &format!("/Users?{}", url.query().unwrap()), &headers, None).await.is(200)];
        for path in ["/Users/.search", "/.search"] {
            let body = search.to_string().into_bytes();
            answers.push(scim.send("POST", path, &headers, Some(body)).await.is(200));
        }
        let users = |page: &Value| -> Vec<String> {
            let all = page["Resources"].as_array().unwrap().iter();
            let users: Vec<&Value> = all.filter(|found| found["meta"]["resourceType"] == "User").collect();
            assert!(roles == "read:*" || users.iter().all(|user| user.get("groups").is_none()), "{page}");
            users.into_iter().map(id).collect()
        };
        answers.iter().map(users).collect()
    };
    let expected = |places: &[usize]| vec![places.iter().map(|at| people[*at].clone()).collect::<Vec<_>>(); 3];
    let by_id = format!("groups.value eq \"{blue}\"");
    let within = format!("userName eq \"cat\" and groups[value eq \"{blue}\" and display eq \"blue\"]");
    let qualified = format!("{USER}:groups.display eq \"blue\"");
    for (filter, with, without) in [
        ("groups pr", &[1, 2][..], &[][..]),
        (&by_id, &[2], &[]),
        (&within, &[2], &[]),
        (&qualified, &[2], &[]),
        ("groups.$ref co \"Groups\" or userName eq \"ann\"", &[0, 1, 2], &[0]),
        ("userName pr and not (groups pr)", &[0], &[0, 1, 2]),
        ("userName pr and groups.display ne \"blue\"", &[0, 1], &[0, 1, 2]),
    ] {
        assert_eq!(found("read:*", &[("filter", filter)]).await, expected(with), "{filter}");
        for roles in ["read:users", "*:users"] {
            assert_eq!(found(roles, &[("filter", filter)]).await, expected(without), "{roles}: {filter}");
        }
    }
    let order = |by: &'static str| [("sortBy", by), ("filter", "userName pr")];
    assert_eq!(found("read:*", &order("groups.display")).await, expected(&[2, 1, 0]));
    assert_eq!(found("read:users", &order("groups.display")).await, expected(&[0, 1, 2]), "as if there were none");
    assert_eq!(found("read:users", &order("userName")).await, expected(&[0, 1, 2]));
}
