//! `get_many`.

use std::borrow::Borrow;
use std::time::Duration;

use super::{ReadBucket, decode, verb};
use crate::backend::{RawEntry, Read};
use crate::bucket::Entry;
use crate::error::Result;
use crate::key::{Key, KeyError, ModelKey};
use crate::model::KvModel;

/// How many keys share a deadline.
const PORTION: usize = 10_000;

impl<T: KvModel> ReadBucket<T> {
    /// Reads the records of many keys: an answer for each key, in the order of the keys, `None` where there is no record,
    /// or none any more. A key may be named twice.
    ///
    /// Keys of any number are read in few round trips: some 1,000 in each request, and some requests at once. The timeout
    /// counts for each 10,000 keys. A server before 2.11, or one that does not allow this user that form of a request, is
    /// asked for each key instead, 64 at once. It is no snapshot: of two writes meanwhile it may see the later one alone.
    ///
    /// Prefer it to a `buffer_unordered` of your own: with more than 128 calls in one task, tokio's cooperative budget
    /// delays the calls that started first.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
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
    /// `Decode`, with the key and the revision, if any of it is no record of the model: [`GetMany::each`] gives the others
    /// all the same. `InvalidKey` if a key is too long. What fails for one key fails for all.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
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
    /// How long each 10,000 keys may take; the store's timeout by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How fresh the answers must be.
    pub fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    /// Gives a result for each key, so that a record that does not decode hides none of the others.
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
    /// for flag in flags.get_many([FlagKey::new("dark"), FlagKey::new("light")]).each().await? {
    ///     match flag {
    ///         Ok(flag) => println!("{flag:?}"),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn each(self) -> GetEach<'a, T> {
        GetEach { many: self }
    }

    async fn entries(self) -> Result<Vec<Option<RawEntry>>> {
        let Self { bucket, keys, read, timeout } = self;
        let raw = bucket.raw("get_many")?;
        let keys = keys.map_err(|error| bucket.bad_key("get_many", error))?;
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(PORTION) {
            let portion = raw.read_many(keys, read, bucket.deadline(timeout)).await;
            entries.extend(portion.map_err(|error| error.within("get_many", bucket.name(), None))?);
        }
        entries.iter().flatten().for_each(|entry| bucket.met(entry));
        Ok(entries)
    }

    async fn run(self) -> Result<Vec<Option<Entry<T>>>> {
        self.each().run().await?.into_iter().collect()
    }
}

verb!(GetMany => Vec<Option<Entry<T>>>);

/// A read of many records, with a result for each; see [`GetMany::each`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct GetEach<'a, T: KvModel> {
    many: GetMany<'a, T>,
}

impl<T: KvModel> GetEach<'_, T> {
    async fn run(self) -> Result<Vec<Result<Option<Entry<T>>>>> {
        let bucket = self.many.bucket;
        let decode = |entry: RawEntry| decode::entry(&entry);
        let entry = |entry: Option<RawEntry>| entry.map_or(Ok(None), decode);
        let located = |entry: Result<_>| entry.map_err(|error| error.within("get_many", bucket.name(), None));
        Ok(self.many.entries().await?.into_iter().map(entry).map(located).collect())
    }
}

verb!(GetEach => Vec<Result<Option<Entry<T>>>>);
