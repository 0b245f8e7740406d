//! One whole read from one server: the base, the containers, the people, the groups, and every range to its end (S-3, S-6).
//!
//! What was read before something went wrong is kept and called incomplete; only a read that brought nothing is an error.
//! Never switches servers.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::change::{self, Mark};
use super::entry::Entry;
use super::person::{ID_ATTRIBUTES, Interpretation, MARK_ATTRIBUTES, PERSON_CLASSES};
use super::photos::STAMPS;
use super::range::{Cursor, Progress};
use super::search::{Outcome, Query, Stop, read_one, search};
use super::session::Session;
use super::tree::{GROUP_CLASSES, GroupSlot, Grown, MEMBER_ATTRIBUTES, Tree};
use super::trouble::{Trouble, duration_text, is_passing};
use crate::clock;
use crate::config::LdapSource;
use crate::directory::dn;
use crate::ids::Timestamp;

/// The searches of a read, put together once from the configuration.
#[derive(Clone, Debug)]
pub struct Searches {
    pub containers: String,
    pub users: String,
    pub groups: String,
    pub user_attributes: Vec<String>,
}

/// Built-in filter for containers; a class the server does not know matches nothing.
const CONTAINERS: &str =
    "(|(objectClass=organizationalUnit)(objectClass=organization)(objectClass=domain)(objectClass=dcObject))";

impl Searches {
    /// The filters and attributes for a source.
    #[must_use]
    pub fn of(source: &LdapSource, how: &Interpretation) -> Self {
        // Computers are sorted out here, not by the filter: where the server does not know the class, `(!(objectClass=computer))`
        // is undefined and the whole filter matches nobody.
        let people = source.user_filter.as_deref().map_or_else(|| person_filter(&source.attributes.uid), bracketed);
        let groups = source.group_filter.as_deref().map_or_else(|| of_classes(&GROUP_CLASSES), bracketed);
        let narrowed = |filter: String| match &source.filter {
            Some(narrow) => format!("(&{}{filter})", bracketed(narrow)),
            None => filter,
        };
        let mut attributes = vec!["objectclass", "uid", "objectsid", "primarygroupid"];
        attributes.extend([how.uid.as_str(), &how.name, &how.mail]);
        attributes.extend(how.mapping.attributes());
        attributes.extend(ID_ATTRIBUTES);
        attributes.extend(MARK_ATTRIBUTES);
        if how.photos.is_some() {
            attributes.extend(STAMPS);
        }
        let mut attributes: Vec<String> = attributes.into_iter().map(str::to_owned).collect();
        attributes.sort_unstable();
        attributes.dedup();
        Self {
            containers: narrowed(CONTAINERS.to_owned()),
            users: narrowed(people),
            groups: narrowed(groups),
            user_attributes: attributes,
        }
    }
}

/// People are who has the uid attribute and one of S-100's classes.
#[must_use]
pub fn person_filter(uid: &str) -> String {
    format!("(&({uid}=*){})", of_classes(&PERSON_CLASSES))
}

/// A filter for entries of any of these classes.
#[must_use]
pub fn of_classes<const N: usize>(classes: &[&str; N]) -> String {
    format!("(|{})", classes.map(|class| format!("(objectClass={class})")).concat())
}

/// A filter in brackets, which people leave out.
#[must_use]
pub fn bracketed(filter: &str) -> String {
    let filter = filter.trim();
    if filter.starts_with('(') { filter.to_owned() } else { format!("({filter})") }
}

/// What a read needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub source: &'a LdapSource,
    pub how: &'a Interpretation,
    pub searches: &'a Searches,
}

/// A read's result.
#[derive(Debug)]
pub struct Read {
    pub grown: Grown,
    /// Where the server stood before the read, if it can tell and the read is complete.
    pub mark: Option<Mark>,
    /// The server that was read.
    pub uri: String,
}

/// Attributes of the base, of containers and of groups.
const CONTAINER_ATTRIBUTES: [&str; 6] = ["objectclass", "o", "entryuuid", "objectguid", "nsuniqueid", "ipauniqueid"];
const GROUP_ATTRIBUTES: [&str; 10] = [
    "objectclass",
    "cn",
    "objectsid",
    "member",
    "uniquemember",
    "memberuid",
    "entryuuid",
    "objectguid",
    "nsuniqueid",
    "ipauniqueid",
];

/// Reads everything from one server.
///
/// # Errors
/// When nothing could be read.
pub async fn read(session: &mut Session, reading: Reading<'_>) -> Result<Read, Trouble> {
    let source = reading.source;
    let deadline = Instant::now() + Duration::from_millis(source.read_timeout_ms);
    let too_long =
        || format!("the whole read took longer than read_timeout ({})", duration_text(source.read_timeout_ms));
    let first = timeout_at(deadline, begin(session, source)).await;
    let (base_entry, mark) = first.map_err(|_| base_trouble(session, source, too_long(), true))??;
    let base = dn::normalise(&source.base).unwrap_or_default();
    let mut tree = Tree::new(reading.how, now(), &base, base_entry.as_ref());
    let mut flaws = Vec::new();
    let mut notices = Vec::new();
    if timeout_at(deadline, fill(session, reading, &mut tree, (&mut flaws, &mut notices))).await.is_err() {
        flaws.push(too_long());
    }
    if base_entry.is_none() && tree.people() == 0 {
        flaws.push(format!(
            "the server shows neither the base `{}` nor anybody below it: check the bind user's rights",
            source.base
        ));
    }
    if !flaws.is_empty() && tree.people() == 0 && tree.groups() == 0 {
        let attempted =
            format!("read users and groups below `{}` from {}", super::notices::shown(&source.base), session.uri);
        return Err(Trouble { step: "users", attempted, cause: flaws.join("; "), retry: true });
    }
    let mut grown = tree.finish();
    for flaw in flaws {
        grown.snapshot.completeness.flaw(flaw);
    }
    grown.snapshot.notices.append(&mut notices);
    let mark = mark.filter(|_| grown.snapshot.completeness.is_complete());
    Ok(Read { grown, mark, uri: session.uri.clone() })
}

