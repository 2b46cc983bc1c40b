//! A record with its metadata.

use std::fmt;
use std::ops::Deref;
use std::time::SystemTime;

use crate::error::Error;
use crate::model::KvModel;
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
    pub(super) pending: Pending,
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

    /// Returns the time of the write by the server's clock, or by the local clock if this operation wrote the record.
    pub fn created(&self) -> SystemTime {
        self.created
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

    /// Returns the same entry with this number of pending entries.
    pub(crate) fn with_pending(mut self, pending: u64) -> Self {
        self.pending = Pending(pending);
        self
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
        let Self { value, key, revision, created, ttl, version, pending } = self;
        Self {
            value: value.clone(),
            key: key.clone(),
            revision: *revision,
            created: *created,
            ttl: *ttl,
            version: *version,
            pending: *pending,
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
        let Self { value, key, revision, created, ttl, version: _, pending: _ } = self;
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
