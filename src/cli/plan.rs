//! `usher plan`: what would change, and why. Writes nothing anywhere (S-80).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Exit, configured, printed};
use crate::app::{self, Built, Failure};
use crate::clock;
use crate::config;
use crate::plan::{self, Plan, Scope, World};
use crate::reconcile::Decided;

/// Reads everything, plans, prints.
pub(super) async fn run(files: &[PathBuf], json: bool, record: Option<&Path>) -> Result<Exit, Failure> {
    let settings = configured(files)?;
    let decided = app::look(&settings, async |built| decide(built, files, record).await).await?;
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

async fn decide(built: &mut Built, files: &[PathBuf], record: Option<&Path>) -> Result<Decided, Failure> {
    let mut snapshot = built.reconciler.fetch().await?;
    let recorded = record.map(|_| {
        // A plan needs no addresses, and a record is made to be passed on.
        snapshot.users.iter_mut().for_each(|user| Arc::make_mut(user).emails.clear());
        snapshot.clone()
    });
    built.reconciler.take(snapshot, false);
    built.reconciler.read_homeserver().await?;
    let decided = built.reconciler.decide(&Scope::Everything).await?;
    if let (Some(path), Some(directory), Some(observed)) = (record, recorded, built.reconciler.observed()) {
        let world = World {
            config: config::dump(files),
            directory,
            homeserver: observed.clone(),
            ledger: built.reconciler.ledger().clone(),
            now: clock::now(),
        };
        let text =
            serde_json::to_string_pretty(&world).map_err(|cause| Failure::new(Exit::Error, cause.to_string()))?;
        std::fs::write(path, text + "\n")
            .map_err(|cause| Failure::new(Exit::Error, format!("cannot write {}: {cause}", path.display())))?;
    }
    Ok(decided)
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
