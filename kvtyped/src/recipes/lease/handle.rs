//! A held lease, which all guards have in common.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::fence::{Fence, FenceRecord};
use super::state::{LeaseCommand, LeaseState, lost};
use super::timing::LeaseTiming;
use crate::context::StoreContext;
use crate::error::{Error, ErrorKind, Result, key_hash};

/// A held lease: a record with a TTL that a background task renews.
///
/// Every guard of a recipe dereferences to a lease: [`LockGuard`](crate::recipes::LockGuard),
/// [`Leadership`](crate::recipes::Leadership), [`Permit`](crate::recipes::Permit), [`Member`](crate::recipes::Member).
///
/// A lease is valid until its TTL, less a margin, has passed since its last renewal was **sent**, by this machine's
/// monotonic clock. So the holder gives the lease up before the server can grant it to another holder, with or without
/// a network. A renewal whose acknowledgement is lost does not extend the validity. The background task then reads the
/// record from the server's leader and renews again.
///
/// # What this does not guarantee
///
/// That the holder *stops acting* when the lease is lost. A process can be paused between a check of the lease and an
/// action, for longer than the lease lives. No lease of any system prevents that. A [fence](crate::recipes::Fence)
/// prevents it if the target of the action checks it.
///
/// The clock is `CLOCK_MONOTONIC` on Linux, which stops while the machine is suspended. The server may expire a lease
/// later than requested. It expires a lease earlier only if the server's clock jumps.
#[must_use = "dropping the lease releases it"]
pub struct Lease {
    info: Box<LeaseInfo>,
    state: watch::Receiver<LeaseState>,
    commands: mpsc::UnboundedSender<LeaseCommand>,
    /// Whether the keeper renews the lease.
    renewal_started: Arc<AtomicBool>,
}

/// The properties of a lease that do not change.
#[derive(Debug, Clone)]
pub(crate) struct LeaseInfo {
    pub(crate) name: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// Whether messages show a hash of the name and the key.
    pub(crate) hides_key: bool,
    pub(crate) fence: Fence,
    /// The fence of the lease, if its bucket has one.
    pub(crate) fence_record: Option<FenceRecord>,
    pub(crate) timing: LeaseTiming,
    /// The time limit of an operation.
    pub(crate) timeout: Duration,
    pub(crate) context: Arc<StoreContext>,
}

