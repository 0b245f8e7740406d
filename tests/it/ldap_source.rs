//! The `ldap` source against a real `OpenLDAP`, and against a scripted server for what `OpenLDAP` never does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its world should fail there and then"
)]

mod churn;
mod failures;
mod photos;
mod relay;
mod scripted;
mod several;
mod stub;
mod tls;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use secrecy::SecretString;
use usher::bridge::Bridge as _;
use usher::bridge::ldap::LdapBridge;
use usher::cli;
use usher::config::{LdapAttributes, LdapSource};
use usher::directory::{Completeness, GroupKind, Snapshot};

pub use crate::lab::slapd::source;
use crate::lab::slapd::{BASE, Setup, Slapd};

pub const COMPANY: &str = include_str!("../ldap/company.ldif");

/// One read.
pub async fn fetch(source: &LdapSource) -> Snapshot {
    LdapBridge::new(source).unwrap().fetch().await.unwrap()
}

/// The error of a read that brings nothing, and whether it is worth trying again.
pub async fn failure(source: &LdapSource) -> (String, bool) {
    let error = match LdapBridge::new(source) {
        Ok(mut bridge) => bridge.fetch().await.expect_err("the read should fail"),
        Err(error) => error,
    };
    (error.to_string(), error.retry)
}

/// Why a snapshot is not complete.
pub fn flaws(snapshot: &Snapshot) -> Vec<String> {
    match &snapshot.completeness {
        Completeness::Complete => Vec::new(),
        Completeness::Incomplete(reasons) => reasons.clone(),
    }
}

/// Users and groups as text, ids replaced by names.
pub fn outline(snapshot: &Snapshot) -> String {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    names.extend(snapshot.users.iter().map(|user| (user.id.as_str(), user.localpart.to_string())));
    names.extend(snapshot.groups.iter().map(|group| (group.id.as_str(), format!("[{}]", group.name))));
    names.extend(snapshot.unnamed.iter().map(|id| (id.as_str(), "(unnamed)".to_owned())));
    let name = |id: &str| names.get(id).cloned().unwrap_or_else(|| format!("?{id}"));
    let mut users: Vec<String> = Vec::new();
    for user in &snapshot.users {
        let off = if user.enabled { "" } else { " disabled" };
        let display = user.display_name.as_deref().unwrap_or("-");
        users.push(format!("{} = {display}, {} mails{off}\n", user.localpart, user.emails.len()));
    }
    users.sort();
    let mut groups: Vec<String> = Vec::new();
    for group in &snapshot.groups {
        let mut members: Vec<String> = group.members.iter().map(|id| name(id.as_str())).collect();
        members.sort();
        let above = group.parent.as_ref().map(|id| format!(" < {}", name(id.as_str()))).unwrap_or_default();
        let kind = match group.kind {
            GroupKind::Root => 'R',
            GroupKind::Container => 'C',
            GroupKind::Group => 'G',
        };
        groups.push(format!("{kind} {}{above}: {}\n", group.name, members.join(" ")));
    }
    groups.sort();
    users.concat() + groups.concat().as_str()
}

pub const COMPANY_OUTLINE: &str = "\
ann = Ann Archer, 2 mails
bob = Bob Baker, 1 mails
cem = Cem Cook, 0 mails
dora = Dora Dean, 0 mails disabled
eva = Eva Ernst, 0 mails
fred = Fred Fox, 0 mails
j=c3=bcrgen = Jürgen Groß, 0 mails
odd1 = Doe, Jane, 0 mails
odd3 = #hash, 0 mails
odd4 = Trail, 0 mails
odd5 = Plus+One, 0 mails
odd6 = Quote\"Q, 0 mails
odd7 = Semi;Colon, 0 mails
odd8 = Back\\Slash, 0 mails
odd9 = Multi, 0 mails
C Engineering < [People]: cem dora eva
C Groups < [Example]: \n\
C Odd < [Example]: j=c3=bcrgen odd1 odd3 odd4 odd5 odd6 odd7 odd8 odd9
C People < [Example]: (unnamed) [Engineering] ann bob fred
G ghosts: ann
G odd: j=c3=bcrgen odd1 odd3 odd4 odd5 odd6 odd7 odd8 odd9
G posix: bob cem
G round: [trip] ann
G self: [self] cem
G trip: [round] bob
G unique: ann bob
R Example: [Groups] [Odd] [People]
";

