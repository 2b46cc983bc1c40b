//! Stale servers, simulated on the memory backend, so that the test controls the delay.
//!
//! After a reconnect, a handle checks whether its bucket is still the same bucket. The status may be older than the
//! state that the handle has already seen: another write of the handle was faster, or the server has just become the
//! leader. The bucket is still the same.
//!
//! In addition, the nearest server may not have the newest writes. A decision that is based on such a stale read must
//! not be final.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use kvtyped::backend::memory::MemoryBackend;
use kvtyped::backend::{Backend, BucketIdentity, BucketStatus, Deadline, KeySpace, RawBucket, RawEntry, ReadAt};
use kvtyped::config::BucketConfig;
use kvtyped::key::{Key, ModelKey};
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Read};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::SECOND;
use crate::support::Session;
use crate::support::forward::forward;

/// A memory backend with a connection that can be lost and a status that can be stale.
#[derive(Debug, Clone, Default)]
struct Lagging {
    memory: Arc<MemoryBackend>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    epoch: AtomicU64,
    lag: Mutex<Lag>,
    /// The entry that the nearest server returns for every key, if it is stale.
    near: Mutex<Option<Option<RawEntry>>>,
    asked: Notify,
    answer: Notify,
}

/// The staleness of the status.
#[derive(Debug, Default)]
enum Lag {
    #[default]
    None,
    /// The status is computed when it is requested, and returned when the test permits it.
    Held,
    /// The status reports these last revisions, one per request, and afterwards always the last one.
    ThroughProxy(VecDeque<Revision>, Option<Revision>),
}

#[derive(Debug)]
struct LaggingBucket {
    state: Arc<State>,
    raw: Arc<dyn RawBucket>,
}

impl Lagging {
    fn over(&self, raw: Arc<dyn RawBucket>) -> Arc<dyn RawBucket> {
        Arc::new(LaggingBucket { state: Arc::clone(&self.state), raw })
    }

    /// Simulates a lost connection and a reconnect.
    fn reconnect(&self, lag: Lag) {
        *self.state.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
        self.state.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

impl Backend for Lagging {
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
        async move { Ok(self.over(self.memory.update(config, deadline).await?)) }.boxed()
    }
}

impl RawBucket for LaggingBucket {
    forward! { raw: config write commit purge_through read_many list_keys count_keys scan watch }

    fn identity(&self) -> BucketIdentity {
        BucketIdentity { connection_epoch: self.state.epoch.load(Ordering::SeqCst), ..self.raw.identity() }
    }

