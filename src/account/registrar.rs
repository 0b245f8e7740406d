//! Makes the accounts that were ordered, one order after the other, until each is made, found to be there, or refused (S-63).
//!
//! An order is written down with the write that made the person, and a request before it is sent: kill -9 at any moment doubles nothing and
//! loses nothing. Never changes an account that was there before, and never decides who gets one.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Accounts, Link, Newcomer, Place};
use crate::clock;
use crate::config::{RegisterUsers, SingleSignOn};
use crate::ids::UserId;
use crate::matrix::{MatrixError, Trouble};
use crate::scim::schema::{Named, resolve};
use crate::scim::{Document, Kind, evaluate};
use crate::store::StoreError;
use crate::store::audit::{AuditRecord, SENT};
use crate::store::scim::{Ended, Ordered, Resources, display_name};

/// Orders read at a time.
const BATCH: u32 = 100;
/// Accounts made at the same time: making one costs the homeserver little, and waiting for its answer costs most of the time.
const AT_ONCE: usize = 4;
/// How often orders are looked for when nobody says that there is one: another instance may have taken it.
const LOOK: Duration = Duration::from_secs(2);
/// Pauses before another attempt: the first, which doubles, and the longest.
const PAUSES_MS: (i64, i64) = (2_000, 15 * 60_000);
/// Longest display name Synapse takes, in characters.
const LONGEST_NAME: usize = 256;

const NAMESAKE: &str = "the name is that of somebody who was deleted and whose account is kept: if it is the same person, move the \
                        account to them with usher rebind; else give them another name";

/// What `source.register_users` and `client.single_sign_on` say.
#[derive(Clone, Debug)]
pub struct Policy {
    pub mode: RegisterUsers,
    pub server_name: String,
    pub client: String,
    pub single_sign_on: Option<SingleSignOn>,
}

/// Makes what is ordered.
pub struct Registrar {
    resources: Resources,
    accounts: Accounts,
    policy: Policy,
}

impl Registrar {
    /// Makes accounts for the people in `resources`. Makes no request.
    #[must_use]
    pub fn new(resources: Resources, accounts: Accounts, policy: Policy) -> Self {
        Self { resources, accounts, policy }
    }

