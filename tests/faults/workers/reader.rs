//! A reader of the shared keys, at each freshness level. Its reads are recorded.

use harness::history::{Action, Freshness, Outcome as Recorded, Seen};
use kvtyped::Read;
use kvtyped::prelude::*;

use super::writer::{HOT, HOT_KEYS};
use crate::model::{Record, RecordKey};
use crate::worker_context::{PATIENT, WorkerContext};

pub(crate) async fn reader(context: WorkerContext) {
    let records: Bucket<Record> = context.bucket().await;
    for round in 0.. {
        if context.is_over() {
            return;
        }
        let dice = context.dice(round);
        read(&context, &records, &RecordKey::new(HOT, dice / 3 % HOT_KEYS), dice).await;
        context.pause().await;
    }
}

/// Performs and records one read at a freshness level that `dice` selects. Returns the revision of the record.
pub(super) async fn read(
    context: &WorkerContext,
    records: &Bucket<Record>,
    key: &RecordKey,
    dice: usize,
) -> Option<Revision> {
    let newest = context.common.newest();
    let (freshness, level) = match dice % 3 {
        0 => (Freshness::Any, Read::Any),
        1 => (Freshness::AtLeast(newest), Read::AtLeast(Revision::new(newest))),
        _ => (Freshness::Leader, Read::Leader),
    };
    let pending = context.common.recorder.begin(context.number, key.to_string(), Action::Read(freshness));
    match records.get(key).read(level).timeout(PATIENT).await {
        Ok(found) => {
            context.gauge.done();
            let seen = found.as_ref().map(|entry| Seen { revision: entry.revision().get(), value: entry.value });
            pending.done(Recorded::Seen(seen));
            found.map(|entry| entry.revision())
        }
        Err(error) => {
            context.gauge.failed(&error);
            pending.done(Recorded::Failed);
            None
        }
    }
}
