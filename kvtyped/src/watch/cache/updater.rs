//! The task that updates a cache.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::stream::StreamExt;
use tokio::time::Instant;

use super::state::{CacheState, Listing};
use crate::bucket::clock::BucketClock;
use crate::bucket::decode;
use crate::error::Error;
use crate::model::KvModel;
use crate::revision::Revision;
use crate::watch::event::{Event, decode_event};
use crate::watch::update::{UpdateStream, WatchUpdate, runtime_ended};

/// Notifies waiting callers when it is dropped: the cache has ended.
struct CloseOnDrop<T: KvModel> {
    shared: Arc<CacheState<T>>,
    is_known: bool,
}

impl<T: KvModel> CloseOnDrop<T> {
    /// Ends the cache after the reason was recorded.
    fn finish(mut self) {
        self.is_known = true;
    }
}

impl<T: KvModel> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        if !self.is_known {
            self.shared.fail(runtime_ended());
        }
        self.shared.progress.send_modify(|progress| progress.closed = true);
    }
}

/// Updates the cache until its last handle is dropped or the watch ends.
pub(crate) fn run_updater<T: KvModel>(
    updates: UpdateStream,
    shared: Arc<CacheState<T>>,
    clock: Arc<BucketClock>,
) -> impl Future<Output = ()> + Send {
    // Created before the task starts: a runtime that ends may never poll the task.
    let end = CloseOnDrop { shared, is_known: false };
    async move {
        let shared = &end.shared;
        if AssertUnwindSafe(apply_stream(updates, shared, &clock)).catch_unwind().await.is_err() {
            let why = "the function of an index or a codec panicked; fix the panic, and open the cache again";
            drop(shared.fail(Error::unavailable(why)));
        }
        end.finish();
    }
}

async fn apply_stream<T: KvModel>(mut updates: UpdateStream, shared: &CacheState<T>, clock: &Arc<BucketClock>) {
    // A listing is filled separately until it is complete, at the start and after each resync.
    let mut staging: Option<Listing<T>> = Some(Listing::new());
    let mut reached = Revision::ZERO;
    // The highest revision of all listings: a repeated entry is no progress.
    let mut highest = Revision::ZERO;
    // The cause of an interruption, until the watch has caught up.
    let mut interrupted: Option<Arc<Error>> = None;
    while let Some(update) = updates.next().await {
        let mut ready = false;
        match update {
            Ok(WatchUpdate::Entry(raw, pending)) => {
                // The expiry of an older record may arrive late.
                reached = reached.max(raw.revision);
                if staging.is_some() && raw.revision > highest {
                    shared.advance();
                }
                highest = highest.max(raw.revision);
                if let Some(listing) = &mut staging {
                    listing.reserve(pending);
                }
                let (key, new) = match decode_event::<T>(&raw, clock) {
                    Event::Put(entry) => (entry.key().clone(), Ok(Some(Arc::new(entry)))),
                    Event::Removed { key, .. } => (key, Ok(None)),
                    Event::Undecodable { error, .. } => {
                        // An undecodable record replaces the earlier record too.
                        let error = shared.fail(error.with_context("cache", &shared.bucket, Some(raw.key.as_ref())));
                        match decode::key::<T>(&raw.key) {
                            Ok(key) => (key, Err(error)),
                            Err(_) => continue,
                        }
                    }
                    _ => continue,
                };
                match &mut staging {
                    Some(listing) => listing.apply(key, new),
                    None => {
                        if let Some(change) = shared.contents.load().apply(key, new) {
                            shared.publish(change);
                        }
                    }
                }
            }
            Ok(WatchUpdate::Ready) => {
                if let Some(listing) = staging.take() {
                    shared.swap(listing.finish());
                }
                ready = true;
                interrupted.take().iter().for_each(|error| shared.recover(error));
            }
            Ok(WatchUpdate::Resync) => {
                staging = Some(Listing::new());
                reached = Revision::ZERO;
            }
            Ok(WatchUpdate::Alive(through)) => {
                reached = through;
                interrupted.take().iter().for_each(|error| shared.recover(error));
            }
            Ok(WatchUpdate::Lagging(_)) => continue,
            Ok(WatchUpdate::Interrupted(error)) => {
                interrupted = Some(shared.fail(error.with_context("cache", &shared.bucket, None)));
                continue;
            }
            Err(error) => {
                let is_of_the_watch = error.key().is_none();
                let error = shared.fail(error.with_context("cache", &shared.bucket, None));
                if is_of_the_watch {
                    interrupted = Some(error);
                    shared
                        .progress
                        .send_if_modified(|progress| !progress.ready && !std::mem::replace(&mut progress.failed, true));
                }
                continue;
            }
        }
        if staging.is_none() {
            shared.progress.send_modify(|progress| {
                progress.revision = if ready { reached } else { progress.revision.max(reached) };
                progress.ready = true;
                if interrupted.is_none() {
                    progress.last_seen = Instant::now();
                }
            });
        }
    }
}
