//! What is promised where servers, connections and acknowledgements fail.
//!
//! Each test says which promise it proves: P1 to P40, as this project numbers them. One whose name begins with
//! `naive_` is a negative control: it does the same with the plain client, or the plain loop, and expects it to fail;
//! a fault that harms nobody proves nothing.

mod acknowledgements;
mod contention;
mod deadlines;
mod lagging;
mod leases;
mod outages;
mod overtaken;
mod reads;
mod stale;
mod stored;

use std::collections::BTreeSet;

use harness::{Mode, Proxy, Server, wait};
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, KvModel, OpenBucket};

use crate::support::{Document, DocumentKey, World, seen_as};

const SECOND: Duration = Duration::from_secs(1);

/// Turns each function into a test on one server and a test on a cluster of three.
macro_rules! on_both_sites {
    ($($(#[$attribute:meta])* async fn $name:ident($site:ident: Site) $body:block)*) => {
        $($(#[$attribute])* async fn $name($site: $crate::promises::Site) $body)*

        mod on_one_server {
            $(#[tokio::test] async fn $name() { super::$name($crate::promises::Site::OneServer).await; })*
        }

        mod on_three_servers {
            $(#[tokio::test] async fn $name() { super::$name($crate::promises::Site::ThreeServers).await; })*
        }
    };
}
use on_both_sites;

/// Where buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    OneServer,
    ThreeServers,
}

impl Site {
    async fn server(self) -> &'static Server {
        match self {
            Self::OneServer => harness::shared().await,
            Self::ThreeServers => harness::cluster::shared().await.node(0),
        }
    }

    /// A server to connect to; the `n`th is another one, if there are more.
    async fn nth_server(self, n: usize) -> &'static Server {
        match self {
            Self::OneServer => harness::shared().await,
            Self::ThreeServers => harness::cluster::shared().await.node(n % 3),
        }
    }

    async fn world(self) -> World {
        World::at(&self.server().await.url()).await
    }

    /// The builder of a bucket that every server of the site stores.
    fn fresh<T: KvModel>(self, world: &World) -> OpenBucket<T> {
        let open = world.fresh();
        if self == Self::ThreeServers { open.replicas(3) } else { open }
    }
}

/// A bucket that is reached through a proxy, and past it.
struct Behind<T> {
    proxy: Proxy,
    through: Bucket<T>,
    /// Another connection, as other writers have it.
    past: Bucket<T>,
}

impl<T: KvModel> Behind<T> {
    async fn new(site: Site) -> Self {
        let direct = site.world().await;
        let past: Bucket<T> = site.fresh(&direct).await.expect("the bucket opens");
        let proxy = Proxy::start(site.server().await.addr()).await;
        let world = World::at(&proxy.url()).await;
        let through = seen_as(&world, past.name()).await;
        Self { proxy, through, past }
    }

    /// Awaits a write whose acknowledgement is lost. `meanwhile` is over before the connection is sound again.
    async fn losing_the_answer<W: IntoFuture>(&self, write: W, meanwhile: impl Future<Output = ()>) -> W::Output {
        let lost = self.proxy.dropped_replies();
        self.proxy.set(Mode::DropReplies);
        self.until_an_answer_is_lost(lost, write, meanwhile).await
    }

    /// The same for what reads before it writes, and sets the mode itself in between.
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

/// The writes of a test, each of a text of its own, and what was said of them: in the end the bucket must agree (P4).
#[derive(Debug, Default)]
struct Ledger(Vec<(Document, Result<Revision, Error>)>);

impl Ledger {
    fn note(&mut self, document: Document, result: Result<Revision, Error>) {
        self.0.push((document, result));
    }

    /// Compares with the history, which must be complete.
    async fn agrees_with(&self, documents: &Bucket<Document>) {
        let names: BTreeSet<_> = self.0.iter().map(|(document, _)| document.name.as_str()).collect();
        for name in names {
            let writes = self.0.iter().filter(|(document, _)| document.name == name);
            let acknowledged: Vec<_> = writes.clone().filter_map(|(_, result)| result.as_ref().ok()).collect();
            let key = DocumentKey::new(name);
            // Any server of a cluster may answer, and one that was away has not everything yet.
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
                    Err(error) => assert!(found.is_empty(), "{text} is stored, and was told: {error}"),
                }
            }
        }
    }
}

/// Whether nobody knows what became of a write.
fn is_unknown(result: &Result<Revision, Error>) -> bool {
    result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown)
}

/// Whether a write was refused because another came first.
fn is_refused(error: &Error) -> bool {
    let conflict = matches!(error.kind(), ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists);
    conflict && error.is_conflict() && error.outcome() == Outcome::NotApplied
}
