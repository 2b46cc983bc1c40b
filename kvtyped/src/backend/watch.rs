//! One sitting of a watch, as data: what is asked for, and what is told.

use std::time::{Duration, SystemTime};

use super::{Delivered, RawEntry};
use crate::key::Patterns;
use crate::revision::Revision;

/// What a watch asks for.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Keys that match one of these.
    pub patterns: Patterns,
    /// Where it begins.
    pub since: Since,
    /// Without the values.
    pub headers_only: bool,
    /// How long it may take to begin.
    pub patience: Duration,
    /// The keys that earlier sessions of the same watch delivered. A backend that needs no such proof ignores them.
    pub delivered: Delivered,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With the newest entry of each key, marker or not.
    Newest,
    /// With every entry that is kept.
    History,
    /// With what is written from now on.
    Now,
    /// With every entry of a later revision that is kept.
    After(Revision),
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// It begins; always the first.
    Begun(Begun),
    /// An entry, and how many that match are behind it, as far as is known.
    Entry {
        /// The entry.
        entry: RawEntry,
        /// How many come after it.
        behind: u64,
    },
    /// All that was there when it began was told; told once, at once where there is nothing.
    Ready,
    /// Takes the place of [`Ready`](Self::Ready) in a watch [`Since::After`] a revision: removals since that revision
    /// may have been missed. The session is over.
    Incomplete,
    /// Nothing new, and it would be told: every second or so while nothing else is.
    Alive {
        /// Everything that matches and has this revision, or one before it, was told.
        upto: Revision,
    },
}

/// The bucket when a watch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// When the bucket was made: another time is another bucket, whatever its name.
    pub created: SystemTime,
    /// The revision of its last write.
    pub last_revision: Revision,
    /// Of a watch [`Since::After`] a revision: whether every later write is kept, so that no removal was missed in
    /// between; not so if that revision is still to come, for then it is one of another bucket. Always true of the others.
    pub complete: bool,
}
