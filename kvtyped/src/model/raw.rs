//! A record without a model: its key and its bytes.

use std::fmt;

use bytes::Bytes;

use super::{KvModel, SingleRevision};
use crate::codec;
use crate::config::BucketConfig;
use crate::key::Key;

/// A record as it is stored: its key and its bytes. The model of a [raw view](crate::Store::raw), for tools that work
/// with buckets of any model.
///
/// The [headers](crate::Entry::headers) of a record, such as its schema version, are metadata of its entry. A write
/// stores none, unless [`Put::headers`](crate::bucket::Put::headers) sets them. A change
/// ([`modify`](crate::Bucket::modify), [`touch`](crate::Bucket::touch)) keeps the headers that it found.
///
/// Its `Debug` output contains the number of the bytes, and not the bytes.
///
/// ```
/// # use kvtyped::prelude::*;
/// use kvtyped::RawRecord;
///
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// # #[kv(bucket = "sessions", key = "{tenant}.{id}")]
/// # struct Session { tenant: String, id: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// # let store = Store::memory();
/// # let sessions: Bucket<Session> = store.bucket().await?;
/// # sessions.put(&Session { tenant: "acme".into(), id: 7 }).await?;
/// let raw: Bucket<RawRecord> = store.raw("sessions").await?;
/// let entries: Vec<Entry<RawRecord>> = raw.list(..).await?.try_collect().await?;
/// assert_eq!(entries[0].key.as_str(), "acme.7");
/// assert_eq!(&entries[0].bytes[..], br#"{"tenant":"acme","id":7}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawRecord {
    /// The key, verbatim.
    pub key: Key,
    /// The stored bytes.
    pub bytes: Bytes,
}

impl RawRecord {
    /// Creates a record.
    pub fn new(key: Key, bytes: impl Into<Bytes>) -> Self {
        Self { key, bytes: bytes.into() }
    }
}

impl KvModel for RawRecord {
    type Key = Key;
    type Value = Bytes;
    type Codec = codec::Bytes;

    const __IS_RAW: bool = true;

    /// The settings have no name. [`Store::raw`](crate::Store::raw) sets it.
    fn settings() -> BucketConfig {
        BucketConfig::default()
    }

    fn key(&self) -> Key {
        self.key.clone()
    }

    fn stored(&self) -> &Bytes {
        &self.bytes
    }

    fn from_stored(key: Key, bytes: Bytes) -> Self {
        Self { key, bytes }
    }

    fn __has_key(&self, key: &Key) -> bool {
        self.key == *key
    }
}

/// The history of the bucket is checked when a TTL is used.
#[diagnostic::do_not_recommend]
impl SingleRevision for RawRecord {}

impl fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, bytes } = self;
        f.debug_struct("RawRecord").field("key", key).field("bytes", &format_args!("{} bytes", bytes.len())).finish()
    }
}
