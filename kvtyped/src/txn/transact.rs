//! `transact`: a closure that reads and writes, and runs again until its reads are current.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::declared_model::DeclaredModel;
use super::error::{Abort, TransactError};
use super::gate::{Activity, ContentionGate, Tracked};
use super::tx::{OPERATION, ReadWriteSet, Tx, TxAttempt};
use crate::backend::{Backoff, Deadline, KeySpace, OnDrop, Precondition, Read, detached};
use crate::bucket::{Bucket, CasAttempts};
use crate::config::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::model::KvModel;
use crate::observe::part_of_operation;
use crate::revision::Revision;

impl<T: KvModel> Bucket<T> {
    /// Runs a closure that reads and writes records of this bucket. Applies its writes all or nothing if no record that
    /// it read has changed. Otherwise runs the closure again.
    ///
    /// The result is serializable: it is the same as if all such transactions, and all other writes, ran one after
    /// another. The commit also checks keys that were read and not written. A closure that writes nothing is validated
    /// by a second read of its keys at the leader (a single key needs no second read). An error of the closure is
    /// returned only if its reads were consistent at one moment, or if that cannot be checked. While the closure runs,
    /// its reads of several keys may come from several moments. The closure must not panic because of that. Its effects
    /// beyond the transaction are not undone.
    ///
    /// Transactions of one process that have conflicted take turns, so that they do not send batches that would be
    /// refused. A server with unreplicated file storage takes 3 to 20 ms for a batch, one after another, refused or
    /// not. So this is not the tool for hundreds of changes of the same record in a second: use
    /// [`modify`](Self::modify).
    ///
    /// The `async move` block of the closure captures variables by value, so bind references first. Any error converts
    /// with `?`.
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
    /// Returns [`TransactError::Closure`] with the unchanged error of the closure. Returns [`TransactError::Kv`] with
    /// `RetriesExhausted` if other writers won too often, and otherwise with the errors of
    /// [`Transaction::commit`](super::Transaction::commit). If the outcome is `Unknown`, either all writes of the last
    /// run were applied, or none.
    ///
    /// # Panics
    ///
    /// Panics only if the closure panics. Nothing is written in that case.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, either all writes of the closure are applied, or none. They are applied at most once.
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
    /// Sets the maximum number of runs of the closure; 100 by default. Zero counts as one. The second run does not wait,
    /// and each later one waits 16 ms at most.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Sets the total time limit; the bucket's timeout by default. A running closure is not interrupted.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run<Fut, R>(self, activity: Arc<Activity>) -> Result<R, TransactError>
    where
        F: FnMut(Tx<T>) -> Fut,
        Fut: Future<Output = Result<R, Abort>>,
    {
        let Self { bucket, mut closure, max_attempts, timeout } = self;
        let mut attempts = CasAttempts::new(max_attempts);
        let deadline = bucket.deadline(timeout);
        let raw = bucket.raw(OPERATION)?;
        // A stale read costs a run. With a single server no read is stale.
        let read = if bucket.config().replicas == Some(1) { Read::Any } else { Read::Leader };
        let mut backoff = Backoff::contention_of_batches();
        let gate = bucket.shared::<ContentionGate>();
        let mut pass = None;
        loop {
            if attempts.has_lost() && pass.is_none() {
                pass = Arc::clone(&gate).acquire(Arc::clone(&activity), deadline).await;
            }
            bucket.follow_switch(deadline).await?;
            let run = TxAttempt::new(raw.clone(), bucket.schema(), DeclaredModel::new::<T>(), read, deadline);
            let result = closure(Tx::new(&run)).await;
            let view = Arc::new(run.read_write_set());
            view.read.values().flatten().for_each(|entry| bucket.record_read(entry));
            let conflict = match result {
                Ok(value) => match bucket.commit_gated(&gate, pass.is_some(), &view, deadline).await {
                    Ok(()) => return Ok(value),
                    Err(error) if error.is_stale_schema() || matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                        error
                    }
                    // The closure may have looked the value up before its owner took it.
                    Err(error) if matches!(error.kind(), ErrorKind::NotUnique { .. }) => {
                        match bucket.validate_reads(&view, deadline).await {
                            Err(conflict) if matches!(conflict.kind(), ErrorKind::Conflict { .. }) => conflict,
                            Ok(()) | Err(_) => return Err(error.into()),
                        }
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(abort) => match bucket.validate_reads(&view, deadline).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => error,
                    Ok(()) | Err(_) => return Err(abort.into()),
                },
            };
            attempts.record_conflict(conflict, deadline)?;
            if !backoff.pause(deadline).await {
                return Err(attempts.explain_timeout(deadline.error()).into());
            }
        }
    }
}

