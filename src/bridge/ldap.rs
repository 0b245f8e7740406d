//! The `ldap` source (S-6): full paged reads of a directory server, and the cheap question whether one is needed (S-7).
//!
//! ```text
//! ldap.rs      the bridge: which server, what to remember between reads
//!   session    connect, TLS (tls), bind          trouble    what went wrong, and what to do
//!   read       base, OUs, people, groups         search     paging; range: members in parts
//!   entry      bytes of one entry (ber)          change     "has anything changed?"
//!   person     what an entry says of itself      tree       entries -> Snapshot; order, notices
//!   photos     who looks how, one at a time
//!   diagnosis  `usher source test`               apart      a thread of its own for each read
//! ```
//! Never writes to the directory, never follows referrals, never mixes two servers in one read: where one gave only a part, the next
//! one is read from the beginning.

mod apart;
mod ber;
mod change;
mod diagnosis;
pub mod entry;
pub(crate) mod notices;
mod order;
pub mod person;
mod photos;
mod range;
mod read;
mod search;
mod session;
mod tls;
pub mod tree;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;

use super::localpart::Mapping;
use super::{Bridge, Probe, Sighting, SourceError};
use crate::clock;
use crate::config::LdapSource;
use crate::directory::{Completeness, Snapshot, dn};
use crate::ids::{StableId, Timestamp};

use change::Mark;
use person::Interpretation;
use read::{Read, Reading, Searches, bracketed};
use session::{Address, Session};
use tls::Tls;
use tree::Grown;
use trouble::Trouble;

/// A directory server, or several holding the same, and what to remember between reads.
#[derive(Debug)]
pub struct LdapBridge {
    servers: Arc<Servers>,
    last: Option<Last>,
    /// Members that were nobody in the last read that saw everything, as digests, sorted; `None` before the first such read.
    dangling: Option<Vec<u64>>,
    /// Reads in a row that were not believed for members that began to dangle, and for nothing else.
    disbelieved: u32,
    /// Where the people of the last read are.
    homes: Homes,
}

/// DNs of people, and the server that has them so.
#[derive(Debug, Default)]
struct Homes {
    uri: String,
    entries: BTreeMap<StableId, String>,
}

/// What a read needs to know; the same for all of them.
#[derive(Debug)]
struct Servers {
    source: LdapSource,
    addresses: Vec<Address>,
    tls: Tls,
    how: Interpretation,
    searches: Searches,
}

/// So many reads in a row may be called incomplete because members began to dangle; the next one counts. Where people come and go so
/// fast that every read finds new gaps, nobody would ever be removed otherwise.
const MOST_DISBELIEVED: u32 = 3;

/// What the last complete read leaves behind.
#[derive(Debug)]
struct Last {
    mark: Mark,
    /// When an account expires by itself, which changes the directory without changing the server.
    next_expiry: Option<Timestamp>,
}

impl LdapBridge {
    /// Checks the configuration and reads the certificates; connects to nothing.
    ///
    /// # Errors
    /// Settings that cannot work, and certificate files that cannot be used.
    pub fn new(source: &LdapSource) -> Result<Self, SourceError> {
        Self::of(source, None)
    }

    /// As [`LdapBridge::new`], and people's photos can be looked at.
    ///
    /// # Errors
    /// As [`LdapBridge::new`].
    pub fn with_photos(source: &LdapSource) -> Result<Self, SourceError> {
        Self::of(source, Some(photos::attributes(source)))
    }

    fn of(source: &LdapSource, photos: Option<Vec<String>>) -> Result<Self, SourceError> {
        let mut source = source.clone();
        source.bind_dn = source.bind_dn.filter(|dn| !dn.is_empty());
        let addresses: Result<Vec<_>, _> = source.uris.iter().map(|uri| Address::parse(uri)).collect();
        let addresses = addresses.map_err(unusable)?;
        check(&source, &addresses).map_err(unusable)?;
        let mapping = Mapping::new(source.localpart.as_deref(), &source.attributes.uid, source.strict_localparts);
        let how = Interpretation {
            uid: source.attributes.uid.to_ascii_lowercase(),
            name: source.attributes.name.to_ascii_lowercase(),
            mail: source.attributes.mail.to_ascii_lowercase(),
            mapping: mapping.map_err(unusable)?,
            by_class: source.user_filter.is_none(),
            groups_by_class: source.group_filter.is_none(),
            photos,
        };
        let searches = Searches::of(&source, &how);
        let tls = Tls::new(&source)?;
        let servers = Arc::new(Servers { source, addresses, tls, how, searches });
        Ok(Self { servers, last: None, dangling: None, disbelieved: 0, homes: Homes::default() })
    }

