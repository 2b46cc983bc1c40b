//! The queues of a bucket: the state that the changes of one key in this process share.
//!
//! A queue has one [`PendingRecord`], and the caller that holds the [`QueueGuard`] may change it. The lock is never
//! assigned to a waiting caller. It is offered, and a caller takes it when it is polled. No caller holds the lock across
//! an await point. Work that must be awaited continues in a separate task. A future that was polled once and then left
//! therefore blocks no other caller.
//!
//! A queue exists while a caller uses it. Afterwards the bucket remembers the newest entry of its record, within a bound
//! in bytes.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::timeout;

use super::pending_record::{PendingRecord, RememberedRecord};
use crate::backend::Deadline;
use crate::bucket::recent::Recent;
use crate::error::Result;
use crate::key::Key;

/// The bound on remembered records, in bytes. It fits some 130,000 small records.
const MAX_REMEMBERED_BYTES: usize = 64 * 1_024 * 1_024;

/// How long a caller of a serial queue waits before it first checks for a free lock that no caller took.
const FIRST_CHECK: Duration = Duration::from_millis(10);

/// The longest such wait.
const LAST_CHECK: Duration = Duration::from_millis(320);

/// The queues of a bucket.
#[derive(Debug)]
pub(crate) struct KeyQueues {
    all: Mutex<Queues>,
    /// Whether each change is a separate write, so that each caller locks the record once.
    serial: bool,
}

#[derive(Debug)]
struct Queues {
    used: HashMap<Key, UsedQueue>,
    remembered: Recent<RememberedRecord>,
}

#[derive(Debug)]
struct UsedQueue {
    queue: Arc<KeyQueue>,
    users: usize,
}

#[derive(Debug, Default)]
struct KeyQueue {
    /// Locked only by `try_lock`.
    record: Arc<AsyncMutex<PendingRecord>>,
    free: Notify,
    /// The number of callers that wait for the lock, polled or not.
    waiting: AtomicUsize,
    /// The number of reads that were started.
    reads: AtomicU64,
}

impl KeyQueues {
    pub(crate) fn new(serial: bool) -> Self {
        let all = Queues { used: HashMap::new(), remembered: Recent::new(MAX_REMEMBERED_BYTES) };
        Self { all: Mutex::new(all), serial }
    }

    /// Whether each change is a separate write.
    pub(crate) fn is_serial(&self) -> bool {
        self.serial
    }

    fn all(&self) -> MutexGuard<'_, Queues> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a handle to the queue of a key.
    pub(crate) fn handle(self: &Arc<Self>, key: &Key) -> Arc<QueueHandle> {
        let mut all = self.all();
        let queue = match all.used.get_mut(key) {
            Some(used) => {
                used.users += 1;
                Arc::clone(&used.queue)
            }
            None => {
                let record = PendingRecord::new(all.remembered.take(key));
                let queue = Arc::new(KeyQueue { record: Arc::new(AsyncMutex::new(record)), ..KeyQueue::default() });
                all.used.insert(key.clone(), UsedQueue { queue: Arc::clone(&queue), users: 1 });
                queue
            }
        };
        drop(all);
        Arc::new(QueueHandle { queues: Arc::clone(self), key: key.clone(), queue })
    }
}

/// A use of a queue, by one caller and by the tasks that it started.
#[derive(Debug)]
pub(crate) struct QueueHandle {
    queues: Arc<KeyQueues>,
    key: Key,
    queue: Arc<KeyQueue>,
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        let mut all = self.queues.all();
        let Some(used) = all.used.get_mut(&self.key) else { return };
        used.users -= 1;
        if used.users > 0 {
            return;
        }
        all.used.remove(&self.key);
        if let Some(memory) = self.queue.record.try_lock().ok().and_then(|mut record| record.take_memory()) {
            let heap = memory.heap();
            all.remembered.add(self.key.clone(), memory, heap);
        }
    }
}

impl QueueHandle {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The number of reads that were started so far. The result of a later read is not older than this call.
    pub(crate) fn reads(&self) -> u64 {
        self.queue.reads.load(Ordering::Acquire)
    }

    /// Returns the number of a new read.
    pub(crate) fn begin_read(&self) -> u64 {
        self.queue.reads.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether a caller waits for the lock, polled or not.
    pub(crate) fn has_waiters(&self) -> bool {
        self.queue.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes the lock if it is free.
    fn try_lock(self: &Arc<Self>) -> Option<QueueGuard> {
        let record = Arc::clone(&self.queue.record).try_lock_owned().ok()?;
        Some(QueueGuard { record, offer: OfferOnDrop(Arc::clone(self)) })
    }

    /// Waits for the lock, and counts as waiting until then.
    pub(crate) async fn lock_before(self: &Arc<Self>, deadline: Deadline) -> Result<QueueGuard> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        if let Some(guard) = self.try_lock() {
            return Ok(guard);
        }
        self.queue.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.queue.waiting);
        deadline.timeout(self.lock()).await
    }

    /// Waits for the lock.
    pub(crate) async fn lock(self: &Arc<Self>) -> QueueGuard {
        let (mut check_interval, mut timed_out) = (FIRST_CHECK, false);
        loop {
            let mut free = pin!(self.queue.free.notified());
            free.as_mut().enable();
            if let Some(guard) = self.try_lock() {
                if timed_out {
                    // The lock was offered to a caller that is not polled. The next offers may be lost in the same way.
                    self.queue.free.notify_waiters();
                }
                return guard;
            }
            if self.queues.serial {
                timed_out = timeout(check_interval, free).await.is_err();
                check_interval = (2 * check_interval).min(LAST_CHECK);
            } else {
                free.await;
            }
        }
    }
}

