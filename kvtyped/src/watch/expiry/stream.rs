//! The stream that adds expiries to the items of a watch.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::tracker::ExpiryTracker;
use crate::backend::{BucketStatus, Deadline, RawBucket};
use crate::error::Result;
use crate::watch::update::{UpdateStream, WatchUpdate};

/// The time limit of one request for the status of the bucket.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Adds expiries that the server does not announce to the items of a watch.
///
/// The due time of a record is its creation time plus its TTL, both from the server. It is compared with an estimate of
/// the server's clock: the time in its last reply plus the time since that reply arrived. The estimate is never ahead
/// of the clock. An eviction has the revision of the expired record. If the server writes markers, nothing is tracked.
///
/// A due record may have been written again, and the reader may be slow, so pending items of the watch come first. In a
/// watch that always has pending items, a record is evicted if it was due at the server's last reply, and once every
/// item up to that reply was delivered.
pub(in crate::watch) fn expire(updates: UpdateStream, raw: Arc<dyn RawBucket>) -> UpdateStream {
    let tracker = ExpiryTracker::new(raw.config());
    // Without a rule no record is tracked, so the rule is never read again.
    if !tracker.has_rule() {
        return updates;
    }
    // Boxed, because it moves with each item.
    stream::unfold(Box::new(ExpiringWatch { updates, raw, tracker, status: None }), |mut watch| async move {
        let update = watch.next().await?;
        Some((update, watch))
    })
    .boxed()
}

/// A watch whose records may expire without a marker.
struct ExpiringWatch {
    updates: UpdateStream,
    raw: Arc<dyn RawBucket>,
    tracker: ExpiryTracker,
    /// The request for the status of the bucket, if one is in flight.
    status: Option<BoxFuture<'static, Result<BucketStatus>>>,
}

impl ExpiringWatch {
    async fn next(&mut self) -> Option<Result<WatchUpdate>> {
        loop {
            if let Some(expired) = self.tracker.evict_sure() {
                return Some(Ok(WatchUpdate::Entry(expired, 0)));
            }
            let now = Instant::now();
            if self.status.is_none() && self.tracker.needs_status(now) {
                let raw = Arc::clone(&self.raw);
                self.status = Some(Box::pin(async move { raw.status(Deadline::after(STATUS_TIMEOUT)).await }));
            }
            if self.status.is_none() {
                if let Some(update) = self.updates.next().now_or_never() {
                    return self.deliver(update?);
                }
                if let Some(expired) = self.tracker.evict(Instant::now()) {
                    return Some(Ok(WatchUpdate::Entry(expired, 0)));
                }
            }
            let wake = if self.status.is_none() { self.tracker.wake(Instant::now()) } else { None };
            tokio::select! {
                biased;
                status = async { Some(self.status.as_mut()?.await) }, if self.status.is_some() => {
                    self.status = None;
                    self.on_status(status);
                }
                update = self.updates.next() => return self.deliver(update?),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Tracks an item of the watch, and returns it.
    fn deliver(&mut self, update: Result<WatchUpdate>) -> Option<Result<WatchUpdate>> {
        if let Ok(update) = &update {
            self.tracker.track(update);
        }
        Some(update)
    }

    fn on_status(&mut self, status: Option<Result<BucketStatus>>) {
        let now = Instant::now();
        match status {
            Some(Ok(status)) => self.tracker.on_status(&status, now),
            Some(Err(error)) => {
                let bucket = &self.raw.config().name;
                tracing::debug!(bucket, %error, "cannot read the server's clock; expiry uses the last estimate");
                self.tracker.on_no_status(now);
            }
            None => self.tracker.on_no_status(now),
        }
    }
}
