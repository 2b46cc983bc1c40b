//! The write path of every single write.
//!
//! A write is published as a request with its operation id, once the client is connected. The acknowledgement contains
//! the revision. The id is the message id (`Nats-Msg-Id`). A server remembers it for a while, so that it stores no
//! attempt twice. This memory is the larger part of the cost of an id. It is not needed if no second attempt can exist
//! that the same server could store. So a write without a precondition to a bucket on a single server has its id in
//! another header (`Kvtyped-Oid`), which the server stores but does not interpret. If a reply says that the write was not
//! applied for a temporary reason, such as no leader, the client tries again.
//!
//! # Two leaders
//!
//! A replicated bucket may have two leaders for a while: a server that hung or was cut off leads until it learns of the
//! new leader. Both reply to a write, and only the decision of the new leader holds. A conflict without a later
//! revision (another write of the key is in flight, or the key has not reached the expected revision) therefore proves
//! nothing. The write is repeated with the same id, and this client reads the replies of all servers. A revision, or a
//! conflict with a later one, is final: a leader checks the id before the precondition.
//!
//! Before 2.12, a leader keeps the id of a write that it refused, and treats it as the id of a write in flight. It
//! reports every later attempt as such. A write that is really in flight arrives soon. If the report repeats for longer
//! than a replaced leader needs to step down, no attempt is in flight, and the client sends the write under another form
//! of the id.
//!
//! # A lost acknowledgement
//!
//! If no reply arrives, [`recover_ack`](super::recover_ack) recovers the outcome by these rules:
//!
//! * *If the leader has an entry with our id*, the write is applied, and the entry has its revision.
//! * *A write with a precondition can be sent again under the same id.* A server stores an id once, and a precondition
//!   on the written key holds once, so the server refuses a late attempt. A replicated bucket replies to an attempt with
//!   the first revision (`duplicate`). A bucket without replicas checks the precondition first, and reports a conflict
//!   with our own write. A conflict after a lost acknowledgement therefore proves nothing until the leader was asked. A
//!   precondition on another key can hold any number of times. Such a write is protected only by its id, and only while
//!   the server remembers the id.
//! * *A write without a precondition is never sent again*, because an attempt could overwrite a later write. The client
//!   only waits for the reply, and queries the leader, until the deadline.
//! * *A write is certainly refused* in two cases. In the first case, every attempt got a reply that proves something,
//!   and no reply contained a revision. In the second case, the key of the precondition has moved on, and the leader's
//!   entries show that no attempt was applied. No attempt can be applied later, because revisions never return. No
//!   attempt was applied if another operation wrote the entry that directly followed the expected revision. An entry with
//!   a precondition on its own key names the revision that it followed. So the second case also works for a key without
//!   history, if its writers use preconditions.
//! * *Otherwise the outcome is unknown.* If a write without a precondition overwrote a key without history, no entry
//!   shows the earlier state. Only a replicated bucket still knows the id of a conditional write, and replies to another
//!   attempt with its revision.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::epoch_refusal::{EpochCheck, EpochRefusal};
use super::publish_entry::publish_entry;
use super::recover_ack::{
    Answered, Attempts, Evidence, LEADER_STEPDOWN_GRACE, Lookup, MAX_INCONCLUSIVE, Recoverable, Step,
    await_other_leader, foreign_duplicate, recover,
};
use super::request::{WriteReply, WriteRequest, lacks_expected_revision, may_resend};
use crate::backend::nats::connection::connection::InFlight;
use crate::backend::nats::connection::reply::AwaitReply;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::backend::{Backoff, Deadline, Precondition, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::note_resend;
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait for the reply to another attempt before the leader is queried again.
const RESEND_INTERVAL: Duration = Duration::from_millis(500);

/// Applies one write, and returns its revision.
pub(crate) async fn publish(context: &StreamContext, write: Write, deadline: Deadline) -> Result<Revision> {
    if write.is_index_entry() {
        return publish_entry(context, &write, deadline).boxed().await;
    }
    let mut request = WriteRequest::new(context, &write, deadline);
    request.check()?;
    let check = EpochCheck::new(context, write.epoch);
    let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
    // The number of attempts under the current form of the id, and of replies that prove nothing.
    let (mut sent, mut inconclusive) = (0_u32, 0_u32);
    // The number of rejections that prove nothing, under any form of the id, and the number of consecutive reports of
    // another attempt in flight since the last of them.
    let (mut rejections, mut in_progress) = (0_u32, 0_u32);
    loop {
        let ready = async {
            context.api.connection().connected(deadline).await?;
            context.check_header_support(&write, deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if inconclusive > 0 { error.unknown_outcome() } else { error });
        }
        let mut attempt = if inconclusive == 0 { request.send() } else { request.send_to_all() };
        sent += 1;
        let Some(mut reply) = request.classify(attempt.wait(deadline.within(ATTEMPT)).await) else {
            let mut attempts = Attempts::default();
            attempts.push(attempt);
            (attempts.evidence.sent, attempts.evidence.inconclusive) = (sent, inconclusive);
            tracing::debug!(stream = context.stream, "a write was not acknowledged");
            let mut lost = LostWrite { request: &request, check, started: Instant::now(), deadline };
            // Rare paths are boxed, so that the future of a write stays small.
            return recover(&mut lost, &mut attempts, deadline).boxed().await;
        };
        if inconclusive > 0 && reply.lacks_expected_revision() {
            let classify = |reply| request.classify(reply);
            let until = deadline.at();
            reply = await_other_leader(&mut attempt, reply, until, classify, WriteReply::lacks_expected_revision).await;
        }
        let (error, time_is_left) = match reply {
            WriteReply::Applied { duplicate: true, .. } if sent == 1 => return Err(foreign_duplicate()),
            WriteReply::Applied { revision, .. } => return Ok(revision),
            WriteReply::Rejected(error) if error.is_conflict() && request.msg_id_suffix > 0 => {
                return resolve_conflict(&request, error, deadline).await;
            }
            WriteReply::Rejected(error) if inconclusive == 0 || error.is_conflict() => return Err(error),
            WriteReply::Rejected(error) => return Err(error.unknown_outcome()),
            WriteReply::Retry(error) => {
                tracing::debug!(stream = context.stream, %error, "retrying the write");
                if let Some(refusal) = check.refusal(context, deadline).boxed().await {
                    if inconclusive == 0 || !refusal.is_epoch_moved() {
                        return Err(refusal.error);
                    }
                    let mut attempts = Attempts::default();
                    (attempts.evidence.sent, attempts.evidence.inconclusive) = (sent, inconclusive);
                    let mut lost = LostWrite { request: &request, check, started: Instant::now(), deadline };
                    return recover(&mut lost, &mut attempts, deadline).boxed().await;
                }
                (error, outage.pause(deadline).await)
            }
            WriteReply::Inconclusive(error) => {
                inconclusive += 1;
                (rejections, in_progress) = (rejections + 1, 0);
                if lacks_expected_revision(&error) && rejections >= MAX_INCONCLUSIVE {
                    return Err(error);
                }
                (error, congestion.pause(deadline).await)
            }
            WriteReply::InProgress => {
                inconclusive += 1;
                in_progress += 1;
                if write.precondition.is_some()
                    && in_progress >= MAX_INCONCLUSIVE
                    && context.deduplicates_rejected_ids(deadline).await
                {
                    note_resend(&Error::unavailable("another attempt of the write is in flight"));
                    request.rotate_msg_id();
                    (sent, in_progress) = (0, 0);
                    continue;
                }
                tokio::time::sleep(LEADER_STEPDOWN_GRACE.min(deadline.remaining())).await;
                let error = Error::unavailable("another attempt of the write is in flight");
                (error, congestion.pause(deadline).await)
            }
        };
        if !time_is_left {
            return Err(if inconclusive > 0 { error.unknown_outcome() } else { error });
        }
        note_resend(&error);
    }
}

/// Decides the outcome after this form of the id was refused because of a later revision. This write may have created
/// that revision under an earlier form.
async fn resolve_conflict(request: &WriteRequest<'_>, conflict: Error, deadline: Deadline) -> Result<Revision> {
    match request.context.leader_newest(request.write.space, &request.write.key, deadline).await {
        Ok(Some(newest)) if newest.was_written_by(&request.write.id) => Ok(newest.revision),
        Ok(_) => Err(conflict),
        Err(_) => Err(conflict.unknown_outcome()),
    }
}

/// A write whose acknowledgement was lost.
struct LostWrite<'a> {
    request: &'a WriteRequest<'a>,
    check: EpochCheck,
    /// The begin of the recovery.
    started: Instant,
    deadline: Deadline,
}

