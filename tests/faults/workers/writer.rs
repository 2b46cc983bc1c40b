//! A writer that uses every verb, on shared keys and on its own keys. Its results are recorded.

use std::collections::HashMap;

use harness::history::{Action, Expected};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

use super::reader::read;
use crate::model::{Record, RecordKey};
use crate::worker_context::{HASTY, PATIENT, WorkerContext};

/// The group of the shared keys.
pub(crate) const HOT: &str = "hot";
/// The number of shared keys.
pub(crate) const HOT_KEYS: usize = 5;

struct Writer {
    context: WorkerContext,
    records: Bucket<Record>,
    /// The newest revision of each key that this writer knows.
    known: HashMap<RecordKey, Revision>,
}

pub(crate) async fn writer(context: WorkerContext) {
    let records = context.bucket().await;
    let mut writer = Writer { context, records, known: HashMap::new() };
    for round in 0.. {
        if writer.context.is_over() {
            return;
        }
        writer.round(round).await;
        writer.context.pause().await;
    }
}

/// Like [`writer`], with a shorter pause, on the shared keys only, with the verbs that write one record, and with
/// reads.
pub(crate) async fn client(context: WorkerContext) {
    let records = context.bucket().await;
    let mut client = Writer { context, records, known: HashMap::new() };
    for round in 0.. {
        if client.context.is_over() {
            return;
        }
        let dice = client.context.dice(round);
        let record = Record::new(HOT, dice / 3 % HOT_KEYS, client.context.common.fresh());
        let key = record.key();
        match dice / 64 % 16 {
            0..3 => client.put(&record).await,
            3..5 => client.create(&record).await,
            5..9 => client.update(&record).await,
            9 => client.delete(&key, dice.is_multiple_of(2)).await,
            _ => {
                let found = read(&client.context, &client.records, &key, dice).await;
                client.known.extend(found.map(|revision| (key, revision)));
            }
        }
        // Prevents a busy loop while operations fail at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Writer {
    async fn round(&mut self, round: usize) {
        let dice = self.context.dice(round);
        let own = format!("own{}", self.context.number);
        let (group, id) =
            if dice.is_multiple_of(3) { (own.as_str(), dice / 3 % 3) } else { (HOT, dice / 3 % HOT_KEYS) };
        let record = Record::new(group, id, self.context.common.fresh());
        match dice / 64 % 16 {
            0..3 => self.put(&record).await,
            3..6 => self.create(&record).await,
            6..10 => self.update(&record).await,
            10 => self.delete(&record.key(), false).await,
            11 => self.delete(&record.key(), true).await,
            12 => self.purge(&record.key()).await,
            13 => self.modify(&record).await,
            14 => self.put_many().await,
            _ => self.delete_many().await,
        }
    }

    /// Performs and records one write.
    async fn write(
        &mut self,
        key: &RecordKey,
        value: Option<u64>,
        expected: Expected,
        write: impl Future<Output = Result<Revision, Error>>,
    ) {
        let recorder = &self.context.common.recorder;
        let pending = recorder.begin(self.context.number, key.to_string(), Action::Write { value, expected });
        let result = write.await;
        pending.done(self.context.gauge.wrote(&result));
        self.learn(key, &result);
    }

    fn learn(&mut self, key: &RecordKey, result: &Result<Revision, Error>) {
        let newest = match result {
            Ok(revision) => {
                self.context.common.received(*revision);
                Some(*revision)
            }
            Err(error) => match error.kind() {
                ErrorKind::Conflict { actual, .. } => *actual,
                ErrorKind::AlreadyExists => error.revision(),
                _ => None,
            },
        };
        if let Some(newest) = newest {
            self.known.insert(key.clone(), newest);
        }
    }

    async fn put(&mut self, record: &Record) {
        let records = self.records.clone();
        let put = records.put(record).timeout(HASTY).into_future();
        self.write(&record.key(), Some(record.value), Expected::Anything, put).await;
    }

    async fn create(&mut self, record: &Record) {
        let records = self.records.clone();
        let create = records.create(record).timeout(PATIENT).into_future();
        self.write(&record.key(), Some(record.value), Expected::Nothing, create).await;
    }

    async fn update(&mut self, record: &Record) {
        let key = record.key();
        let Some(revision) = self.known.get(&key).copied() else { return self.create(record).await };
        let records = self.records.clone();
        let update = records.update(record, revision).timeout(PATIENT).into_future();
        self.write(&key, Some(record.value), Expected::Revision(revision.get()), update).await;
    }

    async fn delete(&mut self, key: &RecordKey, guarded: bool) {
        let records = self.records.clone();
        let delete = records.delete(key);
        match self.known.get(key).copied().filter(|_| guarded) {
            Some(revision) => {
                let delete = delete.if_revision(revision).timeout(PATIENT).into_future();
                self.write(key, None, Expected::Revision(revision.get()), delete).await;
            }
            None => self.write(key, None, Expected::Anything, delete.timeout(HASTY).into_future()).await,
        }
    }

    async fn purge(&mut self, key: &RecordKey) {
        let records = self.records.clone();
        let purge = records.purge(key).timeout(HASTY).into_future();
        self.write(key, None, Expected::Anything, purge).await;
    }

    async fn modify(&mut self, record: &Record) {
        let (records, key) = (self.records.clone(), record.key());
        let modify = async {
            let change = records.modify(&key, |found| found.value = record.value).timeout(PATIENT);
            change.max_attempts(u32::MAX).await.map(|entry| entry.revision())
        };
        self.write(&key, Some(record.value), Expected::Anything, modify).await;
    }

    /// Returns records of this writer's own group, for bulk operations.
    fn many(&self) -> Vec<Record> {
        let group = format!("many{}", self.context.number);
        (0..3).map(|id| Record::new(&group, id, self.context.common.fresh())).collect()
    }

    async fn put_many(&mut self) {
        let many = self.many();
        let recorder = &self.context.common.recorder;
        let begin = |record: &Record| {
            let action = Action::Write { value: Some(record.value), expected: Expected::Anything };
            recorder.begin(self.context.number, record.key().to_string(), action)
        };
        let pending: Vec<_> = many.iter().map(begin).collect();
        let results = self.records.put_many(&many).timeout(HASTY).results().await;
        self.note_many(pending, results);
    }

    async fn delete_many(&mut self) {
        let keys: Vec<_> = self.many().iter().map(Record::key).collect();
        let recorder = &self.context.common.recorder;
        let begin = |key: &RecordKey| {
            let action = Action::Write { value: None, expected: Expected::Anything };
            recorder.begin(self.context.number, key.to_string(), action)
        };
        let pending: Vec<_> = keys.iter().map(begin).collect();
        let results = self.records.delete_many(&keys).timeout(HASTY).results().await;
        self.note_many(pending, results);
    }

    fn note_many(&self, pending: Vec<harness::history::Pending>, results: Result<Vec<Result<Revision, Error>>, Error>) {
        let results = results.expect("`each` reports failures per record");
        assert_eq!(results.len(), pending.len());
        for (pending, result) in pending.into_iter().zip(results) {
            if let Ok(revision) = result {
                self.context.common.received(revision);
            }
            pending.done(self.context.gauge.wrote(&result));
        }
    }
}
