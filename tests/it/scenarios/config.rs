//! The parts of the configuration that a plan depends on, from the YAML an operator writes.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use usher::config::{
    Accounts, AccountsBackend, Appservice, Config, Deprovisioning, Enforce, Exception, ExceptionPlace, FileSource,
    GroupGrant, Homeserver, LdapAttributes, Limit, Limits, LogFormat, Logging, MembershipMode, Ops, Pattern,
    Provisioner, Reinvite, RoomTemplate, Safety, Source, Space, UserProvisioner, UserRooms, V12Creators,
};
use usher::ids::Timestamp;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    provisioner: ProvisionerPart,
    #[serde(rename = "userProvisioner")]
    user_provisioner: UserPart,
    spaces: Option<Vec<SpacePart>>,
    exceptions: Vec<ExceptionPart>,
    safety: SafetyPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProvisionerPart {
    default_rooms: Vec<RoomPart>,
    allowed_users: Vec<String>,
    protected_users: Vec<String>,
    protect_server_admins: Option<bool>,
    invite_to_public_rooms: Option<bool>,
    membership: Option<String>,
    reinvite: Option<String>,
    enforce: Enforce,
    room_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserPart {
    deprovisioning: DeprovisioningPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeprovisioningPart {
    enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SafetyPart {
    confirm_reads: Option<u32>,
    limits: LimitsPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsPart {
    kicks_per_space: Option<LimitPart>,
    kicks_total: Option<LimitPart>,
    demotions: Option<LimitPart>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitPart {
    min: u64,
    percent: u64,
    max: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpacePart {
    id: String,
    name: String,
    topic: Option<String>,
    avatar: Option<String>,
    alias: Option<String>,
    #[serde(default)]
    rooms: Vec<RoomPart>,
    enforce: Option<Enforce>,
    renamed_from: Option<String>,
    #[serde(default)]
    groups: Vec<GrantPart>,
    #[serde(default)]
    subspaces: Vec<SpacePart>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomPart {
    id: String,
    #[serde(default)]
    properties: Map<String, Value>,
    groups: Option<Vec<GrantPart>>,
    alias: Option<String>,
    #[serde(default)]
    suggested: bool,
    order: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantPart {
    #[serde(rename = "externalId")]
    external_id: String,
    #[serde(default, rename = "powerLevel")]
    power_level: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExceptionPart {
    user: String,
    space: Option<String>,
    room: Option<String>,
    #[serde(default)]
    level: i64,
    until: Option<String>,
    reason: String,
}

/// The configuration of a scenario.
pub fn read(yaml: Value) -> Config {
    let file: File = serde_json::from_value(yaml).expect("the scenario's configuration");
    Config { safety: file.safety.into(), ..base(file.provisioner.into()) }.with(
        file.spaces,
        file.exceptions,
        file.user_provisioner,
    )
}

trait With {
    fn with(self, spaces: Option<Vec<SpacePart>>, exceptions: Vec<ExceptionPart>, users: UserPart) -> Self;
}

impl With for Config {
    fn with(mut self, spaces: Option<Vec<SpacePart>>, exceptions: Vec<ExceptionPart>, users: UserPart) -> Self {
        self.spaces = spaces.map(|spaces| spaces.into_iter().map(Space::from).collect());
        self.exceptions = exceptions.into_iter().map(Exception::from).collect();
        self.user_provisioner.deprovisioning = users.deprovisioning.enabled.then(|| Deprovisioning {
            soft_delete_period_ms: 30 * 24 * 60 * 60 * 1000,
            erase: true,
            candidates_root_space: false,
            erase_inactive_after_ms: None,
            erasures_per_day: 10,
        });
        self
    }
}

/// A configuration of which only the provisioner matters.
pub fn base(provisioner: Provisioner) -> Config {
    Config {
        instance: "main".into(),
        homeserver: Homeserver {
            url: "http://127.0.0.1:8008".into(),
            admin_url: None,
            server_name: "example.org".into(),
        },
        appservice: Appservice {
            registration: PathBuf::from("usher-registration.yaml"),
            puppet_registration: None,
            bot: "usher".into(),
            listen: None,
        },
        accounts: Accounts { backend: AccountsBackend::Synapse, admin_token: None, mas: None },
        database_url: "sqlite://usher.db".into(),
        ops: Ops { listen: "127.0.0.1:8042".into(), token: None },
        operators: Vec::new(),
        safety: SafetyPart::default().into(),
        provisioner,
        user_provisioner: UserProvisioner::default(),
        spaces: None,
        source: Source::File(FileSource {
            path: PathBuf::from("company.yaml"),
            check_interval_ms: 60_000,
            base: None,
            attributes: LdapAttributes { uid: "uid".into(), name: "cn".into(), mail: "mail".into() },
            strict_localparts: false,
        }),
        telemetry: None,
        logging: Logging { level: tracing::Level::INFO, format: LogFormat::Pretty },
        exceptions: Vec::new(),
    }
}

impl From<ProvisionerPart> for Provisioner {
    fn from(part: ProvisionerPart) -> Self {
        let patterns = |texts: Vec<String>| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
        Self {
            default_rooms: part.default_rooms.into_iter().map(RoomTemplate::from).collect(),
            allowed_users: patterns(part.allowed_users),
            protected_users: patterns(part.protected_users),
            protect_server_admins: part.protect_server_admins.unwrap_or(true),
            invite_to_public_rooms: part.invite_to_public_rooms.unwrap_or(true),
            federates_with: Vec::new(),
            gc_enabled: false,
            dry_run: false,
            membership: match part.membership.as_deref() {
                None | Some("invite") => MembershipMode::Invite,
                Some("join") => MembershipMode::Join,
                Some(other) => panic!("membership {other}"),
            },
            reinvite: match part.reinvite.as_deref() {
                None | Some("never") => Reinvite::Never,
                Some("spaces") => Reinvite::Spaces,
                Some("always") => Reinvite::Always,
                Some(other) => panic!("reinvite {other}"),
            },
            enforce: part.enforce,
            user_rooms: UserRooms::default(),
            v12_creators: V12Creators::Tolerate,
            room_version: part.room_version.unwrap_or_else(|| "12".into()),
            resync_interval_ms: 3_600_000,
            max_rate: 30,
            forget: false,
            bot_display_name: "Usher".into(),
        }
    }
}

impl From<SafetyPart> for Safety {
    fn from(part: SafetyPart) -> Self {
        let mut limits = Limits::default();
        let places = [
            (&mut limits.kicks_per_space, part.limits.kicks_per_space),
            (&mut limits.kicks_total, part.limits.kicks_total),
            (&mut limits.demotions, part.limits.demotions),
        ];
        for (place, limit) in places {
            if let Some(limit) = limit {
                *place = Limit { min: limit.min, percent: limit.percent, max: limit.max };
            }
        }
        Self { confirm_reads: part.confirm_reads.unwrap_or(2), stale_after_ms: 24 * 60 * 60 * 1000, limits }
    }
}

impl From<SpacePart> for Space {
    fn from(part: SpacePart) -> Self {
        Self {
            id: part.id.into(),
            name: part.name,
            topic: part.topic,
            avatar: part.avatar,
            alias: part.alias,
            rooms: part.rooms.into_iter().map(RoomTemplate::from).collect(),
            enforce: part.enforce,
            federate: None,
            adopt: None,
            renamed_from: part.renamed_from.map(Into::into),
            groups: part.groups.into_iter().map(GroupGrant::from).collect(),
            federated_groups: Vec::new(),
            subspaces: part.subspaces.into_iter().map(Self::from).collect(),
        }
    }
}

impl From<RoomPart> for RoomTemplate {
    fn from(part: RoomPart) -> Self {
        Self {
            id: part.id.into(),
            properties: part.properties,
            groups: part.groups.map(|groups| groups.into_iter().map(GroupGrant::from).collect()),
            alias: part.alias,
            suggested: part.suggested,
            order: part.order,
        }
    }
}

impl From<GrantPart> for GroupGrant {
    fn from(part: GrantPart) -> Self {
        Self { external_id: part.external_id, power_level: part.power_level }
    }
}

impl From<ExceptionPart> for Exception {
    fn from(part: ExceptionPart) -> Self {
        let until =
            part.until.map(|until| chrono::DateTime::parse_from_rfc3339(&until).expect("until").timestamp_millis());
        Self {
            user: part.user.as_str().into(),
            place: match (part.space, part.room) {
                (Some(space), None) => ExceptionPlace::Space(space.into()),
                (None, Some(room)) => ExceptionPlace::Room(room),
                _ => panic!("an exception is for a space or a room"),
            },
            level: part.level,
            until: until.map(Timestamp),
            reason: part.reason,
        }
    }
}
