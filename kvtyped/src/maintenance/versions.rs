//! `schema_versions`: the number of records of each schema version.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::IntoFuture;
use std::hash::BuildHasher;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use crate::backend::ScanRequest;
use crate::bucket::{ReadBucket, decode};
use crate::error::Result;
use crate::model::{Filter, KvModel};

impl<T: KvModel> ReadBucket<T> {
    /// Counts the records of each schema version.
    ///
    /// A server sends the headers of the records and no values, unless the version is a field of the model. The count
    /// needs about thirty bytes of memory for each record, so that a record that changes during the count is counted
    /// once. Keys of other models in the same bucket are skipped.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}", version = 3)]
    /// # struct User { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 7 }).await?;
    /// let versions = users.schema_versions().await?;
    /// assert_eq!((versions.get(3), versions.get(2)), (1, 0));
    /// assert_eq!(versions.to_string(), "3: 1");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Timeout`, `Unavailable` or `BucketNotFound` if the count cannot be completed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub fn schema_versions(&self) -> CountVersions<'_, T> {
        CountVersions { bucket: self, filter: (..).into(), timeout: None }
    }
}

/// A count of records by schema version; see [`ReadBucket::schema_versions`].
#[must_use = "nothing is counted until it is awaited"]
#[derive(Debug)]
pub struct CountVersions<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    filter: Filter<T>,
    timeout: Option<Duration>,
}

impl<'a, T: KvModel> CountVersions<'a, T> {
    /// Counts only the records that a filter matches.
    pub fn filter(mut self, filter: impl Into<Filter<T>>) -> Self {
        self.filter = filter.into();
        self
    }

    /// Sets the longest time without progress. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Counts the versions as a part of the operation.
    pub(super) async fn run_as(self, operation: &'static str) -> Result<SchemaVersions> {
        let Self { bucket, filter, timeout } = self;
        let headers_only = T::SCHEMA.version_field.is_none();
        let scan = ScanRequest { headers_only, ..bucket.scan_request(filter.patterns().clone(), timeout) };
        let mut entries = bucket.scan(operation, scan)?;
        let hasher = RandomState::new();
        let mut found: HashMap<u64, u32> = HashMap::new();
        while let Some(scanned) = entries.next().await {
            match scanned {
                Ok(scanned) => {
                    let key = hasher.hash_one(&scanned.entry.key);
                    // A key that is written or removed during the count appears again.
                    match scanned.entry.is_live() && decode::key::<T>(&scanned.entry.key).is_ok() {
                        true => found.insert(key, decode::stored_version::<T>(&scanned.entry).unwrap_or(INVALID)),
                        false => found.remove(&key),
                    };
                }
                // An illegal key is not a record.
                Err(error) if error.key().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.into_values().collect())
    }
}

impl<'a, T: KvModel> IntoFuture for CountVersions<'a, T> {
    type Output = Result<SchemaVersions>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let bucket = self.bucket;
        bucket.observe("schema_versions", Box::pin(self.run_as("schema_versions")))
    }
}

/// The version of a record whose version is unreadable.
const INVALID: u32 = 0;

/// The number of records of each schema version; see [`ReadBucket::schema_versions`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaVersions {
    counts: BTreeMap<u32, u64>,
}

impl SchemaVersions {
    /// Returns the number of records of a version.
    pub fn get(&self, version: u32) -> u64 {
        if version == INVALID { 0 } else { self.counts.get(&version).copied().unwrap_or_default() }
    }

    /// Returns the versions that records have, with their counts, from the oldest version to the newest.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.counts.iter().map(|(version, count)| (*version, *count)).filter(|(version, _)| *version != INVALID)
    }

    /// Returns the number of records whose version is unreadable. No program can read such a record.
    pub fn invalid(&self) -> u64 {
        self.counts.get(&INVALID).copied().unwrap_or_default()
    }

    /// Returns the number of all records, including those with an unreadable version.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Returns the oldest version that a record has. `None` without records.
    pub fn oldest(&self) -> Option<u32> {
        self.iter().next().map(|(version, _)| version)
    }

    /// Returns the newest version that a record has. `None` without records.
    pub fn newest(&self) -> Option<u32> {
        self.iter().last().map(|(version, _)| version)
    }

    /// Returns the number of records that are newer than a version.
    pub(super) fn newer_than(&self, version: u32) -> u64 {
        self.iter().filter(|(found, _)| *found > version).map(|(_, count)| count).sum()
    }
}

impl FromIterator<u32> for SchemaVersions {
    fn from_iter<I: IntoIterator<Item = u32>>(versions: I) -> Self {
        let mut counts = BTreeMap::new();
        versions.into_iter().for_each(|version| *counts.entry(version).or_default() += 1);
        Self { counts }
    }
}

/// The counts by version, such as `1: 12, 3: 99120, invalid: 2`.
impl fmt::Display for SchemaVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("no records");
        }
        let mut separator = "";
        for (version, count) in self.iter() {
            write!(f, "{separator}{version}: {count}")?;
            separator = ", ";
        }
        match self.invalid() {
            0 => Ok(()),
            invalid => write!(f, "{separator}invalid: {invalid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_and_shown_in_order() {
        let versions: SchemaVersions = [3, 1, 3, 0, 7].into_iter().collect();
        assert_eq!(versions.iter().collect::<Vec<_>>(), [(1, 1), (3, 2), (7, 1)]);
        assert_eq!((versions.get(3), versions.get(2), versions.get(0)), (2, 0, 0));
        assert_eq!((versions.invalid(), versions.total(), versions.newer_than(1)), (1, 5, 3));
        assert_eq!((versions.oldest(), versions.newest()), (Some(1), Some(7)));
        assert_eq!(versions.to_string(), "1: 1, 3: 2, 7: 1, invalid: 1");
        assert_eq!(SchemaVersions::from_iter([0]).to_string(), "invalid: 1");
        assert_eq!(SchemaVersions::default().to_string(), "no records");
    }
}
