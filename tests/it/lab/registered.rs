//! Registrations as `usher registration generate` writes them, for the server name of a fake homeserver.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must end")]

use std::path::Path;

use secrecy::ExposeSecret as _;
use usher::matrix::registration::{self, Outline, Registration, Tokens};

/// The main registration and the puppets', written into `folder` under the names the configuration has for them.
pub fn registered(folder: &Path, server: &str) -> (Registration, Registration) {
    let outline = Outline {
        instance: "main".to_owned(),
        server_name: server.to_owned(),
        bot: "usher".into(),
        url: None,
        aliases: [].into(),
        protected: Vec::new(),
    };
    let generated = registration::generate(&outline, &Tokens::draw().unwrap(), &Tokens::draw().unwrap(), &[].into());
    let read = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        registration::read(&file).unwrap()
    };
    let main = read("usher-registration.yaml", generated.main.expose_secret());
    (main, read("usher-puppet.yaml", generated.puppet.expose_secret()))
}
