//! `transact`: a closure that reads and writes, and runs again until what it read is what is there.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::abort::{Abort, TransactError};
use super::crowd::{Attended, Crowd, Pulse};
use super::members::Members;
use super::tx::{OPERATION, Run, Tx, View};
use crate::backend::{Backoff, Deadline, Read, start};
use crate::bucket::{Attempts, Bucket};
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::revision::Revision;

impl<T: KvModel> Bucket<T> {
    /// Runs a closure that reads and writes records of this bucket, and applies what it wrote all or nothing, if everything
    /// that it read is still as it was; else it runs again.
    ///
    /// The result is serializable: as if every such transaction, and every other write, came one after the other. A key
    /// that was read and is not written is looked at in the commit, too. A closure that writes nothing is validated by
    /// reading again at the leader what it read (one key needs no second look). An error of the closure comes back only if
    /// what it had read was true at one moment. While it runs, what it has read of several keys may be of several moments:
    /// it must not panic over that, and nothing it does beyond the transaction is undone.
    ///
    /// Those of one process that met each other once take turns, so that they do not send what is bound to be refused: a
    /// server with file storage that is not replicated takes 3 to 20 ms for a batch, one after the other, refused or not.
    /// It is therefore not the tool for hundreds of changes of the same record a second: that is [`modify`](Self::modify).
    ///
    /// The closure takes by value what it names, so name references in it. Any error goes through `?`.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    /// # #[kv(key = "account.{name}")]
    /// # struct Account { name: String, balance: u64 }
    /// # #[derive(Debug)]
    /// # struct NoAccount;
    /// # impl std::fmt::Display for NoAccount {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("no account") }
    /// # }
    /// # impl std::error::Error for NoAccount {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// # let accounts: Bucket<Account> = Store::memory().bucket().await?;
    /// # accounts.put(&Account { name: "ada".into(), balance: 9 }).await?;
    /// # accounts.put(&Account { name: "bob".into(), balance: 0 }).await?;
    /// let (ada, bob) = (&AccountKey::new("ada"), &AccountKey::new("bob"));
    /// let left = accounts.transact(|tx| async move {
    ///     let mut from = tx.get(ada).await?.ok_or(NoAccount)?;
    ///     let mut to = tx.get(bob).await?.ok_or(NoAccount)?;
    ///     (from.balance, to.balance) = (from.balance - 5, to.balance + 5);
    ///     tx.put(&from)?;
    ///     tx.put(&to)?;
    ///     Ok(from.balance)
    /// });
    /// assert_eq!(left.await?, 4);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TransactError::Closure`] with the closure's own, as it was. [`TransactError::Kv`] with `RetriesExhausted` if other
    /// writers came first too often, and otherwise as of [`Transaction::commit`](super::Transaction::commit). If the outcome
    /// is `Unknown`, all that the last run wrote was applied, or nothing.
    ///
    /// # Panics
    ///
    /// Only if the closure does; then nothing was written.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it ends leaves it unknown whether all that the closure wrote is applied, or nothing. It is
    /// applied once at most.
    pub fn transact<F, Fut, R>(&self, closure: F) -> Transact<'_, T, F>
    where
        F: FnMut(Tx<T>) -> Fut + Send,
        Fut: Future<Output = Result<R, Abort>> + Send,
    {
        Transact { bucket: self, closure, max_attempts: None, timeout: None }
    }
}

/// A transaction by a closure; see [`Bucket::transact`].
#[must_use = "nothing is read or written until it is awaited"]
pub struct Transact<'a, T, F> {
    bucket: &'a Bucket<T>,
    closure: F,
    max_attempts: Option<u32>,
    timeout: Option<Duration>,
}

