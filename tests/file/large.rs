//! Stores of many records.

use std::fs;
use std::time::Instant;

use kvtyped::backend::file::SyncMode;
use kvtyped::prelude::*;

use super::folder::Folder;

/// A session of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "large", key = "{tenant}.{id}", history = 1)]
struct Session {
    tenant: String,
    id: u64,
    visits: u64,
}

impl Session {
    fn new(id: u64) -> Self {
        Self { tenant: "acme".into(), id, visits: 0 }
    }
}

/// Writes many records, overwrites a part of them, and checks everything after a reopen. Returns the time of the open.
pub(crate) async fn store_of(records: u64) -> Duration {
    let folder = Folder::new("large");
    let open = || folder.store().sync(SyncMode::Off).timeout(Duration::from_secs(300));
    let store = open().await.unwrap();
    let sessions: Bucket<Session> = store.bucket().await.unwrap();
    for first in (0..records).step_by(4_096) {
        let some: Vec<_> = (first..records.min(first + 4_096)).map(Session::new).collect();
        sessions.put_many(&some).await.unwrap();
    }
    let changed: Vec<_> = (0..records / 10).map(|id| Session { visits: 1, ..Session::new(id * 7 % records) }).collect();
    sessions.put_many(&changed).await.unwrap();
    let last = sessions.status().await.unwrap();
    store.close().await.unwrap();
    let bytes = fs::metadata(folder.file()).unwrap().len();
    assert!(bytes < records * 400, "{bytes} bytes of the file for {records} records");

    let began = Instant::now();
    let store = open().await.unwrap();
    let took = began.elapsed();
    let sessions: Bucket<Session> = store.bucket().must_exist().await.unwrap();
    let status = sessions.status().await.unwrap();
    assert_eq!((status.values, status.bytes, status.last_revision), (last.values, last.bytes, last.last_revision));
    assert_eq!(status.values, records);
    let mut listed = sessions.list(..).await.unwrap();
    let (mut count, mut visited) = (0, 0);
    while let Some(session) = listed.try_next().await.unwrap() {
        (count, visited) = (count + 1, visited + session.visits);
    }
    assert_eq!((count, visited), (records, records / 10));
    let one = sessions.get(&Session::new(records - 1).key()).await.unwrap().unwrap();
    assert_eq!(one.id, records - 1);
    eprintln!("{records} records: {bytes} bytes of the file, opened in {took:.1?}");
    store.close().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_records_survive_a_reopen() {
    store_of(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn hundred_thousand_records_survive_a_reopen() {
    store_of(100_000).await;
}
