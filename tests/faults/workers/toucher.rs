//! A worker that renews the TTL of the record it wrote. `touch` stores the existing value again. The history of values
//! therefore excludes these writes.

use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::prelude::*;
use kvtyped::{ErrorKind, Read};

use crate::model::{Record, RecordKey};
use crate::worker_context::{HASTY, PATIENT, WorkerContext};

/// Longer than a run.
const TTL: Duration = Duration::from_secs(3_600);

/// The expected state of a toucher's record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    key: Option<RecordKey>,
    /// The possible values: the last acknowledged value, and later values without an acknowledgement.
    values: Vec<u64>,
    /// The highest acknowledged revision.
    revision: Revision,
    violations: Vec<String>,
}

impl Touched {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares the expected state with the final record.
    pub(crate) async fn check(&self, records: &Bucket<Record>) -> Vec<String> {
        let Some(key) = self.with(|state| state.key.clone()) else { return Vec::new() };
        let read = records.get(&key).read(Read::Leader).timeout(PATIENT).await;
        self.with(|state| {
            let mut violations = std::mem::take(&mut state.violations);
            match read {
                Ok(Some(entry)) if entry.revision() < state.revision => {
                    violations.push(format!(
                        "{key} is at {}, and {} was acknowledged",
                        entry.revision(),
                        state.revision
                    ));
                }
                Ok(Some(entry)) if !state.values.contains(&entry.value) => {
                    violations.push(format!("{key} holds {}, none of {:?}", entry.value, state.values));
                }
                Ok(Some(entry)) if entry.ttl().is_none() => violations.push(format!("{key} has lost its time to live")),
                Ok(Some(_)) => {}
                other => violations.push(format!("{key} was touched, and is {other:?}")),
            }
            violations
        })
    }
}

pub(crate) async fn toucher(context: WorkerContext, touched: Touched) {
    let records: Bucket<Record> = context.bucket().await;
    let mut record = Record::new("touched", context.number, context.common.fresh());
    let key = record.key();
    let first = records.put(&record).ttl(TTL).await.expect("nothing fails yet");
    touched.with(|state| {
        state.key = Some(key.clone());
        state.values = vec![record.value];
        state.revision = first;
    });
    for round in 0.. {
        if context.is_over() {
            return;
        }
        let result = if context.dice(round).is_multiple_of(4) {
            record.value = context.common.fresh();
            touched.with(|state| state.values.push(record.value));
            let result = records.put(&record).ttl(TTL).timeout(HASTY).await;
            touched.with(|state| match &result {
                // An earlier write without an acknowledgement may still be applied after this one.
                Ok(_) if state.values.len() == 2 => state.values = vec![record.value],
                Err(error) if error.outcome() == Outcome::NotApplied => drop(state.values.pop()),
                _ => {}
            });
            result
        } else {
            let result = records.touch(&key).ttl(TTL).timeout(PATIENT).await;
            if let Err(error) = &result
                && matches!(error.kind(), ErrorKind::NotFound)
            {
                touched.with(|state| state.violations.push(format!("{key} exists, but `touch` returned: {error}")));
            }
            result
        };
        context.gauge.wrote(&result);
        if let Ok(revision) = result {
            touched.with(|state| {
                if revision <= state.revision {
                    state.violations.push(format!("{key} was written at {revision}, after {}", state.revision));
                }
                state.revision = revision;
            });
        }
        context.pause().await;
    }
}
