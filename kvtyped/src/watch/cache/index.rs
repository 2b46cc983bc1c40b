//! Secondary indexes of a cache.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use arc_swap::ArcSwap;
use papaya::HashMap;

use super::change::{CacheChange, RecordMap};
use crate::bucket::Entry;
use crate::model::KvModel;

/// A secondary index of a cache: its records by a computed value; see [`Cache::index_by`](crate::watch::Cache::index_by).
pub struct CacheIndex<K, T: KvModel> {
    groups: Arc<Groups<K, T>>,
}

type IndexBucket<T> = Arc<[Arc<Entry<T>>]>;
type Groups<K, T> = ArcSwap<HashMap<K, IndexBucket<T>>>;

impl<K: Eq + Hash + Clone, T: KvModel> CacheIndex<K, T> {
    /// Returns the records whose computed value equals `by`.
    pub fn get(&self, by: &K) -> Vec<Arc<Entry<T>>> {
        self.groups.load().pin().get(by).map(|group| group.to_vec()).unwrap_or_default()
    }

    /// Returns whether a record with this computed value exists.
    pub fn contains(&self, by: &K) -> bool {
        self.groups.load().pin().contains_key(by)
    }

    /// Returns the computed values of all cached records.
    pub fn keys(&self) -> Vec<K> {
        self.groups.load().pin().keys().cloned().collect()
    }
}

impl<K, T: KvModel> Clone for CacheIndex<K, T> {
    fn clone(&self) -> Self {
        Self { groups: Arc::clone(&self.groups) }
    }
}

impl<K, T: KvModel> fmt::Debug for CacheIndex<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

/// All indexes of a cache.
pub(crate) struct CacheIndexes<T: KvModel> {
    all: Vec<Box<dyn MaintainIndex<T>>>,
}

impl<T: KvModel> Default for CacheIndexes<T> {
    fn default() -> Self {
        Self { all: Vec::new() }
    }
}

impl<T: KvModel> CacheIndexes<T> {
    pub(crate) fn add<K, F>(&mut self, by: F, records: &RecordMap<T>) -> CacheIndex<K, T>
    where
        K: Eq + Hash + Clone + Send + Sync + 'static,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        let groups = Arc::new(ArcSwap::from_pointee(HashMap::new()));
        let kept = IndexState { by, groups: Arc::clone(&groups) };
        kept.rebuild(records);
        self.all.push(Box::new(kept));
        CacheIndex { groups }
    }

    pub(crate) fn apply(&mut self, change: &CacheChange<T>) {
        self.all.retain(|index| index.is_used());
        for index in &self.all {
            index.apply(change);
        }
    }

    pub(crate) fn rebuild(&mut self, records: &RecordMap<T>) {
        self.all.retain(|index| index.is_used());
        for index in &self.all {
            index.rebuild(records);
        }
    }
}

/// An index with any type of computed value.
trait MaintainIndex<T: KvModel>: Send + Sync {
    fn apply(&self, change: &CacheChange<T>);
    fn rebuild(&self, records: &RecordMap<T>);
    fn is_used(&self) -> bool;
}

struct IndexState<K, T: KvModel, F> {
    by: F,
    groups: Arc<Groups<K, T>>,
}

impl<K, T, F> MaintainIndex<T> for IndexState<K, T, F>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: KvModel,
    F: Fn(&T) -> K + Send + Sync + 'static,
{
    fn apply(&self, change: &CacheChange<T>) {
        let groups = self.groups.load();
        let groups = groups.pin();
        let CacheChange { key, old, new, error: _ } = change;
        let left = old.as_ref().map(|entry| (self.by)(entry));
        let joined = new.as_ref().map(|entry| (self.by)(entry));
        // Add the entry to its new group before removing it from the old one. A concurrent reader may see it twice, but
        // never misses it.
        if let (Some(by), Some(entry)) = (&joined, new) {
            let others = groups.get(by).into_iter().flat_map(|group| group.iter());
            let others = others.filter(|other| other.key() != key).cloned();
            groups.insert(by.clone(), others.chain([Arc::clone(entry)]).collect());
        }
        if let Some(by) = left
            && joined.as_ref() != Some(&by)
        {
            let others = groups.get(&by).into_iter().flat_map(|group| group.iter());
            let others: IndexBucket<T> = others.filter(|other| other.key() != key).cloned().collect();
            match others.is_empty() {
                true => groups.remove(&by),
                false => groups.insert(by, others),
            };
        }
    }

    fn rebuild(&self, records: &RecordMap<T>) {
        let mut groups: std::collections::HashMap<K, Vec<Arc<Entry<T>>>> = std::collections::HashMap::new();
        for entry in records.pin().values() {
            groups.entry((self.by)(entry)).or_default().push(Arc::clone(entry));
        }
        let groups = groups.into_iter().map(|(by, group)| (by, IndexBucket::from(group)));
        self.groups.store(Arc::new(groups.collect()));
    }

    fn is_used(&self) -> bool {
        Arc::strong_count(&self.groups) > 1
    }
}
