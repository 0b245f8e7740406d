//! Doing a plan: phase by phase, one write in flight per room, several rooms at once, in slices short enough that the loop can fold
//! what happened in between and plan again (DESIGN decision 6).
//!
//! Makes no choices: what is sent was decided by the plan. What depends on a failed step is skipped, everything else goes on (S-82).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::actuate::{ActError, ActErrorKind, Actuator, Outcome};
use crate::ids::{Key, RoomId};
use crate::observed::{Observed, PowerLevels, Room};
use crate::plan::{AccountDeed, Action, Creation, Deed, Phase, RoomRef, StateChange, Step};

/// Rooms written to at once: Synapse serialises writes inside a room, and eight rooms saturate one of its cores.
const ROOMS_AT_ONCE: usize = 8;
/// How long a slice lasts: a leaver's lock waits no longer than this behind a first sync.
pub const SLICE: Duration = Duration::from_secs(2);

/// What is asked before each write, and told after it.
pub trait Watch: Send {
    /// Whether another write may be sent now: not while stopping, nor without the writer's lease (S-85).
    fn may_write(&self) -> bool;
    /// How long a write sent now may take: the rest of the writer's lease.
    fn time_left(&self) -> Duration;
    /// A step is about to be sent as `action`, to the world as it is known now.
    fn begins(&mut self, _step: &Step, _action: &Action, _observed: &Observed) {}
    /// A step ended.
    fn ended(&mut self, step: &Step, result: Result<&Outcome, &ActError>);
}

/// What came of a slice.
#[derive(Debug, Default)]
pub struct Report {
    pub done: Vec<Step>,
    pub failed: Vec<(Step, ActError)>,
    /// Not tried, because something they need failed.
    pub skipped: usize,
    /// Rooms whose state is not as planned, or that were found instead of made.
    pub reread: BTreeSet<RoomId>,
    /// Everything was tried; otherwise time ran out, or writing was stopped.
    pub finished: bool,
}

/// Carries out `steps` (pending ones, in the plan's order) until they are done or `slice` has passed.
pub async fn run(
    steps: Vec<Step>,
    observed: &mut Observed,
    actuator: &dyn Actuator,
    watch: &mut dyn Watch,
    slice: Duration,
) -> Report {
    let mut slice = Slice {
        report: Report::default(),
        lost: BTreeSet::new(),
        unfinished: BTreeSet::new(),
        untold: false,
        deadline: Instant::now() + slice,
    };
    for wave in waves(steps) {
        if !slice.wave(wave, observed, actuator, watch).await {
            return slice.report;
        }
    }
    slice.report.finished = true;
    slice.report
}

/// What is written to in order, one step after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Identity,
    Account,
    /// A thing being made.
    Making(Key),
    Room(RoomRef),
}

struct Slice {
    report: Report,
    /// Things whose making failed or is unclear.
    lost: BTreeSet<Key>,
    /// Things that are given up, and something about that failed: they are not left.
    unfinished: BTreeSet<Key>,
    /// The bot's account data may still tell of locks that are to be taken off: they stay on for now.
    untold: bool,
    deadline: Instant,
}

impl Slice {
    /// One wave; `false` when it was not finished.
    async fn wave(
        &mut self,
        steps: Vec<Step>,
        observed: &mut Observed,
        actuator: &dyn Actuator,
        watch: &mut dyn Watch,
    ) -> bool {
        let mut waiting: BTreeMap<Lane, VecDeque<Step>> = BTreeMap::new();
        for step in steps {
            waiting.entry(lane(&step)).or_default().push_back(step);
        }
        // The longest first: begun last, a room of thousands would be written to alone in the end.
        let mut lanes: Vec<Lane> = waiting.keys().cloned().collect();
        lanes.sort_by_key(|lane| Reverse(waiting.get(lane).map_or(0, VecDeque::len)));
        let mut ready = VecDeque::from(lanes);
        let mut running = FuturesUnordered::new();
        let (mut stopped, mut fatal) = (false, false);
        loop {
            while running.len() < ROOMS_AT_ONCE && !fatal {
                let Some(lane) = ready.pop_front() else { break };
                let overdue = stopped || Instant::now() >= self.deadline;
                if overdue && !completes(waiting.get(&lane)) || !watch.may_write() {
                    stopped = true;
                    break;
                }
                match self.next(&lane, &mut waiting, observed) {
                    Some((step, action)) => running.push({
                        watch.begins(&step, &action, observed);
                        let limit = watch.time_left();
                        let standing = standing(&action, observed);
                        async move {
                            let result = within(limit, actuator.perform(&action, standing.as_ref())).await;
                            (lane, step, action, result)
                        }
                    }),
                    None => {
                        waiting.remove(&lane);
                    }
                }
            }
            let Some((lane, step, action, result)) = running.next().await else { break };
            watch.ended(&step, result.as_ref());
            match result {
                Ok(outcome) => {
                    self.succeeded(step, &action, &outcome, observed);
                    ready.push_front(lane);
                }
                Err(error) => {
                    fatal |= error.kind == ActErrorKind::Fatal;
                    let go_on = self.failed(step, error);
                    if go_on {
                        ready.push_front(lane);
                    } else if let Some(rest) = waiting.remove(&lane) {
                        self.report.skipped += rest.len();
                    }
                }
            }
        }
        !stopped && !fatal
    }

