//! The holders of a semaphore's permits.

use std::time::{Duration, SystemTime};

use futures::StreamExt;

use super::handle::Semaphore;
use crate::error::Result;
use crate::recipes::lease::fence::Fence;
use crate::recipes::lease::record::{LeaseRecord, expires_in, fence_of, time_of};

impl Semaphore {
    /// Returns the holders of the permits, by slot, including slots above the number of permits of this handle. The
    /// answer may be outdated when it arrives.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let gpus = Store::memory().semaphore("gpu", 2).owner("worker-7");
    /// let permit = gpus.acquire().await?;
    /// let holders = gpus.holders().await?;
    /// assert_eq!((holders[0].owner.as_str(), holders[0].slot), ("worker-7", permit.slot()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](crate::ReadBucket::list). Returns `Decode` if the record of a permit is not
    /// readable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub async fn holders(&self) -> Result<Vec<PermitHolder>> {
        let list = async {
            let bucket = self.context.bucket().await?;
            bucket.refresh_clock().await;
            let mut entries = bucket.list(self.context.all::<LeaseRecord>()).await?;
            let mut holders = Vec::new();
            while let Some(entry) = entries.next().await {
                let entry = entry?;
                let Ok(slot) = entry.key().part().parse() else { continue };
                holders.push(PermitHolder {
                    slot,
                    owner: entry.value.owner.clone(),
                    since: time_of(entry.value.since),
                    fence: fence_of(&entry),
                    renewed: entry.created(),
                    expires_in: expires_in(&entry),
                });
            }
            holders.sort_by_key(|holder| holder.slot);
            Ok(holders)
        };
        self.context.in_operation("holders", None, list).await
    }
}

/// The holder of a permit; see [`Semaphore::holders`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermitHolder {
    /// The number of the permit's slot.
    pub slot: u32,
    /// The name of the holder.
    pub owner: String,
    /// When it took the permit, by its own clock.
    pub since: SystemTime,
    /// The fencing token of the holder's term.
    pub fence: Fence,
    /// When the holder last renewed the permit, by the server's clock.
    pub renewed: SystemTime,
    /// The time until the permit expires without a renewal, by the server's clock.
    pub expires_in: Duration,
}
