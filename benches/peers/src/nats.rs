//! kvtyped on nats-server.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kvtyped::prelude::*;
use kvtyped::recipes::Locks;
use kvtyped::{Event, Storage};

use crate::record::{Session, SessionKey};
use crate::side::{BULK, LISTED, Side};

/// A store with one bucket.
pub(crate) struct Nats {
    bucket: Bucket<Session>,
    locks: Locks,
    events: kvtyped::watch::Events<Session>,
    revisions: HashMap<SessionKey, Revision>,
}

impl Nats {
    /// Connects, creates a bucket with this storage, and watches the record `watched`.
    pub(crate) async fn connect(url: String, storage: Storage, watched: &Session) -> Self {
        let store = Store::connect(url).await.expect("the server is there");
        let name = format!("sessions-{storage:?}").to_lowercase();
        let bucket: Bucket<Session> = store.bucket().name(name).storage(storage).await.expect("the bucket is created");
        let locks = store.locks(format!("locks-{storage:?}").to_lowercase()).storage(storage);
        let locks = locks.await.expect("the bucket is created");
        let mut events = bucket.watch(watched.key()).await.expect("it watches");
        while !matches!(events.next().await.expect("it continues").expect("no error"), Event::Ready) {}
        Self { bucket, locks, events, revisions: HashMap::new() }
    }
}

impl Side for Nats {
    async fn put(&mut self, record: &Session) {
        self.bucket.put(record).await.expect("it is put");
    }

    async fn get(&mut self, record: &Session) -> Session {
        let entry = self.bucket.get(&record.key()).await.expect("it is read");
        entry.expect("it is there").into_value()
    }

    async fn modify(&mut self, record: &Session) {
        self.bucket.modify(&record.key(), |session| session.visits += 1).await.expect("it is modified");
    }

    async fn update(&mut self, record: &Session) {
        let key = record.key();
        let revision = match self.revisions.get(&key) {
            Some(revision) => self.bucket.update(record, *revision).await,
            None => self.bucket.put(record).await,
        };
        self.revisions.insert(key, revision.expect("it is updated"));
    }

    async fn lock(&mut self) {
        let guard = self.locks.lock("job").await.expect("it is free");
        guard.release().await.expect("it is held");
    }

    async fn put_until_event(&mut self, record: &Session) -> Duration {
        let begun = Instant::now();
        let put = async { self.bucket.put(record).await.expect("it is put") };
        let event = async {
            let event = self.events.next().await.expect("it continues").expect("no error");
            assert!(matches!(event, Event::Put(_)));
            begun.elapsed()
        };
        tokio::join!(put, event).1
    }

    async fn list(&mut self) -> usize {
        let list = self.bucket.list(SessionKey::filter().tenant(LISTED)).await.expect("it lists");
        let listed: Vec<_> = list.try_collect().await.expect("it continues");
        listed.len()
    }

    async fn cache(&mut self) -> usize {
        self.bucket.cache(SessionKey::filter().tenant(LISTED)).await.expect("it is filled").len()
    }

    async fn transaction(&mut self, records: &[Session; 2]) {
        let [one, two] = records;
        self.bucket.transaction().put(one).put(two).commit().await.expect("it is committed");
    }

    async fn put_many(&mut self, records: &[Session]) {
        let written = self.bucket.put_many(records).window(BULK as usize).await.expect("they are written");
        assert_eq!(written.len(), records.len());
    }
}
