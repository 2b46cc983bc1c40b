use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Clone, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2, writes = 2)]
struct User {
    id: u64,
}

#[derive(Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1)]
struct UserV2 {
    id: u64,
}

#[derive(KvVersion)]
#[kv(version = 1)]
struct UserV1 {
    id: u64,
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
