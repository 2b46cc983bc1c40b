//! The locks of a bucket as an operator sees them: holders, waiters, changes, and the removal of a holder.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::Stream;
use tokio::time::Instant;

use super::guard::LockHolder;
use super::locks::Locks;
use super::queue_view::{QueuedTicket, ticket_id};
use super::request::{LEASE, RECIPE};
use crate::bucket::{Entries, Entry, Removed};
use crate::error::{Error, Result};
use crate::recipes::context::LeaseBucket;
use crate::recipes::lease::fence::Fence;
use crate::recipes::lease::record::{LeaseRecord, fence_of};
use crate::recipes::lease::remove::remove_lease;
use crate::recipes::lease::wait::is_unreadable;
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::watch::{Event, Events};

impl Locks {
    /// Reads the held locks as a stream of names and holders. A lock that is taken or released during the read may or
    /// may not be included.
    ///
    /// The lock of a record has the record's key as its name: read it through a handle of the same
    /// [`bucket`](Self::bucket).
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let locks = Store::memory().locks("jobs").owner("worker-7").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// let mut held = locks.all().await?;
    /// while let Some((name, holder)) = held.try_next().await? {
    ///     assert_eq!((name.as_str(), holder.owner.as_str()), ("invoice-42", "worker-7"));
    ///     assert!(holder.expires_in <= Duration::from_secs(30));
    /// }
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](crate::ReadBucket::list). A lock whose record is not readable is an `Err` item,
    /// and the stream continues.
    ///
    /// # Cancel safety
    ///
    /// If the future or the stream is dropped, the work on the server ends.
    pub async fn all(&self) -> Result<HeldLocks> {
        let list = async {
            let bucket = self.inspected().await?;
            Ok(HeldLocks { entries: bucket.list(RecipeKey::of_part(RECIPE, LEASE)).await? })
        };
        self.in_operation("all", None, list).await
    }

    /// Returns the waiters of a lock, in the order of their tickets.
    ///
    /// Each process has one waiter for callers without [`fair`](Self::fair), so more tasks may wait. A waiter that died
    /// is included until its ticket expires.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let locks = Store::memory().locks("jobs").owner("worker-7").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// let waiting = tokio::spawn(locks.lock("invoice-42").into_future());
    /// # while locks.waiters("invoice-42").await?.is_empty() { tokio::task::yield_now().await; }
    /// // Once the other task waits:
    /// assert_eq!(locks.waiters("invoice-42").await?[0].owner, "worker-7");
    /// # drop((guard, waiting));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](crate::ReadBucket::list).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work on the server ends.
    pub async fn waiters(&self, name: &str) -> Result<Vec<LockWaiter>> {
        let list = async {
            let bucket = self.inspected().await?;
            let mut records = bucket.list(RecipeKey::parts(RECIPE, name)).await?;
            let (mut tickets, mut holder) = (Vec::new(), String::new());
            while let Some(record) = records.next().await {
                match record {
                    Ok(record) if record.key().part() == LEASE => holder = record.into_value().value.id,
                    Ok(record) if QueuedTicket::from_entry(&record, Instant::now()).is_some() => tickets.push(record),
                    // An unreadable record is not a ticket.
                    Err(error) if !is_unreadable(&error) => return Err(error),
                    _ => {}
                }
            }
            // The first revision of a ticket is its number.
            tickets.sort_by_key(fence_of);
            // The id of a holder that has a ticket begins with the id of the ticket.
            tickets.retain(|ticket| !ticket_id(ticket.key().part()).is_some_and(|id| holder.starts_with(id)));
            Ok(tickets.iter().map(LockWaiter::from_entry).collect())
        };
        self.in_operation("waiters", Some(name), list).await
    }

    /// Watches all locks: the current holders, and then each change of a holder. Renewals are not reported, and a
    /// slow reader may miss short terms.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// use kvtyped::recipes::LockEvent;
    ///
    /// let locks = Store::memory().locks("jobs").await?;
    /// let guard = locks.lock("invoice-42").await?;
    /// let mut events = locks.watch().await?;
    /// while let Some(event) = events.try_next().await? {
    ///     match event {
    ///         LockEvent::Held { name, holder } => println!("{name}: {}", holder.owner),
    ///         LockEvent::Free { name, .. } => println!("{name} is free"),
    ///         LockEvent::Ready => break, // or wait for changes
    ///         _ => {}
    ///     }
    /// }
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The stream yields `Decode` for a lock whose record is not readable, and `BucketNotFound` once if the bucket is
    /// deleted. It continues after both. `PermissionDenied` and `Closed` end the stream.
    ///
    /// # Cancel safety
    ///
    /// If a read of the stream is dropped, no item is lost. If the stream is dropped, the watch on the server ends.
    pub async fn watch(&self) -> Result<LockEvents> {
        let watch = async {
            let bucket = self.inspected().await?;
            let events = bucket.watch(RecipeKey::of_part::<LeaseRecord>(RECIPE, LEASE)).await?;
            Ok(LockEvents { events, held: HashMap::new() })
        };
        self.in_operation("watch", None, watch).await
    }

    /// Takes a lock away from its holder, if the holder's term still has this [`fence`](LockHolder::fence). The lock is
    /// then free. Does nothing if the lock is free already.
    ///
    /// The holder learns of the loss at its next renewal, and may act until then, as after an expiry. Other tasks of
    /// its process can take the lock after that renewal. If the holder must not act, let it write with
    /// [`fenced_by`](crate::bucket::Put::fenced_by), and break the lock of the record: the server refuses its writes at
    /// once.
    ///
    /// ```
    /// # use kvtyped::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), kvtyped::Error> {
    /// let locks = Store::memory().locks("jobs").await?;
    /// let stuck = locks.lock("invoice-42").await?;
    /// let holder = locks.holder("invoice-42").await?.expect("it is held");
    /// locks.break_lock("invoice-42", holder.fence).await?;
    /// assert_eq!(locks.holder("invoice-42").await?, None);
    /// # drop(stuck);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns `Conflict` if another term has begun: nothing is changed. Otherwise returns the errors of a read and of
    /// a purge. Returns `Decode` if the record of the lock is not readable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock may or may not be free.
    pub async fn break_lock(&self, name: &str, fence: Fence) -> Result<()> {
        let remove = async {
            let bucket = self.inspected().await?;
            let ttl = self.options.timing.resolve()?.ttl;
            remove_lease(&bucket, &RecipeKey::new(RECIPE, name, LEASE), fence, ttl).await
        };
        self.in_operation("break_lock", Some(name), remove).await
    }

    async fn inspected(&self) -> Result<LeaseBucket> {
        let bucket = self.bucket.for_leases(self.options.timing.resolve()?.ttl).await?;
        bucket.refresh_clock().await;
        Ok(bucket)
    }

    /// Observes an operation, and adds its location to the error.
    pub(super) async fn in_operation<R>(
        &self,
        operation: &'static str,
        name: Option<&str>,
        work: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        let located = async {
            let admitted = async {
                self.bucket.context().admit()?;
                work.await
            };
            admitted.await.map_err(|error: Error| {
                self.bucket.forget_if_gone(&error);
                error.with_context(operation, self.bucket.name(), name)
            })
        };
        self.bucket.context().observe(operation, self.bucket.name(), Box::pin(located)).await
    }
}

