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

use super::holding::{Holding, fence_of, fresh_id};
use super::queue::{BELIEVED, Queue, Waits, id_of};
use super::slot::{Slot, SlotKey};
use super::tenure::{Attempt, Claim, Over, State as Lease, Taken};
use super::wait::{is_final, unreadable};
use crate::bucket::{Bucket, Entry};
use crate::error::{Error, ErrorKind};
use crate::model::Filter;
use crate::revision::Revision;
use crate::watch::Event;

/// How long a watch continues without waiters.
const LINGER: Duration = Duration::from_secs(5);

/// How many wait queues are kept before unused ones are dropped. An unused queue still holds the delete marker of the
/// last term.
const REMEMBERED: usize = 1_024;

/// The state that the holders of a lock in this process share with its local waiters.
#[derive(Debug)]
pub(super) struct Line {
    /// The prefix of the ids of the local tickets, and of no other tickets.
    id: String,
    /// Held by the waiter that may wait on the server, among the local waiters that are not fair.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Last,
    /// The number of the active watch, if any.
    listens: Option<u64>,
    watches: u64,
    /// Whether the watch has started.
    begun: bool,
    queue: Queue,
    /// When the last change of the lease was observed.
    heard: Option<Instant>,
    /// The last notification of a free lease: the revision of the lease and the id of the ticket.
    told: Option<(Revision, String)>,
    waiters: BTreeMap<String, Waiter>,
    drawn: u64,
    /// The error of the record of the lease, if it is not readable as a lease.
    unreadable: Option<Arc<Error>>,
    /// The id of the local ticket that last received the lease.
    accepted: Option<String>,
}

/// The last action of this process on the lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Last {
    #[default]
    Nothing,
    /// The lease is held since this revision.
    Held(Revision),
    /// The lease was released with this delete marker.
    Left(Revision),
}

/// A local waiter.
#[derive(Debug)]
struct Waiter {
    claim: Claim,
    /// An instant before the ticket was created.
    since: Instant,
    ticket: Option<watch::Receiver<Lease>>,
    tell: mpsc::UnboundedSender<Told>,
    runtime: Handle,
}

/// A message to a waiter. If the message is never read, the lease in it is dropped, and so released.
#[derive(Debug)]
pub(super) enum Told {
    /// The lease is free, and this waiter is the first.
    Free(Over),
    /// The lease was handed over, with this outcome.
    Tried(Attempt),
    /// The watch has failed, or the record of the lease is not readable.
    Failed(Error),
    /// The watch has started.
    Listens,
    /// The watch has ended.
    Deaf,
}

/// The next holder: the record to write, and its TTL.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) holding: Holding,
    pub(super) ttl: Duration,
}

/// The wait queues of a bucket.
#[derive(Debug, Default)]
struct Lines(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lines: HashMap<SlotKey, Arc<Line>>,
    /// The number of wait queues after the last sweep.
    kept: usize,
}

impl Known {
    /// Drops the unused queues each time the number of queues has doubled. The amortized cost of a lookup does not
    /// depend on the number of locks.
    fn sweep(&mut self) {
        if self.lines.len() >= REMEMBERED.max(2 * self.kept) {
            self.lines.retain(|_, line| Arc::strong_count(line) > 1);
            self.kept = self.lines.len();
        }
    }
}

