//! The line of those who wait for a lock, as one process knows it.
//!
//! Everybody who waits draws a ticket, a lease of its own beside that of the lock. Whoever gives the lock back writes the
//! name of the first of them into it: one write and one event, and nobody else tries. One watch a process and lock hears of
//! tickets and lease, for all who wait here; it ends a little later than the last of them, so that it answers for those who
//! have just stopped waiting.
//!
//! # Since when is a lease valid that another has written?
//!
//! Its time to live begins when the server stores that write, which cannot be known here; when the write was heard of may
//! be long after. But the write names the revision of the ticket that its sender knew: so that revision was stored before,
//! and its sending, an instant of the clock of this process, is earlier than the beginning. From there it counts. Where it
//! cannot be told when that revision was sent, or that is too long ago, the lease is taken anew over what was written, as
//! if it were a marker.

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

/// How long a watch goes on for nobody.
const LINGER: Duration = Duration::from_secs(5);

/// How many locks are remembered for the sake of the marker that stands at the end of the last tenure.
const REMEMBERED: usize = 1_024;

/// What the holders of a lock in this process, and those who wait for it here, know together.
#[derive(Debug)]
pub(super) struct Line {
    /// Every ticket that is drawn here begins with it, and no other.
    id: String,
    /// Whoever has it may wait on the server, of those who do not insist on their order.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Last,
    /// Which watch is it that listens, if one does.
    listens: Option<u64>,
    watches: u64,
    /// Whether it has begun.
    begun: bool,
    queue: Queue,
    /// When something was heard of the lease.
    heard: Option<Instant>,
    /// Who was told last that the lease is free, and after which of its revisions.
    told: Option<(Revision, String)>,
    waiters: BTreeMap<String, Waiter>,
    drawn: u64,
    /// The error of the record in the place of the lease, if it is not readable as a lease.
    unreadable: Option<Arc<Error>>,
    /// To which ticket of this process the lease was handed on last.
    accepted: Option<String>,
}

/// What this process has last done with the lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Last {
    #[default]
    Nothing,
    /// It has it still, since this revision.
    Held(Revision),
    /// It has left a marker.
    Left(Revision),
}

/// One who waits here.
#[derive(Debug)]
struct Waiter {
    claim: Claim,
    /// Before its ticket was drawn.
    since: Instant,
    ticket: Option<watch::Receiver<Lease>>,
    tell: mpsc::UnboundedSender<Told>,
    runtime: Handle,
}

/// What one who waits is told. A lease that is in what nobody reads is dropped with it, and so given back.
#[derive(Debug)]
pub(super) enum Told {
    /// The lease is free, and this one is the first.
    Free(Over),
    /// It was handed on, and this came of it.
    Tried(Attempt),
    /// The watch has failed for good.
    Failed(Error),
    /// The watch has begun.
    Listens,
    /// Nobody listens any more.
    Deaf,
}

/// The next holder, and what is to be written so that it is.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) holding: Holding,
    pub(super) ttl: Duration,
}

/// The lines of a bucket.
#[derive(Debug, Default)]
struct Lines(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lines: HashMap<SlotKey, Arc<Line>>,
    /// The number of lines after the last sweep.
    kept: usize,
}

impl Known {
    /// Drops the unused lines each time the number of lines has doubled. The amortized cost of a lookup does not depend
    /// on the number of locks.
    fn sweep(&mut self) {
        if self.lines.len() >= REMEMBERED.max(2 * self.kept) {
            self.lines.retain(|_, line| Arc::strong_count(line) > 1);
            self.kept = self.lines.len();
        }
    }
}

impl Line {
    /// The line of a lock.
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

    /// Waits until it is one's turn to wait on the server.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// The same, unless somebody waits.
    pub(super) fn try_turn(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        Arc::clone(&self.turn).try_lock_owned()
    }

    /// Whether it is held by this process, as that believes.
    pub(super) fn is_held_here(&self) -> bool {
        matches!(self.state().last, Last::Held(_))
    }

    /// Whether an attempt to take it would be in vain, as far as is known.
    pub(super) fn is_taken(&self) -> bool {
        let state = self.state();
        matches!(state.last, Last::Held(_)) || (state.queue.ready && (state.queue.held || self.first(&state).is_some()))
    }

    /// The marker that this process has left, if it was the last; whoever asks first is told.
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

    /// This process holds it, until what is returned is dropped.
    pub(super) fn hold(self: &Arc<Self>, term: Revision) -> Held {
        self.state().last = Last::Held(term);
        Held { line: Arc::clone(self), term }
    }

