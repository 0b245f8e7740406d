//! The brake (S-81, S-3, S-15, S-101): withholds steps, never adds any. Additions are never held by a limit.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Class, Deed, Heads, Hold, Lesson, LevelChange, Plan, Removal, RoomRef, Scope, Step, StepId, Withheld, plan,
};
use crate::config::{Limit, Limits};
use crate::desired::Desired;
use crate::ids::{Key, Timestamp, UserId};
use crate::ledger::Ledger;
use crate::observed::Observed;

/// How far back removals count.
pub const WINDOW_MS: i64 = 24 * 60 * 60 * 1000;

/// One hold, with everything behind it.
#[derive(Clone, Debug)]
pub struct HeldItem {
    /// Stable while the class and the space are the same.
    pub id: String,
    pub hold: Hold,
    pub steps: Vec<StepId>,
    /// A line a step, in the steps' order.
    pub lines: Vec<String>,
}

/// Withholds what must not be done without a yes.
pub fn guard(
    plan: &mut Plan,
    (desired, observed): (&Desired, &Observed),
    ledger: &Ledger,
    limits: &Limits,
    now: Timestamp,
) {
    let guard = Guard { ledger, limits, now, heads: std::mem::take(&mut plan.heads) };
    let parted = part_levels(plan);
    if !desired.complete {
        guard.withhold(&mut plan.steps, |step| {
            (step.takes().is_some() && !releases(step)).then_some(Withheld::IncompleteRead)
        });
    }
    if ledger.mirrored.is_some_and(|mirrored| mirrored != desired.mirrored) {
        guard.withhold(&mut plan.steps, |_| Some(always(Class::ModeSwitch, None)));
    }
    // Additions are a hundred times as many and are nobody's business from here on.
    let mut losses: Vec<&mut Step> = plan.steps.iter_mut().filter(|step| step.takes().is_some()).collect();
    guard.withhold(each(&mut losses), |step| {
        let removal = step.takes().filter(|removal| removal.adopted)?;
        let hold = Hold {
            class: Class::Adoption,
            space: Some(removal.space.clone()),
            count: 0,
            limit: None,
            base: 0,
            detail: None,
        };
        Some(Withheld::Held(Box::new(hold)))
    });
    if !ledger.settled && !ledger.began_bare && observed.rooms.values().any(|room| room.marker.is_some()) {
        guard.withhold(each(&mut losses), |_| Some(always(Class::LedgerLost, None)));
    }
    guard.withhold(each(&mut losses), |step| {
        let group = step.takes()?.emptied.as_ref()?;
        Some(always(Class::EmptiedGroup, Some(group.to_string())))
    });
    guard.limit_spaces(&mut losses);
    guard.limit_totals(&mut losses);
    guard.limit_things(&mut losses, Class::Spaces, limits.spaces);
    guard.hold_with_their_space(&mut losses);
    guard.limit_things(&mut losses, Class::Rooms, limits.rooms);
    close_last(&mut losses);
    guard.spare_approved(&mut losses);
    if parted {
        rejoin_levels(plan);
    }
    unstack_levels(plan);
    plan.wait_for_adoption();
    super::estate::hand_over_with_the_end(plan);
    guard.keep_memory(plan, desired);
    plan.heads = guard.heads;
}

fn each<'s>(losses: &'s mut [&mut Step]) -> impl Iterator<Item = &'s mut Step> {
    losses.iter_mut().map(|step| &mut **step)
}

/// Whether a step counts against the limits.
pub(super) fn counts(step: &Step) -> bool {
    let of_change = |change: &LevelChange| change.removal.as_ref().is_some_and(|removal| removal.counts);
    step.action.level_changes().iter().any(of_change) || step.removal.as_ref().is_some_and(|removal| removal.counts)
}

