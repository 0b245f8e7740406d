//! The audit's rows: what each write changes, in words (S-90).
//!
//! Decides nothing, sends nothing. Never holds mail addresses, tokens or message bodies.

use std::collections::BTreeMap;

use super::Reconciler;
use crate::actuate::ActError;
use crate::clock;
use crate::ids::{RoomId, Timestamp, UserId};
use crate::ledger::keyed;
use crate::observed::{Account, CREATOR, Member, Observed};
use crate::plan::{AccountDeed, Action, Attribute, Deed, LevelChange, RoomRef, StateChange, Step, StepId};
use crate::store::audit::AuditRecord;
use crate::store::{Store, StoreError};

/// What steps found just before they were sent, in words: afterwards it is known no more.
pub(super) type Found = BTreeMap<StepId, String>;

impl Reconciler {
    pub(super) async fn audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        match self.store_to_write() {
            Some(store) => store.audit(records).await,
            None => Ok(()),
        }
    }

    pub(super) fn store_to_write(&self) -> Option<&Store> {
        self.parts.store.as_ref().filter(|_| self.parts.actuator.is_some())
    }

    /// The row of an end that usher had sent and that nothing more may be sent about; the same again as long as it is not taken in.
    pub(super) fn record_of_closed(&self, user: &UserId, locked: Timestamp, at: Timestamp) -> AuditRecord {
        AuditRecord {
            id: format!("{}-closed-{}", locked.0, keyed(&self.ledger.key, user.as_str()).0),
            at,
            pass: self.pass_began,
            actor: "usher".to_owned(),
            action: "end".to_owned(),
            person: user.to_string(),
            before: "locked".to_owned(),
            after: "deactivated".to_owned(),
            result: "done: found closed, and not looked at again because they are protected by now".to_owned(),
            ..AuditRecord::default()
        }
    }

    /// The audit's rows of a step that found `before`: one for each person it changes something for. `at` tells it from the same step of
    /// another time.
    pub(super) fn records(&self, step: &Step, before: String, at: Timestamp, result: &str) -> Vec<AuditRecord> {
        let record = |person: &str, number: usize, before: String, after: String| AuditRecord {
            seq: 0,
            id: format!("{}-{}-{number}", at.0, step.id()),
            at: clock::now(),
            pass: self.pass_began,
            actor: "usher".to_owned(),
            action: step.action.verb().to_owned(),
            place: place_of(step),
            person: person.to_owned(),
            reason: step.reason.to_string(),
            before,
            after,
            result: result.to_owned(),
        };
        let levels = step.action.level_changes();
        if levels.is_empty() {
            let person = person_of(step).map(UserId::as_str).unwrap_or_default();
            return vec![record(person, 0, before, became(&step.action))];
        }
        let of_change = |(number, change): (usize, &LevelChange)| {
            let person = change.user.as_ref().map(UserId::as_str).unwrap_or_default();
            let key = change.key.as_deref().map(|key| format!("{key} ")).unwrap_or_default();
            record(person, number, format!("{key}{}", level(change.from)), format!("{key}{}", level(change.to)))
        };
        levels.iter().enumerate().map(of_change).collect()
    }
}

/// What came of a write, for its row. It names nobody: the row says elsewhere whom it is about, and others come to their end as well.
pub(super) fn result_of(error: Option<&ActError>) -> String {
    error.map_or_else(
        || "done".to_owned(),
        |error| format!("{}: {}", format!("{:?}", error.kind).to_lowercase(), nameless(&error.cause)),
    )
}

/// A text with `somebody` in place of each Matrix id of a person.
fn nameless(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "'\",;()[]{}<>".contains(c);
    let mut parts = text.split('@');
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let id = part.split(ends).next().unwrap_or_default().trim_end_matches(['.', ':']);
        if id.contains(':') {
            told.push_str("somebody");
            told.push_str(&part[id.len()..]);
        } else {
            told.push('@');
            told.push_str(part);
        }
    }
    told
}