pub const COMPANY_NOTICES: [&str; 3] = [
    "1 person has no localpart (cn=Two Uids,ou=People,dc=example,dc=org: attribute `uid` has several values and none of them is \
     in the entry's own name); nothing is done for them beyond what is bound to them already",
    "4 group members are no user or group that was read (nobody; uid=gone,ou=people,dc=example,dc=org; \
     cn=no uid,ou=people,dc=example,dc=org, …); they are left out",
    "1 group member is outside the base (cn=elsewhere,dc=other); they are left out",
];

#[tokio::test]
async fn a_company_with_everything_odd_is_read_whole() {
    let slapd = Slapd::start(COMPANY);
    for page_size in [1, 3, 1000] {
        let snapshot = fetch(&LdapSource { page_size, ..source(&slapd.uri()) }).await;
        assert_eq!(flaws(&snapshot), [""; 0]);
        assert_eq!(outline(&snapshot), COMPANY_OUTLINE);
        assert_eq!(snapshot.notices, COMPANY_NOTICES);
        assert_eq!(snapshot.source, "ldap dc=example,dc=org");
        assert_eq!(snapshot.organisation.as_deref(), Some("Example"));
        assert_eq!(snapshot.users[0].id.as_str(), "00000000-0000-4000-8000-000000000007");
    }
}

#[tokio::test]
async fn only_what_is_below_the_base_counts() {
    let slapd = Slapd::start(COMPANY);
    let base = "OU=Engineering, ou=People,dc=example,dc=org".to_owned();
    let snapshot = fetch(&LdapSource { base, ..source(&slapd.uri()) }).await;
    assert_eq!(
        outline(&snapshot),
        "cem = Cem Cook, 0 mails\ndora = Dora Dean, 0 mails disabled\neva = Eva Ernst, 0 mails\nR Engineering: cem dora eva\n"
    );
    let base = "ou=Groups,dc=example,dc=org".to_owned();
    let snapshot = fetch(&LdapSource { base, ..source(&slapd.uri()) }).await;
    assert_eq!(snapshot.users, []);
    assert!(snapshot.completeness.is_complete());
    assert_eq!(
        snapshot.notices,
        [
            "3 group members are no user or group that was read (bob; cem; nobody); they are left out",
            "19 group members are outside the base (CN=Doe\\2C Jane, OU=Odd,DC=EXAMPLE,dc=org; \
             cn=J\\C3\\BCrgen Gro\\C3\\9F,ou=Odd,dc=example,dc=org; cn=\\23hash,ou=Odd,dc=example,dc=org, …); they are left out",
        ]
    );
}

#[tokio::test]
async fn filters_narrow_and_replace() {
    let slapd = Slapd::start(COMPANY);
    let narrow = LdapSource { filter: Some("!(cn=Cem Cook)".to_owned()), ..source(&slapd.uri()) };
    let snapshot = fetch(&narrow).await;
    assert!(!snapshot.users.iter().any(|user| user.localpart.as_str() == "cem"));
    assert_eq!((snapshot.users.len(), snapshot.groups.len()), (14, 12));
    let replaced = LdapSource {
        user_filter: Some("(|(objectClass=account)(cn=No Uid))".to_owned()),
        group_filter: Some("(cn=reader)".to_owned()),
        ..source(&slapd.uri())
    };
    let snapshot = fetch(&replaced).await;
    assert_eq!(
        outline(&snapshot),
        "printer = -, 0 mails\nC Engineering < [People]: \nC Groups < [Example]: \nC Odd < [Example]: \n\
         C People < [Example]: [Engineering] printer\nG reader: \nR Example: [Groups] [Odd] [People]\n"
    );
    assert_eq!(
        snapshot.notices,
        [
            "1 entry matches user_filter but has no `uid` (cn=No Uid,ou=People,dc=example,dc=org); they are not taken for people"
        ]
    );
}

