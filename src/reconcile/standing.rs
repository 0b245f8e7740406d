//! The bot's own standing in the rooms that are usher's, made or adopted: thrown out, gone, or stripped of its power (S-16, S-22).
//!
//! A room the bot is out of is usher's all the same: made anew it would be there twice, with everybody in the old one. So it is held
//! back from planning ([`Observed::unread`]), the bot comes back by itself where it can, and where it cannot the operator is told what
//! to do. Who takes its place or its power away again and again is in a fight with usher like any other (S-34). Rooms that people opened
//! to a space are not looked after here: the plan takes those over anew. Never touches a room that is nothing to usher.
//!
//! [`Observed::unread`]: crate::observed::Observed::unread

mod ways;

use std::collections::{BTreeMap, BTreeSet};

use super::fights::Fights;
use super::{PAUSES_MS, PassError, Reconciler, record};
use crate::actuate::{ActError, ActErrorKind};
use crate::clock;
use crate::config::Enforce;
use crate::desired::Desired;
use crate::ids::{Key, RoomId, Timestamp, UserId};
use crate::observability::FailureStatus;
use crate::observed::{Member, Room};
use crate::plan::{Action, Reason, RoomRef, Step, is_powerless};
use crate::store::StoreError;
use ways::Ways;

/// What the homeserver says to somebody who is banned and wants to enter: not that there is nobody.
const BANNED: &str = "M_BAD_STATE";
/// What it takes to keep levels, names and members of a room in order.
const NEEDED: i64 = 100;

/// What the bot lost in a room of usher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It is not in the room any more.
    Place,
    /// It is, without the level it takes to keep the room in order.
    Power,
}

impl Loss {
    /// What undoes it, by which a fight over it is known.
    fn remedy(self, key: &Key, room: &RoomId) -> Step {
        let room = RoomRef::Id(room.clone());
        let action = match self {
            Self::Place => Action::Enter { room },
            Self::Power => Action::TakePower { room },
        };
        Step { place: Some(key.clone()), ..self.step(action) }
    }

    fn step(self, action: Action) -> Step {
        let reason = Reason::Structure(match self {
            Self::Place => "the bot lost its place in the room",
            Self::Power => "the bot lost its power in the room",
        });
        Step { action, reason, place: None, withheld: None, removal: None }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Power => "power",
        }
    }
}

/// Rooms of usher's in which the bot is not what it should be.
#[derive(Debug, Default)]
pub(super) struct Standing {
    setbacks: BTreeMap<RoomId, Setback>,
    /// Behind fencing aliases of ours, and not ours: looked at once between two full reads.
    strange: BTreeSet<RoomId>,
}

/// What the bot lost in one room.
#[derive(Debug)]
struct Setback {
    key: Key,
    loss: Loss,
    /// The space is only observed: shown, and not done (S-108).
    observed_only: bool,
    cause: Option<String>,
    failures: u32,
    since: Timestamp,
    retry_at: Timestamp,
}

impl Setback {
    fn new((key, loss): (&Key, Loss), now: Timestamp) -> Self {
        let key = key.clone();
        Self { key, loss, observed_only: false, cause: None, failures: 0, since: now, retry_at: now }
    }

    /// It was tried, and this came of it.
    fn fail(&mut self, cause: String, now: Timestamp) {
        self.retry_at = now.back_off(self.failures, PAUSES_MS);
        self.failures += 1;
        self.cause = Some(cause);
    }

    fn tell_its_end(&self, room: &RoomId) {
        tracing::info!(key = %self.key, %room, loss = ?self.loss, "the bot has got back what it lost");
    }
}

impl Standing {
    /// Everything was read again.
    pub fn look_again(&mut self) {
        self.strange.clear();
    }

    /// Whether the bot wants to be back in `room`.
    pub fn is_awaited(&self, room: &RoomId) -> bool {
        self.setbacks.get(room).is_some_and(|setback| setback.loss == Loss::Place)
    }

