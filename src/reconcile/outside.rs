//! Looking at rooms the bot is not in: those that hang in spaces it is in (S-31), and those that are to be adopted. The feed does not show them, so each poll looks at
//! some of them, in turn, and every full read at all.

use std::collections::BTreeSet;

use super::delays::Delays;
use super::{Reconciler, alive};
use crate::clock;
use crate::http::appservice::Hinted;
use crate::ids::RoomId;
use crate::matrix::{MatrixError, Trouble};
use crate::observability::FailureStatus;
use crate::observed::Observed;

/// Rooms looked at from outside in one poll: one request each, or with no admin rights one per space. A private room that is opened
/// is noticed once its turn comes.
const LOOKS_PER_POLL: usize = 20;

/// So many rooms in a row may be the homeserver's trouble with just them.
const MOST_FAILURES: usize = 2;

/// How many of the rooms outside are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    All,
    /// Those never seen, and some of the others, in turn.
    Some,
    /// Those never seen.
    New,
}

/// Rooms outside that could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    delays: Delays<RoomId>,
    /// Those that nobody has seen, and without which a plan would take something for nothing: [`Observed::unread`].
    missed: BTreeSet<RoomId>,
}

impl Unseen {
    /// Whether it is left alone now.
    pub(super) fn waits(&self, id: &RoomId) -> bool {
        self.delays.holds(id, clock::now())
    }

    /// One that is too large or broken keeps nothing else waiting (S-82). Several in a row are the homeserver's trouble.
    pub(super) fn failed(&mut self, id: &RoomId, error: MatrixError, in_a_row: &mut usize) -> Result<(), MatrixError> {
        *in_a_row += 1;
        self.delays.failed(id, error.to_string(), clock::now());
        if *in_a_row > MOST_FAILURES || error.trouble == Trouble::UnknownToken {
            return Err(error);
        }
        tracing::warn!(room = %id, %error, "a room outside cannot be looked at; it is left as it is");
        Ok(())
    }

    /// What stands there counts as not known, unless it was seen before.
    pub(super) fn miss(&mut self, id: &RoomId, observed: &mut Observed) {
        if !observed.outside.contains_key(id) && !observed.rooms.contains_key(id) {
            observed.unread.insert(id.clone());
            self.missed.insert(id.clone());
        }
    }

    /// It was seen, or it can be entered; whether it was missed.
    pub(super) fn succeeded(&mut self, id: &RoomId, observed: &mut Observed) -> bool {
        self.delays.succeeded(id);
        self.missed.remove(id) && observed.unread.remove(id)
    }

    /// Whether it is none of those that every poll reads again.
    pub(super) fn is_missed(&self, id: &RoomId) -> bool {
        self.missed.contains(id)
    }

    fn keep_only(&mut self, hanging: &BTreeSet<RoomId>) {
        self.delays.retain(|room| hanging.contains(room) || self.missed.contains(room));
    }

    /// Everything is read anew.
    pub(super) fn look_again(&mut self) {
        self.missed.clear();
    }

    /// What an operator should know.
    pub(super) fn failures(&self) -> impl Iterator<Item = FailureStatus> {
        self.delays.failures(|room| {
            format!(
                "the room {room}, which hangs in a space of ours or took the place of a room, cannot be looked at: it is left as it is"
            )
        })
    }
}

