//! `modify`, `try_modify`, `transform`: optimistic concurrency by closures.

use std::fmt;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;

use super::cas::{Decision, First, Limits};
use super::change::{Change, ModifyError};
use super::entry::Pending;
use super::standing::Footing;
use super::write::check_ttl;
use super::{Bucket, Entry, decode};
use crate::backend::{RawEntry, WriteKind};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{KvModel, SingleRevision};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The options of the verbs of this file.
#[derive(Debug, Default)]
struct Options {
    max_attempts: Option<u32>,
    timeout: Option<Duration>,
    ttl: Option<Duration>,
    footing: Footing,
}

impl<T: KvModel> Bucket<T> {
    /// Changes the record of a key by a closure, which runs again on the newest record whenever another writer came
    /// between.
    ///
    /// Changes of one record that wait for each other in this process do not conflict. They are applied one after
    /// another and, if the bucket keeps one revision of each key, stored by one write. Each caller gets the record as
    /// it was stored, which may contain changes that were applied after its own. If the caller needs the result of its
    /// own closure, the closure can store it in a variable: the last run of the closure is the stored one.
    ///
    /// Writers on other connections can conflict. Then the closure runs again: at once after each of the first 16
    /// conflicts, and after a wait of 16 ms at most behind each later one. A writer that had to wait, and won, leaves the
    /// record to the others for up to 32 ms before its next change.
    ///
    /// A closure that changes nothing writes nothing. A record with a TTL of its own keeps it, counted from now, unless
    /// [`ttl`](Modify::ttl) says otherwise. The closure must not change a field of the key.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64, visits: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// let key = SessionKey::new(7);
    /// let first = || Session { id: 7, visits: 1 };
    /// for _ in 0..3 {
    ///     sessions.modify(&key, |session| session.visits += 1).or_insert_with(first).await?;
    /// }
    /// assert_eq!(sessions.get(&key).await?.expect("written").visits, 3);
    ///
    /// let mut own = 0;
    /// let stored = sessions
    ///     .modify(&key, |session| {
    ///         session.visits += 1;
    ///         own = session.visits;
    ///     })
    ///     .await?;
    /// assert!(own == 4 && stored.visits >= own);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound` without [`or_insert_with`](Modify::or_insert_with) and a record; `KeyChanged`; `RetriesExhausted` with
    /// the attempts and the time that it took. If the outcome is `Unknown`, the closure's change may have been written.
    ///
    /// # Panics
    ///
    /// Only if the closure does; then nothing was written.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether the change is written. It is written once at most.
    pub fn modify<'a, F>(&'a self, key: &'a T::Key, change: F) -> Modify<'a, T, F>
    where
        F: FnMut(&mut T) + Send + 'a,
    {
        Modify { bucket: self, key, change, insert: None, options: Options::default() }
    }

    /// As [`modify`](Self::modify), with a closure that may refuse: its error ends the update and comes back as it is.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Account { id: u64, balance: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let accounts: Bucket<Account> = Store::memory().bucket().await?;
    /// #[derive(Debug, PartialEq)]
    /// struct Overdrawn;
    ///
    /// accounts.put(&Account { id: 7, balance: 3 }).await?;
    /// let error = accounts
    ///     .try_modify(&AccountKey::new(7), |account| {
    ///         account.balance = account.balance.checked_sub(5).ok_or(Overdrawn)?;
    ///         Ok::<_, Overdrawn>(())
    ///     })
    ///     .await
    ///     .unwrap_err();
    /// assert!(matches!(error, ModifyError::Closure(Overdrawn)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ModifyError::Closure`] with the closure's own; else as of `modify`.
    ///
    /// # Cancel safety
    ///
    /// As of `modify`.
    pub fn try_modify<'a, F, E>(&'a self, key: &'a T::Key, change: F) -> TryModify<'a, T, F>
    where
        F: FnMut(&mut T) -> Result<(), E> + Send + 'a,
    {
        TryModify { bucket: self, key, change, insert: None, options: Options::default() }
    }

    /// Makes of the record of a key, or of its absence, whatever a closure says; the closure runs again on the newest
    /// record whenever another writer came between.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "{id}")]
    /// # struct Session { id: u64, visits: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let sessions: Bucket<Session> = Store::memory().bucket().await?;
    /// # sessions.put(&Session { id: 7, visits: 101 }).await?;
    /// let left = sessions
    ///     .transform(&SessionKey::new(7), |session| match session {
    ///         Some(session) if session.visits > 100 => Change::Delete,
    ///         Some(session) => Change::Put(Session { visits: session.visits + 1, ..session }),
    ///         None => Change::Keep,
    ///     })
    ///     .await?;
    /// assert_eq!(left, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `KeyChanged` if the closure gives a record of another key; `RetriesExhausted`.
    ///
    /// # Cancel safety
    ///
    /// As of `modify`.
    pub fn transform<'a, F>(&'a self, key: &'a T::Key, change: F) -> Transform<'a, T, F>
    where
        F: FnMut(Option<T>) -> Change<T> + Send + 'a,
    {
        Transform { bucket: self, key, change, options: Options::default() }
    }

