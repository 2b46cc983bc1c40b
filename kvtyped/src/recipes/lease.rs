//! A lease that is held: what every guard has in common.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::fence::{Fence, Fencing};
use super::tenure::{Order, State};
use super::times::Times;
use crate::error::{Error, ErrorKind, Result};

/// A lease that is held: a record with a time to live, which a task of its own renews.
///
/// Every guard of a recipe dereferences to one: [`LockGuard`](super::LockGuard), [`Leadership`](super::Leadership),
/// [`Permit`](super::Permit), [`Member`](super::Member).
///
/// It is valid until the time to live has passed since its last renewal was **sent**, by this machine's monotonic clock,
/// less a margin: so its holder gives it up before the server can let anybody else have it, network or not. A renewal
/// whose acknowledgement is lost does not count until the server's leader was seen to have it.
///
/// # What this does not guarantee
///
/// That its holder *does nothing* any more when the lease is lost. A process can be paused between a look at the lease and
/// the deed, for longer than the lease lives; no lease of any system helps against that. What does is a
/// [fence](super::Fence) that is checked where the deed is done.
///
/// The clock is `CLOCK_MONOTONIC` on Linux, which stands still while the machine is suspended. How much later than asked
/// the server lets a lease expire is the server's affair; that it does so earlier takes a jump of the server's clock.
#[must_use = "a lease that is dropped is given back"]
pub struct Lease {
    shown: Box<Shown>,
    state: watch::Receiver<State>,
    orders: mpsc::UnboundedSender<Order>,
    /// Whether the keeper renews the lease.
    in_hand: Arc<AtomicBool>,
}

/// What is known of a lease without asking.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) fence: Fence,
    /// What a fence in its bucket stands on.
    pub(super) fencing: Option<Fencing>,
    pub(super) times: Times,
    /// How long an operation may take.
    pub(super) timeout: Duration,
}

impl Lease {
    pub(super) fn new(
        shown: Shown,
        state: watch::Receiver<State>,
        orders: mpsc::UnboundedSender<Order>,
        in_hand: Arc<AtomicBool>,
    ) -> Self {
        Self { shown: Box::new(shown), state, orders, in_hand }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shown.name
    }

    /// The number of this tenure, which grows with every holder.
    pub fn fence(&self) -> Fence {
        self.shown.fence
    }

    /// How long it is valid if it is not renewed; zero when it is lost.
    pub fn remaining(&self) -> Duration {
        match *self.state.borrow() {
            State::Held { until, .. } => until.saturating_duration_since(Instant::now()),
            State::Lost | State::Released => Duration::ZERO,
        }
    }

    /// Whether it is valid at this moment. The answer may be old when it is read.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// The same as a `Result`, for `?` between two steps of the work.
    ///
    /// # Errors
    ///
    /// `Lost`.
    pub fn check(&self) -> Result<()> {
        if self.is_held() { Ok(()) } else { Err(self.loss("check")) }
    }

    /// Makes sure that it is valid for this long from now: renews it if less is left.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let locks = Store::memory().locks("jobs").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// guard.ensure(Duration::from_secs(20)).await?; // enough for the step that follows
    /// assert!(guard.remaining() > Duration::from_secs(19));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Lost`; `InvalidConfig` if a lease of this kind is never valid for so long; `Timeout` if its renewal took so long that
    /// less is left, as it always does of the whole time that a lease is valid; the renewal's own if that failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the lease as it is, renewed or not.
    pub async fn ensure(&self, long: Duration) -> Result<()> {
        self.check()?;
        let Times { ttl, margin, .. } = self.shown.times;
        if long > self.shown.times.valid() {
            let reason = format!("{long:?} is more than ttl ({ttl:?}) - margin ({margin:?})");
            return Err(self.located("ensure", Error::invalid_config(reason)));
        }
        if self.remaining() >= long {
            return Ok(());
        }
        let asked = Instant::now();
        self.order("ensure", Order::Renew).await?;
        let left = self.remaining();
        if left >= long {
            return Ok(());
        }
        self.check()?;
        let late = format!("it was renewed, which took so long that {left:?} of {long:?} are left");
        Err(self.located("ensure", Error::timeout(asked.elapsed()).caused_by(late)))
    }

