//! From files to a [`Loaded`]: parse each, merge, put variables in, read the sections, check the meaning.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Loaded, Report};
use super::section::{Section, join, snake};
use super::tree::{self, Node, Spot, Value};
use super::{
    Config, Positions, homeserver, meaning, merge, operation, provisioner, safety, source, spaces, user_provisioner,
    variables,
};

/// Reads and checks the configuration files, in order, later ones over earlier ones (S-95).
#[must_use]
pub fn load(files: &[PathBuf]) -> Loaded {
    let report = Report::default();
    let texts = read_files(files, &report);
    finish(&texts, &|name| std::env::var(name).ok(), &report).0
}

/// The same from texts. Touches nothing but the secret files that the texts name; relative paths in a text are seen from the
/// folder of its path.
#[must_use]
pub fn load_with(files: &[(PathBuf, String)], env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    finish(files, env, &Report::default()).0
}

pub(super) fn read_files(files: &[PathBuf], report: &Report) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for file in files {
        match std::fs::read(file).map(String::from_utf8) {
            Ok(Ok(text)) => texts.push((file.clone(), text)),
            Ok(Err(_)) => report.error(Some(&top(file)), "", "is not UTF-8 text: save it as UTF-8"),
            Err(error) => report.error(None, "", unreadable(file, &error)),
        }
    }
    texts
}

/// Why a file could not be read and what to do, its name included: there is no line to point at.
fn unreadable(file: &Path, error: &std::io::Error) -> String {
    let shown = file.display();
    match error.kind() {
        ErrorKind::NotFound => {
            let folder = if file.is_absolute() { None } else { std::env::current_dir().ok() };
            let place = folder.map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
            format!(
                "there is no {shown}{place}: name your configuration with -c FILE, or start one from config.sample.yaml"
            )
        }
        ErrorKind::IsADirectory => format!("{shown} is a directory: name the configuration file in it"),
        ErrorKind::PermissionDenied => format!("{shown} may not be read by the user usher runs as ({error})"),
        _ => format!("{shown} cannot be read: {error}"),
    }
}

fn top(file: &Path) -> Spot {
    Spot { file: Arc::new(file.to_path_buf()), line: 1, column: 1 }
}

/// The configuration and the merged tree it came from.
pub(super) fn finish(
    files: &[(PathBuf, String)],
    env: &dyn Fn(&str) -> Option<String>,
    report: &Report,
) -> (Loaded, Option<Node>) {
    let unread = report.errors();
    let mut merged: Option<Node> = None;
    for (path, text) in files {
        let Some(node) = tree::parse(&Arc::new(path.clone()), text, report) else { continue };
        if !matches!(node.value, Value::Mapping(_) | Value::Null) {
            report.error(
                Some(&node.spot),
                "",
                "must be a mapping at the top level: `homeserver:`, `source:`, `spaces:` ...",
            );
            continue;
        }
        merged = Some(match merged {
            Some(lower) => merge::over(lower, node),
            None => node,
        });
    }
    if files.is_empty() && unread == 0 {
        report.error(None, "", "no configuration file is given: use `-c FILE`");
    }
    let mut positions = Positions::new();
    let mut config = None;
    if let Some(root) = merged.as_mut() {
        variables::expand(root, "", env, report);
        record(root, "", &mut positions);
        // A file that is no YAML, or could not be read, would make every setting in it look missing.
        if unread == 0 && (report.errors() == 0 || files.len() == 1) {
            let first = files.first().map_or_else(|| Path::new(""), |(path, _)| path.as_path());
            config = read(root, first, &positions, report);
        }
    }
    if report.errors() > 0 {
        config = None;
    }
    (Loaded { config, problems: report.sorted(), positions }, merged)
}

fn read(root: &Node, first: &Path, positions: &Positions, report: &Report) -> Option<Config> {
    const NOTHING: &[tree::Entry] = &[];
    let entries = if let Value::Mapping(entries) = &root.value { entries.as_slice() } else { NOTHING };
    let mut root = Section::new(report, String::new(), root.spot.clone(), entries);
    let instance = homeserver::instance(&mut root);
    let homeserver = homeserver::homeserver(&mut root);
    let appservice = homeserver::appservice(&mut root, first);
    let accounts = homeserver::accounts(&mut root);
    let database_url = homeserver::database_url(&mut root, first);
    let source = source::source(&mut root);
    let rest = Rest {
        ops: operation::ops(&mut root),
        operators: operation::operators(&mut root),
        telemetry: operation::telemetry(&mut root),
        logging: operation::logging(&mut root),
        safety: safety::safety(&mut root),
        exceptions: safety::exceptions(&mut root),
        provisioner: provisioner::provisioner(&mut root, &homeserver.server_name),
        user_provisioner: user_provisioner::user_provisioner(&mut root),
        spaces: spaces::spaces(&mut root),
    };
    root.finish();
    let Rest { ops, operators, telemetry, logging, safety, exceptions, provisioner, user_provisioner, spaces } = rest;
    let config = Config {
        instance,
        homeserver,
        appservice,
        accounts,
        database_url,
        ops,
        operators,
        safety,
        provisioner,
        user_provisioner,
        spaces,
        source: source?,
        telemetry,
        logging,
        exceptions,
    };
    meaning::check(&config, positions, report);
    Some(config)
}

/// The sections that need nothing but the root.
struct Rest {
    ops: super::Ops,
    operators: Vec<crate::ids::UserId>,
    telemetry: Option<super::Telemetry>,
    logging: super::Logging,
    safety: super::Safety,
    exceptions: Vec<super::Exception>,
    provisioner: super::Provisioner,
    user_provisioner: super::UserProvisioner,
    spaces: Option<Vec<super::Space>>,
}

/// Positions by path in `snake_case`; the one space of a `spaces:` mapping is `spaces[0]`.
fn record(node: &Node, path: &str, positions: &mut Positions) {
    positions.insert(path.to_owned(), node.spot.position());
    match &node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                record(item, &format!("{path}[{index}]"), positions);
            }
        }
        Value::Mapping(entries) => {
            let lone = matches!(path, "spaces").then(|| format!("{path}[0]"));
            for entry in entries {
                record(&entry.value, &join(lone.as_deref().unwrap_or(path), &snake(&entry.key)), positions);
            }
        }
    }
}
