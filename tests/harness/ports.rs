//! Free loopback ports that remain free while their server is down.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;

/// The range lies below the ephemeral ports of Linux (from 32768) and macOS (from 49152). An ephemeral port, such as
/// `bind` to port 0 returns, can be lost while its server is down: another connection may take it, or a client that
/// keeps reconnecting may connect to itself.
const RANGE: std::ops::Range<u64> = 10_000..32_000;

/// Returns a free port, for a part of a server that the harness does not configure.
pub fn free_port() -> u16 {
    free(1)[0]
}

/// Returns distinct free ports. Another process may still take one first. If a server cannot bind, the caller must
/// retry with new ports.
pub(crate) fn free(count: usize) -> Vec<u16> {
    // All listeners stay open until the last port is found, so the ports are distinct.
    let mut held = Vec::new();
    for attempt in 0_u64.. {
        if held.len() == count {
            break;
        }
        assert!(attempt < 1000, "no free loopback port in {RANGE:?}");
        let random = RandomState::new().hash_one(attempt);
        let port = RANGE.start + random % (RANGE.end - RANGE.start);
        let port = u16::try_from(port).expect("the range holds ports");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    held.into_iter().map(|(port, _)| port).collect()
}
