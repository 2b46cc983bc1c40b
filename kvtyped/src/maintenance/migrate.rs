//! `migrate`: writes all records in one schema version.

use std::collections::HashMap;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::checkpoint::Checkpoint;
use super::engine::{Changes, Engine, ProgressFn, RewriteProgress};
use super::lease::{Job, JobLease};
use super::options::options;
use super::pacer::Pacer;
use super::switch::check_written_by;
use super::versions::SchemaVersions;
use crate::backend::RawEntry;
use crate::bucket::content::Content;
use crate::bucket::{Bucket, Cursor, ReadBucket, decode};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Filter, KvModel, ModelCard};
use crate::revision::Revision;

const OPERATION: &str = "migrate";
const DRY_RUN: &str = "migrate_dry_run";

/// The largest number of passes. More are needed only while other programs write older versions.
const MAX_PASSES: u32 = 10;

/// The time until a record that expires is gone.
const EXPIRY: Duration = Duration::from_secs(1);

impl<T: KvModel> Bucket<T> {
    /// Writes all older records in the schema version that programs write; see
    /// [`switch_version`](Self::switch_version).
    ///
    /// Reads the headers of all records, and the values of the older ones only. Writes each record under the revision
    /// that was read, so no change of another writer is lost. Repeats until a whole pass finds no older record. Then
    /// the [card](ModelCard) states that no older record remains, and the upgrade from the older versions may leave the
    /// source.
    ///
    /// * A record keeps the rest of its TTL, rounded up to whole seconds. A record with less than a second left is not
    ///   written. See [`restart_ttl`](Migrate::restart_ttl).
    /// * A record that cannot be read or written is in [`Migrated::refused`], and the others are migrated.
    /// * Newer records stay as they are, unless [`to`](Migrate::to) names the version. A record that is newer than this
    ///   program is refused.
    /// * Earlier revisions in the history of a key stay as they are.
    /// * Watchers see one write of each record; [`Entry::is_rewrite`](crate::Entry::is_rewrite) is true.
    /// * A program that knows no versions, and does not name the write epoch, can still write a record without a
    ///   version. Prevent that with [`WriteEpochs::Closed`](crate::config::WriteEpochs::Closed).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 2, upgrade_from = UserV1, writes = 1)]
    /// # struct User { id: u64, email: Option<String> }
    /// # #[derive(Serialize, Deserialize, kvtyped::KvVersion)]
    /// # #[kv(version = 1)]
    /// # struct UserV1 { id: u64 }
    /// # impl From<UserV1> for User { fn from(UserV1 { id }: UserV1) -> Self { Self { id, email: None } } }
    /// # impl From<User> for UserV1 { fn from(User { id, .. }: User) -> Self { Self { id } } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let users: Bucket<User> = Store::memory().bucket().await?;
    /// # for id in 0..3 { users.put(&User { id, email: None }).await?; }
    /// users.switch_version(2).await?;
    /// let plan = users.migrate().dry_run().await?;
    /// assert_eq!(plan.versions.to_string(), "1: 3");
    ///
    /// let migrated = users.migrate().pace(2_000).resume().await?;
    /// assert_eq!((migrated.rewritten, migrated.oldest), (3, Some(2)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Unavailable`, with the holder, if another job of this model runs; see
    /// [`maintenance`](crate::maintenance). Returns `Lost` if the lease of this job is lost. Returns `BucketFull`,
    /// `PermissionDenied` and other errors that affect every record. Temporary errors are retried for some seconds.
    /// Returns `Unsupported` if records expire and the bucket does not take the TTL of a single record. Returns
    /// `SchemaMoved` if the version is switched during the job; call again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writes in flight may or may not be applied, and no further record is written. A
    /// later call continues the work.
    pub fn migrate(&self) -> Migrate<'_, T> {
        Migrate {
            bucket: self,
            to: None,
            pace: None,
            resume: false,
            restart_ttl: false,
            wait: None,
            timeout: None,
            on_progress: None,
        }
    }
}

/// A migration of all records to one schema version; see [`Bucket::migrate`].
#[must_use = "nothing is migrated until it is awaited"]
pub struct Migrate<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    to: Option<u32>,
    pace: Option<u32>,
    resume: bool,
    restart_ttl: bool,
    wait: Option<Duration>,
    timeout: Option<Duration>,
    on_progress: Option<ProgressFn<'a>>,
}

/// The result of a migration; see [`Bucket::migrate`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Migrated {
    /// The version of the records now.
    pub to: u32,
    /// The number of records in the last pass.
    pub seen: u64,
    /// The number of records that were written.
    pub rewritten: u64,
    /// How often another writer changed a record first. The record was read again.
    pub raced: u64,
    /// The records that could not be read or written: their encoded keys, and the errors.
    pub refused: Vec<(String, Error)>,
    /// Whether the last pass found no record to write. `false` only if other programs continue to write older
    /// versions, or if expired records stay in a full bucket.
    pub complete: bool,
    /// The oldest version that records may have, as the card of the model states it now. `None` without a card.
    pub oldest: Option<u32>,
    /// The position after the last record.
    pub cursor: Cursor,
}

