//! The state of a held lease, and the commands of its holder. The handle and the keeper share both.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::error::Result;
use crate::revision::Revision;

/// The state of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeaseState {
    /// The lease is valid until this instant, unless it is renewed. `revision` is the revision of its last write.
    Valid { until: Instant, revision: Revision },
    /// Another holder has the lease, or no holder has it, or its time has passed.
    Lost,
    /// The lease was released.
    Released,
}

/// A command of the holder to the lease keeper. A closed channel is a release, too.
pub(crate) enum LeaseCommand {
    Renew(oneshot::Sender<Result<()>>),
    SetValue(Option<Value>, oneshot::Sender<Result<()>>),
    /// Ends the lease by replacing its record with this value, for a limited time or without a limit.
    Complete(Value, Option<Duration>, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<Result<()>>),
}

/// The commands of the holder. The channel is closed when the holder drops the lease.
pub(crate) type CommandReceiver = mpsc::UnboundedReceiver<LeaseCommand>;

/// Waits until the lease of this state is lost, or may be lost.
pub(crate) async fn lost(mut state: watch::Receiver<LeaseState>) {
    loop {
        let LeaseState::Valid { until, .. } = *state.borrow_and_update() else { return };
        if until <= Instant::now() {
            return;
        }
        // A renewal moves the end. A closed channel means that the runtime has shut down and that no task renews the
        // lease.
        tokio::select! {
            biased;
            () = sleep_until(until) => {}
            Ok(()) = state.changed() => {}
        }
    }
}
