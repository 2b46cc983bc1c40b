//! Atomic batches: several writes that are all applied or all rejected, and the recovery of their outcome.
//!
//! The rules for single writes in [`publish`](super::publish) also hold for batches. Two facts make a batch simpler. A
//! leader checks the operation ids before the preconditions, even in a bucket without replicas. And one entry with our
//! id proves that the whole batch was applied.
//!
//! * *Index entries carry no id*, so they prove nothing. Every batch has a message with an id.
//! * *A batch with a precondition is sent again under the same ids* until a reply decides the outcome: applied, already
//!   applied (the stored entries then contain the revisions), or a conflict. If no precondition is on a key that the
//!   batch writes, only the ids protect the batch, and only while the server remembers them. A batch without a
//!   precondition is not sent again before its attempt got a reply.
//! * *A conflict is final if the key of a precondition has moved on*, if the bucket has only one server and the first
//!   attempt got the conflict, or after `MAX_INCONCLUSIVE` conflicts. A server of a cluster also refuses a batch while
//!   another write or batch uses a checked key. That proves nothing. If another attempt got no reply, it must also be
//!   proven that this attempt was not applied, because the server may have forgotten its id.
//! * *The reply does not name the key of a conflict.* The client reads the keys of all preconditions again, and names
//!   one whose revision is not the expected one.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::batch::{BatchMessages, BatchReply, InFlightBatch};
use super::epoch_refusal::{EpochCheck, EpochRefusal};
use super::publish::publish;
use super::recover_ack::{
    Answered, Attempts, Evidence, FINAL_GRACE, LEADER_STEPDOWN_GRACE, Lookup, MAX_INCONCLUSIVE, Recoverable, Step,
    await_other_leader, foreign_duplicate, recover,
};
use super::request::{WriteRequest, may_resend};
use crate::backend::nats::context::StreamContext;
use crate::backend::{Backoff, Batch, Deadline, Precondition, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::note_resend;
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost. A server with file storage processes one batch
/// after another, which can be slow.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The maximum number of concurrent reads.
const READS: usize = 16;

/// Applies all writes of a batch or none, and returns their revisions.
pub(crate) async fn commit(context: &StreamContext, batch: Batch, deadline: Deadline) -> Result<Vec<Revision>> {
    let count = batch.writes.len();
    if batch.writes.iter().any(|write| !write.is_index_entry()) {
        return commit_messages(context, count, batch.messages()?, deadline).await;
    }
    // A batch that only checks writes no record, so it takes whichever epoch the bucket has.
    let mut epoch = context.config.write_epoch;
    loop {
        let mut messages = batch.clone().messages()?;
        let checks = messages.iter_mut().filter(|message| !message.is_index_entry());
        checks.for_each(|message| message.epoch = epoch);
        let result = commit_messages(context, count, messages, deadline).await;
        match result.as_ref().map_err(Error::kind) {
            Err(ErrorKind::EpochMoved { current, .. }) if *current != epoch => epoch = *current,
            _ => return result,
        }
    }
}

/// Applies the messages of a batch with this number of writes.
async fn commit_messages(
    context: &StreamContext,
    count: usize,
    mut writes: Vec<Write>,
    deadline: Deadline,
) -> Result<Vec<Revision>> {
    if writes.len() < 2 {
        let Some(only) = writes.pop() else { return Ok(Vec::new()) };
        let own = || (only.space, only.key.clone());
        let checked = only.precondition.as_ref().map(|condition| (condition.space, condition.key.clone()));
        let (space, key) = checked.unwrap_or_else(own);
        let written = publish(context, only, deadline).await;
        let revision =
            written.map_err(|error| if error.is_conflict() { space.name_key(error, &key) } else { error })?;
        return Ok(vec![revision; count]);
    }
    context.check_batch_support(deadline).await?;
    let messages = BatchMessages::new(context, &writes, deadline)?;
    let check = EpochCheck::new(context, writes.last().and_then(|write| write.epoch));
    let commit = Commit { messages, check, started: Instant::now(), deadline, lost_ack: false };
    let first = commit.run().await?;
    Ok((first.get()..).map(Revision::new).take(count).collect())
}

/// A batch that is being applied.
struct Commit<'a> {
    messages: BatchMessages<'a>,
    check: EpochCheck,
    started: Instant,
    deadline: Deadline,
    /// Whether an attempt has an unknown outcome and its reply is no longer awaited. Such an attempt was sent message by
    /// message, or the server that replied is not the leader.
    lost_ack: bool,
}

