//! `modify`, `try_modify`, `transform`: optimistic concurrency by closures.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::decision::{CasDecision, CasLimits, CasStart};
use super::outcome::{Change, ModifyError};
use crate::backend::{RawEntry, WriteKind};
use crate::bucket::clock::BucketClock;
use crate::bucket::content::Content;
use crate::bucket::decode::{self, Unverified};
use crate::bucket::entry::Entry;
use crate::bucket::entry::Pending;
use crate::bucket::handle::Bucket;
use crate::bucket::precondition::FenceResult;
use crate::bucket::schema_state::BucketSchema;
use crate::bucket::write::{check_kept_ttl, check_ttl};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ModelKey;
use crate::model::{KvModel, SingleRevision};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// The options of `modify`, `try_modify` and `transform`.
#[derive(Debug, Default)]
struct Options {
    max_attempts: Option<u32>,
    timeout: Option<Duration>,
    ttl: Option<Duration>,
    fence: FenceResult,
}

impl<T: KvModel> Bucket<T> {
    /// Changes the record of a key with a closure. If another writer changes the record first, the closure runs again
    /// on the newest record.
    ///
    /// Changes of one record that wait for each other in this process do not conflict. They are applied one after
    /// another and, if the bucket keeps one revision of each key, stored by one write. Each caller gets the record as
    /// it was stored, which may contain changes that were applied after its own. If the caller needs the result of its
    /// own closure, the closure can store it in a variable: the last run of the closure is the stored one.
    ///
    /// A conflict with a writer on another connection runs the closure again: at once for the first 16 conflicts, and
    /// after a wait of at most 16 ms for each later one. A writer that had to wait and then wins leaves the record to the
    /// others for up to 32 ms before its next change.
    ///
    /// A closure that changes nothing writes nothing. A record with a TTL keeps this TTL, restarted by the write,
    /// unless [`ttl`](Modify::ttl) sets another one. The closure must not change a field of the key. A missing record is
    /// an error, unless [`or_insert_with`](Modify::or_insert_with) gives the record to write: it is written as it is,
    /// without the change.
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
    /// Returns `NotFound` if the key has no record and [`or_insert_with`](Modify::or_insert_with) is not given. Returns
    /// `KeyChanged` if the closure changes the key, and `RetriesExhausted`, with the number of attempts and the elapsed
    /// time, if other writers always come first. Returns [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the
    /// record has a TTL and the bucket keeps a `history`, as [`touch`](Self::touch) does. If the outcome is `Unknown`, the
    /// change of the closure may have been written.
    ///
    /// # Panics
    ///
    /// Panics if the closure panics. Nothing is written then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the change may or may not be written. It is written at most once.
    pub fn modify<'a, F>(&'a self, key: &'a T::Key, change: F) -> Modify<'a, T, F>
    where
        F: FnMut(&mut T) + Send + 'a,
    {
        Modify { bucket: self, key, change, insert: None, options: Options::default() }
    }

    /// Changes a record like [`modify`](Self::modify), with a closure that can fail. An error of the closure ends the
    /// update and is returned unchanged.
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
    /// Returns [`ModifyError::Closure`] with the error of the closure. Otherwise returns the errors of `modify`.
    ///
    /// # Cancel safety
    ///
    /// As for `modify`.
    pub fn try_modify<'a, F, E>(&'a self, key: &'a T::Key, change: F) -> TryModify<'a, T, F>
    where
        F: FnMut(&mut T) -> Result<(), E> + Send + 'a,
    {
        TryModify { bucket: self, key, change, insert: None, options: Options::default() }
    }

    /// Replaces, creates or removes the record of a key, as the closure decides from the newest record or its absence.
    /// If another writer changes the record first, the closure runs again on the newest record.
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
    /// Returns `KeyChanged` if the closure returns a record of another key. Returns `RetriesExhausted` if other writers
    /// always come first.
    ///
    /// # Cancel safety
    ///
    /// As for `modify`.
    pub fn transform<'a, F>(&'a self, key: &'a T::Key, change: F) -> Transform<'a, T, F>
    where
        F: FnMut(Option<T>) -> Change<T> + Send + 'a,
    {
        Transform { bucket: self, key, change, options: Options::default() }
    }

