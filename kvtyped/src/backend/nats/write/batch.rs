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

use super::ack::{AckReply, Acknowledgement};
use super::request::WriteRequest;
use crate::backend::nats::connection::connection::InFlight;
use crate::backend::nats::connection::reply::{AwaitReply, Reply};
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::nats::jetstream::error_code;
use crate::backend::nats::jetstream::message::header;
use crate::backend::{Deadline, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The messages of a batch.
pub(crate) struct BatchMessages<'a> {
    pub(crate) context: &'a StreamContext,
    pub(crate) requests: Vec<WriteRequest<'a>>,
    deadline: Deadline,
    /// The number of attempts that were sent. Each attempt is a batch with another name.
    pub(crate) attempts: u32,
}

/// The outcome that a reply reports for its attempt.
pub(crate) enum BatchReply {
    /// Applied. The first message has this revision.
    Applied(Revision),
    /// Not applied, because another attempt was applied.
    Duplicate,
    /// Not applied, because a precondition does not hold. Some key has this revision.
    Conflict(Revision),
    /// Not applied, because a checked key is being written or checked, or another attempt is in flight.
    InProgress,
    /// Not applied, because the server did not accept all messages.
    Incomplete,
    /// Not applied, for a temporary reason.
    Retry(Error),
    /// Not applied by the server that replied, which is not the leader now. In a cluster, another server may have
    /// received the attempt too, and may apply it.
    NotLeader(Error),
    /// Not applied. Another attempt would fail too.
    Rejected(Error),
}

