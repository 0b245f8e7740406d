//! `usher explain`: what usher thinks of somebody or something, and why.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{Exit, configured, printed};
use crate::app::{self, Failure, Purpose};
use crate::plan::{self, Scope};

/// Reads everything and explains one thing.
pub(super) async fn run(files: &[PathBuf], what: &str) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let mut built = app::build(&config, Purpose::Look, &CancellationToken::new()).await?;
    built.reconciler.read_source(false).await?;
    built.reconciler.read_homeserver().await?;
    let decided = built.reconciler.decide(&Scope::Everything).await?;
    let (Some(directory), Some(observed)) = (built.reconciler.directory(), built.reconciler.observed()) else {
        return Err(Failure::new(Exit::Error, "nothing was read"));
    };
    match plan::explain(what, directory, &decided.desired, observed, &decided.plan) {
        Some(text) => Ok(printed(&text)),
        None => Err(Failure::new(
            Exit::Error,
            format!("'{what}' is no user, group, space or room usher knows; users are written @ann or @ann:server"),
        )),
    }
}
