//! Polling for a condition that no event announces, with a time limit.

use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const INTERVAL: Duration = Duration::from_millis(20);

/// Polls `probe` until it returns a value, for at most `limit`.
pub async fn within<T>(limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let polling = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            sleep(INTERVAL).await;
        }
    };
    timeout_at(end, polling).await.ok()
}

/// Like [`within`], but panics with `what` when the time limit is reached.
pub async fn until<T>(what: &str, limit: Duration, probe: impl AsyncFnMut() -> Option<T>) -> T {
    match within(limit, probe).await {
        Some(value) => value,
        None => panic!("timed out after {limit:?}, waiting until {what}"),
    }
}
