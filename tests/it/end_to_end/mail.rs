//! Mail as an operator meets it (S-64): letters shown before any is sent, and a first synchronisation of which nobody is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::fs;

use serde_json::{Value, json};
use usher::store::outbox::OutboxCounts;

use super::scim::{Lonely, Provider, USER};
use super::world::until;
use crate::lab::ports::free_port;
use crate::lab::smtp::{Encryption, SmtpSink};
use crate::stores::Database;

fn transport(port: u16) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "secure": false, "ignoreTLS": true })
}

/// Path of a new person with an address.
async fn employ(provider: &Provider, name: &str) -> String {
    let emails = json!([{ "value": format!("{name}@canary-mail.example") }]);
    let made = provider.must("POST", "/Users", json!({ "schemas": [USER], "userName": name, "emails": emails })).await;
    format!("/Users/{}", made["id"].as_str().unwrap())
}

async fn set_active(provider: &Provider, path: &str, value: bool) {
    provider.patch(path, json!({ "op": "replace", "path": "active", "value": value })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_mailer_tells_nobody_and_knows_afterwards_whose_account_was_usable() {
    let database = Database::sqlite();
    let sink = SmtpSink::start(Encryption::None, None);
    let mailer =
        |silent: bool| json!({ "from": "it@canary-mail.example", "silent": silent, "transport": transport(sink.port) });
    let mut lonely = Lonely::new(&database.url).await;
    lonely.mailing(mailer(true));
    let (running, provider) = lonely.serve("silent").await;
    let (ann, bob, cat) =
        (employ(&provider, "ann").await, employ(&provider, "bob").await, employ(&provider, "cat").await);
    set_active(&provider, &bob, false).await;
    provider.must("DELETE", &cat, Value::Null).await;
    running.stop().await.code(0);
    let store = database.open().await;
    assert_eq!(store.outbox_counts().await.unwrap(), OutboxCounts::default(), "nothing is kept for later, either");
    store.close().await;

    lonely.mailing(mailer(false));
    let (running, provider) = lonely.serve("told").await;
    set_active(&provider, &ann, false).await;
    set_active(&provider, &bob, true).await;
    employ(&provider, "cat").await;
    let dan = employ(&provider, "dan").await;
    provider.must("DELETE", &dan, Value::Null).await;
    until("everybody has been told", async || sink.letters().len() >= 5).await;
    running.stop().await.code(0);
    let subject = |letter: &Value| {
        let content = letter["content"].as_str().unwrap();
        content.lines().find(|line| line.starts_with("Subject:")).unwrap().to_owned()
    };
    let mut told: Vec<(String, String)> = Vec::new();
    for letter in sink.letters() {
        told.push((letter["to"][0].as_str().unwrap().replace("@canary-mail.example", ""), subject(&letter)));
    }
    told.sort();
    let expected = [
        ("ann", "was closed"),
        ("bob", "is active again"),
        ("cat", "is active again"),
        ("dan", "is ready"),
        ("dan", "was closed"),
    ]
    .map(|(name, what)| (name.to_owned(), format!("Subject: Your lab.test chat account {what}")));
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(told, expected);
    let store = database.open().await;
    assert_eq!(store.outbox_counts().await.unwrap(), OutboxCounts { sent: 5, ..OutboxCounts::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_waits_is_not_sent_before_the_mailer_may_speak_again() {
    const TRIED: &str = "SELECT COUNT(*) FROM outbox WHERE attempts > 0";
    let database = Database::sqlite();
    let sink = SmtpSink::start(Encryption::None, None);
    let mailer = |silent: bool, port: u16| json!({ "from": "it@canary-mail.example", "silent": silent, "transport": transport(port) });
    let mut lonely = Lonely::new(&database.url).await;
    lonely.mailing(mailer(false, free_port()));
    let (running, provider) = lonely.serve("away").await;
    employ(&provider, "ann").await;
    let pool = sqlx::SqlitePool::connect(&database.url).await.unwrap();
    until("the mail server was tried", async || {
        sqlx::query_scalar::<_, i64>(TRIED).fetch_one(&pool).await.unwrap() == 1
    })
    .await;
    running.stop().await.code(0);
    sqlx::query("UPDATE outbox SET due_at = 0").execute(&pool).await.unwrap();
    pool.close().await;

    lonely.mailing(mailer(true, sink.port));
    let (running, provider) = lonely.serve("silent").await;
    employ(&provider, "bob").await;
    running.stop().await.code(0).says("the mailer is silent");
    assert_eq!(sink.letters().len(), 0);
    let store = database.open().await;
    assert_eq!(store.outbox_counts().await.unwrap(), OutboxCounts { waiting: 1, ..OutboxCounts::default() });
    store.close().await;

    lonely.mailing(mailer(false, sink.port));
    let (running, _) = lonely.serve("told").await;
    until("ann is told", async || sink.letters().len() == 1).await;
    running.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_shown_as_they_would_be_sent() {
    let database = Database::sqlite();
    let mut lonely = Lonely::new(&database.url).await;
    let folder = lonely.folder.path().to_owned();
    let preview = async |lonely: &Lonely, name: &str, more: &[&str]| {
        let args: Vec<&str> = ["mail", "preview"].iter().chain(more).copied().collect();
        lonely.start(name, &args).wait().await
    };
    preview(&lonely, "none", &[]).await.code(78).says("source.mailer");

    // Nobody listens there: a preview sends nothing.
    lonely.mailing(json!({
        "from": "it@canary-mail.example", "organisation": "Example & Söhne", "client_url": "https://chat.example.com/",
        "templates_path": "own", "transport": transport(free_port()),
    }));
    fs::create_dir_all(folder.join("own/registered")).unwrap();
    fs::write(folder.join("own/registered/subject"), "Welcome, {{ display_name }}").unwrap();
    let all = preview(&lonely, "all", &[]).await;
    for start in [
        "--- registered\nSubject: Welcome, Zoë O'Neill & Söhne <sample>\n\nHello Zoë O'Neill & Söhne <sample>,\n",
        "--- activated\nSubject: Your Example & Söhne chat account is active again\n\nHello Zoë",
        "--- deactivated\nSubject: Your Example & Söhne chat account was closed\n\nHello Zoë",
    ] {
        all.code(0).says(start);
    }
    all.says("Your Matrix ID: @zoe.oneill:lab.test").says("Open the chat:  https://chat.example.com\n");
    let one = preview(&lonely, "one", &["activated"]).await;
    assert!(one.code(0).out.starts_with("--- activated\n") && !one.out.contains("--- registered"), "{}", one.out);

    fs::create_dir(folder.join("pages")).unwrap();
    fs::write(folder.join("own/registered/html"), "<p>Ours: {{ display_name }}, {{ user_id }}</p>").unwrap();
    let pages = preview(&lonely, "html", &["--html", "pages"]).await;
    assert_eq!(pages.code(0).out.lines().count(), 3);
    for (name, text) in [
        ("registered", "<p>Ours: Zoë O&#x27;Neill &amp; Söhne &lt;sample&gt;, @zoe.oneill:lab.test</p>"),
        ("activated", "Example &amp; Söhne"),
        ("deactivated", "Example &amp; Söhne"),
    ] {
        let file = format!("pages/{name}.html");
        assert!(pages.out.lines().any(|line| line == file), "{}", pages.out);
        let page = fs::read_to_string(folder.join(file)).unwrap();
        assert!(page.contains(text) && !page.contains("<sample>"), "{page}");
    }
    preview(&lonely, "nowhere", &["--html", "nowhere"]).await.code(1).says("cannot write nowhere/registered.html");
    preview(&lonely, "unknown", &["welcome"]).await.code(64).says("must be registered, activated or deactivated");

    fs::create_dir_all(folder.join("own/activated")).unwrap();
    fs::write(folder.join("own/activated/text"), "Hello\n{{ surname }}").unwrap();
    let broken = preview(&lonely, "broken", &["deactivated"]).await;
    broken.code(78).says("activated/text: line 2").says("`surname` is undefined");
    assert_eq!(broken.out, "", "no letter is shown while one is broken");
}