/// One step per demotion, so that each can be held on its own; [`rejoin_levels`] puts the others back into one write. Says whether there
/// were any.
fn part_levels(plan: &mut Plan) -> bool {
    let lowers = |change: &LevelChange| change.removal.is_some();
    let demotes = |step: &Step| step.is_pending() && step.action.level_changes().iter().any(lowers);
    if !plan.steps.iter().any(demotes) {
        return false;
    }
    let mut out = Vec::with_capacity(plan.steps.len());
    for step in plan.steps.drain(..) {
        let Action::SetPowerLevels { room, content, changes } = &step.action else {
            out.push(step);
            continue;
        };
        if !demotes(&step) {
            out.push(step);
            continue;
        }
        let (down, up): (Vec<LevelChange>, Vec<LevelChange>) = changes.iter().cloned().partition(lowers);
        let base = without(content, &down);
        if !up.is_empty() {
            let action = Action::SetPowerLevels { room: room.clone(), content: base.clone(), changes: up };
            out.push(Step { action, ..step.clone() });
        }
        for change in down {
            let content = with(&base, &change);
            let reason = change.reason.clone();
            let action = Action::SetPowerLevels { room: room.clone(), content, changes: vec![change] };
            out.push(Step { action, reason, ..step.clone() });
        }
    }
    plan.steps = out;
    true
}

fn always(class: Class, detail: Option<String>) -> Withheld {
    Withheld::Held(Box::new(Hold { class, space: None, count: 0, limit: None, base: 0, detail }))
}

/// Takes usher out of a room and nobody else: what a read of the source says has nothing to do with it.
fn releases(step: &Step) -> bool {
    step.takes().is_some_and(|removal| removal.class == Class::Rooms)
}

/// What is given up is left when everything before that is done, or not at all.
fn close_last(losses: &mut [&mut Step]) {
    let waiting: BTreeSet<Key> =
        losses.iter().filter(|step| !step.is_pending()).filter_map(|step| step.gives_up()).cloned().collect();
    for step in each(losses).filter(|step| step.is_pending()) {
        if step.closes().is_some_and(|thing| waiting.contains(thing)) {
            step.withheld = Some(Withheld::DependsOnWithheld);
        }
    }
}

struct Guard<'a> {
    ledger: &'a Ledger,
    limits: &'a Limits,
    now: Timestamp,
    heads: Heads,
}

