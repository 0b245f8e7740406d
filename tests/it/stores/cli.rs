//! `usher hold`, `usher status`, and the exit codes of the command line itself.

use std::process::{Command, Output};
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use usher::cli::{Exit, HoldVerb, hold, status};
use usher::config::Ops;
use usher::http::ops::{Heartbeat, Operations, bind, serve};
use usher::ids::Timestamp;
use usher::observability::{Metrics, Status};
use usher::store::Store;

use super::behaviour::hold as row;
use super::{Database, on_both};

on_both! {
    holds_are_listed_shown_and_approved
    a_hold_that_is_not_there_is_named_beside_those_that_are
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

async fn holding(store: &Store, verb: HoldVerb) -> (String, Exit) {
    hold::run(store, &verb, NOW, "ann").await.unwrap()
}

async fn holds_are_listed_shown_and_approved(database: &Database) {
    let store = database.open().await;
    assert_eq!(holding(&store, HoldVerb::List { json: false }).await, ("Nothing is held.\n".into(), Exit::Done));
    store.set_holds(&[row("h-1", 2, 1_699_999_000_000), row("h-2", 1, 1_699_999_000_000)]).await.unwrap();
    let (text, _) = holding(&store, HoldVerb::List { json: false }).await;
    let expected = "\
h-1  kicks_per_space  2 steps
    12 of 40 people in Engineering, limit 12
    held since 2023-11-14 21:56:40 UTC
h-2  kicks_per_space  1 step
    12 of 40 people in Engineering, limit 12
    held since 2023-11-14 21:56:40 UTC

Look:    usher hold show h-1
Approve: usher hold approve h-1
";
    assert_eq!(text, expected);
    let (text, _) = holding(&store, HoldVerb::Show { id: "h-1".into() }).await;
    assert!(text.ends_with("  kick @user0\n  kick @user1\n"), "{text}");

    let (text, exit) = holding(&store, HoldVerb::Approve { ids: vec!["h-1".into()], all: false }).await;
    assert_eq!(exit, Exit::Done);
    assert!(text.starts_with("Approved h-1: 2 steps of kicks_per_space.\n"), "{text}");
    let approved = store.approvals().await.unwrap();
    let ends: Vec<(&str, Timestamp)> = approved.iter().map(|(step, until)| (step.0.as_str(), *until)).collect();
    let until = NOW.plus_ms(hold::APPROVAL_MS);
    assert_eq!(ends, [("h-1-0", until), ("h-1-1", until)]);

    let (text, _) = holding(&store, HoldVerb::List { json: true }).await;
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list[0]["id"], "h-1");
    assert_eq!(list[0]["class"], "kicks_per_space");
    assert_eq!(list[0]["approved_until"], until.0);
    assert_eq!(list[0]["steps"][1], serde_json::json!({"id": "h-1-1", "text": "kick @user1"}));
    assert!(list[1].get("approved_until").is_none());

    holding(&store, HoldVerb::Approve { ids: Vec::new(), all: true }).await;
    assert_eq!(store.approvals().await.unwrap().len(), 3);
}

async fn a_hold_that_is_not_there_is_named_beside_those_that_are(database: &Database) {
    let store = database.open().await;
    store.set_holds(&[row("h-1", 2, 0)]).await.unwrap();
    let unknown = ("There is no hold h-9. Held now: h-1.\n".to_owned(), Exit::Error);
    let ids = vec!["h-1".to_owned(), "h-9".to_owned()];
    assert_eq!(holding(&store, HoldVerb::Approve { ids, all: false }).await, unknown);
    assert_eq!(holding(&store, HoldVerb::Show { id: "h-9".into() }).await, unknown);
    assert!(store.approvals().await.unwrap().is_empty(), "nothing is approved when one of the ids is wrong");
}

#[tokio::test]
async fn status_comes_from_the_running_usher_or_else_from_its_database() {
    let database = Database::sqlite();
    let store = database.open().await;
    store.set_holds(&[row("h-1", 2, 0)]).await.unwrap();
    let socket = bind("127.0.0.1:0").await.unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    let right = Ops { listen: listen.clone(), token: Some(SecretString::from("t")) };
    let (_sender, status) = watch::channel(Status { instance: "main".into(), ..Status::default() });
    let operations = Operations {
        heartbeat: Heartbeat::default(),
        metrics: Arc::new(Metrics::new()),
        status,
        store: tokio::sync::watch::channel(Some(store)).1,
        token: right.token.clone(),
    };
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(socket, operations, stop.clone()));

    let (text, exit) = status::run(&right, &database.url, false).await.unwrap();
    assert_eq!(exit, Exit::Done);
    assert!(text.contains("instance main, live"), "{text}");
    let wrong = Ops { listen, token: None };
    let error = status::run(&wrong, &database.url, false).await.unwrap_err().to_string();
    assert!(error.contains("ops.token"), "{error}");

    stop.cancel();
    served.await.unwrap().unwrap();
    let (text, exit) = status::run(&right, &database.url, true).await.unwrap();
    assert_eq!(exit, Exit::Error);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["running"], &shown["holds"][0]["id"]), (&false.into(), &"h-1".into()));
}

fn usher(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usher")).args(args).output().unwrap()
}

#[test]
fn the_program_itself_ends_with_the_codes_it_documents() {
    let wrong = usher(&["plan", "--jsn"]);
    assert_eq!(wrong.status.code(), Some(64));
    assert!(wrong.stdout.is_empty() && String::from_utf8_lossy(&wrong.stderr).contains("--json"));
    assert_eq!(usher(&[]).status.code(), Some(64));
    let version = usher(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&version.stdout), concat!("usher ", env!("CARGO_PKG_VERSION"), "\n"));
    let script = usher(&["completions", "bash"]);
    assert_eq!(script.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&script.stdout).contains("_usher"));
}

