//! A watch that continues over many sessions, and resumes or resyncs when one of them ends.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream, Stream};

use super::update::WatchUpdate;
use crate::backend::{Backoff, Delivered, RawBucket, StartFrom, WatchRequest, WatchSignal, WatchStarted};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::revision::Revision;

/// The reader gets [`WatchUpdate::Lagging`] once this many entries are pending after a delivery.
const LAG_THRESHOLD: u64 = 1_000;

/// The keys and the start position of a watch.
#[derive(Debug, Clone)]
pub(crate) struct WatchSpec {
    pub(crate) patterns: Patterns,
    pub(crate) since: StartFrom,
    pub(crate) headers_only: bool,
    pub(crate) idle_timeout: Duration,
}

type SignalStream = BoxStream<'static, Result<WatchSignal>>;

/// The state of a watch.
enum ResumeState {
    /// There is no session. A session that does not start is retried with a growing backoff. Errors that the reader
    /// must know are reported once, and the watch retries. Only a closed connection ends the watch.
    Connecting(StartFrom),
    /// A session with this start position delivers the current entries. If it ends, the next session resumes after the
    /// position. A session that ends before its first entry is repeated.
    Listing(SignalStream, StartFrom),
    /// A session delivers changes. If it ends, the next session resumes after the position. The watch resyncs if
    /// something is missing in between, or if the bucket is another one or an older copy of itself.
    Watching(SignalStream),
    /// The watch has ended.
    Closed,
}

/// A watch that continues over several sessions.
pub(crate) struct ResumingWatch {
    raw: Arc<dyn RawBucket>,
    spec: WatchSpec,
    state: ResumeState,
    backoff: Backoff,
    /// The creation time of the bucket, and its highest known revision.
    bucket: Option<(SystemTime, Revision)>,
    /// Everything up to this revision was delivered.
    position: Revision,
    /// The highest position ever reached. Only entries beyond it are progress, which resets the backoff.
    furthest: Revision,
    /// The keys that were delivered, for the proof that a session resumes without a gap.
    delivered: Delivered,
    reported_interruption: bool,
    /// Whether the reader must discard the delivered entries.
    resync: bool,
    /// Whether the reader waits for a `Ready`, either of the start or of a `Resync`.
    ready_pending: bool,
    emitted_any: bool,
    /// The errors that were reported since the last session was ready.
    reported_errors: Vec<Discriminant<ErrorKind>>,
    lagging: bool,
    queued: Option<WatchUpdate>,
}

impl ResumingWatch {
    /// Starts a watch.
    ///
    /// # Errors
    ///
    /// Returns the error of the first session if it does not start.
    pub(crate) async fn start(raw: Arc<dyn RawBucket>, spec: WatchSpec) -> Result<Self> {
        let state = ResumeState::Connecting(spec.since);
        let mut watch = Self {
            raw,
            spec,
            state,
            backoff: Backoff::outage(),
            bucket: None,
            position: Revision::ZERO,
            furthest: Revision::ZERO,
            delivered: Delivered::default(),
            reported_interruption: false,
            resync: false,
            ready_pending: true,
            emitted_any: false,
            reported_errors: Vec::new(),
            lagging: false,
            queued: None,
        };
        watch.start_session(watch.spec.since).await?;
        // If the bucket has not reached the start revision, that is a revision of another bucket.
        watch.queued = std::mem::take(&mut watch.resync).then_some(WatchUpdate::Resync);
        Ok(watch)
    }

