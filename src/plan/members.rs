//! Who should be in a room and is not, and who is and should not be (S-13, S-14, S-18 to S-20, S-24).
//!
//! The rule says who is entitled; protected, foreign and suspended people are excluded before a removal can be made
//! ([`Planner::tie`] stands before every kick: [`Removable`] and [`Planner::dismissal`] are the only ways to one).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reach::Hand;
use super::{Action, Class, Deed, Note, Planner, Reason, RoomRef, Step, Withheld};
use crate::config::{Enforce, MembershipMode, Reinvite};
use crate::desired::{Desired, DesiredRoom, Entitlement, Members, RoomKind, Rule, Standing};
use crate::ids::{EventId, Key, RoomId, UserId, side_by_side};
use crate::ledger::{Refusal, TOLERATED};
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
    /// Never entitled, and there since before the room was held to its rule strictly, or since before usher had the right to remove them.
    Tolerated,
    /// Entitled, with this level at most.
    Level(i64),
}

impl From<i64> for Remembered {
    fn from(level: i64) -> Self {
        if level == TOLERATED { Self::Tolerated } else { Self::Level(level) }
    }
}

/// What a differ decided about the people of one room, for the levels.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Sorted.
    pub invited: Vec<UserId>,
    /// And whether the removal counts against the limits.
    pub kicked: BTreeMap<UserId, bool>,
}

/// Whether an invitation to somebody would be planned, as far as accounts decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    Invitable,
    NoAccount,
    /// Deactivated, suspended, or nobody knows.
    Barred,
}

/// Why somebody is never taken out of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// The bot and the sender.
    Own,
    Foreign,
    Protected,
    Undecided,
}

/// One room while its people are compared.
struct Visit<'a, 'v> {
    wanted: &'a DesiredRoom,
    here: &'v RoomRef,
    id: Option<&'v RoomId>,
    room: Option<&'a Room>,
    enforce: Enforce,
    /// Reasons and invitations in words, by why: one copy for everybody.
    words: BTreeMap<u32, (Reason, Arc<str>)>,
    moves: Moves,
}

impl<'a> Planner<'a> {
    /// Members and levels of one room, new or there.
    pub(super) fn people(&mut self, wanted: &'a DesiredRoom, here: &RoomRef, room: Option<&'a Room>) {
        let id = match here {
            RoomRef::Id(id) => Some(id),
            RoomRef::New(_) => None,
        };
        let rule = self.effective_rule(wanted, id);
        let enforce = self.enforce(wanted, id);
        let mut visit = Visit { wanted, here, id, room, enforce, words: BTreeMap::new(), moves: Moves::default() };
        let mut strangers = Vec::new();
        let nobody = BTreeMap::new();
        let there = room.map_or(&nobody, |room| &room.members);
        side_by_side(rule.members.iter(), there, |user, right, member| match (right, member) {
            (Some(right), member) => self.entitled(&mut visit, (user, right), member),
            (None, Some(member)) => strangers.push((user, member)),
            (None, None) => {}
        });
        for (user, member) in strangers {
            self.stranger(&mut visit, (user, member), &rule);
        }
        for (old, user, by, event) in id.map(|id| self.departures_before(id)).unwrap_or_default() {
            if !rule.members.contains_key(user) {
                self.forgive(Some(old), user, (by, event));
            }
        }
        if let Some(room) = room {
            self.levels(wanted, here, room, (&rule, &visit.moves));
        }
    }

