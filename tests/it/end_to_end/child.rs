//! `usher` as a child process. What it prints is kept, and searched for what must never appear there (S-93).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lab::slapd::signal;

/// How long a verb may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(20);

/// A running usher. Killed when dropped.
pub struct Running {
    child: Option<Child>,
    out: PathBuf,
    err: PathBuf,
    secrets: Vec<String>,
}

/// What came of one.
#[derive(Debug)]
pub struct Ended {
    /// `None`: killed by a signal.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// The code, or a panic with everything it said.
    pub fn code(&self, expected: i32) -> &Self {
        assert_eq!(self.code, Some(expected), "\n--- out\n{}\n--- err\n{}", self.out, tail(&self.err));
        self
    }

    pub fn says(&self, text: &str) -> &Self {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(said, "not said: {text}\n--- out\n{}\n--- err\n{}", self.out, tail(&self.err));
        self
    }
}

/// The end of a long log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

impl Running {
    /// Starts `usher args` in `folder`, its output in files named after `name`.
    pub fn start(folder: &Path, name: &str, args: &[&str], secrets: Vec<String>) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_usher")).args(args), folder, name, secrets)
    }

    /// As [`Running::start`], with the wall clock set forward.
    pub fn later(folder: &Path, name: &str, (offset, args): (&str, &[&str]), secrets: Vec<String>) -> Self {
        let mut command = Command::new("faketime");
        // Timers go by the other clock, which stays true.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").args(["-f", offset, env!("CARGO_BIN_EXE_usher")]).args(args);
        Self::launch(&mut command, folder, name, secrets)
    }

    fn launch(command: &mut Command, folder: &Path, name: &str, secrets: Vec<String>) -> Self {
        let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let child = command
            .current_dir(folder)
            .env_remove("USHER_CONFIG")
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file for its output"))
            .stderr(File::create(&err).expect("a file for its log"))
            .spawn()
            .expect("the usher binary");
        Self { child: Some(child), out, err, secrets }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// What it has said so far: output and log.
    pub fn said(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        read(&self.out) + read(&self.err).as_str()
    }

    /// Waits until it has said `text`.
    pub async fn until_said(&mut self, text: &str) {
        for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
            if self.said().contains(text) {
                return;
            }
            self.must_run();
            tokio::time::sleep(POLL).await;
        }
        panic!("never said {text:?}:\n{}", tail(&self.said()));
    }

    /// Panics if it has ended.
    pub fn must_run(&mut self) {
        let ended = self.child.as_mut().expect("running").try_wait().expect("its state");
        assert!(ended.is_none(), "usher ended with {ended:?}:\n{}", tail(&self.said()));
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().expect("running").try_wait().expect("its state").is_some()
    }

    pub async fn wait(mut self) -> Ended {
        self.wait_for(PATIENCE).await
    }

    /// SIGTERM, and its end, which must come within ten seconds (S-90).
    pub async fn stop(mut self) -> Ended {
        signal(self.pid(), "TERM");
        self.wait_for(Duration::from_secs(10)).await
    }

    /// SIGKILL, now.
    pub fn kill9(mut self) -> Ended {
        let code = kill(self.child.take().expect("running"));
        self.ended(code)
    }

    async fn wait_for(&mut self, patience: Duration) -> Ended {
        for _ in 0..patience.as_millis() / POLL.as_millis() {
            if let Some(status) = self.child.as_mut().expect("running").try_wait().expect("its state") {
                self.child = None;
                return self.ended(status.code());
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("usher does not end:\n{}", tail(&self.said()));
    }

    fn ended(&self, code: Option<i32>) -> Ended {
        let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let ended = Ended { code, out: read(&self.out), err: read(&self.err) };
        for secret in &self.secrets {
            let leaked = [&ended.out, &ended.err].into_iter().flat_map(|text| text.lines());
            if let Some(line) = leaked.into_iter().find(|line| line.contains(secret)) {
                panic!("a secret appears: {}", line.replace(secret, "<SECRET>"));
            }
        }
        ended
    }
}

/// SIGKILL: under another clock the program is a child of the one that sets it.
fn kill(mut child: Child) -> Option<i32> {
    let below = format!("/proc/{0}/task/{0}/children", child.id());
    for pid in std::fs::read_to_string(below).unwrap_or_default().split_whitespace() {
        signal(pid.parse().expect("a process id"), "KILL");
    }
    let _ = child.kill();
    let code = child.wait().expect("its end").code();
    // What a killed `faketime` leaves behind keeps a later one of the same process id from starting.
    for name in ["sem.faketime_sem", "faketime_shm"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{name}_{}", child.id()));
    }
    code
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            kill(child);
            if std::thread::panicking() {
                eprintln!("--- the usher that was running said:\n{}", tail(&self.said()));
            }
        }
    }
}
