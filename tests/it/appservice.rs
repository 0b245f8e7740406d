//! The listener for the homeserver's transactions over real HTTP: who gets in, what it makes of bodies, how it bears a backlog.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod backlog;
mod bodies;
mod credentials;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use usher::http::appservice::{Appservice, Hints, bind, serve};

/// What the homeserver shows.
const TOKEN: &str = "hs-token-of-64-characters-or-so";
const BOT: &str = "@usher:lab.test";

/// A running listener.
struct Listener {
    address: SocketAddr,
    hints: Hints,
    http: reqwest::Client,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

impl Listener {
    async fn start() -> Self {
        let socket = bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (hints, stop) = (Hints::default(), CancellationToken::new());
        let service = Appservice { token: TOKEN.into(), bot: BOT.into(), hints: hints.clone() };
        let served = tokio::spawn(serve(socket, service, stop.clone()));
        Self { address, hints, http: reqwest::Client::new(), stop, served }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Brings a transaction as the homeserver does: the status it is answered with.
    async fn bring(&self, txn: &str, body: impl Into<reqwest::Body>) -> u16 {
        let url = self.url(&format!("/_matrix/app/v1/transactions/{txn}"));
        let request = self.http.put(url).bearer_auth(TOKEN).header("content-type", "application/json");
        request.body(body).send().await.expect("an answer").status().as_u16()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// A state event as the homeserver sends it.
fn event(room: &str, kind: &str, state_key: &str, content: &Value) -> Value {
    json!({ "room_id": room, "type": kind, "state_key": state_key, "sender": "@mal:lab.test", "event_id": "$1",
            "content": content, "unsigned": { "age": 4 } })
}

fn transaction(events: &[Value]) -> String {
    json!({ "events": events, "ephemeral": [], "to_device": [] }).to_string()
}

#[tokio::test]
async fn the_listener_ends_when_told_and_its_port_is_free_again() {
    let mut listener = Listener::start().await;
    assert_eq!(listener.bring("1", "{}").await, 200);
    listener.stop.cancel();
    (&mut listener.served).await.unwrap().unwrap();
    bind(&listener.address.to_string()).await.expect("the port is free");
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_setting_that_asked_for_it() {
    let listener = Listener::start().await;
    let error = bind(&listener.address.to_string()).await.unwrap_err().to_string();
    assert!(error.contains("(appservice.listen)") && error.contains(&listener.address.to_string()), "{error}");
}
