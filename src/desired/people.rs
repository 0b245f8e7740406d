//! Where every person stands: active, suspended, disabled or gone (S-4, S-24).
//!
//! People are numbered in the order of their accounts, so that rules are lists of numbers and no text is looked up per membership.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::Leaving;
use super::units::Units;
use crate::config::Config;
use crate::directory::{Directory, User};
use crate::ids::{Localpart, StableId, Timestamp, UserId, side_by_side};
use crate::ledger::{Leaver, Ledger, Stage};
use crate::plan::{Note, Reason};

/// What the directory and the ledger say of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the directory and enabled.
    Active,
    /// Undecided: no step in any room touches them (S-24). The text says why.
    Suspended(&'static str),
    /// Marked as disabled, and deprovisioning is off: not entitled to anything.
    Disabled,
    /// Confirmed gone, and deprovisioning is off.
    Gone { since: Timestamp },
}

/// Everybody the directory, the ledger or an exception knows.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// In the order of the accounts: a person's number is their place here. No standing: only an exception names them.
    accounts: Vec<(UserId, Option<Standing>)>,
    /// The person behind each user of the directory, in the directory's order.
    bound: Vec<(StableId, Option<u32>)>,
    leaving: Vec<Leaving>,
    /// Accounts of people who left, that somebody new in the directory claims (S-5).
    claimed: Vec<(UserId, StableId)>,
    /// Localparts somebody new claims while they are bound to somebody present who has another name by now: owner and newcomer.
    contested: Vec<(Localpart, [StableId; 2])>,
}

impl People {
    /// Sorts everybody into their standing.
    pub(super) fn stand(config: &Config, directory: &Directory, ledger: &Ledger, units: &Units) -> Self {
        let mut census = Census::of(config, directory, ledger);
        let mut newcomers = Vec::new();
        side_by_side(&ledger.people, &directory.users, |id, localpart, user| {
            let place = census.people.bound.len();
            census.people.bound.extend(user.map(|user| (user.id.clone(), None)));
            match (localpart, user) {
                (Some(localpart), None) => census.absent(id, localpart),
                (Some(localpart), Some(user)) => {
                    let why = units.doubt(id);
                    census.present(user, localpart, place, why);
                }
                (None, Some(user)) => newcomers.push((user.as_ref(), place)),
                (None, None) => {}
            }
        });
        census.newcomers(newcomers);
        census.close(config)
    }

    /// What is known of `user`; `None`: never seen in the directory.
    #[must_use]
    pub fn standing(&self, user: &UserId) -> Option<Standing> {
        self.number(user).and_then(|person| self.accounts[person as usize].1)
    }

    /// The number of an account.
    pub(super) fn number(&self, user: &UserId) -> Option<u32> {
        let at = self.accounts.binary_search_by(|(known, _)| known.cmp(user)).ok()?;
        u32::try_from(at).ok()
    }

    /// How many people there are; their numbers are below that.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The account of a person by their number, which only [`People`] gives out.
    ///
    /// # Panics
    /// When the number is of other people.
    #[must_use]
    pub fn user(&self, person: u32) -> &UserId {
        &self.accounts[person as usize].0
    }

    /// The person bound to a user of the directory, if they are active.
    pub(super) fn active_at(&self, place: u32) -> Option<u32> {
        self.bound.get(place as usize)?.1.filter(|person| self.is_active(*person))
    }

    /// The same by stable id.
    pub(super) fn active(&self, id: &StableId) -> Option<u32> {
        self.bound_to(id).filter(|person| self.is_active(*person))
    }

    /// The account bound to a stable id in the present directory, whatever the person's standing.
    #[must_use]
    pub fn account(&self, id: &StableId) -> Option<&UserId> {
        self.bound_to(id).map(|person| self.user(person))
    }

    fn bound_to(&self, id: &StableId) -> Option<u32> {
        let at = self.bound.binary_search_by(|(known, _)| known.cmp(id)).ok()?;
        self.bound[at].1
    }

    fn is_active(&self, person: u32) -> bool {
        self.accounts[person as usize].1 == Some(Standing::Active)
    }

