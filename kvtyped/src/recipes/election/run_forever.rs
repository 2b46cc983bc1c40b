//! The loop of a service that works while it leads.

use std::fmt;
use std::future::{self, Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::handle::{Campaign, Election, LEASE, Leadership};
use crate::backend::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::recipes::announcement::encode_value;
use crate::recipes::context::LeaseContext;
use crate::recipes::lease::state::{LeaseState, lost};

/// The shortest time between two campaigns, so that work that ends at once does not flood the server.
const MIN_TERM: Duration = Duration::from_secs(1);

impl<T> Election<T>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Campaigns, runs the work while this process leads, and campaigns again after a loss: the loop of a service.
    ///
    /// Each term runs the closure once. When the leadership is lost, its future is dropped. If the work ends during
    /// the term, this process resigns, and campaigns again at least one second after the term began. The output of the
    /// work is discarded, so handle its errors inside.
    ///
    /// Temporary errors are retried with growing pauses, and logged at `warn`. [`until`](RunForever::until) ends the
    /// loop. Without it, only an error does.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// # let mut stop = Some(stop);
    /// store
    ///     .election::<String>("scheduler")
    ///     .run_forever(&"10.0.0.7".to_owned(), |leadership| {
    ///         // What only the leader does, for example until the process ends.
    ///         # stop.take().map(|stop| stop.send(()));
    ///         async move {
    ///             println!("term {}", leadership.fence());
    ///             std::future::pending::<()>().await
    ///         }
    ///     })
    ///     .until(stopped) // resigns, then returns
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `PermissionDenied`, `InvalidConfig`, `Unsupported`, `Encode`, `TooLarge` or `Closed`, because another
    /// campaign would fail in the same way.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work is dropped, and the leadership is released in the background.
    pub fn run_forever<'a, W, F>(&self, me: &T, work: W) -> RunForever<'a, T, W>
    where
        W: FnMut(Leadership<T>) -> F + Send + 'a,
        F: Future + Send + 'a,
    {
        RunForever { context: self.context.clone(), me: encode_value(me), work, value: PhantomData }
    }
}

/// Work that runs while this process leads; see [`Election::run_forever`].
#[must_use = "nothing runs until it is awaited"]
pub struct RunForever<'a, T, W> {
    context: LeaseContext,
    me: Result<serde_json::Value>,
    work: W,
    value: PhantomData<fn() -> (T, &'a ())>,
}

impl<'a, T, W> RunForever<'a, T, W> {
    /// Sets a future that ends the loop. When it completes, the work is dropped, this process resigns, and the loop
    /// returns after the resignation, or at most one timeout of the store later.
    pub fn until<S: Future + Send + 'a>(self, stop: S) -> RunUntil<'a, T, W, S> {
        RunUntil { forever: self, stop }
    }
}

/// Work that runs while this process leads, until a signal; see [`RunForever::until`].
#[must_use = "nothing runs until it is awaited"]
pub struct RunUntil<'a, T, W, S> {
    forever: RunForever<'a, T, W>,
    stop: S,
}

/// How a term ended.
enum End {
    Lost,
    Done,
    Stopped,
}

impl<T, W, F> RunForever<'_, T, W>
where
    T: Send + 'static,
    W: FnMut(Leadership<T>) -> F + Send,
    F: Future + Send,
{
    async fn run(self, stop: impl Future + Send) -> Result<()> {
        let Self { context, me, mut work, value: _ } = self;
        let mut stop = pin!(stop);
        let me = me.map_err(|error| context.located("run_forever", None, error))?;
        let mut backoff = Backoff::outage();
        loop {
            let campaign: Campaign<T> = Campaign::from_encoded(context.clone(), me.clone());
            let elected = tokio::select! {
                biased;
                _ = &mut stop => return Ok(()),
                elected = campaign => elected,
            };
            let leadership = match elected {
                Ok(leadership) => leadership,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(election = context.name(), %error, "the campaign failed and is repeated");
                    if pause(backoff.next(), &mut stop).await {
                        return Ok(());
                    }
                    continue;
                }
            };
            backoff = Backoff::outage();
            let (began, state, timeout) = (Instant::now(), leadership.state(), leadership.release_limit());
            match run_term(work(leadership), state.clone(), stop.as_mut()).await {
                End::Stopped => {
                    // The work is dropped, and with it the leadership.
                    let _ = tokio::time::timeout(timeout, released(state)).await;
                    return Ok(());
                }
                End::Lost => tracing::warn!(election = context.name(), part = LEASE, "the leadership was lost"),
                End::Done => {
                    let _ = tokio::time::timeout(timeout, released(state)).await;
                }
            }
            if pause(MIN_TERM.saturating_sub(began.elapsed()), &mut stop).await {
                return Ok(());
            }
        }
    }
}

/// Runs the work of one term. Drops the work when the term ends.
async fn run_term(
    work: impl Future,
    state: watch::Receiver<LeaseState>,
    mut stop: Pin<&mut (impl Future + Send)>,
) -> End {
    let (work, lost) = (pin!(work), pin!(lost(state)));
    tokio::select! {
        biased;
        () = lost => End::Lost,
        _ = &mut stop => End::Stopped,
        _ = work => End::Done,
    }
}

/// Waits until the leadership is released or lost.
async fn released(mut state: watch::Receiver<LeaseState>) {
    // An error means that the keeper has ended.
    let _ = state.wait_for(|state| !matches!(state, LeaseState::Valid { .. })).await;
}

/// Waits. Returns whether `stop` completed first.
async fn pause<S: Future>(long: Duration, stop: &mut Pin<&mut S>) -> bool {
    tokio::select! {
        biased;
        _ = stop => true,
        () = sleep(long) => false,
    }
}

/// Whether another campaign would fail with the same error.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied { .. }
            | ErrorKind::InvalidConfig { .. }
            | ErrorKind::InvalidKey
            | ErrorKind::Unsupported { .. }
            | ErrorKind::Encode { .. }
            | ErrorKind::TooLarge { .. }
            | ErrorKind::Closed
    )
}

impl<'a, T, W, F> IntoFuture for RunForever<'a, T, W>
where
    T: Send + 'static,
    W: FnMut(Leadership<T>) -> F + Send + 'a,
    F: Future + Send + 'a,
{
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run(future::pending::<()>()))
    }
}

impl<'a, T, W, F, S> IntoFuture for RunUntil<'a, T, W, S>
where
    T: Send + 'static,
    W: FnMut(Leadership<T>) -> F + Send + 'a,
    F: Future + Send + 'a,
    S: Future + Send + 'a,
{
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.forever.run(self.stop))
    }
}

impl<T, W> fmt::Debug for RunForever<'_, T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunForever").field("election", &self.context.name()).finish_non_exhaustive()
    }
}

impl<T, W, S> fmt::Debug for RunUntil<'_, T, W, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunUntil").field("election", &self.forever.context.name()).finish_non_exhaustive()
    }
}
