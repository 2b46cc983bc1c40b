//! The recovery of a watch: a watch continues over many sessions, and resumes or resyncs when one of them ends.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream, Stream};

use crate::backend::{Backoff, Begun, Delivered, RawBucket, RawEntry, Signal, Since, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::revision::Revision;

/// The reader gets [`News::Lagging`] once this many entries are pending after a delivery.
const LAG: u64 = 1_000;

/// An item of a watch. It does not depend on the sessions of the watch.
#[derive(Debug)]
pub(super) enum News {
    /// An entry, and the number of matching entries that are pending after it.
    Entry(RawEntry, u64),
    /// All current entries were delivered.
    Ready,
    /// Delivered entries may have been removed without an item. All current entries follow, and then `Ready`.
    Resync,
    /// The number of entries that are pending for the reader.
    Lagging(u64),
    /// A heartbeat: everything up to this revision was delivered.
    Alive(Revision),
    /// The session was lost for this reason, and another one is tried. Reported once until the watch has caught up
    /// (`Alive`, `Ready`).
    Interrupted(Error),
}

/// The keys and the start position of a watch.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) patterns: Patterns,
    pub(super) since: Since,
    pub(super) headers_only: bool,
    pub(super) patience: Duration,
}

type Sitting = BoxStream<'static, Result<Signal>>;

/// The state of a watch.
enum State {
    /// There is no session. A session that does not start is retried with a growing backoff. Errors that the reader
    /// must know are reported once, and the watch retries. Only a closed connection ends the watch.
    Begin(Since),
    /// A session with this start position delivers the current entries. If it ends, the next session resumes after the
    /// position. A session that ends before its first entry is repeated.
    Listing(Sitting, Since),
    /// A session delivers changes. If it ends, the next session resumes after the position. The watch resyncs if
    /// something is missing in between, or if the bucket is another one or an older copy of itself.
    Live(Sitting),
    /// The watch has ended.
    Over,
}

/// A watch that continues over several sessions.
pub(super) struct Recovery {
    raw: Arc<dyn RawBucket>,
    plan: Plan,
    state: State,
    backoff: Backoff,
    /// The creation time of the bucket, and its highest known revision.
    bucket: Option<(SystemTime, Revision)>,
    /// Everything up to this revision was delivered.
    position: Revision,
    /// The highest position ever reached. Only entries beyond it are progress, which resets the backoff.
    furthest: Revision,
    /// The keys that were delivered, for the proof that a session resumes without a gap.
    delivered: Delivered,
    told_interrupted: bool,
    /// Whether the reader must discard the delivered entries.
    resync: bool,
    /// Whether the reader waits for a `Ready`, either of the start or of a `Resync`.
    owes_ready: bool,
    told_anything: bool,
    /// The errors that were reported since the last session was ready.
    told_errors: Vec<Discriminant<ErrorKind>>,
    lagging: bool,
    held_back: Option<News>,
}

impl Recovery {
    /// Starts a watch.
    ///
    /// # Errors
    ///
    /// Returns the error of the first session if it does not start.
    pub(super) async fn begin(raw: Arc<dyn RawBucket>, plan: Plan) -> Result<Self> {
        let state = State::Begin(plan.since);
        let mut recovery = Self {
            raw,
            plan,
            state,
            backoff: Backoff::outage(),
            bucket: None,
            position: Revision::ZERO,
            furthest: Revision::ZERO,
            delivered: Delivered::default(),
            told_interrupted: false,
            resync: false,
            owes_ready: true,
            told_anything: false,
            told_errors: Vec::new(),
            lagging: false,
            held_back: None,
        };
        recovery.sit_down(recovery.plan.since).await?;
        // If the bucket has not reached the start revision, that is a revision of another bucket.
        recovery.held_back = std::mem::take(&mut recovery.resync).then_some(News::Resync);
        Ok(recovery)
    }