    fn status(&self, deadline: Deadline) -> BoxFuture<'_, Result<BucketStatus, Error>> {
        async move {
            let mut status = self.raw.status(deadline).await?;
            let is_held = match &mut *self.state.lag.lock().unwrap_or_else(PoisonError::into_inner) {
                Lag::None => false,
                Lag::Held => true,
                Lag::ThroughProxy(next, always) => {
                    status.last_revision = next.pop_front().or(*always).unwrap_or(status.last_revision);
                    false
                }
            };
            if is_held {
                self.state.asked.notify_one();
                self.state.answer.notified().await;
            }
            Ok(status)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        space: KeySpace,
        key: &'a Key,
        at: ReadAt,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<RawEntry>, Error>> {
        let near = self.state.near.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (at, near) {
            (ReadAt::Newest(Read::Any), Some(found)) => futures::future::ready(Ok(found)).boxed(),
            _ => self.raw.read(space, key, at, deadline),
        }
    }
}

/// Returns a bucket with `replicas` replicas, and a record that was written before the connection was lost.
async fn written_before(replicas: u8) -> (Lagging, Bucket<Session>, Session, Revision) {
    let lagging = Lagging::default();
    let sessions: Bucket<Session> =
        Store::from_backend(Arc::new(lagging.clone())).bucket().replicas(replicas).await.unwrap();
    let session = Session::new("acme", 7);
    let revision = sessions.put(&session).await.unwrap();
    (lagging, sessions, session, revision)
}

#[tokio::test]
async fn write_during_identity_check_is_harmless() {
    for replicas in [1, 3] {
        let (lagging, sessions, session, revision) = written_before(replicas).await;
        lagging.reconnect(Lag::Held);
        let other = Session::new("acme", 8);
        let (updated, ()) = tokio::join!(sessions.update(&session, revision).into_future(), async {
            lagging.state.asked.notified().await;
            sessions.put(&other).await.unwrap();
            lagging.state.answer.notify_one();
        });
        updated.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stale_leader_is_asked_again() {
    let (lagging, sessions, session, revision) = written_before(3).await;
    lagging.reconnect(Lag::ThroughProxy(VecDeque::from([Revision::ZERO; 3]), None));
    sessions.update(&session, revision).await.unwrap();
    // A continued list behaves the same way.
    let mut list = sessions.list(..).limit(1).await.unwrap();
    list.try_next().await.unwrap().expect("there is one");
    let cursor = list.cursor();
    lagging.reconnect(Lag::ThroughProxy(VecDeque::from([Revision::ZERO; 3]), None));
    let mut rest = sessions.list(..).after(cursor).await.unwrap();
    assert!(rest.try_next().await.unwrap().is_none());
}

/// The control: a bucket with a rewound history is reported. Without replicas it is reported at once, because no server
/// can be stale.
#[tokio::test(start_paused = true)]
async fn rewound_bucket_is_reported_as_replaced() {
    for (replicas, soon) in [(1, Duration::ZERO), (3, 8 * SECOND)] {
        let (lagging, sessions, session, revision) = written_before(replicas).await;
        lagging.reconnect(Lag::ThroughProxy(VecDeque::new(), Some(Revision::ZERO)));
        let start = Instant::now();
        let error = sessions.update(&session, revision).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BucketReplaced), "{error}");
        assert!(start.elapsed() <= soon, "{:?}", start.elapsed());
    }
}

/// A decision to write nothing, or to fail, must be based on the leader's state, because a plain read may miss the
/// newest write.
#[tokio::test]
async fn stale_read_does_not_decide_to_write_nothing() {
    let (lagging, sessions, session, revision) = written_before(3).await;
    let key = session.key();
    let raw = lagging.memory.open(sessions.name(), Deadline::after(SECOND)).await.unwrap().expect("it is there");
    let old = raw
        .read(KeySpace::Records, &key.encode().unwrap(), ReadAt::Revision(revision), Deadline::after(SECOND))
        .await
        .unwrap();
    sessions.put(&session.visited(5)).await.unwrap();
    for near in [None, old] {
        *lagging.state.near.lock().unwrap() = Some(near);
        // A new handle has no cached state.
        let store = Store::from_backend(Arc::new(lagging.clone()));
        let fresh: Bucket<Session> = store.bucket().name(sessions.name()).replicas(3).await.unwrap();
        let found = fresh.get(&key).await.unwrap();
        assert!(found.is_none_or(|session| session.visits == 0), "the control: a plain read is behind");
        fresh.touch(&key).await.unwrap();
        let seen = fresh.transform(&key, |session| match session {
            Some(session) if session.visits == 5 => Change::Put(session.visited(6)),
            _ => Change::Keep,
        });
        assert_eq!(seen.await.unwrap().expect("it is there").visits, 6);
        let back = fresh.try_modify(&key, |session| {
            session.visits = session.visits.checked_sub(1).ok_or("there is nothing to take")?;
            Ok::<_, &str>(())
        });
        assert_eq!(back.await.unwrap().visits, 5);
    }
    // A decision that was based on the current state is final.
    *lagging.state.near.lock().unwrap() = None;
    let none = sessions.touch(&Session::new("acme", 9).key()).await.unwrap_err();
    assert!(matches!(none.kind(), ErrorKind::NotFound), "{none}");
}
