//! Letters from the outbox to a real mail server (S-64): accepted once, put off, given up; encrypted or not; on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use usher::clock;
use usher::config::{Mailer, Smtp, SmtpLogin, SmtpTls};
use usher::mail::delivery::{self, Round};
use usher::mail::{Letter, MailError, Occasion, Post, Refusal};
use usher::store::Store;
use usher::store::outbox::OutboxCounts;

use crate::lab::ports::free_port;
use crate::lab::slapd::certificates::Certificates;
use crate::lab::smtp::{Encryption, SmtpSink};
use crate::stores::{Database, on_both};

fn mailer(port: u16, tls: SmtpTls) -> Mailer {
    Mailer {
        from: "Chat <it@example.org>".to_owned(),
        templates: None,
        organisation: Some("Example & Söhne".to_owned()),
        client_url: Some("https://chat.example.org/?a=1&b=2".to_owned()),
        silent: false,
        transport: Smtp { host: "127.0.0.1".to_owned(), port, tls, name: None, ca_file: None, login: None },
    }
}

fn post(mailer: &Mailer) -> Post {
    Post::new(mailer, "example.org:8448").unwrap()
}

fn letter(id: &str, address: &str) -> Letter {
    Letter {
        id: id.to_owned(),
        occasion: Occasion::Registered,
        address: address.to_owned(),
        display_name: "Zoë <Z> O'Neill".to_owned(),
        user_id: "@zoe:example.org".to_owned(),
    }
}

async fn round(store: &Store, post: &Post) -> Round {
    delivery::round(store, post, &CancellationToken::new()).await.unwrap()
}

fn header(letter: &Value, name: &str) -> String {
    let content = letter["content"].as_str().unwrap().replace("\r\n ", " ");
    let line = content.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:"))).unwrap();
    line.split_once(": ").unwrap().1.to_owned()
}

async fn a_letter_is_accepted_once(database: &Database) {
    let store = database.open().await;
    let sink = SmtpSink::start(Encryption::None, None);
    let post = post(&mailer(sink.port, SmtpTls::None));
    for _ in 0..2 {
        store.queue_letter(&letter("u1/registered/1", "zoe@example.org"), clock::now()).await.unwrap();
    }
    assert_eq!(round(&store, &post).await, Round { sent: 1, ..Round::default() });
    // The same change told again, after the letter was sent.
    store.queue_letter(&letter("u1/registered/1", "zoe@example.org"), clock::now()).await.unwrap();
    assert_eq!(round(&store, &post).await, Round::default());
    let letters = sink.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["from"], &letters[0]["to"][0]), (&"it@example.org".into(), &"zoe@example.org".into()));
    assert!(header(&letters[0], "message-id").ends_with("@example.org>"), "{}", header(&letters[0], "message-id"));
    assert_eq!(header(&letters[0], "auto-submitted"), "auto-generated");
    let content = letters[0]["content"].as_str().unwrap();
    assert!(
        content.contains("multipart/alternative") && content.contains("text/plain") && content.contains("text/html")
    );
    let counts = OutboxCounts { waiting: 0, sent: 1, given_up: 0 };
    assert_eq!(store.outbox_counts().await.unwrap(), counts);
}

async fn a_bad_letter_stops_no_other_and_leaves_no_address(database: &Database) {
    let store = database.open().await;
    let sink = SmtpSink::start(Encryption::None, None);
    let post = post(&mailer(sink.port, SmtpTls::None));
    let addresses = ["never@example.org", "later@example.org", "no address", "zoe@example.org"];
    for (id, address) in ["1", "2", "3", "4"].into_iter().zip(addresses) {
        store.queue_letter(&letter(id, address), clock::now()).await.unwrap();
    }
    assert_eq!(round(&store, &post).await, Round { sent: 1, put_off: 1, given_up: 2 });
    assert_eq!(sink.letters().len(), 1);
    assert_eq!(store.outbox_counts().await.unwrap(), OutboxCounts { waiting: 1, sent: 1, given_up: 2 });
    // Put off by a minute: nothing is due now.
    assert_eq!(round(&store, &post).await, Round::default());
    let later = store.letters_due(usher::ids::Timestamp(clock::now().0 + 61_000), 10).await.unwrap();
    assert_eq!(
        later.iter().map(|waiting| (waiting.letter.address.as_str(), waiting.attempts)).collect::<Vec<_>>(),
        [("later@example.org", 1)]
    );
    assert!(!format!("{later:?}").contains("example.org"), "a log may hold this");
}

