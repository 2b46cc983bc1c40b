//! `get`.

use std::time::Duration;

use super::decode;
use super::entry::Entry;
use super::handle::ReadBucket;
use super::verb::verb;
use crate::backend::{KeySpace, Read, ReadAt};
use crate::error::{Error, Result};
use crate::key::ModelKey;
use crate::model::KvModel;
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Reads the record of a key. Returns `None` if the key has no live record.
    ///
    /// In a replicated bucket, a plain read may miss a write that was just acknowledged. [`Get::read`] requests more
    /// consistency.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::Read;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{name}", history = 8)]
    /// # struct Flag { name: String, on: bool }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let flags: Bucket<Flag> = Store::memory().bucket().await?;
    /// let key = FlagKey::new("dark");
    /// let first = flags.put(&Flag { name: "dark".into(), on: false }).await?;
    /// let second = flags.put(&Flag { name: "dark".into(), on: true }).await?;
    ///
    /// let entry = flags.get(&key).read(Read::AtLeast(second)).await?.expect("just written");
    /// assert!(entry.on);
    /// let before = flags.get(&key).at(first).await?.expect("eight revisions are kept");
    /// assert!(!before.on);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Decode` if the stored value is not a record of the model. Returns `Newer` or `TooOld` if the program
    /// does not read the schema version of the record. Returns `InvalidKey` if the key is too long.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn get<'a>(&'a self, key: &'a T::Key) -> Get<'a, T> {
        Get { bucket: self, key, at: ReadAt::Newest(Read::Any), timeout: None }
    }
}

/// A read of one record; see [`ReadBucket::get`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct Get<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    at: ReadAt,
    timeout: Option<Duration>,
}

impl<T: KvModel> Get<'_, T> {
    /// Sets the consistency of the read.
    pub fn read(mut self, read: Read) -> Self {
        self.at = ReadAt::Newest(read);
        self
    }

    /// Reads the record at this revision. Returns `None` if the revision belongs to another key or is no longer stored.
    pub fn at(mut self, revision: Revision) -> Self {
        self.at = ReadAt::Revision(revision);
        self
    }

    /// Sets the timeout. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Option<Entry<T>>> {
        let Self { bucket, key, at, timeout } = self;
        let raw = bucket.raw("get")?;
        let encoded = key.encode().map_err(|error| bucket.bad_key("get", error))?;
        bucket.note_key(&encoded);
        // Load the epoch before the request.
        let epoch = raw.identity().connection_epoch;
        let read = async {
            let entry = raw.read(KeySpace::Records, &encoded, at, bucket.deadline(timeout)).await?;
            let Some(entry) = entry else { return Ok(None) };
            bucket.record_read(&entry);
            // A missing record is often created next. A marker with a TTL may expire, so it is not remembered.
            if entry.is_removed() && entry.ttl.is_none() && matches!(at, ReadAt::Newest(_)) {
                bucket.inner.tombstones.remember(entry.key.clone(), entry.revision, epoch);
            }
            let found = decode::entry(&entry, bucket.clock())?;
            if const { !T::__INDEXES.is_empty() }
                && let (Some(found), ReadAt::Newest(_)) = (&found, at)
            {
                bucket.remember_values(&entry, found, epoch);
            }
            Ok::<_, Error>(found)
        };
        read.await.map_err(|error| error.with_context("get", bucket.name(), Some(encoded.as_str())))
    }
}

verb!(Get("get", bucket) => Option<Entry<T>>);
