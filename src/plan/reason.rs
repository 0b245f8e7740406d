//! Reasons and notes in words.

use std::fmt;

use super::{Class, Fate, Note, Reason, StateChange, Withheld};
use crate::ids::{RoomId, UserId};

/// How many people a note names.
const NAMED: usize = 5;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUp => f.write_str("usher's own account"),
            Self::Configured(what) => write!(f, "configured: {what}"),
            Self::Mirrored => f.write_str("the source's tree has it"),
            Self::Debris { room: Some(room) } => write!(f, "its alias points at {room}, which is no room of usher's"),
            Self::Debris { room: None } => f.write_str("its alias points at nothing"),
            Self::InGroup(group) => write!(f, "in group {group}"),
            Self::Everyone => f.write_str("in the directory"),
            Self::Exception { reason, until: Some(until) } => {
                write!(f, "exception until {}: {reason}", until.to_minute())
            }
            Self::Exception { reason, until: None } => write!(f, "exception: {reason}"),
            Self::InSubspace { space, group } => write!(f, "in subspace {space} (group {group})"),
            Self::NotInGroups => f.write_str("no longer in a group of this space"),
            Self::LeftDirectory { since } => write!(f, "left the directory {}", since.to_minute()),
            Self::Disabled => f.write_str("disabled in the directory"),
            Self::NotProvisioned => f.write_str("in the root space, without a right to be"),
            Self::Returned => f.write_str("in the directory again"),
            Self::Restored => f.write_str("restored by an operator"),
            Self::GraceOver { cause, since } => write!(f, "{cause}; grace began {}", since.to_minute()),
            Self::LastAdministrator => f.write_str("its last administrator is leaving"),
            Self::AttributeDiffers => f.write_str("the directory has it so"),
            Self::AttributeGone => f.write_str("the directory has none any more"),
            Self::Mirror => f.write_str("kept in Matrix, too, in case the database is lost"),
            Self::NeverEntitled => f.write_str("was never entitled to be here"),
            Self::LevelRule => f.write_str("the directory gives other levels"),
            Self::NotInRoom => f.write_str("not in the room"),
            Self::Structure(what) => f.write_str(what),
            Self::NoLongerConfigured => f.write_str("no longer configured"),
            Self::NoLongerMirrored => f.write_str("not in the source's tree"),
            Self::NoLongerManaged(why) => f.write_str(why),
        }
    }
}

impl Reason {
    /// A stable word for machines.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SetUp => "set_up",
            Self::Configured(_) => "configured",
            Self::Mirrored => "mirrored",
            Self::Debris { .. } => "debris",
            Self::InGroup(_) => "in_group",
            Self::Everyone => "everyone",
            Self::Exception { .. } => "exception",
            Self::InSubspace { .. } => "in_subspace",
            Self::NotInGroups => "not_in_groups",
            Self::LeftDirectory { .. } => "left_directory",
            Self::Disabled => "disabled",
            Self::NotProvisioned => "not_provisioned",
            Self::Returned => "returned",
            Self::Restored => "restored",
            Self::GraceOver { .. } => "grace_over",
            Self::LastAdministrator => "last_administrator",
            Self::AttributeDiffers => "attribute_differs",
            Self::AttributeGone => "attribute_gone",
            Self::Mirror => "mirror",
            Self::NeverEntitled => "never_entitled",
            Self::LevelRule => "level_rule",
            Self::NotInRoom => "not_in_room",
            Self::Structure(_) => "structure",
            Self::NoLongerConfigured => "no_longer_configured",
            Self::NoLongerMirrored => "no_longer_mirrored",
            Self::NoLongerManaged(_) => "no_longer_managed",
        }
    }

    /// What the person themselves is told with an invitation or a removal (S-18).
    #[must_use]
    pub(super) fn to_the_person(&self, place: &str) -> String {
        match self {
            Self::InGroup(group) => format!("You are in group {group}"),
            Self::InSubspace { space, .. } => format!("You are in {space}, which belongs to {place}"),
            Self::Everyone => "You are in your organisation's directory".to_owned(),
            Self::Exception { reason, .. } => format!("You have been let in: {reason}"),
            Self::NotInGroups => format!("You are no longer in a group of {place}"),
            Self::LeftDirectory { .. } => "You are no longer in your organisation's directory".to_owned(),
            Self::Disabled => "Your directory account is disabled".to_owned(),
            Self::NotProvisioned => "You are not in your organisation's directory".to_owned(),
            Self::NeverEntitled => format!("{place} is open to its directory groups only"),
            Self::NoLongerConfigured | Self::NoLongerMirrored => {
                format!("{place} is closed: your organisation no longer has this space. Its rooms stay")
            }
            Self::SetUp
            | Self::Configured(_)
            | Self::Mirrored
            | Self::Debris { .. }
            | Self::Returned
            | Self::Restored
            | Self::GraceOver { .. }
            | Self::LastAdministrator
            | Self::AttributeDiffers
            | Self::AttributeGone
            | Self::Mirror
            | Self::LevelRule
            | Self::NotInRoom
            | Self::Structure(_)
            | Self::NoLongerManaged(_) => "Your organisation's directory says so".to_owned(),
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(what) | Self::Waits(what) => f.write_str(what),
            Self::IncompleteRead => f.write_str("the read of the source was not complete"),
            Self::GcOff => f.write_str("provisioner.gc.enabled is off"),
            Self::Held(hold) => write!(f, "held: {}", hold.class),
            Self::MissingRight(what) => write!(f, "usher has not the right: {what}"),
            Self::Grace { until } => write!(f, "grace until {}", until.to_minute()),
            Self::Clocks(why) => f.write_str(why),
            Self::GroupUnknown(group) => {
                write!(f, "group {group} was not found, so nobody can be told not to be in it")
            }
            Self::Refused { code, until } => {
                write!(f, "the homeserver refused ({code}); next try {}", until.to_minute())
            }
            Self::DependsOnWithheld => f.write_str("needs a step that is withheld"),
            Self::Undecided => f.write_str("somebody in it is suspended: it is left once that is decided"),
            Self::AfterAdoption => f.write_str("follows once the room is adopted"),
        }
    }
}

