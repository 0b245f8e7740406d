//! The room where operators are told: made once, found again by its alias, closed to everybody else (S-97).
//!
//! It is none of the managed ones: it has no marker, and no plan touches it.

use std::time::Duration;

use serde_json::json;

use crate::ids::{RoomAlias, RoomId, UserId, operators_alias_localpart};
use crate::matrix::{Homeserver, MatrixError, Membership};
use crate::observed::{Member, Room};

/// How often, and how far apart, a room behind the alias is looked for that the bot cannot see: it may be in the making.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Whose room it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub instance: String,
    pub server: String,
    pub room_version: String,
    pub operators: Vec<UserId>,
}

/// Something that is to be done there, or was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    Make,
    Invite(UserId),
    Remove(UserId),
    Leave,
}

impl Deed {
    /// As the audit has it, and on whom it is done.
    pub fn words(&self) -> (&'static str, Option<&UserId>) {
        match self {
            Self::Make => ("make", None),
            Self::Invite(user) => ("invite", Some(user)),
            Self::Remove(user) => ("remove", Some(user)),
            Self::Leave => ("leave", None),
        }
    }
}

impl Place {
    fn alias(&self) -> (String, RoomAlias) {
        let localpart = operators_alias_localpart(&self.instance);
        let alias = RoomAlias::from(format!("#{localpart}:{}", self.server));
        (localpart, alias)
    }

    /// The room, if there is one.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn find(&self, homeserver: &Homeserver) -> Result<Option<RoomId>, MatrixError> {
        let (_, alias) = self.alias();
        Ok(find(homeserver, &alias).await?.map(|(id, _)| id))
    }

    /// The room, made if there is none, with the operators in it or invited and nobody else. Also what was done for that. One operator who
    /// cannot be invited keeps nobody else out.
    ///
    /// # Errors
    /// When the homeserver is away, or the bot may not make rooms.
    pub async fn open(&self, homeserver: &Homeserver) -> Result<(RoomId, Vec<Deed>), MatrixError> {
        let (localpart, alias) = self.alias();
        let mut deeds = Vec::new();
        let (id, room) = if let Some(found) = find(homeserver, &alias).await? {
            found
        } else {
            let id = homeserver.create_room(self.body(&localpart), "make the operators' room").await?;
            deeds.push(Deed::Make);
            (id, Room::default())
        };
        deeds.extend(self.admit(homeserver, &id, &room).await);
        Ok((id, deeds))
    }

    /// Where nobody is an operator any more: the room, if there is one, without anybody in it. What was done for that, the last of which is
    /// that the bot left; it stays as long as somebody else does.
    ///
    /// # Errors
    /// When the homeserver is away.
    pub async fn close(&self, homeserver: &Homeserver) -> Result<Option<(RoomId, Vec<Deed>)>, MatrixError> {
        let (_, alias) = self.alias();
        let Some((id, room)) = find(homeserver, &alias).await? else { return Ok(None) };
        let mut deeds = self.admit(homeserver, &id, &room).await;
        let rest = homeserver.room(&id).await?.unwrap_or_default();
        if !self.changes(&rest, homeserver.bot()).is_empty() {
            return Ok(Some((id, deeds)));
        }
        homeserver.remove_alias(&alias).await?;
        homeserver.leave(&id).await?;
        deeds.push(Deed::Leave);
        Ok(Some((id, deeds)))
    }

    /// Does what [`Place::changes`] says; what cannot be done for one is done for the others.
    async fn admit(&self, homeserver: &Homeserver, id: &RoomId, room: &Room) -> Vec<Deed> {
        let mut done = Vec::new();
        for deed in self.changes(room, homeserver.bot()) {
            let change = match &deed {
                Deed::Invite(user) => Membership::Invite { user, reason: "You are named as an operator of usher" },
                Deed::Remove(user) => Membership::Kick { user, reason: "You are no operator of usher" },
                Deed::Make | Deed::Leave => continue,
            };
            match homeserver.change_membership(id, change).await {
                Ok(()) => done.push(deed),
                Err(error) => tracing::warn!(%error, "the operators' room is not as it should be"),
            }
        }
        done
    }

    /// Who is to be invited or removed. Who left of their own will is left alone until they knock.
    fn changes(&self, room: &Room, bot: &UserId) -> Vec<Deed> {
        let is_wanted = |operator: &&UserId| match room.members.get(*operator) {
            Some(Member::Join | Member::Invite) => false,
            Some(Member::Leave { by, .. }) => by != *operator,
            None | Some(Member::Knock) => true,
            Some(Member::Ban { .. }) => {
                tracing::warn!(%operator, "an operator is banned from the operators' room and is not told");
                false
            }
        };
        let wanted = self.operators.iter().filter(is_wanted).cloned().map(Deed::Invite);
        let is_in = |member: &Member| matches!(member, Member::Join | Member::Invite | Member::Knock);
        let others = room
            .members
            .iter()
            .filter(|(user, member)| is_in(member) && *user != bot && !self.operators.contains(user));
        wanted.chain(others.map(|(user, _)| Deed::Remove(user.clone()))).collect()
    }

    fn body(&self, alias: &str) -> serde_json::Value {
        let name = format!("usher ({})", self.instance);
        let state =
            |kind: &str, content: serde_json::Value| json!({ "type": kind, "state_key": "", "content": content });
        json!({
            "name": name,
            "topic": "What usher wants its operators to know. ✅ on a message approves what it lists.",
            "visibility": "private",
            "room_alias_name": alias,
            "room_version": self.room_version,
            // With a private preset some homeservers encrypt, and usher reads no encrypted answers; what the preset opens is closed below.
            "preset": "public_chat",
            "initial_state": [
                state("m.room.join_rules", json!({ "join_rule": "knock" })),
                state("m.room.guest_access", json!({ "guest_access": "forbidden" })),
                state("m.room.history_visibility", json!({ "history_visibility": "shared" })),
            ],
            // What names people is for operators only, whoever an operator would like to have there.
            "power_level_content_override": { "invite": 100, "state_default": 100 },
        })
    }
}

