//! Writes with a precondition on another record.

use std::time::SystemTime;

use futures::FutureExt;

use crate::backend::{Batch, Deadline, KeySpace, Precondition, RawBucket, Read, ReadAt, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// A precondition on a record for writes of other records in the same bucket: the record must still have this revision.
#[derive(Debug, Clone)]
pub(crate) struct FencePrecondition {
    bucket: String,
    created: SystemTime,
    precondition: Precondition,
}

/// The precondition of a builder, or the reason why it is invalid.
pub(crate) type FenceResult = Option<Result<FencePrecondition>>;

impl FencePrecondition {
    /// Creates a precondition on this revision of a record of the bucket.
    pub(crate) fn new(raw: &dyn RawBucket, key: Key, revision: Revision) -> Self {
        let precondition = Precondition { space: KeySpace::Records, key, revision };
        Self { bucket: raw.config().name.clone(), created: raw.identity().created, precondition }
    }

    /// Returns the precondition for a write in this bucket.
    ///
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the precondition belongs to another bucket.
    pub(super) fn into_precondition(self, raw: &dyn RawBucket) -> Result<Precondition> {
        if (&self.bucket, self.created) == (&raw.config().name, raw.identity().created) {
            return Ok(self.precondition);
        }
        Err(Error::invalid_config(format!(
            "the guard fences the bucket `{}`; lock with `lock` of the bucket that you write",
            self.bucket
        )))
    }
}

/// Writes if the record of the precondition `on` is unchanged. If the write also expects a revision of the written key,
/// it is sent as a batch of two messages.
///
/// # Errors
///
/// Returns `Fenced` if the record of `on` has changed. Returns `Conflict` if only the written key has changed.
pub(crate) async fn write(
    raw: &dyn RawBucket,
    write: Write,
    on: Option<&Precondition>,
    deadline: Deadline,
) -> Result<Revision> {
    let Some(on) = on else { return raw.write(write, deadline).await };
    let is_conditional = write.precondition.is_some();
    let conflict = match raw.commit(Batch { writes: vec![write], preconditions: vec![on.clone()] }, deadline).await {
        Ok(revisions) => {
            let revision = revisions.first().copied();
            return revision.ok_or_else(|| Error::unavailable("the server returned no revision").unknown_outcome());
        }
        Err(error) if !matches!(error.kind(), ErrorKind::Conflict { .. }) => return Err(error),
        Err(conflict) => conflict,
    };
    let fenced = !is_conditional || is_superseded(raw, on, &conflict, deadline).boxed().await?;
    Err(if fenced { Error::new(ErrorKind::Fenced) } else { conflict })
}

/// Returns whether a conflict is due to `on`. If the conflict does not name its key, reads the record of `on` at the
/// leader.
pub(crate) async fn is_superseded(
    raw: &dyn RawBucket,
    on: &Precondition,
    conflict: &Error,
    deadline: Deadline,
) -> Result<bool> {
    if let Some(key) = conflict.key() {
        return Ok(key == on.key.as_str());
    }
    let now = raw.read(KeySpace::Records, &on.key, ReadAt::Newest(Read::Leader), deadline).await?;
    Ok(now.is_none_or(|now| now.revision != on.revision))
}
