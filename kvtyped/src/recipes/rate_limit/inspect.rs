//! The state of a rate limiter as an operator sees it.

use std::time::Duration;

use tokio::time::Instant;

use super::gcra::Quota;
use super::limiter::{LimiterInner, RECIPE, RateLimitDecision, RateLimiter};
use crate::backend::Read;
use crate::error::Result;
use crate::recipes::record::RecipeKey;
use crate::ttl::Ttl;

impl RateLimiter {
    /// Returns the quota of this handle.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns the decision on one event, which does not count: nothing is written for the key.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::recipes::Quota;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let api = Store::memory().rate_limiter("api", Quota::per_minute(1)).await?;
    /// assert!(api.peek("client-1").await?.is_allowed());
    /// assert!(api.check("client-1").await?.is_allowed());
    /// assert!(api.peek("client-1").await?.retry_after().is_some());
    ///
    /// api.reset("client-1").await?;
    /// assert_eq!(api.peek("client-1").await?.remaining(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of a read, and of the reading of the server's clock.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing counts.
    pub async fn peek(&self, key: &str) -> Result<RateLimitDecision> {
        let key = RecipeKey::new(RECIPE, &self.name, key);
        let peek = async {
            let (limiter, timeout) = self.inner(self.timeout).await?;
            limiter.peek(&key, 1, timeout).await
        };
        self.in_operation("peek", &key, peek).await
    }

    /// Forgets the events of a key, so that its full burst is available. Returns whether the key had counted events.
    ///
    /// # Errors
    ///
    /// Returns the errors of a read and of a purge.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the events may or may not be forgotten.
    pub async fn reset(&self, key: &str) -> Result<bool> {
        let key = RecipeKey::new(RECIPE, &self.name, key);
        let reset = async {
            let (limiter, timeout) = self.inner(self.timeout).await?;
            limiter.reset(&key, timeout).await
        };
        self.in_operation("reset", &key, reset).await
    }
}

impl LimiterInner {
    /// Removes the record of a key. Returns whether there was one.
    async fn reset(&self, key: &RecipeKey, timeout: Duration) -> Result<bool> {
        let end = Instant::now().checked_add(timeout);
        let left = || end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
        loop {
            let Some(entry) = self.bucket.get(key).read(Read::Leader).timeout(left()).await? else { return Ok(false) };
            let purge = self.bucket.purge(key).if_revision(entry.revision()).ttl(Ttl::MIN);
            match purge.timeout(left()).await {
                // Another check counted an event.
                Err(error) if error.is_conflict() => {}
                removed => return removed.map(|_| true),
            }
        }
    }
}
