//! A memory backend whose writes and updates fail as the test decides.

use std::sync::{Arc, Mutex, PoisonError};

use crate::support::forward::forward;
use futures::FutureExt;
use futures::future::BoxFuture;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Backend, Deadline, RawBucket, Write};
use kvtyped::config::BucketConfig;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Key};

/// The fate of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    Applied,
    /// Applied, and the acknowledgement is lost.
    LostReply,
    /// Not applied, and the sender does not learn it.
    Lost,
    /// Refused.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    BucketFull,
    Unavailable,
}

impl Fate {
    async fn of<R>(self, request: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
        let lost = || Error::new(ErrorKind::Timeout { after: Duration::from_secs(1) }).unknown_outcome();
        match self {
            Self::Applied => request.await,
            Self::LostReply => request.await.and_then(|_| Err(lost())),
            Self::Lost => Err(lost()),
            Self::Refused(Refusal::BucketFull) => Err(Error::new(ErrorKind::BucketFull)),
            Self::Refused(Refusal::Unavailable) => {
                Err(Error::new(ErrorKind::Unavailable { reason: "no leader".into() }))
            }
        }
    }
}

type WriteFate = Box<dyn FnMut(&Write) -> Fate + Send>;
type UpdateFate = Box<dyn FnMut(&BucketConfig) -> Fate + Send>;

/// The backend. Clones share the buckets and the faults.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    memory: Arc<MemoryBackend>,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    write: Mutex<Option<WriteFate>>,
    update: Mutex<Option<UpdateFate>>,
}

struct FaultyBucket {
    raw: Arc<dyn RawBucket>,
    faults: Arc<Faults>,
}

impl Faulty {
    pub(crate) fn store(&self) -> Store {
        Store::from_backend(Arc::new(self.clone()))
    }

    /// Returns a store of the same buckets without faults.
    pub(crate) fn healthy_store(&self) -> Store {
        Store::from_backend(Arc::clone(&self.memory) as _)
    }

    /// Sets the fate of the writes of records. The records of the library are not affected.
    pub(crate) fn on_write(&self, fate: impl FnMut(&Write) -> Fate + Send + 'static) {
        *self.faults.write.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fate));
    }

    pub(crate) fn on_update(&self, fate: impl FnMut(&BucketConfig) -> Fate + Send + 'static) {
        *self.faults.update.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fate));
    }

    fn over(&self, raw: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(FaultyBucket { raw, faults: Arc::clone(&self.faults) })
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

impl std::fmt::Debug for FaultyBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyBucket")
    }
}

impl Backend for Faulty {
    forward! { memory: capabilities delete counters names close }

    fn create(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>, Error>> {
        async move { Ok(self.over(self.memory.create(config, deadline).await?)) }.boxed()
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>, Error>> {
        async move { Ok(self.memory.open(name, deadline).await?.map(|raw| self.over(raw))) }.boxed()
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>, Error>> {
        let fate = match &mut *self.faults.update.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(fate) => fate(&config),
            None => Fate::Applied,
        };
        fate.of(async move { Ok(self.over(self.memory.update(config, deadline).await?)) }).boxed()
    }
}

impl RawBucket for FaultyBucket {
    forward! { raw: config identity status commit purge_through read read_many list_keys count_keys scan watch }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision, Error>> {
        let fate = match &mut *self.faults.write.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(fate) if !write.key.as_str().starts_with(Key::RESERVED) => fate(&write),
            _ => Fate::Applied,
        };
        fate.of(self.raw.write(write, deadline)).boxed()
    }
}
