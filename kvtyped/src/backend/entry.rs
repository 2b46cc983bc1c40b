//! One stored entry.

use std::time::SystemTime;

use bytes::Bytes;

use super::{OperationId, RecordHeaders};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The entry of a key at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct RawEntry {
    /// The key.
    pub key: Key,
    /// The revision.
    pub revision: Revision,
    /// The time of the write, by the server's clock.
    pub created: SystemTime,
    /// The kind of the entry.
    pub operation: Operation,
    /// The value. Empty for a marker and in reads of headers only.
    pub value: Bytes,
    /// The TTL of the write.
    pub ttl: Option<Ttl>,
    /// The headers of the record.
    pub headers: RecordHeaders,
    /// The id of the operation that wrote the entry, if this crate wrote it.
    pub id: Option<OperationId>,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The key has this value.
    Put,
    /// The key was deleted.
    Delete,
    /// The key was deleted with its history.
    Purge,
    /// The value expired.
    Expired,
    /// An operation that this version does not know. Not a value.
    Unknown(String),
}

impl RawEntry {
    /// Whether the entry holds a value and is not a delete marker.
    pub fn is_live(&self) -> bool {
        self.operation == Operation::Put
    }

    /// Whether the entry is a delete marker. An unknown operation is neither a delete marker nor a value.
    pub fn is_removed(&self) -> bool {
        matches!(self.operation, Operation::Delete | Operation::Purge | Operation::Expired)
    }
}
