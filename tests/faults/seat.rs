//! What a worker is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::history::Recorder;
use harness::netns::Net;
use kvtyped::prelude::*;
use kvtyped::{KvModel, OpenBucket};

use crate::gauge::{Gauge, Work};

/// How long an operation may take: longer than the election of a leader on a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(15);

/// How long a write may take that is not sent twice: where its acknowledgement is lost, it waits for it in vain.
pub(crate) const HASTY: Duration = Duration::from_secs(5);

/// What all workers of a run share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    pub(crate) recorder: Recorder,
    over: Arc<AtomicBool>,
    /// The next value that nobody stored yet.
    values: Arc<AtomicU64>,
    /// The newest revision of the records that anybody was told.
    newest: Arc<AtomicU64>,
}

impl Common {
    pub(crate) fn fresh(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    pub(crate) fn heard(&self, revision: Revision) {
        self.newest.fetch_max(revision.get(), Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// What one worker has for its own: a number, a connection, its figures.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) number: usize,
    pub(crate) store: Store,
    pub(crate) gauge: Gauge,
    pub(crate) common: Common,
    replicas: u8,
}

impl Seat {
    /// A connection to one server, or to all of them if it `roams`.
    pub(crate) async fn new(number: usize, work: Work, place: &Place, common: &Common) -> Self {
        let roams = number % 2 == 1 && place.urls.len() > 1;
        let node = number / 2 % place.urls.len();
        let store = if roams { place.connect_to_all().await } else { place.connect_to(node).await };
        Self { number, store, gauge: Gauge::new(work, roams), common: common.clone(), replicas: place.replicas }
    }

    /// A bucket of this run.
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

    /// The pause between two operations: a server that is gone fails at once, and nobody is to spin.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// The pause after something was held: so long that others come to hold it, too.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }

    /// A number that looks random, and is the same in each run.
    pub(crate) fn dice(&self, round: usize) -> usize {
        let mixed = (self.number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut x = mixed ^ (round as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        x ^= x >> 31;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        usize::try_from((x ^ (x >> 29)) % (1 << 30)).expect("it fits")
    }
}

/// Where the servers of a run are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// One server each.
    pub(crate) urls: Vec<String>,
    pub(crate) replicas: u8,
    /// Where they are in a net: those who know all servers are on side 0, those who know one are on a side of its own, the
    /// one after its number.
    pub(crate) net: Option<Arc<Net>>,
}

impl Place {
    /// On a net of three nodes and four sides.
    pub(crate) fn on(net: Arc<Net>) -> Self {
        let urls = (0..3).map(|node| net.url(node + 1, node)).collect();
        Self { urls, replicas: 3, net: Some(net) }
    }

    /// A connection to one server.
    pub(crate) async fn connect_to(&self, node: usize) -> Store {
        self.connect(self.urls[node].clone(), node + 1).await
    }

    /// A connection to all of them.
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
