//! `usher run`: the daemon.

use std::path::PathBuf;

use super::{Exit, apply, configured, plan};
use crate::app::{self, Failure, Purpose};

/// Runs until stopped; `once` ends after the first pass.
pub(super) async fn run(files: &[PathBuf], dry_run: bool, once: bool) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let purpose = if dry_run || config.provisioner.dry_run { Purpose::Look } else { Purpose::Act };
    match (once, purpose) {
        (true, Purpose::Look) => plan::run(files, false, None).await,
        (true, Purpose::Act) => apply::once(&config, true, &app::until_signalled()).await,
        (false, purpose) => Box::pin(app::run(&config, purpose, app::until_signalled())).await.map(|()| Exit::Done),
    }
}