/// Whom a record is about: a room is given to somebody, and that stays on record when the name of whoever had it is taken out.
fn person_of(step: &Step) -> Option<&UserId> {
    step.action.heir().or(step.action.user())
}

fn place_of(step: &Step) -> String {
    match &step.action {
        Action::Account { deed: AccountDeed::HandOver { room, .. } | AccountDeed::TurnDown { room, .. }, .. } => {
            room.to_string()
        }
        _ => step.place.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// What `action` is about to change, as far as it is known.
pub(super) fn found(action: &Action, observed: &Observed) -> String {
    let member = |user: &UserId| membership(action.room(), user, observed).map_or("", word).to_owned();
    match action {
        Action::Invite { user, .. } | Action::Join { user, .. } | Action::Kick { user, .. } => member(user),
        Action::Leave { .. } | Action::Enter { .. } => member(&observed.bot),
        Action::Puppet { user, deed, .. } => match deed {
            Deed::Leave { .. } | Deed::Forget | Deed::Join => member(user),
            Deed::SetLevels { changes, .. } => levels(user, changes, |change| change.from),
            Deed::Upgrade { .. } => room(action.room(), observed).map(|room| room.version.clone()).unwrap_or_default(),
            Deed::InviteBot => String::new(),
        },
        Action::SetBotName { .. } => observed.bot_display_name.get().cloned().flatten().unwrap_or_default(),
        Action::DropAlias { alias, .. } | Action::RemoveAlias { alias, .. } => alias.to_string(),
        Action::Account { user, deed } => found_at(deed, observed.accounts.people.get(user)).to_owned(),
        Action::SetState { .. }
        | Action::RegisterBot
        | Action::CreateRoom(_)
        | Action::MirrorLeavers { .. }
        | Action::TakePower { .. }
        // Their levels are in the step.
        | Action::SetPowerLevels { .. } => String::new(),
    }
}

fn found_at<'a>(deed: &AccountDeed, known: Option<&'a Account>) -> &'a str {
    let known = |part: fn(&'a Account) -> Option<&'a str>| known.and_then(part).unwrap_or_default();
    match deed {
        AccountDeed::Lock { .. } => "open",
        AccountDeed::Unlock | AccountDeed::Close(_) => "locked",
        AccountDeed::TurnDown { .. } => "invited",
        AccountDeed::Set(Attribute::DisplayName(_)) => known(|account| account.display_name.as_deref()),
        AccountDeed::Set(Attribute::Avatar(_) | Attribute::NoAvatar { .. }) => {
            known(|account| account.avatar.as_deref())
        }
        // How many an account has is not kept.
        AccountDeed::RemovePushers
        | AccountDeed::HandOver { .. }
        | AccountDeed::Set(Attribute::Emails { .. } | Attribute::NoEmails(_)) => "",
    }
}

/// What an action makes of it.
fn became(action: &Action) -> String {
    let text = match action {
        Action::Invite { .. } => "invited",
        Action::Join { .. } | Action::Enter { .. } => "joined",
        Action::Kick { .. } | Action::Leave { .. } => "left",
        Action::TakePower { .. } => "administrator",
        Action::CreateRoom(_) => "made",
        Action::RegisterBot => "registered",
        Action::SetBotName { name } => name,
        Action::Puppet { user, deed, .. } => match deed {
            Deed::Leave { .. } => "left",
            Deed::Forget => "forgotten",
            Deed::InviteBot => "bot invited",
            Deed::Join => "joined",
            Deed::SetLevels { changes, .. } => return levels(user, changes, |change| change.to),
            Deed::Upgrade { version } => version,
        },
        Action::SetState { state, .. } => return stated(state),
        Action::MirrorLeavers { leavers } => return format!("{} people", leavers.len()),
        Action::Account { deed, .. } => return became_of(deed),
        Action::DropAlias { .. } | Action::RemoveAlias { .. } | Action::SetPowerLevels { .. } => "",
    };
    text.to_owned()
}

fn became_of(deed: &AccountDeed) -> String {
    let text = match deed {
        AccountDeed::Lock { .. } => "locked",
        AccountDeed::Unlock => "open",
        AccountDeed::RemovePushers => "no pushes",
        AccountDeed::HandOver { .. } => "administrator",
        AccountDeed::Close(end) => return format!("{end:?}").to_lowercase(),
        AccountDeed::Set(Attribute::DisplayName(name)) => name,
        AccountDeed::Set(Attribute::Emails { emails, .. }) => return format!("{emails:?}"),
        // A picture is known by its place and its digest.
        AccountDeed::Set(Attribute::Avatar(avatar)) => {
            let place = avatar.uploaded.as_deref().unwrap_or("not uploaded");
            return format!("{place} ({})", avatar.photo);
        }
        AccountDeed::TurnDown { .. } => "turned down",
        AccountDeed::Set(Attribute::NoEmails(_)) => "none of usher's",
        AccountDeed::Set(Attribute::NoAvatar { .. }) => "",
    };
    text.to_owned()
}

/// The type of the event, and what it says where that is short and for everybody to see.
fn stated(state: &StateChange) -> String {
    let label = state.label();
    match state {
        StateChange::Name(text)
        | StateChange::Topic(text)
        | StateChange::Avatar(text)
        | StateChange::CanonicalAlias(text)
        | StateChange::GuestAccess(text) => format!("{label}: {text}"),
        StateChange::JoinRule(rule) => format!("{label}: {}", rule.rule),
        StateChange::Child { .. }
        | StateChange::Unchild { .. }
        | StateChange::Parent { .. }
        | StateChange::Unparent { .. }
        | StateChange::Marker(_)
        | StateChange::Rename { .. }
        | StateChange::Adopt(_)
        | StateChange::Unmark(_) => label,
    }
}

/// Somebody's own level is a number; with the bot's they raise it goes by name.
fn levels(own: &UserId, changes: &[LevelChange], of: impl Fn(&LevelChange) -> i64) -> String {
    let one = |change: &LevelChange| match (&change.user, &change.key) {
        (Some(user), _) if user == own => level(of(change)),
        (Some(user), _) => format!("{user} {}", level(of(change))),
        (None, key) => format!("{} {}", key.as_deref().unwrap_or_default(), level(of(change))),
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A creator stands above every number.
fn level(level: i64) -> String {
    if level == CREATOR { "creator".to_owned() } else { level.to_string() }
}

fn room<'o>(room: Option<&RoomRef>, observed: &'o Observed) -> Option<&'o crate::observed::Room> {
    let id: &RoomId = match room? {
        RoomRef::Id(id) => id,
        RoomRef::New(key) => observed.aliases.get(key)?,
    };
    observed.rooms.get(id).or_else(|| observed.outside.get(id))
}

fn membership<'o>(at: Option<&RoomRef>, user: &UserId, observed: &'o Observed) -> Option<&'o Member> {
    room(at, observed)?.members.get(user)
}

fn word(member: &Member) -> &'static str {
    match member {
        Member::Join => "joined",
        Member::Invite => "invited",
        Member::Knock => "knocking",
        Member::Leave { .. } => "left",
        Member::Ban { .. } => "banned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_write_names_nobody() {
        for (said, kept) in [
            ("@evan:x.org is already in the room.", "somebody is already in the room."),
            ("You cannot kick user @evan:x.org.", "You cannot kick user somebody."),
            ("an address is @evan:x.org:8448's already", "an address is somebody's already"),
            ("(\"@evan:x\", '@sue:x')", "(\"somebody\", 'somebody')"),
            ("403 M_FORBIDDEN: @: no, at @home", "403 M_FORBIDDEN: @: no, at @home"),
            ("nobody", "nobody"),
        ] {
            assert_eq!(nameless(said), kept);
        }
    }
}
