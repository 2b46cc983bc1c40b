//! The recipes that have records in a bucket.

use std::collections::BTreeMap;
use std::fmt;

use futures::StreamExt;

use super::lease::record::LeaseRecord;
use super::record::{RecipeKey, RecipeRecord};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::store::Store;

impl Store {
    /// Returns the recipes that have records in a bucket, by kind and name. Reads the keys of all their records.
    ///
    /// Counters of a server ([`Counters`](super::Counters)) are in streams of their own and not included.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// use kvtyped::recipes::RecipeKind;
    ///
    /// # let store = Store::memory();
    /// let guard = store.locks("jobs").lock("invoice-42").await?;
    /// let found = store.recipes("jobs").await?;
    /// assert_eq!((found[0].kind, found[0].name.as_str()), (RecipeKind::Lock, "invoice-42"));
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `BucketNotFound` if the bucket does not exist. Returns the errors of [`keys`](crate::ReadBucket::keys).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub async fn recipes(&self, bucket: &str) -> Result<Vec<RecipeInfo>> {
        let name = bucket;
        let list = async {
            self.context().admit()?;
            let opened = self.raw(name).read_only().open_unobserved().await?;
            let bucket: Bucket<RecipeRecord<LeaseRecord>> = opened.as_model();
            let mut keys = bucket.keys(..).await?;
            let mut found: BTreeMap<(RecipeKind, String), u64> = BTreeMap::new();
            while let Some(key) = keys.next().await {
                match key {
                    Ok(key) => {
                        if let Some(kind) = RecipeKind::of(&key) {
                            *found.entry((kind, key.name().to_owned())).or_default() += 1;
                        }
                    }
                    // Another reserved key.
                    Err(error) if error.key().is_some() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(found.into_iter().map(|((kind, name), records)| RecipeInfo { kind, name, records }).collect())
        };
        let located = async { list.await.map_err(|error: Error| error.with_context("recipes", name, None)) };
        self.context().observe("recipes", name, Box::pin(located)).await
    }
}

/// A recipe with records in a bucket; see [`Store::recipes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecipeInfo {
    /// The kind.
    pub kind: RecipeKind,
    /// The name, for example of a lock. The lock of a record has the key of the record as its name.
    pub name: String,
    /// The number of its records: leases, tickets, fences, permits, keys.
    pub records: u64,
}

/// The kind of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecipeKind {
    /// [`Locks`](super::Locks).
    Lock,
    /// [`Election`](super::Election).
    Election,
    /// [`Semaphore`](super::Semaphore).
    Semaphore,
    /// [`Group`](super::Group).
    Group,
    /// [`Once`](super::Once).
    Once,
    /// [`Counters`](super::Counters) that are stored as records.
    Counters,
    /// [`Ids`](super::Ids).
    Ids,
    /// [`RateLimiter`](super::RateLimiter).
    RateLimiter,
    /// The lease of a job that maintains the records of a model, such as [`migrate`](crate::Bucket::migrate).
    Maintenance,
}

impl RecipeKind {
    const ALL: [(&str, Self); 9] = [
        ("lock", Self::Lock),
        ("election", Self::Election),
        ("semaphore", Self::Semaphore),
        ("group", Self::Group),
        ("once", Self::Once),
        ("counters", Self::Counters),
        ("ids", Self::Ids),
        ("rate", Self::RateLimiter),
        ("maintenance", Self::Maintenance),
    ];

    fn of(key: &RecipeKey) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == key.recipe()).map(|(_, kind)| *kind)
    }

    /// Returns the name of the kind: `lock`, `election`, `semaphore`, `group`, `once`, `counters`, `ids`, `rate`,
    /// `maintenance`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for RecipeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
