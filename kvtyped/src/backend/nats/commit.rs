//! Atomic batches: several writes that are all applied or all refused, and the recovery of their outcome.
//!
//! The rules for single writes in [`publish`](super::publish) and [`doubt`](super::doubt) also hold for batches. Two
//! facts make a batch simpler. A leader checks the operation ids before the preconditions, even in a bucket without
//! replicas. And one entry with our id proves that the whole batch was applied.
//!
//! * *A batch with a precondition is sent again under the same ids* until a reply decides the outcome: applied, already
//!   applied (the stored entries then contain the revisions), or a conflict. If no precondition is on a key that the
//!   batch writes, only the ids protect the batch, and only while the server remembers them. A batch without a
//!   precondition is not sent again before its copy got a reply.
//! * *A conflict is final if the key of a precondition has moved on*, if the bucket has only one server and the first
//!   copy got the conflict, or after `SURE` conflicts. A server of a cluster also refuses a batch while another write
//!   or batch uses a checked key. That proves nothing. If another copy got no reply, it must also be proven that this
//!   copy was not applied, because the server may have forgotten its id.
//! * *The reply does not name the key of a conflict.* The client reads the keys of all preconditions again, and names
//!   one whose revision is not the expected one.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select, select_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::bucket::Place;
use super::convert;
use super::parcel::{Parcel, Sent, Verdict};
use super::publish::{self, ABDICATION, Publication, SURE};
use super::wire::Answer;
use crate::backend::{Backoff, Batch, Deadline, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost. A server with file storage processes one batch
/// after another, which can be slow.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait for a late reply once a query cannot decide the outcome.
const LAST_HOPE: Duration = Duration::from_millis(500);

/// The maximum number of concurrent reads.
const READS: usize = 16;

/// Applies all writes of a batch or none, and returns their revisions.
pub(super) async fn commit(place: &Place, batch: Batch, deadline: Deadline) -> Result<Vec<Revision>> {
    let wanted = batch.writes.len();
    let mut messages = batch.messages()?;
    if messages.len() < 2 {
        let Some(only) = messages.pop() else { return Ok(Vec::new()) };
        let guarded = only.guard.as_ref().map_or_else(|| only.key.clone(), |guard| guard.key.clone());
        let written = publish::publish(place, only, deadline).await;
        let revision = written.map_err(|e| if e.is_conflict() { e.with_key(guarded.as_str()) } else { e })?;
        return Ok(vec![revision; wanted]);
    }
    place.check_batches(deadline).await?;
    let commit = Commit { parcel: Parcel::new(place, &messages, deadline)?, begun: Instant::now(), deadline };
    let first = commit.run().await?;
    Ok((first.get()..).map(Revision::new).take(wanted).collect())
}

/// A batch that is being applied.
struct Commit<'a> {
    parcel: Parcel<'a>,
    begun: Instant,
    deadline: Deadline,
}

/// The copies of a batch that were sent.
#[derive(Default)]
struct Copies<'a> {
    unanswered: Vec<Sent<'a>>,
    /// The number of copies that got no reply in time, or only a reply that proves nothing.
    doubts: u32,
    /// Whether a copy has an unknown outcome and its reply is no longer awaited. Such a copy was sent message by
    /// message, or the server that replied is not the leader.
    untold: bool,
}

