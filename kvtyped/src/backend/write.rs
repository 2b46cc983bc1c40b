//! One write, as data.

use std::fmt;

use bytes::Bytes;

use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// One write.
#[derive(Clone)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// What is written.
    pub kind: WriteKind,
    /// What must be so for it to be applied.
    pub guard: Option<Guard>,
    /// How long it lives; the bucket's time by default.
    pub ttl: Option<Ttl>,
    /// By which it is recognised if its acknowledgement is lost.
    pub id: OperationId,
}

/// What is written. Its `Debug` shows no value.
#[derive(Clone, PartialEq, Eq)]
pub enum WriteKind {
    /// A value.
    Put(Bytes),
    /// A marker that leaves the history.
    Delete,
    /// A marker in place of the history.
    Purge,
}

/// A key, and the revision that its newest entry must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The key, which may be another than the one that is written.
    pub key: Key,
    /// The revision; [`Revision::ZERO`] where there must be no entry at all.
    pub revision: Revision,
}

impl Write {
    /// A write without guard and TTL, under a fresh operation id.
    pub fn new(key: Key, kind: WriteKind) -> Self {
        Self { key, kind, guard: None, ttl: None, id: OperationId::generate() }
    }

    /// Only if the newest entry of the key has this revision.
    #[must_use]
    pub fn expecting(mut self, revision: Revision) -> Self {
        self.guard = Some(Guard { key: self.key.clone(), revision });
        self
    }

    /// With this time to live.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Option<Ttl>) -> Self {
        self.ttl = ttl;
        self
    }

    /// The bytes that are stored, without headers.
    pub fn value(&self) -> &[u8] {
        match &self.kind {
            WriteKind::Put(value) => value,
            WriteKind::Delete | WriteKind::Purge => &[],
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, kind, guard, ttl, id } = self;
        f.debug_struct("Write")
            .field("key", key)
            .field("kind", kind)
            .field("guard", guard)
            .field("ttl", ttl)
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

/// The name of one operation: never given twice, whatever the process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperationId(String);

impl OperationId {
    /// Generates a fresh id of 128 random bits. Ids are stored with records, and a server drops every message with an
    /// id that it has seen. A reader of one id must therefore not be able to predict the next one.
    pub fn generate() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The id that an entry carries.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
