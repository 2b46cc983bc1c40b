//! Atomic batches: several writes that are all applied or all refused, and the recovery of their outcome.
//!
//! The rules for single writes in [`publish`](super::publish) and [`doubt`](super::recover_ack) also hold for batches. Two
//! facts make a batch simpler. A leader checks the operation ids before the preconditions, even in a bucket without
//! replicas. And one entry with our id proves that the whole batch was applied.
//!
//! * *A batch with a precondition is sent again under the same ids* until a reply decides the outcome: applied, already
//!   applied (the stored entries then contain the revisions), or a conflict. If no precondition is on a key that the
//!   batch writes, only the ids protect the batch, and only while the server remembers them. A batch without a
//!   precondition is not sent again before its copy got a reply.
//! * *A conflict is final if the key of a precondition has moved on*, if the bucket has only one server and the first
//!   copy got the conflict, or after `MAX_INCONCLUSIVE` conflicts. A server of a cluster also refuses a batch while another write
//!   or batch uses a checked key. That proves nothing. If another copy got no reply, it must also be proven that this
//!   copy was not applied, because the server may have forgotten its id.
//! * *The reply does not name the key of a conflict.* The client reads the keys of all preconditions again, and names
//!   one whose revision is not the expected one.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select, select_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::batch::{BatchMessages, BatchReply, InFlightBatch};
use super::publish;
use super::publish::{LEADER_STEPDOWN_GRACE, MAX_INCONCLUSIVE, WriteRequest};
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::connection::connection::Reply;
use crate::backend::nats::jetstream::error;
use crate::backend::{Backoff, Batch, Deadline, Precondition};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost. A server with file storage processes one batch
/// after another, which can be slow.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait for a late reply once a query cannot decide the outcome.
const FINAL_GRACE: Duration = Duration::from_millis(500);

/// The maximum number of concurrent reads.
const READS: usize = 16;

/// Applies all writes of a batch or none, and returns their revisions.
pub(crate) async fn commit(place: &StreamContext, batch: Batch, deadline: Deadline) -> Result<Vec<Revision>> {
    let wanted = batch.writes.len();
    let mut messages = batch.messages()?;
    if messages.len() < 2 {
        let Some(only) = messages.pop() else { return Ok(Vec::new()) };
        let guarded = only.precondition.as_ref().map_or_else(|| only.key.clone(), |guard| guard.key.clone());
        let written = publish::publish(place, only, deadline).await;
        let revision = written.map_err(|e| if e.is_conflict() { e.with_key(guarded.as_str()) } else { e })?;
        return Ok(vec![revision; wanted]);
    }
    place.check_batch_support(deadline).await?;
    let commit = Commit { parcel: BatchMessages::new(place, &messages, deadline)?, begun: Instant::now(), deadline };
    let first = commit.run().await?;
    Ok((first.get()..).map(Revision::new).take(wanted).collect())
}

/// A batch that is being applied.
struct Commit<'a> {
    parcel: BatchMessages<'a>,
    begun: Instant,
    deadline: Deadline,
}

/// The copies of a batch that were sent.
#[derive(Default)]
struct BatchAttempts<'a> {
    unanswered: Vec<InFlightBatch<'a>>,
    /// The number of copies that got no reply in time, or only a reply that proves nothing.
    doubts: u32,
    /// Whether a copy has an unknown outcome and its reply is no longer awaited. Such a copy was sent message by
    /// message, or the server that replied is not the leader.
    lost_ack: bool,
}

