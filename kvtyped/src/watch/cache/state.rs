//! The state that the updater of a cache writes and its handles read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use papaya::HashMap;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::change::{CacheChange, RecordMap};
use super::index::CacheIndexes;
use crate::bucket::Entry;
use crate::error::Error;
use crate::model::KvModel;
use crate::revision::Revision;

/// The number of changes that are buffered for a reader of `Cache::changes`. A slower reader misses changes.
const CHANGE_BUFFER: usize = 1_024;

/// The maximum number of records to reserve memory for.
const MAX_RESERVED: usize = 1 << 20;

/// The state of the cached keys.
pub(crate) struct Contents<T: KvModel> {
    pub(crate) records: RecordMap<T>,
    /// The keys whose newest record does not decode.
    undecodable: HashMap<T::Key, Arc<Error>>,
}

impl<T: KvModel> Contents<T> {
    pub(super) fn new() -> Self {
        Self { records: HashMap::new(), undecodable: HashMap::new() }
    }

    /// Returns the record of a key, or the error of its newest record. A concurrent change is visible entirely or not
    /// at all.
    pub(crate) fn get(&self, key: &T::Key) -> Result<Option<Arc<Entry<T>>>, Arc<Error>> {
        let (records, undecodable) = (self.records.pin(), self.undecodable.pin());
        if let Some(entry) = records.get(key) {
            return Ok(Some(Arc::clone(entry)));
        }
        if let Some(error) = undecodable.get(key) {
            return Err(Arc::clone(error));
        }
        // A good record is inserted before the error of the key is removed, so read it again.
        Ok(records.get(key).cloned())
    }

    /// Applies one change.
    pub(super) fn apply(&self, key: T::Key, new: Result<Option<Arc<Entry<T>>>, Arc<Error>>) -> Option<CacheChange<T>> {
        let (records, undecodable) = (self.records.pin(), self.undecodable.pin());
        let (old, new, error) = match new {
            Ok(Some(entry)) => {
                let old = records.insert(key.clone(), Arc::clone(&entry)).cloned();
                undecodable.remove(&key);
                (old, Some(entry), None)
            }
            Ok(None) => {
                undecodable.remove(&key);
                (records.remove(&key).cloned(), None, None)
            }
            // Insert the error first, so that the key never appears absent.
            Err(error) => {
                undecodable.insert(key.clone(), Arc::clone(&error));
                (records.remove(&key).cloned(), None, Some(error))
            }
        };
        (old.is_some() || new.is_some() || error.is_some()).then_some(CacheChange { key, old, new, error })
    }
}

/// The contents while a listing fills them. They are not visible to readers until the listing is complete.
pub(super) struct Listing<T: KvModel> {
    contents: Contents<T>,
    /// The number of records that memory was reserved for. `None` before the first entry.
    reserved: Option<usize>,
    /// Whether a record did not decode.
    is_undecodable: bool,
}

impl<T: KvModel> Listing<T> {
    pub(super) fn new() -> Self {
        Self { contents: Contents::new(), reserved: None, is_undecodable: false }
    }

    /// Reserves memory for an entry and the pending ones, when the first entry arrives. A growing map would hash all of
    /// its keys again several times.
    pub(super) fn reserve(&mut self, pending: u64) {
        if self.reserved.is_none() {
            let capacity = usize::try_from(pending).map_or(MAX_RESERVED, |pending| pending.min(MAX_RESERVED));
            self.contents.records = HashMap::with_capacity(capacity);
            self.reserved = Some(capacity);
        }
    }

    /// Applies an entry.
    pub(super) fn apply(&mut self, key: T::Key, new: Result<Option<Arc<Entry<T>>>, Arc<Error>>) {
        let Contents { records, undecodable } = &self.contents;
        if self.is_undecodable {
            undecodable.pin().remove(&key);
        }
        match new {
            Ok(Some(entry)) => drop(records.pin().insert(key, entry)),
            Ok(None) => drop(records.pin().remove(&key)),
            Err(error) => {
                records.pin().remove(&key);
                undecodable.pin().insert(key, error);
                self.is_undecodable = true;
            }
        }
    }