impl Withheld {
    /// Whether it counts as held, so that an operator has something to do (S-110).
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self {
            Self::Held(_) | Self::IncompleteRead => true,
            Self::Policy(_)
            | Self::GcOff
            | Self::MissingRight(_)
            | Self::Grace { .. }
            | Self::Waits(_)
            | Self::Clocks(_)
            | Self::GroupUnknown(_)
            | Self::Refused { .. }
            | Self::DependsOnWithheld
            | Self::Undecided
            | Self::AfterAdoption => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locks => "locks",
            Self::FinalSteps => "final steps",
            Self::Addresses => "people without mail addresses",
            Self::KicksPerSpace => "removals from one space",
            Self::KicksTotal => "removals in all",
            Self::Demotions => "demotions",
            Self::Spaces => "spaces abandoned",
            Self::Rooms => "rooms released",
            Self::EmptiedGroup => "a mapped group came back empty",
            Self::LedgerLost => "the database is younger than the rooms",
            Self::ModeSwitch => "switch between mirror and mapping",
            Self::Rename => "probable rename",
            Self::Adoption => "first pass over what was adopted",
            Self::Upgrades => "room to be upgraded",
        })
    }
}

impl StateChange {
    /// What it changes, in a word or two.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Name(_) => "name".to_owned(),
            Self::Topic(_) => "topic".to_owned(),
            Self::Avatar(_) => "avatar".to_owned(),
            Self::CanonicalAlias(_) => "alias".to_owned(),
            Self::JoinRule(_) => "join rule".to_owned(),
            Self::GuestAccess(_) => "guest access".to_owned(),
            Self::Child { child, .. } => format!("child {child}"),
            Self::Unchild { child } => format!("no child {child}"),
            Self::Parent { parent, .. } => format!("parent {parent}"),
            Self::Unparent { parent } => format!("no parent {parent}"),
            Self::Marker(_) => "marker".to_owned(),
            Self::Rename { from, marker } => format!("id {from} -> {}", marker.key),
            Self::Adopt(_) => "adopted".to_owned(),
            Self::Unmark(_) => "no marker".to_owned(),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(text) => f.write_str(text),
            Self::GroupMissing { space, group, nearest, frozen } => {
                write!(f, "{space}: group '{group}' is not in the directory; ")?;
                f.write_str(if *frozen {
                    "its last known members go on counting"
                } else {
                    "nobody is added for it, and nobody removed"
                })?;
                match nearest {
                    Some(nearest) => write!(f, ". Did you mean '{nearest}'?"),
                    None => Ok(()),
                }
            }
            Self::GroupRenamed { space, group, now } => {
                write!(
                    f,
                    "{space}: group '{group}' is now '{now}': followed; write the new name into the configuration"
                )
            }
            Self::GroupAmbiguous { space, group, candidates } => {
                write!(f, "{space}: group '{group}' could be any of {}; name it by its DN", candidates.join(" | "))
            }
            Self::LocalpartConflict { localpart, ids } => {
                write!(f, "localpart '{localpart}' is claimed by {} people ({}): left alone", ids.len(), ids.join(", "))
            }
            Self::LocalpartChanged { id, bound, now } => {
                write!(
                    f,
                    "{bound} is called {now} in the directory now ({id}); the account first seen keeps its rights"
                )
            }
            Self::NoAccount { user } => write!(f, "{user} has no account yet"),
            Self::HumanDecision { place, user, what } => write!(f, "{place}: {user} {what}: not invited again"),
            Self::Banned { place, user } => write!(f, "{place}: {user} is banned there and stays so"),
            Self::Suspended { user, why } => write!(f, "{user} is suspended: {why}"),
            Self::ForeignUser { place, user } => write!(f, "{place}: {user} is of another homeserver: not touched"),
            Self::LevelsDoNotFit { place, dropped } => {
                write!(f, "{place}: {dropped} levels do not fit into one event and were left out, lowest first")
            }
            Self::Unenforceable { place, what } => write!(f, "{place}: {what}"),
            Self::AccountHeld { .. }
            | Self::InGrace { .. }
            | Self::NobodyToHandTo { .. }
            | Self::NotLocked { .. }
            | Self::AccountClosed { .. }
            | Self::EmailShared { .. }
            | Self::AddressesUnread { .. }
            | Self::PhotosUnseen { .. }
            | Self::AttributesUnknown { .. } => self.about_accounts(f),
            Self::ExceptionUnknown { user, place } => {
                write!(f, "exception of {user}: there is no managed room '{place}'")
            }
            Self::TakenOut { place } => {
                write!(
                    f,
                    "{place}: a moderator took this room out of its space, or closed it to the space: it is not made again"
                )
            }
            Self::TakeOver { place, name, strangers } => {
                let named: Vec<&str> = strangers.iter().take(NAMED).map(UserId::as_str).collect();
                let more = strangers.len() - named.len();
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let named = named.join(", ");
                write!(
                    f,
                    "{place}: once '{name}' is taken over, those who have no right there are to be removed: {named}{more}"
                )
            }
        }
    }
}

