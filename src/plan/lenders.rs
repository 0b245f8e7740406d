//! Who can bring the bot back where it lost its place or its power (S-22), as themselves, through the puppet registration.
//!
//! Pure. Never names a protected person (S-54) nor one whose place is undecided, and nobody from another homeserver.

use super::levels::{self, GUARD_LEVEL};
use super::reach::needed;
use super::{Deed, LevelChange, Planner, Reason};
use crate::desired::Desired;
use crate::ids::{Timestamp, UserId};
use crate::ledger::Ledger;
use crate::observed::{Member, Observed, PowerLevels, Room};

const LOST: Reason = Reason::Structure("the bot administers the room");

/// Who in `room`, as it was last seen, may invite the bot and may be acted for: the strongest first. Nobody without a puppet registration.
#[must_use]
pub fn inviters(
    (desired, observed): (&Desired, &Observed),
    ledger: &Ledger,
    room: &Room,
    now: Timestamp,
) -> Vec<UserId> {
    let lowest = levels_of(room).key("invite");
    able(&Planner::new(desired, observed, ledger, now), room, lowest).into_iter().map(|(_, user)| user).collect()
}

/// Who in `room` can give the bot what it takes to administer it, and how: the strongest first. The bot gets what they have, at most its
/// usual level, and is never lowered. Nobody without a puppet registration.
#[must_use]
pub fn raisers(
    (desired, observed): (&Desired, &Observed),
    ledger: &Ledger,
    room: &Room,
    now: Timestamp,
) -> Vec<(UserId, Deed)> {
    let (bot, standing) = (&observed.bot, levels_of(room));
    let (from, lowest) = (standing.user_level(bot), needed(&standing));
    let raised = |(level, user): (i64, UserId)| {
        let to = level.min(levels::BOT.max(lowest));
        let mut next = standing.clone();
        next.users.insert(bot.clone(), to);
        let change = LevelChange { user: Some(bot.clone()), key: None, from, to, reason: LOST, removal: None };
        (user, Deed::SetLevels { content: next.content(), changes: vec![change] })
    };
    let able = able(&Planner::new(desired, observed, ledger, now), room, lowest.max(from + 1));
    able.into_iter().map(raised).collect()
}

fn levels_of(room: &Room) -> PowerLevels {
    room.power_levels.clone().unwrap_or_default()
}

/// Local people in the room with at least this level who may be acted for, the strongest first.
fn able(planner: &Planner<'_>, room: &Room, lowest: i64) -> Vec<(i64, UserId)> {
    let observed = planner.observed;
    let joined = room.members.iter().filter(|(_, member)| **member == Member::Join).map(|(user, _)| user);
    let others = joined.filter(|user| **user != observed.bot && planner.may_puppet(user));
    let mut able: Vec<(i64, UserId)> =
        others.map(|user| (room.level_of(user), user.clone())).filter(|(power, _)| *power >= lowest).collect();
    able.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    able
}

/// Whether the bot cannot change the levels of a room any more. A room without levels is still in the making; from version 12 on only
/// its creators have power for good, and the bot is one only of what it made.
#[must_use]
pub fn is_powerless(room: &Room, bot: &UserId) -> bool {
    let listed = room.power_levels.as_ref().map(|levels| levels.user_level(bot));
    listed.is_some_and(|level| level < GUARD_LEVEL) && !room.is_above_levels(bot)
}
