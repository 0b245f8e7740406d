//! Puts the parts together: the only place that names concrete ones. Starting, running, ordered stopping.
//!
//! Holds no rules: what to do is `plan`, when is `reconcile::daemon`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::actuate::{Actuator, LiveActuator};
use crate::bridge;
use crate::cli::Exit;
use crate::clock;
use crate::config::Config;
use crate::http::ops::{self, Heartbeat, Operations};
use crate::matrix::{Homeserver, MatrixError, Trouble, registration};
use crate::observability::{Metrics, Mode, Status};
use crate::reconcile::{Parts, PassError, Reconciler, daemon};
use crate::store::{Fact, LeaseError, Store, StoreError, WriterLease};

/// How long everything may take to stop (S-90's ten seconds, with a margin).
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How often a stand-by asks for the writer's lease.
const STANDBY: Duration = Duration::from_secs(5);
/// How often an unreachable database is tried again at the start.
const DATABASE_PAUSE: Duration = Duration::from_secs(5);

/// Why something could not be done, with the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub text: String,
}

impl Failure {
    /// A failure with its code.
    #[must_use]
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

impl From<MatrixError> for Failure {
    fn from(error: MatrixError) -> Self {
        let exit = match error.trouble {
            Trouble::Away | Trouble::RateLimited => Exit::Unreachable,
            Trouble::UnknownToken | Trouble::Forbidden | Trouble::NotFound | Trouble::Rejected | Trouble::Malformed => {
                Exit::Error
            }
        };
        let hint = match error.trouble {
            Trouble::UnknownToken => {
                "; is the registration listed under app_service_config_files, and was Synapse restarted since?"
            }
            _ => "",
        };
        Self::new(exit, format!("homeserver: {error}{hint}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(if error.is_retryable() { Exit::Unreachable } else { Exit::Error }, error.to_string())
    }
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Held { .. } => Self::new(Exit::Locked, error.to_string()),
            LeaseError::File { .. } => Self::new(Exit::Error, error.to_string()),
            LeaseError::Store(error) => error.into(),
        }
    }
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Source(error) => {
                Self::new(if error.retry { Exit::Unreachable } else { Exit::Error }, format!("source: {error}"))
            }
            PassError::Homeserver(error) => error.into(),
            PassError::Store(error) => error.into(),
        }
    }
}

/// The homeserver of the configuration, spoken to with its registration. Makes no request.
///
/// # Errors
/// When the registration cannot be read or the URL is malformed.
pub async fn homeserver(config: &Config) -> Result<Homeserver, Failure> {
    let registration = registration::read(&config.appservice.registration)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    Ok(Homeserver::connect(config.into(), &registration).await?)
}

/// The configured source.
///
/// # Errors
/// When it names files that cannot be read.
pub fn source(config: &Config) -> Result<Box<dyn bridge::Bridge>, Failure> {
    bridge::build(config).map_err(|error| Failure::new(Exit::Config, format!("source: {error}")))
}

/// What a reconciler may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Read and plan; write nothing anywhere (S-80).
    Look,
    /// Write, as the only one (S-85).
    Act,
}

/// Everything built and nothing read yet.
pub struct Built {
    pub reconciler: Reconciler,
    pub homeserver: Homeserver,
    pub metrics: Arc<Metrics>,
    pub heartbeat: Heartbeat,
    pub store: Option<Store>,
}

/// Builds the parts for `purpose`.
///
/// # Errors
/// What is missing, with the exit code for it; [`Exit::Locked`] if another instance writes.
pub async fn build(config: &Config, purpose: Purpose, stop: &CancellationToken) -> Result<Built, Failure> {
    let homeserver = homeserver(config).await?;
    let bridge = source(config)?;
    let (store, lease) = match purpose {
        Purpose::Look => (existing_store(config).await?, None),
        Purpose::Act => {
            let store = Store::open(&config.database_url).await?;
            own(&store, &config.instance).await?;
            let lease = WriterLease::acquire(&store).await?;
            (Some(store), Some(lease))
        }
    };
    let (metrics, heartbeat) = (Arc::new(Metrics::new()), Heartbeat::default());
    let actuator: Option<Box<dyn Actuator>> = match purpose {
        Purpose::Look => None,
        Purpose::Act => Some(Box::new(LiveActuator::new(homeserver.clone()))),
    };
    let parts = Parts {
        config: config.clone(),
        bridge,
        homeserver: homeserver.clone(),
        actuator,
        store: store.clone(),
        lease,
        metrics: Arc::clone(&metrics),
        heartbeat: heartbeat.clone(),
    };
    let reconciler = Reconciler::new(parts, stop.clone()).await?;
    Ok(Built { reconciler, homeserver, metrics, heartbeat, store })
}

