//! The SCIM 2.0 server (S-60 to S-65): carries requests to `scim`, which knows what they mean, and `store::scim`, which keeps what comes
//! of them. Answers a write when it is durable.
//!
//! Never echoes a credential, and logs who did what to which id, not with which values.

mod bulk;
mod gate;
mod lists;
mod provisioning;
mod render;
mod resources;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use gate::Gate;
pub use provisioning::{Names, Provisioning};

use super::serve::BrokenBody;
use super::{BindError, Listen};
use crate::bridge::localpart::Mapping;
use crate::clock;
use crate::scim::access::Roles;
use crate::scim::route::Route;
use crate::scim::{Error, Kind, body, discovery, document};
use crate::store::scim::{Letters, Resources, WriteError};
use crate::store::{Store, StoreError};

/// Largest body about one user; groups and bulk requests may be as large as `scim::bulk::LARGEST`.
const LARGEST_USER: usize = 1024 * 1024;
/// What clients are asked to wait while the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// What SCIM bodies are.
const MEDIA_TYPE: &str = "application/scim+json";
/// Groups with more members are changed without being sent back, unless something of them is asked for.
const LARGEST_SHOWN: i64 = 1_000;

/// How the server is set up.
#[derive(Debug)]
pub struct Settings {
    /// Before every route, without a slash at its end.
    pub base_path: String,
    /// What clients write before `/Users`; from the Host header where it is not set.
    pub public_url: Option<String>,
    /// The attribute that Matrix names are made of.
    pub username_attribute: String,
    /// Whether what stands behind `@` in it is left out.
    pub strip_domain: bool,
    pub mapping: Mapping,
    /// People are written to about their accounts.
    pub letters: Option<Letters>,
}

/// The server. Clones share everything.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    settings: Settings,
    gate: Gate,
    client: String,
    provisioning: Provisioning,
    kept: Mutex<Kept>,
}

/// Where resources are kept.
struct Kept {
    /// `None`: it could not be opened yet.
    store: watch::Receiver<Option<Store>>,
    /// Through the opening seen last; in one order of writes with those before.
    resources: Option<Arc<Resources>>,
}

/// A caller, and what their answer refers to.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    roles: Roles,
    /// What stands before `/Users` in every URL.
    base: String,
}

/// What a request says beside its address and body.
#[derive(Clone, Debug, Default)]
struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
    parameters: Vec<(String, String)>,
}

/// An answer, before it is written down.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: u16,
    body: Option<Value>,
    location: Option<String>,
    version: Option<String>,
    headers: Vec<(header::HeaderName, String)>,
}

/// Why there is none.
#[derive(Debug)]
enum Refusal {
    Scim(Error),
    Store(StoreError),
    /// A refusal with a header of its own.
    Answer(Box<Answer>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Scim(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(error) => Self::Scim(error),
            WriteError::Store(error) => Self::Store(error),
        }
    }
}

impl Server {
    /// A server for the resources of `client`.
    #[must_use]
    pub fn new(settings: Settings, gate: Gate, client: &str, store: watch::Receiver<Option<Store>>) -> Self {
        Self::provisioning(settings, gate, (client, Provisioning::default()), store)
    }

    /// As [`Server::new`], with a word on how people come to accounts.
    #[must_use]
    pub fn provisioning(
        settings: Settings,
        gate: Gate,
        (client, provisioning): (&str, Provisioning),
        store: watch::Receiver<Option<Store>>,
    ) -> Self {
        let kept = Mutex::new(Kept { store, resources: None });
        Self(Arc::new(Inner { settings, gate, client: client.to_owned(), provisioning, kept }))
    }