    /// Returns the items of the watch. An error with a key replaces one entry.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<WatchUpdate>> + Send {
        // Boxed, because it moves with each item.
        stream::unfold(Box::new(self), |mut watch| async move {
            let update = watch.next().await?;
            Some((update, watch))
        })
    }

    async fn next(&mut self) -> Option<Result<WatchUpdate>> {
        if let Some(update) = self.queued.take() {
            return Some(Ok(update));
        }
        loop {
            if let Some(update) = self.step().await {
                return update;
            }
        }
    }

    /// Performs one step. Returns the next item, if any. `Some(None)` is the end of the watch.
    async fn step(&mut self) -> Option<Option<Result<WatchUpdate>>> {
        let signal = match &mut self.state {
            ResumeState::Closed => return Some(None),
            ResumeState::Connecting(since) => {
                let since = *since;
                return match self.start_session(since).await {
                    Ok(()) if std::mem::take(&mut self.resync) => Some(Some(Ok(WatchUpdate::Resync))),
                    Ok(()) => None,
                    Err(error) => self.on_session_lost(error).await,
                };
            }
            ResumeState::Listing(signals, _) | ResumeState::Watching(signals) => signals.next().await,
        };
        match signal {
            Some(Ok(signal)) => self.on_signal(signal).map(|update| Some(Ok(update))),
            Some(Err(error)) if error.key().is_some() => Some(Some(Err(error))),
            Some(Err(error)) => self.on_session_lost(error).await,
            None => self.on_session_lost(Error::unavailable("the watch session ended")).await,
        }
    }

    /// Starts a session. If the bucket is another one, or entries are missing, the session lists the bucket again.
    async fn start_session(&mut self, since: StartFrom) -> Result<()> {
        let WatchSpec { patterns, headers_only, idle_timeout, .. } = self.spec.clone();
        let delivered = self.delivered.clone();
        let mut signals = self.raw.watch(WatchRequest { patterns, since, headers_only, idle_timeout, delivered });
        let started = match signals.next().await {
            Some(Ok(WatchSignal::Started(started))) => started,
            Some(Err(error)) => return Err(error),
            _ => return Err(Error::unavailable("the watch session did not start")),
        };
        let WatchStarted { created, last_revision, contiguous } = started;
        let first = self.bucket.is_none();
        let another = self.bucket.is_some_and(|(made, highest)| made != created || last_revision < highest);
        self.bucket = Some((created, last_revision));
        if another {
            self.furthest = Revision::ZERO;
        }
        if let StartFrom::After(revision) = since
            && (another || (!first && !contiguous) || revision > last_revision)
        {
            // The delivered entries do not match the bucket, so the next session lists it from the start.
            self.resync = true;
            self.position = Revision::ZERO;
            self.state = ResumeState::Connecting(self.listing());
            return Box::pin(self.start_session(self.listing())).await;
        }
        self.resync |= another;
        self.ready_pending |= self.resync;
        self.position = match since {
            StartFrom::Now => last_revision,
            StartFrom::After(revision) => revision,
            StartFrom::Newest | StartFrom::History => Revision::ZERO,
        };
        self.state = ResumeState::Listing(signals, since);
        Ok(())
    }

    /// Returns the start position of a session that lists the bucket.
    fn listing(&self) -> StartFrom {
        if self.spec.since == StartFrom::History { StartFrom::History } else { StartFrom::Newest }
    }

    fn on_signal(&mut self, signal: WatchSignal) -> Option<WatchUpdate> {
        match signal {
            WatchSignal::Started(_) => None,
            WatchSignal::Entry { entry, pending } => {
                self.reached(entry.revision);
                self.progressed();
                self.emitted_any = true;
                let was_lagging = std::mem::replace(&mut self.lagging, pending >= LAG_THRESHOLD);
                if self.lagging && !was_lagging && matches!(self.state, ResumeState::Watching(_)) {
                    self.queued = Some(WatchUpdate::Entry(entry, pending));
                    return Some(WatchUpdate::Lagging(pending));
                }
                Some(WatchUpdate::Entry(entry, pending))
            }
            WatchSignal::Ready => {
                self.state = match std::mem::replace(&mut self.state, ResumeState::Closed) {
                    ResumeState::Listing(signals, _) | ResumeState::Watching(signals) => ResumeState::Watching(signals),
                    other => other,
                };
                if let Some((_, revision)) = self.bucket {
                    self.reached(revision);
                }
                self.reported_errors.clear();
                self.caught_up();
                Some(if std::mem::take(&mut self.ready_pending) {
                    WatchUpdate::Ready
                } else {
                    WatchUpdate::Alive(self.position)
                })
            }
            WatchSignal::Incomplete => {
                self.resync |= self.emitted_any;
                self.position = Revision::ZERO;
                self.state = ResumeState::Connecting(self.listing());
                None
            }
            WatchSignal::Heartbeat { through } => {
                self.reached(through);
                let is_live = matches!(self.state, ResumeState::Watching(_));
                if is_live {
                    self.caught_up();
                }
                is_live.then_some(WatchUpdate::Alive(self.position))
            }
        }
    }

    /// Resets the backoff if the position is beyond every earlier one. Repeated entries are no progress.
    fn progressed(&mut self) {
        if self.position > self.furthest {
            self.furthest = self.position;
            self.backoff = Backoff::outage();
        }
    }

    fn caught_up(&mut self) {
        self.progressed();
        self.backoff = Backoff::outage();
        self.reported_interruption = false;
    }

    fn reached(&mut self, revision: Revision) {
        self.position = self.position.max(revision);
        if let Some((_, highest)) = &mut self.bucket {
            *highest = revision.max(*highest);
        }
    }

    /// Handles a session that ended or did not start. Chooses the next start position, and returns what the reader
    /// gets.
    async fn on_session_lost(&mut self, error: Error) -> Option<Option<Result<WatchUpdate>>> {
        tracing::debug!(bucket = self.raw.config().name, %error, "a watch session ended; the watch starts the next one");
        let state = std::mem::replace(&mut self.state, ResumeState::Closed);
        let next = match state {
            ResumeState::Connecting(since) => since,
            ResumeState::Listing(_, since @ (StartFrom::Newest | StartFrom::History))
                if self.position == Revision::ZERO =>
            {
                since
            }
            // A listing is in the order of revisions, so it has sent every key whose newest revision is not beyond the
            // position. The next session sends the other keys. It proves that it missed no removal, or lists again.
            ResumeState::Listing(..) | ResumeState::Watching(_) => StartFrom::After(self.position),
            ResumeState::Closed => return Some(None),
        };
        let is_silent = match error.kind() {
            ErrorKind::Closed => return Some(Some(Err(error))),
            ErrorKind::Timeout { .. }
            | ErrorKind::Unavailable { .. }
            | ErrorKind::LimitReached { .. }
            | ErrorKind::Backend { .. } => {
                self.state = ResumeState::Connecting(next);
                if !std::mem::replace(&mut self.reported_interruption, true) {
                    return Some(Some(Ok(WatchUpdate::Interrupted(error))));
                }
                true
            }
            ErrorKind::BucketNotFound => {
                self.state = ResumeState::Connecting(self.listing());
                self.resync = true;
                false
            }
            // A denied permission or disabled JetStream: an administrator may undo either.
            _ => {
                self.state = ResumeState::Connecting(next);
                false
            }
        };
        let kind = discriminant(error.kind());
        if !is_silent && !self.reported_errors.contains(&kind) {
            self.reported_errors.push(kind);
            return Some(Some(Err(error)));
        }
        tokio::time::sleep(self.backoff.next()).await;
        None
    }
}
