//! Mail to people about their account (S-64): registered, activated, deactivated.
//!
//! ```text
//! mail.rs       what there is to say, and to whom; one letter, handed to the mail server
//!   templates   subject, text and html of each, the operator's before ours
//!   delivery    the outbox, letter by letter, until each is accepted or refused for good
//! ```
//! Never decides that somebody gets a letter: whoever changes the account puts one into the outbox with that change.
//! Addresses and contents never reach a log.

pub mod delivery;
pub mod templates;

use std::fmt;
use std::time::Duration;

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::config::{Mailer, Smtp, SmtpTls};
use templates::{Rendered, TemplateError, Templates};

/// How long the mail server may take for any one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happened to the account; also the name of the templates' folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    Registered,
    Activated,
    Deactivated,
}

impl Occasion {
    pub const ALL: [Self; 3] = [Self::Registered, Self::Activated, Self::Deactivated];

    /// Its name in the templates' folder and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Activated => "activated",
            Self::Deactivated => "deactivated",
        }
    }

    /// The occasion of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|occasion| occasion.name() == name)
    }
}

/// One letter, not yet written.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// Names the change it is about, and no other: the same change never makes two letters, and every attempt carries the same
    /// Message-ID (RFC 5322, 3.6.4), so that a mail server that got one twice shows one.
    pub id: String,
    pub occasion: Occasion,
    pub address: String,
    pub display_name: String,
    /// The Matrix ID the letter is about.
    pub user_id: String,
}

impl fmt::Debug for Letter {
    /// Without the address and the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("id", &self.id).field("occasion", &self.occasion).finish_non_exhaustive()
    }
}

/// What templates may use; any other name in them is an error.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub display_name: &'a str,
    pub user_id: &'a str,
    pub organisation: &'a str,
    pub client_url: Option<&'a str>,
}

/// Why the mail part cannot work as configured.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("mailer.from is no mail address")]
    From,
    #[error("mailer.transport.ca_file {0} cannot be used: {1}")]
    Authority(String, String),
    #[error("mailer.transport.host {0} cannot be used: {1}")]
    Host(String, String),
}

/// Why a letter was not accepted. Never holds an address: what servers say often does, so only their codes are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The mail server is not there, or has nothing to do with us: no letter will get through now.
    #[error("{0}")]
    Away(String),
    /// Worth another attempt later.
    #[error("{0}")]
    ForNow(String),
    /// This letter will never be accepted.
    #[error("{0}")]
    ForGood(String),
}

/// Writes letters and hands them to the mail server.
#[derive(Debug)]
pub struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    templates: Templates,
    from: Mailbox,
    organisation: String,
    client_url: Option<String>,
    /// Right of the `@` in Message-IDs.
    domain: String,
    is_silent: bool,
}

impl Post {
    /// Reads every template and tries them all on sample people; connects to nothing.
    ///
    /// # Errors
    /// The first template, file or setting that cannot be used.
    pub fn new(mailer: &Mailer, server_name: &str) -> Result<Self, MailError> {
        let from: Mailbox = mailer.from.parse().map_err(|_| MailError::From)?;
        let domain = server_name.split(':').next().unwrap_or(server_name).to_owned();
        let post = Self {
            transport: transport(&mailer.transport)?,
            templates: Templates::load(mailer.templates.as_deref())?,
            from,
            organisation: mailer.organisation.clone().unwrap_or_else(|| domain.clone()),
            client_url: mailer.client_url.clone(),
            domain,
            is_silent: mailer.silent,
        };
        for occasion in Occasion::ALL {
            post.sample(occasion)?;
        }
        Ok(post)
    }

    /// Whether nobody is to be written to for now.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// What a letter says.
    ///
    /// # Errors
    /// Where the template uses what is not there.
    pub fn write(&self, letter: &Letter) -> Result<Rendered, TemplateError> {
        let values = Values {
            display_name: &letter.display_name,
            user_id: &letter.user_id,
            organisation: &self.organisation,
            client_url: self.client_url.as_deref(),
        };
        self.templates.render(letter.occasion, &values)
    }

