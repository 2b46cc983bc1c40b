//! Damaged files: an open is refused, or everything is there.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kvtyped::ErrorKind;
use kvtyped::backend::file::salvage;
use kvtyped::backend::{Backend, KeySpace, RawEntry, Write, WriteKind};
use kvtyped::prelude::*;

use super::folder::{Folder, Random, bucket, create, deadline, entries, key, put};

/// The number of damages. The promise covers every byte: `KVTYPED_DAMAGES=100000`.
fn damages(quick: usize) -> usize {
    std::env::var("KVTYPED_DAMAGES").map_or(quick, |text| text.parse().expect("a number"))
}

/// Creates a small store with removed entries and a deleted bucket. Returns a copy of its files, closed or as a killed
/// process leaves them, and its entries.
async fn small_store(closed: bool) -> (Folder, Vec<RawEntry>) {
    let folder = Folder::new("damage");
    // The first half of the writes is in the tables of the state.
    let backend = folder.store().test_limits(40, if closed { 0 } else { 6_000 }, None).backend().await.unwrap();
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let mut other = kvtyped::config::BucketConfig::new("other");
    other.metadata = [("note".to_owned(), "x".to_owned())].into();
    let other = backend.create(other, deadline()).await.unwrap();
    put(&other, "k", "v").await.unwrap();
    let small = create(&backend, |config| config.history = Some(2)).await;
    for number in 0..60 {
        put(&small, &format!("k{}", number % 20), vec![b'v'; number * 7]).await.unwrap();
    }
    small.write(Write::new(key("k3"), WriteKind::Delete), deadline()).await.unwrap();
    small.purge_through(KeySpace::Records, &key("k4"), Revision::new(u64::MAX), deadline()).await.unwrap();
    assert!(backend.delete("other", deadline()).await.unwrap());
    put(&small, "last", "v").await.unwrap();
    let expected = entries(&small).await;
    if closed {
        backend.close().await.unwrap();
    }
    let copy = folder.copy("damaged");
    assert_eq!(copy.wal().exists(), !closed);
    (copy, expected)
}

/// The outcomes of opening damaged stores.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    refused: usize,
    harmless: usize,
}

impl Outcomes {
    /// Opens a damaged store.
    async fn add(&mut self, folder: &Folder, expected: &[RawEntry], damage: &str, salvages: bool) {
        match folder.open().await {
            Ok(backend) => {
                let found = entries(&bucket(&backend).await).await;
                assert!(found == expected, "{damage}: silent loss: {} of {} entries", found.len(), expected.len());
                assert_eq!(backend.names(deadline()).await.unwrap(), ["b"], "{damage}");
                self.harmless += 1;
            }
            Err(error) => {
                let is_known = matches!(
                    error.kind(),
                    ErrorKind::Damaged { .. } | ErrorKind::InvalidConfig { .. } | ErrorKind::Unsupported { .. }
                );
                assert!(is_known, "{damage}: {error:?}");
                let text = error.to_string();
                assert!(!text.contains("vvv") && !text.contains("k1"), "no key and no value: {text}");
                self.refused += 1;
                if salvages {
                    salvaged(&folder.file(), expected, damage).await;
                }
            }
        }
    }
}

/// Salvages a store that was refused.
async fn salvaged(file: &Path, expected: &[RawEntry], damage: &str) {
    let copy = Folder::new("salvaged");
    let before = fs::read(file).unwrap();
    match salvage(file, copy.file()) {
        Ok(report) => {
            let backend = copy.open().await.unwrap_or_else(|error| panic!("{damage}: {error}"));
            if let Some(bucket) = backend.open("b", deadline()).await.unwrap() {
                // A removed entry may be back if the row of its removal is damaged.
                let found = entries(&bucket).await;
                let kept = found.iter().filter(|entry| expected.contains(entry)).count();
                assert!(kept == expected.len() || !report.problems.is_empty(), "{damage}: {kept} {report:?}");
            }
        }
        // Not even the tables are readable.
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Damaged { .. } | ErrorKind::InvalidConfig { .. } | ErrorKind::Unsupported { .. }
            ),
            "{damage}: {error}"
        ),
    }
    assert!(fs::read(file).unwrap() == before, "{damage}: the store is unchanged");
}

async fn flip_bits(closed: bool, name: &str, tries: usize) -> Outcomes {
    let (folder, expected) = small_store(closed).await;
    let content = fs::read(folder.path(name)).unwrap();
    let mut random = Random(11);
    let mut outcomes = Outcomes::default();
    for number in 0..tries.min(content.len()) {
        let at = if tries >= content.len() { number } else { random.below(content.len()) };
        let damaged = folder.copy("flipped");
        let mut bytes = content.clone();
        bytes[at] ^= 1 << random.below(8);
        fs::write(damaged.path(name), bytes).unwrap();
        outcomes.add(&damaged, &expected, &format!("a flipped bit of byte {at} of {name}"), number % 4 == 0).await;
    }
    outcomes
}

