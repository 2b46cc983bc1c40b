//! A watch session under test, with checks of each signal.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use super::subject::Bucket;
use crate::backend::{Begun, Delivered, RawEntry, Signal, Since, Watch};
use crate::error::{Error, Result};
use crate::key::Pattern;
use crate::revision::Revision;

/// A watch session that has started.
pub(super) struct Sitting {
    pub(super) begun: Begun,
    signals: BoxStream<'static, Result<Signal>>,
    watch: Watch,
    patience: Duration,
    ready: bool,
    /// No later signal may be at or below this revision.
    upto: Revision,
}

impl Bucket {
    /// Starts a watch of all keys.
    pub(super) async fn watch(&self, since: Since) -> Sitting {
        self.watch_some(&[Pattern::all()], since, false).await
    }

    /// Starts a watch.
    pub(super) async fn watch_some(&self, patterns: &[Pattern], since: Since, headers_only: bool) -> Sitting {
        let patience = self.patience();
        let delivered = Delivered::default();
        let watch = Watch { patterns: patterns.to_vec().into(), since, headers_only, patience, delivered };
        let mut signals = self.raw.watch(watch.clone());
        match tokio::time::timeout(2 * patience, signals.next()).await {
            Ok(Some(Ok(Signal::Begun(begun)))) => {
                Sitting { begun, signals, watch, patience, ready: false, upto: Revision::ZERO }
            }
            other => panic!("{watch:?} begins with {other:?}"),
        }
    }

    /// Returns the error of a watch that cannot start.
    pub(super) async fn watch_error(&self, since: Since) -> Error {
        let (patterns, patience, delivered) = (vec![Pattern::all()].into(), self.patience(), Delivered::default());
        let watch = Watch { patterns, since, headers_only: false, patience, delivered };
        let mut signals = self.raw.watch(watch);
        match tokio::time::timeout(2 * self.patience(), signals.next()).await {
            Ok(Some(Err(error))) => error,
            other => panic!("a watch begins with {other:?}"),
        }
    }

    /// Starts watches until one returns exactly these revisions before it is ready: a watch may start on a stale
    /// server.
    pub(super) async fn watch_finds(
        &self,
        patterns: &[Pattern],
        since: Since,
        headers_only: bool,
        wanted: &[Revision],
    ) -> (Sitting, Vec<RawEntry>) {
        let what = format!("a watch of {patterns:?}, {since:?}, begins with the revisions {wanted:?}");
        let found = async || {
            let mut sitting = self.watch_some(patterns, since, headers_only).await;
            let entries = sitting.until_ready().await;
            entries.iter().map(|entry| entry.revision).eq(wanted.iter().copied()).then_some((sitting, entries))
        };
        self.eventually(&what, found).await
    }
}

impl Sitting {
    /// Returns the next signal, or `None` at the end of the watch.
    pub(super) async fn hears(&mut self) -> Option<Result<Signal>> {
        let Ok(heard) = tokio::time::timeout(self.patience, self.signals.next()).await else {
            panic!("{self:?} is silent for {:?}", self.patience)
        };
        match &heard {
            Some(Ok(Signal::Begun(begun))) => panic!("{self:?} begins again: {begun:?}"),
            Some(Ok(Signal::Ready)) => {
                assert!(!self.ready, "{self:?} is ready again");
                self.ready = true;
            }
            Some(Ok(Signal::Entry { entry, behind: _ })) => {
                assert!(entry.revision > self.upto, "{self:?} delivers an old entry: {entry:?}");
                self.upto = entry.revision;
            }
            Some(Ok(Signal::Alive { upto })) => {
                assert!(*upto >= self.upto, "{self:?} goes back to {upto}");
                self.upto = *upto;
            }
            Some(Ok(Signal::Incomplete)) => panic!("{self:?} proves nothing, since nothing was delivered before it"),
            Some(Err(_)) | None => {}
        }
        heard
    }

    /// Returns the next signal that is not a heartbeat.
    async fn next(&mut self) -> Signal {
        loop {
            match self.hears().await {
                Some(Ok(Signal::Alive { .. })) => {}
                Some(Ok(signal)) => return signal,
                other => panic!("{self:?} ends: {other:?}"),
            }
        }
    }

    /// Returns the next signal other than a heartbeat, which must be an entry.
    pub(super) async fn entry(&mut self) -> RawEntry {
        match self.next().await {
            Signal::Entry { entry, behind: _ } => entry,
            other => panic!("{self:?} delivers no entry: {other:?}"),
        }
    }

    /// Expects the entries of exactly these revisions next.
    pub(super) async fn tells(&mut self, wanted: &[Revision]) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        for revision in wanted {
            let entry = self.entry().await;
            assert_eq!(entry.revision, *revision, "{self:?} delivers {entry:?} instead of {wanted:?}");
            entries.push(entry);
        }
        entries
    }

    /// Returns the entries until the watch is ready.
    pub(super) async fn until_ready(&mut self) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        loop {
            match self.next().await {
                Signal::Ready => return entries,
                Signal::Entry { entry, behind: _ } => entries.push(entry),
                other => panic!("{self:?} delivers {other:?}"),
            }
        }
    }

    /// Reads until all of these revisions were delivered, or until the watch ends.
    pub(super) async fn catches_up(&mut self, revisions: &[Revision]) -> Result<()> {
        let mut left: BTreeSet<_> = revisions.iter().copied().collect();
        while !left.is_empty() {
            match self.hears().await {
                Some(Ok(Signal::Entry { entry, behind: _ })) => drop(left.remove(&entry.revision)),
                Some(Ok(Signal::Ready | Signal::Incomplete | Signal::Begun(_))) => {}
                Some(Ok(Signal::Alive { upto })) => {
                    assert!(left.iter().all(|revision| *revision > upto), "{self:?} misses {left:?} up to {upto}");
                }
                Some(Err(error)) => return Err(error),
                None => panic!("{self:?} ends without an error"),
            }
        }
        Ok(())
    }

    /// Expects a heartbeat next. Returns its revision.
    pub(super) async fn is_silent(&mut self) -> Revision {
        match self.hears().await {
            Some(Ok(Signal::Alive { upto })) => upto,
            other => panic!("{self:?} delivers {other:?}"),
        }
    }

    /// Reads the rest of the signals. Returns the error that ends the watch.
    pub(super) async fn ends(mut self) -> Error {
        loop {
            match self.hears().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let after = self.hears().await;
                    assert!(after.is_none(), "{self:?} continues after {error:?}: {after:?}");
                    return error;
                }
                None => panic!("{self:?} ends without an error"),
            }
        }
    }
}

impl fmt::Debug for Sitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sitting")
            .field("watch", &self.watch)
            .field("begun", &self.begun)
            .field("ready", &self.ready)
            .field("upto", &self.upto)
            .finish_non_exhaustive()
    }
}
