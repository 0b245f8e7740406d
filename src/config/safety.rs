//! `safety` (S-3, S-24, S-81, S-104) and `exceptions` (S-25, S-107).

use chrono::{DateTime, Days, NaiveDate};

use super::section::Section;
use super::value::Field;
use super::{Exception, ExceptionPlace, Limit, Limits, Safety};
use crate::ids::{SpaceId, Timestamp, UserId};

/// Most people a limit may name.
const MOST: i64 = 1_000_000_000;

pub(super) fn safety(root: &mut Section<'_>) -> Safety {
    let mut safety = Safety { confirm_reads: 2, stale_after_ms: 24 * 3_600_000, limits: Limits::default() };
    let Some(mut section) = root.section("safety") else { return safety };
    safety.confirm_reads = u32::try_from(section.number("confirm_reads", 2, (1, 100))).unwrap_or(2);
    safety.stale_after_ms = section.duration("stale_after", safety.stale_after_ms);
    if let Some(mut limits) = section.section("limits") {
        let default = safety.limits;
        safety.limits = Limits {
            locks: limit(&mut limits, "locks", default.locks),
            final_steps: limit(&mut limits, "final_steps", default.final_steps),
            addresses: limit(&mut limits, "addresses", default.addresses),
            kicks_per_space: limit(&mut limits, "kicks_per_space", default.kicks_per_space),
            kicks_total: limit(&mut limits, "kicks_total", default.kicks_total),
            demotions: limit(&mut limits, "demotions", default.demotions),
            spaces: limit(&mut limits, "spaces", default.spaces),
            rooms: limit(&mut limits, "rooms", default.rooms),
        };
        limits.finish();
    }
    section.finish();
    safety
}

fn limit(limits: &mut Section<'_>, name: &'static str, default: Limit) -> Limit {
    let Some(mut section) = limits.section(name) else { return default };
    let count = |number: i64| u64::try_from(number).unwrap_or_default();
    let min = section.field("min").and_then(|field| field.integer((0, MOST))).map_or(default.min, count);
    let percent = section.field("percent").and_then(|field| field.integer((0, 100))).map_or(default.percent, count);
    let most = section.field("max");
    let max = most.as_ref().and_then(|field| field.integer((0, MOST))).map(count).or(default.max);
    if let (Some(field), Some(max)) = (most, max)
        && max < min
    {
        field
            .fail(format!("is below min ({min}): the limit is max(min, min(percent, max)), so raise max or lower min"));
    }
    section.finish();
    Limit { min, percent, max }
}

pub(super) fn exceptions(root: &mut Section<'_>) -> Vec<Exception> {
    root.list("exceptions").iter().map(exception).collect()
}

/// An entry that says nowhere where keeps its number, so that later ones are reported at theirs; `!` is looked up nowhere.
fn exception(field: &Field<'_>) -> Exception {
    let nowhere = ExceptionPlace::Room("!".to_owned());
    let Some(mut section) = field.section() else {
        return Exception { user: UserId::from(""), place: nowhere, level: 0, until: None, reason: String::new() };
    };
    let user = section.field("user");
    if user.is_none() {
        section.missing("user", "'@ann:example.com'");
    }
    let user = user.and_then(|field| field.user_id()).unwrap_or_else(|| UserId::from(""));
    let space = section.text("space");
    let room = section.text("room");
    let place = match (space, room) {
        (Some(space), None) => Some(ExceptionPlace::Space(SpaceId::from(space))),
        (None, Some(room)) => Some(ExceptionPlace::Room(room)),
        (Some(_), Some(_)) => {
            let message = "names both a `space` and a `room`: write one exception for each";
            section.report.error(Some(&section.spot), &section.path, message);
            None
        }
        (None, None) => {
            let message = "says nowhere where: add `space: <id of a space>` or `room: <id, room id or alias>`";
            section.report.error(Some(&section.spot), &section.path, message);
            None
        }
    };
    let level = section.number("level", 0, (0, 100));
    let until = section.field("until").and_then(|field| moment(&field));
    let reason = section.text("reason").unwrap_or_default();
    section.finish();
    Exception { user, place: place.unwrap_or(nowhere), level, until, reason }
}

/// A date (through the end of that day, UTC) or an RFC 3339 time.
pub(super) fn moment(field: &Field<'_>) -> Option<Timestamp> {
    let text = field.filled()?;
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(Timestamp(time.timestamp_millis()));
    }
    let next = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok().and_then(|day| day.checked_add_days(Days::new(1)));
    let Some(midnight) = next.and_then(|day| day.and_hms_opt(0, 0, 0)) else {
        field.fail(format!(
            "must be a date such as 2027-03-31 (through that day, UTC) or a time such as 2027-03-31T18:00:00Z, not {}",
            field.shown()
        ));
        return None;
    };
    Some(Timestamp(midnight.and_utc().timestamp_millis()))
}