impl<'a> Commit<'a> {
    async fn run(mut self) -> Result<Revision> {
        let deadline = self.deadline;
        let is_single = self.messages.context.config.replicas == Some(1);
        let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
        let mut attempts = Attempts::default();
        let (mut acked, mut conflicts) = (false, 0);
        loop {
            let reply = self.attempt(&mut attempts, std::mem::take(&mut acked)).await?;
            let inconclusive = &mut attempts.evidence.inconclusive;
            if matches!(reply, BatchReply::NotLeader(_)) && !is_single {
                *inconclusive += 1;
                self.lost_ack = true;
            }
            let (error, time_is_left) = match reply {
                BatchReply::Applied(first) => return Ok(first),
                BatchReply::Duplicate if self.messages.attempts == 1 => return Err(foreign_duplicate()),
                BatchReply::Duplicate => return self.find_applied().await,
                BatchReply::Rejected(error) if *inconclusive == 0 => return Err(error),
                BatchReply::Rejected(error) => return Err(error.unknown_outcome()),
                BatchReply::Conflict(actual) => {
                    let (error, moved_on) = self.explain(actual).await;
                    conflicts += 1;
                    let all_answered = attempts.are_answered() && !self.lost_ack;
                    let is_first = is_single && attempts.evidence.inconclusive == 0;
                    if all_answered && (moved_on || is_first || conflicts >= MAX_INCONCLUSIVE) {
                        return Err(error);
                    }
                    if moved_on {
                        return self.resolve_after_conflict(&mut attempts, error).await;
                    }
                    attempts.evidence.inconclusive += 1;
                    (error, congestion.pause(deadline).await)
                }
                BatchReply::InProgress => {
                    *inconclusive += u32::from(!is_single);
                    let error = ErrorKind::Conflict { expected: Revision::ZERO, actual: None };
                    (Error::new(error), congestion.pause(deadline).await)
                }
                BatchReply::Incomplete => {
                    *inconclusive += u32::from(!is_single);
                    acked = true;
                    let error = Error::unavailable("the server received only some of the writes and applied none");
                    (error, outage.pause(deadline).await)
                }
                BatchReply::Retry(error) | BatchReply::NotLeader(error) => {
                    let context = self.messages.context;
                    tracing::debug!(stream = context.stream, %error, "retrying the batch");
                    if let Some(refusal) = self.check.refusal(context, deadline).await {
                        if refusal.is_epoch_moved() && attempts.evidence.inconclusive > 0 {
                            return self.resolve_after_switch(refusal).await;
                        }
                        return Err(attempts.evidence.outcome_of(refusal.error));
                    }
                    (error, outage.pause(deadline).await)
                }
            };
            if !time_is_left {
                return Err(attempts.evidence.outcome_of(error));
            }
            note_resend(&error);
        }
    }

    /// Sends an attempt, and waits until a reply or a stored entry shows its outcome. `acked`: every message of the
    /// attempt is a request.
    async fn attempt(&mut self, attempts: &mut Attempts<InFlightBatch<'a>>, acked: bool) -> Result<BatchReply> {
        let deadline = self.deadline;
        let until = deadline.within(ATTEMPT);
        let context = self.messages.context;
        let ready = async {
            context.api.connection().connected(deadline).await?;
            context.check_batch_support(deadline).await
        };
        if let Err(error) = ready.await {
            return Err(attempts.evidence.outcome_of(error));
        }
        let is_disputed = attempts.evidence.inconclusive > 0;
        if acked {
            match self.messages.send_acked(until).await {
                Some(reply) => return Ok(reply),
                None => self.lost_ack = true,
            }
        } else {
            match self.messages.send(is_disputed).await {
                Ok(sent) => attempts.push(sent),
                Err(error) => return Err(attempts.evidence.outcome_of(error)),
            }
            // If the connection breaks, the leader is queried at once.
            if let Some(reply) = attempts.listen(&*self, until, !is_disputed).await {
                return reply;
            }
        }
        tracing::debug!(stream = context.stream, "a batch was not acknowledged");
        attempts.evidence.inconclusive += 1;
        recover(self, attempts, deadline).await
    }

