//! Counters that several processes add to.

use std::fmt;
use std::time::Duration;

use futures::TryStreamExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::location::BucketLocation;
use super::open::{LazyBucket, awaitable_handle, location_options};
use super::record::{RecipeKey, RecipeRecord, Unknown};
use crate::backend::Read;
use crate::bucket::{Bucket, Change, CounterBucket};
use crate::error::{Error, Result};
use crate::store::Store;

/// The recipe's part of a key.
const RECIPE: &str = "counters";

impl Store {
    /// Returns a set of counters that many processes can increment at once, in the bucket of this name. The bucket is
    /// created if it is missing.
    ///
    /// The call performs no I/O. The first use opens the bucket, and so does awaiting the handle.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// let hits = store.counters("hits").await?;
    /// assert_eq!(hits.add("home", 1).await?, 1);
    /// assert_eq!(hits.add("home", 5).await?, 6);
    /// assert_eq!(hits.get("about").await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first use, or awaiting the handle, returns `InvalidConfig` if the name is not a valid bucket name and
    /// [`bucket`](Counters::bucket) sets no other. It returns `Unsupported` if a bucket of records has that name and
    /// its settings do not fit, for example because of a `ttl`.
    pub fn counters(&self, name: impl Into<String>) -> Counters {
        let name = name.into();
        Counters { bucket: LazyBucket::new(BucketLocation::new(self, &name)), name, timeout: None }
    }
}

/// A handle to a set of named counters; see [`Store::counters`]. Cheap to clone.
///
/// The handle performs no I/O until its first use, which opens the bucket for all clones. Awaiting the handle opens the
/// bucket at once. An option returns a changed handle. A handle with another bucket opens that bucket on first use.
///
/// If the server supports counters (nats-server 2.12 or newer), it adds up the increments, in a bucket that contains
/// only counters (ADR-49). An increment then costs one message, however many clients increment at once. Every NATS
/// client that supports counters can read and increment them, under `$KV.hits.home`. In memory, on an older server,
/// with [`max_bytes`](Counters::max_bytes), or in an existing bucket of records, each counter is a record that is
/// changed by compare-and-set. [`is_server_side`](Self::is_server_side) returns which kind is in use. Both kinds give
/// the same guarantees. An existing bucket keeps its kind: the upgrade of a server does not change it.
///
/// An increment is counted once or not at all, or its error has the outcome
/// [`Outcome::Unknown`](crate::Outcome::Unknown). A lost acknowledgement is recovered by the id of its operation.
///
/// # What this does not guarantee
///
/// * Unique totals. Two increments may return the same total: an increment whose acknowledgement was recovered returns
///   the total at the time of the lookup. For unique numbers use [`Ids`](crate::recipes::Ids).
/// * A limit that holds at each moment. If an increment moves the total on a server out of the range of `i64`, the
///   opposite increment reverts it. Until then, reads return `OutOfRange`. Another increment that fits may be refused,
///   or may return a total that includes the increment to be reverted. No acknowledged increment is lost.
/// * An answer after the server has forgotten an operation. The server remembers the ids of increments for two minutes,
///   and after a restart only the ids of the newest 64 increments of each counter. If the acknowledgement is lost for
///   longer, the outcome is `Unknown`, unless the handle can prove the outcome otherwise.
/// * Durability beyond that of the server. The server acknowledges a write before it syncs the write to disk, unless it
///   is configured otherwise.
#[derive(Clone)]
pub struct Counters {
    name: String,
    bucket: LazyBucket<CounterKind>,
    timeout: Option<Duration>,
}

location_options!(Counters: bucket);
awaitable_handle!(Counters: bucket);

/// The kind of the counters.
#[derive(Clone)]
enum CounterKind {
    Server(CounterBucket),
    Records(Bucket<RecipeRecord<Total>>),
}

