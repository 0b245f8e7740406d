//! Who should be in a room and is not, and who is and should not be (S-13, S-14, S-18 to S-20, S-24).
//!
//! The rule says who is entitled; protected, foreign and suspended people are excluded before a removal can be made
//! ([`Removable`] is the only way to a kick).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Action, Class, Note, Planner, Reason, RoomRef, Step, Withheld};
use crate::config::{Enforce, MembershipMode, Reinvite};
use crate::desired::{Desired, DesiredRoom, Entitlement, RoomKind, Rule, Standing};
use crate::ids::{EventId, Key, RoomId, UserId};
use crate::ledger::Refusal;
use crate::observed::{Member, Observed, Presence, Room};

/// Proof that a person may be removed: made only by [`Planner::removable`].
struct Removable<'a> {
    user: &'a UserId,
    reason: Reason,
    counts: bool,
}

/// What the last pass left in the ledger of somebody's right in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// The room's rule is new: nobody knows.
    NewRule,
    /// Never entitled.
    Nothing,
    /// Entitled, with this level at most.
    Level(i64),
}

/// What a differ decided about the people of one room, for the levels.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub invited: BTreeSet<UserId>,
    /// And whether the removal counts against the limits.
    pub kicked: BTreeMap<UserId, bool>,
}

impl<'a> Planner<'a> {
    /// Members and levels of one room, new or there.
    pub(super) fn people(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: Option<&'a Room>) {
        let id = match here {
            RoomRef::Id(id) => Some(id.clone()),
            RoomRef::New(_) => None,
        };
        let rule = self.effective_rule(wanted, id.as_ref());
        let mut moves = Moves::default();
        let mut strangers = Vec::new();
        let nobody = BTreeMap::new();
        zip(&rule.members, room.map_or(&nobody, |room| &room.members), |user, entitlement, member| {
            match (entitlement, member) {
                (Some(entitlement), member) => {
                    self.entitled(wanted, (here, id.as_ref()), (user, entitlement), member, &mut moves);
                }
                (None, Some(member)) => strangers.push((user, member)),
                (None, None) => {}
            }
        });
        for (user, member) in strangers {
            self.stranger(wanted, (here, id.as_ref()), (user, member), &rule, &mut moves);
        }
        if let Some(room) = room {
            self.levels(wanted, here, room, (&rule, &moves));
        }
    }

    /// The rule of a room: its own, with every managed space that holds or admits it (S-14) and exceptions by room id.
    pub(super) fn effective_rule(&self, wanted: &'a DesiredRoom, id: Option<&RoomId>) -> Arc<Rule> {
        let own = Key::Space(wanted.key.space().clone());
        let holders: Vec<&DesiredRoom> = id
            .filter(|_| !wanted.key.is_space())
            .and_then(|id| self.holders.get(id))
            .into_iter()
            .flatten()
            .filter(|holder| ***holder != own)
            .filter_map(|holder| self.wanted(holder))
            .collect();
        // A room without groups of its own is its space's people's, those with a risen exception too (S-107).
        let of_the_space = match &wanted.kind {
            RoomKind::Room(template) if template.groups.is_none() => Some(&own),
            RoomKind::Room(_) | RoomKind::Space { .. } => None,
        };
        let places = std::iter::once(&wanted.key).chain(of_the_space).chain(holders.iter().map(|holder| &holder.key));
        let extra: Vec<_> = places.filter_map(|key| self.extra.get(key)).flatten().collect();
        if holders.is_empty() && extra.is_empty() {
            return Arc::clone(&wanted.rule);
        }
        let mut merged = (*wanted.rule).clone();
        let grants = holders.iter().flat_map(|holder| holder.rule.members.iter().map(|(user, right)| (user, *right)));
        for (user, right) in grants.chain(extra.into_iter().map(|(user, right)| (user, *right))) {
            let known = merged.members.entry(user.clone()).or_insert(right);
            if right.level > known.level {
                *known = right;
            }
        }
        for holder in holders {
            if merged.blind.is_none() {
                merged.blind.clone_from(&holder.rule.blind);
            }
        }
        Arc::new(merged)
    }

    /// What the ledger remembers of somebody's right in a room, by its own rule and those of the spaces that hold it.
    pub(super) fn remembered(&self, wanted: &DesiredRoom, id: Option<&RoomId>, user: &UserId) -> Remembered {
        let Some(own) = self.ledger.entitled.get(&wanted.rule_key) else { return Remembered::NewRule };
        let holders = id.filter(|_| !wanted.key.is_space()).and_then(|id| self.holders.get(id)).into_iter().flatten();
        let others = holders.filter_map(|holder| self.ledger.entitled.get(*holder));
        let level = std::iter::once(own).chain(others).filter_map(|levels| levels.get(user).copied()).max();
        level.map_or(Remembered::Nothing, Remembered::Level)
    }

