//! The wire: the only module that names matrix-sdk, whose client carries our own requests.
//!
//! Every request of usher is one [`Call`]: a path, a token, perhaps a body. Answers of every status come back here and are classified
//! here; matrix-sdk's own retries are off, because it would repeat createRoom. Tokens never reach a log or an error.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use matrix_sdk::config::RequestConfig;
use matrix_sdk::{Client, HttpError};
use ruma::api::auth_scheme::NoAuthentication;
use ruma::api::error::{FromHttpResponseError, IntoHttpError};
use ruma::api::path_builder::SinglePath;
use ruma::api::{IncomingResponse, Metadata, OutgoingRequest};
use ruma::exports::bytes::BufMut;
use ruma::exports::http;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::pace::Pace;
use super::requests::{Body, Method, Request, Requests};
use super::{MatrixError, Trouble};
use crate::ids::Timestamp;

/// Longest answer taken: the state of a room of 100 000 members has about 50 MB.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;
/// How often one request waits as told by a 429 before it gives up.
const RATE_LIMITED_TRIES: u32 = 6;
/// Longest wait taken on by one 429, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// The wait when a 429 names none.
const USUAL_WAIT: Duration = Duration::from_secs(2);
/// How often a read is tried when no good answer comes: once more, so that one hiccup does not spoil a read of hundreds of rooms.
const READ_TRIES: u32 = 2;
const READ_PAUSE: Duration = Duration::from_millis(500);
/// Longest part of a homeserver's error text that is passed on.
const LONGEST_CAUSE: usize = 300;

