//! A real Synapse on an ephemeral loopback port, in a folder of its own, with `SQLite`. It ends with the value that holds it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use usher::ids::{RoomId, UserId};

use super::ports::free_port;

/// Its server name: part of every id, and nothing on the wire.
pub const SERVER_NAME: &str = "lab.test";
/// What every account's password is.
pub const PASSWORD: &str = "lab-password";
/// Starting takes about ten seconds on an idle machine: most of it Python's imports and the database's tables.
const START_POLLS: u32 = 1200;
const POLL: Duration = Duration::from_millis(100);

/// A running (or stopped) homeserver.
pub struct Synapse {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
    http: reqwest::Client,
}

impl Synapse {
    /// Starts one that knows these registrations (YAML texts).
    pub async fn start(registrations: &[&str]) -> Self {
        let mut synapse = Self::prepared(registrations);
        synapse.restart().await;
        synapse
    }

    /// Starts another one with the accounts and rooms of this one, which must have been stopped.
    #[allow(dead_code, reason = "for the benchmarks, which need many alike")]
    pub async fn twin(&self, registrations: &[&str]) -> Self {
        assert!(self.process.is_none(), "a running database is not copied");
        let mut twin = Self::prepared(registrations);
        fs::copy(self.folder.path().join("homeserver.db"), twin.folder.path().join("homeserver.db"))
            .expect("the database");
        twin.restart().await;
        twin
    }

