//! `usher bootstrap`: registers usher's two users and makes the sender server admin, with an existing admin's token. That is on record like
//! every write to an account.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{Exit, configured, printed};
use crate::app::{self, Failure};
use crate::clock;
use crate::config::Config;
use crate::ids::UserId;
use crate::matrix::{Homeserver, MatrixError, Promotion, Rung, Trouble};
use crate::store::audit::{AuditRecord, SENT};
use crate::store::{Store, StoreError};

/// Reads the token from `file`, once; it is kept nowhere.
pub(super) async fn run(files: &[PathBuf], file: &Path) -> Result<Exit, Failure> {
    let config = configured(files)?;
    promote(&config, file).await.map_err(|failure| failure.located(&config))
}

/// Makes them admins; each leaves a row in the audit, which is there before it is done.
async fn recorded(
    store: &Store,
    homeserver: &Homeserver,
    (token, promotion): (&SecretString, Promotion),
) -> Result<Result<(), MatrixError>, StoreError> {
    let began = clock::now();
    let row = |user: &&UserId| AuditRecord {
        id: format!("{}-bootstrap-{user}", began.0),
        at: began,
        pass: began,
        actor: super::operator(),
        action: "make server admin".to_owned(),
        person: user.to_string(),
        reason: "usher bootstrap".to_owned(),
        after: "server admin".to_owned(),
        result: SENT.to_owned(),
        ..AuditRecord::default()
    };
    let mut rows: Vec<AuditRecord> = homeserver.promoted(promotion).iter().map(row).collect();
    store.audit(&rows).await?;
    let made = homeserver.make_admin(token, promotion).await;
    for row in &mut rows {
        row.at = clock::now();
        row.result =
            made.as_ref().map_or_else(|error| format!("{:?}", error.trouble).to_lowercase(), |()| "done".into());
    }
    store.audit(&rows).await?;
    Ok(made)
}

async fn promote(config: &Config, file: &Path) -> Result<Exit, Failure> {
    let homeserver = app::homeserver(config).await?;
    let unusable = |cause: String| {
        let text = format!("{}: {cause}; it must hold the access token of a server admin", file.display());
        Failure::new(Exit::Error, text)
    };
    let token = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    if token.trim().is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    let token = SecretString::from(token.trim().to_owned());
    homeserver.ensure_users().await?;
    let promotion = Promotion::of(config);
    let made = match Store::open(&config.database_url).await {
        Ok(store) => {
            let made = recorded(&store, &homeserver, (&token, promotion)).await;
            store.close().await;
            made?
        }
        Err(error) => {
            tracing::warn!(%error, "this goes on no record: the database cannot be used");
            homeserver.make_admin(&token, promotion).await
        }
    };
    made.map_err(|error| match error.trouble {
        Trouble::UnknownToken | Trouble::Forbidden => Failure::new(
            Exit::Error,
            format!("homeserver: {error}; {} must hold the access token of a server admin", file.display()),
        ),
        Trouble::Away | Trouble::RateLimited | Trouble::NotFound | Trouble::Rejected | Trouble::Malformed => {
            error.into()
        }
    })?;
    match homeserver.rung().await? {
        Rung::Admin => {
            let (sender, bot) = (homeserver.sender(), homeserver.bot());
            Ok(printed(&match promotion {
                Promotion::Sender => format!("{sender} exists and is a server admin; {bot} exists.\n"),
                Promotion::SenderAndBot => format!("{sender} and {bot} exist and are server admins.\n"),
            }))
        }
        Rung::Rooms | Rung::ReadOnly => Err(Failure::new(
            Exit::Error,
            "the homeserver took the change but still refuses the admin API: does it delegate accounts to Matrix \
             Authentication Service? Then set accounts.admin_token_file",
        )),
    }
}
