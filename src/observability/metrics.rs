//! Every metric, in one struct. Labels are bounded: `&'static str` and numbers of the protocol, never a user, room or group.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::OutboxStatus;
use crate::ids::Timestamp;
use crate::matrix::RequestCount;
use crate::plan::Class;
use crate::store::class_name;

type Seconds = Gauge<f64, AtomicU64>;

/// The metrics and their registry. Shared by `Arc`; every method takes `&self`.
pub struct Metrics {
    registry: Registry,
    passes: Family<PassLabels, Counter>,
    steps: Family<StepLabels, Counter>,
    held: Family<ClassLabels, Gauge>,
    matrix_requests: Family<RequestLabels, Counter>,
    plan_steps: Family<StateLabels, Gauge>,
    source_last_success: Seconds,
    source_users: Gauge,
    source_groups: Gauge,
    source_complete: Gauge,
    last_pass: Seconds,
    exposed: Gauge,
    outbox: Family<OutboxLabels, Gauge>,
}

/// What becomes of a planned step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    Pending,
    Withheld,
    Held,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutboxLabels {
    what: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    endpoint: &'static str,
    code: u16,
}

/// Every class, so that one that is no longer held reads 0 instead of its last figure.
const CLASSES: [Class; 14] = [
    Class::Locks,
    Class::FinalSteps,
    Class::Addresses,
    Class::KicksPerSpace,
    Class::KicksTotal,
    Class::Demotions,
    Class::Spaces,
    Class::Rooms,
    Class::EmptiedGroup,
    Class::LedgerLost,
    Class::ModeSwitch,
    Class::Rename,
    Class::Adoption,
    Class::Upgrades,
];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All at zero, registered under `usher_…`.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("usher"),
            passes: Family::default(),
            steps: Family::default(),
            held: Family::default(),
            matrix_requests: Family::default(),
            plan_steps: Family::default(),
            source_last_success: Seconds::default(),
            source_users: Gauge::default(),
            source_groups: Gauge::default(),
            source_complete: Gauge::default(),
            last_pass: Seconds::default(),
            exposed: Gauge::default(),
            outbox: Family::default(),
        };
        metrics.register();
        metrics.set_held(|_| 0);
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("passes", "Passes by result", self.passes.clone());
        r.register("steps", "Steps done, by action and result", self.steps.clone());
        r.register("held", "Steps waiting for an approval, by class", self.held.clone());
        r.register("matrix_requests", "Requests to the homeserver", self.matrix_requests.clone());
        r.register("plan_steps", "Steps of the latest plan, by state", self.plan_steps.clone());
        let help = "When the source was last read without an error";
        r.register("source_last_success_timestamp_seconds", help, self.source_last_success.clone());
        r.register("source_users", "Users in the latest read", self.source_users.clone());
        r.register("source_groups", "Groups in the latest read", self.source_groups.clone());
        r.register("source_complete", "1 if the latest read was complete", self.source_complete.clone());
        r.register("last_pass_timestamp_seconds", "When the latest pass ended", self.last_pass.clone());
        let help = "Protected users and server admins whom the puppet registration admits";
        r.register("puppet_exposed_users", help, self.exposed.clone());
        r.register("outbox", "Letters and accounts that are ordered, by state", self.outbox.clone());
        r.register("build", "This usher", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    }

    /// A pass ended. `result`: `ok`, `failures`, `error`.
    pub fn pass_ended(&self, result: &'static str, at: Timestamp) {
        self.passes.get_or_create(&PassLabels { result }).inc();
        self.last_pass.set(seconds(at));
    }

    /// A step ended. `action` is the name of its variant, `result`: `done`, `failed`, `refused`, `stale`.
    pub fn step_ended(&self, action: &'static str, result: &'static str) {
        self.steps.get_or_create(&StepLabels { action, result }).inc();
    }

    /// Brings the request counters up to the transport's own counts. Code 0 stands for no answer.
    pub fn count_requests(&self, counts: &[RequestCount]) {
        for line in counts {
            let code = line.code.parse().unwrap_or(0);
            let labels = RequestLabels { method: line.method, endpoint: line.endpoint, code };
            let counter = self.matrix_requests.get_or_create(&labels);
            counter.inc_by(line.count.saturating_sub(counter.get()));
        }
    }

    /// The source was read.
    pub fn source_read(&self, users: u64, groups: u64, complete: bool, at: Timestamp) {
        self.source_users.set(whole(users));
        self.source_groups.set(whole(groups));
        self.source_complete.set(i64::from(complete));
        self.source_last_success.set(seconds(at));
    }

    /// The source could not be read: what was known stays, but it is not complete.
    pub fn source_failed(&self) {
        self.source_complete.set(0);
    }

    /// People whom the puppet registration should leave out and does not (S-103).
    pub fn set_exposed(&self, people: u64) {
        self.exposed.set(whole(people));
    }

    /// Steps of the latest plan.
    pub fn set_plan(&self, state: StepState, steps: u64) {
        let state = match state {
            StepState::Pending => "pending",
            StepState::Withheld => "withheld",
            StepState::Held => "held",
        };
        self.plan_steps.get_or_create(&StateLabels { state }).set(whole(steps));
    }

    /// Held steps of every class.
    pub fn set_held(&self, steps: impl Fn(Class) -> u64) {
        for class in CLASSES {
            self.held.get_or_create(&ClassLabels { class: class_name(class) }).set(whole(steps(class)));
        }
    }

    /// Letters and accounts on their way.
    pub fn set_outbox(&self, outbox: &OutboxStatus) {
        let OutboxStatus { letters_waiting, letters_given_up, accounts_waiting, accounts_refused } = *outbox;
        for (what, state, count) in [
            ("letter", "waiting", letters_waiting),
            ("letter", "given_up", letters_given_up),
            ("account", "waiting", accounts_waiting),
            ("account", "refused", accounts_refused),
        ] {
            self.outbox.get_or_create(&OutboxLabels { what, state }).set(count);
        }
    }

    /// The `OpenMetrics` text.
    ///
    /// # Errors
    /// None in practice: writing into a string does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a double until the year 287396")]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_rendered_under_its_name() {
        let metrics = Metrics::new();
        metrics.pass_ended("ok", Timestamp(1_500));
        metrics.step_ended("invite", "done");
        metrics.step_ended("invite", "done");
        let line = |count| RequestCount { method: "PUT", endpoint: "/rooms/{room}/state", code: "429".into(), count };
        metrics.count_requests(&[line(1)]);
        metrics.count_requests(&[line(4)]);
        metrics.source_read(60, 9, true, Timestamp(2_000));
        metrics.set_plan(StepState::Held, 3);
        metrics.set_exposed(2);
        metrics.set_held(|class| if class == Class::Demotions { 3 } else { 0 });
        metrics.set_outbox(&OutboxStatus { letters_waiting: 2, accounts_refused: 1, ..OutboxStatus::default() });
        let text = metrics.render().unwrap();
        for line in [
            "usher_outbox{what=\"letter\",state=\"waiting\"} 2",
            "usher_outbox{what=\"account\",state=\"refused\"} 1",
            "usher_outbox{what=\"account\",state=\"waiting\"} 0",
            "usher_passes_total{result=\"ok\"} 1",
            "usher_steps_total{action=\"invite\",result=\"done\"} 2",
            "usher_matrix_requests_total{method=\"PUT\",endpoint=\"/rooms/{room}/state\",code=\"429\"} 4",
            "usher_held{class=\"demotions\"} 3",
            "usher_held{class=\"locks\"} 0",
            "usher_plan_steps{state=\"held\"} 3",
            "usher_puppet_exposed_users 2",
            "usher_source_users 60",
            "usher_source_groups 9",
            "usher_source_complete 1",
            "usher_source_last_success_timestamp_seconds 2.0",
            "usher_last_pass_timestamp_seconds 1.5",
            concat!("usher_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_failed_read_keeps_the_figures_and_says_so() {
        let metrics = Metrics::new();
        metrics.source_read(60, 9, true, Timestamp(2_000));
        metrics.source_failed();
        let text = metrics.render().unwrap();
        assert!(text.contains("usher_source_users 60") && text.contains("usher_source_complete 0"), "{text}");
    }
}
