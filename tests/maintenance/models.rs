//! A model in the version of each deploy. All of them use the same bucket.

use kvtyped::KvVersion;
use kvtyped::bucket::OpenBucket;
use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;

use crate::support::World;

/// The model in the first deploy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "u.{id}", name = "user")]
pub(crate) struct First {
    pub(crate) id: u64,
    pub(crate) name: String,
}

/// The model in the newest deploy, which reads and writes every version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "u.{id}", name = "user", version = 3, upgrade_from = UserV2, writes = 1)]
pub(crate) struct User {
    pub(crate) id: u64,
    pub(crate) first: String,
    pub(crate) last: String,
    #[serde(default)]
    pub(crate) email: Option<String>,
}

/// The model in a deploy that has no conversion back to version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "users", key = "u.{id}", name = "user", version = 2, upgrade_from = UserV1)]
pub(crate) struct Second {
    pub(crate) id: u64,
    pub(crate) first: String,
    pub(crate) last: String,
}

#[derive(Clone, Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1, writes = 1)]
pub(crate) struct UserV2 {
    id: u64,
    first: String,
    last: String,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
pub(crate) struct UserV1 {
    id: u64,
    name: String,
}

/// The error of a name that is not two words.
type OneWord = &'static str;

fn words(name: &str) -> Result<(String, String), OneWord> {
    name.split_once(' ').map(|(first, last)| (first.to_owned(), last.to_owned())).ok_or("the name is not two words")
}

impl TryFrom<UserV1> for UserV2 {
    type Error = OneWord;

    fn try_from(UserV1 { id, name }: UserV1) -> Result<Self, OneWord> {
        words(&name).map(|(first, last)| Self { id, first, last })
    }
}

impl TryFrom<UserV1> for Second {
    type Error = OneWord;

    fn try_from(UserV1 { id, name }: UserV1) -> Result<Self, OneWord> {
        words(&name).map(|(first, last)| Self { id, first, last })
    }
}

impl From<UserV2> for UserV1 {
    fn from(UserV2 { id, first, last }: UserV2) -> Self {
        Self { id, name: format!("{first} {last}") }
    }
}

impl From<UserV2> for User {
    fn from(UserV2 { id, first, last }: UserV2) -> Self {
        Self { id, first, last, email: None }
    }
}

impl From<User> for UserV2 {
    fn from(User { id, first, last, email: _ }: User) -> Self {
        Self { id, first, last }
    }
}

pub(crate) fn first(id: u64) -> First {
    First { id, name: format!("Ada L{id}") }
}

pub(crate) fn user(id: u64) -> User {
    User { id, first: "Ada".into(), last: format!("L{id}"), email: None }
}

/// Opens the bucket of another handle with another model.
pub(crate) async fn opened_as<T: KvModel>(store: &Store, name: &str) -> Bucket<T> {
    store.bucket().name(name).must_exist().await.expect("the bucket opens")
}

/// A bucket that the first deploy created, opened by the newest one.
pub(crate) async fn deployed(world: &World, open: OpenBucket<First>) -> (Bucket<First>, Bucket<User>) {
    let old = open.await.expect("the bucket opens");
    let new = opened_as(&world.store, old.name()).await;
    (old, new)
}

/// The same bucket with write epochs.
pub(crate) async fn deployed_in_epochs(world: &World) -> (Bucket<First>, Bucket<User>) {
    let old = world.fresh::<First>().write_epochs(WriteEpochs::Open).await.expect("the bucket opens");
    let new = world.store.bucket().name(old.name()).write_epochs(WriteEpochs::Open).await.expect("the bucket opens");
    (old, new)
}