impl Lease {
    pub(crate) fn new(
        info: LeaseInfo,
        state: watch::Receiver<LeaseState>,
        commands: mpsc::UnboundedSender<LeaseCommand>,
        renewal_started: Arc<AtomicBool>,
    ) -> Self {
        Self { info: Box::new(info), state, commands, renewal_started }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the fencing token of this term. It grows with every holder.
    pub fn fence(&self) -> Fence {
        self.info.fence
    }

    /// Returns how long the lease stays valid without a renewal. Returns zero if the lease is lost.
    pub fn remaining(&self) -> Duration {
        match *self.state.borrow() {
            LeaseState::Valid { until, .. } => until.saturating_duration_since(Instant::now()),
            LeaseState::Lost | LeaseState::Released => Duration::ZERO,
        }
    }

    /// Returns whether the lease is valid now. The answer may be outdated when it arrives.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns an error if the lease is lost, for use with `?` between two steps of the work.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the lease is lost.
    pub fn check(&self) -> Result<()> {
        if self.is_held() { Ok(()) } else { Err(self.lost_error("check")) }
    }

    /// Ensures that the lease is valid for this long from now. Renews the lease if less time is left.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let locks = Store::memory().locks("jobs").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// guard.ensure_remaining(Duration::from_secs(20)).await?; // enough for the step that follows
    /// assert!(guard.remaining() > Duration::from_secs(19));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the lease is lost. Returns `InvalidConfig` if `long` exceeds the longest validity of this
    /// lease. Returns `Timeout` if the renewal took so long that less time is left. That is always so if `long` is the
    /// longest validity itself. Returns the error of the renewal if the renewal failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lease may or may not be renewed.
    pub async fn ensure_remaining(&self, long: Duration) -> Result<()> {
        self.observe("ensure_remaining", self.run_ensure_remaining(long)).await
    }

    async fn run_ensure_remaining(&self, long: Duration) -> Result<()> {
        self.check()?;
        let LeaseTiming { ttl, margin, .. } = self.info.timing;
        if long > self.info.timing.validity() {
            let reason =
                format!("{long:?} is more than ttl ({ttl:?}) - margin ({margin:?}); ask for less, or raise the ttl");
            return Err(self.located("ensure_remaining", Error::invalid_config(reason)));
        }
        if self.remaining() >= long {
            return Ok(());
        }
        let started = Instant::now();
        self.send_command("ensure_remaining", LeaseCommand::Renew).await?;
        let left = self.remaining();
        if left >= long {
            return Ok(());
        }
        self.check()?;
        let late = format!("the renewal was slow: {left:?} of {long:?} are left");
        Err(self.located("ensure_remaining", Error::timeout(started.elapsed()).caused_by(late)))
    }

    /// Waits until the lease is lost, or may be lost. Returns at the end of the validity at the latest, whatever the
    /// state of the network.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing changes.
    pub async fn lost(&self) {
        lost(self.state.clone()).await;
    }

    /// Runs some work under the lease, and drops the work when the lease is lost.
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
    /// Returns `Lost` if the lease is lost before the work ends. The effects of the work until then remain.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work is dropped. The lease remains.
    pub async fn run<W: Future>(&self, work: W) -> Result<W::Output> {
        let lost = pin!(self.lost());
        let work = pin!(work);
        tokio::select! {
            biased;
            () = lost => Err(self.lost_error("run")),
            output = work => Ok(output),
        }
    }

    /// Releases the lease and waits until that is confirmed. The renewal stops first. Then the record is removed, or a
    /// lock is handed over to the next waiter, if the record still belongs to this lease. Dropping the lease does the
    /// same in the background.
    ///
    /// # Errors
    ///
    /// Returns `Lost` if the lease was lost before. The protected work may have overlapped with another holder. Returns
    /// another error if the request failed. The lease is then removed later, or expires.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the release continues in the background and its result is lost.
    pub async fn release(self) -> Result<()> {
        self.release_as("release").await
    }

    /// Releases the lease, as the operation of a recipe.
    pub(crate) async fn release_as(self, operation: &'static str) -> Result<()> {
        let (context, bucket) = (Arc::clone(&self.info.context), self.info.bucket.clone());
        context.observe(operation, bucket, Box::pin(self.release_unobserved(operation))).await
    }

    /// Releases the lease as a part of another operation.
    pub(crate) async fn release_unobserved(self, operation: &'static str) -> Result<()> {
        let timeout = self.info.timeout;
        match tokio::time::timeout(timeout, self.send_command(operation, LeaseCommand::Release)).await {
            Ok(released) => released,
            // The release continues in the background.
            Err(_) => Err(self.located(operation, Error::timeout(timeout).unknown_outcome())),
        }
    }

    /// Starts the renewal once the caller has the lease. Until then the lease lasts for one TTL.
    pub(crate) fn start_renewal(&self) {
        self.renewal_started.store(true, Ordering::Relaxed);
    }

    /// Returns a receiver of the state.
    pub(crate) fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Returns how long a release may take.
    pub(crate) fn release_limit(&self) -> Duration {
        self.info.timeout
    }

    /// Returns the fence of the lease, if its bucket has one.
    pub(crate) fn fence_record(&self) -> Option<&FenceRecord> {
        self.info.fence_record.as_ref()
    }

    /// Replaces the value in the lease, as the operation of a recipe.
    pub(crate) async fn set_value(&self, operation: &'static str, value: Result<Value>) -> Result<()> {
        let set = async {
            let value = value.map_err(|error| self.located(operation, error))?;
            self.send_command(operation, |reply| LeaseCommand::SetValue(Some(value), reply)).await
        };
        self.observe(operation, set).await
    }

    async fn observe(&self, operation: &'static str, work: impl Future<Output = Result<()>> + Send) -> Result<()> {
        self.info.context.observe(operation, &self.info.bucket, Box::pin(work)).await
    }

    /// Ends the lease by replacing its record with a value, if the record still belongs to this lease. The value stays
    /// for `retention`, or without a limit.
    pub(crate) async fn complete(
        self,
        operation: &'static str,
        value: Value,
        retention: Option<Duration>,
    ) -> Result<()> {
        self.send_command(operation, |reply| LeaseCommand::Complete(value, retention, reply)).await
    }

    async fn send_command(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<Result<()>>) -> LeaseCommand,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        // A closed channel means that the lease is lost.
        if self.commands.send(command(reply)).is_err() {
            return Err(self.lost_error(operation));
        }
        match answer.await {
            Ok(answer) => answer.map_err(|error| self.located(operation, error)),
            Err(_) => Err(self.lost_error(operation)),
        }
    }

    fn lost_error(&self, operation: &'static str) -> Error {
        self.located(operation, Error::new(ErrorKind::Lost))
    }

    pub(crate) fn located(&self, operation: &'static str, error: Error) -> Error {
        let error = error.with_context(operation, &self.info.bucket, Some(&self.info.key));
        if self.info.hides_key { error.hide_key() } else { error }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.info.hides_key {
            true => Cow::Owned(key_hash(&self.info.name)),
            false => Cow::Borrowed(&*self.info.name),
        };
        f.debug_struct("Lease")
            .field("name", &name)
            .field("fence", &self.info.fence)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
