//! The buffer of a slow reader: the newest event of each key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::update::{UpdateStream, WatchUpdate};
use crate::error::Result;

/// The pending events, in the order of their delivery.
#[derive(Default)]
struct CoalescingQueue {
    next: u64,
    updates: BTreeMap<u64, Result<WatchUpdate>>,
    /// The position of the pending event of each key.
    keys: HashMap<String, u64>,
    /// The position of the pending or last `Ready`.
    ready: u64,
    is_ended: bool,
}

impl CoalescingQueue {
    fn push(&mut self, update: Result<WatchUpdate>) {
        let older = key(&update).and_then(|key| self.keys.insert(key.to_owned(), self.next));
        if let Some(older) = older {
            self.updates.remove(&older);
        }
        match &update {
            // The reader discards its state on a resync, so older events are obsolete.
            Ok(WatchUpdate::Resync) => {
                self.updates.clear();
                self.keys.clear();
            }
            // The buffer itself serves a slow reader, so a lag is not reported. `Events` would skip the other two.
            Ok(WatchUpdate::Lagging(_) | WatchUpdate::Alive(_) | WatchUpdate::Interrupted(_)) => return,
            Ok(WatchUpdate::Entry(..) | WatchUpdate::Ready) | Err(_) => {}
        }
        self.put(update);
        // If the replaced event was pending before `Ready`, the new one must also precede `Ready`.
        if older.is_some_and(|older| older < self.ready)
            && let Some(ready) = self.updates.remove(&self.ready)
        {
            self.put(ready);
        }
    }

    fn put(&mut self, update: Result<WatchUpdate>) {
        if matches!(update, Ok(WatchUpdate::Ready)) {
            self.ready = self.next;
        }
        self.updates.insert(self.next, update);
        self.next += 1;
    }

    fn pop(&mut self) -> Option<Result<WatchUpdate>> {
        let (_, update) = self.updates.pop_first()?;
        if let Some(key) = key(&update) {
            self.keys.remove(key);
        }
        Some(update)
    }
}

/// Returns the key of an event, if it has one.
fn key(update: &Result<WatchUpdate>) -> Option<&str> {
    match update {
        Ok(WatchUpdate::Entry(entry, _)) => Some(entry.key.as_str()),
        Ok(_) => None,
        Err(error) => error.key(),
    }
}

/// Ends the listening task with the stream that it feeds.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the stream of the reader when the task ends, also when the runtime of the task shuts down.
struct QueueFeed(Arc<(Mutex<CoalescingQueue>, Notify)>);

impl Drop for QueueFeed {
    fn drop(&mut self) {
        let (queue, arrived) = &*self.0;
        queue.lock().unwrap_or_else(PoisonError::into_inner).is_ended = true;
        arrived.notify_one();
    }
}

/// Reads the stream in a task, and keeps the newest event of each key for the reader.
pub(super) fn coalesce(mut updates: UpdateStream) -> UpdateStream {
    let shared = Arc::new((Mutex::new(CoalescingQueue::default()), Notify::new()));
    let feed = Arc::clone(&shared);
    // Created before the task starts: a runtime that ends may never poll the task.
    let feed = QueueFeed(feed);
    let listener = AbortOnDrop(tokio::spawn(async move {
        while let Some(update) = updates.next().await {
            let (queue, arrived) = &*feed.0;
            queue.lock().unwrap_or_else(PoisonError::into_inner).push(update);
            arrived.notify_one();
        }
        drop(feed);
    }));
    stream::unfold((shared, listener), |(shared, listener)| async move {
        loop {
            let (queue, arrived) = &*shared;
            {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(update) = queue.pop() {
                    drop(queue);
                    return Some((update, (shared, listener)));
                }
                if queue.is_ended {
                    return None;
                }
            }
            arrived.notified().await;
        }
    })
    .boxed()
}