impl Guard<'_> {
    fn withhold<'s>(&self, steps: impl IntoIterator<Item = &'s mut Step>, why: impl Fn(&Step) -> Option<Withheld>) {
        for step in steps.into_iter().filter(|step| step.withheld.is_none()) {
            if let Some(withheld) = why(step) {
                let held = matches!(withheld, Withheld::Held(_));
                if !(held && self.is_approved(step)) {
                    step.withheld = Some(withheld);
                }
            }
        }
    }

    fn is_approved(&self, step: &Step) -> bool {
        !self.ledger.approvals.is_empty()
            && self.ledger.approvals.get(&step.id()).is_some_and(|until| *until > self.now)
    }

    /// Removals of a class done in the window.
    fn past(&self, class: Class) -> impl Iterator<Item = &crate::ledger::RemovalRecord> {
        self.ledger
            .removals
            .iter()
            .filter(move |record| record.class == class && self.now.since_ms(record.at) < WINDOW_MS)
    }

    /// Spaces and rooms are given up as one thing each, people and all (S-81). What was begun within the limit is finished.
    fn limit_things(&self, losses: &mut [&mut Step], class: Class, limit: Limit) {
        let of_class = |step: &Step| step.takes().filter(|removal| removal.class == class && removal.counts).cloned();
        let open = losses.iter().filter(|step| step.is_pending() && !self.is_approved(step));
        let planned: BTreeSet<Key> = open.filter_map(|step| of_class(step)).map(|removal| removal.space).collect();
        if planned.is_empty() {
            return;
        }
        let past: Vec<_> = self.past(class).collect();
        let now = self.heads.base(class);
        let base = past.iter().min_by_key(|record| record.at).map_or(now, |record| record.total_base);
        let begun: BTreeSet<Key> = past.iter().map(|record| record.space.clone()).collect();
        let (count, limit) = (planned.union(&begun).count() as u64, allowed(limit, base));
        if count > limit {
            let hold = Hold { class, space: None, count, limit: Some(limit), base, detail: None };
            self.withhold(each(losses), |step| {
                let removal = of_class(step)?;
                (!begun.contains(&removal.space)).then(|| Withheld::Held(Box::new(hold.clone())))
            });
        }
    }

    /// The rooms of a space that is given up go with it: what holds the one holds the others.
    fn hold_with_their_space(&self, losses: &mut [&mut Step]) {
        let mut spaces: BTreeMap<Key, Withheld> = BTreeMap::new();
        for step in losses.iter() {
            if let (Some(space), Some(why)) = (step.gives_up().filter(|thing| thing.is_space()), &step.withheld) {
                spaces.entry(space.clone()).or_insert_with(|| why.clone());
            }
        }
        self.withhold(each(losses), |step| {
            let thing = step.gives_up().filter(|thing| !thing.is_space())?;
            spaces.get(&Key::Space(thing.space().clone())).cloned()
        });
    }

    fn limit_spaces(&self, losses: &mut [&mut Step]) {
        let mut people: BTreeMap<Key, BTreeSet<UserId>> = BTreeMap::new();
        for (removal, person) in self.counted(losses, Class::KicksPerSpace) {
            people.entry(removal.space.clone()).or_default().insert(person.clone());
        }
        for (space, mut people) in people {
            let past: Vec<_> = self.past(Class::KicksPerSpace).filter(|record| record.space == space).collect();
            let present = self.heads.spaces.get(&space).copied().unwrap_or(0);
            let base = past.iter().min_by_key(|record| record.at).map_or(present, |record| record.space_base);
            people.extend(past.iter().filter_map(|record| record.person.clone()));
            let limit = allowed(self.limits.kicks_per_space, base);
            if people.len() as u64 > limit {
                let count = people.len() as u64;
                let hold = Hold {
                    class: Class::KicksPerSpace,
                    space: Some(space.clone()),
                    count,
                    limit: Some(limit),
                    base,
                    detail: None,
                };
                self.hold_class(losses, Class::KicksPerSpace, &hold);
            }
        }
    }

    fn limit_totals(&self, losses: &mut [&mut Step]) {
        let classes = [
            (Class::KicksPerSpace, Class::KicksTotal, self.limits.kicks_total),
            (Class::Demotions, Class::Demotions, self.limits.demotions),
            (Class::Locks, Class::Locks, self.limits.locks),
            (Class::FinalSteps, Class::FinalSteps, self.limits.final_steps),
            (Class::Addresses, Class::Addresses, self.limits.addresses),
        ];
        for (counted, class, limit) in classes {
            let mut people: BTreeSet<UserId> =
                self.counted(losses, counted).into_iter().map(|(_, person)| person.clone()).collect();
            if people.is_empty() {
                continue;
            }
            let past: Vec<_> = self.past(counted).collect();
            let base = past
                .iter()
                .min_by_key(|record| record.at)
                .map_or_else(|| self.heads.base(counted), |record| record.total_base);
            people.extend(past.iter().filter_map(|record| record.person.clone()));
            let (count, limit) = (people.len() as u64, allowed(limit, base));
            if count > limit {
                let hold = Hold { class, space: None, count, limit: Some(limit), base, detail: None };
                self.hold_class(losses, counted, &hold);
            }
        }
    }

    /// Planned removals of a class that the limits judge: not withheld already, caused by a change, not approved.
    fn counted<'s>(&self, losses: &'s [&mut Step], class: Class) -> Vec<(&'s Removal, &'s UserId)> {
        losses
            .iter()
            .map(|step| &**step)
            .filter(|step| step.withheld.is_none() && counts(step) && !self.is_approved(step))
            .filter_map(|step| step.takes())
            .filter(|removal| removal.class == class)
            .filter_map(|removal| Some((removal, removal.person.as_ref()?)))
            .collect()
    }

    fn hold_class(&self, losses: &mut [&mut Step], class: Class, hold: &Hold) {
        self.withhold(each(losses), |step| {
            let removal = step.takes()?;
            let here = removal.class == class && hold.space.as_ref().is_none_or(|space| removal.space == *space);
            (here && removal.counts).then(|| Withheld::Held(Box::new(hold.clone())))
        });
    }

    /// Approved demotions use up no window (S-104). Kicks are told by their id when they are recorded; demotions are joined before that.
    fn spare_approved(&self, losses: &mut [&mut Step]) {
        for step in each(losses).filter(|step| step.is_pending()) {
            if self.is_approved(step)
                && let Action::SetPowerLevels { changes, .. } = &mut step.action
            {
                for removal in changes.iter_mut().filter_map(|change| change.removal.as_mut()) {
                    removal.counts = false;
                }
            }
        }
    }

    /// What is held is remembered as it was: a group that came back empty until its removals are done, rights until a lost ledger's
    /// first plan is approved, the mode until its switch is; a rule that nobody was held to yet stays new until what it takes is decided,
    /// or the next plan would take it uncounted.
    fn keep_memory(&self, plan: &mut Plan, desired: &Desired) {
        let holds: BTreeSet<(Class, Option<&str>)> =
            plan.steps.iter().filter_map(Step::hold).map(|hold| (hold.class, hold.detail.as_deref())).collect();
        let is_held = |class: Class| holds.iter().any(|(held, _)| *held == class);
        let (lost, switched) = (is_held(Class::LedgerLost), is_held(Class::ModeSwitch));
        let places: BTreeSet<&Key> =
            plan.steps.iter().filter(|step| step.hold().is_some()).filter_map(|step| step.place.as_ref()).collect();
        let rules = desired.rooms.iter().filter(|room| places.contains(&room.key)).map(|room| &room.rule_key);
        let is_new = |key: &&Key| !self.ledger.entitled.contains_key(*key);
        let undecided: BTreeSet<Key> = places.iter().copied().chain(rules).filter(is_new).cloned().collect();
        let is_emptied = |group: &str| holds.contains(&(Class::EmptiedGroup, Some(group)));
        plan.lessons.retain(|lesson| match lesson {
            Lesson::Entitled { key, .. } => !lost && !undecided.contains(key),
            Lesson::Vanished(_) => !lost && !switched,
            Lesson::Group { memory, .. } if memory.users.is_empty() => !is_emptied(&memory.name),
            Lesson::Mode { .. } => !switched,
            Lesson::Group { .. } | Lesson::Forgiven { .. } | Lesson::Leaver { .. } | Lesson::Named { .. } => true,
        });
    }
}