/// The program in a folder of its own, with these files in it.
fn usher_in(folder: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(args)
        .current_dir(folder)
        .env_remove("USHER_CONFIG")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (
        ended.status.code(),
        String::from_utf8_lossy(&ended.stdout).into_owned() + &*String::from_utf8_lossy(&ended.stderr),
    )
}

#[test]
fn a_configuration_that_cannot_be_read_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().canonicalize().unwrap();
    std::fs::create_dir(place.join("etc")).unwrap();
    std::fs::write(place.join("base.yaml"), "homeserver: { url: 'http://127.0.0.1:1', server_name: a.b }\n").unwrap();
    let here = format!("usher: there is no usher.yaml in {}: name your configuration with -c FILE", place.display());
    let absolute = place.join("x.yaml").display().to_string();
    let cases: [(&[&str], &str); 6] = [
        (&["plan"], &here),
        (&["check"], &here),
        (&["config", "dump"], &here),
        (&["plan", "-c", &absolute], &format!("usher: there is no {absolute}: name")),
        (&["-c", "etc", "plan"], "usher: etc is a directory"),
        (&["-c", "base.yaml", "plan", "-c", "gone.yaml"], "usher: there is no gone.yaml in "),
    ];
    for (args, text) in cases {
        let (code, said) = usher_in(&place, args);
        assert_eq!(code, Some(78), "{args:?}: {said}");
        assert!(said.starts_with(text) && !said.contains("1:1"), "{args:?}: {said}");
    }
}

const FILE_SOURCE: &str = "homeserver: { url: 'http://127.0.0.1:1', server_name: example.com }\n\
     source: { type: file, path: people.yaml }\nops: { listen: '127.0.0.1:1' }\n";

#[test]
fn a_homeserver_that_cannot_be_reached_is_named_by_its_url() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("usher.yaml"), FILE_SOURCE).unwrap();
    std::fs::write(folder.path().join("people.yaml"), "users: [{ id: '1', localpart: ann }]\n").unwrap();
    std::fs::write(folder.path().join("admin-token"), "t\n").unwrap();
    assert_eq!(usher_in(folder.path(), &["registration", "generate"]).0, Some(0));
    let bootstrap = ["bootstrap", "--admin-token-file", "admin-token"];
    for args in [&["plan"][..], &["explain", "ann"], &["check"], &["apply", "--yes"], &["run", "--once"], &bootstrap] {
        let (code, said) = usher_in(folder.path(), args);
        assert_eq!(code, Some(75), "{args:?}: {said}");
        assert!(said.contains("(homeserver.url http://127.0.0.1:1)"), "{args:?}: {said}");
    }
}

#[test]
fn looking_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("usher.yaml"), FILE_SOURCE).unwrap();
    std::fs::write(folder.path().join("people.yaml"), "users: [{ id: '1', localpart: ann }]\n").unwrap();
    assert_eq!(usher_in(folder.path(), &["registration", "generate"]).0, Some(0));
    for args in [
        &["plan"][..],
        &["check"],
        &["explain", "ann"],
        &["status"],
        &["hold", "list"],
        &["hold", "show", "h-1"],
        &["hold", "approve", "--all"],
        &["run", "--dry-run", "--once"],
    ] {
        usher_in(folder.path(), args);
        let names: std::collections::BTreeSet<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let expected = ["people.yaml", "usher-registration.yaml", "usher.yaml"].map(std::ffi::OsString::from);
        assert_eq!(names, expected.into(), "{args:?}");
    }
}

#[test]
fn a_registration_that_cannot_be_written_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("{FILE_SOURCE}appservice: {{ registration: nowhere/usher.yaml }}\n");
    std::fs::write(folder.path().join("usher.yaml"), config).unwrap();
    let (code, said) = usher_in(folder.path(), &["registration", "generate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("make the directory") && said.contains("nowhere"), "{said}");
    let config = format!("{FILE_SOURCE}appservice: {{ registration: /proc/usher.yaml }}\n");
    std::fs::write(folder.path().join("usher.yaml"), config).unwrap();
    let (code, said) = usher_in(folder.path(), &["registration", "generate"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("may not write into /proc, which belongs to root") && said.contains("appservice.registration"),
        "{said}"
    );
}

#[test]
fn a_token_file_that_holds_no_token_is_named_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("usher.yaml"), FILE_SOURCE).unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    assert_eq!(usher_in(folder.path(), &["registration", "generate"]).0, Some(0));
    for file in ["empty", "gone", "."] {
        let (code, said) = usher_in(folder.path(), &["bootstrap", "--admin-token-file", file]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.starts_with(&format!("usher: {file}: ")) && said.contains("access token of a server admin"),
            "{said}"
        );
    }
}

/// A log that nobody reads any more ends no daemon.
#[test]
fn it_goes_on_when_the_reader_of_its_log_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = FILE_SOURCE.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:0'") + "logging: { level: silly }\n";
    std::fs::write(folder.path().join("usher.yaml"), config).unwrap();
    std::fs::write(folder.path().join("people.yaml"), "users: [{ id: '1', localpart: ann }]\n").unwrap();
    assert_eq!(usher_in(folder.path(), &["registration", "generate"]).0, Some(0));
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.arg("run").current_dir(folder.path()).env_remove("USHER_CONFIG").stderr(std::process::Stdio::piped());
    let mut daemon = super::Child(command.spawn().unwrap());
    let mut log = std::io::BufReader::new(daemon.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("the pass could not be made") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "it has ended");
    }
    drop(log);
    // The next pass, which has something to say, comes within seconds.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert!(daemon.0.try_wait().unwrap().is_none(), "it has ended");
    super::signal(daemon.0.id(), "TERM");
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}
