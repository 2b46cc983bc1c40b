//! Counters that the server adds up (ADR-49).
//!
//! An increment is a message without a body. Its header `Nats-Incr` contains the delta. The server stores the new total
//! under the subject of the counter and returns it. An increment has no precondition, so only its operation id
//! (`Nats-Msg-Id`) identifies its copies. If the acknowledgement is lost, these rules decide the outcome:
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
//!   the server rejects the first copy if that arrives late.
//! * *Otherwise the outcome is unknown*, and the error says so.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::bucket::StreamContext;
use super::connection::connection::{InFlight, Reply};
use super::jetstream::api;
use super::jetstream::api::{Acknowledgement, Idempotency};
use super::jetstream::message::header;
use super::jetstream::{error, stream_info};
use super::read::scan;
use crate::backend::{Backoff, Deadline, OperationId, RawCounters, ScanItem, ScanRequest};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::{Key, Pattern};
use crate::revision::Revision;

/// The time limit for an acknowledgement before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait for a late reply once a query cannot decide the outcome.
const FINAL_GRACE: Duration = Duration::from_millis(500);

/// The default number of messages kept of each counter. A server that was killed restores only the ids of these
/// messages. The number should therefore exceed the number of concurrent increments of one counter.
pub(crate) const DEFAULT_HISTORY: u8 = BucketConfig::MAX_HISTORY;

/// The maximum number of counters with a remembered older id. Such an id shows whether a server has forgotten ids.
const MAX_TRACKED_COUNTERS: usize = 1_024;

/// The counters of one stream.
pub(crate) struct NatsCounters {
    place: Arc<StreamContext>,
    /// The id of an acknowledged increment of each counter.
    witnesses: Mutex<HashMap<Key, OperationId>>,
}

impl NatsCounters {
    pub(crate) fn new(place: Arc<StreamContext>) -> Self {
        Self { place, witnesses: Mutex::default() }
    }

    fn known_good_id(&self, key: &Key) -> Option<OperationId> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn remember(&self, key: &Key, id: OperationId) {
        let mut witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(witness) = witnesses.get_mut(key) {
            *witness = id;
            return;
        }
        if witnesses.len() >= MAX_TRACKED_COUNTERS
            && let Some(any) = witnesses.keys().next().cloned()
        {
            witnesses.remove(&any);
        }
        witnesses.insert(key.clone(), id);
    }

    async fn add(&self, key: &Key, delta: i128, deadline: Deadline) -> Result<i128> {
        let addition = Increment {
            place: &self.place,
            key,
            subject: format!("{}{key}", self.place.write_prefix),
            delta,
            id: OperationId::generate(),
            deadline,
        };
        let total = addition.run(self.known_good_id(key)).await?;
        self.remember(key, addition.id);
        Ok(total)
    }

    async fn remove(&self, key: &Key, deadline: Deadline) -> Result<()> {
        let place = &self.place;
        let verb = format!("STREAM.PURGE.{}", place.leader_stream);
        let filter = json!({ "filter": place.leader_subject(key) });
        let answer = place.leader_api.call(&verb, Some(&filter), Idempotency::AtMostOnce, deadline).await?;
        answer.map(drop).map_err(error::from_api_error)
    }
}

/// One increment.
struct Increment<'a> {
    place: &'a StreamContext,
    key: &'a Key,
    subject: String,
    delta: i128,
    id: OperationId,
    deadline: Deadline,
}

/// The outcome that a reply reports for one message.
enum CounterReply {
    /// The increment was counted, with this total.
    Counted(i128),
    /// The id exists: this copy, or another one, was counted at this sequence.
    Known(u64),
    /// The message was a query, and the server does not know its id.
    NotKnown,
    /// The increment was not counted. Another attempt would fail too.
    Refused(Error),
    /// The server that replied did not count the increment. The cause is temporary.
    NotNow(Error),
    /// The reply is missing or proves nothing.
    Open,
}

