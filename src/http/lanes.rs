//! Threads that connections are spread over. Each serves its own from the first byte to the last, so that no request wakes another thread:
//! where requests are short, that is much of what they cost. They live as long as the process.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, mpsc};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

/// More would only take turns with the threads that do usher's other work.
pub(super) const MOST: usize = 8;

static LANES: LazyLock<Vec<Handle>> = LazyLock::new(|| {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
    (0..count).filter_map(open).collect()
});

/// A thread that connections can be given to, until the process ends.
fn open(number: usize) -> Option<Handle> {
    let (sender, opened) = mpsc::channel();
    let serve = move || {
        // Where there is no runtime, nobody hears of one.
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
        if sender.send(runtime.handle().clone()).is_ok() {
            runtime.block_on(pending::<()>());
        }
    };
    std::thread::Builder::new().name(format!("lane {number}")).spawn(serve).ok()?;
    opened.recv().ok()
}

/// Where the next connection goes: in turn. On a runtime of one thread, which has nothing to spread, and where no thread could be had,
/// it stays.
pub(super) fn next() -> Handle {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let here = Handle::current();
    if here.runtime_flavor() == RuntimeFlavor::CurrentThread || LANES.is_empty() {
        return here;
    }
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    LANES.get(turn % LANES.len()).cloned().unwrap_or(here)
}