    /// Works until `stop`; `ordered` says that there is something.
    pub async fn run(&self, ordered: &Notify, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.round(stop).await {
                // There may be more.
                Ok(count) if count >= BATCH as usize => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!("accounts that were ordered cannot be looked up: {error}"),
            }
            tokio::select! {
                () = ordered.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Tries every order that is due; how many there were.
    ///
    /// # Errors
    /// When the database cannot be used; no order is lost by that.
    pub async fn round(&self, stop: &CancellationToken) -> Result<usize, StoreError> {
        let due = self.resources.registrations_due(clock::now(), BATCH).await?;
        for orders in due.chunks(AT_ONCE) {
            if stop.is_cancelled() {
                break;
            }
            let ended = join_all(orders.iter().map(|order| self.carry_out(order))).await;
            ended.into_iter().collect::<Result<(), StoreError>>()?;
        }
        Ok(due.len())
    }

    async fn carry_out(&self, order: &Ordered) -> Result<(), StoreError> {
        let newcomer = self.policy.newcomer(order);
        if let Some(cause) = self.policy.unready(&newcomer) {
            tracing::warn!(user = %newcomer.user, cause, "an account waits to be made");
            let later = clock::now().back_off(order.attempts, PAUSES_MS);
            return self.resources.registration_put_off(order, later, &cause).await;
        }
        match self.attempt(order, &newcomer).await? {
            Ok(ended) => self.end(order, &newcomer, &ended).await,
            Err(error) => {
                let cause = said(&error);
                tracing::warn!(user = %newcomer.user, cause, "an account could not be made; it is tried again");
                self.resources
                    .registration_put_off(order, clock::now().back_off(order.attempts, PAUSES_MS), &cause)
                    .await
            }
        }
    }

    /// One attempt at an order: how it ended, or why it has not.
    async fn attempt(&self, order: &Ordered, newcomer: &Newcomer) -> Result<Result<Ended, MatrixError>, StoreError> {
        if order.namesake {
            return Ok(Ok(Ended::Refused(NAMESAKE.to_owned())));
        }
        let place = match self.accounts.place_of(newcomer).await {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        match place {
            Place::Refused(why) => return Ok(Ok(Ended::Refused(why))),
            Place::Closed => {
                return Ok(Ok(Ended::Refused("an account of that name was closed for good".to_owned())));
            }
            Place::Locked if !order.begun => {
                return Ok(Ok(Ended::Refused("there is an account of that name, and it is locked".to_owned())));
            }
            Place::Taken if !order.begun => {
                return Ok(Ok(match self.policy.mode {
                    RegisterUsers::IfMissing => Ended::Found,
                    RegisterUsers::Yes | RegisterUsers::No => {
                        Ended::Refused("there was an account of that name already".to_owned())
                    }
                }));
            }
            // What was begun is ours to complete.
            Place::Free | Place::Taken | Place::Locked => {}
        }
        self.resources.registration_begins(order, &self.policy.record(order, newcomer, SENT)).await?;
        Ok(self.accounts.register(newcomer).await.map(|()| Ended::Made))
    }

    async fn end(&self, order: &Ordered, newcomer: &Newcomer, ended: &Ended) -> Result<(), StoreError> {
        let user = &newcomer.user;
        let result = match ended {
            Ended::Made => {
                tracing::info!(%user, "account made");
                Some("done".to_owned())
            }
            Ended::Found => {
                tracing::debug!(%user, "there is an account already; it is left as it is");
                None
            }
            Ended::Refused(cause) => {
                tracing::warn!(%user, cause, "no account is made");
                order.begun.then(|| format!("refused: {cause}"))
            }
        };
        let record = result.map(|result| self.policy.record(order, newcomer, &result));
        self.resources.registration_ended(order, ended, record.as_ref(), clock::now()).await
    }
}

impl Policy {
    fn newcomer(&self, order: &Ordered) -> Newcomer {
        let document = &order.person.document;
        let name = display_name(document).map(|name| name.trim().chars().take(LONGEST_NAME).collect());
        let link = self.single_sign_on.as_ref().and_then(|known| {
            let subject = subject(document, &known.attribute)?;
            Some(Link { provider: known.provider.clone(), subject })
        });
        Newcomer { user: UserId::new(order.localpart.as_str(), &self.server_name), display_name: name, link }
    }

    /// Why an account cannot be made yet: without a link the person's first single sign-on would not find it.
    fn unready(&self, newcomer: &Newcomer) -> Option<String> {
        let known = self.single_sign_on.as_ref().filter(|_| newcomer.link.is_none())?;
        Some(format!(
            "the client sends no {}, by which single sign-on is to find the account (client.single_sign_on)",
            known.attribute
        ))
    }

    /// The audit's row of an account, the same for every attempt at it.
    fn record(&self, order: &Ordered, newcomer: &Newcomer, result: &str) -> AuditRecord {
        let after = match &newcomer.link {
            Some(link) => format!("found by {}", link.provider),
            None => "open".to_owned(),
        };
        AuditRecord {
            seq: 0,
            id: format!("register-{}-{}-{}", self.client, order.stable_id, order.queued_at.0),
            at: clock::now(),
            pass: order.queued_at,
            actor: "usher".to_owned(),
            action: "register".to_owned(),
            place: String::new(),
            person: newcomer.user.to_string(),
            reason: format!("provisioned by SCIM client '{}'", self.client),
            before: "no account".to_owned(),
            after,
            result: result.to_owned(),
        }
    }
}

/// What single sign-on knows the person by.
fn subject(document: &Document, attribute: &str) -> Option<String> {
    let Named::Attribute(place) = resolve(Kind::User, attribute) else { return None };
    let values = evaluate::values(document, place);
    let text = values.first().and_then(|value| Value::as_str(value))?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What an operator can do about it, where that is known.
fn said(error: &MatrixError) -> String {
    match error.trouble {
        Trouble::Forbidden => {
            format!("{error}; accounts are made by a server admin: make usher's sender one (usher bootstrap)")
        }
        Trouble::Away
        | Trouble::RateLimited
        | Trouble::UnknownToken
        | Trouble::NotFound
        | Trouble::Rejected
        | Trouble::Malformed => error.to_string(),
    }
}
