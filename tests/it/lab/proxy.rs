//! A forwarding proxy between usher and a homeserver: it counts what really went over the wire, and spoils it on demand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::task::JoinHandle;

/// Largest body passed on.
const LARGEST_BODY: usize = 256 * 1024 * 1024;

/// One request that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// As sent, still escaped.
    pub path: String,
    pub query: String,
    /// Body of a write, if it was JSON.
    pub body: Value,
    /// What was answered; `None`: nothing was.
    pub status: Option<u16>,
}

impl Seen {
    /// Whether it may change anything: all but reads, logins and the stream.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD") && !self.path.ends_with("/login")
    }

    /// The path with ids replaced: `PUT /rooms/{}/state/m.room.name/`.
    pub fn class(&self) -> String {
        let path = self.path.trim_start_matches("/_matrix/client/v3").trim_start_matches("/_synapse");
        let part = |part: &str| {
            let id = ["%21", "%23", "%40", "!", "#", "@"].iter().any(|sigil| part.starts_with(sigil));
            if id { "{}".to_owned() } else { part.to_owned() }
        };
        format!("{} {}", self.method, path.split('/').map(part).collect::<Vec<_>>().join("/"))
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It never reaches the homeserver, and no answer comes.
    DropBefore,
    /// The homeserver does it, and the answer is lost.
    DropAfter,
    /// Answered in the homeserver's place.
    Answer(u16, Value),
    /// Forwarded late.
    Delay(Duration),
    /// The homeserver does it, and the answer comes late.
    Late(Duration),
}

type Rule = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

/// What came by, and what is to be spoilt: shared by the proxy and the fake homeserver.
#[derive(Default)]
pub struct Tap {
    seen: Mutex<Vec<Seen>>,
    rule: Mutex<Option<Rule>>,
    /// How many answers came from the homeserver and were held back.
    held: AtomicUsize,
}

impl Tap {
    /// Everything that came by since the last [`Tap::clear`].
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the log").clone()
    }

    /// The classes of the writes that came by, in order.
    pub fn writes(&self) -> Vec<String> {
        self.seen().iter().filter(|seen| seen.is_write()).map(Seen::class).collect()
    }

    /// How many requests came by.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("the log").len()
    }

    /// How many requests the homeserver has done whose answers were held back, see [`Fault::Late`].
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub fn clear(&self) {
        self.seen.lock().expect("the log").clear();
    }

    /// Lets `rule` decide about each request, in the order they come; `None` leaves it alone.
    pub fn spoil(&self, rule: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().expect("the rule") = Some(Box::new(rule));
    }

    /// Spoils the `nth` write from now on, counted from 0, and no other.
    pub fn spoil_write(&self, nth: usize, fault: Fault) {
        let mut index = 0;
        self.spoil(move |seen| {
            if !seen.is_write() {
                return None;
            }
            index += 1;
            (index == nth + 1).then(|| fault.clone())
        });
    }

    pub fn behave(&self) {
        *self.rule.lock().expect("the rule") = None;
    }

    /// Lets one request through `answer`, as the rule wants it.
    pub async fn pass(&self, mut seen: Seen, answer: impl Future<Output = Option<Response>>) -> Response {
        let fault = self.rule.lock().expect("the rule").as_mut().and_then(|rule| rule(&seen));
        let response = match fault {
            None => answer.await,
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                answer.await
            }
            Some(Fault::Late(delay)) => {
                let response = answer.await;
                self.held.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                response
            }
            Some(Fault::Answer(status, answer)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                Some((status, axum::Json(answer)).into_response())
            }
            Some(Fault::DropBefore) => None,
            Some(Fault::DropAfter) => {
                answer.await;
                None
            }
        };
        seen.status = response.as_ref().map(|response| response.status().as_u16());
        self.seen.lock().expect("the log").push(seen);
        response.unwrap_or_else(broken_off)
    }
}

/// What a request is, and its body.
pub async fn open(request: Request) -> Option<(Parts, Bytes, Seen)> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST_BODY).await.ok()?;
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        status: None,
    };
    Some((parts, body, seen))
}

/// A client that keeps no connection for so long that a server closes it at the moment it is used again.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(5)).build().expect("a client")
}

struct Shared {
    target: String,
    http: reqwest::Client,
    tap: Tap,
    /// Seconds the homeserver's clock is shown ahead.
    ahead: AtomicI64,
}

/// A running proxy; it ends with this value.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `target`, a base URL.
    pub async fn start(target: &str) -> Self {
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            http: client(),
            tap: Tap::default(),
            ahead: AtomicI64::new(0),
        });
        let app = Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let (url, server) = serve(app).await;
        Self { url, shared, server }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Shows the homeserver's clock so many seconds ahead of what it is.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.shared.ahead.store(seconds, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Proxy {
    type Target = Tap;

    fn deref(&self) -> &Tap {
        &self.shared.tap
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves `app` on an ephemeral loopback port: its URL, and the task to end.
pub async fn serve(app: Router) -> (String, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tokio::spawn(async move {
        let _ = axum::serve(listener, app).await;
    });
    (url, server)
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some((parts, body, seen)) = open(request).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    shared.tap.pass(seen, send(&shared, &parts, body)).await
}

async fn send(shared: &Shared, parts: &Parts, body: Bytes) -> Option<Response> {
    let target = &shared.target;
    let url = format!("{target}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut headers = parts.headers.clone();
    headers.remove("host");
    headers.remove("content-length");
    let answer = shared.http.request(parts.method.clone(), url).headers(headers).body(body).send().await.ok()?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name == "date" {
            let ahead = chrono::Duration::seconds(shared.ahead.load(Ordering::Relaxed));
            let shown = chrono::DateTime::parse_from_rfc2822(value.to_str().ok()?).ok()? + ahead;
            response = response.header("date", shown.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        } else if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection") {
            response = response.header(name, value);
        }
    }
    Some(response.body(Body::from(answer.bytes().await.ok()?)).expect("a response"))
}

/// A connection that ends in the middle of an answer.
fn broken_off() -> Response {
    let broken = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("dropped")) });
    Response::builder().header("content-length", "100").body(Body::from_stream(broken)).expect("a response")
}
