//! What goes wrong with a directory server, in words that say what to do.

use std::io;

use ldap3::{LdapError, LdapResult};

use super::tls::certificate_problem;
use crate::bridge::SourceError;

/// A step towards a read that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `connect`, `tls`, `bind`, `base`, …
    pub step: &'static str,
    /// What was attempted on what, without secrets.
    pub attempted: String,
    pub cause: String,
    /// Whether another server, or the same one later, may do better. Wrong credentials are not tried elsewhere: that locks accounts.
    pub retry: bool,
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        Self { attempted: trouble.attempted, cause: trouble.cause, retry: trouble.retry }
    }
}

/// Result codes in which the server says that it cannot just now.
const PASSING: [u32; 4] = [3, 51, 52, 80];

/// Whether a result code may be gone at the next try.
#[must_use]
pub fn is_passing(code: u32) -> bool {
    PASSING.contains(&code)
}

/// `code 4 (size limit exceeded)`, with what the server adds.
#[must_use]
pub fn code_text(result: &LdapResult) -> String {
    let meaning = match result.rc {
        1 => "operations error",
        2 => "protocol error",
        3 => "time limit exceeded",
        4 => "size limit exceeded",
        7 => "authentication method not supported",
        8 => "stronger authentication required",
        10 => "referral to another server",
        11 => "administrative limit exceeded",
        12 => "unavailable critical extension",
        13 => "confidentiality required",
        18 => "inappropriate matching",
        21 => "invalid attribute syntax",
        32 => "no such object",
        34 => "invalid DN syntax",
        48 => "inappropriate authentication",
        49 => "invalid credentials",
        50 => "insufficient access rights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwilling to perform",
        80 => "other error",
        _ => "see RFC 4511",
    };
    let code = format!("code {} ({meaning})", result.rc);
    match result.text.trim() {
        "" => code,
        text => format!("{code}: {}", super::notices::shown(text)),
    }
}

/// What can be done about a result code of a search.
#[must_use]
pub fn search_remedy(code: u32) -> &'static str {
    match code {
        3 => "; raise the server's time limit for the bind user",
        4 | 11 => {
            "; raise the server's limits for the bind user (OpenLDAP: `limits dn.exact=\"…\" size.unlimited size.prtotal=unlimited`)"
        }
        10 => "; name the server that holds the base in `uri`",
        32 => "; the base was removed, or the bind user may not see it",
        50 => "; give the bind user the right to read it",
        _ => "",
    }
}

/// Why a bind was refused, and what to do.
#[must_use]
pub fn bind_refusal(result: &LdapResult) -> String {
    let remedy = match result.rc {
        8 | 13 => "the server wants an encrypted connection first: use ldaps:// in `uri`, or `start_tls: true`",
        7 => {
            "the server does not offer this way to authenticate; with a client certificate it must offer SASL EXTERNAL"
        }
        34 => "bind_dn is not a DN this server understands",
        48 => "the server does not let this user bind like this; set bind_dn and bind_password",
        49 => active_directory_reason(&result.text).unwrap_or("bind_dn or bind_password is wrong"),
        53 => "the server refuses; it may not allow this kind of bind",
        _ => "",
    };
    let code = match result.rc {
        // What Active Directory adds to these is spelt out above.
        49 => "code 49 (invalid credentials)".to_owned(),
        _ => code_text(result),
    };
    if remedy.is_empty() { code } else { format!("{remedy} [{code}]") }
}

/// Active Directory says in `data xxx` why it refused.
fn active_directory_reason(text: &str) -> Option<&'static str> {
    let data = text.split_once("data ")?.1.split([',', ' ']).next()?;
    Some(match data {
        "525" => "the user in bind_dn does not exist",
        "52e" => "bind_dn or bind_password is wrong",
        "530" | "531" => "the bind user may not log on now or from here",
        "532" | "773" => "the bind user's password has expired or must be changed",
        "533" => "the bind user's account is disabled",
        "701" => "the bind user's account has expired",
        "775" => "the bind user's account is locked out: wait, and see who tries wrong passwords",
        _ => return None,
    })
}

/// What a failed operation means. `patience_ms` is how long it was waited for.
#[must_use]
pub fn error_text(error: &LdapError, patience_ms: u64) -> String {
    match error {
        LdapError::Timeout { .. } => no_answer(patience_ms),
        LdapError::Io { source } => io_text(source),
        LdapError::LdapResult { result } => code_text(result),
        LdapError::Rustls { source } => certificate_problem(source),
        LdapError::FilterParsing => "the filter is not an LDAP filter (RFC 4515)".to_owned(),
        LdapError::EndOfStream
        | LdapError::ResultRecv { .. }
        | LdapError::OpSend { .. }
        | LdapError::IdScrubSend { .. } => BROKEN.to_owned(),
        other => other.to_string(),
    }
}

/// The connection ended without a word.
pub const BROKEN: &str = "the connection broke off";

/// What a wait that ended in nothing is called.
#[must_use]
pub fn no_answer(patience_ms: u64) -> String {
    format!("no answer within {}", duration_text(patience_ms))
}

/// `5 s`, or `250 ms` where it is no whole number of seconds.
#[must_use]
pub fn duration_text(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

/// An I/O error, with the TLS error inside if there is one.
#[must_use]
pub fn io_text(error: &io::Error) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return certificate_problem(tls);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => BROKEN.to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(rc: u32, text: &str) -> LdapResult {
        LdapResult { rc, matched: String::new(), text: text.to_owned(), refs: Vec::new(), ctrls: Vec::new() }
    }

    #[test]
    fn active_directory_refusals_are_spelt_out() {
        let refused = "80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data 775, v3839";
        assert_eq!(
            bind_refusal(&result(49, refused)),
            "the bind user's account is locked out: wait, and see who tries wrong passwords [code 49 (invalid credentials)]"
        );
        assert_eq!(bind_refusal(&result(49, "")), "bind_dn or bind_password is wrong [code 49 (invalid credentials)]");
    }

    #[test]
    fn a_server_that_wants_encryption_is_told_from_one_that_wants_another_password() {
        assert_eq!(
            bind_refusal(&result(8, "BindSimple: Transport encryption required.")),
            "the server wants an encrypted connection first: use ldaps:// in `uri`, or `start_tls: true` \
             [code 8 (stronger authentication required): BindSimple: Transport encryption required.]"
        );
    }
}
