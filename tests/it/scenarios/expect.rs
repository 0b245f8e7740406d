//! Expected plan texts in scenario files: read, compared, rewritten in place.

use std::fmt::Write as _;

use serde_json::Value;

/// The expected plans, in order.
pub fn read(scenario: &Value) -> Vec<String> {
    let then = scenario["then"].as_array().into_iter().flatten();
    let first = (scenario["settled"] != true).then_some(scenario);
    first.into_iter().chain(then).map(|step| step["plan"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The file with its `plan:` blocks replaced, everything else as it was.
pub fn written(text: &str, plans: &[String]) -> String {
    let mut out = String::new();
    let mut plans = plans.iter();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let bare = line.trim_start_matches([' ', '-']);
        let column = line.len() - bare.len();
        out.push_str(if bare.starts_with("plan:") { line[..column].trim_end_matches('\n') } else { line });
        if !bare.starts_with("plan:") {
            out.push('\n');
            continue;
        }
        while lines.next_if(|next| next.trim().is_empty() || next.len() - next.trim_start().len() > column).is_some() {}
        out.push_str("plan: |\n");
        for line in plans.next().expect("more plans are expected than steps given").trim_end().lines() {
            let indent = if line.is_empty() { 0 } else { column + 2 };
            let _ = writeln!(out, "{:indent$}{line}", "");
        }
    }
    assert!(plans.next().is_none(), "a step has no plan: line");
    out
}

/// Both texts, the lines that differ marked.
pub fn difference(wanted: &str, got: &str) -> String {
    let marked = |sign: char, text: &str, other: &str| -> String {
        let known: Vec<&str> = other.lines().collect();
        text.lines().fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "{} {line}", if known.contains(&line) { ' ' } else { sign });
            out
        })
    };
    format!("expected\n{}came out\n{}", marked('-', wanted, got), marked('+', got, wanted))
}