    /// The lane's next step that can be done, with the rooms of this plan filled in.
    fn next(
        &mut self,
        lane: &Lane,
        waiting: &mut BTreeMap<Lane, VecDeque<Step>>,
        observed: &Observed,
    ) -> Option<(Step, Action)> {
        let queue = waiting.get_mut(lane)?;
        while let Some(step) = queue.pop_front() {
            if !self.is_doomed(&step)
                && let Some(action) = resolve(&step.action, observed)
            {
                return Some((step, action));
            }
            self.report.skipped += 1;
        }
        None
    }

    /// Whether something the step needs went wrong: its room, a room it links to, or a room the marker is to remember; or what must be done
    /// before a room is left.
    fn is_doomed(&self, step: &Step) -> bool {
        if step.closes().is_some_and(|thing| self.unfinished.contains(thing)) {
            return true;
        }
        if self.untold && matches!(step.action, Action::Account { deed: AccountDeed::Unlock, .. }) {
            return true;
        }
        if self.lost.is_empty() {
            return false;
        }
        let lost = |room: &RoomRef| matches!(room, RoomRef::New(key) if self.lost.contains(key));
        if step.action.room().is_some_and(lost) {
            return true;
        }
        match &step.action {
            Action::SetState { state: StateChange::Child { child, .. }, .. } => lost(child),
            Action::SetState { state: StateChange::Parent { parent, .. }, .. } => lost(parent),
            Action::SetState { state: StateChange::Marker(marker), .. } => {
                self.lost.iter().any(|key| !key.is_space() && key.space() == marker.key.space())
            }
            Action::CreateRoom(creation) => creation.allow.iter().any(lost) || self.lost.contains(&creation.key),
            _ => false,
        }
    }

    fn succeeded(&mut self, step: Step, action: &Action, outcome: &Outcome, observed: &mut Observed) {
        observed.simulate(action, outcome);
        if outcome.found {
            // Our own half-made room: what it holds must be read before anything is built on it.
            if let Action::CreateRoom(creation) = action {
                self.lost.insert(creation.key.clone());
            }
            self.report.reread.extend(outcome.room.clone());
        }
        // What a room is like is known whole only from inside, and after an upgrade nothing is as it was.
        let unseen = matches!(
            action,
            Action::Enter { .. } | Action::TakePower { .. } | Action::Puppet { deed: Deed::Upgrade { .. }, .. }
        );
        if let Some(RoomRef::Id(room)) = action.room().filter(|_| unseen) {
            self.report.reread.insert(room.clone());
            self.report.reread.extend(outcome.room.clone());
        }
        self.report.done.push(step);
    }

    /// Notes a failure; `true` if the lane's other steps do not depend on it.
    fn failed(&mut self, step: Step, error: ActError) -> bool {
        if let Some(RoomRef::Id(room)) = step.action.room() {
            self.report.reread.insert(room.clone());
        }
        let go_on = match (&step.action, error.kind) {
            (_, ActErrorKind::Retry | ActErrorKind::Fatal) | (Action::CreateRoom(_) | Action::DropAlias { .. }, _) => {
                false
            }
            (_, ActErrorKind::Stale | ActErrorKind::Refused | ActErrorKind::Forbidden) => true,
        };
        self.unfinished.extend(step.gives_up().cloned());
        match &step.action {
            Action::CreateRoom(creation) => {
                self.lost.insert(creation.key.clone());
            }
            Action::DropAlias { key, .. } => {
                self.lost.insert(key.clone());
            }
            Action::MirrorLeavers { .. } => self.untold = error.kind == ActErrorKind::Retry,
            // A link that is missing must not be remembered as made.
            Action::SetState { state: StateChange::Child { .. }, .. } => {
                self.lost.extend(step.place.clone());
            }
            _ => {}
        }
        self.report.failed.push((step, error));
        go_on
    }
}

/// Whether the next step belongs to the one before it: nothing shows later that somebody has not forgotten a room, so it is done now or
/// never.
fn completes(queue: Option<&VecDeque<Step>>) -> bool {
    let next = queue.and_then(VecDeque::front);
    next.is_some_and(|step| matches!(step.action, Action::Puppet { deed: Deed::Forget, .. }))
}

/// A write that outlives the lease is given up: what came of it is read again.
async fn within(limit: Duration, work: impl Future<Output = Result<Outcome, ActError>>) -> Result<Outcome, ActError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(ActError {
            attempted: "write while the writer's lease lasts".to_owned(),
            cause: "the homeserver took longer".to_owned(),
            code: None,
            kind: ActErrorKind::Retry,
        })
    })
}

