//! Where somebody is, as a server admin sees it (S-52, S-53), and who administers a room after them. What to do about it is decided in
//! `plan/estate`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;

use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{RoomId, Timestamp, UserId};
use crate::observed::{Accounts, Estate, Heir};

/// Rooms of one person read at once.
const CONCURRENT_READS: usize = 8;
const MEMBERSHIPS: &str = "/_synapse/admin/v1/users/{}/memberships";
const JOINED: &str = "/_synapse/admin/v1/users/{}/joined_rooms";

/// Where somebody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub joined: BTreeSet<RoomId>,
    /// Empty also where the homeserver is too old to tell (Synapse before 1.133).
    pub invited: BTreeSet<RoomId>,
}

impl Homeserver {
    /// Where `user` is and is asked to: one request, or two on an old homeserver.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn places_of(&self, user: &UserId) -> Result<Places, MatrixError> {
        #[derive(Deserialize)]
        struct Memberships {
            memberships: BTreeMap<RoomId, String>,
        }
        #[derive(Deserialize)]
        struct Joined {
            joined_rooms: BTreeSet<RoomId>,
        }
        let attempt = format!("look where {user} is");
        match self.call_admin(Request::get(MEMBERSHIPS, &[user.as_str()]).to(&attempt)).await {
            Ok(answer) => {
                let all: Memberships = answer.json(&attempt)?;
                let with = |wanted: &str| {
                    all.memberships.iter().filter(|(_, is)| *is == wanted).map(|(room, _)| room.clone()).collect()
                };
                Ok(Places { joined: with("join"), invited: with("invite") })
            }
            Err(error) if error.trouble == Trouble::NotFound => {
                let answer = self.call_admin(Request::get(JOINED, &[user.as_str()]).to(&attempt)).await?;
                let Joined { joined_rooms } = answer.json(&attempt)?;
                Ok(Places { joined: joined_rooms, invited: BTreeSet::new() })
            }
            Err(error) => Err(error),
        }
    }

    /// What `user` would leave behind in rooms other than `known`: one request, and one for each of those rooms.
    ///
    /// # Errors
    /// When the homeserver refuses or is away.
    pub async fn estate_of(
        &self,
        user: &UserId,
        known: &BTreeSet<RoomId>,
        accounts: &Accounts,
        now: Timestamp,
    ) -> Result<Estate, MatrixError> {
        let places = self.places_of(user).await?;
        let elsewhere = places.joined.into_iter().filter(|room| !known.contains(room));
        let rooms: Vec<_> = stream::iter(elsewhere)
            .map(|id| async move { self.room_from_outside(&id).await.map(|room| room.map(|room| (id, room))) })
            .buffer_unordered(CONCURRENT_READS)
            .try_collect()
            .await?;
        let alone = |room: &crate::observed::Room| room.heir_of(user, accounts, &|_| false) != Heir::NotNeeded;
        let rooms = rooms.into_iter().flatten().filter(|(_, room)| alone(room)).collect();
        let invited = places.invited.into_iter().filter(|room| !known.contains(room)).collect();
        Ok(Estate { read_at: now, rooms, invited })
    }

    /// The homeserver gives `user` the highest level a local member of the room has, and invites them where they are not in and the room is
    /// not public (admin API).
    ///
    /// # Errors
    /// When no local member has power there; when the homeserver refuses or is away.
    pub async fn make_administrator(&self, room: &RoomId, user: &UserId) -> Result<(), MatrixError> {
        let path = "/_synapse/admin/v1/rooms/{}/make_room_admin";
        let request = Request::post(path, &[room.as_str()], json!({ "user_id": user }));
        self.call_admin(request.to(format!("make {user} an administrator of {room}"))).await.map(drop)
    }
}
