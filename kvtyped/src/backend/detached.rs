//! Work that continues although its caller is no longer polled.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use tokio::task::JoinHandle;

/// Work that was started.
pub(crate) enum Started<R> {
    /// The work was ready at the first poll.
    Ended(R),
    /// The work continues in a separate task.
    Running(JoinHandle<R>),
}

/// Polls a future once, and moves it into a separate task if it is not ready.
///
/// The future therefore releases its resources (a turn, a permit) in time, however rarely the caller is polled. Work
/// that is ready at the first poll needs no task.
///
/// # Cancel safety
///
/// The future starts at the first poll. It runs to its end even if the caller drops this future.
pub(crate) async fn start<R: Send + 'static>(future: impl Future<Output = R> + Send + 'static) -> Started<R> {
    let mut future: Pin<Box<dyn Future<Output = R> + Send>> = Box::pin(future);
    match futures::poll!(future.as_mut()) {
        Poll::Ready(output) => Started::Ended(output),
        Poll::Pending => Started::Running(tokio::spawn(future)),
    }
}

impl<R> Started<R> {
    /// Waits until the work ends. Returns `None` if the runtime of its task ended first.
    pub(crate) async fn output(self) -> Option<R> {
        match self {
            Self::Ended(output) => Some(output),
            Self::Running(task) => task.await.ok(),
        }
    }
}
