//! `usher source test` for a directory server: each step on the way to a read by itself, and for the one that fails its culprit.
//!
//! Reads only what it counts, and prints no addresses or values.

use std::fmt::Write as _;
use std::time::Duration;

use super::notices::shown;
use super::person::{Interpretation, PERSON_CLASSES, stable_id};
use super::read::{Searches, begin, bracketed, of_classes, person_filter};
use super::search::{Outcome, PAGED_RESULTS, Query, read_one, search};
use super::session::{Address, Session, dial};
use super::tls::Tls;
use super::tree::GROUP_CLASSES;
use super::trouble::{Trouble, duration_text};
use crate::bridge::Probe;
use crate::config::LdapSource;

/// Tries the servers in order until one can be read; steps of a server that was passed over stay in the list.
pub async fn diagnose(
    source: &LdapSource,
    addresses: &[Address],
    tls: &Tls,
    (how, searches): (&Interpretation, &Searches),
) -> Vec<Probe> {
    let mut probes = Vec::new();
    for address in addresses {
        match reach(source, address, tls, &mut probes).await {
            Ok(session) => {
                let mut examined = Examination { source, how, searches, session, probes };
                let patience = Duration::from_millis(source.read_timeout_ms);
                if tokio::time::timeout(patience, examined.run()).await.is_err() {
                    let limit = duration_text(source.read_timeout_ms);
                    let detail = format!("what follows the steps above took longer than read_timeout ({limit})");
                    examined.probes.push(failed("time", detail));
                }
                return examined.probes;
            }
            Err(trouble) => {
                let go_on = trouble.retry;
                probes.push(failed(trouble.step, format!("{}: {}", trouble.attempted, trouble.cause)));
                if !go_on {
                    break;
                }
            }
        }
    }
    probes
}

fn passed(step: &'static str, detail: String) -> Probe {
    Probe { step, ok: true, detail }
}

fn failed(step: &'static str, detail: String) -> Probe {
    Probe { step, ok: false, detail }
}

async fn reach(source: &LdapSource, address: &Address, tls: &Tls, probes: &mut Vec<Probe>) -> Result<Session, Trouble> {
    let stream = dial(address, source).await?;
    probes.push(passed("connect", address.uri.clone()));
    let mut session = Session::secure(stream, address, source, tls).await?;
    let tls_text = match (address.tls_first, source.start_tls) {
        (true, _) => "ldaps",
        (false, true) => "StartTLS",
        (false, false) => "none: passwords and names travel in the clear",
    };
    let unverified = if source.verify_tls || tls_text.starts_with("none") {
        ""
    } else {
        ", certificate not verified (verify_tls: false)"
    };
    probes.push(passed("tls", format!("{tls_text}{unverified}")));
    session.bind(source).await?;
    let who = match (&source.bind_dn, &source.client_cert) {
        (Some(dn), _) => shown(dn),
        (None, Some(_)) => "the client certificate's user".to_owned(),
        (None, None) => "nobody (anonymous)".to_owned(),
    };
    probes.push(passed("bind", who));
    Ok(session)
}

struct Examination<'a> {
    source: &'a LdapSource,
    how: &'a Interpretation,
    searches: &'a Searches,
    session: Session,
    probes: Vec<Probe>,
}

/// How many people there are, and how many carry what.
#[derive(Default)]
struct Census {
    people: usize,
    names: usize,
    mails: usize,
    ids: usize,
    nameless: usize,
}

