//! The rows by which people are found under their mail addresses. They only narrow what is looked at; whether somebody has an address,
//! and of which type, is decided by `scim::evaluate`.

use super::{LONGEST_LIST, padded};
use crate::scim::{Document, fold};
use crate::store::session::{Bound, Session};
use serde_json::Value;

/// What of an address is kept, in characters: `PostgreSQL` has a limit for what is in an index.
const LONGEST: usize = 256;

/// What an address is found under.
pub(super) fn key(address: &str) -> String {
    fold(address).chars().filter(|letter| *letter != '\0').take(LONGEST).collect()
}

/// Keeps the addresses that `document` has, where they are not those of `before`.
pub(super) async fn keep(
    session: &mut dyn Session,
    pk: i64,
    before: Option<&Document>,
    document: &Document,
) -> Result<(), sqlx::Error> {
    let known = before.and_then(|before| before.get(EMAILS));
    if known == document.get(EMAILS) {
        return Ok(());
    }
    if known.is_some() {
        forget(session, pk).await?;
    }
    let emails = document.get(EMAILS).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let keys: Vec<String> =
        emails.iter().filter_map(|email| email.get("value").and_then(Value::as_str)).map(key).collect();
    for keys in keys.chunks(LONGEST_LIST) {
        let padded = padded(keys);
        let bound: Vec<Bound<'_>> = std::iter::once(pk.into()).chain(padded.iter().map(|key| (*key).into())).collect();
        session.execute(&insertion(padded.len()), &bound).await?;
    }
    Ok(())
}

/// Forgets all addresses of a resource.
pub(super) async fn forget(session: &mut dyn Session, pk: i64) -> Result<(), sqlx::Error> {
    session.execute(DELETE_ADDRESSES, &[pk.into()]).await.map(|_| ())
}

fn insertion(count: usize) -> String {
    let rows: Vec<String> = (2..count + 2).map(|number| format!("(${number}, $1)")).collect();
    format!("INSERT INTO scim_addresses (address_ci, resource_pk) VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
}

pub(super) fn statements() -> Vec<String> {
    vec![DELETE_ADDRESSES.to_owned(), insertion(1), insertion(LONGEST_LIST)]
}

const EMAILS: &str = "emails";
const DELETE_ADDRESSES: &str = "DELETE FROM scim_addresses WHERE resource_pk = $1";