#[tokio::test]
async fn localparts_follow_the_template_and_strictness() {
    let slapd = Slapd::start(COMPANY);
    let source = LdapSource {
        base: format!("ou=People,{BASE}"),
        localpart: Some("{sn}.{uid}".to_owned()),
        ..source(&slapd.uri())
    };
    let localparts = |snapshot: &Snapshot| {
        let mut all: Vec<String> = snapshot.users.iter().map(|user| user.localpart.to_string()).collect();
        all.sort();
        all
    };
    let snapshot = fetch(&source).await;
    assert_eq!(localparts(&snapshot), ["archer.ann", "baker.bob", "cook.cem", "dean.dora", "ernst.eva", "fox.fred"]);
    let strict = LdapSource { base: format!("ou=Odd,{BASE}"), localpart: None, strict_localparts: true, ..source };
    let snapshot = fetch(&strict).await;
    assert_eq!(localparts(&snapshot), ["odd1", "odd3", "odd4", "odd5", "odd6", "odd7", "odd8", "odd9"]);
    assert_eq!(snapshot.unnamed.len(), 1);
    assert_eq!(
        snapshot.notices,
        [
            "1 person has no localpart (cn=Jürgen Groß,ou=Odd,dc=example,dc=org: `Jürgen` holds characters a localpart cannot have, \
          and strict_localparts forbids escaping them); nothing is done for them beyond what is bound to them already"
        ]
    );
}

#[tokio::test]
async fn a_rename_and_a_move_keep_the_id() {
    let slapd = Slapd::start(COMPANY);
    let before = fetch(&source(&slapd.uri())).await;
    slapd.modify(
        "dn: uid=ann,ou=People,dc=example,dc=org\nchangetype: modrdn\nnewrdn: uid=anna\ndeleteoldrdn: 1\n\
         newsuperior: ou=Engineering,ou=People,dc=example,dc=org\n",
    );
    let after = fetch(&source(&slapd.uri())).await;
    let localpart = |snapshot: &Snapshot, id: &str| {
        snapshot.users.iter().find(|user| user.id.as_str() == id).map(|user| user.localpart.to_string())
    };
    let ann = "00000000-0000-4000-8000-000000000007";
    assert_eq!(localpart(&before, ann).as_deref(), Some("ann"));
    assert_eq!(localpart(&after, ann).as_deref(), Some("anna"));
    assert_eq!(before.users.len(), after.users.len());
}

#[tokio::test]
async fn members_that_begin_to_dangle_make_one_read_incomplete() {
    let slapd = Slapd::start(COMPANY);
    let mut bridge = LdapBridge::new(&LdapSource { probe: true, ..source(&slapd.uri()) }).unwrap();
    // What dangles at the first read has nothing to be compared with.
    assert_eq!(flaws(&bridge.fetch().await.unwrap()), [""; 0]);
    assert_eq!(flaws(&bridge.fetch().await.unwrap()), [""; 0]);
    // Two groups name Ann where she was: to them it is as if she had been moved between two searches.
    slapd.modify(
        "dn: uid=ann,ou=People,dc=example,dc=org\nchangetype: modrdn\nnewrdn: uid=ann\ndeleteoldrdn: 0\n\
         newsuperior: ou=Engineering,ou=People,dc=example,dc=org\n",
    );
    let expected = "1 group member is newly no user or group that was read: they may have been moved during this read; \
                    the next one will tell";
    assert_eq!(flaws(&bridge.fetch().await.unwrap()), [expected]);
    assert!(bridge.changed().await, "such a read stands for nothing");
    assert_eq!(flaws(&bridge.fetch().await.unwrap()), [""; 0]);
    assert!(!bridge.changed().await);
}

