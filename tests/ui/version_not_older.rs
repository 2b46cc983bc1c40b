use kvtyped::KvVersion;
use kvtyped::prelude::*;

#[derive(Serialize, Deserialize, KvModel)]
#[kv(key = "{id}", version = 2, upgrade_from = UserV2)]
struct User {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2)]
struct UserV2 {
    id: u64,
}

#[derive(Serialize, Deserialize, KvVersion)]
#[kv(version = 2, upgrade_from = UserV2)]
struct Renamed {
    id: u64,
}

impl From<UserV2> for User {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

impl From<UserV2> for Renamed {
    fn from(old: UserV2) -> Self {
        Self { id: old.id }
    }
}

fn main() {}
