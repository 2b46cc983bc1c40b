//! The write path of every single write.
//!
//! A write is published as a request with its operation id, once the client is connected. The acknowledgement contains
//! the revision. The id is the message id (`Nats-Msg-Id`). A server remembers it for a while, so that it stores no copy
//! twice. This memory is the larger part of the cost of an id. It is not needed if no second copy can exist that the
//! same server could store. So a write without a precondition to a bucket on a single server has its id in another
//! header (`Kvtyped-Oid`), which the server stores but does not interpret. If a reply says that the write was not
//! applied for a temporary reason, such as no leader, the client tries again. If no reply arrives,
//! [`doubt`](super::doubt) recovers the outcome.
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

use super::api::{self, Acknowledgement};
use super::bucket::Place;
use super::convert::{self, ApiError};
use super::doubt::Doubt;
use super::record::{self, header};
use super::wire::{Answer, Pending};
use crate::backend::{Backoff, Deadline, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long to wait for an acknowledgement before it counts as lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait for the reply of another leader after the reply of a replaced leader.
pub(super) const ABDICATION: Duration = Duration::from_millis(50);

/// How many times a server must report that the expected revision does not exist yet, before the report is final. Also
/// how many consecutive reports of a copy in flight are accepted from a server that keeps the ids of refused writes.
pub(super) const SURE: u32 = 3;

/// The error text if no server listens on the subject of a bucket.
pub(super) const NO_LEADER: &str = "no leader takes writes of this bucket, or JetStream is off for this account";

/// Applies one write, and returns its revision.
pub(super) async fn publish(place: &Place, write: Write, deadline: Deadline) -> Result<Revision> {
    let mut publication = Publication::new(place, &write, deadline);
    publication.check()?;
    let (mut outage, mut congestion) = (Backoff::outage(), Backoff::congestion());
    let (mut copies, mut doubts) = (0_u32, 0_u32);
    // The number of refusals that prove nothing, under any form of the id, and the number of consecutive reports of a
    // copy in flight since the last of them.
    let (mut refusals, mut on_its_way) = (0_u32, 0_u32);
    loop {
        let ready = async {
            place.api.wire().connected(deadline).await?;
            place.check_headers(&write, deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if doubts > 0 { error.unknown_outcome() } else { error });
        }
        let mut pending = if doubts == 0 { publication.send() } else { publication.send_to_all() };
        copies += 1;
        let mut verdict = publication.judge(pending.wait(deadline.within(ATTEMPT)).await);
        if doubts > 0 && verdict.expects_the_future() {
            verdict = publication.hear_the_others(&mut pending, verdict, deadline).await;
        }
        let (error, time_is_left) = match verdict {
            Verdict::Applied { duplicate: true, .. } if copies == 1 => {
                return Err(convert::foreign_duplicate());
            }
            Verdict::Applied { revision, .. } => return Ok(revision),
            Verdict::Refused(error) if error.is_conflict() && publication.form > 0 => {
                return publication.unless_applied(error, deadline).await;
            }
            Verdict::Refused(error) if doubts == 0 || error.is_conflict() => return Err(error),
            Verdict::Refused(error) => return Err(error.unknown_outcome()),
            // Rare paths are boxed, so that the future of a write stays small.
            Verdict::Open => {
                let doubt = Doubt::about(&publication, pending, copies == 1, doubts > 0);
                return doubt.resolve(deadline).boxed().await;
            }
            Verdict::NotNow(error) => {
                tracing::debug!(stream = place.stream, %error, "retrying the write");
                if matches!(place.information(deadline).boxed().await, Some(None)) {
                    return Err(Error::new(ErrorKind::BucketNotFound));
                }
                (error, outage.pause(deadline).await)
            }
            Verdict::Doubtful(error) => {
                doubts += 1;
                (refusals, on_its_way) = (refusals + 1, 0);
                if expects_the_future(&error) && refusals >= SURE {
                    return Err(error);
                }
                (error, congestion.pause(deadline).await)
            }
            Verdict::OnItsWay => {
                doubts += 1;
                on_its_way += 1;
                if write.guard.is_some() && on_its_way >= SURE && place.keeps_refused_ids(deadline).await {
                    publication.take_another_form();
                    (copies, on_its_way) = (0, 0);
                    continue;
                }
                tokio::time::sleep(ABDICATION.min(deadline.remaining())).await;
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
pub(super) struct Publication<'a> {
    pub(super) place: &'a Place,
    pub(super) write: &'a Write,
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// The size of payload and headers, as the server counts it.
    pub(super) size: usize,
    frame: Option<Frame>,
    /// The number of the current form of the id. Zero is the id itself.
    form: u32,
    deadline: Deadline,
}

/// The outcome that a reply reports for its copy.
pub(super) enum Verdict {
    Applied {
        revision: Revision,
        duplicate: bool,
    },
    /// Final: not applied, or an error with an unknown outcome. Another attempt would not help.
    Refused(Error),
    /// Not applied, for a temporary reason.
    NotNow(Error),
    /// Not applied by the server that replied. Another copy, or this copy on another server, may be in flight.
    Doubtful(Error),
    /// The server that replied reports that another copy is in flight.
    OnItsWay,
    /// No reply.
    Open,
}

impl Verdict {
    fn expects_the_future(&self) -> bool {
        matches!(self, Self::Doubtful(error) if expects_the_future(error))
    }
}

/// Whether a conflict that proves nothing reports that the key has not reached the expected revision.
fn expects_the_future(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict { actual: Some(_), .. })
}

/// The position of a message in a batch.
struct Frame {
    batch: String,
    number: usize,
    is_last: bool,
}

impl<'a> Publication<'a> {
    pub(super) fn new(place: &'a Place, write: &'a Write, deadline: Deadline) -> Self {
        let payload = match &write.kind {
            WriteKind::Put(value) => value.clone(),
            WriteKind::Delete | WriteKind::Purge => Bytes::new(),
        };
        let subject = format!("{}{}", place.write_prefix, write.key);
        let mut publication = Self { place, write, subject, payload, size: 0, frame: None, form: 0, deadline };
        publication.size = publication.count();
        publication
    }

    /// Switches to another form of the id, which no server knows.
    fn take_another_form(&mut self) {
        self.form += 1;
        self.size = self.count();
    }

    /// Decides the outcome after this form of the id was refused because of a later revision. This write may have
    /// created that revision under an earlier form.
    async fn unless_applied(&self, conflict: Error, deadline: Deadline) -> Result<Revision> {
        match self.place.leader_newest(&self.write.key, deadline).await {
            Ok(Some(newest)) if newest.is_by(&self.write.id) => Ok(newest.revision),
            Ok(_) => Err(conflict),
            Err(_) => Err(conflict.unknown_outcome()),
        }
    }

    /// Makes the write the message with this number of a batch.
    pub(super) fn join(&mut self, batch: &str, number: usize, is_last: bool) {
        self.frame = Some(Frame { batch: batch.to_owned(), number, is_last });
        self.size = self.count();
    }

    /// The size of the message as the server counts it.
    fn count(&self) -> usize {
        let mut size = "NATS/1.0\r\n\r\n".len() + self.payload.len();
        self.each_header(|name, value| size += name.len() + value.len() + ": \r\n".len());
        size
    }

    /// Returns the headers of a copy.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.each_header(|name, value| headers.insert(name, value));
        headers
    }

    fn each_header(&self, mut header: impl FnMut(&'static str, &str)) {
        let Write { key, kind, guard, ttl, id } = self.write;
        let needs_no_memory = !self.place.config.may_be_behind() && guard.is_none() && self.frame.is_none();
        match self.form {
            _ if needs_no_memory => header(header::OPERATION_ID, id.as_str()),
            0 => header(header::MESSAGE_ID, id.as_str()),
            form => header(header::MESSAGE_ID, &record::form_of_id(id, form)),
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
        if let Some(Frame { batch, number, is_last }) = &self.frame {
            header(header::BATCH, batch);
            header(header::BATCH_SEQUENCE, &number.to_string());
            if *is_last {
                header(header::BATCH_COMMIT, "1");
            }
        }
    }

    /// Returns an error for a message so large that the server would close the connection, and for a purge or a TTL in
    /// a bucket without rollups.
    pub(super) fn check(&self) -> Result<()> {
        if self.write.kind == WriteKind::Purge && self.place.config.takes_no_purge() {
            return Err(Error::no_rollups(&self.place.config.name));
        }
        if self.write.ttl.is_some() && self.place.config.takes_no_purge() {
            return Err(Error::no_rollups_for_ttl(&self.place.config.name));
        }
        let limit = self.place.api.wire().max_payload();
        if self.size > limit {
            return Err(Error::new(ErrorKind::TooLarge { size: Some(self.size), limit: Some(limit) }));
        }
        Ok(())
    }

    /// Creates the request of a copy. It is sent at the first wait for its reply.
    pub(super) fn send(&self) -> Pending {
        self.place.api.wire().request(self.subject.clone(), Some(self.headers()), self.payload.clone())
    }

    /// Creates the request of a copy that may get replies from several servers.
    pub(super) fn send_to_all(&self) -> Pending {
        self.place.api.wire().request_all(self.subject.clone(), self.headers(), self.payload.clone())
    }

    /// Waits for the reply of another leader to a copy whose refusal proves nothing. Returns this reply, or the
    /// refusal.
    async fn hear_the_others(&self, pending: &mut Pending, mut verdict: Verdict, deadline: Deadline) -> Verdict {
        let until = deadline.within(ABDICATION);
        loop {
            match self.judge(pending.wait(until).await) {
                Verdict::Open => return verdict,
                other if other.expects_the_future() => verdict = other,
                other => return other,
            }
        }
    }

    /// Interprets the reply to one copy.
    pub(super) fn judge(&self, answer: Answer) -> Verdict {
        let message = match answer {
            Answer::Message(message) => message,
            Answer::Silent | Answer::Broken => return Verdict::Open,
            Answer::NoResponders => {
                return Verdict::NotNow(Error::unavailable(NO_LEADER));
            }
            // If the server denies only the reply, it may have applied the write.
            Answer::Denied(subject) if subject != self.subject => {
                let denied = convert::of_answer(Answer::Denied(subject), self.deadline);
                return Verdict::Refused(denied.unknown_outcome());
            }
            answer => return Verdict::Refused(convert::of_answer(answer, self.deadline)),
        };
        let error = match api::acknowledgement(&message.payload) {
            Ok(Ok(Acknowledgement { seq, duplicate, .. })) if seq > 0 => {
                return Verdict::Applied { revision: Revision::new(seq), duplicate };
            }
            // This is how nats-server 2.10 reports a copy in flight.
            Ok(Ok(Acknowledgement { seq: 0, duplicate: true, .. })) => return Verdict::OnItsWay,
            Ok(Ok(_)) => {
                let unclear = convert::backend("the reply to a write lacks the revision");
                return Verdict::Refused(unclear.unknown_outcome());
            }
            Ok(Err(error)) => error,
            Err(error) => return Verdict::Refused(error.unknown_outcome()),
        };
        self.judge_error(error)
    }

    fn judge_error(&self, error: ApiError) -> Verdict {
        if let (Some(actual), Some(guard)) = (error.conflict(), &self.write.guard) {
            // A leader that was cut off lacks the entries of the new leader.
            let sure = self.place.config.replicas == Some(1) || actual.is_some_and(|actual| actual > guard.revision);
            let error = Error::new(ErrorKind::Conflict { expected: guard.revision, actual });
            return if sure { Verdict::Refused(error) } else { Verdict::Doubtful(error) };
        }
        match error.err_code {
            10158 => Verdict::OnItsWay,
            _ if error.passes() => Verdict::NotNow(Error::unavailable(error.description)),
            _ => {
                let limit = self.place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
                Verdict::Refused(convert::of_write(error, limit, self.size))
            }
        }
    }
}
