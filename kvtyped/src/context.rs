//! The state of a store that everything opened by it shares.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::backend::ConnectionState;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::{Failure, Instruments};
use crate::shutdown::ShutdownSignal;

/// The shutdown signal of a store, and the conditions to start operations.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreContext {
    shutdown: Arc<ShutdownSignal>,
    fail_fast: Option<FailFast>,
    instruments: Instruments,
}

/// Refuses operations during an outage.
#[derive(Debug, Clone)]
struct FailFast {
    after: Duration,
    connection: watch::Receiver<ConnectionState>,
}

impl StoreContext {
    /// Returns the same context, which refuses operations after an outage of this length.
    pub(crate) fn fail_fast(self, after: Duration, connection: watch::Receiver<ConnectionState>) -> Self {
        Self { fail_fast: Some(FailFast { after, connection }), ..self }
    }

    /// Returns the same context with changed instruments.
    pub(crate) fn instrumented(self, change: impl FnOnce(&Instruments) -> Instruments) -> Self {
        Self { instruments: change(&self.instruments), ..self }
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Observes an operation. Costs next to nothing if neither an observer nor a subscriber is interested.
    #[inline]
    pub(crate) fn observe<'a, O: 'a, E: Failure + 'a>(
        &self,
        operation: &'static str,
        bucket: impl Into<Cow<'a, str>>,
        work: BoxFuture<'a, Result<O, E>>,
    ) -> BoxFuture<'a, Result<O, E>> {
        match self.instruments.are_active() {
            true => self.instruments.observe(operation, bucket.into(), work),
            false => work,
        }
    }

    pub(crate) fn shutdown(&self) -> &Arc<ShutdownSignal> {
        &self.shutdown
    }

    /// Checks that an operation may start.
    ///
    /// # Errors
    ///
    /// Returns `Closed` if the store is closed or shuts down, and `Unavailable` if the connection has been down for too
    /// long.
    pub(crate) fn admit(&self) -> Result<()> {
        self.shutdown.check()?;
        self.check_connection()
    }

    /// Checks that an operation on a record of a recipe may start. During a shutdown, leases are released.
    pub(crate) fn admit_recipe(&self) -> Result<()> {
        if self.shutdown.is_triggered() {
            return self.shutdown.check();
        }
        self.check_connection()
    }

    /// Runs an operation that may wait for a long time. It ends with `Closed` when the store shuts down.
    pub(crate) async fn until_shutdown<R>(&self, work: impl Future<Output = Result<R>>) -> Result<R> {
        self.admit()?;
        tokio::select! {
            biased;
            output = work => output,
            () = Arc::clone(&self.shutdown).draining() => Err(Error::new(ErrorKind::Closed)),
        }
    }

    fn check_connection(&self) -> Result<()> {
        let Some(FailFast { after, connection }) = &self.fail_fast else { return Ok(()) };
        match connection.borrow().downtime() {
            Some(down) if down >= *after => Err(Error::unavailable(format!(
                "not connected to a server for {down:.1?}, and `fail_fast_after` is {after:?}"
            ))),
            _ => Ok(()),
        }
    }
}
