//! Clients over the life of a person and a group, and times as they write them, each test named after its client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use chrono::{DateTime, FixedOffset, SecondsFormat};
use serde_json::{Value, json};
use usher::store::scim::{Known, Resources};

use super::{GROUP, Scim, USER, id, on_both};

on_both! {
    one_login_puts_whole_people_from_the_first_day_to_the_last
    one_login_puts_whole_groups
    entra_ids_validator_writes_times_with_any_offset_and_fraction
}

/// The Matrix name, the display name, the addresses, and whether they may use Matrix: of everybody the loop is told of.
async fn told(scim: &Scim) -> Vec<(String, Option<String>, Vec<String>, bool)> {
    let provisioned = Resources::new(scim.store.clone(), "acme").provisioned(&mut Known::default()).await.unwrap();
    let one = |user: &usher::directory::User| {
        (user.localpart.as_str().to_owned(), user.display_name.clone(), user.emails.clone(), user.enabled)
    };
    provisioned.users.iter().map(|user| one(user)).collect()
}

/// As the template of our guide makes it, with what `OneLogin` adds: nulls, its own times, and everything it was answered.
fn whole(name: &str, family_name: Option<&str>, address: Option<&str>) -> Value {
    json!({
        "schemas": [USER], "userName": name, "externalId": "32916209", "displayName": null, "title": null, "password": null,
        "name": { "givenName": "Ann", "familyName": family_name },
        "emails": address.map(|address| json!([{ "value": address, "type": "work", "primary": true }])),
        "meta": { "resourceType": "User", "created": "2026-03-01T09:00:00+0100", "lastModified": "2026-03-01 09:00", "version": "x" },
    })
}

