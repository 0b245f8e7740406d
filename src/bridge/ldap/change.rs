//! The cheap question "has anything changed?" (S-7), asked of OpenLDAP by syncrepl (RFC 4533, refreshOnly with a cookie).
//!
//! The cookie is made of the contextCSN, read before the read it stands for. Only an answer without entries, without intermediate
//! messages, with code 0 and without a new cookie is a "no"; whatever else, including every error, is "perhaps". Never feeds
//! changes into a snapshot: syncrepl loses removals in too many ways for that (garbage cookies, restored servers, lost session logs).

use std::time::Duration;

use ldap3::Scope;
use ldap3::controls::{MakeCritical as _, RefreshMode, SyncRequest};

use super::ber;
use super::search::read_one;
use super::session::Session;
use crate::directory::dn;

const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";
const SYNC_DONE: &str = "1.3.6.1.4.1.4203.1.9.1.3";

/// Where a server's contents stood. Cookies are a server's own: never asked of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub uri: String,
    cookie: Vec<u8>,
}

/// Notes where the server stands, if it offers syncrepl and lets us see its contextCSN.
pub async fn mark(session: &mut Session, base: &str, patience_ms: u64) -> Option<Mark> {
    let root = read_one(session, "", &["supportedControl", "namingContexts"], patience_ms).await.ok()??;
    if !root.texts("supportedcontrol").any(|control| control == SYNC_REQUEST) {
        return None;
    }
    let base = dn::normalise(base)?;
    let above = |context: &&str| dn::normalise(context).is_some_and(|context| dn::is_within(&base, &context));
    let suffix = root.texts("namingcontexts").filter(above).max_by_key(|context| context.len())?.to_owned();
    let top = read_one(session, &suffix, &["contextCSN"], patience_ms).await.ok()??;
    let mut numbers: Vec<&str> = top.texts("contextcsn").collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        return None;
    }
    let cookie = format!("rid=000,csn={}", numbers.join(";")).into_bytes();
    Some(Mark { uri: session.uri.clone(), cookie })
}

/// Whether the server says, beyond doubt, that nothing below `base` has changed since `mark`.
pub async fn is_unchanged(session: &mut Session, base: &str, mark: &Mark, patience_ms: u64) -> bool {
    let request = SyncRequest { mode: RefreshMode::RefreshOnly, cookie: Some(mark.cookie.clone()), reload_hint: false };
    let ldap = session.ldap.with_timeout(Duration::from_millis(patience_ms)).with_controls(request.critical());
    let Ok(mut stream) = ldap.streaming_search(base, Scope::Subtree, "(objectClass=*)", vec!["1.1"]).await else {
        return false;
    };
    match stream.next().await {
        Ok(None) => {}
        Ok(Some(_)) | Err(_) => return false,
    }
    let result = stream.finish().await;
    let done =
        result.ctrls.iter().find(|control| control.1.ctype == SYNC_DONE).and_then(|control| control.1.val.as_deref());
    let Some(cookie) = done.and_then(ber::sync_done_cookie) else { return false };
    result.rc == 0 && cookie.is_none_or(|cookie| cookie == mark.cookie)
}
