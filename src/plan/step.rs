//! What a step is about: its phase, its room, its person, and the id by which approvals and failures know it.

use serde_json::Value;

use super::{
    AccountDeed, Action, Class, Deed, Hold, LevelChange, Reason, Removal, RoomRef, StateChange, Step, StepId, Withheld,
};
use crate::ids::{Key, UserId};

/// Order of doing. Locks and kicks go before additions, spaces are left before their rooms, and rooms exist before people are asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Identity,
    /// Before locks are taken off or set anew, where it can be written: one that is told of, and is gone, could be mistaken for a human's,
    /// or its grace for a later one's.
    Mirror,
    Locks,
    Unlocks,
    /// People at the bot's own level lower themselves, or the bot could not remove them.
    StepsDown,
    SpaceKicks,
    RoomKicks,
    Make,
    Shape,
    Levels,
    SpaceInvites,
    RoomInvites,
    Leave,
    /// Accounts that are unlocked come back to places that are theirs again.
    Attributes,
    /// Before whoever administered a room alone is gone.
    HandOvers,
    /// Last, and one after the other.
    Closings,
}

impl Action {
    /// When it is done.
    #[must_use]
    pub fn phase(&self, place: Option<&Key>) -> Phase {
        let in_space = place.is_some_and(Key::is_space);
        match self {
            Self::RegisterBot | Self::SetBotName { .. } => Phase::Identity,
            Self::Account { deed, .. } => match deed {
                AccountDeed::Lock { .. } | AccountDeed::RemovePushers | AccountDeed::TurnDown { .. } => Phase::Locks,
                AccountDeed::HandOver { .. } => Phase::HandOvers,
                AccountDeed::Unlock => Phase::Unlocks,
                AccountDeed::Set(_) => Phase::Attributes,
                AccountDeed::Close(_) => Phase::Closings,
            },
            Self::MirrorLeavers { .. } => Phase::Mirror,
            Self::Kick { .. } if in_space => Phase::SpaceKicks,
            Self::Kick { .. } => Phase::RoomKicks,
            Self::DropAlias { .. } | Self::CreateRoom(_) | Self::Enter { .. } | Self::TakePower { .. } => Phase::Make,
            // After the levels: whoever is to administer the room must be able to when it is nobody's.
            Self::SetState { state: StateChange::Unmark(_), .. } | Self::RemoveAlias { .. } | Self::Leave { .. } => {
                Phase::Leave
            }
            Self::SetState { .. } => Phase::Shape,
            Self::SetPowerLevels { .. } => Phase::Levels,
            Self::Invite { .. } | Self::Join { .. } if in_space => Phase::SpaceInvites,
            Self::Invite { .. } | Self::Join { .. } => Phase::RoomInvites,
            Self::Puppet { deed, .. } => match deed {
                Deed::Leave { .. } | Deed::Forget if in_space => Phase::SpaceKicks,
                Deed::Leave { .. } | Deed::Forget => Phase::RoomKicks,
                Deed::InviteBot | Deed::Upgrade { .. } => Phase::Make,
                Deed::SetLevels { changes, .. } if changes.iter().all(|change| change.user.as_ref() == self.user()) => {
                    Phase::StepsDown
                }
                Deed::SetLevels { .. } => Phase::Levels,
                Deed::Join if in_space => Phase::SpaceInvites,
                Deed::Join => Phase::RoomInvites,
            },
        }
    }

    /// The room it writes to; `None` for accounts and for rooms that do not exist yet.
    #[must_use]
    pub fn room(&self) -> Option<&RoomRef> {
        match self {
            Self::RegisterBot
            | Self::SetBotName { .. }
            | Self::DropAlias { .. }
            | Self::CreateRoom(_)
            | Self::MirrorLeavers { .. }
            | Self::Account { .. } => None,
            Self::SetState { room, .. }
            | Self::SetPowerLevels { room, .. }
            | Self::Invite { room, .. }
            | Self::Join { room, .. }
            | Self::Kick { room, .. }
            | Self::Leave { room }
            | Self::Enter { room }
            | Self::TakePower { room }
            | Self::Puppet { room, .. }
            | Self::RemoveAlias { room, .. } => Some(room),
        }
    }

    /// Who is to administer a room after the person it is done to.
    #[must_use]
    pub fn heir(&self) -> Option<&UserId> {
        match self {
            Self::Account { deed: AccountDeed::HandOver { to, .. }, .. } => Some(to),
            _ => None,
        }
    }

    /// The levels the bot changes by it.
    #[must_use]
    pub fn level_changes(&self) -> &[LevelChange] {
        match self {
            Self::SetPowerLevels { changes, .. } => changes,
            _ => &[],
        }
    }

