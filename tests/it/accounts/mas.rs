//! A stand-in for Matrix Authentication Service, made after its published API description: client credentials, users by name, locks,
//! deactivation, addresses. It tells a fake homeserver what it did a moment later, as the service's jobs do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::lab::proxy::serve;

pub const CLIENT: &str = "01HCLIENT";
/// The only provider of single sign-on it knows.
pub const PROVIDER: &str = "01HPROVIDER";
pub const SECRET: &str = "stand-in-secret";
/// How long its jobs take.
const JOB: Duration = Duration::from_millis(700);

/// A status and a body, by the query.
pub type Scripted = fn(&str) -> (u16, Value);

#[derive(Clone, Default)]
struct Person {
    name: String,
    admin: bool,
    locked: bool,
    deactivated: bool,
}

#[derive(Default)]
struct Everything {
    people: BTreeMap<String, Person>,
    /// By id: whose, and the address.
    emails: BTreeMap<String, (String, String)>,
    tokens: Vec<String>,
    made: usize,
    /// Provider, subject, and the id of whose they are.
    links: Vec<(String, String, String)>,
    /// What `skip_erase` said, per name.
    skipped: BTreeMap<String, bool>,
    /// What stands in for the list of admins, by what was asked.
    admins: Option<Scripted>,
}

struct Shared {
    everything: Mutex<Everything>,
    /// The homeserver, and an admin's token there.
    homeserver: (String, String),
    server: String,
    http: reqwest::Client,
}

/// A running stand-in; it ends with this value.
pub struct StandIn {
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    pub async fn start(homeserver: &str, admin_token: &str, server: &str) -> Self {
        let shared = Arc::new(Shared {
            everything: Mutex::default(),
            homeserver: (homeserver.to_owned(), admin_token.to_owned()),
            server: server.to_owned(),
            http: reqwest::Client::new(),
        });
        let (url, task) = serve(Router::new().fallback(answer).with_state(Arc::clone(&shared))).await;
        Self { url, shared, task }
    }

    /// A person who is there already.
    pub fn add(&self, name: &str, admin: bool) {
        let mut all = self.shared.everything.lock().unwrap();
        let id = all.next("01HUSER");
        all.people.insert(id, Person { name: name.to_owned(), admin, ..Person::default() });
    }

    /// Answers whoever lists the admins like this, by the query.
    pub fn answer_admins(&self, answer: Scripted) {
        self.shared.everything.lock().unwrap().admins = Some(answer);
    }

    /// Ends every token, as time does.
    pub fn expire_tokens(&self) {
        self.shared.everything.lock().unwrap().tokens.clear();
    }

    /// Whether somebody's end was asked for without erasure.
    pub fn skipped_erasure(&self, name: &str) -> Option<bool> {
        self.shared.everything.lock().unwrap().skipped.get(name).copied()
    }
}

impl Everything {
    fn next(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{:06}", self.made)
    }

    fn shown(id: &str, person: &Person) -> Value {
        let when = |flag: bool| if flag { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        json!({ "type": "user", "id": id, "attributes": {
            "username": person.name, "admin": person.admin,
            "locked_at": when(person.locked), "deactivated_at": when(person.deactivated),
        } })
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let auth =
        parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let query = parts.uri.query().unwrap_or_default().replace("%40", "@");
    if path == "oauth2/token" {
        return token(&shared, &auth, &bytes);
    }
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let known = |token: &str| shared.everything.lock().unwrap().tokens.iter().any(|known| known == token);
    if !auth.strip_prefix("Bearer ").is_some_and(known) {
        return refuse(StatusCode::UNAUTHORIZED);
    }
    let route: Vec<&str> = path.trim_start_matches("api/admin/v1/").split('/').collect();
    let (answer, job) =
        dispatch(&mut shared.everything.lock().unwrap(), parts.method.as_str(), &route, (&query, &body));
    if let Some((name, change)) = job {
        tokio::spawn(tell(Arc::clone(&shared), name, change));
    }
    answer
}

fn token(shared: &Shared, auth: &str, body: &[u8]) -> Response {
    use base64ct::Encoding as _;
    let expected = base64ct::Base64::encode_string(format!("{CLIENT}:{SECRET}").as_bytes());
    let form = String::from_utf8_lossy(body);
    if auth != format!("Basic {expected}")
        || !form.contains("client_credentials")
        || !form.contains("urn%3Amas%3Aadmin")
    {
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({ "error": "invalid_client" }))).into_response();
    }
    let mut all = shared.everything.lock().unwrap();
    let token = all.next("token");
    all.tokens.push(token.clone());
    axum::Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300 })).into_response()
}

fn refuse(status: StatusCode) -> Response {
    (status, axum::Json(json!({ "errors": [{ "title": status.to_string() }] }))).into_response()
}

/// What a job tells the homeserver about somebody.
type Job = Option<(String, Value)>;