async fn one_login_puts_whole_people_from_the_first_day_to_the_last(scim: &Scim) {
    let made =
        scim.call("POST", "/Users", whole("ann@example.com", Some("Ant"), Some("Ann@example.com"))).await.is(201);
    let path = format!("/Users/{}", id(&made));
    let put = async |body: Value, version: u32| {
        let after = scim.call("PUT", &path, body).await.is(200);
        assert_eq!(after["meta"]["version"], format!("W/\"{version}\""), "{after}");
        assert_eq!((&after["id"], &after["meta"]["created"]), (&made["id"], &made["meta"]["created"]));
        after
    };
    // The same again changes nothing, whatever it says about itself.
    let mut same = whole("ann@example.com", Some("Ant"), Some("Ann@example.com"));
    same["id"] = json!("mine");
    same["groups"] = json!([{ "value": "elsewhere" }]);
    put(same, 1).await;
    let now = async || told(scim).await.pop().unwrap();
    let (matrix, address) = ("ann=40example.com".to_owned(), "ann@example.com".to_owned());
    assert_eq!(now().await, (matrix.clone(), Some("Ann Ant".to_owned()), vec![address], true));
    // She marries: another user name, another address, the same Matrix name.
    let married = whole("ann.bee@example.com", Some("Bee"), Some("bee@example.com"));
    put(married.clone(), 2).await;
    let bee = (matrix.clone(), Some("Ann Bee".to_owned()), vec!["bee@example.com".to_owned()], true);
    assert_eq!(now().await, bee);
    assert_eq!(scim.filter("Users", "userName eq \"ann@example.com\"").await.is(200)["totalResults"], 0);
    // What a PUT leaves out is gone, but for whether she may use Matrix.
    let mut suspended = whole("ann.bee@example.com", None, None);
    suspended["active"] = json!(false);
    let after = put(suspended, 3).await;
    assert_eq!((&after["name"], after.get("emails")), (&json!({ "givenName": "Ann" }), None));
    let after = put(married.clone(), 4).await;
    assert_eq!(after["active"], false, "saying nothing brings nobody back");
    let mut back = married;
    back["active"] = json!(true);
    put(back.clone(), 5).await;
    assert_eq!(now().await, bee);
    // A mistake is refused whole.
    let mut wrong = whole("", Some("Cee"), None);
    assert_eq!(scim.call("PUT", &path, wrong.clone()).await.is(400)["scimType"], "invalidValue");
    wrong["schemas"] = json!(["urn:scim:schemas:core:1.0"]);
    assert_eq!(scim.call("PUT", &path, wrong).await.is(400)["scimType"], "invalidSyntax");
    put(back, 5).await;
    assert_eq!(scim.call("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(scim.call("PUT", &path, whole("ann@example.com", None, None)).await.status, 404, "a PUT makes nobody");
    assert_eq!(told(scim).await, []);
}

async fn one_login_puts_whole_groups(scim: &Scim) {
    let (ann, bob) = (scim.user("ann").await, scim.user("bob").await);
    assert_eq!(scim.filter("Groups", "displayName eq \"Sales\"").await.is(200)["totalResults"], 0);
    let group = scim.group("Sales", &[&ann]).await;
    let path = format!("/Groups/{group}");
    let put = async |name: &str, members: Option<&[&str]>| {
        let mut body = json!({ "schemas": [GROUP], "id": group, "displayName": name });
        if let Some(members) = members {
            body["members"] = members.iter().map(|id| json!({ "value": id, "display": null })).collect();
        }
        scim.call("PUT", &path, body).await.is(200)
    };
    put("Sales", Some(&[&bob, &ann, &bob])).await;
    let mut both = [ann.clone(), bob.clone()];
    both.sort();
    let mut shown = scim.members(&group).await;
    shown.sort();
    assert_eq!(shown, both, "nobody is in it twice");
    let renamed = put("Sales & Co", None).await;
    assert_eq!((&renamed["displayName"], scim.members(&group).await.len()), (&json!("Sales & Co"), 2));
    put("Sales & Co", Some(&[&bob])).await;
    assert_eq!(scim.members(&group).await, [bob.as_str()]);
    // A person's own version is not moved by that: a membership is the group's.
    let bob_shown = scim.get(&format!("/Users/{bob}")).await;
    assert_eq!((&bob_shown["groups"][0]["value"], &bob_shown["meta"]["version"]), (&json!(group), &json!("W/\"1\"")));
    let emptied = put("Sales & Co", Some(&[])).await;
    assert_eq!((scim.members(&group).await, emptied.get("members")), (vec![], None));
    assert_eq!(scim.call("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(scim.get("/Groups").await["totalResults"], 0);
}

/// RFC 3339 in all its forms is one moment; what is not RFC 3339 is refused, in an order as little as in an equality.
async fn entra_ids_validator_writes_times_with_any_offset_and_fraction(scim: &Scim) {
    // Its bodies carry such times, too, where they are the server's to say.
    let body = |name: &str, at: &str| json!({ "schemas": [USER], "userName": name, "meta": { "resourceType": "User", "created": at, "lastModified": at } });
    let made = scim.call("POST", "/Users", body("ann", "2027-01-01T10:00:00+0200")).await.is(201);
    let path = format!("/Users/{}", id(&made));
    assert_eq!(scim.call("PUT", &path, body("ann", "yesterday")).await.is(200)["meta"], made["meta"]);

    let created = DateTime::parse_from_rfc3339(made["meta"]["created"].as_str().unwrap()).unwrap();
    let at = |hours: i32, digits: SecondsFormat| {
        created.with_timezone(&FixedOffset::east_opt(hours * 3600).unwrap()).to_rfc3339_opts(digits, true)
    };
    let forms = [
        at(0, SecondsFormat::Millis),
        at(0, SecondsFormat::Micros),
        at(2, SecondsFormat::Millis),
        at(-11, SecondsFormat::Nanos),
        at(0, SecondsFormat::Millis).replace('Z', "+00:00"),
        at(0, SecondsFormat::Millis).replace('Z', "-00:00"),
        at(0, SecondsFormat::Millis).to_lowercase(),
    ];
    for form in &forms {
        for (filter, count) in [
            (format!("meta.created eq \"{form}\""), 1),
            (format!("meta.created ge \"{form}\" and meta.created le \"{form}\""), 1),
            (format!("meta.created ne \"{form}\""), 0),
            (format!("meta.created lt \"{form}\""), 0),
        ] {
            assert_eq!(scim.filter("Users", &filter).await.is(200)["totalResults"], count, "{filter}");
        }
    }
    for (form, before) in
        [("2020-01-01T00:00:00+14:00", 1), ("2020-01-01T00:00:00.1Z", 1), ("2999-12-31T23:59:59.123456789-05:30", 0)]
    {
        let found = scim.filter("Users", &format!("meta.lastModified gt \"{form}\"")).await.is(200);
        assert_eq!(found["totalResults"], before, "{form}");
    }
    for wrong in [
        "2020-01-01T00:00:00+0200",
        "2020-01-01T00:00:00",
        "2020-01-01T00:00Z",
        "2020-01-01",
        "2020-02-30T00:00:00Z",
        "2020-01-01T25:00:00Z",
        "1577836800",
        "",
    ] {
        for op in ["gt", "eq", "ne"] {
            let refused = scim.filter("Users", &format!("meta.lastModified {op} \"{wrong}\"")).await.is(400);
            assert_eq!(refused["scimType"], "invalidFilter", "{op} {wrong}");
            let detail = refused["detail"].as_str().unwrap();
            assert!(detail.contains("meta.lastModified") && detail.contains("2027-03-31T12:00:00Z"), "{detail}");
        }
    }
}
