//! The lazy opening of a recipe's bucket, which all recipes share.
//!
//! A handle is created without I/O. Its first use, or awaiting it, opens the bucket once for all clones. The opening
//! runs as [detached] work, so a caller that is not polled, or that leaves, blocks no other caller.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::location::BucketLocation;
use crate::backend;
use crate::backend::OnDrop;
use crate::config::Storage;
use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::part_of_operation;

/// Runs work that proceeds although its caller is not polled, and ends if the future is dropped.
///
/// The work may hold a mutex that other callers wait for, or a ticket in a wait queue.
pub(crate) async fn detached<R: Send + 'static>(work: impl Future<Output = Result<R>> + Send + 'static) -> Result<R> {
    let closed = || Err(Error::new(ErrorKind::Closed));
    backend::detached(part_of_operation(work), OnDrop::End).await.unwrap_or_else(closed)
}

/// The bucket of a recipe's handle, opened on first use. Clones share it. `B` is the bucket, or the bucket with the
/// state that the clones of a handle share.
pub(crate) struct LazyBucket<B>(Arc<OpenCell<B>>);

struct OpenCell<B> {
    location: BucketLocation,
    state: Mutex<OpenState<B>>,
    /// Held by the task that opens the bucket.
    opening: tokio::sync::Mutex<()>,
}

struct OpenState<B> {
    opened: Option<B>,
    /// The number of failed attempts.
    failures: u64,
    last_error: Option<Arc<Error>>,
}

impl<B> OpenCell<B> {
    fn state(&self) -> MutexGuard<'_, OpenState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn located(&self, error: Error) -> Error {
        error.with_context("open", self.location.bucket(), None)
    }
}

impl<B> LazyBucket<B> {
    pub(crate) fn new(location: BucketLocation) -> Self {
        let state = Mutex::new(OpenState { opened: None, failures: 0, last_error: None });
        Self(Arc::new(OpenCell { location, state, opening: tokio::sync::Mutex::default() }))
    }

    /// Returns the name of the bucket.
    pub(crate) fn name(&self) -> &str {
        self.0.location.bucket()
    }

    /// Returns the context of the store.
    pub(crate) fn context(&self) -> &Arc<StoreContext> {
        self.0.location.store().context()
    }

    pub(crate) fn set_bucket(&mut self, name: String) {
        self.change(|location| location.set_bucket(name));
    }

    pub(crate) fn set_storage(&mut self, storage: Storage) {
        self.change(|location| location.set_storage(storage));
    }

    pub(crate) fn set_max_bytes(&mut self, bytes: u64) {
        self.change(|location| location.set_max_bytes(bytes));
    }

    pub(crate) fn set_replicas(&mut self, replicas: u8) {
        self.change(|location| location.set_replicas(replicas));
    }

    /// Forgets the opened bucket and its state. The clones keep theirs.
    pub(crate) fn reset(&mut self) {
        self.change(|_| {});
    }

    fn change(&mut self, change: impl FnOnce(&mut BucketLocation)) {
        let mut location = self.0.location.clone();
        change(&mut location);
        *self = Self::new(location);
    }

    /// Opens the bucket again on the next use, if the error says that it was deleted or replaced.
    pub(crate) fn forget_if_gone(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::BucketReplaced) {
            self.0.state().opened = None;
        }
    }
}

impl<B: Clone> LazyBucket<B> {
    /// Returns the bucket if it is open.
    pub(crate) fn opened(&self) -> Option<B> {
        self.0.state().opened.clone()
    }
}

