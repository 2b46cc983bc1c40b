//! The messages of an atomic batch (ADR-50): sending them, and interpreting the replies.
//!
//! All messages but the last one are published without a reply subject. The last one is a request. The connection keeps
//! their order. A server stages the messages of a batch until the last one arrives. It reports the refusal of an
//! earlier message only if that message is a request. Otherwise the reply to the last message only reports that the
//! batch is incomplete. After such a reply, every message is sent as a request.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::publish::{NO_LEADER, WriteRequest};
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::connection::connection::{InFlight, Reply};
use crate::backend::nats::jetstream::api;
use crate::backend::nats::jetstream::api::Acknowledgement;
use crate::backend::nats::jetstream::error;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::nats::jetstream::message::header;
use crate::backend::{Batch, Deadline, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The messages of a batch.
pub(crate) struct BatchMessages<'a> {
    pub(crate) place: &'a StreamContext,
    pub(crate) publications: Vec<WriteRequest<'a>>,
    deadline: Deadline,
    /// The number of copies that were sent. Each copy is a batch with another name.
    pub(crate) copies: u32,
}

/// The outcome that a reply reports for its copy.
pub(crate) enum BatchReply {
    /// Applied. The first message has this revision.
    Applied(Revision),
    /// Not applied, because another copy was applied.
    Known,
    /// Not applied, because a precondition does not hold. Some key has this revision.
    Conflict(Revision),
    /// Not applied, because a checked key is being written or checked, or another copy is in flight.
    Busy,
    /// Not applied, because the server did not accept all messages.
    Incomplete,
    /// Not applied, for a temporary reason.
    NotNow(Error),
    /// Not applied by the server that replied, which is not the leader now. In a cluster, another server may have
    /// received the copy too, and may apply it.
    NotHere(Error),
    /// Not applied. Another attempt would fail too.
    Refused(Error),
}

/// A copy in flight.
pub(crate) struct InFlightBatch<'a> {
    last: InFlight,
    half: StagedBatch,
    _place: Option<SemaphorePermit<'a>>,
}

/// The messages that a server stages until the last one arrives, or until it has received none for ten seconds. A
/// server stages only a few batches at a time.
struct StagedBatch {
    client: Client,
    subject: String,
    batch: String,
    /// The number of messages that the client accepted. Zero if the server stages nothing.
    messages: usize,
}

impl<'a> BatchMessages<'a> {
    /// Creates the messages of these writes. Returns an error if the server would refuse a message.
    pub(crate) fn new(place: &'a StreamContext, writes: &'a [Write], deadline: Deadline) -> Result<Self> {
        let publications = writes.iter().map(|write| WriteRequest::new(place, write, deadline)).collect();
        let mut parcel = Self { place, publications, deadline, copies: 0 };
        parcel.rotate_batch_id();
        let limit = place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
        for publication in &parcel.publications {
            let key = publication.write.key.as_str();
            publication.check().map_err(|error| error.with_key(key))?;
            // The server would report a message that is too large only as an incomplete batch.
            if limit.is_some_and(|limit| publication.size > limit) {
                let size = Some(publication.size);
                return Err(Error::new(ErrorKind::TooLarge { size, limit }).with_key(key));
            }
        }
        Ok(parcel)
    }

    /// Assigns the messages to the batch of the current copy. Returns the name of that batch.
    fn rotate_batch_id(&mut self) -> String {
        let id = self.publications.first().map_or("", |first| first.write.id.as_str());
        let batch = format!("{id}-{}", self.copies.max(1));
        let count = self.publications.len();
        for (number, publication) in (1..).zip(&mut self.publications) {
            publication.in_batch(&batch, number, number == count);
        }
        batch
    }

