//! What is given to a pass while it goes on, and what comes of it.

use std::time::Duration;

use super::Reconciler;
use crate::bridge::SourceError;
use crate::execute;
use crate::matrix::MatrixError;
use crate::plan::Plan;
use crate::store::StoreError;

/// A slice where no news can come in between. At the end of each, writes in flight are waited for and the homeserver has less to do.
const LONG_SLICE: Duration = Duration::from_mins(1);

/// How a pass ended.
#[derive(Debug, Default)]
pub struct PassResult {
    pub done: u64,
    pub failed: u64,
    pub held: u64,
    /// Steps that wait for a look at somebody's account.
    pub waiting: u64,
    /// It ended before everything was done, because somebody wanted something else first: the next pass goes on with it.
    pub unfinished: bool,
    /// The homeserver went away, or its answers got lost: read everything again before going on.
    pub interrupted: bool,
    /// The token is not accepted.
    pub fatal: Option<String>,
    /// What was left when the pass ended.
    pub plan: Option<Plan>,
}

impl PassResult {
    pub(super) fn has_begun(&self) -> bool {
        self.done + self.failed > 0
    }
}

/// Why a pass could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("source: {0}")]
    Source(#[from] SourceError),
    #[error("homeserver: {0}")]
    Homeserver(#[from] MatrixError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Folds in what the feed brought between two slices.
#[async_trait::async_trait]
pub trait Folding: Send {
    /// Takes in what has arrived, without waiting.
    async fn fold(&mut self, reconciler: &mut Reconciler) -> Result<(), PassError>;

    /// Whether the pass is to end here, so that something else comes first. The next one goes on.
    async fn calls_away(&mut self, _reconciler: &mut Reconciler) -> bool {
        false
    }

    /// How long additions may go on before it is asked again.
    fn slice(&self) -> Duration {
        execute::SLICE
    }
}

/// Nothing arrives: one-shot verbs.
pub struct NoFeed;

#[async_trait::async_trait]
impl Folding for NoFeed {
    async fn fold(&mut self, _reconciler: &mut Reconciler) -> Result<(), PassError> {
        Ok(())
    }

    fn slice(&self) -> Duration {
        LONG_SLICE
    }
}
