//! Two ushers at once (S-85).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use serde_json::json;

use super::world::{World, until};
use crate::lab::postgres::Postgres;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_on_sqlite_ends_with_5_and_names_the_first() {
    let world = World::new().await;
    let daemon = world.start(&["run"]);
    until("everybody is in", async || world.is_right().await).await;
    let holder = format!("process {}", daemon.pid());
    world.usher(&["apply", "--yes"]).await.code(5).says(&holder);
    world.usher(&["run", "--once"]).await.code(5).says(&holder);
    world.usher(&["run"]).await.code(5).says(&holder);
    until("a pass", async || world.status().await["last_pass"].is_object()).await;
    world.usher(&["plan"]).await.code(0);
    world.usher(&["hold", "list"]).await.code(0).says("Nothing is held");
    world.usher(&["explain", &world.user("ann")]).await.code(0);
    world.usher(&["status"]).await.code(0);
    world.usher(&["check"]).await.code(0);
    daemon.stop().await.code(0);
    world.must_be_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_on_postgresql_stands_by_and_takes_over() {
    let postgres = Postgres::shared().await;
    let mut world = World::new().await;
    let url = postgres.database().await;
    world.config["database"] = json!({ "url": url });
    world.write();
    world.usher(&["plan"]).await.code(2);
    world.usher(&["hold", "list"]).await.code(0).says("no database yet");
    assert_eq!(tables(&url).await, 0, "looking makes no tables");
    // One writer after the other: the first gives its lease back.
    for _ in 0..2 {
        world.usher(&["apply", "--yes"]).await.code(0);
    }
    let mut first = world.start(&["run"]);
    first.until_said("usher runs").await;
    let holder = format!("process {}", first.pid());
    world.usher(&["apply", "--yes"]).await.code(5).says(&holder);

    world.move_ops();
    let mut second = world.start(&["run"]);
    second.until_said("standing by").await;
    assert_eq!(world.ops("/live").await.0, 200, "a stand-by lives");
    assert_eq!(world.ops("/ready").await.0, 200);
    until("it says so", async || world.status().await["mode"] == "standby").await;
    world.transfer("bob", "red", "blue");
    first.kill9();
    world.write_source();
    until("the second has done it", async || world.is_right().await).await;
    until("it says so", async || world.status().await["mode"] == "live").await;
    second.must_run();
    second.stop().await.code(0);
    world.must_be_settled().await;
    world.assert_no_doubles().await;
}

async fn tables(url: &str) -> i64 {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    let count = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
    let count = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap();
    pool.close().await;
    count
}
