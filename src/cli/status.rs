//! `usher status`: asks the running usher through its operations listener; where none answers, the database tells how the last pass
//! ended. Only reads.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::Exit;
use crate::app::Failure;
use crate::config::{Ops, reachable_at};
use crate::observability::{HoldStatus, Mode, OutboxStatus, PassStatus, PlanStatus, Status};
use crate::store::Store;

/// The listener is on this machine or next to it.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Shown {
    /// Whether a running usher gave this, or its database did.
    running: bool,
    #[serde(flatten)]
    status: Status,
}

/// The verb as typed: asks the usher of the configuration.
pub(super) async fn verb(files: &[PathBuf], json: bool) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let asked = run(&config.ops, &config.database_url, json).await;
    let (text, exit) = asked.map_err(|error| Failure::new(Exit::Error, format!("{error:#}")))?;
    Ok(match super::printed(&text) {
        Exit::Done => exit,
        broken => broken,
    })
}

/// Gives the text to print and the exit code: 0 from a running usher, 1 when none answers.
///
/// # Errors
/// When neither the listener nor the database can be asked.
pub async fn run(ops: &Ops, database_url: &str, json: bool) -> anyhow::Result<(String, Exit)> {
    let address = reachable_at(&ops.listen);
    let asked = ask(&address, ops).await?;
    let running = asked.is_some();
    let (status, known) = match asked {
        Some(status) => (status, true),
        None => match Store::look(database_url).await? {
            Some(store) => {
                let status = remembered(&store).await;
                store.close().await;
                (status?, true)
            }
            None => (Status::default(), false),
        },
    };
    let exit = if running { Exit::Done } else { Exit::Error };
    if json {
        return Ok((serde_json::to_string_pretty(&Shown { running, status })? + "\n", exit));
    }
    let mut text = String::new();
    if !known {
        let _ = writeln!(text, "usher does not run here (nothing answers on {address}), and has no database yet.");
        return Ok((text, exit));
    }
    if !running {
        let _ = writeln!(text, "usher does not run here (nothing answers on {address}). From its database:");
    }
    text.push_str(&render(&status, running));
    Ok((text, exit))
}

/// `None`: nobody answers.
async fn ask(address: &str, ops: &Ops) -> anyhow::Result<Option<Status>> {
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build().context("cannot make an HTTP client")?;
    let mut request = client.get(format!("http://{address}/status"));
    if let Some(token) = &ops.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Ok(None),
        Err(error) => bail!("no answer from usher on {address}: {}", error.without_url()),
    };
    match answer.status().as_u16() {
        200 => answer.json().await.map(Some).with_context(|| format!("what answers on {address} is not usher")),
        401 => bail!("usher on {address} wants the token of ops.token; is this its configuration file?"),
        code => bail!("what answers on {address} is not usher (HTTP {code})"),
    }
}

async fn remembered(store: &Store) -> anyhow::Result<Status> {
    let passes = store.passes(1).await?;
    let holds: Vec<HoldStatus> = store.holds().await?.iter().map(HoldStatus::from).collect();
    let last_pass = passes.into_iter().next().map(|pass| PassStatus {
        started: pass.started,
        ended: pass.ended,
        cause: pass.cause,
        result: pass.result,
        counts: pass.counts,
    });
    let held = holds.iter().map(|hold| hold.steps).sum();
    Ok(Status { last_pass, holds, plan: PlanStatus { held, ..PlanStatus::default() }, ..Status::default() })
}

fn render(status: &Status, running: bool) -> String {
    let mut text = String::new();
    if running {
        heading(&mut text, status);
    }
    match &status.last_pass {
        Some(pass) => last_pass(&mut text, pass),
        None => text.push_str("Last pass  none yet\n"),
    }
    if let Some(next) = status.next_pass {
        let _ = writeln!(text, "Next pass  {next}");
    }
    let PlanStatus { pending, withheld, held } = status.plan;
    if running {
        let _ = writeln!(text, "Plan       {pending} pending, {withheld} withheld, {held} held");
    }
    if let Some(outbox) = status.outbox.filter(|outbox| *outbox != OutboxStatus::default()) {
        let OutboxStatus { letters_waiting, letters_given_up, accounts_waiting, accounts_refused } = outbox;
        let letters = format!("{letters_waiting} letters wait, {letters_given_up} given up");
        let _ = writeln!(text, "Outbox     {letters}; {accounts_waiting} accounts to make, {accounts_refused} refused");
    }
    for hold in &status.holds {
        let _ = writeln!(text, "Held       {}  {}  {} steps: {}", hold.id, hold.class, hold.steps, hold.detail);
    }
    for failure in &status.failures {
        let _ = writeln!(text, "Failed     {}: {}", failure.what, failure.reason);
        if let Some(remedy) = &failure.remedy {
            let _ = writeln!(text, "           {remedy}");
        }
        if let Some(at) = failure.retry_at {
            let _ = writeln!(text, "           tried again {at}");
        }
    }
    for note in &status.notes {
        let _ = writeln!(text, "Note       {note}");
    }
    text
}

