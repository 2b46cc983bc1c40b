//! The wait queue of a lock, as one process observes it.
//!
//! Each waiter creates a ticket: a lease next to the lease of the lock. On release, the holder writes the name of the
//! first waiter into the lease of the lock. That costs one write and one event, and no other waiter makes an attempt. A
//! process has one watch for each lock. It delivers the tickets and the lease to all local waiters. It ends a little
//! later than the last local waiter, so that it can pass on a lease that was handed over to a waiter that has just
//! left.
//!
//! # When does the validity of a lease that another process wrote start?
//!
//! The TTL starts when the server stores that write. This process cannot observe that moment, and the event may arrive
//! long after it. But the write contains the revision of the ticket that its sender had seen. The server stored that
//! revision earlier, and this process sent it at a known instant of the local clock. The validity counts from that
//! instant. If the instant is not recorded, the validity counts from the registration of the waiter. If more than half
//! of the validity has passed, the lease is taken again: a write replaces the record as if it were a delete marker.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, TryLockError, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::queue_view::{BELIEVED, QueueView, QueuedTicket, ticket_id};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind};
use crate::model::Filter;
use crate::recipes::lease::keeper::{
    AcquireOutcome, AcquireRequest, ExpectedTombstone, LeaseState as Lease, LeaseWrite,
};
use crate::recipes::lease::record::{LeaseRecord, fence_of, fresh_id};
use crate::recipes::lease::wait::{is_final, unreadable};
use crate::recipes::record::{RecipeKey, RecipeRecord};
use crate::revision::Revision;
use crate::watch::Event;

/// How long a watch continues without waiters.
const IDLE_WATCH: Duration = Duration::from_secs(5);

/// How many wait queues are kept before unused ones are dropped. An unused queue still holds the delete marker of the
/// last term.
const MAX_QUEUES: usize = 1_024;

/// The state that the holders of a lock in this process share with its local waiters.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// The prefix of the ids of the local tickets, and of no other tickets.
    id: String,
    /// Held by the waiter that may wait on the server, among the local waiters that are not fair.
    slot: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<WaitQueueState>,
}

#[derive(Debug, Default)]
struct WaitQueueState {
    last: LastKnown,
    /// The number of the active watch, if any.
    listens: Option<u64>,
    watches: u64,
    /// Whether the watch has started.
    begun: bool,
    queue: QueueView,
    /// When the last change of the lease was observed.
    last_lease_event: Option<Instant>,
    /// The last notification of a free lease: the revision of the lease and the id of the ticket.
    told: Option<(Revision, String)>,
    waiters: BTreeMap<String, QueuedWaiter>,
    next_ticket: u64,
    /// The error of the record of the lease, if it is not readable as a lease.
    unreadable: Option<Arc<Error>>,
    /// The id of the local ticket that last received the lease.
    accepted: Option<String>,
}

/// The last action of this process on the lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LastKnown {
    #[default]
    Nothing,
    /// The lease is held since this revision.
    Held(Revision),
    /// The lease was released with this delete marker.
    Left(Revision),
}

/// A local waiter.
#[derive(Debug)]
struct QueuedWaiter {
    claim: AcquireRequest,
    /// An instant before the ticket was created.
    since: Instant,
    ticket: Option<watch::Receiver<Lease>>,
    tell: mpsc::UnboundedSender<WaiterEvent>,
    runtime: Handle,
}

/// A message to a waiter. If the message is never read, the lease in it is dropped, and so released.
#[derive(Debug)]
pub(crate) enum WaiterEvent {
    /// The lease is free, and this waiter is the first.
    LeaseFree(ExpectedTombstone),
    /// The lease was handed over, with this outcome.
    Granted(AcquireOutcome),
    /// The watch has failed, or the record of the lease is not readable.
    Failed(Error),
    /// The watch has started.
    Subscribed,
    /// The watch has ended.
    Unsubscribed,
}

/// The next holder: the record to write, and its TTL.
#[derive(Debug)]
pub(crate) struct NextHolder {
    pub(crate) holding: LeaseRecord,
    pub(crate) ttl: Duration,
}

/// The wait queues of a bucket.
#[derive(Debug, Default)]
struct WaitQueues(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lines: HashMap<RecipeKey, Arc<WaitQueue>>,
    /// The number of wait queues after the last sweep.
    kept: usize,
}

impl Known {
    /// Drops the unused queues each time the number of queues has doubled. The amortized cost of a lookup does not
    /// depend on the number of locks.
    fn sweep(&mut self) {
        if self.lines.len() >= MAX_QUEUES.max(2 * self.kept) {
            self.lines.retain(|_, line| Arc::strong_count(line) > 1);
            self.kept = self.lines.len();
        }
    }
}