    /// How strictly a room is held: the mildest of the spaces that hold it (S-20, S-108).
    pub(super) fn enforce(&self, wanted: &DesiredRoom, id: Option<&RoomId>) -> Enforce {
        id.and_then(|id| self.holders.get(id))
            .into_iter()
            .flatten()
            .filter(|_| !wanted.key.is_space())
            .filter_map(|holder| self.wanted(holder))
            .map(|holder| holder.enforce)
            .fold(wanted.enforce, Enforce::max)
    }

    /// Whether an invitation to `user` would be planned, as far as accounts decide.
    pub(super) fn may_be_invited(&self, user: &UserId) -> bool {
        let exists = match self.observed.accounts.presence(user) {
            Presence::Exists(account) => !account.deactivated,
            Presence::Missing | Presence::Unknown => false,
        };
        exists && !self.is_suspended(user)
    }

    /// Undecided, or locked by a human (S-24, S-108).
    pub(super) fn is_suspended(&self, user: &UserId) -> bool {
        let locked = match self.observed.accounts.presence(user) {
            Presence::Exists(account) => account.locked,
            Presence::Missing | Presence::Unknown => false,
        };
        locked && self.desired.people.standing(user).is_some()
            || matches!(self.desired.people.standing(user), Some(Standing::Suspended(_)))
    }

    fn entitled(
        &mut self,
        wanted: &'a DesiredRoom,
        (here, id): (&RoomRef, Option<&RoomId>),
        (user, entitlement): (&UserId, &Entitlement),
        member: Option<&Member>,
        moves: &mut Moves,
    ) {
        let decided = match member {
            Some(Member::Join) => return,
            Some(Member::Invite) if self.desired.provisioner.membership == MembershipMode::Invite => return,
            Some(Member::Ban { .. }) => {
                return self.note(Note::Banned { place: wanted.key.clone(), user: user.clone() });
            }
            Some(Member::Leave { by, event }) => self.human_decision(id, user, (by, event)),
            Some(Member::Invite | Member::Knock) | None => None,
        };
        let knocks = member == Some(&Member::Knock);
        if !(wanted.invites || knocks) {
            return;
        }
        if let Some(what) = decided
            && !self.reinvites(wanted)
        {
            return self.note(Note::HumanDecision { place: wanted.key.clone(), user: user.clone(), what });
        }
        if self.observed.accounts.presence(user) == Presence::Missing {
            if let Some((known, _)) = wanted.rule.members.get_key_value(user) {
                self.without_account.insert(known);
            }
            return;
        }
        if !self.may_be_invited(user) {
            return;
        }
        let reason = self.desired.reason(entitlement);
        let action = match self.desired.provisioner.membership {
            MembershipMode::Invite => {
                let text = Arc::from(reason.to_the_person(&wanted.name));
                Action::Invite { room: here.clone(), user: user.clone(), text }
            }
            MembershipMode::Join => Action::Join { room: here.clone(), user: user.clone() },
        };
        self.step(wanted, action, reason);
        if let Some(refusal) = self.refusal(wanted, user)
            && let Some(step) = self.plan.steps.last_mut()
        {
            step.withheld = Some(Withheld::Refused { code: refusal.code.clone(), until: refusal.retry_at });
            return;
        }
        moves.invited.insert(user.clone());
    }

