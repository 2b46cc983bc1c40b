//! The wait queue of a lock, as one process observes it.
//!
//! Each waiter creates a ticket: a small lease next to the lease of the lock. On release, the holder hands the lease
//! over to the first ticket: it writes the id of that ticket into the lease. A handover costs one write and one event,
//! and no other waiter makes an attempt.
//!
//! A process has one watch for each lock. The watch delivers the tickets and the lease to all local waiters. It
//! continues for a few seconds after the last local waiter has left. If the lease is handed over to a waiter that has
//! just left, the process then passes the lease on.
//!
//! # Validity of a lease that was handed over
//!
//! The TTL of the lease starts when the server stores the handover. The new holder cannot observe that moment, and the
//! event may arrive long after it. The handover therefore contains the revision of the ticket that the previous holder
//! had seen. The server stored that revision earlier, and the new holder knows when it sent that write. The validity
//! counts from that instant, or from the registration of the waiter if the instant is not recorded. If more than half
//! of the validity has passed, the new holder takes the lease again: it replaces the record like a delete marker.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, TryLockError, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::queue_view::{MAX_TICKET_TTL, QueueView, QueuedTicket, ticket_id};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind};
use crate::model::Filter;
use crate::recipes::lease::outcome::AcquireOutcome;
use crate::recipes::lease::record::{LeaseRecord, fence_of, fresh_id};
use crate::recipes::lease::request::{AcquireRequest, ExpectedTombstone, Handover, LeaseWrite, NextHolder};
use crate::recipes::lease::state::LeaseState;
use crate::recipes::lease::wait::unreadable;
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
    server_wait: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<WaitQueueState>,
}

#[derive(Debug, Default)]
struct WaitQueueState {
    last: LastKnown,
    /// The number of the active watcher, if any.
    watcher: Option<u64>,
    watchers_started: u64,
    /// Whether the watch has started.
    is_subscribed: bool,
    view: QueueView,
    /// When the last change of the lease was observed.
    last_lease_event: Option<Instant>,
    /// The last notification of a free lease: the revision of the lease and the id of the ticket.
    notified: Option<(Revision, String)>,
    waiters: BTreeMap<String, QueuedWaiter>,
    next_ticket: u64,
    /// The error of the record of the lease, if it is not readable as a lease.
    unreadable: Option<Arc<Error>>,
    /// The local ticket that last received the lease, and the write that handed it over.
    accepted: Option<(String, Revision)>,
}

/// The last action of this process on the lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LastKnown {
    #[default]
    Nothing,
    /// The lease is held since this revision.
    Held(Revision),
    /// The lease was released with this delete marker.
    Released(Revision),
}

/// A local waiter.
#[derive(Debug)]
struct QueuedWaiter {
    request: AcquireRequest,
    /// An instant before the ticket was created.
    registered_at: Instant,
    ticket: Option<watch::Receiver<LeaseState>>,
    events: mpsc::UnboundedSender<WaiterEvent>,
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

/// The wait queues of a bucket.
#[derive(Debug, Default)]
struct WaitQueues(Mutex<QueueMap>);

#[derive(Debug, Default)]
struct QueueMap {
    queues: HashMap<RecipeKey, Arc<WaitQueue>>,
    /// The number of wait queues after the last sweep.
    size_after_sweep: usize,
}

impl QueueMap {
    /// Drops the unused queues each time the number of queues has doubled. The amortized cost of a lookup does not
    /// depend on the number of locks.
    fn sweep(&mut self) {
        if self.queues.len() >= MAX_QUEUES.max(2 * self.size_after_sweep) {
            self.queues.retain(|_, queue| Arc::strong_count(queue) > 1);
            self.size_after_sweep = self.queues.len();
        }
    }
}

impl WaitQueue {
    /// Returns the wait queue of a lock.
    pub(crate) fn for_lock(bucket: &Bucket<RecipeRecord<LeaseRecord>>, key: &RecipeKey) -> Arc<Self> {
        let queues = bucket.shared::<WaitQueues>();
        let mut map = queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = map.queues.get(key) {
            return Arc::clone(queue);
        }
        map.sweep();
        let queue = Arc::new(Self { id: fresh_id(), server_wait: Arc::default(), state: Mutex::default() });
        map.queues.insert(key.clone(), Arc::clone(&queue));
        queue
    }