impl<'a> Commit<'a> {
    async fn run(mut self) -> Result<Revision> {
        let deadline = self.deadline;
        let sole = self.parcel.place.config.replicas == Some(1);
        let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
        let mut copies = BatchAttempts::default();
        let (mut asks, mut futures) = (false, 0);
        loop {
            let verdict = self.attempt(&mut copies, std::mem::take(&mut asks)).await?;
            if matches!(verdict, BatchReply::NotHere(_)) && !sole {
                copies.doubts += 1;
                copies.lost_ack = true;
            }
            let (error, time_is_left) = match verdict {
                BatchReply::Applied(first) => return Ok(first),
                BatchReply::Known if self.parcel.copies == 1 => return Err(error::foreign_duplicate()),
                BatchReply::Known => return self.find_applied().await,
                BatchReply::Refused(error) if copies.doubts == 0 => return Err(error),
                BatchReply::Refused(error) => return Err(error.unknown_outcome()),
                BatchReply::Conflict(actual) => {
                    let (error, moved_on) = self.explain(actual).await;
                    futures += 1;
                    let all_answered = copies.unanswered.is_empty() && !copies.lost_ack;
                    if all_answered && (moved_on || (sole && copies.doubts == 0) || futures >= MAX_INCONCLUSIVE) {
                        return Err(error);
                    }
                    if moved_on {
                        return self.resolve_after_conflict(&mut copies, error).await;
                    }
                    copies.doubts += 1;
                    (error, congestion.pause(deadline).await)
                }
                BatchReply::Busy => {
                    copies.doubts += u32::from(!sole);
                    let error = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    (Error::new(error), congestion.pause(deadline).await)
                }
                BatchReply::Incomplete => {
                    copies.doubts += u32::from(!sole);
                    asks = true;
                    let error = Error::unavailable("the server received only some of the writes and applied none");
                    (error, outage.pause(deadline).await)
                }
                BatchReply::NotNow(error) | BatchReply::NotHere(error) => {
                    tracing::debug!(stream = self.parcel.place.stream, %error, "retrying the batch");
                    if matches!(self.parcel.place.probe_stream(deadline).await, Some(None)) {
                        let error = Error::new(ErrorKind::BucketNotFound);
                        return Err(if copies.doubts > 0 { error.unknown_outcome() } else { error });
                    }
                    (error, outage.pause(deadline).await)
                }
            };
            if !time_is_left {
                return Err(if copies.doubts > 0 { error.unknown_outcome() } else { error });
            }
        }
    }