impl Line {
    /// Returns the wait queue of a lock.
    pub(super) fn of(bucket: &Bucket<Slot<Holding>>, key: &SlotKey) -> Arc<Self> {
        let lines = bucket.shared::<Lines>();
        let mut known = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = known.lines.get(key) {
            return Arc::clone(line);
        }
        known.sweep();
        let line = Arc::new(Self { id: fresh_id(), turn: Arc::default(), state: Mutex::default() });
        known.lines.insert(key.clone(), Arc::clone(&line));
        line
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to wait on the server.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Returns the right to wait on the server, unless another waiter has it.
    pub(super) fn try_turn(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        Arc::clone(&self.turn).try_lock_owned()
    }

    /// Returns whether this process holds the lease, according to its local state.
    pub(super) fn is_held_here(&self) -> bool {
        matches!(self.state().last, Last::Held(_))
    }

    /// Returns whether an attempt would fail, according to the local state.
    pub(super) fn is_taken(&self) -> bool {
        let state = self.state();
        matches!(state.last, Last::Held(_)) || (state.queue.ready && (state.queue.held || self.first(&state).is_some()))
    }

    /// Returns the delete marker if this process wrote it last. Only the first caller receives it.
    pub(super) fn marker(&self) -> Over {
        let mut state = self.state();
        match state.last {
            Last::Left(marker) => {
                state.last = Last::Nothing;
                Over::Remembered(marker)
            }
            _ => Over::Nothing,
        }
    }

    /// Records that this process holds the lease, until the returned value is dropped.
    pub(super) fn hold(self: &Arc<Self>, term: Revision) -> Held {
        self.state().last = Last::Held(term);
        Held { line: Arc::clone(self), term }
    }

    /// Returns the first waiter.
    fn first<'a>(&self, state: &'a State) -> Option<&'a Waits> {
        // A local ticket is ignored once its waiter has left, even if the event has not arrived.
        state.queue.first(Instant::now(), |id| id.starts_with(&self.id) && !state.waiters.contains_key(id))
    }

    /// Returns the error of an attempt to take the lease if the record of the lease is not readable.
    pub(super) fn unreadable(&self) -> Option<Error> {
        self.state().unreadable.as_ref().map(Error::also)
    }

    /// Returns when the last change of the lease was observed.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.state().heard
    }

    /// Returns whether no live ticket precedes this one.
    pub(super) fn is_first(&self, id: &str) -> bool {
        let state = self.state();
        state.queue.ready && self.first(&state).is_none_or(|first| first.id == id)
    }

    /// Returns whether other processes consider this ticket served, although its waiter still waits.
    pub(super) fn is_spent(&self, id: &str) -> bool {
        let state = self.state();
        state.waiters.contains_key(id) && state.queue.is_served(id)
    }

    /// Registers a waiter. Returns the id of the ticket to create, the messages to the waiter, and whether the watch
    /// has started.
    pub(super) fn enter(self: &Arc<Self>, claim: &Claim) -> (String, mpsc::UnboundedReceiver<Told>, bool) {
        let (tell, told) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.drawn += 1;
        // The ids increase in the order of creation.
        let id = format!("{}{:08x}", self.id, state.drawn);
        let (claim, since, runtime) = (claim.clone(), Instant::now(), Handle::current());
        self.listen(&mut state, &claim);
        state.waiters.insert(id.clone(), Waiter { claim, since, ticket: None, tell, runtime });
        (id, told, state.begun)
    }

    /// Records the ticket of a waiter.
    pub(super) fn drew(&self, id: &str, ticket: watch::Receiver<Lease>) {
        if let Some(waiter) = self.state().waiters.get_mut(id) {
            waiter.ticket = Some(ticket);
        }
    }

    /// Unregisters a waiter.
    pub(super) fn leave(&self, id: &str) {
        let left = self.state().waiters.remove(id);
        // Dropped without the lock, because the claim refers to the queue.
        drop(left);
    }

    /// Starts the watch if it is not running.
    pub(super) fn listen_again(self: &Arc<Self>, claim: &Claim) {
        self.listen(&mut self.state(), claim);
    }

    fn listen(self: &Arc<Self>, state: &mut State, claim: &Claim) {
        if state.listens.is_some() {
            return;
        }
        state.watches += 1;
        state.listens = Some(state.watches);
        let listener = Listener { line: Arc::clone(self), number: state.watches };
        tokio::spawn(listener.listen(Claim { line: None, ..claim.clone() }));
    }

    /// Returns the next holder after the term that began with this revision.
    pub(super) fn next(&self, term: Revision) -> Option<Next> {
        let state = self.state();
        // If the watch has not reached this term, it may show served tickets as waiting.
        if !state.queue.ready || state.queue.complete < term {
            return None;
        }
        let Waits { id, revision, owner, note, wants, unknown, .. } = self.first(&state)?.clone();
        let holding = Holding { id, ticket: Some(revision.get()), unknown, ..Holding::new(owner, note, None) };
        Some(Next { holding, ttl: wants?.min(BELIEVED) })
    }

    /// Records that the lease was handed over.
    pub(super) fn handed_on(self: &Arc<Self>, claim: &Claim, next: &Next, taken: Taken) {
        let mut state = self.state();
        // Only tickets were written in between.
        state.queue.complete = taken.revision.max(state.queue.complete);
        let news = state.queue.lease(taken.revision, Some(&next.holding.id));
        let granted = news.then(|| self.granted(&mut state, &next.holding)).flatten();
        drop(state);
        if let Some(granted) = granted {
            granted.keep(claim, &next.holding, taken.revision, Some(taken.sent));
        }
    }

    /// Records the lease as it was read.
    pub(super) fn saw(self: &Arc<Self>, claim: &Claim, entry: &Entry<Slot<Holding>>) {
        let mut state = self.state();
        if !state.queue.lease(entry.revision(), Some(&entry.value.id)) {
            return;
        }
        state.heard = Some(Instant::now());
        state.unreadable = None;
        let granted = self.granted(&mut state, &entry.value);
        drop(state);
        if let Some(granted) = granted {
            granted.keep(claim, &entry.value, entry.revision(), None);
        }
    }

    /// Returns the new holder if the lease was handed over to a local ticket.
    fn granted(self: &Arc<Self>, state: &mut State, holding: &Holding) -> Option<Granted> {
        let ticket = Revision::new(holding.ticket?);
        if !holding.id.starts_with(&self.id) {
            return None;
        }
        match state.waiters.remove(&holding.id) {
            Some(waiter) => {
                state.accepted = Some(holding.id.clone());
                Some(Granted::To(Box::new(waiter), ticket))
            }
            None if state.accepted.as_ref() == Some(&holding.id) => None,
            None => Some(Granted::TooLate(Arc::clone(self))),
        }
    }

    fn hear(self: &Arc<Self>, claim: &Claim, event: Event<Slot<Holding>>) {
        let now = Instant::now();
        let lease = claim.key.part();
        match event {
            Event::Put(entry) if entry.key().part() == lease => {
                self.saw(claim, &entry);
                self.state().queue.complete = entry.revision();
            }
            Event::Put(entry) => {
                if let Some(waits) = Waits::of(&entry, now) {
                    self.state().queue.waits(fence_of(&entry).get(), waits);
                }
            }
            Event::Removed { key, revision, .. } if key.part() == lease => {
                let mut state = self.state();
                state.queue.complete = revision;
                state.unreadable = None;
                if state.queue.lease(revision, None) {
                    state.heard = Some(now);
                }
            }
            Event::Removed { key, .. } => {
                if let Some(id) = id_of(key.part()) {
                    self.state().queue.leaves(id);
                }
            }
            Event::Ready => self.state().queue.ready = true,
            Event::Undecodable { key, error, .. } if key == claim.key.to_string() => {
                self.fail(Arc::new(unreadable(error, claim)));
            }
            Event::Resync => {
                let mut state = self.state();
                (state.queue, state.unreadable) = (Queue::default(), None);
            }
            _ => {}
        }
        self.tell_the_first();
    }

    /// Fails all waiters. No waiter can take the lease until its record is removed.
    fn fail(&self, error: Arc<Error>) {
        let mut state = self.state();
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(Told::Failed(Error::also(&error)));
        }
        state.unreadable = Some(error);
    }

    /// Notifies the first waiter once if the lease is free and the waiter is local.
    fn tell_the_first(&self) {
        let mut state = self.state();
        let State { queue, told, waiters, .. } = &*state;
        if !queue.ready || queue.held {
            return;
        }
        let Some(first) = self.first(&state) else { return };
        let Some(waiter) = waiters.get(&first.id) else { return };
        let news = (queue.lease, first.id.clone());
        if told.as_ref() != Some(&news) {
            let over = if queue.lease == Revision::ZERO { Over::Nothing } else { Over::Told(queue.lease) };
            let _ = waiter.tell.send(Told::Free(over));
            state.told = Some(news);
        }
    }
}

