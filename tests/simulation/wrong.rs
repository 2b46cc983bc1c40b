//! Locks as one would write them, for the negative controls; and one that is right, to show where they differ.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvtyped::prelude::*;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// How the holder of a lock knows that it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// Until a renewal fails.
    UntilAFailure,
    /// For the time to live, less a margin, from the acknowledgement of its last renewal.
    FromTheAnswer,
    /// The same from the sending. That is right.
    FromTheSending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "claim.{name}", history = 1)]
pub(super) struct Claimed {
    name: String,
    holder: u64,
}

/// Holds it, as it believes.
#[derive(Debug)]
pub(super) struct WrongGuard {
    /// Until when; nothing if it is lost.
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

/// Takes the lock, sooner or later.
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

/// Until when it is held, now that the acknowledgement of what was sent then is here.
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
