//! A request for a lock: the first attempt, and the wait behind a local slot or a ticket.

use std::sync::Arc;
use std::time::Duration;

use super::guard::LockGuard;
use super::ticket;
use super::wait_queue::WaitQueue;
use crate::bucket::Bucket;
use crate::context::StoreContext;
use crate::error::{Error, Result};
use crate::key::{KeyError, ModelKey};
use crate::model::SingleRevision;
use crate::recipes::context::LeaseBucket;
use crate::recipes::lease::acquire::acquire_detached;
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::outcome::{AcquireOutcome, AcquireStatus};
use crate::recipes::lease::record::{LeaseRecord, default_owner};
use crate::recipes::lease::request::{AcquireRequest, Handover};
use crate::recipes::lease::timing::LeaseTimingOptions;
use crate::recipes::lease::wait::{WaitLimit, with_timeout};
use crate::recipes::location::check_bucket;
use crate::recipes::open::LazyBucket;
use crate::recipes::record::RecipeKey;

/// The recipe's part of a key.
pub(crate) const RECIPE: &str = "lock";
pub(crate) const LEASE: &str = "lease";

/// The options of a lock, or of all locks of a handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct LockOptions {
    pub(crate) timing: LeaseTimingOptions,
    pub(crate) owner: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) fair: bool,
}

/// A request for a lock.
#[derive(Debug)]
pub(crate) struct LockRequest {
    pub(crate) source: BucketSource,
    pub(crate) name: Result<String, KeyError>,
    pub(crate) options: LockOptions,
    /// Whether a fence is written with the lease.
    pub(crate) fenced: bool,
}

/// The bucket of a lock.
#[derive(Debug, Clone)]
pub(crate) enum BucketSource {
    /// The bucket of a handle to locks.
    Handle(LazyBucket<LeaseBucket>),
    /// The bucket of the record that the lock protects.
    Record(LeaseBucket),
}

impl BucketSource {
    fn name(&self) -> &str {
        match self {
            Self::Handle(bucket) => bucket.name(),
            Self::Record(bucket) => bucket.name(),
        }
    }

    fn context(&self) -> &Arc<StoreContext> {
        match self {
            Self::Handle(bucket) => bucket.context(),
            Self::Record(bucket) => bucket.context(),
        }
    }

    /// Whether the name of the lock is the key of a record that is a secret.
    fn hides_keys(&self) -> bool {
        matches!(self, Self::Record(bucket) if bucket.hides_keys())
    }

    async fn open(&self, ttl: Duration, status: &AcquireStatus, retry_transient: bool) -> Result<LeaseBucket> {
        match self {
            Self::Handle(bucket) => bucket.for_wait(ttl, status, retry_transient).await,
            Self::Record(bucket) => {
                check_bucket(bucket.config(), Some(ttl))?;
                Ok(bucket.clone())
            }
        }
    }

    fn forget_if_gone(&self, error: &Error) {
        if let Self::Handle(bucket) = self {
            bucket.forget_if_gone(error);
        }
    }
}

impl LockRequest {
    pub(crate) fn for_record<T: SingleRevision>(bucket: &Bucket<T>, key: &T::Key) -> Self {
        let name = key.encode().map(|key| key.as_str().to_owned());
        let source = BucketSource::Record(bucket.as_model());
        Self { source, name, options: LockOptions::default(), fenced: true }
    }

    /// Opens the bucket. Returns the request for the lease, and the wait queue of the lock.
    async fn prepare(
        self,
        status: &Arc<AcquireStatus>,
        retry_transient: bool,
    ) -> Result<(AcquireRequest, Arc<WaitQueue>)> {
        let Self { source, name, options, fenced } = self;
        let LockOptions { timing, owner, note, fair: _ } = options;
        let timing = timing.resolve()?;
        let name = name?;
        let key = RecipeKey::new(RECIPE, &*name, LEASE);
        key.encode()?;
        let bucket = source.open(timing.ttl, status, retry_transient).await?;
        let record = LeaseRecord::new(owner.unwrap_or_else(|| default_owner(bucket.connection_name())), note, None);
        let queue = WaitQueue::for_lock(&bucket, &key);
        let handover: Arc<dyn Handover> = Arc::clone(&queue) as _;
        let (status, request) = (Arc::clone(status), AcquireRequest::new(bucket, key, name, record, timing));
        Ok((AcquireRequest { fenced, handover: Some(handover), status, retry_transient, ..request }, queue))
    }

    /// Takes the lock within the limit. Adds `operation` and the lock to an error.
    pub(crate) async fn acquire(
        self,
        operation: &'static str,
        mode: AcquireMode,
        limit: WaitLimit,
    ) -> Result<Option<LockGuard>> {
        let (source, fair) = (self.source.clone(), self.options.fair);
        let context = Arc::clone(source.context());
        let name = self.name.as_ref().ok().cloned();
        let acquire = async {
            let status = Arc::<AcquireStatus>::default();
            let retry_transient = mode == AcquireMode::Wait && limit.is_given();
            let (request, queue) = with_timeout(limit, &status, self.prepare(&status, retry_transient)).await?;
            if mode == AcquireMode::Now && queue.is_held_here() {
                return Ok(None);
            }
            let acquire = || {
                let (request, queue, status) = (request.clone(), Arc::clone(&queue), Arc::clone(&status));
                let attempt = async move {
                    match mode {
                        AcquireMode::Now => try_now(request, queue, fair).await,
                        AcquireMode::Wait => wait(request, queue, fair).await.map(Some),
                    }
                };
                async move { with_timeout(limit, &status, attempt).await }
            };
            Ok(acquire_detached(acquire).await?.map(LockGuard::new))
        };
        let located = async {
            context.until_shutdown(acquire).await.map_err(|error: Error| {
                source.forget_if_gone(&error);
                let error = error.with_context(operation, source.name(), name.as_deref());
                if source.hides_keys() { error.hide_key() } else { error }
            })
        };
        context.observe(operation, source.name(), Box::pin(located)).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcquireMode {
    Now,
    Wait,
}

async fn try_now(request: AcquireRequest, queue: Arc<WaitQueue>, fair: bool) -> Result<Option<Lease>> {
    let Ok(_slot) = queue.try_lock_server_wait() else { return Ok(None) };
    if queue.is_held_here() || (fair && ticket::has_waiters(&request).await?) {
        return Ok(None);
    }
    first_attempt(request, &queue).await
}

/// Waits for the lock. With a time limit, the wait continues after temporary errors, from the first attempt on.
async fn wait(request: AcquireRequest, queue: Arc<WaitQueue>, fair: bool) -> Result<Lease> {
    if fair {
        return ticket::wait(request, queue, fair).await;
    }
    // The other waiters of this process wait here.
    let _slot = queue.lock_server_wait().await;
    if queue.is_contended() {
        request.status.contended();
    } else {
        match first_attempt(request.clone(), &queue).await {
            Ok(Some(lease)) => return Ok(lease),
            Err(error) if !(request.retry_transient && error.is_transient()) => return Err(error),
            Ok(None) | Err(_) => {}
        }
    }
    ticket::wait(request, queue, fair).await
}

/// Makes the first attempt. If this process wrote the last delete marker, the attempt replaces that marker.
async fn first_attempt(request: AcquireRequest, queue: &WaitQueue) -> Result<Option<Lease>> {
    match request.try_acquire(queue.take_tombstone()).await {
        AcquireOutcome::Acquired(lease) => Ok(Some(lease)),
        AcquireOutcome::Contended => Ok(None),
        AcquireOutcome::Failed(error) => Err(error),
    }
}
