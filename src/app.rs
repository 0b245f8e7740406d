//! Puts the parts together: the only place that names concrete ones. Starting, running, ordered stopping.
//!
//! Holds no rules: what to do is `plan`, when is `reconcile::daemon`.

mod listeners;
mod scim;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::account::mas::{Mas, Roster};
use crate::account::synapse::Synapse;
use crate::account::{AccountBackend, Accounts, Shield};
use crate::actuate::{Actuator, LiveActuator};
use crate::bridge;
use crate::cli::Exit;
use crate::clock;
use crate::config::{AccountsBackend, Config, Source};
use crate::http::BindError;
use crate::http::appservice::Hints;
use crate::http::ops::Heartbeat;
use crate::mail::{MailError, Post};
use crate::matrix::{Homeserver, MatrixError, Trouble, registration};
use crate::observability::{Metrics, Mode, Status};
use crate::reconcile::{Parts, PassError, Reconciler, alive, daemon};
use crate::store::{Fact, LeaseError, Store, StoreError, WriterLease};
use listeners::Listeners;

/// How long everything together may take to stop (S-90's ten seconds, with a margin).
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
    /// It was the homeserver that could not be reached.
    homeserver_away: bool,
}

impl Failure {
    /// A failure with its code.
    #[must_use]
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), homeserver_away: false }
    }

    /// With the URL that was tried, where no homeserver answered. The configuration takes none with a password in it.
    #[must_use]
    pub fn located(mut self, config: &Config) -> Self {
        if std::mem::take(&mut self.homeserver_away) {
            let url = &config.homeserver.url;
            let admin = config.homeserver.admin_url.as_ref().filter(|admin| *admin != url);
            let admin = admin.map(|admin| format!(", homeserver.admin_url {admin}")).unwrap_or_default();
            self.text = format!("{} (homeserver.url {url}{admin})", self.text);
        }
        self
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
        Self {
            homeserver_away: error.trouble == Trouble::Away,
            ..Self::new(exit, format!("homeserver: {error}{hint}"))
        }
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

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(Exit::Error, error.to_string())
    }
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Self {
        match error {
            // A source that could not be read at all is 75, whatever the cause (S-110).
            PassError::Source(error) => Self::new(Exit::Unreachable, format!("source: {error}")),
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
    let homeserver = Homeserver::connect(config.into(), &registration).await?;
    let Some(puppets) = &config.appservice.puppet_registration else { return Ok(homeserver) };
    let puppets = registration::read(puppets)
        .map_err(|error| Failure::new(Exit::Config, format!("appservice.puppet_registration: {error}")))?;
    Ok(homeserver.with_puppets(&puppets)?)
}

/// The configured source.
///
/// # Errors
/// When it names files that cannot be read.
pub fn source(config: &Config) -> Result<Box<dyn bridge::Bridge>, Failure> {
    bridge::build(config).map_err(|error| Failure::new(Exit::Config, format!("source: {error}")))
}

/// What writes letters, if the configuration has one.
///
/// # Errors
/// Templates or settings that cannot be used.
pub fn post(config: &Config) -> Result<Option<Post>, Failure> {
    let Source::Scim(scim) = &config.source else { return Ok(None) };
    let Some(mailer) = &scim.mailer else { return Ok(None) };
    let wrong = |error: MailError| Failure::new(Exit::Config, error.to_string());
    Post::new(mailer, &config.homeserver.server_name).map(Some).map_err(wrong)
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
}

/// Builds the parts for looking (S-80), has `work` done with them, and leaves everything as it was.
///
/// # Errors
/// What is missing, or what `work` says; where no homeserver answered, with its URL.
pub async fn look<T>(config: &Config, work: impl AsyncFnOnce(&mut Built) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut built = build(config, Purpose::Look, &CancellationToken::new()).await?;
    let done = work(&mut built).await;
    built.reconciler.close().await;
    done.map_err(|failure| failure.located(config))
}

/// What of the parts is shown by the operations listener, which is there before them.
#[derive(Debug, Default)]
struct Shown {
    metrics: Arc<Metrics>,
    heartbeat: Heartbeat,
    /// The database, once it could be opened.
    store: watch::Sender<Option<Store>>,
}

/// Builds the parts for `purpose`.
///
/// # Errors
/// What is missing, with the exit code for it; [`Exit::Locked`] if another instance writes.
pub async fn build(config: &Config, purpose: Purpose, stop: &CancellationToken) -> Result<Built, Failure> {
    build_shown(config, purpose, &Shown::default(), stop).await
}

async fn build_shown(
    config: &Config,
    purpose: Purpose,
    shown: &Shown,
    stop: &CancellationToken,
) -> Result<Built, Failure> {
    let homeserver = homeserver(config).await?;
    let bridge = source(config)?;
    let (store, lease) = match purpose {
        Purpose::Look => {
            let store = Store::look(&config.database_url).await?;
            if let Some(store) = &store {
                owner(store, &config.instance).await?;
            }
            (store, None)
        }
        Purpose::Act => {
            let store = Store::open(&config.database_url).await?;
            shown.store.send_replace(Some(store.clone()));
            own(&store, &config.instance).await?;
            let lease = WriterLease::acquire(&store).await?;
            (Some(store), Some(lease))
        }
    };
    if purpose == Purpose::Look {
        shown.store.send_replace(store.clone());
    }
    let actuator: Option<Box<dyn Actuator>> = match purpose {
        Purpose::Look => None,
        Purpose::Act => {
            Some(Box::new(LiveActuator::new(homeserver.clone()).with_accounts(accounts(config, &homeserver)?)))
        }
    };
    let parts = Parts {
        config: config.clone(),
        bridge,
        homeserver: homeserver.clone(),
        roster: mas(config, &homeserver)?.map(Roster::new),
        actuator,
        store,
        lease,
        metrics: Arc::clone(&shown.metrics),
        heartbeat: shown.heartbeat.clone(),
    };
    let reconciler = Reconciler::new(parts, stop.clone()).await?;
    Ok(Built { reconciler, homeserver })
}

/// The hand that changes accounts: whoever keeps them, and whom it never touches (S-54, S-55).
fn accounts(config: &Config, homeserver: &Homeserver) -> Result<Accounts, Failure> {
    let provisioner = &config.provisioner;
    let shield = Shield {
        patterns: provisioner.allowed_users.iter().chain(&provisioner.protected_users).cloned().collect(),
        admins_are_open: !provisioner.protect_server_admins,
    };
    let backend: Box<dyn AccountBackend> = match mas(config, homeserver)? {
        Some(mas) => Box::new(mas),
        None => Box::new(Synapse::new(homeserver.clone())),
    };
    Ok(Accounts::new(backend, shield, homeserver.clone()))
}

/// Matrix Authentication Service, where it keeps the accounts.
fn mas(config: &Config, homeserver: &Homeserver) -> Result<Option<Mas>, Failure> {
    let (AccountsBackend::Mas, Some(mas)) = (config.accounts.backend, &config.accounts.mas) else { return Ok(None) };
    Ok(Some(Mas::new(mas, homeserver.clone(), config.accounts.admin_token.is_some())?))
}

/// A database belongs to one instance: two of them in one would judge each other's people.
async fn own(store: &Store, instance: &str) -> Result<(), Failure> {
    if !owner(store, instance).await? {
        store.set_fact(Fact::Instance, instance).await?;
    }
    Ok(())
}

/// Whether the database is known to be this instance's; another's is an error.
async fn owner(store: &Store, instance: &str) -> Result<bool, Failure> {
    match store.fact(Fact::Instance).await? {
        None => Ok(false),
        Some(known) if known == instance => Ok(true),
        Some(known) => Err(Failure::new(
            Exit::Config,
            format!(
                "instance: this database belongs to instance '{known}', not '{instance}': give each its own database"
            ),
        )),
    }
}

/// The end of everything: [`STOP_LIMIT`] after the stop, however many things are waited for until then (S-90).
struct Deadline(CancellationToken);

impl Deadline {
    fn after(stop: &CancellationToken) -> Self {
        let (stop, passed) = (stop.clone(), CancellationToken::new());
        let deadline = Self(passed.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            tokio::time::sleep(STOP_LIMIT).await;
            passed.cancel();
        });
        deadline
    }

    /// `None`: the deadline came first.
    async fn bound<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.0.cancelled() => None,
        }
    }
}