    fn state(&self) -> MutexGuard<'_, WaitQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to wait on the server.
    pub(crate) async fn lock_server_wait(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.server_wait).lock_owned().await
    }

    /// Returns the right to wait on the server, unless another waiter has it.
    pub(crate) fn try_lock_server_wait(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        Arc::clone(&self.server_wait).try_lock_owned()
    }

    /// Returns whether this process holds the lease, according to its local state.
    pub(crate) fn is_held_here(&self) -> bool {
        matches!(self.state().last, LastKnown::Held(_))
    }

    /// Returns whether an attempt would fail, according to the local state.
    pub(crate) fn is_contended(&self) -> bool {
        let state = self.state();
        matches!(state.last, LastKnown::Held(_))
            || (state.view.ready && (state.view.held || self.head(&state).is_some()))
    }

    /// Returns the delete marker if this process wrote it last. Only the first caller receives it.
    pub(crate) fn take_tombstone(&self) -> ExpectedTombstone {
        let mut state = self.state();
        match state.last {
            LastKnown::Released(tombstone) => {
                state.last = LastKnown::Nothing;
                ExpectedTombstone::Cached(tombstone)
            }
            _ => ExpectedTombstone::Unknown,
        }
    }

    /// Returns the first waiter.
    fn head<'a>(&self, state: &'a WaitQueueState) -> Option<&'a QueuedTicket> {
        // A local ticket is ignored once its waiter has left, even if the event has not arrived.
        state.view.head(Instant::now(), |id| id.starts_with(&self.id) && !state.waiters.contains_key(id))
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
        state.view.ready && self.head(&state).is_none_or(|first| first.id == id)
    }

    /// Returns whether other processes consider this ticket served, although its waiter still waits.
    pub(crate) fn is_already_served(&self, id: &str) -> bool {
        let state = self.state();
        state.waiters.contains_key(id) && state.view.is_served(id)
    }

    /// Registers a waiter. Returns the id of the ticket to create, the messages to the waiter, and whether the watch
    /// has started.
    pub(crate) fn register(
        self: &Arc<Self>,
        request: &AcquireRequest,
    ) -> (String, mpsc::UnboundedReceiver<WaiterEvent>, bool) {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.next_ticket += 1;
        // The ids increase in the order of creation.
        let id = format!("{}{:08x}", self.id, state.next_ticket);
        let (request, registered_at, runtime) = (request.clone(), Instant::now(), Handle::current());
        self.start_watcher(&mut state, &request);
        state.waiters.insert(id.clone(), QueuedWaiter { request, registered_at, ticket: None, events, runtime });
        (id, receiver, state.is_subscribed)
    }

    /// Records the ticket of a waiter.
    pub(crate) fn ticket_created(&self, id: &str, ticket: watch::Receiver<LeaseState>) {
        if let Some(waiter) = self.state().waiters.get_mut(id) {
            waiter.ticket = Some(ticket);
        }
    }

    /// Unregisters a waiter.
    pub(crate) fn unregister(&self, id: &str) {
        let waiter = self.state().waiters.remove(id);
        // Dropped without the lock, because the request may refer to the queue.
        drop(waiter);
    }

    /// Starts the watch if it is not running.
    pub(crate) fn ensure_watching(self: &Arc<Self>, request: &AcquireRequest) {
        self.start_watcher(&mut self.state(), request);
    }

    fn start_watcher(self: &Arc<Self>, state: &mut WaitQueueState, request: &AcquireRequest) {
        if state.watcher.is_some() {
            return;
        }
        state.watchers_started += 1;
        state.watcher = Some(state.watchers_started);
        let watcher = QueueWatcher { queue: Arc::clone(self), number: state.watchers_started };
        tokio::spawn(watcher.run(AcquireRequest { handover: None, ..request.clone() }));
    }

    /// Records the lease as it was read.
    pub(crate) fn on_lease_seen(self: &Arc<Self>, request: &AcquireRequest, entry: &Entry<RecipeRecord<LeaseRecord>>) {
        let mut state = self.state();
        if !state.view.observe_lease(entry.revision(), Some(&entry.value.id)) {
            return;
        }
        state.last_lease_event = Some(Instant::now());
        state.unreadable = None;
        let grant = self.accept_grant(&mut state, &entry.value, entry.revision());
        drop(state);
        if let Some(grant) = grant {
            grant.start_term(request, &entry.value, entry.revision(), None);
        }
    }

    /// Returns the new holder if the write with this revision handed the lease over to a local ticket.
    ///
    /// A holder whose watch skipped a term can hand the lease over to a ticket that was served in that term. Nobody
    /// waits with the ticket, so the lease must go on to the next waiter, or the lock would be held until its TTL.
    fn accept_grant(
        self: &Arc<Self>,
        state: &mut WaitQueueState,
        record: &LeaseRecord,
        revision: Revision,
    ) -> Option<Grant> {
        let ticket = Revision::new(record.ticket?);
        if !record.id.starts_with(&self.id) {
            return None;
        }
        let is_accepted = |(id, at): &(String, Revision)| (id, *at) == (&record.id, revision);
        match state.waiters.remove(&record.id) {
            Some(waiter) => {
                state.accepted = Some((record.id.clone(), revision));
                Some(Grant::To(Box::new(waiter), ticket))
            }
            // The same write, read again after a resync.
            None if state.accepted.as_ref().is_some_and(is_accepted) => None,
            None => Some(Grant::TooLate(Arc::clone(self))),
        }
    }

    fn on_event(self: &Arc<Self>, request: &AcquireRequest, event: Event<RecipeRecord<LeaseRecord>>) {
        let now = Instant::now();
        let lease = request.key.part();
        match event {
            Event::Put(entry) if entry.key().part() == lease => {
                self.on_lease_seen(request, &entry);
                self.state().view.observed_through = entry.revision();
            }
            Event::Put(entry) => {
                if let Some(ticket) = QueuedTicket::from_entry(&entry, now) {
                    self.state().view.upsert(fence_of(&entry).get(), ticket);
                }
            }
            Event::Removed { key, revision, .. } if key.part() == lease => {
                let mut state = self.state();
                state.view.observed_through = revision;
                state.unreadable = None;
                if state.view.observe_lease(revision, None) {
                    state.last_lease_event = Some(now);
                }
            }
            Event::Removed { key, .. } => {
                if let Some(id) = ticket_id(key.part()) {
                    self.state().view.remove(id);
                }
            }
            Event::Ready => self.state().view.ready = true,
            Event::Undecodable { key, error, .. } if key == request.key.to_string() => {
                self.fail(Arc::new(unreadable(error, request)));
            }
            Event::Resync => {
                let mut state = self.state();
                (state.view, state.unreadable) = (QueueView::default(), None);
            }
            _ => {}
        }
        self.notify_head();
    }

    /// Fails all waiters. No waiter can take the lease until its record is removed.
    fn fail(&self, error: Arc<Error>) {
        let mut state = self.state();
        for waiter in state.waiters.values() {
            let _ = waiter.events.send(WaiterEvent::Failed(Error::shared(&error)));
        }
        state.unreadable = Some(error);
    }

    /// Notifies the first waiter once if the lease is free and the waiter is local.
    fn notify_head(&self) {
        let mut state = self.state();
        let WaitQueueState { view, notified, waiters, .. } = &*state;
        if !view.ready || view.held {
            return;
        }
        let Some(head) = self.head(&state) else { return };
        let Some(waiter) = waiters.get(&head.id) else { return };
        let notification = (view.lease, head.id.clone());
        if notified.as_ref() != Some(&notification) {
            let expected = match view.lease {
                Revision::ZERO => ExpectedTombstone::Unknown,
                tombstone => ExpectedTombstone::Observed(tombstone),
            };
            let _ = waiter.events.send(WaiterEvent::LeaseFree(expected));
            state.notified = Some(notification);
        }
    }
}

