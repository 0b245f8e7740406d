//! What `usher source test` and `usher source sample N` print (S-90).
//!
//! Mail addresses are not printed; how many somebody has is.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Exit, SourceVerb};
use crate::app::{self, Failure};
use crate::bridge::Bridge;
use crate::directory::{Completeness, GroupKind, Snapshot};
use crate::reconcile::PassError;

/// The verb as typed: tries the source of the configuration.
pub(super) async fn run(files: &[PathBuf], verb: &SourceVerb) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let mut bridge = app::source(&config)?;
    match verb {
        SourceVerb::Test => {
            let (text, ok) = test(bridge.as_mut()).await;
            Ok(match super::printed(&text) {
                Exit::Done if ok => Exit::Done,
                Exit::Done => Exit::Unreachable,
                broken => broken,
            })
        }
        SourceVerb::Sample { count } => {
            let snapshot = bridge.fetch().await.map_err(|error| Failure::from(PassError::Source(error)))?;
            Ok(super::printed(&sample(&snapshot, *count)))
        }
    }
}

/// Tests the source step by step. The text ends in a line that says whether it can be read; `true` if it can.
pub async fn test(bridge: &mut dyn Bridge) -> (String, bool) {
    let mut out = String::new();
    let probes = bridge.probe().await;
    for probe in &probes {
        let verdict = if probe.ok { "ok    " } else { "FAILED" };
        let _ = writeln!(out, "{verdict}  {:<10}  {}", probe.step, probe.detail);
    }
    let ok = probes.last().is_some_and(|last| last.ok);
    let verdict = if ok { "The source can be read." } else { "The source cannot be read as configured." };
    let _ = writeln!(out, "{verdict}");
    (out, ok)
}

/// The first `n` users and groups of a read, with what is odd about it.
#[must_use]
pub fn sample(snapshot: &Snapshot, n: usize) -> String {
    let mut out = format!("{}: {} users, {} groups", snapshot.source, snapshot.users.len(), snapshot.groups.len());
    match &snapshot.completeness {
        Completeness::Complete => out.push_str(", complete\n"),
        Completeness::Incomplete(reasons) => {
            out.push_str(", NOT complete\n");
            for reason in reasons {
                let _ = writeln!(out, "  missing: {reason}");
            }
        }
    }
    for notice in &snapshot.notices {
        let _ = writeln!(out, "  note: {notice}");
    }
    let _ = writeln!(out, "users:");
    for user in snapshot.users.iter().take(n) {
        let name = user.display_name.as_deref().unwrap_or("(no name)");
        let disabled = if user.enabled { "" } else { ", disabled" };
        let _ = writeln!(
            out,
            "  {}  {}  {} e-mail{}{disabled}",
            user.localpart,
            without_address(name),
            user.emails.len(),
            plural(user.emails.len())
        );
    }
    more(&mut out, snapshot.users.len(), n);
    let _ = writeln!(out, "groups:");
    for group in snapshot.groups.iter().take(n) {
        let kind = match group.kind {
            GroupKind::Root => "everybody",
            GroupKind::Container => "container",
            GroupKind::Group => "group",
        };
        let members = group.members.len();
        let _ = writeln!(out, "  {}  {kind}, {members} direct member{}", group.name, plural(members));
        for alias in &group.aliases {
            let (crate::directory::Alias::Dn(name)
            | crate::directory::Alias::Id(name)
            | crate::directory::Alias::Name(name)) = alias;
            let _ = writeln!(out, "    externalId: {name}");
        }
    }
    more(&mut out, snapshot.groups.len(), n);
    out
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn more(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(out, "  and {} more", all - shown);
    }
}

/// A display name, unless it is really an address.
fn without_address(name: &str) -> &str {
    if name.contains('@') { "(a mail address)" } else { name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::bridge::{Probe, SourceError};
    use crate::directory::{Alias, RawGroup, User};

    struct Scripted(Vec<Probe>);

    #[async_trait]
    impl Bridge for Scripted {
        async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
            Ok(Snapshot::default())
        }

        async fn probe(&mut self) -> Vec<Probe> {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn a_test_names_the_step_that_failed() {
        let mut bridge = Scripted(vec![
            Probe { step: "connect", ok: true, detail: "ldap://dir".to_owned() },
            Probe { step: "bind", ok: false, detail: "bind_dn or bind_password is wrong".to_owned() },
        ]);
        let text = "ok      connect     ldap://dir\n\
                    FAILED  bind        bind_dn or bind_password is wrong\n\
                    The source cannot be read as configured.\n";
        assert_eq!(test(&mut bridge).await, (text.to_owned(), false));
        bridge.0.pop();
        assert!(test(&mut bridge).await.1);
        assert!(!test(&mut Scripted(Vec::new())).await.1);
    }

    #[test]
    fn a_sample_shows_who_is_read_without_their_addresses() {
        let user = |id: &str, emails: &[&str], enabled| {
            Arc::new(User {
                id: id.into(),
                localpart: id.into(),
                display_name: Some(id.to_uppercase()),
                emails: emails.iter().map(|mail| (*mail).to_owned()).collect(),
                enabled,
            })
        };
        let mut snapshot = Snapshot {
            source: "file staff.yaml".to_owned(),
            users: vec![user("ann", &["ann@example.org"], true), user("bob", &[], false), user("cem", &[], true)],
            groups: vec![RawGroup {
                id: "g1".into(),
                kind: GroupKind::Group,
                name: "Staff".to_owned(),
                aliases: vec![Alias::Name("Staff".to_owned())],
                parent: None,
                members: vec!["ann".into()],
            }],
            notices: vec!["1 member is unknown".to_owned()],
            ..Snapshot::default()
        };
        snapshot.completeness.flaw("users: the server stopped");
        assert_eq!(
            sample(&snapshot, 2),
            "file staff.yaml: 3 users, 1 groups, NOT complete\n\
             \x20 missing: users: the server stopped\n\
             \x20 note: 1 member is unknown\n\
             users:\n\
             \x20 ann  ANN  1 e-mail\n\
             \x20 bob  BOB  0 e-mails, disabled\n\
             \x20 and 1 more\n\
             groups:\n\
             \x20 Staff  group, 1 direct member\n\
             \x20   externalId: Staff\n"
        );
    }
}