#[tokio::test]
async fn without_immutable_ids_the_dn_serves_and_it_is_said() {
    let hidden = "\naccess to attrs=entryUUID by * none\naccess to * by * read\n".to_owned();
    let slapd = Slapd::start_with(COMPANY, &Setup { database: hidden, ..Setup::default() });
    let source = LdapSource {
        bind_dn: None,
        bind_password: None,
        base: format!("ou=Engineering,ou=People,{BASE}"),
        ..source(&slapd.uri())
    };
    let snapshot = fetch(&source).await;
    assert_eq!(snapshot.users[0].id.as_str(), "uid=cem,ou=engineering,ou=people,dc=example,dc=org");
    assert_eq!(
        snapshot.notices[0],
        "4 entries show no entryUUID, objectGUID, nsUniqueId or ipaUniqueID (ou=Engineering,ou=People,dc=example,dc=org; \
         uid=cem,ou=Engineering,ou=People,dc=example,dc=org; uid=dora,ou=Engineering,ou=People,dc=example,dc=org, …): \
         the DN serves as id, and a rename will look like a leaver and a newcomer"
    );
}

#[tokio::test]
async fn the_cheap_question_is_answered_no_only_when_nothing_changed() {
    let mut slapd = Slapd::start(COMPANY);
    let mut bridge = LdapBridge::new(&LdapSource { probe: true, ..source(&slapd.uri()) }).unwrap();
    assert!(bridge.changed().await, "before the first read");
    bridge.fetch().await.unwrap();
    assert!(!bridge.changed().await, "nothing happened");
    assert!(!bridge.changed().await, "and still nothing");
    let changes = [
        "dn: cn=posix,ou=Groups,dc=example,dc=org\nchangetype: modify\ndelete: memberUid\nmemberUid: cem\n",
        "dn: uid=fred,ou=People,dc=example,dc=org\nchangetype: delete\n",
        "dn: uid=bob,ou=People,dc=example,dc=org\nchangetype: modrdn\nnewrdn: uid=bob\ndeleteoldrdn: 0\nnewsuperior: ou=Odd,dc=example,dc=org\n",
        "dn: ou=New,dc=example,dc=org\nchangetype: add\nobjectClass: organizationalUnit\nou: New\n",
    ];
    for change in changes {
        slapd.modify(change);
        assert!(bridge.changed().await, "after {change}");
        assert!(bridge.changed().await, "a question is no read");
        if !bridge.fetch().await.unwrap().completeness.is_complete() {
            assert!(
                change.contains("uid=bob"),
                "a group names Bob where he was, which is believed at the second read only"
            );
            bridge.fetch().await.unwrap();
        }
        assert!(!bridge.changed().await, "read again after {change}");
    }
    slapd.restart();
    assert!(!bridge.changed().await, "a restart changes nothing");
    slapd.modify(changes[3].replace("New", "Newer").as_str());
    slapd.restart();
    assert!(bridge.changed().await, "changed before the restart");
    bridge.fetch().await.unwrap();
    slapd.stop();
    assert!(bridge.changed().await, "a server that is down says nothing");
}

#[tokio::test]
async fn without_the_right_to_see_the_state_every_poll_reads() {
    let hidden = "\naccess to attrs=contextCSN by * none\naccess to * by * read\n".to_owned();
    let slapd = Slapd::start_with(COMPANY, &Setup { database: hidden, ..Setup::default() });
    let source = LdapSource { bind_dn: None, bind_password: None, probe: true, ..source(&slapd.uri()) };
    let mut bridge = LdapBridge::new(&source).unwrap();
    assert_eq!(bridge.fetch().await.unwrap().users.len(), 15);
    assert!(bridge.changed().await);
}

async fn tested(source: &LdapSource) -> (String, bool) {
    cli::source::test(&mut LdapBridge::new(source).unwrap()).await
}

#[tokio::test]
async fn a_source_test_passes_step_by_step() {
    let slapd = Slapd::start(COMPANY);
    let (text, ok) = tested(&source(&slapd.uri())).await;
    let expected = format!(
        "ok      connect     {}\n\
         ok      tls         none: passwords and names travel in the clear\n\
         ok      bind        cn=admin,dc=example,dc=org\n\
         ok      base        dc=example,dc=org\n\
         ok      users       16 match (&(uid=*)(|(objectClass=person)(objectClass=organizationalperson)(objectClass=inetorgperson)\
         (objectClass=posixaccount)(objectClass=user)))\n\
         ok      groups      7 groups, 5 OUs and domains\n\
         ok      attributes  of 16 users 16 have `cn`, 2 have `mail`, 16 have an immutable id; for 1 no localpart can be made \
         (see `source sample`)\n\
         ok      paging      3 entries a page\n\
         The source can be read.\n",
        slapd.uri()
    );
    assert_eq!((text, ok), (expected, true));
}

