//! What usher tells about itself: log lines, metrics, status. `info` is every write, `debug` every check (S-93).
//!
//! Never: tokens, secrets, mail addresses, message bodies. Libraries that print headers or queries stay at `warn`, and the
//! homeserver transport is silent: its requests are logged by us.

mod metrics;
mod status;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use metrics::{Metrics, StepState};
pub use status::{FailureStatus, HoldStatus, Mode, OutboxStatus, PassStatus, PlanStatus, SourceStatus, Status};

use crate::cli::progress::BesideBar;
use crate::config::{LogFormat, Logging};

/// Starts logging to standard error. Later calls change nothing.
pub fn start_logging(logging: &Logging) {
    start_logging_to(logging, || BesideBar);
}

fn start_logging_to<W>(logging: &Logging, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A second call finds a subscriber in place: tests share one process.
    let _ = tracing::dispatcher::set_global_default(subscriber(logging, writer));
}

fn subscriber<W>(logging: &Logging, writer: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(directives(logging.level))).with_writer(writer);
    match logging.format {
        LogFormat::Pretty => builder.with_ansi(false).into(),
        LogFormat::Json => builder.json().flatten_event(true).into(),
    }
}

/// usher at its level, the rest at `warn` at most: at `debug` LDAP and HTTP libraries print what they send.
fn directives(level: Level) -> String {
    let others = level.min(Level::WARN).to_string().to_lowercase();
    format!("{others},usher={},matrix_sdk=off", level.to_string().to_lowercase())
}

/// AIM's names for levels (S-93); `None` for a word that is none of them.
#[must_use]
pub fn level_named(name: &str) -> Option<Level> {
    match name {
        "error" => Some(Level::ERROR),
        "warn" => Some(Level::WARN),
        "info" => Some(Level::INFO),
        "http" | "verbose" | "debug" => Some(Level::DEBUG),
        "silly" => Some(Level::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let logging = Logging { level: level_named(level).unwrap(), format };
        // Hears nothing. With one listener alone in the process, what it wants to hear may hold for the test beside this one.
        let _deaf = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        tracing::dispatcher::with_default(&subscriber(&logging, move || writer.clone()), || {
            tracing::error!(target: "matrix_sdk::http_client", "not found, as expected");
            tracing::debug!(target: "ldap3::conn", "bind password");
            tracing::info!(target: "usher::execute", room = "!a:b", "invited");
            tracing::debug!(target: "usher::reconcile", "checked");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn info_shows_writes_and_hides_checks_and_libraries() {
        let text = logged("info", LogFormat::Pretty);
        assert!(text.contains("invited") && text.contains("room=\"!a:b\""), "{text}");
        for hidden in ["checked", "expected", "password"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }

    #[test]
    fn silly_shows_checks_and_still_hides_libraries() {
        let text = logged("silly", LogFormat::Pretty);
        assert!(text.contains("checked"), "{text}");
        assert!(!text.contains("password") && !text.contains("expected"), "{text}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged("verbose", LogFormat::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["room"], "!a:b");
    }

    #[test]
    fn error_quietens_libraries_too() {
        assert_eq!(directives(Level::ERROR), "error,usher=error,matrix_sdk=off");
        assert_eq!(level_named("chatty"), None);
    }
}
