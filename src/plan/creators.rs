//! Creators of rooms of version 12 and later, whom nobody can lower (S-22): tolerated, removed, or left behind by an upgrade, which is
//! carried to its end: the links of every managed space move to the new room, and its people are brought along.
//!
//! Never upgrades without an operator's yes: an upgrade loses what upgrades lose.

use super::members::is_protected;
use super::takeover::foreign_creators;
use super::{
    Action, Class, Deed, Hold, LevelChange, Planner, Reason, RoomRef, Scope, StateChange, Step, Withheld, levels,
};
use crate::config::{Enforce, V12Creators};
use crate::desired::{DesiredRoom, RoomKind};
use crate::ids::{Key, RoomId, UserId};
use crate::observed::{CREATOR, creators_are_immutable};
use crate::observed::{Child, Member, PowerLevels, Room};

const NO_UPGRADE: &str =
    "an upgrade takes a level that only the room's creator can give the bot: set appservice.puppet_registration";

impl<'a> Planner<'a> {
    /// What becomes of the creators of a room in which the bot has power. `begin`: where the room's steps begin.
    pub(super) fn creators(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, there: &'a Room, begin: usize) {
        let bot = &self.observed.bot;
        let id = self.located.get(&wanted.key).copied();
        let rule = self.effective_rule(wanted, id);
        let local = foreign_creators(there, bot).filter(|user| user.server() == self.observed.server);
        let inside = local.filter(|user| there.members.get(*user).is_some_and(Member::is_in));
        let judged: Vec<(&UserId, Option<i64>)> = inside
            .filter(|user| !is_protected(self.desired, self.observed, user) && !self.is_suspended(user))
            .map(|user| (user, rule.members.get(user).map(|right| right.level)))
            .filter(|(_, level)| level.is_none_or(|level| level < levels::GUARD_LEVEL))
            .collect();
        if judged.is_empty() || rule.blind.is_some() {
            return;
        }
        let policy = self.desired.provisioner.v12_creators;
        let taken = matches!(wanted.kind, RoomKind::Taken { .. });
        if policy == V12Creators::Upgrade && taken && self.enforce(wanted, id) == Enforce::Strict {
            return self.upgrade(wanted, here, there, begin);
        }
        let why = match (self.enforce(wanted, id), policy) {
            (Enforce::Observe, _) => "enforce: observe",
            (Enforce::Additive, _) => "enforce: additive",
            (Enforce::Strict, V12Creators::Tolerate) => "v12_creators: tolerate",
            (Enforce::Strict, V12Creators::Remove) => {
                "v12_creators: remove; a creator who belongs here stays above all levels"
            }
            (Enforce::Strict, V12Creators::Upgrade) => {
                "v12_creators: upgrade; replaces only rooms that people opened to a space"
            }
        };
        // Those who do not belong here at all are taken out, or shown, among the others.
        for (user, level) in judged {
            let Some(to) = level else { continue };
            let content = there.power_levels.as_ref().map(PowerLevels::content).unwrap_or_default();
            let from = CREATOR;
            let change =
                LevelChange { user: Some(user.clone()), key: None, from, to, reason: Reason::LevelRule, removal: None };
            self.push(Step {
                action: Action::SetPowerLevels { room: here.clone(), content, changes: vec![change] },
                reason: Reason::LevelRule,
                place: Some(wanted.key.clone()),
                withheld: Some(Withheld::Policy(why)),
                removal: None,
            });
        }
    }

    /// The bot replaces the room by one it has made itself, where nobody stands above it.
    fn upgrade(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, there: &'a Room, begin: usize) {
        let reason = Reason::Structure("nobody can lower the creator of a room of version 12 or later");
        let own = there.power_levels.as_ref().map_or(0, |levels| levels.user_level(&self.observed.bot));
        let needed = there.power_levels.as_ref().map_or(0, |levels| levels.level_for_state(levels::TOMBSTONE));
        let raises = own < needed && !there.is_above_levels(&self.observed.bot);
        let joined = |user: &&UserId| there.members.get(*user) == Some(&Member::Join);
        let creator = foreign_creators(there, &self.observed.bot).filter(joined).find(|user| self.may_puppet(user));
        if let Some(creator) = creator.filter(|_| raises) {
            // Levels are one event: what else changes in them comes first.
            let busy = self.plan.steps[begin..].iter().any(|step| {
                matches!(
                    step.action,
                    Action::SetPowerLevels { .. } | Action::Puppet { deed: Deed::SetLevels { .. }, .. }
                ) && step.is_pending()
            });
            if !busy {
                let deed = self.raise(wanted, there, (creator, None));
                let reason = Reason::Structure("upgrading takes a higher level");
                self.step(wanted, Action::Puppet { room: here.clone(), user: creator.clone(), deed }, reason);
            }
            return;
        }
        let configured = &self.desired.provisioner.room_version;
        let version = if creators_are_immutable(configured) { configured } else { &there.version };
        let deed = Deed::Upgrade { version: version.clone() };
        let action = Action::Puppet { room: here.clone(), user: self.observed.bot.clone(), deed };
        self.step(wanted, action, reason);
        let hold = Hold {
            class: Class::Upgrades,
            space: Some(wanted.key.clone()),
            count: 1,
            limit: None,
            base: 0,
            detail: None,
        };
        let (approvals, now) = (&self.ledger.approvals, self.now);
        if let Some(step) = self.plan.steps.last_mut() {
            if raises {
                step.withheld.get_or_insert(Withheld::MissingRight(NO_UPGRADE));
            } else if approvals.get(&step.id()).is_none_or(|until| *until <= now) {
                step.withheld.get_or_insert(Withheld::Held(Box::new(hold)));
            }
        }
    }

    /// A room that the bot has upgraded hangs where the old one hung.
    pub(super) fn follow_upgrades(&mut self, scope: &Scope) {
        let spaces: Vec<(&'a Key, &'a RoomId)> =
            self.located.iter().filter(|(key, _)| key.is_space()).map(|(key, id)| (*key, *id)).collect();
        for (key, id) in spaces {
            let (Some(space), Some(wanted)) = (self.observed.rooms.get(id), self.wanted(key)) else { continue };
            for (old, link) in &space.children {
                let Some(new) = self.own_successor(old) else { continue };
                if ![id, old, new].into_iter().any(|room| scope.covers(room)) {
                    continue;
                }
                let here = RoomRef::Id(id.clone());
                let reason = Reason::Structure("usher upgraded the room");
                if !space.children.contains_key(new) {
                    let link = Child { via: vec![self.observed.server.clone()], ..link.clone() };
                    let state = StateChange::Child { child: RoomRef::Id(new.clone()), link };
                    let taken = self.taken.iter().find(|room| room.id == *new).map_or(wanted, |room| &room.wanted);
                    self.state(taken, &here, state, reason.clone());
                }
                self.state(wanted, &here, StateChange::Unchild { child: old.clone() }, reason);
            }
        }
    }

    /// What the bot has replaced a room by, if it says so itself.
    pub(super) fn own_successor(&self, old: &RoomId) -> Option<&'a RoomId> {
        let new = self.observed.rooms.get(old)?.successor.as_ref()?;
        let room = self.observed.rooms.get(new)?;
        let ours = room.predecessor.as_ref() == Some(old) && room.creators.contains(&self.observed.bot);
        (ours && room.members.get(&self.observed.bot) == Some(&Member::Join)).then_some(new)
    }
}