/// The last step of a source test: its name and what it says.
async fn last_step(source: &LdapSource) -> (&'static str, String) {
    let probes = LdapBridge::new(source).unwrap().probe().await;
    let last = probes.last().unwrap();
    assert!(!last.ok, "{last:?}");
    (last.step, last.detail.clone())
}

const BUILTIN: &str = "(&(uid=*)(|(objectClass=person)(objectClass=organizationalperson)(objectClass=inetorgperson)\
                       (objectClass=posixaccount)(objectClass=user)))";

#[tokio::test]
async fn a_source_test_names_the_setting_that_keeps_everybody_out() {
    let slapd = Slapd::start(COMPANY);
    let good = source(&slapd.uri());
    let filter = LdapSource { filter: Some("(title=Boss)".to_owned()), ..good.clone() };
    let text = format!(
        "0 users match (&(title=Boss){BUILTIN}): `filter` (title=Boss) keeps them out; without it there are 16"
    );
    assert_eq!(last_step(&filter).await, ("users", text));
    let user_filter = LdapSource { user_filter: Some("(title=Boss)".to_owned()), ..good.clone() };
    let text = "0 users match (title=Boss): `user_filter` (title=Boss) keeps them out; 17 entries have `uid`";
    assert_eq!(last_step(&user_filter).await, ("users", text.to_owned()));
    let attributes = LdapAttributes { uid: "sAMAccountName".to_owned(), ..good.attributes.clone() };
    let text = format!(
        "0 users match {}: 17 people are there, but none shows `sAMAccountName`; set `attributes.uid`, or give the bind user the \
         right to read it",
        BUILTIN.replace("(uid=*)", "(sAMAccountName=*)")
    );
    assert_eq!(last_step(&LdapSource { attributes, ..good.clone() }).await, ("users", text));
    let base = LdapSource { base: format!("cn=reader,{BASE}"), ..good };
    let text = format!(
        "0 users match {BUILTIN}: nothing is visible below the base; check `base`, or give the bind user the right to read below it"
    );
    assert_eq!(last_step(&base).await, ("users", text));
}

#[tokio::test]
async fn a_source_test_names_a_missing_base_and_a_wrong_password() {
    let slapd = Slapd::start(COMPANY);
    let good = source(&slapd.uri());
    let base = LdapSource { base: format!("ou=Nowhere,{BASE}"), ..good.clone() };
    let cause = "the server has no such entry (code 32), or the bind user may not see it; check `base`";
    let text = format!("read the base `ou=Nowhere,dc=example,dc=org` from {}: {cause}", slapd.uri());
    assert_eq!(last_step(&base).await, ("base", text));
    let password = LdapSource { bind_password: Some(SecretString::from("wrong")), ..good };
    let cause = "bind_dn or bind_password is wrong [code 49 (invalid credentials)]";
    let text = format!("bind as cn=admin,dc=example,dc=org at {}: {cause}", slapd.uri());
    assert_eq!(last_step(&password).await, ("bind", text));
}

#[tokio::test]
async fn a_sample_shows_people_without_addresses() {
    let slapd = Slapd::start(COMPANY);
    let snapshot = fetch(&LdapSource { base: format!("ou=People,{BASE}"), ..source(&slapd.uri()) }).await;
    let mut expected = String::from("ldap ou=People,dc=example,dc=org: 6 users, 2 groups, complete\n");
    let _ = writeln!(expected, "  note: {}", COMPANY_NOTICES[0]);
    expected.push_str(
        "users:\n  ann  Ann Archer  2 e-mails\n  bob  Bob Baker  1 e-mail\n  cem  Cem Cook  0 e-mails\n  \
         dora  Dora Dean  0 e-mails, disabled\n  and 2 more\n\
         groups:\n  People  everybody, 5 direct members\n    externalId: ou=people,dc=example,dc=org\n  \
         Engineering  container, 3 direct members\n    externalId: ou=engineering,ou=people,dc=example,dc=org\n",
    );
    assert_eq!(cli::source::sample(&snapshot, 4), expected);
}