    /// The verbs of this file, over the loop: decode, change, compare, encode.
    async fn change<E: From<Error>>(
        &self,
        operation: &'static str,
        key: &T::Key,
        options: Options,
        mut change: impl FnMut(Option<T>) -> Result<Change<T>, E>,
    ) -> Result<Option<Entry<T>>, E> {
        let encoded = key.encode().map_err(|error| self.bad_key(operation, error))?;
        let located = |error: Error| E::from(error.within(operation, self.name(), Some(encoded.as_str())));
        let Options { max_attempts, timeout, ttl, footing } = options;
        let limits = Limits { attempts: max_attempts, deadline: self.deadline(timeout), footing };
        let ttl = check_ttl(self.config(), ttl).map_err(located)?;
        let decide = |newest: Option<&RawEntry>| {
            let current = newest.map_or(Ok(None), decode::entry::<T>).map_err(located)?;
            let Some(entry) = current else {
                return match change(None)? {
                    Change::Put(value) => put(key, value, None, ttl).map_err(located),
                    Change::Keep | Change::Delete | Change::Purge => Ok(Decision::Stop { result: None }),
                };
            };
            // Compared as bytes of the same value before and after, so a map's order or a foreign client's spelling
            // is no change.
            let before = decode::encode_unverified(&entry.value).map_err(located)?;
            let Entry { value, key: _, revision: _, created, ttl: kept, pending: _ } = entry;
            match change(Some(value))? {
                Change::Keep => {
                    let unchanged = newest.map_or(Ok(None), decode::entry::<T>).map_err(located)?;
                    // A TTL that was asked for is a change.
                    match (ttl, unchanged) {
                        (Some(_), Some(entry)) => {
                            decode::verify(&entry.value, key.clone(), &before).map_err(located)?;
                            let result = Some(Entry { created: SystemTime::now(), ttl, ..entry });
                            Ok(Decision::Write { kind: WriteKind::Put(before), ttl, result })
                        }
                        (_, result) => Ok(Decision::Stop { result }),
                    }
                }
                Change::Put(value) => {
                    let decision = put(key, value, Some(&before), ttl.or(kept)).map_err(located)?;
                    match decision {
                        // Nothing changed; but a TTL that was asked for is a change.
                        Decision::Stop { result: Some(entry) } if ttl.is_none() => {
                            // Different values can share their bytes: `None` and `Some(None)` in JSON.
                            if let Some(stored) = newest.map_or(Ok(None), decode::entry::<T>).map_err(located)? {
                                decode::verify_same(&entry.value, &stored.value).map_err(located)?;
                            }
                            Ok(Decision::Stop { result: Some(Entry { created, ..entry }) })
                        }
                        Decision::Stop { result } => {
                            if let Some(entry) = &result {
                                decode::verify(&entry.value, key.clone(), &before).map_err(located)?;
                            }
                            Ok(Decision::Write { kind: WriteKind::Put(before), ttl, result })
                        }
                        write => Ok(write),
                    }
                }
                Change::Delete => Ok(Decision::Write { kind: WriteKind::Delete, ttl: None, result: None }),
                Change::Purge => Ok(Decision::Write { kind: WriteKind::Purge, ttl: None, result: None }),
            }
        };
        let done = match limits.footing {
            // What another record decides is not shared.
            Some(_) => self.compare_and_set(operation, &encoded, First::Read, limits, decide).await?,
            None => self.change_in_turn(operation, &encoded, limits, decide).await?,
        };
        let revision = done.revision;
        Ok(done.result.map(|entry| Entry { revision, ..entry }))
    }
}

/// The decision to write `value`; to stop, if its bytes are those of `before`.
fn put<T: KvModel>(
    key: &T::Key,
    value: T,
    before: Option<&bytes::Bytes>,
    ttl: Option<Ttl>,
) -> Result<Decision<Option<Entry<T>>>> {
    if value.key() != *key {
        return Err(Error::new(ErrorKind::KeyChanged).of_model::<T>());
    }
    let after = decode::encode_unverified(&value)?;
    let changed = before != Some(&after);
    if changed {
        decode::verify(&value, key.clone(), &after)?;
    }
    let (revision, created, pending) = (Revision::ZERO, SystemTime::now(), Pending::UNKNOWN);
    let entry = Entry { value, key: key.clone(), revision, created, ttl, pending };
    let result = Some(entry);
    Ok(if changed { Decision::Write { kind: WriteKind::Put(after), ttl, result } } else { Decision::Stop { result } })
}

type Insert<'a, T> = Box<dyn FnMut() -> T + Send + 'a>;

/// A change of a record; see [`Bucket::modify`].
#[must_use = "nothing is changed until it is awaited"]
pub struct Modify<'a, T: KvModel, F> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    change: F,
    insert: Option<Insert<'a, T>>,
    options: Options,
}

