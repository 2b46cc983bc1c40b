//! A record with its metadata.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clock::BucketClock;
use crate::backend::RecordHeaders;
use crate::error::Error;
use crate::model::{KvModel, RawRecord};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// A record with its metadata. Dereferences to the record.
pub struct Entry<T: KvModel> {
    pub(super) value: T,
    pub(super) key: T::Key,
    pub(super) revision: Revision,
    pub(super) created: SystemTime,
    pub(super) ttl: Option<Ttl>,
    pub(super) version: u32,
    pub(super) is_rewrite: bool,
    pub(super) pending: Pending,
    /// The headers of a raw record, if it has any.
    pub(super) headers: Option<Box<RecordHeaders>>,
    pub(super) clock: Arc<BucketClock>,
}

/// A number of entries. `u64::MAX` means unknown, because an `Option<u64>` would be larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending(u64);

impl Pending {
    pub(crate) const UNKNOWN: Self = Self(u64::MAX);
}

impl<T: KvModel> Entry<T> {
    /// Returns the record.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the record without its metadata.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Returns the key of the record.
    pub fn key(&self) -> &T::Key {
        &self.key
    }

    /// Returns the revision, which [`update`](crate::Bucket::update) expects.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the time of the write by the server's clock. If the operation that returned this entry wrote the record,
    /// the time is an estimate of that clock; see [`age`](Self::age).
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// Returns the time since the write, by the server's clock. Performs no I/O.
    ///
    /// The server's clock is estimated: the local monotonic clock continues its last reading, from when the bucket was
    /// opened or from the last [`status`](crate::ReadBucket::status). The estimate is wrong by at most one round trip,
    /// plus the drift between the two clocks since that reading: call `status` from time to time in a process that runs
    /// for weeks. An entry that is newer than the estimate corrects it.
    /// The local wall clock is not used, so its changes have no effect. If the server's clock is set back, ages are too
    /// long until the next reading. The age of an entry that the same operation wrote is also too long by the time of
    /// that write.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}", ttl = "1h")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// # tokio::time::advance(Duration::from_secs(20)).await;
    /// // 20 seconds later:
    /// let session = sessions.get(&SessionKey::new(7)).await?.expect("it is live");
    /// assert_eq!(session.age().as_secs(), 20);
    /// assert_eq!(session.remaining().map(|left| left.as_secs()), Some(40));
    /// # Ok(())
    /// # }
    /// ```
    pub fn age(&self) -> Duration {
        self.clock.age(self.created)
    }

    /// Returns the time until the record expires, by the same estimate of the server's clock as [`age`](Self::age).
    ///
    /// The shorter of the record's own TTL and the TTL of the bucket decides. Returns zero if that time has passed, and
    /// `None` if the record never expires. The TTL of the bucket is that of when it was opened.
    pub fn remaining(&self) -> Option<Duration> {
        self.clock.remaining(self.created, self.ttl)
    }

    /// Returns the TTL of this write. `None` if only the TTL of the bucket applies.
    pub fn ttl(&self) -> Option<Ttl> {
        self.ttl
    }

    /// Returns the schema version that the record has in the bucket. The value is already upgraded to the version of the
    /// program.
    pub fn schema_version(&self) -> u32 {
        self.version
    }

    /// Whether a [migration](crate::Bucket::migrate) or a [rewrite](crate::Bucket::rewrite) wrote this revision. A later
    /// write of the record is not a rewrite.
    pub fn is_rewrite(&self) -> bool {
        self.is_rewrite
    }

    /// Returns the number of entries that the bucket still had for the same watch or list when it sent this one, delete
    /// markers included. Zero means that nothing else was pending. Writes may raise the number, and a filter that a
    /// server cannot evaluate makes it too high.
    ///
    /// Returns `None` if the entry was read or written by other means.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// for id in 0..3 {
    ///     sessions.put(&Session { id }).await?;
    /// }
    /// let entries: Vec<_> = sessions.list(..).await?.try_collect().await?;
    /// let pending: Vec<_> = entries.iter().map(|entry| entry.pending()).collect();
    /// assert_eq!(pending, [Some(2), Some(1), Some(0)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pending(&self) -> Option<u64> {
        (self.pending != Pending::UNKNOWN).then_some(self.pending.0)
    }

    /// Sets the headers of a raw record.
    pub(super) fn set_headers(&mut self, headers: &RecordHeaders) {
        self.version = headers.version.unwrap_or(1);
        self.headers = (*headers != RecordHeaders::NONE).then(|| Box::new(headers.clone()));
    }

    /// Returns the same entry with this number of pending entries.
    pub(crate) fn with_pending(mut self, pending: u64) -> Self {
        self.pending = Pending(pending);
        self
    }
}