    /// Sends a copy. With `to_all`, several servers may answer.
    pub(crate) async fn send(&mut self, to_all: bool) -> Result<InFlightBatch<'a>> {
        let wire = self.place.api.connection();
        let place = self.deadline.timeout(wire.batch_permit()).await?;
        let _turn = self.deadline.timeout(wire.lock_batch_send()).await?;
        self.copies += 1;
        let batch = self.rotate_batch_id();
        let subject = format!("{}{}.0", self.place.write_prefix, Batch::CHECK_KEY_PREFIX);
        let client = wire.client();
        let mut half = StagedBatch { client: client.clone(), subject, batch, messages: 0 };
        let mut last = None;
        for publication in &self.publications {
            half.messages += 1;
            if half.messages == self.publications.len() {
                let mut pending = if to_all { publication.send_to_all() } else { publication.send() };
                pending.start().await;
                last = Some(pending);
            } else {
                let (subject, payload) = (publication.subject.clone(), publication.payload.clone());
                let sent = client.publish_with_headers(subject, publication.headers(), payload).await;
                sent.map_err(|error| wire.ended_error().caused_by(error))?;
            }
        }
        let last = last.ok_or_else(|| error::backend("the batch has no message"))?;
        Ok(InFlightBatch { last, half, _place: place })
    }

    /// Sends a copy with every message as a request, until one is refused. Returns the outcome of that message or of
    /// the last one, or `None` if a reply is missing.
    pub(crate) async fn send_acked(&mut self, until: Instant) -> Option<BatchReply> {
        self.copies += 1;
        let batch = self.rotate_batch_id();
        let subject = format!("{}{}.0", self.place.write_prefix, Batch::CHECK_KEY_PREFIX);
        let mut half = StagedBatch { client: self.place.api.connection().client(), subject, batch, messages: 0 };
        for publication in &self.publications {
            half.messages += 1;
            let answer = publication.send().wait(until).await;
            match answer {
                Reply::Message(message) if message.payload.is_empty() => {}
                answer => {
                    let verdict = self.classify(answer, publication);
                    if verdict.is_some() {
                        half.messages = 0;
                    }
                    return verdict;
                }
            }
        }
        None
    }

    /// Interprets the reply to the last message.
    pub(crate) fn classify_last(&self, answer: Reply) -> Option<BatchReply> {
        self.classify(answer, self.publications.last()?)
    }

    fn classify(&self, answer: Reply, publication: &WriteRequest<'_>) -> Option<BatchReply> {
        let unclear = || error::backend("the reply to a batch lacks the revisions").unknown_outcome();
        let message = match answer {
            Reply::Message(message) => message,
            Reply::TimedOut | Reply::Disconnected => return None,
            Reply::NoResponders => {
                return Some(BatchReply::NotNow(Error::unavailable(NO_LEADER)));
            }
            // If the server denied only the reply subject, the batch may have been applied.
            Reply::PermissionDenied(subject) if subject != publication.subject => {
                let denied = error::reply_error(Reply::PermissionDenied(subject), self.deadline);
                return Some(BatchReply::Refused(denied.unknown_outcome()));
            }
            answer => return Some(BatchReply::Refused(error::reply_error(answer, self.deadline))),
        };
        Some(match api::parse_ack(&message.payload) {
            Ok(Ok(Acknowledgement { seq, count, .. })) if count == self.publications.len() && seq >= count as u64 => {
                BatchReply::Applied(Revision::new(seq - count as u64 + 1))
            }
            Ok(Ok(_)) => BatchReply::Refused(unclear()),
            Ok(Err(error)) => self.classify_error(error, publication),
            Err(error) => BatchReply::Refused(error.unknown_outcome()),
        })
    }

    fn classify_error(&self, error: ApiError, publication: &WriteRequest<'_>) -> BatchReply {
        match error.actual_revision() {
            Some(Some(actual)) => return BatchReply::Conflict(actual),
            Some(None) => return BatchReply::Busy,
            None => {}
        }
        match error.err_code {
            10158 => BatchReply::Busy,
            10174 => BatchReply::Refused(Error::no_batches(&self.place.config.name)),
            10176 => BatchReply::Incomplete,
            10199 => BatchReply::Refused(Error::new(ErrorKind::InvalidBatch { reason: error.description })),
            10201 => BatchReply::Known,
            _ if error.is_transient() => BatchReply::NotHere(Error::unavailable(error.description)),
            _ => {
                let limit = self.place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
                BatchReply::Refused(error::from_write_error(error, limit, publication.size))
            }
        }
    }
}

impl InFlightBatch<'_> {
    /// Waits for the next reply until the given time.
    pub(crate) async fn wait(&mut self, until: Instant) -> Reply {
        let answer = self.last.wait(until).await;
        if !matches!(answer, Reply::TimedOut | Reply::Disconnected) {
            self.half.messages = 0;
        }
        answer
    }
}

/// Aborts the batch if no caller waits for it: the last message may not have been sent. A message out of sequence makes
/// the server discard the staged messages. If nothing is staged, the server refuses the message. It never stores the
/// message, because the message expects a stream with another name.
impl Drop for StagedBatch {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.messages == 0 {
            return;
        }
        let out_of_turn = if self.messages == 1 { "3" } else { "2" };
        let mut headers = HeaderMap::new();
        headers.insert(header::BATCH, self.batch.as_str());
        headers.insert(header::BATCH_SEQUENCE, out_of_turn);
        headers.insert(header::OPERATION, "DEL");
        headers.insert(header::EXPECTED_STREAM, "-");
        let (client, subject) = (self.client.clone(), std::mem::take(&mut self.subject));
        runtime.spawn(async move {
            // An error means that the connection is gone.
            let _ = client.publish_with_headers(subject, headers, Bytes::new()).await;
        });
    }
}