impl Handover for WaitQueue {
    fn acquired(&self, term: Revision) {
        self.state().last = LastKnown::Held(term);
    }

    fn next_holder(&self, term: Revision) -> Option<NextHolder> {
        let state = self.state();
        // If the watch has not reached this term, it may show served tickets as waiting.
        if !state.view.ready || state.view.observed_through < term {
            return None;
        }
        let QueuedTicket { id, revision, owner, note, requested_ttl, unknown, .. } = self.head(&state)?.clone();
        let record = LeaseRecord { id, ticket: Some(revision.get()), unknown, ..LeaseRecord::new(owner, note, None) };
        Some(NextHolder { record, ttl: requested_ttl?.min(MAX_TICKET_TTL) })
    }

    fn handed_over(self: Arc<Self>, request: &AcquireRequest, next: &NextHolder, write: LeaseWrite) {
        let mut state = self.state();
        // Only tickets were written in between.
        state.view.observed_through = write.revision.max(state.view.observed_through);
        let is_new = state.view.observe_lease(write.revision, Some(&next.record.id));
        let grant = is_new.then(|| self.accept_grant(&mut state, &next.record, write.revision)).flatten();
        drop(state);
        if let Some(grant) = grant {
            grant.start_term(request, &next.record, write.revision, Some(write.sent_at));
        }
    }

