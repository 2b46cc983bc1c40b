//! The size of the files after many overwrites and removals.

use std::fs;
use std::sync::Arc;

use futures::StreamExt;
use kvtyped::backend::file::SyncMode;
use kvtyped::backend::{Backend, RawBucket};

use super::folder::{Folder, Random, create, deadline, entries, put};

const RECORDS: usize = 2_000;
const VALUE: usize = 200;
/// The bytes of all records: key, value, and the columns of a row.
const LIVE: u64 = (RECORDS * (VALUE + 60)) as u64;

fn length(path: std::path::PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Writes every record once, in another order each time.
async fn overwrite(bucket: &Arc<dyn RawBucket>, random: &mut Random) {
    let mut order: Vec<_> = (0..RECORDS).collect();
    for at in 1..RECORDS {
        order.swap(at, random.below(at + 1));
    }
    let puts = order.into_iter().map(|number| {
        let bucket = Arc::clone(bucket);
        async move { put(&bucket, &format!("key.{number}"), vec![b'v'; VALUE]).await.map(drop) }
    });
    let results: Vec<_> = futures::stream::iter(puts).buffer_unordered(256).collect().await;
    assert!(results.into_iter().all(|result| result.is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_returns_the_space_of_overwritten_records() {
    let folder = Folder::new("space");
    // The journal is moved when it has a quarter of the state.
    let limits = |store: kvtyped::connect::OpenFile| store.sync(SyncMode::Off).test_limits(1_024, 128 * 1_024, None);
    let backend: Arc<dyn Backend> = Arc::new(limits(folder.store()).backend().await.unwrap());
    let bucket = create(&backend, |_| {}).await;
    let (mut random, mut largest) = (Random(3), 0);
    for _ in 0..20 {
        overwrite(&bucket, &mut random).await;
        largest = largest.max(length(folder.file()));
    }
    let wal = length(folder.wal());
    backend.close().await.unwrap();
    let closed = length(folder.file());
    eprintln!("{LIVE} live bytes: {largest} while open, {wal} in the WAL, {closed} closed");
    assert!(largest < LIVE * 4, "{largest} of {LIVE} while open");
    assert!(wal < 16 * 1024 * 1024, "{wal}");
    assert!(closed < LIVE * 2, "{closed} of {LIVE} after the close");

    // A bucket that is deleted returns its space, too.
    let backend: Arc<dyn Backend> = Arc::new(limits(folder.store()).backend().await.unwrap());
    assert!(backend.delete("b", deadline()).await.unwrap());
    let bucket = create(&backend, |_| {}).await;
    put(&bucket, "k", "v").await.unwrap();
    backend.close().await.unwrap();
    let empty = length(folder.file());
    assert!(empty < LIVE / 4, "{empty} of {LIVE} after the removal of the bucket");
    let backend = folder.open().await.unwrap();
    assert_eq!(entries(&super::folder::bucket(&backend).await).await.len(), 1);
}
