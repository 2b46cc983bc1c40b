//! The effects that are not durable yet, and the calls that wait for them.

#![cfg_attr(not(feature = "file"), allow(dead_code, reason = "only the durable backend has a log"))]

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::bucket::BucketState;
use super::changes::Changes;
use super::effect::{Effect, Record};
use crate::config::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// The log of a durable backend: every effect from its application to its commit.
#[derive(Debug)]
pub(crate) struct Log {
    /// The number of the last effect.
    last: u64,
    /// The number of the last durable effect.
    durable: u64,
    pending: VecDeque<Record>,
    waiters: Vec<(u64, oneshot::Sender<CommitResult>)>,
    /// How often effects were reverted.
    pub(super) rollbacks: u64,
    condition: Condition,
    /// Wakes the writer of the log.
    wake: Arc<Condvar>,
    /// Whether the writer waits.
    pub(crate) is_writer_idle: bool,
}

/// Whether a log accepts effects.
#[derive(Debug, Clone)]
enum Condition {
    Open,
    Closing,
    Failed(String),
}

/// The result of the commit of an effect.
#[derive(Debug, Clone)]
pub(crate) enum CommitResult {
    Durable,
    /// The effect was reverted.
    Refused(String),
    /// The effect may or may not be stored, and the backend answers nothing more.
    Failed(String),
}

/// Decides when an answer is given.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// All data of the answer is durable.
    Durable,
    Pending(oneshot::Receiver<CommitResult>),
}

/// A waiting call and its result.
pub(crate) type Answer = (oneshot::Sender<CommitResult>, CommitResult);

/// The recorded changes of one verb.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The revisions of the appended entries.
    pub(crate) stored: Vec<Revision>,
    /// The number of removed entries.
    pub(crate) removed: u64,
    /// The number of the last effect, or zero without a log.
    pub(crate) seq: u64,
}

impl Log {
    /// Creates a log whose effects up to `durable` are stored.
    pub(crate) fn new(durable: u64, wake: Arc<Condvar>) -> Self {
        Self {
            last: durable,
            durable,
            pending: VecDeque::new(),
            waiters: Vec::new(),
            rollbacks: 0,
            condition: Condition::Open,
            wake,
            is_writer_idle: false,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Returns an error if the log accepts no effects.
    pub(super) fn check(&self) -> Result<()> {
        match &self.condition {
            Condition::Open => Ok(()),
            Condition::Closing => Err(Error::new(ErrorKind::Closed)),
            Condition::Failed(reason) => Err(Error::unavailable(reason.clone())),
        }
    }

    /// Accepts no more effects. The pending effects are still written.
    pub(crate) fn close(&mut self) {
        if matches!(self.condition, Condition::Open) {
            self.condition = Condition::Closing;
        }
        self.wake.notify_one();
    }

    /// Wakes the writer.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether the log is closed, and every effect was taken.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(self.condition, Condition::Closing) && self.pending.is_empty()
    }

    /// Records the changes of a verb as one operation. `visible` means that an appended entry of the same key replaces
    /// each removed entry.
    pub(super) fn record(
        &mut self,
        bucket: &mut BucketState,
        changes: Changes,
        now: Duration,
        visible: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Applied {
        let Changes { stored, mut removed } = changes;
        let count = removed.len() as u64;
        if (stored.is_empty() && removed.is_empty()) || bucket.config.storage == Some(Storage::Memory) {
            return Applied { stored, removed: count, seq: 0 };
        }
        let id = bucket.id;
        for revision in &stored {
            let seq = self.last + 1;
            let at_once = removed.iter_mut().find(|removal| removal.revision == *revision);
            let entry = at_once.map(|removal| &mut removal.entry).or_else(|| bucket.entry_mut(*revision));
            let Some(entry) = entry else { continue };
            entry.seq = seq;
            let effect = Effect::Stored { bucket: id, revision: *revision, entry: entry.clone() };
            self.push(effect, now);
        }
        let removes = !removed.is_empty();
        for removal in removed {
            self.push(Effect::Removed { bucket: id, removal }, now);
        }
        if removes && !visible {
            bucket.touched = self.last;
        }
        self.end_operation(permit);
        Applied { stored, removed: count, seq: self.last }
    }

    /// Appends an effect to the current operation.
    pub(super) fn push(&mut self, effect: Effect, at: Duration) {
        self.last += 1;
        self.pending.push_back(Record { seq: self.last, at, effect, ends_operation: false, permit: None });
    }

    /// Ends the current operation, so that the writer may take it.
    pub(super) fn end_operation(&mut self, permit: Option<OwnedSemaphorePermit>) {
        if let Some(record) = self.pending.back_mut() {
            record.ends_operation = true;
            record.permit = permit;
        }
        if self.is_writer_idle {
            self.wake.notify_one();
        }
    }

    /// Returns the ticket of an answer with data of this effect and of earlier ones. `u64::MAX` means any effect.
    pub(super) fn ticket(&mut self, seq: u64) -> Ticket {
        let seq = seq.min(self.last);
        if seq <= self.durable {
            return Ticket::Durable;
        }
        let (sender, receiver) = oneshot::channel();
        match &self.condition {
            // The receiver exists, so this succeeds.
            Condition::Failed(reason) => drop(sender.send(CommitResult::Failed(reason.clone()))),
            Condition::Open | Condition::Closing => self.waiters.push((seq, sender)),
        }
        Ticket::Pending(receiver)
    }

    /// Takes whole operations of about `size` bytes in total, and at least one.
    pub(crate) fn take_group(&mut self, size: usize) -> Vec<Record> {
        let (mut group, mut taken) = (Vec::new(), 0);
        while let Some(record) = self.pending.pop_front() {
            taken += record.size();
            let ends = record.ends_operation;
            group.push(record);
            if ends && taken >= size {
                break;
            }
        }
        group
    }

    /// Returns all effects that were not taken.
    pub(super) fn take_pending(&mut self) -> VecDeque<Record> {
        std::mem::take(&mut self.pending)
    }

    /// Publishes that all effects up to `seq` are durable.
    pub(crate) fn committed(&mut self, seq: u64) -> Vec<Answer> {
        self.durable = seq;
        let answered = self.waiters.extract_if(.., |(waits_for, _)| *waits_for <= seq);
        answered.map(|(_, sender)| (sender, CommitResult::Durable)).collect()
    }

    /// Forgets the effects that are not durable. The caller has reverted them.
    pub(super) fn forget(&mut self, reason: &str) -> Vec<Answer> {
        self.last = self.durable;
        self.rollbacks += 1;
        let waiters = self.waiters.drain(..);
        waiters.map(|(_, sender)| (sender, CommitResult::Refused(reason.to_owned()))).collect()
    }

    /// Fails the log for good.
    pub(super) fn fail(&mut self, reason: &str) -> Vec<Answer> {
        self.condition = Condition::Failed(reason.to_owned());
        let waiters = self.waiters.drain(..);
        waiters.map(|(_, sender)| (sender, CommitResult::Failed(reason.to_owned()))).collect()
    }
}
