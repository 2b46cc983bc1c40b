//! P48: a store that is opened on a full disk is readable, and writes continue when there is room.

use std::fs;
use std::sync::Arc;

use kvtyped::backend::file::SyncMode;
use kvtyped::backend::{Backend, RawEntry};
use kvtyped::{ErrorKind, Outcome};

use super::folder::{Folder, bucket, create, entries, put};
use super::small_disk::SmallDisk;

/// Returns the files of a killed store with a WAL of some megabytes, and its entries.
async fn killed_store(sync: SyncMode) -> (Folder, Vec<RawEntry>) {
    let folder = Folder::new("full-open");
    let store = folder.store().sync(sync).test_limits(1_024, usize::MAX, None);
    let backend: Arc<dyn Backend> = Arc::new(store.backend().await.expect("the file opens"));
    let bucket = create(&backend, |_| {}).await;
    for number in 0..150 {
        put(&bucket, &format!("k{number}"), vec![b'v'; 10_000]).await.expect("it is stored");
    }
    let (copy, stored) = (folder.copy("killed"), entries(&bucket).await);
    backend.close().await.expect("the file closes");
    (copy, stored)
}

/// Moves the files of a store to a disk, and fills the disk.
fn full_disk(store: &Folder) -> Option<SmallDisk> {
    let disk = SmallDisk::new("full-open", 8)?;
    for name in ["app.kv", "app.kv-wal", "app.kv-lock"].into_iter().filter(|name| store.path(name).exists()) {
        fs::copy(store.path(name), disk.0.path(name)).expect("the file is copied");
    }
    disk.fill();
    Some(disk)
}

#[tokio::test]
async fn store_on_a_full_disk_opens_and_reads() {
    for (sync, continues) in [(SyncMode::Always, true), (SyncMode::Off, true), (SyncMode::Always, false)] {
        let (store, expected) = killed_store(sync).await;
        let Some(disk) = full_disk(&store) else { return };
        let open = || disk.0.store().sync(sync);
        // Nothing is lost, however often it is opened and closed.
        for _ in 0..3 {
            let backend: Arc<dyn Backend> = Arc::new(open().backend().await.expect("a full disk is readable"));
            assert_eq!(entries(&bucket(&backend).await).await, expected);
            backend.close().await.expect("nothing is pending");
        }
        let backend: Arc<dyn Backend> = Arc::new(open().backend().await.expect("a full disk is readable"));
        let full = bucket(&backend).await;
        let refused = put(&full, "k1", "w").await.unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotApplied, "{refused}");
        assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }) && refused.is_retryable(), "{refused}");
        let text = refused.to_string();
        let size: u64 = text.split("free ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok()).expect(&text);
        assert!((1_500..8_000).contains(&size), "the size of the WAL in KiB: {text}");
        assert_eq!(entries(&full).await, expected);

        let mut last = None;
        if continues {
            disk.make_room();
            last = Some(put(&full, "k1", "w").await.expect("there is room"));
            assert!(last > expected.last().map(|entry| entry.revision));
        }
        backend.close().await.expect("the file closes");
        drop((full, backend));
        let backend: Arc<dyn Backend> = Arc::new(open().backend().await.expect("the file opens"));
        let found = entries(&bucket(&backend).await).await;
        let stored: Vec<_> = expected.iter().filter(|entry| last.is_none() || entry.key.as_str() != "k1").collect();
        assert!(found.iter().take(stored.len()).eq(stored.iter().copied()), "{} entries", found.len());
        assert_eq!(found.last().map(|entry| entry.revision), last.or(expected.last().map(|entry| entry.revision)));
        backend.close().await.expect("the file closes");
    }
}

/// A crash in the time on the full disk loses nothing, and no revision is assigned twice.
#[tokio::test]
async fn store_that_was_read_on_a_full_disk_continues_elsewhere() {
    let (store, expected) = killed_store(SyncMode::Off).await;
    let Some(disk) = full_disk(&store) else { return };
    let backend = disk.0.store().sync(SyncMode::Off).backend().await.expect("a full disk is readable");
    let backend: Arc<dyn Backend> = Arc::new(backend);
    assert!(put(&bucket(&backend).await, "k1", "w").await.is_err());
    let killed = disk.0.copy("killed");
    let backend: Arc<dyn Backend> = Arc::new(killed.store().sync(SyncMode::Off).backend().await.unwrap());
    let found = bucket(&backend).await;
    assert_eq!(entries(&found).await, expected);
    let next = put(&found, "k1", "w").await.unwrap();
    assert!(next.get() > 1 << 32, "revisions that a loss of power may have lost are skipped: {next}");
}

/// Without a lock file, and with a closed store, which has no WAL.
#[tokio::test]
async fn closed_store_without_a_lock_file_opens_on_a_full_disk() {
    let (store, expected) = killed_store(SyncMode::Always).await;
    store.open().await.unwrap().close().await.unwrap();
    fs::remove_file(store.lock()).unwrap();
    let Some(disk) = full_disk(&store) else { return };
    let backend = disk.0.open().await.expect("a full disk is readable");
    let full = bucket(&backend).await;
    assert_eq!(entries(&full).await, expected);
    assert_eq!(put(&full, "k1", "w").await.unwrap_err().outcome(), Outcome::NotApplied);
    // An idle store completes its open as soon as it can, and a write does it at once.
    disk.grow(16);
    put(&full, "k1", "w").await.expect("there is room");
    backend.close().await.unwrap();
}
