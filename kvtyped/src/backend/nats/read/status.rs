//! The status of a bucket.

use super::gap_check::count_messages_after;
use super::list_keys::count_keys;
use crate::backend::nats::context::StreamContext;
use crate::backend::{BucketStatus, Deadline, KeySpace};
use crate::error::Result;
use crate::key::Pattern;
use crate::revision::Revision;

/// Requests the status. The information of a stream counts its messages, and the stream may contain index entries, so
/// the records are counted too.
pub(crate) async fn status(context: &StreamContext, deadline: Deadline) -> Result<BucketStatus> {
    let mut status = context.stream_status(deadline).await?;
    // A copy may contain the entries of its origin.
    let is_copy = status.config.mirror.is_some() || !status.config.sources.is_empty();
    if status.values == 0 || !is_copy && status.config.index_entries != Some(true) {
        return Ok(status);
    }
    let records = format!("{}>", context.prefix);
    let counted = count_messages_after(context, &records, Revision::ZERO, deadline).await?;
    status.values = match counted {
        Some(count) => count,
        None if is_copy => status.values,
        None => {
            let entries = count_keys(context, KeySpace::Index, &Pattern::all(), deadline).await?;
            status.values.saturating_sub(entries)
        }
    };
    Ok(status)
}