/// The room behind the alias. Where the bot is not in it, or it was replaced, or is not ours, nobody would read there: the alias is freed.
async fn find(homeserver: &Homeserver, alias: &RoomAlias) -> Result<Option<(RoomId, Room)>, MatrixError> {
    let Some(id) = homeserver.resolve(alias).await? else { return Ok(None) };
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(room) = homeserver.room(&id).await? {
            if room.made_by.as_ref() == Some(homeserver.bot()) && room.successor.is_none() {
                return Ok(Some((id, room)));
            }
            break;
        }
    }
    homeserver.remove_alias(alias).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_in_or_invited_and_nobody_else_is() {
        let place = Place {
            instance: "main".into(),
            server: "x".into(),
            room_version: "12".into(),
            operators: ["@in:x", "@new:x", "@left:x", "@thrown:x", "@knocks:x", "@banned:x"].map(UserId::from).to_vec(),
        };
        let left = |by: &str| Member::Leave { by: by.into(), event: "$1".into() };
        let members = [
            ("@usher:x", Member::Join),
            ("@in:x", Member::Join),
            ("@left:x", left("@left:x")),
            ("@thrown:x", left("@usher:x")),
            ("@banned:x", Member::Ban { by: "@admin:x".into() }),
            ("@knocks:x", Member::Knock),
            ("@stranger:x", Member::Knock),
            ("@former:x", Member::Join),
            ("@asked:x", Member::Invite),
            ("@gone:x", left("@gone:x")),
        ];
        let members = members.into_iter().map(|(user, member)| (UserId::from(user), member)).collect();
        let room = Room { members, ..Room::default() };
        let named = |deed: fn(UserId) -> Deed, names: &[&str]| -> Vec<Deed> {
            names.iter().map(|name| deed(UserId::new(name, "x"))).collect()
        };
        let expected =
            [named(Deed::Invite, &["new", "thrown", "knocks"]), named(Deed::Remove, &["asked", "former", "stranger"])];
        assert_eq!(place.changes(&room, &"@usher:x".into()), expected.concat());
        let nobody = Place { operators: Vec::new(), ..place };
        let mut all = named(Deed::Remove, &["asked", "former", "in", "knocks", "stranger"]);
        all.sort();
        assert_eq!(nobody.changes(&room, &"@usher:x".into()), all);
    }
}
