//! Says in plain words what is wrong with a text that is not YAML. Two forms that AIM's own documentation prints get the form
//! that is meant. Repeats nothing of the text but ids of groups and spaces: any other line may hold a secret.

use std::path::PathBuf;
use std::sync::Arc;

use saphyr_parser::ScanError;

use super::problem::Report;
use super::tree::Spot;

/// How far above the error a `federatedGroups:` may stand to be its cause.
const LINES_ABOVE: usize = 12;

pub(super) fn explain(error: &ScanError, text: &str, file: &Arc<PathBuf>, report: &Report) {
    let lines: Vec<&str> = text.lines().collect();
    let marker = error.marker();
    let (line, column) = (marker.line().max(1), marker.col() + 1);
    let at = |line, column| Spot { file: Arc::clone(file), line, column };
    if let Some(agent) = stray_agent(&lines, line) {
        let message = "`agent` stands outside the list. Every entry of `federatedGroups` names its own agent:\n    \
                       federatedGroups:\n      - externalId: 'berlin-managers'\n        powerLevel: 50\n        \
                       agent: '@groupsync:berlin.example.com'";
        report.error(Some(&at(agent.0, agent.1)), "federatedGroups", message);
        return;
    }
    if let Some((line, column, message)) = back_quote(&lines, line) {
        report.error(Some(&at(line, column)), "", message);
        return;
    }
    let current = lines.get(line - 1).copied().unwrap_or_default();
    report.error(
        Some(&at(line, column)),
        "",
        format!("this is not YAML: {}{}", error.info(), hint(current, error.info())),
    );
}

/// Line and column of an `agent:` that hangs directly in `federatedGroups`, with a list entry where the text stopped making sense.
fn stray_agent(lines: &[&str], error_line: usize) -> Option<(usize, usize)> {
    let from = error_line.saturating_sub(LINES_ABOVE);
    let upto = (error_line + 1).min(lines.len());
    let window = lines.get(from..upto)?;
    let groups = window
        .iter()
        .rposition(|line| matches!(line.trim().trim_start_matches("- "), "federatedGroups:" | "federated_groups:"))?;
    let mut below = window.iter().enumerate().skip(groups + 1).filter(|(_, line)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    let (index, agent) = below.next()?;
    let (_, next) = below.next()?;
    let stray = agent.trim_start().starts_with("agent:") && next.trim_start().starts_with('-');
    stray.then(|| (from + index + 1, agent.len() - agent.trim_start().len() + 1))
}

/// A value in back-quotes, on the line of the error or the one before it (where the scanner may have been looking ahead).
fn back_quote(lines: &[&str], error_line: usize) -> Option<(usize, usize, String)> {
    for number in [error_line, error_line.saturating_sub(1)] {
        let Some(line) = number.checked_sub(1).and_then(|index| lines.get(index)) else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let Some(quoted) = value.trim_start().strip_prefix('`') else { continue };
        let column = line.chars().count() - value.trim_start().chars().count() + 1;
        let key = key.trim().trim_start_matches("- ").trim();
        let inner = quoted.split('`').next().unwrap_or_default();
        let harmless = matches!(key, "externalId" | "external_id" | "id" | "name");
        let example =
            if harmless { format!("{key}: '{}'", inner.replace('\'', "''")) } else { format!("{key}: '...'") };
        return Some((number, column, format!("a value cannot stand in back-quotes; use single quotes: {example}")));
    }
    None
}

fn hint(line: &str, info: &str) -> &'static str {
    if line.contains('\t') {
        return "\n    There is a tab on this line: indent with spaces.";
    }
    let value = line.split_once(": ").map_or(line, |(_, value)| value);
    let value = value.trim_start().trim_start_matches("- ").trim_start();
    if value.starts_with(['@', '%', '`']) {
        return "\n    A value that begins with such a sign must stand in quotes: '@user:example.com'.";
    }
    if value.starts_with('*') {
        return "\n    A value that begins with * is an alias in YAML; a text must stand in quotes: '*'.";
    }
    if value.contains(": ") {
        return "\n    A text with a colon and a space in it must stand in quotes.";
    }
    if info.contains("indent") || info.contains("block") || info.contains("simple key") {
        return "\n    Look at the indentation of this line and the one above: entries of one list or mapping start in the same column.";
    }
    ""
}
