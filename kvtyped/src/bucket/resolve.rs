//! `resolve`: reads the records of many references.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use super::entry::Entry;
use super::handle::ReadBucket;
use super::verb::verb;
use crate::backend::Read;
use crate::error::Result;
use crate::model::{KvModel, Ref};

impl<T: KvModel> ReadBucket<T> {
    /// Reads the records of many references, each once, like [`get_many`](Self::get_many).
    ///
    /// A reference without a live record dangles, and is absent from the result. The result is not a snapshot.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// use kvtyped::model::Ref;
    ///
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{name}")]
    /// # struct Team { name: String, room: u32 }
    /// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// #[kv(key = "{id}")]
    /// struct User { id: u64, team: Option<Ref<Team>> }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let store = Store::memory();
    /// # let (users, teams): (Bucket<User>, Bucket<Team>) = (store.bucket().await?, store.bucket().await?);
    /// # let core = Team { name: "core".into(), room: 12 };
    /// # teams.put(&core).await?;
    /// # users.put(&User { id: 1, team: Some(Ref::to(&core)) }).await?;
    /// # users.put(&User { id: 2, team: None }).await?;
    ///
    /// let all: Vec<Entry<User>> = users.list(..).await?.try_collect().await?;
    /// let teams = teams.resolve(all.iter().flat_map(|user| &user.team)).await?;
    /// let room = |user: &User| Some(teams.get(user.team.as_ref()?)?.room);
    /// assert_eq!(all.iter().map(|user| room(user)).collect::<Vec<_>>(), [Some(12), None]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`get_many`](Self::get_many).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn resolve<R: Borrow<Ref<T>>>(&self, references: impl IntoIterator<Item = R>) -> Resolve<'_, T> {
        let keys = references.into_iter().map(|reference| reference.borrow().key().clone()).collect();
        Resolve { bucket: self, keys, read: Read::Any, timeout: None }
    }
}

/// A read of many references; see [`ReadBucket::resolve`].
#[must_use = "nothing is read until it is awaited"]
#[derive(Debug)]
pub struct Resolve<'a, T: KvModel> {
    bucket: &'a ReadBucket<T>,
    keys: BTreeSet<T::Key>,
    read: Read,
    timeout: Option<Duration>,
}

impl<T: KvModel> Resolve<'_, T> {
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

    async fn run(self) -> Result<Resolved<T>> {
        let Self { bucket, keys, read, timeout } = self;
        let mut many = bucket.get_many(&keys).read(read);
        if let Some(timeout) = timeout {
            many = many.timeout(timeout);
        }
        let entries = many.run().await?;
        let found = keys.into_iter().zip(entries).filter_map(|(key, entry)| Some((key, entry?)));
        Ok(Resolved { entries: found.collect() })
    }
}

verb!(Resolve("resolve", bucket) => Resolved<T>);

/// The records of many references; see [`ReadBucket::resolve`].
pub struct Resolved<T: KvModel> {
    entries: HashMap<T::Key, Entry<T>>,
}

impl<T: KvModel> Resolved<T> {
    /// Returns the record of a reference. Returns `None` if the reference dangles, or was not resolved.
    pub fn get(&self, reference: &Ref<T>) -> Option<&Entry<T>> {
        self.entries.get(reference.key())
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Shows the number of records, and no values.
impl<T: KvModel> fmt::Debug for Resolved<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolved({} records)", self.entries.len())
    }
}