impl Examination<'_> {
    async fn run(&mut self) {
        if !self.base().await {
            return;
        }
        let Some(census) = self.users().await else { return };
        if !self.groups().await {
            return;
        }
        self.attributes(&census);
        self.paging().await;
    }

    async fn base(&mut self) -> bool {
        let base = shown(&self.source.base);
        let probe = match begin(&mut self.session, self.source).await {
            Ok((Some(_), _)) => passed("base", base),
            Ok((None, _)) => {
                failed("base", format!("the server does not show `{base}`: give the bind user the right to read it"))
            }
            Err(trouble) => failed("base", format!("{}: {}", trouble.attempted, trouble.cause)),
        };
        let ok = probe.ok;
        self.probes.push(probe);
        ok
    }

    async fn users(&mut self) -> Option<Census> {
        let (source, how, searches) = (self.source, self.how, self.searches);
        let attributes: Vec<&str> = searches.user_attributes.iter().map(String::as_str).collect();
        let mut census = Census::default();
        let mut count = |entry: super::entry::Entry| {
            if !how.is_person(&entry) {
                return;
            }
            census.people += 1;
            census.names += usize::from(entry.texts(&how.name).next().is_some());
            census.mails += usize::from(entry.texts(&how.mail).next().is_some());
            census.ids += usize::from(stable_id(&entry).is_some());
            let person = super::person::Person::read(&entry, how, crate::clock::now());
            census.nameless += usize::from(person.localpart.is_err());
        };
        let outcome =
            search(&mut self.session, &Query::below_base(source, &searches.users, &attributes), &mut count).await;
        if let Some(stop) = &outcome.stopped {
            let detail = format!("the server stopped after {} entries: {}", outcome.entries, stop.cause);
            self.probes.push(failed("users", detail));
            return None;
        }
        if census.people == 0 {
            let culprit = self.culprit().await;
            self.probes.push(failed("users", format!("0 users match {}: {culprit}", searches.users)));
            return None;
        }
        self.probes.push(passed("users", format!("{} match {}", census.people, searches.users)));
        Some(census)
    }

    /// Which setting keeps everybody out: asks again with one condition less each time.
    async fn culprit(&mut self) -> String {
        let uid = &self.source.attributes.uid;
        if self.count("(objectClass=*)").await <= 1 {
            return "nothing is visible below the base; check `base`, or give the bind user the right to read below it"
                .to_owned();
        }
        if let Some(narrow) = &self.source.filter {
            let without = match &self.source.user_filter {
                Some(filter) => bracketed(filter),
                None => person_filter(uid),
            };
            let found = self.count(&without).await;
            if found > 0 {
                return format!("`filter` {narrow} keeps them out; without it there are {found}");
            }
        }
        let with_uid = self.count(&format!("({uid}=*)")).await;
        if let (Some(filter), true) = (&self.source.user_filter, with_uid > 0) {
            return format!("`user_filter` {filter} keeps them out; {with_uid} entries have `{uid}`");
        }
        if with_uid > 0 {
            return format!(
                "{with_uid} entries have `{uid}`, but none is a person by its objectClass; set `user_filter`"
            );
        }
        let people = self.count(&of_classes(&PERSON_CLASSES)).await;
        if people > 0 {
            return format!(
                "{people} people are there, but none shows `{uid}`; set `attributes.uid`, or give the bind user the right to read it"
            );
        }
        "there are entries below the base, but no people; check `base`".to_owned()
    }

    async fn count(&mut self, filter: &str) -> usize {
        let outcome = search(&mut self.session, &Query::below_base(self.source, filter, &["1.1"]), &mut |_| ()).await;
        outcome.entries
    }

    async fn groups(&mut self) -> bool {
        let (source, searches) = (self.source, self.searches);
        let attributes = ["objectclass"];
        let by_class = self.how.groups_by_class;
        let mut groups = 0;
        let mut count = |entry: super::entry::Entry| groups += usize::from(!by_class || entry.is_of(&GROUP_CLASSES));
        let in_groups =
            search(&mut self.session, &Query::below_base(source, &searches.groups, &attributes), &mut count).await;
        let in_containers =
            search(&mut self.session, &Query::below_base(source, &searches.containers, &["1.1"]), &mut |_| ()).await;
        let stopped = |outcome: &Outcome| outcome.stopped.as_ref().map(|stop| (outcome.entries, stop.cause.clone()));
        if let Some((entries, cause)) = stopped(&in_groups).or_else(|| stopped(&in_containers)) {
            self.probes.push(failed("groups", format!("the server stopped after {entries} entries: {cause}")));
            return false;
        }
        let hint = if groups == 0 && source.group_filter.is_some() { "; check `group_filter`" } else { "" };
        self.probes.push(passed("groups", format!("{groups} groups, {} OUs and domains{hint}", in_containers.entries)));
        true
    }

    fn attributes(&mut self, census: &Census) {
        let names = &self.source.attributes;
        let mut detail = format!(
            "of {} users {} have `{}`, {} have `{}`, {} have an immutable id",
            census.people, census.names, names.name, census.mails, names.mail, census.ids
        );
        if census.nameless > 0 {
            let _ = write!(detail, "; for {} no localpart can be made (see `source sample`)", census.nameless);
        }
        let mut ok = true;
        if census.names == 0 {
            ok = false;
            let _ = write!(detail, "; nobody has `{}`: check `attributes.name`", names.name);
        }
        if census.nameless == census.people {
            ok = false;
            detail.push_str("; check `attributes.uid` and `localpart`");
        }
        self.probes.push(Probe { step: "attributes", ok, detail });
    }

    async fn paging(&mut self) {
        let patience = self.source.operation_timeout_ms;
        let root = read_one(&mut self.session, "", &["supportedControl"], patience).await.ok().flatten();
        let probe = match root {
            Some(root) if root.texts("supportedcontrol").any(|control| control == PAGED_RESULTS) => {
                passed("paging", format!("{} entries a page", self.source.page_size))
            }
            Some(_) => failed(
                "paging",
                "the server does not offer paged results: a size limit will cut reads short".to_owned(),
            ),
            None => passed(
                "paging",
                "the server does not say what it offers; reads are paged and checked all the same".to_owned(),
            ),
        };
        self.probes.push(probe);
    }
}
