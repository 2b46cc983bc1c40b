//! The write path of every single write.
//!
//! A write is published as a request with its operation id, once the client is connected. The acknowledgement contains
//! the revision. The id is the message id (`Nats-Msg-Id`). A server remembers it for a while, so that it stores no copy
//! twice. This memory is the larger part of the cost of an id. It is not needed if no second copy can exist that the
//! same server could store. So a write without a precondition to a bucket on a single server has its id in another
//! header (`Kvtyped-Oid`), which the server stores but does not interpret. If a reply says that the write was not
//! applied for a temporary reason, such as no leader, the client tries again. If no reply arrives,
//! [`doubt`](super::recover_ack) recovers the outcome.
//!
//! A replicated bucket may have two leaders for a while: a server that hung or was cut off leads until it learns of the
//! new leader. Both reply to a write, and only the decision of the new leader holds. A conflict without a later
//! revision (another write of the key is in flight, or the key has not reached the expected revision) therefore proves
//! nothing. The write is repeated with the same id, and this client reads the answers of all servers. A revision, or a
//! conflict with a later one, is final: a leader checks the id before the precondition.
//!
//! Before 2.12, a leader keeps the id of a write that it refused, and treats it as the id of a write in flight. It
//! reports every later copy as such. A write that is really in flight arrives soon. If the report repeats for longer
//! than a replaced leader needs to step down, no copy is in flight, and the client sends the write under another form
//! of the id.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::FutureExt;

use super::recover_ack::LostAck;
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::connection::connection::{InFlight, Reply};
use crate::backend::nats::jetstream::api;
use crate::backend::nats::jetstream::api::Acknowledgement;
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::nats::jetstream::message;
use crate::backend::nats::jetstream::message::header;
use crate::backend::{Backoff, Deadline, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait for the reply of another leader after the reply of a replaced leader.
pub(crate) const LEADER_STEPDOWN_GRACE: Duration = Duration::from_millis(50);

/// How many times a server must report that the expected revision does not exist yet, before the report is final. Also
/// how many consecutive reports of a copy in flight are accepted from a server that keeps the ids of refused writes.
pub(crate) const MAX_INCONCLUSIVE: u32 = 3;

/// The error text if no server listens on the subject of a bucket.
pub(crate) const NO_LEADER: &str = "no leader takes writes of this bucket, or JetStream is off for this account";

/// Applies one write, and returns its revision.
pub(crate) async fn publish(place: &StreamContext, write: Write, deadline: Deadline) -> Result<Revision> {
    let mut publication = WriteRequest::new(place, &write, deadline);
    publication.check()?;
    let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
    let (mut copies, mut doubts) = (0_u32, 0_u32);
    // The number of refusals that prove nothing, under any form of the id, and the number of consecutive reports of a
    // copy in flight since the last of them.
    let (mut refusals, mut on_its_way) = (0_u32, 0_u32);
    loop {
        let ready = async {
            place.api.connection().connected(deadline).await?;
            place.check_header_support(&write, deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if doubts > 0 { error.unknown_outcome() } else { error });
        }
        let mut pending = if doubts == 0 { publication.send() } else { publication.send_to_all() };
        copies += 1;
        let mut verdict = publication.classify(pending.wait(deadline.within(ATTEMPT)).await);
        if doubts > 0 && verdict.expects_the_future() {
            verdict = publication.hear_the_others(&mut pending, verdict, deadline).await;
        }
        let (error, time_is_left) = match verdict {
            WriteReply::Applied { duplicate: true, .. } if copies == 1 => {
                return Err(error::foreign_duplicate());
            }
            WriteReply::Applied { revision, .. } => return Ok(revision),
            WriteReply::Rejected(error) if error.is_conflict() && publication.msg_id_suffix > 0 => {
                return publication.resolve_conflict(error, deadline).await;
            }
            WriteReply::Rejected(error) if doubts == 0 || error.is_conflict() => return Err(error),
            WriteReply::Rejected(error) => return Err(error.unknown_outcome()),
            // Rare paths are boxed, so that the future of a write stays small.
            WriteReply::NoReply => {
                let doubt = LostAck::new(&publication, pending, copies == 1, doubts > 0);
                return doubt.recover(deadline).boxed().await;
            }
            WriteReply::Retry(error) => {
                tracing::debug!(stream = place.stream, %error, "retrying the write");
                if matches!(place.probe_stream(deadline).boxed().await, Some(None)) {
                    return Err(Error::new(ErrorKind::BucketNotFound));
                }
                (error, outage.pause(deadline).await)
            }
            WriteReply::Inconclusive(error) => {
                doubts += 1;
                (refusals, on_its_way) = (refusals + 1, 0);
                if expects_the_future(&error) && refusals >= MAX_INCONCLUSIVE {
                    return Err(error);
                }
                (error, congestion.pause(deadline).await)
            }
            WriteReply::InProgress => {
                doubts += 1;
                on_its_way += 1;
                if write.precondition.is_some()
                    && on_its_way >= MAX_INCONCLUSIVE
                    && place.deduplicates_rejected_ids(deadline).await
                {
                    publication.rotate_msg_id();
                    (copies, on_its_way) = (0, 0);
                    continue;
                }
                tokio::time::sleep(LEADER_STEPDOWN_GRACE.min(deadline.remaining())).await;
                let error = Error::unavailable("another copy of the write is in flight");
                (error, congestion.pause(deadline).await)
            }
        };
        if !time_is_left {
            return Err(if doubts > 0 { error.unknown_outcome() } else { error });
        }
    }
}

/// One write, prepared to be sent.
pub(crate) struct WriteRequest<'a> {
    pub(crate) place: &'a StreamContext,
    pub(crate) write: &'a Write,
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    /// The size of payload and headers, as the server counts it.
    pub(crate) size: usize,
    frame: Option<BatchPosition>,
    /// The number of the current form of the id. Zero is the id itself.
    msg_id_suffix: u32,
    deadline: Deadline,
}