/// An HTTP client with its pace and its counts.
pub(super) struct Transport {
    client: Client,
    reads: Pace,
    writes: Pace,
    requests: Requests,
    /// Our clock minus the homeserver's, as its latest answer told it; [`i64::MIN`]: none said.
    difference_ms: AtomicI64,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Transport {
    /// `max_rate`: writes per second.
    pub(super) async fn new(url: &str, max_rate: u32) -> Result<Self, MatrixError> {
        let failed = |cause: String| MatrixError {
            attempted: format!("set up the HTTP client for {url}"),
            cause,
            status: None,
            code: None,
            trouble: Trouble::Malformed,
        };
        let client = Client::builder()
            .homeserver_url(url)
            .user_agent(concat!("usher/", env!("CARGO_PKG_VERSION")))
            .request_config(RequestConfig::new().disable_retry())
            .build()
            .await
            .map_err(|error| failed(causes(&error)))?;
        Ok(Self {
            client,
            reads: Pace::new(None),
            writes: Pace::new(Some(max_rate)),
            requests: Requests::default(),
            difference_ms: AtomicI64::new(i64::MIN),
        })
    }

    pub(super) fn clock_difference_ms(&self) -> Option<i64> {
        Some(self.difference_ms.load(Ordering::Relaxed)).filter(|ms| *ms != i64::MIN)
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Sends `request` to `base`, at its pace. 429 is waited out, a read that got no good answer is tried once more; a write is not.
    pub(super) async fn send(&self, base: &str, token: &SecretString, request: Request) -> Result<Answer, MatrixError> {
        let pace = if request.is_write() { &self.writes } else { &self.reads };
        let mut waits = 0;
        let mut tries = 1;
        loop {
            pace.turn().await;
            let error = match self.send_once(base, token, &request).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) => {
                    if let Some(wait) = answer.asked_wait() {
                        pace.hold_off(wait).await;
                        waits += 1;
                        if waits < RATE_LIMITED_TRIES {
                            tracing::debug!(endpoint = request.endpoint, ?wait, "the homeserver asks to wait");
                            continue;
                        }
                    }
                    answer.into_error(&request)
                }
                Err(error) => error,
            };
            if error.trouble != Trouble::Away || request.is_write() || tries >= READ_TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    async fn send_once(&self, base: &str, token: &SecretString, request: &Request) -> Result<Answer, MatrixError> {
        let call = Call {
            url: format!("{base}{}", request.target),
            token: token.clone(),
            method: request.method,
            endpoint: request.endpoint,
            body: request.body.clone(),
        };
        let config = RequestConfig::new().disable_retry().timeout(request.timeout);
        match self.client.send(call).with_request_config(config).await {
            Ok(answer) => {
                self.requests.record(request, Some(answer.status));
                if let Some(date) = answer.date {
                    self.difference_ms.store(crate::clock::now().since_ms(date), Ordering::Relaxed);
                }
                Ok(answer)
            }
            Err(error) => {
                self.requests.record(request, None);
                Err(no_answer(request, error))
            }
        }
    }
}

fn no_answer(request: &Request, error: HttpError) -> MatrixError {
    let (trouble, cause) = match error {
        HttpError::Reqwest(error) if error.is_timeout() => {
            (Trouble::Away, format!("no answer from the homeserver within {} s", request.timeout.as_secs()))
        }
        HttpError::Reqwest(error) => (Trouble::Away, causes(&error.without_url())),
        other => (Trouble::Malformed, causes(&other)),
    };
    MatrixError { attempted: request.attempt.clone(), cause, status: None, code: None, trouble }
}

/// An error with what caused it: reqwest's own text alone says no more than "error sending request".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Any answer, of any status.
#[derive(Clone)]
pub(super) struct Answer {
    status: u16,
    retry_after: Option<String>,
    /// When it was sent, by the homeserver's clock.
    date: Option<Timestamp>,
    body: Vec<u8>,
}

impl Answer {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The answer's JSON; `attempt` names the request in the error.
    pub(super) fn json<T: DeserializeOwned>(&self, attempt: &str) -> Result<T, MatrixError> {
        let cause = if self.body.len() > LONGEST_ANSWER {
            format!("the answer has {} bytes, more than the {LONGEST_ANSWER} that are taken", self.body.len())
        } else {
            match serde_json::from_slice(&self.body) {
                Ok(value) => return Ok(value),
                // serde_json's text may quote the answer; its position does not.
                Err(error) => {
                    format!("the answer is not as expected (line {}, column {})", error.line(), error.column())
                }
            }
        };
        let status = Some(self.status);
        Err(MatrixError { attempted: attempt.to_owned(), cause, status, code: None, trouble: Trouble::Malformed })
    }

    /// How long a 429 asks us to wait.
    fn asked_wait(&self) -> Option<Duration> {
        if self.status != 429 {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let in_body = body.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis);
        let in_header = self.retry_after.as_ref().and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Some(in_body.or(in_header).unwrap_or(USUAL_WAIT).min(LONGEST_WAIT))
    }

    fn into_error(self, request: &Request) -> MatrixError {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        let code = text("errcode");
        let trouble = match self.status {
            _ if matches!(code.as_deref(), Some("M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN")) => Trouble::UnknownToken,
            429 => Trouble::RateLimited,
            403 => Trouble::Forbidden,
            404 => Trouble::NotFound,
            500.. => Trouble::Away,
            400..=499 => Trouble::Rejected,
            _ => Trouble::Malformed,
        };
        let said: String = text("error").unwrap_or_default().chars().take(LONGEST_CAUSE).collect();
        let cause = match &code {
            Some(code) => format!("{} {code}: {said}", self.status),
            None => format!("HTTP status {}", self.status),
        };
        MatrixError { attempted: request.attempt.clone(), cause, status: Some(self.status), code, trouble }
    }
}

impl IncomingResponse for Answer {
    type EndpointError = ruma::api::error::Error;

    fn try_from_http_response<T: AsRef<[u8]>>(
        response: http::Response<T>,
    ) -> Result<Self, FromHttpResponseError<Self::EndpointError>> {
        let retry_after = response.headers().get(http::header::RETRY_AFTER);
        let date = response.headers().get(http::header::DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        Ok(Self {
            status: response.status().as_u16(),
            retry_after: retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned),
            date: date.map(|date| Timestamp(date.timestamp_millis())),
            body: response.body().as_ref().to_vec(),
        })
    }
}

/// One request on the wire, in the shape matrix-sdk sends.
#[derive(Clone)]
struct Call {
    url: String,
    token: SecretString,
    method: Method,
    endpoint: &'static str,
    body: Option<Body>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.endpoint)
    }
}

