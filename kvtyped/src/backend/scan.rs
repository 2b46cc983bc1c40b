//! A scan, as data: what is asked for, and what is given.

use std::time::Duration;

use super::RawEntry;
use crate::key::Patterns;
use crate::revision::Revision;

/// What a scan reads.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Keys that match one of these.
    pub patterns: Patterns,
    /// Every kept entry of a key, rather than the newest.
    pub history: bool,
    /// Without the values.
    pub headers_only: bool,
    /// Only what has a later revision.
    pub after: Revision,
    /// How many entries the reader is going to take, where that is known: a hint, so that no more than needed is fetched.
    pub wanted: Option<usize>,
    /// How long it may go without progress.
    pub patience: Duration,
}

/// What a scan gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Scanned {
    /// The entry.
    pub entry: RawEntry,
    /// How many come after it, as far as is known; more, if a pattern says what a server cannot be asked for.
    pub behind: u64,
}
