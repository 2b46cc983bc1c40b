//! The write path of one index entry.
//!
//! An index entry carries no operation id, because a repeated write of the same entry changes nothing but its revision.
//! A lost acknowledgement therefore needs no recovery: the entry is written again until the server replies.
//!
//! An entry with a precondition holds once. If an attempt got no conclusive reply and a later one a conflict, the stored
//! entry decides. If an entry with another value directly follows the expected revision, the write is refused. Otherwise
//! the outcome is unknown, and the caller reads the entry. An equal entry proves nothing: another writer may have stored
//! it, and may depend on it.

use std::time::Duration;

use tokio::time::Instant;

use super::recover_ack::MAX_INCONCLUSIVE;
use super::request::{WriteReply, WriteRequest, lacks_expected_revision};
use crate::backend::nats::connection::reply::AwaitReply;
use crate::backend::nats::context::StreamContext;
use crate::backend::{Backoff, Deadline, Write};
use crate::error::{Error, Result};
use crate::revision::Revision;

/// How long to wait for an acknowledgement before the entry is written again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Writes one index entry, and returns its revision.
pub(crate) async fn publish_entry(context: &StreamContext, write: &Write, deadline: Deadline) -> Result<Revision> {
    let request = WriteRequest::new(context, write, deadline);
    request.check()?;
    let mut backoff = Backoff::outage();
    // Whether an attempt may be applied although no reply said so, whether one got no reply, and the number of conflicts
    // that prove nothing.
    let (mut is_open, mut is_lost, mut conflicts) = (false, false, 0_u32);
    let unknown = |error: Error, is_open| if is_open { error.unknown_outcome() } else { error };
    loop {
        let ready = async {
            context.api.connection().connected(deadline).await?;
            context.check_header_support(write, deadline).await
        };
        ready.await.map_err(|error| unknown(error, is_open))?;
        let error = match request.classify(request.send().wait(deadline.within(ATTEMPT)).await) {
            Some(WriteReply::Applied { revision, .. }) => return Ok(revision),
            Some(WriteReply::Rejected(error)) if error.is_conflict() && is_open => {
                return Err(resolve_conflict(&request, error, deadline).await);
            }
            Some(WriteReply::Rejected(error)) => return Err(unknown(error, is_open)),
            Some(WriteReply::Inconclusive(error)) => {
                (is_open, conflicts) = (true, conflicts + 1);
                if lacks_expected_revision(&error) && conflicts >= MAX_INCONCLUSIVE {
                    return Err(if is_lost { resolve_conflict(&request, error, deadline).await } else { error });
                }
                error
            }
            Some(WriteReply::Retry(error)) => error,
            Some(WriteReply::InProgress) => Error::unavailable("another write of the entry is in flight"),
            None => {
                (is_open, is_lost) = (true, true);
                tracing::debug!(stream = context.stream, "an index entry was not acknowledged");
                if Instant::now() < deadline.at() {
                    continue;
                }
                deadline.error()
            }
        };
        if !backoff.pause(deadline).await {
            return Err(unknown(error, is_open));
        }
    }
}

/// Returns the error of a write by the stored entry, after a conflict that an earlier attempt of this write may have caused.
async fn resolve_conflict(request: &WriteRequest<'_>, conflict: Error, deadline: Deadline) -> Error {
    let WriteRequest { context, write, .. } = request;
    let Some(expected) = write.precondition.as_ref().filter(|precondition| write.is_own(precondition)) else {
        return conflict.unknown_outcome();
    };
    let newest = context.leader_newest(write.space, &write.key, deadline).await;
    match newest {
        Ok(Some(newest)) if newest.directly_follows(expected.revision) && newest.payload() != write.value() => conflict,
        _ => conflict.unknown_outcome(),
    }
}