    /// Something has changed in the bot's favour.
    pub fn try_now(&mut self, room: &RoomId) {
        if let Some(setback) = self.setbacks.get_mut(room) {
            (setback.failures, setback.retry_at) = (0, clock::now());
        }
    }

    fn is_known(&self, room: &RoomId) -> bool {
        self.is_awaited(room) || self.strange.contains(room)
    }

    /// The bot lost something; whoever takes that away again and again makes it wait longer and longer (S-34).
    fn suffer(&mut self, room: &RoomId, (key, enforce): (&Key, Enforce), loss: Loss, fights: &mut Fights) {
        let now = clock::now();
        // First its power, then its place: what counts is what it has now.
        self.setbacks.retain(|id, setback| id != room || setback.loss == loss);
        let setback = self.setbacks.entry(room.clone()).or_insert_with(|| {
            tracing::warn!(%key, %room, ?loss, "the bot lost its place or its power in a room of usher's");
            let (mut setback, remedy) = (Setback::new((key, loss), now), loss.remedy(key, room));
            let what = || format!("{key}: the bot's {} in {room}", loss.word());
            if let Some(fight) = fights.undone(&remedy, what, now) {
                fight.announce();
            }
            if let Some((flips, until)) = fights.wait_of(&remedy, now) {
                setback.cause = Some(format!("somebody has taken it away {flips} times: usher waits before it tries"));
                setback.retry_at = until;
            }
            setback
        });
        setback.observed_only = enforce == Enforce::Observe;
    }

    fn due(&self) -> Vec<(RoomId, Loss)> {
        let now = clock::now();
        let due = self.setbacks.iter().filter(|(_, setback)| setback.retry_at <= now && !setback.observed_only);
        due.map(|(room, setback)| (room.clone(), setback.loss)).collect()
    }
}

impl Reconciler {
    /// Whether something that waits may be tried again: a fight's wait is over, or the bot may try to get back into a room.
    pub(super) fn has_waited_enough(&self) -> bool {
        let (acts, now) = (self.parts.actuator.is_some(), clock::now());
        acts && (self.fights.is_due(now) || !self.standing.due().is_empty() || self.unasked.are_over(now))
    }