impl State {
    /// Resets the state after the watch has ended.
    fn deaf(&mut self) {
        (self.listens, self.begun) = (None, false);
        (self.queue, self.told, self.unreadable) = (Queue::default(), None, None);
    }

    /// Removes the waiters with a matching claim. The caller must drop them without the lock, because a claim refers to
    /// the queue.
    fn take_waiters(&mut self, is_meant: impl Fn(&Claim) -> bool) -> Vec<Waiter> {
        let (taken, kept) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, waiter)| is_meant(&waiter.claim));
        self.waiters = kept;
        BTreeMap::into_values(taken).collect()
    }
}

/// Ends the matching waits with an error.
fn fail(waiters: Vec<Waiter>, error: Error) {
    let error = Arc::new(error);
    for waiter in waiters {
        let _ = waiter.tell.send(Told::Failed(Error::also(&error)));
    }
}

/// The local receiver of a lease that was handed over.
enum Granted {
    /// A waiter, and the revision of its ticket that the sender had seen.
    To(Box<Waiter>, Revision),
    /// A waiter that has left.
    TooLate(Arc<Line>),
}

impl Granted {
    /// Starts the term of a lease that was handed over by the write with this revision. `sent` is set if this process
    /// sent the write.
    fn keep(self, claim: &Claim, holding: &Holding, revision: Revision, sent: Option<Instant>) {
        let holding = Holding { ticket: None, ..holding.clone() };
        match self {
            Self::To(waiter, ticket) => {
                let sent = sent.unwrap_or_else(|| waiter.since(ticket));
                waiter.accept(holding, Taken { revision, sent });
            }
            // Dropped at once, so the lease is handed over to the next waiter, or removed.
            Self::TooLate(line) => {
                let claim = Claim { line: Some(line), holding, ..claim.clone() };
                drop(claim.begin(Taken { revision, sent: Instant::now() }, None));
            }
        }
    }
}

