//! Display names and mail addresses that differ from the directory's, and whose attributes are compared at all (S-50).
//!
//! Pure. Existing accounts of active people only; never a protected user's, never a locked or closed account's. Addresses are compared by
//! digest: no plan and no ledger holds one, except the step that writes it. Where the directory has none, those that usher gave are taken back,
//! which the guard holds where it happens to many (S-81): a right to read them that was lost looks just like it. An address that passes from one
//! person to another is taken off before it is given (`moves`).

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::of_account;
use super::members::is_protected;
use super::moves::{AWAITS_ADDRESS, Moves};
use super::{AccountDeed, Attribute, Class, Dealt, Emails, Lesson, Note, Planner, Reason, Withheld};
use crate::config::SyncMode;
use crate::desired::Profile;
use crate::ids::UserId;
use crate::ledger::Digest;
use crate::observed::{Account, Presence};

const NO_LIST: &str = "usher may not list accounts (usher bootstrap makes its sender a server admin)";

impl<'a> Planner<'a> {
    pub(super) fn attributes(&mut self) {
        let desired = self.desired;
        if desired.profiles.is_empty() {
            return;
        }
        if !self.observed.accounts.listed {
            return self.note(Note::AttributesUnknown { why: NO_LIST });
        }
        let shared = if desired.attributes.emails { self.shared_emails() } else { BTreeSet::new() };
        let moves = if desired.attributes.emails { self.moves(&shared) } else { Moves::default() };
        let (mut unread, mut unseen) = (0, 0);
        for profile in &desired.profiles {
            let Some(account) = self.writable(&profile.user) else { continue };
            unread += usize::from(desired.attributes.emails && !self.knows_addresses(&profile.user));
            unseen += usize::from(desired.attributes.avatars.is_some() && self.waits_for_photo(profile));
            if let Some(mode) = desired.attributes.names {
                self.name(profile, account, mode);
            }
            if desired.attributes.emails && !shared.contains(&profile.user) {
                self.emails(profile, &moves);
            }
            if let Some(mode) = desired.attributes.avatars {
                self.avatar(profile, account, mode);
            }
        }
        if unread > 0 {
            self.note(Note::AddressesUnread { count: unread });
        }
        if unseen > 0 {
            self.note(Note::PhotosUnseen { count: unseen });
        }
    }

    fn knows_addresses(&self, user: &UserId) -> bool {
        self.ledger.attributes.get(user).is_some_and(|known| known.emails.is_some())
    }

    /// Somebody's account, if attributes of it may be written.
    pub(super) fn writable(&self, user: &UserId) -> Option<&'a Account> {
        let Presence::Exists(account) = self.observed.accounts.presence(user) else { return None };
        let closed = account.locked || account.deactivated || is_protected(self.desired, self.observed, user);
        (!closed).then_some(account)
    }

    fn name(&mut self, profile: &Profile, account: &Account, mode: SyncMode) {
        let Some(wanted) = &profile.name else { return };
        let user = &profile.user;
        let known = self.ledger.attributes.get(user).and_then(|known| known.name.as_ref());
        let differs = account.display_name.as_deref().map(str::trim) != Some(&**wanted);
        let digest = match mode {
            SyncMode::Always => None,
            SyncMode::Initial | SyncMode::WhenDirectoryChanges => Some(self.ledger.digest_of_name(wanted)),
        };
        let write = match mode {
            SyncMode::Always => true,
            SyncMode::Initial => known.is_none(),
            // What stands when it is first seen is the person's own choice.
            SyncMode::WhenDirectoryChanges => known.is_some() && known != digest.as_ref(),
        };
        if differs && write {
            let name = Attribute::DisplayName(wanted.clone());
            self.attribute(user, name, Reason::AttributeDiffers, None);
        } else if let Some(digest) = digest
            && known != Some(&digest)
            && (mode == SyncMode::WhenDirectoryChanges || known.is_none())
        {
            self.plan.lessons.push(Lesson::Named { user: user.clone(), what: Dealt::Name(digest) });
        }
    }

    /// Somebody whose addresses were never read has nothing planned: they are read first, some at each pass.
    fn emails(&mut self, profile: &Profile, moves: &Moves<'_>) {
        let user = &profile.user;
        let Some(known) = self.ledger.attributes.get(user).filter(|known| known.emails.is_some()) else { return };
        if profile.emails.0.is_empty() {
            return self.take_back(user);
        }
        let Some(digest) = moves.differing(user) else { return };
        let refusal = |digest: &Digest| {
            let until = known.refused_until(digest, self.now)?;
            Some(Withheld::Refused { code: known.objection.to_string(), until })
        };
        let mut withheld = refusal(digest);
        let (mut emails, mut digest) = (profile.emails.clone(), digest.clone());
        let free = moves.free(self.ledger, profile);
        if withheld.is_none() && free.len() < emails.0.len() {
            if moves.is_in_a_ring(user) {
                // Those who change addresses with each other give up theirs first, or each would wait for the other one.
                digest = self.ledger.digest_of_emails(&free);
                emails = Emails(free);
                withheld = refusal(&digest);
            } else {
                withheld = Some(Withheld::Waits(AWAITS_ADDRESS));
            }
        }
        let emails = Attribute::Emails { emails, digest };
        self.attribute(user, emails, Reason::AttributeDiffers, withheld);
    }

    /// What the person has beside what usher gave is their own.
    fn take_back(&mut self, user: &UserId) {
        let Some(given) = self.ledger.given(user) else { return };
        let deed = AccountDeed::Set(Attribute::NoEmails(given));
        let removal = Some(Box::new(of_account(Class::Addresses, user)));
        self.account_step(user, deed, Reason::AttributeGone, (None, removal));
    }

    pub(super) fn attribute(
        &mut self,
        user: &UserId,
        attribute: Attribute,
        reason: Reason,
        withheld: Option<Withheld>,
    ) {
        self.account_step(user, AccountDeed::Set(attribute), reason, (withheld, None));
    }

    /// People who share an address with somebody: nobody can tell whose it is.
    fn shared_emails(&mut self) -> BTreeSet<UserId> {
        let desired = self.desired;
        let mut owners: BTreeMap<&str, Vec<&UserId>> = BTreeMap::new();
        for profile in &desired.profiles {
            for email in &profile.emails.0 {
                owners.entry(email).or_default().push(&profile.user);
            }
        }
        let mut shared = BTreeSet::new();
        for users in owners.into_values().filter(|users| users.len() > 1) {
            self.note(Note::EmailShared { users: users.iter().map(|user| (*user).clone()).collect() });
            shared.extend(users.into_iter().cloned());
        }
        shared
    }
}
