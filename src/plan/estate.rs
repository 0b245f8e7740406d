//! What is done about the places of somebody who is locked: invitations are turned down at once (S-52), and rooms that nobody else
//! administers get another administrator before the account ends (S-53, S-86).
//!
//! Pure. Never hands over before the end itself is to be done, and never lets the end come before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AccountDeed, Action, FRESH_READ_MS, LeaverNews, Note, Plan, Planner, Reason, Step, Withheld};
use crate::ids::{RoomId, UserId};
use crate::ledger::Leaver;
use crate::observed::{Heir, Presence, Room};

/// What a final step waits for where the look is older.
pub const WAITS_FOR_ESTATE: &str = "waits for a fresh look at the rooms the person administers";
const NOBODY: &str = "a room would be left without an administrator: see the notes";
const NO_PUPPET: &str = "invitations elsewhere are turned down as the person: set appservice.puppet_registration";

impl Planner<'_> {
    /// Nobody who cannot log in is waited for, wherever they were asked to (S-52).
    pub(super) fn turn_down_elsewhere(&mut self, user: &UserId, reason: &Reason) {
        let Some(estate) = self.observed.estates.get(user) else { return };
        let withheld = (!self.desired.puppets).then_some(Withheld::MissingRight(NO_PUPPET));
        for room in estate.invited.iter().filter(|room| !self.observed.rooms.contains_key(*room)) {
            let text = Arc::from(reason.to_the_person(""));
            let deed = AccountDeed::TurnDown { room: room.clone(), text };
            self.account_step(user, deed, reason.clone(), (withheld.clone(), None));
        }
    }

    /// Rooms that need another administrator before `user` is gone, and who that is; `None`: nobody can be.
    pub(super) fn bequests(&mut self, user: &UserId, leaver: &Leaver) -> BTreeMap<RoomId, Option<UserId>> {
        let barred = |other: &UserId| {
            let service = match self.observed.accounts.presence(other) {
                Presence::Exists(account) => account.foreign_service,
                Presence::Missing | Presence::Unknown => false,
            };
            // usher's own hold their places as long as it manages them.
            service || *other == self.observed.sender
        };
        let decide = |(id, room): (&RoomId, &Room)| match room.heir_of(user, &self.observed.accounts, &barred) {
            Heir::NotNeeded => None,
            Heir::Local(heir) => Some((id.clone(), Some(heir))),
            Heir::Nobody => Some((id.clone(), None)),
        };
        let inside = &self.observed.rooms;
        let elsewhere = self.observed.estates.get(user).into_iter().flat_map(|estate| &estate.rooms);
        let elsewhere = elsewhere.filter(|(id, _)| !inside.contains_key(*id));
        let found: BTreeMap<_, _> = inside.iter().chain(elsewhere).filter_map(decide).collect();
        let ownerless: Vec<RoomId> =
            found.iter().filter(|(_, heir)| heir.is_none()).map(|(id, _)| id.clone()).collect();
        if !ownerless.is_empty() {
            self.note(Note::NobodyToHandTo { user: user.clone(), rooms: ownerless });
        }
        if leaver.administers != found && self.observed.estates.contains_key(user) {
            self.learn(user, LeaverNews::Administers { rooms: found.clone() });
        }
        found
    }

    /// What of somebody's rooms stands against the end of their account, which nothing else does.
    pub(super) fn not_before_estate(
        &self,
        user: &UserId,
        bequests: &BTreeMap<RoomId, Option<UserId>>,
    ) -> Option<Withheld> {
        let age = self.observed.estates.get(user).map(|estate| self.now.since_ms(estate.read_at));
        if !age.is_some_and(|age| (0..=FRESH_READ_MS).contains(&age)) {
            return Some(Withheld::Waits(WAITS_FOR_ESTATE));
        }
        bequests.values().any(Option::is_none).then_some(Withheld::Waits(NOBODY))
    }

    /// The steps before an end, shown as long as the end is and done only with it.
    pub(super) fn hand_over(&mut self, end: &Step, bequests: BTreeMap<RoomId, Option<UserId>>) {
        let Some(user) = end.action.user().cloned() else { return };
        let withheld = match &end.withheld {
            Some(Withheld::Grace { until }) => Some(Withheld::Grace { until: *until }),
            Some(_) => Some(Withheld::DependsOnWithheld),
            None => None,
        };
        for (room, to) in bequests.into_iter().filter_map(|(room, heir)| Some((room, heir?))) {
            let deed = AccountDeed::HandOver { room, to };
            self.account_step(&user, deed, Reason::LastAdministrator, (withheld.clone(), None));
        }
    }
}

/// Nothing is handed over for an end that the guard withholds.
pub(super) fn hand_over_with_the_end(plan: &mut Plan) {
    if !plan.steps.iter().any(|step| hands_over(step).is_some()) {
        return;
    }
    let ends: Vec<UserId> = plan.pending().filter_map(Step::ends).cloned().collect();
    for step in plan.steps.iter_mut().filter(|step| step.is_pending()) {
        if hands_over(step).is_some_and(|user| !ends.contains(user)) {
            step.withheld = Some(Withheld::DependsOnWithheld);
        }
    }
}

impl Plan {
    /// Whether an end must wait because a room is still to be handed over.
    #[must_use]
    pub fn hands_over_before(&self, step: &Step) -> bool {
        step.ends().is_some_and(|user| self.steps.iter().any(|other| hands_over(other) == Some(user)))
    }
}

fn hands_over(step: &Step) -> Option<&UserId> {
    match &step.action {
        Action::Account { user, deed: AccountDeed::HandOver { .. } } => Some(user),
        _ => None,
    }
}
