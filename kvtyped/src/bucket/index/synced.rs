//! How far the follower of the indexes has come, in a reserved record of the bucket, and the state of a follower of this
//! process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::backend::{
    Backoff, Deadline, Delivered, KeySpace, RawEntry, Read, ReadAt, StartFrom, WatchRequest, WatchSignal, Write,
    WriteKind,
};
use crate::bucket::handle::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyBuilder, Pattern};
use crate::model::KvModel;
use crate::model::index::IndexInfo;
use crate::revision::Revision;

/// The newest version of the format.
const VERSION: u32 = 1;

/// The position of the follower of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Synced {
    v: u32,
    /// The follower has handled every change up to this revision.
    revision: u64,
    /// The indexes that it keeps, with their fingerprints.
    indexes: BTreeMap<String, String>,
    /// The time of the last search for stale entries, in seconds since 1970.
    #[serde(default)]
    pub(crate) swept: u64,
    /// The fields that this version does not know.
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

impl Synced {
    /// Creates the position of a follower that keeps these indexes.
    pub(crate) fn new(indexes: &[IndexInfo], revision: Revision, swept: u64) -> Self {
        let indexes = indexes.iter().map(|info| (info.name.to_owned(), info.fingerprint())).collect();
        Self { v: VERSION, revision: revision.get(), indexes, swept, other: BTreeMap::new() }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::new(self.revision)
    }

    /// Whether the follower keeps an index.
    pub(crate) fn keeps(&self, info: &IndexInfo) -> bool {
        self.indexes.get(info.name).is_some_and(|fingerprint| *fingerprint == info.fingerprint())
    }

    /// Reads a stored position. `None` for a removed one, and for one that a newer version of this crate has written.
    fn decode(entry: &RawEntry) -> Option<Self> {
        let mut stored: Self = serde_json::from_slice(&entry.value).ok().filter(|_| entry.is_live())?;
        stored.revision = stored.reached_by(entry.revision).get();
        (stored.v <= VERSION).then_some(stored)
    }

    /// Returns the revision that is reached if the position is stored with a revision: that revision, if nothing is
    /// between.
    pub(crate) fn reached_by(&self, stored: Revision) -> Revision {
        if self.revision.checked_add(1) == Some(stored.get()) { stored } else { self.revision() }
    }
}

/// The state of the follower that this process runs, for the health of its bucket.
#[derive(Debug, Default)]
pub(crate) struct FollowerState(Mutex<Option<Instant>>);

impl FollowerState {
    /// Records when all changes were handled. `None` after an orderly end.
    pub(crate) fn set(&self, current: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// Returns how long ago all changes were handled. `None` if this process does not lead.
    pub(crate) fn age(&self) -> Option<Duration> {
        let current = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.map(|current| current.elapsed())
    }
}

fn key<T: KvModel>() -> Result<Key> {
    let mut text = KeyBuilder::new();
    text.literal(Key::RESERVED).literal(".maintenance.").segment(&T::SCHEMA.name.to_owned()).literal(".follower");
    Ok(Key::new(text.as_str())?)
}

impl<T: KvModel> ReadBucket<T> {
    /// Reads the position of the follower at the leader, with the time when it was stored.
    pub(crate) async fn read_synced(&self, deadline: Deadline) -> Result<Option<(Synced, SystemTime)>> {
        let at = ReadAt::Newest(Read::Leader);
        let found = self.inner.raw.read(KeySpace::Records, &key::<T>()?, at, deadline).await?;
        Ok(found.and_then(|entry| Some((Synced::decode(&entry)?, entry.created))))
    }

    /// Stores the position of the follower. Returns the revision that is reached.
    pub(crate) async fn write_synced(&self, synced: &Synced, deadline: Deadline) -> Result<Revision> {
        let body = serde_json::to_vec(synced).unwrap_or_default();
        let write = Write::new(key::<T>()?, WriteKind::Put(body.into()));
        self.inner.write(write, None, None, deadline).await.map(|revision| synced.reached_by(revision))
    }

    /// Waits until the follower has handled every change up to a revision.
    ///
    /// # Errors
    ///
    /// Returns `Timeout` if the deadline passes first.
    pub(crate) async fn await_synced(&self, info: &IndexInfo, revision: Revision, deadline: Deadline) -> Result<()> {
        let mut reached = None;
        let mut backoff = Backoff::outage();
        loop {
            match timeout_at(deadline.at(), self.watch_synced(info, revision, &mut reached, deadline)).await {
                Ok(Err(error)) if error.is_transient() && backoff.pause(deadline).await => {}
                Ok(Err(error)) if !error.is_transient() => return Err(error),
                Ok(Ok(())) => return Ok(()),
                _ => {
                    let reason = match reached {
                        Some(reached) => format!("the follower of index `{}` is at revision {reached}", info.name),
                        None => format!("no follower of index `{}` has run; call `maintain_indexes`", info.name),
                    };
                    return Err(deadline.error().caused_by(reason));
                }
            }
        }
    }

    async fn watch_synced(
        &self,
        info: &IndexInfo,
        revision: Revision,
        reached: &mut Option<Revision>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut is_reached = |synced: Option<Synced>| {
            *reached = synced.filter(|synced| synced.keeps(info)).map(|synced| synced.revision());
            reached.is_some_and(|reached| reached >= revision)
        };
        if is_reached(self.read_synced(deadline).await?.map(|(synced, _)| synced)) {
            return Ok(());
        }
        let pattern = key::<T>()?.segments().fold(Pattern::new(), Pattern::literal);
        let mut signals = self.inner.raw.watch(WatchRequest {
            patterns: vec![pattern].into(),
            since: StartFrom::Newest,
            headers_only: false,
            idle_timeout: deadline.remaining(),
            delivered: Delivered::default(),
        });
        let closed = std::pin::pin!(std::sync::Arc::clone(self.context().shutdown()).triggered());
        let mut signals = std::pin::pin!(signals.by_ref().take_until(closed));
        while let Some(signal) = signals.next().await {
            if let WatchSignal::Entry { entry, .. } = signal?
                && is_reached(Synced::decode(&entry))
            {
                return Ok(());
            }
        }
        match self.context().shutdown().is_triggered() {
            true => Err(Error::new(ErrorKind::Closed)),
            false => Err(Error::unavailable("the watch of the follower's position ended")),
        }
    }
}