/// An attempt in flight.
pub(crate) struct InFlightBatch<'a> {
    last: InFlight,
    staged: StagedBatch,
    _permit: Option<SemaphorePermit<'a>>,
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
    pub(crate) fn new(context: &'a StreamContext, writes: &'a [Write], deadline: Deadline) -> Result<Self> {
        let requests = writes.iter().map(|write| WriteRequest::new(context, write, deadline)).collect();
        let mut messages = Self { context, requests, deadline, attempts: 0 };
        messages.rotate_batch_id();
        let limit = context.max_message_size();
        for request in &messages.requests {
            let named = |error| request.write.space.name_key(error, &request.write.key);
            request.check().map_err(named)?;
            // The server would report a message that is too large only as an incomplete batch.
            if limit.is_some_and(|limit| request.size > limit) {
                let size = Some(request.size);
                return Err(named(Error::new(ErrorKind::TooLarge { size, limit })));
            }
        }
        Ok(messages)
    }

    /// Returns the messages that carry an operation id, with their positions.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, &WriteRequest<'a>)> {
        (0..).zip(&self.requests).filter(|(_, request)| !request.write.is_index_entry())
    }

    /// Assigns the messages to the batch of the current attempt. Returns the name of that batch.
    fn rotate_batch_id(&mut self) -> String {
        let id = self.requests.first().map_or("", |first| first.write.id.as_str());
        let batch = format!("{id}-{}", self.attempts.max(1));
        let count = self.requests.len();
        for (number, request) in (1..).zip(&mut self.requests) {
            request.in_batch(&batch, number, number == count);
        }
        batch
    }

    /// Returns the subject of the message that aborts an attempt. That message is never stored.
    fn abort_subject(&self) -> String {
        self.requests.last().map(|last| last.subject.clone()).unwrap_or_default()
    }

    /// Sends an attempt. With `to_all`, several servers may answer.
    pub(crate) async fn send(&mut self, to_all: bool) -> Result<InFlightBatch<'a>> {
        let connection = self.context.api.connection();
        let permit = self.deadline.timeout(connection.batch_permit()).await?;
        let _turn = self.deadline.timeout(connection.lock_batch_send()).await?;
        self.attempts += 1;
        let batch = self.rotate_batch_id();
        let subject = self.abort_subject();
        let client = connection.client();
        let mut staged = StagedBatch { client: client.clone(), subject, batch, messages: 0 };
        let mut last = None;
        for request in &self.requests {
            staged.messages += 1;
            if staged.messages == self.requests.len() {
                let mut pending = if to_all { request.send_to_all() } else { request.send() };
                pending.start().await;
                last = Some(pending);
            } else {
                let (subject, payload) = (request.subject.clone(), request.payload.clone());
                let published = client.publish_with_headers(subject, request.headers(), payload).await;
                published.map_err(|error| connection.ended_error().caused_by(error))?;
            }
        }
        let last = last.ok_or_else(|| Error::backend("the batch has no message"))?;
        Ok(InFlightBatch { last, staged, _permit: permit })
    }

    /// Sends an attempt with every message as a request, until one is refused. Returns the outcome of that message or of
    /// the last one, or `None` if a reply is missing.
    pub(crate) async fn send_acked(&mut self, until: Instant) -> Option<BatchReply> {
        self.attempts += 1;
        let batch = self.rotate_batch_id();
        let subject = self.abort_subject();
        let mut staged = StagedBatch { client: self.context.api.connection().client(), subject, batch, messages: 0 };
        for request in &self.requests {
            staged.messages += 1;
            let reply = request.send().wait(until).await;
            match reply {
                Reply::Message(message) if message.payload.is_empty() => {}
                reply => {
                    let outcome = self.classify(reply, request);
                    if outcome.is_some() {
                        staged.messages = 0;
                    }
                    return outcome;
                }
            }
        }
        None
    }

    /// Interprets the reply to the last message.
    pub(crate) fn classify_last(&self, reply: Reply) -> Option<BatchReply> {
        self.classify(reply, self.requests.last()?)
    }

    fn classify(&self, reply: Reply, request: &WriteRequest<'_>) -> Option<BatchReply> {
        Some(match AckReply::new(reply, &request.subject, self.deadline) {
            AckReply::Stored(Acknowledgement { seq, count, .. })
                if count == self.requests.len() && seq >= count as u64 =>
            {
                self.context.saw(Revision::new(seq));
                BatchReply::Applied(Revision::new(seq - count as u64 + 1))
            }
            AckReply::Stored(_) => {
                let error = Error::backend("the reply to a batch lacks the revisions");
                BatchReply::Rejected(error.unknown_outcome())
            }
            AckReply::Error(error) => self.classify_error(error, request),
            AckReply::Rejected(error) => BatchReply::Rejected(error),
            AckReply::Retry(error) => BatchReply::Retry(error),
            AckReply::Missing => return None,
        })
    }

    fn classify_error(&self, error: ApiError, request: &WriteRequest<'_>) -> BatchReply {
        match error.actual_revision() {
            Some(Some(actual)) => return BatchReply::Conflict(actual),
            Some(None) => return BatchReply::InProgress,
            None => {}
        }
        match error.err_code {
            error_code::DUPLICATE_IN_FLIGHT => BatchReply::InProgress,
            error_code::BATCH_DISABLED => BatchReply::Rejected(Error::no_batches(&self.context.config.name)),
            error_code::BATCH_INCOMPLETE => BatchReply::Incomplete,
            error_code::BATCH_TOO_LARGE => {
                BatchReply::Rejected(Error::new(ErrorKind::InvalidBatch { reason: error.description }))
            }
            error_code::BATCH_DUPLICATE => BatchReply::Duplicate,
            _ if error.is_transient() => BatchReply::NotLeader(Error::unavailable(error.description)),
            _ => BatchReply::Rejected(error.into_write_error(self.context.max_message_size(), request.size)),
        }
    }
}

impl AwaitReply for InFlightBatch<'_> {
    async fn wait(&mut self, until: Instant) -> Reply {
        let reply = self.last.wait(until).await;
        if !matches!(reply, Reply::TimedOut | Reply::Disconnected) {
            self.staged.messages = 0;
        }
        reply
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
        let out_of_sequence = if self.messages == 1 { "3" } else { "2" };
        let mut headers = HeaderMap::new();
        headers.insert(header::BATCH, self.batch.as_str());
        headers.insert(header::BATCH_SEQUENCE, out_of_sequence);
        headers.insert(header::OPERATION, "DEL");
        headers.insert(header::EXPECTED_STREAM, "-");
        let (client, subject) = (self.client.clone(), std::mem::take(&mut self.subject));
        runtime.spawn(async move {
            // An error means that the connection is gone.
            let _ = client.publish_with_headers(subject, headers, Bytes::new()).await;
        });
    }
}
