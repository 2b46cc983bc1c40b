//! Recorder of client operations under faults, and checkers of the recorded histories.
//!
//! | checker | property |
//! |---|---|
//! | [`VersionOrder`] | the returned revisions explain all results; names the operations that disagree; O(n log n) |
//! | [`Wgl`] | the same by search, key by key: some order of the operations explains all results |
//! | [`watch`] | the events of a watch or a cache are in order and new, and add up to the final state |
//! | [`lock`] | mutual exclusion, growing fencing tokens, refusal of stale writes |
//! | [`election`] | growing terms, and no overlap between two leaderships of a candidate |
//! | [`counter`], [`transfers`] | sums equal the recorded increments |
//!
//! Each checker returns [`Violation`]s that name the rule and the operations. [`assert_none`] turns them into a panic.
//!
//! The clients of a run share one [`Recorder`]. Each operation starts with [`Recorder::begin`] and ends with
//! [`Pending::done`]. An operation that never ends (its task was dropped, for example) is recorded with an unknown
//! outcome.

mod version_order;
mod violation;
mod wgl;
mod writes;
pub mod counter;
pub mod election;
pub mod lock;
pub mod transfers;
pub mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::version_order::{Checked, Staleness, VersionOrder};
pub use self::violation::{Rule, Violation, assert_none};
pub use self::wgl::{Searched, Wgl};

/// One operation of one client on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The index of the operation in the history. Violations refer to it.
    pub id: usize,
    /// The client. A client performs one operation at a time.
    pub client: usize,
    /// The key, encoded.
    pub key: String,
    /// The requested action.
    pub action: Action,
    /// The start of the operation, relative to the creation of the recorder.
    pub call: Duration,
    /// The end of the operation; `None` if it never ended.
    pub done: Option<Duration>,
    /// The outcome of the operation.
    pub outcome: Outcome,
}

/// The action of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stores a value that no other operation of the run stores, or removes the record.
    Write {
        /// The value; `None` is a removal.
        value: Option<u64>,
        /// The precondition of the write.
        expected: Expected,
    },
    /// Reads the record.
    Read(Freshness),
}

/// The precondition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No precondition.
    Anything,
    /// The key has no live record: it was never written, or its newest entry is a delete marker.
    Nothing,
    /// The newest entry of the key has this revision.
    Revision(u64),
}

/// The requested freshness of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Any replica may answer.
    Any,
    /// The answer reflects at least this revision of the bucket.
    AtLeast(u64),
    /// The leader answers.
    Leader,
}

/// The outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The write was acknowledged under this revision.
    Written(u64),
    /// The read found this, or no live record.
    Seen(Option<Seen>),
    /// The precondition failed. The write was not applied, and never will be.
    Refused,
    /// The operation failed for another reason. The library reported that the write was not and will not be applied.
    Failed,
    /// The write may have been applied, or may be applied later.
    Unknown,
}

/// A record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its revision.
    pub revision: u64,
    /// Its value.
    pub value: u64,
}

/// An entry that a watch or a listing returned, rather than a single read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The key, encoded.
    pub key: String,
    /// Its revision.
    pub revision: u64,
    /// Its value; `None` for a delete marker.
    pub value: Option<u64>,
    /// The time of the observation, relative to the creation of the recorder.
    pub at: Duration,
}

/// A log of the operations of all clients of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    ops: Mutex<Vec<Op>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Shared { start: Instant::now(), ops: Mutex::default() }))
    }
}

impl Recorder {
    /// Records that an operation starts now. Its outcome is unknown until [`Pending::done`].
    pub fn begin(&self, client: usize, key: impl Into<String>, action: Action) -> Pending {
        let mut ops = self.0.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ops.len();
        let call = self.now();
        ops.push(Op { id, client, key: key.into(), action, call, done: None, outcome: Outcome::Unknown });
        Pending { recorder: self.clone(), id }
    }

    /// Returns the time since the recorder was created.
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Returns a copy of all recorded operations, ordered by their start.
    pub fn history(&self) -> Vec<Op> {
        self.0.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A recorded operation that has not ended yet.
#[must_use = "an operation that is not done has an unknown outcome"]
#[derive(Debug)]
pub struct Pending {
    recorder: Recorder,
    id: usize,
}

impl Pending {
    /// Returns the id of the operation in the history.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Records the outcome and the current time.
    pub fn done(self, outcome: Outcome) {
        let now = self.recorder.now();
        let mut ops = self.recorder.0.ops.lock().unwrap_or_else(PoisonError::into_inner);
        ops[self.id].done = Some(now);
        ops[self.id].outcome = outcome;
    }
}
