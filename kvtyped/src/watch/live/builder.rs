//! The builder of a live value.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::handle::Live;
use super::updater::{DeriveFn, LiveState, LiveUpdate, LiveUpdater, Rules, run_updater};
use crate::backend::Deadline;
use crate::bucket::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{Filter, KvModel};

impl<T: KvModel> ReadBucket<T> {
    /// Keeps the current value of one key in memory, for example configuration that is reloaded while the program runs.
    ///
    /// A record is invalid if it does not decode or if [`validate`](OpenLive::validate) rejects it. After an invalid
    /// record the last valid value stays, and [`Live::last_error`] returns the reason. The last valid value also stays
    /// when the record is removed, unless there is a default. A task updates the value and ends with the last handle.
    /// Each invalid record is logged once at `warn`, without the reason, because the reason may quote the value.
    /// [`Live::errors`] returns a receiver of the errors, with their reasons.
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
    /// config.changed().await?;
    /// assert_eq!(config.load().limit, 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `InvalidKey` if the key is too long.
    ///
    /// Without a default: returns `NotFound`, or the error of the record, if no valid record arrives within the
    /// timeout. With a default: returns the error of an invalid first record at once, unless
    /// [`or_default_if_invalid`](OpenLive::or_default_if_invalid) is given. Returns the error of an invalid default at
    /// once.
    pub fn live<'a>(&'a self, key: &'a T::Key) -> OpenLive<'a, T> {
        let rules = Rules { default: None, default_if_invalid: false, check: None };
        OpenLive { bucket: self, key, rules, timeout: None }
    }
}

/// A builder that opens a live value; see [`ReadBucket::live`].
#[must_use = "nothing is read until it is awaited"]
pub struct OpenLive<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    key: &'a T::Key,
    rules: Rules<T>,
    timeout: Option<Duration>,
}

impl<'a, T: KvModel> OpenLive<'a, T> {
    /// Uses the default of the type while there is no record. Opening still fails if the first record is invalid.
    pub fn or_default(self) -> Self
    where
        T: std::default::Default,
    {
        self.or_else(T::default)
    }

    /// Uses the result of `default` while there is no record. Opening still fails if the first record is invalid.
    pub fn or_else(mut self, default: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.rules.default = Some(Box::new(default));
        self
    }

    /// Starts with the default also if the first record does not decode or is rejected. The error is logged at `warn`,
    /// and [`Live::last_error`] returns it. The default is that of [`or_else`](Self::or_else), if given, or that of the
    /// type.
    pub fn or_default_if_invalid(mut self) -> Self
    where
        T: std::default::Default,
    {
        self.rules.default.get_or_insert_with(|| Box::new(T::default));
        self.rules.default_if_invalid = true;
        self
    }

    /// Sets a check that each value must pass. Errors contain the message of the check.
    pub fn validate<E>(mut self, check: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.rules.check = Some(Box::new(move |value| check(value).map_err(Into::into)));
        self
    }

    /// Sets how long to wait for the first valid value. The default is the bucket's timeout. During the listing it
    /// bounds the time without progress, and each event of the key is progress.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Derives the live value from each record, for example to merge the record with a file and with environment
    /// variables. The function also runs on the default, and after the check of [`validate`](Self::validate).
    ///
    /// If the function fails, the record is invalid: the last value stays, and [`Live::last_error`] returns the reason,
    /// which is the message of the error. The function runs for each change of the record, and not when other sources
    /// of the value change. It must not block.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
    /// #[kv(key = "app")]
    /// struct Overlay { limit: Option<u32> }
    ///
    /// #[derive(Debug)]
    /// struct App { limit: u32 }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let overlays: Bucket<Overlay> = Store::memory().bucket().await?;
    /// // Defaults < bucket < environment.
    /// let layers = |overlay: &Overlay| -> Result<App, std::num::ParseIntError> {
    ///     let limit = overlay.limit.unwrap_or(10);
    ///     let limit = std::env::var("APP_LIMIT").map_or(Ok(limit), |limit| limit.parse())?;
    ///     Ok(App { limit })
    /// };
    /// let app: Live<App> = overlays.live(&OverlayKey).or_default().derive(layers).await?;
    /// assert_eq!(app.load().limit, 10);
    ///
    /// overlays.put(&Overlay { limit: Some(20) }).await?;
    /// assert_eq!(app.changed().await?.limit, 20);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ReadBucket::live`].
    pub fn derive<U, E>(self, derive: impl Fn(&T) -> Result<U, E> + Send + Sync + 'static) -> OpenDerived<'a, T, U>
    where
        U: Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        OpenDerived { open: self, derive: Box::new(move |value| derive(&value).map_err(Into::into)) }
    }

    async fn run<U: Send + Sync + 'static>(self, derive: DeriveFn<T, U>) -> Result<Live<U>> {
        let (name, key) = (self.bucket.name().to_owned(), self.key.to_string());
        self.open(derive).await.map_err(|error| error.with_context("live", &name, Some(&key)))
    }

    async fn open<U: Send + Sync + 'static>(self, derive: DeriveFn<T, U>) -> Result<Live<U>> {
        let Self { bucket, key, rules, timeout } = self;
        key.encode()?;
        let timeout = timeout.unwrap_or_else(|| bucket.timeout());
        let events = bucket.watch(Filter::key(key)).timeout(timeout).run_as("live").await?;
        let mut updater = LiveUpdater::new(events, Arc::clone(bucket.context()), key.to_string(), rules, derive);
        let mut deadline = Deadline::after(timeout);
        let (value, revision) = loop {
            if !updater.is_ready {
                deadline = Deadline::after(timeout);
            }
            let missing = match deadline.timeout(updater.next()).await {
                Ok(Some(LiveUpdate::Value(value, revision))) => break (value, revision),
                Ok(Some(LiveUpdate::Error | LiveUpdate::Nothing)) if !updater.has_failed() => continue,
                Ok(Some(LiveUpdate::Error | LiveUpdate::Nothing)) => ErrorKind::Closed,
                Ok(Some(LiveUpdate::Invalid)) => ErrorKind::NotFound,
                Ok(None) => ErrorKind::Closed,
                Err(_) => ErrorKind::NotFound,
            };
            return Err(updater.error().map_or_else(|| Error::new(missing), |error| Error::shared(&error)));
        };
        let (shared, sender) = LiveState::new(value, revision, updater.error());
        let shared = Arc::new(shared);
        let task = tokio::spawn(run_updater(updater, Arc::clone(&shared), sender));
        Ok(Live::new(shared, task))
    }
}

impl<'a, T: KvModel> IntoFuture for OpenLive<'a, T> {
    type Output = Result<Live<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("live", Box::pin(self.run(Box::new(Ok))))
    }
}

/// A builder that opens a live value which is derived from a record; see [`OpenLive::derive`].
#[must_use = "nothing is read until it is awaited"]
pub struct OpenDerived<'a, T: KvModel, U> {
    open: OpenLive<'a, T>,
    derive: DeriveFn<T, U>,
}

impl<'a, T: KvModel, U: Send + Sync + 'static> IntoFuture for OpenDerived<'a, T, U> {
    type Output = Result<Live<U>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.open.bucket;
        bucket.observe("live", Box::pin(self.open.run(self.derive)))
    }
}

impl<T: KvModel, U> fmt::Debug for OpenDerived<'_, T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDerived").field("open", &self.open).finish_non_exhaustive()
    }
}

impl<T: KvModel> fmt::Debug for OpenLive<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLive").field("key", self.key).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
