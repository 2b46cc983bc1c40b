use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Clone, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2, writes = 1)]
struct User {
    id: u64,
}

#[derive(Clone, Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct UserV1 {
    id: u64,
}

#[derive(Clone, Serialize, Deserialize, KvVersion)]
#[kv(version = 4, upgrade_from = UserV1, writes = 3)]
struct Gap {
    id: u64,
}

impl From<UserV1> for Gap {
    fn from(old: UserV1) -> Self {
        Self { id: old.id }
    }
}

impl From<Gap> for UserV1 {
    fn from(new: Gap) -> Self {
        Self { id: new.id }
    }
}

impl From<UserV2> for User {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

impl From<User> for UserV2 {
    fn from(new: User) -> Self {
        Self { id: new.id }
    }
}

impl From<UserV1> for UserV2 {
    fn from(old: UserV1) -> Self {
        Self { id: old.id }
    }
}

fn main() {}