async fn cut(closed: bool, name: &str, tries: usize) -> Outcomes {
    let (folder, expected) = small_store(closed).await;
    let content = fs::read(folder.path(name)).unwrap();
    let mut outcomes = Outcomes::default();
    for number in 0..tries {
        let length = content.len() * number / tries;
        let damaged = folder.copy("cut");
        fs::write(damaged.path(name), &content[..length]).unwrap();
        outcomes.add(&damaged, &expected, &format!("{name} cut to {length} bytes"), number % 4 == 0).await;
    }
    outcomes
}

#[tokio::test]
async fn flipped_bit_of_a_closed_store_is_detected_or_harmless() {
    let outcomes = flip_bits(true, "app.kv", damages(200)).await;
    eprintln!("flipped bits of a closed store: {outcomes:?}");
    assert!(outcomes.refused > 20, "{outcomes:?}");
}

#[tokio::test]
async fn flipped_bit_of_a_killed_store_is_detected_or_harmless() {
    let (main, wal) =
        (flip_bits(false, "app.kv", damages(60)).await, flip_bits(false, "app.kv-wal", damages(150)).await);
    eprintln!("flipped bits of a killed store: {main:?}, of its WAL: {wal:?}");
    assert!(wal.refused > 100, "{wal:?}");
    let mark = flip_bits(false, "app.kv-lock", 100).await;
    assert_eq!(mark.refused, 0, "the lock file alone loses nothing");
}

#[tokio::test]
async fn cut_file_is_detected() {
    let (closed, killed, wal) =
        (cut(true, "app.kv", 60).await, cut(false, "app.kv", 40).await, cut(false, "app.kv-wal", 100).await);
    eprintln!("cut files: closed {closed:?}, killed {killed:?}, WAL {wal:?}");
    assert_eq!(closed.harmless, 0);
    assert_eq!(wal.harmless, 0, "every acknowledged write is in the WAL");
}

#[tokio::test]
async fn missing_files_are_detected() {
    for (removed, refused) in [
        (vec!["app.kv"], true),
        (vec!["app.kv-wal"], true),
        (vec!["app.kv", "app.kv-wal"], true),
        (vec!["app.kv-lock"], false),
        (vec!["app.kv", "app.kv-wal", "app.kv-lock"], false),
    ] {
        let (folder, expected) = small_store(false).await;
        for name in &removed {
            fs::remove_file(folder.path(name)).unwrap();
        }
        match folder.open().await {
            Ok(backend) => {
                assert!(!refused, "{removed:?}");
                let bucket = backend.open("b", deadline()).await.unwrap();
                assert_eq!(bucket.is_some(), removed.len() == 1, "{removed:?}");
                if let Some(bucket) = bucket {
                    assert_eq!(entries(&bucket).await, expected);
                }
            }
            Err(error) => {
                assert!(refused && matches!(error.kind(), ErrorKind::Damaged { .. }), "{removed:?}: {error}");
                assert!(error.to_string().contains("app.kv-lock") || removed == ["app.kv"], "{removed:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn earlier_copy_beside_a_later_lock_file_is_refused() {
    let folder = Folder::new("earlier");
    let backend = folder.open().await.unwrap();
    let bucket_ = create(&backend, |_| {}).await;
    put(&bucket_, "k", "v1").await.unwrap();
    backend.close().await.unwrap();
    let earlier = folder.copy("copy");
    let backend = folder.open().await.unwrap();
    put(&bucket(&backend).await, "k", "v2").await.unwrap();
    backend.close().await.unwrap();
    fs::copy(earlier.file(), folder.file()).unwrap();
    let error = folder.open().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged { .. }) && error.to_string().contains("app.kv-lock"), "{error}");
    fs::remove_file(folder.lock()).unwrap();
    let backend = folder.open().await.unwrap();
    assert_eq!(entries(&bucket(&backend).await).await[0].value, "v1");
}

#[tokio::test]
async fn salvage_of_an_intact_store_copies_everything() {
    let (folder, expected) = small_store(false).await;
    let copy = Folder::new("intact");
    let report = salvage(folder.file(), copy.file()).unwrap();
    assert_eq!((report.buckets, report.entries, report.problems.len()), (1, expected.len() as u64, 0), "{report:?}");
    let backend = copy.open().await.unwrap();
    assert_eq!(entries(&bucket(&backend).await).await, expected);
    assert_eq!(bucket(&backend).await.config().history, Some(2));
    let again = salvage(folder.file(), copy.file()).unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::InvalidConfig { .. }), "{again}");
    let used = salvage(copy.file(), folder.path("other.kv")).unwrap_err();
    assert!(matches!(used.kind(), ErrorKind::InUse { .. }), "{used}");
}