impl<T: KvModel> Bucket<T> {
    /// Applies the writes if the reads are current, with regard to other transactions of this process.
    async fn commit_gated(
        &self,
        gate: &Arc<ContentionGate>,
        has_pass: bool,
        view: &Arc<ReadWriteSet>,
        deadline: Deadline,
    ) -> Result<()> {
        if has_pass || view.is_read_only() {
            return self.commit_attempt(view, deadline).await;
        }
        // One server with file storage processes one batch after another, so a second sender gains nothing, and its refused
        // batch costs as much as an applied one.
        let config = self.config();
        let is_slow = config.replicas == Some(1) && config.storage != Some(Storage::Memory);
        let permits = if is_slow { ContentionGate::MAX_SENDERS } else { 1 };
        let (bucket, gate, view) = (self.clone(), Arc::clone(gate), Arc::clone(view));
        let work = async move {
            // The semaphore is never closed.
            let _sending = deadline.timeout(gate.sending.acquire_many(permits)).await?;
            if gate.is_busy() {
                bucket.validate_reads(&view, deadline).await?;
            }
            bucket.commit_attempt(&view, deadline).await
        };
        let closed = || Err(Error::new(ErrorKind::Closed).unknown_outcome());
        detached(part_of_operation(work), OnDrop::Continue).await.unwrap_or_else(closed)
    }

    /// Applies the writes if the reads are current.
    async fn commit_attempt(&self, view: &ReadWriteSet, deadline: Deadline) -> Result<()> {
        if view.is_read_only() {
            return if view.reads() < 2 { Ok(()) } else { self.validate_reads(view, deadline).await };
        }
        if view.is_indexed() {
            return self.commit_records(view, deadline).await;
        }
        let batch = view.batch();
        let records = batch.preconditions.iter().filter(|precondition| precondition.space == KeySpace::Records);
        for precondition in records.filter(|precondition| precondition.revision > Revision::ZERO) {
            self.check_identity(&precondition.key, precondition.revision, deadline).await?;
        }
        let ids: Vec<_> = batch.writes.iter().map(|write| write.id.clone()).collect();
        self.raw(OPERATION)?;
        match self.commit_batch(batch, &view.targets(), deadline).await {
            Ok(revisions) => {
                revisions.into_iter().zip(&ids).for_each(|(revision, id)| {
                    self.record_write(revision, id);
                });
                Ok(())
            }
            Err(error) => Err(self.explain_conflict(error, deadline).await),
        }
    }

    /// Commits the writes with the index entries of their records.
    async fn commit_records(&self, view: &ReadWriteSet, deadline: Deadline) -> Result<()> {
        let raw = self.raw(OPERATION)?;
        let keys = view.unread();
        let entries = raw.read_many(KeySpace::Records, &keys, Read::Leader, deadline).await?;
        let records = view.records(&keys.into_iter().zip(entries).collect());
        let preconditions = view.read_preconditions();
        for precondition in
            preconditions.iter().filter(|check| check.space == KeySpace::Records && check.revision > Revision::ZERO)
        {
            self.check_identity(&precondition.key, precondition.revision, deadline).await?;
        }
        match self.commit_indexed(records, preconditions, &view.targets(), deadline).await {
            Ok(written) => {
                written.iter().for_each(|(revision, id)| {
                    self.record_write(*revision, id);
                });
                Ok(())
            }
            Err(error) => Err(self.explain_conflict(error, deadline).await),
        }
    }

    /// Checks at the leader that the reads are current. Then all of them were current at the moment of the last read.
    async fn validate_reads(&self, view: &ReadWriteSet, deadline: Deadline) -> Result<()> {
        let raw = self.raw(OPERATION)?;
        let reads = view.read_preconditions();
        for space in [KeySpace::Index, KeySpace::Records] {
            let reads = || reads.iter().filter(|read| read.space == space);
            let keys: Vec<_> = reads().map(|read| read.key.clone()).collect();
            let found = raw.read_many(space, &keys, Read::Leader, deadline).await?;
            for (Precondition { key, revision: expected, .. }, entry) in reads().zip(found) {
                let actual = entry.map_or(Revision::ZERO, |entry| entry.revision);
                if *expected != actual {
                    let error = Error::new(ErrorKind::Conflict { expected: *expected, actual: Some(actual) });
                    return Err(space.name_key(error, key));
                }
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
        let bucket = self.bucket;
        let activity = Arc::<Activity>::default();
        let own = Arc::clone(&activity);
        let run = async move {
            self.run(own).await.map_err(|error| match error {
                TransactError::Kv(error) => TransactError::Kv(error.with_context(OPERATION, bucket.name(), None)),
                closure => closure,
            })
        };
        bucket.observe(OPERATION, Box::pin(Tracked::new(activity, Box::pin(run))))
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
