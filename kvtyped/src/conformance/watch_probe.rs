//! A watch session under test, with checks of each signal.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use super::subject::Bucket;
use crate::backend::{Delivered, RawEntry, StartFrom, WatchRequest, WatchSignal, WatchStarted};
use crate::error::{Error, Result};
use crate::key::Pattern;
use crate::revision::Revision;

/// A watch session that has started.
pub(crate) struct WatchProbe {
    pub(crate) begun: WatchStarted,
    signals: BoxStream<'static, Result<WatchSignal>>,
    watch: WatchRequest,
    patience: Duration,
    ready: bool,
    /// No later signal may be at or below this revision.
    upto: Revision,
}

impl Bucket {
    /// Starts a watch of all keys.
    pub(crate) async fn watch(&self, since: StartFrom) -> WatchProbe {
        self.watch_some(&[Pattern::all()], since, false).await
    }

    /// Starts a watch.
    pub(crate) async fn watch_some(&self, patterns: &[Pattern], since: StartFrom, headers_only: bool) -> WatchProbe {
        let patience = self.patience();
        let delivered = Delivered::default();
        let watch =
            WatchRequest { patterns: patterns.to_vec().into(), since, headers_only, idle_timeout: patience, delivered };
        let mut signals = self.raw.watch(watch.clone());
        match tokio::time::timeout(2 * patience, signals.next()).await {
            Ok(Some(Ok(WatchSignal::Started(begun)))) => {
                WatchProbe { begun, signals, watch, patience, ready: false, upto: Revision::ZERO }
            }
            other => panic!("{watch:?} begins with {other:?}"),
        }
    }

    /// Returns the error of a watch that cannot start.
    pub(crate) async fn watch_error(&self, since: StartFrom) -> Error {
        let (patterns, patience, delivered) = (vec![Pattern::all()].into(), self.patience(), Delivered::default());
        let watch = WatchRequest { patterns, since, headers_only: false, idle_timeout: patience, delivered };
        let mut signals = self.raw.watch(watch);
        match tokio::time::timeout(2 * self.patience(), signals.next()).await {
            Ok(Some(Err(error))) => error,
            other => panic!("a watch begins with {other:?}"),
        }
    }

    /// Starts watches until one returns exactly these revisions before it is ready: a watch may start on a stale
    /// server.
    pub(crate) async fn watch_finds(
        &self,
        patterns: &[Pattern],
        since: StartFrom,
        headers_only: bool,
        wanted: &[Revision],
    ) -> (WatchProbe, Vec<RawEntry>) {
        let what = format!("a watch of {patterns:?}, {since:?}, begins with the revisions {wanted:?}");
        let found = async || {
            let mut sitting = self.watch_some(patterns, since, headers_only).await;
            let entries = sitting.until_ready().await;
            entries.iter().map(|entry| entry.revision).eq(wanted.iter().copied()).then_some((sitting, entries))
        };
        self.eventually(&what, found).await
    }
}

impl WatchProbe {
    /// Returns the next signal, or `None` at the end of the watch.
    pub(crate) async fn expect_entry(&mut self) -> Option<Result<WatchSignal>> {
        let Ok(heard) = tokio::time::timeout(self.patience, self.signals.next()).await else {
            panic!("{self:?} is silent for {:?}", self.patience)
        };
        match &heard {
            Some(Ok(WatchSignal::Started(begun))) => panic!("{self:?} begins again: {begun:?}"),
            Some(Ok(WatchSignal::Ready)) => {
                assert!(!self.ready, "{self:?} is ready again");
                self.ready = true;
            }
            Some(Ok(WatchSignal::Entry { entry, pending: _ })) => {
                assert!(entry.revision > self.upto, "{self:?} delivers an old entry: {entry:?}");
                self.upto = entry.revision;
            }
            Some(Ok(WatchSignal::Heartbeat { through: upto })) => {
                assert!(*upto >= self.upto, "{self:?} goes back to {upto}");
                self.upto = *upto;
            }
            Some(Ok(WatchSignal::Incomplete)) => {
                panic!("{self:?} proves nothing, since nothing was delivered before it")
            }
            Some(Err(_)) | None => {}
        }
        heard
    }

    /// Returns the next signal that is not a heartbeat.
    async fn next(&mut self) -> WatchSignal {
        loop {
            match self.expect_entry().await {
                Some(Ok(WatchSignal::Heartbeat { .. })) => {}
                Some(Ok(signal)) => return signal,
                other => panic!("{self:?} ends: {other:?}"),
            }
        }
    }

    /// Returns the next signal other than a heartbeat, which must be an entry.
    pub(crate) async fn entry(&mut self) -> RawEntry {
        match self.next().await {
            WatchSignal::Entry { entry, pending: _ } => entry,
            other => panic!("{self:?} delivers no entry: {other:?}"),
        }
    }

    /// Expects the entries of exactly these revisions next.
    pub(crate) async fn expect_signal(&mut self, wanted: &[Revision]) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        for revision in wanted {
            let entry = self.entry().await;
            assert_eq!(entry.revision, *revision, "{self:?} delivers {entry:?} instead of {wanted:?}");
            entries.push(entry);
        }
        entries
    }

    /// Returns the entries until the watch is ready.
    pub(crate) async fn until_ready(&mut self) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        loop {
            match self.next().await {
                WatchSignal::Ready => return entries,
                WatchSignal::Entry { entry, pending: _ } => entries.push(entry),
                other => panic!("{self:?} delivers {other:?}"),
            }
        }
    }

    /// Reads until all of these revisions were delivered, or until the watch ends.
    pub(crate) async fn catches_up(&mut self, revisions: &[Revision]) -> Result<()> {
        let mut left: BTreeSet<_> = revisions.iter().copied().collect();
        while !left.is_empty() {
            match self.expect_entry().await {
                Some(Ok(WatchSignal::Entry { entry, pending: _ })) => drop(left.remove(&entry.revision)),
                Some(Ok(WatchSignal::Ready | WatchSignal::Incomplete | WatchSignal::Started(_))) => {}
                Some(Ok(WatchSignal::Heartbeat { through: upto })) => {
                    assert!(left.iter().all(|revision| *revision > upto), "{self:?} misses {left:?} up to {upto}");
                }
                Some(Err(error)) => return Err(error),
                None => panic!("{self:?} ends without an error"),
            }
        }
        Ok(())
    }

    /// Expects a heartbeat next. Returns its revision.
    pub(crate) async fn expect_idle(&mut self) -> Revision {
        match self.expect_entry().await {
            Some(Ok(WatchSignal::Heartbeat { through: upto })) => upto,
            other => panic!("{self:?} delivers {other:?}"),
        }
    }

    /// Reads the rest of the signals. Returns the error that ends the watch.
    pub(crate) async fn ends(mut self) -> Error {
        loop {
            match self.expect_entry().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let after = self.expect_entry().await;
                    assert!(after.is_none(), "{self:?} continues after {error:?}: {after:?}");
                    return error;
                }
                None => panic!("{self:?} ends without an error"),
            }
        }
    }
}

impl fmt::Debug for WatchProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sitting")
            .field("watch", &self.watch)
            .field("begun", &self.begun)
            .field("ready", &self.ready)
            .field("upto", &self.upto)
            .finish_non_exhaustive()
    }
}