fn heading(text: &mut String, status: &Status) {
    let mode = match status.mode {
        Mode::Live => "live",
        Mode::DryRun => "dry run: nothing is written",
        Mode::Standby => "standing by: another usher writes",
    };
    let Status { version, instance, started_at, source, .. } = status;
    let _ = writeln!(text, "usher {version}, instance {instance}, {mode}, since {started_at}");
    let read = source.last_success.map_or_else(|| "not read yet".to_owned(), |at| format!("read {at}"));
    let _ = writeln!(text, "Source     {}, {} users, {} groups, {read}", source.kind, source.users, source.groups);
    if !source.complete {
        text.push_str("           not complete: nothing is removed\n");
    }
    if let Some(problem) = &source.problem {
        let _ = writeln!(text, "           {problem}");
    }
}

fn last_pass(text: &mut String, pass: &PassStatus) {
    let counts: Vec<String> = pass.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let counts = if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") };
    let took = pass.ended.since_ms(pass.started).max(0);
    let _ = writeln!(text, "Last pass  {}, {} ({}), {took} ms: {counts}", pass.ended, pass.result, pass.cause);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::Timestamp;
    use crate::observability::{FailureStatus, SourceStatus};

    fn status() -> Status {
        let at = |seconds: i64| Timestamp(1_795_255_000_000 + seconds * 1000);
        Status {
            version: "0.1.0".into(),
            instance: "main".into(),
            started_at: at(0),
            source: SourceStatus {
                kind: "ldap".into(),
                users: 60,
                groups: 14,
                last_success: Some(at(60)),
                problem: Some("size limit reached on page 3".into()),
                ..SourceStatus::default()
            },
            last_pass: Some(PassStatus {
                started: at(60),
                ended: at(61),
                cause: "poll".into(),
                result: "ok".into(),
                counts: BTreeMap::from([("done".into(), 3), ("failed".into(), 1)]),
            }),
            next_pass: Some(at(120)),
            plan: PlanStatus { pending: 1, withheld: 2, held: 2 },
            outbox: Some(OutboxStatus { letters_waiting: 2, accounts_refused: 1, ..OutboxStatus::default() }),
            holds: vec![HoldStatus {
                id: "h-1".into(),
                class: "locks".into(),
                detail: "9 people, limit 3".into(),
                steps: 2,
                first_held_at: at(0),
            }],
            failures: vec![FailureStatus {
                what: "invite @ann:a to Sales".into(),
                reason: "M_FORBIDDEN".into(),
                remedy: Some("give the bot level 50".into()),
                since: at(0),
                retry_at: Some(at(180)),
            }],
            notes: vec!["group cn=mods is missing".into()],
            ..Status::default()
        }
    }

    #[test]
    fn everything_an_operator_needs_is_said_in_eighty_columns() {
        let text = render(&status(), true);
        let expected = "\
usher 0.1.0, instance main, live, since 2026-11-21 09:56:40 UTC
Source     ldap, 60 users, 14 groups, read 2026-11-21 09:57:40 UTC
           not complete: nothing is removed
           size limit reached on page 3
Last pass  2026-11-21 09:57:41 UTC, ok (poll), 1000 ms: 3 done, 1 failed
Next pass  2026-11-21 09:58:40 UTC
Plan       1 pending, 2 withheld, 2 held
Outbox     2 letters wait, 0 given up; 0 accounts to make, 1 refused
Held       h-1  locks  2 steps: 9 people, limit 3
Failed     invite @ann:a to Sales: M_FORBIDDEN
           give the bot level 50
           tried again 2026-11-21 09:59:40 UTC
Note       group cn=mods is missing
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        assert!(render(&Status::default(), true).contains("not read yet"));
    }
}