    /// The first of those who wait.
    fn first<'a>(&self, state: &'a State) -> Option<&'a Waits> {
        // What became of the tickets that were drawn here is known before it is heard.
        state.queue.first(Instant::now(), |id| id.starts_with(&self.id) && !state.waiters.contains_key(id))
    }

    /// Returns the error of an attempt to take the lease if the record in its place is not readable.
    pub(super) fn unreadable(&self) -> Option<Error> {
        self.state().unreadable.as_ref().map(Error::also)
    }

    /// When something was heard of the lease.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.state().heard
    }

    /// Whether nobody who lives comes before this ticket.
    pub(super) fn is_first(&self, id: &str) -> bool {
        let state = self.state();
        state.queue.ready && self.first(&state).is_none_or(|first| first.id == id)
    }

    /// Whether others take this ticket for one that had the lease, though it still waits here.
    pub(super) fn is_spent(&self, id: &str) -> bool {
        let state = self.state();
        state.waiters.contains_key(id) && state.queue.is_served(id)
    }

    /// Somebody begins to wait: the id of the ticket to draw, what is told of it, and whether somebody listens.
    pub(super) fn enter(self: &Arc<Self>, claim: &Claim) -> (String, mpsc::UnboundedReceiver<Told>, bool) {
        let (tell, told) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.drawn += 1;
        // In the order in which they are drawn here, too.
        let id = format!("{}{:08x}", self.id, state.drawn);
        let (claim, since, runtime) = (claim.clone(), Instant::now(), Handle::current());
        self.listen(&mut state, &claim);
        state.waiters.insert(id.clone(), Waiter { claim, since, ticket: None, tell, runtime });
        (id, told, state.begun)
    }

    /// The ticket was drawn.
    pub(super) fn drew(&self, id: &str, ticket: watch::Receiver<Lease>) {
        if let Some(waiter) = self.state().waiters.get_mut(id) {
            waiter.ticket = Some(ticket);
        }
    }

    /// Somebody waits no more.
    pub(super) fn leave(&self, id: &str) {
        let left = self.state().waiters.remove(id);
        // Its claim knows the line.
        drop(left);
    }

    /// Sees to it that somebody listens.
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

    /// To whom the tenure that began with this revision hands the lease on.
    pub(super) fn next(&self, term: Revision) -> Option<Next> {
        let state = self.state();
        // Who has not heard of the tenure itself does not know who was served before.
        if !state.queue.ready || state.queue.complete < term {
            return None;
        }
        let Waits { id, revision, owner, note, wants, unknown, .. } = self.first(&state)?.clone();
        let holding = Holding { id, ticket: Some(revision.get()), unknown, ..Holding::new(owner, note, None) };
        Some(Next { holding, ttl: wants?.min(BELIEVED) })
    }

    /// The lease was handed on.
    pub(super) fn handed_on(self: &Arc<Self>, claim: &Claim, next: &Next, taken: Taken) {
        let mut state = self.state();
        // In between was nothing but tickets.
        state.queue.complete = taken.revision.max(state.queue.complete);
        let news = state.queue.lease(taken.revision, Some(&next.holding.id));
        let granted = news.then(|| self.granted(&mut state, &next.holding)).flatten();
        drop(state);
        if let Some(granted) = granted {
            granted.keep(claim, &next.holding, taken.revision, Some(taken.sent));
        }
    }

    /// The lease is as it was read.
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

    /// Who has the lease now, if it was handed on to a ticket that was drawn here.
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

    /// No waiter can take the lease until the record in its place is removed.
    fn fail(&self, error: Arc<Error>) {
        let mut state = self.state();
        for waiter in state.waiters.values() {
            let _ = waiter.tell.send(Told::Failed(Error::also(&error)));
        }
        state.unreadable = Some(error);
    }

    /// If the lease is free, and the first of those who wait is here, it is told; once.
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
    /// Nobody listens any more.
    fn deaf(&mut self) {
        (self.listens, self.begun) = (None, false);
        (self.queue, self.told, self.unreadable) = (Queue::default(), None, None);
    }

    /// Removes the waiters with a matching claim. The caller must drop them without the lock, because a claim refers to
    /// the line.
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

/// Who has a lease that was handed on.
enum Granted {
    /// One who waits here, whose ticket had this revision as far as was known.
    To(Box<Waiter>, Revision),
    /// One who waits no more.
    TooLate(Arc<Line>),
}

impl Granted {
    /// Keeps what was handed on by a write of this revision; `sent` is when it was sent, if this process did so.
    fn keep(self, claim: &Claim, holding: &Holding, revision: Revision, sent: Option<Instant>) {
        let holding = Holding { ticket: None, ..holding.clone() };
        match self {
            Self::To(waiter, ticket) => {
                let sent = sent.unwrap_or_else(|| waiter.since(ticket));
                waiter.accept(holding, Taken { revision, sent });
            }
            // Dropped at once, so it goes on to the next, or away.
            Self::TooLate(line) => {
                let claim = Claim { line: Some(line), holding, ..claim.clone() };
                drop(claim.begin(Taken { revision, sent: Instant::now() }, None));
            }
        }
    }
}

impl Waiter {
    /// When this revision of its ticket was sent; if that is not known, an instant before it.
    fn since(&self, ticket: Revision) -> Instant {
        let of_ticket = || match *self.ticket.as_ref()?.borrow() {
            Lease::Held { until, revision } if revision == ticket => {
                until.checked_sub(self.claim.times.of_ticket().valid())
            }
            _ => None,
        };
        of_ticket().unwrap_or(self.since)
    }

    /// Takes what was handed on to it.
    fn accept(self, holding: Holding, taken: Taken) {
        let Self { claim, tell, runtime, .. } = self;
        // The sender bounds the TTL of a lease that it hands over. To get a longer TTL, the lease is taken again.
        let in_time = taken.sent + claim.times.valid() / 2 > Instant::now() && claim.times.ttl <= BELIEVED;
        let claim = Claim { holding, ..claim };
        // Its tenure belongs to whom waits, not to whom listens.
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
                    // What was handed on may be there still: it goes on to the next, or away.
                    drop(claim.begin(taken, None));
                }
                attempt
            };
            let _ = tell.send(Told::Tried(attempt));
        });
    }
}

/// The one who listens for all who wait here.
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

    /// Whether nobody has been here for a while. Then nobody listens from now on.
    fn is_over(&self, unused: &mut bool) -> bool {
        let mut state = self.line.state();
        // The bucket knows of it, and this one.
        let was_unused = std::mem::replace(unused, Arc::strong_count(&self.line) <= 2);
        let over = *unused && was_unused;
        if over {
            state.deaf();
        }
        over
    }
}

/// Whoever waits hears that nobody listens any more, also if that ends with its runtime.
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

/// This process holds a lease.
#[derive(Debug)]
pub(super) struct Held {
    line: Arc<Line>,
    term: Revision,
}

impl Held {
    /// It was removed, and this marker left.
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
