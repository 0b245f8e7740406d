//! Mail addresses that pass from one person to another (S-50, S-54): whoever has one gives it up before the other one gets it, or the homeserver
//! would be asked for what is taken still, and not be asked again for a day.
//!
//! Pure. Knows addresses of accounts only as the digests of those that usher gave; whoever got theirs from elsewhere is seen by the hand that
//! writes. Never takes an address from somebody whom the directory still gives it, or whose account may not be written to.

use std::collections::{BTreeMap, BTreeSet};

use super::Planner;
use crate::desired::Profile;
use crate::ids::UserId;
use crate::ledger::{Digest, Ledger};

/// What an address waits for that another account is about to give up.
pub const AWAITS_ADDRESS: &str = "another account gives the address up first";

/// Whose addresses differ, and which of them are about to be given up.
#[derive(Debug, Default)]
pub(super) struct Moves<'p> {
    /// The digest of all that is wanted, by the person.
    differing: BTreeMap<&'p UserId, Digest>,
    /// Single addresses, and who has them and should not.
    leaving: BTreeMap<Digest, BTreeSet<&'p UserId>>,
    /// Who waits for an address of somebody who waits for one of theirs, perhaps by way of others.
    rings: BTreeSet<&'p UserId>,
}

impl Moves<'_> {
    /// The digest of the addresses somebody should have; `None`: they have them, or none of it is known.
    pub(super) fn differing(&self, user: &UserId) -> Option<&Digest> {
        self.differing.get(user)
    }

    /// Whether somebody and those they wait for would wait for each other for ever. Anybody else keeps what they have until what they wait
    /// for is there: whoever they wait for may get nothing new.
    pub(super) fn is_in_a_ring(&self, user: &UserId) -> bool {
        self.rings.contains(user)
    }

    /// Of what somebody should have, what nobody else has still to give up.
    pub(super) fn free(&self, ledger: &Ledger, profile: &Profile) -> Vec<String> {
        let wanted = profile.emails.0.iter();
        if self.leaving.is_empty() {
            return wanted.cloned().collect();
        }
        let awaited = |address: &str| {
            let holders = self.leaving.get(&ledger.digest_of_address(address));
            holders.is_some_and(|holders| holders.iter().any(|holder| **holder != profile.user))
        };
        wanted.filter(|address| !awaited(address)).cloned().collect()
    }
}

impl<'a> Planner<'a> {
    /// Looks through everybody's addresses. `shared`: people who share one with somebody, to whom nothing is done.
    pub(super) fn moves(&self, shared: &BTreeSet<UserId>) -> Moves<'a> {
        let (mut moves, mut askers) = (Moves::default(), Vec::new());
        for profile in &self.desired.profiles {
            let user = &profile.user;
            let Some(known) = self.ledger.attributes.get(user) else { continue };
            let Some(seen) = &known.emails else { continue };
            let wanted = &profile.emails.0;
            let digest = (!wanted.is_empty()).then(|| self.ledger.digest_of_emails(wanted));
            let differs = digest.as_ref().map_or(!known.given.is_empty(), |digest| digest != seen);
            if !differs || shared.contains(user) || self.writable(user).is_none() {
                continue;
            }
            let waits = digest.as_ref().is_some_and(|digest| known.refused_until(digest, self.now).is_some());
            if !known.given.is_empty() && !waits {
                let kept: BTreeSet<Digest> =
                    wanted.iter().map(|address| self.ledger.digest_of_address(address)).collect();
                for address in known.given.difference(&kept) {
                    moves.leaving.entry(address.clone()).or_default().insert(user);
                }
            }
            if digest.is_some() && !waits {
                askers.push(profile);
            }
            moves.differing.extend(digest.map(|digest| (user, digest)));
        }
        moves.rings = self.rings(&moves, &askers);
        moves
    }

    /// Of those who may be written to, who waits for whom in a ring.
    fn rings(&self, moves: &Moves<'a>, askers: &[&'a Profile]) -> BTreeSet<&'a UserId> {
        let mut waits: BTreeMap<&'a UserId, BTreeSet<&'a UserId>> = BTreeMap::new();
        if moves.leaving.is_empty() {
            return BTreeSet::new();
        }
        for profile in askers {
            let wanted = profile.emails.0.iter().map(|address| self.ledger.digest_of_address(address));
            let holders = wanted.filter_map(|address| moves.leaving.get(&address)).flatten().copied();
            waits.insert(&profile.user, holders.filter(|holder| **holder != profile.user).collect());
        }
        // Who waits for nobody, and for whom nobody waits, is in none; nor, without them, are the next ones.
        loop {
            let awaited: BTreeSet<&UserId> = waits.values().flatten().copied().collect();
            let waiting: BTreeSet<&UserId> = waits.keys().copied().collect();
            let before = waits.len();
            waits.retain(|user, holders| {
                holders.retain(|holder| waiting.contains(holder));
                awaited.contains(user) && !holders.is_empty()
            });
            if waits.len() == before {
                return waits.into_keys().collect();
            }
        }
    }
}
