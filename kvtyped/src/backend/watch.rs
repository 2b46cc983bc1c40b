//! One watch session, as data: its request and its signals.

use std::time::{Duration, SystemTime};

use super::{Delivered, RawEntry};
use crate::key::Patterns;
use crate::revision::Revision;

/// The request of a watch session.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// Selects the keys that match one of these patterns.
    pub patterns: Patterns,
    /// The start position.
    pub since: StartFrom,
    /// Omits the values.
    pub headers_only: bool,
    /// The longest time that the start of the session may take.
    pub idle_timeout: Duration,
    /// The keys that earlier sessions of the same watch delivered. A backend that needs no such proof ignores them.
    pub delivered: Delivered,
}

/// The start position of a watch session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// The newest entry of each key, which may be a delete marker.
    Newest,
    /// Every kept entry.
    History,
    /// Writes from now on.
    Now,
    /// Every kept entry of a later revision.
    After(Revision),
}

/// A signal of a watch session.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchSignal {
    /// The session has started. Always the first signal.
    Started(WatchStarted),
    /// An entry, and the number of matching entries that follow, as far as the backend knows.
    Entry {
        /// The entry.
        entry: RawEntry,
        /// The number of entries that follow.
        pending: u64,
    },
    /// All entries that existed at the start were delivered. Sent once, and at once if no entry matches.
    Ready,
    /// Takes the place of [`Ready`](Self::Ready) in a watch [`StartFrom::After`] a revision: removals since that revision
    /// may have been missed. The session is over.
    Incomplete,
    /// A heartbeat: the watch works and has no new entry. Sent about every second while no other signal is.
    Heartbeat {
        /// Every matching entry up to this revision, inclusive, was delivered.
        through: Revision,
    },
}

/// The bucket at the start of a watch session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchStarted {
    /// The creation time of the bucket. A different time means a different bucket, even under the same name.
    pub created: SystemTime,
    /// The revision of the last write.
    pub last_revision: Revision,
    /// Whether a watch [`StartFrom::After`] a revision finds every later write, so that no removal was missed. `false` if
    /// the bucket has not reached that revision yet, because the revision is then one of another bucket. Always `true`
    /// for the other start positions.
    pub contiguous: bool,
}
