//! Whatever the homeserver brings, it is answered 200: a transaction that is refused blocks its queue for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use usher::http::appservice::Hinted;
use usher::ids::RoomId;

use super::{BOT, Listener, TOKEN, event, transaction};

const MIB: usize = 1024 * 1024;

fn rooms(names: &[&str]) -> Hinted {
    Hinted { rooms: names.iter().map(|name| RoomId::from(*name)).collect(), any: false }
}

fn any() -> Hinted {
    Hinted { rooms: BTreeSet::new(), any: true }
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_200_and_counts_as_any_room() {
    let listener = Listener::start().await;
    let deep_body = "[".repeat(100_000);
    let unreadable: [&[u8]; 8] = [
        b"",
        b"not JSON",
        b"{\"events\": [",
        b"{\"events\": 7}",
        b"{\"events\": {\"room_id\": \"!a\"}}",
        b"7",
        b"{\"events\": [{\"room_id\": \"!\xff\xfe\", \"state_key\": \"\"}]}",
        deep_body.as_bytes(),
    ];
    for body in unreadable {
        assert_eq!(listener.bring("1", body.to_vec()).await, 200);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(listener.hints.take(), any(), "{shown}");
    }
}

#[tokio::test]
async fn odd_events_are_answered_200_and_hide_no_other() {
    let listener = Listener::start().await;
    let key = "k".repeat(64 * 1024);
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let marker = json!({ "instance": "main", "key": { "space": "red" } });
    let mut huge = json!({ "name": "x" });
    huge[&key] = json!(key);
    let odd = [
        event("!name", "m.room.name", "", &json!({ "name": 7 })).to_string(),
        event("!huge", "m.room.topic", "", &huge).to_string(),
        event("!huge-key", "m.room.member", &key, &json!({ "membership": "join" })).to_string(),
        // What a person may try: to pass for the bot, and to mark a room as managed.
        event("!spoofed", "dev.usher.managed", BOT, &marker).to_string(),
        event("!spoofed-too", "m.room.member", BOT, &json!({ "membership": [] })).to_string(),
        event("!content", "m.room.name", "", &json!("text")).to_string(),
        format!(r#"{{"room_id": "!deep", "state_key": "", "content": {deep}}}"#),
        // No rooms, or no state.
        format!(r#"{{"room_id": "!{key}", "state_key": ""}}"#),
        r#"{"room_id": "!message", "type": "m.room.message", "content": {"body": "secret"}}"#.to_owned(),
        r#"{"room_id": 5, "state_key": ""}"#.to_owned(),
        r#"{"room_id": null, "state_key": ""}"#.to_owned(),
        r#"{"room_id": "!number-key", "state_key": 5}"#.to_owned(),
        r#"{"room_id": "!null-key", "state_key": null}"#.to_owned(),
        "7".to_owned(),
        "null".to_owned(),
        "[[[]]]".to_owned(),
        "\"text\"".to_owned(),
        "{}".to_owned(),
    ];
    assert_eq!(listener.bring("1", format!(r#"{{"events": [{}]}}"#, odd.join(","))).await, 200);
    let named = rooms(&["!name", "!huge", "!huge-key", "!spoofed", "!spoofed-too", "!content", "!deep"]);
    assert_eq!(listener.hints.take(), named);
}

#[tokio::test]
async fn duplicates_and_old_transactions_are_harmless() {
    let listener = Listener::start().await;
    let body = transaction(&[event("!a", "m.room.name", "", &json!({ "name": "A" }))]);
    for txn in ["5", "5", "4", "1", "-1", "not a number", "5"] {
        assert_eq!(listener.bring(txn, body.clone()).await, 200, "{txn}");
    }
    assert_eq!(listener.hints.take(), rooms(&["!a"]));
}

#[tokio::test]
async fn a_transaction_of_nearly_20_mib_is_read_whole() {
    let listener = Listener::start().await;
    let last = event("!last", "m.room.name", "", &json!({}));
    let filling = json!({ "topic": "x".repeat(20 * MIB - 4096) });
    let body = transaction(&[event("!first", "m.room.topic", "", &filling), last]);
    assert!(body.len() > 19 * MIB && body.len() < 20 * MIB);
    assert_eq!(listener.bring("1", body).await, 200);
    assert_eq!(listener.hints.take(), rooms(&["!first", "!last"]));
}

/// Sends the head of a transaction and hands over the connection.
async fn begin(listener: &Listener, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(listener.address).await.unwrap();
    let head = format!(
        "PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nhost: usher\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn status(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn more_than_20_mib_is_answered_200_without_reading_it_all() {
    let listener = Listener::start().await;
    let announced = 1024 * MIB;
    let mut stream = begin(&listener, announced).await;
    let (mut reader, mut writer) = stream.split();
    let piece = vec![b' '; MIB];
    let mut sent = 0;
    let mut answer = vec![0; 15];
    let answered = tokio::select! {
        read = reader.read_exact(&mut answer) => read.is_ok(),
        () = async {
            while sent < announced && writer.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
        } => reader.read_exact(&mut answer).await.is_ok(),
    };
    assert!(answered, "an answer, after {sent} bytes");
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200 OK");
    assert!(sent < 64 * MIB, "it goes on reading: {sent} bytes");
    assert_eq!(listener.hints.take(), any());
}

/// Time stands still until nothing but a timer is left to wait for, so that a minute is over at once.
#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_to_an_end_is_cut_off_after_a_minute() {
    let listener = Listener::start().await;
    let mut stream = begin(&listener, 1000).await;
    stream.write_all(b"{\"events\": [").await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(55) && took < Duration::from_mins(2), "{took:?}");
    assert_eq!(listener.hints.take(), any());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        proptest::bool::ANY.prop_map(Value::from),
        proptest::num::i64::ANY.prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("!room:lab.test")),
        Just(json!(BOT)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof![
            Just("events".to_owned()),
            Just("room_id".to_owned()),
            Just("state_key".to_owned()),
            Just("content".to_owned()),
            "\\PC{0,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Random bodies, JSON or not: 300 in CI, 10 000 with `USHER_LONG=1`.
#[test]
fn any_authenticated_body_is_answered_200() {
    let cases = if std::env::var_os("USHER_LONG").is_some() { 10_000 } else { 300 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(Listener::start());
    let body = prop_oneof![
        json_value().prop_map(|value| value.to_string().into_bytes()),
        json_value()
            .prop_map(|value| json!({ "events": [value, { "room_id": "!a", "state_key": "" }] }).to_string().into()),
        proptest::collection::vec(any_byte(), 0..300),
    ];
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&body, |body| {
        prop_assert_eq!(runtime.block_on(listener.bring("1", body)), 200);
        let _ = listener.hints.take();
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn any_byte() -> impl Strategy<Value = u8> {
    proptest::num::u8::ANY
}