    /// Implements the three operations: decodes the record, runs the closure, compares the result and encodes it.
    async fn change<E: From<Error>>(
        &self,
        operation: &'static str,
        key: &T::Key,
        options: Options,
        mut change: impl FnMut(Option<T>) -> Result<Change<T>, E>,
    ) -> Result<Option<Entry<T>>, E> {
        let encoded = key.encode().map_err(|error| self.bad_key(operation, error))?;
        let located = |error: Error| E::from(error.with_context(operation, self.name(), Some(encoded.as_str())));
        let Options { max_attempts, timeout, ttl, fence } = options;
        let limits = CasLimits { attempts: max_attempts, deadline: self.deadline(timeout), fence };
        let ttl = check_ttl(self.config(), ttl).map_err(located)?;
        self.follow_switch(limits.deadline).await.map_err(located)?;
        let decoded = |entry: &RawEntry| decode::entry::<T>(entry, self.clock());
        let mut decide = |newest: Option<&RawEntry>| {
            let schema = self.schema();
            let current = newest.map_or(Ok(None), decoded).map_err(located)?;
            let Some(entry) = current else {
                return match change(None)? {
                    Change::Put(value) => put(key, value, (&schema, self.clock()), None, ttl).map_err(located),
                    Change::Keep | Change::Delete | Change::Purge => Ok(CasDecision::Stop { result: None }),
                };
            };
            // Compare the encoded bytes of the same value before and after the closure. The order of a map or the
            // formatting of another client is then not a change.
            let before = Unverified::new(&entry.value, &schema, Some(entry.version)).map_err(located)?;
            let Entry {
                value,
                key: _,
                revision: _,
                created,
                ttl: kept,
                version,
                is_rewrite,
                pending: _,
                headers: _,
                clock: _,
            } = entry;
            match change(Some(value))? {
                Change::Keep => {
                    let unchanged = newest.map_or(Ok(None), decoded).map_err(located)?;
                    // A requested TTL is a change.
                    match (ttl, unchanged) {
                        (Some(_), Some(entry)) => {
                            let version = before.version();
                            let content = before.verify(&entry.value, key.clone()).map_err(located)?.with_ttl(ttl);
                            let (created, is_rewrite) = (self.clock().now(), false);
                            let result = Some(Entry { created, ttl, version, is_rewrite, ..entry });
                            Ok(CasDecision::Write { content, result })
                        }
                        (_, result) => Ok(CasDecision::Stop { result }),
                    }
                }
                Change::Put(value) => {
                    let decision = put(key, value, (&schema, self.clock()), Some((version, &before)), ttl.or(kept))
                        .map_err(located)?;
                    match decision {
                        // The value is unchanged, but a requested TTL is a change.
                        CasDecision::Stop { result: Some(entry) } if ttl.is_none() => {
                            // Different values can have the same bytes, for example `None` and `Some(None)` in JSON.
                            if let Some(stored) = newest.map_or(Ok(None), decoded).map_err(located)? {
                                decode::verify_same(&entry.value, &stored.value).map_err(located)?;
                            }
                            Ok(CasDecision::Stop { result: Some(Entry { created, version, is_rewrite, ..entry }) })
                        }
                        CasDecision::Stop { result: Some(entry) } => {
                            let content = before.verify(&entry.value, key.clone()).map_err(located)?.with_ttl(ttl);
                            Ok(CasDecision::Write { content, result: Some(entry) })
                        }
                        write => {
                            if ttl.is_none() {
                                check_kept_ttl(self.config(), kept).map_err(located)?;
                            }
                            Ok(write)
                        }
                    }
                }
                Change::Delete => remove::<T>(WriteKind::Delete, &schema).map_err(located),
                Change::Purge => remove::<T>(WriteKind::Purge, &schema).map_err(located),
            }
        };
        let decide = |newest: Option<&RawEntry>| decide(newest).map(|decision| keep_headers(decision, newest));
        let done = match limits.fence {
            // A write with a precondition on another record is not part of a group commit.
            Some(_) => self.compare_and_set(operation, &encoded, CasStart::Read, limits, decide).await?,
            None => self.modify_grouped(operation, &encoded, limits, decide).await?,
        };
        let revision = done.revision;
        Ok(done.result.map(|entry| Entry { revision, ..entry }))
    }
}