    /// Sends a copy, and waits until a reply or a stored entry shows its outcome.
    async fn attempt(&mut self, copies: &mut BatchAttempts<'a>, asks: bool) -> Result<BatchReply> {
        let deadline = self.deadline;
        let until = deadline.at().min(Instant::now() + ATTEMPT);
        let place = self.parcel.place;
        let ready = async {
            place.api.connection().connected(deadline).await?;
            place.check_batch_support(deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if copies.doubts > 0 { error.unknown_outcome() } else { error });
        }
        let verdict = if asks {
            let verdict = self.parcel.send_acked(until).await;
            copies.lost_ack |= verdict.is_none();
            verdict
        } else {
            match self.parcel.send(copies.doubts > 0).await {
                Ok(sent) => copies.unanswered.push(sent),
                Err(error) if copies.doubts > 0 => return Err(error.unknown_outcome()),
                Err(error) => return Err(error),
            }
            self.await_acks(copies, until).await
        };
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
        tracing::debug!(stream = self.parcel.place.stream, "a batch was not acknowledged");
        copies.doubts += 1;
        let (mut backoff, mut wait) = (Backoff::outage(), ATTEMPT / 4);
        while !deadline.is_expired() {
            let sight = match select(pin!(self.look_up()), pin!(self.await_acks(copies, deadline.at()))).await {
                Either::Left((sight, _)) => sight,
                Either::Right((Some(verdict), _)) => return Ok(verdict),
                Either::Right((None, _)) => break,
            };
            let mut pause = backoff.next();
            match sight {
                Ok(Some(first)) => return Ok(BatchReply::Applied(first)),
                Ok(None) if self.may_send_again() => {
                    let sent = self.parcel.send(true).await.map_err(Error::unknown_outcome)?;
                    copies.unanswered.push(sent);
                    // More copies would only add load to a busy server.
                    pause = wait;
                    wait *= 2;
                }
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Closed) => return Err(error.unknown_outcome()),
                Err(error) => tracing::debug!(stream = self.parcel.place.stream, %error, "the leader does not answer"),
            }
            if let Some(verdict) = self.await_acks(copies, deadline.at().min(Instant::now() + pause)).await {
                return Ok(verdict);
            }
        }
        Err(deadline.error().unknown_outcome())
    }

    /// Waits until this time for a reply to any copy.
    async fn await_acks(&self, copies: &mut BatchAttempts<'a>, until: Instant) -> Option<BatchReply> {
        while Instant::now() < until {
            if copies.unanswered.is_empty() {
                tokio::time::sleep_until(until).await;
                return None;
            }
            let waiting = copies.unanswered.iter_mut().map(|copy| copy.wait(until).boxed());
            let (answer, at, _) = select_all(waiting).await;
            match answer {
                // The connection broke, so the caller queries the leader at once.
                Reply::Disconnected if copies.doubts == 0 => return None,
                Reply::Disconnected | Reply::TimedOut => continue,
                answer => {
                    let mut copy = copies.unanswered.swap_remove(at);
                    match self.parcel.classify_last(answer) {
                        Some(BatchReply::Conflict(actual)) if copies.doubts > 0 => {
                            return Some(self.hear_the_others(&mut copy, actual, until).await);
                        }
                        Some(verdict) => return Some(verdict),
                        None => {}
                    }
                }
            }
        }
        None
    }

    /// Waits for the reply of another leader to a copy that was refused with a conflict. Returns this reply, or the
    /// conflict.
    async fn hear_the_others(&self, copy: &mut InFlightBatch<'a>, actual: Revision, until: Instant) -> BatchReply {
        let until = until.min(Instant::now() + LEADER_STEPDOWN_GRACE);
        loop {
            match self.parcel.classify_last(copy.wait(until).await) {
                None => return BatchReply::Conflict(actual),
                Some(BatchReply::Conflict(_)) => {}
                Some(other) => return other,
            }
        }
    }

    fn may_send_again(&self) -> bool {
        let mut guards = self.parcel.publications.iter().filter_map(|publication| {
            let guard = publication.write.precondition.as_ref()?;
            Some(guard.key == publication.write.key)
        });
        let protected = match guards.next() {
            None => false,
            Some(own) if own || guards.any(|own| own) => true,
            Some(_) => self.begun.elapsed() * 2 < self.parcel.place.duplicate_window,
        };
        protected && self.parcel.place.api.connection().is_connected()
    }

    /// Returns the revision of the first message if the leader has an entry of this batch.
    async fn look_up(&self) -> Result<Option<Revision>> {
        let deadline = self.deadline;
        let newest = |(index, publication): (u64, &'_ WriteRequest<'a>)| {
            let (place, write) = (publication.place, publication.write);
            async move {
                let newest = place.leader_newest(&write.key, deadline).await?;
                let ours = newest.filter(|entry| entry.was_written_by(&write.id));
                Ok::<_, Error>(ours.map(|entry| revision_before(entry.revision, index)))
            }
        };
        let all = stream::iter((0..).zip(&self.parcel.publications)).map(newest).buffer_unordered(READS);
        if let Some(first) = all.try_filter_map(|found| async move { Ok(found) }).boxed().try_next().await? {
            return Ok(Some(first));
        }
        if self.parcel.place.config.history == Some(1) {
            return Ok(None);
        }
        for (index, publication) in (0..).zip(&self.parcel.publications) {
            let own = publication.write.precondition.as_ref().filter(|guard| guard.key == publication.write.key);
            let after = own.map_or(Revision::ZERO, |guard| guard.revision);
            if let (Some(ours), _) = publication.is_retained(after, deadline).await? {
                return Ok(Some(revision_before(ours, index)));
            }
        }
        Ok(None)
    }

    /// Decides the outcome of a batch after one copy was refused with this conflict and the other copies got no reply.
    /// No copy can be applied later. A restarted server may have forgotten the id of an overwritten entry.
    async fn resolve_after_conflict(&self, copies: &mut BatchAttempts<'a>, conflict: Error) -> Result<Revision> {
        match self.look_up().await {
            Ok(Some(first)) => return Ok(first),
            Ok(None) if self.is_provably_unapplied().await.unwrap_or_default() => return Err(conflict),
            Ok(None) | Err(_) => {}
        }
        let until = self.deadline.at().min(Instant::now() + FINAL_GRACE);
        if let Some(BatchReply::Applied(first)) = self.await_acks(copies, until).await {
            return Ok(first);
        }
        let error = Error::unavailable("the acknowledgement was lost, and other writes replaced its keys");
        Err(error.caused_by(conflict).unknown_outcome())
    }

    /// Whether it is proven that no copy was applied, after the point where no copy can be applied later. There are two
    /// proofs: another operation wrote the entry that directly followed the expected revision of a written key, or the
    /// only server has no new entry of a written key.
    async fn is_provably_unapplied(&self) -> Result<bool> {
        let Self { parcel: BatchMessages { place, publications, .. }, deadline, .. } = self;
        let guards = publications.iter().filter_map(|publication| publication.write.precondition.as_ref());
        let highest = guards.map(|guard| guard.revision).max().unwrap_or_default();
        for publication in publications {
            let write = publication.write;
            if let Some(own) = write.precondition.as_ref().filter(|guard| guard.key == write.key)
                && let (None, Some(first)) = publication.is_retained(own.revision, *deadline).await?
                && first.directly_follows(own.revision)
            {
                return Ok(true);
            }
            if place.config.replicas == Some(1) && place.config.mirror.is_none() {
                let newest = place.leader_newest(&write.key, *deadline).await?;
                if newest.is_none_or(|entry| entry.revision <= highest) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Returns the revision of the first message of a batch that was applied.
    async fn find_applied(&self) -> Result<Revision> {
        match self.look_up().await {
            Ok(Some(first)) => Ok(first),
            Ok(None) => Err(Error::unavailable("the batch was applied, but later writes replaced each of its keys")),
            Err(error) => Err(error),
        }
        .map_err(Error::unknown_outcome)
    }

    /// Returns the error of a conflict that reports this revision of some key. Also returns whether the key of a
    /// precondition has moved on, so that no copy can be applied later.
    async fn explain(&self, actual: Revision) -> (Error, bool) {
        let guards =
            || self.parcel.publications.iter().filter_map(|publication| publication.write.precondition.as_ref());
        let beyond_all = guards().all(|guard| guard.revision < actual);
        let now = |guard: &'a Precondition| {
            let (place, deadline) = (self.parcel.place, self.deadline);
            async move {
                let newest = place.leader_newest(&guard.key, deadline).await?;
                Ok::<_, Error>((guard, newest.map_or(Revision::ZERO, |entry| entry.revision)))
            }
        };
        let read: Result<Vec<_>> = stream::iter(guards()).map(now).buffered(READS).boxed().try_collect().await;
        let differing: Vec<_> =
            read.unwrap_or_default().into_iter().filter(|(guard, now)| guard.revision != *now).collect();
        let told = differing.iter().find(|(_, now)| *now == actual);
        let moved_on = beyond_all || told.is_some_and(|(guard, _)| guard.revision < actual);
        let error = match told.or(differing.first()) {
            Some((Precondition { key, revision }, now)) => {
                Error::new(ErrorKind::Conflict { expected: *revision, actual: Some(*now) }).with_key(key.as_str())
            }
            None => Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: Some(actual) }),
        };
        (error, moved_on)
    }
}

/// Returns the revision of the message that is this number of places before the message with this revision.
fn revision_before(revision: Revision, places: u64) -> Revision {
    Revision::new(revision.get().saturating_sub(places))
}
