//! What usher is doing, for `/status` and `usher status`. The loop publishes it through a `tokio::sync::watch` channel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Timestamp;

/// The whole answer of `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub instance: String,
    pub mode: Mode,
    pub started_at: Timestamp,
    pub source: SourceStatus,
    pub last_pass: Option<PassStatus>,
    pub next_pass: Option<Timestamp>,
    pub plan: PlanStatus,
    pub holds: Vec<HoldStatus>,
    pub failures: Vec<FailureStatus>,
    /// What SCIM clients ordered and usher has not done yet; `None`: no database could be asked.
    pub outbox: Option<OutboxStatus>,
    /// What an operator should know and no step answers.
    pub notes: Vec<String>,
}

/// Whether usher writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Live,
    DryRun,
    /// Waiting for another process to give up the writer's lease.
    Standby,
}

/// The latest read of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceStatus {
    /// `ldap`, `file`.
    pub kind: String,
    pub users: u64,
    pub groups: u64,
    pub complete: bool,
    pub last_success: Option<Timestamp>,
    /// Why the latest read failed or was not complete.
    pub problem: Option<String>,
}

/// The latest pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassStatus {
    pub started: Timestamp,
    pub ended: Timestamp,
    pub cause: String,
    pub result: String,
    pub counts: BTreeMap<String, u64>,
}

/// Steps of the latest plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanStatus {
    pub pending: u64,
    /// By policy, missing right or unconfirmed read.
    pub withheld: u64,
    /// Waiting for an approval.
    pub held: u64,
}

/// Letters and accounts on their way (S-63, S-64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxStatus {
    pub letters_waiting: i64,
    /// Within the last 30 days.
    pub letters_given_up: i64,
    pub accounts_waiting: i64,
    /// Of people who are active.
    pub accounts_refused: i64,
}

/// One hold; its steps are read with `usher hold show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HoldStatus {
    pub id: String,
    pub class: String,
    pub detail: String,
    pub steps: u64,
    pub first_held_at: Timestamp,
}

/// One thing that failed and is tried again (S-82).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureStatus {
    /// The step, as the plan words it.
    pub what: String,
    pub reason: String,
    /// What the operator can do about it.
    pub remedy: Option<String>,
    pub since: Timestamp,
    pub retry_at: Option<Timestamp>,
}

impl From<crate::store::scim::Delayed> for FailureStatus {
    fn from(delayed: crate::store::scim::Delayed) -> Self {
        Self {
            what: format!("make the account of '{}'", delayed.localpart),
            reason: delayed.cause,
            remedy: None,
            since: delayed.since,
            retry_at: Some(delayed.retry_at),
        }
    }
}

impl From<&crate::store::HoldRow> for HoldStatus {
    fn from(hold: &crate::store::HoldRow) -> Self {
        Self {
            id: hold.id.clone(),
            class: crate::store::class_name(hold.class).to_owned(),
            detail: hold.detail.clone(),
            steps: hold.steps.len() as u64,
            first_held_at: hold.first_held_at,
        }
    }
}
