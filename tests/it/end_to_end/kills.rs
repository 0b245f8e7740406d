//! kill -9 around every kind of write to an account (S-83): before the homeserver gets it, and after it has done it and before its answer
//! is there. Whatever was cut is finished by the next run, nothing is doubled that does harm, and usher still knows what is its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::accounts::{come_back, company, leave};
use super::estates::room_of;
use super::world::{World, replace};
use crate::lab::proxy::{Fault, Seen};

/// Where a request is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Before,
    After,
}

impl Cut {
    /// How often a write is sent again that shows afterwards whether it was done.
    pub(super) fn again(self) -> usize {
        usize::from(self == Self::Before)
    }
}

/// A kind of write.
pub(super) type Kind = fn(&Seen) -> bool;

/// Applies and kills usher around its first write of this kind.
pub(super) async fn killed_at(world: &World, minutes: i64, kind: Kind, cut: Cut) {
    let met = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&met);
    world.proxy.set_clock_ahead(minutes * 60);
    world.proxy.spoil(move |request| {
        if !request.is_write() || !kind(request) || seen.swap(true, Ordering::SeqCst) {
            return None;
        }
        let long = Duration::from_mins(1);
        Some(match cut {
            Cut::Before => Fault::Delay(long),
            Cut::After => Fault::Late(long),
        })
    });
    let offset = format!("+{minutes}m");
    let held = world.proxy.held();
    let mut usher = world.start_at(&offset, &["apply", "--yes"]);
    super::world::until("the write is met", async || met.load(Ordering::SeqCst) || usher.has_ended()).await;
    let said = || {
        let writes: Vec<_> = world.proxy.seen().into_iter().filter(Seen::is_write).map(|seen| seen.path).collect();
        format!("{}\nwritten: {writes:#?}", super::child::tail(&usher.said()))
    };
    assert!(met.load(Ordering::SeqCst), "no such write {minutes} minutes on:\n{}", said());
    if cut == Cut::After {
        super::world::until("the homeserver has done it", async || world.proxy.held() > held).await;
    }
    usher.kill9();
    world.proxy.behave();
    world.proxy.set_clock_ahead(0);
}

/// So many writes of a kind came through since the proxy was cleared; those that were cut are not among them.
pub(super) fn count(world: &World, kind: Kind) -> usize {
    world.proxy.seen().iter().filter(|seen| seen.is_write() && kind(seen)).count()
}

fn of_account(seen: &Seen, key: &str) -> bool {
    seen.path.contains("/v2/users/") && seen.body.get(key).is_some()
}

