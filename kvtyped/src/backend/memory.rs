//! Buckets in the memory of this process.
//!
//! This backend is not a mock. It has the semantics of a NATS server, so the same program runs on both. Revisions,
//! preconditions, delete markers, history, expiry and limits match a server, including its count of bytes.
//!
//! The differences, because there is one process and one copy:
//! * Every read is fresh, regardless of [`Read`](super::Read).
//! * `placement`, `compression`, `republish`, `metadata` and `description` are stored and returned, but have no effect.
//!   Neither has `replicas`, except that a full bucket with several replicas refuses more writes, as a server does.
//!   `mirror` and `sources` are refused.
//! * An entry expires exactly on time. A server is some hundred milliseconds late.
//! * An attached watch delivers every change in order, however late its reader polls. For this purpose a bucket keeps
//!   up to 8,192 entries or 16 MiB that were overwritten or removed before every watch read them. A watch that falls
//!   behind further delivers what is still stored, as a server does for a slow consumer.
//! * When the last handle is dropped, all contents are dropped. A watch is a handle.
//!
//! The clock is tokio's: a test that pauses the clock controls expiry.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::local::backend::LocalBackend;
use super::{Backend, Capabilities, Deadline, RawBucket, RawCounters};
use crate::config::BucketConfig;
use crate::error::Result;

/// A backend with buckets in memory. Clones share the buckets.
///
/// ```
/// use std::time::Duration;
/// use kvtyped::backend::memory::MemoryBackend;
/// use kvtyped::backend::{KeySpace, ReadAt, Backend, Deadline, Read, Write, WriteKind};
/// use kvtyped::Key;
/// use kvtyped::config::BucketConfig;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvtyped::Error> {
/// let backend = MemoryBackend::new();
/// let deadline = Deadline::after(Duration::from_secs(5));
/// let bucket = backend.create(BucketConfig::new("sessions"), deadline).await?;
///
/// let key = Key::new("acme.7").unwrap();
/// let write = Write::new(key.clone(), WriteKind::Put("hello".into()));
/// let revision = bucket.write(write, deadline).await?;
/// let entry = bucket.read(KeySpace::Records, &key, ReadAt::Newest(Read::Leader), deadline).await?.unwrap();
/// assert_eq!((entry.revision, &*entry.value), (revision, b"hello".as_slice()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBackend(LocalBackend);

impl MemoryBackend {
    /// Creates a backend without buckets.
    pub fn new() -> Self {
        Self(LocalBackend::new("memory:", "memory"))
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows the names of the buckets and none of their contents.
impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryBackend").field(&self.0.bucket_names()).finish()
    }
}

impl Backend for MemoryBackend {
    fn capabilities(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capabilities>> {
        self.0.capabilities(deadline)
    }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.0.create(config, deadline)
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        self.0.open(name, deadline)
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        self.0.update(config, deadline)
    }

    fn delete<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<bool>> {
        self.0.delete(name, deadline)
    }

    fn counters(
        &self,
        config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        self.0.counters(config, deadline)
    }

    fn names(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<String>>> {
        self.0.names(deadline)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.close()
    }
}