    fn ended(&self, term: Revision, tombstone: Option<Revision>) {
        let mut state = self.state();
        if state.last == LastKnown::Held(term) {
            state.last = tombstone.map_or(LastKnown::Nothing, LastKnown::Released);
        }
    }
}

impl WaitQueueState {
    /// Resets the state after the watch has ended.
    fn reset(&mut self) {
        (self.watcher, self.is_subscribed) = (None, false);
        (self.view, self.notified, self.unreadable) = (QueueView::default(), None, None);
    }

    /// Removes the waiters with a matching request. The caller must drop them without the lock, because a request
    /// refers to the queue.
    fn take_waiters(&mut self, matches: impl Fn(&AcquireRequest) -> bool) -> Vec<QueuedWaiter> {
        let (matching, others) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, waiter)| matches(&waiter.request));
        self.waiters = others;
        BTreeMap::into_values(matching).collect()
    }
}

/// Ends the matching waits with an error.
fn fail(waiters: Vec<QueuedWaiter>, error: Error) {
    let error = Arc::new(error);
    for waiter in waiters {
        let _ = waiter.events.send(WaiterEvent::Failed(Error::shared(&error)));
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
    /// Starts the term of a lease that was handed over by the write with this revision. `sent_at` is set if this
    /// process sent the write.
    fn start_term(self, request: &AcquireRequest, record: &LeaseRecord, revision: Revision, sent_at: Option<Instant>) {
        let record = LeaseRecord { ticket: None, ..record.clone() };
        match self {
            Self::To(waiter, ticket) => {
                let sent_at = sent_at.unwrap_or_else(|| waiter.sent_at(ticket));
                waiter.accept(record, LeaseWrite { revision, sent_at });
            }
            // Dropped at once, so the lease is handed over to the next waiter, or removed.
            Self::TooLate(queue) => {
                let request = AcquireRequest { handover: Some(queue), record, ..request.clone() };
                drop(request.start_keeper(LeaseWrite { revision, sent_at: Instant::now() }, None));
            }
        }
    }
}

impl QueuedWaiter {
    /// Returns when this revision of the ticket was sent. If that is not recorded, returns an earlier instant.
    fn sent_at(&self, ticket: Revision) -> Instant {
        let recorded = || match *self.ticket.as_ref()?.borrow() {
            LeaseState::Valid { until, revision } if revision == ticket => {
                until.checked_sub(self.request.timing.for_ticket().validity())
            }
            _ => None,
        };
        recorded().unwrap_or(self.registered_at)
    }

    /// Accepts a lease that was handed over.
    fn accept(self, record: LeaseRecord, write: LeaseWrite) {
        let Self { request, events, runtime, .. } = self;
        // The sender bounds the TTL of a lease that it hands over. To get a longer TTL, the lease is taken again.
        let in_time =
            write.sent_at + request.timing.validity() / 2 > Instant::now() && request.timing.ttl <= MAX_TICKET_TTL;
        let request = AcquireRequest { record, ..request };
        // The lease keeper runs in the runtime of the waiter, not of the watch.
        let _runtime = runtime.enter();
        if in_time && !request.fenced {
            let _ = events.send(WaiterEvent::Granted(AcquireOutcome::Acquired(request.start_keeper(write, None))));
            return;
        }
        tokio::spawn(async move {
            let outcome = if in_time {
                let deadline = request.deadline();
                request.finish_acquire(write, deadline).await
            } else {
                let outcome = request.clone().try_acquire(ExpectedTombstone::Observed(write.revision)).await;
                if matches!(outcome, AcquireOutcome::Failed(_)) {
                    // The record may still name this waiter. Dropping the lease hands it over to the next waiter, or
                    // removes it.
                    drop(request.start_keeper(write, None));
                }
                outcome
            };
            let _ = events.send(WaiterEvent::Granted(outcome));
        });
    }
}

/// The watch that serves all local waiters.
struct QueueWatcher {
    queue: Arc<WaitQueue>,
    number: u64,
}

impl QueueWatcher {
    async fn run(self, request: AcquireRequest) {
        let all: Filter<RecipeRecord<LeaseRecord>> = RecipeKey::parts(request.key.recipe(), request.key.name());
        let error = match request.bucket.watch(all).await {
            Ok(mut events) => {
                self.subscribed();
                let mut unused = false;
                let mut next_check = Instant::now() + IDLE_WATCH;
                loop {
                    let event = tokio::select! {
                        biased;
                        event = events.next() => event,
                        () = sleep_until(next_check) => {
                            if self.stops_if_idle(&mut unused) {
                                return;
                            }
                            next_check = Instant::now() + IDLE_WATCH;
                            continue;
                        }
                    };
                    match event {
                        Some(Ok(event)) => self.queue.on_event(&request, event),
                        Some(Err(error)) if error.is_terminal() => break error,
                        // The watch retries. Only waiters without a time limit give up.
                        Some(Err(error)) => {
                            let failed = self.queue.state().take_waiters(|request| request.gives_up_on(&error));
                            fail(failed, error);
                        }
                        None => break Error::new(ErrorKind::Closed),
                    }
                }
            }
            Err(error) => error,
        };
        let waiters = {
            let mut state = self.queue.state();
            state.reset();
            state.take_waiters(|_| true)
        };
        fail(waiters, error);
    }

    fn subscribed(&self) {
        let mut state = self.queue.state();
        state.is_subscribed = true;
        for waiter in state.waiters.values() {
            let _ = waiter.events.send(WaiterEvent::Subscribed);
        }
    }

    /// Returns whether the queue has been unused for a while. Resets the state in that case.
    fn stops_if_idle(&self, unused: &mut bool) -> bool {
        let mut state = self.queue.state();
        // The map of the bucket and this watch hold one reference each.
        let was_unused = std::mem::replace(unused, Arc::strong_count(&self.queue) <= 2);
        let is_idle = *unused && was_unused;
        if is_idle {
            state.reset();
        }
        is_idle
    }
}

/// Notifies the waiters that the watch has ended, even if its runtime has shut down.
impl Drop for QueueWatcher {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.watcher != Some(self.number) {
            return;
        }
        state.reset();
        for waiter in state.waiters.values() {
            let _ = waiter.events.send(WaiterEvent::Unsubscribed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn queues_in_use_are_rarely_swept() {
        let bucket: Bucket<RecipeRecord<LeaseRecord>> = Store::memory().bucket().name("locks").await.unwrap();
        let queue = |number: usize| WaitQueue::for_lock(&bucket, &RecipeKey::new("lock", number.to_string(), "lease"));
        let queues = bucket.shared::<WaitQueues>();
        let known = || {
            let known = queues.0.lock().unwrap();
            (known.queues.len(), known.size_after_sweep)
        };
        for number in 0..10 * MAX_QUEUES {
            let unused = queue(number);
            drop(unused);
        }
        assert!(known().0 <= MAX_QUEUES, "unused queues are dropped");

        let (mut used, mut sweeps) = (Vec::new(), 0);
        for number in 0..16 * MAX_QUEUES {
            let (_, before) = known();
            used.push(queue(number));
            sweeps += usize::from(known().1 != before);
        }
        assert!((4..=6).contains(&sweeps), "{sweeps} sweeps");
        assert!(Arc::ptr_eq(&queue(7), &used[7]));
    }
}
