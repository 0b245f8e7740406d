//! Who is told what about their account (S-64): a letter goes into the outbox with the write that changes it, or not at all.
//!
//! Never sends, and never reads an address from anywhere but the resource itself.

use std::sync::Arc;

use sqlx::{Any, Row as _, Transaction};
use tokio::sync::Notify;

use super::feed::{display_name, emails};
use super::{Resource, Resources};
use crate::ids::{Timestamp, UserId};
use crate::mail::{Letter, Occasion};
use crate::scim::Kind;
use crate::store::outbox;

/// That letters are wanted, and what they need.
#[derive(Clone, Debug)]
pub struct Letters {
    pub server_name: String,
    /// Told once a letter is in the outbox.
    pub queued: Arc<Notify>,
}

/// What a new user is told. `returned`: they were deleted before.
pub(super) fn on_creation(made: &Resource, returned: bool) -> Option<Occasion> {
    let occasion = if returned { Occasion::Activated } else { Occasion::Registered };
    (made.kind == Kind::User && made.active).then_some(occasion)
}

/// What somebody is told whose attributes changed.
pub(super) fn on_change(before: &Resource, after: &Resource) -> Option<Occasion> {
    match (before.kind, before.active, after.active) {
        (Kind::User, false, true) => Some(Occasion::Activated),
        (Kind::User, true, false) => Some(Occasion::Deactivated),
        (Kind::User, true, true) | (Kind::User, false, false) | (Kind::Group, ..) => None,
    }
}

/// What somebody is told who is deleted.
pub(super) fn on_deletion(before: &Resource) -> Option<Occasion> {
    (before.kind == Kind::User && before.active).then_some(Occasion::Deactivated)
}

impl Resources {
    /// Puts a letter into the outbox, if letters are wanted and the person has an address; whether it did.
    pub(super) async fn tell(
        &self,
        transaction: &mut Transaction<'static, Any>,
        person: &Resource,
        occasion: Option<Occasion>,
        now_ms: i64,
    ) -> Result<bool, sqlx::Error> {
        let (Some(letters), Some(occasion)) = (&self.letters, occasion) else { return Ok(false) };
        let Some(address) = emails(&person.document).into_iter().next() else { return Ok(false) };
        let row = sqlx::query(SELECT_LOCALPART).bind(person.pk).fetch_one(&mut **transaction).await?;
        let localpart: Option<String> = row.try_get(0)?;
        let letter = Letter {
            id: format!("{}/{}/{}/{}", self.client, person.id, person.version, occasion.name()),
            occasion,
            address,
            display_name: display_name(&person.document).unwrap_or_default(),
            user_id: UserId::new(&localpart.unwrap_or_default(), &letters.server_name).to_string(),
        };
        outbox::queue(transaction, &letter, Timestamp(now_ms)).await?;
        Ok(true)
    }
}

pub(super) const QUERIES: &[&str] = &[SELECT_LOCALPART];

const SELECT_LOCALPART: &str = "SELECT localpart FROM scim_resources WHERE pk = $1";
