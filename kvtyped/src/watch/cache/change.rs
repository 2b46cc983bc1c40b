//! One change of a cache.

use std::sync::Arc;

use papaya::HashMap;

use crate::bucket::Entry;
use crate::error::Error;
use crate::model::KvModel;

/// The cached records by key.
pub(crate) type RecordMap<T> = HashMap<<T as KvModel>::Key, Arc<Entry<T>>>;

/// One change of a cache.
#[derive(Debug)]
#[non_exhaustive]
pub struct CacheChange<T: KvModel> {
    /// The key.
    pub key: T::Key,
    /// The record before.
    pub old: Option<Arc<Entry<T>>>,
    /// The record after.
    pub new: Option<Arc<Entry<T>>>,
    /// The error of the new record, if it does not decode.
    pub error: Option<Arc<Error>>,
}

impl<T: KvModel> Clone for CacheChange<T> {
    fn clone(&self) -> Self {
        let Self { key, old, new, error } = self;
        Self { key: key.clone(), old: old.clone(), new: new.clone(), error: error.clone() }
    }
}