/// Steps that may be done side by side. Spaces are made before the rooms that admit their members.
fn waves(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut waves: BTreeMap<(Phase, bool), Vec<Step>> = BTreeMap::new();
    for step in steps {
        let phase = match step.action.phase(step.place.as_ref()) {
            // Nobody needs to be in the space to be asked into its room: waiting for the last of the largest space would leave most of
            // the homeserver idle.
            Phase::RoomInvites => Phase::SpaceInvites,
            other => other,
        };
        let late = match &step.action {
            Action::CreateRoom(creation) => !creation.key.is_space(),
            Action::DropAlias { key, .. } => !key.is_space(),
            // Markers remember what was made and linked, so they come after it.
            Action::SetState { state: StateChange::Marker(_), .. } => true,
            _ => false,
        };
        waves.entry((phase, late)).or_default().push(step);
    }
    waves.into_values().collect()
}

fn lane(step: &Step) -> Lane {
    match &step.action {
        Action::RegisterBot | Action::SetBotName { .. } | Action::MirrorLeavers { .. } => Lane::Identity,
        Action::Account { .. } => Lane::Account,
        Action::DropAlias { key, .. } => Lane::Making(key.clone()),
        Action::CreateRoom(creation) => Lane::Making(creation.key.clone()),
        Action::SetState { room, .. }
        | Action::SetPowerLevels { room, .. }
        | Action::Invite { room, .. }
        | Action::Join { room, .. }
        | Action::Kick { room, .. }
        | Action::Leave { room }
        | Action::Enter { room }
        | Action::TakePower { room }
        | Action::Puppet { room, .. }
        | Action::RemoveAlias { room, .. } => Lane::Room(room.clone()),
    }
}

/// The action with every room by its id; `None` if one of them does not exist.
fn resolve(action: &Action, observed: &Observed) -> Option<Action> {
    let here = |room: &RoomRef| -> Option<RoomRef> {
        match room {
            RoomRef::Id(_) => Some(room.clone()),
            RoomRef::New(key) => made(key, observed).map(RoomRef::Id),
        }
    };
    Some(match action {
        Action::RegisterBot
        | Action::SetBotName { .. }
        | Action::DropAlias { .. }
        | Action::Account { .. }
        | Action::MirrorLeavers { .. } => action.clone(),
        Action::CreateRoom(creation) => {
            let allow = creation.allow.iter().map(here).collect::<Option<Vec<_>>>()?;
            Action::CreateRoom(Box::new(Creation { allow, ..(**creation).clone() }))
        }
        Action::SetState { room, state } => {
            let state = match state {
                StateChange::Child { child, link } => StateChange::Child { child: here(child)?, link: link.clone() },
                StateChange::Parent { parent, link } => {
                    StateChange::Parent { parent: here(parent)?, link: link.clone() }
                }
                other => other.clone(),
            };
            Action::SetState { room: here(room)?, state }
        }
        Action::SetPowerLevels { room, content, changes } => {
            Action::SetPowerLevels { room: here(room)?, content: content.clone(), changes: changes.clone() }
        }
        Action::Invite { room, user, text } => {
            Action::Invite { room: here(room)?, user: user.clone(), text: text.clone() }
        }
        Action::Join { room, user } => Action::Join { room: here(room)?, user: user.clone() },
        Action::Kick { room, user, text } => Action::Kick { room: here(room)?, user: user.clone(), text: text.clone() },
        Action::Leave { room } => Action::Leave { room: here(room)? },
        Action::Enter { room } => Action::Enter { room: here(room)? },
        Action::TakePower { room } => Action::TakePower { room: here(room)? },
        Action::Puppet { room, user, deed } => {
            Action::Puppet { room: here(room)?, user: user.clone(), deed: deed.clone() }
        }
        Action::RemoveAlias { room, key, alias } => {
            Action::RemoveAlias { room: here(room)?, key: key.clone(), alias: alias.clone() }
        }
    })
}

/// The levels that new ones are written on top of.
fn standing(action: &Action, observed: &Observed) -> Option<PowerLevels> {
    match action {
        Action::SetPowerLevels { room: RoomRef::Id(room), .. }
        | Action::Puppet { room: RoomRef::Id(room), deed: Deed::SetLevels { .. }, .. } => {
            observed.rooms.get(room)?.power_levels.clone()
        }
        _ => None,
    }
}

/// The room a key was given by an earlier step of the plan.
fn made(key: &Key, observed: &Observed) -> Option<RoomId> {
    let id = observed.aliases.get(key)?;
    let room: &Room = observed.rooms.get(id)?;
    (room.created_for.as_ref() == Some(key)).then(|| id.clone())
}

#[cfg(test)]
mod tests;