    /// A member that has just begun to dangle may be somebody who was moved while we read, seen at neither place: such a read is not
    /// complete, so that nobody leaves a group for it (S-3), though not more than [`MOST_DISBELIEVED`] in a row. `true`: this is such
    /// a read.
    fn distrust_new_gaps(&mut self, grown: &mut Grown) -> bool {
        if !grown.snapshot.completeness.is_complete() {
            return false;
        }
        let dangling = std::mem::take(&mut grown.dangling);
        let before = self.dangling.replace(dangling);
        let (Some(before), Some(now)) = (before, &self.dangling) else { return false };
        let new = now.iter().filter(|gap| before.binary_search(gap).is_err()).count();
        if new == 0 {
            self.disbelieved = 0;
            return false;
        }
        let what = if new == 1 { "group member is" } else { "group members are" };
        if self.disbelieved >= MOST_DISBELIEVED {
            self.disbelieved = 0;
            grown.snapshot.notices.push(format!(
                "{new} {what} newly no user or group that was read, as in the {MOST_DISBELIEVED} reads before, which did not count for \
                 that; this one does"
            ));
            return false;
        }
        self.disbelieved += 1;
        grown.snapshot.completeness.flaw(format!(
            "{new} {what} newly no user or group that was read: they may have been moved during this read; the next one will tell"
        ));
        true
    }

    async fn ask_unchanged(&self, last: &Last) -> bool {
        if last.next_expiry.is_some_and(|moment| moment <= clock::now()) {
            return false;
        }
        let Servers { source, addresses, tls, .. } = &*self.servers;
        let Some(address) = addresses.iter().find(|address| address.uri == last.mark.uri) else { return false };
        let Ok(mut session) = Session::open(address, source, tls).await else { return false };
        change::is_unchanged(&mut session, &source.base, &last.mark, source.operation_timeout_ms).await
    }
}

impl Servers {
    /// Reads from one server.
    async fn read_from(&self, address: &Address) -> Result<Read, Trouble> {
        let mut session = Session::open(address, &self.source, &self.tls).await?;
        let reading = Reading { source: &self.source, how: &self.how, searches: &self.searches };
        let read = read::read(&mut session, reading).await;
        session.end().await;
        read
    }

    /// The first whole read, from the first server that gives one; else the one that saw the most people. With it, what is to be said
    /// about the servers that were passed over.
    async fn read_from_any(&self) -> Result<(Read, Vec<String>), SourceError> {
        let mut failed: Vec<Trouble> = Vec::new();
        let mut short: Vec<(Read, String)> = Vec::new();
        for address in &self.addresses {
            match self.read_from(address).await {
                Ok(read) => {
                    let Completeness::Incomplete(flaws) = &read.grown.snapshot.completeness else {
                        return Ok((read, passed_over(&failed, short)));
                    };
                    let remark = format!("{}: the read was not complete: {}", address.uri, flaws.join("; "));
                    short.push((read, remark));
                }
                Err(trouble) => {
                    let last = !trouble.retry;
                    failed.push(trouble);
                    if last {
                        break;
                    }
                }
            }
        }
        let people = |(read, _): &(Read, String)| read.grown.snapshot.users.len();
        // Of equals the first: servers are named in the order in which they are wanted.
        let Some(best) = (0..short.len()).rev().max_by_key(|index| people(&short[*index])) else {
            return Err(together(failed));
        };
        let (read, _) = short.swap_remove(best);
        Ok((read, passed_over(&failed, short)))
    }
}