    /// Everything a SCIM client may ask.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    fn resources(&self) -> Result<Arc<Resources>, Refusal> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_latest = !kept.store.has_changed().unwrap_or_default();
        if let Some(known) = kept.resources.as_ref().filter(|_| is_latest) {
            return Ok(Arc::clone(known));
        }
        let Some(store) = kept.store.borrow_and_update().clone() else {
            kept.store.mark_changed();
            return Err(StoreError::Unreachable { what: "connect", cause: "it is not open yet".to_owned() }.into());
        };
        let resources = match &kept.resources {
            Some(known) => known.through(store),
            None => Resources::new(store, &self.0.client)
                .with_letters(self.0.settings.letters.clone())
                .with_registrations(self.0.provisioning.registrations.clone())
                .hurried(self.0.provisioning.patience.is_some()),
        };
        Ok(Arc::clone(kept.resources.insert(Arc::new(resources))))
    }

    async fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        let (parts, body) = request.into_parts();
        let now = clock::now();
        let admitted = self.0.gate.admit(super::bearer(&parts.headers), now).await?;
        let base = self.base(&parts.headers);
        let call = Call { name: admitted.name, roles: admitted.roles, base };
        let path = decoded(parts.uri.path());
        let below = path.strip_prefix(self.0.settings.base_path.as_str()).unwrap_or_default();
        let Some(route) = Route::parse(below) else {
            return Err(Error::new(404, "there is nothing at this address").into());
        };
        let method = if parts.method == Method::HEAD { "GET" } else { parts.method.as_str() };
        if !route.methods().contains(&method) {
            return Err(not_allowed(&route));
        }
        if !route.need(method).is_met(call.roles) {
            return Err(Error::new(403, "this credential does not allow that").into());
        }
        let parameters = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map(|Query(parameters)| parameters)
            .map_err(|_| Error::invalid_syntax("the query string cannot be read"))?;
        let header =
            |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        let conditions =
            Conditions { if_match: header(header::IF_MATCH), if_none_match: header(header::IF_NONE_MATCH), parameters };
        let body = if matches!(method, "GET" | "DELETE") || route == Route::Me {
            Ok(Value::Null)
        } else {
            read_body(&parts.headers, body, largest(&route)).await?
        };
        let writes = route.writes(method);
        let about = match &route {
            Route::Resource(kind, id) => Some((*kind, Some(id.clone()))),
            Route::Collection(kind) => Some((*kind, None)),
            _ => None,
        };
        let answer = self.perform(&call, (method, route), &conditions, body).await?;
        if writes {
            let made = answer.location.as_deref().and_then(|url| url.rsplit('/').next()).map(str::to_owned);
            let about = about.and_then(|(kind, id)| Some((kind, id.or(made)?)));
            self.await_matrix(about.as_ref().map(|(kind, id)| (*kind, id.as_str()))).await;
        }
        Ok(answer)
    }

    async fn perform(
        &self,
        call: &Call,
        (method, route): (&str, Route),
        conditions: &Conditions,
        body: Result<Value, Error>,
    ) -> Result<Answer, Refusal> {
        let is_discovery = matches!(
            route,
            Route::ServiceProviderConfig
                | Route::ResourceTypes
                | Route::ResourceType(_)
                | Route::Schemas
                | Route::Schema(_)
        );
        // Whoever filters must not take all of it for what they asked for (RFC 7644 section 4).
        if is_discovery && conditions.parameter("filter").is_some() {
            return Err(Error::new(403, "what the server says of itself cannot be filtered").into());
        }
        let found = |body: Option<Value>| match body {
            Some(body) => Ok(Answer { status: 200, body: Some(body), ..Answer::default() }),
            None => Err(Refusal::from(Error::new(404, "there is nothing at this address"))),
        };
        let base = call.base.as_str();
        match route {
            Route::ServiceProviderConfig => found(Some(discovery::service_provider_config(base))),
            Route::ResourceTypes => found(Some(discovery::resource_types(base))),
            Route::ResourceType(id) => found(discovery::resource_type(base, &id)),
            Route::Schemas => found(Some(discovery::schemas(base))),
            Route::Schema(urn) => found(discovery::schema(base, &urn)),
            Route::Me => Err(Error::new(501, "usher knows clients, not who sits in front of them").into()),
            Route::Search(kind) => self.search(call, kind, &body?).await,
            Route::Bulk => self.bulk(call, &body?).await,
            Route::Collection(kind) if method == "GET" => self.list(call, kind, &conditions.parameters).await,
            Route::Collection(kind) => self.create(call, kind, conditions, &body?).await,
            Route::Resource(kind, id) => match method {
                "GET" => self.get(call, (kind, &id), conditions).await,
                "PUT" => self.replace(call, (kind, &id), conditions, body).await,
                "PATCH" => self.patch(call, (kind, &id), conditions, body).await,
                _ => self.delete(call, (kind, &id), conditions).await,
            },
        }
    }

    /// What stands before `/Users` in the URLs of an answer.
    fn base(&self, headers: &HeaderMap) -> String {
        let settings = &self.0.settings;
        if let Some(url) = &settings.public_url {
            return url.clone();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        format!("http://{host}{}", settings.base_path)
    }
}

/// Opens the listener.
///
/// # Errors
/// Says which address it was and what to do.
pub async fn bind(listen: &Listen) -> Result<TcpListener, BindError> {
    const KEY: &str = "source.listen";
    match listen {
        Listen::At(address) => super::bind(address, KEY).await,
        Listen::Everywhere(port) => {
            super::everywhere((*port, KEY), async |address: &str| TcpListener::bind(address).await).await
        }
    }
}

