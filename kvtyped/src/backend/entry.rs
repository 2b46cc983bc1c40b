//! One stored entry.

use std::time::SystemTime;

use bytes::Bytes;

use super::OperationId;
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// What is stored under a key at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct RawEntry {
    /// The key.
    pub key: Key,
    /// The revision.
    pub revision: Revision,
    /// When it was written, by the server's clock.
    pub created: SystemTime,
    /// What the entry says.
    pub operation: Operation,
    /// The value; empty for a marker, and where only headers were asked for.
    pub value: Bytes,
    /// The time to live that it was written with.
    pub ttl: Option<Ttl>,
    /// The id of the operation that wrote it, if it was one of ours.
    pub id: Option<OperationId>,
}

/// What an entry says of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// It has this value.
    Put,
    /// It was deleted.
    Delete,
    /// It was deleted with its history.
    Purge,
    /// It expired.
    Expired,
    /// Something that this version does not know; not a value.
    Unknown(String),
}

impl RawEntry {
    /// Whether it holds a value, and is not the marker of a removal.
    pub fn is_live(&self) -> bool {
        self.operation == Operation::Put
    }

    /// Whether it is the marker of a removal. What this version does not know is neither that nor a value.
    pub fn is_removed(&self) -> bool {
        matches!(self.operation, Operation::Delete | Operation::Purge | Operation::Expired)
    }
}