    /// Finds rooms of usher's, among those behind the aliases of missing things, that the bot is out of, and rooms it has no power in.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_for_own_rooms(
        &mut self,
        desired: &Desired,
        missing: &BTreeSet<Key>,
    ) -> Result<(), PassError> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let heirs = observed.heirs_outside();
        let mut in_a_row = 0;
        let policy: BTreeMap<&Key, Enforce> = desired.rooms.iter().map(|room| (&room.key, room.enforce)).collect();
        for (key, enforce) in missing.iter().filter_map(|key| Some((key, *policy.get(key)?))) {
            let Some(id) = observed.aliases.get(key).cloned() else { continue };
            let in_sight = observed.rooms.contains_key(&id) || observed.unread.contains(&id);
            // What replaced a room of ours that the bot is in is followed from there.
            if in_sight || heirs.contains(&id) || self.standing.is_known(&id) {
                continue;
            }
            if self.unseen.waits(&id) {
                self.unseen.miss(&id, observed);
                continue;
            }
            let homeserver = &self.parts.homeserver;
            let room = if observed.accounts.listed {
                homeserver.room_from_outside(&id).await
            } else {
                homeserver.room_when_left(&id).await
            };
            let room = match room {
                Ok(room) => room,
                Err(error) => {
                    self.unseen.failed(&id, error, &mut in_a_row)?;
                    self.unseen.miss(&id, observed);
                    continue;
                }
            };
            in_a_row = 0;
            self.unseen.succeeded(&id, observed);
            let lost = match &room {
                Some(room) => is_lost(room, key, &observed.bot) || replaced_ours(room, &observed.bot),
                // Who is no admin sees nothing of a room it was banned from, or asked back into. Whether it is debris shows when the
                // bot tries to enter.
                None => !observed.accounts.listed,
            };
            if lost {
                self.standing.suffer(&id, (key, enforce), Loss::Place, &mut self.fights);
            } else {
                self.standing.strange.insert(id);
            }
        }
        for (id, room) in &observed.rooms {
            if let Some(key) = powerless(room, &observed.bot)
                && let Some(enforce) = policy.get(key)
            {
                self.standing.suffer(id, (key, *enforce), Loss::Power, &mut self.fights);
            }
        }
        self.standing.setbacks.retain(|id, setback| {
            let lost = match (setback.loss, observed.rooms.get(id)) {
                (Loss::Place, None) => observed.aliases.get(&setback.key) == Some(id),
                (Loss::Power, Some(room)) => powerless(room, &observed.bot).is_some(),
                (Loss::Place, Some(_)) | (Loss::Power, None) => false,
            };
            if !lost {
                setback.tell_its_end(id);
                self.fights.rest(&setback.loss.remedy(&setback.key, id));
            }
            lost
        });
        let lost = self.standing.setbacks.iter().filter(|(_, setback)| setback.loss == Loss::Place);
        observed.unread.extend(lost.map(|(id, _)| id.clone()));
        Ok(())
    }

    /// Tries to get back what the bot lost; `true` if that changed anything.
    ///
    /// # Errors
    /// When the homeserver or the database is away.
    pub(super) async fn recover(&mut self, desired: &Desired) -> Result<bool, PassError> {
        let due = self.standing.due();
        if due.is_empty() || !self.may_write() {
            return Ok(false);
        }
        let (mut changed, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for (id, loss) in due {
            match (self.win_back(desired, (&id, loss)).await?, loss) {
                (Ok(()), _) => drop(changed.insert(id)),
                (Err(error), Loss::Place) if is_nowhere(&error) => drop(gone.insert(id)),
                (Err(error), _) => {
                    if error.kind == ActErrorKind::Stale && loss == Loss::Power {
                        // Somebody changed the levels meanwhile.
                        changed.insert(id.clone());
                    }
                    self.fail_to_win_back(&id, error.to_string());
                }
            }
        }
        self.reread_rooms(&changed).await?;
        for id in &changed {
            self.take_stock(id);
        }
        for id in &gone {
            self.give_up(id);
        }
        if !changed.is_empty() {
            // What failed in those rooms failed for this.
            self.troubles.clear();
        }
        Ok(!changed.is_empty() || !gone.is_empty())
    }

    /// One try; everything that is sent for it goes on record.
    async fn win_back(
        &self,
        desired: &Desired,
        (room, loss): (&RoomId, Loss),
    ) -> Result<Result<(), ActError>, StoreError> {
        let (Some(actuator), Some(observed)) = (&self.parts.actuator, &self.observed) else { return Ok(Ok(())) };
        let (homeserver, ledger) = (&self.parts.homeserver, &self.ledger);
        let mut ways = Ways { actuator: actuator.as_ref(), homeserver, desired, observed, ledger, sent: Vec::new() };
        let done = ways.win_back(room, loss).await;
        let (now, place) = (clock::now(), self.standing.setbacks.get(room).map(|setback| setback.key.clone()));
        let row = |(number, (action, error)): (i64, (Action, Option<ActError>))| {
            let step = Step { place: place.clone(), ..loss.step(action) };
            let found = record::found(&step.action, observed);
            // The same thing may be tried twice in one try.
            self.records(&step, found, now.plus_ms(number), &record::result_of(error.as_ref()))
        };
        let rows: Vec<_> = (0..).zip(ways.sent).flat_map(row).collect();
        self.audit(&rows).await?;
        Ok(done)
    }

    fn fail_to_win_back(&mut self, room: &RoomId, cause: String) {
        if let Some(setback) = self.standing.setbacks.get_mut(room) {
            tracing::warn!(key = %setback.key, %room, cause, "the bot cannot get back what it lost");
            setback.fail(cause, clock::now());
        }
    }

    /// Whether a room, read again, shows that the bot has got back what it lost: that it is lost once more is then another loss.
    fn take_stock(&mut self, room: &RoomId) {
        let Some(observed) = &self.observed else { return };
        let Some(setback) = self.standing.setbacks.get_mut(room) else { return };
        let stands = match (setback.loss, observed.rooms.get(room)) {
            (Loss::Place, there) => there.is_some(),
            (Loss::Power, there) => there.is_some_and(|there| powerless(there, &observed.bot).is_none()),
        };
        let now = clock::now();
        if stands {
            setback.tell_its_end(room);
            let remedy = setback.loss.remedy(&setback.key, room);
            self.fights.done(&remedy, now);
            self.fights.rest(&remedy);
            self.standing.setbacks.remove(room);
        } else if setback.retry_at <= now {
            setback.fail("it was given back and is gone again, or it is not enough".to_owned(), now);
        }
    }

    /// There is no such room, or nobody of this homeserver is in it: where its alias points is looked up anew, and if it is there still,
    /// that is debris.
    fn give_up(&mut self, room: &RoomId) {
        let Some(setback) = self.standing.setbacks.remove(room) else { return };
        tracing::warn!(key = %setback.key, %room, "there is nobody left in a room of usher's that the bot is out of");
        self.looked_up.remove(&setback.key);
        self.standing.strange.insert(room.clone());
        if let Some(observed) = &mut self.observed {
            observed.aliases.remove(&setback.key);
            observed.unread.remove(room);
        }
    }

    /// Rooms of usher's that the bot is out of, or has no power in, and what can be done about each.
    #[must_use]
    pub fn setbacks(&self) -> Vec<FailureStatus> {
        self.standing.setbacks.iter().map(|(room, setback)| self.setback(room, setback)).collect()
    }

    /// What does not work, with what can be done about it (S-82, S-92).
    pub(super) fn failures(&self) -> Vec<FailureStatus> {
        let lost = self.setbacks().into_iter();
        let fought = self.fights.waiting().map(|(fight, until)| FailureStatus {
            what: fight.what.clone(),
            reason: format!("undone {} times by somebody else", fight.flips),
            remedy: Some("see in the room's history who undoes it, and settle it with them".to_owned()),
            since: fight.since,
            retry_at: Some(until),
        });
        let failed = self.troubles.values().map(|trouble| FailureStatus {
            what: trouble.what.clone(),
            reason: trouble.cause.clone(),
            remedy: None,
            since: trouble.since,
            retry_at: Some(trouble.retry_at),
        });
        let unseen =
            |user: &UserId| format!("what {user}, who is locked, would leave behind is not known: they are not erased");
        let unasked = |user: &UserId| format!("the account of {user} cannot be looked at: what concerns it waits");
        let accounts = self.registry.failures().into_iter().chain(self.unasked.failures(unasked));
        let accounts = accounts.chain(self.unseen_estates.failures(unseen)).chain(self.unseen.failures());
        lost.chain(self.exposure_failure()).chain(accounts).chain(fought).chain(failed).collect()
    }

    fn setback(&self, room: &RoomId, setback: &Setback) -> FailureStatus {
        let bot = self.observed.as_ref().map(|observed| observed.bot.to_string()).unwrap_or_default();
        let (what, remedy) = match setback.loss {
            Loss::Place => (
                format!("{}: the bot is not in its room {room}", setback.key),
                format!(
                    "invite {bot} to {room} from an account that may (if it is banned there, lift that first); or delete that room with the admin API, and usher makes a new one"
                ),
            ),
            Loss::Power => (
                format!("{}: the bot has no power in its room {room}", setback.key),
                format!("raise {bot} to at least {NEEDED} in {room} from an account that may"),
            ),
        };
        let untried = if setback.observed_only { "the space is only observed" } else { "not tried yet" };
        let reason = setback.cause.clone().unwrap_or_else(|| untried.to_owned());
        let retry_at = (!setback.observed_only).then_some(setback.retry_at);
        FailureStatus { what, reason, remedy: Some(remedy), since: setback.since, retry_at }
    }
}

