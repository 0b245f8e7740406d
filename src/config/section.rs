//! Reads one mapping key by key: which keys were asked for, which were not, and what somebody may have meant by those.
//! Collects problems and never stops at one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::problem::{Report, Severity};
use super::tree::{Entry, Spot, Value};
use super::value::Field;

/// `externalId` and `external_id` are one key: all AIM keys are accepted in both spellings.
pub(super) fn same_key(a: &str, b: &str) -> bool {
    a == b || snake(a) == snake(b)
}

/// `externalId` as `external_id`.
pub(super) fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            if !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Keys of other products and older versions that have no equal here, and what to write instead.
const REPLACED: &[(&str, &str)] = &[
    ("group_power_level", "give the group a `powerLevel` in the space's `groups` instead"),
    ("room_alias_name", "give the room an `alias` beside `properties` instead"),
];

/// Where a key belongs that often stands in the wrong place.
const HOMES: &[(&str, &str)] = &[
    ("url", "homeserver"),
    ("server_name", "homeserver"),
    ("registration", "appservice"),
    ("bot", "appservice"),
    ("backend", "accounts"),
    ("uri", "source"),
    ("base", "source"),
    ("bind_dn", "source"),
    ("bind_password", "source"),
    ("check_interval_seconds", "source"),
    ("default_rooms", "provisioner"),
    ("allowed_users", "provisioner"),
    ("protected_users", "provisioner"),
    ("invite_to_public_rooms", "provisioner"),
    ("federates_with", "provisioner"),
    ("gc", "provisioner"),
    ("dry_run", "provisioner"),
    ("membership", "provisioner"),
    ("enforce", "provisioner"),
    ("deprovisioning", "userProvisioner"),
    ("soft_delete_period", "userProvisioner.deprovisioning"),
    ("confirm_reads", "safety"),
    ("limits", "safety"),
    ("level", "logging"),
    ("spaces", ""),
    ("exceptions", ""),
    ("operators", ""),
];

/// A mapping being read.
pub(super) struct Section<'a> {
    pub report: &'a Report,
    pub path: String,
    pub spot: Spot,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
    used: BTreeSet<usize>,
}

impl<'a> Section<'a> {
    pub(super) fn new(report: &'a Report, path: String, spot: Spot, entries: &'a [Entry]) -> Self {
        Self { report, path, spot, entries, asked: Vec::new(), used: BTreeSet::new() }
    }

    /// The value of `name`; `null` counts as absent.
    pub(super) fn field(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.field_named(&[name])
    }

    /// The value of one setting that has several names; giving it twice is an error.
    pub(super) fn field_named(&mut self, names: &[&'static str]) -> Option<Field<'a>> {
        self.asked.extend_from_slice(names);
        let mut found: Option<(&'a Entry, Field<'a>)> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            if !names.iter().any(|name| same_key(name, &entry.key)) {
                continue;
            }
            self.used.insert(index);
            if matches!(entry.value.value, Value::Null) {
                continue;
            }
            let path = join(&self.path, &entry.key);
            if let Some((first, _)) = &found {
                let message =
                    format!("this is the same setting as `{}` on line {}: keep one", first.key, first.spot.line);
                self.report.error(Some(&entry.spot), &path, message);
            } else {
                found = Some((entry, Field { report: self.report, node: &entry.value, path }));
            }
        }
        found.map(|(_, field)| field)
    }

    /// The mapping under `name`.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'a>> {
        self.field(name)?.section()
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.field(name)?.filled()
    }

    /// A required text. Missing: a problem that shows `example`, and an empty text that nobody will use.
    pub(super) fn need(&mut self, name: &'static str, example: &str) -> String {
        let Some(field) = self.field(name) else {
            self.missing(name, example);
            return String::new();
        };
        field.filled().unwrap_or_default()
    }

    pub(super) fn missing(&self, name: &str, example: &str) {
        let message = format!("is missing. Write for example `{name}: {example}`");
        self.report.error(Some(&self.spot), &join(&self.path, name), message);
    }

    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        self.field(name).and_then(|field| field.boolean()).unwrap_or(default)
    }

    /// A whole number from `range`.
    pub(super) fn number(&mut self, name: &'static str, default: i64, range: (i64, i64)) -> i64 {
        self.field(name).and_then(|field| field.integer(range)).unwrap_or(default)
    }

    /// `<amount><s|m|h|d>`, in milliseconds.
    pub(super) fn duration(&mut self, name: &'static str, default: i64) -> i64 {
        self.field(name).and_then(|field| field.duration()).unwrap_or(default)
    }

    /// A whole number of seconds, as AIM writes some; in milliseconds.
    pub(super) fn seconds(&mut self, name: &'static str, default: i64) -> i64 {
        self.number(name, default, (1, 31_536_000)).saturating_mul(1000)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, default: T, choices: &[(&str, T)]) -> T {
        self.field(name).and_then(|field| field.choice(choices)).unwrap_or(default)
    }

    /// A path, relative to the file that names it.
    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.field(name)?.path()
    }

    /// The entries of a list; absent is empty.
    pub(super) fn list(&mut self, name: &'static str) -> Vec<Field<'a>> {
        self.field(name).map(|field| field.items()).unwrap_or_default()
    }

    /// Whether no key has a value: `mas: { url: , client_id: }`.
    pub(super) fn is_blank(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.value.value, Value::Null))
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (index, entry) in self.entries.iter().enumerate() {
            if !self.used.contains(&index) {
                let path = join(&self.path, &entry.key);
                let message = format!("unknown key{}", self.suggestion(&entry.key));
                self.report.add(Severity::Unknown, Some(&entry.spot), &path, message);
            }
        }
    }

    fn suggestion(&self, key: &str) -> String {
        if let Some((_, advice)) = REPLACED.iter().find(|(name, _)| same_key(name, key)) {
            return format!(": {advice}");
        }
        if let Some(near) = nearest(key, self.asked.iter().copied()) {
            return format!("; did you mean `{near}`?");
        }
        let home = HOMES.iter().find(|(name, home)| same_key(name, key) && *home != self.path);
        if let Some((name, home)) = home {
            let place = if home.is_empty() { "at the top level".to_owned() } else { format!("under `{home}`") };
            return format!("; `{name}` belongs {place}");
        }
        let mut known: Vec<&str> = self.asked.clone();
        known.sort_unstable();
        known.dedup();
        if known.is_empty() { String::new() } else { format!("; known here: {}", known.join(", ")) }
    }
}

/// The closest of `known` to what was written, if it is close enough to be a slip.
pub(super) fn nearest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let shout = !written.contains(|c: char| c.is_lowercase());
    let written = if shout { written.to_lowercase() } else { snake(written) };
    known
        .map(|name| (strsim::damerau_levenshtein(&snake(name), &written), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).clamp(1, 4))
        .min()
        .map(|(_, name)| name)
}
