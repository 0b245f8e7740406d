//! A stand-in for Microsoft Graph and its login, made from Microsoft's documentation: tokens, paged lists with opaque links, `$select`
//! with the default projection, batches, photos, and every trap a test asks for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod answers;
mod tenant;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use secrecy::SecretString;
use serde_json::{Value, json};
use usher::config::{GraphAttributes, MsGraphSource};

pub use tenant::{CLIENT, Photo, SECRET, TENANT, Tenant};

/// Largest request taken.
const LARGEST_BODY: usize = 1 << 20;

/// A request that came in: by itself, or within a batch.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: String,
    /// Without `/v1.0`.
    pub path: String,
    /// Percent-decoded.
    pub query: String,
    pub in_batch: bool,
    /// How often this path and query were asked for before.
    pub before: usize,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answered so in Graph's place: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Value),
    /// The body breaks off in the middle.
    Cut,
    /// A page without entries that links to the one that was asked for.
    Empty,
    /// The page that was asked for, with this link to the next.
    Link(String),
    /// Later.
    Delay(Duration),
    /// The token is not good any more, from now on.
    Expire,
}

impl Fault {
    /// An error in Graph's form.
    pub fn error(status: u16, code: &str) -> Self {
        Self::Answer(status, Vec::new(), answers::error(code, "A text that Graph writes."))
    }

    /// "Not so fast."
    pub fn throttle(seconds: &str) -> Self {
        let headers = vec![("retry-after", seconds.to_owned())];
        Self::Answer(429, headers, answers::error("TooManyRequests", "Too many requests."))
    }
}

type Rule = Box<dyn FnMut(&Heard) -> Option<Fault> + Send>;

/// What a stand-in is made of.
struct Inside {
    tenant: Tenant,
    heard: Vec<Heard>,
    rule: Option<Rule>,
}

/// A running stand-in.
pub struct Graph {
    pub url: String,
    inside: Arc<Mutex<Inside>>,
}

impl Graph {
    pub async fn start(tenant: Tenant) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tenant = Tenant { url: url.clone(), ..tenant };
        let inside = Arc::new(Mutex::new(Inside { tenant, heard: Vec::new(), rule: None }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inside));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inside }
    }

    /// Changes the tenant.
    pub fn change<T>(&self, change: impl FnOnce(&mut Tenant) -> T) -> T {
        change(&mut self.inside.lock().unwrap().tenant)
    }

    /// From now on `rule` decides what becomes of each request.
    pub fn spoil(&self, rule: impl FnMut(&Heard) -> Option<Fault> + Send + 'static) {
        self.inside.lock().unwrap().rule = Some(Box::new(rule));
    }

    pub fn behave(&self) {
        self.inside.lock().unwrap().rule = None;
    }

    /// What came in since the last [`Graph::forget`], tokens left out.
    pub fn heard(&self) -> Vec<Heard> {
        let inside = self.inside.lock().unwrap();
        inside.heard.iter().filter(|heard| !heard.path.ends_with("/token")).cloned().collect()
    }

    /// The same as `GET /users`, in order, without what came in batches.
    pub fn asked(&self) -> Vec<String> {
        let whole = self.heard().into_iter().filter(|heard| !heard.in_batch);
        whole.map(|heard| format!("{} {}", heard.method, heard.path)).collect()
    }

    /// How many tokens were asked for.
    pub fn tokens_drawn(&self) -> usize {
        self.inside.lock().unwrap().heard.iter().filter(|heard| heard.path.ends_with("/token")).count()
    }

    pub fn forget(&self) {
        self.inside.lock().unwrap().heard.clear();
    }

    /// A source that reads it.
    pub fn source(&self) -> MsGraphSource {
        MsGraphSource {
            check_interval_ms: 60_000,
            tenant_id: TENANT.to_owned(),
            client_id: CLIENT.to_owned(),
            client_secret: Some(SecretString::from(SECRET.to_owned())),
            base_url: self.url.clone(),
            login_url: self.url.clone(),
            scopes: vec![format!("{}/.default", self.url)],
            attributes: GraphAttributes {
                uid: "userPrincipalName".to_owned(),
                name: "displayName".to_owned(),
                mail: "mail".to_owned(),
            },
            localpart: None,
            strict_localparts: false,
            guests: false,
            connect_timeout_ms: 5_000,
            operation_timeout_ms: 5_000,
            read_timeout_ms: 30_000,
        }
    }
}

async fn answer(State(inside): State<Arc<Mutex<Inside>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST_BODY).await.unwrap_or_default();
    let whole = parts.uri.query().unwrap_or_default().to_owned();
    let bearer = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let asked =
        answers::Asked { method: parts.method.as_str(), path: parts.uri.path(), query: &whole, in_batch: false };
    let (reply, delay) = inside.lock().unwrap().reply(asked, bearer.as_deref(), &body);
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let mut response = if reply.cut {
        let half = Bytes::copy_from_slice(&reply.body[..reply.body.len() / 2]);
        let parts = [Ok(half), Err(std::io::Error::other("the line is dead"))];
        Body::from_stream(stream::iter(parts)).into_response()
    } else {
        reply.body.into_response()
    };
    *response.status_mut() = axum::http::StatusCode::from_u16(reply.status).unwrap();
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// A member as Graph lists it.
pub fn member(kind: &str, id: &str) -> Value {
    json!({ "@odata.type": format!("#microsoft.graph.{kind}"), "id": id, "displayName": null })
}