impl WaitQueue {
    /// Returns the wait queue of a lock.
    pub(crate) fn of(bucket: &Bucket<RecipeRecord<LeaseRecord>>, key: &RecipeKey) -> Arc<Self> {
        let lines = bucket.shared::<WaitQueues>();
        let mut known = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = known.lines.get(key) {
            return Arc::clone(line);
        }
        known.sweep();
        let line = Arc::new(Self { id: fresh_id(), slot: Arc::default(), state: Mutex::default() });
        known.lines.insert(key.clone(), Arc::clone(&line));
        line
    }

    fn state(&self) -> MutexGuard<'_, WaitQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to wait on the server.
    pub(crate) async fn lock_slot(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.slot).lock_owned().await
    }

    /// Returns the right to wait on the server, unless another waiter has it.
    pub(crate) fn try_turn(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        Arc::clone(&self.slot).try_lock_owned()
    }

    /// Returns whether this process holds the lease, according to its local state.
    pub(crate) fn is_held_here(&self) -> bool {
        matches!(self.state().last, LastKnown::Held(_))
    }

    /// Returns whether an attempt would fail, according to the local state.
    pub(crate) fn is_contended(&self) -> bool {
        let state = self.state();
        matches!(state.last, LastKnown::Held(_))
            || (state.queue.ready && (state.queue.held || self.head(&state).is_some()))
    }

    /// Returns the delete marker if this process wrote it last. Only the first caller receives it.
    pub(crate) fn take_tombstone(&self) -> ExpectedTombstone {
        let mut state = self.state();
        match state.last {
            LastKnown::Left(marker) => {
                state.last = LastKnown::Nothing;
                ExpectedTombstone::Cached(marker)
            }
            _ => ExpectedTombstone::Unknown,
        }
    }

    /// Records that this process holds the lease, until the returned value is dropped.
    pub(crate) fn acquired(self: &Arc<Self>, term: Revision) -> LocalHold {
        self.state().last = LastKnown::Held(term);
        LocalHold { line: Arc::clone(self), term }
    }

    /// Returns the first waiter.
    fn head<'a>(&self, state: &'a WaitQueueState) -> Option<&'a QueuedTicket> {
        // A local ticket is ignored once its waiter has left, even if the event has not arrived.
        state.queue.head(Instant::now(), |id| id.starts_with(&self.id) && !state.waiters.contains_key(id))
    }

    /// Returns the error of an attempt to take the lease if the record of the lease is not readable.
    pub(crate) fn unreadable(&self) -> Option<Error> {
        self.state().unreadable.as_ref().map(Error::shared)
    }

    /// Returns when the last change of the lease was observed.
    pub(crate) fn last_lease_event(&self) -> Option<Instant> {
        self.state().last_lease_event
    }

    /// Returns whether no live ticket precedes this one.
    pub(crate) fn is_first(&self, id: &str) -> bool {
        let state = self.state();
        state.queue.ready && self.head(&state).is_none_or(|first| first.id == id)
    }

    /// Returns whether other processes consider this ticket served, although its waiter still waits.
    pub(crate) fn is_already_served(&self, id: &str) -> bool {
        let state = self.state();
        state.waiters.contains_key(id) && state.queue.is_served(id)
    }

    /// Registers a waiter. Returns the id of the ticket to create, the messages to the waiter, and whether the watch
    /// has started.
    pub(crate) fn register(
        self: &Arc<Self>,
        claim: &AcquireRequest,
    ) -> (String, mpsc::UnboundedReceiver<WaiterEvent>, bool) {
        let (tell, told) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.next_ticket += 1;
        // The ids increase in the order of creation.
        let id = format!("{}{:08x}", self.id, state.next_ticket);
        let (claim, since, runtime) = (claim.clone(), Instant::now(), Handle::current());
        self.listen(&mut state, &claim);
        state.waiters.insert(id.clone(), QueuedWaiter { claim, since, ticket: None, tell, runtime });
        (id, told, state.begun)
    }

    /// Records the ticket of a waiter.
    pub(crate) fn ticket_created(&self, id: &str, ticket: watch::Receiver<Lease>) {
        if let Some(waiter) = self.state().waiters.get_mut(id) {
            waiter.ticket = Some(ticket);
        }
    }

    /// Unregisters a waiter.
    pub(crate) fn unregister(&self, id: &str) {
        let left = self.state().waiters.remove(id);
        // Dropped without the lock, because the claim refers to the queue.
        drop(left);
    }

    /// Starts the watch if it is not running.
    pub(crate) fn ensure_watching(self: &Arc<Self>, claim: &AcquireRequest) {
        self.listen(&mut self.state(), claim);
    }

    fn listen(self: &Arc<Self>, state: &mut WaitQueueState, claim: &AcquireRequest) {
        if state.listens.is_some() {
            return;
        }
        state.watches += 1;
        state.listens = Some(state.watches);
        let listener = QueueWatcher { line: Arc::clone(self), number: state.watches };
        tokio::spawn(listener.listen(AcquireRequest { handover: None, ..claim.clone() }));
    }

    /// Returns the next holder after the term that began with this revision.
    pub(crate) fn next_holder(&self, term: Revision) -> Option<NextHolder> {
        let state = self.state();
        // If the watch has not reached this term, it may show served tickets as waiting.
        if !state.queue.ready || state.queue.observed_through < term {
            return None;
        }
        let QueuedTicket { id, revision, owner, note, wants, unknown, .. } = self.head(&state)?.clone();
        let holding = LeaseRecord { id, ticket: Some(revision.get()), unknown, ..LeaseRecord::new(owner, note, None) };
        Some(NextHolder { holding, ttl: wants?.min(BELIEVED) })
    }

    /// Records that the lease was handed over.
    pub(crate) fn handed_over(self: &Arc<Self>, claim: &AcquireRequest, next: &NextHolder, taken: LeaseWrite) {
        let mut state = self.state();
        // Only tickets were written in between.
        state.queue.observed_through = taken.revision.max(state.queue.observed_through);
        let news = state.queue.observe_lease(taken.revision, Some(&next.holding.id));
        let granted = news.then(|| self.accept_grant(&mut state, &next.holding)).flatten();
        drop(state);
        if let Some(granted) = granted {
            granted.keep(claim, &next.holding, taken.revision, Some(taken.sent_at));
        }
    }

    /// Records the lease as it was read.
    pub(crate) fn on_lease_seen(self: &Arc<Self>, claim: &AcquireRequest, entry: &Entry<RecipeRecord<LeaseRecord>>) {
        let mut state = self.state();
        if !state.queue.observe_lease(entry.revision(), Some(&entry.value.id)) {
            return;
        }
        state.last_lease_event = Some(Instant::now());
        state.unreadable = None;
        let granted = self.accept_grant(&mut state, &entry.value);
        drop(state);
        if let Some(granted) = granted {
            granted.keep(claim, &entry.value, entry.revision(), None);
        }
    }

    /// Returns the new holder if the lease was handed over to a local ticket.
    fn accept_grant(self: &Arc<Self>, state: &mut WaitQueueState, holding: &LeaseRecord) -> Option<Grant> {
        let ticket = Revision::new(holding.ticket?);
        if !holding.id.starts_with(&self.id) {
            return None;
        }
        match state.waiters.remove(&holding.id) {
            Some(waiter) => {
                state.accepted = Some(holding.id.clone());
                Some(Grant::To(Box::new(waiter), ticket))
            }
            None if state.accepted.as_ref() == Some(&holding.id) => None,
            None => Some(Grant::TooLate(Arc::clone(self))),
        }
    }

    fn on_event(self: &Arc<Self>, claim: &AcquireRequest, event: Event<RecipeRecord<LeaseRecord>>) {
        let now = Instant::now();
        let lease = claim.key.part();
        match event {
            Event::Put(entry) if entry.key().part() == lease => {
                self.on_lease_seen(claim, &entry);
                self.state().queue.observed_through = entry.revision();
            }
            Event::Put(entry) => {
                if let Some(waits) = QueuedTicket::of(&entry, now) {
                    self.state().queue.upsert(fence_of(&entry).get(), waits);
                }
            }
            Event::Removed { key, revision, .. } if key.part() == lease => {
                let mut state = self.state();
                state.queue.observed_through = revision;
                state.unreadable = None;
                if state.queue.observe_lease(revision, None) {
                    state.last_lease_event = Some(now);
                }
            }
            Event::Removed { key, .. } => {
                if let Some(id) = ticket_id(key.part()) {
                    self.state().queue.remove(id);
                }
            }
            Event::Ready => self.state().queue.ready = true,
            Event::Undecodable { key, error, .. } if key == claim.key.to_string() => {
                self.fail(Arc::new(unreadable(error, claim)));
            }
            Event::Resync => {
                let mut state = self.state();
                (state.queue, state.unreadable) = (QueueView::default(), None);
            }
            _ => {}
        }
        self.notify_head();
    }

    /// Fails all waiters. No waiter can take the lease until its record is removed.
    fn fail(&self, error: Arc<Error>) {
        let mut state = self.state();
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(WaiterEvent::Failed(Error::shared(&error)));
        }
        state.unreadable = Some(error);
    }

    /// Notifies the first waiter once if the lease is free and the waiter is local.
    fn notify_head(&self) {
        let mut state = self.state();
        let WaitQueueState { queue, told, waiters, .. } = &*state;
        if !queue.ready || queue.held {
            return;
        }
        let Some(first) = self.head(&state) else { return };
        let Some(waiter) = waiters.get(&first.id) else { return };
        let news = (queue.lease, first.id.clone());
        if told.as_ref() != Some(&news) {
            let over = if queue.lease == Revision::ZERO {
                ExpectedTombstone::Unknown
            } else {
                ExpectedTombstone::Observed(queue.lease)
            };
            let _ = waiter.tell.send(WaiterEvent::LeaseFree(over));
            state.told = Some(news);
        }
    }
}

