//! `source.mailer` (S-64): AIM's keys, which are nodemailer's, with AIM's defaults: TLS from the first byte, port 465.

use std::path::PathBuf;

use lettre::message::Mailbox;
use secrecy::SecretString;

use super::secret;
use super::section::Section;
use super::value::Field;

/// AIM's `mailer` (S-64), its `transport` as nodemailer's.
#[derive(Clone, Debug)]
pub struct Mailer {
    /// A mailbox (RFC 5322).
    pub from: String,
    /// Files that replace the built-in templates.
    pub templates: Option<PathBuf>,
    /// What letters call the organisation; the server's name unless given.
    pub organisation: Option<String>,
    pub client_url: Option<String>,
    /// Letters are neither sent nor kept: for a first synchronisation.
    pub silent: bool,
    pub transport: Smtp,
}

#[derive(Clone, Debug)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    /// What usher calls itself; the machine's name unless given.
    pub name: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub login: Option<SmtpLogin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    FromTheStart,
    StartTls,
    StartTlsIfOffered,
    None,
}

#[derive(Clone, Debug)]
pub struct SmtpLogin {
    pub user: String,
    pub password: SecretString,
}

/// The section, or its problems.
pub(super) fn mailer(field: &Field<'_>) -> Option<Mailer> {
    let mut section = field.section()?;
    let from = from(&mut section);
    let templates = section.path("templates_path");
    let organisation = section.field("organisation").and_then(|field| field.filled());
    let client_url = section.field("client_url").and_then(|field| field.url(&["https", "http"]));
    let silent = section.boolean("silent", false);
    let transport = section.field("transport");
    if transport.is_none() {
        section.missing("transport", "{ host: smtp.example.com }");
    }
    section.finish();
    let transport = smtp(&transport?)?;
    Some(Mailer { from: from?, templates, organisation, client_url, silent, transport })
}

fn from(section: &mut Section<'_>) -> Option<String> {
    let Some(field) = section.field("from") else {
        section.missing("from", "'Chat <it@example.com>'");
        return None;
    };
    let text = field.filled()?;
    if text.parse::<Mailbox>().is_err() {
        field.fail("must be a mail address, such as 'it@example.com' or 'Chat <it@example.com>'");
        return None;
    }
    Some(text)
}

fn smtp(field: &Field<'_>) -> Option<Smtp> {
    let mut section = field.section()?;
    let host = section.need("host", "smtp.example.com");
    let secure = section.boolean("secure", true);
    let required = section.boolean("requireTLS", false);
    let never = section.field("ignoreTLS");
    let ignored = never.as_ref().and_then(Field::boolean).unwrap_or(false);
    if let Some(never) = never
        && ignored
        && (secure || required)
    {
        never.fail("stands against `secure` or `requireTLS`: for mail without TLS write `secure: false` beside it");
    }
    let tls = match (secure, required, ignored) {
        (true, ..) => SmtpTls::FromTheStart,
        (false, true, _) => SmtpTls::StartTls,
        (false, false, false) => SmtpTls::StartTlsIfOffered,
        (false, false, true) => SmtpTls::None,
    };
    // AIM's 465 is the port of TLS from the start; without that nodemailer's 587.
    let port = section.number("port", if secure { 465 } else { 587 }, (1, 65_535));
    let name = section.field("name").and_then(|field| field.filled());
    let ca_file = section.path("ca_file");
    let login = section.section("auth").and_then(|auth| login(auth));
    section.finish();
    Some(Smtp { host, port: u16::try_from(port).unwrap_or(465), tls, name, ca_file, login })
}

fn login(mut auth: Section<'_>) -> Option<SmtpLogin> {
    let user = auth.need("user", "'mailer'");
    let password = secret::need(&mut auth, "pass", "pass_file");
    auth.finish();
    Some(SmtpLogin { user, password: password? })
}