    /// A folder with everything but a running process.
    fn prepared(registrations: &[&str]) -> Self {
        let synapse = Self {
            folder: tempfile::tempdir().expect("a folder for Synapse"),
            port: free_port(),
            process: None,
            http: reqwest::Client::new(),
        };
        synapse.write_files(registrations);
        synapse
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it (again) on the same port with the same database.
    pub async fn restart(&mut self) {
        self.kill9();
        let log = fs::File::create(self.folder.path().join("output.log")).expect("Synapse's output file");
        let child = Command::new(python())
            .args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"])
            .current_dir(self.folder.path())
            .env("SYNAPSE_CACHE_FACTOR", "1.0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("Synapse's output file"))
            .stderr(log)
            .spawn()
            .expect("Synapse's Python (is the lab installed?)");
        self.process = Some(child);
        for _ in 0..START_POLLS {
            let up = self.http.get(format!("{}/_matrix/client/versions", self.url())).send().await;
            if up.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.process.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "Synapse ended while starting:\n{}", self.output());
            tokio::time::sleep(POLL).await;
        }
        panic!("Synapse does not answer:\n{}", self.output());
    }

    /// Ends it at once, as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is installed");
            let _ = child.wait();
        }
    }

    /// A server admin's account.
    pub async fn register_admin(&self, localpart: &str) -> Person {
        let tool = python().with_file_name("register_new_matrix_user");
        let made = tokio::process::Command::new(tool)
            .args(["-u", localpart, "-p", PASSWORD, "-a", "-c", "homeserver.yaml", &self.url()])
            .current_dir(self.folder.path())
            .output()
            .await
            .expect("register_new_matrix_user");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.log_in(localpart).await
    }

    /// A new session of an existing account.
    pub async fn log_in(&self, localpart: &str) -> Person {
        let body = json!({
            "type": "m.login.password", "password": PASSWORD,
            "identifier": { "type": "m.id.user", "user": localpart },
        });
        Person::session(&self.url(), "/_matrix/client/v3/login", &body).await
    }

    fn output(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}\n{}", read("output.log"), read("homeserver.log"))
    }

    fn write_files(&self, registrations: &[&str]) {
        let folder = self.folder.path();
        let mut names = Vec::new();
        for (index, registration) in registrations.iter().enumerate() {
            let name = format!("registration-{index}.yaml");
            fs::write(folder.join(&name), registration).expect("a registration file");
            names.push(name);
        }
        // A signing key of our own spares a process: nothing is federated here.
        fs::write(folder.join("signing.key"), format!("ed25519 a_lab {}\n", "A".repeat(43))).expect("the signing key");
        fs::write(folder.join("log.yaml"), log_config(folder)).expect("the log configuration");
        let unlimited = json!({ "per_second": 10_000, "burst_count": 10_000 });
        let config = json!({
            "server_name": SERVER_NAME,
            "pid_file": folder.join("homeserver.pid"),
            "public_baseurl": self.url(),
            "listeners": [{ "port": self.port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": false,
                            "x_forwarded": false, "resources": [{ "names": ["client"], "compress": false }] }],
            "database": { "name": "sqlite3", "args": { "database": folder.join("homeserver.db") } },
            "log_config": folder.join("log.yaml"),
            "media_store_path": folder.join("media"),
            "signing_key_path": folder.join("signing.key"),
            "app_service_config_files": names,
            "registration_shared_secret": "lab-secret",
            "macaroon_secret_key": "lab-macaroon",
            "form_secret": "lab-form",
            "enable_registration": true,
            "enable_registration_without_verification": true,
            "bcrypt_rounds": 4,
            "report_stats": false,
            "presence": { "enabled": false },
            "trusted_key_servers": [],
            "suppress_key_server_warning": true,
            "rc_message": unlimited, "rc_registration": unlimited, "rc_admin_redaction": unlimited,
            "rc_login": { "address": unlimited, "account": unlimited, "failed_attempts": unlimited },
            "rc_joins": { "local": unlimited, "remote": unlimited }, "rc_joins_per_room": unlimited,
            "rc_invites": { "per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited },
            "rc_room_creation": unlimited,
        });
        // JSON is YAML.
        fs::write(folder.join("homeserver.yaml"), config.to_string()).expect("Synapse's configuration");
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The virtual environment's Python.
fn python() -> PathBuf {
    let lab = std::env::var_os("USHER_LAB").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/usher-lab"),
        PathBuf::from,
    );
    let python = lab.join("synapse/bin/python");
    assert!(python.exists(), "no Synapse at {}: tests/run installs it", python.display());
    python
}

fn log_config(folder: &Path) -> String {
    json!({
        "version": 1,
        "handlers": { "file": { "class": "logging.FileHandler", "filename": folder.join("homeserver.log") } },
        "root": { "level": "WARNING", "handlers": ["file"] },
    })
    .to_string()
}

/// Somebody with a client: works against any homeserver that lets people register.
#[derive(Clone)]
pub struct Person {
    pub user: UserId,
    pub token: String,
    url: String,
    http: reqwest::Client,
}

impl Person {
    /// A new account on the homeserver at `url`.
    pub async fn register(url: &str, localpart: &str) -> Self {
        let body = json!({ "username": localpart, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        Self::session(url, "/_matrix/client/v3/register", &body).await
    }

    async fn session(url: &str, path: &str, body: &Value) -> Self {
        let http = reqwest::Client::new();
        let answer = http.post(format!("{url}{path}")).json(body).send().await.expect("an answer");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{path}: {answer}");
        let text = |key: &str| answer[key].as_str().expect(key).to_owned();
        Self { user: text("user_id").into(), token: text("access_token"), url: url.to_owned(), http }
    }

    /// One request with this person's token: status and answer.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method: reqwest::Method = method.parse().expect("a method");
        let request = self.http.request(method.clone(), format!("{}{path}", self.url)).bearer_auth(&self.token);
        let request = if method == reqwest::Method::GET { request } else { request.json(&body) };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// As [`Person::call`], and it must succeed.
    pub async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert_eq!(status, 200, "{} {method} {path}: {answer}", self.user);
        answer
    }

    pub async fn join(&self, room: &RoomId) -> (u16, Value) {
        self.call("POST", &format!("/_matrix/client/v3/join/{}", escape(room.as_str())), json!({})).await
    }

    pub async fn leave(&self, room: &RoomId) -> (u16, Value) {
        self.call("POST", &room_path(room, "leave"), json!({})).await
    }

    pub async fn kick(&self, room: &RoomId, user: &UserId) -> (u16, Value) {
        self.call("POST", &room_path(room, "kick"), json!({ "user_id": user })).await
    }

    pub async fn ban(&self, room: &RoomId, user: &UserId) -> (u16, Value) {
        self.call("POST", &room_path(room, "ban"), json!({ "user_id": user })).await
    }

    pub async fn invite(&self, room: &RoomId, user: &UserId) -> (u16, Value) {
        self.call("POST", &room_path(room, "invite"), json!({ "user_id": user })).await
    }

    pub async fn knock(&self, room: &RoomId) -> (u16, Value) {
        self.call("POST", &format!("/_matrix/client/v3/knock/{}", escape(room.as_str())), json!({})).await
    }

    pub async fn send_state(&self, room: &RoomId, kind: &str, state_key: &str, content: Value) -> (u16, Value) {
        let path = room_path(room, &format!("state/{}/{}", escape(kind), escape(state_key)));
        self.call("PUT", &path, content).await
    }

    pub async fn say(&self, room: &RoomId, text: &str) -> (u16, Value) {
        let body = json!({ "msgtype": "m.text", "body": text });
        self.call("POST", &room_path(room, "send/m.room.message"), body).await
    }

    pub async fn create_room(&self, body: Value) -> RoomId {
        let answer = self.must("POST", "/_matrix/client/v3/createRoom", body).await;
        answer["room_id"].as_str().expect("room_id").into()
    }

    /// The content of one state event, if it is there.
    pub async fn state(&self, room: &RoomId, kind: &str, state_key: &str) -> Option<Value> {
        let path = room_path(room, &format!("state/{}/{}", escape(kind), escape(state_key)));
        let (status, answer) = self.call("GET", &path, Value::Null).await;
        (status == 200).then_some(answer)
    }
}

fn room_path(room: &RoomId, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", escape(room.as_str()))
}

/// Percent-encodes an id for a path.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