/// Whether the room to be entered is none any more. Somebody who is banned is told something else.
fn is_nowhere(error: &ActError) -> bool {
    error.kind == ActErrorKind::Stale && error.code.as_deref() != Some(BANNED)
}

/// What a room is to usher: by its marker, which an adopted or renamed one has too, else by its create content.
fn carried(room: &Room) -> Option<&Key> {
    match &room.marker {
        Some(marker) => Some(&marker.key).filter(|_| !marker.abandoned),
        None => room.created_for.as_ref(),
    }
    .filter(|_| room.successor.is_none())
}

/// Whether the room is `key`'s, and the bot is out of it. One the bot never was in is still in the making, or debris.
fn is_lost(room: &Room, key: &Key, bot: &UserId) -> bool {
    let out = match room.members.get(bot) {
        Some(Member::Leave { .. } | Member::Ban { .. } | Member::Invite | Member::Knock) => true,
        Some(Member::Join) | None => false,
    };
    out && carried(room) == Some(key)
}

/// Whether the room, which stands behind a fencing alias of ours and has no mark of ours, replaced another one: then people upgraded a
/// room of ours while the bot was in neither. Nobody but the homeserver puts that alias there.
fn replaced_ours(room: &Room, bot: &UserId) -> bool {
    let unmarked = room.marker.is_none() && room.created_for.is_none() && room.managed_by.is_none();
    unmarked && room.predecessor.is_some() && room.successor.is_none() && room.members.get(bot) != Some(&Member::Join)
}

