//! The transactions of a bucket in this process, which take turns once they have conflicted.
//!
//! A refused batch costs the server as much as an accepted one. Transactions that have conflicted therefore take turns,
//! and transactions that arrive while others take turns check their reads before they send. A pass only saves work: a
//! transaction is correct without one. A pass covers the closure, which runs in the caller's task. A holder whose
//! future was woken but is not polled is therefore passed over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use crate::backend::Deadline;

/// How long a woken holder may stay unpolled before it is passed over, and how long a waiter waits before its first
/// check.
const IDLE_LIMIT: Duration = Duration::from_millis(20);

/// The longest wait between two checks.
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(160);

/// The transactions of a bucket in this process.
#[derive(Debug)]
pub(crate) struct ContentionGate {
    /// Never held across an await.
    holder: Mutex<Option<Arc<Activity>>>,
    free: Notify,
    /// The number of unfinished transactions that have conflicted.
    contended: AtomicUsize,
    /// Permits for transactions that have not conflicted. Only separate tasks wait for a permit and hold it.
    pub(crate) sending: Semaphore,
}

impl Default for ContentionGate {
    fn default() -> Self {
        let sending = Semaphore::new(Self::MAX_SENDERS as usize);
        Self { holder: Mutex::default(), free: Notify::new(), contended: AtomicUsize::new(0), sending }
    }
}

impl ContentionGate {
    /// The number of concurrent sends of transactions that have not conflicted.
    pub(crate) const MAX_SENDERS: u32 = 8;

    fn holder(&self) -> MutexGuard<'_, Option<Arc<Activity>>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether some transactions have conflicted.
    pub(crate) fn is_busy(&self) -> bool {
        self.contended.load(Ordering::Acquire) > 0
    }

    /// Waits for a pass, for half of the remaining time at most: the closure of the holder may wait for this
    /// transaction.
    pub(crate) async fn acquire(self: Arc<Self>, activity: Arc<Activity>, deadline: Deadline) -> Option<GatePass> {
        self.contended.fetch_add(1, Ordering::AcqRel);
        let pass = GatePass { gate: self, activity };
        timeout(deadline.remaining() / 2, pass.wait()).await.ok()?;
        Some(pass)
    }
}

/// A pass, or the wait for one.
#[derive(Debug)]
pub(crate) struct GatePass {
    gate: Arc<ContentionGate>,
    activity: Arc<Activity>,
}

impl GatePass {
    async fn wait(&self) {
        let mut interval = IDLE_LIMIT;
        loop {
            let mut free = std::pin::pin!(self.gate.free.notified());
            free.as_mut().enable();
            if self.try_acquire() {
                return;
            }
            // A pass that was offered to an unpolled waiter is found at the next check.
            let _ = timeout(interval, free).await;
            interval = (2 * interval).min(MAX_CHECK_INTERVAL);
        }
    }

    fn try_acquire(&self) -> bool {
        let mut holder = self.gate.holder();
        let is_free = holder.as_ref().is_none_or(|holder| holder.is_idle());
        if is_free {
            *holder = Some(Arc::clone(&self.activity));
        }
        is_free
    }
}

impl Drop for GatePass {
    fn drop(&mut self) {
        self.gate.contended.fetch_sub(1, Ordering::AcqRel);
        let mut holder = self.gate.holder();
        if holder.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, &self.activity)) {
            *holder = None;
            drop(holder);
            self.gate.free.notify_one();
        }
    }
}

/// Whether a future is polled when it is woken.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// When it was woken, if it was not polled since.
    woken: Mutex<Option<Instant>>,
}

impl Activity {
    fn woken(&self) -> MutexGuard<'_, Option<Instant>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.woken().is_some_and(|since| since.elapsed() >= IDLE_LIMIT)
    }
}

/// A future that records when it is woken and polled.
pub(crate) struct Tracked<'a, R> {
    future: BoxFuture<'a, R>,
    activity: Arc<Activity>,
}

impl<'a, R> Tracked<'a, R> {
    pub(crate) fn new(activity: Arc<Activity>, future: BoxFuture<'a, R>) -> Self {
        Self { future, activity }
    }
}

impl<R> Future for Tracked<'_, R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        *self.activity.woken() = None;
        let waker = ActivityWaker { activity: Arc::clone(&self.activity), waker: context.waker().clone() };
        self.future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(waker))))
    }
}

impl<R> fmt::Debug for Tracked<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("activity", &self.activity).finish_non_exhaustive()
    }
}

struct ActivityWaker {
    activity: Arc<Activity>,
    waker: Waker,
}

impl Wake for ActivityWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.activity.woken().get_or_insert_with(Instant::now);
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// A transaction that holds its pass until it is signalled to end.
    fn holds(gate: &Arc<ContentionGate>, end: &Arc<Notify>) -> BoxFuture<'static, bool> {
        let activity = Arc::<Activity>::default();
        let (gate, end, own) = (Arc::clone(gate), Arc::clone(end), Arc::clone(&activity));
        let work = async move {
            let pass = gate.acquire(own, deadline()).await;
            end.notified().await;
            pass.is_some()
        };
        Tracked::new(activity, work.boxed()).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_holder_keeps_its_pass() {
        let (gate, end) = (Arc::<ContentionGate>::default(), Arc::new(Notify::new()));
        let first = tokio::spawn(holds(&gate, &end));
        tokio::task::yield_now().await;
        let second = holds(&gate, &end);
        // It waits for half of its time, and then continues without a pass.
        let second = tokio::spawn(second);
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(gate.is_busy() && !second.is_finished());
        end.notify_one();
        assert!(first.await.unwrap());
        tokio::time::sleep(IDLE_LIMIT).await;
        end.notify_one();
        assert!(second.await.unwrap() && !gate.is_busy());
    }

    #[tokio::test(start_paused = true)]
    async fn unpolled_holder_loses_its_turn() {
        let (gate, end) = (Arc::<ContentionGate>::default(), Arc::new(Notify::new()));
        let mut left = holds(&gate, &end);
        assert!(left.as_mut().now_or_never().is_none());
        // Waiters that are also not polled.
        let mut waiters: Vec<_> = (0..10).map(|_| holds(&gate, &end)).collect();
        waiters.iter_mut().for_each(|waiter| assert!(waiter.as_mut().now_or_never().is_none()));
        end.notify_waiters();
        let start = Instant::now();
        let pass = Arc::clone(&gate).acquire(Arc::default(), deadline()).await;
        assert!(pass.is_some() && start.elapsed() <= 4 * IDLE_LIMIT, "{:?}", start.elapsed());
        // The end of the holder that was passed over frees nothing.
        assert!(left.await);
        assert!(gate.holder().is_some());
        drop(pass);
        assert!(gate.holder().is_none());
    }
}