/// `usher run`: serves operations, follows everything, stops in order.
///
/// # Errors
/// What kept it from starting, or made it stop.
pub async fn run(config: &Config, purpose: Purpose, stop: CancellationToken) -> Result<(), Failure> {
    let parts = Shown::default();
    let deadline = Deadline::after(&stop);
    let mut built = None;
    // Where nobody stands by, the operator is told of the other instance, not of the port it has.
    if !is_shared(config) {
        match deadline.bound(Box::pin(build_shown(config, purpose, &parts, &stop))).await {
            Some(Ok(done)) => built = Some(done),
            Some(Err(failure)) if failure.exit == Exit::Unreachable => {}
            Some(Err(failure)) => return Err(failure),
            None => return Ok(()),
        }
    }
    let mode = if purpose == Purpose::Look { Mode::DryRun } else { Mode::Standby };
    let (status, seen) = watch::channel(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: config.instance.clone(),
        mode,
        started_at: clock::now(),
        ..Status::default()
    });
    let mut listeners = Listeners::default();
    listeners.open_operations(config, &parts, seen, &stop).await?;
    listeners.open_transactions(config, &stop).await?;
    listeners.open_scim(config, &parts, purpose, &stop).await?;
    let built = match built {
        Some(built) => Some(built),
        None => build_or_stand_by(config, purpose, &parts, (&stop, &deadline)).await?,
    };
    let ended = match built {
        Some(built) => {
            if mode != Mode::DryRun {
                listeners.greet(&built.homeserver, &stop);
                listeners.deliver(config, &parts, &stop)?;
                listeners.register(config, &built.homeserver, &parts, &stop)?;
                let lease = built.reconciler.remainder();
                listeners.tell_operators(config, &built.homeserver, (&parts, lease, &status), &stop);
            }
            follow(config, built, (status, listeners.hints.clone()), &deadline).await
        }
        None => Ok(()),
    };
    stop.cancel();
    deadline.bound(listeners.served.join_all()).await;
    let store = parts.store.borrow().clone();
    if let Some(store) = store {
        deadline.bound(store.close()).await;
    }
    ended
}

