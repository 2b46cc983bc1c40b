//! Which models may take part in a transaction of a bucket.

use std::any::{TypeId, type_name};

use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;

/// The model with which a bucket was opened: its records and those of every model that declares the same bucket live there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members {
    id: TypeId,
    model: &'static str,
    /// Returns the bucket that the model declares.
    declared: fn() -> String,
}

impl Members {
    pub(super) fn of<T: KvModel>() -> Self {
        Self { id: TypeId::of::<T>(), model: type_name::<T>(), declared: declared::<T> }
    }

    /// Checks that records of the model `M` live in this bucket.
    ///
    /// A bucket that was opened under another name holds the models of the bucket that its own model declares, and those
    /// that declare the other name.
    ///
    /// # Errors
    ///
    /// Returns `InvalidBatch` if `M` declares neither bucket.
    pub(super) fn check<M: KvModel>(&self, bucket: &str) -> Result<()> {
        if TypeId::of::<M>() == self.id {
            return Ok(());
        }
        let (theirs, ours) = (declared::<M>(), (self.declared)());
        if theirs == bucket || theirs == ours {
            return Ok(());
        }
        let renamed = if ours == bucket { String::new() } else { format!(", opened as `{bucket}`") };
        let reason = format!(
            "the model `{}` declares the bucket `{theirs}`, and this is the bucket `{ours}` of the model `{}`{renamed}; \
             write it through a handle of its own bucket, or declare the same bucket for both models",
            type_name::<M>(),
            self.model,
        );
        Err(Error::new(ErrorKind::InvalidBatch { reason }))
    }
}

fn declared<T: KvModel>() -> String {
    T::settings().name
}
