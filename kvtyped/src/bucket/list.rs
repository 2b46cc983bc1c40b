//! `list`, `keys`, `history`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt};

use super::{ReadBucket, Version, decode, verb};
use crate::backend::{RawEntry, Scan};
use crate::bucket::Entry;
use crate::error::Result;
use crate::key::{ModelKey, Pattern};
use crate::model::{Filter, KvModel};

impl<T: KvModel> ReadBucket<T> {
    /// Reads the records that a filter matches, as a stream, in the order in which they were written.
    ///
    /// What does not decode is an `Err` in its place, with its key and revision; the stream goes on behind it. A record
    /// that is written while the list is read may be in it twice, or not.
    ///
    /// In a replicated bucket any server that stores it may answer, as for a plain read: a list may miss what was just
    /// acknowledged, and more where that server has just come back.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// for (tenant, id) in [("acme", 1), ("beta", 2), ("acme", 3)] {
    ///     sessions.put(&Session { tenant: tenant.into(), id }).await?;
    /// }
    /// let mut ids = Vec::new();
    /// let mut found = sessions.list(SessionKey::filter().tenant("acme")).await?;
    /// while let Some(session) = found.try_next().await? {
    ///     ids.push(session.id);
    /// }
    /// assert_eq!(ids, [1, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Items are errors; one that names no key (`Timeout`, `BucketNotFound`, ..) is the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the work on the server.
    pub fn list(&self, filter: impl Into<Filter<T>>) -> List<'_, T> {
        List { bucket: self, filter: filter.into(), timeout: None }
    }

    /// Reads the keys of the records that a filter matches, as a stream, without their values.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// # sessions.put(&Session { tenant: "acme".into(), id: 1 }).await?;
    /// let keys: Vec<SessionKey> = sessions.keys(..).await?.try_collect().await?;
    /// assert_eq!(keys, [SessionKey::new("acme", 1)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As of [`list`](Self::list): a key in the bucket that is none of the model's is an `Err` in its place.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the work on the server.
    pub fn keys(&self, filter: impl Into<Filter<T>>) -> Keys<'_, T> {
        Keys { bucket: self, filter: filter.into(), timeout: None }
    }

    /// Reads all that is kept of a key, oldest first: records, deletes, purges, expiries.
    ///
    /// In a replicated bucket it is as fresh as a [`list`](Self::list).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "app", history = 8)]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
    /// configs.put(&AppConfig { limit: 1 }).await?;
    /// configs.delete(&AppConfigKey).await?;
    ///
    /// let past = configs.history(&AppConfigKey).await?;
    /// assert!(matches!(&past[0], Version::Put(entry) if entry.limit == 1));
    /// assert!(matches!(&past[1], Version::Removed { reason: Removed::Deleted, .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidKey` if the key is too long. What does not decode is a [`Version::Undecodable`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the work on the server.
    pub fn history<'a>(&'a self, key: &'a T::Key) -> History<'a, T> {
        History { bucket: self, key, timeout: None }
    }

    fn scan(
        &self,
        operation: &'static str,
        patterns: Vec<Pattern>,
        history: bool,
        headers_only: bool,
        timeout: Option<Duration>,
    ) -> Result<BoxStream<'static, Result<RawEntry>>> {
        let patience = timeout.unwrap_or(self.inner.timeout);
        let entries = self.raw(operation)?.scan(Scan { patterns, history, headers_only, patience });
        let name = self.name().to_owned();
        Ok(entries.map(move |entry| entry.map_err(|error| error.within(operation, &name, None))).boxed())
    }
}

/// A list of records; see [`ReadBucket::list`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct List<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl<T: KvModel> List<'_, T> {
    /// How long it may go without progress; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Entries<T>> {
        let entries = self.bucket.scan("list", self.filter.patterns().to_vec(), false, false, self.timeout)?;
        let name = self.bucket.name().to_owned();
        let records = entries.filter_map(move |entry| {
            let record = entry.and_then(|raw| decode::entry(&raw)).transpose();
            std::future::ready(record.map(|record| record.map_err(|error| error.within("list", &name, None))))
        });
        Ok(Entries { records: records.boxed() })
    }
}

verb!(List => Entries<T>);

/// A stream of records; see [`ReadBucket::list`].
#[must_use = "a stream does nothing until it is polled"]
pub struct Entries<T: KvModel> {
    records: BoxStream<'static, Result<Entry<T>>>,
}

impl<T: KvModel> Stream for Entries<T> {
    type Item = Result<Entry<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.records.poll_next_unpin(context)
    }
}

impl<T: KvModel> fmt::Debug for Entries<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

/// A list of keys; see [`ReadBucket::keys`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct Keys<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Keys<'_, T> {
    /// How long it may go without progress; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<KeysStream<T>> {
        let entries = self.bucket.scan("keys", self.filter.patterns().to_vec(), false, true, self.timeout)?;
        let name = self.bucket.name().to_owned();
        let keys = entries.filter_map(move |entry| {
            let key = entry.and_then(|raw| match raw.is_live() {
                true => decode::key::<T>(&raw.key).map(Some).map_err(|error| error.at_revision(raw.revision)),
                false => Ok(None),
            });
            std::future::ready(key.transpose().map(|key| key.map_err(|error| error.within("keys", &name, None))))
        });
        Ok(KeysStream { keys: keys.boxed() })
    }
}

verb!(Keys => KeysStream<T>);

/// A stream of keys; see [`ReadBucket::keys`].
#[must_use = "a stream does nothing until it is polled"]
pub struct KeysStream<T: KvModel> {
    keys: BoxStream<'static, Result<T::Key>>,
}

impl<T: KvModel> Stream for KeysStream<T> {
    type Item = Result<T::Key>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.keys.poll_next_unpin(context)
    }
}

impl<T: KvModel> fmt::Debug for KeysStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysStream").finish_non_exhaustive()
    }
}

/// A read of a key's history; see [`ReadBucket::history`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct History<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    timeout: Option<Duration>,
}

impl<T: KvModel> History<'_, T> {
    /// How long it may go without progress; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Vec<Version<T>>> {
        let Self { bucket, key, timeout } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("history", error))?;
        let mut entries = bucket.scan("history", vec![Pattern::exact(&key)], true, false, timeout)?;
        let mut versions = Vec::new();
        while let Some(entry) = entries.next().await {
            let version = entry.and_then(|raw| decode::version(&raw));
            versions.push(version.map_err(|error| error.within("history", bucket.name(), Some(key.as_str())))?);
        }
        Ok(versions)
    }
}

verb!(History => Vec<Version<T>>);
