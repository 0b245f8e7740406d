//! `${NAME}` as a whole value is the environment variable's value; `$${` begins a text with `${` (S-95).

use super::problem::Report;
use super::section::join;
use super::tree::{Node, Value};

/// Replaces variables in the whole tree; a missing one is a problem that names it.
pub(super) fn expand(node: &mut Node, path: &str, env: &dyn Fn(&str) -> Option<String>, report: &Report) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(scalar) => {
            if let Some(name) = variable(&scalar.text) {
                let name = name.to_owned();
                match env(&name) {
                    Some(value) => {
                        scalar.variable = Some(std::mem::replace(&mut scalar.text, one_newline_less(value)));
                        scalar.plain = true;
                    }
                    None => report.error(
                        Some(&node.spot),
                        path,
                        format!("the environment variable {name} is not set: set it, or write $${{{name}}} if you mean the text"),
                    ),
                }
            } else if scalar.text.starts_with("$${") {
                scalar.text.remove(0);
                scalar.plain = false;
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), env, report);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                expand(&mut entry.value, &join(path, &entry.key), env, report);
            }
        }
    }
}

fn variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    (word && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

/// Secrets written by an editor or `echo` end with a newline that is not part of them.
pub(super) fn one_newline_less(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