    /// The rule of a room: its own, with every managed space that holds or admits it (S-14) and exceptions by room id.
    pub(super) fn effective_rule(&self, wanted: &'a DesiredRoom, id: Option<&RoomId>) -> Arc<Rule> {
        if let RoomKind::Taken { spaces } = &wanted.kind {
            return self.taken_rule(wanted, spaces);
        }
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
            RoomKind::Room(_) | RoomKind::Space { .. } | RoomKind::Taken { .. } => None,
        };
        let places = std::iter::once(&wanted.key).chain(of_the_space).chain(holders.iter().map(|holder| &holder.key));
        let extra: Vec<_> = places.filter_map(|key| self.extra.get(key)).flatten().collect();
        if holders.is_empty() && extra.is_empty() {
            return Arc::clone(&wanted.rule);
        }
        let mut rules = std::iter::once(&wanted.rule).chain(holders.iter().map(|holder| &holder.rule));
        let rights = rules.clone().flat_map(|rule| rule.members.values()).chain(extra.iter().map(|(_, right)| right));
        let members = Members::of(&self.desired.people, rights.copied().collect());
        Arc::new(Rule { members, blind: rules.find_map(|rule| rule.blind.clone()) })
    }

    /// What the ledger remembers of somebody's right in a room, by its own rule and those of the spaces that hold it.
    pub(super) fn remembered(&self, wanted: &DesiredRoom, id: Option<&RoomId>, user: &UserId) -> Remembered {
        let Some(own) = self.ledger.entitled.get(&wanted.rule_key) else {
            // Nobody had a right in a room that was not managed (S-81).
            return if self.is_fresh(wanted) { Remembered::Nothing } else { Remembered::NewRule };
        };
        if let RoomKind::Taken { spaces } = &wanted.kind {
            let memories = spaces.iter().chain([&wanted.key]).filter_map(|key| self.ledger.entitled.get(key));
            let level = memories.filter_map(|levels| levels.get(user).copied()).max();
            return level.map_or(Remembered::Nothing, Remembered::from);
        }
        let holders = id.filter(|_| !wanted.key.is_space()).and_then(|id| self.holders.get(id)).into_iter().flatten();
        let others = holders.filter_map(|holder| self.ledger.entitled.get(*holder));
        let level = std::iter::once(own).chain(others).filter_map(|levels| levels.get(user).copied()).max();
        level.map_or(Remembered::Nothing, Remembered::from)
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

    /// Whether somebody may be asked in. Looked up once a plan, however many rooms they belong in.
    pub(super) fn candidate(&self, right: &Entitlement) -> Candidate {
        let people = &self.desired.people;
        *self.candidates[right.person as usize].get_or_init(|| {
            let user = people.user(right.person);
            match self.observed.accounts.presence(user) {
                Presence::Missing => Candidate::NoAccount,
                Presence::Exists(account) if !account.deactivated && !self.is_suspended(user) => Candidate::Invitable,
                Presence::Exists(_) | Presence::Unknown => Candidate::Barred,
            }
        })
    }

    /// Undecided, or locked by a human (S-24, S-108).
    pub(super) fn is_suspended(&self, user: &UserId) -> bool {
        let locked = match self.observed.accounts.presence(user) {
            Presence::Exists(account) => account.locked,
            Presence::Missing | Presence::Unknown => false,
        };
        locked && self.desired.people.standing(user).is_some() && !self.is_returning(user)
            || matches!(self.desired.people.standing(user), Some(Standing::Suspended(_)))
    }

    fn entitled(&mut self, visit: &mut Visit<'a, '_>, (user, right): (&UserId, &Entitlement), member: Option<&Member>) {
        let wanted = visit.wanted;
        let decided = match member {
            Some(Member::Join) => return,
            Some(Member::Invite) if self.desired.provisioner.membership == MembershipMode::Invite => return,
            Some(Member::Ban { .. }) => {
                return self.note(Note::Banned { place: wanted.key.clone(), user: user.clone() });
            }
            Some(Member::Leave { by, event }) => self.human_decision(visit.id, user, (by, event)),
            None => visit.id.and_then(|id| {
                let (old, by, event) = self.departure_before(id, user)?;
                self.human_decision(Some(old), user, (by, event))
            }),
            Some(Member::Invite | Member::Knock) => None,
        };
        // Nobody is asked into a room that people have replaced.
        if visit.room.is_some_and(|room| room.successor.is_some()) {
            return;
        }
        let knocks = member == Some(&Member::Knock);
        if !(wanted.invites || knocks || self.moves_along(wanted, user)) {
            return;
        }
        if let Some(what) = decided
            && !self.reinvites(wanted)
        {
            return self.note(Note::HumanDecision { place: wanted.key.clone(), user: user.clone(), what });
        }
        match self.candidate(right) {
            Candidate::Invitable => self.ask_in(visit, (user, right)),
            Candidate::NoAccount => drop(self.without_account.insert(self.desired.people.user(right.person))),
            Candidate::Barred => {}
        }
    }

    fn ask_in(&mut self, visit: &mut Visit<'a, '_>, (user, right): (&UserId, &Entitlement)) {
        let wanted = visit.wanted;
        let (reason, text) = visit.words.entry(right.why).or_insert_with(|| {
            let reason = self.desired.reason(right);
            let text = Arc::from(reason.to_the_person(&wanted.name));
            (reason, text)
        });
        let room = visit.here.clone();
        let action = match self.desired.provisioner.membership {
            MembershipMode::Invite => Action::Invite { room, user: user.clone(), text: Arc::clone(text) },
            MembershipMode::Join => Action::Join { room, user: user.clone() },
        };
        let refused = self
            .refusal(wanted, user)
            .map(|refusal| Withheld::Refused { code: refusal.code.clone(), until: refusal.retry_at });
        if refused.is_none() {
            visit.moves.invited.push(user.clone());
        }
        let observed = (visit.enforce == Enforce::Observe).then_some(Withheld::Policy("enforce: observe"));
        self.push(Step {
            action,
            reason: reason.clone(),
            place: Some(wanted.key.clone()),
            withheld: refused.or(observed),
            removal: None,
        });
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

    fn stranger(&mut self, visit: &mut Visit<'a, '_>, (user, member): (&UserId, &Member), rule: &Rule) {
        let wanted = visit.wanted;
        match member {
            Member::Join | Member::Invite | Member::Knock => {}
            Member::Leave { by, event } => {
                return self.forgive(visit.id, user, (by, event));
            }
            Member::Ban { .. } => return,
        }
        let Some(removable) = self.removable(wanted, visit.id, user) else { return };
        let knocks = *member == Member::Knock;
        let policy = match visit.enforce {
            Enforce::Strict => rule.blind.clone().map(Withheld::GroupUnknown),
            Enforce::Additive => Some(Withheld::Policy("enforce: additive")),
            Enforce::Observe => Some(Withheld::Policy("enforce: observe")),
        };
        let Removable { user, reason, counts } = removable;
        let hand = visit.room.map_or(Hand::Bot, |room| self.hand(room, user));
        let text = Arc::from(reason.to_the_person(&wanted.name));
        let (action, barred) = self.removal_by(hand, visit.here, (user, text));
        let withheld = policy.or(barred);
        let mut removal = self.removal(wanted, user, Class::KicksPerSpace);
        removal.counts = counts && !knocks;
        if withheld.is_none() && self.desired.complete {
            visit.moves.kicked.insert(user.clone(), removal.counts);
        }
        let removal = Some(Box::new(removal));
        let forgets = self.desired.provisioner.forget && withheld.is_none() && self.may_puppet(user);
        let step = Step { action, reason, place: Some(wanted.key.clone()), withheld, removal };
        // Goes with the removal: held where that is held.
        let forget = Action::Puppet { room: visit.here.clone(), user: user.clone(), deed: Deed::Forget };
        let forget = forgets.then(|| Step { action: forget, ..step.clone() });
        self.plan.steps.extend(std::iter::once(step).chain(forget));
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

    /// What keeps `user` where they are, whatever is wanted of the room.
    pub(super) fn tie(&self, user: &UserId) -> Option<Tie> {
        if *user == self.observed.bot || *user == self.observed.sender {
            Some(Tie::Own)
        } else if user.server() != self.observed.server {
            Some(Tie::Foreign)
        } else if is_protected(self.desired, self.observed, user) {
            Some(Tie::Protected)
        } else if self.is_suspended(user) || self.is_leaver(user) {
            Some(Tie::Undecided)
        } else {
            None
        }
    }

    /// A removal from a space that is managed no longer (S-41); nothing for whoever is tied to it.
    pub(super) fn dismissal(
        &self,
        (place, room): (&Key, &RoomRef),
        user: &UserId,
        (reason, name): (Reason, &str),
    ) -> Option<Step> {
        if self.tie(user).is_some() {
            return None;
        }
        let text = Arc::from(reason.to_the_person(name));
        let action = Action::Kick { room: room.clone(), user: user.clone(), text };
        Some(Step { action, reason, place: Some(place.clone()), withheld: None, removal: None })
    }

    /// Whether `user`, who is in a room without a right to be, may be taken out of it, and why.
    fn removable<'u>(&mut self, wanted: &DesiredRoom, id: Option<&RoomId>, user: &'u UserId) -> Option<Removable<'u>> {
        match self.tie(user) {
            None => {}
            Some(Tie::Foreign) => {
                self.note(Note::ForeignUser { place: wanted.key.clone(), user: user.clone() });
                return None;
            }
            Some(Tie::Own | Tie::Protected | Tie::Undecided) => return None,
        }
        let remembered = self.remembered(wanted, id, user);
        let was_entitled = matches!(remembered, Remembered::NewRule | Remembered::Level(_));
        let reason = match self.desired.people.standing(user) {
            Some(Standing::Gone { since }) => Reason::LeftDirectory { since },
            Some(Standing::Disabled) => Reason::Disabled,
            Some(Standing::Active | Standing::Suspended(_)) if was_entitled => Reason::NotInGroups,
            // Somebody beyond the directory whose exception has ended (S-25): a change of configuration like any other.
            None if matches!(remembered, Remembered::Level(_)) => Reason::NotInGroups,
            Some(Standing::Active | Standing::Suspended(_)) | None => Reason::NeverEntitled,
        };
        // Who was in a room before it was held to its rule is no intruder (S-81).
        let counts = match remembered {
            Remembered::NewRule | Remembered::Tolerated => true,
            Remembered::Level(_) => reason != Reason::NeverEntitled || self.is_first_enforcement(wanted),
            Remembered::Nothing => self.is_first_enforcement(wanted),
        };
        Some(Removable { user, reason, counts })
    }
}

/// Section 1's protected users: never removed, demoted, locked, erased, renamed or puppeted.
pub(crate) fn is_protected(desired: &Desired, observed: &Observed, user: &UserId) -> bool {
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
