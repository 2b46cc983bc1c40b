//! The backend contract for buckets with write epochs: every rule, with each bucket closed and each write in its epoch.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use kvtyped::Result;
use kvtyped::Revision;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::nats::{NatsBackend, NatsOptions};
use kvtyped::backend::{Backend, Batch, ConnectionState, Deadline, RawBucket, RawCounters, Write};
use kvtyped::config::{BucketConfig, WriteEpochs};
use kvtyped::conformance::{self, BackendUnderTest};
use tokio::sync::watch::Receiver;

use crate::needs::needs;
use crate::support::forward::forward;

/// A backend that gives each new bucket write epochs, and each write the epoch of its handle.
#[derive(Debug)]
struct InEpochs<B>(B);

#[derive(Debug)]
struct InEpoch(Arc<dyn RawBucket>);

impl InEpoch {
    fn wrap(bucket: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(Self(bucket))
    }

    fn in_epoch(&self, write: Write) -> Write {
        if write.is_index_entry() { write } else { write.in_epoch(self.0.config().write_epoch) }
    }
}

impl<B: Backend> Backend for InEpochs<B> {
    forward! { 0: capabilities delete names close }

    fn create(&self, mut config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        config.write_epochs = Some(WriteEpochs::Closed);
        Box::pin(async move { self.0.create(config, deadline).await.map(InEpoch::wrap) })
    }

    fn open<'a>(&'a self, name: &'a str, deadline: Deadline) -> BoxFuture<'a, Result<Option<Arc<dyn RawBucket>>>> {
        Box::pin(async move { Ok(self.0.open(name, deadline).await?.map(InEpoch::wrap)) })
    }

    fn update(&self, config: BucketConfig, deadline: Deadline) -> BoxFuture<'_, Result<Arc<dyn RawBucket>>> {
        Box::pin(async move { self.0.update(config, deadline).await.map(InEpoch::wrap) })
    }

    fn counters(
        &self,
        mut config: BucketConfig,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Arc<dyn RawCounters>>>> {
        (config.write_epochs, config.write_epoch) = (None, None);
        self.0.counters(config, deadline)
    }

    fn ping(&self, deadline: Deadline) -> BoxFuture<'_, Result<Duration>> {
        self.0.ping(deadline)
    }

    fn connection(&self) -> Receiver<ConnectionState> {
        self.0.connection()
    }
}

impl RawBucket for InEpoch {
    forward! { 0: config identity status purge_through read read_many list_keys count_keys scan watch }

    fn write(&self, write: Write, deadline: Deadline) -> BoxFuture<'_, Result<Revision>> {
        self.0.write(self.in_epoch(write), deadline)
    }

    fn commit(&self, batch: Batch, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Revision>>> {
        let writes = batch.writes.into_iter().map(|write| self.in_epoch(write)).collect();
        self.0.commit(Batch { writes, ..batch }, deadline)
    }
}

/// The rules that choose the epochs themselves.
pub(crate) const OWN_EPOCHS: [&str; 8] = [
    "new_bucket_has_first_epoch",
    "write_of_other_epoch_is_refused",
    "write_without_epoch_needs_open_bucket",
    "update_switches_epoch_and_metadata",
    "epoch_never_decreases",
    "existing_bucket_gets_write_epochs",
    "verbs_work_in_epochs",
    "batch_has_one_epoch",
];

/// Tests every rule, several at once, and reports all violations.
async fn holds(subject: BackendUnderTest) {
    let rules = conformance::names().filter(|name| !OWN_EPOCHS.contains(name));
    let subject = &subject;
    let violation = |name| async move { AssertUnwindSafe(conformance::run(subject, name)).catch_unwind().await.err() };
    let violations = stream::iter(rules).map(violation).buffer_unordered(4).filter_map(std::future::ready);
    let violations: Vec<_> = violations
        .map(|payload| payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "a rule panics".to_owned()))
        .collect()
        .await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(start_paused = true)]
async fn contract_holds_in_epochs_of_memory_buckets() {
    holds(BackendUnderTest::new(Arc::new(InEpochs(MemoryBackend::new())))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_holds_in_epochs_on_one_server() {
    needs!(WriteEpochs);
    let url = harness::shared().await.url();
    let backend = NatsBackend::connect(&url, NatsOptions::new()).await.expect("the server is there");
    holds(BackendUnderTest::new(Arc::new(InEpochs(backend)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_holds_in_epochs_on_three_servers() {
    needs!(WriteEpochs);
    let urls = harness::cluster::shared().await.urls();
    let backend = NatsBackend::connect(&urls, NatsOptions::new()).await.expect("the cluster is there");
    holds(BackendUnderTest::new(Arc::new(InEpochs(backend))).replicas(3)).await;
}
