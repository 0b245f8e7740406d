//! `m.room.power_levels`.

use serde::{Deserialize, Serialize};

/// Content of the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PowerLevels {}