/// Everything that happens to somebody who leaves, comes back, and leaves for good: each write of it is cut once.
async fn cut_in_every_write_of_a_leavers_life(cut: Cut) {
    let locks: Kind = |seen| of_account(seen, "locked");
    let mirrors: Kind = |seen| seen.path.contains("account_data/dev.usher.leavers");
    let pushers: Kind = |seen| seen.path.ends_with("/pushers/set");
    let turned_down: Kind = |seen| seen.path.contains("/state/m.room.member/");
    let handed_over: Kind = |seen| seen.path.ends_with("/make_room_admin");
    let ends: Kind = |seen| seen.path.contains("/v1/deactivate/");

    let mut world = company().await;
    room_of(&world, "jon", &["ida"], &[]).await;
    room_of(&world, "hal", &[], &["jon"]).await;
    let pusher = json!({
        "kind": "http", "app_id": "app", "pushkey": world.local("jon"), "app_display_name": "App", "device_display_name": "Phone",
        "lang": "en", "data": { "url": "http://127.0.0.1:1/_matrix/push/v1/notify" },
    });
    assert_eq!(world.as_person("jon", "POST", "/_matrix/client/v3/pushers/set", pusher).await.0, 200);
    leave(&mut world, "jon");
    world.usher(&["apply", "--yes"]).await.code(0);
    world.proxy.clear();
    killed_at(&world, 120, locks, cut).await;
    for (minutes, kind) in [(121, mirrors), (122, pushers), (123, turned_down)] {
        killed_at(&world, minutes, kind, cut).await;
    }
    world.apply_at(124, true).await.code(0);
    for (what, kind) in [("lock", locks), ("pushers", pushers), ("turn down", turned_down)] {
        assert_eq!(count(&world, kind), cut.again(), "{what} {cut:?}");
    }
    assert_eq!(world.session("jon").await, "M_USER_LOCKED", "{cut:?}");
    world.usher_at("+125m", &["plan"]).await.code(0).says("grace until");

    come_back(&mut world, "jon");
    world.proxy.clear();
    killed_at(&world, 180, locks, cut).await;
    world.apply_at(181, true).await.code(0);
    assert_eq!((world.session("jon").await, count(&world, locks)), ("ok".to_owned(), cut.again()), "{cut:?}");
    let pushers = world.as_person("jon", "GET", "/_matrix/client/v3/pushers", Value::Null).await.1;
    assert_eq!(pushers["pushers"], json!([]));

    leave(&mut world, "jon");
    world.apply_at(240, true).await.code(0);
    world.apply_at(360, true).await.code(0);
    let due = 360 + 24 * 60;
    world.apply_at(due + 1, true).await.code(0);
    assert_eq!(world.account("jon").await["deactivated"], false);
    world.proxy.clear();
    killed_at(&world, due + 12, handed_over, cut).await;
    killed_at(&world, due + 23, ends, cut).await;
    world.apply_at(due + 24, true).await.code(0);
    world.apply_at(due + 35, true).await.code(0);
    assert_eq!(count(&world, handed_over), cut.again(), "{cut:?}");
    // Asked again until it is over, which does no harm.
    assert!(count(&world, ends) <= 1, "{cut:?}");
    let account = world.account("jon").await;
    assert!(account["deactivated"] == true && account["erased"] == true, "{cut:?}: {account}");
    assert!(!world.inside("blue").await.contains("jon"));
    let audited = world.audited().await;
    assert!(!audited.contains(&world.local("jon")), "{cut:?}: {audited}");
    world.usher_at(&format!("+{}m", due + 36), &["plan"]).await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_before_any_write_of_a_leavers_life_still_knows_whose_lock_it_is() {
    cut_in_every_write_of_a_leavers_life(Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_after_any_write_of_a_leavers_life_still_knows_whose_lock_it_is() {
    cut_in_every_write_of_a_leavers_life(Cut::After).await;
}

/// Lets the source say something else of one person.
fn say(world: &World, name: &str, key: &str, value: Value) {
    let path = world.path("company.json");
    let mut source: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let person = source["users"].as_array_mut().unwrap().iter_mut().find(|person| person["id"] == name);
    person.unwrap()[key] = value;
    replace(&path, &source.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_around_a_name_or_addresses_writes_them_once_and_knows_what_it_gave() {
    let names: Kind = |seen| of_account(seen, "displayname");
    let addresses: Kind = |seen| of_account(seen, "threepids");
    let mut world = World::new().await;
    world.config["userProvisioner"] = json!({ "synapse": { "attributes": ["displayName", "emails"] } });
    world.write();
    world.settle().await;
    for (cut, word) in [(Cut::Before, "one"), (Cut::After, "two")] {
        let mail = world.mail(word);
        for (key, value, kind) in [("display_name", json!(word), names), ("emails", json!([mail]), addresses)] {
            say(&world, "jon", key, value);
            world.proxy.clear();
            killed_at(&world, 0, kind, cut).await;
            world.usher(&["apply", "--yes"]).await.code(0);
            assert_eq!(count(&world, kind), cut.again(), "{key} {cut:?}");
        }
        let account = world.account("jon").await;
        assert_eq!((&account["displayname"], &account["threepids"][0]["address"]), (&json!(word), &json!(mail)));
        world.usher(&["plan"]).await.code(0);
    }
    // The last of them was cut, and is known to be usher's all the same.
    say(&world, "jon", "emails", json!([]));
    world.proxy.clear();
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!((count(&world, addresses), &world.account("jon").await["threepids"]), (1, &json!([])));
    world.must_be_settled().await;
}
