//! `usher bootstrap`: registers usher's two users and makes the sender server admin, with an existing admin's token.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{Exit, configured, printed};
use crate::app::{self, Failure};
use crate::config::Config;
use crate::matrix::{Promotion, Rung, Trouble};

/// Reads the token from `file`, once; it is kept nowhere.
pub(super) async fn run(files: &[PathBuf], file: &Path) -> Result<Exit, Failure> {
    let config = configured(files)?;
    promote(&config, file).await.map_err(|failure| failure.located(&config))
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
    homeserver.make_admin(&token, promotion).await.map_err(|error| match error.trouble {
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