impl Note {
    fn about_accounts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccountHeld { user, id } => {
                write!(
                    f,
                    "{user} is the account of somebody who left, and {id} in the directory claims it: left alone. `usher rebind {id} {}` gives it to them",
                    user.localpart()
                )
            }
            Self::NotLocked { user, why } => write!(f, "{user} left the directory and is not locked: {why}"),
            Self::InGrace { user, since, cause, fate } => {
                let (name, since) = (user.localpart(), since.to_minute());
                match fate {
                    Fate::NoClock => write!(f, "{user} is locked since {since}: {cause}, without an end"),
                    Fate::Restored => write!(
                        f,
                        "{user} was locked {since} ({cause}) and restored by an operator: open until they are back and leave again, \
                         or until `usher grace lock {name}`"
                    ),
                    Fate::Protected => write!(
                        f,
                        "{user} is locked since {since} ({cause}), and a protected user by now: neither erased nor unlocked; \
                         `usher grace restore {name}` unlocks"
                    ),
                }
            }
            Self::NobodyToHandTo { user, rooms } => {
                let named: Vec<&str> = rooms.iter().take(NAMED).map(RoomId::as_str).collect();
                write!(
                    f,
                    "{user} is the last administrator of {}, and nobody of this homeserver is left to follow: the account is not \
                     ended before somebody there is one ({})",
                    super::counted(rooms.len() as u64, "room", "rooms"),
                    named.join(", ")
                )
            }
            Self::AccountClosed { user } => {
                write!(f, "{user} is in the directory, but the account is deactivated: reactivate it on the homeserver")
            }
            Self::EmailShared { users } => {
                let named: Vec<&str> = users.iter().take(NAMED).map(UserId::as_str).collect();
                write!(
                    f,
                    "one mail address belongs to several people in the directory ({}): given to none",
                    named.join(", ")
                )
            }
            Self::AddressesUnread { count } => write!(
                f,
                "the mail addresses of {count} accounts are not read yet: `run` and `apply` read them, and then write what differs"
            ),
            Self::PhotosUnseen { count } => write!(
                f,
                "the photos of {count} people are not looked at yet: `run` and `apply` do that, and then write what differs"
            ),
            Self::AttributesUnknown { why } => write!(f, "attributes are not compared: {why}"),
            _ => Ok(()),
        }
    }

    /// Notes of one kind collapse when there are many.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::GroupMissing { .. } => "group_missing",
            Self::GroupRenamed { .. } => "group_renamed",
            Self::GroupAmbiguous { .. } => "group_ambiguous",
            Self::LocalpartConflict { .. } => "localpart_conflict",
            Self::LocalpartChanged { .. } => "localpart_changed",
            Self::NoAccount { .. } => "no_account",
            Self::HumanDecision { .. } => "human_decision",
            Self::Banned { .. } => "banned",
            Self::Suspended { .. } => "suspended",
            Self::ForeignUser { .. } => "foreign_user",
            Self::LevelsDoNotFit { .. } => "levels_do_not_fit",
            Self::Unenforceable { .. } => "unenforceable",
            Self::TakeOver { .. } => "take_over",
            Self::TakenOut { .. } => "taken_out",
            Self::ExceptionUnknown { .. } => "exception_unknown",
            Self::AccountHeld { .. } => "account_held",
            Self::InGrace { .. } => "in_grace",
            Self::NobodyToHandTo { .. } => "nobody_to_hand_to",
            Self::NotLocked { .. } => "not_locked",
            Self::AccountClosed { .. } => "account_closed",
            Self::EmailShared { .. } => "email_shared",
            Self::AddressesUnread { .. } => "addresses_unread",
            Self::PhotosUnseen { .. } => "photos_unseen",
            Self::AttributesUnknown { .. } => "attributes_unknown",
        }
    }
}
