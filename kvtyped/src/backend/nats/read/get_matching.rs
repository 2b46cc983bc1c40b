//! The newest entries of the keys that one filter matches, if there are few: one request instead of a consumer.
//!
//! A server since 2.11 answers one request for the subjects that match a wildcard (`multi_last`, ADR-31), if there are at
//! most 1,024 of them. It selects the revisions first and then reads the messages. An entry that is written again between
//! these two steps is missing in the reply, so a second request asks whether a later entry matches. If one does, a
//! consumer continues after the reply.
//!
//! A request that is refused costs a round trip. It is therefore not sent again soon for the same filter.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::reply_stream::{ReplyStream, StreamedReply};
use crate::backend::Deadline;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::direct_get::DirectReply;
use crate::backend::nats::jetstream::message::StoredMessage;
use crate::error::Result;

/// The maximum size of the entries in the reply, in bytes.
const MAX_REPLY_SIZE: usize = 8 * 1024 * 1024;

/// The longest silence before a consumer replaces the request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The entries that a filter matches.
#[derive(Debug, Default)]
pub(crate) struct MatchingEntries {
    /// The entries in the order of revisions, each with the number of entries after it.
    pub(crate) entries: VecDeque<(StoredMessage, u64)>,
    /// Whether nothing else matches.
    pub(crate) is_complete: bool,
}

/// Requests the newest entries of a filter. Returns `None` if there is no usable reply.
pub(crate) async fn get_matching(
    context: &StreamContext,
    filter: &str,
    deadline: Deadline,
) -> Result<Option<MatchingEntries>> {
    let connection = context.api.connection();
    let epoch = connection.epoch();
    // Another server that stores the bucket may be behind the one that serves consumers.
    if !context.allow_direct
        || connection.is_restricted()
        || context.config.may_be_behind()
        || context.filter_get.should_skip(filter, epoch)
    {
        return Ok(None);
    }
    let mut replies = ReplyStream::subscribe(&context.api, &format!("DIRECT.GET.{}", context.stream), deadline).await?;
    let body = json!({ "multi_last": [filter], "max_bytes": MAX_REPLY_SIZE });
    if !replies.request(0, Bytes::from(body.to_string()), deadline).await? {
        return Ok(None);
    }
    let mut matching = MatchingEntries::default();
    let up_to = loop {
        let Some(reply) = next(context, &mut replies, 0, epoch, deadline).await? else { return Ok(None) };
        match reply.status() {
            None => {
                let Some(pending) = reply.pending() else { return Ok(None) };
                let has_gap = matching.entries.back().is_some_and(|(_, before)| *before != pending + 1);
                let Some(stored) = reply.into_stored().ok().filter(|_| !has_gap) else { return Ok(None) };
                matching.entries.push_back((stored, pending));
            }
            Some(204) => match reply.up_to() {
                Some(up_to) => break up_to,
                None => return Ok(None),
            },
            Some(404) => {
                // An entry may have been removed between the two steps of the server.
                matching.is_complete = matching.entries.is_empty() && !reply.description().contains("Not Found");
                return Ok(matching.is_complete.then_some(matching));
            }
            Some(413) => {
                context.filter_get.record_too_many(filter);
                return Ok(None);
            }
            // No server answers at the moment.
            Some(503) => return Ok(None),
            Some(status) => {
                tracing::debug!(stream = context.stream, status, "the server does not answer requests for a wildcard");
                context.filter_get.mark_unsupported(epoch);
                return Ok(None);
            }
        }
    };
    match matching.entries.back() {
        // The rest did not fit into the reply.
        Some((_, 1..)) => return Ok(Some(matching)),
        Some(_) => {}
        None => return Ok(None),
    }
    let body = json!({ "seq": up_to + 1, "next_by_subj": filter });
    if replies.request(1, Bytes::from(body.to_string()), deadline).await? {
        let later = next(context, &mut replies, 1, epoch, deadline).await?;
        matching.is_complete = later.is_some_and(|later| later.status() == Some(404));
    }
    Ok(Some(matching))
}

/// Returns the next reply to the request with this number.
async fn next(
    context: &StreamContext,
    replies: &mut ReplyStream,
    request: u64,
    epoch: u64,
    deadline: Deadline,
) -> Result<Option<DirectReply>> {
    loop {
        match replies.next(deadline.at().min(Instant::now() + REPLY_TIMEOUT)).await? {
            StreamedReply::Message(number, message) if number == request => return Ok(Some(DirectReply::new(message))),
            StreamedReply::Message(..) => {}
            StreamedReply::Broken => return Ok(None),
            // A denial shows as silence over the connection of an application.
            StreamedReply::Denied | StreamedReply::Silent => {
                context.filter_get.mark_unsupported(epoch);
                return Ok(None);
            }
        }
    }
}
