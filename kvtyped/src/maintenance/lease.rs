//! One job at a time for each model of a bucket, by a lease in the bucket.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Read;
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::recipes::lease::acquire::acquire_detached;
use crate::recipes::lease::handle::Lease;
use crate::recipes::lease::outcome::{AcquireOutcome, AcquireStatus};
use crate::recipes::lease::record::{LeaseRecord, default_owner};
use crate::recipes::lease::request::{AcquireRequest, ExpectedTombstone};
use crate::recipes::lease::timing::LeaseTimingOptions;
use crate::recipes::lease::wait::{
    Found, LeaseWaiter, WaitLimit, WaitOutcome, is_unreadable, unreadable, with_timeout,
};
use crate::recipes::location::check_bucket;
use crate::recipes::record::{RecipeKey, RecipeRecord};

/// The recipe's part of a key. The name is that of the model.
pub(super) const RECIPE: &str = "maintenance";

/// The number of attempts to take a lease whose holder is gone when its record is read.
const ATTEMPTS: u32 = 3;

/// The lease of a job. `None` in a bucket that cannot hold leases: the jobs are idempotent, so two of them at once only
/// waste work.
#[derive(Debug)]
pub(super) struct JobLease(Option<Lease>);

/// The work that a lease excludes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// A job over the records of a model, with its operation.
    Records(&'static str),
    /// The follower of the indexes of a model, with its operation. It runs while jobs run, too.
    Follower(&'static str),
    /// A change of the card and the write epoch, with its operation. The configuration of a bucket has no
    /// compare-and-set.
    Configuration(&'static str),
}

impl Job {
    fn operation(self) -> &'static str {
        match self {
            Self::Records(operation) | Self::Follower(operation) | Self::Configuration(operation) => operation,
        }
    }

    fn key<T: KvModel>(self) -> RecipeKey {
        match self {
            Self::Records(_) => RecipeKey::new(RECIPE, T::SCHEMA.name, "lease"),
            Self::Follower(_) => RecipeKey::new(RECIPE, T::SCHEMA.name, "follower-lease"),
            Self::Configuration(_) => RecipeKey::new(RECIPE, "", "configuration"),
        }
    }
}

impl JobLease {
    /// Takes the lease. Waits for the job of another process for at most `wait`.
    ///
    /// # Errors
    ///
    /// Returns `Unavailable`, with the holder, if another job has the lease.
    pub(super) async fn acquire<T: KvModel>(bucket: &Bucket<T>, job: Job, wait: Option<Duration>) -> Result<Self> {
        Self::acquire_by(bucket, job, LeaseTimingOptions::default(), |request| async move {
            match wait {
                None => acquire_now(&request).await,
                Some(_) => acquire_within(&request, wait).await,
            }
        })
        .await
    }

    /// Takes the lease. Waits for as long as another process has it.
    pub(super) async fn campaign<T: KvModel>(bucket: &Bucket<T>, job: Job, ttl: Option<Duration>) -> Result<Self> {
        let timing = LeaseTimingOptions { ttl, ..LeaseTimingOptions::default() };
        Self::acquire_by(bucket, job, timing, |request| async move { acquire_within(&request, None).await }).await
    }

    async fn acquire_by<T: KvModel, F>(
        bucket: &Bucket<T>,
        job: Job,
        timing: LeaseTimingOptions,
        acquire: impl FnOnce(AcquireRequest) -> F,
    ) -> Result<Self>
    where
        F: Future<Output = Result<Lease>>,
    {
        let leases: Bucket<RecipeRecord<LeaseRecord>> = bucket.as_model();
        let timing = timing.resolve()?;
        if check_bucket(leases.config(), Some(timing.ttl)).is_err() {
            return Ok(Self(None));
        }
        let owner = default_owner(leases.connection_name());
        let record = LeaseRecord::new(owner, Some(job.operation().to_owned()), None);
        let request = AcquireRequest::new(leases, job.key::<T>(), T::SCHEMA.name.to_owned(), record, timing);
        match acquire(request).await {
            Ok(lease) => Ok(Self(Some(lease))),
            Err(error) if cannot_hold_leases(&error) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Runs the job, and releases the lease.
    ///
    /// # Errors
    ///
    /// Returns the error of the job, and `Lost` if the lease is lost before the job ends. The job is then dropped.
    pub(super) async fn run<R>(self, job: impl Future<Output = Result<R>>) -> Result<R> {
        let Some(lease) = self.0 else { return job.await };
        let Ok(output) = lease.run(job).await else { return Err(Error::new(ErrorKind::Lost)) };
        // A lease that cannot be released expires.
        let _ = lease.release_unobserved("release").await;
        output
    }
}

/// Whether a bucket cannot hold the lease: the server does not support it, the user may not write it, or there is no
/// room.
fn cannot_hold_leases(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::PermissionDenied { .. } | ErrorKind::BucketFull => true,
        ErrorKind::Unsupported { .. } => !is_unreadable(error),
        _ => false,
    }
}

async fn acquire_now(request: &AcquireRequest) -> Result<Lease> {
    let mut attempts = 1;
    loop {
        let acquire = || {
            let request = request.clone();
            async move {
                match request.try_acquire(ExpectedTombstone::Unknown).await {
                    AcquireOutcome::Acquired(lease) => Ok(Some(lease)),
                    AcquireOutcome::Contended => Ok(None),
                    AcquireOutcome::Failed(error) => Err(error),
                }
            }
        };
        if let Some(lease) = acquire_detached(acquire).await? {
            return Ok(lease);
        }
        if let Some(error) = holder_error(request).await? {
            return Err(error);
        }
        // The lease was released after the attempt.
        attempts += 1;
        if attempts > ATTEMPTS {
            return Err(Error::unavailable("other jobs take and release the lease of this model; call again"));
        }
    }
}

async fn acquire_within(request: &AcquireRequest, wait: Option<Duration>) -> Result<Lease> {
    let limit = WaitLimit::start(wait);
    let acquire = || {
        let mut request = request.clone();
        async move {
            let status = Arc::<AcquireStatus>::default();
            (request.status, request.retry_transient) = (Arc::clone(&status), limit.is_given());
            let blocked = request.clone();
            let resolve =
                |found: Result<Found<LeaseRecord>>| found.err().map(|error| Err::<(), _>(unreadable(error, &blocked)));
            match with_timeout(limit, &status, LeaseWaiter::new(request).acquire_unless(resolve)).await? {
                WaitOutcome::Acquired(lease) => Ok(lease),
                WaitOutcome::Resolved(()) => Err(Error::new(ErrorKind::Closed)),
            }
        }
    };
    match acquire_detached(acquire).await {
        Err(error) if matches!(error.kind(), ErrorKind::Timeout { .. }) => {
            Err(holder_error(request).await.ok().flatten().unwrap_or(error))
        }
        acquired => acquired,
    }
}

/// Returns the error that names the holder. `None` if the lease is free.
async fn holder_error(request: &AcquireRequest) -> Result<Option<Error>> {
    let found = request.bucket.get(&request.key).read(Read::Leader).await;
    let Some(entry) = found.map_err(|error| unreadable(error, request))? else { return Ok(None) };
    let LeaseRecord { owner, note, .. } = &entry.value;
    let note = note.as_deref().unwrap_or("a job");
    Ok(Some(Error::unavailable(format!(
        "{owner} runs `{note}` in this bucket; call again when it ends, or set `.wait(..)` where the job has it"
    ))))
}
