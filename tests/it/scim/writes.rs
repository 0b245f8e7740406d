//! Writes that meet: one after the other per resource, nothing lost, and no dearer in a large group.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Answer, GROUP, Scim, USER, id, on_both};

/// Clients at work at the same time.
const CLIENTS: usize = 32;

on_both! {
    concurrent_patches_lose_nothing
    of_concurrent_writes_with_one_version_one_wins
    concurrent_patches_puts_and_deletes_have_an_order
    a_version_of_a_group_has_the_same_members_for_good
    one_user_name_is_given_once
    ten_thousand_operations_are_one_request
    memberships_behave_like_a_set
    a_refusal_beside_others_takes_nothing_with_it
    who_goes_away_in_the_middle_holds_up_nobody
}

async fn concurrent_patches_lose_nothing(scim: &Scim) {
    let (group, user) = (scim.group("blue", &[]).await, scim.user("ann").await);
    let (group_path, user_path) = (format!("/Groups/{group}"), format!("/Users/{user}"));
    let one = async |number: usize| {
        let member = json!([{ "op": "add", "path": "members", "value": [{ "value": format!("m{number}") }] }]);
        let role = json!([{ "op": "add", "path": "roles", "value": [{ "value": format!("r{number}") }] }]);
        scim.patch(&group_path, member).await.is(200);
        scim.patch(&user_path, role).await.is(200);
    };
    join_all((0..CLIENTS).map(one)).await;
    assert_eq!(scim.members(&group).await.len(), CLIENTS);
    let user = scim.get(&user_path).await;
    assert_eq!(user["roles"].as_array().unwrap().len(), CLIENTS);
    assert_eq!(user["meta"]["version"], format!("W/\"{}\"", CLIENTS + 1), "one version for each change");
}

async fn of_concurrent_writes_with_one_version_one_wins(scim: &Scim) {
    let path = format!("/Users/{}", scim.user("ann").await);
    let one = async |number: usize| {
        let body = json!({ "schemas": [USER], "userName": "ann", "title": format!("t{number}") }).to_string();
        let headers = [("authorization", "Bearer token *:*"), ("if-match", "W/\"1\"")];
        scim.send("PUT", &path, &headers, Some(body.into_bytes())).await.status
    };
    let statuses = join_all((0..CLIENTS).map(one)).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), CLIENTS - 1);
}

/// What one client sends, in turn, and in which of its turns somebody may delete what all of them write to.
const TURNS: usize = 6;
const DELETION: usize = 3;

/// A write and its answer.
#[derive(Clone, Debug)]
struct Sent {
    mark: String,
    is_put: bool,
    /// It began when a deletion had been answered.
    is_late: bool,
    answer: Answer,
}

/// Each answer carries the version it made. Sorted by version, every PATCH must have seen what the write before it left, and nothing
/// that begins behind the answer to the DELETE may succeed. Whatever is read meanwhile is what one of these writes left.
async fn concurrent_patches_puts_and_deletes_have_an_order(scim: &Scim) {
    let (ann, blue) =
        (json!({ "schemas": [USER], "userName": "ann" }), json!({ "schemas": [GROUP], "displayName": "blue" }));
    for (endpoint, attribute, whole) in [("Users", "roles", ann), ("Groups", "members", blue)] {
        let made = scim.call("POST", &format!("/{endpoint}"), whole.clone()).await.is(201);
        let path = format!("/{endpoint}/{}", id(&made));
        let gone = AtomicBool::new(false);
        let client = async |number: usize| {
            let (mut sent, mut read) = (Vec::new(), Vec::new());
            for turn in 0..TURNS {
                let (mark, is_late) = (format!("c{number}-{turn}"), gone.load(Ordering::SeqCst));
                let value = json!([{ "value": mark }]);
                let is_put = number.is_multiple_of(8);
                let answer = if is_put {
                    let mut body = whole.clone();
                    body[attribute] = value;
                    scim.call("PUT", &path, body).await
                } else if turn == DELETION && number % 8 == 7 {
                    let answer = scim.call("DELETE", &path, Value::Null).await;
                    gone.fetch_or(answer.status == 204, Ordering::SeqCst);
                    answer
                } else {
                    scim.patch(&path, json!([{ "op": "add", "path": attribute, "value": value }])).await
                };
                sent.push(Sent { mark, is_put, is_late, answer });
                read.extend(read_somehow(scim, (endpoint, &path), number + turn).await);
            }
            (sent, read)
        };
        let done: Vec<(Vec<Sent>, Vec<Value>)> = join_all((0..CLIENTS).map(client)).await;
        let (sent, read): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let (sent, read) = (sent.concat(), read.concat());
        let models = have_an_order(&sent, attribute);
        for read in &read {
            let of_version = version(read).checked_sub(2).map(|place| models[place].clone()).unwrap_or_default();
            assert_eq!(shown(read, attribute), of_version, "{endpoint}: read as {}", read["meta"]["version"]);
        }
        let versions: BTreeSet<usize> = read.iter().map(version).collect();
        assert!(versions.len() >= 3, "{versions:?}");
        assert_eq!(scim.call("GET", &path, Value::Null).await.status, 404, "{endpoint}");
    }
}

