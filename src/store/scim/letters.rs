//! Who is told what about their account (S-64): a letter goes into the outbox with the write that changes it, or not at all.
//!
//! Never sends, and never reads an address from anywhere but the resource itself.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::Notify;

use super::feed::{display_name, emails};
use super::{Resource, Resources};
use crate::ids::{Timestamp, UserId};
use crate::mail::{Letter, Occasion};
use crate::scim::Kind;
use crate::store::outbox;
use crate::store::session::{Columns, Session};

/// That letters are wanted, and what they need.
#[derive(Clone, Debug)]
pub struct Letters {
    pub server_name: String,
    /// Told once a letter is in the outbox.
    pub queued: Arc<Notify>,
}

/// What happens to somebody's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Made, and usable from then on: that is written down already.
    First,
    Opened,
    Closed,
}

/// What happens when a resource is made; `first`: the account was never usable before, and is from now on.
pub(super) fn on_creation(made: &Resource, first: bool) -> Option<Turn> {
    let turn = if first { Turn::First } else { Turn::Opened };
    (made.kind == Kind::User && made.active).then_some(turn)
}

/// What happens when attributes change.
pub(super) fn on_change(before: &Resource, after: &Resource) -> Option<Turn> {
    match (before.kind, before.active, after.active) {
        (Kind::User, false, true) => Some(Turn::Opened),
        (Kind::User, true, false) => Some(Turn::Closed),
        (Kind::User, true, true) | (Kind::User, false, false) | (Kind::Group, ..) => None,
    }
}

/// What happens when a resource is deleted.
pub(super) fn on_deletion(before: &Resource) -> Option<Turn> {
    (before.kind == Kind::User && before.active).then_some(Turn::Closed)
}

impl Resources {
    /// Puts the letter about a turn into the outbox, if letters are wanted and the person has an address; whether it did. Remembers that
    /// the account was usable once, whoever is told.
    pub(super) async fn tell(
        &self,
        session: &mut dyn Session,
        person: &Resource,
        turn: Option<Turn>,
        now_ms: i64,
    ) -> Result<bool, sqlx::Error> {
        let Some(turn) = turn else { return Ok(false) };
        let first = match turn {
            Turn::First => true,
            Turn::Opened => {
                let bound = [person.pk.into(), self.registrations.is_some().into()];
                session.execute(FIRST_USE, &bound).await? > 0
            }
            Turn::Closed => false,
        };
        let Some(letters) = &self.letters else { return Ok(false) };
        let read =
            |row: &dyn Columns| Ok((row.text(0)?.map(Cow::into_owned), row.the_number(1)?, row.the_number(2)? > 0));
        let known = session.first(SELECT_PERSON, &[person.pk.into()], read).await?;
        let (localpart, used, is_namesake) = known.ok_or(sqlx::Error::RowNotFound)?;
        let occasion = match turn {
            // The account is somebody else's, who was deleted: nothing of it is this person's.
            _ if is_namesake => return Ok(false),
            Turn::First | Turn::Opened if first => Occasion::Registered,
            // Whoever's account is not made yet is told once it is, and of nothing before.
            _ if used == 0 => return Ok(false),
            Turn::First | Turn::Opened => Occasion::Activated,
            Turn::Closed => Occasion::Deactivated,
        };
        let Some(address) = emails(&person.document).into_iter().next() else { return Ok(false) };
        let letter = Letter {
            id: format!("{}/{}/{}/{}", self.client, person.id, person.version, occasion.name()),
            occasion,
            address,
            display_name: display_name(&person.document).unwrap_or_default(),
            user_id: UserId::new(&localpart.unwrap_or_default(), &letters.server_name).to_string(),
        };
        outbox::queue(session, &letter, Timestamp(now_ms)).await?;
        Ok(true)
    }
}

pub(super) const QUERIES: &[&str] = &[FIRST_USE, SELECT_PERSON];

/// `$2` = 1: an account that is ordered must be there first.
const FIRST_USE: &str = "UPDATE scim_resources SET used = 1 WHERE pk = $1 AND used = 0 AND ($2 = 0 OR NOT EXISTS (\
     SELECT 1 FROM scim_registrations r WHERE r.client = scim_resources.client \
     AND r.stable_id = scim_resources.stable_id AND r.state IN ('waiting', 'sent', 'refused')))";
const SELECT_PERSON: &str = "SELECT m.localpart, m.used, (SELECT COUNT(*) FROM scim_resources o WHERE o.client = m.client \
     AND o.localpart = m.localpart AND o.deleted_at IS NOT NULL AND o.stable_id <> m.stable_id) FROM scim_resources m WHERE m.pk = $1";
