//! One write as a message: its headers, and the interpretation of the reply.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::ack::{AckReply, Acknowledgement};
use crate::backend::nats::connection::connection::InFlight;
use crate::backend::nats::connection::reply::Reply;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::nats::jetstream::error_code;
use crate::backend::nats::jetstream::message::{StoredMessage, header, suffixed_msg_id};
use crate::backend::{Deadline, KeySpace, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// One write, prepared to be sent.
pub(crate) struct WriteRequest<'a> {
    pub(crate) context: &'a StreamContext,
    pub(crate) write: &'a Write,
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    /// The size of payload and headers, as the server counts it.
    pub(crate) size: usize,
    batch: Option<BatchPosition>,
    /// The number of the current form of the id. Zero is the id itself.
    pub(crate) msg_id_suffix: u32,
    deadline: Deadline,
}

/// The outcome that a reply reports for its attempt.
pub(crate) enum WriteReply {
    Applied {
        revision: Revision,
        duplicate: bool,
    },
    /// Final: not applied, or an error with an unknown outcome. Another attempt would not help.
    Rejected(Error),
    /// Not applied, for a temporary reason.
    Retry(Error),
    /// Not applied by the server that replied. Another attempt, or this attempt on another server, may be in flight.
    Inconclusive(Error),
    /// The server that replied reports that another attempt is in flight.
    InProgress,
}

impl WriteReply {
    /// Whether the server that replied has not reached the expected revision of the key.
    pub(crate) fn lacks_expected_revision(&self) -> bool {
        matches!(self, Self::Inconclusive(error) if lacks_expected_revision(error))
    }
}

/// Whether an inconclusive conflict reports that the key has not reached the expected revision.
pub(crate) fn lacks_expected_revision(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict { actual: Some(_), .. })
}

/// The position of a message in a batch.
struct BatchPosition {
    batch: String,
    number: usize,
    is_last: bool,
}

impl<'a> WriteRequest<'a> {
    pub(crate) fn new(context: &'a StreamContext, write: &'a Write, deadline: Deadline) -> Self {
        let payload = match &write.kind {
            WriteKind::Put(value) => value.clone(),
            WriteKind::Delete | WriteKind::Purge => Bytes::new(),
        };
        let subject = context.write_subject(write.space, &write.key, write.epoch);
        let mut request = Self { context, write, subject, payload, size: 0, batch: None, msg_id_suffix: 0, deadline };
        request.size = request.message_size();
        request
    }

    /// Switches to another form of the id, which no server knows.
    pub(crate) fn rotate_msg_id(&mut self) {
        self.msg_id_suffix += 1;
        self.size = self.message_size();
    }

    /// Makes the write the message with this number of a batch.
    pub(crate) fn in_batch(&mut self, batch: &str, number: usize, is_last: bool) {
        self.batch = Some(BatchPosition { batch: batch.to_owned(), number, is_last });
        self.size = self.message_size();
    }

    /// The size of the message as the server counts it.
    fn message_size(&self) -> usize {
        let mut size = "NATS/1.0\r\n\r\n".len() + self.payload.len();
        self.each_header(|name, value| size += name.len() + value.len() + ": \r\n".len());
        size
    }