/// A database belongs to one instance: two of them in one would judge each other's people.
async fn own(store: &Store, instance: &str) -> Result<(), Failure> {
    match store.fact(Fact::Instance).await? {
        None => Ok(store.set_fact(Fact::Instance, instance).await?),
        Some(known) if known == instance => Ok(()),
        Some(known) => Err(Failure::new(
            Exit::Config,
            format!(
                "instance: this database belongs to instance '{known}', not '{instance}': give each its own database"
            ),
        )),
    }
}

/// The database if there is one: looking makes none.
async fn existing_store(config: &Config) -> Result<Option<Store>, Failure> {
    let url = &config.database_url;
    if let Some(rest) = url.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        if !Path::new(path).exists() {
            return Ok(None);
        }
    }
    Ok(Some(Store::open(url).await?))
}

/// `usher run`: serves operations, follows everything, stops in order.
///
/// # Errors
/// What kept it from starting, or made it stop.
pub async fn run(config: &Config, purpose: Purpose, stop: CancellationToken) -> Result<(), Failure> {
    let listener = ops::bind(&config.ops.listen).await.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    let Some(built) = build_or_stand_by(config, purpose, &stop).await? else { return Ok(()) };
    let mode = if purpose == Purpose::Look { Mode::DryRun } else { Mode::Live };
    let (status, shown) = watch::channel(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: config.instance.clone(),
        mode,
        started_at: clock::now(),
        ..Status::default()
    });
    let serving = built.store.clone().map(|store| {
        let operations = Operations {
            heartbeat: built.heartbeat.clone(),
            metrics: Arc::clone(&built.metrics),
            status: shown,
            store,
            token: config.ops.token.clone(),
        };
        tokio::spawn(ops::serve(listener, operations, stop.clone()))
    });
    tracing::info!(instance = config.instance, server = config.homeserver.server_name, ?mode, "usher runs");
    let show = purpose == Purpose::Look;
    let mut daemon = tokio::spawn(daemon::run(built.reconciler, built.homeserver, status, show));
    let ended = tokio::select! {
        ended = &mut daemon => Some(ended),
        () = stop.cancelled() => tokio::time::timeout(STOP_LIMIT, &mut daemon).await.ok(),
    };
    stop.cancel();
    if let Some(serving) = serving {
        let _ = tokio::time::timeout(STOP_LIMIT, serving).await;
    }
    match ended {
        Some(Ok(daemon::Ended::Stopped)) => {
            tracing::info!("usher stopped");
            Ok(())
        }
        Some(Ok(daemon::Ended::LeaseLost)) => {
            Err(Failure::new(Exit::Locked, "another usher took the writer's lease; this one writes no more"))
        }
        Some(Err(error)) => Err(Failure::new(Exit::Error, format!("the loop broke: {error}"))),
        None => {
            daemon.abort();
            Err(Failure::new(
                Exit::Error,
                "a request took too long to end; what it did is read again at the next start",
            ))
        }
    }
}

/// Waits for an unreachable database, and on `PostgreSQL` for another instance's lease; `None`: stopped meanwhile.
async fn build_or_stand_by(
    config: &Config,
    purpose: Purpose,
    stop: &CancellationToken,
) -> Result<Option<Built>, Failure> {
    let shared = config.database_url.starts_with("postgres");
    let mut told = false;
    loop {
        let pause = match build(config, purpose, stop).await {
            Ok(built) => return Ok(Some(built)),
            Err(failure) if failure.exit == Exit::Locked && shared => {
                if !told {
                    tracing::info!(cause = failure.text, "standing by");
                }
                STANDBY
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                tracing::warn!(cause = failure.text, "waiting for the database");
                DATABASE_PAUSE
            }
            Err(failure) => return Err(failure),
        };
        told = true;
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A token that SIGTERM, SIGINT and SIGHUP cancel.
#[must_use]
pub fn until_signalled() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let stop = stop.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    signals.recv().await;
                    stop.cancel();
                });
            }
            Err(error) => tracing::warn!(%error, "a signal cannot be listened for"),
        }
    }
    stop
}
