//! The negative control: a real loss must be detected, or the suite proves nothing.

use std::time::Instant;

use harness::Server;
use harness::history::{Action, Expected, Outcome as Recorded, Recorder, Rule, VersionOrder};
use kvtyped::prelude::*;
use kvtyped::{Read, Storage};

use super::Effort;
use crate::model::Record;
use crate::report::Row;

/// Kills a server with a memory bucket. Its acknowledged writes are lost, and the check must report them.
pub(crate) async fn losses(name: &'static str, _: Effort) -> Row {
    let began = Instant::now();
    let mut row = Row::new(name);
    let server = Server::start().await;
    let recorder = Recorder::default();
    let store = Store::connect(server.url()).await.expect("nothing fails yet");
    let records: Bucket<Record> = store.bucket().storage(Storage::Memory).await.expect("nothing fails yet");
    for value in 0..100 {
        let record = Record::new("lost", 0, value);
        let action = Action::Write { value: Some(value), expected: Expected::Anything };
        let pending = recorder.begin(0, record.key().to_string(), action);
        let revision = records.put(&record).await.expect("nothing fails yet");
        pending.done(Recorded::Written(revision.get()));
        row.counts.ok += 1;
    }
    row.faults += 1;
    server.restart().await;
    let found = VersionOrder::of(&recorder.history()).last(&[]).check();
    let reported = records.get(&Record::new("lost", 0, 0).key()).read(Read::Leader).await;
    if !found.violations.iter().any(|violation| violation.rule == Rule::NothingIsLost) {
        row.violations.push(format!("the check did not miss what is lost: {found}"));
    }
    if let Ok(Some(entry)) = reported {
        row.violations.push(format!("nothing was lost: {entry:?}"));
    }
    row.notes.push(format!("missed, as it has to be: {} writes", found.violations.len()));
    row.took = began.elapsed();
    row
}
