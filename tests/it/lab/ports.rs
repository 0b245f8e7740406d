//! Ports for servers that the tests start, and for those that must not be there.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to whoever asks for any: what we keep for a server that is not up just now, nobody else gets.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port nobody listens on at the moment; each time another one.
pub fn free_port() -> u16 {
    // Two runs on one machine begin in different places, far apart where they were started one right after the other.
    let begin = u16::try_from(u64::from(std::process::id()) * 7_417 % 12_000).expect("a small number");
    for _ in RANGE {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin);
        let port = RANGE.start + number % (RANGE.end - RANGE.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
