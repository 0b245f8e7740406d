//! The configuration, typed. Reading lives in the modules below, in this order: `tree` (YAML with positions), `merge` (several
//! files), `variables`, `section` and `value` (typed values, every problem collected), `secret`, one file a section, and
//! `meaning` last, over the whole (S-12, S-95, section 12). [`load`] is the way in.
//!
//! Nothing here reads the network; the only files read are the configuration itself and the `*_file` secrets it names.

mod dump;
mod homeserver;
mod load;
mod mailer;
mod meaning;
mod merge;
mod operation;
mod problem;
mod provisioner;
mod rooms;
mod safety;
mod secret;
mod section;
mod source;
mod source_graph;
mod source_ldap;
mod source_scim;
mod spaces;
mod syntax;
mod tree;
mod user_provisioner;
mod value;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

pub use dump::{dump, dump_with};
pub use homeserver::{ExternalIdMatch, ExternalIdSource, reachable_at};
pub use load::{load, load_with};
pub use mailer::{Mailer, Smtp, SmtpLogin, SmtpTls};
pub use problem::{Loaded, Problem, Severity};
pub use source_scim::SingleSignOn;
pub use user_provisioner::{Deprovisioning, SyncMode, UserProvisioner};
pub use value::parse_duration;

use crate::ids::{Localpart, RoomSlot, SpaceId, Timestamp, UserId};
use crate::scim::access::Digest;

/// Everything usher was told. Durations are milliseconds.
#[derive(Clone)]
pub struct Config {
    /// Names this usher in markers and aliases.
    pub instance: String,
    pub homeserver: Homeserver,
    pub appservice: Appservice,
    pub accounts: Accounts,
    pub database_url: String,
    pub ops: Ops,
    pub operators: Vec<UserId>,
    pub safety: Safety,
    pub provisioner: Provisioner,
    pub user_provisioner: UserProvisioner,
    /// `None`: mirror mode (S-15).
    pub spaces: Option<Vec<Space>>,
    pub source: Source,
    pub telemetry: Option<Telemetry>,
    pub logging: Logging,
    pub exceptions: Vec<Exception>,
}

impl fmt::Debug for Config {
    /// Everything but the database's URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.database_url.split(':').next().unwrap_or_default();
        f.debug_struct("Config")
            .field("instance", &self.instance)
            .field("homeserver", &self.homeserver)
            .field("appservice", &self.appservice)
            .field("accounts", &self.accounts)
            .field("database_url", &format_args!("{scheme}:[REDACTED]"))
            .field("ops", &self.ops)
            .field("operators", &self.operators)
            .field("safety", &self.safety)
            .field("provisioner", &self.provisioner)
            .field("user_provisioner", &self.user_provisioner)
            .field("spaces", &self.spaces)
            .field("source", &self.source)
            .field("telemetry", &self.telemetry)
            .field("logging", &self.logging)
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

#[derive(Clone, Debug)]
pub struct Homeserver {
    pub url: String,
    /// Where the admin API is, when not at `url`.
    pub admin_url: Option<String>,
    pub server_name: String,
}

#[derive(Clone, Debug)]
pub struct Appservice {
    /// Path of the main registration file.
    pub registration: PathBuf,
    pub puppet_registration: Option<PathBuf>,
    /// The bot's localpart.
    pub bot: Localpart,
    /// Where to take transactions, if at all.
    pub listen: Option<String>,
    /// Where the homeserver reaches that listener, when not at its own address.
    pub url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountsBackend {
    Synapse,
    Mas,
    None,
}

#[derive(Clone, Debug)]
pub struct Accounts {
    pub backend: AccountsBackend,
    /// A server admin's access token, used instead of the sender being one.
    pub admin_token: Option<SecretString>,
    /// Find accounts by their single-sign-on external id first (S-5).
    pub match_external_id: Option<ExternalIdMatch>,
    pub mas: Option<Mas>,
}

#[derive(Clone, Debug)]
pub struct Mas {
    pub url: String,
    pub client_id: String,
    pub client_secret: SecretString,
}

#[derive(Clone, Debug)]
pub struct Ops {
    /// `address:port` of the operations listener.
    pub listen: String,
    pub token: Option<SecretString>,
}

/// S-3, S-24, S-81.
#[derive(Clone, Debug)]
pub struct Safety {
    pub confirm_reads: u32,
    pub stale_after_ms: i64,
    pub limits: Limits,
}

/// One blast-radius limit: `max(min, min(percent of the base, max))` people in a rolling 24 hours (S-81, S-104).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub min: u64,
    pub percent: u64,
    pub max: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub locks: Limit,
    pub final_steps: Limit,
    pub addresses: Limit,
    pub kicks_per_space: Limit,
    pub kicks_total: Limit,
    pub demotions: Limit,
    pub spaces: Limit,
    pub rooms: Limit,
}

impl Default for Limits {
    /// The figures of S-81.
    fn default() -> Self {
        Self {
            locks: Limit { min: 3, percent: 5, max: Some(50) },
            final_steps: Limit { min: 2, percent: 2, max: Some(10) },
            addresses: Limit { min: 3, percent: 5, max: None },
            kicks_per_space: Limit { min: 5, percent: 30, max: None },
            kicks_total: Limit { min: 20, percent: 10, max: Some(500) },
            demotions: Limit { min: 5, percent: 10, max: Some(200) },
            spaces: Limit { min: 1, percent: 0, max: None },
            rooms: Limit { min: 3, percent: 10, max: None },
        }
    }
}

/// How strictly a space's rule is enforced (S-20). The order is that of S-108: `observe` beats `additive` beats `strict`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforce {
    #[default]
    Strict,
    Additive,
    Observe,
}