#[async_trait]
impl Bridge for LdapBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        self.last = None;
        let servers = Arc::clone(&self.servers);
        let (Read { mut grown, mark, uri }, mut remarks) =
            apart::run(async move || servers.read_from_any().await).await.map_err(|error| no_thread(&error))??;
        grown.snapshot.source = format!("ldap {}", self.servers.source.base);
        grown.snapshot.notices.append(&mut remarks);
        self.homes = Homes { uri, entries: std::mem::take(&mut grown.entries) };
        let mark = if self.distrust_new_gaps(&mut grown) { None } else { mark };
        self.last = mark.map(|mark| Last { mark, next_expiry: grown.next_expiry });
        Ok(grown.snapshot)
    }

    async fn changed(&mut self) -> bool {
        match &self.last {
            Some(last) => !self.ask_unchanged(last).await,
            None => true,
        }
    }

    /// From the server of the last read: another one may be behind or ahead of it.
    async fn photos(&mut self, people: &[StableId]) -> Result<Vec<Sighting>, SourceError> {
        let Servers { source, addresses, tls, how, .. } = &*self.servers;
        let address = addresses.iter().find(|address| address.uri == self.homes.uri);
        let (Some(names), Some(address)) = (&how.photos, address) else { return Ok(Vec::new()) };
        let mut session = Session::open(address, source, tls).await?;
        let homes = people.iter().filter_map(|id| self.homes.entries.get_key_value(id));
        let seen = photos::look(&mut session, source, names, homes).await;
        session.end().await;
        Ok(seen?)
    }

    async fn probe(&mut self) -> Vec<Probe> {
        let Servers { source, addresses, tls, how, searches } = &*self.servers;
        diagnosis::diagnose(source, addresses, tls, (how, searches)).await
    }
}

/// What to say about servers that were not read, or not whole.
fn passed_over(failed: &[Trouble], short: Vec<(Read, String)>) -> Vec<String> {
    let failed = failed.iter().map(|trouble| format!("{}: {}", trouble.attempted, trouble.cause));
    let short = short.into_iter().map(|(_, remark)| remark);
    failed.chain(short).map(|remark| format!("another server was passed over: {remark}")).collect()
}

/// One error for all servers that were tried.
fn together(mut failed: Vec<Trouble>) -> SourceError {
    if failed.len() > 1 {
        let retry = failed.iter().all(|trouble| trouble.retry);
        let causes: Vec<String> =
            failed.iter().map(|trouble| format!("{}: {}", trouble.attempted, trouble.cause)).collect();
        return SourceError {
            attempted: format!("read from {} ldap servers", failed.len()),
            cause: causes.join("; "),
            retry,
        };
    }
    failed.pop().map_or_else(|| unusable("`uri` names no server".to_owned()), SourceError::from)
}

fn no_thread(error: &std::io::Error) -> SourceError {
    SourceError { attempted: "start a thread to read on".to_owned(), cause: error.to_string(), retry: true }
}

fn unusable(cause: String) -> SourceError {
    SourceError { attempted: "use the ldap source as configured".to_owned(), cause, retry: false }
}

/// What cannot work whatever the server says.
fn check(source: &LdapSource, addresses: &[Address]) -> Result<(), String> {
    if addresses.is_empty() {
        return Err("`uri` names no server".to_owned());
    }
    if dn::normalise(&source.base).is_none() {
        return Err(format!("base `{}` is not a DN", source.base));
    }
    let password = source.bind_password.as_ref().is_some_and(|password| !password.expose_secret().is_empty());
    if source.bind_dn.is_some() && !password {
        return Err(
            "bind_dn is set but bind_password is empty: servers take that for an anonymous login and show little"
                .to_owned(),
        );
    }
    let names = [&source.attributes.uid, &source.attributes.name, &source.attributes.mail];
    if let Some(name) = names.into_iter().chain(&source.attributes.avatar).find(|name| !is_attribute_name(name)) {
        return Err(format!("attributes: `{name}` is no attribute name"));
    }
    let encrypted = source.start_tls || addresses.iter().all(|address| address.tls_first);
    if source.client_cert.is_some() && !encrypted {
        return Err("a client certificate needs TLS: use ldaps:// in `uri`, or `start_tls: true`".to_owned());
    }
    let filters =
        [("filter", &source.filter), ("user_filter", &source.user_filter), ("group_filter", &source.group_filter)];
    for (key, filter) in filters {
        if let Some(filter) = filter
            && ldap3::parse_filter(bracketed(filter)).is_err()
        {
            return Err(format!("{key} `{filter}` is not an LDAP filter (RFC 4515)"));
        }
    }
    Ok(())
}

fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}