impl Reconciler {
    /// Looks at what replaced rooms of ours, unless that was done since the last full read: a plan must not take for nothing what was
    /// only not looked at. Without admin rights one request for each room, and one for the bot's invitations.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_at_heirs(&mut self) -> Result<(), MatrixError> {
        loop {
            let Some(observed) = &self.observed else { return Ok(()) };
            let heirs = observed.heirs_outside();
            let due: BTreeSet<RoomId> = heirs.difference(&self.looked_at_heirs).cloned().collect();
            if due.is_empty() {
                return Ok(());
            }
            if observed.accounts.listed {
                self.look_as_admin(&due, &due).await?;
            } else {
                self.look_at_single(&due).await?;
                for room in self.parts.homeserver.invitations().await?.intersection(&due) {
                    self.is_invited_to_adopt(room);
                }
            }
            self.looked_outside.extend(due.iter().cloned());
            self.looked_at_heirs.extend(due);
        }
    }

    /// Rooms that hang nowhere, each as it is shown to somebody whom it would let in.
    async fn look_at_single(&mut self, due: &BTreeSet<RoomId>) -> Result<BTreeSet<RoomId>, MatrixError> {
        let mut changed = BTreeSet::new();
        let mut in_a_row = 0;
        for id in due {
            if self.unseen.waits(id) {
                continue;
            }
            self.parts.heartbeat.tick();
            let shown = match self.parts.homeserver.shown_from_outside(id).await {
                Ok(shown) => shown,
                Err(error) => {
                    self.unseen.failed(id, error, &mut in_a_row)?;
                    continue;
                }
            };
            in_a_row = 0;
            let Some(observed) = &mut self.observed else { return Ok(changed) };
            self.unseen.succeeded(id, observed);
            let invited = observed.outside.get(id).and_then(|room| room.members.get(&observed.bot)).cloned();
            let before = match shown {
                Some(mut room) => {
                    room.members.extend(invited.map(|member| (observed.bot.clone(), member)));
                    observed.outside.insert(id.clone(), room.clone()) != Some(room)
                }
                None if invited.is_some() => false,
                None => observed.outside.remove(id).is_some(),
            };
            if before {
                changed.insert(id.clone());
            }
        }
        Ok(changed)
    }

    /// Looks at rooms outside; hands back those that look different.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_outside(&mut self, looks: Looks) -> Result<BTreeSet<RoomId>, MatrixError> {
        let Some(observed) = &mut self.observed else { return Ok(BTreeSet::new()) };
        let hanging = hanging_outside(observed);
        observed.outside.retain(|room, _| hanging.contains(room));
        self.unseen.keep_only(&hanging);
        let mut due: Vec<RoomId> = match looks {
            Looks::All => hanging.iter().cloned().collect(),
            Looks::Some | Looks::New => {
                hanging.difference(&self.looked_outside).take(LOOKS_PER_POLL).cloned().collect()
            }
        };
        if looks == Looks::Some {
            let after = self.outside_after.take();
            let known = hanging.intersection(&self.looked_outside);
            let turn = known.filter(|room| after.as_ref().is_none_or(|after| *room > after));
            let turn: Vec<RoomId> = turn.take(LOOKS_PER_POLL.saturating_sub(due.len())).cloned().collect();
            self.outside_after = turn.last().cloned();
            due.extend(turn);
        }
        self.looked_outside.retain(|room| hanging.contains(room));
        self.looked_at_heirs.retain(|room| hanging.contains(room));
        let due: BTreeSet<RoomId> = due.into_iter().collect();
        let heirs: BTreeSet<RoomId> = observed.heirs_outside().intersection(&due).cloned().collect();
        let changed = if observed.accounts.listed {
            let must = heirs.into_iter().chain(observed.adoptable.values().cloned()).collect();
            self.look_as_admin(&due, &must).await?
        } else {
            let mut changed = self.look_at_single(&heirs).await?;
            changed.extend(self.look_as_member(&due.difference(&heirs).cloned().collect()).await?);
            changed
        };
        self.looked_outside.extend(due);
        Ok(changed)
    }

    /// Looks at what transactions hinted at, as far as the feed does not show it; hands back the rooms that look different.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_where_hinted(&mut self, hinted: &Hinted) -> Result<BTreeSet<RoomId>, MatrixError> {
        let Some(observed) = &self.observed else { return Ok(BTreeSet::new()) };
        let outside: Vec<&RoomId> = hinted.rooms.iter().filter(|room| !observed.rooms.contains_key(*room)).collect();
        if outside.is_empty() && !hinted.any {
            return Ok(BTreeSet::new());
        }
        // As if they had never been looked at.
        for room in outside {
            self.looked_outside.remove(room);
        }
        self.look_outside(if hinted.any { Looks::Some } else { Looks::New }).await
    }

    /// Looks at rooms as an administrator; hands back those that look different. One that cannot be looked at stays as it was seen, but for
    /// those that `must` be: a plan must not take for nothing what was only not looked at.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_as_admin(
        &mut self,
        due: &BTreeSet<RoomId>,
        must: &BTreeSet<RoomId>,
    ) -> Result<BTreeSet<RoomId>, MatrixError> {
        let mut changed = BTreeSet::new();
        let mut in_a_row = 0;
        for id in due {
            let seen = if self.unseen.waits(id) {
                None
            } else {
                match alive(&self.parts.heartbeat, self.parts.homeserver.room_from_outside(id)).await {
                    Ok(seen) => Some(seen),
                    Err(error) => {
                        self.unseen.failed(id, error, &mut in_a_row)?;
                        None
                    }
                }
            };
            let Some(observed) = &mut self.observed else { return Ok(changed) };
            let Some(seen) = seen else {
                if must.contains(id) {
                    self.unseen.miss(id, observed);
                }
                continue;
            };
            in_a_row = 0;
            let missed = self.unseen.succeeded(id, observed);
            let differs = match seen {
                Some(room) => {
                    let differs = observed.outside.get(id) != Some(&room);
                    observed.outside.insert(id.clone(), room);
                    differs
                }
                None => observed.outside.remove(id).is_some(),
            };
            if missed || differs {
                changed.insert(id.clone());
            }
        }
        Ok(changed)
    }

    /// Looks once more at rooms that must be looked at and could not be.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn look_at_missed(&mut self) -> Result<(), MatrixError> {
        let Some(observed) = &self.observed else { return Ok(()) };
        // The bot may have come into one.
        self.unseen.missed.retain(|room| observed.unread.contains(room));
        let due = self.unseen.missed.clone();
        self.look_as_admin(&due, &due).await.map(drop)
    }

    async fn look_as_member(&mut self, due: &BTreeSet<RoomId>) -> Result<BTreeSet<RoomId>, MatrixError> {
        let mut changed = BTreeSet::new();
        let Some(observed) = &self.observed else { return Ok(changed) };
        let holds =
            |room: &crate::observed::Room| room.is_space && room.children.keys().any(|child| due.contains(child));
        let spaces: Vec<RoomId> =
            observed.rooms.iter().filter(|(_, room)| holds(room)).map(|(id, _)| id.clone()).collect();
        for space in spaces {
            self.parts.heartbeat.tick();
            let shown = self.parts.homeserver.children_from_outside(&space).await?;
            let Some(observed) = &mut self.observed else { return Ok(changed) };
            let children: Vec<RoomId> =
                observed.rooms[&space].children.keys().filter(|child| due.contains(*child)).cloned().collect();
            for child in children {
                let before = observed.outside.get(&child);
                if before == shown.get(&child) {
                    continue;
                }
                match shown.get(&child) {
                    Some(room) => drop(observed.outside.insert(child.clone(), room.clone())),
                    None => drop(observed.outside.remove(&child)),
                }
                changed.insert(child);
            }
        }
        Ok(changed)
    }
}

/// Children of the bot's spaces, rooms to be adopted, and what replaced rooms of ours, that it is not in.
fn hanging_outside(observed: &Observed) -> BTreeSet<RoomId> {
    let spaces = observed.rooms.values().filter(|room| room.is_space);
    let children = spaces.flat_map(|space| space.children.keys()).chain(observed.adoptable.values());
    let children =
        children.filter(|child| !observed.rooms.contains_key(*child) && !observed.unread.contains(*child)).cloned();
    children.chain(observed.heirs_outside()).collect()
}
