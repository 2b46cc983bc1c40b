//! Writes that stand on another record: only while that has not changed.

use std::time::SystemTime;

use futures::FutureExt;

use super::ReadBucket;
use crate::backend::{At, Batch, Deadline, Guard, RawBucket, Read, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::model::KvModel;
use crate::revision::Revision;

/// A record that must still have this revision when another of its bucket is written.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    bucket: String,
    created: SystemTime,
    guard: Guard,
}

/// What a builder was told to stand on, or why it cannot.
pub(crate) type Footing = Option<Result<Standing>>;

impl Standing {
    /// As a guard, in this bucket.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, if it is of another.
    pub(super) fn within<T: KvModel>(self, bucket: &ReadBucket<T>) -> Result<Guard> {
        if (&*self.bucket, self.created) == (bucket.name(), bucket.created()) {
            return Ok(self.guard);
        }
        Err(Error::invalid_config(format!(
            "the guard's fence stands in another bucket, once `{}`: take the lock with `lock` of the bucket that is written",
            self.bucket
        )))
    }
}

impl<T: KvModel> ReadBucket<T> {
    /// What stands on this revision of a record.
    pub(crate) fn standing(&self, key: Key, revision: Revision) -> Standing {
        Standing { bucket: self.name().to_owned(), created: self.created(), guard: Guard { key, revision } }
    }

    /// When the bucket was made that this handle was opened on.
    fn created(&self) -> SystemTime {
        self.inner.raw.incarnation().created
    }
}

/// What a builder stands on, as a guard in this bucket.
pub(crate) fn guard<T: KvModel>(footing: Footing, bucket: &ReadBucket<T>) -> Result<Option<Guard>> {
    footing.transpose()?.map(|standing| standing.within(bucket)).transpose()
}

/// Writes, if the record that it stands on has not changed. A write that expects a revision of its own key, too, is a batch.
///
/// # Errors
///
/// `Fenced`, if what it stands on has changed; `Conflict`, if that has not and its own key has.
pub(super) async fn write(
    raw: &dyn RawBucket,
    write: Write,
    on: Option<&Guard>,
    deadline: Deadline,
) -> Result<Revision> {
    let Some(on) = on else { return raw.write(write, deadline).await };
    let guarded = write.guard.is_some();
    let conflict = match raw.commit(Batch { writes: vec![write], checks: vec![on.clone()] }, deadline).await {
        Ok(revisions) => {
            let revision = revisions.first().copied();
            return revision.ok_or_else(|| Error::unavailable("the server told no revision").unknown_outcome());
        }
        Err(error) if !matches!(error.kind(), ErrorKind::Conflict { .. }) => return Err(error),
        Err(conflict) => conflict,
    };
    let fenced = !guarded || is_gone(raw, on, &conflict, deadline).boxed().await?;
    Err(if fenced { Error::new(ErrorKind::Fenced) } else { conflict })
}

/// Whether a conflict is one of what was stood on; it does not always say of which key it is.
pub(crate) async fn is_gone(raw: &dyn RawBucket, on: &Guard, conflict: &Error, deadline: Deadline) -> Result<bool> {
    if let Some(key) = conflict.key() {
        return Ok(key == on.key.as_str());
    }
    let now = raw.read(&on.key, At::Newest(Read::Leader), deadline).await?;
    Ok(now.is_none_or(|now| now.revision != on.revision))
}
