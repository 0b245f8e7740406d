//! Exit codes and what is said when something is wrong (S-90, S-110).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::io::Write as _;

use serde_json::json;

use super::stage::Stage;
use super::world::{World, replace, until};
use crate::lab::synapse::SERVER_NAME;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_trouble_has_its_exit_code_and_a_text() {
    let mut world = World::bare(Stage::shared().await).await;
    world.usher(&["paln"]).await.code(64).says("plan");
    world.usher(&["apply"]).await.code(64).says("--yes");

    let company = world.path("company.json");
    std::fs::remove_file(&company).unwrap();
    world.usher(&["plan"]).await.code(75).says("no such file");
    replace(&company, "{ nonsense");
    world.usher(&["plan"]).await.code(75).says("company.json");
    replace(&company, "\u{1}\u{2}");
    world.usher(&["apply", "--yes"]).await.code(75).says("company.json");
    std::fs::write(&company, [0xff, 0xfe, 0x00]).unwrap();
    world.usher(&["apply", "--yes"]).await.code(75).says("UTF-8");
    world.write();

    let registration = std::fs::read_to_string(world.path("usher-registration.yaml")).unwrap();
    let wrong = "0123456789abcdef".repeat(4);
    replace(&world.path("usher-registration.yaml"), &registration.replace(&world.slot.tokens[0], &wrong));
    world.secrets.push(wrong);
    for verb in [&["plan"][..], &["apply", "--yes"], &["check"]] {
        world.usher(verb).await.code(1).says("app_service_config_files");
    }
    replace(&world.path("usher-registration.yaml"), "id: x\n");
    world.usher(&["plan"]).await.code(78).says("usher-registration.yaml");
    std::fs::remove_file(world.path("usher-registration.yaml")).unwrap();
    world.usher(&["plan"]).await.code(78).says("usher registration generate");
    replace(&world.path("usher-registration.yaml"), &registration);

    world.config["homeserver"] = json!({ "url": "http://127.0.0.1:1" });
    world.write();
    for verb in [&["plan"][..], &["apply", "--yes"], &["run", "--once"], &["check"]] {
        world.usher(verb).await.code(75).says("(homeserver.url http://127.0.0.1:1)");
    }
    // Registrations are written with the homeserver down, and keep their tokens.
    world.usher(&["registration", "generate"]).await.code(0);
    let again = std::fs::read_to_string(world.path("usher-registration.yaml")).unwrap();
    assert!(again.contains(&world.slot.tokens[0]));

    world.config["homeserver"] = json!({ "url": "not a url" });
    world.config["instnce"] = json!("x");
    world.write();
    world.usher(&["check"]).await.code(78).says("instance");
    world.usher(&["plan"]).await.code(78).says("usher.yaml");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_read_adds_and_counts_what_it_does_not_remove_as_held() {
    let mut world = World::new().await;
    world.settle().await;
    world.transfer("bob", "red", "blue");
    world.write_source();
    let text = std::fs::read_to_string(world.path("company.json")).unwrap();
    let partly = text.replacen('{', "{ \"completeness\": { \"incomplete\": [\"page 2 failed\"] }, ", 1);
    replace(&world.path("company.json"), &partly);
    world.usher(&["apply", "--yes"]).await.code(3).says("page 2 failed");
    assert!(world.inside("blue").await.contains("bob"));
    assert!(world.inside("red").await.contains("bob"));
    world.write_source();
    world.settle().await;
    world.assert_members().await;
}

/// A bug report: what was recorded decides as the program did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_world_plans_the_same_again() {
    let world = World::new().await;
    let planned = world.usher(&["plan", "--json", "--record", "world.json"]).await;
    planned.code(2);
    let text = std::fs::read_to_string(world.path("world.json")).unwrap();
    for secret in &world.secrets {
        assert!(!text.contains(secret.as_str()), "a secret was recorded");
    }
    let recorded: usher::plan::World = serde_json::from_str(&text).unwrap();
    let files = [(world.path("usher.yaml"), recorded.config.clone())];
    let config = usher::config::load_with(&files, &|_| None).lenient().map_err(|problems| format!("{problems:?}"));
    let again = recorded.decide(&config.unwrap().0).plan;
    let plan: serde_json::Value = serde_json::from_str(&planned.out).unwrap();
    assert_eq!(again.steps.len(), plan["steps"].as_array().unwrap().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_the_name_the_homeserver_has_for_itself_and_what_is_not_known_without_admin_rights() {
    let mut world = World::bare(Stage::shared().await).await;
    let unseen = "not protected as such";
    world.usher(&["check"]).await.code(0).says(unseen).says("provisioner.protected_users");
    world.bootstrap().await;
    let checked = world.usher(&["check"]).await;
    assert!(!checked.code(0).out.contains(unseen), "{}", checked.out);

    world.config["homeserver"] = json!({ "server_name": "elsewhere.example" });
    world.write();
    let named = format!("calls itself '{SERVER_NAME}': write server_name: {SERVER_NAME}");
    world.usher(&["check"]).await.code(78).says("homeserver.server_name is 'elsewhere.example'").says(&named);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_on_record_and_the_first_apply_goes_on_from_there() {
    let world = World::bare(Stage::shared().await).await;
    world.promote().await;
    let rows: Vec<serde_json::Value> =
        world.audited().await.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |row: &serde_json::Value| ["action", "after", "result"].map(|key| row[key].as_str().unwrap().to_owned());
    let told: Vec<_> = rows.iter().map(told).collect();
    assert_eq!(told, [["make server admin", "server admin", "done"].map(str::to_owned)]);
    world.usher(&["plan"]).await.code(2);
    world.settle().await;
    world.assert_no_doubles().await;
}

/// S-80, over a whole life: looking verbs make no database, and leave one as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_makes_no_database_and_changes_none() {
    let world = World::new().await;
    let ann = world.user("ann");
    let looks: [&[&str]; 7] = [
        &["plan"],
        &["check"],
        &["status"],
        &["explain", &ann],
        &["hold", "list"],
        &["hold", "show", "h-1"],
        &["run", "--dry-run", "--once"],
    ];
    let database = || -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(world.folder.path()).unwrap().map(|entry| entry.unwrap());
        let of_it = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("usher.db"));
        of_it.map(|it| (it.file_name().into_string().unwrap(), std::fs::read(it.path()).unwrap())).collect()
    };
    let look = async || {
        for args in looks {
            world.usher(args).await;
        }
        let mut daemon = world.start(&["run", "--dry-run"]);
        until("a pass", async || world.status().await["last_pass"].is_object()).await;
        daemon.must_run();
        daemon.stop().await.code(0);
        database()
    };
    assert_eq!(look().await, []);
    world.settle().await;
    let before = database();
    assert!(
        before.iter().all(|(name, _)| ["usher.db", "usher.db.lock"].contains(&name.as_str())),
        "nothing lies beside it"
    );
    assert_eq!(look().await, before);
}

