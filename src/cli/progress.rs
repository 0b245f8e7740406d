//! How far an apply is: a bar on a terminal, a plain line every ten seconds elsewhere. Always on standard error, so that what a
//! verb prints stays clean. The log goes there, too: its lines are written above the bar ([`BesideBar`]).

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where an apply stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps that ended, the failed ones included.
    pub done: u64,
    pub total: u64,
    pub failed: u64,
    /// Milliseconds the homeserver has asked us to wait, from now.
    pub waiting_ms: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} steps", self.done, self.total)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.waiting_ms > 0 {
            write!(f, ", the homeserver asks to wait {} s", self.waiting_ms.div_ceil(1000))?;
        }
        Ok(())
    }
}

/// Shows progress until the sender is dropped.
pub async fn show(updates: watch::Receiver<Progress>) {
    if io::stderr().is_terminal() {
        bar(updates).await;
    } else {
        lines(updates, &mut io::stderr()).await;
    }
}

/// The bar on the terminal, while there is one. One for the process, as the terminal is.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Standard error for lines that stand beside the bar: it is taken away while one is written. A reader that went away is no reason to
/// stop working: what cannot be written is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct BesideBar;

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = beside(|| io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn beside<T>(write: impl FnOnce() -> T) -> T {
    let bar = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

async fn bar(mut updates: watch::Receiver<Progress>) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}, {elapsed}, {eta} to go") {
        bar.set_style(style);
    }
    loop {
        let progress = *updates.borrow_and_update();
        // Before there is something to do a bar would look full.
        if progress.total > 0 {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(progress.to_string());
            SHOWN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| bar.clone());
        }
        if updates.changed().await.is_err() {
            bar.finish_and_clear();
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return;
        }
    }
}

async fn lines(mut updates: watch::Receiver<Progress>, out: &mut (impl Write + Send)) {
    let mut ticks = interval_at(Instant::now() + LINE_EVERY, LINE_EVERY);
    let mut written = None;
    loop {
        tokio::select! {
            changed = updates.changed() => if changed.is_err() { break },
            _ = ticks.tick() => {
                let progress = *updates.borrow();
                // A log that cannot be written is no reason to stop working.
                let _ = writeln!(out, "{progress}");
                written = Some(progress);
            }
        }
    }
    let last = *updates.borrow();
    if written.is_some_and(|written| written != last) {
        let _ = writeln!(out, "{last}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end() {
        let (sender, receiver) = watch::channel(Progress { total: 300, ..Progress::default() });
        let work = async move {
            for second in 1..=25 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let waiting_ms = if second == 20 { 1500 } else { 0 };
                sender.send_replace(Progress { done: second * 10, total: 300, failed: second / 20, waiting_ms });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let mut out = Vec::new();
        tokio::join!(work, lines(receiver, &mut out));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0] == "90 of 300 steps" || lines[0] == "100 of 300 steps", "{text}");
        assert_eq!(lines[2], "250 of 300 steps, 1 failed");
    }

    #[tokio::test(start_paused = true)]
    async fn quick_work_writes_no_line() {
        let (sender, receiver) = watch::channel(Progress::default());
        let work = async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            sender.send_replace(Progress { done: 3, total: 3, ..Progress::default() });
        };
        let mut out = Vec::new();
        tokio::join!(work, lines(receiver, &mut out));
        assert!(out.is_empty());
    }

    /// A terminal that remembers what was done to it.
    #[derive(Clone, Debug, Default)]
    struct Paper(std::sync::Arc<Mutex<Vec<String>>>);

    impl Paper {
        fn note(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
    }

    impl indicatif::TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.note(text);
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.note(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.note("CLEARED");
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_the_log_never_stands_in_the_bar() {
        let paper = Paper::default();
        let target = indicatif::ProgressDrawTarget::term_like_with_hz(Box::new(paper.clone()), 255);
        let bar = ProgressBar::with_draw_target(Some(9), target).with_message("THE BAR");
        bar.set_style(ProgressStyle::with_template("{msg}").unwrap());
        bar.tick();
        *SHOWN.lock().unwrap() = Some(bar.clone());
        beside(|| paper.note("A LINE"));
        *SHOWN.lock().unwrap() = None;
        let seen: Vec<String> =
            paper.0.lock().unwrap().iter().filter(|text| !text.trim().is_empty()).cloned().collect();
        assert_eq!(seen, ["THE BAR", "CLEARED", "A LINE", "THE BAR"]);
    }

    #[test]
    fn waiting_and_failures_are_said_only_when_there_are_any() {
        let progress = Progress { done: 3, total: 9, failed: 1, waiting_ms: 1500 };
        assert_eq!(progress.to_string(), "3 of 9 steps, 1 failed, the homeserver asks to wait 2 s");
        assert_eq!(Progress { failed: 0, waiting_ms: 0, ..progress }.to_string(), "3 of 9 steps");
    }
}
