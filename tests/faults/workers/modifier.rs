//! Several tasks that increment one record by closures. The record keeps the id of each increment.

use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::prelude::*;

use crate::model::{Tally, TallyKey};
use crate::worker_context::{PATIENT, Seat};

/// The number of tasks that share a connection and therefore one commit queue.
const TASKS: usize = 4;

/// The outcome of each increment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changed(Arc<Mutex<Vec<Increment>>>);

#[derive(Debug, Clone, Copy)]
struct Increment {
    worker: usize,
    id: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
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
        let count = |fate| increments.iter().filter(|increment| increment.fate == fate).count();
        (count(Fate::Applied), count(Fate::Unknown))
    }

    /// Compares the outcomes with the final record.
    pub(crate) fn check(&self, tally: &Tally) -> Vec<String> {
        let increments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut violations = Vec::new();
        if tally.twice > 0 {
            violations.push(format!("{} increments were applied twice", tally.twice));
        }
        let mut held = 0;
        for Increment { worker, id, fate } in increments.iter().copied() {
            let is_held = tally.holds(worker, id);
            held += u64::from(is_held);
            match fate {
                Fate::Applied if !is_held => violations.push(format!("increment {id} of {worker} is lost")),
                Fate::NotApplied if is_held => {
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

pub(crate) async fn changer(seat: Seat, changed: Changed) {
    let tallies = seat.bucket().await;
    let tasks = (0..TASKS).map(|task| add(seat.number * TASKS + task, seat.clone(), tallies.clone(), changed.clone()));
    futures::future::join_all(tasks).await;
}

async fn add(worker: usize, seat: Seat, tallies: Bucket<Tally>, changed: Changed) {
    for id in 0.. {
        if seat.is_over() {
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
        let fate = match &result {
            Ok(_) => {
                seat.gauge.done();
                Fate::Applied
            }
            Err(error) => {
                seat.gauge.failed(error);
                if error.outcome() == Outcome::Unknown { Fate::Unknown } else { Fate::NotApplied }
            }
        };
        changed.note(Increment { worker, id, fate });
        seat.pause().await;
    }
}