impl WaitQueueState {
    /// Resets the state after the watch has ended.
    fn reset(&mut self) {
        (self.listens, self.begun) = (None, false);
        (self.queue, self.told, self.unreadable) = (QueueView::default(), None, None);
    }

    /// Removes the waiters with a matching claim. The caller must drop them without the lock, because a claim refers to
    /// the queue.
    fn take_waiters(&mut self, is_meant: impl Fn(&AcquireRequest) -> bool) -> Vec<QueuedWaiter> {
        let (taken, kept) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, waiter)| is_meant(&waiter.claim));
        self.waiters = kept;
        BTreeMap::into_values(taken).collect()
    }
}

/// Ends the matching waits with an error.
fn fail(waiters: Vec<QueuedWaiter>, error: Error) {
    let error = Arc::new(error);
    for waiter in waiters {
        let _ = waiter.tell.send(WaiterEvent::Failed(Error::shared(&error)));
    }
}

/// The local receiver of a lease that was handed over.
enum Grant {
    /// A waiter, and the revision of its ticket that the sender had seen.
    To(Box<QueuedWaiter>, Revision),
    /// A waiter that has left.
    TooLate(Arc<WaitQueue>),
}

impl Grant {
    /// Starts the term of a lease that was handed over by the write with this revision. `sent` is set if this process
    /// sent the write.
    fn keep(self, claim: &AcquireRequest, holding: &LeaseRecord, revision: Revision, sent: Option<Instant>) {
        let holding = LeaseRecord { ticket: None, ..holding.clone() };
        match self {
            Self::To(waiter, ticket) => {
                let sent = sent.unwrap_or_else(|| waiter.since(ticket));
                waiter.accept(holding, LeaseWrite { revision, sent_at: sent });
            }
            // Dropped at once, so the lease is handed over to the next waiter, or removed.
            Self::TooLate(line) => {
                let claim = AcquireRequest { handover: Some(line), holding, ..claim.clone() };
                drop(claim.start_keeper(LeaseWrite { revision, sent_at: Instant::now() }, None));
            }
        }
    }
}

