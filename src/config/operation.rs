//! `ops`, `operators`, `telemetry` and `logging`: what people who run usher see of it.

use super::section::Section;
use super::{LogFormat, Logging, Ops, Telemetry, secret};
use crate::ids::UserId;

pub(super) fn ops(root: &mut Section<'_>) -> Ops {
    let mut ops = Ops { listen: "127.0.0.1:8042".to_owned(), token: None };
    let Some(mut section) = root.section("ops") else { return ops };
    if let Some(listen) = section.field("listen").and_then(|field| field.listen()) {
        ops.listen = listen;
    }
    ops.token = secret::read(&mut section, "token", "token_file");
    section.finish();
    ops
}

pub(super) fn operators(root: &mut Section<'_>) -> Vec<UserId> {
    root.list("operators").iter().filter_map(super::value::Field::user_id).collect()
}

/// AIM's telemetry (S-94); its periods are whole seconds.
pub(super) fn telemetry(root: &mut Section<'_>) -> Option<Telemetry> {
    let mut section = root.section("telemetry")?;
    let telemetry = Telemetry {
        instance_id: section.need("instance_id", "'example.com'"),
        send_interval_ms: section.seconds("send_interval", 3_600),
        endpoint: section.field("endpoint").and_then(|field| field.url(&["http", "https"])),
        retry_count: u32::try_from(section.number("retry_count", 3, (0, 100))).unwrap_or(3),
        retry_interval_ms: section.seconds("retry_interval", 60),
    };
    section.finish();
    Some(telemetry)
}

/// S-93. AIM's `http` and `verbose` lie between `info` and `debug`, `silly` below it.
pub(super) fn logging(root: &mut Section<'_>) -> Logging {
    let mut logging = Logging { level: tracing::Level::INFO, format: LogFormat::Pretty };
    let Some(mut section) = root.section("logging") else { return logging };
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("http", tracing::Level::DEBUG),
        ("verbose", tracing::Level::DEBUG),
        ("debug", tracing::Level::DEBUG),
        ("silly", tracing::Level::TRACE),
    ];
    logging.level = section.choice("level", logging.level, &levels);
    let formats = [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)];
    logging.format = section.choice("format", logging.format, &formats);
    section.finish();
    logging
}
