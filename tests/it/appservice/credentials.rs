//! Every route against every kind of wrong credential.

use std::collections::BTreeSet;

use reqwest::Method;
use usher::http::appservice::Hinted;

use super::{BOT, Listener, TOKEN};

/// Every route, as the listener's source declares it, with an instance of it and what the right token is answered.
const ROUTES: [(&str, &str, &str, &str, u16); 5] = [
    ("put", "/_matrix/app/v1/transactions/{txn}", "PUT", "/_matrix/app/v1/transactions/7", 200),
    ("post", "/_matrix/app/v1/ping", "POST", "/_matrix/app/v1/ping", 200),
    ("get", "/_matrix/app/v1/users/{user}", "GET", "/_matrix/app/v1/users/@usher:lab.test", 200),
    ("get", "/_matrix/app/v1/rooms/{alias}", "GET", "/_matrix/app/v1/rooms/%23usher_main_s_x:lab.test", 404),
    // What there is no route for must not tell strangers so.
    ("fallback", "", "GET", "/_matrix/app/v1/thirdparty/protocol/x", 404),
];

/// What a caller may show wrongly.
#[derive(Clone, Copy, Debug)]
enum Credential {
    Nothing,
    Wrong(&'static str),
    Empty,
    Query(&'static str),
    OtherScheme,
    NoScheme,
    Basic,
    NotText,
}

const CREDENTIALS: [Credential; 13] = [
    Credential::Nothing,
    Credential::Wrong("another-token"),
    // One character more, fewer, or other.
    Credential::Wrong("hs-token-of-64-characters-or-so."),
    Credential::Wrong("hs-token-of-64-characters-or-s"),
    Credential::Wrong("hs-token-of-64-characters-or-sO"),
    Credential::Empty,
    Credential::Query("access_token"),
    Credential::Query("token"),
    Credential::Query("hs_token"),
    Credential::OtherScheme,
    Credential::NoScheme,
    Credential::Basic,
    Credential::NotText,
];

impl Credential {
    async fn send(self, listener: &Listener, method: &str, path: &str) -> (u16, serde_json::Value) {
        let method: Method = method.parse().unwrap();
        let url = match self {
            Self::Query(name) => listener.url(&format!("{path}?{name}={TOKEN}")),
            _ => listener.url(path),
        };
        let request = listener.http.request(method, url).body(r#"{"events": [{"room_id": "!a", "state_key": ""}]}"#);
        let request = match self {
            Self::Nothing | Self::Query(_) => request,
            Self::Wrong(token) => request.bearer_auth(token),
            Self::Empty => request.header("authorization", "Bearer "),
            Self::OtherScheme => request.header("authorization", format!("Token {TOKEN}")),
            Self::NoScheme => request.header("authorization", TOKEN),
            Self::Basic => request.header("authorization", "Basic aHMtdG9rZW46aHMtdG9rZW4="),
            Self::NotText => request.header("authorization", &b"Bearer \xff\xfe"[..]),
        };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

#[tokio::test]
async fn no_route_is_open_to_a_wrong_credential() {
    let listener = Listener::start().await;
    for (_, _, method, path, _) in ROUTES {
        for credential in CREDENTIALS {
            let (status, body) = credential.send(&listener, method, path).await;
            let code = match status {
                401 => "M_MISSING_TOKEN",
                403 => "M_FORBIDDEN",
                other => panic!("{credential:?} {method} {path} is answered {other}: {body}"),
            };
            assert_eq!(body["errcode"], code, "{credential:?} {method} {path}");
        }
    }
    assert_eq!(listener.hints.take(), Hinted::default(), "nothing was taken in");
}

#[tokio::test]
async fn the_right_token_opens_every_route() {
    let listener = Listener::start().await;
    for (_, _, method, path, expected) in ROUTES {
        for scheme in ["Bearer", "bearer"] {
            let method: Method = method.parse().unwrap();
            let request = listener.http.request(method.clone(), listener.url(path)).body("{}");
            let answer = request.header("authorization", format!("{scheme} {TOKEN}")).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{scheme} {method} {path}");
        }
    }
    let ask = async |path: &str, method: Method| {
        let request = listener.http.request(method, listener.url(path)).bearer_auth(TOKEN);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(&format!("/_matrix/app/v1/users/{BOT}"), Method::GET).await, 200);
    assert_eq!(ask("/_matrix/app/v1/users/@ann:lab.test", Method::GET).await, 404);
    assert_eq!(ask("/_matrix/app/v1/ping", Method::GET).await, 405);
}

/// The table above must name what the listener's source declares: a route that is added there fails here.
#[test]
fn the_table_of_routes_is_complete() {
    let source = include_str!("../../../src/http/appservice.rs");
    let declared: BTreeSet<(String, String)> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".route(\""))
        .flat_map(|rest| {
            let (path, methods) = rest.split_once("\", ").expect("a path and its methods");
            // get(user).post(other)
            let named = ["get", "post", "put", "delete", "patch", "any", "head", "options"];
            let used = named
                .into_iter()
                .filter(|name| methods.starts_with(&format!("{name}(")) || methods.contains(&format!(".{name}(")));
            used.map(|name| (name.to_owned(), path.to_owned())).collect::<Vec<_>>()
        })
        .collect();
    let routes = ROUTES.iter().filter(|(method, ..)| *method != "fallback");
    let table: BTreeSet<(String, String)> =
        routes.map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(declared, table);
    assert_eq!(source.matches(".route(").count(), declared.len(), "a route declared in another shape");
    for other in [".route_service(", ".nest(", ".merge(", ".fallback_service("] {
        assert!(!source.contains(other), "{other} adds routes that this test does not see");
    }
}
