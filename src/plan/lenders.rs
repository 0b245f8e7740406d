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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::load_with;
    use crate::desired::desire;
    use crate::directory::Directory;

    const NOW: Timestamp = Timestamp(0);

    fn desired(puppets: bool) -> Desired {
        let puppets = if puppets { ", puppet_registration: puppet.yaml" } else { "" };
        let yaml = format!(
            "homeserver: {{ url: 'http://127.0.0.1:8008', server_name: x }}\nsource: {{ type: file, path: people.yaml }}\n\
             appservice: {{ registration: usher.yaml{puppets} }}\nprovisioner: {{ protected_users: ['@boss:x'] }}\n"
        );
        let (config, _) = load_with(&[("usher.yaml".into(), yaml)], &|_| None).strict().expect("a configuration");
        desire(&config, &Directory::default(), &Ledger::default(), NOW)
    }

    /// A homeserver with these people: open, but for one who is locked and one who is closed.
    fn observed() -> Observed {
        let mut observed: Observed =
            serde_json::from_value(json!({ "server": "x", "bot": "@usher:x", "sender": "@_usher:x" }))
                .expect("a homeserver");
        observed.accounts.listed = true;
        for name in ["ann", "ben", "cat", "boss", "root", "dan", "eve"] {
            let account = observed.accounts.people.entry(UserId::new(name, "x")).or_default();
            account.admin = name == "root";
            account.locked = name == "dan";
            account.deactivated = name == "eve";
        }
        observed
    }

    /// A room of version 11 with these people in it, and their levels.
    fn room(levels: &[(&str, i64)], keys: &serde_json::Value) -> Room {
        let mut room = Room { version: "11".to_owned(), ..Room::default() };
        let mut power = PowerLevels::from_content(keys);
        for (name, level) in levels {
            let user = UserId::from(format!("@{name}").as_str());
            room.members.insert(user.clone(), Member::Join);
            power.users.insert(user, *level);
        }
        room.power_levels = Some(power);
        room
    }

    fn names(users: &[UserId]) -> Vec<&str> {
        users.iter().map(UserId::localpart).collect()
    }

    #[test]
    fn the_strongest_who_may_invite_comes_first_and_nobody_without_the_right() {
        let (desired, observed, ledger) = (desired(true), observed(), Ledger::default());
        let levels = [("ann:x", 50), ("ben:x", 100), ("cat:x", 49)];
        let asked = |room: &Room| inviters((&desired, &observed), &ledger, room, NOW);
        assert_eq!(names(&asked(&room(&levels, &json!({ "invite": 50 })))), ["ben", "ann"]);
        assert_eq!(names(&asked(&room(&levels, &json!({})))), ["ben", "ann", "cat"], "anybody may, by default");
        let mut left = room(&levels, &json!({ "invite": 50 }));
        left.members.insert("@ben:x".into(), Member::Invite);
        assert_eq!(names(&asked(&left)), ["ann"], "who is not in the room does nothing there");
        assert!(asked(&Room::default()).is_empty());
    }

    #[test]
    fn nobody_is_acted_for_who_is_protected_from_elsewhere_without_an_account_in_use_or_the_bot() {
        let (with, without, observed, ledger) = (desired(true), desired(false), observed(), Ledger::default());
        let all = ["boss:x", "root:x", "dan:x", "eve:x", "far:other", "ghost:x", "usher:x", "ann:x"];
        let room = room(&all.map(|name| (name, 100)), &json!({}));
        assert_eq!(names(&inviters((&with, &observed), &ledger, &room, NOW)), ["ann"]);
        assert_eq!(inviters((&without, &observed), &ledger, &room, NOW), [], "without a puppet registration");
        assert_eq!(raisers((&without, &observed), &ledger, &room, NOW), []);
    }

    #[test]
    fn the_bot_gets_what_they_have_and_no_more_than_its_usual_level() {
        let (desired, observed, ledger) = (desired(true), observed(), Ledger::default());
        let levels = [("ann:x", 100), ("ben:x", 200), ("cat:x", 99), ("usher:x", 10)];
        let keys = json!({ "users_default": 5, "events": { "org.example.own": 7 } });
        let raisers = raisers((&desired, &observed), &ledger, &room(&levels, &keys), NOW);
        let found: Vec<(&str, i64)> = raisers
            .iter()
            .map(|(user, deed)| {
                let Deed::SetLevels { content, changes } = deed else { panic!("{deed:?}") };
                assert_eq!(
                    (content["users"]["@cat:x"].as_i64(), content["events"]["org.example.own"].as_i64()),
                    (Some(99), Some(7))
                );
                assert!(changes.len() == 1 && changes[0].from == 10 && changes[0].removal.is_none(), "{changes:?}");
                assert_eq!(content["users"]["@usher:x"].as_i64(), Some(changes[0].to));
                (user.localpart(), changes[0].to)
            })
            .collect();
        assert_eq!(found, [("ben", levels::BOT), ("ann", 100)], "99 is not enough to own the levels");
    }

    #[test]
    fn a_room_that_asks_for_more_is_raised_to_that_and_nobody_below_the_bot_lowers_it() {
        let (desired, observed, ledger) = (desired(true), observed(), Ledger::default());
        let guarded = json!({ "events": { "m.room.power_levels": 180 } });
        let levels = [("ann:x", 150), ("ben:x", 190), ("usher:x", 0)];
        let found = raisers((&desired, &observed), &ledger, &room(&levels, &guarded), NOW);
        let Deed::SetLevels { changes, .. } = &found[0].1 else { panic!("{found:?}") };
        assert_eq!(
            (found.len(), found[0].0.localpart(), changes[0].to),
            (1, "ben", 180),
            "what owning the levels takes"
        );
        let levels = [("ann:x", 150), ("ben:x", 170), ("usher:x", 170)];
        assert_eq!(raisers((&desired, &observed), &ledger, &room(&levels, &guarded), NOW), []);
    }
}