/// Returns the decision to write `value`, or to stop if its bytes equal `before`.
fn put<T: KvModel>(
    key: &T::Key,
    value: T,
    (schema, clock): (&BucketSchema, &Arc<BucketClock>),
    before: Option<(u32, &Unverified)>,
    ttl: Option<Ttl>,
) -> Result<CasDecision<Option<Entry<T>>>> {
    if value.key() != *key {
        return Err(Error::new(ErrorKind::KeyChanged).of_model::<T>());
    }
    let after = Unverified::new(&value, schema, before.map(|(found, _)| found))?;
    let (version, stored) = (after.version(), after.as_stored::<T>(key)?);
    let content = match before {
        Some((_, before)) if after.is_same(before) => None,
        _ => Some(after.verify(&value, key.clone())?.with_ttl(ttl)),
    };
    let (revision, created, pending) = (Revision::ZERO, clock.now(), Pending::UNKNOWN);
    let clock = Arc::clone(clock);
    let result = Some(Entry {
        // An earlier version may lack fields, which are then not stored.
        value: stored.unwrap_or(value),
        key: key.clone(),
        revision,
        created,
        ttl,
        version,
        is_rewrite: false,
        pending,
        headers: None,
        clock,
    });
    Ok(match content {
        Some(content) => CasDecision::Write { content, result },
        None => CasDecision::Stop { result },
    })
}

/// Returns the decision with the headers of the raw record that it is based on.
fn keep_headers<T: KvModel>(
    mut decision: CasDecision<Option<Entry<T>>>,
    newest: Option<&RawEntry>,
) -> CasDecision<Option<Entry<T>>> {
    let Some(headers) = decode::kept_headers::<T>(newest) else { return decision };
    match &mut decision {
        CasDecision::Write { content, .. } if !content.is_put() => {}
        CasDecision::Write { content, result } => {
            if let Some(entry) = result {
                entry.set_headers(&headers);
            }
            content.headers = headers;
        }
        CasDecision::Stop { result } => {
            if let (Some(entry), Some(found)) = (result, newest) {
                entry.set_headers(&found.headers);
            }
        }
    }
    decision
}

/// Returns the decision to remove the record.
fn remove<T: KvModel>(kind: WriteKind, schema: &BucketSchema) -> Result<CasDecision<Option<Entry<T>>>> {
    Ok(CasDecision::Write { content: Content::removal(kind, schema.target::<T>()?), result: None })
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

/// A change whose closure can fail; see [`Bucket::try_modify`].
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
            /// Sets the maximum number of attempts. Default: 100. Zero counts as one.
            ///
            /// The waits between 100 attempts take at most 1.4 s in total. An update that must win against several dozen
            /// connections needs more attempts and more time, see [`timeout`](Self::timeout).
            pub fn max_attempts(mut self, attempts: u32) -> Self {
                self.options.max_attempts = Some(attempts);
                self
            }

            /// Sets the total timeout. Default: the bucket's timeout.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.options.timeout = Some(timeout);
                self
            }

            /// Sets the TTL of the record, counted from this write: at least one second, rounded up to whole seconds.
            /// The TTL is written even if the closure changes nothing. A TTL longer than the bucket's `ttl` is refused
            /// as `InvalidConfig`.
            pub fn ttl(mut self, ttl: Duration) -> Self
            where
                T: SingleRevision,
            {
                self.options.ttl = Some(ttl);
                self
            }

            /// Writes only if another record is unchanged.
            pub(crate) fn with_fence(mut self, fence: FenceResult) -> Self {
                self.options.fence = fence;
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
            /// Sets the record to write if the key has none. The changing closure does not run on this record.
            pub fn or_insert_with(mut self, insert: impl FnMut() -> T + Send + 'a) -> Self {
                self.insert = Some(Box::new(insert));
                self
            }
        }
    )*};
}

or_insert_with!(Modify TryModify);

/// Returns the change that `modify` makes of a record or of its absence.
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
        let work = Box::pin(async move {
            let changed = bucket.change("modify", key, options, |current| {
                modified::<T, Error>(current, insert.as_mut(), |value| {
                    change(value);
                    Ok(())
                })
            });
            let changed = changed.await.and_then(|entry| entry.ok_or_else(|| Error::new(ErrorKind::NotFound)));
            changed.map_err(|error| error.with_context("modify", bucket.name(), Some(&key.to_string())))
        });
        bucket.observe("modify", work)
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
        let work = Box::pin(async move {
            let changed = bucket.change("try_modify", key, options, |current| {
                modified(current, insert.as_mut(), |value| change(value).map_err(ModifyError::Closure))
            });
            let changed = changed.await.and_then(|entry| entry.ok_or_else(|| Error::new(ErrorKind::NotFound).into()));
            changed.map_err(|error| match error {
                ModifyError::Kv(error) => {
                    ModifyError::Kv(error.with_context("try_modify", bucket.name(), Some(&key.to_string())))
                }
                closure => closure,
            })
        });
        bucket.observe("try_modify", work)
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
        let work =
            async move { bucket.change("transform", key, options, |current| Ok::<_, Error>(change(current))).await };
        bucket.observe("transform", Box::pin(work))
    }
}
