//! `usher apply`: plans, asks, does it once. Does nothing but what was shown: an answer that took long makes it read and compare again.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Exit, configured, printed, progress};
use crate::app::{self, Failure, Purpose};
use crate::clock;
use crate::config::Config;
use crate::plan::{self, Note, Plan, Scope};
use crate::reconcile::{Decided, NoFeed, PassResult, Reconciler};

/// How often an apply goes on after the homeserver went away in the middle of it.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How old what was read may be, in milliseconds, when the answer comes.
const FRESH_MS: i64 = 60_000;

/// Plans, shows the plan, asks unless `yes`, and carries it out.
pub(super) async fn run(files: &[PathBuf], yes: bool) -> Result<Exit, Failure> {
    let config = configured(files)?;
    if config.provisioner.dry_run {
        let exit = super::plan::run(files, false, None).await?;
        let _ = printed("provisioner.dry_run is true: nothing was changed.\n");
        return Ok(exit);
    }
    let stop = app::until_signalled();
    once(&config, yes, &stop).await
}

/// One whole pass, with what it says on the way.
pub(super) async fn once(config: &Config, yes: bool, stop: &CancellationToken) -> Result<Exit, Failure> {
    let mut built = app::build(config, Purpose::Act, stop).await?;
    let done = pass(&mut built.reconciler, yes, stop).await;
    built.reconciler.close().await;
    done.map_err(|failure| failure.located(config))
}

async fn pass(reconciler: &mut Reconciler, yes: bool, stop: &CancellationToken) -> Result<Exit, Failure> {
    let decided = look(reconciler).await?;
    let mut shown_before = false;
    let ask = async |decided: &Decided| {
        if std::mem::replace(&mut shown_before, true) {
            let _ = printed("\nWhile the question stood open, things changed. This is the plan now:\n\n");
        }
        let shown = printed(&plan::render(&decided.plan, &decided.header));
        if shown != Exit::Done {
            return Err(Failure::new(shown, "the plan could not be shown, so nothing was done"));
        }
        if yes || decided.plan.pending().next().is_none() {
            return Ok(Answer { yes: true, took_ms: 0 });
        }
        question(stop).await
    };
    let same = |shown: &Decided, now: &Decided| is_same(&shown.plan, &now.plan);
    if !agreed(decided, ask, async || look(reconciler).await, same).await? {
        return Ok(printed("Nothing was changed.\n"));
    }
    let watching = tokio::spawn(progress::show(reconciler.progress()));
    let result = attempts(reconciler, stop).await;
    let text = result.as_ref().ok().map(|result| summary(result, reconciler));
    reconciler.hush();
    let _ = watching.await;
    let result = result?;
    if let Some(text) = text {
        let _ = printed(&text);
    }
    verdict(&result, stop)
}

/// Reads everything and decides.
async fn look(reconciler: &mut Reconciler) -> Result<Decided, Failure> {
    reconciler.read_source(true).await?;
    reconciler.read_homeserver().await?;
    reconciler.take_approvals().await?;
    let decided = reconciler.decide(&Scope::Everything).await?;
    refuse_ambiguity(reconciler, &decided.plan)?;
    Ok(decided)
}

/// What was said to a plan, and how many milliseconds after it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    yes: bool,
    took_ms: i64,
}

/// Asks about `first`; after an answer that took long `look`s again, and asks again where that shows something else. `false`: no.
async fn agreed<P>(
    first: P,
    mut ask: impl AsyncFnMut(&P) -> Result<Answer, Failure>,
    mut look: impl AsyncFnMut() -> Result<P, Failure>,
    same: impl Fn(&P, &P) -> bool,
) -> Result<bool, Failure> {
    let mut shown = first;
    loop {
        let answer = ask(&shown).await?;
        // A clock that went back tells nothing of how long it took.
        if !answer.yes || (0..=FRESH_MS).contains(&answer.took_ms) {
            return Ok(answer.yes);
        }
        let now = look().await?;
        if same(&shown, &now) {
            return Ok(true);
        }
        shown = now;
    }
}

