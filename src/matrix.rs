//! Everything between usher and the homeserver: transport, reads, the change feed, single writes, the registrations.
//!
//! Reads and writes are plain methods of [`Homeserver`]; what to write is decided elsewhere (`plan`), and only `actuate` calls the
//! writes. This module never retries a write on its own, except one the homeserver refused unread with 429.

mod accounts;
mod admin;
mod estate;
mod feed;
mod invited;
mod links;
mod messages;
mod outside;
mod pace;
mod ping;
mod puppet;
mod read;
pub mod registration;
mod requests;
mod transport;
mod vouch;
mod write;

use std::sync::Arc;

use secrecy::SecretString;

pub use accounts::{AccountRecord, Threepid};
pub use admin::{Promotion, Rung};
pub use estate::Places;
pub use feed::Batch;
pub use messages::{Heard, Said, Saying};
pub use ping::Ping;
pub(crate) use read::each;
pub use read::{NewAccounts, Probed, Reread};
pub use requests::{Request, RequestCount, Requests};
pub use write::Membership;

use crate::config::Config;
use crate::ids::{Localpart, UserId};
use registration::Registration;
use transport::Transport;

/// A homeserver, and who we are there.
#[derive(Clone, Debug)]
pub struct Homeserver {
    transport: Arc<Transport>,
    identity: Arc<Identity>,
    /// `None`: usher acts as nobody but itself.
    puppets: Option<Arc<puppet::Puppets>>,
}

/// What it takes to speak to a homeserver, beside the registration.
#[derive(Clone, Debug)]
pub struct Access {
    pub instance: String,
    pub server_name: String,
    pub url: String,
    /// Where the admin API is, when not at `url`.
    pub admin_url: Option<String>,
    /// The bot's localpart.
    pub bot: Localpart,
    /// A server admin's access token, instead of the sender being one.
    pub admin_token: Option<SecretString>,
    /// Writes per second.
    pub max_rate: u32,
}

impl From<&Config> for Access {
    fn from(config: &Config) -> Self {
        Self {
            instance: config.instance.clone(),
            server_name: config.homeserver.server_name.clone(),
            url: config.homeserver.url.clone(),
            admin_url: config.homeserver.admin_url.clone(),
            bot: config.appservice.bot.clone(),
            admin_token: config.accounts.admin_token.clone(),
            max_rate: config.provisioner.max_rate,
        }
    }
}

/// Who we are.
struct Identity {
    instance: String,
    /// The registration's id.
    registration: String,
    server: String,
    /// The registration's sender: registers users and speaks to the admin API (DESIGN decision 9).
    sender: UserId,
    /// The user that sits in the rooms.
    bot: UserId,
    url: String,
    admin_url: String,
    token: SecretString,
    /// A server admin's own token, used for the admin API instead of the registration's.
    admin_token: Option<SecretString>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("sender", &self.sender).field("bot", &self.bot).finish_non_exhaustive()
    }
}

impl Homeserver {
    /// A homeserver spoken to with the registration's token. Makes no request.
    ///
    /// # Errors
    /// When the HTTP client cannot be built (a malformed URL, no usable TLS).
    pub async fn connect(access: Access, registration: &Registration) -> Result<Self, MatrixError> {
        let server = access.server_name;
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        let identity = Identity {
            instance: access.instance,
            registration: registration.id.clone(),
            sender: UserId::new(&registration.sender_localpart, &server),
            bot: UserId::new(access.bot.as_str(), &server),
            url: plain(&access.url),
            admin_url: plain(access.admin_url.as_ref().unwrap_or(&access.url)),
            token: registration.as_token.clone(),
            admin_token: access.admin_token,
            server,
        };
        let transport = Transport::new(&identity.url, access.max_rate).await?;
        Ok(Self { transport: Arc::new(transport), identity: Arc::new(identity), puppets: None })
    }

    /// The user that sits in the rooms.
    #[must_use]
    pub fn bot(&self) -> &UserId {
        &self.identity.bot
    }

    /// The registration's sender.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.identity.sender
    }

    /// Counts of all requests made, for `/metrics`.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        self.transport.requests()
    }

    /// Sends `request` with the registration's token, as itself (the sender) or as the user it names.
    async fn call(&self, request: Request) -> Result<transport::Answer, MatrixError> {
        let identity = &self.identity;
        self.transport.send(&identity.url, &identity.token, request).await
    }

    /// Sends `request` as the bot.
    async fn call_as_bot(&self, request: Request) -> Result<transport::Answer, MatrixError> {
        self.call(request.on_behalf_of(&self.identity.bot)).await
    }

    /// Sends `request` to the admin API. Never as another user: on the user list that parameter is also its filter.
    async fn call_admin(&self, request: Request) -> Result<transport::Answer, MatrixError> {
        let identity = &self.identity;
        let token = identity.admin_token.as_ref().unwrap_or(&identity.token);
        self.transport.send(&identity.admin_url, token, request).await
    }
}

/// A request that did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct MatrixError {
    /// What was attempted on what.
    pub attempted: String,
    /// What came of it, without tokens.
    pub cause: String,
    /// HTTP status, if an answer came.
    pub status: Option<u16>,
    /// Matrix error code, if the homeserver gave one.
    pub code: Option<String>,
    pub trouble: Trouble,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, no answer in time, or a 5xx: whether a write was done is unknown.
    Away,
    /// Asked to wait more often than we are willing to: not done.
    RateLimited,
    /// The token is not accepted.
    UnknownToken,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// Any other 4xx.
    Rejected,
    /// An answer that cannot be understood.
    Malformed,
}
