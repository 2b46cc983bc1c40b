//! Counters that several processes add to.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::place::{Place, place_options};
use super::slot::{Slot, SlotKey, Unknown};
use crate::backend::Read;
use crate::bucket::{Bucket, Change, CounterBucket};
use crate::error::{Error, Result};
use crate::store::Store;

/// What the keys of the records begin with.
const RECIPE: &str = "counters";

impl Store {
    /// Opens a set of counters, which many processes add to at once.
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
    /// `InvalidConfig` if the name is not that of a bucket and [`bucket`](OpenCounters::bucket) says no other;
    /// `Unsupported` if there is a bucket of records of that name in which counters would not last.
    pub fn counters(&self, name: impl Into<String>) -> OpenCounters {
        let name = name.into();
        OpenCounters { place: Place::new(self, &name), name, timeout: None }
    }
}

/// Opens a set of counters; see [`Store::counters`].
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenCounters {
    place: Place,
    name: String,
    timeout: Option<Duration>,
}

place_options!(OpenCounters);

impl OpenCounters {
    /// How long an operation may take in all; the store's time by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Counters> {
        let Self { place, name, timeout } = self;
        let config = place.config();
        // In a bucket of another name there may be other counters.
        let below = (config.name != name).then(|| name.clone());
        // A full stream of server-side counters drops its oldest totals, so counters with a limit are stored as
        // records.
        let counters = match config.max_bytes {
            Some(_) => None,
            None => place.store().server_counters(config, below, timeout).await?,
        };
        let way = match counters {
            Some(counters) => Way::Server(counters),
            None => Way::Records(place.open_lasting().await?),
        };
        Ok(Counters { name, way, timeout })
    }
}

impl IntoFuture for OpenCounters {
    type Output = Result<Counters>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A set of counters, each of which has a name. Made by [`Store::counters`].
///
/// A server that can (nats-server 2.12 or newer) adds up itself, in a bucket of their own (ADR-49): an addition costs one
/// message however many add at once, and every NATS client that knows counters reads them and adds to them, under
/// `$KV.hits.home`. In memory, on an older server, with [`max_bytes`](OpenCounters::max_bytes), or in a bucket of records that was there before, each counter is a
/// record that is changed by compare-and-set. [`is_server_side`](Self::is_server_side) tells which; what is promised is
/// the same. What is there decides: the way does not change by itself when a server is upgraded.
///
/// An addition is counted once, or not at all, or its error says that nobody knows
/// ([`Outcome::Unknown`](crate::Outcome::Unknown)): a lost acknowledgement is looked up by the id of its operation.
///
/// # What this does not guarantee
///
/// * Uniqueness of totals. Two additions may be told the same total: one that had to be looked up is told the total as of
///   then. For numbers that nobody else gets there are [`Ids`](crate::Ids).
/// * A limit that holds at each moment. A total that leaves the range of `i64` on a server is taken back by the opposite
///   addition; until then readers get `OutOfRange`, and an addition that would have fitted may be refused, or be told a
///   total that holds what is about to be taken back. Nothing that was acknowledged is lost by that.
/// * An answer where the server forgot. It remembers the ids of additions for two minutes, and after a restart only those
///   of the newest 64 of each counter. An addition that was lost meanwhile is `Unknown`, where the handle cannot prove more.
/// * Durability beyond the server's: it acknowledges before it syncs to disk, unless it is told otherwise.
#[derive(Clone)]
pub struct Counters {
    name: String,
    way: Way,
    timeout: Option<Duration>,
}

/// Who adds up.
#[derive(Clone)]
enum Way {
    Server(CounterBucket),
    Records(Bucket<Slot<Total>>),
}

impl Counters {
    /// Adds to a counter, which begins at zero, and tells its new total. What is added may be negative.
    ///
    /// # Errors
    ///
    /// `OutOfRange` if the total would leave the range of `i64`: nothing is counted then. If the outcome is `Unknown`, it
    /// may have been counted, or may yet be.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether it is counted. It is counted once at most. If it was about to
    /// be taken back, because it left the range, it may stay.
    pub async fn add(&self, name: &str, delta: i64) -> Result<i64> {
        let bucket = match &self.way {
            Way::Server(counters) => return counters.add(name, delta, self.timeout).await,
            Way::Records(bucket) => bucket,
        };
        let key = self.key(name);
        // The total right after this increment. The stored total may include later increments.
        let mut own = Ok(delta);
        let added = bucket.transform(&key, |slot: Option<Slot<Total>>| {
            let none = || Slot { key: key.clone(), value: Total { total: 0, unknown: Unknown::default() } };
            let mut slot = slot.unwrap_or_else(none);
            own = slot.value.total.checked_add(delta).ok_or(slot.value.total);
            own.map_or(Change::Keep, |total| {
                slot.value.total = total;
                Change::Put(slot)
            })
        });
        added.max_attempts(u32::MAX).timeout(self.timeout.unwrap_or(bucket.timeout())).await?;
        own.map_err(|total| {
            let total = i128::from(total) + i128::from(delta);
            let error = Error::out_of_range(format!("adding {delta} makes {total}, and a total is an `i64`"));
            error.within("add", bucket.name(), Some(&key.to_string()))
        })
    }

