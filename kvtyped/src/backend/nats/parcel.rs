//! The messages of a batch: how they are sent, and what an answer says of them (ADR-50).
//!
//! All but the last are published without a reply, the last is a request; the connection keeps their order. A server
//! stages what has the name of a batch until the last one comes, and says why it refused one before that only if it is
//! asked for: the last is answered that the batch is not complete. So after such an answer every message is a request.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::api::{self, Acknowledgement};
use super::bucket::Place;
use super::convert::{self, ApiError};
use super::publish::{NO_LEADER, Publication};
use super::record::header;
use super::wire::{Answer, Pending};
use crate::backend::{Batch, Deadline, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The messages of a batch.
pub(super) struct Parcel<'a> {
    pub(super) place: &'a Place,
    pub(super) publications: Vec<Publication<'a>>,
    deadline: Deadline,
    /// How often it was sent: each copy is a batch of its own name.
    pub(super) copies: u32,
}

/// What an answer says of the copy that it answers.
pub(super) enum Verdict {
    /// Applied: the revision of the first message.
    Applied(Revision),
    /// Not applied, because another copy is.
    Known,
    /// Not applied, because a guard does not hold: the revision that some key has.
    Conflict(Revision),
    /// Not applied, because some guarded key is being written, or looked at, or another copy is on its way.
    Busy,
    /// Not applied, because not all messages were taken.
    Incomplete,
    /// Not applied, because of what passes.
    NotNow(Error),
    /// Not applied by whoever answered, who does not lead now; of a cluster, another may have got it as well, and does.
    NotHere(Error),
    /// Not applied, and there is no use in sending it again.
    Refused(Error),
}

/// A copy on its way.
pub(super) struct Sent<'a> {
    last: Pending,
    half: Half,
    _place: Option<SemaphorePermit<'a>>,
}

/// What a server stages until the last message comes, or nothing has come for ten seconds. It has room for few of these.
struct Half {
    client: Client,
    subject: String,
    batch: String,
    /// How many messages were handed over; nothing is staged of none.
    messages: usize,
}

impl<'a> Parcel<'a> {
    /// That of these writes, each of which a server would take.
    pub(super) fn new(place: &'a Place, writes: &'a [Write], deadline: Deadline) -> Result<Self> {
        let publications = writes.iter().map(|write| Publication::new(place, write, deadline)).collect();
        let mut parcel = Self { place, publications, deadline, copies: 0 };
        parcel.copy();
        let limit = place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
        for publication in &parcel.publications {
            let key = publication.write.key.as_str();
            publication.check().map_err(|error| error.with_key(key))?;
            // A message that is too large would only be missed.
            if limit.is_some_and(|limit| publication.size > limit) {
                let size = Some(publication.size);
                return Err(Error::new(ErrorKind::TooLarge { size, limit }).with_key(key));
            }
        }
        Ok(parcel)
    }

    /// Makes the messages those of another batch.
    fn copy(&mut self) -> String {
        let id = self.publications.first().map_or("", |first| first.write.id.as_str());
        let batch = format!("{id}-{}", self.copies.max(1));
        let count = self.publications.len();
        for (number, publication) in (1..).zip(&mut self.publications) {
            publication.join(&batch, number, number == count);
        }
        batch
    }

