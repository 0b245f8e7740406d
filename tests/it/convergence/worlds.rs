//! Random worlds: a small directory with nested groups, cycles, disabled people and shared localparts; a tree of spaces with every policy;
//! and a homeserver in any state people and crashes can leave it in.

use proptest::prelude::*;
use serde_json::{Value, json};
use usher::config::Config;
use usher::desired::desire;
use usher::directory::{Directory, Snapshot};
use usher::ids::{Key, RoomId, Timestamp, UserId};
use usher::ledger::Ledger;
use usher::observed::{Known, Member, Observed, Room};
use usher::plan::{Action, Class, Decision, Header, Plan, RoomRef, Scope, StateChange, Step, World, plan, render};

use crate::lab::dice::Dice;

const SERVER: &str = "example.org";
/// People `p0` to `p7`, a protected `boss`, a server admin `root`, another service's `bridge`, an unknown `eve`, a foreigner.
pub const PEOPLE: usize = 8;
const GROUPS: usize = 4;

type SpaceSketch = (usize, Vec<(usize, i64)>, u8);

/// A world in few words, so that a failing one can be read.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each drawn on its own")]
pub struct Sketch {
    /// Per person: in the directory, enabled, shares the localpart of the one before, has an account.
    people: Vec<(bool, bool, bool, bool)>,
    /// Per group: members, below [`PEOPLE`] people and above it groups.
    groups: Vec<Vec<usize>>,
    incomplete: bool,
    deprovisioning: bool,
    /// Per space: parent among the earlier ones, groups with levels, policy.
    spaces: Vec<SpaceSketch>,
    default_room: bool,
    invites: bool,
    joins: bool,
    version_10: bool,
    /// What was done to the rooms by others: room, person, deed.
    deeds: Vec<(usize, usize, u8)>,
    /// Nothing was made yet.
    fresh: bool,
    shuffle: u64,
}

pub fn sketch() -> impl Strategy<Value = Sketch> {
    let person =
        (prop::bool::weighted(0.85), prop::bool::weighted(0.85), prop::bool::weighted(0.1), prop::bool::weighted(0.9));
    let people = prop::collection::vec(person, PEOPLE);
    let groups = prop::collection::vec(prop::collection::vec(0..PEOPLE + GROUPS, 0..5), GROUPS);
    let level = prop::sample::select(vec![0i64, 0, 50, 75, 100]);
    let space = (0usize..4, prop::collection::vec((0..GROUPS + 2, level), 0..3), 0u8..8);
    let policy = (any::<bool>(), prop::bool::weighted(0.7), prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    (
        (people, groups, prop::bool::weighted(0.15), prop::bool::weighted(0.3)),
        prop::collection::vec(space, 1..5),
        policy,
        (prop::collection::vec((0usize..16, 0..PEOPLE + 5, 0u8..20), 0..25), prop::bool::weighted(0.25)),
    )
        .prop_map(|((people, groups, incomplete, deprovisioning), spaces, policy, (deeds, fresh))| Sketch {
            people,
            groups,
            incomplete,
            deprovisioning,
            spaces,
            default_room: policy.0,
            invites: policy.1,
            joins: policy.2,
            version_10: policy.3,
            deeds,
            fresh,
            shuffle: 0,
        })
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { people, groups, spaces, deeds, .. } = self;
        write!(f, "people {people:?} groups {groups:?} spaces {spaces:?} deeds {deeds:?} ")?;
        write!(f, "incomplete {} deprovisioning {} ", self.incomplete, self.deprovisioning)?;
        write!(f, "default_room {} invites {} joins {} ", self.default_room, self.invites, self.joins)?;
        write!(f, "version_10 {} fresh {}", self.version_10, self.fresh)
    }
}

impl Sketch {
    /// The same world, its lists in another order.
    pub fn shuffled(sketch: &Self, seed: u64) -> Self {
        Self { shuffle: seed | 1, ..sketch.clone() }
    }