/// The outcome that a reply reports for its copy.
pub(crate) enum WriteReply {
    Applied {
        revision: Revision,
        duplicate: bool,
    },
    /// Final: not applied, or an error with an unknown outcome. Another attempt would not help.
    Rejected(Error),
    /// Not applied, for a temporary reason.
    Retry(Error),
    /// Not applied by the server that replied. Another copy, or this copy on another server, may be in flight.
    Inconclusive(Error),
    /// The server that replied reports that another copy is in flight.
    InProgress,
    /// No reply.
    NoReply,
}

impl WriteReply {
    fn expects_the_future(&self) -> bool {
        matches!(self, Self::Inconclusive(error) if expects_the_future(error))
    }
}

/// Whether a conflict that proves nothing reports that the key has not reached the expected revision.
fn expects_the_future(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict { actual: Some(_), .. })
}

/// The position of a message in a batch.
struct BatchPosition {
    batch: String,
    number: usize,
    is_last: bool,
}

impl<'a> WriteRequest<'a> {
    pub(crate) fn new(place: &'a StreamContext, write: &'a Write, deadline: Deadline) -> Self {
        let payload = match &write.kind {
            WriteKind::Put(value) => value.clone(),
            WriteKind::Delete | WriteKind::Purge => Bytes::new(),
        };
        let subject = format!("{}{}", place.write_prefix, write.key);
        let mut publication = Self { place, write, subject, payload, size: 0, frame: None, msg_id_suffix: 0, deadline };
        publication.size = publication.message_size();
        publication
    }

    /// Switches to another form of the id, which no server knows.
    fn rotate_msg_id(&mut self) {
        self.msg_id_suffix += 1;
        self.size = self.message_size();
    }

    /// Decides the outcome after this form of the id was refused because of a later revision. This write may have
    /// created that revision under an earlier form.
    async fn resolve_conflict(&self, conflict: Error, deadline: Deadline) -> Result<Revision> {
        match self.place.leader_newest(&self.write.key, deadline).await {
            Ok(Some(newest)) if newest.was_written_by(&self.write.id) => Ok(newest.revision),
            Ok(_) => Err(conflict),
            Err(_) => Err(conflict.unknown_outcome()),
        }
    }

    /// Makes the write the message with this number of a batch.
    pub(crate) fn in_batch(&mut self, batch: &str, number: usize, is_last: bool) {
        self.frame = Some(BatchPosition { batch: batch.to_owned(), number, is_last });
        self.size = self.message_size();
    }

    /// The size of the message as the server counts it.
    fn message_size(&self) -> usize {
        let mut size = "NATS/1.0\r\n\r\n".len() + self.payload.len();
        self.each_header(|name, value| size += name.len() + value.len() + ": \r\n".len());
        size
    }

