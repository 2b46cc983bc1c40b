//! Buckets in a file: the durable embedded backend, with the feature `file`.
//!
//! This backend has the semantics of [`memory`](super::memory), and all data survives the end of the process and, by
//! default, a loss of power. The file is a SQLite database. See the module `kvtyped::durability` for the guarantees.
//!
//! All keys and values must fit into memory, because reads never touch the file.

// Each module imports only from modules above it.
//
// | file | content |
// |---|---|
// | `crc` | checksums |
// | `paths`, `errors` | the files of a store; errors of SQLite |
// | `files` | the names of the open files, and a sync that needs no space |
// | `lock` | the lock file, and the mark of the last durable effect |
// | `stored_config` | configurations of buckets as JSON |
// | `schema` | tables, settings of SQLite, the row of the store |
// | `row` | effects as rows of the journal |
// | `buckets` | the rows of the buckets |
// | `load` | from a file to the state |
// | `checkpoint` | moves rows of the journal into the tables of the state |
// | `options`, `url` | how a store is opened |
// | `opening` | the first transaction of an open |
// | `control` | requests to the thread |
// | `backup` | copies an open store |
// | `journal` | the thread: groups, checkpoints, requests |
// | `open` | checks and opens a file |
// | `salvage` | copies the readable records of a damaged store |
// | `registry` | the open files of this process |
mod crc;
mod paths;
mod errors;
mod files;
mod lock;
mod stored_config;
mod schema;
mod row;
mod buckets;
mod load;
mod checkpoint;
mod options;
mod url;
mod opening;
mod control;
mod backup;
mod journal;
mod open;
mod salvage;
mod registry;
#[cfg(test)]
mod tests;

pub(crate) use self::options::FileOptions;
pub use self::options::SyncMode;
pub use self::salvage::{SalvageReport, salvage};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use self::control::BackupRequest;
use self::registry::OpenFile;
use super::local::backend::LocalBackend;
use super::{Backend, Capabilities, Deadline, RawBucket, RawCounters};
use crate::config::BucketConfig;
use crate::error::{Error, ErrorKind, Result};

/// A backend with buckets in a file. All backends of one file in a process share the buckets.
pub struct FileBackend {
    file: Arc<OpenFile>,
    backend: LocalBackend,
    closed: AtomicBool,
}

impl FileBackend {
    /// Opens a file, and creates it if it does not exist.
    pub(crate) async fn open(options: FileOptions) -> Result<Self> {
        let (file, backend) = registry::open(options).await?;
        Ok(Self { file, backend, closed: AtomicBool::new(false) })
    }
}

/// Shows the path and none of the contents.
impl fmt::Debug for FileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileBackend").field(&self.file.name()).finish()
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.file.release();
        }
    }
}

impl Backend for FileBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        self.backend.capabilities(deadline)
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.backend.create(config, deadline)
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        self.backend.open(name, deadline)
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.backend.update(config, deadline)
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        self.backend.delete(name, deadline)
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        self.backend.counters(config, deadline)
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        self.backend.names(deadline)
    }

    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (reply, result) = oneshot::channel();
            self.file.request(&self.backend, BackupRequest { path, reply });
            result.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed)))
        })
    }

    /// Writes everything that is pending, and closes the file if no other backend of this process uses it.
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            self.file.close(&self.backend).await
        })
    }
}
