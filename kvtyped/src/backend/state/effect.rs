//! Changes of the state as a durable backend records them.

#![cfg_attr(not(feature = "file"), allow(dead_code, reason = "only the durable backend has a log"))]

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::bucket::BucketState;
use super::changes::Removal;
use super::entry::StoredEntry;
use crate::config::BucketConfig;
use crate::revision::Revision;

/// One change of the state, with everything that recording and reverting it needs.
#[derive(Debug)]
pub(crate) enum Effect {
    /// An entry was appended.
    Stored { bucket: u64, revision: Revision, entry: StoredEntry },
    /// An entry was removed, for any reason.
    Removed { bucket: u64, removal: Removal },
    /// A bucket was created.
    BucketCreated { bucket: u64, config: BucketConfig },
    /// The configuration of a bucket was replaced.
    BucketConfigured { bucket: u64, config: BucketConfig, previous: BucketConfig },
    /// A bucket was deleted. Its watches end when this effect is dropped.
    BucketDeleted { bucket: Box<BucketState> },
}

/// An effect at its position in the log.
#[derive(Debug)]
pub(crate) struct Record {
    /// The number of the effect, counted over the whole store without gaps.
    pub(crate) seq: u64,
    /// The time of the effect.
    pub(crate) at: Duration,
    pub(crate) effect: Effect,
    /// Whether this is the last effect of its operation. An operation is recorded as a whole or not at all.
    pub(crate) ends_operation: bool,
    /// The space of the operation in the queue, in its last effect.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Record {
    /// Returns an approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        const FIXED: usize = 160;
        match &self.effect {
            Effect::Stored { entry, .. } => FIXED + entry.key.as_str().len() + entry.value.len(),
            _ => FIXED,
        }
    }
}
