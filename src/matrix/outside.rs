//! Rooms the bot is not in, as far as they can be seen: as a server admin their whole state, otherwise what a space's hierarchy shows
//! to one of its members.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::read::RawEvent;
use super::{Homeserver, MatrixError, Request, Trouble};
use crate::ids::{Interner, RoomId};
use crate::observed::{JoinRule, Room};

/// Pages of a hierarchy read at most: fifty rooms each.
const MOST_PAGES: u32 = 40;
const HIERARCHY: &str = "/_matrix/client/v1/rooms/{}/hierarchy";

impl Homeserver {
    /// A room as a server admin sees it, whoever is in it (one request); `None`: this homeserver is not in it, or usher is no admin.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn room_from_outside(&self, room: &RoomId) -> Result<Option<Room>, MatrixError> {
        #[derive(Deserialize)]
        struct State {
            state: Vec<RawEvent>,
        }
        let attempt = format!("look at {room} from outside");
        let request = Request::get("/_synapse/admin/v1/rooms/{}/state", &[room.as_str()]).to(&attempt);
        let state: State = match self.call_admin(request).await {
            Ok(answer) => answer.json(&attempt)?,
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        if state.state.is_empty() {
            return Ok(None);
        }
        let events = state.state.into_iter().filter_map(RawEvent::state_event);
        Ok(Some(Room::from_state(self.bot(), &self.identity.instance, events, &mut Interner::default())))
    }

    /// A room as its hierarchy shows it to somebody whom it would let in: name, kind and join rule (one request); `None`: it shows
    /// nothing.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn shown_from_outside(&self, room: &RoomId) -> Result<Option<Room>, MatrixError> {
        let attempt = format!("look at {room} from outside");
        let request = Request::get(HIERARCHY, &[room.as_str()]).with("max_depth", "1").with("limit", "1");
        let page: Page = match self.call_as_bot(request.to(&attempt)).await {
            Ok(answer) => answer.json(&attempt)?,
            Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(page.rooms.into_iter().find(|shown| shown.room_id == *room).map(Shown::room))
    }

    /// The rooms of a space that the bot is in, as its hierarchy shows them: name, kind and join rule (one request for fifty rooms).
    /// Private rooms do not show.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn children_from_outside(&self, space: &RoomId) -> Result<BTreeMap<RoomId, Room>, MatrixError> {
        let attempt = format!("read the hierarchy of {space}");
        let mut rooms = BTreeMap::new();
        let mut from: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut request = Request::get(HIERARCHY, &[space.as_str()]).with("max_depth", "1").with("limit", "50");
            if let Some(from) = &from {
                request = request.with("from", from);
            }
            let page: Page = match self.call_as_bot(request.to(&attempt)).await {
                Ok(answer) => answer.json(&attempt)?,
                Err(error) if matches!(error.trouble, Trouble::Forbidden | Trouble::NotFound) => break,
                Err(error) => return Err(error),
            };
            let others = page.rooms.into_iter().filter(|shown| shown.room_id != *space);
            rooms.extend(others.map(|shown| (shown.room_id.clone(), shown.room())));
            from = page.next_batch;
            if from.is_none() {
                break;
            }
        }
        Ok(rooms)
    }
}

#[derive(Deserialize)]
struct Page {
    rooms: Vec<Shown>,
    #[serde(default)]
    next_batch: Option<String>,
}

#[derive(Deserialize)]
struct Shown {
    room_id: RoomId,
    #[serde(default)]
    room_type: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    join_rule: Option<String>,
    #[serde(default)]
    allowed_room_ids: Vec<RoomId>,
}

impl Shown {
    fn room(self) -> Room {
        let allow = self.allowed_room_ids.into_iter().collect();
        Room {
            is_space: self.room_type.as_deref() == Some("m.space"),
            name: self.name,
            join_rule: self.join_rule.map(|rule| JoinRule { rule, allow }),
            ..Room::default()
        }
    }
}