fn now() -> Timestamp {
    clock::now()
}

fn base_trouble(session: &Session, source: &LdapSource, cause: String, retry: bool) -> Trouble {
    let attempted = format!("read the base `{}` from {}", super::notices::shown(&source.base), session.uri);
    Trouble { step: "base", attempted, cause, retry }
}

/// The base itself, and where the server stands before anything else is read.
pub async fn begin(session: &mut Session, source: &LdapSource) -> Result<(Option<Entry>, Option<Mark>), Trouble> {
    let patience = source.operation_timeout_ms;
    let entry = match read_one(session, &source.base, &CONTAINER_ATTRIBUTES, patience).await {
        Ok(entry) => entry,
        Err(Stop { cause, code: None }) => return Err(base_trouble(session, source, cause, true)),
        Err(Stop { code: Some(32), .. }) => {
            let cause =
                "the server has no such entry (code 32), or the bind user may not see it; check `base`".to_owned();
            return Err(base_trouble(session, source, cause, false));
        }
        Err(Stop { cause, code: Some(code) }) => return Err(base_trouble(session, source, cause, is_passing(code))),
    };
    let mark = if source.probe { change::mark(session, &source.base, patience).await } else { None };
    Ok((entry, mark))
}

type Remarks<'a> = (&'a mut Vec<String>, &'a mut Vec<String>);

/// Containers, people, groups; stops where the connection ends, goes on where the server only refused one search.
async fn fill(session: &mut Session, reading: Reading<'_>, tree: &mut Tree<'_>, (flaws, notices): Remarks<'_>) {
    let Reading { source, searches, .. } = reading;
    let query = Query::below_base(source, &searches.containers, &CONTAINER_ATTRIBUTES);
    let found = search(session, &query, &mut |entry| tree.container(&entry)).await;
    let mut references = found.references;
    if judge("OUs and domains", &found, flaws) {
        return;
    }
    let attributes: Vec<&str> = searches.user_attributes.iter().map(String::as_str).collect();
    let query = Query::below_base(source, &searches.users, &attributes);
    let found = search(session, &query, &mut |entry| tree.person(&entry)).await;
    references = references.max(found.references);
    if judge("users", &found, flaws) {
        return;
    }
    let mut unfinished = Vec::new();
    let mut take = |entry: Entry| {
        let cursors = Cursor::of(&entry);
        if let Some(slot) = tree.group(&entry)
            && !cursors.is_empty()
        {
            unfinished.push((slot, entry.dn, cursors));
        }
    };
    let found = search(session, &Query::below_base(source, &searches.groups, &GROUP_ATTRIBUTES), &mut take).await;
    references = references.max(found.references);
    let gone = judge("groups", &found, flaws);
    if references > 0 {
        let what = if references == 1 { "reference to another server was" } else { "references to other servers were" };
        notices.push(format!("{references} {what} not followed"));
    }
    if gone {
        if !unfinished.is_empty() {
            flaws.push(format!("{} groups are not whole", unfinished.len()));
        }
        return;
    }
    for (slot, dn, cursors) in unfinished {
        for cursor in cursors {
            if let Err(why) = follow(session, source, tree, (slot, &dn, cursor)).await {
                flaws.push(format!("group `{}` is not whole: {why}", super::notices::shown(&dn)));
            }
        }
    }
}

/// Notes what a search lacks. `true`: the connection is of no further use.
fn judge(what: &str, found: &Outcome, flaws: &mut Vec<String>) -> bool {
    if found.undecodable > 0 {
        flaws.push(format!("{what}: {} entries were not encoded as LDAP demands", found.undecodable));
    }
    let Some(stop) = &found.stopped else { return false };
    flaws.push(format!("{what}: the server stopped after {} entries: {}", found.entries, stop.cause));
    stop.code.is_none()
}

/// Reads the rest of a group that came in parts.
async fn follow(
    session: &mut Session,
    source: &LdapSource,
    tree: &mut Tree<'_>,
    (slot, dn, mut cursor): (GroupSlot, &str, Cursor),
) -> Result<(), String> {
    loop {
        let request = cursor.request();
        let answer =
            read_one(session, dn, &[&request], source.operation_timeout_ms).await.map_err(|stop| stop.cause)?;
        let answer = answer.ok_or("it is gone")?;
        let progress = cursor.accept(&answer);
        if progress == Progress::Stuck {
            return Err(format!("the answer to `{request}` does not continue it"));
        }
        if let Some(attribute) = MEMBER_ATTRIBUTES.into_iter().find(|name| *name == cursor.name()) {
            tree.members(slot, attribute, &answer);
        }
        if progress == Progress::End {
            return Ok(());
        }
    }
}
