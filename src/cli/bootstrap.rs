//! `usher bootstrap`: registers usher's two users and makes the sender server admin, with an existing admin's token.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{Exit, configured};
use crate::app::{self, Failure};
use crate::matrix::{Promotion, Rung};

/// Reads the token from `file`, once; it is kept nowhere.
pub(super) async fn run(files: &[PathBuf], file: &Path) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let homeserver = app::homeserver(&config).await?;
    let token = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot read {}: {error}", file.display())))?;
    let token = SecretString::from(token.trim().to_owned());
    homeserver.ensure_users().await?;
    homeserver.make_admin(&token, Promotion::of(&config)).await?;
    match homeserver.rung().await? {
        Rung::Admin => {
            println!("{} and {} exist and are server admins.", homeserver.sender(), homeserver.bot());
            Ok(Exit::Done)
        }
        Rung::Rooms | Rung::ReadOnly => Err(Failure::new(
            Exit::Error,
            "the homeserver took the change but still refuses the admin API: does it delegate accounts to Matrix \
             Authentication Service? Then set accounts.admin_token_file",
        )),
    }
}
