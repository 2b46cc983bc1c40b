//! The lanes of a bucket: the state that the changes of one record in this process share.
//!
//! A lane has one draft, and the caller that holds the [`QueueGuard`] may change it. A turn is never assigned to a waiting
//! caller. It is offered, and a caller takes it when it is polled. No caller holds a turn across an await point. Work
//! that must be awaited continues in a separate task. A future that was polled once and then left therefore blocks no
//! other caller.
//!
//! A lane exists while a caller uses it. Afterwards the bucket remembers the newest entry of its draft, within a bound
//! in bytes.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::timeout;

use super::draft::{PendingRecord, RememberedRecord};
use super::recent::Recent;
use crate::backend::Deadline;
use crate::error::Result;
use crate::key::Key;

/// The bound on remembered records, in bytes. It fits some 130,000 small records.
const MAX_REMEMBERED_BYTES: usize = 64 * 1_024 * 1_024;

/// How long a caller of a one-by-one lane waits before it first checks for a free turn that no caller took.
const FIRST_CHECK: Duration = Duration::from_millis(10);

/// The longest such wait.
const LAST_CHECK: Duration = Duration::from_millis(320);

/// The lanes of a bucket.
#[derive(Debug)]
pub(super) struct KeyQueues {
    all: Mutex<Queues>,
    /// Whether each change is a separate write, so that one turn serves one caller.
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
    draft: Arc<AsyncMutex<PendingRecord>>,
    free: Notify,
    /// The number of callers that wait for a turn, polled or not.
    waiting: AtomicUsize,
    /// The number of reads that were started.
    reads: AtomicU64,
}

impl KeyQueues {
    pub(super) fn new(one_by_one: bool) -> Self {
        let all = Queues { used: HashMap::new(), remembered: Recent::new(MAX_REMEMBERED_BYTES) };
        Self { all: Mutex::new(all), serial: one_by_one }
    }

    /// Whether each change is a separate write.
    pub(super) fn is_serial(&self) -> bool {
        self.serial
    }

    fn all(&self) -> MutexGuard<'_, Queues> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat in the lane of a key.
    pub(super) fn handle(self: &Arc<Self>, key: &Key) -> Arc<QueueHandle> {
        let mut all = self.all();
        let lane = match all.used.get_mut(key) {
            Some(used) => {
                used.users += 1;
                Arc::clone(&used.queue)
            }
            None => {
                let draft = PendingRecord::new(all.remembered.take(key));
                let lane = Arc::new(KeyQueue { draft: Arc::new(AsyncMutex::new(draft)), ..KeyQueue::default() });
                all.used.insert(key.clone(), UsedQueue { queue: Arc::clone(&lane), users: 1 });
                lane
            }
        };
        drop(all);
        Arc::new(QueueHandle { queues: Arc::clone(self), key: key.clone(), lane })
    }
}

/// A use of a lane, by one caller and by the tasks that it started.
#[derive(Debug)]
pub(super) struct QueueHandle {
    queues: Arc<KeyQueues>,
    key: Key,
    lane: Arc<KeyQueue>,
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
        if let Some(memory) = self.lane.draft.try_lock().ok().and_then(|mut draft| draft.memory()) {
            let heap = memory.heap();
            all.remembered.add(self.key.clone(), memory, heap);
        }
    }
}

impl QueueHandle {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// The number of reads that were started so far. The result of a later read is not older than this call.
    pub(super) fn reads(&self) -> u64 {
        self.lane.reads.load(Ordering::Acquire)
    }

    /// Returns the number of a new read.
    pub(super) fn begin_read(&self) -> u64 {
        self.lane.reads.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether a caller waits for a turn, polled or not.
    pub(super) fn has_waiters(&self) -> bool {
        self.lane.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes the turn if it is free.
    fn try_lock(self: &Arc<Self>) -> Option<QueueGuard> {
        let draft = Arc::clone(&self.lane.draft).try_lock_owned().ok()?;
        Some(QueueGuard { draft, offer: OfferOnDrop(Arc::clone(self)) })
    }

    /// Waits for a turn, and counts as waiting until then.
    pub(super) async fn lock_before(self: &Arc<Self>, deadline: Deadline) -> Result<QueueGuard> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        if let Some(turn) = self.try_lock() {
            return Ok(turn);
        }
        self.lane.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.lane.waiting);
        deadline.timeout(self.lock()).await
    }

    /// Waits for a turn.
    pub(super) async fn lock(self: &Arc<Self>) -> QueueGuard {
        let (mut patience, mut missed) = (FIRST_CHECK, false);
        loop {
            let mut free = pin!(self.lane.free.notified());
            free.as_mut().enable();
            if let Some(turn) = self.try_lock() {
                if missed {
                    // The turn was offered to a caller that is not polled. The next offers may be lost in the same way.
                    self.lane.free.notify_waiters();
                }
                return turn;
            }
            if self.queues.serial {
                missed = timeout(patience, free).await.is_err();
                patience = (2 * patience).min(LAST_CHECK);
            } else {
                free.await;
            }
        }
    }
}

