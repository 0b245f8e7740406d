//! `usher grace`: who is locked, since when, until when and why, and an operator's word on it (S-52). Works beside a running usher: orders
//! are rows that its loop takes in before the next pass (S-85). Never locks, unlocks or erases anybody itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, GraceVerb};
use crate::app::Failure;
use crate::clock;
use crate::config::{Config, Deprovisioning, parse_duration};
use crate::ids::{RoomId, Timestamp, UserId};
use crate::ledger::{Cause, Leaver, Ledger, Objection, Order, Stage};
use crate::store::audit::AuditRecord;
use crate::store::{Store, StoreError};

/// When an order is taken in, and where it shows what became of it.
pub(super) const WHEN: &str = "The running usher takes it in before its next pass, without one the next `usher apply` does; `usher audit tail` then \
     shows whether it was obeyed.\n";

/// One locked person as `grace list --json` prints it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    user: &'a UserId,
    locked_at: Timestamp,
    cause: Cause,
    stage: Stage,
    /// The final step comes no sooner; absent: there is no clock, or no lock of usher's.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    last_step: &'static str,
    /// Rooms they are the last administrator of, and who is to follow; `null`: nobody can.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    administers: &'a BTreeMap<RoomId, Option<UserId>>,
}

/// The verb as typed, on the database of the configuration.
pub(super) async fn verb(files: &[PathBuf], verb: &GraceVerb) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let (text, exit) = on(&config, verb, clock::now(), &super::operator()).await?;
    Ok(match super::printed(&text) {
        Exit::Done => exit,
        broken => broken,
    })
}

/// Carries out a `grace` verb; only an order opens the database for writing. Gives the text to print and the exit code.
///
/// # Errors
/// When the database cannot be used.
pub async fn on(config: &Config, verb: &GraceVerb, now: Timestamp, by: &str) -> Result<(String, Exit), StoreError> {
    let Some(looked) = Store::look(&config.database_url).await? else {
        return Ok((
            "Nobody is locked: there is no database yet, the first `usher apply` makes it.\n".to_owned(),
            Exit::Done,
        ));
    };
    let ledger = looked.load_ledger().await;
    looked.close().await;
    let ledger = ledger?;
    let order = match verb {
        GraceVerb::List { json } => return Ok((list(config, &ledger, *json), Exit::Done)),
        GraceVerb::Restore { user } => Order::Restore { user: person(config, user) },
        GraceVerb::Lock { user } => Order::Lock { user: person(config, user) },
        GraceVerb::EraseNow { user } => Order::EraseNow { user: person(config, user) },
        GraceVerb::Extend { user, period } => {
            let Some(ms) = parse_duration(period) else {
                let text = format!("'{period}' is no duration: an amount and one of s, m, h, d, such as 30d\n");
                return Ok((text, Exit::Usage));
            };
            Order::Extend { user: person(config, user), not_before: now.plus_ms(ms) }
        }
    };
    let user = order.on_whom(&config.homeserver.server_name);
    let policy = config.user_provisioner.deprovisioning.as_ref();
    let objection = ledger.objection(&order, policy.and_then(|policy| policy.erase_inactive_after_ms));
    let (Some(leaver), None) = (ledger.leavers.get(&user), &objection) else {
        let why = objection.unwrap_or(Objection::NotALeaver);
        return Ok((format!("{user}: {why}\n"), Exit::Error));
    };
    let text = promise(&order, &user, leaver, policy);
    give(config, &order, now, by).await?;
    Ok((format!("{text}\n{WHEN}"), Exit::Done))
}