/// Whether two plans would do the same for the same reasons.
fn is_same(shown: &Plan, now: &Plan) -> bool {
    let steps = |plan: &Plan| -> Vec<String> {
        plan.pending().map(|step| format!("{:?} {:?} {:?}", step.place, step.action, step.reason)).collect()
    };
    steps(shown) == steps(now)
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

/// Asks whoever sits at the terminal; a stop is a no.
async fn question(stop: &CancellationToken) -> Result<Answer, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to be asked: say `usher apply --yes`"));
    }
    let _ = printed("\nDo this? [y/N] ");
    let asked = clock::now();
    let (sender, answer) = oneshot::channel();
    // A thread of its own: the end of the program waits for those of the runtime, and this one may wait for ever.
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = sender.send(io::stdin().lock().read_line(&mut text).map(|_| text));
    });
    let text = tokio::select! {
        () = stop.cancelled() => {
            let _ = printed("\n");
            String::new()
        }
        read = answer => read
            .unwrap_or_else(|_| Ok(String::new()))
            .map_err(|error| Failure::new(Exit::Error, format!("cannot read the answer: {error}")))?,
    };
    Ok(Answer { yes: matches!(text.trim(), "y" | "Y" | "yes"), took_ms: clock::now().since_ms(asked) })
}

fn summary(result: &PassResult, reconciler: &Reconciler) -> String {
    let mut text = format!("\nDone: {} steps", result.done);
    if result.failed > 0 {
        let _ = write!(text, ", {} failed", result.failed);
    }
    if result.waiting > 0 {
        let _ = write!(text, ", {} wait for a look at an account", result.waiting);
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
    Ok(if result.failed + result.waiting > 0 {
        Exit::Failures
    } else if result.held > 0 {
        Exit::Held
    } else {
        Exit::Done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Answer = Answer { yes: true, took_ms: FRESH_MS };
    const SLOW: Answer = Answer { yes: true, took_ms: FRESH_MS + 1 };

    /// What comes of a plan `p` with these answers, while a new look finds these plans; and which plans were asked about.
    async fn asked(answers: &[Answer], looks: &[&'static str]) -> (bool, Vec<&'static str>, usize) {
        let (mut answers, mut looks) = (answers.iter(), looks.iter());
        let (mut shown, mut looked) = (Vec::new(), 0);
        let ask = async |plan: &&'static str| {
            shown.push(*plan);
            Ok(*answers.next().unwrap())
        };
        let look = async || {
            looked += 1;
            Ok(*looks.next().unwrap())
        };
        let agreed = agreed("p", ask, look, |shown, now| shown == now).await.unwrap();
        (agreed, shown, looked)
    }

    #[tokio::test]
    async fn an_answer_within_a_minute_is_about_what_was_shown() {
        assert_eq!(asked(&[QUICK], &[]).await, (true, vec!["p"], 0));
        assert_eq!(asked(&[Answer { yes: false, ..SLOW }], &[]).await, (false, vec!["p"], 0));
    }

    #[tokio::test]
    async fn a_late_answer_counts_only_if_a_new_look_finds_the_same() {
        assert_eq!(asked(&[SLOW], &["p"]).await, (true, vec!["p"], 1));
        let back = Answer { yes: true, took_ms: -1 };
        assert_eq!(asked(&[back], &["p"]).await, (true, vec!["p"], 1));
    }

    #[tokio::test]
    async fn another_plan_is_shown_and_asked_about_again() {
        assert_eq!(asked(&[SLOW, QUICK], &["q"]).await, (true, vec!["p", "q"], 1));
        assert_eq!(asked(&[SLOW, SLOW, QUICK], &["q", "r"]).await, (true, vec!["p", "q", "r"], 2));
        assert_eq!(asked(&[SLOW, Answer { yes: false, ..QUICK }], &["q"]).await, (false, vec!["p", "q"], 1));
    }
}
