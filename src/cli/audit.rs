//! `usher audit`: what usher wrote, when, on whom, why and with what result. Reads only.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{AuditVerb, Exit, printed};
use crate::app::Failure;
use crate::store::Store;
use crate::store::audit::{AuditRecord, PAGE};

/// The verb as typed, on the database of the configuration.
pub(super) async fn verb(files: &[PathBuf], verb: &AuditVerb) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let Some(store) = Store::look(&config.database_url).await? else {
        return Ok(printed("Nothing was written yet: there is no database.\n"));
    };
    let exit = match verb {
        AuditVerb::Tail { count } => {
            let rows = store.audit_tail(*count).await;
            rows.map(|rows| printed(&rows.iter().map(line).collect::<String>()))
        }
        AuditVerb::Export => export(&store).await,
    };
    store.close().await;
    Ok(exit?)
}

/// Every row as one JSON object a line, oldest first.
async fn export(store: &Store) -> Result<Exit, crate::store::StoreError> {
    let mut seq = 0;
    loop {
        let rows = store.audit_after(seq).await?;
        let Some(last) = rows.last() else { return Ok(Exit::Done) };
        seq = last.seq;
        let lines: String =
            rows.iter().filter_map(|row| serde_json::to_string(row).ok()).fold(String::new(), |mut out, row| {
                let _ = writeln!(out, "{row}");
                out
            });
        match printed(&lines) {
            Exit::Done if rows.len() < PAGE as usize => return Ok(Exit::Done),
            Exit::Done => {}
            broken => return Ok(broken),
        }
    }
}

fn line(row: &AuditRecord) -> String {
    let mut out = format!("{}  {}", row.at, row.action);
    for text in [&row.place, &row.person] {
        if !text.is_empty() {
            let _ = write!(out, "  {text}");
        }
    }
    if !(row.before.is_empty() && row.after.is_empty()) {
        let _ = write!(out, "  {} -> {}", row.before, row.after);
    }
    if !row.reason.is_empty() {
        let _ = write!(out, "  ({})", row.reason);
    }
    let _ = writeln!(out, "  {} by {}", row.result, row.actor);
    out
}