/// A waiter of a lock; see [`Locks::waiters`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockWaiter {
    /// The name of the waiter.
    pub owner: String,
    /// The note of the waiter.
    pub note: Option<String>,
    /// When it began to wait, by its own clock.
    pub since: SystemTime,
    /// When it last renewed its ticket, by the server's clock.
    pub renewed: SystemTime,
    /// The time until its ticket expires without a renewal, by the server's clock.
    pub expires_in: Duration,
}

impl LockWaiter {
    fn from_entry(entry: &Entry<RecipeRecord<LeaseRecord>>) -> Self {
        let LockHolder { owner, note, since, renewed, expires_in, .. } = LockHolder::from_entry(entry);
        Self { owner, note, since, renewed, expires_in }
    }
}

/// A stream of held locks; see [`Locks::all`].
#[must_use = "a stream does nothing until it is polled"]
pub struct HeldLocks {
    entries: Entries<RecipeRecord<LeaseRecord>>,
}

impl Stream for HeldLocks {
    type Item = Result<(String, LockHolder)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let entry = ready!(self.entries.poll_next_unpin(context));
        let held =
            |entry: Entry<RecipeRecord<LeaseRecord>>| (entry.key().name().to_owned(), LockHolder::from_entry(&entry));
        Poll::Ready(entry.map(|entry| entry.map(held)))
    }
}

/// A change of a lock; see [`Locks::watch`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockEvent {
    /// A holder has the lock.
    Held {
        /// The name of the lock.
        name: String,
        /// The holder.
        holder: LockHolder,
    },
    /// The lock is free.
    Free {
        /// The name of the lock.
        name: String,
        /// `Purged` if the lock was released or broken, and `Expired` if its holder died.
        reason: Removed,
    },
    /// All current holders were reported.
    Ready,
    /// Changes may be missing. Discard all earlier events: the current holders follow, and then `Ready`.
    Resync,
}

/// A stream of the changes of locks; see [`Locks::watch`].
#[must_use = "a stream does nothing until it is polled"]
pub struct LockEvents {
    events: Events<RecipeRecord<LeaseRecord>>,
    /// The id of the holder of each lock, by name.
    held: HashMap<String, String>,
}

impl LockEvents {
    fn event(&mut self, event: Event<RecipeRecord<LeaseRecord>>) -> Option<Result<LockEvent>> {
        let event = match event {
            Event::Put(entry) => {
                let (name, id) = (entry.key().name().to_owned(), entry.value.id.clone());
                let before = self.held.insert(name.clone(), id);
                if before.as_ref() == self.held.get(&name) {
                    return None;
                }
                LockEvent::Held { name, holder: LockHolder::from_entry(&entry) }
            }
            Event::Removed { key, reason, .. } => {
                self.held.remove(key.name())?;
                LockEvent::Free { name: key.name().to_owned(), reason }
            }
            Event::Undecodable { error, .. } => return Some(Err(error)),
            Event::Ready => LockEvent::Ready,
            Event::Resync => {
                self.held.clear();
                LockEvent::Resync
            }
            _ => return None,
        };
        Some(Ok(event))
    }
}

impl Stream for LockEvents {
    type Item = Result<LockEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let event = match ready!(self.events.poll_next_unpin(context)) {
                Some(Ok(event)) => self.event(event),
                Some(Err(error)) => Some(Err(error)),
                None => return Poll::Ready(None),
            };
            if event.is_some() {
                return Poll::Ready(event);
            }
        }
    }
}

impl fmt::Debug for HeldLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLocks").finish_non_exhaustive()
    }
}

impl fmt::Debug for LockEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockEvents").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
