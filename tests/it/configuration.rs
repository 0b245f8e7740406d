//! The configuration: AIM's own examples load, wrong files are explained, secrets stay secret, no text breaks the loader.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own functions fail the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use usher::config::{self, AccountsBackend, Config, Loaded, Problem, Severity, Source, SyncMode, load_with};

fn no_env(_: &str) -> Option<String> {
    None
}

fn corpus(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(Path::new("tests/config").join(folder))
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn texts(files: &[&Path]) -> Vec<(PathBuf, String)> {
    files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("a corpus file");
            (PathBuf::from(file.file_name().expect("a name")), text)
        })
        .collect()
}

fn load_text(text: &str) -> Loaded {
    load_with(&[(PathBuf::from("usher.yaml"), text.to_owned())], &no_env)
}

/// The smallest usable file with `more` below it.
fn with_base(more: &str) -> Loaded {
    load_text(&format!(
        "homeserver: {{ url: 'http://127.0.0.1:8008', server_name: example.com }}\n\
         source: {{ type: file, path: people.yaml }}\n{more}"
    ))
}

fn good(loaded: Loaded) -> Config {
    match loaded.strict() {
        Ok((config, _)) => config,
        Err(problems) => panic!("{}", listed(&problems)),
    }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut out, problem| {
        let _ = writeln!(out, "{:<7} {problem}", problem.severity);
        out
    })
}