    /// Returns the complete contents. If most of the entries were delete markers, frees the memory reserved for them.
    pub(super) fn finish(mut self) -> Contents<T> {
        let records = &self.contents.records;
        if records.len() < self.reserved.unwrap_or_default() / 4 {
            let smaller = HashMap::with_capacity(records.len());
            for (key, entry) in &records.pin() {
                smaller.pin().insert(key.clone(), Arc::clone(entry));
            }
            self.contents.records = smaller;
        }
        self.contents
    }
}

/// The state that the updater writes and the handles read.
pub(crate) struct CacheState<T: KvModel> {
    pub(crate) bucket: String,
    /// Replaced as a whole after a resync, so that no reader sees partial contents.
    pub(crate) contents: ArcSwap<Contents<T>>,
    /// When the cache was opened, and how many microseconds later the last new entry arrived.
    opened: Instant,
    advanced: AtomicU64,
    /// Locked by the updater while it writes, and by a caller that adds an index.
    pub(crate) indexes: Mutex<CacheIndexes<T>>,
    pub(crate) progress: watch::Sender<CacheProgress>,
    pub(crate) changes: broadcast::Sender<CacheChange<T>>,
    pub(crate) error: Mutex<Option<Arc<Error>>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheProgress {
    pub(crate) revision: Revision,
    pub(crate) ready: bool,
    pub(crate) closed: bool,
    /// The watch reported an error before the first listing was complete.
    pub(crate) failed: bool,
    /// When the cache was last known to be up to date.
    pub(crate) last_seen: Instant,
}

impl<T: KvModel> CacheState<T> {
    pub(crate) fn new(bucket: &str) -> Self {
        let progress = CacheProgress {
            revision: Revision::ZERO,
            ready: false,
            closed: false,
            failed: false,
            last_seen: Instant::now(),
        };
        Self {
            bucket: bucket.to_owned(),
            contents: ArcSwap::from_pointee(Contents::new()),
            opened: Instant::now(),
            advanced: AtomicU64::new(0),
            indexes: Mutex::default(),
            progress: watch::Sender::new(progress),
            changes: broadcast::channel(CHANGE_BUFFER).0,
            error: Mutex::new(None),
        }
    }

    pub(super) fn fail(&self, error: Error) -> Arc<Error> {
        let error = Arc::new(error);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&error));
        error
    }

    /// Clears an error that has passed, unless another one followed.
    pub(super) fn recover(&self, from: &Arc<Error>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.as_ref().is_some_and(|error| Arc::ptr_eq(error, from)) {
            *error = None;
        }
    }

    /// When the listing last made progress.
    pub(crate) fn advanced(&self) -> Instant {
        self.opened + Duration::from_micros(self.advanced.load(Ordering::Relaxed))
    }

    pub(super) fn advance(&self) {
        let after = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.advanced.store(after, Ordering::Relaxed);
    }

    /// Passes a change to the indexes and the readers.
    pub(super) fn publish(&self, change: CacheChange<T>) {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).apply(&change);
        // An error only means that there is no reader.
        let _ = self.changes.send(change);
    }

    /// Replaces the contents, and sends the differences to the readers.
    pub(super) fn swap(&self, contents: Contents<T>) {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.contents.swap(Arc::new(contents));
        let after = self.contents.load_full();
        indexes.rebuild(&after.records);
        drop(indexes);
        // A later subscriber sees the new contents, so it does not need these changes.
        if self.changes.receiver_count() == 0 {
            return;
        }
        let (old, new) = (before.records.pin(), after.records.pin());
        let (old_errors, errors) = (before.undecodable.pin(), after.undecodable.pin());
        let send = |key: &T::Key, new: Option<&Arc<Entry<T>>>, error: Option<&Arc<Error>>| {
            let old = old.get(key).cloned();
            let _ = self.changes.send(CacheChange { key: key.clone(), old, new: new.cloned(), error: error.cloned() });
        };
        for (key, entry) in &new {
            if old.get(key).is_none_or(|before| before.revision() != entry.revision()) {
                send(key, Some(entry), None);
            }
        }
        for (key, error) in &errors {
            if old_errors.get(key).is_none_or(|before| before.revision() != error.revision()) {
                send(key, None, Some(error));
            }
        }
        for (key, _) in old.iter().filter(|(key, _)| new.get(*key).is_none() && errors.get(*key).is_none()) {
            send(key, None, None);
        }
    }
}
