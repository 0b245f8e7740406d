//! `usher rebind`: gives an account to another entry of the directory (S-1): after a change of the uid, or to somebody who was deleted and
//! made again. The order is a row that the loop weighs and takes in before its next pass. Never touches the account itself.

use std::path::PathBuf;

use super::Exit;
use crate::app::Failure;
use crate::clock;
use crate::ids::{Localpart, StableId};
use crate::ledger::{Ledger, Objection, Order};
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
    let (id, localpart) = (StableId::from(id), Localpart::from(localpart));
    if let Some(account) = ledger.locked_account_of(&id).filter(|account| **account != localpart) {
        let why = Objection::Locked { account: account.clone() };
        return Err(Failure::new(Exit::Error, why.to_string()));
    }
    let text = said(&ledger, id.as_str(), localpart.as_str());
    let order = Order::Rebind { id, localpart };
    super::grace::give(&config, &order, clock::now(), &super::operator()).await?;
    Ok(super::printed(&text))
}

/// What was ordered, and when and where it shows what became of it: only a read of the directory can tell.
fn said(ledger: &Ledger, id: &str, localpart: &str) -> String {
    let owner = ledger.people.iter().find(|(_, bound)| bound.as_str() == localpart).map(|(id, _)| id.to_string());
    let before = owner.unwrap_or_else(|| "nobody".to_owned());
    format!(
        "Ordered: {localpart} is to be {id}'s; it is {before}'s now.\nThat is refused unless {id} is in the directory, without another account \
         that usher has locked, and the account is there and neither protected nor somebody else's who is in the directory.\n{}",
        super::grace::WHEN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whose_the_account_is_and_where_to_see_what_became_of_the_order() {
        let ledger = Ledger { people: [("1".into(), "evan".into())].into(), ..Ledger::default() };
        let text = said(&ledger, "7f3c", "evan");
        assert!(text.contains("evan is to be 7f3c's; it is 1's now"), "{text}");
        assert!(text.contains("refused unless") && text.contains("usher audit tail"), "{text}");
        assert!(said(&ledger, "7f3c", "eva").contains("it is nobody's now"));
    }
}
