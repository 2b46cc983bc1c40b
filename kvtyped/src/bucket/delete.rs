//! `delete`, `purge`.

use std::time::Duration;

use super::handle::Bucket;
use super::precondition::FenceResult;
use super::verb::{options, verb};
use super::write::{WriteConditions, parse_marker_ttl};
use crate::backend::WriteKind;
use crate::error::Result;
use crate::key::ModelKey;
use crate::model::KvModel;
use crate::revision::Revision;

impl<T: KvModel> Bucket<T> {
    /// Removes the record of a key. Writes a delete marker, even if the key has no record, and keeps the history.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let revision = sessions.put(&Session { id: 7 }).await?;
    /// sessions.delete(&SessionKey::new(7)).if_revision(revision).await?;
    /// assert_eq!(sessions.get(&SessionKey::new(7)).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if the key does not have the revision of [`if_revision`](Delete::if_revision).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be removed.
    pub fn delete<'a>(&'a self, key: &'a T::Key) -> Delete<'a, T> {
        Delete { bucket: self, key, revision: None, timeout: None, fence: None }
    }

    /// Removes the record of a key and its history. Leaves a delete marker, permanently or for a TTL.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}", history = 8)]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { id: 7 }).await?;
    /// sessions.purge(&SessionKey::new(7)).await?;
    /// assert_eq!(sessions.history(&SessionKey::new(7)).await?.len(), 1); // the marker
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if the key does not have the revision of [`if_revision`](Purge::if_revision).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record may or may not be removed.
    pub fn purge<'a>(&'a self, key: &'a T::Key) -> Purge<'a, T> {
        Purge { bucket: self, key, revision: None, ttl: None, timeout: None, fence: None }
    }
}

/// A removal; see [`Bucket::delete`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Delete<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    revision: Option<Revision>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Delete<'_, T> {
    /// Removes the record only if it has this revision.
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, revision, timeout, fence } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("delete", error))?;
        let terms = WriteConditions { expected: revision, fence, timeout };
        bucket.send_removal("delete", key, WriteKind::Delete, None, terms).await
    }
}

/// A removal of a record and its history; see [`Bucket::purge`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Purge<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    revision: Option<Revision>,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Purge<'_, T> {
    /// Removes the record only if it has this revision.
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// Sets how long the delete marker stays: at least one second, rounded up to whole seconds. It needs a bucket with
    /// limit markers. The bucket's `ttl` also removes the marker; the earlier of the two applies.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, revision, ttl, timeout, fence } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("purge", error))?;
        // Any history is allowed: a purge leaves no older value that could reappear.
        let ttl = ttl.map(parse_marker_ttl::<T>).transpose();
        let ttl = ttl.map_err(|error| error.with_context("purge", bucket.name(), Some(key.as_str())))?;
        let terms = WriteConditions { expected: revision, fence, timeout };
        bucket.send_removal("purge", key, WriteKind::Purge, ttl, terms).await
    }
}

options!(fence: Delete Purge);
options!(timeout: Delete Purge);

verb!(Delete("delete", bucket) => Revision);
verb!(Purge("purge", bucket) => Revision);
