//! Work that continues although its caller is no longer polled.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The longest time that a caller may leave runnable work unpolled. After that, a task polls the work.
const GRACE: Duration = Duration::from_millis(5);

/// Polls a future once, and moves it into a separate task if it is not ready.
///
/// # Cancel safety
///
/// The future starts at the first poll and then runs to its end.
pub(crate) fn run_in_background(future: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send {
    // The box hides the type of the future, so the task is compiled once and not for each model.
    run_boxed(Box::pin(future))
}

async fn run_boxed(mut future: BoxFuture<'static, ()>) {
    if futures::poll!(future.as_mut()).is_pending() {
        tokio::spawn(future);
    }
}

/// Runs work that holds what other callers wait for (a turn, a permit, a ticket).
///
/// The caller polls the work, so its completion costs no further wake-up of a task. If the caller does not poll it soon
/// after it can proceed, a task does: a caller may poll a future once and then leave it (`select!`,
/// `buffer_unordered`). Returns `None` if the runtime of that task has ended.
///
/// # Cancel safety
///
/// The work starts at the first poll. `dropped` decides whether a drop then ends the work.
pub(crate) async fn detached<R: Send + 'static>(
    work: impl Future<Output = R> + Send + 'static,
    dropped: OnDrop,
) -> Option<R> {
    let shared = Arc::new(Shared {
        work: Mutex::new(Work::Running(Box::pin(work))),
        caller: AtomicWaker::new(),
        can_proceed: AtomicBool::new(true),
        is_orphan: AtomicBool::new(false),
        woken: Notify::new(),
    });
    let caller = Caller { waker: Waker::from(Arc::clone(&shared)), shared, dropped, task: None };
    caller.await
}

/// The effect of a dropped caller on its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// It ends.
    End,
    /// It runs to its end.
    Continue,
}

/// The caller of the work, as a future.
struct Caller<R: Send + 'static> {
    shared: Arc<Shared<R>>,
    waker: Waker,
    dropped: OnDrop,
    /// The task that polls the work if the caller does not.
    task: Option<AbortHandle>,
}

struct Shared<R> {
    work: Mutex<Work<R>>,
    caller: AtomicWaker,
    /// Whether the work was woken and not polled since.
    can_proceed: AtomicBool,
    /// Whether the caller is gone.
    is_orphan: AtomicBool,
    woken: Notify,
}

enum Work<R> {
    Running(BoxFuture<'static, R>),
    Ended(R),
    Gone,
}

impl<R: Send + 'static> Future for Caller<R> {
    type Output = Option<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<R>> {
        self.shared.caller.register(context.waker());
        if self.shared.advance(&self.waker) {
            return Poll::Ready(self.shared.take());
        }
        if self.task.is_none() {
            let task = tokio::spawn(Arc::clone(&self.shared).poll_for_the_caller(self.waker.clone()));
            self.task = Some(task.abort_handle());
        }
        Poll::Pending
    }
}

impl<R: Send + 'static> Drop for Caller<R> {
    fn drop(&mut self) {
        let Some(task) = &self.task else { return };
        let continues = self.dropped == OnDrop::Continue && matches!(*self.shared.work(), Work::Running(_));
        if continues {
            self.shared.is_orphan.store(true, Ordering::SeqCst);
            self.shared.woken.notify_one();
        } else {
            task.abort();
            // The work owns the wakers of its resources, and they own the work.
            let work = std::mem::replace(&mut *self.shared.work(), Work::Gone);
            drop(work);
        }
    }
}