impl LostWrite<'_> {
    fn may_resend(&self) -> bool {
        may_resend(self.request.context, [self.request.write], self.started)
    }

    /// Looks for this write after the bucket moved to another epoch. No attempt can be stored after that.
    async fn look_up_after_switch(&self, refusal: EpochRefusal) -> Result<Lookup<Revision>> {
        let WriteRequest { context, write, .. } = self.request;
        if context.is_replicated() {
            // A replaced leader may still answer.
            tokio::time::sleep(LEADER_STEPDOWN_GRACE).await;
        }
        let newest = context.leader_newest(write.space, &write.key, self.deadline).await?;
        let expected = write.precondition.as_ref().map_or(Revision::ZERO, |precondition| precondition.revision);
        Ok(match newest {
            Some(ours) if ours.was_written_by(&write.id) => Lookup::Applied(ours.revision),
            newest if refusal.excludes(context, write, expected, newest.as_ref()) => Lookup::Rejected(refusal.error),
            _ => Lookup::Undecidable { may_resend: false },
        })
    }

    /// Looks for this write in the leader's entries.
    async fn look_up_stored(&self) -> Result<Lookup<Revision>> {
        let WriteRequest { context, write: write @ Write { space, key, precondition, id, .. }, .. } = self.request;
        let deadline = self.deadline;
        // Read the other key first: once it has moved on, the state of our own key is final.
        let other = match precondition {
            Some(precondition) if !write.is_own(precondition) => {
                let Precondition { space, key, .. } = precondition;
                Some(revision_of(&context.leader_newest(*space, key, deadline).await?))
            }
            _ => None,
        };
        let newest = context.leader_newest(*space, key, deadline).await?;
        let newest_revision = revision_of(&newest);
        if let Some(newest) = &newest
            && newest.was_written_by(id)
        {
            return Ok(Lookup::Applied(newest.revision));
        }
        let not_stored = || Lookup::NotStored { may_resend: self.may_resend() };
        let has_history = context.config.history.is_none_or(|history| history > 1);
        let Some(Precondition { revision: expected, .. }) = precondition else {
            let (ours, _) =
                if has_history { self.request.find_stored(Revision::ZERO, deadline).await? } else { (None, None) };
            return Ok(ours.map_or_else(not_stored, Lookup::Applied));
        };
        let actual = other.unwrap_or(newest_revision);
        if actual <= *expected {
            return Ok(not_stored());
        }
        let (ours, first) =
            if has_history { self.request.find_stored(*expected, deadline).await? } else { (None, newest) };
        if let Some(revision) = ours {
            return Ok(Lookup::Applied(revision));
        }
        let is_rejected = match other {
            None => first.is_some_and(|first| first.directly_follows(*expected)),
            // Our entry would have a revision above the expected one. Only a single server is certain to return the
            // newest entry.
            Some(_) => {
                newest_revision < *expected && context.config.replicas == Some(1) && context.config.mirror.is_none()
            }
        };
        Ok(match is_rejected {
            true => Lookup::Rejected(Error::new(ErrorKind::Conflict { expected: *expected, actual: Some(actual) })),
            // An attempt is harmless here, and a replicated bucket may still know the id.
            false => Lookup::Undecidable { may_resend: self.may_resend() },
        })
    }
}