    /// Whether it is about, or links to, a room that an earlier step makes.
    pub(super) fn needs_new(&self) -> bool {
        let new = |room: &RoomRef| matches!(room, RoomRef::New(_));
        match self {
            Self::SetState { state: StateChange::Child { child: other, .. }, .. }
            | Self::SetState { state: StateChange::Parent { parent: other, .. }, .. }
                if new(other) =>
            {
                true
            }
            action => action.room().is_some_and(new),
        }
    }

    /// The person it is done to.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::Invite { user, .. }
            | Self::Join { user, .. }
            | Self::Kick { user, .. }
            | Self::Account { user, .. }
            | Self::Puppet { user, .. } => Some(user),
            Self::RegisterBot
            | Self::SetBotName { .. }
            | Self::DropAlias { .. }
            | Self::CreateRoom(_)
            | Self::SetState { .. }
            | Self::SetPowerLevels { .. }
            | Self::Leave { .. }
            | Self::Enter { .. }
            | Self::TakePower { .. }
            | Self::MirrorLeavers { .. }
            | Self::RemoveAlias { .. } => None,
        }
    }
}

impl Step {
    pub(super) fn set_up(action: Action) -> Self {
        Self { action, reason: Reason::SetUp, place: None, withheld: None, removal: None }
    }

    /// A digest of what is done to whom where: the same step has the same id in every pass.
    #[must_use]
    pub fn id(&self) -> StepId {
        let place = self.place.as_ref().map(ToString::to_string).unwrap_or_default();
        let detail = match &self.action {
            // The same change, whether the bot may make it or the person does: it was shown before it could be done.
            Action::SetPowerLevels { changes, .. } | Action::Puppet { deed: Deed::SetLevels { changes, .. }, .. } => {
                changes
                    .iter()
                    .map(|change| match (&change.user, &change.key) {
                        (Some(user), _) => format!("{user}={}", change.to),
                        (None, key) => format!("{}={}", key.as_deref().unwrap_or_default(), change.to),
                    })
                    .collect::<Vec<_>>()
                    .join(",")
            }
            Action::SetState { state, .. } => state.label(),
            Action::RemoveAlias { alias, .. } => alias.to_string(),
            // To whom may change until it is done.
            Action::Account { user, deed: AccountDeed::HandOver { room, .. } | AccountDeed::TurnDown { room, .. } } => {
                format!("{user} {room}")
            }
            Action::Account { user, deed: AccountDeed::Set(attribute) } => format!("{user} {}", attribute.identity()),
            action => action.user().map(ToString::to_string).unwrap_or_default(),
        };
        let verb = match &self.action {
            Action::Puppet { deed: Deed::SetLevels { .. }, .. } => "level",
            action => action.verb(),
        };
        StepId(digest(&[verb, &place, &detail]))
    }

    /// The ids under which its parts may have been approved: a level step holds the changes of several people (S-21), which are held
    /// and approved one by one.
    #[must_use]
    pub fn part_ids(&self) -> Vec<StepId> {
        match &self.action {
            Action::SetPowerLevels { room, changes, .. } if changes.len() > 1 && self.removal.is_none() => changes
                .iter()
                .map(|change| {
                    // The content is no part of the identity.
                    let (content, changes) = (Value::Null, vec![change.clone()]);
                    let action = Action::SetPowerLevels { room: room.clone(), content, changes };
                    Self { action, place: self.place.clone(), ..Self::set_up(Action::RegisterBot) }.id()
                })
                .collect(),
            _ => vec![self.id()],
        }
    }

    /// What it takes away from somebody, for whatever cause: the first of it, where it holds the changes of several people.
    #[must_use]
    pub fn takes(&self) -> Option<&Removal> {
        let of_changes = self.action.level_changes().iter().find_map(|change| change.removal.as_ref());
        of_changes.or(self.removal.as_deref())
    }

    /// Whose account comes to its end by it (S-53).
    #[must_use]
    pub fn ends(&self) -> Option<&UserId> {
        match &self.action {
            Action::Account { user, deed: AccountDeed::Close(_) } => Some(user),
            _ => None,
        }
    }

    /// Whether it will be done.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.withheld.is_none()
    }

    /// The thing it helps to give up (S-41, S-42).
    #[must_use]
    pub fn gives_up(&self) -> Option<&Key> {
        let removal = self.removal.as_ref()?;
        matches!(removal.class, Class::Spaces | Class::Rooms).then_some(&removal.space)
    }

    /// The thing it takes usher's hands off: only once everything else about giving that up is done.
    #[must_use]
    pub fn closes(&self) -> Option<&Key> {
        self.gives_up().filter(|_| self.action.phase(self.place.as_ref()) == Phase::Leave)
    }

    /// The hold it waits behind.
    #[must_use]
    pub fn hold(&self) -> Option<&Hold> {
        match &self.withheld {
            Some(Withheld::Held(hold)) => Some(hold),
            _ => None,
        }
    }
}

/// The first 48 bits of a SHA-256, as text: enough to tell the steps of one plan apart.
pub(super) fn digest(parts: &[&str]) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..6])
}