/// `max(min, min(percent of base, max))` (S-81, S-104).
fn allowed(limit: Limit, base: u64) -> u64 {
    let share = base.saturating_mul(limit.percent) / 100;
    limit.min.max(limit.max.map_or(share, |max| share.min(max)))
}

/// `content` without the given changes: everybody back at the level they came from.
fn without(content: &serde_json::Value, changes: &[LevelChange]) -> serde_json::Value {
    changes.iter().fold(content.clone(), |content, change| set(content, change, change.from))
}

fn with(content: &serde_json::Value, change: &LevelChange) -> serde_json::Value {
    set(content.clone(), change, change.to)
}

fn set(mut content: serde_json::Value, change: &LevelChange, level: i64) -> serde_json::Value {
    let Some(user) = &change.user else { return content };
    let default = content.get("users_default").and_then(serde_json::Value::as_i64).unwrap_or(0);
    if let Some(users) = content.get_mut("users").and_then(serde_json::Value::as_object_mut) {
        if level == default {
            users.remove(user.as_str());
        } else {
            users.insert(user.to_string(), level.into());
        }
    }
    content
}

/// Puts the level steps of one room that will be done back into one write (S-21).
fn rejoin_levels(plan: &mut Plan) {
    let mut out: Vec<Step> = Vec::with_capacity(plan.steps.len());
    let mut at: BTreeMap<super::RoomRef, usize> = BTreeMap::new();
    for step in plan.steps.drain(..) {
        if let (Action::SetPowerLevels { room, changes, .. }, None) = (&step.action, &step.withheld) {
            if let Some(first) = at.get(room).and_then(|index| out.get_mut(*index)) {
                if let Action::SetPowerLevels { content, changes: known, .. } = &mut first.action {
                    *content = changes.iter().fold(content.clone(), |content, change| with(&content, change));
                    known.extend(changes.iter().cloned());
                    first.reason = super::Reason::LevelRule;
                }
                continue;
            }
            at.insert(room.clone(), out.len());
        }
        out.push(step);
    }
    plan.steps = out;
}

