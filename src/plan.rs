//! The plan: an ordered list of steps, each with its reason, some withheld. A value: printing it and doing it are two consumers.
//!
//! Pure: no async, no I/O, no clock (`now` is an argument). A new action breaks exactly four matches: [`Action::phase`], `render`,
//! `Observed::simulate` and `LiveActuator::perform`.

mod accounts;
mod adoption;
mod attributes;
mod avatars;
mod creation;
mod creators;
mod deeds;
mod estate;
mod explain;
mod gc;
mod guard;
mod heads;
mod json;
mod lenders;
mod lesson;
mod levels;
mod members;
mod moves;
mod planner;
mod reach;
mod reason;
mod render;
mod rooms;
mod step;
mod succession;
mod takeover;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use accounts::{FRESH_READ_MS, Fate, WAITS_FOR_READ};
pub use adoption::to_adopt;
pub use deeds::{AccountDeed, Attribute, Avatar, Emails, End};
pub use estate::WAITS_FOR_ESTATE;
pub use explain::explain;
pub use gc::clean_up_waits;
pub use guard::{HeldItem, WINDOW_MS, guard, guarded};
pub use heads::Heads;
pub use json::to_json;
pub use lenders::{inviters, is_powerless, raisers};
pub use lesson::{Dealt, Lesson};
pub(crate) use members::is_protected;
use planner::Planner;
pub use render::{Header, counted, render};
pub use rooms::missing;
pub use step::Phase;
use step::digest;
pub use world::{Decision, Scope, World};

use crate::desired::Desired;
use crate::ids::{Key, RoomAlias, RoomId, Timestamp, UserId};
use crate::ledger::{Cause, Leaver, LeaverNews, Ledger};
use crate::observed::{Child, JoinRule, Marker, Observed, Parent};

/// What should change, in the order it should be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What an operator should know and no step answers.
    pub notes: Vec<Note>,
    /// What to write into the ledger once the pass is over; a dry run drops it.
    pub lessons: Vec<Lesson>,
    /// Managed things in the order they are shown, with their titles.
    pub titles: Vec<(Key, String)>,
    /// What the rooms that are there carry, to call them by their titles.
    pub rooms: BTreeMap<RoomId, Key>,
    /// Things whose room is still to be adopted: nothing of them is done before.
    pub adopting: BTreeSet<Key>,
    /// People joined or invited per space, and anywhere: what S-81's percentages are of.
    pub heads: Heads,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Step {
    pub action: Action,
    pub reason: Reason,
    /// The managed thing it concerns; `None` for usher's own set-up and for accounts.
    pub place: Option<Key>,
    /// Why it is shown but not done.
    pub withheld: Option<Withheld>,
    /// Present on steps that take something away from somebody and count against S-81's limits.
    pub removal: Option<Box<Removal>>,
}

/// Everything usher can do to the homeserver.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    RegisterBot,
    SetBotName {
        name: String,
    },
    /// The fencing alias points at something that is not our room.
    DropAlias {
        key: Key,
        alias: RoomAlias,
    },
    CreateRoom(Box<Creation>),
    SetState {
        room: RoomRef,
        state: StateChange,
    },
    SetPowerLevels {
        room: RoomRef,
        content: Value,
        changes: Vec<LevelChange>,
    },
    Invite {
        room: RoomRef,
        user: UserId,
        text: Arc<str>,
    },
    /// Let in without asking (S-18): admin join.
    Join {
        room: RoomRef,
        user: UserId,
    },
    /// Also withdraws an invitation and turns down a knock.
    Kick {
        room: RoomRef,
        user: UserId,
        text: Arc<str>,
    },
    /// Done to an account, through the account backend (S-50 to S-53).
    Account {
        user: UserId,
        deed: AccountDeed,
    },
    /// Writes who is locked, and since when, into the bot's account data: what a lost database is recovered from (S-51).
    MirrorLeavers {
        leavers: BTreeMap<UserId, Leaver>,
    },
    /// The bot leaves.
    Leave {
        room: RoomRef,
    },
    /// The bot joins a room whose rule admits it, or that it was invited to (S-31).
    Enter {
        room: RoomRef,
    },
    /// The homeserver gives the bot the highest level a local member has, and invites it to a room that is not public (S-22).
    TakePower {
        room: RoomRef,
    },
    /// A local member does what the bot cannot (S-22); only through the puppet registration.
    Puppet {
        room: RoomRef,
        user: UserId,
        deed: Deed,
    },
    /// An alias of ours is taken from a room that is no longer managed: the homeserver would send us its events for ever.
    RemoveAlias {
        room: RoomRef,
        key: Key,
        alias: RoomAlias,
    },
}