    /// Returns the headers of a copy.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.each_header(|name, value| headers.insert(name, value));
        headers
    }

    fn each_header(&self, mut header: impl FnMut(&'static str, &str)) {
        let Write { key, kind, precondition: guard, ttl, id } = self.write;
        let needs_no_memory = !self.place.config.may_be_behind() && guard.is_none() && self.frame.is_none();
        match self.msg_id_suffix {
            _ if needs_no_memory => header(header::OPERATION_ID, id.as_str()),
            0 => header(header::MESSAGE_ID, id.as_str()),
            form => header(header::MESSAGE_ID, &message::suffixed_msg_id(id, form)),
        }
        match kind {
            WriteKind::Put(_) => {}
            WriteKind::Delete => header(header::OPERATION, "DEL"),
            WriteKind::Purge => {
                header(header::OPERATION, "PURGE");
                header(header::ROLLUP, "sub");
            }
        }
        if let Some(guard) = guard {
            header(header::EXPECTED, &guard.revision.to_string());
            if guard.key != *key {
                header(header::EXPECTED_SUBJECT, &self.place.leader_subject(&guard.key));
            }
        }
        if let Some(ttl) = ttl {
            let text = if ttl.is_never() { "never".to_owned() } else { ttl.as_secs().to_string() };
            header(header::TTL, &text);
        }
        if let Some(BatchPosition { batch, number, is_last }) = &self.frame {
            header(header::BATCH, batch);
            header(header::BATCH_SEQUENCE, &number.to_string());
            if *is_last {
                header(header::BATCH_COMMIT, "1");
            }
        }
    }

    /// Returns an error for a message so large that the server would close the connection, and for a purge or a TTL in
    /// a bucket without rollups.
    pub(crate) fn check(&self) -> Result<()> {
        if self.write.kind == WriteKind::Purge && self.place.config.takes_no_purge() {
            return Err(Error::no_rollups(&self.place.config.name));
        }
        if self.write.ttl.is_some() && self.place.config.takes_no_purge() {
            return Err(Error::no_rollups_for_ttl(&self.place.config.name));
        }
        let limit = self.place.api.connection().max_payload();
        if self.size > limit {
            return Err(Error::new(ErrorKind::TooLarge { size: Some(self.size), limit: Some(limit) }));
        }
        Ok(())
    }

    /// Creates the request of a copy. It is sent at the first wait for its reply.
    pub(crate) fn send(&self) -> InFlight {
        self.place.api.connection().request(self.subject.clone(), Some(self.headers()), self.payload.clone())
    }

    /// Creates the request of a copy that may get replies from several servers.
    pub(crate) fn send_to_all(&self) -> InFlight {
        self.place.api.connection().request_all(self.subject.clone(), self.headers(), self.payload.clone())
    }

    /// Waits for the reply of another leader to a copy whose refusal proves nothing. Returns this reply, or the
    /// refusal.
    async fn hear_the_others(&self, pending: &mut InFlight, mut verdict: WriteReply, deadline: Deadline) -> WriteReply {
        let until = deadline.within(LEADER_STEPDOWN_GRACE);
        loop {
            match self.classify(pending.wait(until).await) {
                WriteReply::NoReply => return verdict,
                other if other.expects_the_future() => verdict = other,
                other => return other,
            }
        }
    }

    /// Interprets the reply to one copy.
    pub(crate) fn classify(&self, answer: Reply) -> WriteReply {
        let message = match answer {
            Reply::Message(message) => message,
            Reply::TimedOut | Reply::Disconnected => return WriteReply::NoReply,
            Reply::NoResponders => {
                return WriteReply::Retry(Error::unavailable(NO_LEADER));
            }
            // If the server denies only the reply, it may have applied the write.
            Reply::PermissionDenied(subject) if subject != self.subject => {
                let denied = error::reply_error(Reply::PermissionDenied(subject), self.deadline);
                return WriteReply::Rejected(denied.unknown_outcome());
            }
            answer => return WriteReply::Rejected(error::reply_error(answer, self.deadline)),
        };
        let error = match api::parse_ack(&message.payload) {
            Ok(Ok(Acknowledgement { seq, duplicate, .. })) if seq > 0 => {
                return WriteReply::Applied { revision: Revision::new(seq), duplicate };
            }
            // This is how nats-server 2.10 reports a copy in flight.
            Ok(Ok(Acknowledgement { seq: 0, duplicate: true, .. })) => return WriteReply::InProgress,
            Ok(Ok(_)) => {
                let unclear = error::backend("the reply to a write lacks the revision");
                return WriteReply::Rejected(unclear.unknown_outcome());
            }
            Ok(Err(error)) => error,
            Err(error) => return WriteReply::Rejected(error.unknown_outcome()),
        };
        self.classify_error(error)
    }

    fn classify_error(&self, error: ApiError) -> WriteReply {
        if let (Some(actual), Some(guard)) = (error.actual_revision(), &self.write.precondition) {
            // A leader that was cut off lacks the entries of the new leader.
            let sure = self.place.config.replicas == Some(1) || actual.is_some_and(|actual| actual > guard.revision);
            let error = Error::new(ErrorKind::Conflict { expected: guard.revision, actual });
            return if sure { WriteReply::Rejected(error) } else { WriteReply::Inconclusive(error) };
        }
        match error.err_code {
            10158 => WriteReply::InProgress,
            _ if error.is_transient() => WriteReply::Retry(Error::unavailable(error.description)),
            _ => {
                let limit = self.place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
                WriteReply::Rejected(error::from_write_error(error, limit, self.size))
            }
        }
    }
}