/// People who lower themselves do so one after the other, before the bot writes (S-22): whoever does not after all keeps their level in
/// what is written later.
fn unstack_levels(plan: &mut Plan) {
    let mut kept: BTreeMap<super::RoomRef, Vec<LevelChange>> = BTreeMap::new();
    for step in &mut plan.steps {
        let withheld = step.withheld.is_some();
        match &mut step.action {
            Action::Puppet { room, deed: Deed::SetLevels { content, changes }, .. } => {
                let before = kept.entry(room.clone()).or_default();
                *content = without(content, before);
                if withheld {
                    before.extend(changes.iter().cloned());
                }
            }
            Action::SetPowerLevels { room, content, .. } => {
                if let Some(before) = kept.get(room) {
                    *content = without(content, before);
                }
            }
            _ => {}
        }
    }
}

impl Hold {
    /// Stays the same while the hold's figures move: a digest of class, space and detail.
    #[must_use]
    pub fn id(&self) -> String {
        let space = self.space.as_ref().map(ToString::to_string).unwrap_or_default();
        let parts = [&format!("{:?}", self.class), space.as_str(), self.detail.as_deref().unwrap_or("")];
        format!("h-{}", &super::digest(&parts)[..6])
    }
}

impl Plan {
    /// Everything that waits for an operator, grouped by hold.
    #[must_use]
    pub fn held(&self) -> Vec<HeldItem> {
        let mut items: BTreeMap<String, HeldItem> = BTreeMap::new();
        for step in &self.steps {
            let Some(hold) = step.hold() else { continue };
            let id = hold.id();
            let item = items.entry(id.clone()).or_insert_with(|| HeldItem {
                id,
                hold: hold.clone(),
                steps: Vec::new(),
                lines: Vec::new(),
            });
            item.steps.push(step.id());
            item.lines.push(self.line(step));
        }
        items.into_values().collect()
    }
}

/// Plans and guards. A class is held as a whole (S-81), so what a few rooms would lose is weighed with what all would: otherwise every
/// event in a room would let as much of a held class through as the limit allows. The same goes for what leans on a room yet to be made.
#[must_use]
pub fn guarded(
    (desired, observed): (&Desired, &Observed),
    ledger: &Ledger,
    scope: &Scope,
    limits: &Limits,
    now: Timestamp,
) -> Plan {
    let mut narrow = plan(desired, observed, ledger, scope, now);
    if *scope == Scope::Everything || !narrow.steps.iter().any(|step| counts(step) || step.action.needs_new()) {
        guard(&mut narrow, (desired, observed), ledger, limits, now);
        return narrow;
    }
    let mut whole = plan(desired, observed, ledger, &Scope::Everything, now);
    guard(&mut whole, (desired, observed), ledger, limits, now);
    let covered = |step: &Step| match step.action.room() {
        Some(RoomRef::Id(room)) => scope.covers(room),
        Some(RoomRef::New(_)) | None => false,
    };
    // What is to be done elsewhere before something is left waits for the next whole pass, and so does leaving it.
    let elsewhere: BTreeSet<Key> =
        whole.steps.iter().filter(|step| !covered(step)).filter_map(|step| step.gives_up().cloned()).collect();
    whole.steps.retain(|step| covered(step) && step.closes().is_none_or(|thing| !elsewhere.contains(thing)));
    whole.lessons.clear();
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_larger_of_a_floor_and_a_capped_share() {
        let limit = Limit { min: 20, percent: 10, max: Some(500) };
        assert_eq!([allowed(limit, 10), allowed(limit, 1_000), allowed(limit, 100_000)], [20, 100, 500]);
    }
}