    /// The total of a counter: every addition that was acknowledged before is in it. Zero if nothing was added.
    ///
    /// # Errors
    ///
    /// `OutOfRange` while the total is beyond `i64`: because an addition is about to be taken back, or because another
    /// NATS client, which knows no such limit, added so much.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn get(&self, name: &str) -> Result<i64> {
        match &self.way {
            Way::Server(counters) => counters.get(name, self.timeout).await,
            Way::Records(bucket) => {
                let key = self.key(name);
                let get = bucket.get(&key).read(Read::Leader).timeout(self.timeout.unwrap_or(bucket.timeout()));
                Ok(get.await?.map_or(0, |slot| slot.value.total))
            }
        }
    }

    /// The totals of all counters that were added to, by name.
    ///
    /// In a replicated bucket any server that stores it may answer: what was just acknowledged may be missing.
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
    /// As of [`get`](Self::get); the first ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub async fn all(&self) -> Result<Vec<(String, i64)>> {
        let mut totals: Vec<(String, i64)> = match &self.way {
            Way::Server(counters) => counters.all(self.timeout)?.try_collect().await?,
            Way::Records(bucket) => {
                let records = bucket.list(SlotKey::parts(RECIPE, &self.name)).await?;
                records.map_ok(|slot| (slot.key.part().to_owned(), slot.value.total)).try_collect().await?
            }
        };
        totals.sort_unstable();
        Ok(totals)
    }

    /// Removes a counter: the next addition begins at zero. Where there is none, nothing happens.
    ///
    /// Additions that go on meanwhile are counted before or after it: what is removed is nobody's to read any more, so use
    /// [`add`](Self::add) of the negative total where each must be accounted for.
    ///
    /// # Errors
    ///
    /// If the outcome is `Unknown`, it may have been removed, or may yet be. It is not sent again by itself, since that
    /// could remove what was added in between.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the counter is removed.
    pub async fn remove(&self, name: &str) -> Result<()> {
        match &self.way {
            Way::Server(counters) => counters.remove(name, self.timeout).await,
            Way::Records(bucket) => {
                let key = self.key(name);
                let purge = bucket.purge(&key).timeout(self.timeout.unwrap_or(bucket.timeout()));
                purge.await.map(drop)
            }
        }
    }

    /// Whether the server adds up itself (ADR-49); else the counters are records.
    pub fn is_server_side(&self) -> bool {
        matches!(self.way, Way::Server(_))
    }

    fn key(&self, name: &str) -> SlotKey {
        SlotKey::new(RECIPE, &self.name, name)
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = match &self.way {
            Way::Server(counters) => counters.bucket(),
            Way::Records(bucket) => bucket.name(),
        };
        f.debug_struct("Counters")
            .field("name", &self.name)
            .field("bucket", &bucket)
            .field("server_side", &self.is_server_side())
            .finish_non_exhaustive()
    }
}

/// A total as ADR-49 writes it: as a text, since not every reader's numbers have 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Total {
    total: i64,
    unknown: Unknown,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    val: String,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored { val: self.total.to_string(), unknown: self.unknown.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Total {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { val, unknown } = Stored::deserialize(deserializer)?;
        let total = val.parse().map_err(|_| serde::de::Error::custom("the total is no `i64`"))?;
        Ok(Self { total, unknown })
    }
}