    /// Sends a copy. With `to_all`, several servers may answer.
    pub(super) async fn send(&mut self, to_all: bool) -> Result<Sent<'a>> {
        let wire = self.place.api.wire();
        let place = self.deadline.bound(wire.place_of_batch()).await?;
        let _turn = self.deadline.bound(wire.turn()).await?;
        self.copies += 1;
        let batch = self.copy();
        let subject = format!("{}{}.0", self.place.write_prefix, Batch::CHECKS);
        let client = wire.client();
        let mut half = Half { client: client.clone(), subject, batch, messages: 0 };
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
        let last = last.ok_or_else(|| convert::backend("a batch without a message"))?;
        Ok(Sent { last, half, _place: place })
    }

    /// Sends a copy, message by message, until one is refused: what is said of that, or of the last.
    pub(super) async fn send_and_ask(&mut self, until: Instant) -> Option<Verdict> {
        self.copies += 1;
        let batch = self.copy();
        let subject = format!("{}{}.0", self.place.write_prefix, Batch::CHECKS);
        let mut half = Half { client: self.place.api.wire().client(), subject, batch, messages: 0 };
        for publication in &self.publications {
            half.messages += 1;
            let answer = publication.send().wait(until).await;
            match answer {
                Answer::Message(message) if message.payload.is_empty() => {}
                answer => {
                    let verdict = self.judge(answer, publication);
                    if verdict.is_some() {
                        half.messages = 0;
                    }
                    return verdict;
                }
            }
        }
        None
    }

    /// What an answer to the last message says.
    pub(super) fn judge_last(&self, answer: Answer) -> Option<Verdict> {
        self.judge(answer, self.publications.last()?)
    }

    fn judge(&self, answer: Answer, publication: &Publication<'_>) -> Option<Verdict> {
        let unclear = || convert::backend("a batch was answered without its revisions").unknown_outcome();
        let message = match answer {
            Answer::Message(message) => message,
            Answer::Silent | Answer::Broken => return None,
            Answer::NoResponders => {
                return Some(Verdict::NotNow(Error::unavailable(NO_LEADER)));
            }
            // Where only the answers are denied, the batch may well be applied.
            Answer::Denied(subject) if subject != publication.subject => {
                let denied = convert::of_answer(Answer::Denied(subject), self.deadline);
                return Some(Verdict::Refused(denied.unknown_outcome()));
            }
            answer => return Some(Verdict::Refused(convert::of_answer(answer, self.deadline))),
        };
        Some(match api::acknowledgement(&message.payload) {
            Ok(Ok(Acknowledgement { seq, count, .. })) if count == self.publications.len() && seq >= count as u64 => {
                Verdict::Applied(Revision::new(seq - count as u64 + 1))
            }
            Ok(Ok(_)) => Verdict::Refused(unclear()),
            Ok(Err(error)) => self.judge_error(error, publication),
            Err(error) => Verdict::Refused(error.unknown_outcome()),
        })
    }

    fn judge_error(&self, error: ApiError, publication: &Publication<'_>) -> Verdict {
        match error.conflict() {
            Some(Some(actual)) => return Verdict::Conflict(actual),
            Some(None) => return Verdict::Busy,
            None => {}
        }
        match error.err_code {
            10158 => Verdict::Busy,
            10174 => Verdict::Refused(Error::no_batches(&self.place.config.name)),
            10176 => Verdict::Incomplete,
            10199 => Verdict::Refused(Error::new(ErrorKind::InvalidBatch { reason: error.description })),
            10201 => Verdict::Known,
            _ if error.passes() => Verdict::NotHere(Error::unavailable(error.description)),
            _ => {
                let limit = self.place.config.max_value_size.and_then(|limit| usize::try_from(limit).ok());
                Verdict::Refused(convert::of_write(error, limit, publication.size))
            }
        }
    }
}

impl Sent<'_> {
    /// Waits for the next answer until then.
    pub(super) async fn wait(&mut self, until: Instant) -> Answer {
        let answer = self.last.wait(until).await;
        if !matches!(answer, Answer::Silent | Answer::Broken) {
            self.half.messages = 0;
        }
        answer
    }
}

/// Nobody waits any more, and the last message may not have been sent: a message out of turn makes the server forget what
/// it has staged. If there is nothing, it is refused; stored it is never, for it says that it is meant for no stream.
impl Drop for Half {
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
            // An error says that there is no connection any more.
            let _ = client.publish_with_headers(subject, headers, Bytes::new()).await;
        });
    }
}