    fn config(&self) -> Config {
        let mut spaces: Vec<Value> = Vec::new();
        for (at, (_, grants, policy)) in self.spaces.iter().enumerate() {
            let groups: Vec<Value> = grants
                .iter()
                .map(|(group, level)| {
                    let id = if *group == GROUPS { String::new() } else { format!("g{group}") };
                    json!({ "externalId": id, "powerLevel": level })
                })
                .collect();
            let mut space = json!({ "id": format!("s{at}"), "name": format!("Space {at}"), "groups": groups });
            match policy {
                0 => space["enforce"] = "additive".into(),
                1 => space["enforce"] = "observe".into(),
                2 => space["rooms"] = json!([{ "id": "own", "properties": { "name": "Own" }, "groups": groups }]),
                3 => space["topic"] = "Ours".into(),
                4 => space["alias"] = format!("s{at}").into(),
                _ => {}
            }
            spaces.push(space);
        }
        // From the last to the first, so that each is complete when it moves under its parent.
        let mut top = Vec::new();
        for at in (0..spaces.len()).rev() {
            let space = spaces.remove(at);
            let parent = self.spaces[at].0;
            if parent < at {
                match spaces[parent]["subspaces"].as_array_mut() {
                    Some(below) => below.push(space),
                    None => spaces[parent]["subspaces"] = json!([space]),
                }
            } else {
                top.push(space);
            }
        }
        let mut provisioner = json!({
            "invite_to_public_rooms": self.invites,
            "membership": if self.joins { "join" } else { "invite" },
            "room_version": if self.version_10 { "10" } else { "12" },
            "protected_users": ["@boss:example\\.org"],
        });
        if self.default_room {
            provisioner["default_rooms"] = json!([{ "id": "general", "properties": { "name": "General" } }]);
        }
        let whole = json!({
            "provisioner": provisioner,
            "spaces": top,
            "userProvisioner": { "deprovisioning": { "enabled": self.deprovisioning } },
        });
        crate::scenarios::world::config(&whole.to_string())
    }

    fn snapshot(&self) -> Snapshot {
        let mut users = Vec::new();
        for (at, (present, enabled, shares, _)) in self.people.iter().enumerate() {
            if *present {
                let localpart = if *shares && at > 0 { at - 1 } else { at };
                users.push(json!({ "id": format!("u{at}"), "localpart": format!("p{localpart}"), "enabled": enabled }));
            }
        }
        let mut groups: Vec<Value> = Vec::new();
        for (at, members) in self.groups.iter().enumerate() {
            let mut members: Vec<String> = members
                .iter()
                .map(|member| if *member < PEOPLE { format!("u{member}") } else { format!("g{}", member - PEOPLE) })
                .collect();
            rotate(&mut members, self.shuffle);
            let name = format!("g{at}");
            groups.push(json!({ "id": name, "name": name, "members": members }));
        }
        rotate(&mut users, self.shuffle);
        rotate(&mut groups, self.shuffle);
        let mut snapshot = json!({ "source": "random", "users": users, "groups": groups });
        if self.incomplete {
            snapshot["completeness"] = json!({ "incomplete": ["cut short"] });
        }
        serde_json::from_value(snapshot).unwrap()
    }
}

/// Another order, the same every time.
fn rotate<T>(list: &mut [T], seed: u64) {
    if seed == 0 {
        return;
    }
    let mut dice = Dice(seed);
    for at in (1..list.len()).rev() {
        list.swap(at, dice.below(at + 1));
    }
}

/// What goes wrong in a pass.
pub struct Faults(Dice);

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self(Dice(seed | 1))
    }

    pub fn refuses(&mut self) -> bool {
        self.0.below(5) == 0
    }

    pub fn cut_off(&mut self) -> bool {
        self.0.below(40) == 0
    }

    pub fn cuts_creation(&mut self) -> bool {
        self.0.below(6) == 0
    }
}

/// A world that goes on.
pub struct Stage {
    pub config: Config,
    snapshot: Snapshot,
    pub observed: Observed,
    ledger: Ledger,
    now: Timestamp,
}

