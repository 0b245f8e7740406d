//! Takes in what operators ordered about accounts: weighs each order, has the ledger obey it, and says in the audit and the log what became
//! of it (S-1, S-52, S-85).
//!
//! Decides nothing itself: what stands against an order is `ledger/orders`. An order to rebind waits for the first look at the homeserver,
//! and for a read of the source that is younger than the order.

use super::{PassError, Reconciler};
use crate::clock;
use crate::ids::{Localpart, StableId, UserId};
use crate::ledger::{Claim, Objection, Order};
use crate::observed::Presence;
use crate::plan::is_protected;
use crate::store::audit::AuditRecord;
use crate::store::{GivenOrder, Store, StoreError, diff};

impl Reconciler {
    /// Picks up what operators ordered meanwhile; `true` if there was something that changes what is known.
    ///
    /// # Errors
    /// When the database is away: the order waits, and nothing has come of it.
    pub(super) async fn take_orders(&mut self) -> Result<bool, StoreError> {
        let Some(store) = self.parts.store.clone().filter(|_| self.parts.actuator.is_some()) else { return Ok(false) };
        let waiting = store.orders().await?;
        let mut news = self.obey_unanswered(&waiting);
        for given in waiting {
            let objection = match &given.order {
                Order::Rebind { .. } if self.observed.is_none() => continue,
                Order::Rebind { .. } if !self.read_since(&given).await? => Some(Objection::Incomplete),
                Order::Rebind { id, localpart } => self.objection_to_rebind(id, localpart),
                Order::Restore { .. } | Order::Lock { .. } | Order::Extend { .. } | Order::EraseNow { .. } => {
                    let policy = self.parts.config.user_provisioner.deprovisioning.as_ref();
                    let after = policy.and_then(|policy| policy.erase_inactive_after_ms);
                    self.ledger.objection(&given.order, after)
                }
            };
            match self.take_order(&store, given, objection).await {
                Ok(obeyed) => news |= obeyed,
                // What was obeyed so far is acted on; the others wait for the database.
                Err(error) if news => {
                    tracing::warn!(%error, "orders wait");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(news)
    }

    /// Obeys or refuses one, and writes that down with what follows from it. Where that fails it is as if it had not been looked at.
    async fn take_order(
        &mut self,
        store: &Store,
        given: GivenOrder,
        objection: Option<Objection>,
    ) -> Result<bool, StoreError> {
        let now = clock::now();
        let before = self.ledger.clone();
        let obeyed = objection.is_none() && self.ledger.obey(&given.order, now);
        let record = self.record_of(&given, objection.as_ref());
        let written = store.take_order(given.seq, &diff(&self.saved, &self.ledger), &record).await;
        let GivenOrder { seq, order, by, .. } = given;
        if let Err(error) = written {
            self.ledger = before;
            if obeyed {
                self.unanswered.insert(seq, (order, now));
            }
            return Err(error);
        }
        self.saved = self.ledger.clone();
        if let Some(why) = objection {
            tracing::warn!(?order, by, %why, "an operator's order is refused");
        } else {
            tracing::info!(?order, by, obeyed, "an operator's order");
        }
        if let Some(user) = order.user().filter(|_| obeyed) {
            self.troubles.retain(|_, trouble| !trouble.what.contains(user.as_str()));
        }
        Ok(obeyed)
    }

    /// Whether it is not known of an order if it is in force.
    pub(super) fn has_unanswered_orders(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Orders that were written as obeyed although the answer to that was lost wait no more: they are obeyed here, too.
    fn obey_unanswered(&mut self, waiting: &[GivenOrder]) -> bool {
        let mut news = false;
        for (seq, (order, at)) in std::mem::take(&mut self.unanswered) {
            if !waiting.iter().any(|given| given.seq == seq) {
                news |= self.ledger.obey(&order, at);
            }
        }
        news
    }

    fn record_of(&self, given: &GivenOrder, objection: Option<&Objection>) -> AuditRecord {
        let GivenOrder { order, at, by, .. } = given;
        let user = order.on_whom(&self.parts.config.homeserver.server_name);
        let result = objection.map_or_else(|| "obeyed".to_owned(), |why| format!("refused: {}", why.on_record()));
        AuditRecord::of_order((order, &user), (*at, by), &self.ledger.key, &result)
    }

    /// Reads the source again where the latest read is older than the order: somebody who was made a moment ago may be meant. Whether what
    /// is known now is younger.
    async fn read_since(&mut self, given: &GivenOrder) -> Result<bool, StoreError> {
        if self.asked_at.is_some_and(|asked| asked >= given.at) {
            return Ok(true);
        }
        match self.read_source(true).await {
            Ok(()) => Ok(true),
            Err(PassError::Store(error)) => Err(error),
            Err(error @ (PassError::Source(_) | PassError::Homeserver(_))) => {
                tracing::warn!(%error, "the source could not be read for an order");
                Ok(false)
            }
        }
    }

    fn objection_to_rebind(&self, id: &StableId, localpart: &Localpart) -> Option<Objection> {
        let user = UserId::new(localpart.as_str(), &self.parts.config.homeserver.server_name);
        let desired = self.desire(clock::now());
        let observed = self.observed.as_ref();
        let account = observed.map_or(Presence::Unknown, |observed| observed.accounts.presence(&user));
        let protected = observed.is_some_and(|observed| is_protected(&desired, observed, &user));
        self.ledger.objection_to(&Claim { id, localpart, directory: self.directory.as_ref(), account, protected })
    }
}
