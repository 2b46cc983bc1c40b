//! The one write path.
//!
//! A write is published as a request, on a connection that stands, with the id of its operation; the acknowledgement
//! tells its revision. An answer that says that it was not applied, because of what passes (no leader now), is followed
//! by another attempt. Where no answer comes, [`doubt`](super::doubt) takes over.
//!
//! Two servers may take themselves for the leader of a replicated bucket: one that hung does, until it hears of the
//! other. Both get a write, the first answer counts, and only the other one's decision holds. So a conflict that does
//! not show a later revision (the key has another write on its way, or does not know the expected one yet) proves
//! nothing: one asks again under the same id. A revision, or a conflict with a later one, settles it: a leader looks for
//! the id before it looks at the guard.
//!
//! Before 2.12 a leader keeps the id of a write that it refused, as that of one on its way, and answers every other copy
//! with that. What is on its way arrives: told so again and again, for longer than a leader that is none any more needs to
//! notice, one knows that nothing is, and goes on under another form of the id.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use super::api;
use super::bucket::Place;
use super::convert::{self, ApiError};
use super::doubt::Doubt;
use super::record::{self, header};
use super::wire::{Answer, Pending};
use crate::backend::{Backoff, Deadline, Write, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How long an acknowledgement may take before it is taken for lost.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long a leader that is none any more may take to notice, once it hears of another.
pub(super) const ABDICATION: Duration = Duration::from_millis(50);

/// How often it must be told that an expected revision does not exist yet; and how often in a row that a copy is on its
/// way, until that is not believed of a server that says so of what it refused.
pub(super) const SURE: u32 = 3;

/// Writes, and tells the revision.
pub(super) async fn publish(place: &Place, write: Write, deadline: Deadline) -> Result<Revision> {
    let mut publication = Publication::new(place, &write, deadline);
    publication.check_size()?;
    let (mut outage, mut contention) = (Backoff::outage(), Backoff::contention());
    let (mut copies, mut doubts) = (0_u32, 0_u32);
    // How often it was refused by what proves nothing, under whatever form of its id; and how often in a row a copy was
    // said to be on its way since.
    let (mut refusals, mut on_its_way) = (0_u32, 0_u32);
    loop {
        let ready = async {
            place.api.wire().connected(deadline).await?;
            place.check_headers(&write, deadline).await
        };
        if let Err(error) = ready.await {
            return Err(if doubts > 0 { error.unknown_outcome() } else { error });
        }
        let mut pending = publication.send();
        copies += 1;
        let until = deadline.at().min(Instant::now() + ATTEMPT);
        let (error, time_is_left) = match publication.judge(pending.wait(until).await) {
            Verdict::Applied { duplicate: true, .. } if copies == 1 => {
                return Err(convert::backend("a fresh operation id was taken for one that is known").unknown_outcome());
            }
            Verdict::Applied { revision, .. } => return Ok(revision),
            Verdict::Refused(error) if error.is_conflict() && publication.form > 0 => {
                return publication.unless_applied(error, deadline).await;
            }
            Verdict::Refused(error) if doubts == 0 || error.is_conflict() => return Err(error),
            Verdict::Refused(error) => return Err(error.unknown_outcome()),
            Verdict::Open => return Doubt::about(&publication, pending, doubts > 0).resolve(deadline).await,
            Verdict::NotNow(error) => {
                tracing::debug!(stream = place.stream, %error, "writing again");
                if matches!(place.information(deadline).await, Some(None)) {
                    return Err(Error::new(ErrorKind::BucketNotFound));
                }
                (error, outage.pause(deadline).await)
            }
            Verdict::Doubtful(error) => {
                doubts += 1;
                (refusals, on_its_way) = (refusals + 1, 0);
                let expected_the_future = matches!(error.kind(), ErrorKind::Conflict { actual: Some(_), .. });
                if expected_the_future && refusals >= SURE {
                    return Err(error);
                }
                if expected_the_future {
                    tokio::time::sleep(ABDICATION.min(deadline.remaining())).await;
                }
                (error, contention.pause(deadline).await)
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
                let error = Error::unavailable("another copy of the write is on its way");
                (error, contention.pause(deadline).await)
            }
        };
        if !time_is_left {
            return Err(if doubts > 0 { error.unknown_outcome() } else { error });
        }
    }
}

/// One write, as it is sent.
pub(super) struct Publication<'a> {
    pub(super) place: &'a Place,
    pub(super) write: &'a Write,
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
    /// As the server counts: the payload and the headers.
    pub(super) size: usize,
    /// Which form of its id it has.
    form: u32,
    deadline: Deadline,
}

/// What an answer to one copy of a write says of that copy.
pub(super) enum Verdict {
    Applied {
        revision: Revision,
        duplicate: bool,
    },
    /// Not applied, and there is no use in sending it again.
    Refused(Error),
    /// Not applied, because of what passes.
    NotNow(Error),
    /// Not applied by whoever answered; but another copy, or this one at another server, may be on its way.
    Doubtful(Error),
    /// Whoever answered says that another copy is on its way.
    OnItsWay,
    /// Nothing.
    Open,
}

