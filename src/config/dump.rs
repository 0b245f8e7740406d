//! The merged configuration as text, with every secret blacked out (`usher config dump`). A value is shown only when the
//! configuration understood it and no part of its path is secret: a password under a misspelt key stays hidden.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::load::{finish, read_files};
use super::problem::{Loaded, Report, Severity};
use super::section::{join, snake};
use super::tree::{Node, Scalar, Value};

const HIDDEN: &str = "'[REDACTED]'";
const UNREAD: &str = "'[not shown: see usher check]'";

/// Keys whose values are secret, in snake case.
const SECRET: &[&str] = &[
    "admin_token",
    "client_secret",
    "token",
    "bind_password",
    "cert",
    "passphrase",
    "local_private_key_password",
    "auth",
    "pass",
    "transport",
];

/// The merged configuration, redacted, as YAML; problems stand above it as comments.
#[must_use]
pub fn dump(files: &[PathBuf]) -> String {
    let report = Report::default();
    let texts = read_files(files, &report);
    let (loaded, tree) = finish(&texts, &|name| std::env::var(name).ok(), &report);
    render(&loaded, tree.as_ref(), &report)
}

/// [`dump`] from texts, as [`super::load_with`] takes them.
#[must_use]
pub fn dump_with(files: &[(PathBuf, String)], env: &dyn Fn(&str) -> Option<String>) -> String {
    let report = Report::default();
    let (loaded, tree) = finish(files, env, &report);
    render(&loaded, tree.as_ref(), &report)
}

fn render(loaded: &Loaded, tree: Option<&Node>, report: &Report) -> String {
    let mut out = String::new();
    let mut faulty = BTreeSet::new();
    for problem in &loaded.problems {
        for line in problem.to_string().lines() {
            let _ = writeln!(out, "# {line}");
        }
        if problem.severity != Severity::Advice {
            faulty.insert(problem.path.clone());
        }
    }
    let sight = Sight { faulty, report };
    if let Some(Node { value: Value::Mapping(entries), .. }) = tree {
        for entry in entries {
            write_entry(&mut out, &entry.key, &entry.value, &Place { path: &entry.key, indent: 0, sight: &sight });
        }
    }
    out
}

struct Place<'a> {
    path: &'a str,
    indent: usize,
    sight: &'a Sight<'a>,
}

/// What may be seen.
struct Sight<'a> {
    /// Paths with an error, or that nobody knows.
    faulty: BTreeSet<String>,
    report: &'a Report,
}

impl Sight<'_> {
    /// Only a value that some setting asked for: what nobody understands may be a secret under a misspelt key.
    fn hides(&self, path: &str, node: &Node) -> bool {
        let understood = || path.contains(".properties.") || self.report.was_read(path);
        self.faulty.contains(path) || matches!(node.value, Value::Scalar(_)) && !understood()
    }
}

fn write_entry(out: &mut String, key: &str, node: &Node, place: &Place<'_>) {
    let _ = write!(out, "{:width$}{}:", "", quoted(key), width = place.indent * 2);
    // `source.cert` holds a file's name too, so only the certificate in it is secret.
    let section = key == "cert" && matches!(node.value, Value::Mapping(_));
    if place.sight.hides(place.path, node) {
        let _ = writeln!(out, " {UNREAD}");
    } else if SECRET.contains(&snake(key).as_str()) && !section {
        let _ = writeln!(out, " {}", variable(node).unwrap_or(HIDDEN));
    } else {
        write_value(out, node, place);
    }
}

/// Where a secret comes from the environment, its name says more than a black bar.
fn variable(node: &Node) -> Option<&str> {
    if let Value::Scalar(Scalar { variable: Some(name), .. }) = &node.value { Some(name) } else { None }
}

fn write_value(out: &mut String, node: &Node, place: &Place<'_>) {
    match &node.value {
        Value::Null => out.push_str(" null\n"),
        Value::Scalar(scalar) => {
            let _ = writeln!(out, " {}", shown(scalar));
        }
        Value::Sequence(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Mapping(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::Sequence(items) => {
            out.push('\n');
            for (index, item) in items.iter().enumerate() {
                let path = format!("{}[{index}]", place.path);
                let _ = write!(out, "{:width$}-", "", width = (place.indent + 1) * 2);
                if place.sight.hides(&path, item) {
                    let _ = writeln!(out, " {UNREAD}");
                } else {
                    write_value(out, item, &Place { path: &path, indent: place.indent + 1, sight: place.sight });
                }
            }
        }
        Value::Mapping(entries) => {
            out.push('\n');
            for entry in entries {
                let path = join(place.path, &entry.key);
                let inner = Place { path: &path, indent: place.indent + 1, sight: place.sight };
                write_entry(out, &entry.key, &entry.value, &inner);
            }
        }
    }
}

fn shown(scalar: &Scalar) -> String {
    if let Some(variable) = &scalar.variable {
        return variable.clone();
    }
    if let Some((scheme, rest)) = scalar.text.split_once("://")
        && (rest.contains('@') || rest.contains("password="))
    {
        return format!("'{scheme}://[REDACTED]'");
    }
    if scalar.plain { scalar.text.clone() } else { quoted(&scalar.text) }
}

fn quoted(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if !text.is_empty() && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(word) {
        return text.to_owned();
    }
    if text.chars().any(char::is_control) {
        // JSON's texts are YAML's double-quoted ones.
        return serde_json::Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}
