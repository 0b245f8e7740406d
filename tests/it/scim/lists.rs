//! Lists: pages by number and by cursor, order, projection, and that what the database narrows is what the filter means.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use usher::scim::{Kind, evaluate, filter};

use super::{GROUP, Scim, USER, id, on_both};
use crate::stores::Database;

on_both! {
    pages_hold_everybody_once
    cursors_hold_everybody_once_while_people_come_and_go
    lists_are_sorted_and_projected
    lists_are_sorted_by_what_is_kept_apart
    a_search_at_the_root_holds_both_kinds
    the_database_finds_what_the_filter_means
    the_database_finds_the_groups_that_a_filter_means
    addresses_are_found_as_they_are_now
    what_no_database_can_hold_is_nobodys
}

async fn people(scim: &Scim, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(scim.user(&format!("user{number:03}")).await);
    }
    ids
}

fn ids(page: &Value) -> Vec<String> {
    page["Resources"].as_array().unwrap().iter().map(id).collect()
}

async fn pages_hold_everybody_once(scim: &Scim) {
    let everybody = people(scim, 25).await;
    for query in ["", "&filter=userName%20pr"] {
        let mut seen = Vec::new();
        for start in [1, 11, 21] {
            let page = scim.get(&format!("/Users?startIndex={start}&count=10{query}")).await;
            assert_eq!((&page["totalResults"], &page["startIndex"]), (&json!(25), &json!(start)));
            seen.extend(ids(&page));
        }
        assert_eq!(seen, everybody);
        let totals = scim.get(&format!("/Users?count=0{query}")).await;
        assert_eq!(
            (&totals["totalResults"], &totals["itemsPerPage"], &totals["Resources"]),
            (&json!(25), &json!(0), &json!([]))
        );
        let beyond = scim.get(&format!("/Users?startIndex=100{query}")).await;
        assert_eq!((&beyond["totalResults"], ids(&beyond).len()), (&json!(25), 0));
    }
}

async fn cursors_hold_everybody_once_while_people_come_and_go(scim: &Scim) {
    let everybody = people(scim, 25).await;
    for query in ["count=10", "count=10&filter=userName%20pr", "count=10&sortBy=userName"] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        let mut previous = Vec::new();
        loop {
            let page = scim.get(&format!("/Users?{query}&cursor={cursor}")).await;
            assert!(page.get("startIndex").is_none());
            if let Some(back) = page["previousCursor"].as_str() {
                let back = scim.get(&format!("/Users?{query}&cursor={back}")).await;
                assert_eq!(ids(&back), previous, "{query}");
            }
            previous = ids(&page);
            seen.extend(ids(&page));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, everybody, "{query}");
    }
    let first = scim.get("/Users?count=10&cursor=").await;
    for gone in &everybody[..5] {
        scim.call("DELETE", &format!("/Users/{gone}"), Value::Null).await.is(204);
    }
    let next = scim.get(&format!("/Users?count=10&cursor={}", first["nextCursor"].as_str().unwrap())).await;
    assert_eq!(ids(&next), everybody[10..20], "nobody is skipped for those who went");
    for (wrong, kind) in [("cursor=nonsense", "invalidCursor"), ("cursor=&count=x", "invalidCount")] {
        let answer = scim.call("GET", &format!("/Users?{wrong}"), Value::Null).await.is(400);
        assert_eq!(answer["scimType"], kind, "{answer}");
    }
}