    /// Returns the items of the watch. An error with a key replaces one entry.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<News>> + Send {
        // Boxed, because it moves with each item.
        stream::unfold(Box::new(self), |mut recovery| async move {
            let news = recovery.next().await?;
            Some((news, recovery))
        })
    }

    async fn next(&mut self) -> Option<Result<News>> {
        if let Some(news) = self.held_back.take() {
            return Some(Ok(news));
        }
        loop {
            if let Some(news) = self.step().await {
                return news;
            }
        }
    }

    /// Performs one step. Returns the next item, if any. `Some(None)` is the end of the watch.
    async fn step(&mut self) -> Option<Option<Result<News>>> {
        let heard = match &mut self.state {
            State::Over => return Some(None),
            State::Begin(since) => {
                let since = *since;
                return match self.sit_down(since).await {
                    Ok(()) if std::mem::take(&mut self.resync) => Some(Some(Ok(News::Resync))),
                    Ok(()) => None,
                    Err(error) => self.lost(error).await,
                };
            }
            State::Listing(sitting, _) | State::Live(sitting) => sitting.next().await,
        };
        match heard {
            Some(Ok(signal)) => self.heard(signal).map(|news| Some(Ok(news))),
            Some(Err(error)) if error.key().is_some() => Some(Some(Err(error))),
            Some(Err(error)) => self.lost(error).await,
            None => self.lost(Error::unavailable("the watch was ended")).await,
        }
    }

    /// Starts a session. If the bucket is another one, or entries are missing, the session lists the bucket again.
    async fn sit_down(&mut self, since: Since) -> Result<()> {
        let Plan { patterns, headers_only, patience, .. } = self.plan.clone();
        let delivered = self.delivered.clone();
        let mut sitting = self.raw.watch(Watch { patterns, since, headers_only, patience, delivered });
        let begun = match sitting.next().await {
            Some(Ok(Signal::Begun(begun))) => begun,
            Some(Err(error)) => return Err(error),
            _ => return Err(Error::unavailable("a watch did not begin")),
        };
        let Begun { created, last_revision, complete } = begun;
        let first = self.bucket.is_none();
        let another = self.bucket.is_some_and(|(made, highest)| made != created || last_revision < highest);
        self.bucket = Some((created, last_revision));
        if another {
            self.furthest = Revision::ZERO;
        }
        if let Since::After(revision) = since
            && (another || (!first && !complete) || revision > last_revision)
        {
            // The delivered entries do not match the bucket, so the next session lists it from the start.
            self.resync = true;
            self.position = Revision::ZERO;
            self.state = State::Begin(self.listing());
            return Box::pin(self.sit_down(self.listing())).await;
        }
        self.resync |= another;
        self.owes_ready |= self.resync;
        self.position = match since {
            Since::Now => last_revision,
            Since::After(revision) => revision,
            Since::Newest | Since::History => Revision::ZERO,
        };
        self.state = State::Listing(sitting, since);
        Ok(())
    }

    /// Returns the start position of a session that lists the bucket.
    fn listing(&self) -> Since {
        if self.plan.since == Since::History { Since::History } else { Since::Newest }
    }

    fn heard(&mut self, signal: Signal) -> Option<News> {
        match signal {
            Signal::Begun(_) => None,
            Signal::Entry { entry, behind } => {
                self.reached(entry.revision);
                self.progressed();
                self.told_anything = true;
                let was_lagging = std::mem::replace(&mut self.lagging, behind >= LAG);
                if self.lagging && !was_lagging && matches!(self.state, State::Live(_)) {
                    self.held_back = Some(News::Entry(entry, behind));
                    return Some(News::Lagging(behind));
                }
                Some(News::Entry(entry, behind))
            }
            Signal::Ready => {
                self.state = match std::mem::replace(&mut self.state, State::Over) {
                    State::Listing(sitting, _) | State::Live(sitting) => State::Live(sitting),
                    other => other,
                };
                if let Some((_, revision)) = self.bucket {
                    self.reached(revision);
                }
                self.told_errors.clear();
                self.caught_up();
                Some(if std::mem::take(&mut self.owes_ready) { News::Ready } else { News::Alive(self.position) })
            }
            Signal::Incomplete => {
                self.resync |= self.told_anything;
                self.position = Revision::ZERO;
                self.state = State::Begin(self.listing());
                None
            }
            Signal::Alive { upto } => {
                self.reached(upto);
                let is_live = matches!(self.state, State::Live(_));
                if is_live {
                    self.caught_up();
                }
                is_live.then_some(News::Alive(self.position))
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
        self.told_interrupted = false;
    }

    fn reached(&mut self, revision: Revision) {
        self.position = self.position.max(revision);
        if let Some((_, highest)) = &mut self.bucket {
            *highest = revision.max(*highest);
        }
    }

    /// Handles a session that ended or did not start. Chooses the next start position, and returns what the reader
    /// gets.
    async fn lost(&mut self, error: Error) -> Option<Option<Result<News>>> {
        tracing::debug!(bucket = self.raw.config().name, %error, "a watch lost its sitting");
        let state = std::mem::replace(&mut self.state, State::Over);
        let next = match state {
            State::Begin(since) => since,
            State::Listing(_, since @ (Since::Newest | Since::History)) if self.position == Revision::ZERO => since,
            // A listing is in the order of revisions, so it has sent every key whose newest revision is not beyond the
            // position. The next session sends the other keys. It proves that it missed no removal, or lists again.
            State::Listing(..) | State::Live(_) => Since::After(self.position),
            State::Over => return Some(None),
        };
        let is_silent = match error.kind() {
            ErrorKind::Closed => return Some(Some(Err(error))),
            ErrorKind::Timeout { .. }
            | ErrorKind::Unavailable { .. }
            | ErrorKind::LimitReached { .. }
            | ErrorKind::Backend { .. } => {
                self.state = State::Begin(next);
                if !std::mem::replace(&mut self.told_interrupted, true) {
                    return Some(Some(Ok(News::Interrupted(error))));
                }
                true
            }
            ErrorKind::BucketNotFound => {
                self.state = State::Begin(self.listing());
                self.resync = true;
                false
            }
            // A denied permission or disabled JetStream: an administrator may undo either.
            _ => {
                self.state = State::Begin(next);
                false
            }
        };
        let kind = discriminant(error.kind());
        if !is_silent && !self.told_errors.contains(&kind) {
            self.told_errors.push(kind);
            return Some(Some(Err(error)));
        }
        tokio::time::sleep(self.backoff.next()).await;
        None
    }
}