/// A resource as it is shown alone, in a list, or in what a search finds; nothing once it is gone.
async fn read_somehow(scim: &Scim, (endpoint, path): (&str, &str), way: usize) -> Option<Value> {
    let (method, path, body) = match way % 3 {
        0 => ("GET", path.to_owned(), Value::Null),
        1 => ("GET", format!("/{endpoint}"), Value::Null),
        _ => ("POST", format!("/{endpoint}/.search"), json!({ "filter": "meta.version pr" })),
    };
    let answer = scim.call(method, &path, body).await;
    if let Some(found) = answer.body["Resources"].as_array() {
        return found.first().cloned();
    }
    if answer.status == 404 {
        return None;
    }
    assert_eq!(answer.header("etag"), answer.body["meta"]["version"]);
    Some(answer.is(200))
}

fn version(resource: &Value) -> usize {
    let text = resource["meta"]["version"].as_str().unwrap();
    text.trim_start_matches("W/").trim_matches('"').parse().unwrap()
}

fn shown<'r>(resource: &'r Value, attribute: &str) -> BTreeSet<&'r str> {
    let values = resource[attribute].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: BTreeSet<&str> = values.iter().map(|value| value["value"].as_str().unwrap()).collect();
    assert_eq!(shown.len(), values.len(), "nothing twice");
    shown
}

/// What each version from the second on must show.
fn have_an_order<'s>(sent: &'s [Sent], attribute: &str) -> Vec<BTreeSet<&'s str>> {
    let mut done: Vec<&Sent> = sent.iter().filter(|sent| sent.answer.status == 200).collect();
    done.sort_by_key(|sent| version(&sent.answer.body));
    let mut models: Vec<BTreeSet<&str>> = Vec::new();
    for (place, sent) in done.iter().enumerate() {
        assert_eq!(version(&sent.answer.body), place + 2, "no version is made twice or left out");
        assert_eq!(sent.answer.header("etag"), sent.answer.body["meta"]["version"]);
        let before = models.last().filter(|_| !sent.is_put).cloned().unwrap_or_default();
        models.push(before.into_iter().chain([sent.mark.as_str()]).collect());
    }
    for (place, sent) in done.iter().enumerate() {
        assert_eq!(shown(&sent.answer.body, attribute), models[place], "{attribute}: version {}", place + 2);
    }
    let count = |status: u16| sent.iter().filter(|sent| sent.answer.status == status).count();
    assert_eq!((count(204), done.len() + count(204) + count(404)), (1, sent.len()));
    let late: Vec<&Sent> = sent.iter().filter(|sent| sent.is_late).collect();
    assert!(!late.is_empty() && !done.is_empty(), "{} before, {} after", done.len(), late.len());
    for sent in late {
        assert_eq!(sent.answer.status, 404, "behind the deletion: {sent:?}");
    }
    models
}