impl Increment<'_> {
    /// Sends the increment and returns the total. `witness` is the id of an older increment of the same counter.
    async fn run(&self, witness: Option<OperationId>) -> Result<i128> {
        let mut backoff = Backoff::outage();
        let mut copies = 0_u32;
        loop {
            self.place.api.connection().connected(self.deadline).await?;
            let mut copy = self.resend();
            copies += 1;
            let until = self.deadline.at().min(Instant::now() + ATTEMPT);
            let error = match self.classify(copy.wait(until).await) {
                CounterReply::Counted(total) => return Ok(total),
                CounterReply::Known(_) if copies == 1 => return Err(error::foreign_duplicate()),
                // A server that was not the leader refused an earlier copy, but had forwarded it.
                CounterReply::Known(sequence) => return self.total_at(sequence).await,
                CounterReply::Refused(error) => return Err(error),
                CounterReply::Open => {
                    tracing::debug!(stream = self.place.stream, key = %self.key, "an increment was not acknowledged");
                    return self.resolve(copy, copies == 1, witness).await.map_err(Error::unknown_outcome);
                }
                CounterReply::NotNow(error) => error,
                CounterReply::NotKnown => {
                    return Err(error::backend("the server found no increment in the message").unknown_outcome());
                }
            };
            tracing::debug!(stream = self.place.stream, %error, "retrying the increment");
            if matches!(self.place.probe_stream(self.deadline).await, Some(None)) {
                return Err(Error::new(ErrorKind::BucketNotFound));
            }
            if !backoff.pause(self.deadline).await {
                return Err(error);
            }
        }
    }

    /// Determines the outcome of an increment that was not acknowledged. The caller converts every error to an unknown
    /// outcome.
    ///
    /// `is_sole`: only one copy was sent, so the server cannot know another copy.
    async fn resolve(&self, copy: InFlight, mut is_sole: bool, witness: Option<OperationId>) -> Result<i128> {
        let mut copy = Some(copy);
        let mut backoff = Backoff::outage();
        let mut until = self.deadline.at();
        let mut forgotten = false;
        while Instant::now() < until {
            let epoch = self.place.api.connection().epoch();
            let asked = match select(pin!(self.look_up()), pin!(wait(&mut copy, until))).await {
                Either::Left((asked, _)) => asked?,
                Either::Right((answer, _)) => self.judge_copy(answer, is_sole),
            };
            match asked {
                CounterReply::Counted(total) => return Ok(total),
                CounterReply::Known(sequence) => return self.total_at(sequence).await,
                CounterReply::Refused(error) => return Err(error),
                CounterReply::NotKnown if forgotten => {}
                CounterReply::NotKnown => match &witness {
                    Some(witness) if matches!(self.send(witness).await?, CounterReply::Known(_)) => {
                        // Send again only on the connection of the query, because another server may know fewer ids.
                        if self.place.api.connection().epoch() == epoch && self.place.api.connection().is_connected() {
                            copy = Some(self.resend());
                            is_sole = false;
                        }
                    }
                    _ => {
                        forgotten = true;
                        until = until.min(Instant::now() + FINAL_GRACE);
                    }
                },
                CounterReply::NotNow(_) | CounterReply::Open => {}
            }
            let pause = backoff.next().max(Duration::from_millis(1));
            match self.judge_copy(wait(&mut copy, until.min(Instant::now() + pause)).await, is_sole) {
                CounterReply::Counted(total) => return Ok(total),
                CounterReply::Known(sequence) => return self.total_at(sequence).await,
                CounterReply::Refused(error) => return Err(error),
                // The next round queries again, and sends another copy if that is safe.
                CounterReply::NotNow(_) | CounterReply::NotKnown | CounterReply::Open => {}
            }
        }
        Err(match forgotten {
            true => Error::unavailable("the acknowledgement was lost, and the server may have lost earlier increments"),
            false => self.deadline.error(),
        })
    }

    /// Creates a copy of the increment.
    fn resend(&self) -> InFlight {
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, self.id.as_str());
        headers.insert(header::INCREMENT, self.delta.to_string());
        self.place.api.connection().request(self.subject.clone(), Some(headers), Bytes::new())
    }

    /// Queries our id. First checks that the stream was not replaced: a bucket of records would store the query.
    async fn look_up(&self) -> Result<CounterReply> {
        match self.place.probe_stream(self.deadline).await {
            None => Ok(CounterReply::Open),
            Some(None) => Err(Error::new(ErrorKind::BucketNotFound)),
            Some(Some(info)) if stream_info::created(&info)? == self.place.created => self.send(&self.id).await,
            Some(Some(_)) => Err(Error::new(ErrorKind::BucketReplaced)),
        }
    }

    /// Queries whether the leader knows an id.
    async fn send(&self, id: &OperationId) -> Result<CounterReply> {
        self.place.api.connection().connected(self.deadline).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, id.as_str());
        let mut question = self.place.api.connection().request(self.subject.clone(), Some(headers), Bytes::new());
        let until = self.deadline.at().min(Instant::now() + ATTEMPT);
        Ok(self.classify(question.wait(until).await))
    }

    /// Reads the total at a sequence, or the current total if that message is no longer stored.
    async fn total_at(&self, sequence: u64) -> Result<i128> {
        let subject = self.place.leader_subject(self.key);
        let (api, stream) = (&self.place.leader_api, &self.place.leader_stream);
        let read = async {
            let at = api.leader(stream, &json!({ "seq": sequence }), self.deadline).await?;
            match at {
                Some(stored) if stored.subject.as_str() == subject => return total(stored.payload()),
                Some(_) => return Err(error::foreign_duplicate()),
                None => {}
            }
            let newest = api.leader_newest(stream, &subject, self.deadline).await?;
            newest.map_or(Ok(0), |stored| total(stored.payload()))
        };
        // The increment was counted, so an error without a total must not report it as not applied.
        read.await.map_err(Error::unknown_outcome)
    }

    /// Interprets the reply to a copy.
    fn judge_copy(&self, answer: Reply, is_sole: bool) -> CounterReply {
        match self.classify(answer) {
            CounterReply::Known(_) if is_sole => CounterReply::Refused(error::foreign_duplicate()),
            verdict => verdict,
        }
    }

    fn classify(&self, answer: Reply) -> CounterReply {
        let message = match answer {
            Reply::Message(message) => message,
            Reply::TimedOut | Reply::Disconnected => return CounterReply::Open,
            Reply::NoResponders => {
                return CounterReply::NotNow(Error::unavailable("no leader accepts increments of these counters"));
            }
            // If the server denied only the reply subject, the increment may have been counted.
            Reply::PermissionDenied(subject) if subject != self.subject => {
                let denied = error::reply_error(Reply::PermissionDenied(subject), self.deadline);
                return CounterReply::Refused(denied.unknown_outcome());
            }
            answer => return CounterReply::Refused(error::reply_error(answer, self.deadline)),
        };
        let error = match api::parse_ack(&message.payload) {
            Ok(Ok(Acknowledgement { seq, duplicate: true, .. })) if seq > 0 => return CounterReply::Known(seq),
            Ok(Ok(Acknowledgement { seq, duplicate: false, val: Some(text), .. })) if seq > 0 => {
                return match number(&text) {
                    Some(total) => CounterReply::Counted(total),
                    None => CounterReply::Refused(missing_total().unknown_outcome()),
                };
            }
            Ok(Ok(_)) => return CounterReply::Refused(missing_total().unknown_outcome()),
            Ok(Err(error)) => error,
            Err(error) => return CounterReply::Refused(error.unknown_outcome()),
        };
        match error.err_code {
            10169 => CounterReply::NotKnown,
            // Another copy with the same id is in flight.
            10158 => CounterReply::Open,
            _ if error.is_transient() => CounterReply::NotNow(Error::unavailable(error.description)),
            _ => {
                let refused = error::from_write_error(error, None, 0);
                if refused.outcome() == Outcome::NotApplied {
                    return CounterReply::Refused(refused);
                }
                // An internal server error can occur before or after the server counts. It proves as little as a
                // missing reply.
                tracing::debug!(stream = self.place.stream, error = %refused, "an increment failed");
                CounterReply::Open
            }
        }
    }
}

