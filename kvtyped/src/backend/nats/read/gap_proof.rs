//! The proof that a watch session which resumed missed no removal.
//!
//! A session that resumes after a revision receives every key with a later revision. A missing revision has one of two
//! causes. Either a later entry replaced it, and that entry is delivered. Or it was removed without a trace: a delete
//! marker expired, a key was purged from the stream, or a record expired without a limit marker. Only the second cause
//! matters. It may leave no missing revision: a purge of an old key from the stream keeps every later revision. In a
//! bucket with a history of 1, counting finds it:
//!
//! * `delivered` is the set of keys that the sessions of this watch received, delete markers included.
//! * The server counts its keys (`count`) and then reports its last revision (`through`).
//! * The session receives everything up to `through`. From then on, `delivered` contains every key that the server counted.
//! * So if both numbers are equal, both sets are equal, and the server still has every key of `delivered`.
//!
//! If the numbers differ, a key may have been written between: the session asks again, a few times. Expired delete markers
//! leave `delivered` once the leader has none of them. If the numbers still differ, the watch lists the bucket. If no
//! revision is missing and the server has gained keys, new keys explain the difference: a bucket that never comes to rest
//! is not listed for that.
//!
//! * **Stale replicas**: the count comes from the leader, or from a server that has reached the leader's last revision.
//! * **Reserved and foreign keys**: the set contains the subject of every message that matches the server's filter, before
//!   the library parses keys and applies patterns. The server counts by the same filter.
//! * **Concurrent writes** only add keys to `delivered` between the count and the comparison, so the numbers differ. One
//!   case is beyond the proof: a key is created and purged without a marker before it is delivered, in the milliseconds
//!   between the count and `through`, and exactly one key was lost.
//! * **A longer history** is excluded, because the newest entry can be removed and leave an older one. An incomplete
//!   listing uses the proof with any history: an attached watch does not see such a removal either.
//!
//! The set takes 9 to 18 bytes a key.

use std::time::Duration;

use super::get_many::get_many;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::consumer::Consumer;
use crate::backend::nats::jetstream::consumer_request::{ConsumerRequest, Start};
use crate::backend::nats::jetstream::stream_state::StreamState;
use crate::backend::{Deadline, Delivered, KeySpace, Read};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// How many times the server is asked while the bucket is written to.
const ATTEMPTS: u32 = 5;

/// The pause before the next request.
const PAUSE: Duration = Duration::from_millis(20);

/// The time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of expired delete markers that are looked up.
const MAX_MARKERS: usize = 16_384;

/// A proof in progress.
#[derive(Debug)]
pub(crate) struct GapProof {
    attempts: u32,
    /// Whether every revision since the last session is kept.
    no_gap: bool,
    check: Option<Check>,
}

/// The answer of the server.
#[derive(Debug)]
struct Check {
    count: u64,
    /// The number of delivered keys before the request.
    known: u64,
    through: Revision,
}

/// The state of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProofStatus {
    /// More entries must be delivered first.
    Pending,
    /// No removal was missed.
    Proven,
    /// A removal may have been missed.
    Failed,
}

impl GapProof {
    pub(crate) fn new(no_gap: bool) -> Self {
        Self { attempts: ATTEMPTS, no_gap, check: None }
    }

    /// Returns the result without a count of the server.
    pub(crate) fn unproven(&self) -> ProofStatus {
        if self.no_gap { ProofStatus::Proven } else { ProofStatus::Failed }
    }

    /// Continues the proof after everything up to this revision was delivered.
    pub(crate) async fn advance(
        &mut self,
        context: &StreamContext,
        request: &ConsumerRequest,
        delivered: &Delivered,
        through: Revision,
    ) -> Result<ProofStatus> {
        loop {
            match self.check.take() {
                Some(check) if through < check.through => {
                    self.check = Some(check);
                    return Ok(ProofStatus::Pending);
                }
                Some(check) => {
                    if check.count == delivered.count() {
                        return Ok(ProofStatus::Proven);
                    }
                    self.attempts -= 1;
                    tracing::debug!(stream = context.stream, ?check, ?delivered, "the numbers of keys differ");
                    let has_grown = check.count >= check.known;
                    if self.attempts == 0 && has_grown {
                        return Ok(self.unproven());
                    }
                    if self.attempts == 0 || !(has_grown || remove_markers(context, delivered).await) {
                        return Ok(ProofStatus::Failed);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                None if self.attempts == 0 || !delivered.is_complete() => return Ok(self.unproven()),
                None => {
                    self.check = count(context, request, delivered.count()).await?;
                    if self.check.is_none() {
                        self.attempts -= 1;
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Requests the number of keys of the server. Returns `None` if the server that counted may be stale.
async fn count(context: &StreamContext, request: &ConsumerRequest, known: u64) -> Result<Option<Check>> {
    let deadline = Deadline::after(REQUEST_TIMEOUT);
    if let [filter] = request.filters.as_slice() {
        let state = context.stream_state(deadline).await?;
        if let Some(count) = state.keys_of(filter) {
            return Ok(Some(Check { count, known, through: state.last }));
        }
    }
    // A consumer of the newest entry of each key counts them. Its window admits one message, which no code reads.
    let request = ConsumerRequest { start: Start::Newest, headers_only: true, window: Some(1), ..request.clone() };
    let counter = Consumer::create(&context.api, &request, deadline).await?;
    let state = context.stream_state(deadline).await?;
    let is_fresh = state.replica_has_reached(counter.server.as_deref(), state.last);
    Ok(is_fresh.then_some(Check { count: counter.pending, known, through: state.last }))
}

/// Removes the delete markers that the server no longer has. Returns whether there were any.
async fn remove_markers(context: &StreamContext, delivered: &Delivered) -> bool {
    let deadline = Deadline::after(REQUEST_TIMEOUT);
    let Ok(StreamState { now, .. }) = context.stream_state(deadline).await else { return false };
    if delivered.remove_old_markers(now) > 0 {
        return true;
    }
    let markers = delivered.expired_markers(now);
    if markers.is_empty() || markers.len() > MAX_MARKERS {
        return false;
    }
    let keys = markers.iter().map(|subject| Key::new(subject.strip_prefix(&*context.prefix).unwrap_or(subject)));
    let Ok(keys) = keys.collect::<Result<Vec<_>, _>>() else { return false };
    let Ok(entries) = get_many(context, KeySpace::Records, &keys, Read::Leader, deadline).await else { return false };
    let removed = markers.iter().zip(entries).filter(|(_, entry)| entry.is_none());
    removed.map(|(subject, _)| delivered.remove_marker(subject)).count() > 0
}
