//! Holds the code to its shape: reads the sources as text, never runs them. What is pure stays pure, what is in one place stays there.
#![expect(clippy::unwrap_used, reason = "a source file that cannot be read fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod source;

use source::{Token, paths, subcommands, tokens};

/// Modules that decide: values in, values out. With them everything below them.
const PURE: [&str; 7] = ["ids", "directory", "desired", "ledger", "observed", "plan", "scim"];

/// What a pure module may not name: I/O, time, concurrency, and the parts of usher that do things.
const IMPURE: [&str; 27] = [
    "tokio",
    "tokio_util",
    "futures_util",
    "async_trait",
    "sqlx",
    "reqwest",
    "axum",
    "ldap3",
    "matrix_sdk",
    "getrandom",
    "std::fs",
    "std::net",
    "std::time",
    "std::process",
    "std::env",
    "std::thread",
    "std::io",
    "crate::clock",
    "crate::bridge",
    "crate::matrix",
    "crate::store",
    "crate::http",
    "crate::execute",
    "crate::reconcile",
    "crate::actuate::Actuator",
    "crate::actuate::LiveActuator",
    "crate::app",
];

/// Beyond this a file holds more than one concept (DESIGN, "Where things live").
const LINES: usize = 600;

/// A module's first sentence cannot be shorter and still say what it does.
const DOC_CHARACTERS: usize = 15;

struct File {
    /// Below the repository's root, with `/`.
    path: String,
    text: String,
}

