//! After a lost database: whom the bot invited counts as seen in the directory (S-51). Otherwise somebody who left while nothing was
//! remembered would be a stranger instead of a leaver.
//!
//! Decides nothing: they are absent like anybody else, and need to be confirmed (S-24).

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{PassError, Reconciler, alive};
use crate::ids::{RoomId, UserId};
use crate::matrix::MatrixError;
use crate::observed::{Account, Presence, Room};

/// People asked after at once.
const CONCURRENT_READS: usize = 8;
/// Rooms looked at for one person: whoever the bot invited at all, it invited to a space first.
const ROOMS_EACH: usize = 3;

impl Reconciler {
    /// Remembers people the bot invited and neither the directory nor the ledger knows. Only as long as the ledger is new beside rooms
    /// that are not.
    pub(super) async fn recall_invited(&mut self) -> Result<(), PassError> {
        let lost = !self.ledger.settled && self.parts.actuator.is_some() && self.parts.config.locks_leavers();
        let complete = self.directory.as_ref().is_some_and(crate::directory::Directory::is_complete);
        if !lost || !complete {
            return Ok(());
        }
        let candidates = self.unknown_people();
        if candidates.is_empty() {
            return Ok(());
        }
        let homeserver = &self.parts.homeserver;
        let ask = |(user, rooms): (UserId, Vec<RoomId>)| async move {
            for room in &rooms {
                if homeserver.was_invited_by_bot(room, &user).await? {
                    return Ok((user, true));
                }
            }
            Ok::<_, MatrixError>((user, false))
        };
        let asking = stream::iter(candidates).map(ask).buffer_unordered(CONCURRENT_READS).try_collect::<Vec<_>>();
        let found = alive(&self.parts.heartbeat, asking).await?;
        let mut count = 0;
        for (user, invited) in found {
            if invited {
                self.ledger.recall(&user);
                count += 1;
            }
            self.recalled.insert(user);
        }
        if count > 0 {
            tracing::warn!(
                count,
                "the database was lost; people the bot invited and the directory lacks count as seen in it"
            );
        }
        Ok(())
    }

    /// Local people in rooms of ours who were not asked after, spaces first.
    fn unknown_people(&self) -> BTreeMap<UserId, Vec<RoomId>> {
        let (Some(observed), Some(directory)) = (&self.observed, &self.directory) else { return BTreeMap::new() };
        let provisioner = &self.parts.config.provisioner;
        let mut known: BTreeSet<&str> = directory.users.values().map(|user| user.localpart.as_str()).collect();
        known.extend(self.ledger.people.values().map(crate::ids::Localpart::as_str));
        let ordinary = |account: &Account| !account.deactivated && !account.foreign_service && !account.locked;
        let is_candidate = |user: &UserId| {
            let own = [&observed.bot, &observed.sender].contains(&user);
            let mut shielded = provisioner.allowed_users.iter().chain(&provisioner.protected_users);
            !own && user.server() == observed.server
                && !known.contains(user.localpart())
                && !self.recalled.contains(user)
                && !shielded.any(|pattern| pattern.matches(user))
                && matches!(observed.accounts.presence(user), Presence::Exists(account) if ordinary(account))
        };
        let ours = |room: &Room| room.marker.is_some() || room.created_for.is_some();
        let mut rooms: Vec<(&RoomId, &Room)> = observed.rooms.iter().filter(|(_, room)| ours(room)).collect();
        rooms.sort_by_key(|(_, room)| !room.is_space);
        let mut found: BTreeMap<UserId, Vec<RoomId>> = BTreeMap::new();
        for (id, room) in rooms {
            let inside = room.members.iter().filter(|(_, member)| member.is_in()).map(|(user, _)| user);
            for user in inside.filter(|user| is_candidate(user)) {
                let places = found.entry(user.clone()).or_default();
                if places.len() < ROOMS_EACH {
                    places.push(id.clone());
                }
            }
        }
        found
    }
}
