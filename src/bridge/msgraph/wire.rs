//! One request to Graph: with a token, within bounds of time and size, repeated where that is of use.
//!
//! The token goes to the configured host only: links that lead elsewhere are refused, redirections are not followed.

use std::error::Error;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::token::Tokens;
use super::trouble::{Again, Answered, Purpose, Trouble, refused};
use crate::config::MsGraphSource;

/// Longest answer, in bytes: a page of 999 people has less than 1 MiB.
const LARGEST: usize = 64 << 20;
/// How often a request is sent while it gets no answer, or a failure.
const TRIES: u32 = 3;
/// Before it is sent again; each further time so much longer.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it waits as it is told to, and how long where that is not said: twice as long each time.
const WAITS: u32 = 8;
const USUAL_WAIT: Duration = Duration::from_secs(2);
const LONGEST_USUAL_WAIT: Duration = Duration::from_mins(1);
/// Longest wait that is taken at its word.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Graph, as the configured app registration sees it.
#[derive(Debug)]
pub struct Wire {
    http: Client,
    base: Url,
    tokens: Tokens,
    /// Until when Graph wants to be left alone, by the latest answer that said so; it holds for later reads, too.
    quiet: Mutex<Option<Instant>>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub purpose: Purpose,
    pub url: Url,
    /// Sent by POST where there is one.
    pub body: Option<Value>,
    /// Bytes after which the rest of the answer is not wanted; `None`: an answer without bounds is an error.
    pub enough: Option<usize>,
}

impl Wire {
    /// For the configured app registration. Makes no request.
    ///
    /// # Errors
    /// What cannot work.
    pub fn new(source: &MsGraphSource) -> Result<Self, String> {
        let base = Url::parse(&source.base_url).map_err(|error| format!("base_url: {error}"))?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err("base_url must end with a host or a path".to_owned());
        }
        let http = Client::builder()
            .user_agent(concat!("usher/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_millis(source.connect_timeout_ms))
            .timeout(Duration::from_millis(source.operation_timeout_ms))
            .redirect(Policy::none())
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        Ok(Self { http, base, tokens: Tokens::new(source)?, quiet: Mutex::new(None) })
    }

    /// A request for a path below the API's root, with its query. Ids in it are [`is_id`].
    ///
    /// # Errors
    /// Where that is no URL.
    pub fn ask(&self, purpose: Purpose, path: &str) -> Result<Ask, Trouble> {
        let url = format!("{}/v1.0/{path}", self.base.as_str().trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| Trouble::odd(&self.attempt(purpose), error.to_string()))?;
        Ok(Ask { purpose, url, body: None, enough: None })
    }

    /// A request for a link out of an answer, verbatim.
    ///
    /// # Errors
    /// Where it leads to another host: the token is not for that one.
    pub fn follow(&self, purpose: Purpose, link: &str) -> Result<Ask, Trouble> {
        let place =
            |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
        match Url::parse(link) {
            Ok(url) if place(&url) == place(&self.base) => Ok(Ask { purpose, url, body: None, enough: None }),
            _ => {
                let cause = "the link to the next page leads away from base_url: it is not followed, since the token would go there";
                Err(Trouble::odd(&self.attempt(purpose), cause))
            }
        }
    }

    /// `read the users from https://graph.microsoft.com`.
    #[must_use]
    pub fn attempt(&self, purpose: Purpose) -> String {
        format!("{} from {}", purpose.what, self.base.as_str().trim_end_matches('/'))
    }

    /// A token, for who wants to know whether there is one.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self, deadline: Instant) -> Result<(), Trouble> {
        let mut patience = Patience::until(deadline);
        loop {
            match self.tokens.get(&self.http).await {
                Ok(_) => return Ok(()),
                Err(trouble) => self.pause(&mut patience, trouble).await?,
            }
        }
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// When there is none, or none such.
    pub async fn json<T: DeserializeOwned>(&self, ask: &Ask, deadline: Instant) -> Result<T, Trouble> {
        let body = self.bytes(ask, deadline).await?;
        // What the parser says may quote the body.
        serde_json::from_slice(&body)
            .map_err(|_| Trouble::odd(&self.attempt(ask.purpose), "the answer is not what Graph documents"))
    }

    /// The answer's body. A token that is not accepted is renewed once; what is busy or hiccups is asked again, until `deadline`.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn bytes(&self, ask: &Ask, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let mut patience = Patience::until(deadline);
        loop {
            match self.try_once(ask).await {
                Ok(body) => return Ok(body),
                Err(trouble) => self.pause(&mut patience, trouble).await?,
            }
        }
    }

    /// Whether the app is known to have a permission.
    pub async fn holds(&self, permission: &str) -> bool {
        self.tokens.holds(permission).await
    }