/// A change that may be refused; see [`Bucket::try_modify`].
#[must_use = "nothing is changed until it is awaited"]
pub struct TryModify<'a, T: KvModel, F> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    change: F,
    insert: Option<Insert<'a, T>>,
    options: Options,
}

/// A change of a record or of its absence; see [`Bucket::transform`].
#[must_use = "nothing is changed until it is awaited"]
pub struct Transform<'a, T: KvModel, F> {
    bucket: &'a Bucket<T>,
    key: &'a T::Key,
    change: F,
    options: Options,
}

macro_rules! options {
    ($($verb:ident)*) => {$(
        impl<T: KvModel, F> $verb<'_, T, F> {
            /// How often it is tried at most; 100 times by default. Zero counts as one.
            ///
            /// The waits between 100 attempts take 1.3 s at most in all. An update that must win against more than some
            /// dozens of connections needs more attempts, and [`timeout`](Self::timeout) limits it as well.
            pub fn max_attempts(mut self, attempts: u32) -> Self {
                self.options.max_attempts = Some(attempts);
                self
            }

            /// How long it may take in all; the store's time by default.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.options.timeout = Some(timeout);
                self
            }

            /// How long the record lives from now: one second at least, and rounded up to whole ones. A TTL that is asked for is
            /// written even if the closure changes nothing. One that is longer than the bucket's is refused as `InvalidConfig`.
            pub fn ttl(mut self, ttl: Duration) -> Self
            where
                T: SingleRevision,
            {
                self.options.ttl = Some(ttl);
                self
            }

            /// Only while another record is as it was.
            pub(crate) fn standing_on(mut self, footing: Footing) -> Self {
                self.options.footing = footing;
                self
            }
        }

        impl<T: KvModel, F> fmt::Debug for $verb<'_, T, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($verb))
                    .field("bucket", self.bucket)
                    .field("key", self.key)
                    .field("options", &self.options)
                    .finish_non_exhaustive()
            }
        }
    )*};
}

options!(Modify TryModify Transform);

macro_rules! or_insert_with {
    ($($verb:ident)*) => {$(
        impl<'a, T: KvModel, F> $verb<'a, T, F> {
            /// The record to write where there is none. The changing closure does not run on it.
            pub fn or_insert_with(mut self, insert: impl FnMut() -> T + Send + 'a) -> Self {
                self.insert = Some(Box::new(insert));
                self
            }
        }
    )*};
}

or_insert_with!(Modify TryModify);

/// What `modify` makes of a record or of its absence.
fn modified<T: KvModel, E: From<Error>>(
    current: Option<T>,
    insert: Option<&mut Insert<'_, T>>,
    change: impl FnOnce(&mut T) -> Result<(), E>,
) -> Result<Change<T>, E> {
    match (current, insert) {
        (Some(mut value), _) => {
            change(&mut value)?;
            Ok(Change::Put(value))
        }
        (None, Some(insert)) => Ok(Change::Put(insert())),
        (None, None) => Err(Error::new(ErrorKind::NotFound).into()),
    }
}

impl<'a, T, F> IntoFuture for Modify<'a, T, F>
where
    T: KvModel,
    F: FnMut(&mut T) + Send + 'a,
{
    type Output = Result<Entry<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { bucket, key, mut change, mut insert, options } = self;
        Box::pin(async move {
            let changed = bucket.change("modify", key, options, |current| {
                modified::<T, Error>(current, insert.as_mut(), |value| {
                    change(value);
                    Ok(())
                })
            });
            let changed = changed.await.and_then(|entry| entry.ok_or_else(|| Error::new(ErrorKind::NotFound)));
            changed.map_err(|error| error.within("modify", bucket.name(), Some(&key.to_string())))
        })
    }
}

impl<'a, T, F, E> IntoFuture for TryModify<'a, T, F>
where
    T: KvModel,
    F: FnMut(&mut T) -> Result<(), E> + Send + 'a,
    E: Send + 'a,
{
    type Output = Result<Entry<T>, ModifyError<E>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { bucket, key, mut change, mut insert, options } = self;
        Box::pin(async move {
            let changed = bucket.change("try_modify", key, options, |current| {
                modified(current, insert.as_mut(), |value| change(value).map_err(ModifyError::Closure))
            });
            let changed = changed.await.and_then(|entry| entry.ok_or_else(|| Error::new(ErrorKind::NotFound).into()));
            changed.map_err(|error| match error {
                ModifyError::Kv(error) => {
                    ModifyError::Kv(error.within("try_modify", bucket.name(), Some(&key.to_string())))
                }
                closure => closure,
            })
        })
    }
}

impl<'a, T, F> IntoFuture for Transform<'a, T, F>
where
    T: KvModel,
    F: FnMut(Option<T>) -> Change<T> + Send + 'a,
{
    type Output = Result<Option<Entry<T>>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { bucket, key, mut change, options } = self;
        Box::pin(
            async move { bucket.change("transform", key, options, |current| Ok::<_, Error>(change(current))).await },
        )
    }
}
