//! Naive locks for the negative controls, and a correct variant for comparison.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtyped::prelude::*;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// The rule that tells a holder whether it still has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// The lock is held until a renewal fails.
    UntilAFailure,
    /// The lock is held for the TTL minus a margin, counted from the acknowledgement of the last renewal.
    FromTheAnswer,
    /// The lock is held for the TTL minus a margin, counted from the sending of the last renewal. This rule is correct.
    FromTheSending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "claim.{name}", history = 1)]
pub(super) struct Claimed {
    name: String,
    holder: u64,
}

/// A guard that follows a [`Belief`].
#[derive(Debug)]
pub(super) struct WrongGuard {
    /// The believed end of the lease; `None` if the lock is lost.
    until: Arc<Mutex<Option<Instant>>>,
    pub(super) fence: u64,
    keeper: AbortHandle,
}

impl WrongGuard {
    pub(super) fn is_held(&self) -> bool {
        self.until.lock().expect("one thread").is_some_and(|until| Instant::now() < until)
    }
}

impl Drop for WrongGuard {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Waits until the lock is acquired.
pub(super) async fn lock(bucket: &Bucket<Claimed>, holder: u64, ttl: Duration, belief: Belief) -> WrongGuard {
    let claimed = Claimed { name: "main".into(), holder };
    loop {
        let sent = Instant::now();
        match bucket.create(&claimed).ttl(ttl).await {
            Ok(revision) => {
                let until = Arc::new(Mutex::new(Some(believed(belief, sent, ttl))));
                let keeper = tokio::spawn(keep(bucket.clone(), claimed, revision, ttl, belief, Arc::clone(&until)));
                return WrongGuard { until, fence: revision.get(), keeper: keeper.abort_handle() };
            }
            Err(_) => sleep(Duration::from_millis(200 + 10 * holder)).await,
        }
    }
}

/// Returns the believed end of a lease whose acknowledged request was sent at `sent`.
fn believed(belief: Belief, sent: Instant, ttl: Duration) -> Instant {
    let valid = ttl - (ttl / 10).max(Duration::from_secs(1)).min(ttl / 3);
    match belief {
        Belief::UntilAFailure => sent + Duration::from_secs(1 << 20),
        Belief::FromTheAnswer => Instant::now() + valid,
        Belief::FromTheSending => sent + valid,
    }
}

async fn keep(
    bucket: Bucket<Claimed>,
    claimed: Claimed,
    mut revision: Revision,
    ttl: Duration,
    belief: Belief,
    until: Arc<Mutex<Option<Instant>>>,
) {
    let mut pause = ttl / 3;
    loop {
        sleep(pause).await;
        let sent = Instant::now();
        match bucket.update(&claimed, revision).ttl(ttl).await {
            Ok(renewed) => {
                revision = renewed;
                pause = ttl / 3;
                *until.lock().expect("one thread") = Some(believed(belief, sent, ttl));
            }
            Err(error) if belief == Belief::UntilAFailure || error.is_conflict() => {
                *until.lock().expect("one thread") = None;
                return;
            }
            Err(_) => pause = Duration::from_millis(500),
        }
    }
}
