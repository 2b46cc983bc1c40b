//! The environment of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::history::Recorder;
use harness::netns::Net;
use kvtyped::KvModel;
use kvtyped::bucket::OpenBucket;
use kvtyped::prelude::*;

use crate::op_stats::{Gauge, Work};

/// The timeout of an operation: longer than a leader election on a loaded machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(15);

/// The timeout of a write that is not retried. If its acknowledgement is lost, the write waits for the whole timeout.
pub(crate) const HASTY: Duration = Duration::from_secs(5);

/// The state that all workers of a run share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    pub(crate) recorder: Recorder,
    over: Arc<AtomicBool>,
    /// The next unused value.
    values: Arc<AtomicU64>,
    /// The highest revision of the records that any worker received.
    newest: Arc<AtomicU64>,
}

impl Common {
    pub(crate) fn fresh(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    pub(crate) fn received(&self, revision: Revision) {
        self.newest.fetch_max(revision.get(), Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// The environment of one worker: a number, a connection, and its figures.
#[derive(Debug, Clone)]
pub(crate) struct WorkerContext {
    pub(crate) number: usize,
    pub(crate) store: Store,
    pub(crate) gauge: Gauge,
    pub(crate) common: Common,
    replicas: u8,
}

impl WorkerContext {
    /// Whether the worker uses short leases.
    pub(crate) fn is_hasty(&self) -> bool {
        (self.number / 4).is_multiple_of(2)
    }

    /// Connects to one server, or to all servers if the worker roams. Workers of each kind are of both sorts.
    pub(crate) async fn new(number: usize, work: Work, place: &Place, common: &Common) -> Self {
        // The workers of a kind have numbers in steps of four.
        let roams = (number + number / 4) % 2 == 1 && place.urls.len() > 1;
        let node = number / 2 % place.urls.len();
        let store = if roams { place.connect_to_all().await } else { place.connect_to(node).await };
        Self { number, store, gauge: Gauge::new(work, roams), common: common.clone(), replicas: place.replicas }
    }

    /// Opens a bucket of this run.
    pub(crate) async fn bucket<T: KvModel>(&self) -> Bucket<T> {
        self.open().await.expect("nothing fails yet")
    }

    pub(crate) fn open<T: KvModel>(&self) -> OpenBucket<T> {
        self.store.bucket().replicas(self.replicas)
    }

    pub(crate) fn replicas(&self) -> u8 {
        self.replicas
    }

    pub(crate) fn is_over(&self) -> bool {
        self.common.is_over()
    }

    /// Pauses between two operations. Without the pause, a worker would spin while a server is down, because operations
    /// then fail at once.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// Pauses after a lock or leadership was released, long enough for other workers to acquire it.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }

    /// Returns a pseudo-random number that is the same in each run.
    pub(crate) fn dice(&self, round: usize) -> usize {
        let mixed = (self.number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut x = mixed ^ (round as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        x ^= x >> 31;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        usize::try_from((x ^ (x >> 29)) % (1 << 30)).expect("it fits")
    }
}

/// The location of the servers of a run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The URL of each server.
    pub(crate) urls: Vec<String>,
    pub(crate) replicas: u8,
    /// The net of the servers, if they are in network namespaces. Clients with all addresses are on side 0. Clients
    /// with one address are on the side `node + 1`.
    pub(crate) net: Option<Arc<Net>>,
}

impl Place {
    /// Returns the servers of a net of three nodes and four sides.
    pub(crate) fn on(net: Arc<Net>) -> Self {
        let urls = (0..3).map(|node| net.url(node + 1, node)).collect();
        Self { urls, replicas: 3, net: Some(net) }
    }

    /// Connects to one server.
    pub(crate) async fn connect_to(&self, node: usize) -> Store {
        self.connect(self.urls[node].clone(), node + 1).await
    }

    /// Connects to all servers.
    pub(crate) async fn connect_to_all(&self) -> Store {
        let urls = self.net.as_ref().map_or_else(|| self.urls.join(","), |net| net.urls(0));
        self.connect(urls, 0).await
    }

    async fn connect(&self, url: String, side: usize) -> Store {
        let connect = Store::connect(url).into_future();
        let store = match &self.net {
            Some(net) => net.side(side).spawn(connect).await.expect("it does not panic"),
            None => connect.await,
        };
        store.expect("nothing fails yet").with_timeout(PATIENT)
    }
}
