//! `usher hold`: what is held back, and letting it happen (S-81). Works beside a running usher: approvals are rows that its loop
//! picks up before the next pass (S-85). Never does the held steps itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, HoldVerb};
use crate::app::Failure;
use crate::clock;
use crate::ids::Timestamp;
use crate::plan::StepId;
use crate::store::{HeldStep, HoldRow, Store, StoreError, class_name};

/// How long an approval lasts, in milliseconds (S-81).
pub const APPROVAL_MS: i64 = 24 * 3600 * 1000;

/// A hold as `hold list --json` prints it (S-110).
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    class: &'static str,
    detail: &'a str,
    first_held_at: Timestamp,
    /// Present when every step is approved: until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_until: Option<Timestamp>,
    steps: &'a [HeldStep],
}

/// The verb as typed, on the database of the configuration.
pub(super) async fn verb(files: &[PathBuf], verb: &HoldVerb) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let (text, exit) = on(&config.database_url, verb, clock::now(), &super::operator()).await?;
    Ok(match super::printed(&text) {
        Exit::Done => exit,
        broken => broken,
    })
}

/// Carries out a `hold` verb on the database at `url`; makes none, and only an approval opens it for writing. Gives the text to print
/// and the exit code.
///
/// # Errors
/// When the database cannot be used.
pub async fn on(url: &str, verb: &HoldVerb, now: Timestamp, by: &str) -> Result<(String, Exit), StoreError> {
    let Some(looked) = Store::look(url).await? else { return Ok(nothing_yet(verb)) };
    let done = match verb {
        HoldVerb::List { .. } | HoldVerb::Show { .. } => run(&looked, verb, now, by).await,
        HoldVerb::Approve { .. } => {
            let store = Store::open(url).await?;
            let done = run(&store, verb, now, by).await;
            store.close().await;
            done
        }
    };
    looked.close().await;
    done
}

/// What is said where no pass was made yet.
fn nothing_yet(verb: &HoldVerb) -> (String, Exit) {
    match verb {
        HoldVerb::List { json: true } => ("[]\n".to_owned(), Exit::Done),
        HoldVerb::List { json: false } | HoldVerb::Approve { all: true, .. } => (
            "Nothing is held: there is no database yet, the first `usher apply` or `usher run` makes it.\n".to_owned(),
            Exit::Done,
        ),
        HoldVerb::Show { id } => (unknown(std::slice::from_ref(id), &[]), Exit::Error),
        HoldVerb::Approve { ids, all: false } => (unknown(ids, &[]), Exit::Error),
    }
}

/// Carries out a `hold` verb. `by` is kept with an approval. Gives the text to print and the exit code.
///
/// # Errors
/// When the database cannot be used.
pub async fn run(store: &Store, verb: &HoldVerb, now: Timestamp, by: &str) -> Result<(String, Exit), StoreError> {
    let (holds, approvals) = store.held().await?;
    match verb {
        HoldVerb::List { json } => {
            let shown: Vec<Shown<'_>> = holds.iter().map(|hold| shown(hold, &approvals, now)).collect();
            let text = if *json { json_list(&shown)? } else { list(&shown) };
            Ok((text, Exit::Done))
        }
        HoldVerb::Show { id } => Ok(match holds.iter().find(|hold| hold.id == *id) {
            Some(hold) => (show(&shown(hold, &approvals, now)), Exit::Done),
            None => (unknown(std::slice::from_ref(id), &holds), Exit::Error),
        }),
        HoldVerb::Approve { ids, all } => {
            let missing: Vec<String> =
                ids.iter().filter(|id| holds.iter().all(|hold| hold.id != **id)).cloned().collect();
            if !missing.is_empty() {
                return Ok((unknown(&missing, &holds), Exit::Error));
            }
            let chosen: Vec<&HoldRow> = holds.iter().filter(|hold| *all || ids.contains(&hold.id)).collect();
            approve(store, &chosen, now, by).await.map(|text| (text, Exit::Done))
        }
    }
}

async fn approve(store: &Store, chosen: &[&HoldRow], now: Timestamp, by: &str) -> Result<String, StoreError> {
    if chosen.is_empty() {
        return Ok("Nothing is held.\n".to_owned());
    }
    let until = now.plus_ms(APPROVAL_MS);
    let steps: Vec<StepId> = chosen.iter().flat_map(|hold| &hold.steps).map(|step| step.id.clone()).collect();
    store.approve(&steps, until, by).await?;
    let mut text = String::new();
    for hold in chosen {
        let _ = writeln!(text, "Approved {}: {} of {}.", hold.id, steps_of(hold.steps.len()), class_name(hold.class));
    }
    let _ = writeln!(
        text,
        "The next pass does them; what is not done by {until} needs a new approval.\nSteps that were not listed stay held."
    );
    Ok(text)
}

fn shown<'a>(hold: &'a HoldRow, approvals: &BTreeMap<StepId, Timestamp>, now: Timestamp) -> Shown<'a> {
    let ends = hold.steps.iter().map(|step| approvals.get(&step.id).copied().filter(|until| *until > now));
    let approved_until = ends.collect::<Option<Vec<Timestamp>>>().and_then(|ends| ends.into_iter().min());
    Shown {
        id: &hold.id,
        class: class_name(hold.class),
        detail: &hold.detail,
        first_held_at: hold.first_held_at,
        approved_until,
        steps: &hold.steps,
    }
}

fn json_list(shown: &[Shown<'_>]) -> Result<String, StoreError> {
    let text = serde_json::to_string_pretty(shown);
    let text = text.map_err(|error| StoreError::Damaged { what: "print the holds", cause: error.to_string() })?;
    Ok(text + "\n")
}

fn list(shown: &[Shown<'_>]) -> String {
    if shown.is_empty() {
        return "Nothing is held.\n".to_owned();
    }
    let mut text = String::new();
    for hold in shown {
        text.push_str(&heading(hold));
    }
    let _ = writeln!(text, "\nLook:    usher hold show {}", shown[0].id);
    let _ = writeln!(text, "Approve: usher hold approve {}", shown[0].id);
    text
}

fn heading(hold: &Shown<'_>) -> String {
    let mut text = format!("{}  {}  {}\n    {}\n", hold.id, hold.class, steps_of(hold.steps.len()), hold.detail);
    let _ = writeln!(text, "    held since {}", hold.first_held_at);
    if let Some(until) = hold.approved_until {
        let _ = writeln!(text, "    approved until {until}, waits for the next pass");
    }
    text
}

fn show(hold: &Shown<'_>) -> String {
    let mut text = heading(hold);
    for step in hold.steps {
        let _ = writeln!(text, "  {}", step.text);
    }
    text
}

fn unknown(ids: &[String], holds: &[HoldRow]) -> String {
    let mut text = format!("There is no hold {}.", ids.join(", "));
    if holds.is_empty() {
        text.push_str(" Nothing is held yet: what `usher plan` shows as held can be approved once `usher apply` or `usher run` has made a pass.\n");
    } else {
        let known: Vec<&str> = holds.iter().map(|hold| hold.id.as_str()).collect();
        let _ = writeln!(text, " Held now: {}.", known.join(", "));
    }
    text
}

fn steps_of(count: usize) -> String {
    if count == 1 { "1 step".to_owned() } else { format!("{count} steps") }
}
