//! Writes that stand on another record: only while that has not changed.

use std::time::SystemTime;

use super::ReadBucket;
use crate::backend::{Deadline, Guard, RawBucket, Write};
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

/// Writes, if the record that it stands on has not changed.
pub(super) async fn write(
    raw: &dyn RawBucket,
    mut write: Write,
    on: Option<&Guard>,
    deadline: Deadline,
) -> Result<Revision> {
    let Some(on) = on else { return raw.write(write, deadline).await };
    write.guard = Some(on.clone());
    match raw.write(write, deadline).await {
        Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => Err(Error::new(ErrorKind::Fenced)),
        written => written,
    }
}
