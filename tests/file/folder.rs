//! A folder of one test, and operations on the store in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::TryStreamExt;
use kvtyped::backend::{Backend, Deadline, RawBucket, RawEntry, ScanRequest, Write, WriteKind};
use kvtyped::config::BucketConfig;
use kvtyped::connect::OpenFile;
use kvtyped::key::{Pattern, Patterns};
use kvtyped::prelude::*;
use kvtyped::{Error, Key};

/// A folder below the target folder that is removed with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id())))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder is created");
        Self(path)
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The main file of the store.
    pub(crate) fn file(&self) -> PathBuf {
        self.path("app.kv")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.path("app.kv-wal")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.path("app.kv-lock")
    }

    /// The builder of the store.
    pub(crate) fn store(&self) -> OpenFile {
        Store::file(self.file())
    }

    /// Opens the store as a backend.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(self.store().backend().await?))
    }

    /// Copies the files of the store to another folder.
    pub(crate) fn copy(&self, name: &str) -> Self {
        let copy = Self::new(name);
        for file in ["app.kv", "app.kv-wal", "app.kv-lock"] {
            if self.path(file).exists() {
                fs::copy(self.path(file), copy.path(file)).expect("the file is copied");
            }
        }
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reproducible random numbers (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    /// Returns `true` with a probability in percent.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).expect("the key is valid")
}

pub(crate) async fn put(bucket: &Arc<dyn RawBucket>, name: &str, value: impl Into<Vec<u8>>) -> Result<Revision, Error> {
    bucket.write(Write::new(key(name), WriteKind::Put(value.into().into())), deadline()).await
}

/// Creates a bucket with these settings.
pub(crate) async fn create(backend: &Arc<dyn Backend>, change: impl FnOnce(&mut BucketConfig)) -> Arc<dyn RawBucket> {
    let mut config = BucketConfig::new("b");
    change(&mut config);
    backend.create(config, deadline()).await.expect("the bucket is created")
}

/// Opens the bucket of [`create`].
pub(crate) async fn bucket(backend: &Arc<dyn Backend>) -> Arc<dyn RawBucket> {
    backend.open("b", deadline()).await.expect("the backend answers").expect("the bucket exists")
}

/// Returns every entry of the bucket.
pub(crate) async fn entries(bucket: &Arc<dyn RawBucket>) -> Vec<RawEntry> {
    let scan = ScanRequest {
        patterns: Patterns::new(vec![Pattern::all()]),
        history: true,
        headers_only: false,
        after: Revision::ZERO,
        limit: None,
        idle_timeout: Duration::from_secs(20),
    };
    let scanned = bucket.scan(scan).map_ok(|item| item.entry).try_collect().await;
    scanned.expect("the scan has no error")
}