    /// Returns the revision of the first message if the leader has an entry of this batch.
    async fn find_stored(&self) -> Result<Option<Revision>> {
        let deadline = self.deadline;
        let newest = |(index, request): (u64, &'_ WriteRequest<'a>)| {
            let (context, write) = (request.context, request.write);
            async move {
                let newest = context.leader_newest(write.space, &write.key, deadline).await?;
                let ours = newest.filter(|entry| entry.was_written_by(&write.id));
                Ok::<_, Error>(ours.map(|entry| revision_before(entry.revision, index)))
            }
        };
        let all = stream::iter(self.messages.records()).map(newest).buffer_unordered(READS);
        if let Some(first) = all.try_filter_map(|found| async move { Ok(found) }).boxed().try_next().await? {
            return Ok(Some(first));
        }
        if self.messages.context.config.history == Some(1) {
            return Ok(None);
        }
        for (index, request) in self.messages.records() {
            let write = request.write;
            let own = write.precondition.as_ref().filter(|precondition| write.is_own(precondition));
            let after = own.map_or(Revision::ZERO, |precondition| precondition.revision);
            if let (Some(ours), _) = request.find_stored(after, deadline).await? {
                return Ok(Some(revision_before(ours, index)));
            }
        }
        Ok(None)
    }

    /// Decides the outcome of a batch after one attempt got this conflict and the other attempts got no reply.
    /// No attempt can be applied later. A restarted server may have forgotten the id of an overwritten entry.
    async fn resolve_after_conflict(
        &self,
        attempts: &mut Attempts<InFlightBatch<'a>>,
        conflict: Error,
    ) -> Result<Revision> {
        match self.find_stored().await {
            Ok(Some(first)) => return Ok(first),
            Ok(None) if self.is_provably_unapplied().await.unwrap_or_default() => return Err(conflict),
            Ok(None) | Err(_) => {}
        }
        let until = self.deadline.at().min(Instant::now() + FINAL_GRACE);
        if let Some(Ok(BatchReply::Applied(first))) = attempts.listen(self, until, false).await {
            return Ok(first);
        }
        let error = Error::unavailable(Self::UNDECIDABLE);
        Err(error.caused_by(conflict).unknown_outcome())
    }

    /// Decides the outcome of a batch after the bucket moved to another epoch. No attempt can be applied after that.
    async fn resolve_after_switch(&self, refusal: EpochRefusal) -> Result<Revision> {
        match self.look_up_after_switch(refusal).await {
            Ok(Lookup::Applied(first)) => Ok(first),
            Ok(Lookup::Rejected(error)) => Err(error),
            Ok(_) => Err(Error::unavailable(Self::UNDECIDABLE).unknown_outcome()),
            Err(error) => Err(error.unknown_outcome()),
        }
    }

    /// Looks for this batch after the bucket moved to another epoch. If it was applied, each of its keys has an entry
    /// that is newer than the first attempt.
    async fn look_up_after_switch(&self, refusal: EpochRefusal) -> Result<Lookup<Revision>> {
        let Self { messages, deadline, .. } = self;
        let context = messages.context;
        if context.is_replicated() {
            // A replaced leader may still answer.
            tokio::time::sleep(LEADER_STEPDOWN_GRACE).await;
        }
        if let Some(first) = self.find_stored().await? {
            return Ok(Lookup::Applied(first));
        }
        for (_, request) in messages.records() {
            let newest = context.leader_newest(request.write.space, &request.write.key, *deadline).await?;
            if refusal.excludes(context, request.write, self.highest_expected(), newest.as_ref()) {
                return Ok(Lookup::Rejected(refusal.error));
            }
        }
        Ok(Lookup::Undecidable { may_resend: false })
    }

    /// Returns the highest revision that a precondition expects. The entries of the batch have later revisions.
    fn highest_expected(&self) -> Revision {
        let preconditions = self.messages.requests.iter().filter_map(|request| request.write.precondition.as_ref());
        preconditions.map(|precondition| precondition.revision).max().unwrap_or_default()
    }