/// Serves until `stop`; open requests get a few seconds to end.
///
/// # Errors
/// When the listener itself breaks.
pub async fn serve(listener: TcpListener, server: &Server, stop: CancellationToken) -> io::Result<()> {
    super::serve(listener, server.router(), stop).await
}

async fn handle(State(server): State<Server>, request: Request) -> Response {
    let started = std::time::Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = server.answer(request).await.unwrap_or_else(Refusal::answer);
    tracing::debug!(%method, path, status = answer.status, took = ?started.elapsed(), "SCIM");
    answer.response()
}

fn not_allowed(route: &Route) -> Refusal {
    let error = Error::new(405, "this address does not take that method");
    let allow = (header::ALLOW, route.methods().join(", "));
    Refusal::Answer(Box::new(Answer { headers: vec![allow], ..Answer::error(&error) }))
}

fn largest(route: &Route) -> usize {
    match route {
        Route::Resource(Kind::Group, _) | Route::Collection(Kind::Group) | Route::Bulk => crate::scim::bulk::LARGEST,
        _ => LARGEST_USER,
    }
}

/// The path with its percent signs resolved; what is no text afterwards is no address of ours.
fn decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let (b'%', Some(value)) = (byte, hex) {
            bytes.push(value);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// A body as JSON. What is wrong with the JSON is the caller's to tell: that a resource does not exist comes first.
async fn read_body(headers: &HeaderMap, body: Body, largest: usize) -> Result<Result<Value, Error>, Refusal> {
    if let Some(given) = headers.get(header::CONTENT_TYPE) {
        let given = given.to_str().unwrap_or_default();
        let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != MEDIA_TYPE && kind != "application/json" {
            return Err(Error::new(415, format!("bodies must be {MEDIA_TYPE}")).into());
        }
    }
    let bytes = to_bytes(body, largest).await.map_err(|error| match super::serve::broken_body(&error) {
        BrokenBody::TooLarge => Error::new(413, format!("the body is larger than {largest} bytes")),
        BrokenBody::TooLate => Error::new(408, "the body took too long to arrive"),
        BrokenBody::CutOff => Error::invalid_syntax("the body broke off"),
    })?;
    Ok(match body::parse(&bytes) {
        Err(error) => Err(Error::invalid_syntax(format!(
            "the body is not JSON (line {}, column {})",
            error.line(),
            error.column()
        ))),
        Ok(value) if document::depth(&value) > document::DEEPEST => {
            Err(Error::invalid_syntax(format!("the body is nested deeper than {} levels", document::DEEPEST)))
        }
        Ok(value) => Ok(value),
    })
}

impl Refusal {
    /// A refusal that holds for so long; whole seconds.
    fn later(error: &Error, wait: Duration) -> Self {
        Self::Answer(Box::new(Answer::later(error, wait)))
    }

    fn answer(self) -> Answer {
        match self {
            Self::Scim(error) => Answer::error(&error),
            Self::Answer(answer) => *answer,
            Self::Store(error) if error.is_retryable() => {
                tracing::warn!(%error, "a SCIM request could not be answered");
                let away = Error::new(503, "the database does not answer; try again later");
                Answer::later(&away, RETRY_AFTER)
            }
            Self::Store(error) => {
                tracing::error!(%error, "a SCIM request could not be answered");
                Answer::error(&Error::new(500, "usher could not do this; its log says why"))
            }
        }
    }
}

impl Answer {
    fn error(error: &Error) -> Self {
        Self { status: error.status, body: Some(error.body()), ..Self::default() }
    }

    /// An error that is worth another try after so long.
    fn later(error: &Error, wait: Duration) -> Self {
        Self { headers: vec![(header::RETRY_AFTER, wait.as_secs().to_string())], ..Self::error(error) }
    }

    fn response(self) -> Response {
        let body = self.body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = self.headers;
        headers.push((header::CONTENT_TYPE, MEDIA_TYPE.to_owned()));
        headers.push((header::CACHE_CONTROL, "no-store".to_owned()));
        headers.push((header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()));
        headers.extend(self.location.map(|location| (header::LOCATION, location)));
        headers.extend(self.version.map(|version| (header::ETAG, version)));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        if self.status == 204 || self.status == 304 {
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_resolved_and_broken_ones_stay() {
        assert_eq!(decoded("/Schemas/urn%3aietf"), "/Schemas/urn:ietf");
        assert_eq!(decoded("/Users/%zz%4"), "/Users/%zz%4");
        assert_eq!(decoded("/Users/%ff"), "");
    }
}
