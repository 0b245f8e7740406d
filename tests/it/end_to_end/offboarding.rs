//! Who is gone from the directory (S-24): twice seen missing, or marked as disabled.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use super::world::World;

/// Long enough after the first look for the second one to count.
const LATER: &str = "+2h";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_is_removed_after_two_reads_and_who_is_disabled_at_once() {
    let mut world = World::new().await;
    world.settle().await;
    gone(&mut world, "jon");
    for _ in 0..2 {
        world.usher(&["apply", "--yes"]).await.code(0);
        assert_eq!(world.removed().await.len(), 0, "one look is not enough, nor are two close together");
    }
    world.usher_at(LATER, &["plan"]).await.code(0);
    world.usher_at(LATER, &["apply", "--yes"]).await.code(0);
    assert_eq!(world.removed().await, ["jon".to_owned()].into());
    world.assert_members().await;

    world.people.insert("ida".to_owned(), false);
    world.groups.get_mut("blue").unwrap().remove("ida");
    world.write_source();
    world.usher_at(LATER, &["apply", "--yes"]).await.code(0);
    assert_eq!(world.removed().await, ["jon".to_owned(), "ida".to_owned()].into());
    world.assert_members().await;
}

fn gone(world: &mut World, name: &str) {
    world.people.remove(name);
    for members in world.groups.values_mut() {
        members.remove(name);
    }
    world.write_source();
}
