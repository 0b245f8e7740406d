//! `usher registration generate`: writes the registrations; works with the homeserver down (S-103).

use std::path::PathBuf;

use super::{Exit, configured};
use crate::app::{self, Failure};
use crate::matrix::registration::{Files, Outline, TokenPolicy, generate_files};

/// Writes the registration files; live server admins are left out of the puppet's users where they can be asked for.
pub(super) async fn generate(files: &[PathBuf], force: bool) -> Result<Exit, Failure> {
    let config = configured(files)?;
    let admins = match app::homeserver(&config).await {
        Ok(homeserver) => homeserver.admins().await.ok().flatten(),
        Err(_) => None,
    };
    let tokens = if force { TokenPolicy::Rotate } else { TokenPolicy::Keep };
    generate_files(&Outline::from(&config), Files::from(&config), &admins.unwrap_or_default(), tokens)
        .map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    let appservice = &config.appservice;
    let written: Vec<_> = std::iter::once(&appservice.registration).chain(&appservice.puppet_registration).collect();
    println!("Written, readable by their owner only:");
    for path in &written {
        println!("  {}", path.display());
    }
    println!(
        "\nList them in Synapse's homeserver.yaml, readable by Synapse, and restart it:\n\napp_service_config_files:"
    );
    for path in &written {
        println!("  - {}", std::path::absolute(path).unwrap_or_else(|_| (*path).clone()).display());
    }
    println!("\nThen: usher bootstrap --admin-token-file FILE");
    Ok(Exit::Done)
}