impl Counters {
    /// Sets the total time limit of each operation; the store's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn open(&self) -> Result<()> {
        self.kind("open").await.map(drop)
    }

    /// Returns the opened counters, and the rest of the time limit. Opens the bucket if necessary.
    async fn kind(&self, operation: &'static str) -> Result<(CounterKind, Option<Duration>)> {
        let name = self.name.clone();
        let open = async move |location: BucketLocation| {
            let config = location.config();
            // A bucket with another name may also contain other sets of counters.
            let below = (config.name != name).then_some(name);
            // A full stream of server-side counters drops its oldest totals, so counters with a limit are stored as
            // records.
            let counters = match config.max_bytes {
                Some(_) => None,
                None => location.store().server_counters(config, below, None).await?,
            };
            match counters {
                Some(counters) => Ok(CounterKind::Server(counters)),
                None => Ok(CounterKind::Records(location.open_without_ttl().await?)),
            }
        };
        let opened = self.bucket.get_within(self.timeout, open).await;
        opened.map_err(|error| error.with_context(operation, self.bucket.name(), None))
    }

    /// Adds `delta`, which may be negative, to a counter and returns the new total. A new counter starts at zero.
    ///
    /// # Errors
    ///
    /// Returns `OutOfRange` if the total would leave the range of `i64`. The increment is not counted then. If the
    /// outcome is `Unknown`, the increment may have been counted, or may still be counted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the increment may or may not be counted. It is counted at most once. An increment that
    /// left the range and was about to be reverted may remain.
    pub async fn add(&self, name: &str, delta: i64) -> Result<i64> {
        self.observe("add", self.run_add(name, delta)).await
    }

    async fn run_add(&self, name: &str, delta: i64) -> Result<i64> {
        let (bucket, timeout) = match self.kind("add").await? {
            (CounterKind::Server(counters), timeout) => return counters.add(name, delta, timeout).await,
            (CounterKind::Records(bucket), timeout) => (bucket, timeout),
        };
        let key = self.key(name);
        // The total right after this increment. The stored total may include later increments.
        let mut own = Ok(delta);
        let added = bucket.transform(&key, |record: Option<RecipeRecord<Total>>| {
            let new = || RecipeRecord { key: key.clone(), value: Total { total: 0, unknown: Unknown::default() } };
            let mut record = record.unwrap_or_else(new);
            own = record.value.total.checked_add(delta).ok_or(record.value.total);
            own.map_or(Change::Keep, |total| {
                record.value.total = total;
                Change::Put(record)
            })
        });
        added.max_attempts(u32::MAX).timeout(timeout.unwrap_or(bucket.timeout())).await?;
        own.map_err(|total| {
            let total = i128::from(total) + i128::from(delta);
            let error = Error::out_of_range(format!("the increment {delta} gives {total}, which exceeds an `i64`"));
            error.with_context("add", bucket.name(), Some(&key.to_string()))
        })
    }

    /// Returns the total of a counter, with every increment that was acknowledged before. Returns zero if the counter
    /// has no increments.
    ///
    /// # Errors
    ///
    /// Returns `OutOfRange` while the total is outside of the range of `i64`. Either an increment is about to be
    /// reverted, or another NATS client, which has no such limit, has added too much.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn get(&self, name: &str) -> Result<i64> {
        self.observe("get", self.run_get(name)).await
    }

    async fn run_get(&self, name: &str) -> Result<i64> {
        match self.kind("get").await? {
            (CounterKind::Server(counters), timeout) => counters.get(name, timeout).await,
            (CounterKind::Records(bucket), timeout) => {
                let key = self.key(name);
                let get = bucket.get(&key).read(Read::Leader).timeout(timeout.unwrap_or(bucket.timeout()));
                Ok(get.await?.map_or(0, |record| record.value.total))
            }
        }
    }

    /// Returns the totals of all counters, sorted by name.
    ///
    /// In a replicated bucket, any server that stores it may answer, so a recent increment may be missing.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let hits = Store::memory().counters("hits").await?;
    /// hits.add("home", 3).await?;
    /// hits.add("about", 1).await?;
    /// assert_eq!(hits.all().await?, [("about".to_owned(), 1), ("home".to_owned(), 3)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get`](Self::get). The first error ends the call.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the read is cancelled.
    pub async fn all(&self) -> Result<Vec<(String, i64)>> {
        self.observe("all", self.run_all()).await
    }

    async fn run_all(&self) -> Result<Vec<(String, i64)>> {
        let mut totals: Vec<(String, i64)> = match self.kind("all").await? {
            (CounterKind::Server(counters), timeout) => counters.all(timeout)?.try_collect().await?,
            (CounterKind::Records(bucket), _) => {
                let records = bucket.list(RecipeKey::parts(RECIPE, &self.name)).await?;
                records.map_ok(|record| (record.key.part().to_owned(), record.value.total)).try_collect().await?
            }
        };
        totals.sort_unstable();
        Ok(totals)
    }

    /// Removes a counter, so that the next increment starts at zero. Does nothing if the counter does not exist.
    ///
    /// A concurrent increment counts either before or after the removal. The removed total cannot be read any longer.
    /// If each increment must be accounted for, use [`add`](Self::add) with the negative total instead.
    ///
    /// # Errors
    ///
    /// If the outcome is `Unknown`, the counter may have been removed, or may still be removed. The removal is not sent
    /// again automatically, because that could remove later increments.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the counter may or may not be removed.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.observe("remove", self.run_remove(name)).await
    }

    async fn run_remove(&self, name: &str) -> Result<()> {
        match self.kind("remove").await? {
            (CounterKind::Server(counters), timeout) => counters.remove(name, timeout).await,
            (CounterKind::Records(bucket), timeout) => {
                let key = self.key(name);
                let purge = bucket.purge(&key).timeout(timeout.unwrap_or(bucket.timeout()));
                purge.await.map(drop)
            }
        }
    }

    /// Returns whether the server adds up the increments (ADR-49). Otherwise the counters are records. Opens the bucket
    /// if necessary.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Store::counters`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bucket may or may not be created.
    pub async fn is_server_side(&self) -> Result<bool> {
        let kind = async { Ok(matches!(self.kind("is_server_side").await?, (CounterKind::Server(_), _))) };
        self.observe("is_server_side", kind).await
    }

    async fn observe<R>(&self, operation: &'static str, work: impl Future<Output = Result<R>> + Send) -> Result<R> {
        self.bucket.context().observe(operation, self.bucket.name(), Box::pin(work)).await
    }

    fn key(&self, name: &str) -> RecipeKey {
        RecipeKey::new(RECIPE, &self.name, name)
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters")
            .field("name", &self.name)
            .field("bucket", &self.bucket.name())
            .field("server_side", &self.bucket.opened().map(|kind| matches!(kind, CounterKind::Server(_))))
            .finish_non_exhaustive()
    }
}

/// A total in the format of ADR-49: a string, because the numbers of some readers have fewer than 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Total {
    total: i64,
    unknown: Unknown,
}

#[derive(Serialize, Deserialize)]
struct CounterValue {
    val: String,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        CounterValue { val: self.total.to_string(), unknown: self.unknown.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Total {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let CounterValue { val, unknown } = CounterValue::deserialize(deserializer)?;
        let total = val.parse().map_err(|_| serde::de::Error::custom("the total is not an `i64`"))?;
        Ok(Self { total, unknown })
    }
}
