//! Who is locked, unlocked and, when grace is over, erased (S-51 to S-54).
//!
//! Pure. Never touches a protected person, never unlocks what usher did not lock, never takes the last server admin's account. Whether
//! a removal may happen now is the guard's business; whether the world is still so when it is sent is the executor's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{AccountDeed, Action, Class, End, Lesson, Note, Planner, Reason, Removal, RoomRef, Scope, Step, Withheld};
use crate::config::Deprovisioning;
use crate::config::Enforce;
use crate::desired::{Leaving, Standing};
use crate::ids::{Key, RoomId, SpaceId, StableId, Timestamp, UserId};
use crate::ledger::{Cause, DAY_MS, Leaver, LeaverNews, Stage};
use crate::observed::{Account, Member, Presence};

use super::members::is_protected;

/// How fresh the read of the source must be before somebody is erased, in milliseconds (S-53).
pub const FRESH_READ_MS: i64 = 60_000;
/// What a final step waits for where the read is older.
pub const WAITS_FOR_READ: &str = "waits for a fresh read of the source";
const WAITS_FOR_LOOK: &str = "due; done when a second look, ten minutes after the first, still finds it so";
const PER_DAY: &str = "erasures_per_day are done for today";
const NO_RUNG: &str = "accounts are locked by a server admin: make usher's sender one (usher bootstrap)";
const NO_PUPPET: &str = "push messages are turned off as the person: set appservice.puppet_registration";
const PROTECTED: &str = "a protected user";
const BY_HAND: &str = "left the directory; locked on the homeserver, not by usher, so neither unlocked nor erased";
const OPENED_AND_LOCKED: &str =
    "restored by an operator, and locked on the homeserver since, not by usher: neither unlocked nor erased";
const LAST_ADMIN: &str = "the last server admin";

/// What somebody is left to whose account is neither ended nor given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Locked without an end: disabled and still there.
    NoClock,
    /// Open at an operator's word.
    Restored,
    /// Locked before they were protected.
    Protected,
}

/// Somebody whose account is to be locked or stays so.
struct Gone<'p> {
    user: &'p UserId,
    id: Option<&'p StableId>,
    reason: &'p Reason,
}

/// The end of an account, when it is due, and what is to be handed over before.
struct Ending {
    due: Timestamp,
    step: Step,
    /// It was sent before, and counted then.
    sent: bool,
    bequests: BTreeMap<RoomId, Option<UserId>>,
}

