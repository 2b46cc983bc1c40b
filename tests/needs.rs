//! Features that not every server has. On a server without a feature, the tests check that the library reports
//! `Unsupported` and leaves no partial state.

use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;
use kvtyped::recipes::{OnceError, Quota};
use kvtyped::txn::TransactError;
use kvtyped::{Error, ErrorKind, Outcome};

use crate::support::{Session, World, unique};

const SECOND: Duration = Duration::from_secs(1);

/// Ends a test early if the server lacks a feature, after checking the error that the library returns in this case.
/// Checks the shared server (`needs!(Locks)`) or the server of a world (`needs!(world, Locks)`; the memory backend has
/// all features).
macro_rules! needs {
    ($feature:ident) => {
        if $crate::needs::Feature::$feature.is_missing_and_reported().await {
            return;
        }
    };
    ($world:expr, $feature:ident) => {
        if $world.is_on_a_server() {
            $crate::needs::needs!($feature);
        }
    };
}
pub(crate) use needs;

/// A feature that servers have from some version on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Per-record TTLs.
    RecordTtl,
    /// Delete markers of expired records.
    LimitMarkers,
    Locks,
    Elections,
    Semaphores,
    Groups,
    Once,
    RateLimiters,
    /// Atomic batches of writes.
    Transactions,
    /// A fencing token and an expected revision of the record in one write: two preconditions. Locks alone work from an
    /// earlier version on.
    FencedUpdates,
    WriteEpochs,
    /// Server-side counters. Without them, the library adds up itself.
    Counters,
}

impl Feature {
    pub(crate) const ALL: [Self; 12] = [
        Self::RecordTtl,
        Self::LimitMarkers,
        Self::Locks,
        Self::Elections,
        Self::Semaphores,
        Self::Groups,
        Self::Once,
        Self::RateLimiters,
        Self::Transactions,
        Self::FencedUpdates,
        Self::WriteEpochs,
        Self::Counters,
    ];

    /// Returns the first version with the feature, and its name in an error.
    fn since(self) -> ([u64; 3], &'static str) {
        match self {
            Self::Transactions | Self::FencedUpdates => ([2, 12, 1], "nats-server 2.12.1"),
            Self::Counters => ([2, 12, 0], "nats-server 2.12"),
            _ => ([2, 11, 0], "nats-server 2.11"),
        }
    }

    pub(crate) fn is_missing(self, version: [u64; 3]) -> bool {
        version < self.since().0 && (self != Self::FencedUpdates || !Self::Locks.is_missing(version))
    }

    /// Returns whether the shared server lacks the feature. If so, checks the library's errors and prints them for a
    /// comparison of versions.
    pub(crate) async fn is_missing_and_reported(self) -> bool {
        let version = harness::binary::version();
        if !self.is_missing(version) {
            return false;
        }
        let reported = self.check_missing(&World::nats().await, version).await;
        println!("unsupported: {self:?}: {reported}");
        true
    }

    /// Checks on a server without the feature that every use of it fails at once and before any effect, with an error
    /// that names the required and the actual version.
    pub(crate) async fn check_missing(self, world: &World, version: [u64; 3]) -> String {
        let reported = tokio::time::timeout(5 * SECOND, self.uses(world)).await.expect("unsupported uses fail at once");
        if reported.is_empty() {
            return "done in another way".to_owned();
        }
        let mut said = Vec::new();
        for (what, error) in reported {
            let ErrorKind::Unsupported { needs, found } = error.kind() else { panic!("{self:?}, {what}: {error:?}") };
            assert_eq!(error.outcome(), Outcome::NotApplied, "{self:?}, {what}: {error:?}");
            assert!(needs.contains(self.since().1), "{self:?}, {what}: it needs {needs:?}");
            let [major, minor, patch] = version;
            let says_which = found.contains(&format!("nats-server {major}.{minor}.{patch}"));
            // A bucket that was created on such a server lacks the feature, too.
            let is_a_bucket = found == "a bucket without `limit_markers`" && self != Self::Transactions;
            assert!(says_which || is_a_bucket, "{self:?}, {what}: found {found:?}");
            said.push(format!("needs {needs}, found {found}"));
        }
        said.sort_unstable();
        said.dedup();
        said.join("; ")
    }

