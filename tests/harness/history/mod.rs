//! What clients did and saw while things failed, to be checked when all is over.
//!
//! | checker | what it says |
//! |---|---|
//! | [`VersionOrder`] | whether the revisions that were returned explain what happened; names who disagrees; O(n log n) |
//! | [`Wgl`] | the same by search, key by key: whether some order of the operations explains what they returned |
//! | [`watch`] | whether what a watch or a cache told is in order, new, and adds up to what is there |
//! | [`lock`] | whether holders were alone, fences grew, and stale writes were refused |
//! | [`election`] | whether terms grew, and each leadership stopped before the next |
//! | [`counter`], [`transfers`] | whether sums are what was added to them |
//!
//! Each gives [`Violation`]s that name the rule and the operations; [`assert_none`] turns them into a failure.
//!
//! A [`Recorder`] is shared by the clients of a run. Each operation begins with [`Recorder::begin`] and ends with
//! [`Pending::done`]; one that never ends (its task was dropped, say) is recorded as one whose outcome nobody knows.

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
    /// Its place in the history, by which a violation names it.
    pub id: usize,
    /// Who did it. One client does one operation at a time.
    pub client: usize,
    /// The key, encoded.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// When it was asked, since the recorder was made.
    pub call: Duration,
    /// When its outcome was known; `None` if it never was told.
    pub done: Option<Duration>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What an operation asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stores a value that no other operation of the run stores, or removes what is there.
    Write {
        /// The value; `None` is a removal.
        value: Option<u64>,
        /// What must be there for the write to be applied.
        expected: Expected,
    },
    /// Reads what is there.
    Read(Freshness),
}

/// What a write expects to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// No live record: nothing, or the marker of a removal.
    Nothing,
    /// The entry of this revision, as the newest of its key.
    Revision(u64),
}

/// How fresh a read was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever replica answers.
    Any,
    /// At least this revision of the bucket.
    AtLeast(u64),
    /// As the leader has it.
    Leader,
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The write was acknowledged under this revision.
    Written(u64),
    /// The read found this, or no live record.
    Seen(Option<Seen>),
    /// Another write came first: it was not applied, and never will be.
    Refused,
    /// It failed in another way, and is said to be not applied, now and later.
    Failed,
    /// It may have been applied, or may be later.
    Unknown,
}

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its revision.
    pub revision: u64,
    /// Its value.
    pub value: u64,
}

/// What was seen in the bucket otherwise than by an operation: by a watch, or by a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The key, encoded.
    pub key: String,
    /// Its revision.
    pub revision: u64,
    /// Its value; `None` is the marker of a removal.
    pub value: Option<u64>,
    /// When it was seen, since the recorder was made.
    pub at: Duration,
}

/// Where the clients of a run note what they do. Cheap to clone.
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
    /// Notes that an operation begins now. Until it is done, nobody knows its outcome.
    pub fn begin(&self, client: usize, key: impl Into<String>, action: Action) -> Pending {
        let mut ops = self.0.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ops.len();
        let call = self.now();
        ops.push(Op { id, client, key: key.into(), action, call, done: None, outcome: Outcome::Unknown });
        Pending { recorder: self.clone(), id }
    }

    /// The time since the recorder was made.
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// What was noted so far, in the order in which the operations began.
    pub fn history(&self) -> Vec<Op> {
        self.0.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An operation whose outcome is not known yet.
#[must_use = "an operation that is not done has an unknown outcome"]
#[derive(Debug)]
pub struct Pending {
    recorder: Recorder,
    id: usize,
}

impl Pending {
    /// The id of the operation in the history.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Notes what came of it, now.
    pub fn done(self, outcome: Outcome) {
        let now = self.recorder.now();
        let mut ops = self.recorder.0.ops.lock().unwrap_or_else(PoisonError::into_inner);
        ops[self.id].done = Some(now);
        ops[self.id].outcome = outcome;
    }
}
