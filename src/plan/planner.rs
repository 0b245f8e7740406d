//! What the differs share while one plan is made, and what belongs to no single room: usher's own identity, notes, head counts.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::members::Candidate;
use super::takeover::UserRoom;
use super::{Action, Heads, Note, Plan, Scope, Step, guard, rooms};
use crate::desired::{Desired, DesiredRoom, Entitlement, Standing};
use crate::directory::roll::Roll;
use crate::ids::{Key, RoomId, Timestamp, UserId};
use crate::ledger::{Leaver, Ledger};
use crate::observed::Observed;

/// What the differs share while one plan is made.
pub(super) struct Planner<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) ledger: &'a Ledger,
    pub(super) now: Timestamp,
    pub(super) wanted: BTreeMap<&'a Key, &'a DesiredRoom>,
    /// Which room carries which managed thing.
    pub(super) located: BTreeMap<&'a Key, &'a RoomId>,
    /// What replaced the room of a managed thing, by that room, while the thing is still carried by it.
    pub(super) heirs: BTreeMap<&'a RoomId, &'a RoomId>,
    /// The same, where what replaced it cannot be seen.
    pub(super) unseen_heirs: BTreeMap<&'a RoomId, &'a RoomId>,
    /// Rooms that were replaced, and the managed one that carries on.
    pub(super) former: BTreeMap<&'a RoomId, &'a RoomId>,
    /// Managed spaces that hold a room, by the room.
    pub(super) holders: BTreeMap<&'a RoomId, BTreeSet<&'a Key>>,
    /// Rights that exceptions give by room id or alias, risen to the parents.
    pub(super) extra: BTreeMap<&'a Key, Vec<(UserId, Entitlement)>>,
    /// By their numbers in [`Desired::people`].
    pub(super) candidates: Vec<OnceCell<Candidate>>,
    pub(super) without_account: BTreeSet<&'a UserId>,
    /// Rooms people made and opened to managed spaces.
    pub(super) taken: &'a [UserRoom],
    /// Who is in a root space without being in the directory, where that makes them leavers (S-51).
    pub(super) strangers: BTreeSet<UserId>,
    pub(super) plan: Plan,
}

impl<'a> Planner<'a> {
    /// What is wanted of a managed thing.
    pub(super) fn wanted(&self, key: &Key) -> Option<&'a DesiredRoom> {
        self.wanted.get(key).copied()
    }
}

impl Planner<'_> {
    pub(super) fn push(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.plan.notes.push(note);
    }

    pub(super) fn identity(&mut self) {
        if self.observed.bot_registered.get() == Some(&false) {
            self.push(Step::set_up(Action::RegisterBot));
        }
        let name = &self.desired.provisioner.bot_display_name;
        let differs = match self.observed.bot_display_name.get() {
            Some(current) => current.as_deref() != Some(name.trim()),
            None => self.observed.bot_registered.get() == Some(&false),
        };
        if differs {
            self.push(Step::set_up(Action::SetBotName { name: name.trim().to_owned() }));
        }
    }

    pub(super) fn finish(mut self, scope: &Scope) -> Plan {
        self.after_withheld_creations();
        let missing: Vec<Note> =
            self.without_account.iter().map(|user| Note::NoAccount { user: (*user).clone() }).collect();
        self.plan.notes.extend(missing);
        if *scope == Scope::Everything {
            self.locked_by_hand();
            self.plan.notes.extend(self.desired.notes.iter().cloned());
            self.lessons();
        }
        let mut titles = self.titles();
        // What is given up is shown last.
        titles.append(&mut self.plan.titles);
        self.plan.titles = titles;
        self.plan.rooms.extend(self.located.iter().map(|(key, id)| ((*id).clone(), (*key).clone())));
        self.plan.notes.sort();
        self.plan.notes.dedup();
        // Stable: within a phase the configuration's order stays.
        self.plan.steps.sort_by_cached_key(|step| step.action.phase(step.place.as_ref()));
        if self.plan.steps.iter().any(guard::counts) {
            self.plan.heads = self.heads();
        }
        self.plan
    }

    /// Locks that are not ours are reported and left alone (S-51, S-108).
    pub(super) fn locked_by_hand(&mut self) {
        for (user, account) in &self.observed.accounts.people {
            if self.ledger.leavers.get(user).is_some_and(Leaver::is_ours) {
                continue;
            }
            let undecided = matches!(self.desired.people.standing(user), None | Some(Standing::Suspended(_)));
            if account.locked && !undecided {
                self.note(Note::Suspended { user: user.clone(), why: "locked on the homeserver, not by usher" });
            }
        }
    }

    /// Everybody joined or invited, per space and in all.
    pub(super) fn heads(&self) -> Heads {
        let mut spaces = BTreeMap::new();
        let mut everybody = Vec::new();
        for (key, room) in &self.located {
            let Some(room) = self.observed.rooms.get(*room) else { continue };
            let inside = room.members.iter().filter(|(user, member)| member.is_in() && **user != self.observed.bot);
            let mut count = 0;
            for (user, _) in inside {
                count += 1;
                everybody.push(user);
            }
            if key.is_space() {
                spaces.insert((*key).clone(), count);
            }
        }
        // A million memberships are a tenth as many people, whose ids are mostly shared: the same text is found by where it lies before
        // any text is looked at.
        everybody.sort_unstable_by_key(|user: &&UserId| user.as_str().as_ptr());
        everybody.dedup_by_key(|user| user.as_str().as_ptr());
        let mut people = Roll::default();
        for user in everybody {
            people.enter(user.as_str());
        }
        let ours = self.observed.rooms.values().filter_map(|room| rooms::identity(room, &self.observed.bot));
        let (mut own_spaces, mut own_rooms) = (0, 0);
        for key in ours {
            *(if key.is_space() { &mut own_spaces } else { &mut own_rooms }) += 1;
        }
        Heads { spaces, total: people.len() as u64, own_spaces, own_rooms, addressed: self.ledger.addressed() }
    }
}
