//! The promises under failures of servers, connections and acknowledgements.
//!
//! Each test names the promise that it verifies by the ids of `kvtyped/docs/guarantees.md`, such as P10. A test with the
//! prefix `naive_` is a negative control: it does the same with the plain client or with a plain loop and expects a
//! failure. A fault without any effect would prove nothing.

mod acknowledgements;
mod contention;
mod deadlines;
mod leases;
mod outages;
mod read_after_write;
mod stale_reads;
mod stale_servers;
mod stored;
mod superseded;

use std::collections::BTreeSet;

use harness::{Mode, Proxy, Server, wait};
use kvtyped::bucket::OpenBucket;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, KvModel, Version};

use crate::support::{Document, DocumentKey, World, seen_as};

const SECOND: Duration = Duration::from_secs(1);

/// Turns each function into a test on one server and a test on a cluster of three.
macro_rules! on_both_sites {
    ($($(#[$attribute:meta])* async fn $name:ident($site:ident: TestCluster) $body:block)*) => {
        $($(#[$attribute])* async fn $name($site: $crate::promises::TestCluster) $body)*

        mod on_one_server {
            $(#[tokio::test] async fn $name() { super::$name($crate::promises::TestCluster::OneServer).await; })*
        }

        mod on_three_servers {
            $(#[tokio::test] async fn $name() { super::$name($crate::promises::TestCluster::ThreeServers).await; })*
        }
    };
}
use on_both_sites;

/// The servers of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TestCluster {
    OneServer,
    ThreeServers,
}

impl TestCluster {
    async fn server(self) -> &'static Server {
        match self {
            Self::OneServer => harness::shared().await,
            Self::ThreeServers => harness::cluster::shared().await.node(0),
        }
    }

    /// Returns a server for the `n`th connection. The servers take turns if there are several.
    async fn nth_server(self, n: usize) -> &'static Server {
        match self {
            Self::OneServer => harness::shared().await,
            Self::ThreeServers => harness::cluster::shared().await.node(n % 3),
        }
    }

    async fn world(self) -> World {
        World::at(&self.server().await.url()).await
    }

    /// Returns the builder of a bucket with a replica on every server of the site.
    fn fresh<T: KvModel>(self, world: &World) -> OpenBucket<T> {
        let open = world.fresh();
        if self == Self::ThreeServers { open.replicas(3) } else { open }
    }
}

/// A bucket that is opened twice: through a proxy and directly.
struct ThroughProxy<T> {
    proxy: Proxy,
    through: Bucket<T>,
    /// A direct connection, like that of another writer.
    past: Bucket<T>,
}

impl<T: KvModel> ThroughProxy<T> {
    async fn new(site: TestCluster) -> Self {
        let direct = site.world().await;
        let past: Bucket<T> = site.fresh(&direct).await.expect("the bucket opens");
        let proxy = Proxy::start(site.server().await.addr()).await;
        let world = World::at(&proxy.url()).await;
        let through = seen_as(&world, past.name()).await;
        Self { proxy, through, past }
    }

    /// Awaits a write whose acknowledgement is lost. The second future completes before the connection works again.
    async fn losing_the_answer<W: IntoFuture>(&self, write: W, meanwhile: impl Future<Output = ()>) -> W::Output {
        let lost = self.proxy.dropped_replies();
        self.proxy.set(Mode::DropReplies);
        self.until_an_answer_is_lost(lost, write, meanwhile).await
    }

    /// Like [`losing_the_answer`](Self::losing_the_answer), for an operation that reads before it writes and sets the
    /// mode itself.
    async fn until_an_answer_is_lost<W: IntoFuture>(
        &self,
        lost: u64,
        write: W,
        meanwhile: impl Future<Output = ()>,
    ) -> W::Output {
        let (result, ()) = tokio::join!(write.into_future(), async {
            self.proxy.await_dropped(lost + 1).await;
            meanwhile.await;
            self.proxy.set(Mode::Pass);
        });
        result
    }
}

/// The writes of a test, each with a unique text, and their results. The final state of the bucket must agree with them
/// (P4).
#[derive(Debug, Default)]
struct Ledger(Vec<(Document, Result<Revision, Error>)>);

impl Ledger {
    fn note(&mut self, document: Document, result: Result<Revision, Error>) {
        self.0.push((document, result));
    }

    /// Compares the results with the history of the keys, which must be complete.
    async fn agrees_with(&self, documents: &Bucket<Document>) {
        let names: BTreeSet<_> = self.0.iter().map(|(document, _)| document.name.as_str()).collect();
        for name in names {
            let writes = self.0.iter().filter(|(document, _)| document.name == name);
            let acknowledged: Vec<_> = writes.clone().filter_map(|(_, result)| result.as_ref().ok()).collect();
            let key = DocumentKey::new(name);
            // Any server of a cluster may answer, and a restarted server may not have all messages yet.
            let past = wait::until(&format!("{acknowledged:?} of {name} are there"), 20 * SECOND, async || {
                let past = documents.history(&key).await.expect("it reads");
                let found = |revision| past.iter().any(|version| version.revision() == revision);
                acknowledged.iter().all(|revision| found(**revision)).then_some(past)
            })
            .await;
            for (document, result) in writes {
                let text = document.text.as_str();
                let same = past.iter().filter(|version| version.entry().is_some_and(|entry| entry.text == text));
                let found: Vec<_> = same.map(Version::revision).collect();
                match result {
                    Ok(revision) => assert_eq!(found, [*revision], "{text} was acknowledged"),
                    Err(error) if error.outcome() == Outcome::Unknown => {
                        assert!(found.len() <= 1, "{text} is stored {} times", found.len());
                    }
                    Err(error) => assert!(found.is_empty(), "{text} is stored, but the write returned: {error}"),
                }
            }
        }
    }
}

/// Returns whether the outcome of a write is unknown.
fn is_unknown(result: &Result<Revision, Error>) -> bool {
    result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown)
}

/// Returns whether a write was refused because of another write.
fn is_refused(error: &Error) -> bool {
    let conflict = matches!(error.kind(), ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists);
    conflict && error.is_conflict() && error.outcome() == Outcome::NotApplied
}