/// Somebody goes at the moment when some groups take them in and others take in somebody else: they leave a group with a new version of
/// it, or stay there as an id that is nobody's.
async fn a_version_of_a_group_has_the_same_members_for_good(scim: &Scim) {
    let mut left = 0;
    for round in 0..6 {
        let user = scim.user(&format!("u{round}")).await;
        let of_old = |number: usize| number.is_multiple_of(2);
        let mut groups = Vec::new();
        for number in 0..CLIENTS {
            let members = if of_old(number) { vec![user.as_str()] } else { Vec::new() };
            groups.push(format!("/Groups/{}", scim.group(&format!("g{number}"), &members).await));
        }
        let answered = Semaphore::new(0);
        let change = async |number: usize| {
            let new = if of_old(number) { "another" } else { user.as_str() };
            let add = json!([{ "op": "add", "path": "members", "value": [{ "value": new }] }]);
            let changed = scim.patch(&groups[number], add).await.is(200);
            answered.add_permits(1);
            changed
        };
        // Before all of them, and later in each round.
        let deletion = async {
            let _ = answered.acquire_many(5 * round).await;
            scim.call("DELETE", &format!("/Users/{user}"), Value::Null).await
        };
        let (deleted, changed) = join(deletion, join_all((0..CLIENTS).map(change))).await;
        deleted.is(204);
        for (path, changed) in groups.iter().zip(&changed) {
            let after = scim.get(path).await;
            let newer = version(&after) - version(changed);
            assert_eq!(newer == 0, shown(&after, "members") == shown(changed, "members"), "{changed}, then {after}");
            left += newer;
        }
    }
    assert!(left > 0, "nobody left a group");
}

async fn one_user_name_is_given_once(scim: &Scim) {
    let one = async |number: usize| {
        let name = if number.is_multiple_of(2) { "ann" } else { "ANN" };
        scim.call("POST", "/Users", json!({ "schemas": [USER], "userName": name })).await.status
    };
    let statuses = join_all((0..CLIENTS).map(one)).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), CLIENTS - 1);
}

async fn ten_thousand_operations_are_one_request(scim: &Scim) {
    let group = scim.group("all", &[]).await;
    let one =
        |number: usize| json!({ "op": "add", "path": "members", "value": [{ "value": format!("member-{number}") }] });
    let operations = Value::Array((0..10_000).map(one).collect());
    let answer = scim.patch(&format!("/Groups/{group}"), operations).await;
    assert_eq!((answer.status, answer.header("etag")), (204, "W/\"2\""), "too many to be sent back");
    assert_eq!(scim.members(&group).await.len(), 10_000);
}

/// Random operations, several in a request, against a set in memory. A request with one operation that is refused changes nothing.
async fn memberships_behave_like_a_set(scim: &Scim) {
    let group = scim.group("blue", &[]).await;
    let path = format!("/Groups/{group}");
    let mut dice = super::lists::Dice(11);
    let mut model: BTreeSet<String> = BTreeSet::new();
    let (mut refused, mut version) = (0, 1);
    for round in 0..80 {
        let mut after = model.clone();
        let mut operations = Vec::new();
        let mut is_refused = false;
        for _ in 0..=dice.roll(5) {
            let ids: Vec<String> = (0..dice.roll(4)).map(|_| format!("m{}", dice.roll(8))).collect();
            let value: Vec<Value> = ids.iter().map(|id| json!({ "value": id })).collect();
            let first = ids.first().cloned().unwrap_or_default();
            let not_first = format!("members[value ne \"{first}\"]");
            operations.push(match dice.roll(12) {
                0..4 => {
                    after.extend(ids);
                    json!({ "op": "add", "path": "members", "value": value })
                }
                4..7 => {
                    after.retain(|id| !ids.contains(id));
                    json!({ "op": "Remove", "path": "members", "value": value })
                }
                7 => {
                    after = ids.into_iter().collect();
                    json!({ "op": "replace", "path": "members", "value": value })
                }
                8 => {
                    after.remove(&first);
                    json!({ "op": "remove", "path": format!("members[value eq \"{first}\"]") })
                }
                9 => {
                    after.retain(|id| *id == first);
                    json!({ "op": "remove", "path": not_first })
                }
                10 => {
                    after.extend(ids);
                    json!({ "op": "add", "value": { "members": value } })
                }
                _ => {
                    is_refused |= dice.roll(3) == 0;
                    let value = if is_refused { json!([{ "display": "nobody" }]) } else { json!([]) };
                    json!({ "op": "add", "path": "members", "value": value })
                }
            });
        }
        let answer = scim.patch(&path, Value::Array(operations.clone())).await;
        if is_refused {
            answer.is(400);
            refused += 1;
        } else {
            version += i32::from(after != model);
            assert_eq!(answer.is(200)["meta"]["version"], format!("W/\"{version}\""), "round {round}: {operations:?}");
            model = after;
        }
        let members: BTreeSet<String> = scim.members(&group).await.into_iter().collect();
        assert_eq!(members, model, "round {round}: {operations:?}");
    }
    assert!(refused >= 3 && version >= 30, "{refused}, {version}");
}

