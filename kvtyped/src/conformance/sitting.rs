//! A watch under test. What is true of each signal of every watch is looked at here.

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

/// One sitting, which has begun.
pub(super) struct Sitting {
    pub(super) begun: Begun,
    signals: BoxStream<'static, Result<Signal>>,
    watch: Watch,
    patience: Duration,
    ready: bool,
    /// Nothing of this revision or of one before it may come any more.
    upto: Revision,
}

impl Bucket {
    /// Begins a watch of everything.
    pub(super) async fn watch(&self, since: Since) -> Sitting {
        self.watch_some(&[Pattern::all()], since, false).await
    }

    /// Begins a watch.
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

    /// The error of a watch that cannot begin.
    pub(super) async fn watch_error(&self, since: Since) -> Error {
        let (patterns, patience, delivered) = (vec![Pattern::all()].into(), self.patience(), Delivered::default());
        let watch = Watch { patterns, since, headers_only: false, patience, delivered };
        let mut signals = self.raw.watch(watch);
        match tokio::time::timeout(2 * self.patience(), signals.next()).await {
            Ok(Some(Err(error))) => error,
            other => panic!("a watch begins with {other:?}"),
        }
    }

    /// Begins watches until one has told these revisions when it was ready: it may begin where the last writes are late.
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
    /// What comes next, whatever it is; or its end.
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
                assert!(entry.revision > self.upto, "{self:?} tells an old entry: {entry:?}");
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

    /// What comes next that is more than a sign of life.
    async fn next(&mut self) -> Signal {
        loop {
            match self.hears().await {
                Some(Ok(Signal::Alive { .. })) => {}
                Some(Ok(signal)) => return signal,
                other => panic!("{self:?} ends: {other:?}"),
            }
        }
    }

    /// The next entry, of which nothing comes before.
    pub(super) async fn entry(&mut self) -> RawEntry {
        match self.next().await {
            Signal::Entry { entry, behind: _ } => entry,
            other => panic!("{self:?} tells no entry: {other:?}"),
        }
    }

    /// Next come exactly the entries of these revisions.
    pub(super) async fn tells(&mut self, wanted: &[Revision]) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        for revision in wanted {
            let entry = self.entry().await;
            assert_eq!(entry.revision, *revision, "{self:?} tells {entry:?} where {wanted:?} are to come");
            entries.push(entry);
        }
        entries
    }

    /// The entries that come until it is ready.
    pub(super) async fn until_ready(&mut self) -> Vec<RawEntry> {
        let mut entries = Vec::new();
        loop {
            match self.next().await {
                Signal::Ready => return entries,
                Signal::Entry { entry, behind: _ } => entries.push(entry),
                other => panic!("{self:?} tells {other:?}"),
            }
        }
    }

    /// Reads on until all of these revisions came, or it ends.
    pub(super) async fn catches_up(&mut self, revisions: &[Revision]) -> Result<()> {
        let mut left: BTreeSet<_> = revisions.iter().copied().collect();
        while !left.is_empty() {
            match self.hears().await {
                Some(Ok(Signal::Entry { entry, behind: _ })) => drop(left.remove(&entry.revision)),
                Some(Ok(Signal::Ready | Signal::Incomplete | Signal::Begun(_))) => {}
                Some(Ok(Signal::Alive { upto })) => {
                    assert!(left.iter().all(|revision| *revision > upto), "{self:?} leaves out {left:?} up to {upto}");
                }
                Some(Err(error)) => return Err(error),
                None => panic!("{self:?} ends without an error"),
            }
        }
        Ok(())
    }

    /// Nothing comes but a sign of life: tells how far it is.
    pub(super) async fn is_silent(&mut self) -> Revision {
        match self.hears().await {
            Some(Ok(Signal::Alive { upto })) => upto,
            other => panic!("{self:?} tells {other:?}"),
        }
    }

    /// The error that it ends with, after whatever else comes.
    pub(super) async fn ends(mut self) -> Error {
        loop {
            match self.hears().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let after = self.hears().await;
                    assert!(after.is_none(), "{self:?} goes on after {error:?}: {after:?}");
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
