//! One value, always at hand.

use std::fmt;
use std::future::IntoFuture;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::event::{Event, Events};
use crate::backend::Deadline;
use crate::bucket::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{Filter, KvModel};
use crate::revision::Revision;

impl<T: KvModel> ReadBucket<T> {
    /// Keeps the value of one key at hand: configuration that is reloaded while the program runs.
    ///
    /// A value that does not decode, or that [`validate`](OpenLive::validate) rejects, is not taken: the last good one
    /// stays, and [`Live::last_error`] tells why. So does the last good one when the record is removed, unless there is a
    /// default. It drives itself, in a task that ends with the last handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "app")]
    /// # struct AppConfig { limit: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let configs: Bucket<AppConfig> = Store::memory().bucket().await?;
    /// let check = |config: &AppConfig| if config.limit < 1_000 { Ok(()) } else { Err("too many") };
    /// let config = configs.live(&AppConfigKey).or_default().validate(check).await?;
    /// assert_eq!(config.load().limit, 0); // there is no record yet
    ///
    /// configs.put(&AppConfig { limit: 10 }).await?;
    /// config.changed().await;
    /// assert_eq!(config.load().limit, 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Without a default: `NotFound`, or why the record is not taken, if there is no good one within the store's time.
    pub fn live<'a>(&'a self, key: &'a T::Key) -> OpenLive<'a, T> {
        OpenLive { bucket: self, key, default: None, check: None, timeout: None }
    }
}

type Default<T> = Box<dyn Fn() -> T + Send + Sync>;
type Check<T> = Box<dyn Fn(&T) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// A live value that is fetched; see [`ReadBucket::live`].
#[must_use = "nothing is read until it is awaited"]
pub struct OpenLive<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    default: Option<Default<T>>,
    check: Option<Check<T>>,
    timeout: Option<Duration>,
}

impl<'a, T: KvModel> OpenLive<'a, T> {
    /// What it is while there is no record.
    pub fn or_default(self) -> Self
    where
        T: std::default::Default,
    {
        self.or_else(T::default)
    }

    /// What it is while there is no record: whatever this gives.
    pub fn or_else(mut self, default: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.default = Some(Box::new(default));
        self
    }

    /// What a value must pass to be taken. What it says is shown in errors.
    pub fn validate<E>(mut self, check: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.check = Some(Box::new(move |value| check(value).map_err(Into::into)));
        self
    }

    /// How long to wait for the first good value; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Live<T>> {
        let Self { bucket, key, default, check, timeout } = self;
        key.encode()?;
        let deadline = Deadline::after(timeout.unwrap_or_else(|| bucket.timeout()));
        let events = bucket.watch(Filter::of_key(key)).timeout(deadline.remaining()).await?;
        let mut keeper = Keeper { events, default, check, error: None, listed: false, has_value: false };
        let first = loop {
            match deadline.bound(keeper.next()).await {
                Ok(Some(Some(value))) => break value,
                Ok(Some(None)) => {}
                Ok(None) => return Err(keeper.error.unwrap_or_else(|| Error::new(ErrorKind::Closed))),
                Err(_) => return Err(keeper.error.unwrap_or_else(|| Error::new(ErrorKind::NotFound))),
            }
        };
        let (value, revision) = first;
        let (sender, values) = watch::channel(Arc::clone(&value));
        let shared = Arc::new(Shared {
            version: AtomicU64::new(0),
            revision: AtomicU64::new(revision.get()),
            values,
            value: ArcSwap::new(value),
            error: Mutex::new(keeper.error.take().map(Arc::new)),
        });
        let task = tokio::spawn(keep(keeper, Arc::clone(&shared), sender));
        Ok(Live { inner: Arc::new(Inner { shared, task }), seen: AtomicU64::new(0) })
    }
}

impl<'a, T: KvModel> IntoFuture for OpenLive<'a, T> {
    type Output = Result<Live<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (name, key) = (self.bucket.name().to_owned(), self.key.to_string());
        Box::pin(async move { self.run().await.map_err(|error| error.within("live", &name, Some(&key))) })
    }
}

impl<T: KvModel> fmt::Debug for OpenLive<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLive").field("key", self.key).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// One value, always at hand; see [`ReadBucket::live`]. Cheap to clone; every clone has its own [`changed`](Self::changed).
pub struct Live<T: KvModel> {
    inner: Arc<Inner<T>>,
    /// The version that was last loaded by this handle.
    seen: AtomicU64,
}

struct Inner<T: KvModel> {
    shared: Arc<Shared<T>>,
    task: JoinHandle<()>,
}

impl<T: KvModel> Drop for Inner<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared<T: KvModel> {
    value: ArcSwap<T>,
    /// Grows with each value.
    version: AtomicU64,
    revision: AtomicU64,
    /// Every value. Its sender is the keeper's, and ends with that.
    values: watch::Receiver<Arc<T>>,
    error: Mutex<Option<Arc<Error>>>,
}

/// Makes values of events.
struct Keeper<T: KvModel> {
    events: Events<T>,
    default: Option<Default<T>>,
    check: Option<Check<T>>,
    /// Why the last value was not taken.
    error: Option<Error>,
    /// Whether the listing that goes on, or went on last, had a record.
    listed: bool,
    /// Whether there was a value, or its default, ever.
    has_value: bool,
}

