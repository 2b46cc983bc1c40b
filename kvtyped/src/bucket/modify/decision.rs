//! The data of the compare-and-set loop: its start, its limits, and the decision of a caller.

use crate::backend::Deadline;
use crate::bucket::content::Content;
use crate::bucket::precondition::FenceResult;
use crate::revision::Revision;

/// The entry that the loop starts from.
pub(crate) enum CasStart {
    /// A guess, which costs no read: the key has no record. If the revision is not zero, the key has a delete marker of
    /// this revision.
    NoRecord(Revision),
    /// A read from the nearest server. A stale reply costs one attempt. A decision to write nothing is confirmed with a
    /// read from the leader.
    Read,
    /// A read from the leader.
    LeaderRead,
}

/// The limits of the loop.
pub(crate) struct CasLimits {
    pub(crate) attempts: Option<u32>,
    pub(crate) deadline: Deadline,
    /// The precondition of every write on another record.
    pub(crate) fence: FenceResult,
}

/// A decision about the entry that was read.
pub(crate) enum CasDecision<R> {
    Write { content: Content, result: R },
    Stop { result: R },
}

/// The outcome of the loop.
pub(crate) struct CasOutcome<R> {
    /// The revision of the write. If nothing was written, the revision of the newest entry.
    pub(crate) revision: Revision,
    pub(crate) result: R,
}
