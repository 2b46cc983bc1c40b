//! One increment of a counter, and the recovery of its outcome (ADR-49).
//!
//! An increment is a message without a body. Its header `Nats-Incr` contains the delta. The server stores the new total
//! under the subject of the counter and returns it. An increment has no precondition, so only its operation id
//! (`Nats-Msg-Id`) identifies its attempts. If the acknowledgement is lost, these rules decide the outcome:
//!
//! * *A message with an id and without an increment is a query.* A server that knows the id replies with the sequence
//!   of the increment (`duplicate`). Another server rejects the message because it lacks an increment. Nothing is
//!   stored.
//! * *A server that knows the id has counted the increment.* The reply does not contain the total, so the total is
//!   read.
//! * *A server that does not know the id may have forgotten it.* It remembers ids for two minutes. After a restart it
//!   remembers only the ids of the messages that it still stores: the newest of each subject (64 of them, if this crate
//!   created the stream). The ids that it knows of one subject are therefore always the latest ones. If it knows an
//!   older id of the same counter but not ours, our increment was not counted. It is sent again under the same id, and
//!   the server rejects the first attempt if that arrives late.
//! * *Otherwise the outcome is unknown*, and the error says so.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::json;

use super::ack::{AckReply, Acknowledgement};
use super::recover_ack::{Answered, Attempts, Evidence, Lookup, Recoverable, Step, foreign_duplicate, recover};
use crate::backend::nats::connection::connection::InFlight;
use crate::backend::nats::connection::reply::{AwaitReply, Reply};
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::counter_value::{missing_total, parse_number, parse_total};
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::nats::jetstream::error_code;
use crate::backend::nats::jetstream::message::header;
use crate::backend::nats::jetstream::stream_info;
use crate::backend::{Backoff, Deadline, KeySpace, OperationId};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::observe::note_resend;

/// The time limit for an acknowledgement before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// One increment.
pub(crate) struct Increment<'a> {
    pub(crate) context: &'a StreamContext,
    pub(crate) key: &'a Key,
    pub(crate) delta: i128,
    pub(crate) id: OperationId,
    /// The id of an older increment of the same counter that the server acknowledged.
    pub(crate) known_id: Option<OperationId>,
    pub(crate) deadline: Deadline,
}

/// The outcome that a reply reports for one message.
enum IncrementReply {
    /// The increment was counted, with this total.
    Counted(i128),
    /// The id exists: this attempt, or another one, was counted at this sequence.
    Duplicate(u64),
    /// The message was a query, and the server does not know its id.
    UnknownId,
    /// The increment was not counted. Another attempt would fail too.
    Rejected(Error),
    /// The server that replied did not count the increment. The cause is temporary.
    Retry(Error),
    /// The reply is missing or proves nothing.
    Inconclusive,
}

/// An increment that the server counted.
pub(crate) enum Counted {
    /// The total after the increment.
    Total(i128),
    /// The sequence of the message with the total.
    At(u64),
}