impl<'a> Commit<'a> {
    async fn run(mut self) -> Result<Revision> {
        let deadline = self.deadline;
        let sole = self.parcel.place.config.replicas == Some(1);
        let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
        let mut copies = Copies::default();
        let (mut asks, mut futures) = (false, 0);
        loop {
            let verdict = self.attempt(&mut copies, std::mem::take(&mut asks)).await?;
            if matches!(verdict, Verdict::NotHere(_)) && !sole {
                copies.doubts += 1;
                copies.untold = true;
            }
            let (error, time_is_left) = match verdict {
                Verdict::Applied(first) => return Ok(first),
                Verdict::Known if self.parcel.copies == 1 => return Err(convert::foreign_duplicate()),
                Verdict::Known => return self.find().await,
                Verdict::Refused(error) if copies.doubts == 0 => return Err(error),
                Verdict::Refused(error) => return Err(error.unknown_outcome()),
                Verdict::Conflict(actual) => {
                    let (error, moved_on) = self.explain(actual).await;
                    futures += 1;
                    let all_answered = copies.unanswered.is_empty() && !copies.untold;
                    if all_answered && (moved_on || (sole && copies.doubts == 0) || futures >= SURE) {
                        return Err(error);
                    }
                    if moved_on {
                        return self.settle(&mut copies, error).await;
                    }
                    copies.doubts += 1;
                    (error, congestion.pause(deadline).await)
                }
                Verdict::Busy => {
                    copies.doubts += u32::from(!sole);
                    let error = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    (Error::new(error), congestion.pause(deadline).await)
                }
                Verdict::Incomplete => {
                    copies.doubts += u32::from(!sole);
                    asks = true;
                    let error = Error::unavailable("the server received only some of the writes and applied none");
                    (error, outage.pause(deadline).await)
                }
                Verdict::NotNow(error) | Verdict::NotHere(error) => {
                    tracing::debug!(stream = self.parcel.place.stream, %error, "retrying the batch");
                    if matches!(self.parcel.place.information(deadline).await, Some(None)) {
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
    async fn attempt(&mut self, copies: &mut Copies<'a>, asks: bool) -> Result<Verdict> {
        let deadline = self.deadline;
        let until = deadline.at().min(Instant::now() + ATTEMPT);
        let place = self.parcel.place;
        let ready = async {
            place.api.wire().connected(deadline).await?;
            place.check_batches(deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if copies.doubts > 0 { error.unknown_outcome() } else { error });
        }
        let verdict = if asks {
            let verdict = self.parcel.send_and_ask(until).await;
            copies.untold |= verdict.is_none();
            verdict
        } else {
            match self.parcel.send(copies.doubts > 0).await {
                Ok(sent) => copies.unanswered.push(sent),
                Err(error) if copies.doubts > 0 => return Err(error.unknown_outcome()),
                Err(error) => return Err(error),
            }
            self.listen(copies, until).await
        };
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
        tracing::debug!(stream = self.parcel.place.stream, "a batch was not acknowledged");
        copies.doubts += 1;
        let (mut backoff, mut wait) = (Backoff::outage(), ATTEMPT / 4);
        while !deadline.has_passed() {
            let sight = match select(pin!(self.look()), pin!(self.listen(copies, deadline.at()))).await {
                Either::Left((sight, _)) => sight,
                Either::Right((Some(verdict), _)) => return Ok(verdict),
                Either::Right((None, _)) => break,
            };
            let mut pause = backoff.next();
            match sight {
                Ok(Some(first)) => return Ok(Verdict::Applied(first)),
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
            if let Some(verdict) = self.listen(copies, deadline.at().min(Instant::now() + pause)).await {
                return Ok(verdict);
            }
        }
        Err(deadline.error().unknown_outcome())
    }

    /// Waits until this time for a reply to any copy.
    async fn listen(&self, copies: &mut Copies<'a>, until: Instant) -> Option<Verdict> {
        while Instant::now() < until {
            if copies.unanswered.is_empty() {
                tokio::time::sleep_until(until).await;
                return None;
            }
            let waiting = copies.unanswered.iter_mut().map(|copy| copy.wait(until).boxed());
            let (answer, at, _) = select_all(waiting).await;
            match answer {
                // The connection broke, so the caller queries the leader at once.
                Answer::Broken if copies.doubts == 0 => return None,
                Answer::Broken | Answer::Silent => continue,
                answer => {
                    let mut copy = copies.unanswered.swap_remove(at);
                    match self.parcel.judge_last(answer) {
                        Some(Verdict::Conflict(actual)) if copies.doubts > 0 => {
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
    async fn hear_the_others(&self, copy: &mut Sent<'a>, actual: Revision, until: Instant) -> Verdict {
        let until = until.min(Instant::now() + ABDICATION);
        loop {
            match self.parcel.judge_last(copy.wait(until).await) {
                None => return Verdict::Conflict(actual),
                Some(Verdict::Conflict(_)) => {}
                Some(other) => return other,
            }
        }
    }

    fn may_send_again(&self) -> bool {
        let mut guards = self.parcel.publications.iter().filter_map(|publication| {
            let guard = publication.write.guard.as_ref()?;
            Some(guard.key == publication.write.key)
        });
        let protected = match guards.next() {
            None => false,
            Some(own) if own || guards.any(|own| own) => true,
            Some(_) => self.begun.elapsed() * 2 < self.parcel.place.duplicate_window,
        };
        protected && self.parcel.place.api.wire().is_connected()
    }

    /// Returns the revision of the first message if the leader has an entry of this batch.
    async fn look(&self) -> Result<Option<Revision>> {
        let deadline = self.deadline;
        let newest = |(index, publication): (u64, &'_ Publication<'a>)| {
            let (place, write) = (publication.place, publication.write);
            async move {
                let newest = place.leader_newest(&write.key, deadline).await?;
                let ours = newest.filter(|entry| entry.is_by(&write.id));
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
            let own = publication.write.guard.as_ref().filter(|guard| guard.key == publication.write.key);
            let after = own.map_or(Revision::ZERO, |guard| guard.revision);
            if let (Some(ours), _) = publication.kept(after, deadline).await? {
                return Ok(Some(revision_before(ours, index)));
            }
        }
        Ok(None)
    }

    /// Decides the outcome of a batch after one copy was refused with this conflict and the other copies got no reply.
    /// No copy can be applied later. A restarted server may have forgotten the id of an overwritten entry.
    async fn settle(&self, copies: &mut Copies<'a>, conflict: Error) -> Result<Revision> {
        match self.look().await {
            Ok(Some(first)) => return Ok(first),
            Ok(None) if self.is_refuted().await.unwrap_or_default() => return Err(conflict),
            Ok(None) | Err(_) => {}
        }
        let until = self.deadline.at().min(Instant::now() + LAST_HOPE);
        if let Some(Verdict::Applied(first)) = self.listen(copies, until).await {
            return Ok(first);
        }
        let error = Error::unavailable("the acknowledgement was lost, and other writes replaced its keys");
        Err(error.caused_by(conflict).unknown_outcome())
    }

    /// Whether it is proven that no copy was applied, after the point where no copy can be applied later. There are two
    /// proofs: another operation wrote the entry that directly followed the expected revision of a written key, or the
    /// only server has no new entry of a written key.
    async fn is_refuted(&self) -> Result<bool> {
        let Self { parcel: Parcel { place, publications, .. }, deadline, .. } = self;
        let guards = publications.iter().filter_map(|publication| publication.write.guard.as_ref());
        let highest = guards.map(|guard| guard.revision).max().unwrap_or_default();
        for publication in publications {
            let write = publication.write;
            if let Some(own) = write.guard.as_ref().filter(|guard| guard.key == write.key)
                && let (None, Some(first)) = publication.kept(own.revision, *deadline).await?
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
    async fn find(&self) -> Result<Revision> {
        match self.look().await {
            Ok(Some(first)) => Ok(first),
            Ok(None) => Err(Error::unavailable("the batch was applied, but later writes replaced each of its keys")),
            Err(error) => Err(error),
        }
        .map_err(Error::unknown_outcome)
    }

    /// Returns the error of a conflict that reports this revision of some key. Also returns whether the key of a
    /// precondition has moved on, so that no copy can be applied later.
    async fn explain(&self, actual: Revision) -> (Error, bool) {
        let guards = || self.parcel.publications.iter().filter_map(|publication| publication.write.guard.as_ref());
        let beyond_all = guards().all(|guard| guard.revision < actual);
        let now = |guard: &'a Guard| {
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
            Some((Guard { key, revision }, now)) => {
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