impl<T: KvModel> Keeper<T> {
    /// The next value with its revision; none if a value was not taken. `None` is the end.
    async fn next(&mut self) -> Option<Option<(Arc<T>, Revision)>> {
        loop {
            let error = match self.events.next().await? {
                Ok(Event::Put(entry)) => {
                    self.listed = true;
                    match self.judge(&entry) {
                        Ok(()) => {
                            let revision = entry.revision();
                            return Some(Some(self.take(entry.into_value(), revision)));
                        }
                        Err(reason) => Error::new(ErrorKind::Rejected { reason })
                            .at_revision(entry.revision())
                            .with_key(entry.key().to_string()),
                    }
                }
                Ok(Event::Removed { revision, .. }) => {
                    self.listed = true;
                    match self.default_value() {
                        Ok(Some(value)) => return Some(Some(self.take(value, revision))),
                        Ok(None) => continue,
                        Err(error) => error,
                    }
                }
                Ok(Event::Ready) => {
                    let missing = !std::mem::replace(&mut self.listed, true) || !self.has_value;
                    if !missing {
                        continue;
                    }
                    match self.default_value() {
                        // Where a value was not taken, the reason stays.
                        Ok(Some(value)) => {
                            self.has_value = true;
                            return Some(Some((Arc::new(value), Revision::ZERO)));
                        }
                        Ok(None) => continue,
                        Err(error) => error,
                    }
                }
                Ok(Event::Resync) => {
                    self.listed = false;
                    continue;
                }
                Ok(Event::Undecodable { error, .. }) => {
                    self.listed = true;
                    error
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            self.error = Some(error.within("live", self.events.bucket(), None));
            return Some(None);
        }
    }

    fn take(&mut self, value: T, revision: Revision) -> (Arc<T>, Revision) {
        self.error = None;
        self.has_value = true;
        (Arc::new(value), revision)
    }

    /// What the check says of a value. One at which it panics is not taken.
    fn judge(&self, value: &T) -> Result<(), String> {
        let Some(check) = &self.check else { return Ok(()) };
        match std::panic::catch_unwind(AssertUnwindSafe(|| check(value))) {
            Ok(judged) => judged.map_err(|reason| reason.to_string()),
            Err(_) => Err("the check panicked".to_owned()),
        }
    }

    fn default_value(&self) -> Result<Option<T>> {
        let Some(default) = &self.default else { return Ok(None) };
        let value = std::panic::catch_unwind(AssertUnwindSafe(default));
        value.map(Some).map_err(|_| Error::new(ErrorKind::Rejected { reason: "the default panicked".to_owned() }))
    }
}

async fn keep<T: KvModel>(mut keeper: Keeper<T>, shared: Arc<Shared<T>>, sender: watch::Sender<Arc<T>>) {
    while let Some(value) = keeper.next().await {
        // An error stays until a value is taken.
        if value.is_some() || keeper.error.is_some() {
            *shared.error.lock().unwrap_or_else(PoisonError::into_inner) = keeper.error.take().map(Arc::new);
        }
        let Some((value, revision)) = value else { continue };
        shared.revision.store(revision.get(), Ordering::Release);
        shared.value.store(Arc::clone(&value));
        shared.version.fetch_add(1, Ordering::AcqRel);
        sender.send_replace(value);
    }
}

impl<T: KvModel> Live<T> {
    /// The value now. No network, no `await`, no lock.
    pub fn load(&self) -> Arc<T> {
        let Shared { version, value, .. } = &*self.inner.shared;
        // The version first: a value that comes in between is told by `changed` once more, rather than never.
        self.seen.store(version.load(Ordering::Acquire), Ordering::Release);
        value.load_full()
    }

    /// Waits until the value is another than the one that this handle loaded last, and gives it. That is never, if nothing
    /// comes any more: after [`Store::close`](crate::Store::close), say.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing: the next call tells of the change.
    pub async fn changed(&self) -> Arc<T> {
        let mut values = self.subscribe();
        while self.inner.shared.version.load(Ordering::Acquire) == self.seen.load(Ordering::Acquire) {
            if values.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        self.load()
    }

    /// A receiver of every value, for whoever has one in a `select!`. It says when nothing comes any more.
    pub fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        let mut values = self.inner.shared.values.clone();
        values.mark_unchanged();
        values
    }

    /// The revision of the value, or of the removal behind which there is a default; zero where there never was a record.
    pub fn revision(&self) -> Revision {
        Revision::new(self.inner.shared.revision.load(Ordering::Acquire))
    }

    /// Why the newest value was not taken, if it was not.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.inner.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T: KvModel> Clone for Live<T> {
    fn clone(&self) -> Self {
        let seen = AtomicU64::new(self.seen.load(Ordering::Acquire));
        Self { inner: Arc::clone(&self.inner), seen }
    }
}

impl<T: KvModel + fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("value", &self.inner.shared.value.load())
            .field("revision", &self.revision())
            .finish()
    }
}