impl Stage {
    /// The sketched world: made by usher once (unless fresh), then changed by others.
    pub fn of(sketch: &Sketch) -> Self {
        let observed = serde_json::from_value(json!({
            "server": SERVER, "bot": "@usher:example.org", "sender": "@_usher:example.org",
        }));
        let mut stage = Self {
            config: sketch.config(),
            snapshot: Snapshot::default(),
            observed: observed.unwrap(),
            ledger: Ledger::default(),
            now: Timestamp(1_000_000_000_000),
        };
        stage.observed.bot_registered = Known::Known(false);
        stage.observed.bot_display_name = Known::Known(None);
        stage.open_accounts(sketch);
        stage.snapshot = sketch.snapshot();
        stage.read();
        if !sketch.fresh {
            let decision = stage.decide();
            for step in decision.plan.pending() {
                stage.observed.simulate(&step.action, &usher::actuate::Outcome::default());
            }
            stage.learn(&decision.plan);
            stage.accept();
            for (room, person, deed) in &sketch.deeds {
                stage.suffer(*room, &who(*person), *deed);
            }
        }
        stage
    }

    fn open_accounts(&mut self, sketch: &Sketch) {
        let accounts = &mut self.observed.accounts;
        accounts.listed = true;
        for (at, (_, _, _, account)) in sketch.people.iter().enumerate() {
            if *account {
                accounts.people.entry(who(at)).or_default();
            }
        }
        for at in PEOPLE..PEOPLE + 4 {
            accounts.people.entry(who(at)).or_default();
        }
        accounts.people.entry(who(PEOPLE + 1)).or_default().admin = true;
        accounts.people.entry(who(PEOPLE + 2)).or_default().foreign_service = true;
    }

    /// Takes in the other sketch's directory, accounts and deeds; the configuration stays.
    pub fn become_directory_of(&mut self, sketch: &Sketch) {
        self.snapshot = sketch.snapshot();
        self.open_accounts(sketch);
        for (room, person, deed) in &sketch.deeds {
            self.suffer(*room, &who(*person), *deed);
        }
        self.wait();
    }

    /// Takes in the other sketch's configuration, with clean-up on and whatever spaces that leaves over.
    pub fn become_configuration_of(&mut self, sketch: &Sketch) {
        self.config = sketch.config();
        self.config.provisioner.gc_enabled = true;
        self.config.safety.limits.spaces.min = 2;
    }

    /// A minute and a half later, the directory is read again.
    pub fn wait(&mut self) {
        self.now = self.now.plus_ms(90_000);
        self.read();
    }

    fn read(&mut self) {
        let mut directory = Directory::flatten(self.snapshot.clone());
        self.ledger.doubt(&mut directory);
        self.ledger.witness(&directory, 60_000, self.now);
    }

    fn world(&self) -> World {
        World {
            config: String::new(),
            directory: self.snapshot.clone(),
            homeserver: self.seen(),
            ledger: self.ledger.clone(),
            now: self.now,
        }
    }

    /// Without admin rights a room the bot is not in shows its name, kind and join rule.
    fn seen(&self) -> Observed {
        let mut seen = self.observed.clone();
        for room in seen.outside.values_mut().filter(|_| !self.observed.accounts.listed) {
            let (name, join_rule) = (room.name.take(), room.join_rule.take());
            *room = Room { is_space: room.is_space, name, join_rule, ..Room::default() };
        }
        seen
    }

    pub fn decide(&self) -> Decision {
        self.world().decide(&self.config)
    }

    /// The steps before anything is withheld by the guard.
    pub fn unguarded(&self) -> Vec<Step> {
        let mut directory = Directory::flatten(self.snapshot.clone());
        self.ledger.doubt(&mut directory);
        let desired = desire(&self.config, &directory, &self.ledger, self.now);
        plan(&desired, &self.seen(), &self.ledger, &Scope::Everything, self.now).steps
    }

    pub fn render(&self) -> String {
        let header = Header { server: SERVER.to_owned(), ..Header::default() };
        render(&self.decide().plan, &header)
    }

    pub fn learn(&mut self, plan: &Plan) {
        self.ledger.learn(&plan.lessons);
        self.ledger.settled |= plan.steps.iter().filter_map(Step::hold).all(|hold| hold.class != Class::LedgerLost);
    }

    /// Everybody who is invited accepts.
    pub fn accept(&mut self) {
        for room in self.observed.rooms.values_mut() {
            for member in room.members.values_mut().filter(|member| **member == Member::Invite) {
                *member = Member::Join;
            }
        }
    }

    /// The keys that rooms of ours carry.
    pub fn carriers(&self) -> Vec<Key> {
        let key = |room: &Room| room.marker.as_ref().map(|marker| marker.key.clone()).or(room.created_for.clone());
        self.observed.rooms.values().filter_map(key).collect()
    }