impl Increment<'_> {
    /// Sends the increment and returns the total.
    pub(crate) async fn run(&mut self) -> Result<i128> {
        let mut backoff = Backoff::outage();
        let mut sent = 0_u32;
        loop {
            self.context.api.connection().connected(self.deadline).await?;
            let mut attempt = self.send();
            sent += 1;
            let error = match self.classify(attempt.wait(self.deadline.within(ATTEMPT)).await) {
                IncrementReply::Counted(total) => return Ok(total),
                IncrementReply::Duplicate(_) if sent == 1 => return Err(foreign_duplicate()),
                // A server that was not the leader refused an earlier attempt, but had forwarded it.
                IncrementReply::Duplicate(sequence) => return self.total_at(sequence).await,
                IncrementReply::Rejected(error) => return Err(error),
                IncrementReply::Inconclusive => {
                    tracing::debug!(stream = self.context.stream, key = %self.key, "an increment was not acknowledged");
                    let mut attempts = Attempts::default();
                    attempts.push(attempt);
                    attempts.evidence.sent = sent;
                    let deadline = self.deadline;
                    return match recover(self, &mut attempts, deadline).await.map_err(Error::unknown_outcome)? {
                        Counted::Total(total) => Ok(total),
                        Counted::At(sequence) => self.total_at(sequence).await,
                    };
                }
                IncrementReply::Retry(error) => error,
                IncrementReply::UnknownId => {
                    return Err(
                        Error::backend("the server found no `Nats-Incr` header in the increment").unknown_outcome()
                    );
                }
            };
            tracing::debug!(stream = self.context.stream, %error, "retrying the increment");
            if matches!(self.context.probe_stream(self.deadline).await, Some(None)) {
                return Err(Error::new(ErrorKind::BucketNotFound));
            }
            if !backoff.pause(self.deadline).await {
                return Err(error);
            }
            note_resend(&error);
        }
    }

    fn subject(&self) -> String {
        self.context.write_subject(KeySpace::Records, self.key, None)
    }

    /// Creates an attempt. It is sent at the first wait for its reply.
    fn send(&self) -> InFlight {
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, self.id.as_str());
        headers.insert(header::INCREMENT, self.delta.to_string());
        self.context.api.connection().request(self.subject(), Some(headers), Bytes::new())
    }

    /// Queries whether the leader knows an id.
    async fn query(&self, id: &OperationId) -> Result<IncrementReply> {
        self.context.api.connection().connected(self.deadline).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, id.as_str());
        let mut query = self.context.api.connection().request(self.subject(), Some(headers), Bytes::new());
        Ok(self.classify(query.wait(self.deadline.within(ATTEMPT)).await))
    }

    /// Queries our id. First checks that the stream was not replaced: a bucket of records would store the query.
    async fn find(&self, is_undecidable: bool) -> Result<Lookup<Counted>> {
        let connection = self.context.api.connection();
        let epoch = connection.epoch();
        match self.context.probe_stream(self.deadline).await {
            None => return Ok(Lookup::NotStored { may_resend: false }),
            Some(None) => return Err(Error::new(ErrorKind::BucketNotFound)),
            Some(Some(info)) if stream_info::created(&info)? == self.context.created => {}
            Some(Some(_)) => return Err(Error::new(ErrorKind::BucketReplaced)),
        }
        Ok(match self.query(&self.id).await? {
            IncrementReply::Counted(total) => Lookup::Applied(Counted::Total(total)),
            IncrementReply::Duplicate(sequence) => Lookup::Applied(Counted::At(sequence)),
            IncrementReply::Rejected(error) => Lookup::Rejected(error),
            IncrementReply::Retry(_) | IncrementReply::Inconclusive => Lookup::NotStored { may_resend: false },
            IncrementReply::UnknownId if is_undecidable => Lookup::Undecidable { may_resend: false },
            IncrementReply::UnknownId => match &self.known_id {
                Some(known) if matches!(self.query(known).await?, IncrementReply::Duplicate(_)) => {
                    // Send again only on the connection of the query, because another server may know fewer ids.
                    Lookup::NotStored { may_resend: connection.epoch() == epoch && connection.is_connected() }
                }
                _ => Lookup::Undecidable { may_resend: false },
            },
        })
    }

    /// Reads the total at a sequence, or the current total if that message is no longer stored.
    async fn total_at(&self, sequence: u64) -> Result<i128> {
        let subject = self.context.leader_subject(KeySpace::Records, self.key);
        let (api, stream) = (&self.context.leader_api, &self.context.leader_stream);
        let read = async {
            let at = api.leader(stream, &json!({ "seq": sequence }), self.deadline).await?;
            match at {
                Some(stored) if stored.subject.as_str() == subject => return parse_total(stored.payload()),
                Some(_) => return Err(foreign_duplicate()),
                None => {}
            }
            let newest = api.leader_newest(stream, &subject, self.deadline).await?;
            newest.map_or(Ok(0), |stored| parse_total(stored.payload()))
        };
        // The increment was counted, so an error without a total must not report it as not applied.
        read.await.map_err(Error::unknown_outcome)
    }

    /// Interprets the reply to an attempt or a query.
    fn classify(&self, reply: Reply) -> IncrementReply {
        match AckReply::new(reply, &self.subject(), self.deadline) {
            AckReply::Stored(Acknowledgement { seq, duplicate: true, .. }) if seq > 0 => IncrementReply::Duplicate(seq),
            AckReply::Stored(Acknowledgement { seq, duplicate: false, val: Some(text), .. }) if seq > 0 => {
                match parse_number(&text) {
                    Some(total) => IncrementReply::Counted(total),
                    None => IncrementReply::Rejected(missing_total().unknown_outcome()),
                }
            }
            AckReply::Stored(_) => IncrementReply::Rejected(missing_total().unknown_outcome()),
            AckReply::Error(error) => self.classify_error(error),
            AckReply::Rejected(error) => IncrementReply::Rejected(error),
            AckReply::Retry(error) => IncrementReply::Retry(error),
            AckReply::Missing => IncrementReply::Inconclusive,
        }
    }

    fn classify_error(&self, error: ApiError) -> IncrementReply {
        match error.err_code {
            error_code::INCREMENT_MISSING => IncrementReply::UnknownId,
            error_code::DUPLICATE_IN_FLIGHT => IncrementReply::Inconclusive,
            _ if error.is_transient() => IncrementReply::Retry(Error::unavailable(error.description)),
            _ => {
                let rejection = error.into_write_error(None, 0);
                if rejection.outcome() == Outcome::NotApplied {
                    return IncrementReply::Rejected(rejection);
                }
                // An internal server error can occur before or after the server counts. It proves as little as a
                // missing reply.
                tracing::debug!(stream = self.context.stream, error = %rejection, "an increment failed");
                IncrementReply::Inconclusive
            }
        }
    }
}

/// The caller of [`recover`] converts every error to an unknown outcome.
impl Recoverable for Increment<'_> {
    type Attempt = InFlight;
    type Output = Counted;

    const UNDECIDABLE: &'static str = "the acknowledgement was lost, and the server may have lost earlier increments";

    fn stream(&self) -> &str {
        &self.context.stream
    }

    async fn look_up(&self, is_undecidable: bool) -> Result<Lookup<Counted>> {
        // An error of a query is final. A leader that does not answer is no error.
        Ok(self.find(is_undecidable).await.unwrap_or_else(Lookup::Rejected))
    }

    async fn on_reply(&self, answered: Answered<InFlight>, evidence: &mut Evidence) -> Step<Counted> {
        match self.classify(answered.reply) {
            IncrementReply::Counted(total) => Step::Done(Ok(Counted::Total(total))),
            IncrementReply::Duplicate(_) if evidence.sent == 1 => Step::Done(Err(foreign_duplicate())),
            IncrementReply::Duplicate(sequence) => Step::Done(Ok(Counted::At(sequence))),
            IncrementReply::Rejected(error) => Step::Done(Err(error)),
            // The next look-up queries again, and another attempt is sent if that is safe.
            IncrementReply::Retry(_) | IncrementReply::UnknownId | IncrementReply::Inconclusive => Step::Wait,
        }
    }

    async fn resend(&mut self) -> Result<InFlight> {
        Ok(self.send())
    }

    fn resend_pause(&self, _resends: u32) -> Option<Duration> {
        None
    }
}
