//! The number of unacknowledged messages that a consumer of a bucket may have.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use serde_json::{Map, Value};

/// The first window of a watch: a quarter of the default capacity of a subscription of the client.
const INITIAL_WINDOW: u32 = 16_384;

/// The smallest window of a watch.
const MIN_WINDOW: u32 = 32;

/// The window of the consumers of one bucket (`max_ack_pending`).
#[derive(Debug)]
pub(crate) struct FlowWindow {
    /// The limit on the unacknowledged messages of a consumer: that of the stream or, once known, that of the account.
    limit: AtomicUsize,
    /// Whether acknowledgements were found not to reach the server, so that a consumer should have no window.
    disabled: AtomicBool,
    /// The number of messages that a subscription is expected to buffer.
    size: AtomicU32,
}

impl FlowWindow {
    /// Creates the window of a bucket from the configuration of its stream.
    pub(crate) fn from_config(raw: &Map<String, Value>) -> Self {
        let limits = raw.get("consumer_limits").and_then(|limits| limits["max_ack_pending"].as_u64());
        let limit = limits.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        Self {
            limit: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            disabled: AtomicBool::new(false),
            size: AtomicU32::new(INITIAL_WINDOW),
        }
    }

    /// The `max_ack_pending` of a consumer. `None` if acknowledgements do not reach the server and the stream does not
    /// require them.
    pub(crate) fn size(&self) -> Option<u32> {
        match (self.is_disabled(), self.required()) {
            (true, required) => required,
            (false, limit) => Some(self.size.load(Ordering::Relaxed).min(limit.unwrap_or(u32::MAX))),
        }
    }

    /// The window of a consumer without flow control. A stream that limits `max_ack_pending` refuses a consumer without
    /// acknowledgements (10082), so its limit is the window.
    fn required(&self) -> Option<u32> {
        u32::try_from(self.limit.load(Ordering::Relaxed)).ok()
    }

    /// Remembers the account's limit on `max_ack_pending`. Returns `false` if it is not below the known limit, so that
    /// another attempt would fail as well.
    pub(crate) fn set_limit(&self, limit: usize) -> bool {
        limit > 0 && self.limit.fetch_min(limit, Ordering::Relaxed) > limit
    }

    /// Halves the window after a subscription dropped a message.
    pub(crate) fn halve(&self) {
        let halved = |size: u32| Some((size / 2).max(MIN_WINDOW));
        let _ = self.size.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
    }

    /// Whether acknowledgements were found not to reach the server.
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    /// Records that acknowledgements do not reach the server.
    pub(crate) fn disable(&self) {
        self.disabled.store(true, Ordering::Relaxed);
    }
}
