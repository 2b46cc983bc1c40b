//! The start and the end of a watch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::Stream;
use futures::{FutureExt, StreamExt, ready};
use tokio::time::Instant;

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
    operation: &'static str,
) -> Result<UpdateStream> {
    let raw = Arc::clone(bucket.raw(operation)?);
    let idle_timeout = timeout.unwrap_or_else(|| bucket.timeout());
    if filter.patterns().is_empty() {
        return Err(Error::invalid_config("the filter matches no key; give it at least one legal key or wildcard"));
    }
    let spec = WatchSpec { patterns: filter.patterns().clone(), since: start_from, headers_only, idle_timeout };
    let updates = ResumingWatch::start(Arc::clone(&raw), spec).await?.into_stream().boxed();
    let updates = report_progress(updates, bucket);
    Ok(until_shutdown(expire(updates, raw), Arc::clone(bucket.context().shutdown())))
}

/// How often the delay of a watch is reported at most.
const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the resyncs and the delay to the observer of the store, if there is one.
fn report_progress<T: KvModel>(updates: UpdateStream, bucket: &ReadBucket<T>) -> UpdateStream {
    let (context, clock) = (Arc::clone(bucket.context()), Arc::clone(bucket.clock()));
    if !context.instruments().has_observer() {
        return updates;
    }
    let bucket = bucket.name().to_owned();
    let (mut is_ready, mut last) = (false, None);
    let report = move |update: &Result<WatchUpdate>| {
        let lag = match update {
            Ok(WatchUpdate::Resync) => {
                is_ready = false;
                return context.instruments().event(&StoreEvent::Resync { bucket: &bucket });
            }
            Ok(WatchUpdate::Entry(entry, _)) if is_ready => clock.age(entry.created),
            Ok(WatchUpdate::Ready | WatchUpdate::Alive(_)) => Duration::ZERO,
            _ => return,
        };
        is_ready |= matches!(update, Ok(WatchUpdate::Ready));
        let (now, is_over) = (Instant::now(), lag.is_zero());
        let is_due = last.is_none_or(|(at, lagged): (Instant, bool)| match is_over {
            true => lagged,
            false => now.saturating_duration_since(at) >= LAG_INTERVAL,
        });
        if is_due {
            last = Some((now, !is_over));
            context.instruments().event(&StoreEvent::WatchLag { bucket: &bucket, lag });
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
