//! `put`, `create`, `update`, `delete`, `purge`, `touch`.

use std::time::Duration;

use bytes::Bytes;

use super::modify::{Decision, First, Limits};
use super::{Bucket, decode, verb};
use crate::backend::{RawEntry, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, ModelKey};
use crate::model::{KvModel, SingleRevision};
use crate::revision::Revision;
use crate::ttl::Ttl;

impl<T: KvModel> Bucket<T> {
    /// Writes a record over whatever is under its key.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let first = sessions.put(&Session { id: 7 }).await?;
    /// let second = sessions.put(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// assert!(second > first);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If its acknowledgement is lost and what is stored does not tell, the outcome is `Unknown`: a server that hangs may
    /// apply it later. Where that must not overwrite a newer record, use `update` or `modify`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the record is written.
    pub fn put<'a>(&'a self, record: &'a T) -> Put<'a, T> {
        Put { bucket: self, record, ttl: None, timeout: None }
    }

    /// Writes a record if there is none under its key, or none any more.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let revision = sessions.create(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// let error = sessions.create(&Session { id: 7 }).await.unwrap_err();
    /// assert!(error.is_conflict() && error.revision() == Some(revision));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, with the revision of the record that is there.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the record is written.
    pub fn create<'a>(&'a self, record: &'a T) -> Create<'a, T> {
        Create { bucket: self, record, ttl: None, timeout: None }
    }

    /// Writes a record if the revision under its key is this one: compare and set.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64, visits: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let first = sessions.put(&Session { id: 7, visits: 1 }).await?;
    /// sessions.update(&Session { id: 7, visits: 2 }, first).await?;
    /// assert!(sessions.update(&Session { id: 7, visits: 9 }, first).await.unwrap_err().is_conflict());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Conflict`, with the revision that is there if the server tells.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the record is written.
    pub fn update<'a>(&'a self, record: &'a T, revision: Revision) -> Update<'a, T> {
        Update { bucket: self, record, revision, ttl: None, timeout: None }
    }

    /// Removes the record of a key, whether there is one or not. A marker stays, and the history.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let revision = sessions.put(&Session { id: 7 }).await?;
    /// sessions.delete(&SessionKey::new(7)).if_revision(revision).await?;
    /// assert_eq!(sessions.get(&SessionKey::new(7)).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Conflict` if another revision than the one of [`if_revision`](Delete::if_revision) is there.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the record is removed.
    pub fn delete<'a>(&'a self, key: &'a T::Key) -> Delete<'a, T> {
        Delete { bucket: self, key, revision: None, timeout: None }
    }

