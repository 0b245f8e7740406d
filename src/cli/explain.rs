//! `usher explain`: what usher thinks of somebody or something, and why. Writes nothing.

use std::path::PathBuf;

use super::{Exit, configured, printed};
use crate::app::{self, Built, Failure};
use crate::plan::{self, Scope};

/// Reads everything and explains one thing.
pub(super) async fn run(files: &[PathBuf], what: &str) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let text = app::look(&config, async |built| explained(built, what).await).await?;
    Ok(printed(&text))
}

async fn explained(built: &mut Built, what: &str) -> Result<String, Failure> {
    let reconciler = &mut built.reconciler;
    reconciler.read_source(false).await?;
    reconciler.read_homeserver().await?;
    let decided = reconciler.decide(&Scope::Everything).await?;
    let (Some(directory), Some(observed)) = (reconciler.directory(), reconciler.observed()) else {
        return Err(Failure::new(Exit::Error, "nothing was read"));
    };
    plan::explain(what, directory, &decided.desired, observed, &decided.plan).ok_or_else(|| {
        Failure::new(
            Exit::Error,
            format!("'{what}' is no user, group, space or room usher knows; users are written @ann or @ann:server"),
        )
    })
}
