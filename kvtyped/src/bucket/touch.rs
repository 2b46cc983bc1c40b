//! `touch`.

use std::time::Duration;

use super::content::Content;
use super::decode;
use super::handle::Bucket;
use super::modify::decision::{CasDecision, CasLimits, CasStart};
use super::precondition::FenceResult;
use super::verb::{options, verb};
use super::write::{check_kept_ttl, check_ttl};
use crate::backend::RawEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{KvModel, SingleRevision};
use crate::revision::Revision;

impl<T: KvModel> Bucket<T> {
    /// Writes the record of a key again without a change, which restarts its TTL.
    ///
    /// With [`ttl`](Touch::ttl), the record gets a new TTL. Without it, the record keeps the TTL of its last write, or
    /// the TTL of the bucket.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.create(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// # tokio::time::advance(Duration::from_secs(50)).await;
    /// // 50 seconds later:
    /// sessions.touch(&SessionKey::new(7)).ttl(Duration::from_secs(60)).await?;
    /// # tokio::time::advance(Duration::from_secs(50)).await;
    /// // 50 seconds later still:
    /// assert!(sessions.get(&SessionKey::new(7)).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `NotFound` if the key has no record. Returns `RetriesExhausted` if other writers always come first. Returns
    /// [`ErrorKind::Unsupported`] if the record has a TTL and the bucket keeps a `history`: a server then raises the TTL
    /// to that of the limit markers, and the previous value would reappear when the TTL ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the TTL may or may not restart.
    pub fn touch<'a>(&'a self, key: &'a T::Key) -> Touch<'a, T>
    where
        T: SingleRevision,
    {
        Touch { bucket: self, key, ttl: None, min_age: None, timeout: None, fence: None }
    }
}

/// A restart of a TTL; see [`Bucket::touch`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Touch<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    ttl: Option<Duration>,
    min_age: Option<Duration>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Touch<'_, T> {
    /// Writes only if the last write of the record is at least this long ago, by the server's clock; see
    /// [`Entry::age`](crate::Entry::age). Otherwise returns the revision of the record.
    ///
    /// A session that slides with each request then costs one write for each `age`, and not one for each request. The
    /// record expires between `ttl - age` and `ttl` after its last use.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let (hour, minute) = (Duration::from_secs(3_600), Duration::from_secs(60));
    /// let created = sessions.create(&Session { id: 7 }).ttl(hour).await?;
    /// let key = SessionKey::new(7);
    /// assert_eq!(sessions.touch(&key).ttl(hour).if_older_than(minute).await?, created);
    /// # tokio::time::advance(minute).await;
    /// // A minute later:
    /// assert!(sessions.touch(&key).ttl(hour).if_older_than(minute).await? > created);
    /// # Ok(())
    /// # }
    /// ```
    pub fn if_older_than(mut self, age: Duration) -> Self {
        self.min_age = Some(age);
        self
    }

    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, ttl, min_age, timeout, fence } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("touch", error))?;
        let ttl = check_ttl(bucket.config(), ttl);
        let ttl = ttl.map_err(|error| error.with_context("touch", bucket.name(), Some(key.as_str())))?;
        if min_age.is_some() {
            bucket.refresh_clock().await;
        }
        let limits = CasLimits { attempts: None, deadline: bucket.deadline(timeout), fence };
        let decide = |newest: Option<&RawEntry>| match newest {
            Some(live) if decode::removal(live)?.is_none() => {
                bucket.clock().observe(live.created);
                if min_age.is_some_and(|min_age| bucket.clock().age(live.created) < min_age) {
                    return Ok(CasDecision::Stop { result: () });
                }
                // The same bytes under the same headers, whatever their version.
                let target = bucket.schema().target::<T>()?;
                let headers = live.headers.clone().with_cause(None);
                let ttl = if ttl.is_some() { ttl } else { check_kept_ttl(bucket.config(), live.ttl)? };
                let content = Content::put(live.value.clone(), headers, target).with_ttl(ttl);
                Ok(CasDecision::Write { content, result: () })
            }
            _ => Err(Error::new(ErrorKind::NotFound)),
        };
        let touched = bucket.compare_and_set("touch", &key, CasStart::Read, limits, decide).await;
        let touched = touched.map_err(|error| error.with_context("touch", bucket.name(), Some(key.as_str())))?;
        Ok(touched.revision)
    }
}

options!(ttl: Touch);
options!(fence: Touch);
options!(timeout: Touch);

verb!(Touch("touch", bucket) => Revision);
