//! A worker that increments and decrements a server-side counter.

use std::sync::{Arc, Mutex, PoisonError};

use harness::history::counter::Tally;
use kvtyped::prelude::*;

use crate::worker_context::{PATIENT, WorkerContext};

/// The sums of the increments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Added(Arc<Mutex<Sums>>);

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    tally: Tally,
    acknowledged: usize,
    unknown: usize,
}

impl Added {
    fn with(&self, act: impl FnOnce(&mut Sums)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tally
    }

    /// Returns the numbers of acknowledged increments and of increments of unknown outcome.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let Sums { acknowledged, unknown, .. } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (acknowledged, unknown)
    }
}

pub(crate) async fn adder(context: WorkerContext, added: Added) {
    let open = context.store.counters("hits").replicas(context.replicas()).timeout(PATIENT);
    let hits = open.await.expect("nothing fails yet");
    for round in 0.. {
        if context.is_over() {
            return;
        }
        let delta = i64::try_from(context.dice(round) % 9).unwrap_or_default() - 3;
        match hits.add("home", delta).await {
            Ok(_) => {
                context.gauge.done();
                added.with(|sums| {
                    sums.tally.acknowledged(delta);
                    sums.acknowledged += 1;
                });
            }
            Err(error) => {
                context.gauge.failed(&error);
                if error.outcome() == Outcome::Unknown {
                    added.with(|sums| {
                        sums.tally.unknown(delta);
                        sums.unknown += 1;
                    });
                }
            }
        }
        context.pause().await;
    }
}
