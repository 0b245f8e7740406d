//! Everything one plan depends on, as data: `usher plan --record FILE` writes it, a scenario reads it, so that a bug report becomes a test.
//!
//! Pure. A world never holds a secret: of the configuration only the text is kept, as the recorder redacted it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Plan, guard, plan};
use crate::config::Config;
use crate::desired::{Desired, desire};
use crate::directory::{Directory, Snapshot};
use crate::ids::{RoomId, Timestamp};
use crate::ledger::Ledger;
use crate::observed::Observed;

/// Which rooms a plan looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// After events: only these rooms.
    Rooms(BTreeSet<RoomId>),
}

impl Scope {
    pub(super) fn covers(&self, room: &RoomId) -> bool {
        match self {
            Self::Everything => true,
            Self::Rooms(rooms) => rooms.contains(room),
        }
    }
}

/// A world at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct World {
    /// What the operator wrote, as YAML.
    pub config: String,
    pub directory: Snapshot,
    pub homeserver: Observed,
    #[serde(default)]
    pub ledger: Ledger,
    pub now: Timestamp,
}

/// What was made of a world.
#[derive(Clone, Debug)]
pub struct Decision {
    pub directory: Directory,
    pub desired: Desired,
    /// Guarded.
    pub plan: Plan,
}

impl World {
    /// Plans and guards. The ledger is taken as it stands: whether the read counts was settled before (S-24).
    #[must_use]
    pub fn decide(&self, config: &Config) -> Decision {
        let mut directory = Directory::flatten(self.directory.clone());
        self.ledger.doubt(&mut directory);
        let desired = desire(config, &directory, &self.ledger, self.now);
        let mut plan = plan(&desired, &self.homeserver, &self.ledger, &Scope::Everything, self.now);
        guard(&mut plan, (&desired, &self.homeserver), &self.ledger, &config.safety.limits, self.now);
        Decision { directory, desired, plan }
    }
}
