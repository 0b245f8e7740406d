//! `usher registration generate`: writes the registrations; works with the homeserver down (S-103).

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Exit, configured, printed};
use crate::app::{self, Failure};
use crate::config::Appservice;
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
        .map_err(|error| Failure::new(Exit::Error, format!("{error}{}", remedy(&config.appservice))))?;
    let appservice = &config.appservice;
    let written: Vec<_> = std::iter::once(&appservice.registration).chain(&appservice.puppet_registration).collect();
    let mut text = "Written, readable by their owner only:\n".to_owned();
    for path in &written {
        let _ = writeln!(text, "  {}", path.display());
    }
    text.push_str(
        "\nList them in Synapse's homeserver.yaml, readable by Synapse, and restart it:\n\napp_service_config_files:\n",
    );
    for path in &written {
        let path = std::path::absolute(path).unwrap_or_else(|_| (*path).clone());
        let _ = writeln!(text, "  - {}", path.display());
    }
    if let Some(url) = appservice.transactions_url() {
        let _ = write!(text, "\nSynapse brings transactions to {url}: it must reach usher there.\n");
    }
    text.push_str("\nThen: usher bootstrap --admin-token-file FILE\n");
    Ok(printed(&text))
}

/// What to do about a registration that cannot be written: the folder is not there, or is somebody else's.
fn remedy(appservice: &Appservice) -> String {
    let files = [
        ("registration", Some(&appservice.registration)),
        ("puppet_registration", appservice.puppet_registration.as_ref()),
    ];
    for (key, file) in files {
        let Some(folder) = file.and_then(|file| file.parent()) else { continue };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let shown = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let shown = shown.display();
        let Ok(about) = std::fs::metadata(folder) else {
            return format!("; make the directory {shown}, or name another place in appservice.{key}");
        };
        if !may_write(folder) {
            let (owner, we) = (
                account(about.uid()),
                std::fs::metadata("/proc/self").map_or_else(|_| "this user".to_owned(), |it| account(it.uid())),
            );
            return format!(
                "; {we} may not write into {shown}, which belongs to {owner}: run this as {owner}, or name another place in \
                 appservice.{key}"
            );
        }
    }
    String::new()
}

/// Whether a file can be made there. Leaves nothing behind.
fn may_write(folder: &Path) -> bool {
    let trial = folder.join(format!(".usher-{}", std::process::id()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&trial).is_ok();
    if made {
        let _ = std::fs::remove_file(&trial);
    }
    made
}

/// The name of an account, or its number where it has none.
fn account(uid: u32) -> String {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("user {uid}"))
}
