//! A company on file, and an usher registered and configured for it: what tests that count and benchmarks begin with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its world should fail there and then"
)]

use std::path::Path;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use usher::matrix::registration::{self, Outline, Registration, Tokens};

const REGISTRATION: &str = "usher-registration.yaml";
const PEOPLE: &str = "people.yaml";

/// Writes a registration with fresh tokens into `folder`: as usher reads it, and as Synapse does.
pub fn register(folder: &Path, server_name: &str) -> (Registration, String) {
    let outline = Outline {
        instance: "main".to_owned(),
        server_name: server_name.to_owned(),
        bot: "usher".into(),
        url: None,
        aliases: [].into(),
        protected: Vec::new(),
    };
    let tokens = || Tokens::draw().unwrap();
    let yaml = registration::generate(&outline, &tokens(), &tokens(), &[].into()).main;
    let path = folder.join(REGISTRATION);
    registration::write(&path, &yaml).unwrap();
    (registration::read(&path).unwrap(), yaml.expose_secret().to_owned())
}

/// Writes the people and groups that [`config`] names.
pub fn write_people(folder: &Path, table: &Value) {
    std::fs::write(folder.join(PEOPLE), table.to_string()).unwrap();
}

/// A configuration for that company, each space with one room. The file `database` in `folder` is usher's own.
pub fn config(folder: &Path, (server_name, url): (&str, &str), database: &str, spaces: &[Value]) -> Value {
    json!({
        "homeserver": { "url": url, "server_name": server_name },
        "appservice": { "registration": folder.join(REGISTRATION) },
        "source": { "type": "file", "path": folder.join(PEOPLE) },
        "database": { "url": format!("sqlite://{}", folder.join(database).display()) },
        "provisioner": { "default_rooms": [{ "id": "general", "properties": { "name": "General" } }] },
        "spaces": spaces,
    })
}
