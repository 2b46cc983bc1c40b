//! The recovery of a write whose acknowledgement was lost.
//!
//! The server may have applied such a write, or may still apply it: the message may wait in a socket of a hung server,
//! or on a connection that breaks. Or the write is never applied. These rules decide the outcome:
//!
//! * *Every write carries its operation id, which is stored with it* (in `Nats-Msg-Id` or `Kvtyped-Oid`). If the leader
//!   has an entry with our id, the write is applied, and the entry has its revision.
//! * *A write with a precondition can be sent again under the same id.* A server stores an id once, and a precondition
//!   on the written key holds once, so the server refuses a late copy. A replicated bucket replies to a copy with the
//!   first revision (`duplicate`). A bucket without replicas checks the precondition first, and reports a conflict with
//!   our own write. A conflict after a lost acknowledgement therefore proves nothing until the leader was asked. A
//!   precondition on another key can hold any number of times. Such a write is protected only by its id, and only while
//!   the server remembers the id.
//! * *A write without a precondition is never sent again*, because a copy could overwrite a later write. The client
//!   only waits for the reply, and queries the leader, until the deadline.
//! * *A write is certainly refused* in two cases. In the first case, every copy got a reply that proves something (see
//!   [`publish`](super::publish)), and no reply contained a revision. In the second case, the key of the precondition
//!   has moved on, and the leader's entries show that no copy was applied. No copy can be applied later, because
//!   revisions never return. No copy was applied if another operation wrote the entry that directly followed the
//!   expected revision. An entry with a precondition on its own key names the revision that it followed. So the second
//!   case also works for a key without history, if its writers use preconditions.
//! * *Otherwise the outcome is unknown*, and the error says so ([`Outcome::Unknown`](crate::Outcome::Unknown)). If a
//!   write without a precondition overwrote a key without history, no entry shows the earlier state. Only a replicated
//!   bucket still knows the id of a conditional write, and replies to another copy with its revision.
//!
//! A definite error therefore always means: not applied, and never will be. The reply of an isolated leader can be
//! stale, but not wrong. Two facts never change: that our entry exists, and which revision an entry directly followed.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select, select_all};
use serde_json::json;
use tokio::time::Instant;

use super::publish::{WriteReply, WriteRequest};
use crate::backend::nats::connection::connection::{InFlight, Reply};
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, Precondition, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long to wait for the reply to another copy before the leader is queried again.
const RESEND_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait for a late reply once a query cannot decide the outcome.
const FINAL_GRACE: Duration = Duration::from_millis(500);

/// A write with an unknown outcome.
pub(crate) struct LostAck<'a> {
    publication: &'a WriteRequest<'a>,
    begun: Instant,
    /// The copies that were sent and not answered.
    unanswered: Vec<InFlight>,
    /// Whether only one copy was sent, so that the server cannot know another one.
    is_sole: bool,
    /// Whether the server reported the sole copy as a duplicate. Then only the stored entry can prove that another
    /// leader applied the copy.
    is_duplicate: bool,
    /// Whether a copy got a reply that proves nothing.
    doubtful: bool,
    /// The reason why a copy was not applied, if it was not the precondition.
    refusal: Option<Error>,
    /// Whether no copy can be applied in the future, and the entries do not show whether one was applied.
    buried: bool,
}

/// The state of a write according to the leader's entries.
enum Lookup {
    Applied(Revision),
    /// The entries do not contain the write, and its precondition still holds: it may yet be applied.
    Open,
    /// The write was never applied and cannot be applied in the future. This revision came first.
    Outrun(Revision),
    /// The write cannot be applied in the future. The entries do not show whether it was applied.
    Buried,
}

impl<'a> LostAck<'a> {
    /// Starts the recovery of a write with one unanswered copy. The last parameter says whether other copies got
    /// replies that prove nothing.
    pub(crate) fn new(publication: &'a WriteRequest<'a>, pending: InFlight, is_sole: bool, doubtful: bool) -> Self {
        let unanswered = vec![pending];
        Self {
            publication,
            begun: Instant::now(),
            unanswered,
            is_sole,
            is_duplicate: false,
            doubtful,
            refusal: None,
            buried: false,
        }
    }