/// What S-22 lets usher do as somebody else, and nothing more.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Counts as our kick, and says why.
    Leave {
        text: Arc<str>,
    },
    /// Takes a room that was left from the person's list.
    Forget,
    InviteBot,
    /// Raises the bot, or lowers the person themselves.
    SetLevels {
        content: Value,
        changes: Vec<LevelChange>,
    },
    Join,
    /// Replaces the room by one of this version.
    Upgrade {
        version: String,
    },
}

/// A room by id, or one that an earlier step of the same plan makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomRef {
    Id(RoomId),
    New(Key),
}

impl fmt::Display for RoomRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::New(key) => write!(f, "{key}"),
        }
    }
}

/// A room or space to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Creation {
    pub key: Key,
    /// The createRoom body, complete but for the ids of rooms made by the same plan.
    pub body: Value,
    /// Rooms whose members may join (`restricted`): filled in when they exist.
    pub allow: Vec<RoomRef>,
    pub marker: Marker,
}

/// One state event, typed.
#[derive(Clone, Debug, PartialEq)]
pub enum StateChange {
    Name(String),
    Topic(String),
    Avatar(String),
    /// Also points the alias at the room.
    CanonicalAlias(String),
    JoinRule(JoinRule),
    GuestAccess(String),
    Child {
        child: RoomRef,
        link: Child,
    },
    Unchild {
        child: RoomId,
    },
    Unparent {
        parent: RoomId,
    },
    Parent {
        parent: RoomRef,
        link: Parent,
    },
    Marker(Marker),
    /// The marker under a new id (`renamed_from`). Also gives the room the fencing alias of that id and takes the old one back, so that
    /// neither id is ever made twice (S-16).
    Rename {
        from: Key,
        marker: Marker,
    },
    /// The first marker of a room that others made. Also gives the room the fencing alias, so that nothing is made in its place (S-16).
    Adopt(Marker),
    /// The room is nothing of ours any more: the marker it has says so from now on (S-41, S-42).
    Unmark(Marker),
}

/// A change of one effective level, for showing and counting. `user: None` is a key such as `invite` or `state_default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelChange {
    pub user: Option<UserId>,
    pub key: Option<String>,
    pub from: i64,
    pub to: i64,
    pub reason: Reason,
    /// Present on a demotion that counts against S-81's limits.
    pub removal: Option<Removal>,
}