impl QueuedWaiter {
    /// Returns when this revision of the ticket was sent. If that is not recorded, returns an earlier instant.
    fn since(&self, ticket: Revision) -> Instant {
        let of_ticket = || match *self.ticket.as_ref()?.borrow() {
            Lease::Valid { until, revision } if revision == ticket => {
                until.checked_sub(self.claim.times.of_ticket().validity())
            }
            _ => None,
        };
        of_ticket().unwrap_or(self.since)
    }

    /// Accepts a lease that was handed over.
    fn accept(self, holding: LeaseRecord, taken: LeaseWrite) {
        let Self { claim, tell, runtime, .. } = self;
        // The sender bounds the TTL of a lease that it hands over. To get a longer TTL, the lease is taken again.
        let in_time = taken.sent_at + claim.times.validity() / 2 > Instant::now() && claim.times.ttl <= BELIEVED;
        let claim = AcquireRequest { holding, ..claim };
        // The lease keeper runs in the runtime of the waiter, not of the watch.
        let _runtime = runtime.enter();
        if in_time && !claim.fenced {
            let _ = tell.send(WaiterEvent::Granted(AcquireOutcome::Acquired(claim.start_keeper(taken, None))));
            return;
        }
        tokio::spawn(async move {
            let attempt = if in_time {
                let deadline = claim.deadline();
                claim.finish_acquire(taken, deadline).await
            } else {
                let attempt = claim.clone().try_acquire(ExpectedTombstone::Observed(taken.revision)).await;
                if matches!(attempt, AcquireOutcome::Failed(_)) {
                    // The record may still name this waiter. Dropping the lease hands it over to the next waiter, or
                    // removes it.
                    drop(claim.start_keeper(taken, None));
                }
                attempt
            };
            let _ = tell.send(WaiterEvent::Granted(attempt));
        });
    }
}