    /// Determines the outcome. Queries the leader and waits for replies at the same time.
    pub(crate) async fn recover(mut self, deadline: Deadline) -> Result<Revision> {
        let WriteRequest { place, write, .. } = self.publication;
        tracing::debug!(stream = place.stream, key = %write.key, "a write was not acknowledged");
        let mut until = deadline.at();
        let mut backoff = Backoff::outage();
        while Instant::now() < until {
            let sight = match select(pin!(self.publication.look_up(deadline)), pin!(self.listen(until))).await {
                Either::Left((sight, _)) => sight,
                Either::Right((Some(result), _)) => return result,
                Either::Right((None, _)) => continue,
            };
            let mut pause = backoff.next();
            match sight {
                Ok(Lookup::Applied(revision)) => return Ok(revision),
                Ok(Lookup::Outrun(actual)) => {
                    let expected = write.precondition.as_ref().map_or(Revision::ZERO, |guard| guard.revision);
                    return Err(Error::new(ErrorKind::Conflict { expected, actual: Some(actual) }));
                }
                Ok(_) if self.is_duplicate => return Err(error::foreign_duplicate()),
                Ok(Lookup::Buried) if !self.buried => {
                    self.buried = true;
                    until = until.min(Instant::now() + FINAL_GRACE);
                    // A copy is harmless here, and a replicated bucket may still know the id.
                    if self.may_send_again() {
                        self.send_again();
                    }
                }
                Ok(Lookup::Open) if self.refusal.is_some() => break,
                Ok(Lookup::Open) if self.may_send_again() => {
                    self.send_again();
                    pause = RESEND_INTERVAL;
                }
                Ok(Lookup::Open | Lookup::Buried) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Closed) => return Err(error.unknown_outcome()),
                Err(error) => tracing::debug!(stream = place.stream, %error, "the leader does not answer"),
            }
            if let Some(result) = self.listen(until.min(Instant::now() + pause)).await {
                return result;
            }
        }
        Err(self.unknown_outcome(deadline))
    }

    /// Waits for replies until the given time, or until a reply changes the state. Returns a result if a reply decides
    /// the outcome.
    async fn listen(&mut self, until: Instant) -> Option<Result<Revision>> {
        while Instant::now() < until {
            if self.unanswered.is_empty() {
                tokio::time::sleep_until(until).await;
                return None;
            }
            let waiting = self.unanswered.iter_mut().map(|copy| copy.wait(until).boxed());
            let (answer, at, _) = select_all(waiting).await;
            if matches!(answer, Reply::TimedOut | Reply::Disconnected) {
                continue;
            }
            drop(self.unanswered.swap_remove(at));
            let was_last = self.unanswered.is_empty();
            match self.publication.classify(answer) {
                WriteReply::Applied { duplicate: true, .. } if self.is_sole => {
                    self.is_duplicate = true;
                    return None;
                }
                WriteReply::Applied { revision, .. } => return Some(Ok(revision)),
                WriteReply::NoReply => {}
                WriteReply::Rejected(error) if was_last && (!self.doubtful || error.is_conflict()) => {
                    return Some(Err(error));
                }
                WriteReply::Retry(error) if was_last && !self.doubtful => return Some(Err(error)),
                WriteReply::Rejected(error) if !error.is_conflict() => {
                    self.refusal = Some(error);
                    return None;
                }
                WriteReply::Rejected(_) | WriteReply::Retry(_) => return None,
                WriteReply::Inconclusive(_) | WriteReply::InProgress => self.doubtful = true,
            }
        }
        None
    }

    fn may_send_again(&self) -> bool {
        let WriteRequest { place, write: Write { key, precondition: guard, .. }, .. } = self.publication;
        let protected = match guard {
            None => false,
            Some(guard) if guard.key == *key => true,
            Some(_) => self.begun.elapsed() * 2 < place.duplicate_window,
        };
        protected && place.api.connection().is_connected()
    }

    fn send_again(&mut self) {
        let WriteRequest { place, write, .. } = self.publication;
        tracing::debug!(stream = place.stream, key = %write.key, "retrying the write with the same id");
        self.is_sole = false;
        self.unanswered.push(self.publication.send());
    }

    /// Creates the error of an unknown outcome.
    fn unknown_outcome(self, deadline: Deadline) -> Error {
        let buried = self.buried;
        let error = self.refusal.unwrap_or_else(|| match buried {
            true => Error::unavailable("the acknowledgement was lost, and a later write replaced the key"),
            false => deadline.error(),
        });
        error.unknown_outcome()
    }
}

impl WriteRequest<'_> {
    /// Looks for this write in the leader's entries.
    async fn look_up(&self, deadline: Deadline) -> Result<Lookup> {
        let Self { place, write: Write { key, precondition: guard, id, .. }, .. } = self;
        // Read the other key first: once it has moved on, the state of our own key is final.
        let other = match guard {
            Some(guard) if guard.key != *key => Some(revision_of(&place.leader_newest(&guard.key, deadline).await?)),
            _ => None,
        };
        let newest = place.leader_newest(key, deadline).await?;
        let newest_revision = revision_of(&newest);
        if let Some(newest) = &newest
            && newest.was_written_by(id)
        {
            return Ok(Lookup::Applied(newest.revision));
        }
        let has_history = place.config.history.is_none_or(|history| history > 1);
        let Some(Precondition { revision: guarded, .. }) = guard else {
            let (ours, _) = if has_history { self.is_retained(Revision::ZERO, deadline).await? } else { (None, None) };
            return Ok(ours.map_or(Lookup::Open, Lookup::Applied));
        };
        let now = other.unwrap_or(newest_revision);
        if now <= *guarded {
            return Ok(Lookup::Open);
        }
        let (ours, first) = if has_history { self.is_retained(*guarded, deadline).await? } else { (None, newest) };
        if let Some(revision) = ours {
            return Ok(Lookup::Applied(revision));
        }
        let outrun = match other {
            None => first.is_some_and(|first| first.directly_follows(*guarded)),
            // Our entry would have a revision above the expected one. Only a single server is certain to return the
            // newest entry.
            Some(_) => newest_revision < *guarded && place.config.replicas == Some(1) && place.config.mirror.is_none(),
        };
        Ok(if outrun { Lookup::Outrun(now) } else { Lookup::Buried })
    }

    /// Returns our entry among the stored entries of the key after this revision, and the first of those entries.
    pub(crate) async fn is_retained(
        &self,
        after: Revision,
        deadline: Deadline,
    ) -> Result<(Option<Revision>, Option<StoredMessage>)> {
        let Self { place, write: Write { key, id, .. }, .. } = self;
        let subject = place.leader_subject(key);
        let mut first = None;
        let mut from = after.get() + 1;
        loop {
            let which = json!({ "seq": from, "next_by_subj": subject });
            let Some(entry) = place.leader_api.leader(&place.leader_stream, &which, deadline).await? else {
                return Ok((None, first));
            };
            if entry.was_written_by(id) {
                return Ok((Some(entry.revision), first));
            }
            from = entry.revision.get() + 1;
            first.get_or_insert(entry);
        }
    }
}

fn revision_of(entry: &Option<StoredMessage>) -> Revision {
    entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision)
}
