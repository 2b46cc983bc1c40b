//! Removal of the stored entries of a key from the stream.

use serde_json::json;

use crate::backend::nats::context::StreamContext;
use crate::backend::nats::jetstream::api::Idempotency;
use crate::backend::nats::jetstream::error::ApiError;
use crate::backend::{Deadline, KeySpace};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// Removes the entries of a key, or those up to the revision `through`. Returns their number.
pub(crate) async fn purge(
    context: &StreamContext,
    space: KeySpace,
    key: &Key,
    through: Option<Revision>,
    deadline: Deadline,
) -> Result<u64> {
    let verb = format!("STREAM.PURGE.{}", context.leader_stream);
    let mut body = json!({ "filter": context.leader_subject(space, key) });
    let mut repeat = Idempotency::AtMostOnce;
    if let Some(through) = through {
        body["seq"] = json!(through.get().saturating_add(1));
        // A repeated request keeps later entries.
        repeat = Idempotency::Idempotent;
    }
    let reply = context.leader_api.call(&verb, Some(&body), repeat, deadline).await?;
    let info = reply.map_err(ApiError::into_error)?;
    Ok(info["purged"].as_u64().unwrap_or_default())
}
