//! `userProvisioner`: attribute sync and offboarding (S-50 to S-53), the types and their reading.

use super::section::Section;
use super::value::Field;
use crate::ledger::Cause;

const DAY: i64 = 86_400_000;

/// S-50 to S-53.
#[derive(Clone, Debug, Default)]
pub struct UserProvisioner {
    pub deprovisioning: Option<Deprovisioning>,
    pub synapse_attributes: Vec<String>,
    pub display_name: SyncMode,
    /// `None`: photos of the directory are never looked at.
    pub avatar: Option<SyncMode>,
}

/// When a name or photo of the directory is written (S-50).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    #[default]
    Always,
    Initial,
    WhenDirectoryChanges,
}

/// Present only when `deprovisioning.enabled` is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprovisioning {
    pub soft_delete_period_ms: i64,
    pub erase: bool,
    pub candidates_root_space: bool,
    pub erase_inactive_after_ms: Option<i64>,
    pub erasures_per_day: u32,
}

impl Deprovisioning {
    /// How long an account that is locked for `cause` waits for its end, in milliseconds; `None`: for ever (S-52).
    #[must_use]
    pub fn grace_ms(&self, cause: Cause) -> Option<i64> {
        match cause {
            Cause::Absent | Cause::Stranger => Some(self.soft_delete_period_ms),
            Cause::Disabled => self.erase_inactive_after_ms,
        }
    }
}

const MODES: [(&str, SyncMode); 3] = [
    ("always", SyncMode::Always),
    ("initial", SyncMode::Initial),
    ("when_directory_changes", SyncMode::WhenDirectoryChanges),
];

pub(super) fn user_provisioner(root: &mut Section<'_>) -> UserProvisioner {
    let mut provisioner = UserProvisioner::default();
    // AIM's older place for the period is the top level.
    let oldest = root.field("user_soft_delete_period");
    let Some(mut section) = root.section("userProvisioner") else {
        without_effect(oldest);
        return provisioner;
    };
    if let Some(mut synapse) = section.section("synapse") {
        provisioner.synapse_attributes =
            synapse.list("attributes").iter().filter_map(attribute).map(str::to_owned).collect();
        synapse.finish();
    }
    provisioner.display_name = section.choice("displayName", SyncMode::Always, &MODES);
    let wanted = MODES.map(|(name, mode)| (name, Some(mode)));
    let avatars: Vec<(&str, Option<SyncMode>)> = [("never", None)].into_iter().chain(wanted).collect();
    provisioner.avatar = section.choice("avatar", None, &avatars);
    let outer = section.field("user_soft_delete_period").or(oldest);
    if let Some(mut inner) = section.section("deprovisioning") {
        provisioner.deprovisioning = deprovisioning(&mut inner, outer);
        inner.finish();
    } else {
        without_effect(outer);
    }
    section.finish();
    provisioner
}

fn without_effect(period: Option<Field<'_>>) {
    if let Some(period) = period {
        period.duration();
        period.advise("has no effect without `userProvisioner: { deprovisioning: { enabled: true } }`");
    }
}

fn attribute(field: &Field<'_>) -> Option<&'static str> {
    field.choice(&[("displayName", "displayName"), ("emails", "emails")])
}

fn deprovisioning(section: &mut Section<'_>, outer: Option<Field<'_>>) -> Option<Deprovisioning> {
    let enabled = section.boolean("enabled", false);
    let period = section.field_named(&["soft_delete_period", "user_soft_delete_period"]);
    if let (Some(_), Some(outer)) = (&period, &outer) {
        outer.fail("`deprovisioning.soft_delete_period` is given too, and means the same: keep one");
    }
    let finals = [("erase", true), ("deactivate", false)];
    let read = Deprovisioning {
        soft_delete_period_ms: period.or(outer).and_then(|field| field.duration()).unwrap_or(30 * DAY),
        erase: section.choice("final", true, &finals),
        candidates_root_space: section.choice("candidates", false, &[("ledger", false), ("root-space", true)]),
        erase_inactive_after_ms: section.field("erase_inactive_after").and_then(|field| field.duration()),
        erasures_per_day: u32::try_from(section.number("erasures_per_day", 10, (0, 100_000))).unwrap_or(10),
    };
    enabled.then_some(read)
}
