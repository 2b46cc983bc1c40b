//! A reader of the shared keys, at each level of freshness. What it sees is recorded.

use harness::history::{Action, Freshness, Outcome as Recorded, Seen};
use kvtyped::prelude::*;

use super::writer::{HOT, HOT_KEYS};
use crate::model::{Record, RecordKey};
use crate::seat::{PATIENT, Seat};

pub(crate) async fn reader(seat: Seat) {
    let records: Bucket<Record> = seat.bucket().await;
    for round in 0.. {
        if seat.is_over() {
            return;
        }
        let dice = seat.dice(round);
        let key = RecordKey::new(HOT, dice / 3 % HOT_KEYS);
        let newest = seat.common.newest();
        let (freshness, read) = match dice % 3 {
            0 => (Freshness::Any, Read::Any),
            1 => (Freshness::AtLeast(newest), Read::AtLeast(Revision::new(newest))),
            _ => (Freshness::Leader, Read::Leader),
        };
        let pending = seat.common.recorder.begin(seat.number, key.to_string(), Action::Read(freshness));
        let outcome = match records.get(&key).read(read).timeout(PATIENT).await {
            Ok(found) => {
                seat.gauge.done();
                Recorded::Seen(found.map(|entry| Seen { revision: entry.revision().get(), value: entry.value }))
            }
            Err(error) => {
                seat.gauge.failed(&error);
                Recorded::Failed
            }
        };
        pending.done(outcome);
        seat.pause().await;
    }
}
