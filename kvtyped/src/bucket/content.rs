//! The content of a write, and the schema version that it was encoded for.

use std::time::SystemTime;

use bytes::Bytes;

use crate::backend::{Operation, RawEntry, RecordHeaders, Write, WriteKind};
use crate::key::Key;
use crate::model::index::{IndexInfo, IndexValues};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The content of a write: its value or removal, the headers of the record, and the TTL.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) kind: WriteKind,
    pub(crate) headers: RecordHeaders,
    pub(crate) ttl: Option<Ttl>,
    /// The schema version that the bucket must take for this content to be valid.
    pub(crate) target: Option<Target>,
    /// The index values of the record. `None` for a write that leaves them as they are, and for a model without indexes.
    pub(crate) index: Option<IndexValues>,
}

/// The schema version of a model that a bucket takes, as it was when a record was encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name of the model.
    pub(crate) model: &'static str,
    /// The version that the bucket takes.
    pub(crate) writes: u32,
    /// The newest version that the program knows.
    pub(crate) knows: u32,
    /// The indexes that the program knows.
    pub(crate) indexes: &'static [IndexInfo],
    /// A hash of the builds of the indexes, taken before the entries of the record were stored. `None` if the write stores
    /// no entries.
    pub(crate) builds: Option<u64>,
}

impl Content {
    /// Creates the content of a record.
    pub(crate) fn put(value: Bytes, headers: RecordHeaders, target: Option<Target>) -> Self {
        Self { kind: WriteKind::Put(value), headers, ttl: None, target, index: None }
    }

    /// Creates the content of a removal.
    pub(crate) fn removal(kind: WriteKind, target: Option<Target>) -> Self {
        Self { kind, headers: RecordHeaders::default(), ttl: None, target, index: Some(IndexValues::default()) }
    }

    /// Sets the TTL.
    pub(crate) fn with_ttl(self, ttl: Option<Ttl>) -> Self {
        Self { ttl, ..self }
    }

    /// Sets the index values of the record.
    pub(crate) fn with_index(self, index: Option<IndexValues>) -> Self {
        Self { index, ..self }
    }

    /// Whether the write stores a record.
    pub(crate) fn is_put(&self) -> bool {
        matches!(self.kind, WriteKind::Put(_))
    }

    /// Returns the write of this content, with a new operation id.
    pub(crate) fn write(self, key: Key) -> Write {
        Write::new(key, self.kind).with_ttl(self.ttl).with_headers(self.headers)
    }

    /// Returns the entry of a key after a write of this content. Its operation id is unknown.
    pub(crate) fn entry(&self, key: &Key, revision: Revision, created: SystemTime) -> RawEntry {
        let Self { kind, headers, ttl, target: _, index: _ } = self;
        let (operation, value) = match kind {
            WriteKind::Put(value) => (Operation::Put, value.clone()),
            WriteKind::Delete => (Operation::Delete, Bytes::new()),
            WriteKind::Purge => (Operation::Purge, Bytes::new()),
        };
        let (key, headers, ttl) = (key.clone(), headers.clone(), *ttl);
        RawEntry { key, revision, created, operation, value, ttl, headers, id: None }
    }
}