async fn lists_are_sorted_and_projected(scim: &Scim) {
    for (name, title) in [("cat", Some("B")), ("ann", None), ("bob", Some("a"))] {
        let body = json!({ "schemas": [USER], "userName": name, "title": title });
        scim.call("POST", "/Users", body).await.is(201);
    }
    let names = async |query: &str| -> Vec<String> {
        let page = scim.get(&format!("/Users?attributes=userName&{query}")).await;
        let all = page["Resources"].as_array().unwrap();
        assert!(
            all.iter().all(|user| user.as_object().unwrap().len() == 3),
            "id, schemas and what was asked for: {page}"
        );
        all.iter().map(|user| user["userName"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("sortBy=userName").await, ["ann", "bob", "cat"]);
    assert_eq!(names("sortBy=userName&sortOrder=descending&count=2").await, ["cat", "bob"]);
    assert_eq!(names("sortBy=title").await, ["bob", "cat", "ann"], "who has none comes last");
    assert_eq!(names("sortBy=meta.created").await, ["cat", "ann", "bob"]);
    assert_eq!(scim.call("GET", "/Users?sortBy=shoe", Value::Null).await.status, 400);
}

/// A user's groups and a group's members are no part of what is kept of them themselves.
async fn lists_are_sorted_by_what_is_kept_apart(scim: &Scim) {
    let mut people = people(scim, 3).await;
    people.sort();
    let mut groups = Vec::new();
    for (name, member) in [("green", Some(2)), ("empty", None), ("blue", Some(0)), ("red", Some(1))] {
        let members: Vec<&str> = member.map(|at: usize| people[at].as_str()).into_iter().collect();
        groups.push(scim.group(name, &members).await);
    }
    let by = async |endpoint: &str, query: &str| ids(&scim.get(&format!("/{endpoint}?sortBy={query}")).await);
    let of = |all: &[String], order: &[usize]| order.iter().map(|at| all[*at].clone()).collect::<Vec<_>>();
    for attribute in ["groups.display", "GROUPS.display", "urn:ietf:params:scim:schemas:core:2.0:User:groups.display"] {
        assert_eq!(by("Users", attribute).await, of(&people, &[0, 2, 1]), "{attribute}");
        let backwards = format!("{attribute}&sortOrder=descending&count=2");
        assert_eq!(by("Users", &backwards).await, of(&people, &[1, 2]));
    }
    for attribute in ["members.value", "members", "members.$ref"] {
        assert_eq!(by("Groups", attribute).await, of(&groups, &[2, 3, 0, 1]), "{attribute}: who has none comes last");
    }
    let filter = format!("members.value&filter=members%20eq%20%22{}%22", people[1]);
    assert_eq!(by("Groups", &filter).await, of(&groups, &[3]));
    let search = json!({ "sortBy": "members.value", "filter": "displayName pr and members pr" });
    let found = scim.call("POST", "/Groups/.search", search).await.is(200);
    assert_eq!(ids(&found), of(&groups, &[2, 3, 0]));
}

async fn a_search_at_the_root_holds_both_kinds(scim: &Scim) {
    let ann = scim.user("ann").await;
    let blue = scim.group("blue", &[&ann]).await;
    let search = async |body: Value| scim.call("POST", "/.search", body).await;
    let both = search(json!({ "schemas": [], "attributes": ["displayName"] })).await.is(200);
    assert_eq!(ids(&both), [ann.as_str(), blue.as_str()]);
    assert!(both["Resources"].as_array().unwrap().iter().all(|found| found["schemas"].is_array()));
    let one = search(json!({ "filter": "userName eq \"ann\"" })).await.is(200);
    assert_eq!(ids(&one), [ann.as_str()], "groups have no user name");
    assert_eq!(search(json!({ "filter": "shoe eq \"40\"" })).await.is(400)["scimType"], "invalidFilter");
    let typed = scim
        .call("POST", "/Groups/.search", json!({ "filter": format!("members eq \"{ann}\""), "count": 1 }))
        .await
        .is(200);
    assert_eq!(ids(&typed), [blue]);
}

/// Filters made of every kind of comparison, over people who differ in what is compared: over HTTP against the evaluator alone.
async fn the_database_finds_what_the_filter_means(scim: &Scim) {
    let mut rng = Dice(7);
    for number in 0..40 {
        let mut body =
            json!({ "schemas": [USER], "userName": format!("{}{number}", rng.of(&["Ann", "bob", "ÄRGER"])) });
        if rng.roll(3) > 0 {
            body["externalId"] = json!(format!("{}{number}", rng.of(&["E", "e"])));
        }
        if rng.roll(2) > 0 {
            body["displayName"] = json!(rng.of(&["Blue", "blue", "Red one"]));
        }
        body["active"] = json!(rng.roll(2) > 0);
        let address = |rng: &mut Dice| json!({ "value": rng.of(&["a@x", "B@x", "ÄRGER@x", "\u{212a}@x"]), "type": rng.of(&["work", "home"]) });
        body["emails"] = (0..rng.roll(3)).map(|_| address(&mut rng)).collect();
        scim.call("POST", "/Users", body).await.is(201);
    }
    let everybody: Vec<Value> = scim.get("/Users?count=200").await["Resources"].as_array().unwrap().clone();
    let terms: Vec<String> = (0..60)
        .map(|_| {
            let number = rng.roll(40);
            match rng.roll(11) {
                0 => format!("userName eq \"{}{number}\"", rng.of(&["ann", "BOB", "ärger"])),
                1 => format!("externalId eq \"{}{number}\"", rng.of(&["E", "e"])),
                2 => format!("displayName {} \"{}\"", rng.of(&["eq", "ne", "sw", "co"]), rng.of(&["BLUE", "red"])),
                3 => format!("active eq {}", rng.of(&["true", "false"])),
                4 => format!("emails[type eq \"{}\"].value eq \"A@X\"", rng.of(&["work", "home"])),
                8 => format!(
                    "emails.value {} \"{}\"",
                    rng.of(&["eq", "ne", "sw"]),
                    rng.of(&["A@X", "b@x", "ärger@X", "k@x"])
                ),
                9 => format!("emails eq \"{}\"", rng.of(&["a@x", "B@X", "nobody@x"])),
                10 => format!("emails[value eq \"{}\" and type eq \"home\"]", rng.of(&["a@x", "b@x", "K@X"])),
                5 => format!("externalId {}", rng.of(&["pr", "eq null"])),
                6 => format!("id eq \"{}\"", id(&everybody[number])),
                _ => format!("userName gt \"{}\"", rng.of(&["b", "C", "z"])),
            }
        })
        .collect();
    the_same_is_found(scim, Kind::User, (&everybody, &terms), &mut rng).await;
}

/// As above for groups: their names, and members of every kind, whom the database keeps apart from the rest.
async fn the_database_finds_the_groups_that_a_filter_means(scim: &Scim) {
    let mut rng = Dice(13);
    let people = people(scim, 6).await;
    let mut groups: Vec<String> = Vec::new();
    for number in 0..30 {
        let name = rng.of(&["Blue", "blue", "Red one", "ÄRGER"]);
        let mut body = json!({ "schemas": [GROUP], "displayName": name });
        if rng.roll(3) > 0 {
            body["externalId"] = json!(format!("{}{number}", rng.of(&["E", "e"])));
        }
        let members = (0..rng.roll(4)).map(|_| match rng.roll(8) {
            0 => "stranger".to_owned(),
            1 if !groups.is_empty() => rng.pick(&groups).clone(),
            _ => rng.pick(&people).clone(),
        });
        body["members"] = members.map(|id| json!({ "value": id })).collect();
        groups.push(id(&scim.call("POST", "/Groups", body).await.is(201)));
    }
    let shown = scim.get("/Groups?count=200").await["Resources"].as_array().unwrap().clone();
    let with = |kind: &str| shown.iter().filter(|group| group["members"].to_string().contains(kind)).count();
    assert!(with("\"User\"") > 5 && with("\"Group\"") > 1 && with("stranger") > 1, "{shown:?}");
    let known: Vec<String> = people.iter().chain(&groups).cloned().chain(["stranger".to_owned()]).collect();
    let terms: Vec<String> = (0..80)
        .map(|_| {
            let (member, number) = (rng.pick(&known).clone(), rng.roll(30));
            match rng.roll(14) {
                0 => format!("displayName eq \"{}\"", rng.of(&["BLUE", "red ONE", "ärger"])),
                1 => format!("displayName {} \"{}\"", rng.of(&["ne", "sw", "co", "ew"]), rng.of(&["blue", "RED", "e"])),
                2 => format!("externalId eq \"{}{number}\"", rng.of(&["E", "e"])),
                3 => format!("externalId {}", rng.of(&["pr", "eq null", "ne null"])),
                4 => format!("id eq \"{}\"", groups[number]),
                5 => format!("members {} \"{member}\"", rng.of(&["eq", "ne"])),
                6 => format!("members.value {} \"{member}\"", rng.of(&["eq", "ne", "sw"])),
                7 => format!("members[value eq \"{member}\"]"),
                8 => format!("members[value eq \"{member}\" and type eq \"{}\"]", rng.of(&["User", "Group"])),
                9 => format!("members[value eq \"{member}\" or type eq \"Group\"]"),
                10 => format!("members[type eq \"{}\"].value eq \"{member}\"", rng.of(&["user", "Group"])),
                11 => format!("members.type eq \"{}\"", rng.of(&["User", "GROUP"])),
                12 => format!("members[not (value eq \"{member}\")]"),
                _ => "members pr".to_owned(),
            }
        })
        .collect();
    the_same_is_found(scim, Kind::Group, (&shown, &terms), &mut rng).await;
}

/// Puts terms together, and finds over HTTP what the evaluator finds among all that are shown.
async fn the_same_is_found(scim: &Scim, kind: Kind, (all, terms): (&[Value], &[String]), rng: &mut Dice) {
    let mut hits = 0;
    for round in 0..120 {
        let mut text = rng.pick(terms).clone();
        for _ in 0..rng.roll(3) {
            let other = rng.pick(terms);
            text = match rng.roll(3) {
                0 => format!("{text} and {other}"),
                1 => format!("{text} or {other}"),
                _ => format!("not ({text}) and {other}"),
            };
        }
        let compiled = evaluate::compile(kind, &filter::parse(&text).unwrap()).unwrap();
        let meant: BTreeSet<String> =
            all.iter().filter(|resource| compiled.fits(resource.as_object().unwrap())).map(id).collect();
        let found = scim.filter(kind.endpoint(), &text).await.is(200);
        assert_eq!(ids(&found).into_iter().collect::<BTreeSet<_>>(), meant, "round {round}: {text}");
        assert_eq!(found["totalResults"], meant.len(), "{text}");
        hits += usize::from(!meant.is_empty() && meant.len() < all.len());
    }
    assert!(hits >= 40, "only {hits} filters tell some from others");
}

async fn addresses_are_found_as_they_are_now(scim: &Scim) {
    let with = |name: &str, addresses: &[&str]| {
        let emails: Vec<Value> = addresses.iter().map(|address| json!({ "value": address, "type": "work" })).collect();
        json!({ "schemas": [USER], "userName": name, "emails": emails })
    };
    let found = async |address: &str| {
        let filter = format!("emails[type eq \"work\"].value eq {}", json!(address));
        ids(&scim.filter("Users", &filter).await.is(200))
    };
    let long = format!("{}@x", "l".repeat(5000));
    let ann = id(&scim.call("POST", "/Users", with("ann", &["Ann@x", "ann@X", &long])).await.is(201));
    let bob = id(&scim.call("POST", "/Users", with("bob", &["shared@x", "Straße@x"])).await.is(201));
    let cat = id(&scim.call("POST", "/Users", with("cat", &["SHARED@x"])).await.is(201));
    assert_eq!(found("ANN@x").await, [ann.as_str()]);
    assert_eq!(found(&long).await, [ann.as_str()], "as long as they like");
    assert_eq!(found(&long[1..]).await, [""; 0], "and whole");
    assert_eq!(found("shared@X").await, [bob.as_str(), &cat]);
    assert_eq!(found("STRAßE@x").await, [bob.as_str()]);
    let path = format!("/Users/{ann}");
    scim.patch(&path, json!([{ "op": "replace", "path": "emails", "value": [{ "value": "new@x", "type": "work" }] }]))
        .await
        .is(200);
    assert_eq!((found("ann@x").await, found("new@x").await), (Vec::new(), vec![ann.clone()]));
    scim.call("PUT", &path, with("ann", &[])).await.is(200);
    assert_eq!(found("new@x").await, [""; 0]);
    scim.call("DELETE", &format!("/Users/{bob}"), Value::Null).await.is(204);
    assert_eq!(found("shared@x").await, [cat.as_str()]);
    let elsewhere = scim.filter("Users", r#"phoneNumbers[type eq "work"].value eq "shared@x""#).await.is(200);
    assert_eq!(elsewhere["totalResults"], 0);
}

/// As after an upgrade: the table is made and filled by its migration.
async fn addresses_from_before_their_index_are_found(database: &Database) {
    let scim = Scim::on(database).await;
    let mut everybody = Vec::new();
    for (name, address, title) in
        [("ann", "Ann@x", "a"), ("bob", "ÄRGER@x", "b"), ("cat", "Cat@x", "a\u{0}b"), ("dan", "\u{212a}@x", "\\u0000")]
    {
        let emails = json!([{ "value": address, "type": "work" }, { "value": address }, { "type": "home" }]);
        let body = json!({ "schemas": [USER], "userName": name, "title": title, "emails": emails });
        everybody.push(id(&scim.call("POST", "/Users", body).await.is(201)));
    }
    let gone = scim.user("gone").await;
    scim.call("DELETE", &format!("/Users/{gone}"), Value::Null).await.is(204);
    let pool = sqlx::AnyPool::connect(&database.url).await.unwrap();
    sqlx::query("DROP TABLE scim_addresses").execute(&pool).await.unwrap();
    sqlx::query("DELETE FROM _sqlx_migrations WHERE description = 'scim addresses'").execute(&pool).await.unwrap();
    pool.close().await;
    database.open().await.close().await;
    for (address, whose) in [("ann@X", 0), ("ärger@x", 1), ("CAT@x", 2), ("k@x", 3)] {
        let found = scim.filter("Users", &format!("emails.value eq \"{address}\"")).await.is(200);
        assert_eq!(ids(&found), [everybody[whose].as_str()], "{address}");
    }
    assert_eq!(scim.filter("Users", r#"emails.value eq "nobody@x""#).await.is(200)["totalResults"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_from_before_their_index_are_found_on_sqlite() {
    addresses_from_before_their_index_are_found(&Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_from_before_their_index_are_found_on_postgres() {
    addresses_from_before_their_index_are_found(&Database::postgres().await).await;
}

/// `PostgreSQL` takes no NUL in a text.
async fn what_no_database_can_hold_is_nobodys(scim: &Scim) {
    let ann = scim.user("ann").await;
    let group = scim.group("blue", &[&ann]).await;
    for filter in [
        r#"userName eq "\u0000""#,
        r#"externalId eq "\u0000" or userName eq "a\u0000""#,
        r#"emails.value eq "\u0000""#,
        r#"id eq "\u0000""#,
    ] {
        assert_eq!(scim.filter("Users", filter).await.is(200)["totalResults"], 0, "{filter}");
    }
    for filter in [r#"members eq "\u0000""#, r#"displayName eq "\u0000""#, r#"id pr and members[value eq "\u0000"]"#] {
        assert_eq!(scim.filter("Groups", filter).await.is(200)["totalResults"], 0, "{filter}");
    }
    for (method, path) in
        [("GET", "/Users/%00"), ("DELETE", "/Groups/a%00"), ("PUT", "/Users/%00"), ("PATCH", "/Users/%00")]
    {
        assert_eq!(scim.call(method, path, Value::Null).await.status, 404, "{method}");
    }
    let path = format!("/Groups/{group}");
    let gone = json!([{ "op": "remove", "path": "members", "value": [{ "value": "\u{0}" }] }]);
    scim.patch(&path, gone).await.is(200);
    let new = json!([{ "op": "add", "path": "members", "value": [{ "value": "a\u{0}" }] }]);
    assert_eq!(scim.patch(&path, new).await.is(400)["scimType"], "invalidValue");
    assert_eq!(scim.members(&group).await, [ann]);
    let body = json!({ "schemas": [USER], "userName": "bob", "title": "a\u{0}", "emails": [{ "value": "b\u{0}@x" }] });
    let bob = scim.call("POST", "/Users", body).await.is(201);
    let found = scim.filter("Users", r#"emails.value eq "B\u0000@x""#).await.is(200);
    assert_eq!(found["Resources"], json!([bob]), "what is kept is found");
}

/// The same throws in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    pub fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.roll(choices.len())]
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.roll(choices.len())]
    }
}