/// The right to change the record of a queue. Dropping it offers the lock to the next caller.
#[derive(Debug)]
pub(crate) struct QueueGuard {
    // Must be dropped before the offer.
    record: OwnedMutexGuard<PendingRecord>,
    offer: OfferOnDrop,
}

#[derive(Debug)]
struct OfferOnDrop(Arc<QueueHandle>);

impl Drop for OfferOnDrop {
    fn drop(&mut self) {
        let QueueHandle { queues, queue, .. } = &*self.0;
        if queues.serial {
            queue.free.notify_one();
        } else {
            // All waiting callers can join one group.
            queue.free.notify_waiters();
        }
    }
}

impl QueueGuard {
    pub(crate) fn queue(&self) -> &QueueHandle {
        &self.offer.0
    }
}

impl Deref for QueueGuard {
    type Target = PendingRecord;

    fn deref(&self) -> &PendingRecord {
        &self.record
    }
}

impl DerefMut for QueueGuard {
    fn deref_mut(&mut self) -> &mut PendingRecord {
        &mut self.record
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures::FutureExt;

    use super::*;
    use crate::backend::{RawEntry, RecordHeaders};
    use crate::bucket::content::Content;
    use crate::revision::Revision;

    fn key(n: usize) -> Key {
        Key::new(format!("session.{n}")).expect("a key")
    }

    fn stored(n: usize, bytes: usize) -> RawEntry {
        Content::put(vec![0; bytes].into(), RecordHeaders::default(), None).entry(
            &key(n),
            Revision::new(7),
            SystemTime::now(),
        )
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// Stores a value in the queue of a key, and drops the handle.
    fn remember(queues: &Arc<KeyQueues>, n: usize, bytes: usize) {
        queues.handle(&key(n)).try_lock().expect("no caller is there").set_stored(stored(n, bytes));
    }

    fn is_remembered(queues: &Arc<KeyQueues>, n: usize) -> bool {
        queues.handle(&key(n)).try_lock().expect("no caller is there").current().is_some()
    }

    #[test]
    fn queue_exists_while_used_and_keeps_record() {
        let queues = Arc::new(KeyQueues::new(false));
        remember(&queues, 0, 100);
        assert!(queues.all().used.is_empty());
        let used = queues.handle(&key(0));
        let other = queues.handle(&key(0));
        assert!(Arc::ptr_eq(&used.queue, &other.queue));
        // The number of other keys does not matter.
        (1..5_000).for_each(|n| remember(&queues, n, 100));
        assert_eq!(queues.all().used.len(), 1);
        drop(used);
        assert!(other.try_lock().expect("it is free").current().is_some());
        drop(other);
        assert!(queues.all().used.is_empty() && is_remembered(&queues, 0));
    }

    #[test]
    fn number_of_remembered_records_is_bounded() {
        let queues = Arc::new(KeyQueues::new(false));
        (0..120_000).for_each(|n| remember(&queues, n, 100));
        assert!((0..120_000).all(|n| is_remembered(&queues, n)));
        (120_000..160_000).for_each(|n| remember(&queues, n, 100));
        assert!(!is_remembered(&queues, 0) && (120_000..160_000).all(|n| is_remembered(&queues, n)));
        // Larger records take more memory.
        (0..6_000).for_each(|n| remember(&queues, n, 16 * 1_024));
        let count = queues.all().remembered.len();
        assert!((3_800..4_200).contains(&count), "{count} records of 16 KiB in 64 MiB");
    }

    #[tokio::test]
    async fn queue_has_waiters_while_a_caller_waits() {
        let queues = Arc::new(KeyQueues::new(false));
        let queue = queues.handle(&key(0));
        let first = queue.lock_before(deadline()).await.unwrap();
        assert!(!queue.has_waiters());
        let mut second = Box::pin(queue.lock_before(deadline()));
        assert!(second.as_mut().now_or_never().is_none() && queue.has_waiters());
        drop(second);
        assert!(!queue.has_waiters());
        let mut third = Box::pin(queue.lock_before(deadline()));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(third.await.unwrap());
        assert!(!queue.has_waiters());
    }

    #[tokio::test(start_paused = true)]
    async fn unpolled_caller_passes_lock_to_next() {
        for serial in [false, true] {
            let queues = Arc::new(KeyQueues::new(serial));
            let queue = queues.handle(&key(0));
            let first = queue.lock_before(deadline()).await.unwrap();
            let mut left: Vec<_> = (0..100).map(|_| Box::pin(queue.lock_before(deadline()))).collect();
            left.iter_mut().for_each(|waiting| assert!(waiting.as_mut().now_or_never().is_none()));
            let mut last = Box::pin(queue.lock_before(deadline()));
            assert!(last.as_mut().now_or_never().is_none());
            drop(first);
            let start = tokio::time::Instant::now();
            drop(last.await.unwrap());
            assert!(start.elapsed() <= FIRST_CHECK, "{:?}", start.elapsed());
            // The other callers get the lock when they are polled.
            for waiting in left {
                drop(waiting.await.unwrap());
            }
        }
    }
}
