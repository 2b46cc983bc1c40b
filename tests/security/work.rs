//! The work of each role.

use futures::future::BoxFuture;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind, Event, Read, ReadBucket};

use crate::support::soon;

const SECOND: Duration = Duration::from_secs(1);

/// The records of the bucket `sessions` in the documented permissions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "sessions", key = "{tenant}.{id}", history = 1)]
pub(super) struct Session {
    pub(super) tenant: String,
    pub(super) id: u64,
    pub(super) visits: u32,
    pub(super) text: String,
}

impl Session {
    pub(super) fn new(tenant: &str, id: u64) -> Self {
        Self { tenant: tenant.into(), id, visits: 0, text: String::new() }
    }

    /// Creates a large record. A few of them exceed the data that a server sends without flow control.
    pub(super) fn large(tenant: &str, id: u64) -> Self {
        Self { text: "x".repeat(60_000), ..Self::new(tenant, id) }
    }
}

/// The number of initial records of each tenant.
pub(super) const RECORDS: u64 = 60;

pub(super) type Work<'a> = BoxFuture<'a, Result<(), Error>>;

/// Returns a filter for the keys of a tenant.
pub(super) fn of(tenant: &str) -> SessionFilter {
    SessionKey::filter().tenant(tenant)
}

/// Reads the keys of a tenant, with the permissions for these keys only.
pub(super) async fn reading(sessions: &ReadBucket<Session>, tenant: &str) -> Result<(), Error> {
    let key = SessionKey::new(tenant, 1);
    let entry = sessions.get(&key).await?.expect("there");
    sessions.get(&key).read(Read::AtLeast(entry.revision())).await?.expect("there");
    let keys: Vec<_> = (1..=RECORDS).map(|id| SessionKey::new(tenant, id)).collect();
    assert!(sessions.get_many(&keys).await?.iter().all(Option::is_some));
    let all: Vec<_> = sessions.list(of(tenant)).await?.try_collect().await?;
    assert!(all.len() as u64 >= RECORDS && all.iter().all(|session| session.tenant == tenant));
    // This page requires an acknowledgement to the server in between.
    let page: Vec<_> = sessions.list(of(tenant)).limit(40).await?.try_collect().await?;
    assert_eq!(page.len(), 40);
    assert!(sessions.keys(of(tenant)).await?.try_collect::<Vec<_>>().await?.len() as u64 >= RECORDS);
    assert!(sessions.count(of(tenant)).await? >= RECORDS);
    assert_eq!(sessions.history(&key).await?.len(), 1);
    sessions.status().await?;
    assert!(sessions.health().await?.is_healthy());
    watching(sessions, tenant).await?;
    let cache = sessions.cache(of(tenant)).await?;
    assert!(cache.len() as u64 >= RECORDS && cache.contains(&key));
    assert_eq!(sessions.live(&key).await?.load().id, 1);
    sessions.wait_for(&key, |session| session.id == 1).await?;
    Ok(())
}

/// Watches the keys of a tenant until the initial listing is complete.
async fn watching(sessions: &ReadBucket<Session>, tenant: &str) -> Result<(), Error> {
    let mut events = sessions.watch(of(tenant)).await?;
    loop {
        if let Event::Ready = soon(&mut events).await? {
            return Ok(());
        }
    }
}

/// Reads the whole bucket.
pub(super) async fn reading_all(sessions: &ReadBucket<Session>) -> Result<(), Error> {
    let key = SessionKey::new("acme", 1);
    let entry = sessions.get(&key).read(Read::Leader).await?.expect("there");
    sessions.get(&key).at(entry.revision()).await?.expect("there");
    let keys: Vec<_> = (1..=RECORDS).map(|id| SessionKey::new("acme", id)).collect();
    assert!(sessions.get_many(&keys).read(Read::Leader).await?.iter().all(Option::is_some));
    assert!(sessions.list(..).await?.try_collect::<Vec<_>>().await?.len() as u64 >= RECORDS);
    Ok(())
}

