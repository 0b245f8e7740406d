//! One message to operators: its text, and its form in Matrix (`m.room.message`). Whoever reads it on a phone sees first what it is about.

use std::fmt::Write as _;

use minijinja::HtmlEscape;
use serde_json::{Value, json};

use crate::ids::{EventId, UserId};
use crate::plan::StepId;

/// Characters of one line; the homeserver takes 64 KiB for the whole message, which is in it twice.
const LONGEST_LINE: usize = 500;

/// What is to be said, and what is remembered of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub headline: String,
    pub about: Vec<String>,
    pub items: Vec<String>,
    /// Items that are not listed.
    pub left_out: usize,
    pub closing: String,
    /// What it is about: the same while the same thing lasts.
    pub reason: String,
    /// Whether it is told again, and its end.
    pub lasts: bool,
    /// What an answer names it by; empty: there is nothing to approve.
    pub code: String,
    pub steps: Vec<StepId>,
}

impl Notice {
    /// The message. It mentions everybody it is for: a room that is muted still rings for those.
    pub fn content(&self, readers: &[UserId]) -> Value {
        let all = |lines: &[String]| lines.iter().map(|line| short(line)).collect();
        let cut = Self {
            headline: short(&self.headline),
            about: all(&self.about),
            items: all(&self.items),
            closing: short(&self.closing),
            ..self.clone()
        };
        json!({
            "msgtype": "m.text",
            "body": cut.text(),
            "format": "org.matrix.custom.html",
            "formatted_body": cut.html(),
            "m.mentions": { "user_ids": readers },
        })
    }

    fn text(&self) -> String {
        let mut text = self.headline.clone();
        for line in &self.about {
            let _ = write!(text, "\n{line}");
        }
        for item in &self.items {
            let _ = write!(text, "\n- {item}");
        }
        if self.left_out > 0 {
            let _ = write!(text, "\n- and {} more", self.left_out);
        }
        let _ = write!(text, "\n{}", self.closing);
        text
    }

    fn html(&self) -> String {
        let mut html = format!("<p><strong>{}</strong>", HtmlEscape(&self.headline));
        for line in &self.about {
            let _ = write!(html, "<br>{}", HtmlEscape(line));
        }
        html.push_str("</p><ul>");
        for item in &self.items {
            let _ = write!(html, "<li>{}</li>", HtmlEscape(item));
        }
        if self.left_out > 0 {
            let _ = write!(html, "<li>and {} more</li>", self.left_out);
        }
        let _ = write!(html, "</ul><p>{}</p>", with_code(&self.closing));
        html
    }
}

fn short(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// What stands between backticks is code.
fn with_code(text: &str) -> String {
    let mut html = String::new();
    for (at, part) in text.split('`').enumerate() {
        let part = HtmlEscape(part);
        let _ = if at % 2 == 1 { write!(html, "<code>{part}</code>") } else { write!(html, "{part}") };
    }
    html
}

/// A word about a message, for those who look: it rings for nobody.
pub(super) fn reply(to: &EventId, text: &str) -> Value {
    json!({
        "msgtype": "m.notice",
        "body": text.replace('`', ""),
        "format": "org.matrix.custom.html",
        "formatted_body": with_code(text),
        "m.relates_to": { "m.in_reply_to": { "event_id": to } },
        "m.mentions": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_well_with_and_without_markup_and_names_cannot_forge_any() {
        let notice = Notice {
            headline: "2 steps wait".into(),
            about: vec!["12 of 40 people in R&D".into()],
            items: vec!["remove @a:x from <b>Sales</b>".into()],
            left_out: 1,
            closing: "Look: `usher hold show h-1`.".into(),
            reason: "hold:h-1".into(),
            lasts: true,
            code: "c0de".into(),
            steps: Vec::new(),
        };
        let content = notice.content(&["@ops:x".into()]);
        assert_eq!(
            content["body"],
            "2 steps wait\n12 of 40 people in R&D\n- remove @a:x from <b>Sales</b>\n- and 1 more\nLook: `usher hold show h-1`."
        );
        assert_eq!(
            content["formatted_body"],
            "<p><strong>2 steps wait</strong><br>12 of 40 people in R&amp;D</p>\
             <ul><li>remove @a:x from &lt;b&gt;Sales&lt;&#x2f;b&gt;</li><li>and 1 more</li></ul>\
             <p>Look: <code>usher hold show h-1</code>.</p>"
        );
        assert_eq!(content["m.mentions"]["user_ids"], json!(["@ops:x"]));
    }

    #[test]
    fn the_longest_message_fits_into_an_event() {
        let line = || "<ü>".repeat(100_000);
        let notice = Notice {
            headline: line(),
            about: std::iter::repeat_with(line).take(12).collect(),
            items: std::iter::repeat_with(line).take(10).collect(),
            left_out: 1,
            closing: line(),
            reason: String::new(),
            lasts: true,
            code: String::new(),
            steps: Vec::new(),
        };
        let size = notice.content(&[]).to_string().len();
        assert!(size < 60_000, "{size} bytes");
    }
}