    /// Every active person, by number.
    pub fn all_active(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.accounts).filter(|(_, (_, standing))| *standing == Some(Standing::Active)).map(|(at, _)| at)
    }

    /// Every suspended account, and why.
    pub fn suspended(&self) -> impl Iterator<Item = (&UserId, &'static str)> {
        self.accounts.iter().filter_map(|(account, standing)| match standing {
            Some(Standing::Suspended(why)) => Some((account, *why)),
            Some(Standing::Active | Standing::Disabled | Standing::Gone { .. }) | None => None,
        })
    }

    /// Whose accounts are to be locked: nobody's where deprovisioning is off.
    pub(super) fn leaving(&self) -> Vec<Leaving> {
        self.leaving.clone()
    }

    pub(super) fn notes(&self, directory: &Directory, ledger: &Ledger, server: &str) -> Vec<Note> {
        let mut notes: Vec<Note> = directory.notices.iter().cloned().map(Note::Source).collect();
        let named = |ids: &[StableId]| ids.iter().map(ToString::to_string).collect();
        for (localpart, ids) in
            self.contested.iter().filter(|(localpart, _)| !directory.conflicts.contains_key(localpart))
        {
            notes.push(Note::LocalpartConflict { localpart: localpart.to_string(), ids: named(ids) });
        }
        for (localpart, ids) in &directory.conflicts {
            notes.push(Note::LocalpartConflict { localpart: localpart.to_string(), ids: named(ids) });
        }
        side_by_side(&ledger.people, &directory.users, |id, bound, user| {
            let (Some(bound), Some(user)) = (bound, user) else { return };
            let now = directory.renamed.get(id).unwrap_or(&user.localpart);
            if bound != now {
                notes.push(Note::LocalpartChanged {
                    id: id.to_string(),
                    bound: UserId::new(bound.as_str(), server),
                    now: UserId::new(now.as_str(), server),
                });
            }
        });
        // Whoever is about to be locked is not told of elsewhere.
        let told = |leaver: &Leaver| !leaver.is_locking() && leaver.stage != Stage::Open;
        let told = |user: &UserId| ledger.leavers.get(user).is_some_and(told);
        let suspended = self.suspended().filter(|(user, _)| !told(user));
        notes.extend(suspended.map(|(user, why)| Note::Suspended { user: user.clone(), why }));
        let claimed = self.claimed.iter();
        notes.extend(claimed.map(|(user, id)| Note::AccountHeld { user: user.clone(), id: id.to_string() }));
        notes
    }
}

/// People while they are being sorted.
struct Census<'a> {
    directory: &'a Directory,
    ledger: &'a Ledger,
    server: &'a str,
    deprovisioning: bool,
    confirm_reads: u32,
    people: People,
    /// Accounts of people who are not in the directory, and those several claim.
    absent: BTreeMap<UserId, Standing>,
    /// Accounts of users of the directory, with their place in it.
    present: Vec<(UserId, Standing, usize)>,
    disabled: Vec<Leaving>,
}

impl<'a> Census<'a> {
    fn of(config: &'a Config, directory: &'a Directory, ledger: &'a Ledger) -> Self {
        let mut people = People::default();
        people.bound.reserve(directory.users.len());
        Self {
            directory,
            ledger,
            server: &config.homeserver.server_name,
            deprovisioning: config.locks_leavers(),
            confirm_reads: config.safety.confirm_reads,
            people,
            absent: BTreeMap::new(),
            present: Vec::with_capacity(directory.users.len()),
            disabled: Vec::new(),
        }
    }

    fn absent(&mut self, id: &StableId, localpart: &Localpart) {
        let account = UserId::new(localpart.as_str(), self.server);
        let standing = match self.ledger.is_confirmed(id, self.confirm_reads) {
            _ if self.directory.unnamed.contains(id) => {
                Standing::Suspended("in the directory, but without a usable name")
            }
            _ if !self.directory.is_complete() => Standing::Suspended("missing from an incomplete read"),
            None => Standing::Suspended("missing from the directory, not yet confirmed"),
            Some(since) if self.deprovisioning => {
                let reason = Reason::LeftDirectory { since };
                self.people.leaving.push(Leaving { user: account.clone(), reason, id: id.clone() });
                Standing::Suspended("gone from the directory, to be locked")
            }
            Some(since) => Standing::Gone { since },
        };
        self.absent.insert(account, standing);
    }