/// The loop, until stopped.
async fn follow(
    config: &Config,
    built: Built,
    (status, hints): (watch::Sender<Status>, Hints),
    deadline: &Deadline,
) -> Result<(), Failure> {
    let show = status.borrow().mode == Mode::DryRun;
    if !show {
        status.send_modify(|status| status.mode = Mode::Live);
    }
    let mode = status.borrow().mode;
    let (server, url) = (&config.homeserver.server_name, &config.homeserver.url);
    tracing::info!(instance = config.instance, server, url, ?mode, "usher runs");
    let mut daemon = tokio::spawn(daemon::run(built.reconciler, built.homeserver, (status, hints), show));
    match deadline.bound(&mut daemon).await {
        Some(Ok(daemon::Ended::Stopped)) => {
            tracing::info!("usher stopped");
            Ok(())
        }
        Some(Ok(daemon::Ended::LeaseLost)) => {
            Err(Failure::new(Exit::Locked, "another usher took the writer's lease; this one writes no more"))
        }
        Some(Ok(daemon::Ended::FeedLost)) => {
            Err(Failure::new(Exit::Error, "the task that follows the homeserver broke; this is a defect of usher"))
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
    shown: &Shown,
    (stop, deadline): (&CancellationToken, &Deadline),
) -> Result<Option<Built>, Failure> {
    let mut told = false;
    loop {
        let building = Box::pin(alive(&shown.heartbeat, build_shown(config, purpose, shown, stop)));
        let Some(built) = deadline.bound(building).await else { return Ok(None) };
        let pause = match built {
            Ok(built) => return Ok(Some(built)),
            Err(failure) if failure.exit == Exit::Locked && is_shared(config) => {
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
            () = alive(&shown.heartbeat, tokio::time::sleep(pause)) => {}
        }
    }
}

/// Whether several instances may wait for one database.
fn is_shared(config: &Config) -> bool {
    config.database_url.starts_with("postgres")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everything_that_is_waited_for_in_a_stop_shares_one_deadline_below_ten_seconds() {
        let stop = CancellationToken::new();
        let deadline = Deadline::after(&stop);
        let hour = Duration::from_hours(1);
        assert_eq!(deadline.bound(tokio::time::sleep(hour)).await, Some(()), "nothing is cut off before a stop");
        let stopped = tokio::time::Instant::now();
        stop.cancel();
        for _ in 0..3 {
            assert_eq!(deadline.bound(std::future::pending::<()>()).await, None);
        }
        assert_eq!(stopped.elapsed().as_secs(), STOP_LIMIT.as_secs());
        assert!(stopped.elapsed() < Duration::from_secs(10));
    }
}
