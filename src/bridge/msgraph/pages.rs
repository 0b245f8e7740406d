//! A list of Graph, page by page, to its end. An empty page is not the end; the missing link is.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::trouble::Trouble;
use super::wire::{Ask, Wire};

/// Pages of one list: five million entries.
const MOST_PAGES: usize = 5_000;

/// A part of a list.
#[derive(Debug, Deserialize)]
pub struct Page<T> {
    pub value: Vec<T>,
    /// Opaque.
    #[serde(rename = "@odata.nextLink", default)]
    pub next: Option<String>,
}

/// Hands the entries of a list to `take`, page by page.
///
/// # Errors
/// What was before the trouble has been handed over.
pub async fn pages<T: DeserializeOwned>(
    wire: &Wire,
    first: Ask,
    deadline: Instant,
    take: &mut (impl FnMut(Vec<T>) + Send),
) -> Result<(), Trouble> {
    let page: Page<T> = wire.json(&first, deadline).await?;
    take(page.value);
    rest(wire, &first, page.next, deadline, take).await
}

/// The same from the link of a first page on.
///
/// # Errors
/// As [`pages`].
pub async fn rest<T: DeserializeOwned>(
    wire: &Wire,
    first: &Ask,
    mut next: Option<String>,
    deadline: Instant,
    take: &mut (impl FnMut(Vec<T>) + Send),
) -> Result<(), Trouble> {
    let mut seen = BTreeSet::from([first.url.to_string()]);
    while let Some(link) = next {
        let ask = wire.follow(first.purpose, &link)?;
        let endless = if seen.len() >= MOST_PAGES { Some("has too many pages") } else { None };
        let endless =
            if seen.insert(ask.url.to_string()) { endless } else { Some("leads back to a page that was read") };
        if let Some(how) = endless {
            return Err(Trouble::odd(&wire.attempt(first.purpose), format!("the list {how}")));
        }
        let page: Page<T> = wire.json(&ask, deadline).await?;
        take(page.value);
        next = page.next;
    }
    Ok(())
}