impl<B: Clone + Send + 'static> LazyBucket<B> {
    /// Returns the opened bucket, and opens it if necessary. Performs no I/O if the bucket is open.
    ///
    /// Concurrent callers share one attempt and its error. A failed attempt is repeated by the next call.
    ///
    /// `check` refuses a bucket for this caller alone, because the options of clones may differ. A bucket that the
    /// opening caller refuses is not kept.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its attempt ends. A concurrent caller then makes an attempt.
    pub(crate) async fn get<F>(
        &self,
        open: impl FnOnce(BucketLocation) -> F + Send + 'static,
        check: impl Fn(&B) -> Result<()> + Send + 'static,
    ) -> Result<B>
    where
        F: Future<Output = Result<B>> + Send + 'static,
    {
        self.context().admit().map_err(|error| self.0.located(error))?;
        let (opened, failures_before) = {
            let state = self.0.state();
            (state.opened.clone(), state.failures)
        };
        if let Some(opened) = opened {
            return check(&opened).map(|()| opened).map_err(|error| self.0.located(error));
        }
        let cell = Arc::clone(&self.0);
        let attempt = async move {
            let _opening = cell.opening.lock().await;
            {
                // Another caller may have finished an attempt during the wait.
                let state = cell.state();
                if let Some(opened) = &state.opened {
                    return check(opened).map(|()| opened.clone()).map_err(|error| cell.located(error));
                }
                if let Some(error) = state.last_error.as_ref().filter(|_| state.failures != failures_before) {
                    return Err(cell.located(Error::shared(error)));
                }
            }
            let result = open(cell.location.clone()).await;
            let mut state = cell.state();
            match result {
                Ok(opened) => {
                    check(&opened).map_err(|error| cell.located(error))?;
                    (state.opened, state.last_error) = (Some(opened.clone()), None);
                    Ok(opened)
                }
                Err(error) => {
                    let error = Arc::new(error);
                    state.failures += 1;
                    state.last_error = Some(Arc::clone(&error));
                    Err(cell.located(Error::shared(&error)))
                }
            }
        };
        detached(attempt).await
    }

    /// Returns the opened bucket within the time limit of an operation, if any, and the rest of that limit.
    pub(crate) async fn get_within<F>(
        &self,
        limit: Option<Duration>,
        open: impl FnOnce(BucketLocation) -> F + Send + 'static,
    ) -> Result<(B, Option<Duration>)>
    where
        F: Future<Output = Result<B>> + Send + 'static,
    {
        self.context().admit()?;
        if let Some(opened) = self.opened() {
            return Ok((opened, limit));
        }
        let open = self.get(open, |_| Ok(()));
        let Some(limit) = limit else { return Ok((open.await?, None)) };
        let started = Instant::now();
        let opened = tokio::time::timeout(limit, open).await.unwrap_or_else(|_| Err(Error::timeout(limit)));
        Ok((opened?, Some(limit.saturating_sub(started.elapsed()))))
    }
}

impl<B> Clone for LazyBucket<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> fmt::Debug for LazyBucket<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyBucket")
            .field("name", &self.name())
            .field("is_open", &self.0.state().opened.is_some())
            .finish_non_exhaustive()
    }
}

/// The options for the bucket of a handle, which has its [`LazyBucket`] at a path.
macro_rules! location_options {
    ($($handle:ident $(<$($generic:ident),*>)?: $($path:ident).+),* $(,)?) => {$(
        impl $(<$($generic),*>)? $handle $(<$($generic),*>)? {
            /// Sets the bucket. By default it has the name of this handle and is created if it is missing. The bucket
            /// may also contain records of models: the keys do not collide.
            pub fn bucket(mut self, name: impl Into<String>) -> Self {
                self.$($path).+.set_bucket(name.into());
                self
            }

            /// Sets the storage of a new bucket.
            pub fn storage(mut self, storage: $crate::config::Storage) -> Self {
                self.$($path).+.set_storage(storage);
                self
            }

            /// Sets the maximum size in bytes of a new bucket, for accounts that require a limit.
            ///
            /// An eighth of the size stays free for renewals and expiries. When the rest is used, new leases fail with
            /// `BucketFull`. A lease takes up to a kilobyte, and so does a ticket in a wait queue. Less than 2,048
            /// bytes is refused (`InvalidConfig`).
            pub fn max_bytes(mut self, bytes: u64) -> Self {
                self.$($path).+.set_max_bytes(bytes);
                self
            }

            /// Sets the number of replicas of a new bucket. Three replicas tolerate the loss of one server.
            pub fn replicas(mut self, replicas: u8) -> Self {
                self.$($path).+.set_replicas(replicas);
                self
            }
        }
    )*};
}
pub(crate) use location_options;

/// Lets a handle be awaited, which has its [`LazyBucket`] at a path. Requires an async method `open`.
macro_rules! awaitable_handle {
    ($handle:ident $(<$generic:ident>)?: $($path:ident).+) => {
        /// Opens the bucket at once and returns the handle. Performs no I/O if the bucket is open.
        impl $(<$generic: 'static>)? std::future::IntoFuture for $handle $(<$generic>)? {
            type Output = $crate::error::Result<Self>;
            type IntoFuture = futures::future::BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                let bucket = self.$($path).+.clone();
                let open = async move {
                    match self.open().await {
                        Ok(()) => Ok(self),
                        Err(error) => Err(error.with_context("open", self.$($path).+.name(), None)),
                    }
                };
                bucket.context().observe("open", bucket.name().to_owned(), Box::pin(open))
            }
        }
    };
}
pub(crate) use awaitable_handle;
