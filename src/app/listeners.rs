//! What usher serves and does beside its loop: the listeners, letters, accounts that are ordered, words to operators.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Failure, Purpose, Shown, post, scim};
use crate::cli::Exit;
use crate::config::{Config, Source};
use crate::http::appservice::{self, Appservice, Hints};
use crate::http::ops::{self, Operations};
use crate::ids::UserId;
use crate::mail::delivery;
use crate::matrix::{Homeserver, registration};
use crate::observability::Status;
use crate::operators::Office;
use crate::store::Remainder;

/// What usher serves while it runs, each part until the stop.
#[derive(Default)]
pub(super) struct Listeners {
    pub served: JoinSet<()>,
    pub hints: Hints,
    takes_transactions: bool,
    /// Says that a letter or an account was ordered.
    orders: scim::Orders,
}

impl Listeners {
    pub async fn open_operations(
        &mut self,
        config: &Config,
        parts: &Shown,
        status: watch::Receiver<Status>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let listener = ops::bind(&config.ops.listen).await?;
        let operations = Operations {
            heartbeat: parts.heartbeat.clone(),
            metrics: Arc::clone(&parts.metrics),
            status,
            store: parts.store.subscribe(),
            token: config.ops.token.clone(),
        };
        let serving = ops::serve(listener, operations, stop.clone());
        self.served.spawn(async { broken("ops.listen", serving.await) });
        Ok(())
    }

    /// Takes transactions, where wanted. Also while standing by: whoever is asked must answer, or the homeserver's queue is blocked.
    pub async fn open_transactions(&mut self, config: &Config, stop: &CancellationToken) -> Result<(), Failure> {
        let Some(listen) = &config.appservice.listen else { return Ok(()) };
        let registration = registration::read(&config.appservice.registration)
            .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
        let listener = appservice::bind(listen).await?;
        let service = Appservice {
            token: registration.hs_token,
            bot: UserId::new(config.appservice.bot.as_str(), &config.homeserver.server_name),
            hints: self.hints.clone(),
        };
        let serving = appservice::serve(listener, service, stop.clone());
        self.served.spawn(async { broken("appservice.listen", serving.await) });
        self.takes_transactions = true;
        Ok(())
    }

    /// Takes what a SCIM client sends, where that is the source. Also while standing by; not in a dry run, which writes nothing.
    pub async fn open_scim(
        &mut self,
        config: &Config,
        parts: &Shown,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Source::Scim(source) = &config.source else { return Ok(()) };
        if purpose == Purpose::Look {
            tracing::warn!("a dry run takes nothing from SCIM clients: they are not served");
            return Ok(());
        }
        let (listener, server) = scim::open(config, source, parts.store.subscribe(), &self.orders).await?;
        let stop = stop.clone();
        self.served
            .spawn(async move { broken("source.listen", crate::http::scim::serve(listener, &server, stop).await) });
        Ok(())
    }

    /// Finds out whether transactions arrive.
    pub fn greet(&mut self, homeserver: &Homeserver, stop: &CancellationToken) {
        if self.takes_transactions {
            self.served.spawn(appservice::greet(homeserver.clone(), self.hints.returned(), stop.clone()));
        }
    }

    /// Sends what is in the outbox, where mail is configured. A silent mailer leaves it there (S-64).
    pub fn deliver(&mut self, config: &Config, parts: &Shown, stop: &CancellationToken) -> Result<(), Failure> {
        let Some(post) = post(config)? else { return Ok(()) };
        let Some(store) = parts.store.borrow().clone() else { return Ok(()) };
        if post.is_silent() {
            tracing::info!("the mailer is silent: no letter is written, and none that waits is sent");
            return Ok(());
        }
        let (queued, stop) = (Arc::clone(&self.orders.letters), stop.clone());
        self.served.spawn(async move { delivery::deliver(&store, &post, &queued, &stop).await });
        Ok(())
    }

    /// Makes the accounts that SCIM clients order.
    pub fn register(
        &mut self,
        config: &Config,
        homeserver: &Homeserver,
        parts: &Shown,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(store) = parts.store.borrow().clone() else { return Ok(()) };
        let Some(registrar) = scim::registrar(config, homeserver, store, &self.orders)? else { return Ok(()) };
        let (ordered, stop) = (Arc::clone(&self.orders.accounts), stop.clone());
        self.served.spawn(async move { registrar.run(&ordered, &stop).await });
        Ok(())
    }

    /// Tells operators of what waits for them, and takes their approvals, where any are named.
    pub fn tell_operators(
        &mut self,
        config: &Config,
        homeserver: &Homeserver,
        (parts, lease, status): (&Shown, Option<Remainder>, &watch::Sender<Status>),
        stop: &CancellationToken,
    ) {
        let (Some(store), Some(lease)) = (parts.store.borrow().clone(), lease) else { return };
        let office = Office::new(config, homeserver, (&store, lease), status.subscribe());
        let stop = stop.clone();
        self.served.spawn(async move { office.attend(&stop).await });
    }
}

fn broken(key: &str, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(key, %error, "a listener broke; restart usher");
    }
}