/// What an order is for, with what it depends on.
fn promise(order: &Order, user: &UserId, leaver: &Leaver, policy: Option<&Deprovisioning>) -> String {
    let ended = if policy.is_none_or(|policy| policy.erase) { "erased" } else { "deactivated" };
    match order {
        Order::Restore { .. } if leaver.stage == Stage::Closing => {
            format!("Ordered: {user} is unlocked, unless the homeserver has {ended} the account by then.")
        }
        Order::Restore { .. } => {
            format!(
                "Ordered: {user} is unlocked and stays so, although the directory does not have them or has them disabled."
            )
        }
        Order::Lock { .. } => {
            format!("Ordered: {user} is locked again if they are still gone or disabled, and grace begins anew.")
        }
        Order::Extend { not_before, .. } => {
            format!("Ordered: {user} is not {ended} before {}.", not_before.to_minute())
        }
        Order::EraseNow { .. } if leaver.is_spared() => {
            format!("Ordered: {user} is locked again and {ended}, if a fresh read of the source still lacks them.")
        }
        Order::EraseNow { .. } if leaver.cause == Cause::Disabled => {
            format!("Ordered: {user} is {ended}, if a fresh read of the source still has them as disabled.")
        }
        Order::EraseNow { .. } | Order::Rebind { .. } => {
            format!("Ordered: {user} is {ended}, if a fresh read of the source still lacks them.")
        }
    }
}

/// Leaves an order for the loop, and says so in the audit.
pub(super) async fn give(config: &Config, order: &Order, now: Timestamp, by: &str) -> Result<(), StoreError> {
    let store = Store::open(&config.database_url).await?;
    let user = order.on_whom(&config.homeserver.server_name);
    let given = async {
        let record = AuditRecord::of_order((order, &user), (now, by), &store.digest_key().await?, "ordered");
        store.give_order(order, (now, by), &record).await
    };
    let given = given.await;
    store.close().await;
    given
}

/// `@evan:example.org`, `@evan` or `evan`.
fn person(config: &Config, text: &str) -> UserId {
    if text.starts_with('@') && text.contains(':') {
        UserId::from(text)
    } else {
        UserId::new(&text.trim_start_matches('@').to_ascii_lowercase(), &config.homeserver.server_name)
    }
}

fn list(config: &Config, ledger: &Ledger, json: bool) -> String {
    let policy = config.user_provisioner.deprovisioning.as_ref();
    let shown: Vec<Shown<'_>> = ledger.leavers.iter().map(|(user, leaver)| shown(user, leaver, policy)).collect();
    if json {
        return serde_json::to_string_pretty(&shown).unwrap_or_default() + "\n";
    }
    if shown.is_empty() {
        return "Nobody is locked by usher.\n".to_owned();
    }
    let width = shown.iter().map(|leaver| leaver.user.as_str().chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for leaver in shown {
        let cause = leaver.cause;
        let fate = match (leaver.stage, leaver.not_before) {
            (Stage::Restoring | Stage::Halting, _) => "to be unlocked, as an operator ordered".to_owned(),
            (Stage::Restored, _) => "restored by an operator".to_owned(),
            (Stage::Closing, _) => format!("{} is under way", leaver.last_step),
            (Stage::Open, _) => "open, to be locked again".to_owned(),
            (Stage::Locking | Stage::LockingAgain | Stage::Locked, Some(due)) => {
                format!("{} not before {}", leaver.last_step, due.to_minute())
            }
            (Stage::Locking | Stage::LockingAgain | Stage::Locked, None) => "no clock".to_owned(),
        };
        let (user, since) = (leaver.user.as_str(), leaver.locked_at.to_minute());
        let _ = writeln!(out, "{user:width$}  locked {since}  {cause}; {fate}");
        for (room, heir) in leaver.administers {
            let next = match heir {
                Some(heir) => format!("{heir} follows"),
                None => "nobody of this homeserver can follow, so the account is not ended".to_owned(),
            };
            let _ = writeln!(out, "{:width$}  last administrator of {room}: {next}", "");
        }
    }
    out
}

fn shown<'a>(user: &'a UserId, leaver: &'a Leaver, policy: Option<&Deprovisioning>) -> Shown<'a> {
    let period = policy.and_then(|policy| policy.grace_ms(leaver.cause));
    Shown {
        user,
        locked_at: leaver.since,
        cause: leaver.cause,
        stage: leaver.stage,
        not_before: period.filter(|_| leaver.is_ours()).map(|period| leaver.due(period)),
        administers: &leaver.administers,
        last_step: if policy.is_none_or(|policy| policy.erase) { "erasure" } else { "deactivation" },
    }
}
