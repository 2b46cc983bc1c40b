//! Damaged write-ahead logs: SQLite ignores everything behind the damage, without an error. The mark detects that.

use std::fs;

use kvtyped::ErrorKind;
use kvtyped::backend::{Batch, Write, WriteKind};

use super::folder::{Folder, bucket, create, deadline, entries, key};

/// The sizes of the header of a WAL and of one frame: a header and a page.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4_096;
/// The number of batches. Each is one group.
const BATCHES: u64 = 20;

/// Returns the files of a killed store: batches of two records with the number of the batch.
async fn killed_store() -> Folder {
    let folder = Folder::new("wal");
    let backend = folder.open().await.unwrap();
    let stored = create(&backend, |_| {}).await;
    for number in 1..=BATCHES {
        let writes = ["a", "b"].map(|name| Write::new(key(name), WriteKind::Put(number.to_string().into())));
        stored.commit(Batch { writes: writes.into(), preconditions: Vec::new() }, deadline()).await.unwrap();
    }
    let copy = folder.copy("wal-killed");
    backend.close().await.unwrap();
    copy
}

/// Opens a store with this WAL. Returns the number of the last batch, or `None` if the open is refused.
async fn last_batch(store: &Folder, wal: &[u8], has_mark: bool) -> Option<u64> {
    let damaged = store.copy("wal-damaged");
    fs::write(damaged.wal(), wal).unwrap();
    if !has_mark {
        fs::remove_file(damaged.lock()).unwrap();
    }
    let backend = match damaged.open().await {
        Ok(backend) => backend,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
            return None;
        }
    };
    if backend.names(deadline()).await.unwrap().is_empty() {
        return Some(0);
    }
    let found = entries(&bucket(&backend).await).await;
    let values: Vec<u64> =
        found.iter().map(|entry| String::from_utf8_lossy(&entry.value).parse().expect("a number")).collect();
    assert!(values.is_empty() || (values.len() == 2 && values[0] == values[1]), "a batch is whole: {values:?}");
    backend.close().await.unwrap();
    Some(values.first().copied().unwrap_or_default())
}

/// The control is the same store without its mark: the open succeeds, and returns an earlier state.
#[tokio::test]
async fn damaged_wal_is_refused_and_without_its_mark_a_prefix() {
    let store = killed_store().await;
    let wal = fs::read(store.wal()).unwrap();
    let frames = (wal.len() - HEADER) / FRAME;
    assert!(frames >= BATCHES as usize && wal.len() == HEADER + frames * FRAME, "{frames} frames");
    assert_eq!(last_batch(&store, &wal, true).await, Some(BATCHES));
    let (mut silent, mut before) = (0, 0);
    for frame in 0..frames {
        let start = HEADER + frame * FRAME;
        let mut zeroed = wal.clone();
        zeroed[start..start + FRAME].fill(0);
        let mut swapped = wal.clone();
        let other = HEADER + (frame + 1) % frames * FRAME;
        swapped[start..start + FRAME].copy_from_slice(&wal[other..other + FRAME]);
        swapped[other..other + FRAME].copy_from_slice(&wal[start..start + FRAME]);
        let cuts = [wal[..start].to_vec(), wal[..start + 1_000].to_vec()];
        for (damage, wal) in cuts.into_iter().chain([zeroed, swapped]).enumerate() {
            assert_eq!(last_batch(&store, &wal, true).await, None, "damage {damage} of frame {frame}");
            let found = last_batch(&store, &wal, false).await.expect("a shorter WAL is valid");
            assert!(found < BATCHES, "damage {damage} of frame {frame}");
            silent += 1;
            if damage < 2 {
                assert!(found >= before, "a longer WAL has no fewer batches");
                before = found;
            }
        }
    }
    assert_eq!(before, BATCHES - 1, "only the last batch is cut off");
    eprintln!("{silent} damages of {frames} frames, all refused, and all silent without the mark");
}
