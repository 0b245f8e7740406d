//! SCIM as the source of the whole program: public compliance tools, and a transcript of Entra ID against a real Synapse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::child::Running;
use super::world::{NAMES, World, until};
use crate::lab::ports::free_port;
use crate::lab::proxy::client;
use crate::lab::smtp::{Encryption, SmtpSink};
use crate::stores::Database;

const TOKEN: &str = "canary-token-of-the-identity-provider";
pub const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";

/// What an identity provider does.
pub struct Provider {
    pub base: String,
    http: reqwest::Client,
}

impl Provider {
    fn at(port: u16) -> Self {
        Self { base: format!("http://127.0.0.1:{port}/scim/v2"), http: client() }
    }

    /// Status and body; status 0 without an answer.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base)).bearer_auth(TOKEN);
        let request = if body.is_null() { request } else { request.json(&body) };
        match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    }

    pub async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub async fn patch(&self, path: &str, operation: Value) {
        self.must("PATCH", path, json!({ "Operations": [operation] })).await;
    }
}

/// A SCIM server without a homeserver.
pub struct Lonely {
    pub folder: TempDir,
    port: u16,
    config: Value,
}

impl Lonely {
    pub async fn new(database: &str) -> Self {
        let port = free_port();
        let config = json!({
            "homeserver": { "url": format!("http://127.0.0.1:{}", free_port()), "server_name": "lab.test" },
            "appservice": { "registration": "registration.yaml" },
            "database": { "url": database },
            "ops": { "listen": format!("127.0.0.1:{}", free_port()) },
            "source": {
                "type": "scim", "listen": "127.0.0.1", "port": port, "base_url": "/scim/v2",
                "client": { "id": "acme", "rbac": [{ "token": TOKEN, "name": "idp", "roles": ["*:*"] }] },
            },
        });
        let mut lonely = Self { folder: tempfile::tempdir().unwrap(), port, config };
        lonely.mailing(Value::Null);
        lonely.start("registration", &["registration", "generate"]).wait().await.code(0);
        lonely
    }

    /// Writes the configuration with this `mailer`, for whatever is started next.
    pub fn mailing(&mut self, mailer: Value) {
        self.config["source"]["mailer"] = mailer;
        let mut config = self.config.clone();
        config["source"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        std::fs::write(self.folder.path().join("usher.yaml"), config.to_string()).unwrap();
    }

    pub fn start(&self, name: &str, args: &[&str]) -> Running {
        Running::start(self.folder.path(), name, args, vec![TOKEN.to_owned()])
    }

    pub async fn serve(&self, name: &str) -> (Running, Provider) {
        let running = self.start(name, &["run"]);
        let provider = Provider::at(self.port);
        until("SCIM is served", async || provider.call("GET", "/Users?count=1", Value::Null).await.0 == 200).await;
        (running, provider)
    }
}

/// A tool of the environment that `tests/install` makes.
fn tool(name: &str) -> PathBuf {
    let lab = std::env::var_os("USHER_LAB").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/usher-lab"),
        PathBuf::from,
    );
    let tool = lab.join("scim/bin").join(name);
    assert!(tool.exists(), "no {}: tests/run installs it", tool.display());
    tool
}

