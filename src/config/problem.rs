//! What is wrong with a configuration, and where. Never holds the value of a secret.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use super::tree::Spot;
use super::{Config, Position, Positions};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// A key nobody reads (S-12): an error in `check`, a warning in `run`.
    Unknown,
    /// It works, but something better or safer exists. Shown by `check`, never fails.
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Unknown => "unknown",
            Self::Advice => "advice",
        })
    }
}

/// One thing to change, or to think about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub position: Option<Position>,
    /// The setting, as written: `spaces[0].groups[1].powerLevel`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `file:line:column: path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.position {
            write!(f, "{}:{}:{}: ", at.file.display(), at.line, at.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What became of the files: a configuration unless something in them is an error, and every problem by position.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Option<Config>,
    /// Sorted by position.
    pub problems: Vec<Problem>,
    /// Where each setting was written.
    pub positions: Positions,
}

impl Loaded {
    /// For `check`: an unknown key is an error. What is left over is advice.
    ///
    /// # Errors
    /// All problems, advice included, when one of them is an error or an unknown key.
    pub fn strict(self) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        let unknown = self.problems.iter().any(|problem| problem.severity == Severity::Unknown);
        match self.config {
            Some(config) if !unknown => Ok((config, self.problems)),
            _ => Err(self.problems),
        }
    }

    /// For `run`: unknown keys are warnings, beside the advice.
    ///
    /// # Errors
    /// All problems, when one of them is an error.
    pub fn lenient(self) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        match self.config {
            Some(config) => Ok((config, self.problems)),
            None => Err(self.problems),
        }
    }
}

/// Collects problems while the configuration is read; reading never stops at the first.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    /// Paths of the values that some setting asked for: only those may be shown.
    read: RefCell<BTreeSet<String>>,
}

impl Report {
    pub(super) fn add(&self, severity: Severity, spot: Option<&Spot>, path: &str, message: impl Into<String>) {
        let position = spot.map(Spot::position);
        self.problems.borrow_mut().push(Problem { severity, position, path: path.to_owned(), message: message.into() });
    }

    pub(super) fn error(&self, spot: Option<&Spot>, path: &str, message: impl Into<String>) {
        self.add(Severity::Error, spot, path, message);
    }

    pub(super) fn advice(&self, spot: Option<&Spot>, path: &str, message: impl Into<String>) {
        self.add(Severity::Advice, spot, path, message);
    }

    /// Remembers that a setting asked for the value at `path`.
    pub(super) fn mark_read(&self, path: &str) {
        self.read.borrow_mut().insert(path.to_owned());
    }

    /// Whether a setting asked for the value at `path`.
    pub(super) fn was_read(&self, path: &str) -> bool {
        self.read.borrow().contains(path)
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.problems.borrow().iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// Everything, by position; the same thing said twice is said once.
    pub(super) fn sorted(&self) -> Vec<Problem> {
        let mut problems = self.problems.take();
        problems.sort_by(|a, b| {
            (&a.position, a.severity, &a.path, &a.message).cmp(&(&b.position, b.severity, &b.path, &b.message))
        });
        problems.dedup();
        problems
    }
}
