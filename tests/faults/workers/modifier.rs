//! Several tasks that increment one record by closures. The record keeps the id of each increment.

use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::prelude::*;

use crate::model::{Tally, TallyKey};
use crate::worker_context::{PATIENT, WorkerContext};

/// The number of tasks that share a connection and therefore one commit queue.
const TASKS: usize = 4;

/// The outcome of each increment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changed(Arc<Mutex<Vec<Increment>>>);

#[derive(Debug, Clone, Copy)]
struct Increment {
    worker: usize,
    id: u64,
    write_fate: WriteFate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteFate {
    Applied,
    NotApplied,
    Unknown,
}

impl Changed {
    fn note(&self, increment: Increment) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(increment);
    }

    /// Returns the numbers of acknowledged increments and of increments of unknown outcome.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let increments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |write_fate| increments.iter().filter(|increment| increment.write_fate == write_fate).count();
        (count(WriteFate::Applied), count(WriteFate::Unknown))
    }

    /// Compares the outcomes with the final record.
    pub(crate) fn check(&self, tally: &Tally) -> Vec<String> {
        let increments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut violations = Vec::new();
        if tally.twice > 0 {
            violations.push(format!("{} increments were applied twice", tally.twice));
        }
        let mut held = 0;
        for Increment { worker, id, write_fate } in increments.iter().copied() {
            let is_held = tally.holds(worker, id);
            held += u64::from(is_held);
            match write_fate {
                WriteFate::Applied if !is_held => violations.push(format!("increment {id} of {worker} is lost")),
                WriteFate::NotApplied if is_held => {
                    violations.push(format!("increment {id} of {worker} is applied, but was reported as not applied"));
                }
                _ => {}
            }
        }
        if tally.value != held {
            violations.push(format!("the tally is {}, and {held} increments are held", tally.value));
        }
        violations
    }
}

pub(crate) async fn changer(context: WorkerContext, changed: Changed) {
    let tallies = context.bucket().await;
    let tasks =
        (0..TASKS).map(|task| add(context.number * TASKS + task, context.clone(), tallies.clone(), changed.clone()));
    futures::future::join_all(tasks).await;
}

async fn add(worker: usize, context: WorkerContext, tallies: Bucket<Tally>, changed: Changed) {
    for id in 0.. {
        if context.is_over() {
            return;
        }
        // The closure of `modify` does not run on an inserted value.
        let first = || {
            let mut tally = Tally::default();
            tally.add(worker, id);
            tally
        };
        let change = tallies.modify(&TallyKey, |tally| tally.add(worker, id)).or_insert_with(first);
        let result = change.max_attempts(u32::MAX).timeout(PATIENT).await;
        let write_fate = match &result {
            Ok(_) => {
                context.gauge.done();
                WriteFate::Applied
            }
            Err(error) => {
                context.gauge.failed(error);
                if error.outcome() == Outcome::Unknown { WriteFate::Unknown } else { WriteFate::NotApplied }
            }
        };
        changed.note(Increment { worker, id, write_fate });
        context.pause().await;
    }
}
