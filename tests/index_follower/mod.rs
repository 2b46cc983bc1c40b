//! The follower that keeps indexes after writes of other clients: `maintain_indexes`.

mod eventual;
mod faults;
mod follower;
mod process;
mod writes;

use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};

use kvtyped::key::ModelKey;
use kvtyped::maintenance::IndexDuplicate;
use kvtyped::prelude::*;
use kvtyped::{Error, RawRecord};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::index_probe::{User, UserKey};

const SECOND: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(60);

/// A follower in a task.
struct Follower {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
    duplicates: Arc<Mutex<Vec<IndexDuplicate>>>,
}

impl Follower {
    /// Starts a follower that searches for stale entries only if it has to.
    fn start(users: &Bucket<User>) -> Self {
        Self::sweeping(users, Duration::from_secs(100_000))
    }

    /// Starts a follower that searches for stale entries all the time.
    fn sweeping(users: &Bucket<User>, every: Duration) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let duplicates = Arc::<Mutex<Vec<IndexDuplicate>>>::default();
        let (users, found) = (users.clone(), Arc::clone(&duplicates));
        let task = tokio::spawn(async move {
            let found = |duplicate| found.lock().unwrap_or_else(PoisonError::into_inner).push(duplicate);
            users.maintain_indexes().sweep_every(every).ttl(2 * SECOND).on_duplicate(found).until(stopped).await
        });
        Self { stop, task, duplicates }
    }

    fn duplicates(&self) -> Vec<IndexDuplicate> {
        self.duplicates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("it did not panic").expect("it ends without an error");
    }
}

/// Waits until a follower has handled everything that is stored now.
async fn synced(users: &Bucket<User>) {
    let now = users.status().await.unwrap().last_revision;
    users.count_by(User::by_team("core")).at_least(now).timeout(PATIENT).await.unwrap();
}

async fn count(users: &Bucket<User>, team: &str) -> u64 {
    users.count_by(User::by_team(team)).exact().await.unwrap()
}

fn key(id: u64) -> kvtyped::Key {
    UserKey::new(id).encode().unwrap()
}

fn bytes(user: &User) -> Vec<u8> {
    serde_json::to_vec(user).unwrap()
}

/// Writes a record without its indexes.
async fn put_foreign(raw: &Bucket<RawRecord>, user: &User) -> Revision {
    raw.put(&RawRecord::new(key(user.id), bytes(user))).await.unwrap()
}

/// Waits until all indexes match the records.
async fn until_clean(users: &Bucket<User>) {
    let clean = async {
        while !users.verify_indexes().await.unwrap().is_clean() {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENT, clean).await.is_err() {
        panic!("{:?}", users.verify_indexes().await.unwrap());
    }
}