#[derive(Deserialize)]
struct Acknowledgement {
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

impl<'a> Publication<'a> {
    pub(super) fn new(place: &'a Place, write: &'a Write, deadline: Deadline) -> Self {
        let Write { key, kind, guard, ttl, id } = write;
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, id.as_str());
        let payload = match kind {
            WriteKind::Put(value) => value.clone(),
            WriteKind::Delete => {
                headers.insert(header::OPERATION, "DEL");
                Bytes::new()
            }
            WriteKind::Purge => {
                headers.insert(header::OPERATION, "PURGE");
                headers.insert(header::ROLLUP, "sub");
                Bytes::new()
            }
        };
        if let Some(guard) = guard {
            headers.insert(header::EXPECTED, guard.revision.to_string());
            if guard.key != *key {
                headers.insert(header::EXPECTED_SUBJECT, place.leader_subject(&guard.key));
            }
        }
        if let Some(ttl) = ttl {
            headers.insert(header::TTL, ttl.as_secs().to_string());
        }
        let size = size(&headers, &payload);
        Self {
            place,
            write,
            subject: format!("{}{key}", place.write_prefix),
            headers,
            payload,
            size,
            form: 0,
            deadline,
        }
    }

    /// Gives it another form of its id, by which a server does not know it.
    fn take_another_form(&mut self) {
        self.form += 1;
        self.headers.insert(header::MESSAGE_ID, record::form_of_id(&self.write.id, self.form));
        self.size = size(&self.headers, &self.payload);
    }

    /// What became of it if this form of its id was refused for a later revision, and that may be ours under another form.
    async fn unless_applied(&self, conflict: Error, deadline: Deadline) -> Result<Revision> {
        match self.place.leader_newest(&self.write.key, deadline).await {
            Ok(Some(newest)) if newest.is_by(&self.write.id) => Ok(newest.revision),
            Ok(_) => Err(conflict),
            Err(_) => Err(conflict.unknown_outcome()),
        }
    }

    /// Makes it the message of this number in a batch.
    pub(super) fn join(&mut self, batch: &str, number: usize, is_last: bool) {
        self.headers.insert(header::BATCH, batch);
        self.headers.insert(header::BATCH_SEQUENCE, number.to_string());
        if is_last {
            self.headers.insert(header::BATCH_COMMIT, "1");
        }
        self.size = size(&self.headers, &self.payload);
    }

    /// Checks what the server would not check without closing the connection.
    pub(super) fn check_size(&self) -> Result<()> {
        let limit = self.place.api.wire().client().max_payload();
        if self.size > limit {
            return Err(Error::new(ErrorKind::TooLarge { size: Some(self.size), limit: Some(limit) }));
        }
        Ok(())
    }

    /// A copy; it is sent when it is first waited for.
    pub(super) fn send(&self) -> Pending {
        self.place.api.wire().request(self.subject.clone(), Some(self.headers.clone()), self.payload.clone())
    }

    /// What an answer to one copy says.
    pub(super) fn judge(&self, answer: Answer) -> Verdict {
        let message = match answer {
            Answer::Message(message) => message,
            Answer::Silent | Answer::Broken => return Verdict::Open,
            Answer::NoResponders => {
                return Verdict::NotNow(Error::unavailable("no leader takes writes of this bucket"));
            }
            // Where only the answers are denied, the write may well be applied.
            Answer::Denied(subject) if subject != self.subject => {
                let denied = convert::of_answer(Answer::Denied(subject), self.deadline);
                return Verdict::Refused(denied.unknown_outcome());
            }
            answer => return Verdict::Refused(convert::of_answer(answer, self.deadline)),
        };
        let error = match api::parse(&message.payload) {
            Ok(Ok(answer)) => match Acknowledgement::deserialize(answer) {
                Ok(Acknowledgement { seq, duplicate }) if seq > 0 => {
                    return Verdict::Applied { revision: Revision::new(seq), duplicate };
                }
                _ => {
                    return Verdict::Refused(
                        convert::backend("a write was answered without a revision").unknown_outcome(),
                    );
                }
            },
            Ok(Err(error)) => error,
            Err(error) => return Verdict::Refused(error.unknown_outcome()),
        };
        self.judge_error(error)
    }

    fn judge_error(&self, error: ApiError) -> Verdict {
        if let (Some(actual), Some(guard)) = (error.conflict(), &self.write.guard) {
            // Whoever else looks at another key, or writes it, makes a guard on it fail that holds.
            let sure = self.place.config.replicas == Some(1)
                || (guard.key != self.write.key && actual.is_some())
                || actual.is_some_and(|actual| actual > guard.revision);
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

/// The size of a message as the server counts it.
fn size(headers: &HeaderMap, payload: &Bytes) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let lines = lines.map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4);
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>() + payload.len()
}
