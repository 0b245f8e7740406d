//! The SCIM server over real HTTP on both databases: each client's own forms, access, lists, and writes that meet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod access;
mod bursts;
mod clients;
mod costs;
mod letters;
mod lifecycles;
mod limits;
mod lists;
mod openapi;
mod protocol;
mod registrations;
mod writes;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use usher::bridge::localpart::Mapping;
use usher::http::scim::{Gate, Provisioning, Server, Settings, serve};
use usher::ids::Timestamp;
use usher::scim::access::{Digest, Roles, Token};
use usher::store::Store;
use usher::store::scim::Letters;

use crate::stores::Database;

pub const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
pub const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
pub const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
pub const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
/// What tokens may do is their name.
const TOKENS: [&str; 6] = ["*:*", "read:*", "write:*", "*:users", "*:groups", "read:users"];

/// A server with a database, ended with the test.
pub struct Scim {
    pub base: String,
    pub store: Store,
    http: reqwest::Client,
    stop: CancellationToken,
    listener: Mutex<Option<Listener>>,
}

/// Is told of each answer: method and path of its request.
type Listener = Box<dyn Fn(String) + Send>;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body, or a panic with everything that was said.
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Scim {
    pub async fn on(database: &Database) -> Self {
        Self::with(database, "userName", false).await
    }

    pub async fn with(database: &Database, username: &str, strip_domain: bool) -> Self {
        Self::start(database, (username, strip_domain), Provisioning::default()).await
    }

    /// A server for whose people accounts are made.
    pub async fn provisioning(database: &Database, provisioning: Provisioning) -> Self {
        Self::start(database, ("userName", false), provisioning).await
    }

    async fn start(database: &Database, (username, strip_domain): (&str, bool), provisioning: Provisioning) -> Self {
        let tokens = TOKENS.map(|roles| Token {
            digest: Digest::of(&format!("token {roles}")),
            name: roles.to_owned(),
            roles: Roles::new([roles]),
            not_after: None,
        });
        let expired = Token {
            digest: Digest::of("token expired"),
            name: "expired".to_owned(),
            roles: Roles::new(["*:*"]),
            not_after: Some(Timestamp(1)),
        };
        let gate = Gate::new(tokens.into_iter().chain([expired]).collect(), None).tolerating(10_000);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/scim/v2", listener.local_addr().unwrap());
        let settings = Settings {
            base_path: "/scim/v2".to_owned(),
            public_url: Some(base.clone()),
            username_attribute: username.to_owned(),
            strip_domain,
            mapping: Mapping::new(None, username, false).unwrap(),
            letters: Some(Letters { server_name: "example.org".to_owned(), queued: Arc::default() }),
        };
        let store = database.open().await;
        let (sender, receiver) = watch::channel(Some(store.clone()));
        let server = Server::provisioning(settings, gate, ("acme", provisioning), receiver);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            let _sender = sender;
            serve(listener, &server, stopping).await.unwrap();
        });
        Self { base, store, http: reqwest::Client::new(), stop, listener: Mutex::default() }
    }

    /// Has every answer from now on told.
    pub fn on_answer(&self, listener: impl Fn(String) + Send + 'static) {
        *self.listener.lock().unwrap() = Some(Box::new(listener));
    }

    /// A request with everything a client may choose.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.http.request(method.parse().unwrap(), url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        if let Some(listener) = &*self.listener.lock().unwrap() {
            listener(format!("{method} {path}"));
        }
        Answer { status, headers, body }
    }

    /// As a client that may do everything.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        let headers = [("authorization", "Bearer token *:*"), ("content-type", "application/scim+json")];
        self.send(method, path, &headers, body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call("GET", path, Value::Null).await.is(200)
    }

    /// What a filter finds.
    pub async fn filter(&self, endpoint: &str, filter: &str) -> Answer {
        let query = reqwest::Url::parse_with_params("http://x/", [("filter", filter)]).unwrap();
        self.call("GET", &format!("/{endpoint}?{}", query.query().unwrap()), Value::Null).await
    }

    /// A new user's id.
    pub async fn user(&self, name: &str) -> String {
        let body = json!({ "schemas": [USER], "userName": name, "externalId": format!("x-{name}"), "active": true });
        id(&self.call("POST", "/Users", body).await.is(201))
    }

    /// A new group's id.
    pub async fn group(&self, name: &str, members: &[&str]) -> String {
        let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
        let body = json!({ "schemas": [GROUP], "displayName": name, "members": members });
        id(&self.call("POST", "/Groups", body).await.is(201))
    }

    pub async fn patch(&self, path: &str, operations: Value) -> Answer {
        self.call("PATCH", path, json!({ "schemas": [PATCH], "Operations": operations })).await
    }

    /// Ids of a group's members, in order.
    pub async fn members(&self, group: &str) -> Vec<String> {
        let group = self.get(&format!("/Groups/{group}")).await;
        let members = group["members"].as_array().cloned().unwrap_or_default();
        members.iter().map(|member| member["value"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Scim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn id(resource: &Value) -> String {
    resource["id"].as_str().expect("an id").to_owned()
}

/// Runs one behaviour on both databases, as two tests.
macro_rules! on_both {
    ($($behaviour:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(&crate::scim::Scim::on(&crate::stores::Database::sqlite()).await).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let database = crate::stores::Database::postgres().await;
                super::$behaviour(&crate::scim::Scim::on(&database).await).await;
            })*
        }
    };
}
use on_both;
