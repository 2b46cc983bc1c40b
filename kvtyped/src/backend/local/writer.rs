//! The state as the writer of its log sees it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use super::durable::Queue;
use super::shared::{self, LocalShared};
use crate::backend::state::effect::Record;
use crate::backend::state::log::Answer;
use crate::backend::state::machine::StateMachine;

/// Takes effects from the log, and reports what became of them. For one thread.
#[derive(Debug)]
pub(crate) struct LogWriter {
    state: Arc<Mutex<StateMachine>>,
    wake: Arc<Condvar>,
    queue: Arc<Queue>,
    clock: Clock,
}

/// The next task of the writer.
pub(crate) enum Task {
    Write(Vec<Record>),
    /// The caller's own condition holds.
    Interrupted,
    /// Nothing happened for the given time.
    Idle,
    /// The log is closed and drained.
    Closed,
}

impl LogWriter {
    pub(crate) fn new(state: StateMachine, wake: Arc<Condvar>, clock: Clock) -> Self {
        Self { state: Arc::new(Mutex::new(state)), wake, queue: Arc::new(Queue::new()), clock }
    }

    /// Returns the part that handles share.
    pub(crate) fn shared(&self, opens: u64) -> LocalShared {
        LocalShared::durable(Arc::clone(&self.state), self.clock, Arc::clone(&self.queue), opens)
    }

    /// Returns the time of the state.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Removes all entries that have expired.
    pub(crate) fn advance_all(&self) {
        shared::lock(&self.state).advance_all(self.clock.now());
    }

    /// Returns the number of bytes of all entries.
    pub(crate) fn stored_bytes(&self) -> u64 {
        shared::lock(&self.state).buckets().map(|bucket| bucket.bytes).sum()
    }

    /// Waits for effects, at most for `pause`, and takes a group of about `size` bytes.
    pub(crate) fn next(&self, size: usize, pause: Duration, interrupted: impl Fn() -> bool) -> Task {
        let mut state = shared::lock(&self.state);
        let mut is_late = false;
        loop {
            let Some(log) = state.log() else { return Task::Closed };
            log.is_writer_idle = false;
            let group = log.take_group(size);
            if !group.is_empty() {
                return Task::Write(group);
            }
            if log.is_drained() {
                return Task::Closed;
            }
            if interrupted() {
                return Task::Interrupted;
            }
            if is_late {
                return Task::Idle;
            }
            log.is_writer_idle = true;
            let waited = self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            is_late = waited.1.timed_out();
            state = waited.0;
        }
    }

    /// Adds the effects that have arrived since the last call to a group, about `size` bytes. Does not wait.
    pub(crate) fn join(&self, group: &mut Vec<Record>, size: usize) {
        if let Some(log) = shared::lock(&self.state).log() {
            group.append(&mut log.take_group(size));
        }
    }

    /// Reports that a group is durable.
    pub(crate) fn committed(&self, group: Vec<Record>) {
        let Some(last) = group.last().map(|record| record.seq) else { return };
        self.queue.admit_one_by_one(false);
        let answers = shared::lock(&self.state).log().map(|log| log.committed(last));
        answer(answers.unwrap_or_default());
    }

    /// Reverts a group, because the storage has no room for it.
    pub(crate) fn refused(&self, group: Vec<Record>, reason: &str) {
        self.queue.admit_one_by_one(true);
        let answers = shared::lock(&self.state).refuse(group, reason);
        answer(answers);
    }

    /// Fails the backend.
    pub(crate) fn failed(&self, reason: &str) {
        let answers = shared::lock(&self.state).fail(reason);
        answer(answers);
    }
}

fn answer(answers: Vec<Answer>) {
    for (waiter, result) in answers {
        // A caller that stopped waiting needs no answer.
        let _ = waiter.send(result);
    }
}
