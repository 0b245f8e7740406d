//! Paged searches (RFC 2696) that know whether they saw everything (S-3).
//!
//! A search is whole only if every page ended with code 0 and the last one with an empty cookie. Entries are handed on one by one;
//! never more than a page is held. Continuation references are counted, not followed.

use std::time::Duration;

use ldap3::controls::{PagedResults, RawControl};
use ldap3::{LdapError, LdapResult, Scope};

use super::ber;
use super::entry::Entry;
use super::session::Session;
use super::trouble::{code_text, search_remedy};

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    pub base: &'a str,
    pub scope: Scope,
    pub filter: &'a str,
    pub attributes: &'a [&'a str],
    pub page_size: u32,
    pub patience_ms: u64,
}

/// What a search brought, whole or not.
#[derive(Debug, Default)]
pub struct Outcome {
    pub entries: usize,
    pub undecodable: usize,
    /// Continuation references, which are not followed.
    pub references: usize,
    pub pages: usize,
    /// Why it is not whole.
    pub stopped: Option<Stop>,
}

/// Why a search ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub cause: String,
    /// The server's result code, if it gave one; without one the connection is of no further use.
    pub code: Option<u32>,
}

/// Pages in a row that bring nothing but another cookie.
const MOST_EMPTY_PAGES: usize = 100;

/// Entries of one search at most: far beyond any directory, it only bounds a server that never ends.
const MOST_ENTRIES: usize = 10_000_000;

const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";

/// Runs a paged search, handing each entry to `taker`.
pub async fn search(session: &mut Session, query: &Query<'_>, taker: &mut (dyn FnMut(Entry) + Send)) -> Outcome {
    let mut outcome = Outcome::default();
    let mut cookie = Vec::new();
    let mut empty_pages = 0;
    loop {
        let before = outcome.entries + outcome.references;
        let control = PagedResults { size: i32::try_from(query.page_size).unwrap_or(i32::MAX), cookie };
        let answer = page(session, query, control.into(), &mut outcome, taker).await;
        outcome.pages += 1;
        let result = match answer {
            Ok(result) => result,
            Err(error) => {
                let cause = session.last_words(&error, query.patience_ms).await;
                outcome.stopped = Some(Stop { cause, code: None });
                return outcome;
            }
        };
        if result.rc != 0 {
            let cause = format!("{}{}", code_text(&result), search_remedy(result.rc));
            outcome.stopped = Some(Stop { cause, code: Some(result.rc) });
            return outcome;
        }
        let Some(next) = next_cookie(&result) else {
            let cause = "the server's paging answer is not as RFC 2696 has it".to_owned();
            outcome.stopped = Some(Stop { cause, code: Some(0) });
            return outcome;
        };
        if next.is_empty() {
            return outcome;
        }
        empty_pages = if outcome.entries + outcome.references == before { empty_pages + 1 } else { 0 };
        if empty_pages >= MOST_EMPTY_PAGES || outcome.entries >= MOST_ENTRIES {
            outcome.stopped = Some(Stop { cause: "the server hands out pages without end".to_owned(), code: Some(0) });
            return outcome;
        }
        cookie = next;
    }
}

async fn page(
    session: &mut Session,
    query: &Query<'_>,
    control: RawControl,
    outcome: &mut Outcome,
    taker: &mut (dyn FnMut(Entry) + Send),
) -> Result<LdapResult, LdapError> {
    let ldap = session.ldap.with_timeout(Duration::from_millis(query.patience_ms)).with_controls(vec![control]);
    let mut stream = ldap.streaming_search(query.base, query.scope, query.filter, query.attributes.to_vec()).await?;
    while let Some(item) = stream.next().await? {
        if item.is_ref() {
            outcome.references += 1;
        } else if !item.is_intermediate() {
            match Entry::decode(item) {
                Ok(entry) => {
                    outcome.entries += 1;
                    taker(entry);
                }
                Err(_) => outcome.undecodable += 1,
            }
        }
    }
    Ok(stream.finish().await)
}

/// The cookie of the next page, empty after the last; a server that does not page answers without one and is done.
/// `None`: the answer is garbled.
fn next_cookie(result: &LdapResult) -> Option<Vec<u8>> {
    match result.ctrls.iter().find(|control| control.1.ctype == PAGED_RESULTS) {
        None => Some(Vec::new()),
        Some(control) => ber::page_cookie(control.1.val.as_deref()?),
    }
}

/// Reads one entry by its DN. `Ok(None)`: the server answers without showing it.
///
/// # Errors
/// The server's refusal or silence.
pub async fn read_one(
    session: &mut Session,
    dn: &str,
    attributes: &[&str],
    patience_ms: u64,
) -> Result<Option<Entry>, Stop> {
    let mut found = None;
    let query =
        Query { base: dn, scope: Scope::Base, filter: "(objectClass=*)", attributes, page_size: 10, patience_ms };
    let outcome = search(session, &query, &mut |entry| found = Some(entry)).await;
    match outcome.stopped {
        Some(stop) => Err(stop),
        None => Ok(found),
    }
}