async fn output(tool: &Path, args: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(tool);
    // What a tool leaves behind goes with its folder.
    let folder = tempfile::tempdir().unwrap();
    command
        .current_dir(folder.path())
        .args(args)
        .env("SCIM_CLI_HEADERS", format!("Authorization: Bearer {TOKEN}"))
        .kill_on_drop(true);
    let minutes = if std::env::var_os("USHER_LONG").is_some() { 60 } else { 15 };
    let done = tokio::time::timeout(std::time::Duration::from_mins(minutes), command.output());
    let done = done.await.expect("the tool ends").expect("the tool starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.success(), text(&done.stdout) + text(&done.stderr).as_str())
}

async fn comply(database: &Database) {
    let lonely = Lonely::new(&database.url).await;
    let (running, provider) = lonely.serve("run").await;
    let (ok, said) = output(&tool("scim2"), &["-u", &provider.base, "test"]).await;
    let passed = said.lines().filter(|line| line.starts_with("SUCCESS")).count();
    let broken = said.lines().filter(|line| line.starts_with("ERROR")).count();
    assert!(ok && broken == 0 && passed >= 120, "{passed} passed, {broken} broken:\n{said}");
    let arguments = ["probe", &provider.base, "--token", TOKEN, "--i-accept-side-effects"];
    let (ok, said) = output(&tool("scim-sanity"), &arguments).await;
    assert!(ok && said.contains("28 passed") && !said.contains("failed"), "{said}");
    running.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_compliance_tools_find_nothing_on_sqlite() {
    comply(&Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_compliance_tools_find_nothing_on_postgres() {
    comply(&Database::postgres().await).await;
}

/// Sends what the shipped document says, and whatever comes near, and holds every answer to it: no failure, no status, header, media type
/// or body that it does not name. So many requests an address at most in each phase.
async fn keep_the_document(database: &Database, examples: usize) {
    let lonely = Lonely::new(&database.url).await;
    let (running, provider) = lonely.serve("run").await;
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (folder, document) = (lonely.folder.path(), project.join("docs/scim/openapi.yaml"));
    std::fs::copy(project.join("tests/it/scim/schemathesis.toml"), folder.join("schemathesis.toml")).unwrap();
    let names: Vec<String> = (0..400).map(|number| format!("\"name-{number}\"\n")).collect();
    std::fs::write(folder.join("names.txt"), names.concat()).unwrap();
    let (authorization, examples) = (format!("Authorization: Bearer {TOKEN}"), examples.to_string());
    let config = folder.join("schemathesis.toml");
    let arguments = [
        "--config-file",
        config.to_str().unwrap(),
        "--no-color",
        "run",
        document.to_str().unwrap(),
        "--url",
        &provider.base,
        "--header",
        &authorization,
        "--max-examples",
        &examples,
        "--seed",
        "7",
        "--continue-on-failure",
        "--request-timeout",
        "30",
    ];
    let (ok, said) = output(&tool("schemathesis"), &arguments).await;
    assert!(ok && said.contains("No issues found") && said.contains("Tested: 26"), "{said}");
    let log = running.said();
    let made = log.lines().filter(|line| line.contains("SCIM: created") && line.contains("kind=\"User\"")).count();
    assert!(made >= 1, "only {made} people were made: the document says too little of what is accepted\n{said}");
    running.stop().await.code(0);
}

/// Many more with `USHER_LONG=1`.
fn examples(few: usize) -> usize {
    if std::env::var_os("USHER_LONG").is_some() { 400 } else { few }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_breaks_the_shipped_document_on_sqlite() {
    keep_the_document(&Database::sqlite(), examples(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_breaks_the_shipped_document_on_postgres() {
    keep_the_document(&Database::postgres().await, examples(5)).await;
}

/// The company's world, its source a SCIM client.
pub fn provisioned(world: &mut World) -> Provider {
    let port = free_port();
    world.secrets.push(TOKEN.to_owned());
    world.config["source"] = json!({
        "type": "scim", "path": null, "listen": "127.0.0.1", "port": port, "base_url": "/scim/v2",
        "client": { "id": "acme", "rbac": [
            { "token": TOKEN, "name": "entra", "roles": ["*:*"] }, { "synapse_user": "admin", "roles": ["read:*"] }] },
    });
    world.write();
    Provider::at(port)
}

pub async fn is_locked(world: &World, name: &str) -> bool {
    world.session(name).await == "M_USER_LOCKED"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_of_entra_id_ends_in_the_right_spaces() {
    let mut world = World::new().await;
    let provider = provisioned(&mut world);
    let sink = SmtpSink::start(Encryption::None, None);
    world.config["source"]["mailer"] = json!({
        "from": "Chat <it@canary-mail.example>",
        "transport": { "host": "127.0.0.1", "port": sink.port, "secure": false, "ignoreTLS": true },
    });
    world.write();
    let mut daemon = world.start(&["run"]);
    until("SCIM is served", async || provider.call("GET", "/Users", Value::Null).await.0 == 200).await;
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for name in NAMES {
        let body = json!({
            "schemas": [USER], "externalId": format!("entra-{name}"), "userName": world.local(name), "active": true,
            "displayName": name, "emails": [{ "type": "work", "primary": true, "value": format!("{name}@canary-mail.example") }],
        });
        let made = provider.must("POST", "/Users", body).await;
        ids.insert(name.to_owned(), made["id"].as_str().unwrap().to_owned());
    }
    for (group, members) in world.groups.clone() {
        let body = json!({ "schemas": [GROUP], "externalId": format!("entra-{group}"), "displayName": group });
        let made = provider.must("POST", "/Groups", body).await;
        let path = format!("/Groups/{}", made["id"].as_str().unwrap());
        for name in members {
            let member = json!([{ "$ref": null, "value": ids[&name] }]);
            provider.patch(&path, json!({ "op": "Add", "path": "members", "value": member })).await;
        }
        ids.insert(group, path);
    }
    until("everybody is where they belong", async || world.is_right().await).await;
    assert_eq!(world.level("red", "ann").await, 0);

    provider.patch(&ids["red"], json!({ "op": "Replace", "path": "displayName", "value": "Crimson" })).await;
    let bob = json!([{ "$ref": null, "value": ids["bob"] }]);
    provider.patch(&ids["red"], json!({ "op": "Remove", "path": "members", "value": bob })).await;
    provider.patch(&ids["blue"], json!({ "op": "Add", "path": "members", "value": bob })).await;
    world.transfer("bob", "red", "blue");
    until("bob has moved, and the renamed group is followed", async || world.is_right().await).await;

    // An invitation is withdrawn with the lock (S-52); somebody who is there stays.
    world.join("jon", "blue").await;
    let jon = format!("/Users/{}", ids["jon"]);
    provider.patch(&jon, json!({ "op": "Replace", "path": "active", "value": "False" })).await;
    until("jon is locked", async || is_locked(&world, "jon").await).await;
    assert!(world.inside("blue").await.contains("jon"), "and stays where he is (S-63)");
    provider.patch(&jon, json!({ "op": "Replace", "path": "active", "value": "True" })).await;
    until("jon is back", async || !is_locked(&world, "jon").await).await;
    let ida = format!("/Users/{}", ids["ida"]);
    provider.must("DELETE", &ida, Value::Null).await;
    until("ida is locked", async || is_locked(&world, "ida").await).await;
    let expected = NAMES.len() + 3;
    until("everybody has been told", async || sink.letters().len() == expected).await;
    let told = |name: &str, what: &str| {
        let to = format!("{name}@canary-mail.example");
        let about =
            |letter: &Value| letter["to"][0] == to.as_str() && letter["content"].as_str().unwrap().contains(what);
        sink.letters().iter().filter(|letter| about(letter)).count()
    };
    assert_eq!((told("ann", "is ready"), told("jon", "is ready"), told("ida", "is ready")), (1, 1, 1));
    assert_eq!((told("jon", "was closed"), told("jon", "is active again"), told("ida", "was closed")), (1, 1, 1));
    daemon.must_run();

    let token = world.stage.admin_token().to_owned();
    let as_admin =
        reqwest::Client::new().get(format!("{}/Users", provider.base)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(as_admin.status(), 200, "a server admin may read");
    let write =
        reqwest::Client::new().delete(format!("{}{ida}", provider.base)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(write.status(), 403, "and no more");
    let person = world.tokens["ann"].clone();
    let as_person =
        reqwest::Client::new().get(format!("{}/Users", provider.base)).bearer_auth(&person).send().await.unwrap();
    assert_eq!(as_person.status(), 401, "nobody else may");
    daemon.stop().await.code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_spaces_there_is_one_named_after_the_client() {
    let mut world = World::new().await;
    let provider = provisioned(&mut world);
    world.config["spaces"] = Value::Null;
    world.config["provisioner"]["default_rooms"] = json!([]);
    world.write();
    let daemon = world.start(&["run"]);
    until("SCIM is served", async || provider.call("GET", "/Users", Value::Null).await.0 == 200).await;
    for name in ["ann", "bob"] {
        let body = json!({ "schemas": [USER], "userName": world.local(name) });
        provider.must("POST", "/Users", body).await;
    }
    let thing = "scim-client:acme";
    until("both are in", async || {
        world.resolve(&world.alias(thing)).await.is_some() && world.inside(thing).await.len() == 2
    })
    .await;
    let space = world.room(thing).await;
    assert_eq!(world.state(&space, "m.room.name", "").await["name"], "acme");
    daemon.stop().await.code(0);
}