    /// Whether it is proven that no attempt was applied, after the point where no attempt can be applied later. There are two
    /// proofs: another operation wrote the entry that directly followed the expected revision of a written key, or the
    /// only server has no new entry of a written key.
    async fn is_provably_unapplied(&self) -> Result<bool> {
        let Self { messages, deadline, .. } = self;
        let context = messages.context;
        let highest = self.highest_expected();
        for (_, request) in messages.records() {
            let write = request.write;
            if let Some(own) = write.precondition.as_ref().filter(|precondition| write.is_own(precondition))
                && let (None, Some(first)) = request.find_stored(own.revision, *deadline).await?
                && first.directly_follows(own.revision)
            {
                return Ok(true);
            }
            if context.config.replicas == Some(1) && context.config.mirror.is_none() {
                let newest = context.leader_newest(write.space, &write.key, *deadline).await?;
                if newest.is_none_or(|entry| entry.revision <= highest) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Returns the revision of the first message of a batch that was applied.
    async fn find_applied(&self) -> Result<Revision> {
        match self.find_stored().await {
            Ok(Some(first)) => Ok(first),
            Ok(None) => Err(Error::unavailable("the batch was applied, but later writes replaced each of its keys")),
            Err(error) => Err(error),
        }
        .map_err(Error::unknown_outcome)
    }

    /// Returns the error of a conflict that reports this revision of some key. Also returns whether the key of a
    /// precondition has moved on, so that no attempt can be applied later.
    async fn explain(&self, actual: Revision) -> (Error, bool) {
        let preconditions = || self.messages.requests.iter().filter_map(|request| request.write.precondition.as_ref());
        let beyond_all = preconditions().all(|precondition| precondition.revision < actual);
        let now = |precondition: &'a Precondition| {
            let (context, deadline) = (self.messages.context, self.deadline);
            async move {
                let newest = context.leader_newest(precondition.space, &precondition.key, deadline).await?;
                Ok::<_, Error>((precondition, newest.map_or(Revision::ZERO, |entry| entry.revision)))
            }
        };
        let read: Result<Vec<_>> = stream::iter(preconditions()).map(now).buffered(READS).boxed().try_collect().await;
        let differing: Vec<_> =
            read.unwrap_or_default().into_iter().filter(|(precondition, now)| precondition.revision != *now).collect();
        let reported = differing.iter().find(|(_, now)| *now == actual);
        let moved_on = beyond_all || reported.is_some_and(|(precondition, _)| precondition.revision < actual);
        let error = match reported.or(differing.first()) {
            Some((Precondition { space, key, revision }, now)) => {
                let error = Error::new(ErrorKind::Conflict { expected: *revision, actual: Some(*now) });
                space.name_key(error, key)
            }
            None => Error::new(ErrorKind::Conflict { expected: Revision::ZERO, actual: Some(actual) }),
        };
        (error, moved_on)
    }
}

impl<'a> Recoverable for Commit<'a> {
    type Attempt = InFlightBatch<'a>;
    type Output = BatchReply;

    const UNDECIDABLE: &'static str = "the acknowledgement was lost, and other writes replaced its keys";

    fn stream(&self) -> &str {
        &self.messages.context.stream
    }

    /// Looks for an entry of this batch. Whether a batch without an entry was rejected is decided after a conflict only
    /// ([`Commit::resolve_after_conflict`]).
    async fn look_up(&self, _is_undecidable: bool) -> Result<Lookup<BatchReply>> {
        Ok(match self.find_stored().await? {
            Some(first) => Lookup::Applied(BatchReply::Applied(first)),
            None => {
                if let Some(refusal) = self.check.moved(self.messages.context, self.deadline).await {
                    return Ok(match self.look_up_after_switch(refusal).await? {
                        Lookup::Applied(first) => Lookup::Applied(BatchReply::Applied(first)),
                        Lookup::Rejected(error) => Lookup::Rejected(error),
                        _ => Lookup::Undecidable { may_resend: false },
                    });
                }
                let writes = self.messages.requests.iter().map(|request| request.write);
                Lookup::NotStored { may_resend: may_resend(self.messages.context, writes, self.started) }
            }
        })
    }

    /// Every reply ends the recovery. [`Commit::run`] decides whether to send another attempt.
    async fn on_reply(&self, answered: Answered<InFlightBatch<'a>>, evidence: &mut Evidence) -> Step<BatchReply> {
        let Answered { mut attempt, reply, until, .. } = answered;
        let Some(mut reply) = self.messages.classify_last(reply) else { return Step::Wait };
        if let BatchReply::Conflict(actual) = reply
            && evidence.inconclusive > 0
        {
            // A later conflict keeps the revision of the first one.
            let classify = |reply| {
                self.messages.classify_last(reply).map(|reply| match reply {
                    BatchReply::Conflict(_) => BatchReply::Conflict(actual),
                    reply => reply,
                })
            };
            let is_conflict = |reply: &BatchReply| matches!(reply, BatchReply::Conflict(_));
            reply = await_other_leader(&mut attempt, reply, until, classify, is_conflict).await;
        }
        Step::Done(Ok(reply))
    }

    async fn resend(&mut self) -> Result<InFlightBatch<'a>> {
        self.messages.send(true).await
    }

    fn resend_pause(&self, resends: u32) -> Option<Duration> {
        // More attempts would only add load to a busy server.
        Some((ATTEMPT / 4).saturating_mul(2_u32.saturating_pow(resends)))
    }
}

/// Returns the revision of the message that is this number of places before the message with this revision.
fn revision_before(revision: Revision, places: u64) -> Revision {
    Revision::new(revision.get().saturating_sub(places))
}
