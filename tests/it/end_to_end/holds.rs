//! Blast radius (S-81): what would remove many waits for an approval, and a restart forgets nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeSet;

use std::time::Duration;

use serde_json::Value;

use super::world::{World, until};
use crate::lab::proxy::Fault;

/// Ten more people for the blue team: it has 15, the company 20.
pub(super) async fn larger() -> World {
    let mut world = World::new().await;
    for number in 0..10 {
        let name = format!("x{number}");
        world.employ(&name);
        world.open_account(&name).await;
        world.groups.get_mut("blue").unwrap().insert(name);
    }
    world.write();
    world.settle().await;
    world
}

pub(super) fn lose(world: &mut World, names: impl IntoIterator<Item = String>) {
    for name in names {
        assert!(world.groups.get_mut("blue").unwrap().remove(&name));
    }
    world.write_source();
}

pub(super) fn extras(from: usize, to: usize) -> impl Iterator<Item = String> {
    (from..to).map(|number| format!("x{number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_removal_is_held_until_it_is_approved() {
    let mut world = larger().await;
    let lost: BTreeSet<String> = extras(0, 10).chain(["jon".to_owned(), "ida".to_owned()]).collect();
    lose(&mut world, lost.clone());
    world.usher(&["plan"]).await.code(3);
    for _ in 0..2 {
        world.usher(&["apply", "--yes"]).await.code(3).says("held");
        assert_eq!(world.removed().await.len(), 0);
    }
    let listed = world.usher(&["hold", "list", "--json"]).await;
    listed.code(0);
    let holds: Value = serde_json::from_str(&listed.out).unwrap();
    assert!(!holds.as_array().unwrap().is_empty(), "{}", listed.out);
    let id = holds[0]["id"].as_str().unwrap();
    world.usher(&["hold", "list"]).await.code(0).says(id);
    world.usher(&["hold", "show", id]).await.code(0).says(&world.user("x3"));
    world.usher(&["hold", "approve", "--all"]).await.code(0).says("Approved");
    world.usher(&["plan"]).await.code(2);
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_members().await;
    assert_eq!(world.removed().await, lost);
    world.must_be_settled().await;
    world.usher(&["hold", "list"]).await.code(0).says("Nothing is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_usher_picks_an_approval_up() {
    let mut world = larger().await;
    lose(&mut world, extras(0, 10));
    let daemon = world.start(&["run"]);
    until("it is held", async || world.status().await["plan"]["held"].as_u64().is_some_and(|held| held > 0)).await;
    let (_, metrics) = world.ops("/metrics").await;
    assert!(
        metrics.lines().any(|line| line.starts_with("usher_held{class=\"kicks") && !line.ends_with(" 0")),
        "{metrics}"
    );
    assert_eq!(world.removed().await.len(), 0);
    world.usher(&["hold", "approve", "--all"]).await.code(0);
    until("they are out", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    assert_eq!(world.removed().await, extras(0, 10).collect());
    world.must_be_settled().await;
}

/// Operators are told of what waits whenever somebody looks, and a pass may last for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_approved_and_is_done_does_not_wait_again_while_the_pass_goes_on() {
    let mut world = larger().await;
    lose(&mut world, extras(0, 10));
    world.usher(&["apply", "--yes"]).await.code(3);
    world.usher(&["hold", "approve", "--all"]).await.code(0);
    world.proxy.spoil(|seen| seen.path.ends_with("/kick").then_some(Fault::Late(Duration::from_secs(1))));
    let mut apply = world.start(&["apply", "--yes"]);
    let mut left = BTreeSet::new();
    until("it has ended", async || {
        let (holds, approvals) = world.store().await.held().await.unwrap();
        let held: Vec<_> = holds.iter().flat_map(|hold| &hold.steps).collect();
        left.insert(held.len());
        let waiting: Vec<_> = held.iter().filter(|step| !approvals.contains_key(&step.id)).collect();
        assert!(waiting.is_empty(), "{waiting:?}");
        apply.has_ended()
    })
    .await;
    apply.wait().await.code(0);
    assert!(left.len() > 2, "it was looked at on the way: {left:?}");
    assert_eq!(world.removed().await, extras(0, 10).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_before_a_restart_still_counts() {
    let mut world = larger().await;
    lose(&mut world, extras(0, 3));
    world.usher(&["apply", "--yes"]).await.code(0);
    assert_eq!(world.removed().await, extras(0, 3).collect());
    // Three more are six of one team within a day: one more than it may lose.
    lose(&mut world, extras(3, 6));
    for _ in 0..2 {
        world.usher(&["apply", "--yes"]).await.code(3);
        let blue = world.inside("blue").await;
        assert!(extras(3, 6).all(|name| blue.contains(&name)), "{blue:?}");
    }
}
