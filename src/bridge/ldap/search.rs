//! Paged searches (RFC 2696) that know whether they saw everything (S-3).
//!
//! A search is whole only if every page ended with code 0 and the last one with an empty cookie. Entries are handed on one by one;
//! never more than a page waits for that. Continuation references are counted, not followed. A server that lies about where its
//! pages end is found out; one that merely never stops is stopped by the reader's time limit.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use ldap3::controls::{PagedResults, RawControl};
use ldap3::{LdapError, LdapResult, ResultEntry, Scope};

use super::ber;
use super::entry::Entry;
use super::session::Session;
use super::trouble::{code_text, search_remedy};
use crate::config::LdapSource;

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

impl<'a> Query<'a> {
    /// Everything below the source's base that matches `filter`, with the source's page size and patience.
    #[must_use]
    pub fn below_base(source: &'a LdapSource, filter: &'a str, attributes: &'a [&'a str]) -> Self {
        Self {
            base: &source.base,
            scope: Scope::Subtree,
            filter,
            attributes,
            page_size: source.page_size,
            patience_ms: source.operation_timeout_ms,
        }
    }
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

/// The paged-results control (RFC 2696), as servers name it among what they offer.
pub const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";

/// Runs a paged search, handing each entry to `taker`.
pub async fn search(session: &mut Session, query: &Query<'_>, taker: &mut (dyn FnMut(Entry) + Send)) -> Outcome {
    let mut catch = Catch {
        outcome: Outcome::default(),
        undecoded: Vec::new(),
        most_undecoded: usize::try_from(query.page_size).unwrap_or(usize::MAX),
        beginnings: BTreeSet::new(),
        begins: true,
        goes_round: false,
        taker,
    };
    let stopped = pages(session, query, &mut catch).await;
    catch.decode();
    Outcome { stopped, ..catch.outcome }
}

/// What has come in, and what is still to be looked at of it.
struct Catch<'a> {
    outcome: Outcome,
    undecoded: Vec<ResultEntry>,
    /// A page's worth: a server that does not page sends everything in one.
    most_undecoded: usize,
    /// Names of the entries that pages began with. A cookie may be the same for every page (389 Directory Server's is), so it tells
    /// nothing; a page that begins as an earlier one did tells that the server goes round in a circle.
    beginnings: BTreeSet<String>,
    /// The next entry is the first of its page.
    begins: bool,
    goes_round: bool,
    taker: &'a mut (dyn FnMut(Entry) + Send),
}

impl Catch<'_> {
    fn decode(&mut self) {
        for item in self.undecoded.drain(..) {
            if item.is_ref() {
                self.outcome.references += 1;
            } else if !item.is_intermediate() {
                match Entry::decode(item) {
                    Ok(entry) => {
                        self.outcome.entries += 1;
                        if std::mem::take(&mut self.begins) {
                            self.goes_round |= !self.beginnings.insert(entry.dn.clone());
                        }
                        (self.taker)(entry);
                    }
                    Err(_) => self.outcome.undecodable += 1,
                }
            }
        }
    }
}

/// Fetches page after page, to the end or until something is wrong.
async fn pages(session: &mut Session, query: &Query<'_>, catch: &mut Catch<'_>) -> Option<Stop> {
    let mut cookie = Vec::new();
    let mut empty_pages = 0;
    loop {
        let control = PagedResults { size: i32::try_from(query.page_size).unwrap_or(i32::MAX), cookie };
        let answer = page(session, query, control.into(), catch).await;
        catch.outcome.pages += 1;
        let (result, arrived) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let cause = session.last_words(&error, query.patience_ms).await;
                return Some(Stop { cause, code: None });
            }
        };
        if result.rc != 0 {
            let cause = format!("{}{}", code_text(&result), search_remedy(result.rc));
            return Some(Stop { cause, code: Some(result.rc) });
        }
        let Some(next) = next_cookie(&result) else {
            let cause = "the server's paging answer is not as RFC 2696 has it".to_owned();
            return Some(Stop { cause, code: Some(0) });
        };
        if next.is_empty() {
            return None;
        }
        empty_pages = if arrived == 0 { empty_pages + 1 } else { 0 };
        if catch.goes_round {
            let cause = "the server hands out the same page again and again".to_owned();
            return Some(Stop { cause, code: Some(0) });
        }
        if empty_pages >= MOST_EMPTY_PAGES || catch.outcome.entries >= MOST_ENTRIES {
            return Some(Stop { cause: "the server hands out pages without end".to_owned(), code: Some(0) });
        }
        cookie = next;
    }
}

/// Fetches one page: how it ended, and how many items it brought. What is left undecoded is decoded while the server is at work on
/// the next one.
async fn page(
    session: &mut Session,
    query: &Query<'_>,
    control: RawControl,
    catch: &mut Catch<'_>,
) -> Result<(LdapResult, usize), LdapError> {
    let ldap = session.ldap.with_timeout(Duration::from_millis(query.patience_ms)).with_controls(vec![control]);
    let mut stream = ldap.streaming_search(query.base, query.scope, query.filter, query.attributes.to_vec()).await?;
    catch.decode();
    catch.begins = true;
    let mut arrived = 0;
    while let Some(item) = stream.next().await? {
        arrived += 1;
        catch.undecoded.push(item);
        while let Some(item) = stream.next().now_or_never() {
            let Some(item) = item? else { return Ok((stream.finish().await, arrived)) };
            arrived += 1;
            catch.undecoded.push(item);
            if catch.undecoded.len() > catch.most_undecoded {
                catch.decode();
            }
        }
        catch.decode();
    }
    Ok((stream.finish().await, arrived))
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
