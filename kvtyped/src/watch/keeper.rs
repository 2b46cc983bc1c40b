//! What keeps a cache: the task that writes it, and what it writes.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::stream::StreamExt;
use papaya::HashMap;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::NewsStream;
use super::cache::CacheChange;
use super::event::{Event, told};
use super::index::Indexes;
use super::recover::News;
use crate::bucket::{Entry, decode};
use crate::error::Error;
use crate::model::KvModel;
use crate::revision::Revision;

/// How many changes wait for a reader of `Cache::changes` before it is told that it missed some.
const CHANGES: usize = 1_024;

pub(super) type Records<T> = HashMap<<T as KvModel>::Key, Arc<Entry<T>>>;

/// What the keeper writes and the readers read.
pub(super) struct Shared<T: KvModel> {
    pub(super) bucket: String,
    /// Swapped whole after a resync, so that nobody sees it half full.
    pub(super) records: ArcSwap<Records<T>>,
    /// Held by the keeper while it writes, and by whoever adds an index.
    pub(super) indexes: Mutex<Indexes<T>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) changes: broadcast::Sender<CacheChange<T>>,
    pub(super) error: Mutex<Option<Arc<Error>>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) revision: Revision,
    pub(super) ready: bool,
    pub(super) over: bool,
    /// When the bucket was last heard of, all that was there before being known.
    pub(super) heard: Instant,
}

impl<T: KvModel> Shared<T> {
    pub(super) fn new(bucket: &str) -> Self {
        let progress = Progress { revision: Revision::ZERO, ready: false, over: false, heard: Instant::now() };
        Self {
            bucket: bucket.to_owned(),
            records: ArcSwap::from_pointee(HashMap::new()),
            indexes: Mutex::default(),
            progress: watch::Sender::new(progress),
            changes: broadcast::channel(CHANGES).0,
            error: Mutex::new(None),
        }
    }

    fn fail(&self, error: Error) -> Arc<Error> {
        let error = Arc::new(error);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&error));
        error
    }

    /// Forgets an error that is over, unless another came after it.
    fn recover(&self, from: &Arc<Error>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.as_ref().is_some_and(|error| Arc::ptr_eq(error, from)) {
            *error = None;
        }
    }

    /// Takes one change into a map of records.
    fn apply(&self, records: &Records<T>, key: T::Key, new: Option<Arc<Entry<T>>>) -> Option<CacheChange<T>> {
        let pinned = records.pin();
        let old = match &new {
            Some(entry) => pinned.insert(key.clone(), Arc::clone(entry)).cloned(),
            None => pinned.remove(&key).cloned(),
        };
        (old.is_some() || new.is_some()).then_some(CacheChange { key, old, new })
    }

    /// Tells a change to indexes and readers.
    fn tell(&self, change: CacheChange<T>) {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).apply(&change);
        // An error says that nobody listens.
        let _ = self.changes.send(change);
    }

    /// Puts a whole new map in place of the old one, and tells what differs.
    fn swap(&self, records: Records<T>) {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.records.swap(Arc::new(records));
        let new = self.records.load_full();
        indexes.rebuild(&new);
        drop(indexes);
        let (old, new) = (old.pin(), new.pin());
        for (key, entry) in &new {
            let before = old.get(key).cloned();
            if before.as_ref().is_none_or(|before| before.revision() != entry.revision()) {
                let _ = self.changes.send(CacheChange { key: key.clone(), old: before, new: Some(Arc::clone(entry)) });
            }
        }
        for (key, entry) in old.iter().filter(|(key, _)| new.get(*key).is_none()) {
            let _ = self.changes.send(CacheChange { key: key.clone(), old: Some(Arc::clone(entry)), new: None });
        }
    }
}

/// Tells the waiting that nothing comes any more.
struct End<T: KvModel>(Arc<Shared<T>>);

impl<T: KvModel> Drop for End<T> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.over = true);
    }
}

/// Keeps the cache, until its last handle goes or nothing comes any more.
pub(super) async fn keep<T: KvModel>(news: NewsStream, shared: Arc<Shared<T>>) {
    let _end = End(Arc::clone(&shared));
    if AssertUnwindSafe(take_in(news, &shared)).catch_unwind().await.is_err() {
        let _ = shared
            .fail(Error::unavailable("the cache has ended, since the function of an index, or a codec, panicked"));
    }
}

async fn take_in<T: KvModel>(mut news: NewsStream, shared: &Shared<T>) {
    // Filled aside until it is complete: in the beginning, and after each resync.
    let mut aside: Option<Records<T>> = Some(HashMap::new());
    let mut reached = Revision::ZERO;
    // The cause of an interruption, until the watch has caught up.
    let mut interrupted: Option<Arc<Error>> = None;
    while let Some(news) = news.next().await {
        let mut ready = false;
        match news {
            Ok(News::Entry(raw, _)) => {
                reached = raw.revision;
                let (key, new) = match told::<T>(&raw) {
                    Event::Put(entry) => (entry.key().clone(), Some(Arc::new(entry))),
                    Event::Removed { key, .. } => (key, None),
                    Event::Undecodable { error, .. } => {
                        // The record that was there is not there any more.
                        drop(shared.fail(error));
                        match decode::key::<T>(&raw.key) {
                            Ok(key) => (key, None),
                            Err(_) => continue,
                        }
                    }
                    _ => continue,
                };
                match &aside {
                    Some(records) => drop(shared.apply(records, key, new)),
                    None => {
                        if let Some(change) = shared.apply(&shared.records.load(), key, new) {
                            shared.tell(change);
                        }
                    }
                }
            }
            Ok(News::Ready) => {
                if let Some(records) = aside.take() {
                    shared.swap(records);
                }
                ready = true;
                interrupted.take().iter().for_each(|error| shared.recover(error));
            }
            Ok(News::Resync) => {
                aside = Some(HashMap::new());
                reached = Revision::ZERO;
            }
            Ok(News::Alive(upto)) => {
                reached = upto;
                interrupted.take().iter().for_each(|error| shared.recover(error));
            }
            Ok(News::Lagging(_)) => continue,
            Ok(News::Interrupted(error)) => {
                interrupted = Some(shared.fail(error.within("cache", &shared.bucket, None)));
                continue;
            }
            Err(error) => {
                drop(shared.fail(error));
                continue;
            }
        }
        if aside.is_none() {
            shared.progress.send_modify(|progress| {
                progress.revision = if ready { reached } else { progress.revision.max(reached) };
                progress.ready = true;
                if interrupted.is_none() {
                    progress.heard = Instant::now();
                }
            });
        }
    }
}
