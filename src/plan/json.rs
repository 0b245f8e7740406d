//! The plan as JSON for machines. `format_version` 1.x only ever gains fields.

use serde_json::{Value, json};

use super::{AccountDeed, Action, Attribute, Deed, Header, Plan, RoomRef, Step};
use crate::ids::Timestamp;
use crate::observed::CREATOR;

/// The whole plan. Mail addresses and secrets are in no plan.
#[must_use]
pub fn to_json(plan: &Plan, header: &Header, now: Timestamp) -> Value {
    json!({
        "format_version": "1.0",
        "generated_at": now,
        "source": header.source,
        "target": header.target,
        "summary": {
            "pending": plan.pending().count(),
            "held": plan.held_count(),
            "withheld": plan.steps.iter().filter(|step| !step.is_pending()).count() - plan.held_count(),
            "text": plan.summary(),
        },
        "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
        "held": plan.held().iter().map(|item| json!({
            "id": item.id,
            "class": item.hold.class,
            "space": item.hold.space.as_ref().map(ToString::to_string),
            "count": item.hold.count,
            "limit": item.hold.limit,
            "base": item.hold.base,
            "detail": item.hold.detail,
            "steps": item.steps,
        })).collect::<Vec<_>>(),
        "notes": plan.notes.iter().map(|note| json!({ "kind": note.kind(), "text": note.to_string() })).collect::<Vec<_>>(),
    })
}

fn step(step: &Step) -> Value {
    let mut out = json!({
        "id": step.id(),
        "action": step.action.verb().replace(' ', "_"),
        "place": step.place.as_ref().map(ToString::to_string),
        "room": step.action.room().and_then(|room| match room {
            RoomRef::Id(id) => Some(id.as_str()),
            RoomRef::New(_) => None,
        }),
        "user": step.action.user(),
        "reason": { "kind": step.reason.kind(), "text": step.reason.to_string() },
        "status": match &step.withheld {
            None => "pending",
            Some(withheld) if withheld.is_held() => "held",
            Some(_) => "withheld",
        },
        "withheld": step.withheld.as_ref().map(ToString::to_string),
    });
    match &step.action {
        Action::SetState { state, .. } => out["state"] = state.label().into(),
        Action::SetPowerLevels { changes, .. } | Action::Puppet { deed: Deed::SetLevels { changes, .. }, .. } => {
            out["levels"] = changes
                .iter()
                .map(|change| {
                    // A creator stands above every number.
                    let from = (change.from != CREATOR).then_some(change.from);
                    json!({ "user": change.user, "key": change.key, "from": from, "to": change.to, "reason": change.reason.to_string() })
                })
                .collect();
        }
        Action::Account { deed: AccountDeed::Set(Attribute::Avatar(avatar)), .. } => {
            out["photo"] = json!({ "bytes": avatar.photo.size, "sha256": avatar.photo.short() });
        }
        _ => {}
    }
    out
}