impl File {
    /// The top-level module under `src/`: `plan` for `src/plan.rs` and for `src/plan/guard.rs`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or_default();
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with that extension, in order.
fn files(folder: &str, extension: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|known| known == extension) {
                found.push(read(&path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn read(path: &Path) -> File {
    let below = path.strip_prefix(root()).unwrap().components().map(|part| part.as_os_str().to_string_lossy());
    File { path: below.collect::<Vec<_>>().join("/"), text: fs::read_to_string(path).unwrap() }
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let prefix: Vec<&str> = prefix.split("::").collect();
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(one, other)| one == other)
}

/// What makes a pure module impure.
fn impurities(file: &File) -> Vec<String> {
    if !PURE.contains(&file.module()) {
        return Vec::new();
    }
    let tokens = tokens(&file.text);
    let waiting = tokens.iter().filter(|token| token.is("async") || token.is("await")).map(|token| match token {
        Token::Word(word) => format!("{}: `{word}` in a pure module", file.path),
        Token::Text(_) | Token::Sign(_) => String::new(),
    });
    let named = paths(&tokens).into_iter().filter(|path| IMPURE.iter().any(|banned| starts_with(path, banned)));
    let named: BTreeSet<String> = named.map(|path| path.join("::")).collect();
    waiting.chain(named.into_iter().map(|path| format!("{}: `{path}` in a pure module", file.path))).collect()
}

/// The Matrix library outside its room, and actuators built outside the one place that may (a dry run builds none).
fn trespasses(file: &File) -> Vec<String> {
    let mut found = BTreeSet::new();
    for path in paths(&tokens(&file.text)) {
        if starts_with(&path, "matrix_sdk") && file.module() != "matrix" {
            found.insert(format!("{}: `{}` outside src/matrix", file.path, path.join("::")));
        }
        let builds = path.windows(2).any(|pair| pair[0] == "LiveActuator" && pair[1].starts_with(char::is_lowercase));
        if builds && file.path != "src/app.rs" {
            found.insert(format!("{}: `{}` outside src/app.rs", file.path, path.join("::")));
        }
    }
    found.into_iter().collect()
}

/// A file that says nothing of itself, or holds too much.
fn shapeless(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    let doc: Vec<&str> = file.text.lines().skip_while(|line| line.starts_with("#!") || line.is_empty()).collect();
    let doc: String = doc.iter().map_while(|line| line.strip_prefix("//!")).collect();
    if doc.trim().chars().count() < DOC_CHARACTERS {
        found.push(format!("{}: no module doc that says what it does", file.path));
    }
    let lines = file.text.lines().count();
    if lines > LINES {
        found.push(format!("{}: {lines} lines, more than {LINES}: split it by concept", file.path));
    }
    found
}

/// Verbs of the command line that no line of the docs shows after the word `usher`.
fn unmentioned(cli: &[File], docs: &[File]) -> Vec<String> {
    let lines: Vec<Vec<&str>> = docs
        .iter()
        .flat_map(|file| file.text.lines())
        .filter_map(|line| line.split_once("usher "))
        .map(|(_, after)| after.split(|c: char| !(c.is_alphanumeric() || c == '-')).collect())
        .collect();
    let verbs: BTreeSet<String> = cli.iter().flat_map(|file| subcommands(&tokens(&file.text))).collect();
    verbs.into_iter().filter(|verb| !lines.iter().any(|line| line.contains(&verb.as_str()))).collect()
}

/// Relative links of a page that lead nowhere.
fn dead_links(page: &File) -> Vec<String> {
    let folder = root().join(&page.path).parent().map(Path::to_path_buf).unwrap_or_default();
    let targets = page.text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let local = targets.map(|target| target.split('#').next().unwrap_or_default());
    let local = local.filter(|target| !target.is_empty() && !target.contains("://"));
    local.filter(|target| !folder.join(target).exists()).map(|target| format!("{}: no {target}", page.path)).collect()
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn deciding_modules_do_no_io_and_know_no_time() {
    let sources = files("src", "rs");
    for module in PURE {
        assert!(
            sources.iter().any(|file| file.module() == module),
            "src/{module}.rs is gone: mend the list of pure modules"
        );
    }
    none(&sources.iter().flat_map(impurities).collect::<Vec<_>>());
}

#[test]
fn matrix_sdk_and_the_actuator_stay_where_they_belong() {
    let sources = files("src", "rs");
    none(&sources.iter().flat_map(trespasses).collect::<Vec<_>>());
    let app = sources.iter().find(|file| file.path == "src/app.rs").expect("src/app.rs");
    let built =
        paths(&tokens(&app.text)).iter().any(|path| path.ends_with(&["LiveActuator".to_owned(), "new".to_owned()]));
    assert!(built, "src/app.rs builds no LiveActuator: mend this test's name for it");
    let sdk = sources.iter().filter(|file| file.module() == "matrix").flat_map(|file| paths(&tokens(&file.text)));
    assert!(
        sdk.into_iter().any(|path| starts_with(&path, "matrix_sdk")),
        "src/matrix does not use matrix_sdk any more"
    );
}

#[test]
fn every_file_says_what_it_does_and_holds_one_concept() {
    let sources = files("src", "rs").into_iter().chain(files("tests/it", "rs"));
    none(&sources.flat_map(|file| shapeless(&file)).collect::<Vec<_>>());
}

#[test]
fn there_is_one_tls_stack() {
    let lock = read(&root().join("Cargo.lock")).text;
    assert!(lock.contains("\nname = \"rustls\"\n"), "Cargo.lock is not written as this test reads it");
    for banned in ["openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("\nname = \"{banned}\"\n")), "{banned} in Cargo.lock, beside rustls");
    }
}

#[test]
fn the_docs_show_every_verb() {
    let cli: Vec<File> = files("src", "rs").into_iter().filter(|file| file.module() == "cli").collect();
    assert!(
        cli.iter().any(|file| !subcommands(&tokens(&file.text)).is_empty()),
        "no subcommands found in src/cli.rs or below"
    );
    let docs: Vec<File> = files("docs", "md").into_iter().chain([read(&root().join("README.md"))]).collect();
    let missing = unmentioned(&cli, &docs);
    assert!(missing.is_empty(), "neither README.md nor docs/ shows `usher` with: {}", missing.join(", "));
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let pages = files("docs", "md").into_iter().chain(files("deploy", "md")).chain([read(&root().join("README.md"))]);
    none(&pages.flat_map(|page| dead_links(&page)).collect::<Vec<_>>());
}

// -- the checks themselves, on code that breaks the rules

fn sample(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn impure_code_is_found_however_it_is_written() {
    let complaints = |text: &str| impurities(&sample("src/plan/guard.rs", text));
    assert_eq!(complaints("use std::{collections::BTreeMap, fs};"), ["src/plan/guard.rs: `std::fs` in a pure module"]);
    assert_eq!(complaints("use std::{time::{self, Instant}};").len(), 2);
    assert_eq!(
        complaints("fn f() { ::std::process::exit(1) }"),
        ["src/plan/guard.rs: `std::process::exit` in a pure module"]
    );
    assert_eq!(complaints("use tokio as t;"), ["src/plan/guard.rs: `tokio` in a pure module"]);
    assert_eq!(complaints("async fn f() { g().await }").len(), 2);
    assert_eq!(
        complaints("fn f() -> i64 { crate::clock::now() }"),
        ["src/plan/guard.rs: `crate::clock::now` in a pure module"]
    );
}

#[test]
fn comments_strings_and_lifetimes_are_not_code() {
    let text = "/* std::fs /* nested */ tokio */ // async\nfn f<'a>(c: &'a str) -> char { let _ = r#\"tokio::\"x\"#; let _ = \"std::fs\\\"\"; '\"' }";
    assert!(impurities(&sample("src/ids.rs", text)).is_empty());
    assert_eq!(impurities(&sample("src/ids.rs", &format!("{text} use std::fs;"))).len(), 1);
    assert!(impurities(&sample("src/store.rs", "use std::fs;")).is_empty());
}

#[test]
fn trespassers_are_found() {
    assert_eq!(trespasses(&sample("src/reconcile.rs", "use matrix_sdk::Client;")).len(), 1);
    assert_eq!(trespasses(&sample("src/matrix/write.rs", "use matrix_sdk::Client;")).len(), 0);
    assert_eq!(trespasses(&sample("src/cli/plan.rs", "let hand = actuate::LiveActuator::new(client);")).len(), 1);
    assert_eq!(trespasses(&sample("src/app.rs", "let hand = LiveActuator::new(client);")).len(), 0);
    assert_eq!(trespasses(&sample("src/actuate.rs", "impl Actuator for LiveActuator { fn new() {} }")).len(), 0);
}

#[test]
fn shapeless_files_are_found() {
    let doc = "//! What this does, and what it never does.\n";
    assert_eq!(shapeless(&sample("src/a.rs", &format!("{doc}fn f() {{}}\n"))), Vec::<String>::new());
    assert_eq!(shapeless(&sample("src/a.rs", "//! Short.\n")).len(), 1);
    assert_eq!(shapeless(&sample("src/a.rs", &format!("fn f() {{}}\n{doc}"))).len(), 1);
    assert_eq!(shapeless(&sample("src/a.rs", &format!("{doc}{}", "\n".repeat(LINES)))).len(), 1);
}

#[test]
fn verbs_missing_from_the_docs_are_found() {
    let cli = [sample(
        "src/cli.rs",
        "use clap::{Parser, Subcommand}; enum Other { Loud } #[derive(Debug, clap::Subcommand)] pub enum Verb { /// Docs.\n #[arg(long)] Plan { json: bool, record: Option<Path> }, \
         Registration(Registration), SourceTest, #[command(name = \"hold\")] Held } enum Last { Quiet }",
    )];
    let docs = [sample("README.md", "    usher -c usher.yaml plan --json\nusher registration generate\nsource-test\n")];
    assert_eq!(unmentioned(&cli, &docs), ["hold", "source-test"]);
}

#[test]
fn dead_links_are_found() {
    let page = sample("docs/a.md", "[a](../README.md#safety) [b](https://matrix.org/x) [c](#d) [e](nowhere.md)");
    assert_eq!(dead_links(&page), ["docs/a.md: no nowhere.md"]);
}
