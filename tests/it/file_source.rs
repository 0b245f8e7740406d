//! The `file` source: YAML, JSON and LDIF, and files that are not what they should be (S-10).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its world should fail there and then"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use usher::bridge::Bridge as _;
use usher::bridge::file::FileBridge;
use usher::cli;
use usher::config::{FileSource, LdapAttributes};
use usher::directory::Snapshot;

use crate::lab::slapd::Slapd;
use crate::ldap_source::{COMPANY, COMPANY_NOTICES, COMPANY_OUTLINE, flaws, outline};

const ACTIVE_DIRECTORY: &str = include_str!("../ldap/active-directory.ldif");

const STAFF: &str = "\
organisation: Example
users:
  - { id: u1, localpart: ann, display_name: Ann Archer, emails: [ann@example.org] }
  - { id: Bob, display_name: Bob Baker }
  - { id: u3, localpart: cem, enabled: false }
groups:
  - { name: staff, members: [u1, bob, u3, leads, nobody] }
  - { id: g2, name: leads, members: [ann] }
";

const STAFF_OUTLINE: &str = "\
ann = Ann Archer, 1 mails
bob = Bob Baker, 0 mails
cem = -, 0 mails disabled
G leads: ann
G staff: [leads] ann bob cem
";

fn source(path: &Path) -> FileSource {
    FileSource {
        path: path.to_owned(),
        check_interval_ms: 1000,
        base: None,
        attributes: LdapAttributes {
            uid: "uid".to_owned(),
            name: "cn".to_owned(),
            mail: "mail".to_owned(),
            avatar: None,
        },
        strict_localparts: false,
    }
}