/// The work of a migration; see [`Migrate::dry_run`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// The version that the migration would write.
    pub to: u32,
    /// The records by their versions.
    pub versions: SchemaVersions,
    /// The number of records that the migration would write, unless they are unreadable.
    pub rewrites: u64,
    /// The number of records that this program cannot read, by their versions.
    pub unreadable: u64,
}

options!(Migrate);

impl<'a, T: KvModel> Migrate<'a, T> {
    /// Sets the version of the records. Default: the version that programs write.
    ///
    /// With this option, newer records are written in the version too, which drops the fields that the version lacks.
    /// Programs must be able to read the version.
    pub fn to(mut self, version: u32) -> Self {
        self.to = Some(version);
        self
    }

    /// Stores the position in the bucket about once a second, under a reserved key, and starts at the stored position
    /// of an earlier call that was interrupted. A whole pass over the headers follows in any case.
    pub fn resume(mut self) -> Self {
        self.resume = true;
        self
    }

    /// Counts the records to migrate by their headers, and writes nothing.
    pub fn dry_run(self) -> DryRun<'a, T> {
        DryRun { migrate: self }
    }

    async fn run(self) -> Result<Migrated> {
        let bucket = self.bucket;
        let migrated = async {
            bucket.raw(OPERATION)?;
            let lease = JobLease::acquire(bucket, Job::Records(OPERATION), self.wait).await?;
            lease.run(self.migrate()).await
        };
        migrated.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }

    async fn migrate(self) -> Result<Migrated> {
        let Self { bucket, to: asked, pace, resume, restart_ttl: restarts_ttl, wait: _, timeout, on_progress } = self;
        let status = bucket.refresh_status(bucket.deadline(timeout)).await?;
        let (to, epoch) = (target(bucket, asked, &status.config)?, status.config.write_epoch);
        let mut checkpoint = resume.then(|| Checkpoint::new::<T>(to, status.created));
        let mut after = match &mut checkpoint {
            Some(checkpoint) => checkpoint.load(bucket, timeout.unwrap_or(bucket.timeout())).await?,
            None => Revision::ZERO,
        };
        let mut engine = Engine {
            bucket,
            operation: OPERATION,
            patterns: Filter::<T>::from(..).patterns().clone(),
            changes: ToVersion { to, includes_newer: asked.is_some() },
            pacer: Pacer::new(pace, Instant::now()),
            timeout,
            restarts_ttl,
            on_progress,
            progress: RewriteProgress::default(),
            refused: HashMap::new(),
            written: Revision::ZERO,
        };
        let created = status.created;
        let mut status = status;
        let (complete, position) = loop {
            let is_whole = after == Revision::ZERO;
            let pass = engine.pass(after, status, checkpoint.as_mut()).await?;
            if is_whole && pass.found == 0 && pass.expiring == 0 {
                break (true, pass.position);
            }
            if engine.progress.pass >= MAX_PASSES {
                break (false, pass.position);
            }
            if pass.expiring > 0 {
                sleep(EXPIRY).await;
            }
            // Only the first pass of a call starts at a position.
            (after, status) = (Revision::ZERO, bucket.refresh_status(bucket.deadline(timeout)).await?);
        };
        let (progress, refused) = (engine.progress, engine.refused());
        if let Some(checkpoint) = checkpoint.filter(|_| complete) {
            checkpoint.remove(bucket).await;
        }
        let raises = complete && refused.is_empty();
        let oldest = raise_oldest(bucket, to, epoch, raises, timeout).await?;
        let RewriteProgress { seen, rewritten, raced, .. } = progress;
        let cursor = Cursor::new(created, position);
        Ok(Migrated { to, seen, rewritten, raced, refused, complete, oldest, cursor })
    }
}

/// Returns the version to write.
fn target<T: KvModel>(bucket: &ReadBucket<T>, asked: Option<u32>, config: &BucketConfig) -> Result<u32> {
    let writes = ReadBucket::<T>::card_in(config)?.map_or(T::SCHEMA.writes, |card| card.writes);
    let to = asked.unwrap_or(writes);
    check_written_by::<T>(to)?;
    // The write of each record depends on the version that the bucket takes.
    bucket.schema().target::<T>()?;
    Ok(to)
}

