//! Access tokens by client credentials: drawn when first needed, kept until shortly before they end.
//!
//! Neither the secret nor a token is ever shown.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::trouble::{Trouble, login_refused};
use super::wire::{bounded, retry_after, unreachable};
use crate::config::MsGraphSource;

/// A token is renewed so long before it ends, or at half its life if that is shorter.
const MARGIN: Duration = Duration::from_mins(5);
/// How long a token holds that does not say it.
const USUAL_LIFE: u64 = 3600;
/// Longest answer of the login, in bytes.
const LARGEST: usize = 1 << 20;

/// Where tokens come from, and the present one.
pub struct Tokens {
    url: Url,
    attempted: String,
    /// The request's body.
    form: SecretString,
    present: Mutex<Option<Token>>,
}

struct Token {
    secret: SecretString,
    until: Instant,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Claims {
    roles: Vec<String>,
}

fn names(token: &str, permission: &str) -> bool {
    let payload = token.split('.').nth(1).and_then(|payload| Base64UrlUnpadded::decode_vec(payload).ok());
    let claims: Claims = payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default();
    claims.roles.iter().any(|role| role == permission)
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Tokens {
    /// For the configured app registration. Makes no request.
    ///
    /// # Errors
    /// What cannot work.
    pub fn new(source: &MsGraphSource) -> Result<Self, String> {
        let tenant = source.tenant_id.trim();
        if tenant.is_empty() || !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        {
            return Err("tenant_id is neither an id nor a domain name".to_owned());
        }
        let secret = source.client_secret.as_ref().ok_or("client_secret is missing")?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", source.client_id.trim()),
            ("client_secret", secret.expose_secret()),
            ("scope", &source.scopes.join(" ")),
        ];
        // The only encoder of forms there is here writes queries.
        let form = Url::parse_with_params("https://form.invalid/", form).map_err(|error| error.to_string())?;
        let form = SecretString::from(form.query().unwrap_or_default().to_owned());
        let url = format!("{}/{tenant}/oauth2/v2.0/token", source.login_url);
        let url = Url::parse(&url).map_err(|error| format!("login_url: {error}"))?;
        let attempted = format!("get a token from {}", source.login_url);
        Ok(Self { url, attempted, form, present: Mutex::new(None) })
    }

    /// The present token, or a new one.
    pub async fn get(&self, http: &Client) -> Result<SecretString, Trouble> {
        let mut present = self.present.lock().await;
        if let Some(token) = present.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.secret.clone());
        }
        *present = None;
        let token = self.draw(http).await?;
        Ok(present.insert(token).secret.clone())
    }

    /// Whether the present token says that it holds an application permission. What is in a token is not promised to whom it is given:
    /// where it cannot be read, it says nothing.
    pub async fn holds(&self, permission: &str) -> bool {
        let present = self.present.lock().await;
        present.as_ref().is_some_and(|token| names(token.secret.expose_secret(), permission))
    }

    /// Forgets a token that was not accepted.
    pub async fn forget(&self, refused: &SecretString) {
        let mut present = self.present.lock().await;
        if present.as_ref().is_some_and(|token| token.secret.expose_secret() == refused.expose_secret()) {
            *present = None;
        }
    }

    async fn draw(&self, http: &Client) -> Result<Token, Trouble> {
        let request = http
            .post(self.url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(self.form.expose_secret().to_owned());
        let drawn = Instant::now();
        let mut answer = request.send().await.map_err(|error| Trouble::away(&self.attempted, unreachable(&error)))?;
        let (status, wait) = (answer.status(), retry_after(answer.headers()));
        let body = bounded(&mut answer, LARGEST).await;
        let (body, _) = body.map_err(|error| Trouble::away(&self.attempted, unreachable(&error)))?;
        if !status.is_success() {
            return Err(login_refused(&self.attempted, status.as_u16(), wait, &body));
        }
        let grant: Grant = serde_json::from_slice(&body).map_err(|_| {
            Trouble::odd(&self.attempted, "the answer holds no token: is login_url the login of a Microsoft cloud?")
        })?;
        let life = Duration::from_secs(grant.expires_in.unwrap_or(USUAL_LIFE));
        let until = drawn + life.saturating_sub(MARGIN.min(life / 2));
        Ok(Token { secret: SecretString::from(grant.access_token), until })
    }
}