impl Recoverable for LostWrite<'_> {
    type Attempt = InFlight;
    type Output = Revision;

    const UNDECIDABLE: &'static str = "the acknowledgement was lost, and a later write replaced the key";

    fn stream(&self) -> &str {
        &self.request.context.stream
    }

    async fn look_up(&self, _is_undecidable: bool) -> Result<Lookup<Revision>> {
        let found = self.look_up_stored().await?;
        if let Lookup::NotStored { .. } | Lookup::Undecidable { .. } = found
            && let Some(refusal) = self.check.moved(self.request.context, self.deadline).await
        {
            return self.look_up_after_switch(refusal).await;
        }
        Ok(found)
    }

    async fn on_reply(&self, answered: Answered<InFlight>, evidence: &mut Evidence) -> Step<Revision> {
        let Answered { reply, is_last, .. } = answered;
        match self.request.classify(reply) {
            Some(WriteReply::Applied { duplicate: true, .. }) if evidence.sent == 1 => {
                evidence.is_duplicate = true;
                Step::LookUp
            }
            Some(WriteReply::Applied { revision, .. }) => Step::Done(Ok(revision)),
            Some(WriteReply::Rejected(error)) if is_last && (evidence.inconclusive == 0 || error.is_conflict()) => {
                Step::Done(Err(error))
            }
            Some(WriteReply::Retry(error)) if is_last && evidence.inconclusive == 0 => {
                let refusal = self.check.refusal(self.request.context, self.deadline).await;
                Step::Done(Err(refusal.map_or(error, |refusal| refusal.error)))
            }
            Some(WriteReply::Rejected(error)) if !error.is_conflict() => {
                evidence.rejection = Some(error);
                Step::LookUp
            }
            Some(WriteReply::Rejected(_) | WriteReply::Retry(_)) => Step::LookUp,
            Some(WriteReply::Inconclusive(_) | WriteReply::InProgress) => {
                evidence.inconclusive += 1;
                Step::Wait
            }
            None => Step::Wait,
        }
    }

    async fn resend(&mut self) -> Result<InFlight> {
        Ok(self.request.send())
    }

    fn resend_pause(&self, _resends: u32) -> Option<Duration> {
        Some(RESEND_INTERVAL)
    }
}

fn revision_of(entry: &Option<StoredMessage>) -> Revision {
    entry.as_ref().map_or(Revision::ZERO, |entry| entry.revision)
}
