//! The models that may take part in a transaction of a bucket.

use std::any::{TypeId, type_name};

use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::KvModel;

/// The model that a bucket was opened with. The bucket contains the records of this model, and the records of every
/// model that declares the same bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeclaredModel {
    id: TypeId,
    key: TypeId,
    model: &'static str,
    /// Returns the bucket that the model declares.
    declared: fn() -> String,
}

impl DeclaredModel {
    pub(crate) fn new<T: KvModel>() -> Self {
        let (id, key) = (TypeId::of::<T>(), TypeId::of::<T::Key>());
        Self { id, key, model: type_name::<T>(), declared: declared::<T> }
    }

    /// Checks that records of the model `M` live in this bucket.
    ///
    /// A bucket that was opened under another name contains the models that declare that name, and the models that
    /// declare the same bucket as its own model.
    ///
    /// # Errors
    ///
    /// Returns `InvalidBatch` if `M` declares neither bucket.
    pub(crate) fn check<M: KvModel>(&self, bucket: &str) -> Result<()> {
        if TypeId::of::<M>() == self.id {
            return Ok(());
        }
        self.compare(bucket, "model", type_name::<M>(), &declared::<M>())
    }

    /// Checks that records with keys of the type `K` live in this bucket, if the key type declares a bucket.
    ///
    /// # Errors
    ///
    /// Returns `InvalidBatch` if the model of the key declares another bucket.
    pub(crate) fn check_key<K: ModelKey>(&self, bucket: &str) -> Result<()> {
        match K::BUCKET {
            Some(theirs) if TypeId::of::<K>() != self.key => self.compare(bucket, "key", type_name::<K>(), theirs),
            _ => Ok(()),
        }
    }

    fn compare(&self, bucket: &str, what: &str, name: &str, theirs: &str) -> Result<()> {
        let ours = (self.declared)();
        if theirs == bucket || theirs == ours {
            return Ok(());
        }
        let renamed = if ours == bucket { String::new() } else { format!(", opened as `{bucket}`") };
        let reason = format!(
            "the {what} `{name}` belongs to the bucket `{theirs}`, and this is the bucket `{ours}` of the model `{}`{renamed}; \
             use a handle of its own bucket, or declare the same bucket for both models",
            self.model,
        );
        Err(Error::new(ErrorKind::InvalidBatch { reason }))
    }
}

fn declared<T: KvModel>() -> String {
    T::settings().name
}
