//! `get_by`.

use super::options::{LookupOptions, lookup_options};
use super::page::matching_record;
use crate::backend::{Deadline, KeySpace, RawBucket, Read, ReadAt};
use crate::bucket::verb::verb;
use crate::bucket::{Entry, ReadBucket, read_claim};
use crate::error::Result;
use crate::model::index::{Lookup, One, UniqueLookup};
use crate::model::{Indexed, KvModel};
use crate::observe::StoreEvent;

impl<T: KvModel> ReadBucket<T> {
    /// Reads the record with a unique value. Returns `None` if no record has the value.
    ///
    /// It takes two reads: the claim of the value, and the record. In a replicated bucket, a value that the nearest server
    /// does not have is looked up at the leader too. So the record is found if its write was acknowledged before. If no
    /// record is found, another read confirms that the index was not dropped.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(bucket = "users", key = "{id}")]
    /// # struct User { id: u64, #[kv(unique)] email: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let users: Bucket<User> = Store::memory().bucket().await?;
    /// users.put(&User { id: 7, email: "ada@example.com".into() }).await?;
    ///
    /// let ada = users.get_by(User::by_email("ada@example.com")).await?.expect("just written");
    /// assert_eq!(ada.id, 7);
    /// assert!(users.get_by(User::by_email("bob@example.com")).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get`](Self::get). Returns `IndexBuilding` if no record is found and the index is
    /// not built, or was dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn get_by(&self, lookup: impl UniqueLookup<T>) -> GetBy<'_, T>
    where
        T: Indexed,
    {
        GetBy { bucket: self, lookup: lookup.into_unique(), read: Read::Any, options: LookupOptions::default() }
    }
}

/// A read of the record with a unique value; see [`ReadBucket::get_by`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct GetBy<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    lookup: Lookup<T, One>,
    read: Read,
    options: LookupOptions,
}

impl<T: KvModel> GetBy<'_, T> {
    /// Sets the consistency of the reads.
    pub fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    async fn run(self) -> Result<Option<Entry<T>>> {
        let bucket = self.bucket;
        self.find().await.map_err(|error| error.with_context("get_by", bucket.name(), None))
    }

    async fn find(self) -> Result<Option<Entry<T>>> {
        let Self { bucket, lookup, read, options } = self;
        let (raw, deadline) = (bucket.raw("get_by")?, bucket.deadline(options.timeout));
        let Some(info) = lookup.info() else { return Ok(None) };
        loop {
            let build = options.begin(bucket, info, deadline).await?;
            let mut found = read_owner(bucket, &**raw, &lookup, read, deadline).await?;
            if found.is_none() && read != Read::Leader && raw.config().may_be_behind() {
                found = read_owner(bucket, &**raw, &lookup, Read::Leader, deadline).await?;
            }
            // A record that has the value is a correct result in any state of the index.
            if found.is_some() || bucket.current_build(info, deadline).await? == build {
                return Ok(found);
            }
        }
    }
}

/// Reads the claim and then the record. Returns `None` if the record does not have the value.
async fn read_owner<T: KvModel>(
    bucket: &ReadBucket<T>,
    raw: &dyn RawBucket,
    lookup: &Lookup<T, One>,
    read: Read,
    deadline: Deadline,
) -> Result<Option<Entry<T>>> {
    let mut is_filtered = false;
    // Load the epoch of the connection before the requests.
    let epoch = raw.identity().connection_epoch;
    for claim in lookup.claims()? {
        let (_, Some(claim)) = read_claim(raw, &claim, read, deadline).await? else { continue };
        let Some(entry) = raw.read(KeySpace::Records, &claim.owner, ReadAt::Newest(read), deadline).await? else {
            is_filtered = true;
            continue;
        };
        if let Some(found) = matching_record(bucket, lookup, &entry)? {
            bucket.remember_values(&entry, &found, epoch);
            return Ok(Some(found));
        }
        is_filtered = true;
    }
    if is_filtered && !raw.config().may_be_behind() | (read == Read::Leader) {
        let index = lookup.info().map_or("", |info| info.name);
        let event = StoreEvent::IndexFiltered { bucket: bucket.name(), index, entries: 1 };
        bucket.context().instruments().event(&event);
    }
    Ok(None)
}

lookup_options!(GetBy: "Sets the timeout. Default: the bucket's timeout.");
verb!(GetBy("get_by", bucket) => Option<Entry<T>>);