impl fmt::Display for Enforce {
    /// As the configuration spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Strict => "strict",
            Self::Additive => "additive",
            Self::Observe => "observe",
        })
    }
}

/// How an entitled person gets into a room (S-18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MembershipMode {
    #[default]
    Invite,
    Join,
}

/// Where a person who left by their own or another human's will is invited again (S-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reinvite {
    #[default]
    Never,
    Spaces,
    Always,
}

/// S-22.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum V12Creators {
    #[default]
    Tolerate,
    Upgrade,
    Remove,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one documented key of the file")]
pub struct Provisioner {
    pub default_rooms: Vec<RoomTemplate>,
    pub allowed_users: Vec<Pattern>,
    pub protected_users: Vec<Pattern>,
    pub protect_server_admins: bool,
    pub invite_to_public_rooms: bool,
    pub federates_with: Vec<Partner>,
    pub gc_enabled: bool,
    pub dry_run: bool,
    pub membership: MembershipMode,
    pub reinvite: Reinvite,
    pub enforce: Enforce,
    pub user_rooms: UserRooms,
    pub v12_creators: V12Creators,
    pub room_version: String,
    pub resync_interval_ms: i64,
    /// Writes per second to the homeserver.
    pub max_rate: u32,
    /// Remove a kicked person's room from their list too (S-20; needs the puppet registration).
    pub forget: bool,
    /// S-3's `foreign_users`: only `report` exists.
    pub bot_display_name: String,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct UserRooms {
    pub enforce: Enforce,
    pub creator_level: Option<i64>,
}

/// A pattern over MXIDs, anchored at both ends (S-95). The text is kept for messages.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub text: String,
    pub regex: fancy_regex::Regex,
}

impl Pattern {
    /// Anchors and compiles `text`; look-around is allowed, backtracking is limited.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub fn new(text: &str) -> Result<Self, Box<fancy_regex::Error>> {
        let regex = fancy_regex::RegexBuilder::new(&format!("^(?:{text})$"))
            .backtrack_limit(100_000)
            .build()
            .map_err(Box::new)?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Whether `user` matches. An expression that runs into the backtracking limit counts as matching: patterns only ever protect.
    #[must_use]
    pub fn matches(&self, user: &UserId) -> bool {
        self.regex.is_match(user.as_str()).unwrap_or(true)
    }
}

/// Whom we accept federated groups from (S-70).
#[derive(Clone, Debug)]
pub struct Partner {
    pub agent: UserId,
    /// `None`: as AIM, any group.
    pub groups: Option<Vec<String>>,
    pub max_power_level: Option<i64>,
}