/// What `usher apply` shows at a terminal, where somebody types `answer` once asked; and its exit code.
async fn apply_at_a_terminal(world: &World, answer: &str) -> (Option<i32>, String) {
    let shown = world.path("terminal.out");
    let mut script = std::process::Command::new("script")
        // `exec`: a shell of its own between them would end of the Ctrl-C that usher takes for a no.
        .args(["-qefc", &format!("exec {} apply", env!("CARGO_BIN_EXE_usher"))])
        .arg("/dev/null")
        .current_dir(world.folder.path())
        .env_remove("USHER_CONFIG")
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::fs::File::create(&shown).unwrap())
        .spawn()
        .unwrap();
    let mut keyboard = script.stdin.take().unwrap();
    let text = || String::from_utf8_lossy(&std::fs::read(&shown).unwrap()).into_owned();
    until("the question", async || text().contains("[y/N]")).await;
    keyboard.write_all(answer.as_bytes()).unwrap();
    let mut ended = None;
    until("its end", async || {
        ended = script.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    for secret in &world.secrets {
        assert!(!text().contains(secret), "a secret is shown");
    }
    (ended.unwrap().code(), text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_it_asks_and_the_log_never_runs_into_the_bar() {
    let world = World::new().await;
    world.proxy.clear();
    // Ctrl-C is a no.
    for no in ["\n", "n\n", "\u{3}"] {
        let (code, shown) = apply_at_a_terminal(&world, no).await;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("Nothing was changed."), "{shown}");
    }
    assert_eq!(world.proxy.writes(), Vec::<String>::new());
    let (code, shown) = apply_at_a_terminal(&world, "y\n").await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(" to go") && shown.contains(" INFO "), "{shown}");
    // What stands in a line is what was written after the last return or erasure.
    let last = |line: &str| line.rsplit(['\r', 'K']).next().unwrap_or_default().to_owned();
    for line in shown.split("\r\n").filter(|line| line.contains(" INFO ")) {
        let (before, _) = line.split_once(" INFO ").unwrap();
        assert!(!last(before).contains("to go"), "{line:?}");
    }
    world.assert_members().await;
}
