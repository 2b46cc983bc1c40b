//! Stores and calls that end early: calls that are dropped while their group commits, and runtimes that shut down.

use std::pin::pin;
use std::sync::Arc;

use kvtyped::backend::{KeySpace, RawBucket, ReadAt};
use kvtyped::{ErrorKind, Read};
use tokio::runtime::Runtime;

use super::folder::{Folder, bucket, create, deadline, entries, key, put};

async fn value(bucket: &Arc<dyn RawBucket>, name: &str) -> Option<Vec<u8>> {
    let read = bucket.read(KeySpace::Records, &key(name), ReadAt::Newest(Read::Leader), deadline()).await;
    read.expect("it is read").map(|entry| entry.value.to_vec())
}

/// Each put is polled a few times and dropped: before, during or after the commit of its group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_that_are_dropped_while_their_group_commits_are_stored_or_not() {
    let folder = Folder::new("dropped-puts");
    let backend = folder.open().await.unwrap();
    let shared = create(&backend, |_| {}).await;
    let mut applied = 0;
    for round in 0..300_u32 {
        let (name, text) = (format!("k{}", round % 7), format!("{round}"));
        let before = value(&shared, &name).await;
        {
            let mut dropped = pin!(put(&shared, &name, text.clone()));
            for _ in 0..round % 4 {
                if futures::poll!(&mut dropped).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // A read shows the write only when it is durable, and a later write follows it.
        let found = value(&shared, &name).await;
        assert!(found == before || found.as_deref() == Some(text.as_bytes()), "round {round}: {found:?}");
        assert_eq!(round % 4 == 0, found == before, "round {round}: a put is applied when it is first polled");
        applied += usize::from(found != before);
        let names: Vec<_> = (0..20).map(|number| format!("g{number}")).collect();
        let mut group: Vec<_> = names.iter().map(|name| Box::pin(put(&shared, name, "v"))).collect();
        for write in &mut group {
            let _ = futures::poll!(write);
        }
        let last = group.pop().expect("a group has writes");
        drop(group);
        if round % 50 == 0 {
            last.await.expect("the group is written without its callers");
        }
    }
    assert_eq!(applied, 225);
    let expected = entries(&shared).await;
    let crashed = folder.copy("dropped-crashed");
    assert_eq!(entries(&bucket(&crashed.open().await.unwrap()).await).await, expected);
    backend.close().await.unwrap();
    assert_eq!(entries(&bucket(&folder.open().await.unwrap()).await).await, expected);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("the runtime starts")
}

/// The thread of the file belongs to no runtime.
#[test]
fn store_outlives_the_runtime_that_opened_it() {
    let folder = Folder::new("runtimes");
    let first = runtime();
    let backend = first.block_on(folder.open()).unwrap();
    let shared = first.block_on(create(&backend, |_| {}));
    first.block_on(put(&shared, "first", "v")).unwrap();
    first.shutdown_background();

    let second = runtime();
    second.block_on(put(&shared, "second", "v")).unwrap();
    assert_eq!(second.block_on(entries(&shared)).len(), 2);
    second.block_on(backend.close()).unwrap();
    let closed = second.block_on(put(&shared, "third", "v")).unwrap_err();
    assert!(matches!(closed.kind(), ErrorKind::Closed), "{closed}");
    drop(second);
    drop((shared, backend));
    let third = runtime();
    assert_eq!(third.block_on(async { entries(&bucket(&folder.open().await.unwrap()).await).await }).len(), 2);
}

/// The store is dropped without a runtime, while a put is in flight whose task the shutdown has cancelled.
#[test]
fn store_dropped_after_its_runtime_is_written_and_unlocked() {
    let folder = Folder::new("shut-down");
    for round in 0..10_usize {
        let first = runtime();
        let backend = first.block_on(folder.open()).unwrap();
        let shared = first.block_on(async {
            match backend.open("b", deadline()).await.unwrap() {
                Some(shared) => shared,
                None => create(&backend, |_| {}).await,
            }
        });
        first.block_on(put(&shared, &format!("k{round}"), "v")).unwrap();
        let writer = Arc::clone(&shared);
        first.spawn(async move { while put(&writer, "busy", "v").await.is_ok() {} });
        first.shutdown_background();
        drop((backend, shared));
        let second = runtime();
        let found = second.block_on(async {
            let backend = folder.open().await.unwrap();
            let found = entries(&bucket(&backend).await).await;
            backend.close().await.unwrap();
            found
        });
        let stored = found.iter().filter(|entry| entry.key.as_str() != "busy").count();
        assert_eq!(stored, round + 1);
    }
}

/// Ten times as many writers as in the benchmark, in many buckets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_writers_in_hundreds_of_buckets_share_a_file() {
    let folder = Folder::new("many-buckets");
    let backend = folder.store().test_limits(1_024, 100_000, None).backend().await.unwrap();
    let backend: Arc<dyn kvtyped::backend::Backend> = Arc::new(backend);
    let names = |number: u32| format!("b{number}");
    let create = |number| backend.create(kvtyped::config::BucketConfig::new(names(number)), deadline());
    let buckets = futures::future::try_join_all((0..300).map(create)).await.unwrap();
    for round in 0..4 {
        let puts = (0..640).map(|number| {
            let bucket = &buckets[number * 7 % buckets.len()];
            async move { put(bucket, &format!("k{number}"), format!("{round}")).await }
        });
        futures::future::try_join_all(puts).await.unwrap();
    }
    let expected: Vec<_> = futures::future::join_all(buckets.iter().map(entries)).await;
    assert_eq!(expected.iter().map(Vec::len).sum::<usize>(), 640);
    assert!(expected.iter().flatten().all(|entry| entry.value == "3"));
    backend.close().await.unwrap();
    let backend = folder.open().await.unwrap();
    for (number, expected) in (0..).zip(expected) {
        let bucket = backend.open(&names(number), deadline()).await.unwrap().expect("it is stored");
        assert_eq!(entries(&bucket).await, expected);
    }
}