/// A `default_rooms` entry, or one of a space's own `rooms` (S-30).
#[derive(Clone, Debug, PartialEq)]
pub struct RoomTemplate {
    pub id: RoomSlot,
    /// The createRoom body, as JSON.
    pub properties: serde_json::Map<String, serde_json::Value>,
    /// Own members instead of the space's (S-107).
    pub groups: Option<Vec<GroupGrant>>,
    pub alias: Option<String>,
    pub suggested: bool,
    pub order: Option<String>,
    /// An existing room that becomes this one: `!id:server` or `#alias:server`. Only in a space's own `rooms`.
    pub adopt: Option<String>,
}

/// `groups: [{externalId, powerLevel}]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupGrant {
    /// As written; the empty string is everybody (S-2).
    pub external_id: String,
    /// 0 to 100.
    pub power_level: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedGroup {
    pub external_id: String,
    pub power_level: i64,
    pub agent: UserId,
}

/// A `spaces` entry (S-12).
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    pub id: SpaceId,
    pub name: String,
    pub topic: Option<String>,
    /// An `mxc://` URI.
    pub avatar: Option<String>,
    pub alias: Option<String>,
    pub rooms: Vec<RoomTemplate>,
    /// `None`: the provisioner's.
    pub enforce: Option<Enforce>,
    /// `m.federate` of the create event.
    pub federate: Option<bool>,
    /// An existing space that becomes this one: `!id:server` or `#alias:server`.
    pub adopt: Option<String>,
    pub renamed_from: Option<SpaceId>,
    pub groups: Vec<GroupGrant>,
    pub federated_groups: Vec<FederatedGroup>,
    pub subspaces: Vec<Space>,
}

impl Space {
    /// A space with nothing but its identity and its name.
    #[must_use]
    pub fn named(id: SpaceId, name: String) -> Self {
        Self {
            id,
            name,
            topic: None,
            avatar: None,
            alias: None,
            rooms: Vec::new(),
            enforce: None,
            federate: None,
            adopt: None,
            renamed_from: None,
            groups: Vec::new(),
            federated_groups: Vec::new(),
            subspaces: Vec::new(),
        }
    }
}

