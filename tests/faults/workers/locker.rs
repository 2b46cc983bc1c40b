//! Lock holders: of record locks, with fenced writes, and of named locks.

use harness::history::lock::Tenures;
use harness::history::{Action, Expected};
use kvtyped::Error;
use kvtyped::prelude::*;

use crate::model::{Record, RecordKey};
use crate::seat::{PATIENT, Seat};

/// The time limit for an acquisition.
const WAIT: Duration = Duration::from_secs(10);
/// Shorter than the longer faults, so that locks are lost and taken over.
const SHORT: Duration = Duration::from_secs(6);

/// Acquires the lock of a record and writes with its fencing token. Occasionally writes once more after the release.
/// Hasty workers use a short lease, which ends within most faults.
pub(crate) async fn locker(seat: Seat, tenures: Tenures) {
    let records: Bucket<Record> = seat.bucket().await;
    let key = RecordKey::new("fenced", 0_usize);
    for round in 0.. {
        if seat.is_over() {
            return;
        }
        let lock = records.lock(&key).wait(WAIT);
        let lock = if seat.is_hasty() { lock.ttl(SHORT) } else { lock };
        match lock.await {
            Ok(guard) => hold(&seat, &records, guard, &tenures, round).await,
            Err(error) => drop(seat.gauge.failed(&error)),
        }
        seat.rest().await;
    }
}

async fn hold(seat: &Seat, records: &Bucket<Record>, guard: LockGuard, tenures: &Tenures, round: usize) {
    let tenure = tenures.taken(seat.number, "beside", guard.fence().get());
    seat.gauge.done();
    for _ in 0..3 {
        if !tenures.look(tenure, || guard.is_held()) {
            break;
        }
        let record = Record::new("fenced", 0, seat.common.fresh());
        let write = records.put(&record).fenced_by(&guard).timeout(PATIENT);
        fenced(seat, &record, write.into_future(), tenures, tenure).await;
        tenures.look(tenure, || guard.is_held());
    }
    // Prepared while the lock is held, and sent after another worker may have acquired it.
    let late = Record::new("fenced", 0, seat.common.fresh());
    let write = (seat.dice(round).is_multiple_of(4)).then(|| records.put(&late).fenced_by(&guard).timeout(PATIENT));
    if let Err(error) = guard.release().await {
        seat.gauge.failed(&error);
    }
    if let Some(write) = write {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fenced(seat, &late, write.into_future(), tenures, tenure).await;
    }
}

async fn fenced(
    seat: &Seat,
    record: &Record,
    write: impl Future<Output = Result<Revision, Error>>,
    tenures: &Tenures,
    tenure: usize,
) {
    let action = Action::Write { value: Some(record.value), expected: Expected::Anything };
    let pending = seat.common.recorder.begin(seat.number, record.key().to_string(), action);
    tenures.fenced(tenure, pending.id());
    let result = write.await;
    if let Ok(revision) = result {
        seat.common.heard(revision);
    }
    pending.done(seat.gauge.wrote(&result));
}

/// Acquires a named lock, checks it for a while, and releases it. Workers with a number divisible by 3 use a fair lock.
pub(crate) async fn named_locker(seat: Seat, tenures: Tenures) {
    let open = seat.store.locks("locks").replicas(seat.replicas());
    let open = if seat.is_hasty() { open.ttl(SHORT) } else { open };
    let fair = seat.number.is_multiple_of(3);
    let locks = if fair { open.fair().await } else { open.await }.expect("nothing fails yet");
    while !seat.is_over() {
        match locks.lock("room").wait(WAIT).await {
            Ok(guard) => {
                let tenure = tenures.taken(seat.number, "room", guard.fence().get());
                seat.gauge.done();
                for _ in 0..5 {
                    if !tenures.look(tenure, || guard.is_held()) {
                        break;
                    }
                    seat.pause().await;
                }
                tenures.look(tenure, || guard.is_held());
                if let Err(error) = guard.release().await {
                    seat.gauge.failed(&error);
                }
            }
            Err(error) => drop(seat.gauge.failed(&error)),
        }
        seat.rest().await;
    }
}