    /// Removes the record of a key with its history. A marker stays, for ever or for its TTL.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}", history = 8)]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.put(&Session { id: 7 }).await?;
    /// sessions.purge(&SessionKey::new(7)).await?;
    /// assert_eq!(sessions.history(&SessionKey::new(7)).await?.len(), 1); // the marker
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Conflict` if another revision than the one of [`if_revision`](Purge::if_revision) is there.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the record is removed.
    pub fn purge<'a>(&'a self, key: &'a T::Key) -> Purge<'a, T> {
        Purge { bucket: self, key, revision: None, ttl: None, timeout: None }
    }
}

impl<T: SingleRevision> Bucket<T> {
    /// Writes the record of a key again as it is, so that its time begins anew.
    ///
    /// With [`ttl`](Touch::ttl) it lives that long from now; without, as long as it was given before (or as the bucket
    /// gives).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64 }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// sessions.create(&Session { id: 7 }).ttl(Duration::from_secs(60)).await?;
    /// # tokio::time::advance(Duration::from_secs(50)).await;
    /// // 50 seconds later:
    /// sessions.touch(&SessionKey::new(7)).ttl(Duration::from_secs(60)).await?;
    /// # tokio::time::advance(Duration::from_secs(50)).await;
    /// // 50 seconds later still:
    /// assert!(sessions.get(&SessionKey::new(7)).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no record; `RetriesExhausted` if other writers always come first.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the time began anew.
    pub fn touch<'a>(&'a self, key: &'a T::Key) -> Touch<'a, T> {
        Touch { bucket: self, key, ttl: None, timeout: None }
    }
}

/// Checks a TTL against what a bucket can do.
pub(super) fn check_ttl(config: &BucketConfig, ttl: Option<Duration>) -> Result<Option<Ttl>> {
    let Some(asked) = ttl else { return Ok(None) };
    match config.history {
        None | Some(1) => {}
        Some(history) => {
            return Err(Error::unsupported(
                "a bucket with `history = 1` for the TTL of a single key: with more, the value before it would come back to life",
                format!("history = {history}"),
            ));
        }
    }
    parse_ttl(asked).map(Some)
}

fn parse_ttl(asked: Duration) -> Result<Ttl> {
    Ttl::new(asked).ok_or_else(|| {
        Error::invalid_config(format!("a TTL of {asked:?}: it is 1 s at least and a century at most (ADR-43)"))
    })
}

impl<T: KvModel> Bucket<T> {
    /// Sends one write of a record; what is guarded is guarded by its own key.
    async fn write_record(
        &self,
        operation: &'static str,
        record: &T,
        expected: Option<Revision>,
        ttl: Option<Duration>,
        timeout: Option<Duration>,
    ) -> Result<Revision> {
        let (key, value, ttl) = self.prepare(operation, record, ttl)?;
        self.send(operation, key, WriteKind::Put(value), expected, ttl, timeout).await
    }

    /// The encoded parts of a record that is to be written.
    fn prepare(&self, operation: &'static str, record: &T, ttl: Option<Duration>) -> Result<(Key, Bytes, Option<Ttl>)> {
        let key = record.key().encode().map_err(|error| self.bad_key(operation, error))?;
        let parts = decode::encode(record).and_then(|value| Ok((value, check_ttl(self.config(), ttl)?)));
        let (value, ttl) = parts.map_err(|error| error.within(operation, self.name(), Some(key.as_str())))?;
        Ok((key, value, ttl))
    }

    async fn send(
        &self,
        operation: &'static str,
        key: Key,
        kind: WriteKind,
        expected: Option<Revision>,
        ttl: Option<Ttl>,
        timeout: Option<Duration>,
    ) -> Result<Revision> {
        let raw = self.raw(operation)?;
        let mut write = Write::new(key.clone(), kind).with_ttl(ttl);
        if let Some(expected) = expected {
            write = write.expecting(expected);
        }
        let written = raw.write(write, self.deadline(timeout)).await;
        written.map_err(|error| error.within(operation, self.name(), Some(key.as_str())))
    }
}

/// A write of a record; see [`Bucket::put`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Put<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Put<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, ttl, timeout } = self;
        bucket.write_record("put", record, None, ttl, timeout).await
    }
}

/// A write of a new record; see [`Bucket::create`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Create<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Create<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, ttl, timeout } = self;
        let (key, value, ttl) = bucket.prepare("create", record, ttl)?;
        let limits = Limits { attempts: None, deadline: bucket.deadline(timeout) };
        let decide = |newest: Option<&RawEntry>| match newest {
            Some(live) if live.is_live() => Err(Error::new(ErrorKind::AlreadyExists).at_revision(live.revision)),
            // Nothing, or a marker: the TTL goes with the write in both cases.
            _ => Ok(Decision::<()>::Write { kind: WriteKind::Put(value.clone()), ttl, result: () }),
        };
        let created = bucket.compare_and_set("create", &key, First::Assume(None), limits, decide).await;
        let created = created.map_err(|error| error.within("create", bucket.name(), Some(key.as_str())))?;
        Ok(created.revision)
    }
}

/// A write over a known revision; see [`Bucket::update`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Update<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    record: &'a T,
    revision: Revision,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Update<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, record, revision, ttl, timeout } = self;
        bucket.write_record("update", record, Some(revision), ttl, timeout).await
    }
}

/// A removal; see [`Bucket::delete`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Delete<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    revision: Option<Revision>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Delete<'_, T> {
    /// Only if this revision is there.
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, revision, timeout } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("delete", error))?;
        bucket.send("delete", key, WriteKind::Delete, revision, None, timeout).await
    }
}

/// A removal with the history; see [`Bucket::purge`].
#[must_use = "nothing is removed until it is awaited"]
#[derive(Debug)]
pub struct Purge<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    revision: Option<Revision>,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Purge<'_, T> {
    /// Only if this revision is there.
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// How long the marker stays: rounded up to whole seconds, one at least. It needs a bucket with limit markers.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, revision, ttl, timeout } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("purge", error))?;
        // Whatever the history: a purge leaves nothing that could come back to life.
        let ttl = ttl.map(parse_ttl).transpose();
        let ttl = ttl.map_err(|error| error.within("purge", bucket.name(), Some(key.as_str())))?;
        bucket.send("purge", key, WriteKind::Purge, revision, ttl, timeout).await
    }
}

/// A new time to live; see [`Bucket::touch`].
#[must_use = "nothing is written until it is awaited"]
#[derive(Debug)]
pub struct Touch<'a, T: KvModel> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl<T: KvModel> Touch<'_, T> {
    async fn run(self) -> Result<Revision> {
        let Self { bucket, key, ttl, timeout } = self;
        let key = key.encode().map_err(|error| bucket.bad_key("touch", error))?;
        let ttl = check_ttl(bucket.config(), ttl);
        let ttl = ttl.map_err(|error| error.within("touch", bucket.name(), Some(key.as_str())))?;
        let limits = Limits { attempts: None, deadline: bucket.deadline(timeout) };
        let decide = |newest: Option<&RawEntry>| match newest {
            Some(live) if live.is_live() => {
                Ok(Decision::Write { kind: WriteKind::Put(live.value.clone()), ttl: ttl.or(live.ttl), result: () })
            }
            _ => Err(Error::new(ErrorKind::NotFound)),
        };
        let touched = bucket.compare_and_set("touch", &key, First::Read, limits, decide).await;
        let touched = touched.map_err(|error| error.within("touch", bucket.name(), Some(key.as_str())))?;
        Ok(touched.revision)
    }
}

/// The options that these verbs share.
macro_rules! options {
    (ttl: $($verb:ident)*) => {$(
        impl<T: SingleRevision> $verb<'_, T> {
            /// How long the record lives: rounded up to whole seconds, one at least (ADR-43).
            ///
            /// The next write of the record without a TTL makes it stay.
            pub fn ttl(mut self, ttl: Duration) -> Self {
                self.ttl = Some(ttl);
                self
            }
        }
    )*};
    (timeout: $($verb:ident)*) => {$(
        impl<T: KvModel> $verb<'_, T> {
            /// How long it may take in all; the store's time by default.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.timeout = Some(timeout);
                self
            }
        }
    )*};
}

options!(ttl: Put Create Update Touch);
options!(timeout: Put Create Update Delete Purge Touch);

verb!(Put => Revision);
verb!(Create => Revision);
verb!(Update => Revision);
verb!(Delete => Revision);
verb!(Purge => Revision);
verb!(Touch => Revision);
