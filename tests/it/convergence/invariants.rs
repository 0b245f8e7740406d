//! What holds of every plan in every world.

use std::collections::BTreeSet;

use usher::desired::Standing;
use usher::ids::{RoomId, UserId};
use usher::observed::{Member, Presence, Room};
use usher::plan::{Action, Decision, Deed, LevelChange, RoomRef, Step};

use super::worlds::Stage;

/// Panics with the step that breaks an invariant.
pub fn hold(stage: &Stage, decision: &Decision) {
    let mut ids = BTreeSet::new();
    for step in &decision.plan.steps {
        let shown = decision.plan.line(step);
        assert!(!step.reason.to_string().is_empty(), "a step without a reason: {shown}");
        assert!(ids.insert(step.id()), "two steps with one id: {shown}");
        for user in losers(step) {
            assert!(!is_untouchable(stage, decision, user), "takes something from somebody who keeps it: {shown}");
            assert!(
                decision.directory.is_complete() || !step.is_pending(),
                "takes something from somebody on the word of an incomplete read: {shown}"
            );
        }
        if let Action::Puppet { user, deed, .. } = &step.action
            && !matches!(deed, Deed::Upgrade { .. })
            && step.is_pending()
        {
            assert!(decision.desired.puppets, "acts as somebody without being allowed to: {shown}");
            assert!(!is_untouchable(stage, decision, user), "acts as somebody who is left alone: {shown}");
        }
        if let Some(RoomRef::Id(id)) = step.action.room() {
            if let Some(room) = stage.observed.outside.get(id) {
                let goes_in = matches!(step.action, Action::Enter { .. } | Action::TakePower { .. });
                assert!(goes_in && is_open(stage, room), "in a room that nobody opened: {shown}");
                continue;
            }
            let room = stage.observed.rooms.get(id).unwrap_or_else(|| panic!("in a room nobody knows: {shown}"));
            assert_eq!(room.members.get(&stage.observed.bot), Some(&Member::Join), "in a room without us: {shown}");
            let ours = room.marker.is_some() || room.created_for.is_some();
            assert!(ours || is_open(stage, room), "in a room that is not ours: {shown}");
        }
    }
    let unguarded = stage.unguarded();
    assert_eq!(described(&unguarded), described(&decision.plan.steps), "the guard only withholds");
}

/// Everybody from whom a step takes a place or a level they have.
fn losers(step: &Step) -> Vec<&UserId> {
    match &step.action {
        Action::SetPowerLevels { changes, .. } => changes
            .iter()
            .filter(|change: &&LevelChange| change.removal.is_some())
            .filter_map(|change| change.user.as_ref())
            .collect(),
        Action::Puppet { deed: Deed::SetLevels { changes, .. }, .. } => changes
            .iter()
            .filter(|change: &&LevelChange| change.to < change.from)
            .filter_map(|change| change.user.as_ref())
            .collect(),
        Action::Kick { user, .. } | Action::Puppet { user, deed: Deed::Leave { .. } | Deed::Forget, .. } => vec![user],
        _ => Vec::new(),
    }
}

/// Whether a room's join rule names a room that carries our marker.
fn is_open(stage: &Stage, room: &Room) -> bool {
    let managed = |space: &RoomId| stage.observed.rooms.get(space).is_some_and(|space| space.is_space);
    room.join_rule.as_ref().is_some_and(|rule| rule.rule.ends_with("restricted") && rule.allow.iter().any(managed))
}

fn is_untouchable(stage: &Stage, decision: &Decision, user: &UserId) -> bool {
    let observed = &stage.observed;
    let account = match observed.accounts.presence(user) {
        Presence::Exists(account) => Some(account),
        Presence::Missing | Presence::Unknown => None,
    };
    let standing = decision.desired.people.standing(user);
    *user == observed.bot
        || *user == observed.sender
        || user.server() != observed.server
        || user.localpart().starts_with("boss")
        || account.is_some_and(|account| account.admin || account.foreign_service)
        || account.is_some_and(|account| account.locked && standing.is_some())
        || matches!(standing, Some(Standing::Suspended(_)))
}

/// What all steps do, whatever is withheld and however level changes are parted.
fn described(steps: &[Step]) -> BTreeSet<String> {
    steps
        .iter()
        .flat_map(|step| -> Vec<String> {
            let place = format!("{:?} {:?}", step.place, step.action.room());
            match &step.action {
                Action::SetPowerLevels { changes, .. } if !changes.is_empty() => changes
                    .iter()
                    .map(|change| format!("{place} {:?} {:?} {} {}", change.user, change.key, change.from, change.to))
                    .collect(),
                // What is written depends on what is written before.
                Action::Puppet { user, deed: Deed::SetLevels { changes, .. }, .. } => {
                    vec![format!("{place} {user} {changes:?}")]
                }
                action => vec![format!("{place} {action:?}")],
            }
        })
        .collect()
}
