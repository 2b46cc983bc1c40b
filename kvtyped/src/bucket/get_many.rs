//! `get_many`.

use std::borrow::Borrow;
use std::time::Duration;

use super::decode;
use super::entry::Entry;
use super::handle::ReadBucket;
use super::verb::verb;
use crate::backend::{KeySpace, RawEntry, Read};
use crate::error::Result;
use crate::key::{Key, KeyError, ModelKey};
use crate::model::KvModel;

/// The number of keys that share a deadline.
const PORTION: usize = 10_000;

impl<T: KvModel> ReadBucket<T> {
    /// Reads the records of many keys. Returns one result for each key, in the order of the keys: `None` if the key has
    /// no live record. A key may occur twice.
    ///
    /// The number of keys is unlimited. They are read in few round trips: about 1,000 keys in each request, and several
    /// requests at once. The timeout applies to each 10,000 keys. If the server is older than 2.11, or denies this user
    /// the request for many keys, each key is read separately, 64 at once. The result is not a snapshot: of two
    /// concurrent writes, it may contain only the later one.
    ///
    /// Prefer it to a `buffer_unordered` in your code: with more than 128 calls in one task, tokio's cooperative budget
    /// delays the calls that started first.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # use kvtyped::Read;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{tenant}.{id}")]
    /// # struct Session { tenant: String, id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { tenant: "acme".into(), id: 1 }).await?;
    /// let revision = sessions.put(&Session { tenant: "acme".into(), id: 3 }).await?;
    ///
    /// let keys = [3, 2, 1].map(|id| SessionKey::new("acme", id));
    /// let many = sessions.get_many(&keys).read(Read::AtLeast(revision)).await?;
    /// let ids: Vec<_> = many.iter().map(|entry| entry.as_ref().map(|session| session.id)).collect();
    /// assert_eq!(ids, [Some(3), None, Some(1)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Decode`, with the key and the revision, if a stored value is not a record of the model;
    /// [`GetMany::results`] still returns the other records. Returns `InvalidKey` if a key is too long. An error for one
    /// key fails the whole call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn get_many<K: Borrow<T::Key>>(&self, keys: impl IntoIterator<Item = K>) -> GetMany<'_, T> {
        let keys = keys.into_iter().map(|key| key.borrow().encode()).collect();
        GetMany { bucket: self, keys, read: Read::Any, timeout: None }
    }
}

/// A read of many records; see [`ReadBucket::get_many`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct GetMany<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    keys: Result<Vec<Key>, KeyError>,
    read: Read,
    timeout: Option<Duration>,
}

impl<'a, T: KvModel> GetMany<'a, T> {
    /// Sets the timeout for each 10,000 keys. Default: the bucket's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the consistency of the read.
    pub fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    /// Returns a separate result for each key, so that a record that does not decode does not hide the others.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{name}")]
    /// # struct Flag { name: String, on: bool }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let flags: Bucket<Flag> = Store::memory().bucket().await?;
    /// # flags.put(&Flag { name: "dark".into(), on: true }).await?;
    /// for flag in flags.get_many([FlagKey::new("dark"), FlagKey::new("light")]).results().await? {
    ///     match flag {
    ///         Ok(flag) => println!("{flag:?}"),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn results(self) -> GetManyResults<'a, T> {
        GetManyResults { many: self }
    }

    async fn entries(self) -> Result<Vec<Option<RawEntry>>> {
        let Self { bucket, keys, read, timeout } = self;
        let raw = bucket.raw("get_many")?;
        let keys = keys.map_err(|error| bucket.bad_key("get_many", error))?;
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(PORTION) {
            let portion = raw.read_many(KeySpace::Records, keys, read, bucket.deadline(timeout)).await;
            entries.extend(portion.map_err(|error| error.with_context("get_many", bucket.name(), None))?);
        }
        entries.iter().flatten().for_each(|entry| bucket.record_read(entry));
        Ok(entries)
    }

    pub(super) async fn run(self) -> Result<Vec<Option<Entry<T>>>> {
        self.results().run().await?.into_iter().collect()
    }
}

verb!(GetMany("get_many", bucket) => Vec<Option<Entry<T>>>);

/// A read of many records with a separate result for each; see [`GetMany::results`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct GetManyResults<'a, T: KvModel> {
    many: GetMany<'a, T>,
}

impl<T: KvModel> GetManyResults<'_, T> {
    async fn run(self) -> Result<Vec<Result<Option<Entry<T>>>>> {
        let bucket = self.many.bucket;
        let decode = |entry: RawEntry| decode::entry(&entry, bucket.clock());
        let entry = |entry: Option<RawEntry>| entry.map_or(Ok(None), decode);
        let located = |entry: Result<_>| entry.map_err(|error| error.with_context("get_many", bucket.name(), None));
        Ok(self.many.entries().await?.into_iter().map(entry).map(located).collect())
    }
}

verb!(GetManyResults("get_many", many.bucket) => Vec<Result<Option<Entry<T>>>>);