    /// Waits until it is lost, or may be: at the latest at the end of its validity, whatever the network does.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        loop {
            let State::Held { until, .. } = *state.borrow_and_update() else { return };
            if until <= Instant::now() {
                return;
            }
            // A renewal moves the end; the sender goes with the runtime only, and then nothing renews.
            tokio::select! {
                biased;
                () = sleep_until(until) => {}
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// Does some work under the lease, and drops it at the moment when the lease is lost.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let locks = Store::memory().locks("jobs").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// let sent = guard.run(async { /* send the invoice */ 1 }).await?;
    /// guard.release().await?;
    /// # assert_eq!(sent, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Lost`, if it is lost before the work ends. What the work did until then is done.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the work; the lease stays.
    pub async fn run<W: Future>(&self, work: W) -> Result<W::Output> {
        let lost = pin!(self.lost());
        let work = pin!(work);
        tokio::select! {
            biased;
            () = lost => Err(self.loss("run")),
            output = work => Ok(output),
        }
    }

    /// Gives it back, and waits until that is sure: the renewal is stopped first, and then the lease removed if it is still
    /// this one. Dropping it does the same without waiting.
    ///
    /// # Errors
    ///
    /// `Lost`, if it was lost before: what it protected may have met another holder. Another error if the server could not
    /// be asked; then it expires.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the release to go on without a witness.
    pub async fn release(self) -> Result<()> {
        self.release_as("release").await
    }

    /// The same, by the word of a recipe.
    pub(super) async fn release_as(self, operation: &'static str) -> Result<()> {
        let timeout = self.shown.timeout;
        match tokio::time::timeout(timeout, self.order(operation, Order::Release)).await {
            Ok(released) => released,
            // It goes on without a witness.
            Err(_) => Err(self.located(operation, Error::timeout(timeout).unknown_outcome())),
        }
    }

    /// Starts the renewal once the caller has the lease. Until then the lease lasts for one TTL.
    pub(super) fn start_renewal(&self) {
        self.in_hand.store(true, Ordering::Relaxed);
    }

    /// How it is now, and what becomes of it.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What a fence in its bucket stands on.
    pub(super) fn fencing(&self) -> Option<&Fencing> {
        self.shown.fencing.as_ref()
    }

    /// Writes another value into it.
    pub(super) async fn say(&self, operation: &'static str, value: Option<Value>) -> Result<()> {
        self.order(operation, |reply| Order::Say(value, reply)).await
    }

    /// Ends it by leaving a value in its place, for so long or for ever, if it is still this one.
    pub(super) async fn finish(self, operation: &'static str, value: Value, keep: Option<Duration>) -> Result<()> {
        self.order(operation, |reply| Order::Finish(value, keep, reply)).await
    }

    async fn order(
        &self,
        operation: &'static str,
        order: impl FnOnce(oneshot::Sender<Result<()>>) -> Order,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        // Whoever does not listen any more has lost the lease.
        if self.orders.send(order(reply)).is_err() {
            return Err(self.loss(operation));
        }
        match answer.await {
            Ok(answer) => answer.map_err(|error| self.located(operation, error)),
            Err(_) => Err(self.loss(operation)),
        }
    }

    fn loss(&self, operation: &'static str) -> Error {
        self.located(operation, Error::new(ErrorKind::Lost))
    }

    pub(super) fn located(&self, operation: &'static str, error: Error) -> Error {
        error.within(operation, &self.shown.bucket, Some(&self.shown.key))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.shown.name)
            .field("fence", &self.shown.fence)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