    /// What the homeserver said when this was tried before, while that stands (S-19).
    pub(super) fn refusal(&self, wanted: &DesiredRoom, user: &UserId) -> Option<&'a Refusal> {
        if self.ledger.refusals.is_empty() {
            return None;
        }
        let refusal = self.ledger.refusals.get(&(wanted.key.clone(), user.clone()));
        refusal.filter(|refusal| refusal.retry_at > self.now)
    }

    /// What a human decided about an entitled person's absence, if it still stands (S-19).
    fn human_decision(
        &self,
        id: Option<&RoomId>,
        user: &UserId,
        (by, event): (&UserId, &EventId),
    ) -> Option<&'static str> {
        let forgiven = id.is_some_and(|id| self.ledger.forgiven.contains(&(id.clone(), user.clone(), event.clone())));
        if *by == self.observed.bot || forgiven {
            None
        } else if by == user {
            Some("left or declined")
        } else {
            Some("was removed by somebody")
        }
    }

    fn reinvites(&self, wanted: &DesiredRoom) -> bool {
        match self.desired.provisioner.reinvite {
            Reinvite::Never => false,
            Reinvite::Spaces => wanted.key.is_space(),
            Reinvite::Always => true,
        }
    }

    fn stranger(
        &mut self,
        wanted: &'a DesiredRoom,
        (here, id): (&RoomRef, Option<&RoomId>),
        (user, member): (&UserId, &Member),
        rule: &Rule,
        moves: &mut Moves,
    ) {
        match member {
            Member::Join | Member::Invite | Member::Knock => {}
            Member::Leave { by, event } => {
                return self.forgive(id, user, (by, event));
            }
            Member::Ban { .. } => return,
        }
        let Some(removable) = self.removable(wanted, id, user) else { return };
        let knocks = *member == Member::Knock;
        let withheld = match self.enforce(wanted, id) {
            Enforce::Strict => rule.blind.clone().map(Withheld::GroupUnknown),
            Enforce::Additive => Some(Withheld::Policy("enforce: additive")),
            Enforce::Observe => Some(Withheld::Policy("enforce: observe")),
        };
        let Removable { user, reason, counts } = removable;
        let mut removal = self.removal(wanted, user, Class::KicksPerSpace);
        removal.counts = counts && !knocks;
        if withheld.is_none() && self.desired.complete {
            moves.kicked.insert(user.clone(), removal.counts);
        }
        self.push(Step {
            action: Action::Kick {
                room: here.clone(),
                user: user.clone(),
                text: Arc::from(reason.to_the_person(&wanted.name)),
            },
            reason,
            place: Some(wanted.key.clone()),
            withheld,
            removal: Some(removal),
        });
    }

    /// A departure stops counting as a decision once the person has lost the right (S-19).
    fn forgive(&mut self, id: Option<&RoomId>, user: &UserId, (by, event): (&UserId, &EventId)) {
        let known = self.desired.people.standing(user).is_some() && !self.is_suspended(user);
        let Some(id) = id.filter(|_| known && self.desired.complete && *by != self.observed.bot) else { return };
        let place = (id.clone(), user.clone(), event.clone());
        if !self.ledger.forgiven.contains(&place) {
            let (room, user, event) = place;
            self.plan.lessons.push(super::Lesson::Forgiven { room, user, event });
        }
    }

    /// Whether `user`, who is in a room without a right to be, may be taken out of it, and why.
    fn removable<'u>(&mut self, wanted: &DesiredRoom, id: Option<&RoomId>, user: &'u UserId) -> Option<Removable<'u>> {
        if *user == self.observed.bot || *user == self.observed.sender {
            return None;
        }
        if user.server() != self.observed.server {
            self.note(Note::ForeignUser { place: wanted.key.clone(), user: user.clone() });
            return None;
        }
        if is_protected(self.desired, self.observed, user) || self.is_suspended(user) {
            return None;
        }
        let remembered = self.remembered(wanted, id, user);
        let was_entitled = remembered != Remembered::Nothing;
        let reason = match self.desired.people.standing(user) {
            Some(Standing::Gone { since }) => Reason::LeftDirectory { since },
            Some(Standing::Disabled) => Reason::Disabled,
            Some(Standing::Active | Standing::Suspended(_)) if was_entitled => Reason::NotInGroups,
            // Somebody beyond the directory whose exception has ended (S-25): a change of configuration like any other.
            None if matches!(remembered, Remembered::Level(_)) => Reason::NotInGroups,
            Some(Standing::Active | Standing::Suspended(_)) | None => Reason::NeverEntitled,
        };
        let counts = was_entitled && reason != Reason::NeverEntitled;
        Some(Removable { user, reason, counts })
    }
}

/// Section 1's protected users: never removed, demoted, locked, erased, renamed or puppeted.
pub(super) fn is_protected(desired: &Desired, observed: &Observed, user: &UserId) -> bool {
    if *user == observed.bot || *user == observed.sender {
        return true;
    }
    let policy = &desired.provisioner;
    if policy.allowed_users.iter().chain(&policy.protected_users).any(|pattern| pattern.matches(user)) {
        return true;
    }
    match observed.accounts.presence(user) {
        Presence::Exists(account) => account.foreign_service || (account.admin && policy.protect_server_admins),
        Presence::Missing | Presence::Unknown => false,
    }
}

/// Walks two sorted maps side by side, once.
fn zip<'m, L, R>(
    left: &'m BTreeMap<UserId, L>,
    right: &'m BTreeMap<UserId, R>,
    mut each: impl FnMut(&'m UserId, Option<&'m L>, Option<&'m R>),
) {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((l, _)), Some((r, _))) => l.cmp(r),
        };
        let (mut key, mut from_left, mut from_right) = (None, None, None);
        if order.is_le()
            && let Some((user, value)) = left.next()
        {
            (key, from_left) = (Some(user), Some(value));
        }
        if order.is_ge()
            && let Some((user, value)) = right.next()
        {
            (key, from_right) = (Some(user), Some(value));
        }
        if let Some(user) = key {
            each(user, from_left, from_right);
        }
    }
}
