//! A shared timer: one task wakes all waiting requests at a fixed interval.
//!
//! A request is not notified when its connection breaks. Each waiting request therefore checks the connection about 20
//! times a second. A timer per request would be the most expensive part of the request: each timer is registered and
//! cancelled, and a new timer wakes the thread that polls the network. So one task per connection wakes all waiting
//! requests. It ends soon after the last one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How often a waiting request checks whether its connection was replaced.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The number of consecutive intervals without a waiter that ends the task.
const IDLE_TICKS: u32 = 20;

/// Wakes all waiters at a fixed interval.
#[derive(Debug, Default)]
pub(crate) struct SharedTicker {
    up: Notify,
    /// Whether a waiter registered since the last tick.
    wanted: AtomicBool,
    running: AtomicBool,
}

impl SharedTicker {
    /// Returns a future that completes at the first tick after this call, even if it is polled only after that tick.
    /// The tick comes within a [`TICK`] and a short scheduling delay.
    pub(crate) fn next(self: &Arc<Self>) -> Notified<'_> {
        let next = self.up.notified();
        self.wanted.store(true, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) && !self.running.swap(true, Ordering::SeqCst) {
            tokio::spawn(tick(TickerTask(Arc::downgrade(self))));
        }
        next
    }

    /// Wakes all waiters now.
    pub(crate) fn tick_now(&self) {
        self.up.notify_waiters();
    }
}

/// Marks the task as stopped when it is dropped, and wakes the waiters, which then start another task. The task's
/// runtime may end before the runtimes of the waiters do.
struct TickerTask(Weak<SharedTicker>);

impl Drop for TickerTask {
    fn drop(&mut self) {
        if let Some(ticker) = self.0.upgrade() {
            ticker.running.store(false, Ordering::SeqCst);
            ticker.tick_now();
        }
    }
}

async fn tick(running: TickerTask) {
    let mut idle = 0;
    while idle < IDLE_TICKS {
        tokio::time::sleep(TICK).await;
        let Some(ticker) = running.0.upgrade() else { return };
        idle = if ticker.wanted.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        ticker.tick_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticker_runs_while_awaited_and_restarts() {
        let ticker = Arc::new(SharedTicker::default());
        for _ in 0..3 {
            let started = tokio::time::Instant::now();
            for _ in 0..3 {
                ticker.next().await;
            }
            assert!(started.elapsed() <= 4 * TICK, "{:?}", started.elapsed());
            while ticker.running.load(Ordering::SeqCst) {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    #[test]
    fn ticker_continues_on_another_runtime() {
        let ticker = Arc::new(SharedTicker::default());
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let [first, second] = [runtime(), runtime()];
        first.block_on(async { ticker.next().await });
        let next = {
            let _of_the_first = first.enter();
            ticker.next()
        };
        drop(first);
        second.block_on(next);
        second.block_on(async { ticker.next().await });
    }
}