impl<T: KvModel, F> Transact<'_, T, F> {
    /// How often the closure runs at most; 100 times by default. Zero counts as one. The second run does not
    /// wait, and each later one waits 16 ms at most.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// How long it may take in all; the store's time by default. A closure that runs is not cut short.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run<Fut, R>(self, pulse: Arc<Pulse>) -> Result<R, TransactError>
    where
        F: FnMut(Tx<T>) -> Fut,
        Fut: Future<Output = Result<R, Abort>>,
    {
        let Self { bucket, mut closure, max_attempts, timeout } = self;
        let mut attempts = Attempts::new(max_attempts);
        let deadline = bucket.deadline(timeout);
        let raw = bucket.raw(OPERATION)?;
        // A stale read costs a run, and where there is one server there is none.
        let read = if bucket.config().replicas == Some(1) { Read::Any } else { Read::Leader };
        let mut backoff = Backoff::contention_of_batches();
        let crowd = bucket.shared::<Crowd>();
        let mut turn = None;
        loop {
            if attempts.any() && turn.is_none() {
                turn = Arc::clone(&crowd).enter(Arc::clone(&pulse), deadline).await;
            }
            let run = Run::new(raw.clone(), Members::of::<T>(), read, deadline);
            let result = closure(Tx::new(&run)).await;
            let view = run.end();
            view.read.values().flatten().for_each(|entry| bucket.met(entry));
            let conflict = match result {
                Ok(value) => match bucket.conclude_among(&crowd, turn.is_some(), view, deadline).await {
                    Ok(()) => return Ok(value),
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => error,
                    Err(error) => return Err(error.into()),
                },
                Err(abort) => match bucket.look_again(&view, deadline).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => error,
                    Ok(()) | Err(_) => return Err(abort.into()),
                },
            };
            attempts.lost(conflict, deadline)?;
            if !backoff.pause(deadline).await {
                return Err(attempts.explain(deadline.error()).into());
            }
        }
    }
}

impl<T: KvModel> Bucket<T> {
    /// Applies what was written, if what was read is still so, with regard to others of this process.
    async fn conclude_among(&self, crowd: &Arc<Crowd>, has_turn: bool, view: View, deadline: Deadline) -> Result<()> {
        if has_turn || view.writes_nothing() {
            return self.conclude(&view, deadline).await;
        }
        let (bucket, crowd) = (self.clone(), Arc::clone(crowd));
        let work = async move {
            // It is never closed.
            let _sending = deadline.bound(crowd.sending.acquire()).await?;
            if crowd.is_busy() {
                bucket.look_again(&view, deadline).await?;
            }
            bucket.conclude(&view, deadline).await
        };
        let closed = || Err(Error::new(ErrorKind::Closed).unknown_outcome());
        start(work).await.output().await.unwrap_or_else(closed)
    }

    /// Applies what was written, if what was read is still so.
    async fn conclude(&self, view: &View, deadline: Deadline) -> Result<()> {
        if view.writes_nothing() {
            return if view.read.len() < 2 { Ok(()) } else { self.look_again(view, deadline).await };
        }
        let batch = view.batch();
        for guard in batch.checks.iter().filter(|guard| guard.revision > Revision::ZERO) {
            self.check_incarnation(&guard.key, guard.revision, deadline).await?;
        }
        let ids: Vec<_> = batch.writes.iter().map(|write| write.id.clone()).collect();
        match self.raw(OPERATION)?.commit(batch, deadline).await {
            Ok(revisions) => {
                revisions.into_iter().zip(&ids).for_each(|(revision, id)| {
                    self.wrote(revision, id);
                });
                Ok(())
            }
            Err(error) => Err(self.explain(error, deadline).await),
        }
    }

    /// Whether what was read still is so, at the leader; then all of it was true at the moment of the last read.
    async fn look_again(&self, view: &View, deadline: Deadline) -> Result<()> {
        let guards = view.guards();
        let keys: Vec<_> = guards.iter().map(|guard| guard.key.clone()).collect();
        let found = self.raw(OPERATION)?.read_many(&keys, Read::Leader, deadline).await?;
        for (guard, entry) in guards.into_iter().zip(found) {
            let (expected, actual) = (guard.revision, entry.map_or(Revision::ZERO, |entry| entry.revision));
            if expected != actual {
                let kind = ErrorKind::Conflict { expected, actual: Some(actual) };
                return Err(Error::new(kind).with_key(guard.key.as_str()));
            }
        }
        Ok(())
    }
}

impl<'a, T, F, Fut, R> IntoFuture for Transact<'a, T, F>
where
    T: KvModel,
    F: FnMut(Tx<T>) -> Fut + Send + 'a,
    Fut: Future<Output = Result<R, Abort>> + Send + 'a,
    R: Send + 'a,
{
    type Output = Result<R, TransactError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let pulse = Arc::<Pulse>::default();
        let own = Arc::clone(&pulse);
        let run = async move {
            let bucket = self.bucket;
            self.run(own).await.map_err(|error| match error {
                TransactError::Kv(error) => TransactError::Kv(error.within(OPERATION, bucket.name(), None)),
                closure => closure,
            })
        };
        Box::pin(Attended::new(pulse, Box::pin(run)))
    }
}

impl<T, F> fmt::Debug for Transact<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transact")
            .field("bucket", self.bucket)
            .field("max_attempts", &self.max_attempts)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