/// Waits for the reply to a copy, or until the given time if no copy is pending.
async fn wait(copy: &mut Option<InFlight>, until: Instant) -> Reply {
    let answer = match copy {
        Some(pending) => pending.wait(until).await,
        None => {
            tokio::time::sleep_until(until).await;
            Reply::TimedOut
        }
    };
    if !matches!(answer, Reply::TimedOut | Reply::Disconnected) {
        *copy = None;
    }
    answer
}

fn missing_total() -> Error {
    error::backend("the reply to an increment lacks the total")
}

/// Parses the stored value of a counter: `{"val":"7"}`.
pub(crate) fn total(payload: &[u8]) -> Result<i128> {
    #[derive(Deserialize)]
    struct CounterRecord {
        val: String,
    }
    let stored = serde_json::from_slice::<CounterRecord>(payload).ok();
    stored.and_then(|stored| number(&stored.val)).ok_or_else(missing_total)
}

/// Parses a number of any length. Returns `i128::MIN` or `i128::MAX` for a number that is out of range.
fn number(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(text.parse().unwrap_or(end))
}

impl RawCounters for NatsCounters {
    fn add<'a>(&'a self, key: &'a Key, delta: i128, deadline: Deadline) -> BoxFuture<'a, Result<i128>> {
        self.add(key, delta, deadline).boxed()
    }

    fn read<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<Option<i128>>> {
        async move {
            let newest = self.place.leader_newest(key, deadline).await?;
            newest.map(|stored| total(stored.payload())).transpose()
        }
        .boxed()
    }

    fn scan(&self, pattern: Pattern, patience: Duration) -> BoxStream<'static, Result<(Key, i128)>> {
        let scan = ScanRequest {
            patterns: vec![pattern].into(),
            history: false,
            headers_only: false,
            after: Revision::ZERO,
            limit: None,
            idle_timeout: patience,
        };
        let entries = scan::by_consumer(Arc::clone(&self.place), scan);
        let totals = entries.map(|entry| {
            let ScanItem { entry, pending: _ } = entry?;
            let total = total(&entry.value);
            let total = total.map_err(|error| error.with_key(entry.key.as_str()).at_revision(entry.revision))?;
            Ok((entry.key, total))
        });
        totals.boxed()
    }

    fn remove<'a>(&'a self, key: &'a Key, deadline: Deadline) -> BoxFuture<'a, Result<()>> {
        self.remove(key, deadline).boxed()
    }
}

impl fmt::Debug for NatsCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsCounters").field("stream", &self.place.stream).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_any_length_is_read() {
        for (text, read) in [
            ("0", Some(0)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("18446744073709551616", Some(1 << 64)),
            ("9".repeat(60).as_str(), Some(i128::MAX)),
            (format!("-{}", "9".repeat(60)).as_str(), Some(i128::MIN)),
            ("", None),
            ("-", None),
            ("+-7", None),
            ("7x", None),
        ] {
            assert_eq!(number(text), read, "{text}");
        }
    }
}
