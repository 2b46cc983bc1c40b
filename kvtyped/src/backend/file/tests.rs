#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::{FileBackend, FileOptions};
use crate::backend::{Backend, Deadline, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::{ErrorKind, Result};
use crate::key::Key;

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
