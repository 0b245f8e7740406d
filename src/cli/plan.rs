//! `usher plan`: what would change, and why. Writes nothing anywhere (S-80).

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Exit, configured, printed};
use crate::app::{self, Failure, Purpose};
use crate::clock;
use crate::plan::{self, Plan, Scope};

/// Reads everything, plans, prints.
pub(super) async fn run(files: &[PathBuf], json: bool, record: Option<&Path>) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let mut built = app::build(&config, Purpose::Look, &CancellationToken::new()).await?;
    built.reconciler.read_source(false).await?;
    built.reconciler.read_homeserver().await?;
    let decided = built.reconciler.decide(&Scope::Everything).await?;
    if let Some(path) = record {
        std::fs::write(path, "")
            .map_err(|cause| Failure::new(Exit::Error, format!("cannot write {}: {cause}", path.display())))?;
    }
    let text = if json {
        format!("{:#}\n", plan::to_json(&decided.plan, &decided.header, clock::now()))
    } else {
        plan::render(&decided.plan, &decided.header)
    };
    match printed(&text) {
        Exit::Done => Ok(verdict(&decided.plan)),
        broken => Ok(broken),
    }
}

/// 2 if anything is pending, else 3 if anything is held (S-110).
fn verdict(plan: &Plan) -> Exit {
    if plan.pending().next().is_some() {
        Exit::Pending
    } else if plan.held_count() > 0 {
        Exit::Held
    } else {
        Exit::Done
    }
}