/// The real method, path and token are set per call; these stand in for what the trait wants to know beforehand.
impl Metadata for Call {
    const METHOD: http::Method = http::Method::GET;
    const RATE_LIMITED: bool = true;
    type Authentication = NoAuthentication;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: SinglePath = SinglePath::new("/");
}

impl OutgoingRequest for Call {
    type EndpointError = ruma::api::error::Error;
    type IncomingResponse = Answer;

    fn try_into_http_request<T: Default + BufMut + AsRef<[u8]>>(
        self,
        _base_url: &str,
        _authentication: (),
        _path: (),
    ) -> Result<http::Request<T>, IntoHttpError> {
        let mut bearer = http::HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()))?;
        bearer.set_sensitive(true);
        let mut body = T::default();
        let mut media_type = "application/json";
        match &self.body {
            None => {}
            Some(Body::Json(json)) => body.put_slice(&serde_json::to_vec(json)?),
            Some(Body::Media { bytes, media_type: own }) => {
                media_type = own;
                body.put_slice(bytes);
            }
        }
        let request = http::Request::builder()
            .method(self.method.as_str())
            .uri(self.url)
            .header(http::header::AUTHORIZATION, bearer)
            .header(http::header::CONTENT_TYPE, media_type);
        Ok(request.body(body)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &Value) -> Answer {
        Answer { status, date: None, retry_after: retry_after.map(str::to_owned), body: body.to_string().into_bytes() }
    }

    #[test]
    fn the_wait_comes_from_the_body_then_the_header_and_has_an_end() {
        let wait = |status, header, body| answer(status, header, &body).asked_wait();
        assert_eq!(wait(200, Some("5"), json!({ "retry_after_ms": 1 })), None);
        assert_eq!(wait(429, Some("5"), json!({ "retry_after_ms": 4221 })), Some(Duration::from_millis(4221)));
        assert_eq!(wait(429, Some(" 5"), json!({})), Some(Duration::from_secs(5)));
        assert_eq!(wait(429, Some("Wed, 21 Oct 2026 07:28:00 GMT"), json!("busy")), Some(USUAL_WAIT));
        assert_eq!(wait(429, None, json!({ "retry_after_ms": u64::MAX })), Some(LONGEST_WAIT));
    }

    #[test]
    fn answers_are_classified_by_code_before_status() {
        let request = Request::get("/x", &[]).to("look at x");
        let trouble = |status, body| answer(status, None, &body).into_error(&request).trouble;
        assert_eq!(trouble(401, json!({ "errcode": "M_UNKNOWN_TOKEN" })), Trouble::UnknownToken);
        assert_eq!(trouble(401, json!({ "errcode": "M_USER_LOCKED" })), Trouble::Rejected);
        assert_eq!(trouble(502, json!("<html>")), Trouble::Away);
        assert_eq!(trouble(403, json!({})), Trouble::Forbidden);
        let error = answer(400, None, &json!({ "errcode": "M_X", "error": "e".repeat(5000) })).into_error(&request);
        assert!(error.to_string().starts_with("look at x: 400 M_X: eee") && error.cause.len() < 400);
    }

    #[tokio::test]
    async fn a_homeserver_that_is_away_is_asked_twice_to_read_and_once_to_write() {
        let url = "http://127.0.0.1:1";
        let transport = Transport::new(url, 0).await.unwrap();
        let token = SecretString::from("sesame".to_owned());
        for (request, tries) in [(Request::get("/r", &[]), 2), (Request::put("/w", &[], json!({})), 1)] {
            let endpoint = request.endpoint;
            let error = transport.send(url, &token, request).await.err().unwrap();
            assert_eq!(error.trouble, Trouble::Away, "{error}");
            assert!(!format!("{error} {error:?}").contains("sesame"));
            let counts = transport.requests().counts();
            let line = counts.iter().find(|line| line.endpoint == endpoint).unwrap();
            assert_eq!((line.count, line.code.as_str()), (tries, "none"));
        }
    }
}
