//! kill -9 of usher and of Synapse at random moments of a first apply (S-83).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::time::Duration;

use serde_json::json;

use super::stage::Stage;
use super::world::World;

/// A small generator: moments need no quality, only a seed that can be printed and given again.
pub struct Moments(u64);

impl Moments {
    /// From `USHER_SEED`, with `USHER_LONG=1` from the clock, else always the same; printed, so that a failure can be run again.
    pub fn new(what: &str) -> Self {
        let given = std::env::var("USHER_SEED").ok().and_then(|seed| seed.parse().ok());
        let new = || std::env::var_os("USHER_LONG").and_then(|_| u64::try_from(usher::clock::now().0).ok());
        let seed = given.or_else(new).unwrap_or(1);
        println!("{what}: USHER_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Kills of usher: 10 in CI, 300 with `USHER_LONG=1`.
fn kills() -> u64 {
    if std::env::var_os("USHER_LONG").is_some() { 300 } else { 10 }
}

/// Kills usher after a random number of writes, twice in a row, then lets it finish: five worlds' first applies in CI.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usher_killed_at_any_moment_of_a_first_apply_converges_without_doubles() {
    let mut moments = Moments::new("usher killed");
    let mut killed = 0;
    while killed < kills() {
        let world = World::new().await;
        // A first apply of this company is about 45 writes, 6 of them createRoom.
        for most in [45, 30] {
            killed += u64::from(kill_in_an_apply(&world, &mut moments, most).await);
        }
        world.usher(&["apply", "--yes"]).await.code(0);
        world.assert_members().await;
        world.must_be_settled().await;
        world.assert_no_doubles().await;
        assert_eq!(world.made_rooms().await, world.bot_rooms().await, "rooms that were made and lost");
        assert_eq!(world.removed().await.len(), 0);
    }
    println!("{killed} kills");
}

/// `false`: the apply was over before its moment came.
async fn kill_in_an_apply(world: &World, moments: &mut Moments, most: u64) -> bool {
    world.proxy.clear();
    let mut usher = world.start(&["apply", "--yes"]);
    let writes = usize::try_from(moments.below(most)).unwrap();
    let pause = Duration::from_micros(moments.below(20_000));
    for _ in 0..20_000 {
        if world.proxy.writes().len() >= writes || usher.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(pause).await;
    if usher.has_ended() {
        usher.wait().await.code(0);
        return false;
    }
    usher.kill9();
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synapse_killed_three_times_in_a_first_apply_is_survived() {
    let mut moments = Moments::new("Synapse killed");
    let world = World::bare(Stage::own().await).await;
    world.bootstrap().await;
    world.proxy.clear();
    let mut usher = world.start(&["run"]);
    for _ in 0..3 {
        let (before, more) = (world.proxy.writes().len(), usize::try_from(moments.below(15)).unwrap());
        for _ in 0..3_000 {
            if world.proxy.writes().len() >= before + more {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut synapse = world.stage.synapse().await;
        synapse.kill9();
        tokio::time::sleep(Duration::from_millis(200)).await;
        synapse.restart().await;
        usher.must_run();
    }
    super::world::until("everybody is in", async || world.is_right().await).await;
    usher.stop().await.code(0);
    // A kill may fall between a write and its answer: what is left is done here.
    world.usher(&["apply", "--yes"]).await.code(0);
    world.assert_members().await;
    world.must_be_settled().await;
    world.assert_no_doubles().await;
    assert_eq!(world.removed().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_the_work_is_orderly_and_the_next_start_finishes() {
    let mut world = World::new().await;
    // Slow enough to be met in the middle.
    world.config["provisioner"]["max_rate"] = json!(8);
    world.write();
    world.proxy.clear();
    let mut daemon = world.start(&["run"]);
    super::world::until("some writes", async || world.proxy.writes().len() >= 10).await;
    daemon.must_run();
    daemon.stop().await.code(0);
    assert!(!world.is_right().await, "it was stopped in the middle");
    let written = world.proxy.writes().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.proxy.writes().len(), written);
    world.config["provisioner"]["max_rate"] = json!(1000);
    world.write();
    let daemon = world.start(&["run"]);
    super::world::until("everybody is in", async || world.is_right().await).await;
    daemon.stop().await.code(0);
    world.must_be_settled().await;
    world.assert_no_doubles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_homeserver_that_hangs_does_not_keep_usher_from_stopping() {
    let mut world = World::new().await;
    world.config["source"] = json!({ "check_interval_seconds": 1 });
    world.write();
    let daemon = world.start(&["run"]);
    super::world::until("everybody is in", async || world.is_right().await).await;
    world.proxy.spoil(|_| Some(crate::lab::proxy::Fault::Delay(Duration::from_mins(1))));
    // Longer than a poll's interval: a request hangs by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    daemon.stop().await.code(0);
}
