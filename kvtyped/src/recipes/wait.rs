//! The one way to wait for a lease that another has.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::lease::Lease;
use super::tenure::{Attempt, Claim, Over, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Filter;
use crate::watch::Event;

/// How long nothing may be heard of a lease before somebody who waits looks for himself, at most.
const LOOK: Duration = Duration::from_secs(10);

/// How long one who waits for a lease of this time to live trusts that he hears of its end.
pub(super) fn patience(ttl: Duration) -> Duration {
    let longest = ttl.min(LOOK);
    longest - crate::chance::up_to(longest / 4)
}

/// Whether no patience helps against an error of a watch.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BucketNotFound
            | ErrorKind::PermissionDenied { .. }
            | ErrorKind::Unauthorized
            | ErrorKind::Closed
            | ErrorKind::Unsupported { .. }
            | ErrorKind::InvalidConfig { .. }
    )
}

/// One who waits for a lease.
pub(super) struct Waiting {
    claim: Claim,
    turn: Option<Turn>,
}

impl Waiting {
    pub(super) fn new(claim: Claim, turn: Option<Turn>) -> Self {
        Self { claim, turn }
    }

    /// Waits until it has the lease: tries when it goes, and now and then in case that was missed.
    pub(super) async fn wait(mut self) -> Result<Lease> {
        let bucket = self.claim.bucket.clone();
        let mut events = bucket.watch(Filter::of_key(&self.claim.key)).await?;
        let mut held = false;
        let mut look = Instant::now() + patience(self.claim.times.ttl);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = sleep_until(look) => None,
            };
            let over = match event {
                None => Over::Nothing,
                Some(Some(Ok(Event::Removed { revision, .. }))) => Over::Told(revision),
                Some(Some(Ok(Event::Ready))) if !held => Over::Nothing,
                Some(Some(Ok(Event::Resync))) => {
                    held = false;
                    continue;
                }
                Some(Some(Ok(Event::Put(_) | Event::Undecodable { .. }))) => {
                    held = true;
                    look = Instant::now() + patience(self.claim.times.ttl);
                    continue;
                }
                Some(Some(Ok(_))) => continue,
                Some(Some(Err(error))) if is_final(&error) => return Err(error),
                Some(Some(Err(_))) => continue,
                Some(None) => return Err(Error::new(ErrorKind::Closed)),
            };
            look = Instant::now() + patience(self.claim.times.ttl);
            match self.attempt(over).await? {
                Some(lease) => return Ok(lease),
                // Somebody was faster: the watch tells of it, or has.
                None => held = true,
            }
        }
    }

    async fn attempt(&mut self, over: Over) -> Result<Option<Lease>> {
        let turn = self.turn.take();
        match self.claim.clone().attempt(over, turn).await {
            Attempt::Taken(lease) => Ok(Some(lease)),
            Attempt::Refused(turn) => {
                self.turn = turn;
                Ok(None)
            }
            // What passes is waited for; `wait` bounds it.
            Attempt::Failed(error, turn) if error.is_retryable() => {
                self.turn = turn;
                Ok(None)
            }
            Attempt::Failed(error, _) => Err(error),
        }
    }
}