    /// Returns the error of each use of the feature. No use may have an effect.
    async fn uses(self, world: &World) -> Vec<(&'static str, Error)> {
        let (store, name) = (&world.store, unique("lacking"));
        let sessions: Bucket<Session> = world.bucket().await;
        let [a, b] = [1, 2].map(|id| Session::new("acme", id));
        let there = sessions.put(&a).await.expect("a put needs nothing");
        let reported = match self {
            Self::RecordTtl => vec![
                ("create", fails(sessions.create(&b).ttl(5 * SECOND)).await),
                ("put", fails(sessions.put(&a).ttl(5 * SECOND)).await),
                ("update", fails(sessions.update(&a, there).ttl(5 * SECOND)).await),
                ("modify", fails(sessions.modify(&a.key(), |session| session.visits += 1).ttl(5 * SECOND)).await),
                ("touch", fails(sessions.touch(&a.key()).ttl(5 * SECOND)).await),
                ("purge", fails(sessions.purge(&a.key()).ttl(5 * SECOND)).await),
            ],
            Self::LimitMarkers => {
                let open = |name: &str| store.bucket::<Session>().name(name).limit_markers(60 * SECOND);
                vec![
                    ("make", fails(open(&name)).await),
                    ("change", fails(open(sessions.name()).on_drift(Drift::Update)).await),
                ]
            }
            Self::Locks => vec![
                ("locks", fails(store.locks(&name)).await),
                ("locks in a bucket of records", fails(store.locks(sessions.name())).await),
                ("lock of a record", fails(sessions.lock(&a.key())).await),
                ("try_lock of a record", fails(sessions.try_lock(&a.key())).await),
            ],
            Self::Elections => vec![("campaign", fails(store.election(&name).campaign(&a)).await)],
            Self::Semaphores => {
                let semaphore = store.semaphore(&name, 3);
                vec![
                    ("acquire", fails(semaphore.acquire()).await),
                    ("try_acquire", fails(semaphore.try_acquire()).await),
                ]
            }
            Self::Groups => vec![("join", fails(store.group(&name).join("node.1", &a)).await)],
            Self::Once => {
                let once = store.once::<Session>(&name);
                let run = once.run("a", async || -> Session { panic!("nothing runs whose result cannot be kept") });
                let Err(OnceError::Kv(error)) = run.await else { panic!("it cannot be done") };
                vec![("run", error)]
            }
            Self::RateLimiters => vec![("rate_limiter", fails(store.rate_limiter(&name, Quota::per_second(1))).await)],
            Self::Transactions => {
                let transact = sessions.transact(|tx| async move {
                    let [a, b] = [1, 2].map(|id| Session::new("acme", id).visited(7));
                    tx.put(&a)?;
                    tx.put(&b)?;
                    Ok(())
                });
                let Err(TransactError::Kv(transact)) = transact.await else { panic!("it cannot be done") };
                vec![
                    ("transaction", fails(sessions.transaction().update(&a, there).put(&b).commit()).await),
                    ("unguarded transaction", fails(sessions.transaction().put(&a).put(&b).commit()).await),
                    ("transact", transact),
                    ("make", fails(store.bucket::<Session>().name(&name).atomic(true)).await),
                ]
            }
            Self::FencedUpdates => {
                let invoices: Bucket<Session> = world.bucket().await;
                let guard = invoices.lock(&a.key()).await.expect("locks are there");
                let there = invoices.put(&a).fenced_by(&guard).await.expect("one guard is enough for that");
                let reported = vec![
                    ("update", fails(invoices.update(&a, there).fenced_by(&guard)).await),
                    ("create", fails(invoices.create(&b).fenced_by(&guard)).await),
                    ("modify", fails(invoices.modify(&a.key(), |it| it.visits += 1).fenced_by(&guard)).await),
                    ("purge", fails(invoices.purge(&a.key()).if_revision(there).fenced_by(&guard)).await),
                ];
                let stored: Vec<_> = invoices.list(..).await.unwrap().try_collect().await.unwrap();
                assert!(matches!(&stored[..], [one] if one.revision() == there), "{self:?}: {stored:?}");
                guard.release().await.expect("it is given back");
                reported
            }
            Self::WriteEpochs => {
                let open = |name: &str| store.bucket::<Session>().name(name).write_epochs(WriteEpochs::Open);
                vec![
                    ("make", fails(open(&name)).await),
                    ("change", fails(open(sessions.name()).on_drift(Drift::Update)).await),
                ]
            }
            Self::Counters => {
                let counters = store.counters(&name).await.expect("they are there all the same");
                assert!(!counters.is_server_side().await.unwrap());
                assert_eq!(counters.add("home", 2).await.unwrap() + counters.add("home", -5).await.unwrap(), -1);
                assert!(store.delete_bucket(&name).await.unwrap());
                Vec::new()
            }
        };
        assert!(!store.buckets().await.unwrap().contains(&name), "{self:?}: a bucket was left");
        let stored: Vec<_> = sessions.list(..).await.unwrap().try_collect().await.unwrap();
        assert!(matches!(&stored[..], [one] if one.revision() == there && **one == a), "{self:?}: {stored:?}");
        assert_eq!(sessions.status().await.unwrap().last_revision, there, "{self:?}: something was written");
        reported
    }
}

impl World {
    /// Returns whether the world has the feature. The memory backend has all features.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        !self.is_on_a_server() || !feature.is_missing(harness::binary::version())
    }
}

/// Returns the error of an operation that must fail.
async fn fails<T>(doing: impl IntoFuture<Output = Result<T, Error>>) -> Error {
    doing.await.err().expect("it cannot be done")
}