struct Shelf(TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

async fn fetch(path: &Path) -> Snapshot {
    FileBridge::new(&source(path)).fetch().await.unwrap()
}

async fn cause(path: &Path) -> String {
    let error = FileBridge::new(&source(path)).fetch().await.expect_err("the read should fail");
    assert_eq!(error.attempted, format!("read {}", path.display()));
    error.cause
}

#[tokio::test]
async fn yaml_and_json_say_the_same() {
    let shelf = Shelf::new();
    let yaml = fetch(&shelf.put("staff.yaml", STAFF)).await;
    assert_eq!((outline(&yaml).as_str(), flaws(&yaml)), (STAFF_OUTLINE, Vec::new()));
    assert_eq!(yaml.notices, ["group `staff` lists who is no user or group: `nobody`"]);
    assert_eq!(yaml.organisation.as_deref(), Some("Example"));
    let value: serde_json::Value = serde_yaml::from_str(STAFF).unwrap();
    let json = fetch(&shelf.put("staff.json", &serde_json::to_string_pretty(&value).unwrap())).await;
    assert_eq!((json.users, json.groups), (yaml.users, yaml.groups));
}

#[tokio::test]
async fn a_snapshot_that_was_written_down_reads_back_the_same() {
    let shelf = Shelf::new();
    let company = fetch(&shelf.put("company.ldif", COMPANY)).await;
    let json = shelf.put("company.json", &serde_json::to_string(&company).unwrap());
    let back = fetch(&json).await;
    assert_eq!((&back.users, &back.groups), (&company.users, &company.groups));
    assert_eq!((&back.notices, &back.unnamed), (&company.notices, &company.unnamed));
    let yaml = shelf.put("company.yaml", &serde_yaml::to_string(&company).unwrap());
    let back = fetch(&yaml).await;
    assert_eq!((&back.users, &back.groups), (&company.users, &company.groups));
}

#[tokio::test]
async fn ldif_reads_as_the_server_that_holds_it() {
    let shelf = Shelf::new();
    let file = fetch(&shelf.put("company.ldif", COMPANY)).await;
    assert_eq!(outline(&file), COMPANY_OUTLINE);
    assert_eq!(file.notices, COMPANY_NOTICES);
    let slapd = Slapd::start(COMPANY);
    let server = crate::ldap_source::fetch(&crate::ldap_source::source(&slapd.uri())).await;
    assert_eq!(file.users, server.users);
    let sorted = |snapshot: &Snapshot| {
        let mut groups = snapshot.groups.clone();
        groups.sort_by(|one, other| one.id.cmp(&other.id));
        groups
    };
    assert_eq!(sorted(&file), sorted(&server));
}

#[tokio::test]
async fn active_directory_entries_have_primary_groups_and_marks_and_no_computers() {
    let shelf = Shelf::new();
    let names = LdapAttributes {
        uid: "sAMAccountName".to_owned(),
        name: "displayName".to_owned(),
        mail: "mail".to_owned(),
        avatar: None,
    };
    let path = shelf.put("ad.ldif", ACTIVE_DIRECTORY);
    let snapshot = FileBridge::new(&FileSource { attributes: names, ..source(&path) }).fetch().await.unwrap();
    assert_eq!(
        outline(&snapshot),
        "ann = Ann Archer, 0 mails\ndora = Dora Dean, 0 mails disabled\nC Staff < [lab]: ann dora\n\
         G Domain Users: ann dora\nG Leads: ann\nR lab: [Staff]\n"
    );
    let ann = snapshot.users.iter().find(|user| user.localpart.as_str() == "ann").unwrap();
    assert_eq!(ann.id.as_str(), "a1c9c10c-af20-4adc-96eb-a38b26edf074");
    assert_eq!(snapshot.notices, [""; 0]);
}

#[tokio::test]
async fn an_ldif_base_leaves_the_rest_out() {
    let shelf = Shelf::new();
    let path = shelf.put("company.ldif", COMPANY);
    let narrow = FileSource { base: Some("ou=Engineering,ou=People,dc=example,dc=org".to_owned()), ..source(&path) };
    let snapshot = FileBridge::new(&narrow).fetch().await.unwrap();
    assert_eq!(
        outline(&snapshot),
        "cem = Cem Cook, 0 mails\ndora = Dora Dean, 0 mails disabled\neva = Eva Ernst, 0 mails\nR Engineering: cem dora eva\n"
    );
    let gone = FileSource { base: Some("ou=Gone,dc=example,dc=org".to_owned()), ..narrow };
    let error = FileBridge::new(&gone).fetch().await.unwrap_err();
    assert_eq!(error.cause, "it has no entry for the base `ou=Gone,dc=example,dc=org`");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_line_and_column() {
    let shelf = Shelf::new();
    for (name, text, expected) in [
        (
            "a.yaml",
            "users:\n  - { id: u1, localprat: ann }\n",
            "users[0]: unknown field `localprat`, expected one of `id`, `localpart`, `display_name`, `emails`, `enabled` at line 2 column 15",
        ),
        ("b.json", "{\"users\": [\n{\"id\": 1}]}", "invalid type: integer `1`, expected a string at line 2 column 8"),
        (
            "h.yaml",
            "users:\n  - ann@example.org\n",
            "users[0]: invalid type: string … expected struct UserRow at line 2 column 5",
        ),
        ("c.json", "{\"users\": [", "EOF while parsing a list at line 1 column 11"),
        ("d.ldif", "dn: cn=a\ncn\n", "line 2, column 3: expected `name: value`"),
        ("e.yaml", "groups: []\n", "missing field `users`"),
        ("f.yaml", "users: [{ id: a }, { id: a }]\n", "users: two have the id `a`; an id is one person's"),
        (
            "g.yaml",
            "users: []\ngroups: [{ name: a }, { name: a }]\n",
            "groups: two have the id `a`; give each an `id` of its own",
        ),
    ] {
        assert_eq!(cause(&shelf.put(name, text)).await, expected, "{name}");
    }
}

#[tokio::test]
async fn words_of_directories_are_answered_with_ours() {
    let shelf = Shelf::new();
    for (field, expected) in [
        ("users:\n  - { id: u1, uid: ann }\n", "localpart"),
        ("users:\n  - { id: u1, sAMAccountName: ann }\n", "localpart"),
        ("users:\n  - { id: u1, mail: [] }\n", "emails"),
        ("users:\n  - { id: u1, cn: Ann }\n", "display_name"),
        ("users:\n  - { id: u1, displayName: Ann }\n", "display_name"),
        ("users:\n  - { entryUUID: u1 }\n", "id"),
        ("users: []\ngroups:\n  - { cn: staff }\n", "name"),
        ("users: []\ngroups:\n  - { name: staff, memberUid: [ann] }\n", "members"),
        ("{\"users\": [{\"id\": \"u1\", \"uid\": \"ann\"}]}", "localpart"),
    ] {
        let name = if field.starts_with('{') { "a.json" } else { "a.yaml" };
        let cause = cause(&shelf.put(name, field)).await;
        assert!(
            cause.contains("unknown field `") && cause.ends_with(&format!("; did you mean `{expected}`?")),
            "{cause}"
        );
    }
    let cause = cause(&shelf.put("b.yaml", "users:\n  - { id: u1, shoe_size: 41 }\n")).await;
    assert!(!cause.contains("did you mean"), "{cause}");
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_or_half_written_is_never_an_empty_directory() {
    let shelf = Shelf::new();
    let path = shelf.put("staff.yaml", STAFF);
    let mut bridge = FileBridge::new(&source(&path));
    assert_eq!(bridge.fetch().await.unwrap().users.len(), 3);
    fs::remove_file(&path).unwrap();
    assert!(bridge.changed().await);
    let error = bridge.fetch().await.unwrap_err();
    assert_eq!((error.cause.as_str(), error.retry), ("there is no such file", true));
    for nothing in ["", " \n\n"] {
        shelf.put("staff.yaml", nothing);
        assert_eq!(cause(&path).await, "it is empty; a file being written is best moved into place when it is whole");
    }
    shelf.put("staff.yaml", &STAFF[..STAFF.find(", display_name: Bob").unwrap()].replace("{ id: Bob", "id: Bo"));
    assert_eq!(
        flaws(&fetch(&path).await),
        ["the last line does not end: the file may be half-written (end it with a line end)"]
    );
    let half = COMPANY.find("mail: archer").unwrap();
    let cut = shelf.put("company.ldif", &COMPANY[..half + 8]);
    assert_eq!(
        flaws(&fetch(&cut).await),
        ["the last line does not end: the file may be half-written (end it with a line end)"]
    );
}

// Time that passes only while both wait: the one always writes in the middle of the other's wait.
#[tokio::test(start_paused = true)]
async fn a_file_written_while_it_is_read_is_not_complete() {
    let shelf = Shelf::new();
    let path = shelf.put("staff.yaml", STAFF);
    let mut bridge = FileBridge::new(&source(&path));
    let writing = async {
        // The file is young, so the source watches it for a moment; this falls into that moment.
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        shelf.put("staff.yaml", &format!("{STAFF}  - {{ name: late }}\n"));
    };
    let (snapshot, ()) = tokio::join!(bridge.fetch(), writing);
    assert_eq!(flaws(&snapshot.unwrap()), ["the file was changed while it was read"]);
    assert!(bridge.changed().await, "an incomplete read is read again");
}

#[tokio::test]
async fn a_file_counts_as_changed_when_its_content_is() {
    let shelf = Shelf::new();
    let path = shelf.put("staff.yaml", STAFF);
    let mut bridge = FileBridge::new(&source(&path));
    assert!(bridge.changed().await, "before the first read");
    bridge.fetch().await.unwrap();
    assert!(!bridge.changed().await);
    shelf.put("staff.yaml", STAFF);
    assert!(!bridge.changed().await, "written again, the same");
    shelf.put("staff.yaml", &STAFF.replace("Ann", "Eve"));
    assert!(bridge.changed().await, "same size, other content");
    assert!(bridge.changed().await, "a question is no read");
    bridge.fetch().await.unwrap();
    assert!(!bridge.changed().await);
}

#[tokio::test]
async fn a_source_test_of_a_file_names_the_step() {
    let shelf = Shelf::new();
    let path = shelf.put("staff.yaml", STAFF);
    let (text, ok) = cli::source::test(&mut FileBridge::new(&source(&path))).await;
    let expected = format!(
        "ok      open        {}, {} bytes\n\
         ok      parse       group `staff` lists who is no user or group: `nobody`\n\
         ok      users       3 users, 2 groups\n\
         The source can be read.\n",
        path.display(),
        STAFF.len()
    );
    assert_eq!((text, ok), (expected, true));
    let none = shelf.put("none.yaml", "users: []\n");
    let (text, ok) = cli::source::test(&mut FileBridge::new(&source(&none))).await;
    assert!(text.contains("FAILED  users       the file holds no users\n") && !ok, "{text}");
}