/// The watch that serves all local waiters.
struct QueueWatcher {
    line: Arc<WaitQueue>,
    number: u64,
}

impl QueueWatcher {
    async fn listen(self, claim: AcquireRequest) {
        let all: Filter<RecipeRecord<LeaseRecord>> = RecipeKey::parts(claim.key.recipe(), claim.key.name());
        let error = match claim.bucket.watch(all).await {
            Ok(mut events) => {
                self.begins();
                let mut unused = false;
                let mut look = Instant::now() + IDLE_WATCH;
                loop {
                    let event = tokio::select! {
                        biased;
                        event = events.next() => event,
                        () = sleep_until(look) => {
                            if self.is_over(&mut unused) {
                                return;
                            }
                            look = Instant::now() + IDLE_WATCH;
                            continue;
                        }
                    };
                    match event {
                        Some(Ok(event)) => self.line.on_event(&claim, event),
                        Some(Err(error)) if is_final(&error) => break error,
                        // The watch retries. Only waiters without a time limit give up.
                        Some(Err(error)) => {
                            let failed = self.line.state().take_waiters(|claim| claim.gives_up_on(&error));
                            fail(failed, error);
                        }
                        None => break Error::new(ErrorKind::Closed),
                    }
                }
            }
            Err(error) => error,
        };
        let waiters = {
            let mut state = self.line.state();
            state.reset();
            state.take_waiters(|_| true)
        };
        fail(waiters, error);
    }

    fn begins(&self) {
        let mut state = self.line.state();
        state.begun = true;
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(WaiterEvent::Subscribed);
        }
    }

    /// Returns whether the queue has been unused for a while. Resets the state in that case.
    fn is_over(&self, unused: &mut bool) -> bool {
        let mut state = self.line.state();
        // The map of the bucket and this watch hold one reference each.
        let was_unused = std::mem::replace(unused, Arc::strong_count(&self.line) <= 2);
        let over = *unused && was_unused;
        if over {
            state.reset();
        }
        over
    }
}

/// Notifies the waiters that the watch has ended, even if its runtime has shut down.
impl Drop for QueueWatcher {
    fn drop(&mut self) {
        let mut state = self.line.state();
        if state.listens != Some(self.number) {
            return;
        }
        state.reset();
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(WaiterEvent::Unsubscribed);
        }
    }
}

/// A lease that this process holds.
#[derive(Debug)]
pub(crate) struct LocalHold {
    line: Arc<WaitQueue>,
    term: Revision,
}

impl LocalHold {
    /// Records that the lease was removed with this delete marker.
    pub(crate) fn released(&self, marker: Revision) {
        self.end(LastKnown::Left(marker));
    }

    fn end(&self, last: LastKnown) {
        let mut state = self.line.state();
        if state.last == LastKnown::Held(self.term) {
            state.last = last;
        }
    }
}

impl Drop for LocalHold {
    fn drop(&mut self) {
        self.end(LastKnown::Nothing);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn lines_in_use_are_swept_a_logarithmic_number_of_times() {
        let bucket: Bucket<RecipeRecord<LeaseRecord>> = Store::memory().bucket().name("locks").await.unwrap();
        let line = |number: usize| WaitQueue::of(&bucket, &RecipeKey::new("lock", number.to_string(), "lease"));
        let lines = bucket.shared::<WaitQueues>();
        let known = || {
            let known = lines.0.lock().unwrap();
            (known.lines.len(), known.kept)
        };
        for number in 0..10 * MAX_QUEUES {
            let unused = line(number);
            drop(unused);
        }
        assert!(known().0 <= MAX_QUEUES, "unused lines are forgotten");

        let (mut used, mut sweeps) = (Vec::new(), 0);
        for number in 0..16 * MAX_QUEUES {
            let (_, before) = known();
            used.push(line(number));
            sweeps += usize::from(known().1 != before);
        }
        assert!((4..=6).contains(&sweeps), "{sweeps} sweeps");
        assert!(Arc::ptr_eq(&line(7), &used[7]));
    }
}