/// Writes keys of a tenant, with ids from `first`.
pub(super) async fn writing(sessions: &Bucket<Session>, tenant: &str, first: u64) -> Result<(), Error> {
    let session = Session::new(tenant, first);
    let key = session.key();
    sessions.put(&session).await?;
    let revision = sessions.put(&session).ttl(60 * SECOND).await?;
    assert!(sessions.create(&session).await.is_err_and(|error| error.is_conflict()));
    sessions.update(&session, revision).await?;
    assert!(sessions.update(&session, Revision::new(1)).await.is_err_and(|error| error.is_conflict()));
    sessions.touch(&key).await?;
    sessions.modify(&key, |session| session.visits += 1).await?;
    // Without a write, no server confirms that the base revision is current.
    sessions.modify(&key, |_| ()).await?;
    let absent = SessionKey::new(tenant, 0);
    assert!(sessions.touch(&absent).await.is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound)));
    sessions.delete(&key).await?;
    sessions.create(&session).await?;
    sessions.purge(&key).await?;
    let many: Vec<_> = (first..first + 10).map(|id| Session::new(tenant, id)).collect();
    sessions.put_many(&many).await?;
    sessions.delete_many(many.iter().map(Session::key)).await?;
    Ok(())
}

/// Changes one record concurrently. Conflicts occur, and each change is applied.
pub(super) async fn contending(all: &[&Bucket<Session>], tenant: &str, id: u64) -> Result<(), Error> {
    const CHANGES: u32 = 20;
    let session = Session::new(tenant, id);
    let key = session.key();
    all[0].put(&session).await?;
    let changes = all.iter().map(|sessions| async {
        for _ in 0..CHANGES {
            sessions.modify(&key, |session| session.visits += 1).max_attempts(1_000).await?;
        }
        Ok::<_, Error>(())
    });
    futures::future::try_join_all(changes).await?;
    let made = all.len() as u32 * CHANGES;
    let last = all[0].wait_for(&key, move |session| session.visits >= made).await?;
    assert_eq!(last.visits, made);
    all[0].purge(&key).await?;
    Ok(())
}

/// Writes several records atomically, and uses a record lock.
pub(super) async fn transacting(sessions: &Bucket<Session>) -> Result<(), Error> {
    let [one, other] = [Session::new("acme", 901), Session::new("acme", 902)];
    sessions.transaction().put(&one).put(&other).commit().await?;
    let keys = [one.key(), other.key()];
    let keys = &keys;
    let changed = sessions.transact(|tx| async move {
        for key in keys {
            let mut session = tx.get(key).await?.expect("there");
            session.visits += 1;
            tx.put(&session)?;
        }
        Ok(())
    });
    let _: () = changed.await.expect("the transaction is applied");
    let guard = sessions.lock(&one.key()).await?;
    sessions.put(&one).fenced_by(&guard).await?;
    guard.release().await?;
    sessions.delete_many([one.key(), other.key()]).await?;
    Ok(())
}

/// Uses locks with renewal, waiting and fair queues, elections, and semaphores.
pub(super) async fn locking(store: &Store, name: &str) -> Result<(), Error> {
    let locks = store.locks("locks").ttl(SECOND).await?;
    let guard = locks.lock(name).await?;
    assert!(locks.try_lock(name).await?.is_none());
    assert!(locks.holder(name).await?.is_some());
    // The lease outlives its TTL, so it was renewed.
    assert!(tokio::time::timeout(SECOND + SECOND / 2, guard.lost()).await.is_err(), "it is still held");
    guard.release().await?;
    for locks in [store.locks("locks").await?, store.locks("locks").fair().await?] {
        let guard = locks.lock(name).await?;
        let (next, released) = tokio::join!(locks.lock(name).wait(20 * SECOND), async {
            tokio::task::yield_now().await;
            guard.release().await
        });
        released?;
        next?.release().await?;
    }
    let election = store.election::<String>("locks");
    let mut leaders = election.observe().await?;
    let leadership = election.campaign(&name.to_owned()).wait(20 * SECOND).await?;
    soon(&mut leaders).await?;
    assert!(election.leader().await?.is_some());
    leadership.resign().await?;
    let semaphore = store.semaphore("locks", 8);
    let permit = semaphore.acquire().await?;
    assert!(semaphore.available().await? < 8);
    permit.release().await?;
    Ok(())
}

/// Increments and reads counters.
pub(super) async fn counting(store: &Store, name: &str) -> Result<(), Error> {
    let hits = store.counters("hits").await?;
    assert!(hits.is_server_side().await.unwrap());
    assert_eq!(hits.add(name, 2).await?, 2);
    assert_eq!(hits.add(name, 3).await?, 5);
    assert_eq!(hits.get(name).await?, 5);
    assert!(hits.all().await?.contains(&(name.to_owned(), 5)));
    Ok(())
}
