//! A bucket of an indexed model, and an observer of its entries.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::TryStreamExt;
use kvtyped::RawRecord;
use kvtyped::backend::{Deadline, KeySpace, ListKeysRequest, RawBucket, RawEntry, Read, ReadAt};
use kvtyped::key::{Key, ModelKey, Pattern};
use kvtyped::model::index::{Claim, claim_key, entry_key, values_of};
use kvtyped::prelude::*;

use crate::support::{World, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "{id}")]
pub(crate) struct User {
    pub(crate) id: u64,
    #[kv(unique)]
    pub(crate) email: String,
    #[kv(index)]
    pub(crate) team: Option<String>,
    #[kv(index)]
    pub(crate) tags: Vec<String>,
}

pub(crate) fn user(id: u64, email: &str) -> User {
    User { id, email: email.into(), team: Some("core".into()), tags: vec!["a".into()] }
}

/// A bucket of users, and a view of its index key space.
pub(crate) struct IndexProbe {
    pub(crate) users: Bucket<User>,
    raw: Arc<dyn RawBucket>,
}

impl IndexProbe {
    pub(crate) async fn new(world: &World) -> Self {
        Self::of(world, world.store.bucket::<User>().name(unique("users")).await.expect("the bucket opens")).await
    }

    pub(crate) async fn of(world: &World, users: Bucket<User>) -> Self {
        let raw = world.backend().await.open(users.name(), soon()).await.unwrap().expect("the bucket exists");
        Self { users, raw }
    }

    /// Returns the bucket below the models.
    pub(crate) fn raw(&self) -> &Arc<dyn RawBucket> {
        &self.raw
    }

    /// Returns a handle that writes without the indexes.
    pub(crate) async fn foreign(&self, world: &World) -> Bucket<RawRecord> {
        world.store.raw(self.users.name()).await.unwrap()
    }

    /// Returns the keys of all entries and claims.
    pub(crate) async fn entries(&self) -> BTreeSet<String> {
        let idle_timeout = Duration::from_secs(10);
        let list = ListKeysRequest { space: KeySpace::Index, pattern: Pattern::all(), idle_timeout };
        let pages: Vec<Vec<Key>> = self.raw.list_keys(list).try_collect().await.unwrap();
        pages.into_iter().flatten().map(|key| key.to_string()).collect()
    }

    async fn read(&self, space: KeySpace, key: &Key) -> Option<RawEntry> {
        self.raw.read(space, key, ReadAt::Newest(Read::Leader), soon()).await.unwrap()
    }

    async fn records(&self) -> Vec<(User, Revision)> {
        let list = self.users.list(..).await.unwrap();
        let records: Vec<_> = list.try_collect().await.unwrap();
        records.into_iter().map(|entry| (entry.value().clone(), entry.revision())).collect()
    }

    /// Returns the number of live records with an address.
    pub(crate) async fn holders(&self, email: &str) -> usize {
        self.records().await.iter().filter(|(user, _)| user.email == email).count()
    }

    /// Waits until exactly these entries exist. Erasures continue after a verb has returned.
    pub(crate) async fn settle(&self, wanted: &BTreeSet<String>) {
        let settled = async {
            while self.entries().await != *wanted {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), settled).await.is_err() {
            assert_eq!(self.entries().await, *wanted);
        }
        self.check_violations().await;
    }

    /// Checks that the entries are exactly those of the records, and that there are `count` entries.
    pub(crate) async fn check_quiet(&self, count: usize) {
        let mut wanted = BTreeSet::new();
        for (user, _) in self.records().await {
            wanted.extend(addresses(&user).into_iter().map(|(_, key)| key.to_string()));
        }
        assert_eq!(wanted.len(), count);
        self.settle(&wanted).await;
    }

    /// Returns the violations of the invariants, while others may write.
    pub(crate) async fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let mut emails = std::collections::BTreeMap::new();
        for (user, revision) in self.records().await {
            let key = user.key().encode().unwrap();
            for (is_unique, slot) in addresses(&user) {
                let found = self.read(KeySpace::Index, &slot).await;
                let claim = found.as_ref().map(|entry| Claim::decode(&entry.value));
                let holds = match claim {
                    Some(Ok(claim)) if is_unique => claim.owner == key,
                    found => found.is_some() && !is_unique,
                };
                // The record may have changed since.
                if !holds && self.is_at(&key, revision).await {
                    violations.push(format!("{key} at {revision} lacks {slot}: {found:?}"));
                }
            }
            if let Some((other, at)) = emails.insert(user.email.clone(), (key.clone(), revision)) {
                let (first, second) = (self.is_at(&other, at).await, self.is_at(&key, revision).await);
                // The first is read again after the second: both hold the value at that moment.
                if first && second && self.is_at(&other, at).await {
                    violations.push(format!("{other} and {key} have the address {}", user.email));
                }
            }
        }
        violations
    }

    async fn is_at(&self, key: &Key, revision: Revision) -> bool {
        self.read(KeySpace::Records, key).await.is_some_and(|entry| entry.revision == revision)
    }

    pub(crate) async fn check_violations(&self) {
        let violations = self.violations().await;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// Returns the addresses of the entries and claims of a record, and whether each is a claim.
fn addresses(user: &User) -> Vec<(bool, Key)> {
    let (values, key) = (values_of(user), user.key().encode().unwrap());
    let address = |value: &kvtyped::model::index::IndexValue| {
        let info = &User::__INDEXES[value.index];
        match info.is_unique() {
            true => (true, claim_key("user", info, &value.text).unwrap()),
            false => (false, entry_key("user", info, &value.text, &key).unwrap()),
        }
    };
    values.iter().map(address).collect()
}

/// Polls a future this many times, and then drops it. Returns its output if it ended before.
pub(crate) async fn dies_after<F: Future + Unpin>(mut future: F, polls: u64) -> Option<F::Output> {
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Pin::new(&mut future).poll(context).map(Some)
    })
    .await
}
