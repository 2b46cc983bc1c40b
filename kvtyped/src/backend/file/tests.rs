#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::{FileBackend, FileOptions, salvage};
use crate::backend::{Backend, Deadline, KeySpace, Read, ReadAt, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kvtyped-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("app.kv")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

async fn open(file: &Path) -> Result<FileBackend> {
    FileBackend::open(FileOptions::new(file, Duration::from_secs(20))).await
}

/// Creates a store whose rows are in the tables of the state, or in the journal as after a kill.
async fn store(folder: &Folder, in_journal: bool) {
    let original = folder.0.join("original.kv");
    let backend = open(&original).await.unwrap();
    let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
    for number in 0..20 {
        let key = Key::new(format!("k{}", number % 15)).unwrap();
        bucket.write(Write::new(key, WriteKind::Put("v".into())), soon()).await.unwrap();
    }
    if !in_journal {
        backend.close().await.unwrap();
    }
    for suffix in ["", "-wal", "-lock"] {
        let from = folder.0.join(format!("original.kv{suffix}"));
        if from.exists() {
            fs::copy(from, folder.0.join(format!("app.kv{suffix}"))).unwrap();
        }
    }
}

/// Changes the database with SQL, as another program could.
fn change(file: &Path, sql: &str) {
    let db = Connection::open(file).unwrap();
    db.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn missing_or_changed_rows_are_detected() {
    let changes = [
        (false, "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)"),
        (false, "DELETE FROM entry WHERE seq = (SELECT min(seq) FROM entry)"),
        (false, "DELETE FROM entry"),
        (false, "UPDATE entry SET value = x'77' WHERE key = 'k3'"),
        (false, "UPDATE entry SET key = 'k99' WHERE key = 'k3'"),
        (false, "UPDATE entry SET ttl = 1 WHERE key = 'k3'"),
        (false, "UPDATE entry SET bucket = 7 WHERE key = 'k3'"),
        (false, "DELETE FROM bucket"),
        (false, "UPDATE bucket SET last_revision = last_revision - 1"),
        (false, "UPDATE bucket SET config = '{\"name\":\"b\",\"history\":9}'"),
        (false, "UPDATE meta SET applied = applied - 1"),
        (false, "DELETE FROM meta"),
        (false, "CREATE TABLE other (x)"),
        (false, "DROP TABLE journal"),
        (true, "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)"),
        (true, "DELETE FROM journal WHERE seq = 5"),
        (true, "DELETE FROM journal"),
        (true, "UPDATE journal SET created = created + 1 WHERE seq = 5"),
        (true, "UPDATE journal SET effect = 2 WHERE seq = 5"),
    ];
    for (number, (in_journal, sql)) in changes.into_iter().enumerate() {
        let folder = Folder::new(&format!("rows-{number}"));
        store(&folder, in_journal).await;
        change(&folder.file(), sql);
        let before = fs::read(folder.file()).unwrap();
        let error = open(&folder.file()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{sql}: {error}");
        assert!(fs::read(folder.file()).unwrap() == before, "{sql}: a refused file is unchanged");
    }
}

#[tokio::test]
async fn files_of_other_formats_and_applications_are_refused() {
    let folder = Folder::new("formats");
    store(&folder, false).await;
    change(&folder.file(), "PRAGMA user_version = 7");
    let later = open(&folder.file()).await.unwrap_err();
    let ErrorKind::Unsupported { needs, .. } = later.kind() else { panic!("{later}") };
    assert!(needs.contains("format 7"), "{later}");
    change(&folder.file(), "PRAGMA user_version = 1");
    open(&folder.file()).await.unwrap().close().await.unwrap();

    let other = folder.0.join("other.db");
    change(&other, "CREATE TABLE t (x)");
    let foreign = open(&other).await.unwrap_err();
    assert!(matches!(foreign.kind(), ErrorKind::InvalidConfig { .. }), "{foreign}");
}

/// Returns the format of a file.
fn format(file: &Path) -> i64 {
    let db = Connection::open(file).unwrap();
    db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// Returns the number of records, and the revisions of the entries `i.a` and `i.b`.
async fn content(file: &Path) -> (u64, [Option<u64>; 2]) {
    let backend = open(file).await.unwrap();
    let bucket = backend.open("b", soon()).await.unwrap().unwrap();
    let values = bucket.status(soon()).await.unwrap().values;
    let mut entries = [None; 2];
    for (entry, on) in entries.iter_mut().zip(["i.a", "i.b"]) {
        let (key, at) = (Key::new(on).unwrap(), ReadAt::Newest(Read::Leader));
        let found = bucket.read(KeySpace::Index, &key, at, soon()).await.unwrap();
        *entry = found.map(|entry| entry.revision.get());
    }
    backend.close().await.unwrap();
    (values, entries)
}

#[tokio::test]
async fn index_entries_are_durable_and_raise_the_format() {
    for in_journal in [false, true] {
        let folder = Folder::new(&format!("index-{in_journal}"));
        let original = folder.0.join("original.kv");
        let backend = open(&original).await.unwrap();
        let bucket = backend.create(BucketConfig::new("b"), soon()).await.unwrap();
        let record = Write::new(Key::new("i.a").unwrap(), WriteKind::Put("v".into()));
        bucket.write(record, soon()).await.unwrap();
        assert_eq!(format(&original), 1, "a store without entries stays readable for earlier versions");
        let mut update = BucketConfig::new("b");
        update.index_entries = Some(true);
        let bucket = backend.update(update, soon()).await.unwrap();
        for on in ["i.a", "i.b", "i.a", "i.gone"] {
            bucket.write(Write::index_entry(Key::new(on).unwrap(), "".into()), soon()).await.unwrap();
        }
        let gone = Key::new("i.gone").unwrap();
        assert_eq!(bucket.purge_through(KeySpace::Index, &gone, Revision::new(9), soon()).await.unwrap(), 1);
        if !in_journal {
            backend.close().await.unwrap();
        }
        for suffix in ["", "-wal", "-lock"] {
            let from = folder.0.join(format!("original.kv{suffix}"));
            if from.exists() {
                fs::copy(from, folder.0.join(format!("app.kv{suffix}"))).unwrap();
            }
        }
        let salvaged = folder.0.join("salvaged.kv");
        let report = salvage(folder.file(), &salvaged).unwrap();
        assert_eq!((report.entries, report.problems), (3, vec![]));
        let wanted = (1, [Some(4), Some(3)]);
        assert_eq!(content(&folder.file()).await, wanted, "in journal: {in_journal}");
        assert_eq!(format(&folder.file()), 2);
        assert_eq!(content(&salvaged).await, wanted, "salvaged, in journal: {in_journal}");
        assert_eq!(format(&salvaged), 2);
    }
}