async fn letters_wait_for_a_mail_server_that_is_away(database: &Database) {
    let store = database.open().await;
    let port = free_port();
    for name in ["a", "b"] {
        store.queue_letter(&letter(name, &format!("{name}@example.org")), clock::now()).await.unwrap();
    }
    // One attempt tells enough: the other letter is left alone.
    let away = post(&mailer(port, SmtpTls::None));
    assert_eq!(round(&store, &away).await, Round { put_off: 1, ..Round::default() });
    let sink = SmtpSink::start(Encryption::None, None);
    store.letter_put_off("a", clock::now(), "").await.unwrap();
    let there = post(&mailer(sink.port, SmtpTls::None));
    assert_eq!(round(&store, &there).await, Round { sent: 2, ..Round::default() });
}

on_both! {
    a_letter_is_accepted_once
    a_bad_letter_stops_no_other_and_leaves_no_address
    letters_wait_for_a_mail_server_that_is_away
}

fn certificates() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let made = Certificates::make(folder.path());
    (folder, made.ca_file)
}

async fn send(mailer: &Mailer) -> Result<(), Refusal> {
    post(mailer).send(&letter("tls", "zoe@example.org")).await
}

async fn encrypted(tls: SmtpTls, encryption: fn(&Path) -> Encryption<'_>) {
    let (folder, ca_file) = certificates();
    let sink = SmtpSink::start(encryption(folder.path()), None);
    let mut mailer = mailer(sink.port, tls);
    let refused = send(&mailer).await;
    assert_eq!(
        refused,
        Err(Refusal::Away("no TLS with the mail server: its certificate, or the kind of TLS it wants".into()))
    );
    mailer.transport.ca_file = Some(ca_file);
    send(&mailer).await.unwrap();
    assert_eq!(sink.letters().len(), 1);
    assert_eq!(sink.letters()[0]["encrypted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_from_the_start_needs_a_certificate_that_is_trusted() {
    encrypted(SmtpTls::FromTheStart, |folder| Encryption::FromTheStart(folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_tls_needs_a_certificate_that_is_trusted() {
    encrypted(SmtpTls::StartTls, |folder| Encryption::StartTls(folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_keeps_the_letters_waiting() {
    let sink = SmtpSink::start(Encryption::None, Some(("usher", "right")));
    let mut mailer = mailer(sink.port, SmtpTls::None);
    let login = |password: &str| SmtpLogin { user: "usher".to_owned(), password: SecretString::from(password) };
    mailer.transport.login = Some(login("wrong"));
    let refused = send(&mailer).await.unwrap_err();
    assert_eq!(refused, Refusal::Away("the mail server refuses with code 535: the credentials, or TLS".into()));
    mailer.transport.login = Some(login("right"));
    send(&mailer).await.unwrap();
    assert_eq!(sink.letters()[0]["login"], "usher");
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_sent() {
    let mut mailer = mailer(1, SmtpTls::StartTls);
    mailer.transport.ca_file = Some("/nowhere/ca.pem".into());
    assert!(matches!(Post::new(&mailer, "x"), Err(MailError::Authority(..))));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("activated")).unwrap();
    std::fs::write(folder.path().join("activated/html"), "<p>{{ surname }}</p>").unwrap();
    mailer.transport.ca_file = None;
    mailer.templates = Some(folder.path().to_owned());
    let error = Post::new(&mailer, "x").unwrap_err().to_string();
    assert_eq!(error, "mail template activated/html: line 1: undefined value: `surname` is undefined");
}