fn dispatch(all: &mut Everything, method: &str, route: &[&str], (query, body): (&str, &Value)) -> (Response, Job) {
    let shown = |value: Value| axum::Json(value).into_response();
    match (method, route) {
        ("GET", ["users", "by-username", name]) => match all.people.iter().find(|(_, person)| person.name == *name) {
            Some((id, person)) => (shown(json!({ "data": Everything::shown(id, person) })), None),
            None => (refuse(StatusCode::NOT_FOUND), None),
        },
        ("GET", ["users", id]) => match all.people.get(*id) {
            Some(person) => (shown(json!({ "data": Everything::shown(id, person) })), None),
            None => (refuse(StatusCode::NOT_FOUND), None),
        },
        ("GET", ["users"]) => {
            assert!(query.contains("filter[admin]=true"), "{query}");
            if let Some(answer) = all.admins {
                let (status, body) = answer(query);
                return ((StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response(), None);
            }
            let active = query.contains("filter[status]=active");
            let in_use = |person: &Person| !person.locked && !person.deactivated;
            let admins = all.people.iter().filter(|(_, person)| person.admin && (in_use(person) || !active));
            let data: Vec<Value> = admins.map(|(id, person)| Everything::shown(id, person)).collect();
            (shown(json!({ "data": data })), None)
        }
        ("POST", ["users"]) => {
            let name = body["username"].as_str().unwrap_or_default().to_owned();
            if all.people.values().any(|person| person.name == name) {
                return (refuse(StatusCode::CONFLICT), None);
            }
            let id = all.next("01HUSER");
            let person = Person { name: name.clone(), ..Person::default() };
            let data = Everything::shown(&id, &person);
            all.people.insert(id, person);
            (shown(json!({ "data": data })), Some((name, json!({}))))
        }
        ("POST", ["users", id, deed]) => act(all, id, deed, body),
        (_, ["upstream-oauth-links"]) => (links(all, method, (query, body)), None),
        (_, ["user-emails", ..]) => (emails(all, method, route, (query, body)), None),
        _ => panic!("the stand-in does not know {method} {route:?}"),
    }
}

fn act(all: &mut Everything, id: &str, deed: &str, body: &Value) -> (Response, Job) {
    let Some(person) = all.people.get_mut(id) else { return (refuse(StatusCode::NOT_FOUND), None) };
    let change = match deed {
        "lock" | "unlock" => {
            person.locked = deed == "lock";
            json!({ "locked": person.locked })
        }
        "deactivate" => {
            person.deactivated = true;
            let skips = body["skip_erase"] == true;
            all.skipped.insert(person.name.clone(), skips);
            json!({ "end": true, "erase": !skips })
        }
        "reactivate" => {
            person.deactivated = false;
            json!({ "deactivated": false })
        }
        other => panic!("the stand-in does not know {other}"),
    };
    let answer = axum::Json(json!({ "data": Everything::shown(id, person) })).into_response();
    (answer, Some((person.name.clone(), change)))
}

fn links(all: &mut Everything, method: &str, (query, body): (&str, &Value)) -> Response {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    if method == "GET" {
        let filter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("filter[{name}]=")));
        let fits = |(provider, subject, _): &&(String, String, String)| {
            filter("provider") == Some(provider.as_str()) && filter("subject") == Some(subject.as_str())
        };
        let shown = |(_, subject, owner): &(String, String, String)| json!({ "type": "upstream-oauth-link", "id": subject, "attributes": { "user_id": owner } });
        let data: Vec<Value> = all.links.iter().filter(fits).map(shown).collect();
        return axum::Json(json!({ "data": data })).into_response();
    }
    let link = (text("provider_id"), text("subject"), text("user_id"));
    if link.0 != PROVIDER {
        return refuse(StatusCode::NOT_FOUND);
    }
    if all.links.iter().any(|known| (&known.0, &known.1) == (&link.0, &link.1)) {
        return refuse(StatusCode::CONFLICT);
    }
    all.links.push(link);
    (StatusCode::CREATED, axum::Json(json!({ "data": {} }))).into_response()
}

fn emails(all: &mut Everything, method: &str, route: &[&str], (query, body): (&str, &Value)) -> Response {
    let shown = |(id, (owner, email)): (&String, &(String, String))| json!({ "type": "user-email", "id": id, "attributes": { "user_id": owner, "email": email } });
    match (method, route) {
        ("GET", _) => {
            let filter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("filter[{name}]=")));
            let found = all.emails.iter().filter(|(_, (owner, email))| {
                filter("user").is_none_or(|id| id == owner) && filter("email").is_none_or(|wanted| wanted == email)
            });
            axum::Json(json!({ "data": found.map(shown).collect::<Vec<_>>() })).into_response()
        }
        ("POST", _) => {
            let (owner, email) = (body["user_id"].as_str().unwrap(), body["email"].as_str().unwrap());
            if all.emails.values().any(|(_, known)| known == email) {
                return refuse(StatusCode::CONFLICT);
            }
            let id = all.next("01HMAIL");
            all.emails.insert(id, (owner.to_owned(), email.to_owned()));
            axum::Json(json!({})).into_response()
        }
        ("DELETE", [_, id]) => {
            all.emails.remove(*id);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => panic!("the stand-in does not know {method} {route:?}"),
    }
}

/// The homeserver hears of it a moment later.
async fn tell(shared: Arc<Shared>, name: String, change: Value) {
    tokio::time::sleep(JOB).await;
    let (url, token) = &shared.homeserver;
    let user = crate::lab::synapse::escape(&format!("@{name}:{}", shared.server));
    let ends = change["end"] == true;
    let request = if ends {
        shared.http.post(format!("{url}/_synapse/admin/v1/deactivate/{user}"))
    } else {
        shared.http.put(format!("{url}/_synapse/admin/v2/users/{user}"))
    };
    let answer = request.bearer_auth(token).json(&change).send().await.expect("the homeserver");
    assert!(answer.status().is_success(), "{}", answer.status());
}