/// The right to change the draft of a lane. Dropping it offers the next turn.
#[derive(Debug)]
pub(super) struct QueueGuard {
    // Must be dropped before the offer.
    draft: OwnedMutexGuard<PendingRecord>,
    offer: OfferOnDrop,
}

#[derive(Debug)]
struct OfferOnDrop(Arc<QueueHandle>);

impl Drop for OfferOnDrop {
    fn drop(&mut self) {
        let QueueHandle { queues: lanes, lane, .. } = &*self.0;
        if lanes.serial {
            lane.free.notify_one();
        } else {
            // All waiting callers can join one group.
            lane.free.notify_waiters();
        }
    }
}

impl QueueGuard {
    pub(super) fn seat(&self) -> &QueueHandle {
        &self.offer.0
    }
}

impl Deref for QueueGuard {
    type Target = PendingRecord;

    fn deref(&self) -> &PendingRecord {
        &self.draft
    }
}

impl DerefMut for QueueGuard {
    fn deref_mut(&mut self) -> &mut PendingRecord {
        &mut self.draft
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::draft::entry;
    use super::*;
    use crate::backend::{RawEntry, WriteKind};
    use crate::revision::Revision;

    fn key(n: usize) -> Key {
        Key::new(format!("session.{n}")).expect("a key")
    }

    fn stored(n: usize, bytes: usize) -> RawEntry {
        entry(&key(n), Revision::new(7), &WriteKind::Put(vec![0; bytes].into()), None)
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// Stores a value in the lane of a key, and leaves the lane.
    fn remember(lanes: &Arc<KeyQueues>, n: usize, bytes: usize) {
        lanes.handle(&key(n)).try_lock().expect("no caller is there").set_stored(stored(n, bytes));
    }

    fn is_remembered(lanes: &Arc<KeyQueues>, n: usize) -> bool {
        lanes.handle(&key(n)).try_lock().expect("no caller is there").current().is_some()
    }

    #[test]
    fn a_lane_exists_while_it_is_used_and_its_record_is_remembered() {
        let lanes = Arc::new(KeyQueues::new(false));
        remember(&lanes, 0, 100);
        assert!(lanes.all().used.is_empty());
        let used = lanes.handle(&key(0));
        let other = lanes.handle(&key(0));
        assert!(Arc::ptr_eq(&used.lane, &other.lane));
        // The number of other keys does not matter.
        (1..5_000).for_each(|n| remember(&lanes, n, 100));
        assert_eq!(lanes.all().used.len(), 1);
        drop(used);
        assert!(other.try_lock().expect("it is free").current().is_some());
        drop(other);
        assert!(lanes.all().used.is_empty() && is_remembered(&lanes, 0));
    }

    #[test]
    fn a_bounded_number_of_small_records_is_remembered() {
        let lanes = Arc::new(KeyQueues::new(false));
        (0..120_000).for_each(|n| remember(&lanes, n, 100));
        assert!((0..120_000).all(|n| is_remembered(&lanes, n)));
        (120_000..160_000).for_each(|n| remember(&lanes, n, 100));
        assert!(!is_remembered(&lanes, 0) && (120_000..160_000).all(|n| is_remembered(&lanes, n)));
        // Larger records take more memory.
        (0..6_000).for_each(|n| remember(&lanes, n, 16 * 1_024));
        let count = lanes.all().remembered.len();
        assert!((3_800..4_200).contains(&count), "{count} records of 16 KiB in 64 MiB");
    }

    #[tokio::test]
    async fn a_lane_is_wanted_while_somebody_waits() {
        let lanes = Arc::new(KeyQueues::new(false));
        let seat = lanes.handle(&key(0));
        let first = seat.lock_before(deadline()).await.unwrap();
        assert!(!seat.has_waiters());
        let mut second = Box::pin(seat.lock_before(deadline()));
        assert!(second.as_mut().now_or_never().is_none() && seat.has_waiters());
        drop(second);
        assert!(!seat.has_waiters());
        let mut third = Box::pin(seat.lock_before(deadline()));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(third.await.unwrap());
        assert!(!seat.has_waiters());
    }

    #[tokio::test(start_paused = true)]
    async fn another_caller_takes_a_turn_offered_to_an_unpolled_one() {
        for one_by_one in [false, true] {
            let lanes = Arc::new(KeyQueues::new(one_by_one));
            let seat = lanes.handle(&key(0));
            let first = seat.lock_before(deadline()).await.unwrap();
            let mut left: Vec<_> = (0..100).map(|_| Box::pin(seat.lock_before(deadline()))).collect();
            left.iter_mut().for_each(|waiting| assert!(waiting.as_mut().now_or_never().is_none()));
            let mut last = Box::pin(seat.lock_before(deadline()));
            assert!(last.as_mut().now_or_never().is_none());
            drop(first);
            let start = tokio::time::Instant::now();
            drop(last.await.unwrap());
            assert!(start.elapsed() <= FIRST_CHECK, "{:?}", start.elapsed());
            // The other callers get a turn when they are polled.
            for waiting in left {
                drop(waiting.await.unwrap());
            }
        }
    }
}