fn assert_golden(yaml: &Path, actual: &str) {
    let golden = yaml.with_extension("expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, actual).expect("the golden file is writable");
        return;
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(actual, expected, "{} (UPDATE_GOLDEN=1 rewrites it)", golden.display());
}

#[test]
fn every_example_of_the_aim_documentation_loads_over_a_minimal_base() {
    let files = corpus("aim");
    assert_eq!(files.len(), 15);
    for file in files {
        let loaded = load_with(&texts(&[Path::new("tests/config/base.yaml"), &file]), &no_env);
        let bad: Vec<Problem> =
            loaded.problems.iter().filter(|problem| problem.severity != Severity::Advice).cloned().collect();
        assert!(bad.is_empty() && loaded.config.is_some(), "{}:\n{}", file.display(), listed(&bad));
    }
}

#[test]
fn the_two_invalid_aim_examples_are_told_how_they_are_written() {
    let files = corpus("aim-invalid");
    assert_eq!(files.len(), 2);
    for file in files {
        let loaded = load_with(&texts(&[Path::new("tests/config/base.yaml"), &file]), &no_env);
        assert!(loaded.config.is_none());
        assert_golden(&file, &listed(&loaded.problems));
    }
}

#[test]
fn wrong_files_are_explained_all_at_once() {
    let files = corpus("wrong");
    assert_eq!(files.len(), 30);
    for file in files {
        let loaded = load_with(&texts(&[&file]), &no_env);
        assert!(!loaded.problems.is_empty(), "{} has no problem", file.display());
        let text = listed(&loaded.problems);
        assert!(loaded.strict().is_err(), "{} passes check", file.display());
        assert_golden(&file, &text);
    }
}

#[test]
fn the_sample_loads_without_a_single_remark() {
    let loaded = config::load(&[PathBuf::from("config.sample.yaml")]);
    assert_eq!(listed(&loaded.problems), "");
    let config = loaded.config.expect("a configuration");
    assert!(matches!(config.source, Source::Ldap(_)));
    assert!(config.spaces.is_some_and(|spaces| !spaces.is_empty()));
}

#[test]
fn a_minimal_file_gets_the_documented_defaults() {
    let config = good(with_base(""));
    assert_eq!(config.instance, "main");
    assert_eq!(config.database_url, "sqlite://usher.db");
    assert_eq!(config.accounts.backend, AccountsBackend::Synapse);
    assert_eq!(config.ops.listen, "127.0.0.1:8042");
    assert_eq!((config.safety.confirm_reads, config.safety.stale_after_ms), (2, 86_400_000));
    assert!(config.spaces.is_none() && config.provisioner.invite_to_public_rooms && !config.provisioner.gc_enabled);
    assert_eq!((config.provisioner.room_version.as_str(), config.provisioner.max_rate), ("12", 30));
    assert_eq!(config.source.check_interval_ms(), 60_000);
}

#[test]
fn photos_are_wanted_where_it_says_so_and_not_every_source_has_any() {
    let modes = [("initial", SyncMode::Initial), ("always", SyncMode::Always)];
    let modes = modes.into_iter().chain([("when_directory_changes", SyncMode::WhenDirectoryChanges)]);
    let expected = modes.map(|(name, mode)| (name, Some(mode))).chain([("never", None)]);
    let ldap = |more: &str, avatar: &str| {
        load_text(&format!(
            "homeserver: {{ url: 'http://127.0.0.1:8008', server_name: example.com }}\n\
             source: {{ type: ldap, uri: 'ldaps://l', base: 'dc=x', {more} }}\nuserProvisioner: {{ avatar: {avatar} }}\n"
        ))
    };
    for (name, mode) in expected {
        let loaded = ldap("", name);
        assert_eq!(listed(&loaded.problems), "");
        assert_eq!(good(loaded).user_provisioner.avatar, mode);
    }
    assert_eq!(good(with_base("")).user_provisioner.avatar, None);
    let mapped = |config: Config| match config.source {
        Source::Ldap(ldap) => ldap.attributes.avatar,
        _ => panic!("an ldap source"),
    };
    assert_eq!(mapped(good(ldap("attributes: { avatar: photo }", "always"))).as_deref(), Some("photo"));
    assert_eq!(mapped(good(ldap("", "always"))), None);
    let idle = [
        (
            ldap("attributes: { avatar: photo }", "never"),
            "source.attributes.avatar: has no effect: photos are read only",
        ),
        (
            with_base("userProvisioner: { avatar: always }"),
            "userProvisioner.avatar: has no effect: only a source of type",
        ),
    ];
    for (loaded, advice) in idle {
        let text = listed(&loaded.problems);
        assert!(text.starts_with("advice") && text.contains(advice) && text.lines().count() == 1, "{text}");
    }
}

/// A source of Microsoft Graph, and what was said of it.
fn graph(more: &str) -> (config::MsGraphSource, String) {
    let loaded = load_text(&format!(
        "homeserver: {{ url: 'http://127.0.0.1:8008', server_name: example.com }}\n\
         source: {{ type: ms-graph-ad, tenant_id: t, client_id: c, client_secret: s{more} }}\nuserProvisioner: {{ avatar: always }}\n"
    ));
    let said = listed(&loaded.problems);
    let Some(Source::MsGraph(source)) = loaded.config.map(|config| config.source) else { panic!("{said}") };
    (*source, said)
}

#[test]
fn a_graph_source_follows_the_cloud_of_its_base_url() {
    let (source, said) = graph("");
    assert_eq!(said, "");
    assert_eq!(
        (source.base_url.as_str(), source.login_url.as_str()),
        ("https://graph.microsoft.com", "https://login.microsoftonline.com")
    );
    assert_eq!(source.scopes, ["https://graph.microsoft.com/.default"]);
    assert_eq!((source.attributes.uid.as_str(), source.attributes.name.as_str()), ("userPrincipalName", "displayName"));
    assert_eq!((source.attributes.mail.as_str(), source.guests, source.read_timeout_ms), ("mail", false, 600_000));
    for (base, graph_url, login) in [
        ("https://graph.microsoft.us/", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
        ("https://dod-graph.microsoft.us", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
        (
            "https://microsoftgraph.chinacloudapi.cn/v1.0/",
            "https://microsoftgraph.chinacloudapi.cn",
            "https://login.chinacloudapi.cn",
        ),
        ("https://graph.example.com", "https://graph.example.com", "https://login.microsoftonline.com"),
    ] {
        let (source, said) = graph(&format!(", base_url: '{base}', scopes: []"));
        assert_eq!((source.base_url.as_str(), source.login_url.as_str(), said.as_str()), (graph_url, login, ""));
        assert_eq!(source.scopes, [format!("{graph_url}/.default")]);
    }
    let (source, said) =
        graph(", login_url: 'http://127.0.0.1:9/', base_url: 'http://graph.example.com', scopes: [a, b]");
    assert_eq!((source.login_url.as_str(), source.scopes.len()), ("http://127.0.0.1:9", 2));
    assert!(
        said.starts_with("advice") && said.contains("source.base_url: the client secret") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn later_files_merge_replace_and_delete_and_keep_their_positions() {
    let base = "homeserver: { url: 'http://a', server_name: example.com, admin_url: 'http://b' }\n\
                source: { type: file, path: people.yaml }\noperators: ['@a:example.com', '@b:example.com']\n";
    let upper =
        "homeserver:\n  adminUrl:\n  url: 'http://c'\noperators: ['@c:example.com']\nsafety: { confirm_reads: 0 }\n";
    let files = [("etc/base.yaml".into(), base.to_owned()), ("run/over.yaml".into(), upper.to_owned())];
    let loaded = load_with(&files, &no_env);
    assert_eq!(
        listed(&loaded.problems),
        "error   run/over.yaml:5:26: safety.confirm_reads: must be a whole number from 1 to 100, not '0'\n"
    );
    let files = [("etc/base.yaml".into(), base.to_owned()), ("run/over.yaml".into(), upper.replace(": 0", ": 3"))];
    let config = good(load_with(&files, &no_env));
    assert_eq!((config.homeserver.url.as_str(), config.homeserver.admin_url), ("http://c", None));
    assert_eq!(config.operators.len(), 1);
    let Source::File(file) = config.source else { panic!("a file source") };
    assert_eq!(file.path, PathBuf::from("etc/people.yaml"));
}

#[test]
fn a_source_of_another_type_replaces_the_earlier_one() {
    let files = [
        (
            "a.yaml".into(),
            "homeserver: { url: 'http://a', server_name: b.c }\nsource: { type: file, path: p }".to_owned(),
        ),
        ("b.yaml".into(), "source: { type: ldap, uri: 'ldaps://l', base: 'dc=x' }".to_owned()),
    ];
    assert!(matches!(good(load_with(&files, &no_env)).source, Source::Ldap(_)));
}

#[test]
fn a_secret_comes_inline_from_a_file_or_from_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "from-file\n").expect("written");
    let env = |name: &str| (name == "TOKEN").then(|| "from-env\n".to_owned());
    for (line, expected) in [
        ("token: inline", "inline"),
        ("token: 12345", "12345"),
        ("token_file: token", "from-file"),
        ("tokenFile: token", "from-file"),
        ("token: ${TOKEN}", "from-env"),
        ("token: $${TOKEN}", "${TOKEN}"),
        ("token: 'a${TOKEN}'", "a${TOKEN}"),
    ] {
        let text = format!(
            "homeserver: {{ url: 'http://a', server_name: b.c }}\nsource: {{ type: file, path: p }}\nops:\n  {line}\n"
        );
        let config = good(load_with(&[(folder.path().join("usher.yaml"), text)], &env));
        assert_eq!(config.ops.token.expect("a token").expose_secret(), expected, "{line}");
    }
}

#[test]
fn run_starts_with_an_unknown_key_that_check_refuses() {
    let loaded = with_base("provisioner:\n  dry_rum: true\n");
    let text = "unknown usher.yaml:4:3: provisioner.dry_rum: unknown key; did you mean `dry_run`?\n";
    assert_eq!(listed(&loaded.clone().strict().expect_err("check refuses")), text);
    let (config, warnings) = loaded.lenient().expect("run starts");
    assert!(!config.provisioner.dry_run);
    assert_eq!(listed(&warnings), text);
}

#[test]
fn both_spellings_and_older_names_of_aim_keys_are_understood() {
    let config = good(with_base(
        "provisioner:\n  whitelistedUsers: ['@bot:.*']\n  inviteToPublicRooms: false\n\
         user_provisioner:\n  deprovisioning: { enabled: true, user_soft_delete_period: 0s }\n\
         spaces:\n  id: root\n  name: Root\n  groups: [{ external_id: '', power_level: 50 }]\n",
    ));
    assert_eq!(config.provisioner.allowed_users.len(), 1);
    assert!(!config.provisioner.invite_to_public_rooms);
    assert_eq!(config.user_provisioner.deprovisioning.map(|it| it.soft_delete_period_ms), Some(0));
    let spaces = config.spaces.expect("one space");
    assert_eq!((spaces.len(), spaces[0].groups[0].power_level), (1, 50));
}

#[test]
fn synapses_ldap_section_can_be_copied() {
    let config = good(load_text(
        "homeserver: { url: 'http://a', server_name: b.c }\nsource:\n  type: ldap\n  enabled: true\n  mode: search\n  \
         uri: ['ldap://one', 'ldap://two:389']\n  start_tls: true\n  tls_options: { validate: true }\n  base: dc=x\n  \
         attributes: { uid: cn, mail: mail, name: givenName }\n  active_directory: true\n  default_domain: x.test\n",
    ));
    let Source::Ldap(ldap) = config.source else { panic!("an LDAP source") };
    assert_eq!((ldap.uris.len(), ldap.start_tls, ldap.verify_tls), (2, true, true));
    assert_eq!((ldap.attributes.uid.as_str(), ldap.attributes.name.as_str()), ("cn", "givenName"));
}

#[test]
fn anchors_and_merge_keys_work_and_a_billion_laughs_do_not() {
    let config = good(with_base(
        "spaces:\n- &one { id: a, name: A, groups: &all [{ externalId: '' }] }\n- { <<: *one, id: b }\n- { id: c, name: C, groups: *all }\n",
    ));
    let names: Vec<String> = config.spaces.expect("spaces").into_iter().map(|space| space.name).collect();
    assert_eq!(names, ["A", "A", "C"]);
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 10].join(",");
        let _ = writeln!(laughs, "a{level}: &a{level} [{below}]");
    }
    let problems = with_base(&laughs).strict().expect_err("refused");
    assert!(listed(&problems).contains("aliases counted"), "{}", listed(&problems));
    assert!(with_base(&format!("x: {}1{}", "[".repeat(5000), "]".repeat(5000))).config.is_none());
}

/// Everything that may be said about a configuration.
fn everything_said(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let files = [(PathBuf::from("usher.yaml"), text.to_owned())];
    let loaded = load_with(&files, env);
    format!("{}\n{:?}\n{}", listed(&loaded.problems), loaded, config::dump_with(&files, env))
}

#[test]
fn a_secret_is_never_repeated() {
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    let scim = "homeserver: { url: 'http://a', server_name: b.c }\ndatabase: { url: 'postgres://usher:hunter2@db/usher' }\n\
                accounts: { admin_token: hunter2, backend: mas, mas: { url: 'http://m', client_id: x, client_secret: hunter2 } }\n\
                ops: { token: hunter2 }\n\
                source:\n  type: scim\n  client: { id: x, token: hunter2, rbac: [{ token: '${SECRET}', roles: ['*:*'] }] }\n  \
                mailer: { from: a@b.c, transport: { host: h, auth: { user: u, pass: hunter2 } } }\n";
    let ldap = "homeserver: { url: 'http://a', server_name: b.c }\nsource:\n  type: ldap\n  uri: ldaps://l\n  base: dc=x\n  \
                bind_dn: cn=x\n  bind_password: hunter2\n  cert: { cert: hunter2, passphrase: hunter2 }\n";
    assert!(load_with(&[("a".into(), scim.to_owned())], &env).strict().is_ok());
    assert!(load_with(&[("a".into(), ldap.to_owned())], &env).strict().is_ok());
    let wrong = [
        scim.to_owned(),
        ldap.to_owned(),
        ldap.replace("bind_password", "bind_pasword"),
        ldap.replace("type: ldap", "type: ldpa").replace("bind_password", "bind_pasword"),
        ldap.replace("bind_password: hunter2", "bind_password: [hunter2]"),
        ldap.replace("bind_password: hunter2", "bind_password: `hunter2`"),
        ldap.replace("bind_password: hunter2", "bind_password: \"hunter2"),
        ldap.replace("bind_password: hunter2", "bind_password: @hunter2"),
        ldap.replace("bind_password: hunter2", "bind_password: *hunter2"),
        ldap.replace("bind_password: hunter2", "bind_password: a: hunter2"),
        ldap.replace("bind_password: hunter2", "bind_password: hunter2\n  bind_password_file: x"),
        ldap.replace("ldaps://l", "ldaps://u:hunter2@l"),
        ldap.replace("type: ldap", "type: ${SECRET}"),
        scim.replace("postgres://", "mysql://"),
        scim.replace("client_secret", "clientSecrets"),
        scim.replace("roles: ['*:*']", "roles: [hunter]"),
    ];
    for text in wrong {
        let said = everything_said(&text, &env);
        assert!(!said.contains("hunter2"), "{text}\n--- said\n{said}");
    }
}

#[test]
fn positions_lead_back_to_the_line_of_a_setting() {
    let loaded = with_base("spaces:\n  id: a\n  name: A\n  groups:\n    - externalId: ''\n      powerLevel: 50\n");
    let at = &loaded.positions["spaces[0].groups[0].power_level"];
    assert_eq!((at.file.as_path(), at.line, at.column), (Path::new("usher.yaml"), 8, 19));
}

#[test]
fn limits_and_exceptions_carry_their_figures() {
    let config = good(with_base(
        "safety: { limits: { locks: { min: 7 }, kicks_total: { percent: 50, max: 900 } } }\n\
         exceptions:\n- { user: '@a:example.com', space: x, level: 50, until: 2027-03-31, reason: why }\n\
         - { user: '@a:example.com', room: '!r:example.com', until: '2027-03-31T18:00:00+02:00' }\n",
    ));
    let limits = config.safety.limits;
    assert_eq!((limits.locks.min, limits.locks.percent, limits.locks.max), (7, 5, Some(50)));
    assert_eq!((limits.kicks_total.min, limits.kicks_total.percent, limits.kicks_total.max), (20, 50, Some(900)));
    // 2027-04-01T00:00:00Z and 2027-03-31T16:00:00Z.
    let ends: Vec<i64> = config.exceptions.iter().filter_map(|it| it.until).map(|until| until.0).collect();
    assert_eq!(ends, [1_806_537_600_000, 1_806_508_800_000]);
}

#[test]
fn the_dump_shows_what_is_in_force() {
    let dump = config::dump_with(
        &[("usher.yaml".into(), "homeserver: { url: 'http://a', server_name: b.c }\nsource: { type: file, path: p }\nops: { token: t }\nspaces: [{ id: a, name: 'A B', groups: [{ externalId: '' }] }]\n".into())],
        &no_env,
    );
    let expected = "homeserver:\n  url: 'http://a'\n  server_name: b.c\nsource:\n  type: file\n  path: p\nops:\n  \
                    token: '[REDACTED]'\nspaces:\n  -\n    id: a\n    name: 'A B'\n    groups:\n      -\n        externalId: ''\n";
    assert_eq!(dump, expected);
    assert!(load_text(&dump).strict().is_ok(), "a dump is a configuration again");
}

fn sample() -> String {
    std::fs::read_to_string("config.sample.yaml").expect("the sample")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_breaks_the_loader(text in "[ -~\n\t:#'\"`&*{}\\[\\]|>-]{0,200}") {
        let _ = everything_said(&text, &no_env);
    }

    #[test]
    fn no_damage_to_the_sample_breaks_the_loader(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, "[ -~\n\t\u{e9}]{0,6}"), 1..5)
    ) {
        let mut text: Vec<char> = sample().chars().collect();
        for (at, length, with) in cuts {
            let from = at.index(text.len().max(1)).min(text.len());
            let upto = (from + length).min(text.len());
            text.splice(from..upto, with.chars());
        }
        let text: String = text.into_iter().collect();
        let loaded = load_text(&text);
        // A loader that refuses says why.
        prop_assert!(loaded.config.is_some() || loaded.problems.iter().any(|it| it.severity == Severity::Error));
        prop_assert!(loaded.problems.is_sorted_by(|a, b| a.position <= b.position));
    }
}
