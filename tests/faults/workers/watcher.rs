//! Observers: a watch, a cache, and a live value. Their observations are recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use harness::history::Seen;
use harness::history::watch::{Log, Lookup, Observed};
use kvtyped::Event;
use kvtyped::prelude::*;

use super::writer::HOT;
use crate::model::{Record, RecordKey};
use crate::worker_context::WorkerContext;

/// The interval between two reads of a cache or a live value.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(50);

/// Records every event until the task is aborted.
pub(crate) async fn watcher(context: WorkerContext, log: Log) {
    let records: Bucket<Record> = context.bucket().await;
    let mut events = records.watch(..).await.expect("nothing fails yet");
    while let Some(event) = events.next().await {
        let reported = match event {
            Ok(Event::Put(entry)) => {
                Observed::Put { key: entry.key().to_string(), revision: entry.revision().get(), value: entry.value }
            }
            Ok(Event::Removed { key, revision, .. }) => {
                Observed::Removed { key: key.to_string(), revision: revision.get() }
            }
            Ok(Event::Ready) => Observed::Ready,
            Ok(Event::Resync) => Observed::Resync,
            Ok(_) => continue,
            Err(error) => {
                context.gauge.failed(&error);
                continue;
            }
        };
        context.gauge.done();
        log.note(reported);
    }
}

/// The successive contents of a cache or a live value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cached(Arc<Mutex<Lookups>>);

#[derive(Debug, Default)]
struct Lookups {
    lookups: Vec<Lookup>,
    newest: BTreeMap<String, Seen>,
}

impl Cached {
    fn note(&self, now: BTreeMap<String, Seen>) -> usize {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut noted.newest, now.clone());
        let changed = now.into_iter().filter(|(key, seen)| before.get(key) != Some(seen));
        let new: Vec<_> = changed.map(|(key, seen)| Lookup { key, seen: Some(seen) }).collect();
        let count = new.len();
        noted.lookups.extend(new);
        count
    }

    pub(crate) fn lookups(&self) -> Vec<Lookup> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lookups.clone()
    }

    /// Returns the content at the last read.
    pub(crate) fn newest(&self) -> BTreeMap<String, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).newest.clone()
    }
}

/// Reads a cache repeatedly until the task is aborted.
pub(crate) async fn cacher(context: WorkerContext, cached: Cached) {
    let records: Bucket<Record> = context.bucket().await;
    let cache = records.cache(..).await.expect("nothing fails yet");
    loop {
        let all = cache.snapshot();
        let all = all.iter().map(|entry| {
            let seen = Seen { revision: entry.revision().get(), value: entry.value };
            (entry.key().to_string(), seen)
        });
        for _ in 0..cached.note(all.collect()) {
            context.gauge.done();
        }
        tokio::time::sleep(LOOKUP_INTERVAL).await;
    }
}

/// Reads a live value repeatedly until the task is aborted. A missing record shows as the default value.
pub(crate) async fn liver(context: WorkerContext, cached: Cached) {
    let records: Bucket<Record> = context.bucket().await;
    let key = RecordKey::new(HOT, 0_usize);
    let live = records.live(&key).or_else(|| Record::new(HOT, 0, u64::MAX)).await.expect("nothing fails yet");
    loop {
        // If both revisions are equal, revision and value belong together.
        let before = live.revision();
        let value = live.load().value;
        if live.revision() == before {
            let seen = Seen { revision: before.get(), value };
            let now = if value == u64::MAX { BTreeMap::new() } else { BTreeMap::from([(key.to_string(), seen)]) };
            for _ in 0..cached.note(now) {
                context.gauge.done();
            }
        }
        tokio::time::sleep(LOOKUP_INTERVAL).await;
    }
}