    /// A creation that was cut off after the create event and our join.
    pub fn halve(&mut self, key: &Key) {
        for room in self.observed.rooms.values_mut().filter(|room| room.created_for.as_ref() == Some(key)) {
            let bot = self.observed.bot.clone();
            *room = Room {
                version: room.version.clone(),
                creators: room.creators.clone(),
                created_for: Some(key.clone()),
                is_space: room.is_space,
                members: [(bot, Member::Join)].into(),
                ..Room::default()
            };
        }
    }

    /// Something that people, other software or a crash do to a room.
    fn suffer(&mut self, room: usize, person: &UserId, deed: u8) {
        let ids: Vec<RoomId> = self.observed.rooms.keys().cloned().collect();
        let Some(id) = ids.get(room % ids.len().max(1)) else { return };
        let next = ids[(room + 1) % ids.len()].clone();
        let mod_ = UserId::new("mod", SERVER);
        let Some(room) = self.observed.rooms.get_mut(id) else { return };
        let member = match deed {
            0..=2 => Some(Member::Join),
            3 => Some(Member::Invite),
            4 => Some(Member::Knock),
            5 => Some(Member::Leave { by: person.clone(), event: "$left".into() }),
            6 => Some(Member::Leave { by: mod_, event: "$kicked".into() }),
            7 => Some(Member::Ban { by: mod_ }),
            _ => None,
        };
        match (member, deed) {
            (Some(member), _) => drop(room.members.insert(person.clone(), member)),
            (None, 8 | 9) => {
                let levels = room.power_levels.get_or_insert_default();
                levels.users.insert(person.clone(), if deed == 8 { 100 } else { 10 });
            }
            (None, 10) => room.power_levels.get_or_insert_default().set_key("users_default", 25),
            (None, 11) => room.name = Some("Renamed".to_owned()),
            (None, 12) => room.children.clear(),
            (None, 13) => room.parents.clear(),
            (None, 14) => room.marker = None,
            (None, 15) => room.join_rule = None,
            (None, 16) => drop(
                room.children.insert(next, usher::observed::Child { via: vec![SERVER.into()], ..Default::default() }),
            ),
            (None, 17) => room.power_levels = None,
            (None, 18) => {
                if let Some(account) = self.observed.accounts.people.get_mut(person) {
                    account.locked = !account.locked;
                }
            }
            (None, _) => {
                let key = room.created_for.clone();
                if let Some(key) = key {
                    self.halve(&key);
                }
            }
        }
    }
}

pub fn who(at: usize) -> UserId {
    match at {
        at if at < PEOPLE => UserId::new(&format!("p{at}"), SERVER),
        8 => UserId::new("boss", SERVER),
        9 => UserId::new("root", SERVER),
        10 => UserId::new("bridge", SERVER),
        11 => UserId::new("eve", SERVER),
        _ => UserId::new("zoe", "elsewhere.test"),
    }
}

pub fn is_marker(action: &Action) -> bool {
    matches!(action, Action::SetState { state: StateChange::Marker(_), .. })
}

/// What is not there when this step does not happen.
pub fn unmade(step: &Step) -> Option<Key> {
    match &step.action {
        Action::CreateRoom(creation) => Some(creation.key.clone()),
        Action::DropAlias { key, .. } => Some(key.clone()),
        Action::SetState { state: StateChange::Child { .. }, .. } => step.place.clone(),
        _ => None,
    }
}

/// Whether a step needs something that was lost.
pub fn depends_on(step: &Step, lost: &[Key]) -> bool {
    let gone = |room: &RoomRef| matches!(room, RoomRef::New(key) if lost.contains(key));
    step.action.room().is_some_and(gone)
        || match &step.action {
            Action::SetState { state: StateChange::Child { child, .. }, .. } => gone(child),
            Action::SetState { state: StateChange::Parent { parent, .. }, .. } => gone(parent),
            Action::SetState { state: StateChange::Marker(marker), .. } => {
                lost.iter().any(|key| !key.is_space() && key.space() == marker.key.space())
            }
            Action::CreateRoom(creation) => creation.allow.iter().any(gone) || lost.contains(&creation.key),
            _ => false,
        }
}