/// At the same time, so that they share commits: half of them are refused, at different moments of their writing.
async fn a_refusal_beside_others_takes_nothing_with_it(scim: &Scim) {
    scim.user("taken").await;
    let gone = scim.user("gone").await;
    scim.call("DELETE", &format!("/Users/{gone}"), Value::Null).await.is(204);
    let group = scim.group("blue", &[]).await;
    let path = format!("/Groups/{group}");
    let one = async |number: usize| match number % 4 {
        0 => scim.call("POST", "/Users", json!({ "schemas": [USER], "userName": format!("u{number}") })).await.is(201),
        1 => {
            // Comes back from among the deleted, and is refused only then.
            let body = json!({ "schemas": [USER], "userName": "TAKEN", "externalId": "x-gone" });
            scim.call("POST", "/Users", body).await.is(409)
        }
        2 => {
            let member = json!([{ "op": "add", "path": "members", "value": [{ "value": format!("m{number}") }] }]);
            scim.patch(&path, member).await.is(200)
        }
        _ => {
            let halves = json!([
                { "op": "add", "path": "members", "value": [{ "value": format!("m{number}") }] },
                { "op": "remove", "path": "displayName" },
            ]);
            scim.patch(&path, halves).await.is(400)
        }
    };
    join_all((0..4 * CLIENTS).map(one)).await;
    let made = scim.filter("Users", r#"userName sw "u""#).await.is(200);
    assert_eq!(made["totalResults"], CLIENTS);
    assert_eq!(scim.members(&group).await.len(), CLIENTS);
    let version = scim.get(&path).await["meta"]["version"].clone();
    assert_eq!(version, format!("W/\"{}\"", CLIENTS + 1));
    let back = json!({ "schemas": [USER], "userName": "back", "externalId": "x-gone" });
    scim.call("POST", "/Users", back).await.is(201);
    let resources = usher::store::scim::Resources::new(scim.store.clone(), "acme");
    let people = resources.provisioned(&mut usher::store::scim::Known::default()).await.unwrap().users;
    let names = people.iter().filter(|person| person.localpart.as_str() == "gone").count();
    assert_eq!(names, 1, "who was deleted is still known, and comes back under the old name");
}

/// Connections that end while their requests are under way.
async fn who_goes_away_in_the_middle_holds_up_nobody(scim: &Scim) {
    for round in 0..10_u64 {
        let one = async |number: usize| {
            let body = json!({ "schemas": [USER], "userName": format!("r{round}-{number}") });
            let writing = scim.call("POST", "/Users", body);
            let patience = std::time::Duration::from_micros(200 * u64::try_from(number).unwrap() * (1 + round % 4));
            match tokio::time::timeout(patience, writing).await {
                Ok(answer) => Some(super::id(&answer.is(201))),
                Err(_) => None,
            }
        };
        let answered = join_all((0..CLIENTS).map(one)).await;
        scim.user(&format!("round{round}")).await;
        for id in answered.into_iter().flatten() {
            scim.get(&format!("/Users/{id}")).await;
        }
    }
}