/// What a room is in which the bot cannot change levels any more.
fn powerless<'r>(room: &'r Room, bot: &UserId) -> Option<&'r Key> {
    carried(room).filter(|_| is_powerless(room, bot))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observed::{Marker, PowerLevels};

    const BOT: &str = "@usher:x";

    fn key() -> Key {
        Key::Space("red".into())
    }

    fn room(bot: Option<Member>, level: i64) -> Room {
        let mut room = Room { version: "11".to_owned(), created_for: Some(key()), ..Room::default() };
        room.members.extend(bot.map(|member| (UserId::from(BOT), member)));
        room.power_levels = Some(PowerLevels::from_content(&json!({ "users": { BOT: level } })));
        room
    }

    fn left() -> Member {
        Member::Leave { by: BOT.into(), event: "$1".into() }
    }

    #[test]
    fn a_room_of_ours_that_the_bot_left_is_lost_and_no_debris() {
        let lost = |room: &Room| is_lost(room, &key(), &BOT.into());
        for member in [left(), Member::Ban { by: "@ann:x".into() }, Member::Invite] {
            assert!(lost(&room(Some(member), 150)));
        }
        assert!(!lost(&room(None, 150)), "in the making");
        assert!(!lost(&room(Some(Member::Join), 150)));
        assert!(!is_lost(&room(Some(left()), 150), &Key::Space("blue".into()), &BOT.into()));
        assert!(!lost(&Room { created_for: None, ..room(Some(left()), 150) }), "somebody else's");
        assert!(!lost(&Room { successor: Some("!new".into()), ..room(Some(left()), 150) }));
        let marker = Marker {
            instance: "main".into(),
            key: key(),
            made: BTreeSet::new(),
            abandoned: true,
            additive: false,
            original_creator: None,
            former: BTreeSet::new(),
            adopted: false,
        };
        let adopted = Marker { abandoned: false, adopted: true, ..marker.clone() };
        assert!(lost(&Room { created_for: None, marker: Some(adopted), ..room(Some(left()), 150) }), "adopted");
        assert!(!lost(&Room { marker: Some(marker), ..room(Some(left()), 150) }), "left on purpose");
    }

    #[test]
    fn what_replaced_a_room_of_ours_behind_its_alias_is_lost_and_no_debris() {
        let heir = Room { created_for: None, predecessor: Some("!old".into()), ..room(None, 150) };
        assert!(replaced_ours(&heir, &BOT.into()));
        assert!(!replaced_ours(&Room { predecessor: None, ..heir.clone() }, &BOT.into()), "a room of strangers");
        assert!(!replaced_ours(&Room { successor: Some("!next".into()), ..heir.clone() }, &BOT.into()));
        assert!(!replaced_ours(&Room { managed_by: Some("other".into()), ..heir.clone() }, &BOT.into()));
        let inside = Room { members: room(Some(Member::Join), 150).members, ..heir };
        assert!(!replaced_ours(&inside, &BOT.into()), "it is there already");
    }

    /// The moment at which the bot next tries to get its power back, after so many losses one after the other.
    fn next_try(losses: usize) -> (Timestamp, Option<String>) {
        let (mut standing, mut fights, id) = (Standing::default(), Fights::default(), RoomId::from("!red"));
        for round in 0..losses {
            if round > 0 {
                standing.setbacks.clear();
                fights.done(&Loss::Power.remedy(&key(), &id), clock::now());
            }
            standing.suffer(&id, (&key(), Enforce::Strict), Loss::Power, &mut fights);
            standing.suffer(&id, (&key(), Enforce::Strict), Loss::Power, &mut fights);
        }
        let setback = &standing.setbacks[&id];
        (setback.retry_at, setback.cause.clone())
    }

    #[test]
    fn power_taken_away_again_and_again_is_fought_over_like_anything_else() {
        let began = clock::now();
        let (at_once, cause) = next_try(5);
        assert!(at_once <= clock::now() && cause.is_none(), "four times undone");
        let (later, cause) = next_try(6);
        assert!(later.since_ms(began) >= 60_000, "five times undone: it waits a minute");
        assert!(cause.is_some_and(|cause| cause.contains("5 times")));
        let (later, _) = next_try(7);
        assert!(later.since_ms(began) >= 120_000, "and two the next time");
    }

    #[test]
    fn who_lost_its_power_and_then_its_place_is_out_of_the_room() {
        let (mut standing, id) = (Standing::default(), RoomId::from("!red"));
        for loss in [Loss::Power, Loss::Place] {
            standing.suffer(&id, (&key(), Enforce::Strict), loss, &mut Fights::default());
        }
        assert!(standing.is_awaited(&id), "or the room would be made anew");
    }

    #[test]
    fn only_a_level_below_a_hundred_is_a_loss_of_power() {
        let weak = |room: &Room| powerless(room, &BOT.into()).is_some();
        assert!(weak(&room(Some(Member::Join), 99)));
        assert!(!weak(&room(Some(Member::Join), 100)));
        let newest = Room { version: "12".to_owned(), ..room(Some(Member::Join), 0) };
        assert!(!weak(&Room { creators: [BOT.into()].into(), ..newest.clone() }), "its creator, for good");
        assert!(
            weak(&Room { creators: ["@gus:x".into()].into(), ..newest.clone() }),
            "another one's, adopted or upgraded"
        );
        let raised = room(Some(Member::Join), 100).power_levels;
        assert!(!weak(&Room { creators: ["@gus:x".into()].into(), power_levels: raised, ..newest }));
        let made = Room { creators: [BOT.into()].into(), ..room(Some(Member::Join), 0) };
        assert!(weak(&made), "below version 12 creators are like others");
        assert!(!weak(&Room { power_levels: None, ..room(Some(Member::Join), 0) }), "in the making");
        assert!(!weak(&Room { created_for: None, ..room(Some(Member::Join), 0) }), "somebody else's");
    }
}
