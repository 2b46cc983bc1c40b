//! One who looks up, now and then, for everybody who waits.
//!
//! Nobody tells a request that its connection broke, so whoever waits for an answer has to look, some twenty times a
//! second. A timer for each request would be the dearest part of it: each is set and taken back again, and wakes the
//! thread that waits for the network to tell it so. So one task of the connection looks up for all, while anybody waits, and
//! ends soon afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How often one who waits looks whether its connection still is the one that it was sent on.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// After how many looks that nobody wanted it ends.
const IDLE: u32 = 20;

/// Wakes those who wait.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    up: Notify,
    /// Whether anybody waited since the last look.
    wanted: AtomicBool,
    running: AtomicBool,
}

impl Lookout {
    /// The next look, from now on, also if it comes before this is waited for. Comes within a [`SLICE`] and a moment.
    pub(super) fn next(self: &Arc<Self>) -> Notified<'_> {
        let next = self.up.notified();
        self.wanted.store(true, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) && !self.running.swap(true, Ordering::SeqCst) {
            tokio::spawn(look(Running(Arc::downgrade(self))));
        }
        next
    }

    /// Lets everybody look now.
    pub(super) fn look_now(&self) {
        self.up.notify_waiters();
    }
}

/// The task's end, however it comes: its runtime may be another than that of those who wait, and go before them. They look,
/// and begin another.
struct Running(Weak<Lookout>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(lookout) = self.0.upgrade() {
            lookout.running.store(false, Ordering::SeqCst);
            lookout.look_now();
        }
    }
}

async fn look(running: Running) {
    let mut idle = 0;
    while idle < IDLE {
        tokio::time::sleep(SLICE).await;
        let Some(lookout) = running.0.upgrade() else { return };
        idle = if lookout.wanted.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        lookout.look_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_looks_while_anybody_waits_and_begins_again() {
        let lookout = Arc::new(Lookout::default());
        for _ in 0..3 {
            let begun = tokio::time::Instant::now();
            for _ in 0..3 {
                lookout.next().await;
            }
            assert!(begun.elapsed() <= 4 * SLICE, "{:?}", begun.elapsed());
            while lookout.running.load(Ordering::SeqCst) {
                tokio::time::sleep(SLICE).await;
            }
        }
    }

    #[test]
    fn it_goes_on_where_its_runtime_is_gone() {
        let lookout = Arc::new(Lookout::default());
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let [first, second] = [runtime(), runtime()];
        first.block_on(async { lookout.next().await });
        let next = {
            let _of_the_first = first.enter();
            lookout.next()
        };
        drop(first);
        second.block_on(next);
        second.block_on(async { lookout.next().await });
    }
}
