//! A read on a thread of its own: connection, decoding and digesting take turns there, instead of waking each other across threads
//! and contending for memory that one allocates and the other frees. In a large read that was a third of the time, and of the memory.
//!
//! Never outlives who asked for it: what is dropped here ends there at its next wait.

use std::io;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Runs `work` on a thread of its own and waits for its result.
///
/// # Errors
/// When the system gives no more threads or descriptors.
///
/// # Panics
/// When `work` does.
pub async fn run<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> io::Result<T> {
    // Kept until the result is there; closes when this future is dropped.
    let (_wanted, mut unwanted) = oneshot::channel::<()>();
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(async {
            tokio::select! {
                result = work() => Some(result),
                _ = &mut unwanted => None,
            }
        });
        // A name that is being looked up cannot be called off: it is not waited for.
        runtime.shutdown_background();
        result.ok_or_else(|| io::Error::other("nobody waits for it"))
    });
    match thread.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on must end")]

    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_result_comes_from_another_thread() {
        let here = std::thread::current().id();
        let (there, spawned) = run(async || {
            let spawned = tokio::spawn(async { std::thread::current().id() });
            (std::thread::current().id(), spawned.await.unwrap())
        })
        .await
        .unwrap();
        assert_ne!(there, here);
        assert_eq!(spawned, there, "what it spawns stays with it");
    }

    #[tokio::test]
    async fn who_no_longer_waits_ends_the_work() {
        let (alive, ended) = oneshot::channel::<()>();
        let asked = run(async move || {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        assert!(timeout(Duration::from_millis(50), asked).await.is_err());
        assert!(timeout(Duration::from_secs(30), ended).await.unwrap().is_err(), "dropped, not sent");
    }
}