/// Why. The text, the JSON, the status page and `explain` print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// usher's own identity.
    SetUp,
    /// The configuration says so: what of it.
    Configured(&'static str),
    /// The source's tree says so (mirror mode).
    Mirrored,
    /// The fencing alias points at a room we did not make, or did not finish.
    Debris {
        room: Option<RoomId>,
    },
    InGroup(Arc<str>),
    Everyone,
    Exception {
        reason: Arc<str>,
        until: Option<Timestamp>,
    },
    /// In a subspace of this space.
    InSubspace {
        space: Arc<str>,
        group: Arc<str>,
    },
    /// In the directory, but no longer in a group that this space admits.
    NotInGroups,
    /// Confirmed gone from the directory.
    LeftDirectory {
        since: Timestamp,
    },
    Disabled,
    /// In the root space without being in the directory (`candidates: root-space`, S-51).
    NotProvisioned,
    /// In the directory again, and enabled.
    Returned,
    /// An operator gave the account back.
    Restored,
    /// The grace period of somebody who left is over (S-53): why they were locked, and when it began.
    GraceOver {
        cause: Cause,
        since: Timestamp,
    },
    /// A room would have no administrator once somebody's account has ended (S-86).
    LastAdministrator,
    /// The directory has another name, photo, or other addresses (S-50).
    AttributeDiffers,
    /// The directory has none any more (S-50).
    AttributeGone,
    /// What is remembered of leavers is mirrored (S-51).
    Mirror,
    /// Never entitled here.
    NeverEntitled,
    /// A level differs from the rule.
    LevelRule,
    /// Levels of people who are not in the room are not kept (S-108).
    NotInRoom,
    /// The room's own structure must match (links, markers, guards).
    Structure(&'static str),
    NoLongerConfigured,
    /// The unit a mirrored space stood for is gone from the source, which is confirmed (S-24).
    NoLongerMirrored,
    /// A room is released: what made it so (S-42, S-106).
    NoLongerManaged(&'static str),
}

/// Why a step is not done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withheld {
    /// `enforce: additive` or `observe` on the space.
    Policy(&'static str),
    /// The read was not complete, or is stale (S-3).
    IncompleteRead,
    /// `gc.enabled` is off (S-40).
    GcOff,
    /// Beyond a limit or in need of a yes (S-81, S-43, S-15, S-101).
    Held(Box<Hold>),
    /// usher has not the right to do it (DESIGN decision 9).
    MissingRight(&'static str),
    /// The grace period goes on until then (S-52).
    Grace { until: Timestamp },
    /// Something must be seen first: what.
    Waits(&'static str),
    /// The clocks are in doubt: how (S-53).
    Clocks(Arc<str>),
    /// A mapped group was not found and nobody remembers who was in it (S-23).
    GroupUnknown(Arc<str>),
    /// The homeserver refused before; not retried until then.
    Refused { code: String, until: Timestamp },
    /// Another step must come first that is itself withheld.
    DependsOnWithheld,
    /// Somebody in the space is suspended: it is left when that is decided (S-24).
    Undecided,
    /// Nothing of a room is managed before it is adopted.
    AfterAdoption,
}

/// What class of hold, and the figures that made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hold {
    pub class: Class,
    /// The space, for per-space classes.
    pub space: Option<Key>,
    /// People (or rooms) the class would touch, with those already touched in the window.
    pub count: u64,
    /// How many are allowed; `None` for classes that are always held.
    pub limit: Option<u64>,
    /// Percent basis.
    pub base: u64,
    /// What else to say: the group that came back empty, say.
    pub detail: Option<String>,
}

/// Classes of S-81 and of the other holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Locks,
    FinalSteps,
    /// People who would lose every mail address usher gave them.
    Addresses,
    KicksPerSpace,
    KicksTotal,
    Demotions,
    Spaces,
    Rooms,
    /// A mapped group that had members has none.
    EmptiedGroup,
    /// The database is younger than our markers (S-101).
    LedgerLost,
    /// From mirror mode to `spaces:`, or back (S-15).
    ModeSwitch,
    /// A probable rename (S-43).
    Rename,
    /// The first pass over an adopted room (S-81).
    Adoption,
    /// A room of version 12 or later whose creator should not stand above everybody is replaced (S-22).
    Upgrades,
}

/// What a step takes away, for counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub class: Class,
    /// The space it counts for; for rooms that are released the room.
    pub space: Key,
    /// Nobody for spaces and rooms.
    pub person: Option<UserId>,
    /// Caused by a change of directory or configuration, so that the limits count it. `false`: an intruder.
    pub counts: bool,
    /// The mapped group that came back empty, if that is the cause.
    pub emptied: Option<Arc<str>>,
    /// In a room whose adoption is not decided to the end.
    pub adopted: bool,
}

/// Identity of a step over passes: a digest of what it does to what, without levels and texts that drift.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something reported without a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// From the source.
    Source(String),
    GroupMissing {
        space: Key,
        group: String,
        nearest: Option<String>,
        frozen: bool,
    },
    /// Found again by stable id under a new name.
    GroupRenamed {
        space: Key,
        group: String,
        now: String,
    },
    GroupAmbiguous {
        space: Key,
        group: String,
        candidates: Vec<String>,
    },
    LocalpartConflict {
        localpart: String,
        ids: Vec<String>,
    },
    /// The person's localpart changed at the source; the binding stays (S-1).
    LocalpartChanged {
        id: String,
        bound: UserId,
        now: UserId,
    },
    /// Entitled, but without an account yet.
    NoAccount {
        user: UserId,
    },
    /// Left, declined or was kicked by a human (S-19).
    HumanDecision {
        place: Key,
        user: UserId,
        what: &'static str,
    },
    Banned {
        place: Key,
        user: UserId,
    },
    Suspended {
        user: UserId,
        why: &'static str,
    },
    ForeignUser {
        place: Key,
        user: UserId,
    },
    /// Levels that do not fit one event (S-21).
    LevelsDoNotFit {
        place: Key,
        dropped: u64,
    },
    /// usher cannot put it right itself: what and what to do.
    Unenforceable {
        place: Key,
        what: String,
    },
    /// A room that people made is being taken over, and these are in it without a right: the round that removes them is still to come.
    TakeOver {
        place: Key,
        name: String,
        strangers: Vec<UserId>,
    },
    /// A moderator took the room out of its space, or closed it to the space (S-30, S-106).
    TakenOut {
        place: Key,
    },
    ExceptionUnknown {
        user: UserId,
        place: String,
    },
    /// Somebody new in the directory claims the account of somebody who left (S-5).
    AccountHeld {
        user: UserId,
        id: String,
    },
    /// Somebody left whose account is not touched, and why.
    NotLocked {
        user: UserId,
        why: &'static str,
    },
    /// Somebody whom usher locked, and to whom nothing is going to be done: since when, why, and what they are left to (S-52).
    InGrace {
        user: UserId,
        since: Timestamp,
        cause: Cause,
        fate: Fate,
    },
    /// Rooms in which somebody who left is the last administrator, and nobody else of this homeserver is (S-86).
    NobodyToHandTo {
        user: UserId,
        rooms: Vec<RoomId>,
    },
    /// Somebody is in the directory whose account was closed.
    AccountClosed {
        user: UserId,
    },
    /// An address that several people of the directory have: it is given to none of them (S-50).
    EmailShared {
        users: Vec<UserId>,
    },
    /// People whose mail addresses on the homeserver were not read yet: what differs is planned once they are (S-50).
    AddressesUnread {
        count: usize,
    },
    /// People whose photo in the directory was not looked at yet.
    PhotosUnseen {
        count: usize,
    },
    /// Attributes cannot be compared: why.
    AttributesUnknown {
        why: &'static str,
    },
}

/// Compares what should be with what is. Pure: the same arguments give the same plan.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, ledger: &Ledger, scope: &Scope, now: Timestamp) -> Plan {
    let mut planner = Planner::new(desired, observed, ledger, now);
    let user_rooms = planner.user_rooms();
    planner.take_in(&user_rooms);
    planner.strangers = planner.strangers_in_root_spaces();
    planner.identity();
    for room in &desired.rooms {
        planner.room(room, scope);
    }
    for room in &user_rooms {
        planner.take_over(room, scope);
    }
    planner.follow_upgrades(scope);
    planner.relink(scope);
    planner.retire(scope);
    planner.accounts(scope);
    planner.clean_up(scope);
    planner.finish(scope)
}
