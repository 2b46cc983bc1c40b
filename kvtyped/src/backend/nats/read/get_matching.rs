//! The newest entries of the keys that one filter matches, if these are few: one request instead of a consumer.
//!
//! A server from 2.11 on answers one request about the subjects that match a wildcard (`multi_last`, ADR-31), if there are
//! 1,024 of them at most. It takes the revisions at one moment and then reads the messages. An entry that is written again
//! between these two steps is missing in the answer, so a second request asks whether a later entry matches. If it does,
//! a consumer continues behind the answer.
//!
//! A request that is refused costs a round trip. It is therefore not sent again soon for the same filter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::reply_stream::{ReplyStream, StreamedReply};
use crate::backend::Deadline;
use crate::backend::nats::bucket::StreamContext;
use crate::backend::nats::jetstream::message::{StoredMessage, header};
use crate::error::Result;

/// The number of bytes that an answer may have.
const ANSWER: usize = 8 * 1024 * 1024;

/// The longest silence before a consumer replaces the request.
const SILENCE: Duration = Duration::from_secs(1);

/// The number of scans of a filter with too many keys until the next attempt.
const SKIPS: u32 = 100;

/// The number of filters with too many keys that a bucket remembers.
const REMEMBERED: usize = 64;

/// How a bucket answered such requests.
#[derive(Debug, Default)]
pub(crate) struct Support {
    /// The last connection without answers.
    refused: AtomicU64,
    /// Filters with too many keys, and how many of their scans make no attempt.
    large: Mutex<VecDeque<(String, u32)>>,
}

impl Support {
    /// Whether a scan of this filter makes no attempt.
    fn skips(&self, filter: &str, epoch: u64) -> bool {
        if self.refused.load(Ordering::Relaxed) == epoch {
            return true;
        }
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = large.iter().position(|(known, _)| known == filter) else { return false };
        if let Some(left) = large[at].1.checked_sub(1) {
            large[at].1 = left;
            return true;
        }
        large.remove(at);
        false
    }

    fn refuse(&self, epoch: u64) {
        self.refused.store(epoch, Ordering::Relaxed);
    }

    fn has_too_many(&self, filter: &str) {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        large.retain(|(known, _)| known != filter);
        if large.len() == REMEMBERED {
            large.pop_front();
        }
        large.push_back((filter.to_owned(), SKIPS));
    }
}

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Few {
    /// The entries in the order of revisions, each with the number of entries behind it.
    pub(crate) entries: VecDeque<(StoredMessage, u64)>,
    /// Whether nothing else matches.
    pub(crate) is_all: bool,
}

/// Asks for the newest entries of a filter. `None` if there is no usable answer.
pub(crate) async fn ask(place: &StreamContext, filter: &str, deadline: Deadline) -> Result<Option<Few>> {
    let wire = place.api.connection();
    let epoch = wire.epoch();
    // Another server that stores the bucket may be behind the one that serves consumers.
    if !place.allow_direct || wire.is_restricted() || place.config.may_be_behind() || place.few.skips(filter, epoch) {
        return Ok(None);
    }
    let mut replies = ReplyStream::subscribe(&place.api, &format!("DIRECT.GET.{}", place.stream), deadline).await?;
    let body = json!({ "multi_last": [filter], "max_bytes": ANSWER });
    if !replies.request(0, Bytes::from(body.to_string()), deadline).await? {
        return Ok(None);
    }
    let mut few = Few::default();
    let up_to = loop {
        let Some(message) = next(place, &mut replies, 0, epoch, deadline).await? else { return Ok(None) };
        match status(&message) {
            None => {
                let Some(pending) = number(&message, header::PENDING) else { return Ok(None) };
                let has_gap = few.entries.back().is_some_and(|(_, before)| *before != pending + 1);
                let Some(stored) = StoredMessage::from_direct(message).ok().filter(|_| !has_gap) else {
                    return Ok(None);
                };
                few.entries.push_back((stored, pending));
            }
            Some(204) => match number(&message, header::UP_TO) {
                Some(up_to) => break up_to,
                None => return Ok(None),
            },
            Some(404) => {
                // An entry may have been removed between the two steps of the server.
                let said = message.description.unwrap_or_default();
                few.is_all = few.entries.is_empty() && !said.contains("Not Found");
                return Ok(few.is_all.then_some(few));
            }
            Some(413) => {
                place.few.has_too_many(filter);
                return Ok(None);
            }
            // No server answers at the moment.
            Some(503) => return Ok(None),
            Some(status) => {
                tracing::debug!(stream = place.stream, status, "the server does not answer requests for a wildcard");
                place.few.refuse(epoch);
                return Ok(None);
            }
        }
    };
    match few.entries.back() {
        // The rest did not fit into the answer.
        Some((_, 1..)) => return Ok(Some(few)),
        Some(_) => {}
        None => return Ok(None),
    }
    let body = json!({ "seq": up_to + 1, "next_by_subj": filter });
    if replies.request(1, Bytes::from(body.to_string()), deadline).await? {
        let later = next(place, &mut replies, 1, epoch, deadline).await?;
        few.is_all = later.is_some_and(|later| status(&later) == Some(404));
    }
    Ok(Some(few))
}

/// The next message of the answer with this number.
async fn next(
    place: &StreamContext,
    replies: &mut ReplyStream,
    wanted: u64,
    epoch: u64,
    deadline: Deadline,
) -> Result<Option<Message>> {
    loop {
        match replies.next(deadline.at().min(Instant::now() + SILENCE)).await? {
            StreamedReply::Message(number, message) if number == wanted => return Ok(Some(message)),
            StreamedReply::Message(..) => {}
            StreamedReply::Broken => return Ok(None),
            // A denial shows as silence over the connection of an application.
            StreamedReply::Denied | StreamedReply::Silent => {
                place.few.refuse(epoch);
                return Ok(None);
            }
        }
    }
}

/// The status of a message that is no entry.
fn status(message: &Message) -> Option<u16> {
    message.status.filter(|_| !StoredMessage::is_stored_message(message)).map(|status| status.as_u16())
}

fn number(message: &Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get_last(name)?.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_too_many_keys_is_seldom_asked_for() {
        let support = Support::default();
        let attempts = |scans: u32| (0..scans).filter(|_| !support.skips("$KV.b.>", 1)).count();
        assert_eq!(attempts(3), 3);
        support.has_too_many("$KV.b.>");
        assert!(!support.skips("$KV.b.acme.>", 1));
        assert_eq!(attempts(100), 0);
        assert_eq!(attempts(3), 3);
        (0..1_000).for_each(|n| support.has_too_many(&format!("$KV.b.{n}.>")));
        assert_eq!(support.large.lock().map(|large| large.len()).ok(), Some(REMEMBERED));
        assert!(support.skips("$KV.b.999.>", 1) && !support.skips("$KV.b.1.>", 1));
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_again_on_the_next_connection() {
        let support = Support::default();
        support.refuse(1);
        assert!(support.skips("$KV.b.>", 1) && !support.skips("$KV.b.>", 2));
    }
}
