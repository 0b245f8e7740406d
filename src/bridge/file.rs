//! The `file` source (S-10): people and groups from YAML, JSON or LDIF, read again when the file changes.
//!
//! A file that is gone, empty, or written while it is read is an error or an incomplete read, never an empty directory.
//! Never writes.

mod ldif;
mod table;

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::tally::hide_addresses;
use super::{Bridge, Probe, SourceError};
use crate::clock;
use crate::config::FileSource;
use crate::directory::Snapshot;
use crate::ids::Timestamp;

/// A file of people and groups.
#[derive(Debug)]
pub struct FileBridge {
    source: FileSource,
    last: Option<Last>,
}

/// The file as the last complete read found it.
#[derive(Debug)]
struct Last {
    stamp: Stamp,
    digest: [u8; 32],
    next_expiry: Option<Timestamp>,
}

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    size: u64,
}

/// What a file holds.
#[derive(Debug)]
struct Content {
    snapshot: Snapshot,
    next_expiry: Option<Timestamp>,
}

/// Larger files are refused: ten times the largest directory usher is made for.
const LARGEST_FILE: u64 = 1 << 30;

/// A file changed more recently than this may change again without its time of change telling: its content is compared.
const SETTLED: Duration = Duration::from_secs(2);

/// How long a file that was changed just now is watched for more.
const WATCH: Duration = Duration::from_millis(150);

impl FileBridge {
    /// A source reading this file; looks at nothing yet.
    #[must_use]
    pub fn new(source: &FileSource) -> Self {
        Self { source: source.clone(), last: None }
    }

    /// Parsers quote what they stumble over, which may be somebody's address.
    fn trouble(&self, cause: &str, retry: bool) -> SourceError {
        SourceError { attempted: format!("read {}", self.source.path.display()), cause: hide_addresses(cause), retry }
    }

    /// The bytes, with what the file system says of them before and after.
    async fn load(&self) -> Result<(Vec<u8>, Stamp, Stamp), SourceError> {
        let path = &self.source.path;
        let before = stamp(path).await.map_err(|error| self.trouble(&missing_text(&error), true))?;
        if before.size > LARGEST_FILE {
            return Err(self.trouble(&format!("it is larger than {} MiB", LARGEST_FILE >> 20), false));
        }
        let bytes = tokio::fs::read(path).await.map_err(|error| self.trouble(&missing_text(&error), true))?;
        if before.modified.elapsed().is_ok_and(|age| age < SETTLED) {
            tokio::time::sleep(WATCH).await;
        }
        let after = stamp(path).await.map_err(|error| self.trouble(&missing_text(&error), true))?;
        Ok((bytes, before, after))
    }

    async fn read(&self) -> Result<(Content, Stamp, [u8; 32]), SourceError> {
        let (bytes, before, after) = self.load().await?;
        let digest = Sha256::digest(&bytes).into();
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.trouble(&format!("it is not UTF-8 (byte {at})"), false)
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.trim().is_empty() {
            return Err(
                self.trouble("it is empty; a file being written is best moved into place when it is whole", true)
            );
        }
        let parsed = if is_ldif(&self.source.path, text) {
            ldif::content(text, &self.source)
        } else {
            table::content(text, &self.source)
        };
        let mut content = parsed.map_err(|cause| self.trouble(&cause, true))?;
        if before != after {
            content.snapshot.completeness.flaw("the file was changed while it was read");
        }
        if !text.ends_with('\n') && !text.trim_start().starts_with(['{', '[']) {
            content
                .snapshot
                .completeness
                .flaw("the last line does not end: the file may be half-written (end it with a line end)");
        }
        content.snapshot.source = format!("file {}", self.source.path.display());
        Ok((content, before, digest))
    }
}

#[async_trait]
impl Bridge for FileBridge {
    async fn fetch(&mut self) -> Result<Snapshot, SourceError> {
        self.last = None;
        let (content, stamp, digest) = self.read().await?;
        if content.snapshot.completeness.is_complete() {
            self.last = Some(Last { stamp, digest, next_expiry: content.next_expiry });
        }
        Ok(content.snapshot)
    }

    async fn changed(&mut self) -> bool {
        let Some(last) = &self.last else { return true };
        if last.next_expiry.is_some_and(|moment| moment <= clock::now()) {
            return true;
        }
        let Ok(now) = stamp(&self.source.path).await else { return true };
        if now == last.stamp && now.modified.elapsed().is_ok_and(|age| age > SETTLED) {
            return false;
        }
        let Ok(bytes) = tokio::fs::read(&self.source.path).await else { return true };
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        digest != last.digest
    }

    async fn probe(&mut self) -> Vec<Probe> {
        let failed = |step, detail| Probe { step, ok: false, detail };
        let passed = |step, detail| Probe { step, ok: true, detail };
        let size = match stamp(&self.source.path).await {
            Ok(stamp) => stamp.size,
            Err(error) => {
                return vec![failed("open", format!("{}: {}", self.source.path.display(), missing_text(&error)))];
            }
        };
        let mut probes = vec![passed("open", format!("{}, {size} bytes", self.source.path.display()))];
        match self.read().await {
            Err(error) => probes.push(failed("parse", error.cause)),
            Ok((content, _, _)) => {
                let snapshot = content.snapshot;
                let groups = snapshot.groups.len();
                probes.push(passed(
                    "parse",
                    if snapshot.notices.is_empty() { "no remarks".to_owned() } else { snapshot.notices.join("; ") },
                ));
                probes.push(match snapshot.users.len() {
                    0 => failed("users", "the file holds no users".to_owned()),
                    users => passed("users", format!("{users} users, {groups} groups")),
                });
            }
        }
        probes
    }
}

async fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = tokio::fs::metadata(path).await?;
    Ok(Stamp { modified: metadata.modified()?, size: metadata.len() })
}

fn missing_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    }
}

/// By its name, else by how it begins.
fn is_ldif(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("ldif" | "ldf") => true,
        Some("yaml" | "yml" | "json") => false,
        Some(_) | None => {
            let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
            first.starts_with("dn:") || first.starts_with("version:")
        }
    }
}