    /// Asks nothing before then, in later reads neither: Graph wants to be left alone.
    pub async fn rest_until(&self, moment: Instant) {
        let mut quiet = self.quiet.lock().await;
        *quiet = (*quiet).max(Some(moment));
    }

    async fn try_once(&self, ask: &Ask) -> Result<Vec<u8>, Trouble> {
        if let Some(rest) = self.quiet.lock().await.and_then(|until| until.checked_duration_since(Instant::now())) {
            let again = Again::Later(Some(rest));
            return Err(Trouble {
                again,
                ..Trouble::away(&self.attempt(ask.purpose), "Graph wants to be asked less often")
            });
        }
        let token = self.tokens.get(&self.http).await?;
        match self.send(ask, &token).await {
            Err(Trouble { status: Some(401), .. }) => {
                self.tokens.forget(&token).await;
                let fresh = self.tokens.get(&self.http).await?;
                self.send(ask, &fresh).await
            }
            other => other,
        }
    }

    /// Waits until it is time to ask again.
    ///
    /// # Errors
    /// The trouble, where asking again is of no use or there is no time for it.
    async fn pause(&self, patience: &mut Patience, trouble: Trouble) -> Result<(), Trouble> {
        if let Again::Later(Some(wait)) = trouble.again {
            self.rest_until(Instant::now() + wait).await;
        }
        let Some(pause) = patience.pause(trouble.again) else { return Err(trouble) };
        if Instant::now() + pause >= patience.deadline {
            let cause = format!("{}; there is no time left to ask again", trouble.cause);
            return Err(Trouble { cause, ..trouble });
        }
        tracing::debug!(attempted = trouble.attempted, ?pause, "Microsoft Graph is asked again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn send(&self, ask: &Ask, token: &SecretString) -> Result<Vec<u8>, Trouble> {
        let attempted = self.attempt(ask.purpose);
        let request = match &ask.body {
            Some(body) => self.http.post(ask.url.clone()).json(body),
            None => self.http.get(ask.url.clone()),
        };
        let answer = request.bearer_auth(token.expose_secret()).send().await;
        let mut answer = answer.map_err(|error| Trouble::away(&attempted, unreachable(&error)))?;
        let (status, wait) = (answer.status(), retry_after(answer.headers()));
        let request_id = answer.headers().get("request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let (body, cut) = bounded(&mut answer, ask.enough.unwrap_or(LARGEST))
            .await
            .map_err(|error| Trouble::away(&attempted, unreachable(&error)))?;
        if !status.is_success() {
            let answered = Answered { status: status.as_u16(), retry_after: wait, request_id, body: &body };
            return Err(refused(&attempted, ask.purpose, answered));
        }
        if cut && ask.enough.is_none() {
            return Err(Trouble::odd(&attempted, format!("the answer is larger than {} MiB", LARGEST >> 20)));
        }
        Ok(body)
    }
}

/// How often, and until when, a request is repeated.
#[derive(Debug)]
struct Patience {
    deadline: Instant,
    tries: u32,
    waits: u32,
}

impl Patience {
    fn until(deadline: Instant) -> Self {
        Self { deadline, tries: 0, waits: 0 }
    }

    /// How long to wait before the next request; `None`: it is of no use.
    fn pause(&mut self, again: Again) -> Option<Duration> {
        match again {
            Again::No => None,
            Again::Soon => {
                self.tries += 1;
                (self.tries < TRIES).then_some(PAUSE * self.tries)
            }
            Again::Later(wait) => {
                self.waits += 1;
                let usual = || (USUAL_WAIT * 2_u32.pow(self.waits - 1)).min(LONGEST_USUAL_WAIT);
                (self.waits < WAITS).then(|| wait.unwrap_or_else(usual))
            }
        }
    }
}

/// Whether an id is fit to stand in a path: object ids are GUIDs.
#[must_use]
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A body up to so many bytes, and whether there was more.
///
/// # Errors
/// When it breaks off.
pub async fn bounded(answer: &mut Response, most: usize) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = most - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            return Ok((body, true));
        }
    }
    Ok((body, false))
}

/// How long the service wants to be left alone: in seconds, as Graph writes it.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after").and_then(|value| value.to_str().ok()).and_then(wait)
}

/// The same, out of an answer within an answer.
#[must_use]
pub fn wait(seconds: &str) -> Option<Duration> {
    seconds.trim().parse().ok().map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Why no answer came, without the URL: a link to a page may say more than is to be logged.
#[must_use]
pub fn unreachable(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let what = if error.is_connect() { "cannot connect" } else { "the answer broke off" };
    let mut deepest = error.source();
    while let Some(deeper) = deepest.and_then(Error::source) {
        deepest = Some(deeper);
    }
    deepest.map_or_else(|| what.to_owned(), |cause| format!("{what}: {cause}"))
}
