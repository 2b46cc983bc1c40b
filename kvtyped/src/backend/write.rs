//! One write, as data.

use std::fmt;

use bytes::Bytes;

use super::headers::RecordHeaders;
use super::key_space::KeySpace;
use crate::config::BucketConfig;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// One write.
#[derive(Clone)]
pub struct Write {
    /// The key space of the key.
    pub space: KeySpace,
    /// The key.
    pub key: Key,
    /// The kind of the write.
    pub kind: WriteKind,
    /// The precondition of the write.
    pub precondition: Option<Precondition>,
    /// The TTL. By default, the TTL of the bucket.
    pub ttl: Option<Ttl>,
    /// The headers of the record.
    pub headers: RecordHeaders,
    /// The write epoch that the bucket must have. `None` for a bucket without write epochs, and for a writer that does
    /// not know them.
    pub epoch: Option<u64>,
    /// Identifies the write if its acknowledgement is lost. Not stored with an index entry.
    pub id: OperationId,
}

/// The kind of a write. Its `Debug` output does not contain the value.
#[derive(Clone, PartialEq, Eq)]
pub enum WriteKind {
    /// A value.
    Put(Bytes),
    /// A delete marker. Keeps the history.
    Delete,
    /// A delete marker. Removes the history.
    Purge,
}

/// A precondition: a key, and the revision that its newest entry must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The key space of the key.
    pub space: KeySpace,
    /// The key, which may differ from the written key.
    pub key: Key,
    /// The expected revision. [`Revision::ZERO`] expects that the key has no entry.
    pub revision: Revision,
}

impl Write {
    /// Creates a write of a record without a precondition and a TTL, with a new operation id.
    pub fn new(key: Key, kind: WriteKind) -> Self {
        let (headers, id) = (RecordHeaders::default(), OperationId::generate());
        Self { space: KeySpace::Records, key, kind, precondition: None, ttl: None, headers, epoch: None, id }
    }

    /// Creates a write of an index entry without a precondition.
    pub fn index_entry(key: Key, value: Bytes) -> Self {
        Self { space: KeySpace::Index, ..Self::new(key, WriteKind::Put(value)) }
    }

    /// Applies the write only if the newest entry of the key has this revision.
    #[must_use]
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.precondition = Some(Precondition { space: self.space, key: self.key.clone(), revision });
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Option<Ttl>) -> Self {
        self.ttl = ttl;
        self
    }

    /// Applies the write only if the bucket has this write epoch.
    #[must_use]
    pub fn in_epoch(mut self, epoch: Option<u64>) -> Self {
        self.epoch = epoch;
        self
    }

    /// Sets the headers of the record.
    #[must_use]
    pub fn with_headers(mut self, headers: RecordHeaders) -> Self {
        self.headers = headers;
        self
    }

    /// Whether this is the write of an index entry.
    pub fn is_index_entry(&self) -> bool {
        self.space == KeySpace::Index
    }

    /// Whether a precondition is on the written key.
    pub(crate) fn is_own(&self, precondition: &Precondition) -> bool {
        (precondition.space, &precondition.key) == (self.space, &self.key)
    }

    /// Whether the message of the write names the subject of its precondition.
    ///
    /// Servers before 2.12.8 check the subject before its transform in some cases: 2.11 in a replicated bucket, and 2.12
    /// in a batch. So every write to a bucket with write epochs names the stored subject.
    pub(crate) fn names_subject_of(&self, precondition: &Precondition, config: &BucketConfig) -> bool {
        let is_beside_epochs = self.is_index_entry() && config.write_epoch.is_some();
        !self.is_own(precondition) || self.epoch.is_some() || is_beside_epochs
    }

    /// Returns an error for an index entry that no bucket stores, and in a bucket without index entries.
    pub(crate) fn check_space(&self, config: &BucketConfig) -> Result<()> {
        if !self.is_index_entry() {
            return Ok(());
        }
        // The settings of a mirror do not show the settings of its origin.
        if config.index_entries != Some(true) && config.mirror.is_none() {
            return Err(Error::no_index_entries(&config.name));
        }
        let is_plain = matches!(self.kind, WriteKind::Put(_))
            && self.ttl.is_none()
            && self.epoch.is_none()
            && self.headers == RecordHeaders::NONE;
        if is_plain { Ok(()) } else { Err(Error::invalid_config("an index entry has only a value and a precondition")) }
    }

    /// Returns the stored bytes, without headers.
    pub fn value(&self) -> &[u8] {
        match &self.kind {
            WriteKind::Put(value) => value,
            WriteKind::Delete | WriteKind::Purge => &[],
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, key, kind, precondition, ttl, headers, epoch, id } = self;
        f.debug_struct("Write")
            .field("space", space)
            .field("key", key)
            .field("kind", kind)
            .field("precondition", precondition)
            .field("ttl", ttl)
            .field("headers", headers)
            .field("epoch", epoch)
            .field("id", id)
            .finish()
    }
}

impl fmt::Debug for WriteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(value) => write!(f, "Put({} bytes)", value.len()),
            Self::Delete => f.write_str("Delete"),
            Self::Purge => f.write_str("Purge"),
        }
    }
}

/// The id of one operation. It is unique across processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperationId(String);

impl OperationId {
    /// Generates a fresh id of 128 random bits. Ids are stored with records, and a server drops every message with an
    /// id that it has seen. A reader of one id must therefore not be able to predict the next one.
    pub fn generate() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// Wraps the id of a stored entry.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the id as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