impl Waiter {
    /// Returns when this revision of the ticket was sent. If that is not recorded, returns an earlier instant.
    fn since(&self, ticket: Revision) -> Instant {
        let of_ticket = || match *self.ticket.as_ref()?.borrow() {
            Lease::Held { until, revision } if revision == ticket => {
                until.checked_sub(self.claim.times.of_ticket().valid())
            }
            _ => None,
        };
        of_ticket().unwrap_or(self.since)
    }

    /// Accepts a lease that was handed over.
    fn accept(self, holding: Holding, taken: Taken) {
        let Self { claim, tell, runtime, .. } = self;
        // The sender bounds the TTL of a lease that it hands over. To get a longer TTL, the lease is taken again.
        let in_time = taken.sent + claim.times.valid() / 2 > Instant::now() && claim.times.ttl <= BELIEVED;
        let claim = Claim { holding, ..claim };
        // The lease keeper runs in the runtime of the waiter, not of the watch.
        let _runtime = runtime.enter();
        if in_time && !claim.fenced {
            let _ = tell.send(Told::Tried(Attempt::Taken(claim.begin(taken, None))));
            return;
        }
        tokio::spawn(async move {
            let attempt = if in_time {
                let deadline = claim.deadline();
                claim.keep(taken, deadline).await
            } else {
                let attempt = claim.clone().attempt(Over::Told(taken.revision)).await;
                if matches!(attempt, Attempt::Failed(_)) {
                    // The record may still name this waiter. Dropping the lease hands it over to the next waiter, or
                    // removes it.
                    drop(claim.begin(taken, None));
                }
                attempt
            };
            let _ = tell.send(Told::Tried(attempt));
        });
    }
}

/// The watch that serves all local waiters.
struct Listener {
    line: Arc<Line>,
    number: u64,
}

impl Listener {
    async fn listen(self, claim: Claim) {
        let all: Filter<Slot<Holding>> = SlotKey::parts(claim.key.recipe(), claim.key.name());
        let error = match claim.bucket.watch(all).await {
            Ok(mut events) => {
                self.begins();
                let mut unused = false;
                let mut look = Instant::now() + LINGER;
                loop {
                    let event = tokio::select! {
                        biased;
                        event = events.next() => event,
                        () = sleep_until(look) => {
                            if self.is_over(&mut unused) {
                                return;
                            }
                            look = Instant::now() + LINGER;
                            continue;
                        }
                    };
                    match event {
                        Some(Ok(event)) => self.line.hear(&claim, event),
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
            state.deaf();
            state.take_waiters(|_| true)
        };
        fail(waiters, error);
    }

    fn begins(&self) {
        let mut state = self.line.state();
        state.begun = true;
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(Told::Listens);
        }
    }

    /// Returns whether the queue has been unused for a while. Resets the state in that case.
    fn is_over(&self, unused: &mut bool) -> bool {
        let mut state = self.line.state();
        // The map of the bucket and this watch hold one reference each.
        let was_unused = std::mem::replace(unused, Arc::strong_count(&self.line) <= 2);
        let over = *unused && was_unused;
        if over {
            state.deaf();
        }
        over
    }
}

/// Notifies the waiters that the watch has ended, even if its runtime has shut down.
impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.line.state();
        if state.listens != Some(self.number) {
            return;
        }
        state.deaf();
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(Told::Deaf);
        }
    }
}

/// A lease that this process holds.
#[derive(Debug)]
pub(super) struct Held {
    line: Arc<Line>,
    term: Revision,
}

impl Held {
    /// Records that the lease was removed with this delete marker.
    pub(super) fn left(&self, marker: Revision) {
        self.end(Last::Left(marker));
    }

    fn end(&self, last: Last) {
        let mut state = self.line.state();
        if state.last == Last::Held(self.term) {
            state.last = last;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(Last::Nothing);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn lines_in_use_are_swept_a_logarithmic_number_of_times() {
        let bucket: Bucket<Slot<Holding>> = Store::memory().bucket().name("locks").await.unwrap();
        let line = |number: usize| Line::of(&bucket, &SlotKey::new("lock", number.to_string(), "lease"));
        let lines = bucket.shared::<Lines>();
        let known = || {
            let known = lines.0.lock().unwrap();
            (known.lines.len(), known.kept)
        };
        for number in 0..10 * REMEMBERED {
            let unused = line(number);
            drop(unused);
        }
        assert!(known().0 <= REMEMBERED, "unused lines are forgotten");

        let (mut used, mut sweeps) = (Vec::new(), 0);
        for number in 0..16 * REMEMBERED {
            let (_, before) = known();
            used.push(line(number));
            sweeps += usize::from(known().1 != before);
        }
        assert!((4..=6).contains(&sweeps), "{sweeps} sweeps");
        assert!(Arc::ptr_eq(&line(7), &used[7]));
    }
}
