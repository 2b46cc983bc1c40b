//! The start and the end of a watch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::Stream;
use futures::{FutureExt, StreamExt, ready};

use super::expiry::expire;
use super::resume::{ResumingWatch, WatchSpec};
use super::update::{UpdateStream, WatchUpdate};
use crate::backend::StartFrom;
use crate::bucket::ReadBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel};
use crate::observe::StoreEvent;
use crate::shutdown::ShutdownSignal;

/// Starts a watch. Every feature of this module uses it.
pub(crate) async fn start_watch<T: KvModel>(
    bucket: &ReadBucket<T>,
    filter: &Filter<T>,
    start_from: StartFrom,
    headers_only: bool,
    timeout: Option<Duration>,
) -> Result<UpdateStream> {
    let raw = Arc::clone(bucket.raw("watch")?);
    let idle_timeout = timeout.unwrap_or_else(|| bucket.timeout());
    if filter.patterns().is_empty() {
        return Err(Error::invalid_config("the filter matches no key; give it at least one legal key or wildcard"));
    }
    let spec = WatchSpec { patterns: filter.patterns().clone(), since: start_from, headers_only, idle_timeout };
    let updates = ResumingWatch::start(Arc::clone(&raw), spec).await?.into_stream().boxed();
    let updates = report_resyncs(updates, bucket);
    Ok(until_shutdown(expire(updates, raw), Arc::clone(bucket.context().shutdown())))
}

/// Reports each resync to the observer of the store, if there is one.
fn report_resyncs<T: KvModel>(updates: UpdateStream, bucket: &ReadBucket<T>) -> UpdateStream {
    let context = Arc::clone(bucket.context());
    if !context.instruments().has_observer() {
        return updates;
    }
    let bucket = bucket.name().to_owned();
    let report = move |update: &Result<WatchUpdate>| {
        if matches!(update, Ok(WatchUpdate::Resync)) {
            context.instruments().event(&StoreEvent::Resync { bucket: &bucket });
        }
    };
    updates.inspect(report).boxed()
}

/// See [`until_shutdown`].
struct UntilShutdown {
    /// The items, and the future that completes when the store is closed. `None` after the last item.
    open: Option<(UpdateStream, BoxFuture<'static, ()>)>,
}

impl Stream for UntilShutdown {
    type Item = Result<WatchUpdate>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((updates, closed)) = &mut self.open else { return Poll::Ready(None) };
        let item = match updates.poll_next_unpin(context) {
            Poll::Ready(Some(item)) => return Poll::Ready(Some(item)),
            Poll::Ready(None) => None,
            Poll::Pending => {
                ready!(closed.poll_unpin(context));
                Some(Err(Error::new(ErrorKind::Closed)))
            }
        };
        self.open = None;
        Poll::Ready(item)
    }
}

/// Ends the stream when the store is closed. The last item is then `Closed`.
fn until_shutdown(updates: UpdateStream, shutdown: Arc<ShutdownSignal>) -> UpdateStream {
    let closed = Box::pin(shutdown.triggered());
    UntilShutdown { open: Some((updates, closed)) }.boxed()
}