    /// A letter to somebody made up.
    ///
    /// # Errors
    /// As [`Post::write`].
    pub fn sample(&self, occasion: Occasion) -> Result<Rendered, TemplateError> {
        self.write(&Letter {
            id: "sample".to_owned(),
            occasion,
            address: String::new(),
            display_name: "Zoë O'Neill & Söhne <sample>".to_owned(),
            user_id: format!("@zoe.oneill:{}", self.domain),
        })
    }

    /// Hands a letter to the mail server; once it has accepted it, it is sent as far as anybody can tell.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn send(&self, letter: &Letter) -> Result<(), Refusal> {
        let message = self.message(letter)?;
        self.transport.send(message).await.map(|_| ()).map_err(|error| refusal(&error))
    }

    fn message(&self, letter: &Letter) -> Result<Message, Refusal> {
        let for_good = |what: &str| Refusal::ForGood(what.to_owned());
        let address: Address = letter.address.parse().map_err(|_| for_good("the address is no mail address"))?;
        let written = self.write(letter).map_err(|error| Refusal::ForNow(error.to_string()))?;
        let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(letter.display_name.clone()).filter(|name| !name.is_empty()), address))
            .subject(written.subject)
            .message_id(Some(self.message_id(&letter.id)))
            .raw_header(automatic)
            .multipart(MultiPart::alternative_plain_html(written.text, written.html))
            .map_err(|_| for_good("the letter cannot be put together"))
    }

    /// The same for every attempt at a letter.
    fn message_id(&self, id: &str) -> String {
        let digest = Sha256::digest(id.as_bytes());
        format!("<usher.{}@{}>", hex::encode(&digest[..16]), self.domain)
    }
}

fn transport(smtp: &Smtp) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let tls = match smtp.tls {
        SmtpTls::FromTheStart => Tls::Wrapper(parameters(smtp)?),
        SmtpTls::StartTls => Tls::Required(parameters(smtp)?),
        SmtpTls::StartTlsIfOffered => Tls::Opportunistic(parameters(smtp)?),
        SmtpTls::None => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .tls(tls)
        .timeout(Some(PATIENCE));
    if let Some(login) = &smtp.login {
        let password = login.password.expose_secret().to_owned();
        builder = builder.credentials(Credentials::new(login.user.clone(), password));
    }
    if let Some(name) = &smtp.name {
        builder = builder.hello_name(ClientId::Domain(name.clone()));
    }
    Ok(builder.build())
}

fn parameters(smtp: &Smtp) -> Result<TlsParameters, MailError> {
    let mut builder = TlsParameters::builder(smtp.host.clone());
    if let Some(path) = &smtp.ca_file {
        let unusable = |cause: String| MailError::Authority(path.display().to_string(), cause);
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let authority = Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
        builder = builder.add_root_certificate(authority);
    }
    builder.build_rustls().map_err(|error| MailError::Host(smtp.host.clone(), error.to_string()))
}

/// Codes that speak of us or of the moment, not of the letter: bad or missing credentials, TLS wanted (RFC 4954, RFC 3207).
const ABOUT_US: [u16; 4] = [530, 534, 535, 538];

fn refusal(error: &lettre::transport::smtp::Error) -> Refusal {
    if let Some(code) = error.status().map(u16::from) {
        let text = format!("the mail server refuses with code {code}");
        return match (ABOUT_US.contains(&code), error.is_permanent()) {
            (true, _) => Refusal::Away(format!("{text}: the credentials, or TLS")),
            (false, true) => Refusal::ForGood(text),
            (false, false) => Refusal::ForNow(text),
        };
    }
    if error.is_client() {
        return Refusal::ForGood("the mail server does not offer what the letter needs".to_owned());
    }
    let what = if error.is_timeout() {
        "the mail server does not answer in time"
    } else if error.is_tls() || is_about_tls(error) {
        "no TLS with the mail server: its certificate, or the kind of TLS it wants"
    } else {
        "the mail server cannot be reached, or hung up"
    };
    Refusal::Away(what.to_owned())
}

/// Whether TLS itself is what failed. In a connection that breaks while it is set up it hides behind two other errors.
fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.is::<rustls::Error>() || io.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
    };
    std::iter::successors(Some(error), |cause| cause.source()).any(inner)
}
