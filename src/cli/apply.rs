//! `usher apply`: plans, asks, does it once.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Exit, configured, printed, progress};
use crate::app::{self, Failure, Purpose};
use crate::config::Config;
use crate::plan::{self, Note, Plan, Scope};
use crate::reconcile::{NoFeed, PassResult, Reconciler};

/// How often an apply goes on after the homeserver went away in the middle of it.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Plans, shows the plan, asks unless `yes`, and carries it out.
pub(super) async fn run(files: &[PathBuf], yes: bool) -> Result<Exit, Failure> {
    let config = configured(files)?;
    if config.provisioner.dry_run {
        let exit = super::plan::run(files, false, None).await?;
        println!("provisioner.dry_run is true: nothing was changed.");
        return Ok(exit);
    }
    let stop = app::until_signalled();
    once(&config, yes, &stop).await
}

/// One whole pass, with what it says on the way.
pub(super) async fn once(config: &Config, yes: bool, stop: &CancellationToken) -> Result<Exit, Failure> {
    let mut built = app::build(config, Purpose::Act, stop).await?;
    let reconciler = &mut built.reconciler;
    reconciler.read_source(true).await?;
    reconciler.read_homeserver().await?;
    reconciler.take_approvals().await?;
    let decided = reconciler.decide(&Scope::Everything).await?;
    refuse_ambiguity(reconciler, &decided.plan)?;
    let shown = printed(&plan::render(&decided.plan, &decided.header));
    if shown != Exit::Done {
        return Ok(shown);
    }
    if decided.plan.pending().next().is_some() && !yes && !agreed()? {
        println!("Nothing was changed.");
        return Ok(Exit::Done);
    }
    let watching = tokio::spawn(progress::show(reconciler.progress()));
    let result = attempts(reconciler, stop).await;
    let text = result.as_ref().ok().map(|result| summary(result, reconciler));
    reconciler.hush();
    let _ = watching.await;
    let result = result?;
    if let Some(text) = text {
        print!("{text}");
    }
    verdict(&result, stop)
}

/// On the first start a group name that could mean two groups is refused; later on it freezes its mapping (S-6).
fn refuse_ambiguity(reconciler: &Reconciler, plan: &Plan) -> Result<(), Failure> {
    let ambiguous: Vec<String> =
        plan.notes.iter().filter(|note| matches!(note, Note::GroupAmbiguous { .. })).map(ToString::to_string).collect();
    if ambiguous.is_empty() || reconciler.has_settled() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        format!("a first apply needs to know which group is meant:\n{}", ambiguous.join("\n")),
    ))
}

async fn attempts(reconciler: &mut Reconciler, stop: &CancellationToken) -> Result<PassResult, Failure> {
    let mut total = PassResult::default();
    for attempt in 0..ATTEMPTS {
        let result = reconciler.carry_out(&Scope::Everything, &mut NoFeed).await;
        let (again, ended) = match result {
            Ok(result) => {
                total.done += result.done;
                let again = result.interrupted;
                (again, Ok(PassResult { done: total.done, ..result }))
            }
            Err(error) => (attempt + 1 < ATTEMPTS, Err(Failure::from(error))),
        };
        if !again || stop.is_cancelled() || attempt + 1 == ATTEMPTS {
            return ended;
        }
        tokio::select! {
            () = stop.cancelled() => return ended,
            () = tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt)) => {}
        }
        // What was done before the answer got lost is seen here.
        if let Err(error) = reconciler.read_homeserver().await {
            tracing::warn!(%error, "the homeserver is still away");
        }
    }
    Ok(total)
}

fn agreed() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to be asked: say `usher apply --yes`"));
    }
    print!("\nDo this? [y/N] ");
    let _ = io::stdout().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn summary(result: &PassResult, reconciler: &Reconciler) -> String {
    let mut text = format!("\nDone: {} steps", result.done);
    if result.failed > 0 {
        let _ = write!(text, ", {} failed", result.failed);
    }
    if result.held > 0 {
        let _ = write!(text, ", {} held (usher hold list)", result.held);
    }
    text.push_str(".\n");
    for trouble in reconciler.troubles() {
        let _ = write!(text, "  failed: {}\n          {}\n", trouble.what, trouble.cause);
    }
    text
}

/// 4 before 3 (S-110).
fn verdict(result: &PassResult, stop: &CancellationToken) -> Result<Exit, Failure> {
    if let Some(cause) = &result.fatal {
        return Err(Failure::new(Exit::Error, format!("the homeserver does not accept our token: {cause}")));
    }
    if result.interrupted {
        return Err(Failure::new(Exit::Unreachable, "the homeserver went away; run apply again to finish"));
    }
    if stop.is_cancelled() {
        return Err(Failure::new(Exit::Failures, "stopped before the end; run apply again to finish"));
    }
    Ok(if result.failed > 0 {
        Exit::Failures
    } else if result.held > 0 {
        Exit::Held
    } else {
        Exit::Done
    })
}