/// S-25.
#[derive(Clone, Debug, PartialEq)]
pub struct Exception {
    pub user: UserId,
    pub place: ExceptionPlace,
    pub level: i64,
    pub until: Option<Timestamp>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExceptionPlace {
    Space(SpaceId),
    /// A configured room id (everywhere it exists), a room id or an alias (S-107).
    Room(String),
}

/// Where people and groups come from. A new source is a variant here, a file under `bridge/` and a line in its factory (S-11).
#[derive(Clone, Debug)]
pub enum Source {
    Ldap(Box<LdapSource>),
    File(FileSource),
    MsGraph(Box<MsGraphSource>),
    Scim(Box<ScimSource>),
}

impl Config {
    /// Whether usher locks the accounts of who leaves: where deprovisioning is on, and always where the source gives orders (S-51), unless
    /// accounts are out of usher's reach (S-55).
    #[must_use]
    pub fn locks_leavers(&self) -> bool {
        let ordered = matches!(self.source, Source::Scim(_)) && self.accounts.backend != AccountsBackend::None;
        ordered || self.user_provisioner.deprovisioning.is_some()
    }
}

impl Source {
    /// Milliseconds between reads.
    #[must_use]
    pub fn check_interval_ms(&self) -> i64 {
        match self {
            Self::Ldap(ldap) => ldap.check_interval_ms,
            Self::File(file) => file.check_interval_ms,
            Self::MsGraph(graph) => graph.check_interval_ms,
            Self::Scim(scim) => scim.check_interval_ms,
        }
    }
}

/// AIM's `source: {type: ldap}` with matrix-synapse-ldap3's keys (S-6).
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one documented key of the file")]
pub struct LdapSource {
    pub check_interval_ms: i64,
    /// Tried in order.
    pub uris: Vec<String>,
    pub base: String,
    /// Narrows every search.
    pub filter: Option<String>,
    /// Replaces the built-in person filter (S-100).
    pub user_filter: Option<String>,
    /// Replaces the built-in group filter.
    pub group_filter: Option<String>,
    pub bind_dn: Option<String>,
    pub bind_password: Option<SecretString>,
    pub attributes: LdapAttributes,
    /// Template over attributes, such as `{uid}` or `{mail}`; the uid attribute when `None` (S-5).
    pub localpart: Option<String>,
    /// `true`: a localpart that would need escaping is refused instead.
    pub strict_localparts: bool,
    pub start_tls: bool,
    pub verify_tls: bool,
    pub ca_file: Option<PathBuf>,
    pub client_cert: Option<ClientCert>,
    pub page_size: u32,
    pub connect_timeout_ms: u64,
    /// Of one LDAP operation (a page, a bind).
    pub operation_timeout_ms: u64,
    /// Of one whole read.
    pub read_timeout_ms: u64,
    /// Whether to ask the server for a cheap "has anything changed?" (S-7).
    pub probe: bool,
}

#[derive(Clone, Debug)]
pub struct LdapAttributes {
    pub uid: String,
    pub name: String,
    pub mail: String,
    /// Holds people's photos; `None`: `thumbnailPhoto` or `jpegPhoto`, whichever an entry has.
    pub avatar: Option<String>,
}

/// PEM certificate and key, from a file or inline; the key may be encrypted PKCS#8.
#[derive(Clone, Debug)]
pub struct ClientCert {
    pub pem: SecretString,
    pub passphrase: Option<SecretString>,
}

#[derive(Clone, Debug)]
pub struct FileSource {
    pub path: PathBuf,
    pub check_interval_ms: i64,
    /// LDIF only: as for LDAP.
    pub base: Option<String>,
    pub attributes: LdapAttributes,
    pub strict_localparts: bool,
}

/// AIM's `source: {type: ms-graph-ad}` (S-8).
#[derive(Clone, Debug)]
pub struct MsGraphSource {
    pub check_interval_ms: i64,
    pub tenant_id: String,
    pub client_id: String,
    pub client_secret: Option<SecretString>,
    /// Without the API's version.
    pub base_url: String,
    /// Where tokens come from.
    pub login_url: String,
    pub scopes: Vec<String>,
    pub attributes: GraphAttributes,
    /// As for LDAP.
    pub localpart: Option<String>,
    pub strict_localparts: bool,
    /// Whether guests of the tenant are people, too.
    pub guests: bool,
    pub connect_timeout_ms: u64,
    /// Of one request.
    pub operation_timeout_ms: u64,
    /// Of one whole read, with all waiting that Graph asks for.
    pub read_timeout_ms: u64,
}

/// Properties of a Graph user, as Microsoft spells them.
#[derive(Clone, Debug)]
pub struct GraphAttributes {
    pub uid: String,
    pub name: String,
    pub mail: String,
}

#[derive(Clone, Debug)]
pub struct ScimSource {
    pub check_interval_ms: i64,
    pub port: u16,
    pub listen: Option<String>,
    pub base_url: String,
    /// What clients write before `/Users`; from the Host header where it is not set.
    pub public_url: Option<String>,
    pub client_id: String,
    pub credentials: Vec<ScimCredential>,
    pub username_attribute: String,
    /// Whether `@` and what stands behind it is left out of Matrix names.
    pub strip_domain: bool,
    pub register_users: RegisterUsers,
    pub synchronous_provisioning: bool,
    /// How long an answer waits for Matrix at most.
    pub synchronous_limit_ms: u64,
    pub single_sign_on: Option<SingleSignOn>,
    pub mailer: Option<Mailer>,
}

#[derive(Clone, Debug)]
pub struct ScimCredential {
    /// `None`: a Synapse admin's own access token (`synapse_user: admin`).
    pub token: Option<Digest>,
    /// What the log calls its bearer.
    pub name: Option<String>,
    /// Until when it is accepted.
    pub not_after: Option<Timestamp>,
    /// `access:scope`.
    pub roles: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterUsers {
    Yes,
    No,
    IfMissing,
}

#[derive(Clone, Debug)]
pub struct Telemetry {
    pub instance_id: String,
    pub send_interval_ms: i64,
    pub endpoint: Option<String>,
    pub retry_count: u32,
    pub retry_interval_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

#[derive(Clone, Debug)]
pub struct Logging {
    pub level: tracing::Level,
    pub format: LogFormat,
}

/// Where each setting was written, by its path in `snake_case`: `spaces[0].groups[1].power_level`. For messages.
pub type Positions = BTreeMap<String, Position>;

/// Where a value stands in the files given with `-c`. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}
