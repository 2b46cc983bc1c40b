//! One watch over many sittings: what happens when one ends.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream, Stream};

use crate::backend::{Backoff, Begun, Delivered, RawBucket, RawEntry, Signal, Since, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::revision::Revision;

/// How many entries may be behind one that is told before the reader is told that it lags.
const LAG: u64 = 1_000;

/// What a watch tells, whatever happens to its sittings.
#[derive(Debug)]
pub(super) enum News {
    /// An entry, and the number of matching entries that are pending after it.
    Entry(RawEntry, u64),
    /// All current entries were told.
    Ready,
    /// What was told may be gone, and nobody will say so: all current entries follow, and `Ready`.
    Resync,
    /// So many entries wait for the reader.
    Lagging(u64),
    /// Nothing happens. Everything up to this revision was told.
    Alive(Revision),
    /// The session was lost for this reason, and another one is tried. Reported once until the watch has caught up
    /// (`Alive`, `Ready`).
    Interrupted(Error),
}

/// What is watched, and from where.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) patterns: Patterns,
    pub(super) since: Since,
    pub(super) headers_only: bool,
    pub(super) patience: Duration,
}

type Sitting = BoxStream<'static, Result<Signal>>;

/// Where a watch is.
enum State {
    /// There is no session. A session that does not start is retried with a growing backoff. Errors that the reader
    /// must know are reported once, and the watch retries. Only a closed connection ends the watch.
    Begin(Since),
    /// A sitting that began so tells what is there. If it ends, what is there is told from the start, behind a `Resync`;
    /// unless it goes on behind a revision, and so in the order of revisions: the next does, too.
    Listing(Sitting, Since),
    /// A sitting tells what is new. If it ends, the next goes on behind the last revision; behind a `Resync`, if
    /// something is missing in between, or the bucket is another one, or an older copy of itself.
    Live(Sitting),
    /// Nothing comes any more.
    Over,
}

/// A watch that goes on.
pub(super) struct Recovery {
    raw: Arc<dyn RawBucket>,
    plan: Plan,
    state: State,
    backoff: Backoff,
    /// When the bucket was made, and its highest revision that was heard of.
    bucket: Option<(SystemTime, Revision)>,
    /// Everything up to here was told.
    position: Revision,
    /// The highest position ever reached. Only entries beyond it are progress, which resets the backoff.
    furthest: Revision,
    /// The keys that were delivered, for the proof that a session resumes without a gap.
    delivered: Delivered,
    told_interrupted: bool,
    /// The reader has to forget what it was told.
    resync: bool,
    /// The reader waits for a `Ready`: of the beginning, or of a `Resync`.
    owes_ready: bool,
    told_anything: bool,
    /// The errors that were reported since the last session was ready.
    told_errors: Vec<Discriminant<ErrorKind>>,
    lagging: bool,
    held_back: Option<News>,
}

impl Recovery {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// Those of the first sitting, if it does not begin.
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
        // A revision to begin at that the bucket has not reached was told by another bucket.
        recovery.held_back = std::mem::take(&mut recovery.resync).then_some(News::Resync);
        Ok(recovery)
    }

    /// What it tells, one after the other; an error that names a key stands in the place of an entry.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<News>> + Send {
        // In a box: it is handed on with each item.
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

    /// One step of the machine: what to tell (`Some(None)` is the end), if that is anything.
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

    /// Begins a sitting, if the bucket is still the one that is known and nothing is missing.
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
            // Whatever was told is not what is there: the next sitting tells that from the start.
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

    /// How what is there is told from the start.
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

    /// A sitting ended, or did not begin: what is told of that, and where to go on.
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