    /// Returns the headers of an attempt.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.each_header(|name, value| headers.insert(name, value));
        headers
    }

    fn each_header(&self, mut header: impl FnMut(&'static str, &str)) {
        let Write { space, key: _, kind, precondition, ttl, headers, epoch: _, id } = self.write;
        let config = &self.context.config;
        // The server needs to remember the id only if it could store two attempts.
        let needs_no_deduplication = !config.may_be_behind() && precondition.is_none() && self.batch.is_none();
        match self.msg_id_suffix {
            // To write an entry twice is to write it once.
            _ if *space == KeySpace::Index => {}
            _ if needs_no_deduplication => header(header::OPERATION_ID, id.as_str()),
            0 => header(header::MESSAGE_ID, id.as_str()),
            suffix => header(header::MESSAGE_ID, &suffixed_msg_id(id, suffix)),
        }
        match kind {
            WriteKind::Put(_) => {}
            WriteKind::Delete => header(header::OPERATION, "DEL"),
            WriteKind::Purge => {
                header(header::OPERATION, "PURGE");
                header(header::ROLLUP, "sub");
            }
        }
        if let Some(precondition) = precondition {
            header(header::EXPECTED, &precondition.revision.to_string());
            if self.write.names_subject_of(precondition, config) {
                let subject = self.context.leader_subject(precondition.space, &precondition.key);
                header(header::EXPECTED_SUBJECT, &subject);
            }
        }
        if let Some(ttl) = ttl {
            let text = if ttl.is_never() { "never".to_owned() } else { ttl.as_secs().to_string() };
            header(header::TTL, &text);
        }
        if *space == KeySpace::Index {
            if config.ttl.is_some() {
                header(header::TTL, "never");
            }
            if config.index_needs_rollup() {
                header(header::ROLLUP, "sub");
            }
        }
        headers.for_each(&mut header);
        if let Some(BatchPosition { batch, number, is_last }) = &self.batch {
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
        self.write.check_space(&self.context.config)?;
        if self.write.kind == WriteKind::Purge && self.context.config.takes_no_purge() {
            return Err(Error::no_rollups(&self.context.config.name));
        }
        if self.write.is_index_entry()
            && self.context.config.index_needs_rollup()
            && self.context.config.takes_no_purge()
        {
            return Err(Error::no_rollups(&self.context.config.name));
        }
        if self.write.ttl.is_some() && self.context.config.takes_no_purge() {
            return Err(Error::no_rollups_for_ttl(&self.context.config.name));
        }
        self.context.check_epoch(self.write.epoch)?;
        let limit = self.context.api.connection().max_payload();
        if self.size > limit {
            return Err(Error::new(ErrorKind::TooLarge { size: Some(self.size), limit: Some(limit) }));
        }
        Ok(())
    }

    /// Creates the request of an attempt. It is sent at the first wait for its reply.
    pub(crate) fn send(&self) -> InFlight {
        self.context.api.connection().request(self.subject.clone(), Some(self.headers()), self.payload.clone())
    }

    /// Creates the request of an attempt that may get replies from several servers.
    pub(crate) fn send_to_all(&self) -> InFlight {
        self.context.api.connection().request_all(self.subject.clone(), self.headers(), self.payload.clone())
    }

    /// Interprets the reply to one attempt. Returns `None` if there is no reply.
    pub(crate) fn classify(&self, reply: Reply) -> Option<WriteReply> {
        Some(match AckReply::new(reply, &self.subject, self.deadline) {
            AckReply::Stored(Acknowledgement { seq, duplicate, .. }) if seq > 0 => {
                self.context.saw(Revision::new(seq));
                WriteReply::Applied { revision: Revision::new(seq), duplicate }
            }
            // This is how nats-server 2.10 reports another attempt in flight.
            AckReply::Stored(Acknowledgement { seq: 0, duplicate: true, .. }) => WriteReply::InProgress,
            AckReply::Stored(_) => {
                let error = Error::backend("the reply to a write lacks the revision");
                WriteReply::Rejected(error.unknown_outcome())
            }
            AckReply::Error(error) => self.classify_error(error),
            AckReply::Rejected(error) => WriteReply::Rejected(error),
            AckReply::Retry(error) => WriteReply::Retry(error),
            AckReply::Missing => return None,
        })
    }

    fn classify_error(&self, error: ApiError) -> WriteReply {
        if let (Some(actual), Some(precondition)) = (error.actual_revision(), &self.write.precondition) {
            let expected = precondition.revision;
            // A leader that was cut off lacks the entries of the new leader.
            let is_certain = self.context.config.replicas == Some(1) || actual.is_some_and(|actual| actual > expected);
            let error = Error::new(ErrorKind::Conflict { expected, actual });
            return if is_certain { WriteReply::Rejected(error) } else { WriteReply::Inconclusive(error) };
        }
        match error.err_code {
            error_code::DUPLICATE_IN_FLIGHT => WriteReply::InProgress,
            _ if error.is_transient() => WriteReply::Retry(Error::unavailable(error.description)),
            _ => WriteReply::Rejected(error.into_write_error(self.context.max_message_size(), self.size)),
        }
    }

    /// Returns our entry among the stored entries of the key after this revision, and the first of those entries.
    pub(crate) async fn find_stored(
        &self,
        after: Revision,
        deadline: Deadline,
    ) -> Result<(Option<Revision>, Option<StoredMessage>)> {
        let Self { context, write: Write { space, key, id, .. }, .. } = self;
        let subject = context.leader_subject(*space, key);
        let mut first = None;
        let mut from = after.get() + 1;
        loop {
            let selector = json!({ "seq": from, "next_by_subj": subject });
            let Some(entry) = context.leader_api.leader(&context.leader_stream, &selector, deadline).await? else {
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

/// Whether the messages of these writes may be sent again under the same ids, and the client is connected. `started` is
/// the time of the first attempt.
///
/// A precondition on a written key holds once, so it protects the writes for any time. A precondition on another key can
/// hold any number of times. Then only the ids protect the writes, and only while the server remembers them. A write
/// without a precondition is never sent again, because it could overwrite a later write.
pub(crate) fn may_resend<'w>(
    context: &StreamContext,
    writes: impl IntoIterator<Item = &'w Write>,
    started: Instant,
) -> bool {
    let preconditions = writes.into_iter().filter_map(|write| Some((write, write.precondition.as_ref()?)));
    let mut preconditions = preconditions.peekable();
    let has_any = preconditions.peek().is_some();
    // An index entry can be erased, and a precondition on it then holds again.
    let has_own = preconditions.any(|(write, precondition)| write.is_own(precondition) && !write.is_index_entry());
    let is_protected = has_own || has_any && started.elapsed() * 2 < context.duplicate_window;
    is_protected && context.api.connection().is_connected()
}
