//! Work that goes on although its caller is no longer polled.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use tokio::task::JoinHandle;

/// Work that was started.
pub(crate) enum Started<R> {
    /// The work ended at once.
    Ended(R),
    /// The work goes on in a task of its own.
    Running(JoinHandle<R>),
}

/// Polls a future once, and moves it into a task of its own if it is not ready then.
///
/// What the future holds (a turn, a permit) is therefore given back in time, however rarely the caller is polled. Work that
/// is ready at once costs no task.
///
/// # Cancel safety
///
/// The future is started when this is polled first, and ends whether or not the caller waits for it.
pub(crate) async fn start<R: Send + 'static>(future: impl Future<Output = R> + Send + 'static) -> Started<R> {
    let mut future: Pin<Box<dyn Future<Output = R> + Send>> = Box::pin(future);
    match futures::poll!(future.as_mut()) {
        Poll::Ready(output) => Started::Ended(output),
        Poll::Pending => Started::Running(tokio::spawn(future)),
    }
}

impl<R> Started<R> {
    /// Waits for the end of the work. Returns `None` if the runtime of its task ended first.
    pub(crate) async fn output(self) -> Option<R> {
        match self {
            Self::Ended(output) => Some(output),
            Self::Running(task) => task.await.ok(),
        }
    }
}
