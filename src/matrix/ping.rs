//! Whether the homeserver reaches our listener (Matrix Application Service API, ping): it is asked to try.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Homeserver, MatrixError, Request};

/// Longer than the homeserver itself waits for us.
const TIMEOUT: Duration = Duration::from_mins(2);

/// What came of a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ping {
    /// usher answered the homeserver, which took this long.
    Reached(Duration),
    /// The homeserver did not get through, or somebody else answered.
    Unreached { cause: String, remedy: &'static str },
}

const NO_URL: &str =
    "run `usher registration generate` and restart Synapse, which has read a registration without a url";
const NO_WAY: &str = "from where Synapse runs, the url of the registration must lead to appservice.listen: \
                      compare the two (`usher check`), set appservice.url, run `usher registration generate`, restart Synapse";
const NOT_US: &str = "something else answers at the url of the registration, or Synapse has an older hs_token: \
                      run `usher registration generate` and restart Synapse";

impl Homeserver {
    /// Asks the homeserver to ping us. Once it succeeds, the homeserver also sends at once what it held back.
    ///
    /// # Errors
    /// When the homeserver is away, or knows no pings (Synapse before 1.81).
    pub async fn ping(&self) -> Result<Ping, MatrixError> {
        #[derive(Deserialize)]
        struct Answer {
            duration_ms: u64,
        }
        let attempt = "have the homeserver ping usher";
        let path = "/_matrix/client/v1/appservice/{}/ping";
        let request = Request::post(path, &[&self.identity.registration], json!({})).within(TIMEOUT).to(attempt);
        match self.call(request).await {
            Ok(answer) => Ok(Ping::Reached(Duration::from_millis(answer.json::<Answer>(attempt)?.duration_ms))),
            Err(error) => match error.code.as_deref().and_then(remedy) {
                Some(remedy) => Ok(Ping::Unreached { cause: error.cause, remedy }),
                None => Err(error),
            },
        }
    }
}

/// What to do when it was the way to us that failed.
fn remedy(code: &str) -> Option<&'static str> {
    match code {
        "M_URL_NOT_SET" => Some(NO_URL),
        "M_CONNECTION_FAILED" | "M_CONNECTION_TIMEOUT" => Some(NO_WAY),
        "M_BAD_STATUS" => Some(NOT_US),
        _ => None,
    }
}