/// Returns the oldest version in the card. With `raises`, sets it to `to` first, if programs write that version and the
/// bucket was not switched since the write epoch `epoch`.
async fn raise_oldest<T: KvModel>(
    bucket: &Bucket<T>,
    to: u32,
    epoch: Option<u64>,
    raises: bool,
    timeout: Option<Duration>,
) -> Result<Option<u32>> {
    let deadline = bucket.deadline(timeout);
    let raised = |found: Option<ModelCard>, config: &BucketConfig| {
        let writes = found.as_ref().map_or(T::SCHEMA.writes, |card| card.writes);
        let is_new = found.is_none();
        let card = if is_new { bucket.program_card(None) } else { found };
        Ok(card
            .filter(|card| writes == to && config.write_epoch == epoch && (is_new || card.oldest < to))
            .map(|card| (ModelCard { oldest: to, ..card }, None)))
    };
    let status = bucket.refresh_status(deadline).await?;
    let mut config = status.config;
    if raises && raised(ReadBucket::<T>::card_in(&config)?, &config)?.is_some() {
        let lease = JobLease::acquire(bucket, Job::Configuration(OPERATION), Some(deadline.remaining())).await?;
        match lease.run(bucket.update_card(deadline, raised)).await {
            // The records are migrated, and a user with the permission can raise the version later.
            Err(error) if error.is_denied() => {}
            updated => config = updated?,
        }
    }
    Ok(ReadBucket::<T>::card_in(&config)?.map(|card| card.oldest))
}

/// Writes records of other versions as one version.
struct ToVersion {
    to: u32,
    includes_newer: bool,
}

impl ToVersion {
    /// Whether a record of this version needs a write, or cannot be read.
    fn is_other<T: KvModel>(&self, version: u32) -> bool {
        version < self.to || version > self.to && (self.includes_newer || version > T::SCHEMA.version)
    }
}

impl<T: KvModel> Changes<T> for ToVersion {
    const READS_ALL: bool = T::SCHEMA.version_field.is_some();
    const REPEATABLE: bool = true;

    fn selects(&self, entry: &RawEntry) -> bool {
        decode::stored_version::<T>(entry).map_or(true, |version| self.is_other::<T>(version))
    }

    fn change(&mut self, bucket: &Bucket<T>, entry: &RawEntry) -> Result<Option<Content>> {
        let (found, knows) = (decode::stored_version::<T>(entry)?, T::SCHEMA.version);
        if found > knows {
            return Err(Error::new(ErrorKind::Newer { found, knows }).at_revision(entry.revision));
        }
        let Some(record) = decode::entry::<T>(entry, bucket.clock())? else { return Ok(None) };
        let key = record.key().clone();
        decode::encode_version(record.value(), key, &bucket.schema(), self.to).map(Some)
    }
}

impl<'a, T: KvModel> IntoFuture for Migrate<'a, T> {
    type Output = Result<Migrated>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("migrate", Box::pin(self.run()))
    }
}

/// A count of the records to migrate; see [`Migrate::dry_run`].
#[must_use = "nothing is counted until it is awaited"]
#[derive(Debug)]
pub struct DryRun<'a, T: KvModel> {
    migrate: Migrate<'a, T>,
}

impl<T: KvModel> DryRun<'_, T> {
    async fn run(self) -> Result<MigrationPlan> {
        let Migrate { bucket, to, timeout, .. } = self.migrate;
        let plan = async {
            let status = bucket.refresh_status(bucket.deadline(timeout)).await?;
            let (to, includes_newer) = (target(bucket, to, &status.config)?, to.is_some());
            let versions =
                bucket.schema_versions().timeout(timeout.unwrap_or(bucket.timeout())).run_as(DRY_RUN).await?;
            let changes = ToVersion { to, includes_newer };
            let is_readable = |version: u32| (T::SCHEMA.oldest..=T::SCHEMA.version).contains(&version);
            let (mut rewrites, mut unreadable) = (0, versions.invalid());
            for (_, count) in versions.iter().filter(|(version, _)| changes.is_other::<T>(*version)) {
                rewrites += count;
            }
            for (version, count) in versions.iter().filter(|(version, _)| !is_readable(*version)) {
                unreadable += count;
                rewrites -= if changes.is_other::<T>(version) { count } else { 0 };
            }
            Ok(MigrationPlan { to, versions, rewrites, unreadable })
        };
        plan.await.map_err(|error: Error| error.of_model::<T>().with_context(OPERATION, bucket.name(), None))
    }
}

impl<'a, T: KvModel> IntoFuture for DryRun<'a, T> {
    type Output = Result<MigrationPlan>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.migrate.bucket;
        bucket.observe(DRY_RUN, Box::pin(self.run()))
    }
}

impl<T: KvModel> fmt::Debug for Migrate<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, to, pace, resume, restart_ttl, wait, timeout, on_progress: _ } = self;
        f.debug_struct("Migrate")
            .field("bucket", bucket)
            .field("to", to)
            .field("pace", pace)
            .field("resume", resume)
            .field("restart_ttl", restart_ttl)
            .field("wait", wait)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
