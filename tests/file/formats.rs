//! Stores of each format, as earlier versions wrote them. Never change a stored file: users have such files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kvtyped::Ttl;
use kvtyped::backend::{KeySpace, RawBucket, Read, ReadAt, Write, WriteKind};
use kvtyped::prelude::*;

use super::folder::{Folder, bucket, create, deadline, entries, key, put};

/// The formats with a stored file. Format 2 has index entries.
const FORMATS: [u32; 2] = [1, 2];

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/file-format-{format}.kv"))
}

/// Writes the records of every file.
async fn write_records(bucket: &dyn RawBucket) {
    let write = |name: &str, kind| Write::new(key(name), kind);
    let put = |name: &str, text: &'static str| write(name, WriteKind::Put(text.into()));
    bucket.write(put("a", "first"), deadline()).await.unwrap();
    bucket.write(put("a", "second"), deadline()).await.unwrap();
    let mut versioned = put("b.c", "with headers").with_ttl(Ttl::new(Duration::from_secs(1_000_000_000)));
    versioned.headers.version = Some(3);
    bucket.write(versioned, deadline()).await.unwrap();
    bucket.write(put("d", "deleted"), deadline()).await.unwrap();
    bucket.write(write("d", WriteKind::Delete), deadline()).await.unwrap();
}

/// Writes the file of a format that is not stored yet.
#[tokio::test]
#[ignore = "writes files of the repository"]
async fn write_missing_stores() {
    for format in FORMATS.into_iter().filter(|format| !golden(*format).exists()) {
        let folder = Folder::new("golden");
        let backend = folder.open().await.unwrap();
        let stored = create(&backend, |config| {
            config.history = Some(2);
            config.limit_markers = Some(Duration::from_secs(60));
            config.index_entries = (format == 2).then_some(true);
        })
        .await;
        write_records(&*stored).await;
        if format == 2 {
            stored.write(Write::index_entry(key("i.a"), "entry".into()), deadline()).await.unwrap();
        }
        backend.close().await.unwrap();
        fs::copy(folder.file(), golden(format)).unwrap();
    }
}

#[tokio::test]
async fn store_of_each_format_opens_and_accepts_writes() {
    for format in FORMATS {
        let folder = Folder::new("format");
        fs::copy(golden(format), folder.file()).unwrap();
        for round in 0..2 {
            let backend = folder.open().await.unwrap();
            let stored = bucket(&backend).await;
            let found: Vec<_> = entries(&stored).await.into_iter().take(5).collect();
            let brief: Vec<_> =
                found.iter().map(|entry| (entry.key.as_str(), entry.revision.get(), &*entry.value)).collect();
            let expected: [(&str, u64, &[u8]); 5] = [
                ("a", 1, b"first"),
                ("a", 2, b"second"),
                ("b.c", 3, b"with headers"),
                ("d", 4, b"deleted"),
                ("d", 5, b""),
            ];
            assert_eq!(brief, expected, "format {format}");
            assert_eq!(found[2].headers.version, Some(3), "format {format}");
            assert!(found[2].ttl.is_some() && found[0].ttl.is_none(), "format {format}");
            assert!(found[0].created < SystemTime::now(), "format {format}");
            let config = stored.config();
            assert_eq!((config.history, config.limit_markers), (Some(2), Some(Duration::from_secs(60))));
            let at = ReadAt::Newest(Read::Leader);
            let entry = stored.read(KeySpace::Index, &key("i.a"), at, deadline()).await.unwrap();
            assert_eq!(entry.map(|entry| entry.value), (format == 2).then(|| "entry".into()), "format {format}");
            let next = put(&stored, "new", "v").await.unwrap();
            assert_eq!(next.get(), 6 + u64::from(format == 2) + round, "format {format}");
            backend.close().await.unwrap();
        }
    }
}