impl Planner<'_> {
    /// Everything about accounts. Only in whole plans: no event in a room says anything about them.
    pub(super) fn accounts(&mut self, scope: &Scope) {
        if *scope != Scope::Everything {
            return;
        }
        let desired = self.desired;
        let strangers = std::mem::take(&mut self.strangers);
        let of_directory = once_each(&desired.leaving).into_iter().map(|leaving| Gone {
            user: &leaving.user,
            id: Some(&leaving.id),
            reason: &leaving.reason,
        });
        let of_spaces = strangers.iter().map(|user| Gone { user, id: None, reason: &Reason::NotProvisioned });
        let gone: Vec<Gone<'_>> = of_directory.chain(of_spaces).collect();
        let left = self.offboard(&gone);
        self.bring_back(&left);
        self.attributes();
        self.mirror_leavers();
        self.strangers = strangers;
    }

    /// Whether usher's lock on somebody ends with this plan.
    pub(super) fn is_returning(&self, user: &UserId) -> bool {
        let ours =
            self.ledger.leavers.get(user).is_some_and(|leaver| leaver.is_ours() && self.belongs_again(user, leaver));
        ours && self.desired.people.standing(user) == Some(Standing::Active)
    }

    /// Whether the entry of the directory that has the account now is the one whose account was locked: another one's is held (S-5).
    fn is_theirs(&self, user: &UserId, leaver: &Leaver) -> bool {
        leaver.id.as_ref().is_none_or(|id| self.desired.people.account(id) == Some(user))
    }

    /// Whether somebody keeps their places because their account is locked by usher, or about to be (S-24).
    pub(super) fn is_leaver(&self, user: &UserId) -> bool {
        let locked = self.ledger.leavers.get(user).is_some_and(Leaver::is_ours) && !self.is_returning(user);
        locked || self.strangers.contains(user)
    }

    /// AIM's own rule (`candidates: root-space`): local people in a root space whom no root space admits.
    pub(super) fn strangers_in_root_spaces(&self) -> BTreeSet<UserId> {
        let desired = self.desired;
        if !self.roots_decide() || !desired.complete {
            return BTreeSet::new();
        }
        let roots: Vec<_> = desired.rooms.iter().filter(|room| room.key.is_space() && room.parent.is_none()).collect();
        // Where a group was not found nobody can be told not to belong (S-23).
        if roots.iter().any(|root| root.rule.blind.is_some()) {
            return BTreeSet::new();
        }
        let carriers = roots.iter().filter_map(|root| self.observed.rooms.get(*self.located.get(&root.key)?));
        let inside = carriers.flat_map(|room| room.members.iter()).filter(|(_, member)| member.is_in());
        // Some rights rise from rooms below (S-107).
        let risen = |root: &Key, user: &UserId| {
            self.extra.get(root).is_some_and(|people| people.iter().any(|(entitled, _)| entitled == user))
        };
        let entitled =
            |user: &UserId| roots.iter().any(|root| root.rule.members.contains_key(user) || risen(&root.key, user));
        let undecided = |user: &UserId| matches!(desired.people.standing(user), Some(Standing::Suspended(_)));
        let inside = inside
            .map(|(user, _)| user)
            .filter(|user| user.server() == self.observed.server && !is_protected(desired, self.observed, user));
        // Being put out of the space makes nobody belong to it: who is locked stays so until a root space admits them.
        let locked = self.ledger.leavers.iter().filter(|(user, leaver)| {
            let account = self.observed.accounts.presence(user);
            leaver.id.is_none()
                && leaver.is_ours()
                && matches!(account, Presence::Exists(account) if account.locked || account.deactivated)
        });
        let people = inside.chain(locked.map(|(user, _)| user));
        people.filter(|user| !entitled(user) && !undecided(user)).cloned().collect()
    }

    /// Locks who left, and ends the accounts of those whose grace is over. Hands back whom it looked at.
    fn offboard(&mut self, gone: &[Gone<'_>]) -> BTreeSet<UserId> {
        let mut spare = self.spare_admins(gone);
        let mut due = Vec::new();
        for person in gone {
            let Presence::Exists(account) = self.observed.accounts.presence(person.user) else { continue };
            if is_protected(self.desired, self.observed, person.user) {
                self.leave_protected(person, account);
            } else {
                due.extend(self.attend(person, account, &mut spare));
            }
        }
        self.end(due);
        gone.iter().map(|person| person.user.clone()).collect()
    }

    /// What is done about one person who left; hands back the final step where there is one.
    fn attend(&mut self, person: &Gone<'_>, account: &Account, spare: &mut usize) -> Option<Ending> {
        let Some(leaver) = self.ledger.leavers.get(person.user) else {
            if account.locked && !account.deactivated {
                // Neither undone nor put on the clock (S-51).
                self.note(Note::Suspended { user: person.user.clone(), why: BY_HAND });
            } else if !account.deactivated {
                self.lock(person, account, spare);
            }
            return None;
        };
        match leaver.stage {
            // Whoever was given back is looked at whether gone or not.
            Stage::Restoring | Stage::Halting | Stage::Restored => {}
            Stage::Closing if account.deactivated => return self.keep_locked(person, leaver, account),
            _ if account.deactivated => self.learn(person.user, LeaverNews::Disowned),
            Stage::Locking | Stage::LockingAgain | Stage::Locked | Stage::Closing if account.locked => {
                return self.keep_locked(person, leaver, account);
            }
            Stage::Open if account.locked => {
                self.learn(person.user, LeaverNews::Disowned);
                self.note(Note::Suspended { user: person.user.clone(), why: BY_HAND });
            }
            Stage::Locking | Stage::LockingAgain | Stage::Locked | Stage::Closing | Stage::Open => {
                self.lock(person, account, spare);
            }
        }
        None
    }

    /// A protected person who left. One whom usher locked before they were protected stays so until an operator says otherwise: writing
    /// to a protected account by itself is what usher never does (S-54).
    fn leave_protected(&mut self, person: &Gone<'_>, account: &Account) {
        let user = person.user.clone();
        match self.ledger.leavers.get(person.user) {
            Some(leaver) if leaver.is_ours() && account.locked && !account.deactivated => {
                let (since, cause) = (leaver.since, leaver.cause);
                self.note(Note::InGrace { user, since, cause, fate: Fate::Protected });
            }
            Some(leaver) if leaver.is_spared() => {}
            // What was begun before they were protected is over.
            Some(leaver) if account.deactivated && leaver.stage == Stage::Closing => {
                self.learn(person.user, LeaverNews::Closed { at: self.now });
            }
            Some(_) if account.deactivated => self.learn(person.user, LeaverNews::Disowned),
            _ if account.locked && !account.deactivated => self.note(Note::Suspended { user, why: BY_HAND }),
            _ => self.note(Note::NotLocked { user, why: PROTECTED }),
        }
    }

    /// How many server admins would be left if all of these were locked: people, not usher's own.
    fn spare_admins(&self, gone: &[Gone<'_>]) -> usize {
        let leaving: BTreeSet<&UserId> = gone.iter().map(|person| person.user).collect();
        let own = [&self.observed.bot, &self.observed.sender];
        let usable = |account: &Account| account.admin && !account.locked && !account.deactivated;
        let people = self.observed.accounts.people.iter();
        people.filter(|(user, account)| usable(account) && !own.contains(user) && !leaving.contains(user)).count()
    }

    fn lock(&mut self, person: &Gone<'_>, account: &Account, spare_admins: &mut usize) {
        if account.admin && *spare_admins == 0 {
            // Whoever is spared stays to be the next one's successor.
            *spare_admins = 1;
            self.note(Note::NotLocked { user: person.user.clone(), why: LAST_ADMIN });
            return;
        }
        let withheld = (!self.observed.accounts.listed).then_some(Withheld::MissingRight(NO_RUNG));
        let deed = AccountDeed::Lock { id: person.id.cloned() };
        let removal = Some(Box::new(of_account(Class::Locks, person.user)));
        self.account_step(person.user, deed, person.reason.clone(), (withheld, removal));
    }

    /// What is done about an account that usher has locked; hands back the final step where its time has come.
    fn keep_locked(&mut self, person: &Gone<'_>, leaver: &Leaver, account: &Account) -> Option<Ending> {
        let user = person.user;
        if leaver.is_locking() {
            self.learn(user, LeaverNews::Locked);
        }
        if !account.deactivated {
            self.silence(user, leaver, person.reason);
            self.withdraw_invitations(user, person.reason);
            self.turn_down_elsewhere(user, person.reason);
        }
        let mut clock = leaver.clone();
        let cause = Cause::of(person.reason);
        let settles = leaver.unsure && self.ledger.clocks.doubt().is_none();
        if cause != leaver.cause || settles {
            let since = self.now;
            self.learn(user, LeaverNews::Because { cause, since });
            let at_once = clock.at_once && cause == leaver.cause;
            clock = Leaver { cause, clock: since, due_seen: None, unsure: false, at_once, ..clock };
        }
        self.final_step(user, &clock)
    }

    fn silence(&mut self, user: &UserId, leaver: &Leaver, reason: &Reason) {
        if leaver.silenced {
            return;
        }
        let puppets = self.desired.puppets;
        let withheld = (!puppets).then_some(Withheld::MissingRight(NO_PUPPET));
        self.account_step(user, AccountDeed::RemovePushers, reason.clone(), (withheld, None));
    }

    /// Nobody who cannot log in is waited for (S-52). They are asked again when they are back.
    fn withdraw_invitations(&mut self, user: &UserId, reason: &Reason) {
        let observed = self.observed;
        let mut steps = Vec::new();
        for (key, id) in &self.located {
            let (Some(wanted), Some(room)) = (self.wanted(key), observed.rooms.get(*id)) else { continue };
            if room.members.get(user) != Some(&Member::Invite) || self.enforce(wanted, Some(*id)) != Enforce::Strict {
                continue;
            }
            let text = Arc::from(reason.to_the_person(&wanted.name));
            let action = Action::Kick { room: RoomRef::Id((*id).clone()), user: user.clone(), text };
            let place = Some((*key).clone());
            steps.push(Step { action, reason: reason.clone(), place, withheld: None, removal: None });
        }
        self.plan.steps.extend(steps);
    }

    /// The end of an account (S-53): shown from the lock on, with what it waits for.
    fn final_step(&mut self, user: &UserId, leaver: &Leaver) -> Option<Ending> {
        let bequests = self.bequests(user, leaver);
        let policy = self.desired.offboarding.as_ref()?;
        let closed = matches!(self.observed.accounts.presence(user), Presence::Exists(account) if account.deactivated);
        // What has begun is finished, whatever has changed since: they are out of their rooms, or about to be.
        let begun = closed && leaver.stage == Stage::Closing;
        let period = if begun { Some(0) } else { policy.grace_ms(leaver.cause) };
        let Some(period) = period else {
            let (since, cause) = (leaver.since, leaver.cause);
            self.note(Note::InGrace { user: user.clone(), since, cause, fate: Fate::NoClock });
            return None;
        };
        let due = leaver.due(period);
        let places = if closed { None } else { self.not_before_estate(user, &bequests) };
        let withheld = if begun { None } else { self.not_yet(user, leaver, due).or(places) };
        let end = if policy.erase { End::Erase } else { End::Deactivate };
        let action = Action::Account { user: user.clone(), deed: AccountDeed::Close(end) };
        let mut removal = of_account(Class::FinalSteps, user);
        // Ordered by an operator: no change of the directory. And what has begun was counted then.
        removal.counts = !leaver.at_once && !begun;
        let reason = Reason::GraceOver { cause: leaver.cause, since: leaver.clock };
        let step = Step { action, reason, place: None, withheld, removal: Some(Box::new(removal)) };
        Some(Ending { due, step, sent: leaver.stage == Stage::Closing, bequests })
    }

    /// What stands against a final step now. Never sooner (S-53): every doubt holds.
    fn not_yet(&mut self, user: &UserId, leaver: &Leaver, due: Timestamp) -> Option<Withheld> {
        let clocks = &self.ledger.clocks;
        if self.now < due {
            if leaver.due_seen.is_some() {
                self.learn(user, LeaverNews::Due { seen: None });
            }
            return Some(Withheld::Grace { until: due });
        }
        if let Some(doubt) = clocks.doubt() {
            if leaver.due_seen.is_some() {
                self.learn(user, LeaverNews::Due { seen: None });
            }
            return Some(Withheld::Clocks(Arc::from(doubt)));
        }
        if !clocks.agree(leaver.clock, leaver.due_seen, self.now) {
            let seen = leaver.due_seen.filter(|seen| clocks.counts(*seen, self.now));
            if seen.is_none() {
                self.learn(user, LeaverNews::Due { seen: Some(self.now) });
            }
            return Some(Withheld::Waits(WAITS_FOR_LOOK));
        }
        let age = self.ledger.last_complete_read.map(|read| self.now.since_ms(read));
        let fresh = age.is_some_and(|age| (0..=FRESH_READ_MS).contains(&age));
        (!fresh).then_some(Withheld::Waits(WAITS_FOR_READ))
    }

    /// The final steps, those longest due first, as many as a day allows.
    fn end(&mut self, mut due: Vec<Ending>) {
        due.sort_by_key(|ending| ending.due);
        let policy: Option<&Deprovisioning> = self.desired.offboarding.as_ref();
        let allowed = policy.map_or(0, |policy| policy.erasures_per_day as usize);
        let today = self.ledger.closings.iter().filter(|at| self.now.since_ms(**at) < DAY_MS).count();
        let mut left = allowed.saturating_sub(today);
        for Ending { mut step, sent, bequests, .. } in due {
            // One that the homeserver does not finish must not keep the others waiting.
            if step.is_pending() && !sent {
                match left.checked_sub(1) {
                    Some(rest) => left = rest,
                    None => step.withheld = Some(Withheld::Policy(PER_DAY)),
                }
            }
            self.hand_over(&step, bequests);
            self.push(step);
        }
    }

    /// Gives accounts back: to those who are in the directory again, and where an operator said so. Only what usher locked (S-52): an account
    /// that is open by now is remembered as open, whatever else is undecided about it, or a human's later lock would pass for usher's.
    fn bring_back(&mut self, left: &BTreeSet<UserId>) {
        let ledger = self.ledger;
        for (user, leaver) in &ledger.leavers {
            let Presence::Exists(account) = self.observed.accounts.presence(user) else { continue };
            if !left.contains(user) && self.belongs_again(user, leaver) {
                let undone = account.locked && !account.deactivated && (leaver.is_ours() || leaver.is_given_back());
                if undone {
                    self.account_step(user, AccountDeed::Unlock, Reason::Returned, (None, None));
                } else {
                    self.learn(user, LeaverNews::Returned);
                }
            } else if leaver.is_spared() {
                self.leave_restored(user, leaver, account);
            } else if matches!(leaver.stage, Stage::Locked | Stage::Closing) && !account.locked && !account.deactivated
            {
                self.learn(user, LeaverNews::Opened { locked: leaver.since });
            }
        }
        self.closed_accounts();
    }

    /// Whether nothing stands against somebody's account any more: they are in the directory, and where AIM's rule locked them, a root space
    /// is known to admit them by now. What is not known unlocks nobody.
    fn belongs_again(&self, user: &UserId, leaver: &Leaver) -> bool {
        let admitted = || self.desired.complete && self.roots_are_known() && !self.strangers.contains(user);
        match self.desired.people.standing(user) {
            Some(Standing::Active) if leaver.id.is_none() && self.roots_decide() => admitted(),
            Some(Standing::Active) => self.is_theirs(user, leaver),
            None => leaver.id.is_none() && self.roots_decide() && admitted(),
            Some(Standing::Suspended(_) | Standing::Disabled | Standing::Gone { .. }) => false,
        }
    }

    /// Whether AIM's rule is on.
    fn roots_decide(&self) -> bool {
        self.desired.offboarding.as_ref().is_some_and(|policy| policy.candidates_root_space)
    }

    /// Somebody who is gone, and whose account an operator gave back.
    fn leave_restored(&mut self, user: &UserId, leaver: &Leaver, account: &Account) {
        if account.deactivated {
            let ended = leaver.stage == Stage::Halting;
            self.learn(user, if ended { LeaverNews::Ended } else { LeaverNews::Disowned });
        } else if leaver.is_given_back() && account.locked {
            self.account_step(user, AccountDeed::Unlock, Reason::Restored, (None, None));
        } else if account.locked {
            self.note(Note::Suspended { user: user.clone(), why: OPENED_AND_LOCKED });
        } else {
            if leaver.is_given_back() {
                self.learn(user, LeaverNews::Opened { locked: leaver.since });
            }
            let (since, cause) = (leaver.since, leaver.cause);
            self.note(Note::InGrace { user: user.clone(), since, cause, fate: Fate::Restored });
        }
    }

    /// Where leavers are dealt with, somebody who is back may find their account closed: only a human can open it again.
    fn closed_accounts(&mut self) {
        if self.desired.offboarding.is_none() {
            return;
        }
        let observed = self.observed;
        for (user, _) in observed.accounts.people.iter().filter(|(_, account)| account.deactivated) {
            if self.desired.people.standing(user) == Some(Standing::Active) {
                self.note(Note::AccountClosed { user: user.clone() });
            }
        }
    }

    /// Whether the top spaces could be looked at: otherwise nobody is known to have come back by AIM's rule.
    fn roots_are_known(&self) -> bool {
        let mut roots = self.desired.rooms.iter().filter(|room| room.key.is_space() && room.parent.is_none());
        roots.all(|root| root.rule.blind.is_none() && self.located.contains_key(&root.key))
    }

    /// Keeps the bot's account data in step with what is remembered, whoever is back, or about to be unlocked or locked anew, left out (S-51).
    /// Not with a ledger that may be a new one.
    fn mirror_leavers(&mut self) {
        let Some(mirrored) = self.observed.leavers.get() else { return };
        let mut leavers = self.ledger.mirrored_leavers();
        let turns = |step: &&Step| {
            matches!(step.action, Action::Account { deed: AccountDeed::Unlock | AccountDeed::Lock { .. }, .. })
        };
        for user in self.plan.pending().filter(turns).filter_map(|step| step.action.user()) {
            leavers.remove(user);
        }
        for lesson in &self.plan.lessons {
            if let Lesson::Leaver {
                user,
                news: LeaverNews::Returned | LeaverNews::Disowned | LeaverNews::Closed { .. },
            } = lesson
            {
                leavers.remove(user);
            }
        }
        if self.ledger.settled && *mirrored != leavers {
            let action = Action::MirrorLeavers { leavers };
            self.push(Step { action, reason: Reason::Mirror, place: None, withheld: None, removal: None });
        }
    }

    pub(super) fn learn(&mut self, user: &UserId, news: LeaverNews) {
        self.plan.lessons.push(Lesson::Leaver { user: user.clone(), news });
    }

    pub(super) fn account_step(
        &mut self,
        user: &UserId,
        deed: AccountDeed,
        reason: Reason,
        (withheld, removal): (Option<Withheld>, Option<Box<Removal>>),
    ) {
        let action = Action::Account { user: user.clone(), deed };
        self.push(Step { action, reason, place: None, withheld, removal });
    }
}

/// People who are leaving, one for each account: two entries of a damaged ledger may have the same one, and would undo each other's cause
/// for ever. Whoever is there, though disabled, counts before who is gone: that is never sooner.
fn once_each(leaving: &[Leaving]) -> Vec<&Leaving> {
    let is_there = |leaving: &&Leaving| leaving.reason == Reason::Disabled;
    let there: BTreeSet<&UserId> = leaving.iter().filter(is_there).map(|leaving| &leaving.user).collect();
    let mut seen = BTreeSet::new();
    let counts = |leaving: &&Leaving| is_there(leaving) || !there.contains(&leaving.user);
    leaving.iter().filter(counts).filter(|leaving| seen.insert(&leaving.user)).collect()
}

/// Accounts belong to no space: theirs is the one without a name, which nobody can configure.
pub(super) fn of_account(class: Class, user: &UserId) -> Removal {
    Removal {
        class,
        space: Key::Space(SpaceId::from("")),
        person: Some(user.clone()),
        counts: true,
        emptied: None,
        adopted: false,
    }
}
