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
use crate::store::{GivenOrder, StoreError};

impl Reconciler {
    /// Picks up what operators ordered meanwhile; `true` if there was something that changes what is known.
    ///
    /// # Errors
    /// When the database is away.
    pub(super) async fn take_orders(&mut self) -> Result<bool, StoreError> {
        let Some(store) = self.parts.store.clone().filter(|_| self.parts.actuator.is_some()) else { return Ok(false) };
        let mut news = false;
        for given in store.orders().await? {
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
            news |= self.take_order(&given, objection.as_ref());
            self.save().await?;
            self.audit(&[self.record_of(&given, objection.as_ref())]).await?;
            store.order_taken(given.seq).await?;
        }
        Ok(news)
    }

    fn take_order(&mut self, given: &GivenOrder, objection: Option<&Objection>) -> bool {
        let GivenOrder { order, by, .. } = given;
        if let Some(why) = objection {
            tracing::warn!(?order, by, %why, "an operator's order is refused");
            return false;
        }
        let obeyed = self.ledger.obey(order, clock::now());
        tracing::info!(?order, by, obeyed, "an operator's order");
        if let Some(user) = order.user() {
            self.troubles.retain(|_, trouble| !trouble.what.contains(user.as_str()));
        }
        obeyed
    }

    fn record_of(&self, given: &GivenOrder, objection: Option<&Objection>) -> AuditRecord {
        let GivenOrder { order, at, by, .. } = given;
        let user = order.on_whom(&self.parts.config.homeserver.server_name);
        let result = objection.map_or_else(|| "obeyed".to_owned(), |why| format!("refused: {why}"));
        AuditRecord::of_order((order, &user), (*at, by), &self.ledger.key, &result)
    }

    /// Reads the source again where the latest read is older than the order: somebody who was made a moment ago may be meant. Whether what
    /// is known now is younger.
    async fn read_since(&mut self, given: &GivenOrder) -> Result<bool, StoreError> {
        if self.read_at.is_some_and(|read| read >= given.at) {
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
