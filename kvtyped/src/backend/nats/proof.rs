//! The proof that a watch session which resumed missed no removal.
//!
//! A session that resumes after a revision is told every key that was written since. A missing revision between is either
//! one that was overwritten, so its successor is delivered, or a removal of which nothing is left: a delete marker that
//! expired, a key that was purged from the stream, a record that expired in silence. Only the second kind matters, and in a
//! bucket with a history of 1 it is found by counting:
//!
//! * `delivered` is the set of keys that the sessions of this watch were told about, delete markers included.
//! * The server counts its keys, `count`, and tells its last revision `through`, no earlier than it counted.
//! * Everything up to `through` is then delivered. From here on every key that the server counted is in `delivered`.
//! * So if both numbers are equal, both sets are equal, and no key of `delivered` has gone.
//!
//! If they differ, keys may have been written meanwhile: the server is asked again, a few times. Delete markers that have
//! expired leave `delivered` once the leader says that they are gone. If the numbers still differ, the bucket is listed.
//!
//! * **Stale replicas**: the leader counts, or a server that has the leader's last revision, as the leader knows.
//! * **Reserved and foreign keys**: the set has the subject of every message that matches the server's filter, before keys
//!   are read and patterns applied, and the server counts by the same filter.
//! * **Concurrent writes** only add to `delivered` between the count and the comparison, so they make the numbers differ.
//!   One case is beyond the proof: a key that is created and purged without a marker before it is delivered, in the
//!   milliseconds between the count and `through`, together with exactly one lost key.
//! * **A longer history** is excluded: there a newest entry can go and leave an older one. While a listing is not yet
//!   complete the proof is used all the same: an attached watch is not told of such a removal either.

use std::time::Duration;

use super::bucket::Place;
use super::consumer::{Consumer, Request, Start};
use super::facts::Facts;
use super::many;
use crate::backend::{Deadline, Delivered, Read};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// How often the server is asked, while it is written to.
const TRIES: u32 = 5;

/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long one question may take.
const TIME: Duration = Duration::from_secs(5);

/// The number of expired delete markers that are looked up.
const MARKERS: usize = 16_384;

/// A proof under way.
#[derive(Debug)]
pub(super) struct Proof {
    tries: u32,
    check: Option<Check>,
}

/// What the server counted.
#[derive(Debug)]
struct Check {
    count: u64,
    /// The number of keys that were delivered when the server was asked.
    known: u64,
    through: Revision,
}

/// How far a proof is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to be delivered first.
    Waits,
    /// No removal was missed.
    Proven,
    /// One may have been missed.
    Failed,
}

impl Proof {
    pub(super) fn new() -> Self {
        Self { tries: TRIES, check: None }
    }

    /// Goes on with everything delivered up to this revision.
    pub(super) async fn advance(
        &mut self,
        place: &Place,
        request: &Request,
        delivered: &Delivered,
        upto: Revision,
    ) -> Result<Progress> {
        loop {
            match self.check.take() {
                Some(check) if upto < check.through => {
                    self.check = Some(check);
                    return Ok(Progress::Waits);
                }
                Some(check) => {
                    if check.count == delivered.count() {
                        return Ok(Progress::Proven);
                    }
                    self.tries -= 1;
                    tracing::debug!(stream = place.stream, ?check, ?delivered, "the numbers of keys differ");
                    let is_explained = check.count >= check.known || remove_markers(place, delivered).await;
                    if self.tries == 0 || !is_explained {
                        return Ok(Progress::Failed);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                None if self.tries == 0 || !delivered.is_complete() => return Ok(Progress::Failed),
                None => {
                    self.check = count(place, request, delivered.count()).await?;
                    if self.check.is_none() {
                        self.tries -= 1;
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Asks how many keys the server has; `None` if the server that counted may be stale.
async fn count(place: &Place, request: &Request, known: u64) -> Result<Option<Check>> {
    let deadline = Deadline::after(TIME);
    if let [filter] = request.filters.as_slice() {
        let facts = Facts::learn(place, deadline).await?;
        if let Some(count) = facts.keys_of(filter) {
            return Ok(Some(Check { count, known, through: facts.last }));
        }
    }
    // A consumer of the newest of each key counts them. Its window lets one message pass, which nobody reads.
    let request = Request { start: Start::Newest, headers_only: true, window: Some(1), ..request.clone() };
    let counter = Consumer::create(&place.api, &request, deadline).await?;
    let facts = Facts::learn(place, deadline).await?;
    let is_fresh = facts.has_reached(counter.server.as_deref(), facts.last);
    Ok(is_fresh.then_some(Check { count: counter.pending, known, through: facts.last }))
}

/// Removes the delete markers that are gone from the server; tells whether there were any.
async fn remove_markers(place: &Place, delivered: &Delivered) -> bool {
    let deadline = Deadline::after(TIME);
    let Ok(Facts { now, .. }) = Facts::learn(place, deadline).await else { return false };
    let markers = delivered.expired_markers(now);
    if markers.is_empty() || markers.len() > MARKERS {
        return false;
    }
    let keys = markers.iter().map(|subject| Key::new(subject.strip_prefix(&*place.prefix).unwrap_or(subject)));
    let Ok(keys) = keys.collect::<Result<Vec<_>, _>>() else { return false };
    let Ok(entries) = many::read_many(place, &keys, Read::Leader, deadline).await else { return false };
    let gone = markers.iter().zip(entries).filter(|(_, entry)| entry.is_none());
    gone.map(|(subject, _)| delivered.remove_marker(subject)).count() > 0
}
