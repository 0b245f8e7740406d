//! One value and what it may be read as. Messages say what was expected and show what stands there, except for texts that came
//! from the environment and for secrets, which have their own reader.

use std::path::PathBuf;

use super::problem::Report;
use super::section::{Section, nearest};
use super::tree::{Node, Scalar, Value};
use crate::ids::UserId;

/// Longest piece of a value that a message repeats, in characters.
const LONGEST_QUOTE: usize = 60;

/// A value with its path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub report: &'a Report,
    pub node: &'a Node,
    pub path: String,
}

impl<'a> Field<'a> {
    pub(super) fn fail(&self, message: impl Into<String>) {
        self.report.error(Some(&self.node.spot), &self.path, message);
    }

    pub(super) fn advise(&self, message: impl Into<String>) {
        self.report.advice(Some(&self.node.spot), &self.path, message);
    }

    /// What stands here, for a message.
    pub(super) fn shown(&self) -> String {
        match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Scalar(Scalar { variable: Some(name), .. }) => format!("the value of {name}"),
            Value::Scalar(scalar) if scalar.text.contains("://") && scalar.text.contains('@') => "this URL".to_owned(),
            Value::Scalar(scalar) => {
                let mut text: String = scalar.text.chars().take(LONGEST_QUOTE).collect();
                if text.len() < scalar.text.len() {
                    text.push_str("...");
                }
                format!("'{}'", text.escape_debug())
            }
        }
    }

    fn expected(&self, what: &str) {
        self.fail(format!("must be {what}, not {}", self.shown()));
    }

    pub(super) fn scalar(&self, what: &str) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => {
                self.report.mark_read(&self.path);
                Some(scalar)
            }
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => {
                self.expected(what);
                None
            }
        }
    }

    /// A text, possibly empty.
    pub(super) fn text(&self) -> Option<String> {
        Some(self.scalar("a text")?.text.clone())
    }

    /// A text with something in it.
    pub(super) fn filled(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.fail("must not be empty: write a value or leave the key out");
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let scalar = self.scalar("true or false")?;
        match (scalar.plain, scalar.text.as_str()) {
            (true, "true" | "True" | "TRUE") => Some(true),
            (true, "false" | "False" | "FALSE") => Some(false),
            (false, "true" | "false") => {
                self.fail(format!("must be true or false without quotes, not {}", self.shown()));
                None
            }
            (_, text) => {
                let meant = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "1" => ": write true",
                    "no" | "off" | "n" | "0" => ": write false",
                    _ => "",
                };
                self.fail(format!("must be true or false, not {}{meant}", self.shown()));
                None
            }
        }
    }

    /// A whole number within `range`, both ends included.
    pub(super) fn integer(&self, range: (i64, i64)) -> Option<i64> {
        let what = format!("a whole number from {} to {}", range.0, range.1);
        let number = self.scalar(&what)?.text.parse::<i64>().ok().filter(|n| (range.0..=range.1).contains(n));
        if number.is_none() {
            self.expected(&what);
        }
        number
    }

    /// AIM's `<amount><s|m|h|d>`, in milliseconds.
    pub(super) fn duration(&self) -> Option<i64> {
        const WHAT: &str = "a duration: an amount and one of s, m, h, d, such as '24h' or '30d'";
        let text = &self.scalar(WHAT)?.text;
        let parsed = parse_duration(text);
        if parsed.is_none() {
            if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
                self.fail(format!("has no unit: write '{text}s' for seconds, or use m, h or d"));
            } else {
                self.expected(WHAT);
            }
        }
        parsed
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let what = format!("one of {}", names.join(", "));
        let scalar = self.scalar(&what)?;
        let found = choices.iter().find(|(name, _)| *name == scalar.text).map(|(_, value)| *value);
        if found.is_none() {
            let near = nearest(&scalar.text, names.iter().copied());
            let meant = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            self.fail(format!("must be {what}, not {}{meant}", self.shown()));
        }
        found
    }

    /// A path, relative to the file that names it.
    pub(super) fn path(&self) -> Option<PathBuf> {
        Some(self.beside(&self.filled()?))
    }

    /// `path` seen from the file this value stands in.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.node.spot.file.parent().map_or_else(|| PathBuf::from(path), |parent| parent.join(path))
    }

    pub(super) fn items(&self) -> Vec<Field<'a>> {
        match &self.node.value {
            Value::Sequence(items) => self.numbered(items),
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.fail(format!("must be a list, not {}: begin each entry with `- `", self.shown()));
                Vec::new()
            }
        }
    }

    /// A list, or one value that stands for a list of one.
    pub(super) fn one_or_more(&self) -> Vec<Field<'a>> {
        match &self.node.value {
            Value::Sequence(items) => self.numbered(items),
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::Mapping(_) => vec![self.clone()],
        }
    }

    fn numbered(&self, items: &'a [Node]) -> Vec<Field<'a>> {
        let field = |(index, node)| Field { report: self.report, node, path: format!("{}[{index}]", self.path) };
        items.iter().enumerate().map(field).collect()
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Mapping(entries) => {
                Some(Section::new(self.report, self.path.clone(), self.node.spot.clone(), entries))
            }
            Value::Null | Value::Scalar(_) | Value::Sequence(_) => {
                self.expected("a mapping (keys with values, indented below)");
                None
            }
        }
    }

    /// `@localpart:server`.
    pub(super) fn user_id(&self) -> Option<UserId> {
        let text = self.filled()?;
        let id = UserId::from(text.as_str());
        let shape = text.starts_with('@') && !id.localpart().is_empty() && is_server_name(id.server());
        if !shape || text.len() > 255 {
            self.fail(format!("must be a full Matrix id such as '@name:example.com', not {}", self.shown()));
            return None;
        }
        Some(id)
    }

    /// An absolute URL without credentials; a trailing slash is dropped.
    pub(super) fn url(&self, schemes: &[&str]) -> Option<String> {
        let text = self.filled()?;
        let what = || schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
        let rest = text.split_once("://").filter(|(scheme, _)| schemes.contains(scheme)).map(|(_, rest)| rest);
        let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        match host {
            None | Some("") => self.fail(format!("must be a URL that begins with {}, not {}", what(), self.shown())),
            Some(host) if host.contains('@') => {
                self.fail("must not carry a name or password: there are separate keys for those");
            }
            Some(host) if host.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                self.fail(format!("has a space in its host name: {}", self.shown()));
            }
            Some(_) => return Some(text.trim_end_matches('/').to_owned()),
        }
        None
    }

    /// `address:port`.
    pub(super) fn listen(&self) -> Option<String> {
        let text = self.filled()?;
        let port =
            text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            self.fail(format!("must be an address and a port such as '127.0.0.1:8042', not {}", self.shown()));
            return None;
        }
        Some(text)
    }

    /// The value as JSON; quoted texts stay texts.
    pub(super) fn json(&self) -> serde_json::Value {
        json(self.node)
    }
}

pub(super) fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Scalar(scalar) if scalar.plain && scalar.variable.is_none() => plain_json(&scalar.text),
        Value::Scalar(scalar) => scalar.text.clone().into(),
        Value::Sequence(items) => items.iter().map(json).collect(),
        Value::Mapping(entries) => {
            serde_json::Value::Object(entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect())
        }
    }
}

fn plain_json(text: &str) -> serde_json::Value {
    match text {
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    if number {
        if let Ok(integer) = text.parse::<i64>() {
            return integer.into();
        }
        if let Some(float) = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            return serde_json::Value::Number(float);
        }
    }
    text.into()
}

/// Milliseconds of an amount and one of s, m, h, d.
#[must_use]
pub fn parse_duration(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let amount = &text[..text.len() - 1];
    if amount.is_empty() || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    amount.parse::<i64>().ok()?.checked_mul(unit)
}

/// A host name or address with an optional port, as in the Matrix specification's server names.
pub(super) fn is_server_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}
