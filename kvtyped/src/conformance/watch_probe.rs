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
    pub(crate) started: WatchStarted,
    signals: BoxStream<'static, Result<WatchSignal>>,
    watch: WatchRequest,
    idle_timeout: Duration,
    ready: bool,
    /// No later signal may be at or below this revision.
    through: Revision,
}

impl Bucket {
    /// Starts a watch of all keys.
    pub(crate) async fn watch(&self, since: StartFrom) -> WatchProbe {
        self.watch_some(&[Pattern::all()], since, false).await
    }

    /// Starts a watch.
    pub(crate) async fn watch_some(&self, patterns: &[Pattern], since: StartFrom, headers_only: bool) -> WatchProbe {
        let idle_timeout = self.idle_timeout();
        let delivered = Delivered::default();
        let watch = WatchRequest { patterns: patterns.to_vec().into(), since, headers_only, idle_timeout, delivered };
        let mut signals = self.raw.watch(watch.clone());
        match tokio::time::timeout(2 * idle_timeout, signals.next()).await {
            Ok(Some(Ok(WatchSignal::Started(started)))) => {
                WatchProbe { started, signals, watch, idle_timeout, ready: false, through: Revision::ZERO }
            }
            other => panic!("{watch:?} begins with {other:?}"),
        }
    }

    /// Returns the error of a watch that cannot start.
    pub(crate) async fn watch_error(&self, since: StartFrom) -> Error {
        let (patterns, idle_timeout, delivered) =
            (vec![Pattern::all()].into(), self.idle_timeout(), Delivered::default());
        let watch = WatchRequest { patterns, since, headers_only: false, idle_timeout, delivered };
        let mut signals = self.raw.watch(watch);
        match tokio::time::timeout(2 * self.idle_timeout(), signals.next()).await {
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
            let mut probe = self.watch_some(patterns, since, headers_only).await;
            let entries = probe.until_ready().await;
            entries.iter().map(|entry| entry.revision).eq(wanted.iter().copied()).then_some((probe, entries))
        };
        self.eventually(&what, found).await
    }
}

impl WatchProbe {
    /// Returns the next signal, or `None` at the end of the watch.
    pub(crate) async fn signal(&mut self) -> Option<Result<WatchSignal>> {
        let Ok(signal) = tokio::time::timeout(self.idle_timeout, self.signals.next()).await else {
            panic!("{self:?} is silent for {:?}", self.idle_timeout)
        };
        match &signal {
            Some(Ok(WatchSignal::Started(started))) => panic!("{self:?} begins again: {started:?}"),
            Some(Ok(WatchSignal::Ready)) => {
                assert!(!self.ready, "{self:?} is ready again");
                self.ready = true;
            }
            Some(Ok(WatchSignal::Entry { entry, pending: _ })) => {
                assert!(entry.revision > self.through, "{self:?} delivers an old entry: {entry:?}");
                self.through = entry.revision;
            }
            Some(Ok(WatchSignal::Heartbeat { through })) => {
                assert!(*through >= self.through, "{self:?} goes back to {through}");
                self.through = *through;
            }
            Some(Ok(WatchSignal::Incomplete)) => {
                panic!("{self:?} proves nothing, since nothing was delivered before it")
            }
            Some(Err(_)) | None => {}
        }
        signal
    }

    /// Returns the next signal that is not a heartbeat.
    async fn next(&mut self) -> WatchSignal {
        loop {
            match self.signal().await {
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
    pub(crate) async fn expect_entries(&mut self, wanted: &[Revision]) -> Vec<RawEntry> {
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
    pub(crate) async fn read_until_delivered(&mut self, revisions: &[Revision]) -> Result<()> {
        let mut left: BTreeSet<_> = revisions.iter().copied().collect();
        while !left.is_empty() {
            match self.signal().await {
                Some(Ok(WatchSignal::Entry { entry, pending: _ })) => drop(left.remove(&entry.revision)),
                Some(Ok(WatchSignal::Ready | WatchSignal::Incomplete | WatchSignal::Started(_))) => {}
                Some(Ok(WatchSignal::Heartbeat { through })) => {
                    assert!(
                        left.iter().all(|revision| *revision > through),
                        "{self:?} misses {left:?} up to {through}"
                    );
                }
                Some(Err(error)) => return Err(error),
                None => panic!("{self:?} ends without an error"),
            }
        }
        Ok(())
    }

    /// Expects a heartbeat next. Returns its revision.
    pub(crate) async fn expect_idle(&mut self) -> Revision {
        match self.signal().await {
            Some(Ok(WatchSignal::Heartbeat { through })) => through,
            other => panic!("{self:?} delivers {other:?}"),
        }
    }

    /// Reads the rest of the signals. Returns the error that ends the watch.
    pub(crate) async fn expect_end(mut self) -> Error {
        loop {
            match self.signal().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let after = self.signal().await;
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
        f.debug_struct("WatchProbe")
            .field("watch", &self.watch)
            .field("started", &self.started)
            .field("ready", &self.ready)
            .field("through", &self.through)
            .finish_non_exhaustive()
    }
}
