//! `usher rebind`: gives an account to another entry of the directory (S-1): after a change of the uid, or to somebody who was deleted and
//! made again. The order is a row that the loop takes in before its next pass. Never touches the account itself.

use std::path::PathBuf;

use super::Exit;
use crate::app::Failure;
use crate::clock;
use crate::ids::{Localpart, StableId};
use crate::ledger::Order;
use crate::store::Store;

/// Binds the stable id to the localpart.
pub(super) async fn run(files: &[PathBuf], id: &str, localpart: &str) -> Result<Exit, Failure> {
    let config = super::configured(files)?;
    let Some(looked) = Store::look(&config.database_url).await? else {
        return Err(Failure::new(Exit::Error, "there is no database yet: nobody is bound to anything"));
    };
    let ledger = looked.load_ledger().await;
    looked.close().await;
    let ledger = ledger?;
    let localpart = localpart.trim_start_matches('@').split(':').next().unwrap_or_default();
    let owner = ledger.people.iter().find(|(_, bound)| bound.as_str() == localpart).map(|(id, _)| id.to_string());
    let order = Order::Rebind { id: StableId::from(id), localpart: Localpart::from(localpart) };
    super::grace::give(&config, &order, clock::now(), &super::operator()).await?;
    let before = owner.unwrap_or_else(|| "nobody".to_owned());
    Ok(super::printed(&format!("{localpart} is {id}'s from the next pass on; it was {before}'s.\n")))
}
