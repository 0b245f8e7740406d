//! Looking for the rooms that are to be adopted (S-12): where `adopt:` points, and what the room there is like. As an administrator usher
//! sees it whole; otherwise it learns of the room when somebody invites the bot.

use std::collections::BTreeSet;

use super::Reconciler;
use crate::desired::Desired;
use crate::ids::{Key, RoomAlias, RoomId};
use crate::matrix::MatrixError;
use crate::observed::Member;
use crate::plan;

impl Reconciler {
    /// Finds what `keys`, which have no room of ours, are to adopt: one request for an alias, and one for each room the bot is not in or,
    /// without admin rights, one for all.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub(super) async fn find_adoptable(&mut self, desired: &Desired, keys: &BTreeSet<Key>) -> Result<(), MatrixError> {
        let mut due = BTreeSet::new();
        for text in plan::to_adopt(desired, keys) {
            self.parts.heartbeat.tick();
            let room = if text.starts_with('!') {
                Some(RoomId::from(text.as_str()))
            } else {
                self.parts.homeserver.resolve(&RoomAlias::from(text.as_str())).await?
            };
            let Some(observed) = &mut self.observed else { return Ok(()) };
            let Some(room) = room else {
                observed.adoptable.remove(&text);
                continue;
            };
            if !observed.rooms.contains_key(&room) {
                due.insert(room.clone());
            }
            observed.adoptable.insert(text, room);
        }
        if due.is_empty() {
            return Ok(());
        }
        let listed = self.observed.as_ref().is_some_and(|observed| observed.accounts.listed);
        if listed {
            self.look_as_admin(&due, &due).await?;
        } else {
            for room in self.parts.homeserver.invitations().await?.intersection(&due) {
                self.is_invited_to_adopt(room);
            }
        }
        self.looked_outside.extend(due);
        Ok(())
    }

    /// Takes in that the bot was invited to a room; `true` if that is one to be adopted, or one that replaced a room of ours.
    pub(super) fn is_invited_to_adopt(&mut self, room: &RoomId) -> bool {
        let Some(observed) = &mut self.observed else { return false };
        let wanted = observed.adoptable.values().any(|adoptable| adoptable == room)
            || observed.heirs_outside().contains(room)
            || self.unseen.is_missed(room);
        if !wanted || observed.rooms.contains_key(room) {
            return false;
        }
        self.unseen.succeeded(room, observed);
        let bot = observed.bot.clone();
        observed.outside.entry(room.clone()).or_default().members.insert(bot, Member::Invite);
        true
    }
}
