//! Lock holders: of record locks, with fenced writes, and of named locks.

use harness::history::lock::TermLog;
use harness::history::{Action, Expected};
use kvtyped::Error;
use kvtyped::prelude::*;

use crate::model::{Record, RecordKey};
use crate::worker_context::{PATIENT, WorkerContext};

/// The time limit for an acquisition.
const WAIT: Duration = Duration::from_secs(10);
/// Shorter than the longer faults, so that locks are lost and taken over.
const SHORT: Duration = Duration::from_secs(6);

/// Acquires the lock of a record and writes with its fencing token. Occasionally writes once more after the release.
/// Hasty workers use a short lease, which ends within most faults.
pub(crate) async fn locker(context: WorkerContext, term_log: TermLog) {
    let records: Bucket<Record> = context.bucket().await;
    let key = RecordKey::new("fenced", 0_usize);
    for round in 0.. {
        if context.is_over() {
            return;
        }
        let lock = records.lock(&key).wait(WAIT);
        let lock = if context.is_hasty() { lock.ttl(SHORT) } else { lock };
        match lock.await {
            Ok(guard) => hold(&context, &records, guard, &term_log, round).await,
            Err(error) => drop(context.gauge.failed(&error)),
        }
        context.rest().await;
    }
}

async fn hold(context: &WorkerContext, records: &Bucket<Record>, guard: LockGuard, term_log: &TermLog, round: usize) {
    let term_record = term_log.taken(context.number, "beside", guard.fence().get());
    context.gauge.done();
    for _ in 0..3 {
        if !term_log.look_up(term_record, || guard.is_held()) {
            break;
        }
        let record = Record::new("fenced", 0, context.common.fresh());
        let write = records.put(&record).fenced_by(&guard).timeout(PATIENT);
        fenced(context, &record, write.into_future(), term_log, term_record).await;
        term_log.look_up(term_record, || guard.is_held());
    }
    // Prepared while the lock is held, and sent after another worker may have acquired it.
    let late = Record::new("fenced", 0, context.common.fresh());
    let write = (context.dice(round).is_multiple_of(4)).then(|| records.put(&late).fenced_by(&guard).timeout(PATIENT));
    if let Err(error) = guard.release().await {
        context.gauge.failed(&error);
    }
    if let Some(write) = write {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fenced(context, &late, write.into_future(), term_log, term_record).await;
    }
}

async fn fenced(
    context: &WorkerContext,
    record: &Record,
    write: impl Future<Output = Result<Revision, Error>>,
    term_log: &TermLog,
    term_record: usize,
) {
    let action = Action::Write { value: Some(record.value), expected: Expected::Anything };
    let pending = context.common.recorder.begin(context.number, record.key().to_string(), action);
    term_log.fenced(term_record, pending.id());
    let result = write.await;
    if let Ok(revision) = result {
        context.common.received(revision);
    }
    pending.done(context.gauge.wrote(&result));
}

/// Acquires a named lock, checks it for a while, and releases it. Workers with a number divisible by 3 use a fair lock.
pub(crate) async fn named_locker(context: WorkerContext, term_log: TermLog) {
    let open = context.store.locks("locks").replicas(context.replicas());
    let open = if context.is_hasty() { open.ttl(SHORT) } else { open };
    let fair = context.number.is_multiple_of(3);
    let locks = if fair { open.fair().await } else { open.await }.expect("nothing fails yet");
    while !context.is_over() {
        match locks.lock("room").wait(WAIT).await {
            Ok(guard) => {
                let term_record = term_log.taken(context.number, "room", guard.fence().get());
                context.gauge.done();
                for _ in 0..5 {
                    if !term_log.look_up(term_record, || guard.is_held()) {
                        break;
                    }
                    context.pause().await;
                }
                term_log.look_up(term_record, || guard.is_held());
                if let Err(error) = guard.release().await {
                    context.gauge.failed(&error);
                }
            }
            Err(error) => drop(context.gauge.failed(&error)),
        }
        context.rest().await;
    }
}
