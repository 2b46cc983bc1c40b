//! Free loopback ports that stay free while a server is down.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;

/// Below the range that Linux (32768 up) and macOS (49152 up) give to outgoing
/// connections. A port from that range, as `bind` to port 0 yields, can be
/// lost while its server is down: another connection may get it, or a client
/// that keeps trying to reconnect may connect to itself.
const RANGE: std::ops::Range<u64> = 10_000..32_000;

/// Free ports, no two alike. A race for them remains possible: the caller
/// tries again with others when a server cannot bind.
pub(crate) fn free(count: usize) -> Vec<u16> {
    // All are held until the last is found, which keeps them distinct.
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