impl Entry<RawRecord> {
    /// Returns the headers of the record: its schema version, its encoding, and others.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 3)]
    /// # struct User { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let users: Bucket<User> = store.bucket().await?;
    /// users.put(&User { id: 7 }).await?;
    ///
    /// let raw = store.raw("users").await?;
    /// let user = raw.get(&kvtyped::Key::new("7")?).await?.expect("it exists");
    /// assert_eq!(user.headers().version, Some(3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn headers(&self) -> &RecordHeaders {
        static NONE: RecordHeaders = RecordHeaders::NONE;
        self.headers.as_deref().unwrap_or(&NONE)
    }
}

impl<T: KvModel> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: KvModel + Clone> Clone for Entry<T> {
    fn clone(&self) -> Self {
        let Self { value, key, revision, created, ttl, version, is_rewrite, pending, headers, clock } = self;
        Self {
            value: value.clone(),
            key: key.clone(),
            revision: *revision,
            created: *created,
            ttl: *ttl,
            version: *version,
            is_rewrite: *is_rewrite,
            pending: *pending,
            headers: headers.clone(),
            clock: Arc::clone(clock),
        }
    }
}

/// Two reads of the same write are equal: same record, same key, same revision.
impl<T: KvModel + PartialEq> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && self.key == other.key && self.value == other.value
    }
}

impl<T: KvModel + fmt::Debug> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, key, revision, created, ttl, version: _, is_rewrite: _, pending: _, headers: _, clock: _ } =
            self;
        f.debug_struct("Entry")
            .field("key", key)
            .field("revision", revision)
            .field("value", value)
            .field("created", created)
            .field("ttl", ttl)
            .finish()
    }
}

/// One version in the history of a key.
#[non_exhaustive]
pub enum Version<T: KvModel> {
    /// A record was written.
    Put(Entry<T>),
    /// The record was removed.
    Removed {
        /// The key.
        key: T::Key,
        /// The revision of the removal.
        revision: Revision,
        /// The time of the removal.
        created: SystemTime,
        /// The cause of the removal.
        reason: Removed,
    },
    /// The stored bytes are not a record of the model.
    Undecodable {
        /// The key.
        key: T::Key,
        /// The revision.
        revision: Revision,
        /// The decoding error.
        error: Error,
    },
}

/// The cause of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Removed {
    /// `delete` removed the record and kept its history.
    Deleted,
    /// `purge` removed the record and its history.
    Purged,
    /// The TTL of the record ended.
    Expired,
}

impl<T: KvModel> Version<T> {
    /// Returns the key.
    pub fn key(&self) -> &T::Key {
        match self {
            Self::Put(entry) => entry.key(),
            Self::Removed { key, .. } | Self::Undecodable { key, .. } => key,
        }
    }

    /// Returns the revision.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision(),
            Self::Removed { revision, .. } | Self::Undecodable { revision, .. } => *revision,
        }
    }

    /// Returns the record, if this version is one.
    pub fn entry(&self) -> Option<&Entry<T>> {
        match self {
            Self::Put(entry) => Some(entry),
            _ => None,
        }
    }
}

impl<T: KvModel + fmt::Debug> fmt::Debug for Version<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(entry) => f.debug_tuple("Put").field(entry).finish(),
            Self::Removed { key, revision, created, reason } => f
                .debug_struct("Removed")
                .field("key", key)
                .field("revision", revision)
                .field("created", created)
                .field("reason", reason)
                .finish(),
            Self::Undecodable { key, revision, error } => f
                .debug_struct("Undecodable")
                .field("key", key)
                .field("revision", revision)
                .field("error", error)
                .finish(),
        }
    }
}
