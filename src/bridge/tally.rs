//! Oddities of a source, counted with an example or two, so that ten thousand of them make one line (S-82).
//!
//! Never shows a mail address that its caller has hidden.

/// Examples kept of each kind.
const EXAMPLES: usize = 3;

/// How many there are of a kind.
#[derive(Debug, Default)]
pub struct Tally {
    count: usize,
    examples: Vec<String>,
}

impl Tally {
    /// One more; `example` is asked for the first few.
    pub fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// `3 people have no name (a; b; c); what follows`; `None`: there is none.
    #[must_use]
    pub fn text(&self, one: &str, many: &str, remedy: &str) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let what = if self.count == 1 { one } else { many };
        let more = if self.count > self.examples.len() { ", …" } else { "" };
        Some(format!("{} {what} ({}{more}){remedy}", self.count, self.examples.join("; ")))
    }
}

/// Words that hold an `@` become `…`, up to the `=` before it.
#[must_use]
pub fn hide_addresses(text: &str) -> String {
    if !text.contains('@') {
        return text.to_owned();
    }
    let words = text.split(' ').map(|word| match word.split_once('=') {
        _ if !word.contains('@') => word.to_owned(),
        Some((kind, _)) => format!("{kind}=…"),
        None => "…".to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
