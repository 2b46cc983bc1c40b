//! The check that a range of revisions has no gap: every write after a revision is still stored.

use serde_json::json;

use crate::backend::Deadline;
use crate::backend::nats::connection::reply::Reply;
use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::direct_get::DirectReply;
use crate::backend::nats::jetstream::stream_state::StreamState;
use crate::error::Result;
use crate::revision::Revision;

/// How many times to check whether all messages of a stream are kept while the stream is written to.
pub(crate) const GAP_CHECK_ATTEMPTS: usize = 3;

/// Returns whether it is proven that every write after this revision is kept.
///
/// No request returns the number of messages between two revisions. Instead, the messages after `revision` are counted,
/// and then the last revision is read. The count is as large as the distance between the two revisions only if no
/// message is missing. This holds even if the count comes from a stale server.
pub(crate) async fn has_no_gaps(
    context: &StreamContext,
    before: &StreamState,
    after: &mut StreamState,
    revision: Revision,
    mut counted: Option<u64>,
    attempts: usize,
    deadline: Deadline,
) -> Result<bool> {
    if let Some(known) = before.has_no_gaps_after(revision) {
        return Ok(known);
    }
    for _ in 0..attempts {
        if counted.is_none() {
            counted = count_messages_after(context, ">", revision, deadline).await?;
            *after = context.stream_state(deadline).await?;
        }
        match counted.take() {
            Some(count) if count >= after.last.get().saturating_sub(revision.get()) => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

/// Requests the number of messages of a filter after this revision from any server. Returns `None` if the server does
/// not report it (before 2.11, or without direct gets), and if no message matches.
pub(crate) async fn count_messages_after(
    context: &StreamContext,
    filter: &str,
    revision: Revision,
    deadline: Deadline,
) -> Result<Option<u64>> {
    if !context.allow_direct || context.api.connection().is_restricted() {
        return Ok(None);
    }
    let verb = format!("DIRECT.GET.{}", context.stream);
    let body = json!({ "seq": revision.get() + 1, "batch": 1, "next_by_subj": filter });
    let reply = context.api.attempt(&verb, Some(&body), deadline).await?;
    let Reply::Message(message) = reply else { return Ok(None) };
    // A stored message may have a status too. Its number is not used, and the caller lists the bucket.
    if message.status.is_some() {
        return Ok(None);
    }
    let pending = DirectReply::new(message).pending();
    Ok(pending.map(|pending| pending + u64::from(!context.pending_includes_current)))
}