impl<R: Send + 'static> Shared<R> {
    fn work(&self) -> MutexGuard<'_, Work<R>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the work unless it has ended. Returns whether it has ended.
    fn advance(&self, waker: &Waker) -> bool {
        let mut work = self.work();
        // If the work panics, it is gone.
        *work = match std::mem::replace(&mut *work, Work::Gone) {
            Work::Running(mut future) => {
                self.can_proceed.store(false, Ordering::SeqCst);
                match future.as_mut().poll(&mut Context::from_waker(waker)) {
                    Poll::Pending => Work::Running(future),
                    Poll::Ready(result) => Work::Ended(result),
                }
            }
            ended => ended,
        };
        !matches!(*work, Work::Running(_))
    }

    /// Takes the result if the work has ended.
    fn take(&self) -> Option<R> {
        match std::mem::replace(&mut *self.work(), Work::Gone) {
            Work::Ended(result) => Some(result),
            Work::Running(_) | Work::Gone => None,
        }
    }

    /// Polls the work each time it can proceed and its caller does not poll it.
    async fn poll_for_the_caller(self: Arc<Self>, waker: Waker) {
        // Wakes the caller also if the runtime ends.
        let _end = End(Arc::clone(&self));
        loop {
            if self.can_proceed.load(Ordering::SeqCst) && !self.is_orphan.load(Ordering::SeqCst) {
                tokio::time::sleep(GRACE).await;
            }
            if self.can_proceed.load(Ordering::SeqCst) && self.advance(&waker) {
                return;
            }
            self.woken.notified().await;
        }
    }
}

impl<R: Send + 'static> Wake for Shared<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.can_proceed.store(true, Ordering::SeqCst);
        self.caller.wake();
        self.woken.notify_one();
    }
}

/// Ends the work with the task, and wakes the caller.
struct End<R: Send + 'static>(Arc<Shared<R>>);

impl<R: Send + 'static> Drop for End<R> {
    fn drop(&mut self) {
        let mut work = self.0.work();
        let unfinished = match &*work {
            Work::Running(_) => Some(std::mem::replace(&mut *work, Work::Gone)),
            Work::Ended(_) | Work::Gone => None,
        };
        drop(work);
        drop(unfinished);
        self.0.caller.wake();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::oneshot;

    use super::*;

    /// Work of two steps, the sender that starts the second step, and a receiver of the end.
    fn work() -> (impl Future<Output = u32> + Send, oneshot::Sender<()>, oneshot::Receiver<()>) {
        let (go, goes) = oneshot::channel();
        let (ended, ends) = oneshot::channel();
        let work = async move {
            goes.await.unwrap();
            tokio::task::yield_now().await;
            let _ = ended.send(());
            7
        };
        (work, go, ends)
    }

    #[tokio::test]
    async fn caller_receives_the_result() {
        let (work, go, _ends) = work();
        let caller = tokio::spawn(detached(work, OnDrop::End));
        go.send(()).unwrap();
        assert_eq!(caller.await.unwrap(), Some(7));
        assert_eq!(detached(async { 8 }, OnDrop::End).await, Some(8));
    }

    #[tokio::test]
    async fn work_proceeds_while_caller_is_not_polled() {
        let (work, go, ends) = work();
        let mut caller = Box::pin(detached(work, OnDrop::End));
        assert!(futures::poll!(caller.as_mut()).is_pending());
        go.send(()).unwrap();
        ends.await.unwrap();
        assert_eq!(caller.await, Some(7));
    }

    #[tokio::test]
    async fn drop_policy_controls_continuation() {
        for dropped in [OnDrop::End, OnDrop::Continue] {
            let (work, go, ends) = work();
            let mut caller = Box::pin(detached(work, dropped));
            assert!(futures::poll!(caller.as_mut()).is_pending());
            drop(caller);
            assert_eq!(go.send(()).is_ok(), dropped == OnDrop::Continue);
            assert_eq!(ends.await.is_ok(), dropped == OnDrop::Continue);
        }
    }

    #[test]
    fn runtime_shutdown_ends_the_work() {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let first = runtime();
        let (work, _go, ends) = work();
        let mut caller = Box::pin(detached(work, OnDrop::Continue));
        first.block_on(async { assert!(futures::poll!(caller.as_mut()).is_pending()) });
        drop(first);
        let second = runtime();
        assert_eq!(second.block_on(caller), None);
        assert!(second.block_on(ends).is_err(), "the work is dropped");
    }

    #[tokio::test]
    async fn panic_in_work_reaches_the_caller() {
        let (go, goes) = oneshot::channel::<()>();
        let panics = async move {
            goes.await.unwrap();
            panic!("as wanted");
        };
        let caller = tokio::spawn(detached(panics, OnDrop::Continue));
        go.send(()).unwrap();
        assert!(caller.await.unwrap_err().is_panic());
    }
}