    /// Somebody in the directory under the account they are bound to; `doubt` suspends them.
    fn present(&mut self, user: &User, localpart: &Localpart, place: usize, doubt: Option<&'static str>) {
        let account = UserId::new(localpart.as_str(), self.server);
        let standing = match (user.enabled, self.deprovisioning) {
            (true, _) => doubt.map_or(Standing::Active, Standing::Suspended),
            (false, false) => Standing::Disabled,
            (false, true) => {
                let id = user.id.clone();
                self.disabled.push(Leaving { user: account.clone(), reason: Reason::Disabled, id });
                Standing::Suspended("disabled in the directory, to be locked")
            }
        };
        self.present.push((account, standing, place));
    }

    /// People of the directory who are bound to nothing yet, after everybody else: an account that has an owner is not theirs (S-5).
    fn newcomers(&mut self, newcomers: Vec<(&User, usize)>) {
        let owners = self.owners(&newcomers);
        for (user, place) in newcomers {
            let account = UserId::new(user.localpart.as_str(), self.server);
            if let Some(owner) = owners.get(&user.localpart) {
                self.people.contested.push((user.localpart.clone(), [(*owner).clone(), user.id.clone()]));
            } else if matches!(self.absent.get(&account), Some(Standing::Suspended(_))) {
                // The account of a person whose absence is not decided stays as it is until that is.
                if self.deprovisioning {
                    self.people.claimed.push((account, user.id.clone()));
                }
            } else if self.is_locked_for_another(&account, &user.id) {
                self.people.claimed.push((account.clone(), user.id.clone()));
                self.absent.entry(account).or_insert(Standing::Suspended("locked as that of somebody who left"));
            } else if self.directory.conflicts.contains_key(&user.localpart) {
                // Nothing is done to or because of them: if the account is in a room, it is not ours to judge either.
                self.absent.entry(account).or_insert(Standing::Suspended("several people claim this localpart"));
            } else {
                self.present(user, &user.localpart, place, None);
            }
        }
    }

    /// Whether usher has locked an account as that of another entry of the directory (S-5).
    fn is_locked_for_another(&self, account: &UserId, id: &StableId) -> bool {
        let another = |leaver: &Leaver| leaver.is_ours() && leaver.id.as_ref().is_some_and(|owner| owner != id);
        self.ledger.leavers.get(account).is_some_and(another)
    }

    /// Of the localparts newcomers have, those bound to somebody present.
    fn owners(&self, newcomers: &[(&User, usize)]) -> BTreeMap<&'a Localpart, &'a StableId> {
        if self.ledger.people.is_empty() {
            return BTreeMap::new();
        }
        let claimed: BTreeSet<&Localpart> = newcomers.iter().map(|(user, _)| &user.localpart).collect();
        let bound = self.ledger.people.iter().filter(|(_, localpart)| claimed.contains(localpart));
        bound.filter(|(id, _)| self.directory.users.contains_key(*id)).map(|(id, localpart)| (localpart, id)).collect()
    }

    /// Puts everybody in order. Whoever is in the directory decides over a former owner of the same account.
    fn close(self, config: &Config) -> People {
        let Self { mut people, absent, present, disabled, .. } = self;
        people.leaving.extend(disabled);
        let named = config.exceptions.iter().map(|exception| (exception.user.clone(), None, None));
        let absent = absent.into_iter().map(|(account, standing)| (account, Some(standing), None));
        let present = present.into_iter().map(|(account, standing, place)| (account, Some(standing), Some(place)));
        let mut all: Vec<(UserId, Option<Standing>, Option<usize>)> = named.chain(absent).chain(present).collect();
        all.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        people.accounts.reserve(all.len());
        for (account, standing, place) in all {
            match people.accounts.last_mut() {
                Some((last, known)) if *last == account => *known = standing.or(*known),
                _ => people.accounts.push((account, standing)),
            }
            if let Some(place) = place {
                people.bound[place].1 = u32::try_from(people.accounts.len() - 1).ok();
            }
        }
        people
    }
}
