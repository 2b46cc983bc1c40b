use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Clone, Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 3, upgrade_from = UserV2, writes = 2)]
struct User {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV1, writes = 1)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct UserV1 {
    id: u64,
}

impl From<UserV2> for User {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

impl From<UserV1> for UserV2 {
    fn from(old: UserV1) -> Self {
        Self { id: old.id }
    }
}

// The conversion exists, but `UserV2` is not `Clone`.
impl From<UserV2> for UserV1 {
    fn from(new: UserV2) -> Self {
        Self { id: new.id }
    }
}

fn main() {}
